"""Fetching a model from the Hugging Face hub."""

from pathlib import Path

from .errors import CheckpointError


def download(name: str, weights: bool) -> Path:
    """The local folder of a hub model. Files that were fetched before are not fetched again.

    Raises:
        ImportError: if huggingface_hub is not installed.
        CheckpointError: if the model cannot be fetched.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    except ModuleNotFoundError:
        raise ImportError(
            f"there is no folder {name} here, and asking the hub for it needs the package huggingface_hub; "
            "run: pip install huggingface_hub"
        ) from None
    try:
        patterns = ["*.json", "tokenizer*"] + ["*.safetensors", "consolidated.*.pth"] * weights
        # Of files in sub-folders only chat templates: some repositories keep a second copy of the weights there.
        ignored = [f"*/{pattern}" for pattern in patterns]
        folder = snapshot_download(name, allow_patterns=[*patterns, "*.jinja"], ignore_patterns=ignored)
        if weights and not any(file.suffix in (".safetensors", ".pth") for file in Path(folder).iterdir()):
            folder = snapshot_download(name, allow_patterns=["pytorch_model*.bin"], ignore_patterns=["*/*"])
        return Path(folder)
    except HFValidationError as error:
        raise CheckpointError(f"there is no folder {name} here, and no hub model can be called so: {error}") from None
    except GatedRepoError:
        raise CheckpointError(
            f"{name} is gated: ask for access on https://huggingface.co/{name}, then run: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"there is neither a folder {name} here nor a public model {name} on the hub") from None
    except Exception as error:  # the network, a proxy or the disk: whatever it is, nothing was fetched
        why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"there is no folder {name} here, and it cannot be fetched from the hub at {ENDPOINT} ({why}); "
            "check the network, or give the path of a model on this machine"
        ) from None

"""From the name of a model to the file or folder that holds it."""

import re
from pathlib import Path

from ..config import PRESETS
from .embedded import EMBEDDED, FOLIO, embedded_path, folio_path
from .errors import CheckpointError
from .layout import CONFIG, PICKLED, PICKLES, is_meta
from .run_folder import saves_in

ALLOWED = (
    f'give "{EMBEDDED}" or "{FOLIO}" (the models that come with the project), the path of a GGUF file, the path of a '
    "folder with config.json and safetensors or with params.json and consolidated.00.pth, the folder of a training "
    'run, or "organisation/name" on the Hugging Face hub'
)


def resolve(name: str | Path, *, weights: bool = True) -> Path:
    """The GGUF file, safetensors file or folder that `name` means; a hub name is downloaded, unless it was before.

    weights: False downloads only the small files: config and tokenizer.

    Raises:
        CheckpointError: if it means none of these, or cannot be fetched.
    """
    if name == EMBEDDED:
        return embedded_path()
    if name == FOLIO:
        return folio_path()
    if not str(name):  # to a Path, nothing is the current folder
        raise CheckpointError(f"there is no model ''; {ALLOWED}")
    path = Path(name).expanduser()
    if re.fullmatch(r"consolidated\.\d\d\.pth", path.name) and is_meta(path.parent):
        return path.parent  # one file of a Meta checkpoint stands for all of them
    if path.name == PICKLED and (path.parent / CONFIG).is_file() and path.is_file():
        return path
    if path.suffix.lower() in PICKLES and not (path.is_file() and _is_gguf(path)):
        raise CheckpointError(
            f"{name} is a pickle, and unpickling a file can run any code that its author put there; "
            "use the safetensors or GGUF version of this model"
        )
    if (path / "run.json").is_file():
        if not (saves := saves_in(path)):
            raise CheckpointError(f"the run in {name} has not saved a model yet; wait for its first save")
        return saves[-1]
    if path.is_dir():
        files = [] if (path / "config.json").exists() or is_meta(path) else sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise CheckpointError(
                f"{name} holds {len(files)} GGUF files; give the path of one of them, such as {files[0]}"
            )
        return files[0] if files else path
    if path.is_file() and (path.suffix == ".safetensors" or _is_gguf(path)):
        return path
    if path.is_file():
        raise CheckpointError(f"{name} is neither a GGUF nor a .safetensors file; {ALLOWED}")
    if path.suffix in (".gguf", ".safetensors"):
        raise CheckpointError(f"there is no file {name}; {ALLOWED}")
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(name)):
        from .hub import download

        return download(str(name), weights)
    if name in PRESETS:
        raise CheckpointError(f"{name} is a preset, sizes without weights; {ALLOWED}")
    raise CheckpointError(f"there is no model {str(name)!r}; {ALLOWED}")


def _is_gguf(path: Path) -> bool:
    if path.suffix == ".gguf":
        return True  # whether its content is, too, is for the reader to say
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"

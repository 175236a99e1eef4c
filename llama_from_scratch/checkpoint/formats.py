"""Which module reads and which writes a format; each is imported when it is needed, and its packages with it."""

from collections.abc import Callable
from pathlib import Path

from ..files.errors import CheckpointError
from ..files.layout import PICKLED, PICKLES, is_meta
from .stored import Checkpoint

FORMATS = ("huggingface", "meta", "gguf")


def open_checkpoint(path: Path) -> Checkpoint:
    """Read config and table of tensors of what `resolve` found.

    Raises:
        CheckpointError: if it is broken or not a Llama.
    """
    if is_meta(path):
        from .meta.read import open_meta

        return open_meta(path)
    if path.is_dir() or path.suffix == ".safetensors" or path.name == PICKLED:
        from .huggingface.read import open_folder

        return open_folder(path)
    from .gguf.read import open_gguf

    return open_gguf(path)


def format_for(target: Path, format: str | None) -> str:
    """The format that is asked for, or the one that the name of the target means.

    Raises:
        CheckpointError: if the two do not fit, there is no such format, or the name is that of another kind of file.
    """
    if target.suffix.lower() in (*PICKLES, ".safetensors"):
        raise CheckpointError(
            f"{target} is the name of a single file of weights; give the name of a folder, such as "
            f"{target.with_suffix('')}, or of a GGUF file, something.gguf"
        )
    by_name = "gguf" if target.suffix.lower() == ".gguf" else "huggingface"
    if format is not None and format not in FORMATS:
        raise CheckpointError(f"there is no format {format!r}; known are {', '.join(FORMATS)}")
    if format is not None and (format == "gguf") != (by_name == "gguf"):
        raise CheckpointError(
            f"{target} does not fit the format {format}; a GGUF file must be called something.gguf, "
            "and the other formats are folders"
        )
    return format or by_name


def writer(format: str) -> Callable[..., None]:
    """The function that writes this format: save(checkpoint, path, stored_type, *, tokenizer, overwrite, progress)."""
    if format == "gguf":
        from .gguf.write import save_gguf

        return save_gguf
    if format == "meta":
        from .meta.write import save_meta

        return save_meta
    from .huggingface.write import save_huggingface

    return save_huggingface

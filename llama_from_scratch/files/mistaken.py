"""Files that are not what their names say: what their first bytes tell, and what to do about it."""

from pathlib import Path

from .errors import CheckpointError, reason

GGUF, SAFETENSORS, TORCH = "GGUF file", "safetensors file", "file of torch.save"


def check_kind(path: Path, expected: str) -> None:
    """Refuse a file that is plainly of another kind than `expected`, one of the three above.

    Raises:
        CheckpointError: naming the kind that it is and what to do, or the reason why it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    kind, advice = _kind(start)
    if kind and kind != expected:
        raise CheckpointError(f"{path} is not a whole {expected} (it is {_article(kind)} {kind}); {advice}")


def _kind(start: bytes) -> tuple[str | None, str]:
    """What a file with these first bytes is, or None, and how to get at its model."""
    text = start.lstrip().lower()
    if not start:
        return "empty file", "download it again"
    if start.startswith(b"version https://git-lfs"):
        return "Git LFS pointer, a few lines in place of the file", "run git lfs pull to get the file itself"
    if text.startswith((b"<!doctype html", b"<html")):
        return "web page", "download the file itself, not the page that shows it"
    if start.startswith(b"GGUF"):
        return GGUF, "give it a name that ends in .gguf, and pass that name"
    # Before the two below: the length of a header, which comes first in such a file, may look like them.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return SAFETENSORS, "give it a name that ends in .safetensors, and put its config.json beside it"
    if start.startswith(b"PK\x03\x04"):
        return TORCH, "use the safetensors or GGUF version of this model"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle, as torch wrote them before version 1.6", "use the safetensors or GGUF version of this model"
    return None, ""


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeio" else "a"

"""Reading text. All text that a user hands over, to train on, to continue or to evaluate, is read here."""

from pathlib import Path

TEXT_SUFFIX = ".txt"


def decode_text(raw: bytes, name: str | Path) -> str:
    """Text in UTF-8, without the byte order mark that some editors put first; lines end in "\\n", also where the file
    has "\\r\\n" or "\\r".

    name: of the source, for the error message.

    Raises:
        ValueError: if it is not UTF-8, naming the source and the byte.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = f"byte {error.start} is 0x{raw[error.start]:02X}"
        raise ValueError(f"{name} is not text in UTF-8 ({at}); convert it to UTF-8 first") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str:
    """The text in a file, see `decode_text`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8.
    """
    return decode_text(path.read_bytes(), path)


def text_files(folder: Path) -> list[Path]:
    """The files in a folder, and in folders inside it, that end in .txt, .TXT and so on; sorted."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() == TEXT_SUFFIX)
    return sorted(path for path in files if not path.is_dir())

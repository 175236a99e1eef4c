"""Text files, folders of text files and named corpora, split into training text and held-out text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.text import read_text, text_files
from .corpora import CORPORA, Progress, corpus_texts

HELD_OUT = 20  # the last 1/20 of each file is held out


@dataclass(frozen=True)
class Document:
    name: str  # "shakespeare/hamlet", or the path of a file
    text: str


def read_texts(sources: Sequence[str], progress: Progress | None = None) -> tuple[list[Document], list[Document]]:
    """Training documents and held-out documents.

    sources: names of `CORPORA`, whose held-out works are fixed; paths of UTF-8 text files; folders, of which all .txt
        files are read. The end of each file is held out: its last twentieth, from the start of the line in which that
        begins (from the middle of a line that is longer than another twentieth).

    Raises:
        ValueError: for a source that does not exist, is not UTF-8 text, holds no text, or is given twice.
    """
    train, held_out, seen = [], [], set()

    def once(what: str | Path) -> None:
        if what in seen:
            raise ValueError(f"the text {what} is given twice, and would count twice; give it once")
        seen.add(what)

    for source in sources:
        if source in CORPORA:
            once(source)
            for work, text in corpus_texts(source, progress).items():
                group = held_out if work in CORPORA[source].held_out else train
                group.append(Document(f"{source}/{work}", text))
            continue
        for file in _files(source):
            once(file.resolve())
            text = _read(file)
            part = len(text) // HELD_OUT
            cut = len(text) - part
            cut = text.rfind("\n", cut - part, cut) + 1 or cut
            train.append(Document(str(file), text[:cut]))
            held_out.append(Document(f"{file} (end)", text[cut:]))
    return train, held_out


def _files(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        if not (files := text_files(path)):
            raise ValueError(f"{source} holds no file that ends in .txt; give a folder with text files, or a text file")
        return files
    if not path.is_file():
        raise ValueError(
            f"there is no text {source!r}; give a text file, a folder of .txt files, or a named corpus: "
            f"{', '.join(CORPORA)}"
        )
    return [path]


def _read(file: Path) -> str:
    text = read_text(file)
    if not text.strip():
        raise ValueError(f"{file} holds no text; give a file that does, or take it away")
    return text

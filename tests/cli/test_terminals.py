"""Terminals that are not UTF-8, and Ctrl-C at any moment: each fault in a process of its own, as a user meets it."""

import importlib
import io
import os
import signal
import subprocess
import sys

import pytest
from commands import COMMAND, in_process

from llama_from_scratch.cli import options
from llama_from_scratch.cli.main import parser
from llama_from_scratch.cli.terminal import write
from llama_from_scratch.files.embedded import EMBEDDED, FOLIO
from llama_from_scratch.tokenizer import load_tokenizer

FOX = "\U0001f98a"
TYPED_IN_ASCII = FOX.encode().decode("ascii", "surrogateescape")  # as Python reads an argument in the C locale
GENERATE = ["--model", FOLIO, "--max-new-tokens", "1"]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def help_of_all_commands() -> dict[str, str]:
    top = parser()
    (commands,) = (action for action in top._actions if action.choices and action.dest != "help")
    return {"": top.format_help()} | {name: command.format_help() for name, command in commands.choices.items()}


@pytest.mark.parametrize("name", ["", "generate", "chat", "evaluate", "train", "convert", "inspect", "bench"])
def test_help_is_ascii(name):
    """So that it can be read in any terminal."""
    text = help_of_all_commands()[name]
    assert text.isascii(), [line for line in text.splitlines() if not line.isascii()]


@pytest.mark.parametrize("encoding", [C_LOCALE, {"PYTHONIOENCODING": "latin-1"}])
def test_emoji_prompt_names_the_terminal_encoding(encoding):
    """One process for each kind of terminal."""
    done = subprocess.run(
        [*COMMAND, "generate", FOX, *GENERATE], env=os.environ | encoding, capture_output=True, timeout=300
    )
    name = "latin-1" if "PYTHONIOENCODING" in encoding else "ascii"
    shown = done.stderr.decode("ascii")
    assert (done.returncode, done.stdout) == (2, b"")
    assert shown.startswith(f"error: '\\U0001f98a' cannot be written in {name}, the encoding of this terminal or pipe")
    assert shown.endswith("set the environment variable PYTHONUTF8=1\n") and shown.count("\n") == 1


def test_argument_of_the_c_locale_is_read_as_utf8():
    assert in_process(["generate", TYPED_IN_ASCII, *GENERATE]) == in_process(["generate", FOX, *GENERATE])
    assert in_process(["generate", FOX, *GENERATE]).out.startswith(FOX)


def test_write_replaces_where_it_may(monkeypatch):
    """A sample of a training run does not end the run."""
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", ascii_only)
    write(f"a {FOX}é\n", replace=True)
    assert ascii_only.buffer.getvalue() == b"a ??\n"
    with pytest.raises(OSError, match=r"'\\xe9' cannot be written in ascii.*PYTHONUTF8=1"):
        write("é")


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_ctrl_c_during_the_imports_is_quiet(package, tmp_path):
    """A package that sends it while it is imported: before the package's own modules, and within them."""
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"
    (tmp_path / f"{package}.py").write_text(code)
    source = importlib.import_module("llama_from_scratch").__path__[0]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.path.dirname(source)}"}
    done = subprocess.run(
        [*COMMAND, "inspect"],
        env=environment,
        capture_output=True,
        timeout=300,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(("errors", "said"), [("replace", "replaced"), ("ignore", "left out")])
def test_errors_are_counted_and_said(errors, said, tmp_path, monkeypatch, smollm2):
    """SmolLM2 has no token with the bytes 0xF1 and 0x04."""
    monkeypatch.setattr(options, "load", lambda _: (smollm2, load_tokenizer(EMBEDDED)))
    (tmp_path / "mail.txt").write_text("Dear Sir,\x04 \U00050000\U00050000 hello.\n" * 3)
    command = ["evaluate", str(tmp_path / "mail.txt"), "--max-tokens", "4", "--window", "4"]
    strict = in_process(command)
    assert strict.code == 2 and strict.err.endswith(
        "no token has the byte 0x04; take the character out, or add --errors replace or --errors ignore\n"
    )
    done = in_process([*command, "--errors", errors])
    assert done.code == 0
    assert done.err == f"note: 9 characters were {said}, which this model's vocabulary cannot spell\n"
    done = in_process(["generate", "a\x04", "--max-new-tokens", "1", "--errors", errors, "--tokens"])
    assert done.err == f"note: 1 character was {said}, which this model's vocabulary cannot spell\n"


def test_train_says_how_many_characters_were_replaced(tmp_path):
    (tmp_path / "mail.txt").write_text("Dear Sir,\x04 hello.\n" * 60)
    size = "--dim 16 --layers 1 --heads 4 --kv-heads 2 --ffn-dim 24 --context 16 --batch-size 2 --steps 1"
    command = ["train", str(tmp_path / "mail.txt"), "--tokenizer", "SmolLM2-135M-Instruct", *size.split()]
    done = in_process([*command, "--out", str(tmp_path / "strict")])
    assert done.code == 2 and "add --errors replace" in done.err and not (tmp_path / "strict").exists()
    done = in_process([*command, "--out", str(tmp_path / "run"), "--errors", "replace"])
    assert done.code == 0
    assert done.err.startswith("note: 60 characters were replaced, which this model's vocabulary cannot spell\n")

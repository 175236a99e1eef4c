"""Atomic writing, with processes that are really killed and locks that another one holds."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from filelock import FileLock
from tiny import TINY, tiny_model

from llama_from_scratch.checkpoint import load_model, save_model
from llama_from_scratch.files.atomic import atomic_write, remove_unfinished, staging_folder
from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.tokenizer import load_tokenizer, train_bpe

KILLED = """
import os, signal, sys
import torch
from llama_from_scratch import Llama
from llama_from_scratch.checkpoint import stored
from llama_from_scratch.checkpoint.{module} import write
from llama_from_scratch.checkpoint import load_model, save_model
read, calls = write.read_to_write, []
def killing(*arguments):
    calls.append(1)
    if len(calls) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*arguments)
write.read_to_write = killing
save_model(load_model(sys.argv[1]), sys.argv[2], overwrite=True)
"""


@pytest.mark.parametrize(("name", "module"), [("model.gguf", "gguf"), ("model", "huggingface")])
def test_save_after_a_killed_save_leaves_nothing(name, module, tmp_path):
    """The killed save leaves its staging folder; the next save to that place removes it."""
    model = tiny_model()
    save_model(model, tmp_path / "source")
    save_model(model, tmp_path / name)
    before = sorted(os.listdir(tmp_path))
    code = KILLED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "source", tmp_path / name], timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert f".{name}.saving" in os.listdir(tmp_path)
    assert load_model(tmp_path / name).config == TINY  # the old one is complete
    save_model(model, tmp_path / name, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == before
    loaded = load_model(tmp_path / name)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), loaded.parameters(), strict=True))


def test_tokenizer_save_after_a_killed_save_leaves_nothing(tmp_path):
    (tmp_path / ".tokenizer.json.saving").mkdir()
    (tmp_path / ".tokenizer.json.saving" / "tokenizer.json").write_text("{")
    tokenizer = train_bpe("the cat sat on the mat " * 9, 262)
    tokenizer.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert load_tokenizer(tmp_path).pieces == tokenizer.pieces


@pytest.mark.parametrize("name", ["model.gguf", "model"])
def test_save_while_another_program_saves_is_refused(name, tmp_path):
    model = tiny_model()
    (tmp_path / f".{name}.saving").mkdir()
    (tmp_path / f".{name}.saving" / "half").touch()
    with FileLock(tmp_path / f".{name}.lock"):
        with pytest.raises(CheckpointError, match=f"another program is saving to .*{name} now; wait until it has"):
            save_model(model, tmp_path / name)
        assert (tmp_path / f".{name}.saving" / "half").exists()  # it belongs to the other one
    save_model(model, tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_atomic_write_that_raises_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file").read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_remove_unfinished_leaves_what_is_not_staging(tmp_path):
    for name in (".a.saving", "b.saving", ".c", "d"):
        (tmp_path / name).mkdir()
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".c", "b.saving", "d"]


def test_staging_folder_is_empty_at_the_start(tmp_path):
    (tmp_path / ".x.saving").mkdir()
    (tmp_path / ".x.saving" / "left").touch()
    with staging_folder(tmp_path / "x") as staging:
        assert not list(staging.iterdir())
    assert not list(tmp_path.iterdir())

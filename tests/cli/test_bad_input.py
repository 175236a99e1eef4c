"""Each kind of bad input is one error line that says what is wrong and what to do, and changes no file."""

import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from bad_input_cases import ALL_BYTES, CASES, healthy, sentencepiece, tokenizer_model
from commands import files_of_at_most, in_process
from vocabularies import tiktoken_lines

from llama_from_scratch.checkpoint import load_model
from llama_from_scratch.cli import main
from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.tokenizer import load_tokenizer
from llama_from_scratch.training import fresh_state, reopen
from llama_from_scratch.training.saves import restore
from llama_from_scratch.training.tokens import read_tokens

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("pristine")
    healthy(home)
    return home


@pytest.fixture
def home(pristine, tmp_path, monkeypatch) -> Path:
    """A copy of the valid files, as the current folder."""
    home = tmp_path / "home"
    shutil.copytree(pristine, home)
    monkeypatch.chdir(home)
    return home


def snapshot(home: Path) -> dict[str, object]:
    """Every name; the content and the time of the last change of every file; where links lead."""
    found: dict[str, object] = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = (path.read_bytes(), path.stat().st_mtime_ns)
        else:
            found[name] = path.stat().st_mode
    return found


@contextmanager
def as_anybody() -> Iterator[None]:
    """Without root's right to read and write everything (capset(2): the effective set of this thread)."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    if os.geteuid() != 0:
        yield
        return
    libc.capget(header, before)
    after[:] = [before[0] & ~0b110, *before[1:]]  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, after) == 0
    try:
        yield
    finally:
        libc.capset(header, before)


@contextmanager
def soon(seconds: int = 60) -> Iterator[None]:
    """Raise after so many seconds, or at 2 GiB of memory: a small file must not be able to take more."""

    def stop(number, frame):
        raise TimeoutError(f"not done after {seconds} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, old[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, old)


VERBS = (
    "add ask begin bring change check choose connect convert copy create download generate give keep leave load lower "
    "make move name put remove resume run save see set shorten take train use wait write"
)
ADVICE = re.compile(
    rf"(;|: |, or|, so|\. )( ?[\w-]+){{0,4}}? ?\b({VERBS.replace(' ', '|')})\b"
    r"|\bmust (be|hold|have|stand)\b|\bonly\b.*\b(can|is|are|known)\b|\b(rules )?known are\b"
)
PYTHON = re.compile(
    r"\b(NoneType|dict|tuple|str|int|float|bool|Traceback|codec|\w+Error|\w*Exception)\b|<class|object at"
)
OTHERS_WORDS = re.compile(
    r"(?<=template cannot be used on these messages) \(.*\)"
)  # the template's author may say anything


def check_text(message: str) -> None:
    """What can be checked of a message without understanding it."""
    assert "\n" not in message and not PYTHON.search(OTHERS_WORDS.sub("", message)), message
    assert ADVICE.search(message), message
    paths = re.findall(r"[\w.-]*/[\w./-]*\w", message)
    assert len(set(paths)) == len(paths), f"a path stands there twice: {message}"


def check_message(shown: str) -> None:
    """The one line on stderr."""
    assert shown.startswith("error: ") and shown.endswith("\n") and len(shown) <= 400, shown
    check_text(shown.removesuffix("\n"))


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_error_line(name, home, monkeypatch):
    case = CASES[name]
    case.spoil(home)
    before = snapshot(home)
    monkeypatch.setattr(sys, "argv", ["llama_from_scratch"])
    with soon(), as_anybody(), files_of_at_most(case.limit):
        shown = in_process(case.argv, case.stdin)
    if folder := os.environ.get("LFS_MESSAGES"):  # to read them all
        with open(folder, "a") as file:
            file.write(f"{name}\n    {shown.err}")
    after = snapshot(home)
    kept = {name for name in before | after if not re.fullmatch(case.may_change, name)}
    assert {name for name in kept if before.get(name) != after.get(name)} == set()
    assert (shown.code, shown.out) == (2, "")
    assert re.search(case.expected, shown.err)
    check_message(shown.err)


# --- damaged at random --------------------------------------------------------------------------------------------

N = int(os.environ.get("LFS_EXAMPLES", "200")) // 4  # of each kind of file
NASTY = (None, True, -1, 0, 7, 0.5, 10**30, float("nan"), float("inf"), "", "x", "\ud800", [], [1], {}, {"a": 1})


def use_tokenizer(folder: Path) -> None:
    tok = load_tokenizer(folder)
    tok.decode(tok.encode("the a\n")[:5])


def use_model(name: Path) -> None:
    load_model(name)
    use_tokenizer(name)


def use_run(folder: Path) -> None:
    run = reopen(folder)
    restore(run, fresh_state(run.recipe))


DAMAGED = {
    "model.gguf": use_model,
    "hf/model.safetensors": use_model,
    "hf/config.json": use_model,
    "meta/params.json": use_model,
    "meta/consolidated.00.pth": use_model,
    "hf/tokenizer.json": use_tokenizer,
    "hf/tokenizer_config.json": use_tokenizer,
    "tiktoken/tokenizer.model": use_tokenizer,
    "sentencepiece/tokenizer.model": use_tokenizer,
    "run/run.json": use_run,
    "run/saves/step-00000002/training.json": use_run,
    "run/saves/step-00000002/training/shard-00001-model-00001-of-00001.safetensors": use_run,
    "run/data/data.json": lambda run: read_tokens(run / "data", "train"),
    "run/data/train.npy": lambda run: read_tokens(run / "data", "train"),
}


def hurt(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, taken out, doubled or cut off, half of the time near an end, where headers are."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(changed) or 1)
        if chance.random() < 0.5:
            at = min(at, 2000) if chance.random() < 0.5 else max(at, len(changed) - 2000)
        what = chance.randrange(6)
        if what == 0:
            del changed[at:]
        elif what == 1:
            del changed[at : at + chance.choice([1, 8, 100])]
        elif what == 2:
            changed[at:at] = changed[at : at + chance.choice([1, 8, 100])]
        elif what == 3:
            changed[at : at + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, b"\0" * 7 + b"\x7f", b"\0\0\0\0\1\0\0\0"])
        elif changed:
            at = min(at, len(changed) - 1)
            changed[at] = chance.choice([0, 1, 127, 128, 255, changed[at] ^ 1 << chance.randrange(8)])
    return bytes(changed)


def hurt_json(data: bytes, chance: random.Random) -> bytes:
    """One value, somewhere inside, is changed or removed."""
    content = json.loads(data)
    parent, key, value = None, None, content
    while isinstance(value, dict | list) and value and (parent is None or chance.random() < 0.8):
        parent, key = value, chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = parent[key]
    if chance.random() < 0.2:
        del parent[key]
    else:
        parent[key] = chance.choice(NASTY)
    return json.dumps(content).encode()


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_load_or_are_refused(name, home, monkeypatch):
    """Never another exception, an endless loop, or gigabytes for a small file."""
    for kind, content in (("tiktoken", tiktoken_lines(ALL_BYTES)), ("sentencepiece", sentencepiece())):
        (home / kind).mkdir()
        (home / kind / "config.json").write_text("{}")
        (home / kind / "tokenizer.model").write_bytes(content)
    path, use, chance, outcomes = home / name, DAMAGED[name], random.Random(name), Counter()
    whole, given = path.read_bytes(), home / name.partition("/")[0]
    use(given)
    for _ in range(max(N, 1)):
        spoil = hurt_json if name.endswith(".json") and chance.random() < 0.7 else hurt
        path.write_bytes(damaged := spoil(whole, chance))
        try:
            with soon():
                use(given)
            outcomes["loaded"] += 1
        except ValueError as error:
            check_text(str(error))
            outcomes["refused"] += 1
        except BaseException:
            (home.parent / "damaged").write_bytes(damaged)  # to look at
            raise
    assert outcomes["refused"] >= min(N, 1), outcomes


# --- interrupted, and in processes of their own -------------------------------------------------------------------


@pytest.mark.parametrize("target", ["new.gguf", "model.gguf", "new", "hf", "new --to meta", "meta --to meta"])
def test_convert_interrupted_changes_nothing(target, home, capsys, monkeypatch):
    """Ctrl-C in the middle of the weights."""
    calls = []

    @contextmanager
    def progress(title, total):
        def interrupt(done):
            calls.append(done)
            if len(calls) == 10:
                raise KeyboardInterrupt

        yield interrupt

    monkeypatch.setattr("llama_from_scratch.cli.convert.progress", progress)
    before = snapshot(home)
    assert main(["convert", "hf" if "hf" not in target else "model.gguf", *target.split(), "--overwrite"]) == 130
    assert snapshot(home) == before and len(calls) == 10
    assert capsys.readouterr().out == ""


def in_a_process(*arguments: str, **options) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "llama_from_scratch", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, **options)
    return done.returncode, done.stdout or "", done.stderr


def test_bad_input_in_a_process_is_one_error_line(home):
    """The other tests of this file run the command in this process; here it runs as users start it."""
    CASES["meta: code in the pickle"].spoil(home)
    before = snapshot(home)
    code, shown, errors = in_a_process("convert", "meta", "new", stdout=subprocess.PIPE)
    assert (code, shown) == (2, "")
    check_message(errors)
    assert "asks for posix.system to be run" in errors and snapshot(home) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_generate_to_a_full_disk_is_one_error_line(home):
    with open("/dev/full", "w") as full:
        code, _, errors = in_a_process("generate", "a", "--model", "hf", "--max-new-tokens", "1", stdout=full)
    assert code == 2
    check_message(errors)


@pytest.mark.parametrize(("dtype", "shown"), [(torch.int8, "torch.int8"), ("float32", "'float32'")])
def test_load_model_with_another_dtype_raises(home, dtype, shown):
    with pytest.raises(CheckpointError, match=f"dtype is {shown}; weights can be loaded as torch.float32"):
        load_model("hf", dtype=dtype)


def test_unmodified_fixtures_load(home, capsys):
    for name in ("hf", "meta", "model.gguf", "run"):
        assert main(["generate", "a", "--model", name, "--max-new-tokens", "1"]) == 0
    for name in ("hf", "meta", "model.gguf"):
        assert main([*"chat hello --max-new-tokens 1 --model".split(), name]) == 0
    for content in (tiktoken_lines(ALL_BYTES), sentencepiece()):
        tokenizer_model(content)(home) if (home / "hf/tokenizer.json").exists() else None
        (home / "hf/tokenizer.model").write_bytes(content)
        assert load_tokenizer("hf").encode("a")

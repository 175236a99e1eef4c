"""Converting as a user does it, and what happens to the folder if it is killed or the disk is full."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import FORMATS, describe, load_model, save_model
from llama_from_scratch.cli.main import main
from llama_from_scratch.convert import convert
from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.tokenizer import load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.pieces import Kind, Piece
from llama_from_scratch.tokenizer.sentencepiece import SentencePieceTokenizer

SMALL = LlamaConfig(vocab_size=300, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=160)
TEXT = "The llama looks at the llama beside it. How many llamas are there? Two, and 31 more.\n" * 20


@pytest.fixture(scope="module")
def trained():
    return train_bpe(TEXT, vocab_size=280)  # fewer tokens than the model has rows, as in many released models


@pytest.fixture
def source(tmp_path, trained):
    """A Hugging Face folder with a tokenizer."""
    save_model(Llama(SMALL), tmp_path / "source", tokenizer=trained)
    return tmp_path / "source"


@pytest.fixture
def run(capsys, monkeypatch, as_users_run_it):
    """A command in this process: its exit code, stdout and stderr."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        try:
            code = main([*map(str, arguments)])
        except SystemExit as error:  # argparse's way out
            code = error.code
        return code, *capsys.readouterr()

    return run


def same(a, b):
    mine, yours = a.state_dict(), b.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# The command


def test_round_the_three_formats(source, run):
    """The same bits and the same tokenizer come back, and each step says what it wrote."""
    folder = source.parent
    for step in (["source", "a.gguf"], ["a.gguf", "b", "--to", "meta"], ["b", "c"]):
        code, out, error = run("convert", *step, cwd=folder)
        assert code == 0 and not out, error
        assert f"{step[1]}: " in error.splitlines()[-1] and "21 tensors, 0.5 MB" in error.splitlines()[-1]
    assert same(load_model(folder / "c"), load_model(source))
    for name in ("a.gguf", "b", "c"):
        assert load_tokenizer(folder / name).encode(TEXT[:99]) == load_tokenizer(source).encode(TEXT[:99])
    _, shown, _ = run("inspect", "b", cwd=folder)
    for words in ("Meta", "n_kv_heads", "weights in bfloat16", "F32", "byte-level BPE"):
        assert words in shown


def test_what_changes_is_said(source, run):
    code, _, error = run("convert", "source", "a.gguf", "--type", "Q8_0", cwd=source.parent)
    assert code == 0 and "note: tensors rounded from F32 to Q8_0: 16\n" in error
    code, _, error = run("convert", "a.gguf", "b", "--to", "meta", cwd=source.parent)
    assert code == 0 and "note: tensors of Q8_0 written as F32, the same numbers in more bytes: 16\n" in error
    assert "note: the tokenizer is written as tokenizer.json; Meta's own code reads only tokenizer.model\n" in error
    assert same(load_model(source.parent / "a.gguf"), load_model(source.parent / "b"))


MISTAKES = {
    "no such model": (["nope", "new"], "there is no model 'nope'"),
    "no such format": (["source", "new", "--to", "pickle"], "invalid choice: 'pickle'"),
    "no such type": (["source", "new", "--type", "F8"], "invalid choice: 'F8'"),
    "Q8_0 in a folder": (
        ["source", "new", "--type", "Q8_0"],
        "the type is 'Q8_0'; a folder must be written as F32, F16, BF16",
    ),
    "a folder called .gguf": (["source", "new.gguf", "--to", "meta"], "does not fit the format meta"),
    "a file without .gguf": (["source", "new", "--to", "gguf"], "a GGUF file must be called something.gguf"),
    "onto a model": (["source", "source"], "already holds a model (config.json); add --overwrite to replace it"),
    "onto a file": (["source", "file"], "is a file; give the name of a folder"),
    "onto a GGUF file": (["source", "file.gguf"], "already exists; add --overwrite to replace it"),
    "into the current folder": (["source", "."], "is the current folder or holds it"),
    "under a file": (["source", "file/new"], "cannot be written"),
    "a name that is too long": (["source", "n" * 300], "File name too long"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_change_nothing(source, run, case):
    arguments, expected = MISTAKES[case]
    for name in ("file", "file.gguf"):
        (source.parent / name).write_text("mine")
    before = contents(source), contents(source.parent), sorted(os.listdir(source.parent))
    code, out, error = run("convert", *arguments, cwd=source.parent)
    assert code == 2 and out == ""
    assert expected in error and len(error.splitlines()) == 1 and error.startswith("error: ")
    assert (contents(source), contents(source.parent), sorted(os.listdir(source.parent))) == before


# The function


def test_progress_counts_the_bytes_of_the_source(source):
    for target in ("a.gguf", "b", "c"):
        counted = []
        convert(source, source.parent / target, "meta" if target == "c" else None, progress=counted.append)
        assert counted == sorted(counted) and counted[-1] == describe(source).n_bytes and len(counted) == 21


def test_a_folder_is_converted_onto_itself(source):
    """Other files stay, also in folders of their own, and links; the old weights and the old tokenizer do not."""
    (source / "notes").mkdir()
    (source / "notes" / "today.txt").write_text("mine")
    (source / "link").symlink_to("notes/today.txt")
    (source / "model-of-mine.safetensors").write_text("mine")
    (source / "merges.txt").write_text("of an older tokenizer")
    os.chmod(source, 0o750)
    convert(source, source, dtype="BF16", overwrite=True)
    assert {tensor.stored_type for tensor in describe(source).tensors} == {"BF16"}
    convert(source, source, "meta", overwrite=True)
    assert describe(source).format == "Meta"
    kept = {"notes", "link", "model-of-mine.safetensors"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert set(os.listdir(source)) == {"params.json", "consolidated.00.pth"} | kept | tokenizer
    assert (source / "link").is_symlink() and (source / "link").read_text() == "mine"
    assert os.stat(source).st_mode & 0o777 == 0o750
    assert os.listdir(source.parent) == ["source"]


def test_what_comes_into_the_folder_meanwhile_stays(source):
    def progress(done):
        (source / "late.txt").write_text("mine")

    convert(source, source, dtype="BF16", overwrite=True, progress=progress)
    assert (source / "late.txt").read_text() == "mine"


def test_two_programs_do_not_save_to_one_folder(source):
    """The second one is refused, and the first one goes on as if nothing had been."""
    older, newer = load_model(source), Llama(SMALL)
    save_model(newer, source.parent / "newer")

    def progress(done):
        with pytest.raises(CheckpointError, match="another program is saving to .*source now; wait"):
            save_model(older, source, format="meta", overwrite=True)

    convert(source.parent / "newer", source, overwrite=True, progress=progress)
    assert same(load_model(source), newer)
    save_model(older, source, overwrite=True)  # now it may
    assert same(load_model(source), older)
    assert sorted(os.listdir(source.parent)) == ["newer", "source"]


@pytest.mark.parametrize("format", FORMATS)
def test_others_may_read_what_the_umask_lets_them(source, format):
    target = source.parent / ("new.gguf" if format == "gguf" else "new")
    before = os.umask(0o027)
    try:
        convert(source, target, format)
    finally:
        os.umask(before)
    files = [target] if format == "gguf" else [*target.iterdir()]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o640"}


def test_a_link_to_a_folder_stays_a_link(source):
    link = source.parent / "link"
    link.symlink_to(source)
    convert(link, link, dtype="F16", overwrite=True)
    assert link.is_symlink() and {tensor.stored_type for tensor in describe(source).tensors} == {"F16"}


def test_a_tokenizer_goes_from_folder_to_folder_as_it_is(source):
    """Also one that is not known here; into GGUF it cannot, and that is said."""
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"] = {"type": "Unigram", "vocab": []}
    (source / "tokenizer.json").write_text(json.dumps(content))
    (source / "generation_config.json").write_text("{}")
    assert convert(source, source.parent / "new") == []
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (source.parent / "new" / name).read_bytes() == (source / name).read_bytes()
    (remark,) = convert(source, source.parent / "new.gguf")
    assert remark.startswith("the tokenizer stays behind: ") and "Unigram" in remark
    assert describe(source.parent / "new.gguf").tokenizer in (None, "no_vocab")


def test_a_model_without_a_tokenizer_does_not_get_an_older_one(source, tmp_path):
    save_model(Llama(SMALL), tmp_path / "bare.gguf")
    (remark,) = convert(tmp_path / "bare.gguf", source, overwrite=True)
    assert remark.startswith("the tokenizer stays behind: ")
    assert set(os.listdir(source)) == {"config.json", "model.safetensors"}


def test_a_tokenizer_that_the_format_cannot_hold_stays_behind(tmp_path):
    """Here one of SentencePiece's kind with a piece that is found before anything is joined."""
    names = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    in_bytes = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]
    vocabulary = [*names, *in_bytes, Piece("<sep>", 0.0, Kind.USER_DEFINED)]
    tokenizer = SentencePieceTokenizer(vocabulary, bos_id=1, eos_id=2)
    save_model(Llama(SMALL), tmp_path / "a.gguf", tokenizer=tokenizer)
    (remark,) = convert(tmp_path / "a.gguf", tmp_path / "b")
    assert remark.startswith("the tokenizer stays behind: ") and "<sep>" in remark
    assert same(load_model(tmp_path / "a.gguf"), load_model(tmp_path / "b"))


@pytest.mark.parametrize("chat_template", [None, "{{ bos_token }}{{ messages[0].content }}"])
def test_meta_gets_a_tokenizer_model_where_that_can_hold_the_tokenizer(tmp_path, chat_template):
    names = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    in_bytes = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]
    vocabulary = [*names, *in_bytes, *(Piece(text, -float(i), Kind.NORMAL) for i, text in enumerate(["ab", "a", "b"]))]
    for add_bos in (True, False):
        tokenizer = SentencePieceTokenizer(vocabulary, bos_id=1, eos_id=2, add_bos=add_bos, chat_template=chat_template)
        save_model(Llama(SMALL), tmp_path / "a.gguf", tokenizer=tokenizer, overwrite=True)
        remarks = convert(tmp_path / "a.gguf", tmp_path / "b", "meta", overwrite=True)
        assert (tmp_path / "b" / "tokenizer.model").exists() == add_bos  # of it, one cannot say that it does not
        assert (remarks == []) == add_bos and (tmp_path / "b" / "tokenizer.json").exists() == (not add_bos)
        back = load_tokenizer(tmp_path / "b")
        assert (back.add_bos, back.chat_template, back.tokens) == (add_bos, chat_template, tokenizer.tokens)
        assert back.encode("abba") == tokenizer.encode("abba")


@pytest.mark.parametrize("format", ["meta", "gguf"])
def test_a_tokenizer_of_a_larger_model_stays_behind(source, format):
    train_bpe(TEXT + "Zebras, quaggas and wild donkeys!", vocab_size=SMALL.vocab_size + 1).save(source)
    target = source.parent / ("new.gguf" if format == "gguf" else "new")
    (remark,) = convert(source, target, format)
    assert remark.startswith("the tokenizer stays behind: it has 301 tokens and the model only 300")
    assert same(load_model(target), load_model(source))


def test_the_folder_of_a_run_is_not_made_a_model(source, run):
    target = source.parent / "run"
    target.mkdir()
    (target / "run.json").write_text("{}")
    code, _, error = run("convert", "source", "run", cwd=source.parent)
    assert code == 2 and "run is the folder of a training run; choose another folder" in error
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="run is the folder of a training run"):
            save_model(load_model(source), target, overwrite=overwrite)
    assert [entry.name for entry in target.iterdir()] == ["run.json"]
    assert os.listdir(target) == ["run.json"]


def test_a_link_to_a_file_stays_a_link(source):
    (source.parent / "link.GGUF").symlink_to("real.gguf")
    for _ in range(2):
        convert(source, source.parent / "link.GGUF", overwrite=True)
        assert (source.parent / "link.GGUF").is_symlink()
        assert same(load_model(source.parent / "real.gguf"), load_model(source))


def test_numbers_that_do_not_fit_the_type(source):
    model = load_model(source)
    with torch.no_grad():
        model.norm.weight[3] = 1e5
    save_model(model, source, overwrite=True)
    before = contents(source)
    with pytest.raises(
        CheckpointError, match=r"model.norm.weight holds numbers that are too large for F16; write it as"
    ):
        convert(source, source, dtype="F16", overwrite=True)
    assert contents(source) == before
    convert(source, source, dtype="BF16", overwrite=True)


# Memory, kills and full disks, each in a process of its own

MEMORY = """
import resource, sys
from pathlib import Path
from llama_from_scratch.checkpoint import describe
from llama_from_scratch.convert import convert
from llama_from_scratch.checkpoint.huggingface.write import save_huggingface
from llama_from_scratch.checkpoint.meta.write import save_meta
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
source, target, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
found = describe(source)
before = peak()
if how == "gguf":
    convert(source, target)
elif how == "meta":
    save_meta(found, target, "F32", n_shards=8)
else:
    save_huggingface(found, target, "F32", max_shard_bytes=found.n_bytes // 8)
print(peak() - before, found.n_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in kB on Linux only")
@pytest.mark.parametrize("how", ["gguf", "huggingface", "meta"])
def test_no_more_than_a_shard_is_in_memory(tmp_path, how):
    """The pages of the source that were read count as well, since it is mapped; on top of them comes a shard, an eighth
    of the model, which the writing library may hold twice."""
    config = LlamaConfig(vocab_size=2000, dim=512, n_layers=10, n_heads=8, n_kv_heads=8, head_dim=64, ffn_dim=1536)
    save_model(Llama(config), tmp_path / "source")
    target = tmp_path / ("target.gguf" if how == "gguf" else "target")
    done = run_code(MEMORY, tmp_path / "source", target, how)
    taken, size = map(int, done.split())
    assert size > 140e6
    assert taken < size + 3 * size / 8 + 30e6


def run_code(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


KILLS = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import load_model, save_model
torch.set_num_threads(1)
folder, format = Path(sys.argv[1]), sys.argv[2]
config = LlamaConfig(300, 128, 3, 4, 2, 32, 256)
models = [Llama(config), Llama(replace(config, n_layers=1, n_kv_heads=4))]
options = [{}, {"max_shard_bytes": 200_000} if format == "huggingface" else {"n_shards": 4}]
def save(n):
    save_model(models[n % 2], folder, format=format, overwrite=True, **options[n % 2])
save(0)
(folder / "notes.txt").write_text("mine")
start = time.perf_counter()
save(0)
seconds = time.perf_counter() - start
rng, seen, unfinished = random.Random(0), set(), 0
for kills in range(100):
    if kills >= 16 and unfinished >= 4 and len(seen) == 2:
        break
    if kills >= 16:
        seconds *= 1.1  # the machine has become slower since
    child = os.fork()
    if child == 0:
        for n in range(1, 10_000):
            save(n)
    time.sleep(rng.uniform(0, 4 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    unfinished += (folder.parent / f".{folder.name}.saving").exists()
    found = load_model(folder)
    (which,) = [i for i, model in enumerate(models) if model.config == found.config]
    for name, weight in models[which].state_dict().items():
        assert torch.equal(weight, found.state_dict()[name]), name
    assert (folder / "notes.txt").read_text() == "mine"
    seen.add(which)
save(0)
assert sorted(os.listdir(folder.parent)) == [folder.name], os.listdir(folder.parent)
print(unfinished, len(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kills and forks as on Linux")
@pytest.mark.parametrize("format", ["huggingface", "meta"])
def test_killed_at_any_moment(tmp_path, format):
    """At least sixteen times SIGKILL while one model replaces another: what is found is one of the two, whole, and our
    notes.

    The next save clears away what was left."""
    unfinished, seen = map(int, run_code(KILLS, tmp_path / "model", format).split())
    assert unfinished >= 4  # it was really killed in the middle
    assert seen == 2


FULL = """
import resource, sys
from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import CheckpointError, save_model
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name, format in (("model", "huggingface"), ("meta", "meta"), ("model.gguf", "gguf"), ("new/one", "meta")):
    try:
        model = Llama(LlamaConfig(1000, 64, 2, 2, 1, 32, 128))
        save_model(model, f"{sys.argv[1]}/{name}", format=format, overwrite=True)
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_a_disk_that_takes_no_more(tmp_path):
    """Here a process that may write 100 kB to a file. Whatever was there is there still, and nothing else."""
    model = Llama(SMALL)
    save_model(model, tmp_path / "model")
    save_model(model, tmp_path / "meta", format="meta")
    save_model(model, tmp_path / "model.gguf")
    before = contents(tmp_path / "model"), contents(tmp_path / "meta"), contents(tmp_path)
    errors = run_code(FULL, tmp_path).splitlines()
    assert len(errors) == 4 and all("cannot be written (" in error and "make room" in error for error in errors)
    assert (contents(tmp_path / "model"), contents(tmp_path / "meta"), contents(tmp_path)) == before
    assert {"model", "meta", "model.gguf"} <= set(os.listdir(tmp_path)) <= {"model", "meta", "model.gguf", "new"}


def test_a_full_disk(tmp_path):
    """A real one of 2 MB, where that may be made."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        model, larger = Llama(SMALL), Llama(replace(SMALL, n_layers=12))
        for format in ("huggingface", "meta"):
            save_model(model, tmp_path / format, format=format)
            with pytest.raises(CheckpointError, match="cannot be written .*make room, or choose another folder"):
                save_model(larger, tmp_path / format, format=format, overwrite=True)
            assert same(load_model(tmp_path / format), model)
        with pytest.raises(CheckpointError, match="where a disk begins.*save to a folder inside it"):
            save_model(model, tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["huggingface", "meta"]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_disk_inside_the_folder_is_not_emptied(source):
    inside = source / "notes" / "disk"
    inside.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", inside], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        (inside / "today.txt").write_text("mine")
        with pytest.raises(CheckpointError, match="notes/disk is on another disk than .*source.*choose another folder"):
            convert(source, source, dtype="BF16", overwrite=True)
        assert (inside / "today.txt").read_text() == "mine" and os.listdir(source.parent) == ["source"]
    finally:
        subprocess.run(["umount", "-l", inside], check=True)


def test_where_folders_cannot_be_exchanged_in_one_step(source, monkeypatch):
    """Other systems and some network disks: the old folder steps aside, and back if the new one cannot come."""
    from llama_from_scratch.files import replace as files

    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: None)
    (source / "notes.txt").write_text("mine")
    (source.parent / ".source.old").mkdir()  # killed after both renames: what was replaced is still there
    (source.parent / ".source.old" / "config.json").touch()
    convert(source, source, dtype="BF16", overwrite=True)
    assert {tensor.stored_type for tensor in describe(source).tensors} == {"BF16"}
    assert (source / "notes.txt").read_text() == "mine" and os.listdir(source.parent) == ["source"]
    source.rename(source.parent / ".source.old")  # killed between the two renames: only the old one is left
    with pytest.raises(CheckpointError, match="already holds a model"):
        save_model(Llama(SMALL), source)
    assert os.listdir(source.parent) == ["source"]

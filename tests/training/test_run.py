"""A run folder: made atomically, saved, resumed, refused, and loaded as a model."""

import copy
import errno
import json
import shutil
import socket
from dataclasses import replace
from datetime import timedelta

import pytest
import safetensors.torch
import torch
import transformers
import vocabularies

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import describe, load_model
from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.files.resolve import resolve
from llama_from_scratch.parallel import ranks
from llama_from_scratch.tokenizer import load_tokenizer
from llama_from_scratch.training import Recipe, Routine, begin, fresh_state, reopen, resume, run_state, saves, train
from llama_from_scratch.training import routine as routine_module
from llama_from_scratch.training import run as run_module
from llama_from_scratch.training.log import read_log
from llama_from_scratch.training.trackers import tensorboard

SMALL = dict(vocab_size=300, dim=16, layers=1, heads=4, kv_heads=2, ffn_dim=24, context=16, batch_size=3, warmup=2)
ROUTINE = Routine(evaluate_every=100, sample_every=100, sample_tokens=4, save_every=4, keep=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300)))
    return file


@pytest.fixture
def begun(text, tmp_path):
    """Makes a run that was trained to its end, or to `stop_at`."""

    def make(stop_at: int | None = None, name: str = "run", **settings):
        run = begin(tmp_path / name, Recipe(data=(str(text),), **{"steps": 12, **SMALL, **settings}))
        go_on(run, stop_at)
        return run

    return make


def go_on(run, stop_at=None, routine=ROUTINE):
    state = fresh_state(run.recipe)
    records = list(train(run, state, run.tokenizer(), routine, lambda: state.step == stop_at))
    return state, records


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- it is a model -----------------------------------------------------------------------------------------------


def test_run_folder_loads_as_its_latest_save(begun):
    run = begun(stop_at=6)
    assert [save.name for save in saves.saves_in(run.folder)] == ["step-00000004", "step-00000006"]
    assert resolve(run.folder) == run.saves / "step-00000006"
    state, _ = go_on(run)
    model = Llama.from_pretrained(str(run.folder))
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), state.model.parameters(), strict=True))
    assert load_tokenizer(run.folder).pieces == run.tokenizer().pieces
    assert describe(run.folder).config == run.recipe.config(300)


def test_save_loads_in_transformers(begun):
    run = begun()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(resolve(run.folder))
    tokens = torch.arange(16)[None]
    expected = theirs(tokens).logits
    torch.testing.assert_close(load_model(run.folder)(tokens), expected, rtol=1e-4, atol=1e-5)
    tok = transformers.AutoTokenizer.from_pretrained(resolve(run.folder))
    assert tok("the 17 quick foxes")["input_ids"] == run.tokenizer().encode("the 17 quick foxes")


def test_run_before_its_first_save_is_refused_as_a_model(begun):
    run = begun(stop_at=1)
    shutil.rmtree(run.saves / "step-00000001")
    with pytest.raises(CheckpointError, match=r"run has not saved a model yet; wait for its first save"):
        load_model(run.folder)
    state, records = go_on(run)  # and it begins again
    assert [r["step"] for r in read_log(run.log) if r["kind"] == "step"] == list(range(1, 13))


# --- going on ----------------------------------------------------------------------------------------------------


def test_resume_of_a_finished_run_changes_nothing(begun):
    run = begun()
    before = content(run.folder)
    assert go_on(resume(reopen(run.folder), {}))[1] == []
    assert content(run.folder) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"learning_rate": 0.01},
            "learning_rate is 0.01, and the run in {run} began with 0.002; leave it out to go on",
        ),
        ({"steps": 20}, "steps is 20, and the run in {run} began with 12"),
        ({"dim": 32}, "dim is 32, and the run in {run} began with 16"),
        ({"data": ("other.txt",)}, "the text is other.txt, and the run in {run} began with"),
        ({"seed": 5}, "seed is 5, and the run in {run} began with 0"),
    ],
)
def test_resume_with_another_recipe_is_refused(given, message, begun):
    run = begun(stop_at=4)
    before = content(run.folder)
    with pytest.raises(ValueError) as error:
        resume(reopen(run.folder), given)
    assert str(error.value).startswith(message.format(run=run.folder))
    assert content(run.folder) == before


def test_wsd_run_extended_equals_the_longer_plan(begun):
    wsd = {"schedule": "wsd", "decay": 4}
    planned = begun(name="planned", steps=16, **wsd)
    prolonged = begun(name="prolonged", stop_at=6, steps=10, **wsd)
    prolonged = resume(reopen(prolonged.folder), {"steps": 16})
    go_on(prolonged)
    one, other = content(planned.folder / "saves"), content(prolonged.folder / "saves")
    assert one.keys() == other.keys()
    for name in one:
        if name.endswith(".safetensors"):  # whose heads can be written in another order
            ours, theirs = safetensors.torch.load(one[name]), safetensors.torch.load(other[name])
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert reopen(prolonged.folder).recipe == planned.recipe
    shortened = begun(name="shortened", stop_at=6, steps=30, **wsd)
    go_on(resume(reopen(shortened.folder), {"steps": 16, "decay": 4}))
    assert (
        content(shortened.folder / "saves")["step-00000016/model.safetensors"] == one["step-00000016/model.safetensors"]
    )


@pytest.mark.parametrize("given", [{"steps": 30}, {"decay": 2}, {"steps": 9}])
def test_resume_in_the_wsd_decay_refuses_another_end(given, begun):
    run = begun(stop_at=8, steps=10, schedule="wsd", decay=4)
    with pytest.raises(
        ValueError, match=r"cannot be changed from .* is at step 8, and the learning rate decays from step"
    ):
        resume(reopen(run.folder), given)


def frozen_start(recipe, model):
    """A copy of a model, of which only the feed-forward is trained, as the start of a run."""
    model = copy.deepcopy(model)
    for name, weight in model.named_parameters():
        weight.requires_grad_("feed_forward" in name)
    return fresh_state(recipe, model=model)


@pytest.mark.parametrize("tied", [True, False])
def test_given_model_with_frozen_weights_resumes_exactly(tied, text, tmp_path):
    """It starts from the given weights, frozen ones do not change, and a resumed run ends as an uninterrupted one."""
    torch.manual_seed(5)
    start = Llama(LlamaConfig(300, 16, 1, 4, 2, 4, 24, max_seq_len=64, rope_theta=500.0, tie_embeddings=tied))
    recipe = Recipe.for_model(start.config, data=(str(text),), steps=6, context=16, batch_size=3, warmup=2)
    assert (recipe.dim, recipe.tie_embeddings, recipe.context) == (16, tied, 16)
    ends = []
    for name, stop_at in (("one", None), ("two", 3)):
        run = begin(tmp_path / name, recipe)
        for stop in (stop_at, None) if stop_at else (None,):
            state = frozen_start(recipe, start)
            list(train(reopen(run.folder), state, run.tokenizer(), ROUTINE, lambda s=state, at=stop: s.step == at))
        ends.append(load_model(run.folder))
    for (name, before), one, two in zip(start.named_parameters(), *(end.parameters() for end in ends), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, before) == ("feed_forward" not in name)
    assert ends[0].config == start.config


def test_given_model_of_another_size_is_refused(text):
    recipe = Recipe(data=(str(text),), steps=6, **SMALL)
    with pytest.raises(ValueError, match="^ffn_dim is 24, and the model's 32$"):
        fresh_state(recipe, model=Llama(replace(recipe.config(300), ffn_dim=32)))


def test_training_on_a_cpu_does_not_start_cuda(begun, monkeypatch):
    """Starting CUDA takes memory on the GPU that other processes may need."""

    def started(*_):
        raise AssertionError("CUDA was started")

    run = begun(stop_at=4)
    for name in ("get_rng_state", "get_rng_state_all", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, started)
    assert go_on(run)[0].step == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rng_state_of_a_gpu_is_restored(begun):
    run = begun(stop_at=1)
    state = fresh_state(run.recipe, "cuda")

    def draw_and_stop():
        torch.rand(5, device="cuda")
        return True

    list(train(run, state, run.tokenizer(), ROUTINE, draw_and_stop))  # one step, from a save of a CPU
    expected = torch.rand(5, device="cuda")
    assert saves.restore(run, fresh_state(run.recipe, "cuda"))
    assert torch.equal(torch.rand(5, device="cuda"), expected)
    assert go_on(run)[0].step == 12  # and on the CPU again


def test_save_without_gpu_rng_state_resumes_on_a_gpu(begun, monkeypatch):
    """Saved on a CPU: the generator of the GPU keeps its state from the seed."""
    run, chance = begun(stop_at=6), run_state._rng_state

    def on_a_gpu(model):
        return {**chance(model), "rng.cuda": torch.zeros(16, dtype=torch.uint8)}

    def restored(*_):
        raise AssertionError("the state of the GPU's generator was not saved")

    monkeypatch.setattr(run_state, "_rng_state", on_a_gpu)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored)
    state = fresh_state(run.recipe)
    saves.restore(run, state)
    assert state.step == 6


# --- what can go wrong -------------------------------------------------------------------------------------------


def test_begin_in_a_folder_with_files_is_refused(begun, text, tmp_path):
    run = begun(stop_at=1)
    before = content(tmp_path)
    recipe = Recipe(data=(str(text),), steps=4, **SMALL)
    with pytest.raises(ValueError, match=r"run already holds a run; resume it, or choose another folder"):
        begin(run.folder, recipe)
    with pytest.raises(ValueError, match=r"already exists and is not a run; give the name of a new folder"):
        begin(run.saves, recipe)
    with pytest.raises(ValueError, match=r"there is no run in .*; begin one there"):
        reopen(tmp_path / "nothing")
    assert content(tmp_path) == before


def test_begin_that_fails_leaves_nothing(text, tmp_path):
    for settings, message in (
        ({"vocab_size": 100}, "vocab_size is 100"),
        ({"vocab_size": 100_000}, "give more text or a smaller vocab_size"),
        ({"tokenizer": "no-such-model"}, "there is no model 'no-such-model'"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(tmp_path / "runs" / "new", Recipe(data=(str(text),), steps=4, **{**SMALL, **settings}))
    assert not list((tmp_path / "runs").rglob("*"))


def test_save_without_training_folder_says_so(begun):
    run = begun(stop_at=7)
    shutil.rmtree(run.saves / "step-00000007" / "training")
    with pytest.raises(ValueError, match=r"00007 is damaged \(its folder training/ is missing or empty\); remove"):
        go_on(reopen(run.folder))


def harm_json(text):
    return lambda file: file.write_text(text)


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("training.json", harm_json("{}")),
        ("training.json", harm_json("[1, 2")),
        (
            "training/shard-00001-model-00001-of-00001.safetensors",
            lambda file: file.write_bytes(file.read_bytes()[:-50]),
        ),
        ("training/shard-00001-model-00001-of-00001.safetensors", lambda file: file.unlink()),
        ("model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:100])),
        ("config.json", lambda file: file.unlink()),
    ],
)
def test_damaged_save_is_named_and_the_older_one_works(file, harm, begun):
    run = begun(stop_at=7)
    harm(run.saves / "step-00000007" / file)
    before = content(run.folder)
    with pytest.raises(
        ValueError, match=r"step-00000007 is damaged .*remove that folder to go on from the save before"
    ):
        go_on(reopen(run.folder))
    assert content(run.folder) == before
    shutil.rmtree(run.saves / "step-00000007")
    state, _ = go_on(reopen(run.folder))
    assert state.step == 12
    assert [r["step"] for r in read_log(run.log) if r["kind"] == "step"] == list(range(1, 13))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory"), RuntimeError, "can't allocate memory"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), RuntimeError, "Connection closed"),
        (torch.distributed.DistBackendError("NCCL error"), torch.distributed.DistBackendError, "^NCCL error$"),
        (
            OSError(errno.EIO, "Input/output error"),
            OSError,
            r"step-00000006 cannot be read \(Input/output error\); check",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            OSError,
            r"cannot be read \(Permission denied\); check that",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file"),
            ValueError,
            r"is damaged \(No such file\); remove that folder",
        ),
        (RuntimeError("Size mismatch"), ValueError, r"step-00000006 is damaged \(Size mismatch\); remove that folder"),
    ],
)
def test_restore_calls_only_damaged_saves_damaged(error, kind, message, begun, monkeypatch):
    """Lack of memory, a lost process or a disk error does not advise to remove an undamaged save."""

    def fail(*_):
        raise error

    run = begun(stop_at=6)
    monkeypatch.setattr(saves, "read_run_state", fail)
    with pytest.raises(kind, match=message) as found:
        go_on(run)
    assert ("remove that folder" in str(found.value)) == (kind is ValueError)


@pytest.mark.parametrize(
    "stored", ["{}", "not json", '{"recipe": {"steps": 3}}', '{"recipe": {"data": ["x"], "steps": 0}}']
)
def test_reopen_with_a_damaged_recipe_is_refused(stored, begun):
    run = begun(stop_at=1)
    (run.folder / "run.json").write_text(stored)
    with pytest.raises(ValueError, match=r"run\.json is damaged \(.*\); bring it back, or begin a new run"):
        reopen(run.folder)


@pytest.mark.parametrize("where", ["weights", "optimizer", "json", "sync", "rename"])
def test_full_disk_keeps_the_older_save(where, begun, monkeypatch):
    run = begun(stop_at=4)
    before = content(run.saves)

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    name = {"weights": "save_model", "optimizer": "write_run_state"}.get(where)
    if name:
        monkeypatch.setattr(saves, name, full)
    elif where == "json":
        monkeypatch.setattr("pathlib.Path.write_text", full)
    else:
        monkeypatch.setattr(f"llama_from_scratch.files.atomic.{'sync' if where == 'sync' else 'os.replace'}", full)
    with pytest.raises(
        OSError, match=r"step 8 cannot be saved .*No space left.*the save of step 4 is complete; make room, then"
    ):
        go_on(reopen(run.folder))
    monkeypatch.undo()
    assert content(run.saves) == before
    assert go_on(reopen(run.folder))[0].step == 12


def test_leftovers_of_a_killed_process_are_removed(begun, tmp_path):
    (tmp_path / ".run.saving" / "run" / "data").mkdir(parents=True)  # of `begin`
    (tmp_path / ".other.saving" / "other").mkdir(parents=True)  # of another run, which may be alive
    run = begun(stop_at=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.saving", "run"]
    names = {p.name for p in run.folder.iterdir()}
    for folder, file in ((run.saves, "model.safetensors"), (run.folder, "run.json")):
        (folder / ".abc.saving").mkdir()
        (folder / ".abc.saving" / file).write_bytes(b"half")
    go_on(run)
    assert {p.name for p in run.folder.iterdir()} == names
    assert sorted(p.name for p in run.saves.iterdir()) == ["step-00000008", "step-00000012"]


def test_nan_loss_is_not_saved(begun):
    run = begun(stop_at=6)
    before = content(run.saves)
    state = fresh_state(run.recipe)
    state.model.norm.register_forward_hook(lambda _m, _i, out: out * (float("nan") if state.step >= 9 else 1))
    with pytest.raises(ValueError, match="in step 10 the loss is nan"):
        list(train(run, state, run.tokenizer(), ROUTINE))
    names = sorted(path.name for path in run.saves.iterdir())
    assert names == ["step-00000006", "step-00000008"]  # the save of step 8 was good
    assert content(run.saves / "step-00000006") == {
        k[14:]: v for k, v in before.items() if k.startswith("step-00000006")
    }


def test_begin_with_too_short_texts_is_refused(text, tmp_path):
    recipe = Recipe(data=(str(text),), steps=4, **{**SMALL, "context": 1000, "batch_size": 50})
    with pytest.raises(
        ValueError, match=r"a batch of 50 windows of 1000 needs 51,000; give more text, a smaller batch"
    ):
        begin(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("save_every", 0), ("keep", 0), ("evaluate_every", -1), ("sample_tokens", 0)]
)
def test_routine_with_a_bad_number_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value}; it must be a whole number of at least 1"):
        Routine(**{name: value})


def test_process_groups_wait_longer_than_a_day(monkeypatch):
    """A job of one process, as torchrun would start it; the group of all, and those of a mesh."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "TORCHELASTIC_RUN_ID": "job"}
    for name, value in {**job, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    cpu = torch.device("cpu")
    with ranks.joined("cpu", "go on"):
        mesh = ranks.mesh(1, "cpu")
        groups = [torch.distributed.group.WORLD, mesh.get_group("data"), mesh.get_group("tensor")]
        assert all(group._get_backend(cpu).options._timeout > timedelta(days=1) for group in groups)


# --- who else looks on -------------------------------------------------------------------------------------------


def test_data_json_lists_the_documents(begun, text):
    run = begun(stop_at=1)
    facts = json.loads((run.data / "data.json").read_text())
    assert facts["train"]["documents"][0]["name"] == str(text)
    parts = [facts[part]["documents"][0]["bytes"] for part in ("train", "held_out")]
    assert sum(parts) == len(text.read_bytes())


def test_tensorboard_after_a_kill_has_each_step_once(begun):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = begun(stop_at=1)

    def live(step: int | None) -> None:
        """Until step `step`, in which another process tries to train the run as well."""
        state = fresh_state(run.recipe)
        with tensorboard(run) as track:
            for record in train(run, state, run.tokenizer(), ROUTINE):
                track(record)
                if state.step == step:
                    with pytest.raises(ValueError, match="being trained by another process"):
                        live(None)
                if state.step == step == 7:
                    return  # after the save of step 4

    live(7)
    live(10)
    found = accumulator.EventAccumulator(str(run.folder / "tensorboard")).Reload().Scalars("step/loss")
    logged = [record for record in read_log(run.log) if record["kind"] == "step"][1:]
    assert [(e.step, e.value) for e in found] == [(r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in logged]
    assert [r["step"] for r in logged] == list(range(2, 13))


def test_sample_after_a_prompt_keeps_the_space(text, tmp_path, monkeypatch):
    """SentencePiece drops the space of the first word of a text, and a sample does not begin with its first token."""
    tok = vocabularies.read(vocabularies.mistral())
    new = tok.encode("one two three")[-2:]
    monkeypatch.setattr(routine_module, "generate", lambda *_: iter(new))
    monkeypatch.setattr(run_module, "load_tokenizer", lambda _: tok)
    run = begin(tmp_path / "run", Recipe(data=(str(text),), steps=1, **{**SMALL, "warmup": 0, "tokenizer": "mistral"}))
    *_, record = train(run, fresh_state(run.recipe), tok, Routine(prompt="one"))
    assert record["text"] == "one two three"


def test_run_with_the_tokenizer_of_an_earlier_run(text, tmp_path):
    """A run with the tokenizer of an earlier run; samples go on from a prompt."""
    first = begin(tmp_path / "first", Recipe(data=(str(text),), steps=2, **SMALL))
    list(train(first, fresh_state(first.recipe), first.tokenizer(), ROUTINE))
    second = begin(tmp_path / "second", Recipe(data=(str(text),), steps=2, **{**SMALL, "tokenizer": str(first.folder)}))
    assert second.tokenizer().pieces == first.tokenizer().pieces
    routine = Routine(prompt="the 17", sample_tokens=3)
    records = list(train(second, fresh_state(second.recipe), second.tokenizer(), routine))
    assert records[-1]["kind"] == "sample" and records[-1]["text"].startswith("the 17")

"""The benchmark: that all contestants do the same work, that its arithmetic is right, and what a user sees."""

import json
import subprocess
import sys

import pytest
import torch
from places import ROOT

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.bench import ceilings, measure, runs, train
from llama_from_scratch.bench.card import bytes_read, machine
from llama_from_scratch.bench.ceilings import copy_bandwidth, matmul_rate
from llama_from_scratch.bench.contestants import Fast, Plain, Transformers
from llama_from_scratch.bench.measure import Times, in_turns
from llama_from_scratch.bench.quality import compare, next_token_logits
from llama_from_scratch.cli import main
from llama_from_scratch.cli.bench import EACH
from llama_from_scratch.cost import training_flops
from llama_from_scratch.fast import prepare
from llama_from_scratch.training.loss import NextTokenLoss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Llama(LlamaConfig(99, 64, 2, 4, 2, 16, 128, max_seq_len=128, tie_embeddings=True)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1 if weight.dim() == 1 else 0, 0.3)
    return model


@pytest.fixture
def setting(model):
    return runs.Setting(model, None, torch.randint(99, (2, 12)), 6, 2)


def test_all_contestants_find_the_same_tokens(model, setting):
    all_of_them = [
        Plain(model, setting.prompt, 40),
        Fast(prepare(model), setting.prompt, 40),
        Transformers(model, setting.prompt, 40),
    ]
    for _ in range(2):  # a second prefill begins anew
        for contestant in all_of_them:
            contestant.prefill()
        for _ in range(12):
            assert len({contestant.newest() for contestant in all_of_them}) == 1
            for contestant in all_of_them:
                contestant.step()


def test_a_prompt_and_a_step_end_in_the_same_kind_of_tensor(model, setting):
    """Else the second step of a compiled decoder would be compiled anew."""
    contestant = Fast(prepare(model), setting.prompt, 40)
    contestant.prefill()
    first = contestant.tokens
    contestant.step()
    assert first.is_inference() == contestant.tokens.is_inference()
    assert (first.dtype, first.shape, first.stride()) == (torch.int64, (2, 1), contestant.tokens.stride())


def test_transformers_runs_on_the_same_memory(model):
    twin = Transformers(model, torch.tensor([[1]]), 8).model
    assert twin.model.embed_tokens.weight.data_ptr() == model.embedding.weight.data_ptr()
    assert twin.lm_head.weight.data_ptr() == model.embedding.weight.data_ptr()


def test_turns_and_ratios():
    order = []

    def task(name, seconds):
        return lambda: order.append(name) or seconds * len(order)

    found = in_turns({"a": task("a", 1.0), "b": task("b", 2.0)}, 3)
    assert order == ["a", "b"] * 4  # the first round does not count
    assert found["a"].rounds == (3.0, 5.0, 7.0) and found["b"].rounds == (8.0, 12.0, 16.0)
    assert found["a"].median == 5.0 and found["a"].spread == (3.0, 7.0)
    assert Times((1.0, 2.0, 4.0)).ratio(Times((3.0, 2.0, 8.0))) == 2.0  # 3, 1, 2


def test_bytes_read(model):
    """By hand: what a step multiplies with, in each type."""
    config = model.config
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    matrices = config.n_layers * (config.dim * (2 * q + 2 * kv) + 3 * config.dim * config.ffn_dim)
    norms, head = (2 * config.n_layers + 1) * config.dim, config.vocab_size * config.dim
    small = 4 * norms + model.rope.freqs.nbytes
    assert bytes_read(model) == small + 4 * (matrices + head)
    rows = config.n_layers * (q + 2 * kv + 2 * config.dim + 2 * config.ffn_dim)
    assert bytes_read(prepare(model, quantise="int8")) == small + matrices + 2 * rows + head + 2 * config.vocab_size
    assert bytes_read(prepare(model, quantise="int4")) == small + 0.625 * matrices + head + 2 * config.vocab_size


def test_ceilings_count_what_is_done(monkeypatch):
    """A clock that says one second for everything."""
    ticks = iter(range(10_000))
    monkeypatch.setitem(ceilings.CLOCKS, "wall", lambda: float(next(ticks)))
    assert copy_bandwidth(CPU, "wall", 4096, 2) == 2 * 4096
    assert matmul_rate(CPU, "wall", torch.float32, 64, 2) == 2 * 64**3


def test_a_model_compared_with_itself(model):
    ids = torch.randint(99, (1, 60))
    reference = next_token_logits(model, ids)
    with torch.no_grad():
        exact = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    found = compare(reference, model, ids)
    assert found.nats_per_token == pytest.approx(exact.item(), abs=1e-4)
    assert found.perplexity_change == 0 and found.same_choice == 1 and abs(found.divergence) < 1e-9
    worse = compare(reference, prepare(model, quantise="int4"), ids)
    assert worse.divergence > 1e-4 and worse.same_choice < 1


def test_quality_of_decoding_and_of_prompts(model):
    setting = runs.Setting(model, None, torch.randint(99, (1, 100)), 1, 1)
    rows = runs.quality(setting, [way for way in EACH if way.compile is None])["rows"]
    assert list(rows) == ["plain", "fused", "fused, int8", "fused, int8, as a prompt"] + [
        "fused, int4",
        "fused, int4, as a prompt",
    ]
    assert rows["plain"]["divergence"] == pytest.approx(0, abs=1e-9)
    assert rows["fused, int4, as a prompt"]["divergence"] != rows["fused, int4"]["divergence"] > 1e-5


@pytest.mark.parametrize("what", ["decode", "prefill"])
def test_results(setting, monkeypatch, what):
    monkeypatch.setattr(runs, "copy_bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(runs, "matmul_rate", lambda *_: 1e9)
    ways = [way for way in EACH if way.compile is None]
    result = getattr(runs, what)(setting, ways, ["transformers"])
    json.dumps(result)
    assert list(result["rows"]) == ["plain", "fused", "fused, int8", "fused, int4", "transformers"]
    for row in result["rows"].values():
        assert row["quickest round"] <= row["seconds"] <= row["slowest round"] and len(row["rounds"]) == 2
        assert row["tokens/s"] == pytest.approx((2 if what == "decode" else 24) / row["seconds"])
    read = bytes_read(setting.model) + result["card"]["cache read a step, bytes"]
    if what == "decode":
        assert result["rows"]["plain"]["MBU"] == pytest.approx(read / result["rows"]["plain"]["seconds"] / 1e9)
    assert result["card"]["cache a token, bytes"] == 2 * 2 * 2 * 16 * 4


def losses(step, tokens, n=3):
    return [float(step(tokens)) for _ in range(n)]


@pytest.mark.parametrize("switch", [s for s in train.SWITCHES if s != "compile"])  # which test_training_faster.py does
def test_every_switch_of_training_learns_the_same(setting, switch):
    """On the CPU "tf32" changes no bit; "parts" are parts here, since few logits are allowed at a time."""
    plain = losses(train.own_step(setting.model, [], CPU), setting.prompt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "NextTokenLoss", lambda model, max_logits=99 * 5: NextTokenLoss(model, max_logits))
        found = losses(train.own_step(setting.model, [switch], CPU), setting.prompt)
    assert found == pytest.approx(plain, rel=1.5e-2 if switch == "bf16" else 1e-5)
    assert (found != plain) == (switch in ("bf16", "flash", "parts")) and plain[2] < plain[0]


def test_a_step_of_transformers_is_the_same_step(setting):
    ours, theirs = (make(setting.model, ["flash"], CPU) for make in (train.own_step, train.peer_step))
    assert losses(ours, setting.prompt) == pytest.approx(losses(theirs, setting.prompt), rel=1e-4)


def test_training_is_measured_on_copies(setting, monkeypatch):
    monkeypatch.setattr(train, "ceilings", lambda *_: {"copy, bytes/s": 1e9, "matrix product in float32, FLOP/s": 1e9})
    before = setting.model.embedding.weight.clone()
    ways = train.one_after_the_other(("flash", "fused"))
    result = train.train(setting, ways, ["transformers"])
    json.dumps(result)
    assert list(result["rows"]) == ["plain", "flash", "flash, fused", "transformers"]
    flops = 24 * training_flops(setting.model.config, 12)
    for row in result["rows"].values():
        assert row["tokens/s"] == pytest.approx(24 / row["seconds"])
        assert row["MFU"] == pytest.approx(flops / row["seconds"] / 1e9) and row["MFU, causal"] < row["MFU"]
    assert torch.equal(before, setting.model.embedding.weight)


def test_a_gpu_is_filled_until_it_is_full(setting, monkeypatch):
    """With a GPU of twelve texts' memory: where a step does not fit, and where twice the batch does not."""

    class Tight:
        def __call__(self, tokens):
            if len(tokens) > 12:
                raise torch.OutOfMemoryError("CUDA out of memory")

    assert train._largest_batch(Tight(), setting.prompt[:1]) == 8
    times, more = train._alone(setting, Tight, largest_batch=True)
    assert len(times.rounds) == 2 and more["largest batch"] == 8
    large = runs.Setting(setting.model, None, setting.prompt.repeat(10, 1), 6, 2)
    assert train._alone(large, Tight, largest_batch=True) == (None, {"largest batch": 8})


def test_the_command_is_told_without_the_place_of_its_result(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lfs", "bench", "decode", "--json", "results/x.json", "--rounds", "2"])
    assert machine(CPU)["command"] == "python -m llama_from_scratch bench decode --rounds 2"


def test_memory_is_counted():
    block = torch.ones(2**24)
    assert measure.peak_memory(CPU) >= block.nbytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--rounds", "0"], "--rounds is 0; it must be at least 1"),
        (["decode", "--each", "--fuse"], "--each runs every switch; leave out"),
        (["decode", "--clock", "cpu"], "it needs --threads 1, on the CPU"),
        (["decode", "--with", "flash"], "--with and --largest-batch are for bench train; leave them out of decode"),
        (["train", "--fuse"], "train has switches of its own; give --with instead"),
        (["train", "--with", "speed"], "invalid choice: 'speed'"),
        (["train", "--each", "--with", "flash"], "--each runs every switch; leave out"),
        (["train", "--largest-batch"], "--largest-batch fills the memory of a GPU; give --device cuda"),
        (["train", "--dtype", "bfloat16"], "training keeps its weights in fp32; leave out --dtype"),
        (["train", "--against", "llama.cpp"], "llama.cpp does not train"),
        (["quality"], "name one with --file"),
        (["decode", "--json", "/no/such/folder/x.json"], "in a folder that does not exist"),
        (["prefill", "--compile", "step"], "--compile step changes nothing in prefill; leave it out"),
        (["quality", "--file", "README.md", "--against", "transformers"], "--against changes nothing in quality"),
        (["load", "--quantise", "int8"], "--quantise changes nothing in load; leave it out"),
        (["load", "--dtype", "bfloat16"], "--dtype changes nothing in load; leave it out"),
        (["decode", "--model", "Folio-5M", "--prompt", "200"], "272, more than the context of Folio-5M, 256; lower"),
        (["guess"], "invalid choice: 'guess'"),
        (["decode", "--model", "nope"], "there is no model 'nope'"),
    ],
)
def test_mistakes(capsys, arguments, message):
    try:
        code = main(["bench", *arguments])
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == ""
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and message in shown.err


def test_what_is_measured_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ceilings", lambda *_: {"copy, bytes/s": 1e9, "matrix product in float32, FLOP/s": 1e9})
    file = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", ["lfs", "bench", "decode", f"--json={file}"])
    few = ["--prompt", "4", "--tokens", "2", "--rounds", "1"]
    assert main(["bench", "decode", "--model", "Folio-5M", *few, f"--json={file}"]) == 0
    result = json.loads(file.read_text())
    assert result["setting"]["model"] == "Folio-5M" and result["card"]["parameters"] == 5_475_584
    assert result["machine"]["command"] == "python -m llama_from_scratch bench decode"
    shown = capsys.readouterr().out
    assert shown.index("card") < shown.index("\ndecode\n") and "Folio-5M" in shown
    text = tmp_path / "long.txt"
    text.write_text("And so it was, and so it is. " * 60)
    assert main(["bench", "quality", "--model", "Folio-5M", "--file", str(text)]) == 0
    assert f"Only the first 256 tokens of {text} are read: the context of Folio-5M." in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    from llama_from_scratch.cli.main import PROGRAM, parser

    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    lines = capsys.readouterr().out.splitlines()
    examples = [line.split(PROGRAM, 1)[1] for line in lines if line.startswith("    ") and PROGRAM in line]
    assert len(examples) >= 7
    for example in examples:
        parser().parse_args(example.split())


def test_the_page_is_what_the_files_say():
    done = subprocess.run([sys.executable, "tools/benchmarks.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

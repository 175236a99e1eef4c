"""The parts of training, each against an independent computation or its definition."""

import contextlib
import copy
import errno
import hashlib
import json
import math
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.tokenizer import Tokenizer, train_bpe
from llama_from_scratch.tokenizer.base import SpellingError
from llama_from_scratch.training import Recipe, take_step
from llama_from_scratch.training.batches import Batches, in_order
from llama_from_scratch.training.log import Log, read_log
from llama_from_scratch.training.loss import IGNORE, NextTokenLoss, backward, mean_loss, next_token_loss
from llama_from_scratch.training.optimizer import adamw, parameter_groups
from llama_from_scratch.training.schedule import warmup_cosine, warmup_stable_decay
from llama_from_scratch.training.texts import Document, read_texts
from llama_from_scratch.training.tokens import count_unspellable, read_tokens, write_tokens

FP32 = contextlib.nullcontext()


def small_config(**changes) -> LlamaConfig:
    sizes = {"vocab_size": 128, "dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 96}
    return LlamaConfig(**{**sizes, "max_seq_len": 128, "tie_embeddings": True, **changes})


def strong_model(**changes) -> Llama:
    """Weights so large that every part of the model affects the loss."""
    model = Llama(small_config(**changes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(0.25, 1.75) if weight.dim() == 1 else weight.normal_(0, 0.2)
    return model


def batch(rows: int, length: int, ignored: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 128, (rows, length + 1))
    targets = tokens[:, 1:].clone()
    targets.view(-1)[torch.randperm(rows * length)[:ignored]] = IGNORE
    return tokens[:, :-1], targets


# --- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_gradient_equals_transformers(tied, tmp_path):
    """Loss and every gradient, GQA, length 96; theirs shifts the labels itself and takes the mean."""
    from llama_from_scratch.checkpoint import save_model
    from llama_from_scratch.checkpoint.names import TO_HUGGING_FACE, translate

    model = strong_model(tie_embeddings=tied)
    save_model(model, tmp_path / "model")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    theirs = theirs.float()
    tokens = torch.randint(0, 128, (3, 97))
    labels = tokens.clone()
    labels[0, 40:60] = labels[2, 1:90] = IGNORE  # unequally many in each row

    expected = theirs(input_ids=tokens, labels=labels).loss
    expected.backward()
    loss = backward(NextTokenLoss(model), [(tokens[:, :-1], labels[:, 1:])], FP32)

    assert float(loss) == pytest.approx(expected.item(), abs=1e-5)
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in model.named_parameters():
        reference = gradients[translate(name, TO_HUGGING_FACE)]
        torch.testing.assert_close(weight.grad, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()) + 1e-6)


def test_loss_of_bf16_logits_is_computed_in_fp32():
    logits, targets = torch.randn(2, 64, 128) * 8, torch.randint(0, 128, (2, 64))
    low = logits.bfloat16()
    exact = F.nll_loss(low.double().log_softmax(-1).flatten(0, 1), targets.flatten(), reduction="sum")
    loss = next_token_loss(low, targets)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("at_a_time", [1, 7, 64, 100, 191])
def test_loss_in_parts_equals_the_loss_at_once(at_a_time, tied):
    """Parts of equal and of different sizes, with ignored targets, and one part with nothing else."""
    model, (tokens, targets) = strong_model(tie_embeddings=tied), batch(3, 64, ignored=20)
    targets[0] = IGNORE
    whole, parts = NextTokenLoss(model), NextTokenLoss(model, max_logits=at_a_time * 128)
    (whole(tokens, targets) / 7).backward()  # as the loop divides it by the number of targets
    expected = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    loss = parts(tokens, targets)
    (loss / 7).backward()
    reference = next_token_loss(model(tokens), targets)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        off = (weight.grad - gradient).norm() / gradient.norm()
        assert off.item() == pytest.approx(0, abs=5e-6)  # sums in another order; 8e-7 seen
    with torch.no_grad():
        assert parts(tokens, targets).item() == pytest.approx(reference.item(), rel=1e-6)


def test_accumulation_of_unequal_parts_equals_one_batch():
    """The mean of means, which many loops take, is another number here."""
    parts = [batch(2, 64, ignored=120), batch(2, 64), batch(2, 64, ignored=60)]
    together = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    model = strong_model()
    big = backward(NextTokenLoss(model), [together], FP32)
    expected = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    small = backward(NextTokenLoss(model), parts, FP32)
    means = [mean_loss(NextTokenLoss(model), [part], FP32) for part in parts]

    assert float(small) == pytest.approx(float(big), abs=1e-5)
    assert abs(sum(means) / 3 - big) > 1e-2
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_mean_loss_weighs_tokens_and_leaves_no_gradient():
    model, parts = strong_model(), [batch(1, 64, ignored=60), batch(3, 32)]
    found = mean_loss(NextTokenLoss(model), parts, FP32)
    total = sum(next_token_loss(model(tokens), targets).item() for tokens, targets in parts)
    assert found == pytest.approx(total / (4 + 96), rel=1e-5)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("batches", [0, 1, 2])
@pytest.mark.parametrize("mean", [backward, mean_loss])
def test_mean_loss_over_no_target_is_refused(mean, batches):
    model, parts = Llama(small_config()), [batch(2, 8, ignored=16) for _ in range(batches)]
    with pytest.raises(ValueError, match="^no target counts, .* give at least one that is not -100$"):
        mean(NextTokenLoss(model), parts, FP32)
    assert all(weight.grad is None for weight in model.parameters())


def test_loss_in_parts_refuses_a_second_backward():
    """A second one would scale again what the first has scaled, and a second derivative would be zero."""
    model, (tokens, targets) = strong_model(), batch(2, 16)
    loss = NextTokenLoss(model, max_logits=8 * 128)(tokens, targets)
    (first,) = torch.autograd.grad(loss * loss, [model.norm.weight], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    loss = NextTokenLoss(model, max_logits=8 * 128)(tokens, targets)
    (2 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_take_step_overfits_one_batch():
    recipe = Recipe(data=("x",), steps=150, warmup=10, learning_rate=3e-3, vocab_size=128)
    model, one = Llama(small_config()), batch(4, 32)
    optimizer = adamw(model, recipe.learning_rate, weight_decay=0.0)
    first = mean_loss(NextTokenLoss(model), [one], FP32)
    for step in range(recipe.steps):
        take_step(NextTokenLoss(model), optimizer, [one], recipe, step)
    assert first == pytest.approx(math.log(128), abs=0.3)
    assert mean_loss(NextTokenLoss(model), [one], FP32) < 0.05


def test_bfloat16_autocast_trains_fp32_weights():
    recipe = Recipe(data=("x",), steps=10, warmup=0, precision="bfloat16", vocab_size=128)
    model, one = Llama(small_config()), batch(4, 32)
    before = copy.deepcopy(model)
    optimizer = adamw(model, 1e-3)
    losses = [take_step(NextTokenLoss(model), optimizer, [one], recipe, step)[0] for step in range(10)]
    assert losses[-1] < losses[0]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    exact = mean_loss(NextTokenLoss(before), [one], FP32)
    assert 1e-6 < abs(losses[0] - exact) < 1e-2  # it was another arithmetic, of the same thing


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_take_step_with_nan_loss_keeps_the_weights(broken):
    recipe = Recipe(data=("x",), steps=10, warmup=0, vocab_size=128)
    model = Llama(small_config())
    optimizer = adamw(model, 1e-3)
    model.norm.register_forward_hook(lambda _module, _inputs, output: output * broken)
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(ValueError, match=r"^in step 4 the loss is nan .* smaller learning_rate than 0\.002"):
        take_step(NextTokenLoss(model), optimizer, [batch(2, 16)], recipe, 3)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_take_step_clips_the_gradient():
    recipe = Recipe(data=("x",), steps=10, warmup=0, clip=0.25, vocab_size=128)
    model = strong_model()
    kept = {}
    optimizer = adamw(model, 1e-3)
    optimizer.register_step_pre_hook(lambda *_: kept.update(g=[w.grad.clone() for w in model.parameters()]))
    _, norm = take_step(NextTokenLoss(model), optimizer, [batch(2, 16)], recipe, 0)
    clipped = math.sqrt(sum(float(g.double().square().sum()) for g in kept["g"]))
    assert norm > 0.25
    assert clipped == pytest.approx(0.25, rel=1e-4)
    assert all(weight.grad is None for weight in model.parameters())  # nothing is left for the next step


# --- the optimizer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_groups_decay_matrices_only(tied):
    model = Llama(small_config(tie_embeddings=tied, attention_bias=True))
    names = {weight: name for name, weight in model.named_parameters()}
    matrices, vectors = parameter_groups(model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(
        name.endswith(("proj.weight", "embedding.weight", "lm_head.weight"))
        for name in map(names.get, matrices["params"])
    )
    assert all("norm" in name or name.endswith("bias") for name in map(names.get, vectors["params"]))
    assert len(matrices["params"]) + len(vectors["params"]) == len(names)


def test_adamw_equals_the_paper():
    """Two steps, in double precision, by hand (Loshchilov and Hutter, 2019, algorithm 2)."""
    model = Llama(small_config())
    optimizer = adamw(model, 0.01, weight_decay=0.1)
    start = {name: weight.detach().double() for name, weight in model.named_parameters()}
    m = {name: torch.zeros_like(weight) for name, weight in start.items()}
    v = {name: torch.zeros_like(weight) for name, weight in start.items()}
    for t in (1, 2):
        backward(NextTokenLoss(model), [batch(2, 16)], FP32)
        for name, weight in model.named_parameters():
            g = weight.grad.double()
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.95 * v[name] + 0.05 * g * g
            update = m[name] / (1 - 0.9**t) / ((v[name] / (1 - 0.95**t)).sqrt() + 1e-8)
            decay = 0.1 if weight.dim() == 2 else 0.0
            start[name] = start[name] - 0.01 * (update + decay * start[name])
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.double(), start[name], rtol=0, atol=1e-5)


# --- the schedules -----------------------------------------------------------------------------------------------


def test_cosine_at_its_ends():
    rate = [warmup_cosine(step, steps=101, warmup=10, final=0.1) for step in range(101)]
    assert rate[0] == pytest.approx(0.1) and rate[9] == rate[10] == 1.0
    assert rate[55] == pytest.approx(0.55)  # half way down
    assert rate[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rate[10:], rate[11:], strict=False))
    assert warmup_cosine(0, 1, 0, 0.1) == 1.0  # one step in all


def test_wsd_at_its_ends():
    rate = [warmup_stable_decay(step, steps=100, warmup=10, decay=20, final=0.0) for step in range(100)]
    assert rate[0] == pytest.approx(0.1) and rate[9] == rate[10] == 1.0
    assert set(rate[9:80]) == {1.0}
    assert rate[80] == pytest.approx(0.95) and rate[89] == pytest.approx(0.5) and rate[99] == 0.0
    assert [warmup_stable_decay(s, 5, 0, 0, 0.5) for s in range(5)] == [1.0] * 5


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize(("steps", "warmup", "decay"), [(100, 10, 20), (100, 0, 0), (10, 10, 0), (1, 0, 1), (1, 0, 0)])
def test_schedules_are_flat_after_their_last_step(steps, warmup, decay, final):
    """Without the limit the cosine would rise again, and WSD fall below zero."""
    for rate in (
        lambda step: warmup_cosine(step, steps, warmup, final),
        lambda step: warmup_stable_decay(step, steps, warmup, decay, final),
    ):
        assert {rate(step) for step in (steps, steps + 1, 2 * steps, 10**6)} == {rate(steps - 1)}
        assert rate(steps - 1) >= 0


@given(st.integers(1, 300), st.data())
def test_wsd_before_its_decay_does_not_depend_on_steps(steps, data):
    warmup = data.draw(st.integers(0, steps))
    decay = data.draw(st.integers(0, steps - warmup))
    step = data.draw(st.integers(0, steps - 1))
    rate = warmup_stable_decay(step, steps, warmup, decay, 0.1)
    assert 0 < rate <= 1
    if step < steps - decay:
        assert rate == warmup_stable_decay(step, steps + 1000, warmup, decay, 0.1)


# --- batches -----------------------------------------------------------------------------------------------------


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 400), st.integers(0, 3))
def test_batches_have_each_window_once_an_epoch(context, size, extra, seed):
    tokens = np.arange((size + 1) * context + extra, dtype=np.uint16)
    batches = Batches(tokens, context, size, seed)
    windows = batches.windows
    rows = [row for i in range(2 * windows) for row in zip(*batches[i], strict=True)]  # 2 · size epochs
    assert all(torch.equal(inputs + 1, targets) for inputs, targets in rows)
    for epoch in range(2 * size):
        starts = sorted(int(inputs[0]) for inputs, _ in rows[epoch * windows : (epoch + 1) * windows])
        assert starts[0] < context and set(np.diff(starts)) <= {context}
        assert starts[-1] + context < len(tokens)


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 40), st.integers(0, 3))
def test_batches_mask_leaves_only_its_targets(context, size, extra, seed):
    """Two epochs: each target is there if and only if the mask says so at its own position."""
    tokens = np.arange((size + 1) * context + extra, dtype=np.uint16)
    mask = np.random.default_rng(seed).random(len(tokens)) < 0.5
    masked, plain = Batches(tokens, context, size, seed, mask), Batches(tokens, context, size, seed)
    for i in range(2 * plain.windows):
        inputs, targets = masked[i]
        assert torch.equal(inputs, plain[i][0])
        expected = plain[i][1]  # a token is its position here
        assert torch.equal(targets, torch.where(torch.from_numpy(mask)[expected], expected, IGNORE))


def test_batches_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"the mask has shape \(79,\) and the tokens \(80,\); give one bool a token"):
        Batches(np.zeros(80, np.uint16), 16, 4, 0, np.ones(79, bool))


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 7))
def test_in_order_mask_leaves_only_its_targets(n, context, size):
    tokens, mask = np.arange(n, dtype=np.uint32), np.arange(n) % 3 == 0
    targets = [t for _, part in in_order(tokens, context, size, mask=mask) for t in part[part != IGNORE].tolist()]
    assert targets == [i for i in range(1, n) if i % 3 == 0]


def test_batches_depend_on_seed_and_index_alone():
    tokens = np.random.default_rng(0).integers(0, 500, 5000).astype(np.uint16)
    once, again = Batches(tokens, 16, 4, seed=7), Batches(tokens, 16, 4, seed=7)
    forwards = [once[i] for i in range(200)]  # more than two epochs
    for i in reversed(range(200)):
        assert all(torch.equal(*pair) for pair in zip(again[i], forwards[i], strict=True))
    assert not torch.equal(Batches(tokens, 16, 4, seed=8)[0][0], forwards[0][0])
    epoch = once.windows // 4
    assert not torch.equal(once[0][0], once[epoch][0])  # another order the next time


def test_batches_of_too_short_a_text_are_refused():
    Batches(np.zeros(5 * 16, np.uint16), 16, 4, 0)
    with pytest.raises(
        ValueError, match=r"^the text has 79 tokens, and a batch of 4 windows of 16 needs 80; give more"
    ):
        Batches(np.zeros(5 * 16 - 1, np.uint16), 16, 4, 0)


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 7))
def test_in_order_has_each_target_once(n, context, size):
    tokens = np.arange(n, dtype=np.uint32)
    found = []
    for inputs, targets in in_order(tokens, context, size):
        real = targets != IGNORE
        assert inputs.shape[0] <= size
        assert torch.equal(inputs[real] + 1, targets[real])
        found += targets[real].tolist()
    assert found == list(range(1, n))


def test_in_order_with_a_limit_spreads_over_the_text():
    targets = [t for _, targets in in_order(np.arange(10_000), 10, 8, limit=500) for t in targets.flatten().tolist()]
    assert len(targets) == 500 and min(targets) < 20 and max(targets) > 9_980


# --- texts and tokens --------------------------------------------------------------------------------------------


def test_read_texts_sorts_files_and_holds_out_their_ends(tmp_path):
    lines = [f"line {i:03}\n" for i in range(100)]
    (tmp_path / "b.txt").write_text("".join(lines))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("x" * 200)
    (tmp_path / "notes.md").write_text("not a .txt file")
    train, held_out = read_texts([str(tmp_path)])
    assert [d.name for d in train] == [str(tmp_path / "b.txt"), str(tmp_path / "sub" / "a.txt")]
    assert train[0].text + held_out[0].text == "".join(lines)
    assert held_out[0].text == "".join(lines[95:])
    assert (train[1].text, held_out[1].text) == ("x" * 190, "x" * 10)


def test_read_texts_cuts_within_a_long_line(tmp_path):
    (tmp_path / "a.txt").write_text("Title\n" + "word " * 2000)
    (tmp_path / "b.txt").write_text("\n".join(["word " * 200] * 3))
    train, held_out = read_texts([str(tmp_path)])
    assert [(len(one.text), len(end.text)) for one, end in zip(train, held_out, strict=True)] == [
        (9506, 500),
        (2852, 150),
    ]


def test_read_texts_drops_the_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffTitle\nA \ufeff within stays.".encode())
    train, held_out = read_texts([str(tmp_path)])
    assert train[0].text + held_out[0].text == "Title\nA \ufeff within stays."


def test_read_texts_refuses_a_text_given_twice(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    file = (tmp_path / "a.txt").resolve()
    for sources in ([str(file), str(file)], [str(tmp_path), f"{tmp_path}/../{tmp_path.name}/a.txt"]):
        with pytest.raises(ValueError) as error:
            read_texts(sources)
        assert str(error.value) == f"the text {file} is given twice, and would count twice; give it once"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: None,
            "there is no text '{p}'; give a text file, a folder of .txt files, or a named corpus: shakespeare",
        ),
        (lambda p: p.mkdir(), "{p} holds no file that ends in .txt"),
        (lambda p: p.write_bytes(b"abc\xff"), "{p} is not text in UTF-8 (byte 3 is 0xFF); convert it"),
        (lambda p: p.write_text(" \n"), "{p} holds no text; give a file that does, or take it away"),
    ],
)
def test_read_texts_refuses_what_is_not_text(make, message, tmp_path):
    path = tmp_path / "input"
    make(path)
    with pytest.raises(ValueError) as error:
        read_texts([str(path)])
    assert str(error.value).startswith(message.format(p=path))


@pytest.fixture(scope="module")
def tok():
    return train_bpe("the quick brown fox jumps over the lazy dog, and the dog sleeps on " * 20, 290)


def test_write_tokens_ends_each_document_with_eos(tok, tmp_path):
    documents = [Document("one", "the quick brown"), Document("two", "fox: 狐 \U0001f98a")]
    write_tokens(tmp_path / "data", {"train": documents, "held_out": documents[:1]}, tok)
    tokens = read_tokens(tmp_path / "data", "train")
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
    assert tok.decode(tokens.tolist()) == "the quick brown<|endoftext|>fox: 狐 \U0001f98a<|endoftext|>"
    stored = json.loads((tmp_path / "data" / "data.json").read_text())
    entry = stored["train"]["documents"][1]
    raw = documents[1].text.encode()
    assert (entry["name"], entry["bytes"], entry["sha256"]) == ("two", len(raw), hashlib.sha256(raw).hexdigest())
    assert sum(d["tokens"] for d in stored["train"]["documents"]) == len(tokens)


def test_write_tokens_counts_what_it_replaces(tmp_path):
    """A vocabulary without the letter z."""
    pieces = [bytes([byte]) for byte in range(256) if byte != ord("z")]
    letters = Tokenizer([*pieces, b"<end>"], {}, {"<end>": 255}, [r"."], eos_id=255)
    documents = [Document("one", "a zoo"), Document("two", "zzz"), Document("three", "b")]
    with pytest.raises(SpellingError, match=r"^one: this model's vocabulary cannot spell 'z' .* errors=\"replace\""):
        write_tokens(tmp_path / "data", {"train": documents}, letters)
    assert not (tmp_path / "data").exists()
    for errors, text in (
        ("replace", "a \ufffdoo<end>\ufffd\ufffd\ufffd<end>b<end>"),
        ("ignore", "a oo<end><end>b<end>"),
    ):
        write_tokens(tmp_path / errors, {"train": documents}, letters, errors=errors)
        assert letters.decode(read_tokens(tmp_path / errors, "train").tolist()) == text
        assert count_unspellable(tmp_path / errors) == 4


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "pickle"])
def test_read_tokens_refuses_a_changed_file(harm, tok, tmp_path):
    write_tokens(tmp_path / "data", {"train": [Document("one", "the dog " * 50)]}, tok)
    file = tmp_path / "data" / "train.npy"
    raw = file.read_bytes()
    if harm == "cut":
        file.write_bytes(raw[:-10])
    elif harm == "changed":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif harm == "gone":
        file.unlink()
    else:
        np.save(file, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train\.npy (cannot be read|is not what was written there).*begin a new run"):
        read_tokens(tmp_path / "data", "train")


# --- the log -----------------------------------------------------------------------------------------------------


def test_log_on_a_full_disk_is_named(tmp_path):
    log, old = Log(tmp_path / "log.jsonl", 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        with pytest.raises(OSError, match=r"log.jsonl cannot be written \(File too large\); make room, then resume"):
            log.write({"kind": "step", "step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    log.close()


def test_log_sync_on_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Log(tmp_path / "log.jsonl", 0)
    log.write({"kind": "step", "step": 1})
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"log.jsonl cannot be written \(No space left on device\); make room, then r"):
        log.sync()
    log.close()


def test_log_drops_records_after_the_save(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path, 0)
    log.write({"step": 1})
    length = log.sync()
    log.write({"step": 2})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"step": 3')  # killed while it wrote
    assert list(read_log(path)) == [{"step": 1}, {"step": 2}]
    log = Log(path, length)
    log.write({"step": 2, "again": True})
    assert list(read_log(path)) == [{"step": 1}, {"step": 2, "again": True}]
    log.close()
    with pytest.raises(ValueError, match=r"has 0 bytes and had 12 when the run was last saved"):
        path.write_bytes(b"")
        Log(path, 12)


# --- the recipe --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "there is no text to train on"),
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"batch_size": -1}, "batch_size is -1; it must be a whole number of at least 1"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be a finite number"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0"),
        ({"clip": True}, "clip is True; it must be a finite number"),
        ({"clip": 10**400}, "clip is 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be a finite number of at least 0"),
        ({"final_learning_rate": 2.0}, "final_learning_rate is 2.0; it must be from 0 to 1"),
        ({"schedule": "linear"}, "schedule is 'linear'; it must be one of cosine, wsd"),
        ({"precision": "float16"}, "precision is 'float16'; it must be one of float32, bfloat16"),
        ({"decay": 10}, "decay is 10; it must be 0 where the schedule is cosine"),
        ({"warmup": 60, "decay": 60, "schedule": "wsd"}, "warmup 60 and decay 60 take more than steps 100"),
        ({"dim": 250}, "dim is 250; it must be a multiple of heads 8"),
        ({"kv_heads": 3}, "n_heads is 8 and n_kv_heads is 3"),
        ({"dim": 8}, "head_dim is 1; it must be even"),
    ],
)
def test_recipe_with_a_bad_setting_is_refused(changes, message, as_users_run_it):
    with pytest.raises(ValueError) as error:
        Recipe(**{"data": ("x",), "steps": 100, **changes})
    assert str(error.value).startswith(message)


def test_recipe_takes_an_int_for_a_float(as_users_run_it):
    whole = Recipe(data=("x",), steps=10, warmup=0, clip=1, weight_decay=0, learning_rate=1, vocab_size=300)
    assert whole == Recipe(**vars(whole) | {"clip": 1.0, "weight_decay": 0.0, "learning_rate": 1.0})
    assert whole.learning_rate_at(0) == 1

"""Checks of the chapter "A whole Llama on one page". Each names the classic mistake that an answer shows, if any."""

from collections.abc import Callable, Sequence, Set
from itertools import combinations

import torch
from torch import Tensor

from ..config import PRESETS, LlamaConfig
from ..inside import record
from ..model import Llama
from .verdict import NotYet, exercise, tensor_of


@exercise
def check_count(fn: Callable[[LlamaConfig], int]) -> str:
    """fn(config) -> parameters of the whole model, a tied output counted once."""
    models = {name: PRESETS[name] for name in ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-8B", "Llama-3.2-1B")}
    models["a Llama with wide heads"] = LlamaConfig(1000, 64, 2, 4, 2, 32, 96, tie_embeddings=True)
    for name, config in models.items():
        count, right = fn(config), config.n_params
        if count is None or count is ...:
            raise NotYet("the function returns None", "Write its body and end it with `return`.")
        if count != right:
            raise NotYet(*_count_mistake(name, config, count))
    return "five models of the family, counted to the last parameter."


def _count_mistake(name: str, c: LlamaConfig, count: int) -> tuple[str, str]:
    """Looks for one usual mistake, then for two at once."""
    table, square = c.vocab_size * c.dim, c.n_layers * c.dim
    per_head = c.dim // c.n_heads
    guesses = [
        (table, "the output projection is counted although it is tied to the embedding table", "See tie_embeddings.")
        if c.tie_embeddings
        else (-table, "the output projection is not counted", "tie_embeddings False means a second table."),
        (
            -(2 * square + c.dim),
            "the norms are not counted",
            "Two for each block and one at the end, each dim numbers.",
        ),
        (-c.dim, "the last norm is not counted", "There is one more after the last block."),
        (-square, "each block has one norm only", "It has two: before attention and before SwiGLU."),
        (
            2 * square * (c.n_heads - c.n_kv_heads) * c.head_dim,
            "the keys and values are as wide as the queries",
            "k_proj and v_proj make n_kv_heads heads, not n_heads: that is GQA.",
        ),
        (
            2 * square * c.n_kv_heads * (1 - c.head_dim),
            "the keys and values have one number for each head",
            "Each of their n_kv_heads heads has head_dim numbers.",
        ),
        (
            2 * square * (c.dim - c.n_heads * c.head_dim),
            "q_proj and o_proj are counted as square",
            "They are dim x (n_heads · head_dim), and this model's heads are wider than dim / n_heads.",
        ),
        (
            2 * square * c.n_kv_heads * (per_head - c.head_dim),
            "the keys and values use dim / n_heads for the width of a head",
            "Use head_dim, which may differ.",
        ),
        (-square * c.ffn_dim, "SwiGLU has two matrices here", "It has three: gate, up and down."),
        (-square * c.n_heads * c.head_dim, "one square matrix of attention is missing", "There are q_proj and o_proj."),
    ]
    off = count - c.n_params
    for two in (1, 2):
        for mistakes in combinations([guess for guess in guesses if guess[0]], two):
            if off == sum(difference for difference, _, _ in mistakes):
                return f"{name}: " + ", and ".join(m[1] for m in mistakes), " ".join(m[2] for m in mistakes)
    return (
        f"{name} has {c.n_params:,} parameters and the function gives {count:,}",
        "Print the shapes of `model.state_dict()` and compare block 0 with your terms.",
    )


@exercise
def check_attention(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """fn(q, k, v) -> mixed values; all [seq, width], one head, causal."""
    generator = torch.Generator().manual_seed(2)
    seq, width = 6, 16
    q, k, v = (2 * torch.randn(seq, width, generator=generator) for _ in range(3))
    before = [x.clone() for x in (q, k, v)]
    mixed = fn(q, k, v)
    if any(not torch.equal(x, y) for x, y in zip((q, k, v), before, strict=True)):
        raise NotYet("your function changes what it is given", "Make new tensors: `a = a / b`, not `a /= b`.")
    past = torch.ones(seq, seq).tril().bool()
    root = width**0.5
    scores = q @ k.T
    hide = lambda x, seen=past, by=float("-inf"): x.masked_fill(~seen, by)  # noqa: E731
    mistakes = {
        "the mask is missing: tokens see the future": (scores / root).softmax(-1) @ v,
        "the scores are not divided by the root of the width": hide(scores).softmax(-1) @ v,
        "the mask is the wrong way round: a token sees only itself and those after it": hide(
            scores / root, past.T
        ).softmax(-1)
        @ v,
        "the softmax runs over the queries; each row, not each column, should add to 1": hide(scores / root)
        .softmax(0)
        .nan_to_num()
        @ v,
        "the scores are divided by the width, not by its root": hide(scores / width).softmax(-1) @ v,
        "the scores are divided by 8, which is right for 64 numbers and here there are 16": hide(scores / 8).softmax(-1)
        @ v,
        "the mask comes after the softmax, so that rows no longer add to 1": hide((scores / root).softmax(-1), by=0.0)
        @ v,
        "the future gets a score of 0, and softmax makes a share of that": hide(scores / root, by=0.0).softmax(-1) @ v,
        "there is no softmax": hide(scores / root, by=0.0) @ v,
        "queries and keys have changed places": hide(scores.T / root).softmax(-1) @ v,
    }
    if isinstance(mixed, Tensor) and mixed.shape == v.shape:
        if mixed[0].isnan().all() and not mixed[1:].isnan().any():
            raise NotYet("the first token may look at nothing", "A token sees itself too: hide only what is above.")
        for because, wrong in mistakes.items():
            if torch.allclose(mixed, wrong, atol=1e-4):
                raise NotYet(because, "Compare with the formula: score, divide, hide, softmax over each row, mix.")
    if not torch.allclose(tensor_of(mixed, v.shape), hide(scores / root).softmax(-1) @ v, atol=1e-4):
        raise NotYet("the mixed values differ", "Print the shares: each row adds to 1, with zeros above the diagonal.")
    return "scores, root, mask, softmax, mix: one head of attention from memory."


def _toy(ids: Sequence[int]) -> Tensor:
    """Logits [seq, 10] of a model that counts: after n comes n + 1, but after 3, 4 comes 7, then 8, then 9 for ever."""
    logits = torch.zeros(len(ids), 10)
    for row, token in enumerate(ids):
        after_jump = row > 0 and ids[row - 1] == 3 and token == 4
        logits[row, 7 if after_jump else min(token + 1, 9)] = 5.0
    return logits


@exercise
def check_greedy(fn: Callable[[Callable, list[int], int, Set[int]], list[int]]) -> str:
    """fn(logits_of, ids, max_new, stop_ids) -> the new ids alone, without the stop token.

    logits_of(ids) -> [seq, vocab].
    """
    calls = []

    def logits_of(ids):
        ids = [int(i) for i in ids]
        calls.append(ids)
        if len(calls) > 50:
            raise NotYet("the loop does not end", "It ends after max_new tokens, or at a stop token.")
        return _toy(ids)

    prompt = [1, 2]
    new = fn(logits_of, prompt, 3, {9})
    passes = len(calls)
    if new is None or new is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    if prompt != [1, 2]:
        raise NotYet("your function changes the prompt that it is given", "Start with a copy: `list(ids)`.")
    new = [int(i) for i in new]
    if new[:2] == prompt:
        raise NotYet("the prompt is part of the answer", "Return the new tokens only.")
    if new[:1] == [2]:
        raise NotYet("the logits of the first token are read", "The prediction for what comes next is in the last row.")
    if len(new) == 2 and passes == 3:
        raise NotYet("the last token is always dropped", "Only a stop token is left out; here none came.")
    if len(new) == 1 and passes == 1:
        raise NotYet("the prompt is counted into max_new", "max_new is the number of new tokens.")
    if len(new) != 3:
        raise NotYet(f"{len(new)} new tokens come where max_new is 3", "Count the passes of the loop.")
    if new == [3, 3, 3]:
        raise NotYet("the new token is not added to the text", "The next pass must read it too.")
    if new == [3, 4, 5]:
        raise NotYet(
            "the model is given the last token alone, and so forgets what came before",
            "Without a cache each pass needs the whole text.",
        )
    if new != [3, 4, 7]:
        raise NotYet(f"the tokens are {new}, and 3, 4, 7 are expected", "Take the argmax of the last row.")

    calls.clear()
    raw = list(fn(logits_of, [1, 2], 20, {9}))
    new = [int(i) for i in raw]
    if new == [3, 4, 7, 8, 9]:
        raise NotYet("the stop token is in the answer", "It is a signal, not text: leave before it is added.")
    if new[:5] == [3, 4, 7, 8, 9]:
        if any(isinstance(i, Tensor) for i in raw):
            raise NotYet(
                "your tokens are tensors, and a tensor is never found in a set of numbers",
                "Make a number of each: `int(...)` or `.item()`.",
            )
        raise NotYet("the stop token does not stop the loop", "Compare each new token with stop_ids.")
    if new != [3, 4, 7, 8]:
        raise NotYet(f"the tokens are {new}, and 3, 4, 7, 8 are expected", "Stop at 9 and leave it out.")
    return "the loop stops where it should, and the text that it reads grows."


@exercise
def check_temperature(fn: Callable[[Tensor, float], Tensor]) -> str:
    """fn(logits[vocab], temperature) -> probabilities[vocab]; temperature 0 means all on the best token."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0, 4.5])
    before = logits.clone()
    t = 0.5
    p = tensor_of(fn(logits, t), logits.shape)
    if not torch.equal(logits, before):
        raise NotYet("your function changes the logits that it is given", "Write `logits / temperature`, not `/=`.")
    right = (logits / t).softmax(0)
    mistakes = [
        ((logits * t).softmax(0), "the logits are multiplied by the temperature", "Divide: cold means sharp."),
        (logits.softmax(0), "the temperature changes nothing", "Divide the logits by it before the softmax."),
        (
            logits.softmax(0) / t,
            "the probabilities are divided, and no longer add up to 1",
            "Divide the logits, before the softmax.",
        ),
        (
            (logits.softmax(0) / t).softmax(0),
            "the softmax is taken twice",
            "Divide the logits, not the probabilities.",
        ),
        (logits / t, "these are logits", "Turn them into probabilities: softmax."),
        ((logits / t).log_softmax(0), "these are log-probabilities", "Use softmax, not log_softmax."),
    ]
    if not torch.allclose(p, right, atol=1e-5):
        for wrong, because, hint in mistakes:
            if torch.allclose(p, wrong, atol=1e-5):
                raise NotYet(because, hint)
        raise NotYet("these are not softmax(logits / temperature)", "Try temperature 1 first: plain softmax.")
    big = torch.tensor([1000.0, 999.0])
    if not torch.allclose(fn(big, 1.0), big.softmax(0), atol=1e-5):
        raise NotYet("large logits come out wrong", "exp(1000) is inf: use torch.softmax, which subtracts the maximum.")
    cold = fn(logits, 0.0)
    if isinstance(cold, Tensor):
        if cold.numel() == 1:
            raise NotYet(
                "at temperature 0 the function returns one number, the place of the best token",
                "Return probabilities there too: 1 for the best token, 0 for the others.",
            )
        if not torch.isfinite(cold).all():
            raise NotYet("temperature 0 gives inf or nan", "Treat it apart: all probability on the argmax.")
    cold = tensor_of(cold, logits.shape)
    if not torch.equal(cold, torch.eye(6)[4]):
        raise NotYet("temperature 0 does not put everything on the best token", "Return 1 there and 0 elsewhere.")
    return "cold is sharp, hot is flat, 0 is greedy."


def _small_llama() -> Llama:
    generator = torch.Generator().manual_seed(3)
    model = Llama(LlamaConfig(32, 16, 4, 4, 2, 4, 24, max_seq_len=32, tie_embeddings=True)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3, generator=generator)
            else:
                weight.uniform_(0.5, 1.5, generator=generator)
    return model


@torch.inference_mode()
def _passes(model: Llama, ids: Tensor) -> list[Tensor]:
    """The residual stream [seq, dim] before the first block and after each."""
    recorded = record(model, ids[None], "embedding", *(f"blocks.{i}" for i in range(len(model.blocks))))
    return [output[0] for _, output in recorded.values()]


@exercise
def check_lens(fn: Callable[[Llama, Tensor, int], Tensor]) -> str:
    """fn(model, ids[seq], blocks) -> logits[vocab] for the next token, read after that many blocks."""
    model, ids = _small_llama(), torch.tensor([5, 3, 8, 30, 2])
    streams = _passes(model, ids)
    head, norm = model.embedding.weight, model.norm
    with torch.inference_mode():
        for blocks in (0, 2, 4):
            logits = tensor_of(_call_lens(fn, model, ids, blocks), (32,))
            if not torch.allclose(logits, head @ norm(streams[blocks][-1]), atol=1e-3):
                raise NotYet(*_lens_mistake(logits, streams, blocks, model, ids))
    again = _passes(model, ids)
    if len(again) != len(streams) or not torch.equal(again[-1], streams[-1]):
        raise NotYet("the model is not the same after your function ran", "Leave model.blocks and the weights alone.")
    return "embed, pass the first blocks, normalise, compare with every row of the table."


def _call_lens(fn: Callable, model: Llama, ids: Tensor, blocks: int) -> object:
    try:
        return fn(model, ids, blocks)
    except IndexError as error:
        if "too many indices" in str(error):
            raise NotYet("positions need a batch axis", "Write `model.rope(positions[None])`.") from None
        raise
    except TypeError as error:
        if "'NoneType' object is not callable" in str(error):
            raise NotYet(
                "this model has no lm_head: its table is used at both ends", "Multiply by model.embedding.weight."
            ) from None
        raise


def _unmasked(model: Llama, ids: Tensor, blocks: int) -> Tensor:
    """The last token's stream after some blocks, if every token sees every other."""
    cos, sin = model.rope(torch.arange(len(ids))[None])
    x = model.embedding(ids[None])
    for block in model.blocks[:blocks]:
        x = block(x, cos, sin, torch.ones(len(ids), len(ids), dtype=torch.bool))
    return x[0, -1]


def _lens_mistake(logits: Tensor, streams: list[Tensor], blocks: int, model: Llama, ids: Tensor) -> tuple[str, str]:
    head, norm = model.embedding.weight, model.norm
    like = lambda x: torch.allclose(logits, head @ x, atol=1e-3)  # noqa: E731
    if like(streams[blocks][-1]):
        return "the last norm is missing", "The table is compared with model.norm(x), not with x."
    if like(norm(streams[blocks][0])):
        return "the first token's row is read", "The guess about what comes next is in the last row."
    for other in range(len(streams)):
        if like(norm(streams[other][-1])):
            return f"for blocks = {blocks} this is the stream after {other}", "Pass exactly model.blocks[:blocks]."
    if like(norm(_unmasked(model, ids, blocks))):
        return "the mask is missing: tokens see the future", "Give each block `causal_mask(torch.arange(seq), seq)`."
    return f"the logits after {blocks} blocks differ", "Check positions, 0, 1, 2 and so on, and the mask."


@exercise
def check_first_difference(fn: Callable[[Sequence[Tensor], Sequence[Tensor], float], int | None]) -> str:
    """fn(ours, theirs, tolerance) -> index of the first pair that differs by more than tolerance; None if none does."""
    generator = torch.Generator().manual_seed(1)
    theirs = [torch.randn(6, 8, generator=generator) * 10 for _ in range(12)]
    noise = [torch.randn(6, 8, generator=generator).clamp(-3, 3) * 1e-6 for _ in range(12)]
    same = [a + b for a, b in zip(theirs, noise, strict=True)]
    broken = [x.clone() for x in same]
    for i in range(7, 12):
        broken[i][2, 3] += 0.03 if i == 7 else 5.0 * i  # one number at first; it grows on its way up
    broken[9][2, 3] = theirs[9][2, 3] - 40.0
    found = fn(broken, theirs, 1e-3)
    if found is ...:
        raise NotYet("the function returns its dots", "Write its body.")
    reasons = {
        0: (
            "the streams are compared bit by bit",
            "Two right programs differ in the last digits: compare abs() with tolerance.",
        ),
        6: ("this is the last pair that agrees", "Return the index of the first that does not."),
        8: (
            "the first difference is one earlier",
            "There one number in 48 is off by 0.03: look at the largest difference, not at the mean, and count from 0.",
        ),
        10: ("this is not the first pair that differs", "Leave the loop at the first one."),
        11: ("this is the last pair, or the one that differs most", "Return at the first one: the cause is there."),
        None: (
            "your function returns None, and there is a difference",
            "If its body is written: one number in 48 is off, so look at the largest difference.",
        ),
    }
    if found != 7:
        raise NotYet(
            *reasons.get(found, (f"the answer is {found}, and 7 is expected", "Print the largest differences."))
        )
    negative = [x.clone() for x in same]
    negative[4][0, 0] -= 0.5
    if fn(negative, theirs, 1e-3) != 4:
        raise NotYet("a difference below zero is not seen", "Take the absolute value first.")
    theirs[2][0, 0], same[2][0, 0] = 1000.0, 1000.005
    if fn(same, theirs, 1e-3) != 2:
        raise NotYet(
            "a difference of 0.005 in a number of 1000 is not seen",
            "torch.allclose adds a hundred-thousandth of the value to your tolerance: set rtol=0.",
        )
    same[2][0, 0] = 1000.0
    if fn(same, theirs, 1e-3) is not None:
        raise NotYet(
            "streams that agree give an answer too", "Return None where no pair differs by more than tolerance."
        )
    return "the largest absolute difference, pair by pair, until the first that is too large."

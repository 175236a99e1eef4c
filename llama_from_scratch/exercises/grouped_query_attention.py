"""Checks of the chapter on grouped-query attention."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..config import PRESETS, LlamaConfig
from .verdict import NotYet, exercise, four_numbers, tensor_of


def _match(given: float | Tensor, wanted: float | Tensor) -> bool:
    return torch.allclose(torch.as_tensor(given).float(), torch.as_tensor(wanted).float(), rtol=1e-3, atol=1e-3)


@exercise
def check_kv_head(fn: Callable[[int, int, int], int]) -> str:
    """fn(head, n_heads, n_kv_heads) -> the key/value head that this query head reads. Prints the verdict."""
    cases = [(9, 3), (32, 8), (14, 2), (64, 8), (12, 12), (12, 1)]
    got = {(h, n, kv): fn(h, n, kv) for n, kv in cases for h in range(n)}
    if all(value is None or value is ... for value in got.values()):
        raise NotYet("the function returns None", "Write its body and end it with `return`.")

    def like(rule: Callable[[int, int, int], float]) -> bool:
        return all(value == rule(*case) for case, value in got.items())

    if like(lambda h, n, kv: h // (n // kv)):
        if not all(isinstance(value, int) for value in got.values()):
            raise NotYet("a head's number is a whole number and this is a float", "Use // and not /.")
        return "neighbours share: heads 0 … G-1 read head 0, the next G read head 1, and so on."
    if like(lambda h, n, kv: h % kv):
        raise NotYet(
            "this deals the heads out like cards (head % n_kv_heads), as `repeat` does",
            "In a Llama neighbours share: use the group size n_heads // n_kv_heads.",
        )
    if like(lambda h, n, kv: h // kv):
        raise NotYet("this divides by the number of key/value heads", "Divide by the size of a group.")
    if like(lambda h, n, kv: h % (n // kv)):
        raise NotYet("this is the place of the head inside its group", "Which group is it in? // instead of %.")
    if like(lambda h, n, kv: h / (n / kv)):
        raise NotYet("this gives fractions of a head", "Use // and not /.")
    if like(lambda h, n, kv: n // kv):
        raise NotYet("this is the size of a group, the same for every head", "Divide the head by it.")
    (h, n, kv), value = next((c, v) for c, v in got.items() if v != c[0] // (c[1] // c[2]))
    raise NotYet(f"query head {h} of {n} reads key/value head {h // (n // kv)} of {kv}, and the function says {value}")


def _count_mistakes(c: LlamaConfig, tokens: int, batch: int, size: int) -> dict[float, tuple[str, str]]:
    """The factor by which each mistake changes the count: what it is, what to try."""
    return {
        c.n_heads / c.n_kv_heads: ("query heads are counted", "Only keys and values are kept: n_kv_heads."),
        1 / 2: ("only keys or only values are counted", "Both are kept: a factor of 2."),
        1 / c.n_layers: ("one layer is counted", "Every layer has a cache of its own."),
        c.n_layers: ("the layers are counted twice", "Multiply by n_layers once."),
        8: ("these are bits", "A byte has 8 bits; nothing has to be multiplied by 8."),
        1 / batch: ("one sequence is counted", "Every sequence of the batch has its own past."),
        1 / size: ("numbers are counted, not bytes", "Multiply by bytes_per_number."),
        2 / size: ("2 bytes per number are built in", "Use bytes_per_number."),
        1 / tokens: ("one token is counted", "Multiply by the tokens kept."),
        1 / c.head_dim: ("one number per head is counted", "A key has head_dim numbers, and so has a value."),
        c.dim // c.n_heads / c.head_dim: (
            "the numbers in a head are taken as dim / n_heads",
            "A model may have another head_dim; the config has it.",
        ),
        c.dim / (c.n_kv_heads * c.head_dim): (
            "a key is counted as wide as the residual stream",
            "It has n_kv_heads · head_dim numbers.",
        ),
        1 / 1024: ("these are KiB", "Return bytes."),
        1 / 1024**2: ("these are MiB", "Return bytes."),
        1 / 1024**3: ("these are GiB", "Return bytes."),
        1e-3: ("these are kB", "Return bytes."),
        1e-6: ("these are MB", "Return bytes."),
        1e-9: ("these are GB", "Return bytes."),
    }


@exercise
def check_cache_bytes(fn: Callable[[LlamaConfig, int, int, float], float]) -> str:
    """fn(config, tokens, batch, bytes_per_number) -> bytes of the key/value cache. Prints the verdict."""
    # Sizes with which no two mistakes agree: head_dim is not dim / n_heads, and a number has not 2 bytes.
    c = LlamaConfig(1000, dim=600, n_layers=7, n_heads=20, n_kv_heads=4, head_dim=64, ffn_dim=640)
    tokens, batch, size = 1009, 11, 3
    got = fn(c, tokens, batch, size)
    if got is None or got is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    right = 2 * c.n_layers * c.n_kv_heads * c.head_dim * tokens * batch * size
    mistakes = _count_mistakes(c, tokens, batch, size)
    if got != right:
        for n in (1, 2):  # one mistake, else two at once
            for mistake in itertools.combinations(mistakes, n):
                if math.isclose(got, right * math.prod(mistake), rel_tol=1e-9):
                    because, hints = zip(*(mistakes[factor] for factor in mistake), strict=True)
                    raise NotYet(", and ".join(because), " ".join(hints))
        raise NotYet(
            f"for {c.n_layers} layers it gives {got}, and {right} is right", "Count one token of one layer first."
        )
    if fn(PRESETS["Llama-3-8B"], 8192, 1, 2) != 2**30:
        raise NotYet("the small model comes out right but Llama-3-8B does not", "Are all numbers taken from config?")
    return "Llama-3-8B keeps 1.07 GB (exactly 1 GiB) for 8192 tokens in bfloat16."


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    spread: str = "repeat_interleave",
    scale: str = "root",
    hide: str = "before",
    axis: int = -1,
    after: str = "",
) -> Tensor:
    """Grouped-query attention, right by default, with one knob for each classic mistake."""
    group, d = q.shape[1] // k.shape[1], q.shape[-1]
    n_keys = k.shape[2]
    wrong_k, wrong_v = spread in ("repeat", "repeat keys"), spread in ("repeat", "repeat values")
    k = k.repeat(1, group, 1, 1) if wrong_k else k.repeat_interleave(group, dim=1)
    v = v.repeat(1, group, 1, 1) if wrong_v else v.repeat_interleave(group, dim=1)
    divisor = {
        "root": d**0.5,
        "none": 1,
        "head_dim": d,
        "heads": q.shape[1] ** 0.5,
        "dim": (q.shape[1] * d) ** 0.5,
        "keys": n_keys**0.5,
        "inverse": d**-0.5,
    }
    scores = q @ k.mT / divisor[scale]
    if hide == "inverted":
        mask = ~mask
    elif hide == "top-left":
        mask = torch.ones_like(mask).tril()
    if hide == "zero score":
        scores = scores.masked_fill(~mask, 0.0)
    elif hide not in ("never", "after"):
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=axis)
    if hide == "after":
        weights = weights.masked_fill(~mask, 0.0)
    out = weights @ v
    return out.tanh() if after == "tanh" else out


# Each classic mistake: the knobs that make it, what it is, what to try.
_MISTAKES: list[tuple[dict, str, str]] = [
    (
        {"spread": "repeat"},
        "query heads are dealt out to key heads like cards, as `repeat` orders them",
        "Neighbours share in a Llama: `repeat_interleave`, or query head h reads h // group.",
    ),
    (
        {"spread": "repeat keys"},
        "the values are given to neighbours, but the keys are dealt out like cards, as `repeat` orders them",
        "Keys and values of a head belong together: `repeat_interleave` for both.",
    ),
    (
        {"spread": "repeat values"},
        "the keys are given to neighbours, but the values are dealt out like cards, as `repeat` orders them",
        "Keys and values of a head belong together: `repeat_interleave` for both.",
    ),
    ({"scale": "none"}, "the scores are not divided", "Divide q·k by the root of head_dim."),
    ({"scale": "head_dim"}, "the scores are divided by head_dim itself", "Divide by its root."),
    ({"scale": "heads"}, "the scores are divided by the root of the number of heads", "It is the root of head_dim."),
    ({"scale": "dim"}, "the scores are divided by the root of the whole width", "One head has q.shape[-1] numbers."),
    ({"scale": "keys"}, "the scores are divided by the root of the number of keys", "It is the root of head_dim."),
    ({"scale": "inverse"}, "the scores are multiplied by the root of head_dim", "Divide."),
    ({"hide": "never"}, "the mask is not used, so queries see the future", "Where mask is False the score is -inf."),
    ({"hide": "inverted"}, "the mask is read the wrong way round", "True means: may look."),
    (
        {"hide": "zero score"},
        "hidden keys get the score 0, and e^0 is 1: they still take part",
        "Their score is float('-inf').",
    ),
    (
        {"hide": "after"},
        "hidden keys are removed after the softmax, so the weights left do not add up to 1",
        "Mask the scores, then normalise.",
    ),
    (
        {"hide": "top-left"},
        "the mask is rebuilt from the shapes, aligned at the first key, so new queries cannot see the cache",
        "Use the mask that is given (or count positions from the start of the cache).",
    ),
    ({"axis": -2}, "softmax runs over the queries", "Each query shares out a weight of 1 over the keys: dim=-1."),
    ({"axis": 1}, "softmax runs over the heads", "Each query shares out a weight of 1 over the keys: dim=-1."),
    ({"after": "tanh"}, "something non-linear follows the softmax", "The output is the mean of the values, as it is."),
]


# … and each two of them that can be made together.
_TWO_MISTAKES = [
    ({**a, **b}, f"{because_a}; and {because_b}", f"{hint_a} {hint_b}")
    for (a, because_a, hint_a), (b, because_b, hint_b) in itertools.combinations(_MISTAKES, 2)
    if a.keys() != b.keys()
]


@exercise
def check_gqa(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """fn(q [batch, heads, seq, head_dim], k and v [batch, kv_heads, keys, head_dim], mask [seq, keys]; True: may look)
    -> [batch, heads, seq, head_dim]. Prints the verdict.
    """
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    shapes = [
        ("grouped heads", 6, 2, 8, 8),
        ("new queries behind a cache", 6, 2, 3, 8),
        ("multi-head", 4, 4, 5, 5),
        ("multi-query", 4, 1, 5, 5),
        ("one new token", 6, 3, 1, 9),
    ]
    for name, heads, kv_heads, seq, keys in shapes:
        q, k, v = draw(2, heads, seq, 16), draw(2, kv_heads, keys, 16), draw(2, kv_heads, keys, 16)
        mask = torch.arange(keys) <= torch.arange(keys - seq, keys)[:, None]
        given = [x.clone() for x in (q, k, v, mask)]
        try:
            got = fn(*given)
        except RuntimeError as error:
            if "must match" in str(error) and all(f"({n})" in str(error) for n in (heads, kv_heads)):
                raise NotYet(
                    f"q has {heads} heads and k has {kv_heads}, so they do not fit together",
                    "Give each query head its key/value head: copy those, or give q an axis for the group.",
                ) from None
            raise
        if not all(torch.equal(a, b) for a, b in zip(given, (q, k, v, mask), strict=True)):
            raise NotYet("the function changes its inputs", "Make new tensors; avoid += and methods that end in _.")
        if isinstance(got, Tensor) and got.shape == (2, seq, heads, 16) and seq != heads:
            raise NotYet("heads and tokens are swapped in the result", "Return [batch, heads, seq, head_dim].")
        right = _attend(q, k, v, mask)
        if isinstance(got, Tensor) and got.shape == q.shape and torch.allclose(got, right, atol=1e-4):
            continue
        for knobs, because, hint in _MISTAKES + _TWO_MISTAKES:  # before tensor_of: some of these make nan
            if isinstance(got, Tensor) and got.shape == q.shape:
                if torch.allclose(got, _attend(q, k, v, mask, **knobs), atol=1e-4, equal_nan=True):
                    raise NotYet(because, hint)
        got = tensor_of(got, q.shape)
        if not torch.allclose(got, right, atol=1e-4):
            raise NotYet(
                f"with {name} ({heads} query heads, {kv_heads} key/value heads, {seq} queries, {keys} keys) the result "
                "is wrong, and it is none of the usual mistakes",
                "Compare with `gqa_loops` above, one step at a time: scores, weights, output.",
            )
    return "grouped, multi-head and multi-query, with and without a cache."


@exercise
def check_pool_heads(fn: Callable[[Tensor, int, int], Tensor]) -> str:
    """fn(weight [heads * head_dim, dim], n_kv_heads, head_dim) -> [n_kv_heads * head_dim, dim]. Prints the verdict."""
    rng = torch.Generator().manual_seed(0)
    heads, kv, d, dim = 6, 2, 4, 5
    weight = torch.randn(heads * d, dim, generator=rng)
    by_head = weight.unflatten(0, (heads, d))
    right = by_head.unflatten(0, (kv, heads // kv)).mean(dim=1).flatten(0, 1)
    got = fn(weight.clone(), kv, d)
    if isinstance(got, Tensor) and got.shape == weight.shape:
        raise NotYet("the result still has a copy for every query head", "Return n_kv_heads heads, each once.")
    got = tensor_of(got, right.shape)
    mistakes = [
        (
            by_head.unflatten(0, (heads // kv, kv)).mean(dim=0),
            "heads are pooled that do not share: head 0 with head 2, 4, …",
            "Neighbours form a group: split the heads into [n_kv_heads, group].",
        ),
        (right.unflatten(0, (kv, d)) * (heads // kv), "the heads are added", "Take their mean."),
        (by_head[:: heads // kv], "the first head of each group is kept", "Take the mean over the group."),
        (by_head[:kv], "the first heads are kept and the rest dropped", "Take the mean over each group."),
        (
            by_head.mean(dim=0).expand(kv, d, dim),
            "all heads are averaged into one",
            "Only the heads of one group become one: here heads 0 1 2, and heads 3 4 5.",
        ),
        (
            weight.unflatten(0, (kv, d, heads // kv)).mean(dim=2),
            "rows are pooled within a head",
            "Row i of a head belongs with row i of the other heads of its group.",
        ),
    ]
    for wrong, because, hint in mistakes:
        if _match(got, wrong.flatten(0, 1)):
            raise NotYet(because, hint)
    if not _match(got, right):
        raise NotYet(
            "the heads are not the means of their groups", "Shape [kv, group, head_dim, dim], mean over group."
        )
    copies = right.unflatten(0, (kv, d)).repeat_interleave(4, dim=0).flatten(0, 1)
    if not _match(fn(copies, kv, d), right):
        raise NotYet(
            "pooling copies of a head does not give the head back when there are 4 in a group",
            "Work the group size out from the shape of the weight.",
        )
    return "and pooling copies of a head gives the head back, which proves the order of the groups."


@exercise
def check_conversations(answer: object) -> str:
    """Conversations of 8192 tokens that fit beside Llama 3 8B in 80e9 bytes: K = 8 with 2 bytes per number of cache and
    with 1, K = 32 with 2 and with 1; the weights have 2 bytes. Prints the verdict.
    """
    given = four_numbers(answer)
    base = PRESETS["Llama-3-8B"]

    def fit(gpu: int | float, weights: bool) -> list[int]:
        counts = []
        for n_kv_heads, size in itertools.product((8, 32), (2, 1)):
            config = replace(base, n_kv_heads=n_kv_heads)
            token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * size
            counts.append(int((gpu - weights * 2 * config.n_params) // (8192 * token)))
        return counts

    right = fit(80e9, True)
    if given == right:
        return f"{right[0]} against {right[2]}; and one byte per number doubles both, like halving K once more."
    if given == fit(80e9, False):
        raise NotYet("the weights take no room here", "Take them off the 80 GB first.")
    if given == fit(80 * 2**30, True):
        raise NotYet("these are 80 GiB", "80 GB are 80 000 000 000 bytes.")
    if given == [right[0], right[2], right[1], right[3]]:
        raise NotYet("the numbers are right and the order is not", "K = 8 with 2 bytes and with 1, then K = 32.")
    if [int(x) for x in given] == right:
        raise NotYet("parts of conversations are counted", "Round down.")
    wrong = next(i for i in range(4) if given[i] != right[i])
    k, size = [(8, 2), (8, 1), (32, 2), (32, 1)][wrong]
    raise NotYet(
        f"with K = {k} and {size} bytes per number it is not {given[wrong]:g}",
        "(80e9 - bytes of weights) / (8192 · bytes per token), rounded down.",
    )

"""The checks of the chapter on grouped-query attention name the classic mistakes, and praise the right answers."""

import pytest
import torch.nn.functional as F

from llama_from_scratch import LlamaConfig, exercises
from llama_from_scratch.exercises.grouped_query_attention import _MISTAKES, _TWO_MISTAKES, _attend, _count_mistakes


@pytest.fixture
def verdict(capsys):
    """Runs a check and returns what it said, on one line."""

    def run(check, answer) -> str:
        assert check(answer) is None
        return " ".join(capsys.readouterr().out.split())

    return run


@pytest.mark.parametrize(
    "fn, said",
    [
        (lambda h, n, kv: h // (n // kv), "Correct"),
        (lambda h, n, kv: h * kv // n, "Correct"),
        (lambda h, n, kv: None, "returns None"),
        (lambda h, n, kv: h % kv, "like cards"),
        (lambda h, n, kv: h // kv, "number of key/value heads"),
        (lambda h, n, kv: h % (n // kv), "place of the head inside its group"),
        (lambda h, n, kv: h / (n / kv), "fractions"),
        (lambda h, n, kv: float(h // (n // kv)), "float"),
        (lambda h, n, kv: n // kv, "size of a group"),
        (lambda h, n, kv: min(h, kv - 1), "query head 1 of 9 reads key/value head 0 of 3, and the function says 1"),
        (lambda h, n, kv: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_kv_head(verdict, fn, said):
    out = verdict(exercises.check_kv_head, fn)
    assert said in out
    assert out.startswith("Correct" if said == "Correct" else "Not yet")


def count(c, tokens, batch, size, two=2, heads=None, layers=None):
    return two * (layers or c.n_layers) * (heads or c.n_kv_heads) * c.head_dim * tokens * batch * size


@pytest.mark.parametrize(
    "fn, said",
    [
        (count, ["Correct", "1 GiB"]),
        (lambda c, *rest: None, ["returns None"]),
        (lambda c, *rest: count(c, *rest, heads=c.n_heads), ["query heads are counted"]),
        (lambda c, *rest: count(c, *rest, two=1), ["only keys or only values"]),
        (lambda c, *rest: count(c, *rest, layers=1), ["one layer is counted"]),
        (lambda c, *rest: 8 * count(c, *rest), ["these are bits"]),
        (lambda c, t, b, s: count(c, t, 1, s), ["one sequence"]),
        (lambda c, t, b, s: count(c, t, b, 1), ["numbers are counted"]),
        (lambda c, t, b, s: count(c, 1, b, s), ["one token"]),
        (lambda c, *rest: count(c, *rest) // c.head_dim, ["one number per head"]),
        (lambda c, *rest: count(c, *rest) / (c.n_kv_heads * c.head_dim) * c.dim, ["as wide as the residual stream"]),
        (lambda c, *rest: count(c, *rest) / 1024**2, ["these are MiB"]),
        (lambda c, *rest: count(c, *rest) / 1024**3, ["these are GiB. Return bytes."]),
        (lambda c, *rest: count(c, *rest) / 1e9, ["these are GB"]),
        (lambda c, t, b, s: count(c, t, b, 2), ["2 bytes per number are built in"]),
        (lambda c, *rest: count(c, *rest) // c.head_dim * (c.dim // c.n_heads), ["taken as dim / n_heads"]),
        (lambda c, *rest: count(c, *rest, two=1, heads=c.n_heads), ["query heads", "only keys or only values"]),
        (lambda c, *rest: count(c, *rest) + 1, ["is right"]),
        (lambda c, *rest: count(c, *rest, layers=7), ["Llama-3-8B does not"]),
    ],
)
def test_cache_bytes(verdict, fn, said):
    out = verdict(exercises.check_cache_bytes, fn)
    assert all(part in out for part in said), out
    assert out.startswith("Correct" if said[0] == "Correct" else "Not yet")


def test_no_two_mistakes_of_counting_look_alike():
    c = LlamaConfig(1000, dim=600, n_layers=7, n_heads=20, n_kv_heads=4, head_dim=64, ffn_dim=640)
    factors = _count_mistakes(c, 1009, 11, 3)
    assert len(factors) == 18
    assert all(abs(a / b - 1) > 1e-6 for a in factors for b in [1, *factors] if a is not b)
    assert all(
        abs(a * b - 1) > 1e-6 for a in factors for b in factors if {a, b} != {7, 1 / 7}
    )  # these two undo each other


@pytest.mark.parametrize("knobs, because, hint", _MISTAKES)
def test_every_mistake_of_attention_is_named(verdict, knobs, because, hint):
    out = verdict(exercises.check_gqa, lambda q, k, v, mask: _attend(q, k, v, mask, **knobs))
    assert out.startswith("Not yet") and because in out


@pytest.mark.parametrize("knobs, because, hint", _TWO_MISTAKES[::7])
def test_two_mistakes_at_once_are_named(verdict, knobs, because, hint):
    out = verdict(exercises.check_gqa, lambda q, k, v, mask: _attend(q, k, v, mask, **knobs))
    assert out.startswith("Not yet") and "none of the usual" not in out


def test_repeat_without_a_mask_is_both(verdict):
    out = verdict(exercises.check_gqa, lambda q, k, v, mask: _attend(q, k, v, mask, spread="repeat", hide="never"))
    assert "like cards" in out and "the mask is not used" in out


@pytest.mark.parametrize(
    "fn",
    [
        _attend,
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True),
    ],
)
def test_right_attention_is_praised(verdict, fn):
    assert verdict(exercises.check_gqa, fn).startswith("Correct")


@pytest.mark.parametrize(
    "fn, said",
    [
        (lambda q, k, v, mask: None, "returns None"),
        (lambda q, k, v, mask: _attend(q, k, v, mask).transpose(1, 2), "heads and tokens are swapped"),
        (lambda q, k, v, mask: _attend(q, k, v, mask) * 2, "none of the usual mistakes"),
        (lambda q, k, v, mask: q @ k.mT, "q has 6 heads and k has 2"),
        (lambda q, k, v, mask: q @ q, "RuntimeError"),
        (lambda q, k, v, mask: _attend(q.mul_(1.5), k, v, mask), "changes its inputs"),
        # right without a cache, wrong with one: PyTorch's own shortcut
        (
            lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
            "aligned at the first key",
        ),
    ],
)
def test_other_wrong_attention(verdict, fn, said):
    out = verdict(exercises.check_gqa, fn)
    assert out.startswith("Not yet") and said in out


def pool(weight, n_kv_heads, head_dim):
    return weight.unflatten(0, (n_kv_heads, -1, head_dim)).mean(dim=1).flatten(0, 1)


@pytest.mark.parametrize(
    "fn, said",
    [
        (pool, "Correct"),
        (lambda w, kv, d: None, "returns None"),
        (lambda w, kv, d: w, "a copy for every query head"),
        (lambda w, kv, d: w.unflatten(0, (-1, kv, d)).mean(dim=0).flatten(0, 1), "do not share"),
        (lambda w, kv, d: w.unflatten(0, (kv, -1, d)).sum(dim=1).flatten(0, 1), "added"),
        (lambda w, kv, d: w.unflatten(0, (kv, -1, d))[:, 0].flatten(0, 1), "first head of each group"),
        (lambda w, kv, d: w[: kv * d], "first heads are kept"),
        (lambda w, kv, d: w.unflatten(0, (kv * d, -1)).mean(dim=1), "within a head"),
        (lambda w, kv, d: w.unflatten(0, (-1, d)).mean(dim=0).repeat(kv, 1), "all heads are averaged"),
        (lambda w, kv, d: pool(w, kv, d) + 1, "not the means"),
        (lambda w, kv, d: w.unflatten(0, (kv, 3, d)).mean(dim=1).flatten(0, 1), "RuntimeError"),
        (lambda w, kv, d: w.mean(dim=0), "has shape"),
    ],
)
def test_pool_heads(verdict, fn, said):
    out = verdict(exercises.check_pool_heads, fn)
    assert said in out, out
    assert out.startswith("Correct" if said == "Correct" else "Not yet")


@pytest.mark.parametrize(
    "answer, said",
    [
        ([59, 119, 14, 29], "Correct"),
        (None, "a list of four numbers"),
        ([74, 149, 18, 37], "the weights take no room"),
        ([65, 130, 15, 31], "80 GiB"),
        ([59, 119, 14, 30], "not 30"),
        ([59, 14, 119, 29], "the order is not"),
        ([59.5, 119.1, 14.5, 29.1], "Round down"),
        ([29, 119, 14, 29], "with K = 8 and 2 bytes per number it is not 29"),
    ],
)
def test_conversations(verdict, answer, said):
    out = verdict(exercises.check_conversations, answer)
    assert said in out, out
    assert out.startswith("Correct" if said == "Correct" else "Not yet")

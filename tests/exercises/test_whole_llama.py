"""Every usual mistake in the exercises of "A whole Llama on one page" is met with its own explanation."""

from dataclasses import replace

import pytest
import torch

from llama_from_scratch import Llama, exercises
from llama_from_scratch.attention import causal_mask
from llama_from_scratch.plots.whole_llama import round_rank, visible


def verdict(capsys, check, answer) -> str:
    assert check(answer) is None
    return " ".join(capsys.readouterr().out.split())


COUNTS = {
    "the output projection is counted although it is tied": lambda c: replace(c, tie_embeddings=False).n_params,
    "the output projection is not counted": lambda c: replace(c, tie_embeddings=True).n_params,
    "the norms are not counted": lambda c: c.n_params - (2 * c.n_layers + 1) * c.dim,
    "the last norm is not counted": lambda c: c.n_params - c.dim,
    "each block has one norm only": lambda c: c.n_params - c.n_layers * c.dim,
    "the keys and values are as wide as the queries": lambda c: replace(c, n_kv_heads=c.n_heads).n_params,
    "SwiGLU has two matrices": lambda c: c.n_params - c.n_layers * c.dim * c.ffn_dim,
    "one square matrix of attention is missing": lambda c: c.n_params - c.n_layers * c.dim * c.n_heads * c.head_dim,
    "the norms are not counted, and the keys and values are as wide": lambda c: (
        replace(c, n_kv_heads=c.n_heads).n_params - (2 * c.n_layers + 1) * c.dim
    ),
    "have one number for each head": lambda c: c.n_params - 2 * c.n_layers * c.dim * c.n_kv_heads * (c.head_dim - 1),
    "q_proj and o_proj are counted as square": lambda c: (
        c.n_params + 2 * c.n_layers * c.dim * (c.dim - c.n_heads * c.head_dim)
    ),
    "use dim / n_heads for the width of a head": lambda c: (
        c.n_params + 2 * c.n_layers * c.dim * c.n_kv_heads * (c.dim // c.n_heads - c.head_dim)
    ),
    "parameters and the function gives": lambda c: c.n_params + 1,
    "the function returns None": lambda c: None,
    "ZeroDivisionError": lambda c: 1 // 0,
}


@pytest.mark.parametrize(("said", "fn"), COUNTS.items())
def test_count_explains(capsys, said, fn):
    text = verdict(capsys, exercises.check_count, fn)
    assert text.startswith("Not yet") and said in text


def test_count_praises(capsys):
    assert verdict(capsys, exercises.check_count, lambda c: c.n_params).startswith("Correct")


def attention(q, k, v, *, root=True, by=-torch.inf, diagonal=1, down=False, dim=-1, swap=False, late=False, bend=True):
    scores = (k @ q.T if swap else q @ k.T) / (q.shape[1] ** 0.5 if root is True else root or 1)
    ones = torch.ones_like(scores).bool()
    hidden = ones.tril(-1) if down else ones.triu(diagonal)
    if late:
        return scores.softmax(-1).masked_fill(hidden, 0) @ v
    scores = scores.masked_fill(hidden, by)
    return (scores.softmax(dim) if bend else scores) @ v


def attention_in_place(q, k, v):
    q /= q.shape[1] ** 0.5
    return attention(q, k, v, root=False)


ATTENTIONS = {
    "the mask is missing": lambda *a: attention(*a, diagonal=9),
    "not divided by the root": lambda *a: attention(*a, root=False),
    "the wrong way round": lambda *a: attention(*a, down=True),
    "runs over the queries": lambda *a: attention(*a, dim=0),
    "by the width, not by its root": lambda *a: attention(*a, root=16),
    "divided by 8": lambda *a: attention(*a, root=8),
    "comes after the softmax": lambda *a: attention(*a, late=True),
    "a score of 0": lambda *a: attention(*a, by=0.0),
    "there is no softmax": lambda *a: attention(*a, by=0.0, bend=False),
    "have changed places": lambda *a: attention(*a, swap=True),
    "the first token may look at nothing": lambda *a: attention(*a, diagonal=0),
    "changes what it is given": attention_in_place,
    "the mixed values differ": lambda *a: 2 * attention(*a),
    "shape [1, 6, 16]": lambda *a: attention(*a)[None],
    "the function returns None": lambda *a: None,
}


@pytest.mark.parametrize(("said", "fn"), ATTENTIONS.items())
def test_attention_explains(capsys, said, fn):
    text = verdict(capsys, exercises.check_attention, fn)
    assert text.startswith("Not yet") and said in text


def test_attention_praises(capsys):
    assert verdict(capsys, exercises.check_attention, attention).startswith("Correct")


def greedy(logits_of, ids, max_new, stop_ids, *, row=-1, keep=True, stop=True, with_stop=False, prompt=False, forget=0):
    text = list(ids)
    for _ in range(max_new):
        token = int(logits_of(text[-1:] if forget else text)[row].argmax())
        if stop and token in stop_ids and not with_stop:
            break
        if keep:
            text.append(token)
        if stop and token in stop_ids:
            break
    return text if prompt else text[len(ids) :]


def repeats(logits_of, ids, max_new, stop_ids):
    return [int(logits_of(ids)[-1].argmax()) for _ in range(max_new)]


def changes_prompt(logits_of, ids, max_new, stop_ids):
    for _ in range(max_new):
        ids.append(int(logits_of(ids)[-1].argmax()))
    return ids[2:]


def keeps_tensors(logits_of, ids, max_new, stop_ids):
    text = list(ids)
    for _ in range(max_new):
        token = logits_of(text)[-1].argmax()
        if token in stop_ids:
            break
        text.append(token)
    return text[len(ids) :]


def for_ever(logits_of, ids, max_new, stop_ids):
    text = list(ids)
    while text[-1] != 100:
        text.append(int(logits_of(text)[-1].argmax()))


LOOPS = {
    "the prompt is part of the answer": lambda *a: greedy(*a, prompt=True),
    "the logits of the first token are read": lambda *a: greedy(*a, row=0),
    "the last token is always dropped": lambda *a: greedy(*a)[:-1],
    "the prompt is counted into max_new": lambda f, i, n, s: greedy(f, i, n - len(i), s),
    "your tokens are tensors": keeps_tensors,
    "0 new tokens come where max_new is 3": lambda *a: [],
    "4 new tokens come where max_new is 3": lambda f, i, n, s: greedy(f, i, n + 1, s),
    "the new token is not added to the text": repeats,
    "forgets what came before": lambda *a: greedy(*a, forget=1),
    "the stop token is in the answer": lambda *a: greedy(*a, with_stop=True),
    "the stop token does not stop the loop": lambda *a: greedy(*a, stop=False),
    "your function changes the prompt": changes_prompt,
    "the loop does not end": for_ever,
    "the function returns None": lambda *a: None,
}


@pytest.mark.parametrize(("said", "fn"), LOOPS.items())
def test_greedy_explains(capsys, said, fn):
    text = verdict(capsys, exercises.check_greedy, fn)
    assert text.startswith("Not yet") and said in text


def test_greedy_praises(capsys):
    assert verdict(capsys, exercises.check_greedy, greedy).startswith("Correct")


def right_temperature(logits, t):
    return torch.eye(len(logits))[logits.argmax()] if t == 0 else (logits / t).softmax(0)


def in_place(logits, t):
    logits /= t
    return logits.softmax(0)


TEMPERATURES = {
    "multiplied by the temperature": lambda x, t: (x * t).softmax(0),
    "the temperature changes nothing": lambda x, t: x.softmax(0),
    "the probabilities are divided": lambda x, t: x.softmax(0) / t,
    "the softmax is taken twice": lambda x, t: (x.softmax(0) / t).softmax(0),
    "these are logits": lambda x, t: x / t,
    "these are log-probabilities": lambda x, t: (x / t).log_softmax(0),
    "your function changes the logits": in_place,
    "large logits come out wrong": lambda x, t: (x / t).exp() / (x / t).exp().sum(),
    "temperature 0 gives inf or nan": lambda x, t: (x / t).softmax(0),
    "one number, the place of the best token": lambda x, t: (x / t).softmax(0) if t else x.argmax(),
    "temperature 0 does not put everything on the best": lambda x, t: (x / t).softmax(0) if t else x.softmax(0),
    "the function returns None": lambda x, t: None,
    "shape [1, 6]": lambda x, t: right_temperature(x, t)[None],
}


@pytest.mark.parametrize(("said", "fn"), TEMPERATURES.items())
def test_temperature_explains(capsys, said, fn):
    text = verdict(capsys, exercises.check_temperature, fn)
    assert text.startswith("Not yet") and said in text


def test_temperature_praises(capsys):
    assert verdict(capsys, exercises.check_temperature, right_temperature).startswith("Correct")


def lens(model: Llama, ids, blocks, *, shift=0, norm=True, row=-1, start=0):
    positions = torch.arange(len(ids)) + start
    cos, sin = model.rope(positions[None])
    x = model.embedding(ids[None])
    for block in model.blocks[: blocks + shift]:
        x = block(x, cos, sin, causal_mask(torch.arange(len(ids)), len(ids)))
    x = x[0, row]
    return model.embedding.weight @ (model.norm(x) if norm else x)


def cuts_the_model(model, ids, blocks):
    logits = lens(model, ids, blocks)
    if blocks == 4:
        del model.blocks[-1]
    return logits


def unmasked(model, ids, blocks):
    cos, sin = model.rope(torch.arange(len(ids))[None])
    x = model.embedding(ids[None])
    for block in model.blocks[:blocks]:
        x = block(x, cos, sin, torch.ones(5, 5, dtype=torch.bool))
    return model.embedding.weight @ model.norm(x[0, -1])


LENSES = {
    "the last norm is missing": lambda *a: lens(*a, norm=False),
    "the first token's row is read": lambda *a: lens(*a, row=0),
    "for blocks = 0 this is the stream after 1": lambda *a: lens(*a, shift=1),
    "for blocks = 2 this is the stream after 4": lambda m, i, b: lens(m, i, 4 if b else 0),
    "the mask is missing": unmasked,
    "positions need a batch axis": lambda m, i, b: torch.arange(5)[
        :, :, None
    ],  # so does rope, unless shapes are checked
    "this model has no lm_head": lambda m, i, b: m.lm_head(m.embedding(i)),
    "the logits after 0 blocks differ": lambda *a: 2 * lens(*a),
    "the model is not the same": cuts_the_model,
    "the function returns None": lambda *a: None,
}


@pytest.mark.parametrize(("said", "fn"), LENSES.items())
def test_lens_explains(capsys, said, fn):
    text = verdict(capsys, exercises.check_lens, fn)
    assert text.startswith("Not yet") and said in text


def test_lens_praises(capsys):
    assert verdict(capsys, exercises.check_lens, lens).startswith("Correct")


def first_difference(ours, theirs, tolerance):
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if (a - b).abs().max() > tolerance), None)


def by(differs, pick=min):
    def fn(ours, theirs, tolerance):
        found = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if differs(a - b, tolerance)]
        return pick(found) if found else None

    return fn


DIFFERENCES = {
    "compared bit by bit": by(lambda d, t: (d != 0).any()),
    "the last pair": by(lambda d, t: d.abs().max() > t, pick=max),
    "the last pair that agrees": by(lambda d, t: d.abs().max() > t, pick=lambda found: min(found) - 1),
    "the first difference is one earlier": by(lambda d, t: d.abs().max() > t, pick=lambda found: min(found) + 1),
    "a difference below zero": by(lambda d, t: d.max() > t),
    "not at the mean": by(lambda d, t: d.mean() > t),
    "not at the mean, and": by(lambda d, t: d.abs().mean() > t),
    "set rtol=0": lambda o, t, tol: next(
        (i for i, (a, b) in enumerate(zip(o, t, strict=True)) if not torch.allclose(a, b, atol=tol)), None
    ),
    "your function returns None": lambda *a: None,
    "streams that agree give an answer too": lambda o, t, tol: first_difference(o, t, tol) or 0,
    "Write its body": lambda *a: ...,
}


@pytest.mark.parametrize(("said", "fn"), DIFFERENCES.items())
def test_first_difference_explains(capsys, said, fn):
    text = verdict(capsys, exercises.check_first_difference, fn)
    assert text.startswith("Not yet") and said in text


def test_first_difference_praises(capsys):
    assert verdict(capsys, exercises.check_first_difference, first_difference).startswith("Correct")


def test_checks_leave_the_random_numbers_alone(capsys):
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    exercises.check_first_difference(first_difference)
    exercises.check_temperature(right_temperature)
    assert torch.equal(torch.rand(1), wanted)


def test_ranks_and_pieces_as_the_figures_write_them():
    assert [round_rank(n) for n in (1, 99, 101, 396, 4316, 49152)] == [1, 99, 100, 400, 4300, 49000]
    assert visible(" a\nb") == "␣a↵b"

"""The invariances that the chapters derive, for vectors, positions and group sizes that hypothesis chooses.

Each property is an identity of exact arithmetic, checked in fp32 with a tolerance for its rounding.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import GQA
from torch import Tensor

from llama_from_scratch import KVCache, RMSNorm
from llama_from_scratch.attention import Attention, attention_weights, causal_mask
from llama_from_scratch.rope import Rope, adjacent_to_halves, halves_to_adjacent, rotate, rotate_adjacent

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(1, 64)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(mine: Tensor, yours: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(mine, yours, rtol=tolerance, atol=tolerance)


# RMSNorm


def random_norm(seed: int, dim: int, eps: float = 1e-5) -> RMSNorm:
    norm = RMSNorm(dim, eps)
    norm.weight.data = normal(seed + 1, dim)
    return norm


@given(seeds, dims, st.floats(1e-3, 1e3))
def test_rms_norm_does_not_see_the_scale(seed: int, dim: int, scale: float) -> None:
    norm, x = random_norm(seed, dim, eps=1e-30), normal(seed, 3, dim)
    close(norm(scale * x), norm(x))


@given(seeds, dims)
def test_rms_norm_turns_with_the_sign(seed: int, dim: int) -> None:
    norm, x = random_norm(seed, dim), normal(seed, 3, dim)
    assert torch.equal(norm(-x), -norm(x))


@given(seeds, st.integers(2, 64), st.floats(0.5, 100))
def test_rms_norm_sees_a_shift_and_layer_norm_does_not(seed: int, dim: int, shift: float) -> None:
    x = normal(seed, 1, dim).double()
    assume(x.std() > 0.1)
    norm = RMSNorm(dim)
    assert (norm(x + shift) - norm(x)).abs().max() > 1e-3
    layer_norm = torch.nn.LayerNorm(dim, dtype=torch.float64)
    close(layer_norm(x + shift), layer_norm(x), 1e-9)


@given(seeds, dims)
def test_rms_norm_does_not_know_the_order_of_features(seed: int, dim: int) -> None:
    norm, x = random_norm(seed, dim), normal(seed, 3, dim)
    order = torch.randperm(dim, generator=torch.Generator().manual_seed(seed))
    shuffled = RMSNorm(dim)
    shuffled.weight.data = norm.weight.data[order]
    close(shuffled(x[:, order]), norm(x)[:, order])


@given(seeds, dims, st.integers(2, 8), st.data())
def test_rms_norm_of_a_token_does_not_depend_on_the_others(seed: int, dim: int, seq: int, data) -> None:
    norm, x = random_norm(seed, dim), normal(seed, 1, seq, dim)
    token = data.draw(st.integers(0, seq - 1))
    changed = x.clone()
    changed[:, token] += 1
    others = [i for i in range(seq) if i != token]
    assert torch.equal(norm(changed)[:, others], norm(x)[:, others])
    assert not torch.equal(norm(changed)[:, token], norm(x)[:, token]) or dim == 1


@given(seeds, dims, st.floats(0.1, 1e4))
def test_rms_of_the_output_is_one(seed: int, dim: int, scale: float) -> None:
    """With weight 1. A little less than one, by what ε adds to the mean square of the input."""
    x = scale * normal(seed, 3, dim)
    mean_square = x.square().mean(-1)
    close(RMSNorm(dim)(x).square().mean(-1), mean_square / (mean_square + 1e-5))


@given(seeds, dims, st.floats(1e-4, 1e4))
def test_rms_norm_gradient_is_orthogonal_to_the_input(seed: int, dim: int, scale: float) -> None:
    """A step along x only rescales it, which the output does not see; so the gradient has no part along x."""
    x = (scale * normal(seed, dim)).requires_grad_()
    norm = random_norm(seed, dim, eps=1e-30)
    (norm(x) @ normal(seed + 2, dim)).backward()
    along, size = x.grad @ x.detach(), norm.weight.detach().norm() * dim**0.5
    bound = size * max(1.0, normal(seed + 2, dim).norm().item())
    assert (along / bound).item() == pytest.approx(0, abs=1e-5)


def test_rms_norm_of_zero_is_zero_and_has_a_gradient() -> None:
    """What ε inside the root is for."""
    x = torch.zeros(1, 8, requires_grad=True)
    norm = RMSNorm(8)
    out = norm(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(1, 8))
    close(x.grad, torch.full((1, 8), 1e-5**-0.5))


# RoPE

half_dims = st.integers(1, 32)
positions = st.integers(-300, 300)


def angles_at(position: int, half: int) -> tuple[Tensor, Tensor]:
    """cos and sin for one position, in fp64 so that a property is not lost in the rounding of an angle."""
    freqs = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    return (position * freqs).cos()[None], (position * freqs).sin()[None]


def turned(x: Tensor, position: int, rotation=rotate) -> Tensor:
    """x [..., head_dim] as if it stood at `position`."""
    return rotation(x[None, None, None], *angles_at(position, x.shape[-1] // 2))[0, 0, 0]


both_layouts = pytest.mark.parametrize("rotation", [rotate, rotate_adjacent])


@both_layouts
@given(seed=seeds, half=half_dims, m=positions)
def test_rotation_keeps_the_norm(rotation, seed: int, half: int, m: int) -> None:
    x = normal(seed, 2 * half)
    close(turned(x, m, rotation).norm(), x.norm())


@both_layouts
@given(seed=seeds, half=half_dims, m=positions, n=positions, shift=positions)
def test_score_depends_on_the_distance_alone(rotation, seed: int, half: int, m: int, n: int, shift: int) -> None:
    q, k = normal(seed, 2 * half), normal(seed + 1, 2 * half)
    score = turned(q, m, rotation) @ turned(k, n, rotation)
    size = q.norm() * k.norm()
    close(score / size, turned(q, m + shift, rotation) @ turned(k, n + shift, rotation) / size)
    close(score / size, q @ turned(k, n - m, rotation) / size)


@both_layouts
@given(seed=seeds, half=half_dims, m=positions, n=positions)
def test_rotations_add_up_and_can_be_undone(rotation, seed: int, half: int, m: int, n: int) -> None:
    x = normal(seed, 2 * half)
    close(turned(turned(x, m, rotation), n, rotation), turned(x, m + n, rotation))
    close(turned(turned(x, m, rotation), -m, rotation), x)
    assert torch.equal(turned(x, 0, rotation), x)


@both_layouts
@given(seed=seeds, half=half_dims, m=positions, a=st.floats(-10, 10), b=st.floats(-10, 10))
def test_rotation_is_linear(rotation, seed: int, half: int, m: int, a: float, b: float) -> None:
    x, y = normal(seed, 2 * half), normal(seed + 1, 2 * half)
    close(turned(a * x + b * y, m, rotation), a * turned(x, m, rotation) + b * turned(y, m, rotation), 1e-4)


@given(seed=seeds, half=half_dims, m=positions)
def test_the_two_layouts_are_one_rotation(seed: int, half: int, m: int) -> None:
    """Reordered from adjacent pairs to halves, rotated, and reordered back."""
    x = normal(seed, 2 * half)
    through_halves = halves_to_adjacent(turned(adjacent_to_halves(x, 1), m), 1)
    assert torch.equal(turned(x, m, rotate_adjacent), through_halves)


@given(seed=seeds, heads=st.integers(1, 6), half=half_dims, columns=st.integers(1, 5))
def test_reorderings_undo_each_other_and_stay_within_a_head(seed: int, heads: int, half: int, columns: int) -> None:
    weight = normal(seed, heads * 2 * half, columns)
    assert torch.equal(halves_to_adjacent(adjacent_to_halves(weight, heads), heads), weight)
    assert torch.equal(adjacent_to_halves(halves_to_adjacent(weight, heads), heads), weight)
    by_head = torch.cat([adjacent_to_halves(head, 1) for head in weight.split(2 * half)])
    assert torch.equal(adjacent_to_halves(weight, heads), by_head)


@given(seed=seeds, start=st.integers(0, 4000))
def test_moving_a_whole_text_changes_no_score(seed: int, start: int) -> None:
    """Through the model's own Rope, in fp32; so a constant added to all positions is no bug that logits could show."""
    rope = Rope(GQA)
    q, k = normal(seed, 1, 8, 12, 16), normal(seed + 1, 1, 8, 12, 16)
    here, there = (rope(torch.arange(12)[None] + offset) for offset in (0, start))
    close(rotate(q, *here) @ rotate(k, *here).mT, rotate(q, *there) @ rotate(k, *there).mT, 1e-2)


# Grouped-query attention

groups_and_sizes = st.tuples(st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 3]))  # kv_heads, group_size


def random_attention(seed: int, kv_heads: int, group_size: int, head_dim: int = 4, dim: int = 12) -> Attention:
    attention = Attention(replace(GQA, dim=dim, n_heads=kv_heads * group_size, n_kv_heads=kv_heads, head_dim=head_dim))
    for i, weight in enumerate(attention.parameters()):
        weight.data = 0.3 * normal(seed + i, *weight.shape)  # small, so that no token takes all the attention
    return attention.requires_grad_(False)


def run(attention: Attention, x: Tensor, cache=None) -> Tensor:
    start = cache.length if cache else 0
    slots = torch.arange(start, start + x.shape[1])
    cos, sin = Rope(replace(GQA, head_dim=attention.head_dim))(slots.expand(len(x), -1))
    return attention(x, cos, sin, causal_mask(slots, start + x.shape[1]), cache)


def by_head(linear: torch.nn.Linear, head_dim: int = 4) -> Tensor:
    return linear.weight.data.unflatten(0, (-1, head_dim))


@given(seeds, groups_and_sizes, st.integers(1, 9))
def test_gqa_is_mha_with_key_value_heads_copied(seed: int, sizes: tuple[int, int], seq: int) -> None:
    kv_heads, group_size = sizes
    grouped, x = random_attention(seed, kv_heads, group_size), normal(seed, 2, seq, 12)
    full = random_attention(seed, kv_heads * group_size, 1)
    full.q_proj.weight, full.o_proj.weight = grouped.q_proj.weight, grouped.o_proj.weight
    full.k_proj.weight.data = by_head(grouped.k_proj).repeat_interleave(group_size, 0).flatten(0, 1)
    full.v_proj.weight.data = by_head(grouped.v_proj).repeat_interleave(group_size, 0).flatten(0, 1)
    close(run(grouped, x), run(full, x), 1e-4)


@given(seeds, groups_and_sizes, st.data())
def test_query_head_reads_the_key_value_head_of_its_group(seed: int, sizes: tuple[int, int], data) -> None:
    """Head h reads key/value head h // group_size: changing another's values changes nothing in h, its own does."""
    kv_heads, group_size = sizes
    attention, x = random_attention(seed, kv_heads, group_size), normal(seed, 1, 5, 12)
    head = data.draw(st.integers(0, kv_heads * group_size - 1))
    attention.o_proj.weight.data.unflatten(1, (-1, 4))[:, [h for h in range(kv_heads * group_size) if h != head]] = 0
    before = run(attention, x)
    for kv_head in range(kv_heads):
        changed = random_attention(seed, kv_heads, group_size)
        changed.load_state_dict(attention.state_dict())
        by_head(changed.v_proj)[kv_head] += 1
        assert torch.equal(run(changed, x), before) == (kv_head != head // group_size)


@given(seeds, groups_and_sizes, st.integers(2, 9), st.data())
def test_the_past_does_not_see_the_future(seed: int, sizes: tuple[int, int], seq: int, data) -> None:
    attention, x = random_attention(seed, *sizes), normal(seed, 1, seq, 12)
    token = data.draw(st.integers(0, seq - 1))
    changed = x.clone()
    changed[:, token] += 1
    before, after = run(attention, x), run(attention, changed)
    close(before[:, :token], after[:, :token], 1e-6)
    assert not torch.equal(before[:, token], after[:, token])


@given(seeds, groups_and_sizes, st.integers(1, 9))
def test_weights_sum_to_one_and_none_looks_ahead(seed: int, sizes: tuple[int, int], seq: int) -> None:
    kv_heads, group_size = sizes
    q, k = normal(seed, 2, kv_heads * group_size, seq, 4), normal(seed + 1, 2, kv_heads, seq, 4)
    weights = attention_weights(q, k, causal_mask(torch.arange(seq), seq))
    close(weights.sum(-1), torch.ones(2, kv_heads * group_size, seq))
    assert (weights >= 0).all()
    assert (weights.triu(1) == 0).all()


@given(seeds, groups_and_sizes, st.integers(1, 9))
def test_order_of_groups_does_not_matter(seed: int, sizes: tuple[int, int], seq: int) -> None:
    """Whole groups moved together, with their columns of the output projection: the same layer."""
    kv_heads, group_size = sizes
    attention, x = random_attention(seed, kv_heads, group_size), normal(seed, 2, seq, 12)
    order = torch.randperm(kv_heads, generator=torch.Generator().manual_seed(seed))
    heads = (order[:, None] * group_size + torch.arange(group_size)).flatten()
    moved = random_attention(seed, kv_heads, group_size)
    moved.q_proj.weight.data = by_head(attention.q_proj)[heads].flatten(0, 1)
    moved.k_proj.weight.data = by_head(attention.k_proj)[order].flatten(0, 1)
    moved.v_proj.weight.data = by_head(attention.v_proj)[order].flatten(0, 1)
    moved.o_proj.weight.data = attention.o_proj.weight.data.unflatten(1, (-1, 4))[:, heads].flatten(1)
    close(run(moved, x), run(attention, x), 1e-4)


@given(seeds, st.integers(1, 4), st.integers(1, 9))
def test_with_one_key_value_head_all_query_heads_read_it(seed: int, heads: int, seq: int) -> None:
    """Multi-query attention, the end of the scale: equal queries give equal weights, whatever the head."""
    q, k = normal(seed, 1, 1, seq, 4).expand(1, heads, seq, 4), normal(seed + 1, 1, 1, seq, 4)
    weights = attention_weights(q, k, causal_mask(torch.arange(seq), seq))
    close(weights, weights[:, :1].expand_as(weights), 1e-6)


@given(seeds, groups_and_sizes, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_cache_changes_nothing(seed: int, sizes: tuple[int, int], chunks: list[int]) -> None:
    kv_heads, group_size = sizes
    attention, x = random_attention(seed, kv_heads, group_size), normal(seed, 2, sum(chunks), 12)
    config = replace(GQA, n_layers=1, n_heads=kv_heads * group_size, n_kv_heads=kv_heads, head_dim=4)
    cache = KVCache(config, batch=2, capacity=20).layers[0]
    in_chunks = torch.cat([run(attention, chunk, cache) for chunk in x.split(chunks, dim=1)], dim=1)
    close(in_chunks, run(attention, x), 1e-4)

"""Classic bugs, planted one at a time: the test that should notice must fail. Otherwise it proves nothing.

Each bug names the test that catches it: nearly always a parity test, which is a check and a case of reference.py.
That test passes without the bug (run here once more) and must fail with it. To print the table:

    python tests/core/test_mutations.py
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import test_parity
import test_rope_scaling
import torch
import torch.nn.functional as F
from pytest import MonkeyPatch
from reference import CASES, CHECKS, random_pair, to_meta_rows
from torch import nn

from llama_from_scratch import Block, Llama, RMSNorm, attention, model, rope
from llama_from_scratch.feed_forward import FeedForward

BUGS: dict[str, tuple[str, Callable[[MonkeyPatch | None], None]]] = {}  # name -> (test, how to run it with the bug)


def caught_by(check: str, case: str):
    """A bug that the parity test `check` on `case` must notice."""

    def register(plant: Callable[[MonkeyPatch, Llama], None]):
        def run(patch: MonkeyPatch | None) -> None:
            ours, theirs = random_pair(CASES[case])
            if patch:
                plant(patch, ours)
            CHECKS[check](ours, theirs)

        BUGS[plant.__name__] = f"test_parity.py::test_parity[{check}-{case}]", run
        return plant

    return register


def caught_elsewhere(test: Callable, argument):
    """A bug that only shows when the type of the numbers changes, for another test to notice."""

    def register(plant: Callable[[MonkeyPatch], None]):
        def run(patch: MonkeyPatch | None) -> None:
            torch.manual_seed(0)
            if patch:
                plant(patch)
            test(argument)

        BUGS[plant.__name__] = f"{test.__module__}.py::{test.__name__}", run
        return plant

    return register


# Tools for planting


def attend(patch: MonkeyPatch, **mistakes) -> None:
    patch.setattr(attention, "F", SimpleNamespace(scaled_dot_product_attention=partial(sdpa, **mistakes)))


def sdpa(
    q,
    k,
    v,
    enable_gqa,
    attn_mask=None,
    is_causal=False,
    causal=attention.causal_mask,
    expand=torch.Tensor.repeat_interleave,
    divide_by=None,
    dtype=torch.float32,
    hidden=-1e9,
    softmax_dim=-1,
):
    """What the fused kernel computes, in the open, with something to get wrong in each step."""
    if attn_mask is None:
        rows, keys = q.shape[2], k.shape[2]
        attn_mask = causal(torch.arange(rows), keys) if is_causal else torch.ones(rows, keys, dtype=torch.bool)
    groups = q.shape[1] // k.shape[1]
    k, v = expand(k, groups, 1), expand(v, groups, 1)
    scores = (q @ k.mT / (divide_by or q.shape[-1] ** 0.5)).to(dtype).float()
    return scores.masked_fill(~attn_mask, hidden).softmax(softmax_dim) @ v


def mask(patch: MonkeyPatch, causal: Callable) -> None:
    """Another causal mask, both where the model writes one and where it leaves that to the kernel."""
    patch.setattr(model, "causal_mask", causal)
    attend(patch, causal=causal)


def turn(patch: MonkeyPatch, q: Callable = rope.rotate, k: Callable = rope.rotate) -> None:
    """Rotate q and k by functions of their own. The model calls `rotate` for q and k by turns."""
    calls = []

    def rotate(x, cos, sin):
        calls.append(x)
        return (q if len(calls) % 2 else k)(x, cos, sin)

    patch.setattr(attention, "rotate", rotate)


def clockwise(x, cos, sin):
    return rope.rotate(x, cos, -sin)


def change_config(ours: Llama, **fields) -> None:
    ours.rope = rope.Rope(replace(ours.config, **fields))


def change_weights(ours: Llama, names: tuple[str, ...], change: Callable) -> None:
    for name, weight in ours.named_parameters():
        if any(part in name for part in names):
            weight.data = change(weight.data)


# Position


@caught_by("full", "gqa")
def q_and_k_rows_left_in_the_order_of_meta_and_gguf_files(patch, ours):
    change_weights(ours, ("q_proj", "k_proj"), lambda weight: to_meta_rows(weight, 16))


@caught_by("full", "gqa")
def adjacent_pairs_rotated_in_half_split_weights(patch, ours):
    turn(patch, rope.rotate_adjacent, rope.rotate_adjacent)


@caught_by("full", "gqa")
def rotation_backwards(patch, ours):
    turn(patch, clockwise, clockwise)


@caught_by("full", "gqa")
def rotation_of_k_backwards(patch, ours):
    turn(patch, k=clockwise)


@caught_by("full", "gqa")
def only_q_rotated(patch, ours):
    turn(patch, k=lambda x, cos, sin: x)


@caught_by("full", "gqa")
def nothing_rotated(patch, ours):
    turn(patch, lambda x, cos, sin: x, lambda x, cos, sin: x)


@caught_by("full", "gqa")
def values_rotated_too(patch, ours):
    def with_v_rotated(q, k, v, **options):
        cos, sin = ours.rope(torch.arange(v.shape[2])[None])
        return F.scaled_dot_product_attention(q, k, rope.rotate(v, cos, sin), **options)

    patch.setattr(attention, "F", SimpleNamespace(scaled_dot_product_attention=with_v_rotated))


@caught_by("full", "gqa")
def theta_10000_for_100000(patch, ours):
    change_config(ours, rope_theta=1e4)


@caught_by("full", "gqa")
def angles_in_bf16(patch, ours):
    def forward(self, positions):
        angles = (positions[:, None, :, None].bfloat16() * self.freqs.bfloat16()).float()
        return angles.cos(), angles.sin()

    patch.setattr(rope.Rope, "forward", forward)


@caught_by("cached", "gqa")
def position_restarts_with_every_call_behind_a_cache(patch, ours):
    right = rope.Rope.forward
    patch.setattr(rope.Rope, "forward", lambda self, positions: right(self, positions - positions[:, :1]))


@caught_by("full", "linear")
def linear_scaling_ignored(patch, ours):
    change_config(ours, rope_scaling=None)


@caught_by("full", "dynamic")
def dynamic_scaling_never_grows(patch, ours):
    change_config(ours, rope_scaling=None)


@caught_by("full", "llama3-x8")
def llama3_scaling_ignored(patch, ours):
    change_config(ours, rope_scaling=None)


@caught_by("full", "llama3-x32")
def llama3_factor_8_for_32(patch, ours):
    change_config(ours, rope_scaling=replace(ours.config.rope_scaling, factor=8.0))


@caught_by("full", "yarn")
def yarn_ramp_inverted(patch, ours):
    """Divides the fast pairs and keeps the slow ones."""
    plain = rope.rope_frequencies(16, ours.config.rope_theta)
    ours.rope.freqs = plain + plain / ours.config.rope_scaling.factor - ours.rope.freqs


@caught_by("full", "yarn")
def yarn_attention_factor_forgotten(patch, ours):
    ours.rope.attention_factor = 1.0


@caught_elsewhere(test_rope_scaling.test_frequencies_stay_exact_when_the_model_changes_type, lambda m: m.bfloat16())
def frequencies_rounded_when_the_model_goes_to_bf16(patch):
    patch.setattr(rope.Rope, "_apply", nn.Module._apply)


# Attention


@caught_by("full", "gqa")
def kv_heads_tiled_instead_of_repeated_in_place(patch, ours):
    """`repeat` for `repeat_interleave`: query head h reads key/value head h % kv_heads."""
    attend(patch, expand=lambda x, groups, dim: torch.cat([x] * groups, dim))


@caught_by("full", "gqa")
def rows_of_q_k_v_cut_into_heads_the_wrong_way(patch, ours):
    """Every eighth row to a head, where a head is 16 rows in sequence."""
    change_weights(
        ours, ("q_proj", "k_proj", "v_proj"), lambda w: w.unflatten(0, (16, -1)).transpose(0, 1).reshape(w.shape)
    )


@caught_by("full", "gqa")
def scores_divided_by_the_root_of_dim(patch, ours):
    attend(patch, divide_by=128**0.5)


@caught_by("full", "gqa")
def scores_divided_by_the_root_of_the_number_of_heads(patch, ours):
    attend(patch, divide_by=8**0.5)


@caught_by("full", "gqa")
def scores_not_divided(patch, ours):
    attend(patch, divide_by=1.0)


@caught_by("full", "gqa")
def scores_in_bf16(patch, ours):
    attend(patch, dtype=torch.bfloat16)


@caught_by("full", "gqa")
def softmax_over_queries(patch, ours):
    attend(patch, softmax_dim=-2)


@caught_by("full", "gqa")
def no_mask(patch, ours):
    mask(patch, lambda slots, n_keys: torch.ones(len(slots), n_keys, dtype=torch.bool))


@caught_by("full", "gqa")
def mask_lets_each_token_see_the_next(patch, ours):
    mask(patch, lambda slots, n_keys: torch.arange(n_keys) <= slots[:, None] + 1)


@caught_by("full", "gqa")
def mask_hides_each_token_from_itself(patch, ours):
    mask(patch, lambda slots, n_keys: torch.arange(n_keys) < slots[:, None])


@caught_by("cached", "gqa")
def mask_aligned_top_left_behind_a_cache(patch, ours):
    """What `is_causal=True` means to torch: the first new token sees the first key only."""
    mask(patch, lambda slots, n_keys: torch.ones(len(slots), n_keys, dtype=torch.bool).tril())


@caught_by("padded", "gqa")
def padding_not_masked(patch, ours):
    ours.forward = lambda tokens, cache=None, attention_mask=None: Llama.forward(ours, tokens, cache)


@caught_by("padded", "gqa")
def padding_masked_on_the_wrong_side(patch, ours):
    ours.forward = lambda tokens, cache=None, attention_mask=None: Llama.forward(
        ours, tokens, cache, attention_mask.flip(-1)
    )


@caught_by("padded", "gqa")
def nan_where_a_row_sees_nothing(patch, ours):
    attend(patch, hidden=float("-inf"))


# Norm


def norm(patch: MonkeyPatch, forward: Callable) -> None:
    patch.setattr(RMSNorm, "forward", forward)


@caught_by("full", "gqa")
def layer_norm_for_rms_norm(patch, ours):
    norm(patch, lambda self, x: F.layer_norm(x, x.shape[-1:], self.weight, None, self.eps))


@caught_by("full", "gqa")
def sum_for_mean(patch, ours):
    norm(patch, lambda self, x: x * (x.square().sum(-1, keepdim=True) + self.eps).rsqrt() * self.weight)


@caught_by("full", "gqa")
def mean_over_tokens_for_mean_over_features(patch, ours):
    norm(patch, lambda self, x: x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt() * self.weight)


@caught_by("full", "gqa")
def eps_outside_the_root(patch, ours):
    norm(patch, lambda self, x: x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight)


@caught_by("full", "gqa")
def eps_1e_6_for_1e_5(patch, ours):
    for module in ours.modules():
        if isinstance(module, RMSNorm):
            module.eps = 1e-6


@caught_by("full", "gqa")
def norm_weight_ignored(patch, ours):
    right = RMSNorm.forward
    norm(patch, lambda self, x: right(self, x) / self.weight)


@caught_by("full", "gqa")
def one_added_to_the_norm_weight(patch, ours):
    """Right for Gemma, whose files store the weight less one."""
    change_weights(ours, ("norm",), lambda weight: weight + 1)


@caught_elsewhere(test_parity.test_rms_norm_is_that_of_torch_bit_for_bit, torch.bfloat16)
def norm_computed_in_bf16(patch):
    norm(patch, lambda self, x: x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight)


@caught_elsewhere(test_parity.test_rms_norm_is_that_of_torch_bit_for_bit, torch.bfloat16)
def norm_rounded_twice(patch):
    norm(patch, lambda self, x: F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight)


# Block and model


@caught_by("full", "gqa")
def the_two_norms_swapped(patch, ours):
    for block in ours.blocks:
        block.attention_norm, block.ffn_norm = block.ffn_norm, block.attention_norm


@caught_by("full", "gqa")
def residual_taken_after_the_norm(patch, ours):
    def forward(self, x, *rest):
        x = self.attention_norm(x)
        x = self.ffn_norm(x + self.attention(x, *rest))
        return x + self.feed_forward(x)

    patch.setattr(Block, "forward", forward)


@caught_by("full", "gqa")
def attention_and_feed_forward_side_by_side(patch, ours):
    def forward(self, x, *rest):
        return x + self.attention(self.attention_norm(x), *rest) + self.feed_forward(self.ffn_norm(x))

    patch.setattr(Block, "forward", forward)


@caught_by("full", "gqa")
def gate_and_up_swapped(patch, ours):
    patch.setattr(FeedForward, "forward", lambda self, x: self.down_proj(F.silu(self.up_proj(x)) * self.gate_proj(x)))


@caught_by("full", "gqa")
def gelu_for_silu(patch, ours):
    patch.setattr(FeedForward, "forward", lambda self, x: self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x)))


@caught_by("full", "gqa")
def final_norm_missing(patch, ours):
    ours.norm = nn.Identity()


@caught_by("full", "gqa")
def embedding_multiplied_by_the_root_of_dim(patch, ours):
    """Right for Gemma and the first Transformer."""
    change_weights(ours, ("embedding",), lambda weight: weight * 128**0.5)


@caught_by("full", "tied")
def tied_head_left_random(patch, ours):
    ours.lm_head = nn.Linear(128, 256, bias=False)


@caught_by("full", "tied")
def tied_head_copied_instead_of_shared(patch, ours):
    """Right logits, wrong gradients: the two tables would part in the first step of training."""
    ours.lm_head = nn.Linear(128, 256, bias=False)
    ours.lm_head.weight.data = ours.embedding.weight.data.clone()


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(bug: str, monkeypatch: MonkeyPatch) -> None:
    _, run = BUGS[bug]
    with pytest.raises(AssertionError):
        run(monkeypatch)


@pytest.mark.parametrize("test", sorted({test for test, _ in BUGS.values()}))
def test_without_a_bug_the_same_test_passes(test: str) -> None:
    next(run for name, run in BUGS.values() if name == test)(None)


def test_tools_for_planting_break_nothing_themselves(monkeypatch: MonkeyPatch) -> None:
    ours, theirs = random_pair(CASES["gqa"])
    attend(monkeypatch)
    turn(monkeypatch)
    for check in CHECKS.values():
        check(ours, theirs)


def print_table() -> None:
    for bug, (test, run) in BUGS.items():
        with MonkeyPatch.context() as patch:
            try:
                run(patch)
                noticed = "NOT CAUGHT"
            except AssertionError as error:
                noticed = str(error).partition(":")[0] or "the numbers differ"
        print(f"{bug.replace('_', ' '):58} {test:77} {noticed}")


if __name__ == "__main__":
    print_table()

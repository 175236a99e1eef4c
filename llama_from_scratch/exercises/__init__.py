"""Checks that tell a learner what is wrong. Each chapter's checks stand in a module of their own."""

from .attention import check_causal_weights, check_heads, check_induction, check_mask, check_softmax
from .grouped_query_attention import (
    check_cache_bytes,
    check_conversations,
    check_gqa,
    check_kv_head,
    check_pool_heads,
)
from .residual_stream import (
    check_account,
    check_look_up,
    check_nearest,
    check_stream,
    check_tie,
)
from .rmsnorm import check_backward, check_by_hand, check_centre, check_eps, check_fold, check_rms_norm
from .rope_rotations import (
    check_frequencies,
    check_key_that_peaks,
    check_rope_test,
    check_rotate,
    check_to_halves,
    check_turn_by_hand,
)
from .swiglu import check_neuron, check_sign_flip, check_silu, check_swiglu, check_width
from .whole_llama import (
    check_attention,
    check_count,
    check_first_difference,
    check_greedy,
    check_lens,
    check_temperature,
)

__all__ = [
    "check_account",
    "check_attention",
    "check_backward",
    "check_by_hand",
    "check_cache_bytes",
    "check_causal_weights",
    "check_causal_weights",
    "check_centre",
    "check_conversations",
    "check_count",
    "check_eps",
    "check_first_difference",
    "check_fold",
    "check_frequencies",
    "check_gqa",
    "check_greedy",
    "check_heads",
    "check_induction",
    "check_key_that_peaks",
    "check_kv_head",
    "check_lens",
    "check_look_up",
    "check_mask",
    "check_nearest",
    "check_pool_heads",
    "check_rms_norm",
    "check_rope_test",
    "check_rotate",
    "check_softmax",
    "check_stream",
    "check_silu",
    "check_swiglu",
    "check_width",
    "check_neuron",
    "check_sign_flip",
    "check_temperature",
    "check_tie",
    "check_to_halves",
    "check_turn_by_hand",
]

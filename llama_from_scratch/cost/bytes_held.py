"""Bytes that one rank holds at the peak of a training step, computed."""

from ..config import LlamaConfig
from .counts import Number, Recompute
from .layout import COMPUTE, STATE, Layout, Stage, stage_parameters, stages

LOGIT = COMPUTE + 3 * STATE  # bytes for each logit: itself in bf16; log-softmax, its gradient, its own gradient in fp32


def saved_bytes(config: LlamaConfig, recompute: Recompute = "none") -> dict[str, Number]:
    """Bytes that one block keeps for its backward pass, for each token, in bf16 with fused kernels.

    After Korthikanti et al., 2022, arXiv 2205.05198, section 4.1, redone for RMSNorm, GQA, SwiGLU and attention that
    never stores its weights (FlashAttention). An operation keeps what its derivative needs:
        norm: its input, and 1 / rms in fp32;          product with a matrix: its input;
        attention: q, k (rotated), v, its result, and one fp32 number for each head and token (the log of the sum);
        silu(gate) · up: both; the residual additions and the rotation: nothing.
    A result that is the next operation's input is kept once. So, with n numbers written as the width they have:
        4 dim (two norms, two inputs of matrices) + 2 q_dim + 2 kv_dim + 3 ffn_dim.
    """
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    log_sum = STATE * config.n_heads
    if recompute == "full":
        return {"input of the block": COMPUTE * config.dim}
    if recompute == "selective":  # results of the products that are not recomputed, and that of attention
        return {
            "input of the block": COMPUTE * config.dim,
            "q before its rotation": COMPUTE * q_dim,
            "v": COMPUTE * kv_dim,
            "result of attention": COMPUTE * q_dim + log_sum,
            "gate": COMPUTE * config.ffn_dim,
            "result of down": COMPUTE * config.dim,
        }
    return {
        "input of attention_norm": COMPUTE * config.dim + STATE,
        "input of q, k, v": COMPUTE * config.dim,
        "q, k, v": COMPUTE * (q_dim + 2 * kv_dim),
        "result of attention": COMPUTE * q_dim + log_sum,
        "input of ffn_norm": COMPUTE * config.dim + STATE,
        "input of gate, up": COMPUTE * config.dim,
        "gate, up": 2 * COMPUTE * config.ffn_dim,
        "input of down": COMPUTE * config.ffn_dim,
    }


def micro_batches_in_flight(layout: Layout, stage: int) -> float:
    """Micro-batches whose activations a pipeline rank holds at once; a chunk counts for its share of the layers.

    Rank s starts p - s forward passes before its first backward pass (one forward, one backward), and
    2 (p - s - 1) + (v - 1) p + 1 passes of a chunk if the schedule is interleaved; on rank 0 that is
    p · (1 + (p - 1) / (p v)) micro-batches (Korthikanti et al., 2022, arXiv 2205.05198, section 4.2.3).
    """
    p, v = layout.pipeline, layout.chunks
    passes = p - stage if v == 1 else 2 * (p - stage - 1) + (v - 1) * p + 1
    return min(passes, layout.micro_batches * v) / v


def memory(config: LlamaConfig, layout: Layout, stage: int = 0) -> dict[str, Number]:
    """Bytes at the peak of a step on one rank of a pipeline stage, trained in bf16 with fp32 master weights and AdamW.

    weights: in bf16. With ZeRO-3 only two neighbouring units (blocks, or a table of the vocabulary) are gathered at a
        time: the one in use and the one that is being fetched.
    gradients: in fp32. With ZeRO-2 and 3 a share of them, and those of the unit at work in bf16 and fp32.
    optimizer: master weights and two moments in fp32, a share of them from ZeRO-1 on.
    activations: `saved_bytes` of all blocks and micro-batches in flight; of one block in full while it is recomputed.
    logits: `LOGIT` bytes for each token and entry of the vocabulary.
    Not counted: gradients of activations while a block is at work, whole copies of what tensor parallelism gathers,
    buffers of libraries, and fragmentation of the allocator.
    Source of what ZeRO splits: Rajbhandari et al., 2020, arXiv 1910.02054, section 5.
    """
    held = stages(config, layout)[stage]
    n = stage_parameters(config, layout, held)
    share = n / (layout.data * layout.context)
    block = stage_parameters(config, layout, Stage(1, False, False))
    table = config.vocab_size * config.dim / layout.tensor
    unit = max(block, table) if held.output or held.embedding else block
    tokens = layout.local_tokens / layout.tensor
    kept = sum(saved_bytes(config, layout.recompute).values()) * held.blocks * micro_batches_in_flight(layout, stage)
    if layout.recompute != "none":
        kept += sum(saved_bytes(config).values())
    logits = held.output * config.vocab_size * LOGIT / layout.loss_chunks
    return {
        "weights": COMPUTE * (min(n, unit + block) if layout.zero == 3 else n),
        "gradients": STATE * n if layout.zero < 2 else STATE * share + (COMPUTE + STATE) * unit,
        "optimizer": 3 * STATE * (share if layout.zero else n),
        "activations": kept * tokens,
        "logits": logits * tokens,
    }


def peak_memory(config: LlamaConfig, layout: Layout) -> dict[str, Number]:
    """`memory` of the pipeline stage that needs the most."""
    every = [memory(config, layout, stage) for stage in range(layout.pipeline)]
    return max(every, key=lambda parts: sum(parts.values()))

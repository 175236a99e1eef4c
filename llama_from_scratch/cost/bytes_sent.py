"""Bytes that one rank sends in a training step, computed."""

from dataclasses import dataclass
from typing import Literal

from ..config import LlamaConfig
from .counts import Number
from .layout import COMPUTE, STATE, Layout, stage_parameters, stages


@dataclass(frozen=True)
class Transfer:
    """The bytes that one rank sends in a step with one kind of collective, within one group of ranks."""

    group: Literal["tensor", "context", "pipeline", "data", "replicas"]
    collective: Literal["all-gather", "reduce-scatter", "all-reduce", "send"]
    ranks: int
    n_bytes: Number


def sent_bytes(collective: str, n_bytes: Number, ranks: int) -> Number:
    """Bytes that each rank sends on a ring for a tensor of `n_bytes`, all shards together.

    all-gather and reduce-scatter: (n - 1) / n of it, in n - 1 turns of one shard; all-reduce is one after the other.
    Source: Patarasuk and Yuan, 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
    """
    if collective == "send":
        return n_bytes
    return (2 if collective == "all-reduce" else 1) * n_bytes * (ranks - 1) / ranks


def communication(config: LlamaConfig, layout: Layout, stage: int = 0) -> list[Transfer]:
    """The transfers of one rank of a pipeline stage in one step.

    tensor: with sequence parallelism, attention and feed-forward begin with an all-gather and end in a reduce-scatter,
        forward and backward; one more all-gather each, backward, of the inputs that were kept in shards (Korthikanti
        et al., 2022, arXiv 2205.05198, section 4.2.2). Full recomputation repeats the forward ones. The embedding
        ends in a reduce-scatter, the output begins with an all-gather, and the other way round backward.
    context: keys and values of the whole text are gathered forward and again backward, and their gradients scattered.
    pipeline: the stream is sent on, and its gradient back, once for each chunk.
    data: weights in bf16, gradients in fp32. ZeRO-3 gathers weights forward and backward of each micro-batch, ZeRO-1
        and 2 once a step. ZeRO-2 and 3 scatter gradients after each micro-batch, ZeRO-1 once a step; ZeRO-0 reduces.
    replicas: the rank's gradients are reduced once a step.
    """
    held, m = stages(config, layout)[stage], layout.micro_batches
    n = stage_parameters(config, layout, held)
    stream = layout.local_tokens * config.dim * COMPUTE  # bytes of the residual stream of one micro-batch
    pair = 2 * config.n_kv_heads * config.head_dim * COMPUTE * layout.micro_batch * layout.seq / layout.tensor
    again = layout.recompute == "full"
    gathers = held.blocks * (6 + 2 * again) + held.embedding + 2 * held.output
    scatters = held.blocks * (4 + 2 * again) + held.embedding + held.output
    shards = layout.data * layout.context
    counts = [
        ("tensor", "all-gather", layout.tensor, gathers * m * stream),
        ("tensor", "reduce-scatter", layout.tensor, scatters * m * stream),
        ("context", "all-gather", layout.context, (2 + again) * held.blocks * m * pair),
        ("context", "reduce-scatter", layout.context, held.blocks * m * pair),
    ]
    if layout.pipeline > 1:
        ways = 2 * layout.chunks - held.embedding - held.output  # nothing before the first chunk, nor after the last
        counts.append(("pipeline", "send", layout.pipeline, ways * m * stream / layout.tensor))
    if layout.zero == 0:
        counts.append(("data", "all-reduce", shards, STATE * n))
    else:
        counts.append(("data", "all-gather", shards, COMPUTE * n * (2 * m if layout.zero == 3 else 1)))
        counts.append(("data", "reduce-scatter", shards, STATE * n * (1 if layout.zero == 1 else m)))
    counts.append(("replicas", "all-reduce", layout.replicas, STATE * n / (shards if layout.zero else 1)))
    return [
        Transfer(group, collective, ranks, sent_bytes(collective, n_bytes, ranks))
        for group, collective, ranks, n_bytes in counts
        if ranks > 1
    ]

"""Training on many GPUs, on paper: memory of each rank, bytes it sends, time of a step, for 8 to 16,384 GPUs.

What follows from arithmetic is exact or nearly so: parameters, FLOPs, bytes kept, bytes sent. Time is a projection:
every part at the best rate that was measured for its kind on the accelerator, times one number, `SUSTAINED`, fitted
once over published runs, because a whole run never sustains the best rates: clocks fall under load, shapes are not the
best ones, kernels have gaps, ranks wait for each other. Against those runs, each left out of the fit in its turn, the
projection errs by up to 15 %.

Biases, which no released Llama has, are not counted.

Letters as in the papers: t tensor-parallel ranks, c context-parallel, p pipeline, v chunks of layers on each pipeline
rank, m micro-batches. Ranks are numbered with tensor parallelism innermost, then context, pipeline, data.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

from ..config import LlamaConfig
from ..cost import RECOMPUTED, Number, Recompute, forward_flops, matrices, training_flops

COMPUTE, STATE = 2, 4  # bytes of a number in bf16 (weights in use, activations) and fp32 (master weights, gradients)

# Shares of the peak that long transfers reach. Assumptions, the same for every run.
MEMORY_SHARE = 0.9  # of the bandwidth of the GPU's own memory
LINK_SHARE = 0.8  # of a link between GPUs

# Share of the best measured rates that a whole training run sustains. The only fitted number: it makes the geometric
# mean of projected over reported speed one for the published runs in tests/test_calculator.py.
SUSTAINED = 0.71

LOGIT = COMPUTE + 3 * STATE  # bytes for each logit: itself in bf16; log-softmax, its gradient, its own gradient in fp32


@dataclass(frozen=True)
class Accelerator:
    """One GPU and its links. FLOP/s are dense bf16; bandwidths are bytes per second, links in one direction."""

    name: str
    peak_flops: float  # of the data sheet; MFU is a share of this
    matmul_flops: float  # best that was measured for one matrix product
    attention_flops: float  # measured for a fused attention kernel
    memory: int  # bytes
    memory_bandwidth: float
    node_bandwidth: float  # from one GPU to the others of its machine
    network_bandwidth: float  # from one GPU to other machines
    gpus_per_node: int = 8


# Peak, memory and links: NVIDIA's data sheets (NVLink 900 and 600 GB/s count both directions; 80 GB is 80 · 2^30 bytes)
# and the network of the machine named. Matrix products: Bekman, Machine Learning Engineering, table "Maximum
# Achievable Matmul FLOPS" (A100 267.9, H100 792.1 TFLOP/s). Attention: FlashAttention-2, 35 % of the peak on an H100
# (Shah et al., 2024, arXiv 2407.08608, abstract) and 50 to 73 % on an A100 (Dao, 2023, arXiv 2307.08691, abstract).
# Network: 400 Gb/s for each H100 (Dubey et al., 2024, arXiv 2407.21783, section 3.3.1), 200 Gb/s for each A100 (DGX).
H100_SXM = Accelerator("H100 SXM", 989.4e12, 792.1e12, 0.35 * 989.4e12, 80 * 2**30, 3.35e12, 450e9, 50e9)
A100_SXM = Accelerator("A100 SXM", 312e12, 267.9e12, 0.615 * 312e12, 80 * 2**30, 2.04e12, 300e9, 25e9)


@dataclass(frozen=True)
class Layout:
    """How a model is laid over GPUs, and what each step computes.

    Raises:
        ValueError: if a count is not a whole number of at least 1, a choice is unknown, or a text cannot be shared out.
    """

    data: int = 1  # ranks that read different texts and share the states below
    zero: Literal[0, 1, 2, 3] = 3  # what those ranks split: 1 the optimizer, 2 and gradients, 3 and weights (FSDP)
    replicas: int = 1  # copies of all this, which read different texts too (hybrid sharding)
    tensor: int = 1  # ranks that split every matrix, and the tokens between matrices (sequence parallelism)
    context: int = 1  # ranks that split the tokens of each text; they split states as `data` does
    pipeline: int = 1  # ranks that split the layers
    chunks: int = 1  # pieces of the model on each pipeline rank (interleaved schedule)
    seq: int = 8192  # tokens of a text
    micro_batch: int = 1  # texts that are computed together
    micro_batches: int = 1  # in a step, one after another
    recompute: Recompute = "none"
    loss_chunks: int = 1  # parts in which logits and loss are computed, one after another

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "zero":
                if value not in (0, 1, 2, 3):
                    raise ValueError(f"zero is {value!r}; it must be 0, 1, 2 or 3")
            elif name == "recompute":
                if value not in RECOMPUTED:
                    raise ValueError(f"recompute is {value!r}; it must be one of {', '.join(RECOMPUTED)}")
            elif type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.seq % (self.context * self.tensor):
            raise ValueError(
                f"seq is {self.seq}; it must be a multiple of context times tensor, {self.context * self.tensor}, "
                "so that each rank gets its share of a text"
            )

    @property
    def gpus(self) -> int:
        return self.data * self.replicas * self.tensor * self.context * self.pipeline

    @property
    def tokens(self) -> int:
        """Tokens of one step, all GPUs together."""
        return self.data * self.replicas * self.micro_batches * self.micro_batch * self.seq

    @property
    def local_tokens(self) -> int:
        """Tokens of one micro-batch on one rank, before tensor parallelism splits them further."""
        return self.micro_batch * self.seq // self.context


@dataclass(frozen=True)
class Stage:
    """What one pipeline rank holds."""

    blocks: int
    embedding: bool
    output: bool


def stages(config: LlamaConfig, layout: Layout) -> list[Stage]:
    """The layers of each pipeline rank: the embedding and the output count as a block each, so the ends get one fewer.

    That is how Llama 3 balances its pipeline (Dubey et al., 2024, arXiv 2407.21783, section 3.3.2).
    Raises ValueError where the model cannot be cut like this.
    """
    divided = {"n_kv_heads": config.n_kv_heads, "ffn_dim": config.ffn_dim, "vocab_size": config.vocab_size}
    for name, size in divided.items():
        if size % layout.tensor:
            raise ValueError(f"tensor is {layout.tensor}; it must divide {name}, which is {size}")
    p = layout.pipeline
    edges = [round(i * (config.n_layers + 2) / p) for i in range(p + 1)]
    counts = [end - start for start, end in pairwise(edges)]
    if min(counts) < layout.chunks:
        raise ValueError(
            f"{config.n_layers} layers, embedding and output are too few for {p} pipeline ranks of {layout.chunks} "
            "chunks each; use fewer of either"
        )
    return [Stage(n - (i == 0) - (i == p - 1), i == 0, i == p - 1) for i, n in enumerate(counts)]


def stage_parameters(config: LlamaConfig, layout: Layout, stage: Stage) -> Number:
    """Parameters on one rank of this stage, all layers, before data parallelism splits them.

    Tensor parallelism cuts every matrix. Norms stay whole: 2 · dim numbers in each block, and the last one. A tied
    table lies on both ends of a pipeline.
    """
    block = sum(inputs * outputs for inputs, outputs in matrices(config).values()) / layout.tensor + 2 * config.dim
    table = config.vocab_size * config.dim / layout.tensor
    both_ends = stage.embedding and stage.output and config.tie_embeddings  # one table, stored once
    tables = (stage.embedding + stage.output - both_ends) * table
    return stage.blocks * block + tables + stage.output * config.dim


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
    if recompute == "selective":  # results of the products that are not recomputed, and what attention gave
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

    weights: in bf16. With ZeRO-3 only two neighbouring units (blocks, or a table of the vocabulary) are whole at once:
        the one in use and the one that is being fetched.
    gradients: in fp32. With ZeRO-2 and 3 a share of them, and those of the unit at work in bf16 and fp32.
    optimizer: master weights and two moments in fp32, a share of them from ZeRO-1 on.
    activations: `saved_bytes` of all blocks and micro-batches in flight; of one block in full while it is recomputed.
    logits: `LOGIT` bytes for each token and entry of the vocabulary.
    Not counted: gradients of activations while a block is at work, whole copies of what tensor parallelism gathers,
    buffers of libraries, and gaps that the allocator leaves.
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
    """`memory` of the pipeline stage that needs most."""
    every = [memory(config, layout, stage) for stage in range(layout.pipeline)]
    return max(every, key=lambda parts: sum(parts.values()))


@dataclass(frozen=True)
class Transfer:
    """What one rank sends in a step with one kind of collective, within one group of ranks."""

    group: Literal["tensor", "context", "pipeline", "data", "replicas"]
    collective: Literal["all-gather", "reduce-scatter", "all-reduce", "send"]
    ranks: int
    n_bytes: Number


def sent_bytes(collective: str, n_bytes: Number, ranks: int) -> Number:
    """Bytes that each rank sends for a tensor of `n_bytes` (the whole, not the shard), on a ring.

    all-gather and reduce-scatter: (n - 1) / n of it, in n - 1 turns of one shard; all-reduce is one after the other.
    Source: Patarasuk and Yuan, 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
    """
    if collective == "send":
        return n_bytes
    return (2 if collective == "all-reduce" else 1) * n_bytes * (ranks - 1) / ranks


def communication(config: LlamaConfig, layout: Layout, stage: int = 0) -> list[Transfer]:
    """What one rank of a pipeline stage sends in one step.

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
        ways = 2 * layout.chunks - held.embedding - held.output  # no one before the first chunk, nor behind the last
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


def link_bandwidth(layout: Layout, gpu: Accelerator, group: str) -> float:
    """Bytes per second that each rank of a group can send to its neighbour on the ring, at the peak of the links.

    A group within one machine has the links inside. Else the ring crosses between machines, and the members on one
    machine share its network cards: n of them send at the rate of n cards, up to that of the links inside.
    """
    axes = {name: getattr(layout, name) for name in ("tensor", "context", "pipeline", "data", "replicas")}
    moving = ("context", "data") if group == "data" else (group,)
    members = 0  # ranks of rank 0's machine that are in its group
    for rank in range(min(gpu.gpus_per_node, layout.gpus)):
        index, outside = rank, 0
        for name, size in axes.items():
            index, coordinate = divmod(index, size)
            outside += coordinate * (name not in moving)
        members += outside == 0
    if members == prod(axes[name] for name in moving):
        return gpu.node_bandwidth
    return min(gpu.node_bandwidth, members * gpu.network_bandwidth)


@dataclass(frozen=True)
class Step:
    """Projected seconds of one training step, by what the GPU is at; and what it achieves."""

    products: float  # products with matrices
    attention: float
    elementwise: float  # norms, rotations, activations, residual additions, loss: memory sets their pace
    optimizer: float
    communication: float  # what is not hidden behind arithmetic
    bubble: float  # the pipeline fills and drains
    tokens: float  # of each GPU
    flops: float  # of the model itself, on each GPU
    peak: float  # FLOP/s of the GPU's data sheet

    @property
    def seconds(self) -> float:
        busy = self.products + self.attention + self.elementwise + self.optimizer
        return busy + self.communication + self.bubble

    @property
    def tokens_per_second(self) -> float:
        """Of each GPU."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Share of the peak that went into the model's own FLOPs; recomputation does not count."""
        return self.flops / self.seconds / self.peak


def step(config: LlamaConfig, layout: Layout, gpu: Accelerator = H100_SXM, causal: bool = False) -> Step:
    """The projected time of one step, on the pipeline rank that computes longest.

    Matrix products run at `matmul_flops`. Attention runs at `attention_flops`; it computes only what the causal mask
    leaves, and 2.5 times the forward's FLOPs backward (it computes q·k again). All else between two products is one
    fused kernel that reads its inputs and writes its output once, and twice that backward. Rates are times `SUSTAINED`.
    Waited for: collectives of tensor and context parallelism, and those of data parallelism as far as they last longer
    than the arithmetic of the step. Not waited for: what the pipeline sends. The pipeline stands still for
    (p - 1) / (v m) of the time (Narayanan et al., 2021, arXiv 2104.04473, section 2.2).
    causal: which FLOPs the MFU counts, see `training_flops`; the time does not change.
    """
    every = [_stage_seconds(config, layout, gpu, stage) for stage in range(layout.pipeline)]
    tokens = layout.tokens / layout.gpus
    flops = tokens * training_flops(config, layout.seq, causal=causal)
    return Step(**max(every, key=lambda parts: sum(parts.values())), tokens=tokens, flops=flops, peak=gpu.peak_flops)


def _stage_seconds(config: LlamaConfig, layout: Layout, gpu: Accelerator, stage: int) -> dict[str, float]:
    held = stages(config, layout)[stage]
    tokens = layout.micro_batches * layout.local_tokens / layout.tensor
    again = layout.recompute != "none"
    forward = forward_flops(config, (layout.seq + 1) / 2)
    size = {name: inputs * outputs for name, (inputs, outputs) in matrices(config).items()}

    products = held.blocks * (6 * sum(size.values()) + 2 * sum(size[name] for name in RECOMPUTED[layout.recompute]))
    products += held.output * 3 * forward["output projection"]
    attention = held.blocks / config.n_layers * forward["keys and values"] * (3.5 + (layout.recompute == "full"))

    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    # Numbers read and written: norms 2 · 2 dim, residual additions 2 · 3 dim, rotation in and out, gate and up to one.
    numbers = 10 * config.dim + 2 * (q_dim + kv_dim) + 3 * config.ffn_dim
    moved = held.blocks * COMPUTE * numbers * (3 + again)
    moved += held.output * config.vocab_size * 2 * LOGIT  # each of the loss's buffers is written once and read once
    own = stage_parameters(config, layout, held) / (layout.data * layout.context if layout.zero else 1)
    updated = own * (7 * STATE + COMPUTE)  # read weight, gradient and moments; write weight, moments and bf16 weight

    bandwidth = gpu.memory_bandwidth * MEMORY_SHARE
    seconds = {
        "products": tokens * products / (gpu.matmul_flops * SUSTAINED),
        "attention": tokens * attention / (gpu.attention_flops * SUSTAINED),
        "elementwise": tokens * moved / (bandwidth * SUSTAINED),
    }
    busy = sum(seconds.values())
    links = dict.fromkeys(("tensor", "context", "pipeline", "data", "replicas"), 0.0)
    for transfer in communication(config, layout, stage):
        links[transfer.group] += transfer.n_bytes / (link_bandwidth(layout, gpu, transfer.group) * LINK_SHARE)
    within = links["tensor"] + links["context"]
    seconds["communication"] = within + max(0.0, links["data"] + links["replicas"] - busy)
    seconds["bubble"] = (busy + within) * (layout.pipeline - 1) / (layout.chunks * layout.micro_batches)
    seconds["optimizer"] = updated / bandwidth
    return seconds

"""Seconds of one training step, and the share of the GPU's peak that it uses (MFU): a projection.

Every part runs at the best rate measured for its kind on the accelerator, times one number, `SUSTAINED`, which was
fitted to published runs. Long runs do not sustain the best rates: clocks fall under load, shapes are not ideal, there
are gaps between kernels, and ranks wait for each other. If each of those runs in turn is left out of the fit, its
projection errs by up to 15 %.
"""

from dataclasses import dataclass

from ..config import LlamaConfig
from .accelerator import H100_SXM, Accelerator, link_bandwidth
from .bytes_held import LOGIT
from .bytes_sent import communication
from .counts import RECOMPUTED, forward_flops, matrices, training_flops
from .layout import COMPUTE, STATE, Layout, stage_parameters, stages

# Shares of the peak that long transfers reach. Assumptions, the same for every run.
MEMORY_SHARE = 0.9  # of the bandwidth of the GPU's own memory
LINK_SHARE = 0.8  # of a link between GPUs

# Share of the best measured rates that a training run sustains. The only fitted number: it makes the geometric
# mean of projected over reported speed one for the published runs in tests/cost/test_calculator.py.
SUSTAINED = 0.71


@dataclass(frozen=True)
class Step:
    """Projected seconds of one training step, by kind of work, and the rates that follow."""

    products: float  # products with matrices
    attention: float
    elementwise: float  # norms, rotations, activations, residual additions, loss: bound by memory bandwidth
    optimizer: float
    communication: float  # the part that does not overlap with arithmetic
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
        """For each GPU."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs per second as a share of the peak; recomputation does not count."""
        return self.flops / self.seconds / self.peak


def step(config: LlamaConfig, layout: Layout, gpu: Accelerator = H100_SXM, causal: bool = False) -> Step:
    """The projected time of one step, on the pipeline rank that computes longest.

    Matrix products run at `matmul_flops`. Attention runs at `attention_flops`; it computes only what the causal mask
    leaves, and 2.5 times the forward's FLOPs backward (it computes q·k again). All else between two products is one
    fused kernel that reads its inputs and writes its output once, and twice that backward. Rates are times `SUSTAINED`.
    Collectives of tensor and context parallelism add to the time; those of data parallelism only as far as they take
    longer than the arithmetic of the step; the transfers of the pipeline do not. The pipeline is idle for (p - 1) / (v
    m) of the time (Narayanan et al., 2021, arXiv 2104.04473, section 2.2). causal: which FLOPs the MFU counts, see
    `training_flops`; the time does not change.
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

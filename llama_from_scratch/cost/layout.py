"""How a model is distributed over many GPUs: the ranks that split it, and the parameters that each holds.

Ranks are numbered with tensor parallelism innermost, then context, pipeline, data.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..config import LlamaConfig
from .counts import RECOMPUTED, Number, Recompute, matrices

COMPUTE, STATE = 2, 4  # bytes of a number in bf16 (weights in use, activations) and fp32 (master weights, gradients)


@dataclass(frozen=True)
class Layout:
    """How a model is distributed over GPUs, and what each step computes.

    Raises:
        ValueError: if a count is not an integer of at least 1, a choice is unknown, or a text cannot be divided evenly.
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
    """The parts of the model that one pipeline rank holds."""

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

    Tensor parallelism cuts every matrix. Norms are replicated: 2 · dim numbers in each block, and the last one. A tied
    table is stored at both ends of a pipeline.
    """
    block = sum(inputs * outputs for inputs, outputs in matrices(config).values()) / layout.tensor + 2 * config.dim
    table = config.vocab_size * config.dim / layout.tensor
    both_ends = stage.embedding and stage.output and config.tie_embeddings  # one table, stored once
    tables = (stage.embedding + stage.output - both_ends) * table
    return stage.blocks * block + tables + stage.output * config.dim

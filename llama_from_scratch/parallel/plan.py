"""Which rank holds which part of each weight: one table, which sharded training uses and the book draws.

Ranks form a grid, the device mesh, with two axes. Along "data", ranks read different texts, and each stores a part of
every weight; the parts of a layer are gathered just before it is used (FSDP, Zhao et al., 2023, arXiv 2304.11277,
section 3). Along "tensor", ranks read the same text, and each computes with its own part of every matrix (Shoeybi et
al., 2019, arXiv 1909.08053, section 3).
"""

from collections.abc import Mapping

from ..config import LlamaConfig
from ..cost import matrices
from ..files.errors import ArgumentError

AXES = ("data", "tensor")  # of the mesh, outermost first: the ranks of one "tensor" group are neighbours

# Name of a module -> axis of the mesh -> the dimension of its weight that this axis cuts. Rows (0) are outputs, columns
# (1) are inputs. Along an axis that is absent, every rank has the full weight. Where both axes cut the rows, "tensor"
# cuts first, and "data" cuts its parts. A bias is cut with the rows of its matrix.
PLAN: dict[str, dict[str, int]] = {
    "embedding": {"data": 0, "tensor": 0},  # some tokens of the vocabulary; a tied lm_head is the same tensor
    "attention_norm": {"data": 0},
    "q_proj": {"data": 0, "tensor": 0},  # some heads …
    "k_proj": {"data": 0, "tensor": 0},
    "v_proj": {"data": 0, "tensor": 0},
    "o_proj": {"data": 0, "tensor": 1},  # … are read where they were computed; the results of all ranks are added up
    "ffn_norm": {"data": 0},
    "gate_proj": {"data": 0, "tensor": 0},  # some features of the feed-forward …
    "up_proj": {"data": 0, "tensor": 0},
    "down_proj": {"data": 0, "tensor": 1},  # … likewise
    "norm": {"data": 0},
    "lm_head": {"data": 0, "tensor": 0},  # the logits of some tokens
}


def shapes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """(rows, columns) of the matrices of one block, by their names in `PLAN`; `plots.sharding.draw_plan` needs both."""
    return {f"{name}_proj": (outputs, inputs) for name, (inputs, outputs) in matrices(config).items()}


def check_tensor(config: LlamaConfig, tensor: int) -> None:
    """Check that the matrices can be cut into `tensor` equal parts, and no head is cut.

    Raises:
        ValueError: if not; it names what cannot be divided.
    """
    counts: Mapping[str, int] = {
        "key/value heads": config.n_kv_heads,  # and so the query heads, which are a multiple of them
        "feed-forward features": config.ffn_dim,
        "tokens of the vocabulary": config.vocab_size,
    }
    for what, count in counts.items():
        if count % tensor:
            fitting = [n for n in range(2, tensor) if not any(count % n for count in counts.values())]
            advice = f"take {fitting[-1]}, or " if fitting else ""
            raise ArgumentError(
                "{tensor_parallel} {tensor} cannot share out {count} {what} evenly; {advice}change the model, or "
                "leave it out: the processes then share the batch alone",
                tensor=tensor,
                count=count,
                what=what,
                advice=advice,
            )


def check_batch(batch_size: int, data: int) -> None:
    """Check that a batch has equally many rows for each of `data` ranks.

    Raises:
        ValueError: if not.
    """
    if batch_size % data:
        raise ArgumentError(
            "{batch_size} is {value}, of all processes together; it must be a multiple of the {data} among which "
            "it is divided, such as {next}",
            value=batch_size,
            data=data,
            next=-(-batch_size // data) * data,
        )

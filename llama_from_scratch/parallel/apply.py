"""Shard a plain Llama, in place, by the table in `plan`, with PyTorch's FSDP2 and DTensor.

The model's own code does not change. Its parameters become DTensors, which know the full tensor's shape and hold this
rank's part of it; hooks gather, cut and add up what flows between modules.
"""

import logging
import warnings
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from ..cache import KVCache
from ..model import Llama
from .plan import PLAN, check_tensor


def parallelise(model: Llama, mesh: DeviceMesh) -> None:
    """Cut the weights of a model over a mesh with the axes "data" and "tensor", and move them to its devices.

    Every rank must call this with the same weights, and keeps its part of them. From then on all ranks must call
    `hidden` and `logits` together: with the same tokens along "tensor", with any along "data". Gradients are means over
    "data", as always with FSDP; see `share_batch`.

    Raises:
        ValueError: if the matrices cannot be cut into that many equal parts.
    """
    check_tensor(model.config, mesh["tensor"].size())
    if mesh["tensor"].size() > 1:
        _cut_matrices(model, mesh["tensor"])
    for block in model.blocks:  # the weights of one are gathered while another computes
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])  # the rest; it stays gathered from `hidden` on, so that `logits` finds it
    register_fsdp_forward_method(model, "hidden")
    # The warning is true and harmless: a norm's output is a view of a DTensor's local part, and nothing writes to it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # Its warnings advise one collective in place of two where both axes cut the rows. Only saving and the gradient norm
    # gather there, so it does not matter. The logger has no public name.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


def _cut_matrices(model: Llama, tensor: DeviceMesh) -> None:
    tied = model.lm_head is None
    if tied:  # a separate module for the output projection, so that it is cut as one
        model.lm_head = nn.Linear(model.config.dim, model.config.vocab_size, bias=False, device="meta")
    styles = {}
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if kind in PLAN:
            styles[name] = _style(module, PLAN[kind].get("tensor"))
    # The residual stream is replicated. Its gradients from q, k and v (and from gate and up) are added locally first,
    # so that one all-reduce serves them all.
    replicated, none = Replicate(), None
    for inputs, kind in (((replicated, none, none, none, none), "attention"), ((replicated,), "feed_forward")):
        styles[f"blocks.*.{kind}"] = PrepareModuleInput(input_layouts=inputs, desired_input_layouts=inputs)
    styles["lm_head"] = ColwiseParallel(output_layouts=replicated)
    parallelize_module(model, tensor, styles, src_data_rank=None)  # None: each rank cuts its own copy
    if tied:
        model.lm_head.weight = model.embedding.weight  # the same rows of the table


def _style(module: nn.Module, dimension: int | None) -> ParallelStyle:
    """PyTorch's style for a cut of this dimension. Its "Colwise" is dimension 0: columns of W as papers write x W."""
    if dimension is None:
        return _Replicated()
    if isinstance(module, nn.Embedding):
        return RowwiseParallel(input_layouts=Replicate())
    return ColwiseParallel() if dimension == 0 else RowwiseParallel()


class _Replicated(ParallelStyle):
    """The full weight on every rank, as a DTensor like all others, so that one gradient norm can be taken over all."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def enter(_module: nn.Module, inputs: tuple[Tensor, ...], mesh: DeviceMesh) -> DTensor:
            return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False)

        def leave(_module: nn.Module, output: DTensor, _mesh: DeviceMesh) -> Tensor:
            return output.to_local()

        return distribute_module(module, device_mesh, None, enter, leave)


def share_batch(loss: nn.Module, mesh: DeviceMesh, ignore: int) -> None:
    """Make all ranks compute `loss`, which maps (tokens, targets) to a sum over targets, together; in place.

    Each rank calls it with the full batch, computes its rows along "data", and gets the sum over all rows; the gradient
    of a sharded model is then that of this sum. A batch that cannot be divided evenly is filled up with rows whose
    targets are all `ignore`.
    """
    data = mesh["data"]

    def take_rows(_module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        tokens, targets = batch
        return rows_of(tokens, data, 0), rows_of(targets, data, ignore)

    def add_up(_module: nn.Module, _batch: tuple[Tensor, Tensor], part: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return _SumOverRanks.apply(part, data)

    loss.register_forward_pre_hook(take_rows)
    loss.register_forward_hook(add_up)


class _SumOverRanks(torch.autograd.Function):
    """The sum over n ranks. Its gradient is 1 for each, times n, because FSDP takes the mean of n gradients."""

    @staticmethod
    def forward(context: FunctionCtx, part: Float[Tensor, ""], data: DeviceMesh) -> Float[Tensor, ""]:
        context.ranks, total = data.size(), part.clone()
        dist.all_reduce(total, group=data.get_group())
        return total

    @staticmethod
    def backward(context: FunctionCtx, of_sum: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], None]:
        return of_sum * context.ranks, None


def rows_of(batch: Int[Tensor, "batch seq"], data: DeviceMesh, filler: int) -> Int[Tensor, "part seq"]:
    """This rank's rows of a batch; every rank gets equally many, with rows of `filler` at the end."""
    missing = -len(batch) % data.size()
    return F.pad(batch, (0, 0, 0, missing), value=filler).chunk(data.size())[data.get_local_rank()]


def part_like(weight: DTensor, full: Tensor) -> DTensor:
    """This rank's part of a full tensor, cut like `weight`."""
    return distribute_tensor(full, weight.device_mesh, weight.placements, src_data_rank=None)


def new_cache(model: Llama, mesh: DeviceMesh, capacity: int) -> KVCache:
    """An empty cache for one text, with the key/value heads that this rank computes."""
    weight, parts = model.embedding.weight, mesh["tensor"].size()
    config = replace(model.config, n_heads=model.config.n_heads // parts, n_kv_heads=model.config.n_kv_heads // parts)
    return KVCache(config, 1, capacity, weight.dtype, weight.device)

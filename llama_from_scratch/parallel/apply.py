"""A plain Llama becomes a sharded one, in place, after the table in `plan`: PyTorch's FSDP2 and DTensor do the work.

The model's own code stays as it is. Its parameters become DTensors, which know what the whole is and which part of it
lies here; hooks gather, cut and add up what flows between modules.
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

    Every rank gives the same weights and keeps its part. `hidden` and `logits` then need all ranks of the mesh; those
    along "data" may give different tokens, those along "tensor" must give the same. Gradients come out as the mean over
    "data", as FSDP has it; see `share_batch`.

    Raises:
        ValueError: if the matrices cannot be cut into so many parts.
    """
    check_tensor(model.config, mesh["tensor"].size())
    if mesh["tensor"].size() > 1:
        _cut_matrices(model, mesh["tensor"])
    for block in model.blocks:  # the weights of one are gathered while another computes
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])  # the rest; it stays gathered from `hidden` on, so that `logits` finds it
    register_fsdp_forward_method(model, "hidden")
    # True, and harmless here: a norm's output is a view of a DTensor's own part, and nobody writes into it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # It advises to make one collective of two where both axes cut the rows: only saves and the norm's scalars do that.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


def _cut_matrices(model: Llama, tensor: DeviceMesh) -> None:
    tied = model.lm_head is None
    if tied:  # a module of its own for the table as output projection, so that it is cut like one
        model.lm_head = nn.Linear(model.config.dim, model.config.vocab_size, bias=False, device="meta")
    styles = {}
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if kind in PLAN:
            styles[name] = _style(module, PLAN[kind].get("tensor"))
    # The stream between layers is whole on every rank. Where q, k and v (gate and up) read it, their gradients for it
    # are added up once, and not each on its own.
    whole, none = Replicate(), None
    for inputs, kind in (((whole, none, none, none, none), "attention"), ((whole,), "feed_forward")):
        styles[f"blocks.*.{kind}"] = PrepareModuleInput(input_layouts=inputs, desired_input_layouts=inputs)
    styles["lm_head"] = ColwiseParallel(output_layouts=whole)
    parallelize_module(model, tensor, styles, src_data_rank=None)  # None: each rank cuts its own copy, nothing is sent
    if tied:
        model.lm_head.weight = model.embedding.weight  # the same rows of the table


def _style(module: nn.Module, dimension: int | None) -> ParallelStyle:
    """PyTorch's name for a cut. Its "Colwise" is dimension 0: columns of the matrix as papers write it, x W."""
    if dimension is None:
        return _Whole()
    if isinstance(module, nn.Embedding):
        return RowwiseParallel(input_layouts=Replicate())
    return ColwiseParallel() if dimension == 0 else RowwiseParallel()


class _Whole(ParallelStyle):
    """The whole weight on every rank, as a DTensor like all others: so the norm of the gradient is over one kind."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def enter(_module: nn.Module, inputs: tuple[Tensor, ...], mesh: DeviceMesh) -> DTensor:
            return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False)

        def leave(_module: nn.Module, output: DTensor, _mesh: DeviceMesh) -> Tensor:
            return output.to_local()

        return distribute_module(module, device_mesh, None, enter, leave)


def share_batch(loss: nn.Module, mesh: DeviceMesh, ignore: int) -> None:
    """Let `loss`, which maps (tokens, targets) to a sum over targets, be computed by all ranks together, in place.

    Each rank gives the whole batch, computes its rows along "data", and is given the sum over all rows; the gradient of
    a sharded model is then that of the sum. Rows whose targets are all `ignore` fill up a batch that cannot be shared
    out evenly.
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
    """The sum of what n ranks give. Its gradient for each is 1, times n, because FSDP takes the mean of n gradients."""

    @staticmethod
    def forward(context: FunctionCtx, part: Float[Tensor, ""], data: DeviceMesh) -> Float[Tensor, ""]:
        context.ranks, total = data.size(), part.clone()
        dist.all_reduce(total, group=data.get_group())
        return total

    @staticmethod
    def backward(context: FunctionCtx, of_sum: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], None]:
        return of_sum * context.ranks, None


def rows_of(batch: Int[Tensor, "batch seq"], data: DeviceMesh, filler: int) -> Int[Tensor, "part seq"]:
    """This rank's rows of a batch, as many as every other rank's."""
    missing = -len(batch) % data.size()
    return F.pad(batch, (0, 0, 0, missing), value=filler).chunk(data.size())[data.get_local_rank()]


def part_like(weight: DTensor, whole: Tensor) -> DTensor:
    """What this rank keeps of `whole`, cut like `weight`."""
    return distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None)


def new_cache(model: Llama, mesh: DeviceMesh, capacity: int) -> KVCache:
    """An empty cache for one text, of the key/value heads that this rank computes."""
    weight, parts = model.embedding.weight, mesh["tensor"].size()
    config = replace(model.config, n_heads=model.config.n_heads // parts, n_kv_heads=model.config.n_kv_heads // parts)
    return KVCache(config, 1, capacity, weight.dtype, weight.device)

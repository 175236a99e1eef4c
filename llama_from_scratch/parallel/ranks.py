"""The processes of one job, as torchrun starts them: joining, waiting, agreeing, and the device mesh.

A process that was not started by torchrun is a job of one, for which all of this works as well. Processes communicate
through gloo on CPUs and through nccl on CUDA devices; the latter is not tested.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..files.errors import ArgumentError
from .plan import AXES

# How long a process waits for the others. The first may prepare texts for hours, and PyTorch's default of 10 or 30
# minutes would end the job. A killed process is noticed without a timeout: gloo sees it at once, and torchrun ends the
# others.
PATIENCE = timedelta(days=7)


@contextmanager
def joined(device: str, go_on: str) -> Iterator[str]:
    """Join the job that torchrun started, if it did; yields the device of this process.

    device: "cpu", or "cuda", of which each process of a machine takes its own. go_on: how to resume the job, for the
    message if another process has ended.

    After an error all processes end, and only the first that failed reports it. So an error that all of them meet is
    reported once, and processes that only lost the others report nothing.

    Raises:
        ValueError: if torchrun started several processes, and the device is neither, or there are fewer GPUs.
        ConnectionError: if another process has ended.
        SystemExit: with code 2, if another process reports the error.
    """
    if not started_together():
        yield device
        return
    store, rank, world = next(dist.rendezvous("env://"))
    try:
        backend, device = _place(device)
        group = dist.PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=PATIENCE)
        yield device
    except Exception as error:
        if is_lost_process(error):
            error = ConnectionError(
                f"another process of this job has ended, killed or short of memory perhaps; {go_on}"
            )
        if store.add("errors", 1) > 1:
            raise SystemExit(2) from None
        raise error from None
    dist.destroy_process_group()


def started_together() -> bool:
    """Whether torchrun started this process."""
    return dist.is_torchelastic_launched()


def _place(device: str) -> tuple[str, str]:
    """Backend and device of this process."""
    if device == "cpu":
        return "gloo", device
    if device != "cuda":
        raise ArgumentError(
            "{device} is {value}; processes that torchrun starts run on cpu, or each on its own cuda", value=device
        )
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > devices:
        raise ArgumentError(
            "torchrun started {here} processes on this machine and PyTorch sees {devices} CUDA devices here; "
            "start no more than there are, or give {device} cpu",
            here=here,
            devices=devices,
        )
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    return "nccl", device


def is_lost_process(error: Exception) -> bool:
    """Whether a collective failed because another process has ended. gloo raises a plain RuntimeError then."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def count() -> int:
    """The number of processes of this job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the first process, which alone writes files and prints."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait() -> None:
    """Block until every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def anywhere(here: bool) -> bool:
    """Whether `here` is true in any process; all must call this."""
    if not dist.is_initialized():
        return here
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(here), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def of_the_first(text: str) -> str:
    """The `text` of the first process, in every process; all must call this."""
    texts = [text]
    if dist.is_initialized():
        dist.broadcast_object_list(texts)
    return texts[0]


def mesh(tensor_parallel: int, device: str) -> DeviceMesh | None:
    """The grid of all processes, `tensor_parallel` of them along the axis "tensor"; None if there is only one process.

    Raises:
        ArgumentError: if `tensor_parallel` is below 1 or does not divide their number.
    """
    if tensor_parallel < 1:
        raise ArgumentError(
            "{tensor_parallel} is {value}; it must be a whole number of at least 1", value=tensor_parallel
        )
    if count() % tensor_parallel:
        how = (
            "start as many with torchrun --nproc-per-node"
            if count() == 1
            else f"give one of {_divisors(count())}, or start another number of processes"
        )
        raise ArgumentError(
            "{tensor_parallel} is {value}, and it must divide the processes, which are {count}; {how}",
            value=tensor_parallel,
            count=count(),
            how=how,
        )
    if not dist.is_initialized():
        return None
    return init_device_mesh(
        torch.device(device).type, (count() // tensor_parallel, tensor_parallel), mesh_dim_names=AXES
    )


def _divisors(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1) if n % i == 0)

"""The time of a training step, with its switches turned on one after another, and the largest batch that fits."""

import gc
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..cost import training_flops
from ..fast import prepare
from ..model import Llama
from ..training.faster import compile_training, recompute_blocks
from ..training.loss import IGNORE, NextTokenLoss, next_token_loss
from ..training.optimizer import parameter_groups
from .card import machine
from .ceilings import timed
from .contestants import transformers_twin
from .measure import Times, forget_peak, in_turns, peak_memory
from .runs import Setting, Show, ceilings, rows_of, show_nothing

SWITCHES = {  # in the order in which --each turns them on: first those that save the most memory
    "flash": "fused attention, which never stores its scores",
    "parts": "loss in parts, so that not all logits are in memory at once",
    "tf32": "fp32 products with a mantissa of 10 bits, on a GPU",
    "bf16": "products in bf16, weights and optimizer in fp32",
    "fused": "AdamW in one kernel",
    "compile": "blocks and loss compiled",
    "recompute": "only the input of each block is kept; the rest is computed again in the backward pass",
}
USUAL = ("flash", "parts", "fused")  # what the command `train` does by default
ON_A_CPU = ("flash", "fused", "compile", "recompute")  # what may help there
WARM_UP = 2  # steps that do not count: the first compiles, and the optimizer allocates its state at its end

Step = Callable[[Tensor], Tensor]


def one_after_the_other(switches: Sequence[str]) -> list[tuple[str, ...]]:
    """No switches, the first, the first two, and so on."""
    return [tuple(switches[:n]) for n in range(len(switches) + 1)]


def train(
    setting: Setting,
    ways: Sequence[Collection[str]],
    peers: Sequence[str] = (),
    largest_batch: bool = False,
    show: Show = show_nothing,
) -> dict:
    """Seconds of one step: loss, gradients, clipping and AdamW, for each set of `SWITCHES`, on the same tokens.

    On a GPU, whose memory may hold only one, contestants run one after another, each with its own peak. A peer has the
    precision of the last way. A contestant that does not fit has a row without seconds. "MFU" counts every pair of
    tokens, as is usual; "MFU, causal" only those that the causal mask leaves.
    largest_batch: also find, by doubling, how many texts fit into the GPU's memory.

    Raises:
        ValueError: if the model is not in fp32, a switch or a peer is unknown, `largest_batch` is given without a GPU,
            or no contestant fits into memory.
    """
    device, tokens = setting.device, setting.prompt
    _check(setting, ways, peers, largest_batch)
    measured = ceilings(setting, torch.bfloat16 if device.type == "cuda" else None)
    head = _head(setting, measured)
    show(head)
    found = _times(setting, ways, peers, largest_batch)
    peak = peak_memory(device) if device.type != "cuda" else None
    if not any(times for times, _ in found.values()):
        raise ValueError(f"a batch of {len(tokens)} such texts does not fit into the memory of this GPU; lower --batch")
    rate = list(measured.values())[-1]
    rows = rows_of({name: times for name, (times, _) in found.items() if times}, tokens.numel())
    for row in rows.values():
        for name in ("", ", causal"):
            row[f"MFU{name}"] = tokens.numel() * head["card"][f"FLOPs a token{name}"] / row["seconds"] / rate
    rows = {name: rows.get(name, {}) | more for name, (_, more) in found.items()}
    return head | {"machine": machine(device), "rows": rows, "peak memory, bytes": peak}


def _check(setting: Setting, ways: Sequence[Collection[str]], peers: Sequence[str], largest_batch: bool) -> None:
    if unknown := [switch for way in ways for switch in way if switch not in SWITCHES]:
        raise ValueError(f"there is no switch {unknown[0]!r}; there are {', '.join(SWITCHES)}")
    if setting.model.embedding.weight.dtype != torch.float32:
        raise ValueError(
            "training keeps its weights in fp32; leave out --dtype, and for bf16 products give --with bf16"
        )
    if set(peers) - {"transformers"}:
        raise ValueError("llama.cpp does not train; give --against transformers")
    if largest_batch and setting.device.type != "cuda":
        raise ValueError("--largest-batch fills the memory of a GPU; give --device cuda, or leave it out")


def _head(setting: Setting, measured: dict[str, float]) -> dict:
    """What is known before the measurement: machine, setting, and the cost of a step, computed."""
    config, (batch, seq) = setting.model.config, setting.prompt.shape
    size = {
        "model": setting.name,
        "batch": batch,
        "sequence": seq,
        "rounds": setting.rounds,
        "clock": setting.clock,
    }
    card = {
        "parameters": config.n_params,
        "FLOPs a token": training_flops(config, seq),
        "FLOPs a token, causal": training_flops(config, seq, causal=True),
        "weights, gradients and optimizer, bytes": 16 * config.n_params,
        "logits of the batch in fp32, bytes": 4 * batch * seq * config.vocab_size,
    }
    return {"what": "train", "machine": machine(setting.device), "setting": size, "card": card | measured}


def _times(
    setting: Setting, ways: Sequence[Collection[str]], peers: Sequence[str], largest_batch: bool
) -> dict[str, tuple[Times | None, dict]]:
    """For each contestant its times, None if it does not fit into memory, and what else was measured."""
    model, device, tokens = setting.model, setting.device, setting.prompt
    makers = {name_of(way): partial(own_step, model, way, device) for way in ways}
    if peers:
        makers["transformers"] = partial(peer_step, model, ways[-1], device)
    try:
        if device.type == "cuda":
            model.to("cpu")  # each contestant has its own copy of the weights
            return {name: _alone(setting, make, largest_batch) for name, make in makers.items()}
        steps = {name: make() for name, make in makers.items()}
        tasks = {name: partial(timed, partial(step, tokens), device, setting.clock) for name, step in steps.items()}
        return {name: (times, {}) for name, times in in_turns(tasks, setting.rounds, WARM_UP).items()}
    finally:
        torch.set_float32_matmul_precision("highest")
        model.to(device)


def name_of(way: Collection[str]) -> str:
    return ", ".join(switch for switch in SWITCHES if switch in way) or "plain"


def own_step(model: Llama, way: Collection[str], device: torch.device) -> Step:
    model = _copied(model, device)
    objective = NextTokenLoss(model) if "parts" in way else NextTokenLoss(model, max_logits=2**62)
    if "recompute" in way:
        recompute_blocks(model)
    if "compile" in way:
        compile_training(objective)
    return _step(objective, model, way)


def peer_step(model: Llama, way: Collection[str], device: torch.device) -> Step:
    twin = transformers_twin(_copied(model, device)).requires_grad_(True).train()
    return _step(
        lambda tokens, targets: next_token_loss(twin(tokens, use_cache=False).logits, targets), twin, {*way, "flash"}
    )


def _step(objective: Callable[[Tensor, Tensor], Tensor], model: nn.Module, way: Collection[str]) -> Step:
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-4, betas=(0.9, 0.95), fused="fused" in way)
    kernels = nullcontext if "flash" in way else partial(sdpa_kernel, SDPBackend.MATH)

    def step(tokens: Tensor) -> Tensor:
        torch.set_float32_matmul_precision("high" if "tf32" in way else "highest")
        targets = F.pad(tokens[:, 1:], (0, 1), value=IGNORE)
        with kernels():
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled="bf16" in way):
                loss = objective(tokens, targets) / (targets != IGNORE).sum()
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _copied(model: Llama, device: torch.device) -> Llama:
    """A copy with its own weights, to be trained."""
    copy = prepare(model, fuse=False)
    for weight in copy.parameters():
        weight.data = weight.data.to(device, copy=True)
    return copy.to(device).requires_grad_(True).train()


def _alone(setting: Setting, make: Callable[[], Step], largest_batch: bool) -> tuple[Times | None, dict]:
    """Times of a contestant with the GPU to itself, None if it needs more memory; its peak and its largest batch."""
    gc.collect()  # frees the contestant before this one
    torch.compiler.reset()
    forget_peak(setting.device)
    step, more, times = make(), {}, None
    task = partial(timed, partial(step, setting.prompt), setting.device, setting.clock)
    with suppress(torch.OutOfMemoryError):
        times = in_turns({"": task}, setting.rounds, WARM_UP)[""]
        more["peak memory, bytes"] = peak_memory(setting.device)
    if largest_batch:
        more["largest batch"] = _largest_batch(step, setting.prompt[:1])
    return times, more


def _largest_batch(step: Step, text: Tensor) -> int:
    """The largest power of two of such texts that a step has memory for."""
    batch = 0
    while True:
        forget_peak(text.device)
        try:
            step(text.expand(max(1, 2 * batch), -1))
        except torch.OutOfMemoryError:
            return batch
        batch = max(1, 2 * batch)

"""The measurements; each returns a dictionary, which is written as JSON and shown as a table."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ..checkpoint import describe, load_model
from ..cost import cache_bytes_per_token, forward_flops
from ..fast import prepare
from ..fast.compile import Scope
from ..fast.quantised import Bits
from ..model import Llama
from .card import bytes_read, machine
from .ceilings import Clock, copy_bandwidth, matmul_rate, timed
from .contestants import Contestant, Fast, LlamaCpp, Plain, Transformers, import_transformers, llama_cpp
from .measure import Times, decode_seconds, forget_peak, in_turns, peak_memory, prefill_seconds
from .quality import compare, next_token_logits

SPARE = 8  # slots of a cache for steps that do not count
Peer = str  # "transformers" or "llama.cpp"
Show = Callable[[dict], None]  # called before a measurement begins, with what is known by then


def show_nothing(head: dict) -> None:
    """For callers that need only the result."""


@dataclass(frozen=True)
class Way:
    """One way to run our model: which parts of `fast` are used."""

    fuse: bool = False
    quantise: Bits | None = None
    compile: Scope | None = None

    @property
    def name(self) -> str:
        on = [name for name, is_on in (("fused", self.fuse), (self.quantise, self.quantise)) if is_on]
        return ", ".join(on + ([f"compiled {self.compile}"] if self.compile else [])) or "plain"


@dataclass(frozen=True)
class Setting:
    """What is measured: a model on a prompt, for so many tokens and rounds."""

    model: Llama
    file: Path | None  # that the model was read from, for contestants that read it themselves
    prompt: Int[Tensor, "batch seq"]
    n_tokens: int
    rounds: int
    clock: Clock = "wall"
    name: str = ""  # of the model

    @property
    def device(self) -> torch.device:
        return self.prompt.device


def ceilings(setting: Setting, compute: torch.dtype | None = None) -> dict[str, float]:
    """Bytes copied and FLOPs of matrix products in `compute` (default: the model's dtype) in a second on this machine.

    To be measured first, because the contestants fill the memory.
    """
    compute = compute or setting.model.embedding.weight.dtype
    name = f"matrix product in {str(compute).removeprefix('torch.')}, FLOP/s"
    found = {
        "copy, bytes/s": copy_bandwidth(setting.device, setting.clock),
        name: matmul_rate(setting.device, setting.clock, compute),
    }
    forget_peak(setting.device)
    return found


def cost_card(setting: Setting, model: Llama, measured: dict[str, float]) -> dict[str, int | float]:
    """The cost of one decoding step of `model`, computed for the middle of the run, and the machine's `ceilings`."""
    config, (batch, seq) = setting.model.config, setting.prompt.shape
    dtype = setting.model.embedding.weight.dtype
    context = seq + setting.n_tokens // 2
    return {
        "parameters": config.n_params,
        "weights read a step, bytes": bytes_read(model),
        "cache read a step, bytes": batch * context * cache_bytes_per_token(config, dtype.itemsize),
        "cache a token, bytes": cache_bytes_per_token(config, dtype.itemsize),
        "FLOPs a token": sum(forward_flops(config, context).values()),
        **measured,
    }


def contestants(setting: Setting, ways: Sequence[Way], peers: Sequence[Peer]) -> dict[str, Contestant]:
    """The contestants by name. Weights are shared wherever they are the same.

    Raises:
        ValueError: if llama.cpp is among the peers without a GGUF file, or for more than one sequence.
    """
    capacity = setting.prompt.shape[1] + setting.n_tokens + SPARE
    found: dict[str, Contestant] = {}
    prepared: dict[tuple, Llama] = {}
    for way in ways:
        if way == Way():
            found[way.name] = Plain(setting.model, setting.prompt, capacity)
        else:
            in_place = way.compile if way.compile != "step" else None  # these compile the model itself
            kind = way.fuse, way.quantise, in_place
            if kind not in prepared:
                prepared[kind] = prepare(setting.model, fuse=way.fuse, quantise=way.quantise)
            found[way.name] = Fast(prepared[kind], setting.prompt, capacity, way.compile)
    for peer in peers:
        if peer == "transformers":
            found[peer] = Transformers(setting.model, setting.prompt, capacity)
        else:
            if setting.file is None or len(setting.prompt) != 1:
                raise ValueError(
                    "llama.cpp runs one sequence of a model in a GGUF file; give such a model, and batch 1"
                )
            found[peer] = LlamaCpp(setting.file, setting.prompt, capacity, torch.get_num_threads())
    return found


def decode(setting: Setting, ways: Sequence[Way], peers: Sequence[Peer], show: Show = show_nothing) -> dict:
    """Seconds for each new token after the prompt."""
    entrants, head = _begin("decode", setting, ways, peers, show)
    card = head["card"]
    tasks = {
        name: partial(decode_seconds, c, setting.device, setting.clock, setting.n_tokens)
        for name, c in entrants.items()
    }
    times, peak = in_turns(tasks, setting.rounds), peak_memory(setting.device)
    rows = rows_of(times, len(setting.prompt))
    cache = card["cache read a step, bytes"]
    for way in ways:  # quantised ones read less
        read = bytes_read(_model(entrants[way.name])) + cache
        rows[way.name]["MBU"] = read / times[way.name].median / card["copy, bytes/s"]
    return head | {"machine": machine(setting.device), "rows": rows, "peak memory, bytes": peak}


def prefill(setting: Setting, ways: Sequence[Way], peers: Sequence[Peer], show: Show = show_nothing) -> dict:
    """Seconds for the full prompt, up to the first new token."""
    entrants, head = _begin("prefill", setting, ways, peers, show)
    tasks = {name: partial(prefill_seconds, c, setting.device, setting.clock) for name, c in entrants.items()}
    times, peak = in_turns(tasks, setting.rounds), peak_memory(setting.device)
    batch, seq = setting.prompt.shape
    rows = rows_of(times, batch * seq)
    count = forward_flops(setting.model.config, (seq + 1) / 2)
    projection = count.pop("output projection")  # for the last token only
    flops = batch * (seq * sum(count.values()) + projection)
    on_cpu = setting.device.type == "cpu"
    # The ceiling is that of another arithmetic than these compute in.
    quantised = {"llama.cpp", *(way.name for way in ways if way.quantise and on_cpu)}
    for name, row in rows.items():
        if name not in quantised:
            row["MFU"] = flops / times[name].median / _matmul(head["card"])
    return head | {"machine": machine(setting.device), "rows": rows, "peak memory, bytes": peak}


def load(
    name: str, file: Path, peers: Sequence[Peer], rounds: int, clock: Clock = "wall", show: Show = show_nothing
) -> dict:
    """Seconds from a file on disk (in the system's file cache) to a model in memory, in fp32."""
    device = torch.device("cpu")
    describe(name)  # imports the modules for reading, as looking up transformers' class does: imports do not count
    tasks = {"ours": partial(timed, lambda: load_model(name), device, clock)}
    if "transformers" in peers:
        read = import_transformers().LlamaForCausalLM.from_pretrained
        where = {"gguf_file": file.name} if file.is_file() else {}
        folder = file.parent if file.is_file() else file
        tasks["transformers"] = partial(timed, lambda: read(folder, dtype=torch.float32, **where), device, clock)
    if "llama.cpp" in peers:
        open_file = llama_cpp().Llama
        tasks["llama.cpp"] = partial(timed, lambda: open_file(str(file), verbose=False), device, clock)
    show(head := {"what": "load", "machine": machine(device), "model": name, "clock": clock})
    times = in_turns(tasks, rounds, warm_up=0)  # a model is loaded once
    return head | {"machine": machine(device), "rows": rows_of(times, None)}


def quality(setting: Setting, ways: Sequence[Way], show: Show = show_nothing) -> dict:
    """How much each way changes the predictions for the prompt."""
    show(head := {"what": "quality", "machine": machine(setting.device), "tokens": setting.prompt.shape[1]})
    reference = next_token_logits(setting.model, setting.prompt[:1])
    rows = {}
    for way in ways:
        model = prepare(setting.model, fuse=way.fuse, quantise=way.quantise)
        rows[way.name] = asdict(compare(reference, model, setting.prompt[:1])) | {
            "weights read, bytes": bytes_read(model)
        }
        if way.quantise:  # prompts use other kernels than decoding
            found = compare(reference, model, setting.prompt[:1], at_a_time=setting.prompt.shape[1])
            rows[f"{way.name}, as a prompt"] = asdict(found)
    return head | {"rows": rows}


def _begin(
    what: str, setting: Setting, ways: Sequence[Way], peers: Sequence[Peer], show: Show
) -> tuple[dict[str, Contestant], dict]:
    """The contestants, and the head of the result, which is shown."""
    measured = ceilings(setting)
    entrants = contestants(setting, ways, peers)
    head = _head(what, setting, cost_card(setting, _model(entrants[ways[0].name]), measured))
    show(head)
    return entrants, head


def _model(contestant: Contestant) -> Llama:
    return contestant.decoder.model if isinstance(contestant, Fast) else contestant.model


def _matmul(card: dict) -> float:
    return next(value for name, value in card.items() if name.startswith("matrix product"))


def rows_of(times: dict[str, Times], tokens: int | None) -> dict[str, dict]:
    """A row for each contestant: its times, and how many times as long as the first it takes."""
    first = next(iter(times.values()))
    rows = {}
    for name, found in times.items():
        row = {"seconds": found.median, "quickest round": found.spread[0], "slowest round": found.spread[1]}
        if tokens is not None:
            row["tokens/s"] = tokens / found.median
        row["time, as a multiple of the first"] = first.ratio(found)
        rows[name] = row | {"rounds": found.rounds}
    return rows


def _head(what: str, setting: Setting, card: dict) -> dict:
    batch, seq = setting.prompt.shape
    return {
        "what": what,
        "machine": machine(setting.device),
        "setting": {
            "model": setting.name,
            "batch": batch,
            "prompt tokens": seq,
            "new tokens": setting.n_tokens if what == "decode" else 0,
            "dtype": str(setting.model.embedding.weight.dtype).removeprefix("torch."),
            "rounds": setting.rounds,
            "clock": setting.clock,
        },
        "card": card,
    }

"""Run the measurements that the book shows, and write the page that shows them.

    python tools/benchmarks.py --run cpu          run them here (ten minutes on an idle machine), then draw the page
    python tools/benchmarks.py --run gpu-decode   the same on a machine with a CUDA device; then gpu-grid, gpu-train
    python tools/benchmarks.py --only NAME ...    only these; --minutes 9 stops after 9 minutes and draws what is there
    python tools/benchmarks.py                    draw benchmarks/README.md from the files that are there
    python tools/benchmarks.py --check            fail if page or drawings differ from what the files give

Each measurement is one command of the package; its result is one file in benchmarks/, written when the command ends. A
command that fails leaves a file with the reason, unless there is an earlier result.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from statistics import median

import matplotlib
import matplotlib.pyplot as plt

from llama_from_scratch import PRESETS
from llama_from_scratch.cost import cache_bytes_per_token
from llama_from_scratch.plots import use_style
from llama_from_scratch.plots.roofline import draw_roofline

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
PROGRAM = "python -m llama_from_scratch"

CPU = {
    "cpu-decode": "bench decode --each --against transformers llama.cpp --threads 2",
    "cpu-decode-step": "bench decode --fuse --quantise int4 --compile step --against transformers llama.cpp "
    "--threads 2",
    "cpu-prefill": "bench prefill --each --against transformers llama.cpp --threads 2",
    "cpu-load": "bench load --against transformers llama.cpp --threads 2 --rounds 3",
    "cpu-quality": "bench quality --each --file README.md --prompt 512 --threads 2",
    "cpu-train": "bench train --each --prompt 128 --batch 4 --against transformers --threads 2 --rounds 3",
}
EIGHT, ONE = (f"--model {name} --device cuda --dtype bfloat16" for name in ("Llama-3.1-8B", "Llama-3.2-1B"))
FASTEST = "--fuse --compile graph"
BATCHES, CONTEXTS, NEW = (1, 8, 64), (1024, 8192, 65536), 32
GPU_MEMORY = 80e9  # bytes of the GPU that the targets are for


def needed(batch: int, context: int) -> float:
    """Bytes of the weights and the cache of Llama 3.1 8B in bf16, the least memory that decoding needs."""
    config = PRESETS["Llama-3.1-8B"]
    return 2 * config.n_params + batch * (context + NEW) * cache_bytes_per_token(config)


GRID = {(batch, context): f"gpu-decode-8b-batch{batch}-context{context}" for context in CONTEXTS for batch in BATCHES}
GROUPS = {  # each group of a GPU is meant for ten minutes
    "cpu": CPU,
    "gpu-decode": {
        "gpu-decode-8b": f"bench decode {EIGHT} --each --against transformers",
        "gpu-decode-1b": f"bench decode {ONE} --each --against transformers",
    },
    "gpu-grid": {
        name: f"bench decode {EIGHT} {FASTEST} --batch {batch} --prompt {context} --tokens {NEW} --rounds 3"
        for (batch, context), name in GRID.items()
        if needed(batch, context) <= GPU_MEMORY
    },
    "gpu-train": {
        "gpu-train-1b": "bench train --model Llama-3.2-1B --device cuda --prompt 4096 --batch 4 "
        "--with flash parts bf16 fused compile --largest-batch",
        "gpu-train-1b-each": "bench train --model Llama-3.2-1B --device cuda --prompt 4096 --batch 1 --each "
        "--largest-batch --rounds 3",
        "gpu-prefill-8b": f"bench prefill {EIGHT} --each --prompt 8192 --against transformers",
    },
}
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}


def seconds(result: dict, name: str) -> float:
    return result["rows"][name]["time, as a multiple of the first"]


@dataclass(frozen=True)
class Measured:
    value: float
    way: str  # of running our model
    rounds: tuple[float, ...] = ()  # the same in each round


@dataclass(frozen=True)
class Target:
    what: str
    file: str
    wanted: float
    measured: Callable[[dict], Measured]  # KeyError: it was not measured there


def as_fast_as(name: str, other: str) -> Callable[[dict], Measured]:
    """How many times as long `other` takes as `name`: the median of the ratios within each round."""

    def found(result: dict) -> Measured:
        rounds = (result["rows"][way]["rounds"] for way in (other, name))
        ratios = tuple(theirs / ours for theirs, ours in zip(*rounds, strict=True))
        return Measured(median(ratios), name, ratios)

    return found


def best_against(peer: str, quantised: bool = True) -> Callable[[dict], Measured]:
    """How many times as long the peer takes as our fastest way."""

    def found(result: dict) -> Measured:
        ours = [name for name in result["rows"] if name not in ("transformers", "llama.cpp")]
        ours = [name for name in ours if quantised or "int" not in name]
        return as_fast_as(min(ours, key=lambda name: seconds(result, name)), peer)(result)

    return found


def of_row(name: str, column: str) -> Callable[[dict], Measured]:
    return lambda result: Measured(result["rows"][name][column], name)


def highest(column: str) -> Callable[[dict], Measured]:
    def found(result: dict) -> Measured:
        way = max(
            (name for name, row in result["rows"].items() if column in row), key=lambda n: result["rows"][n][column]
        )
        return Measured(result["rows"][way][column], way)

    return found


BF16, INT8, INT4 = "fused, compiled graph", "fused, int8, compiled graph", "fused, int4, compiled graph"


TARGETS = [
    Target("CPU decode by blocks, against transformers eager fp32", "cpu-decode", 4, best_against("transformers")),
    Target("CPU decode by blocks, against llama.cpp on the same file", "cpu-decode", 0.8, best_against("llama.cpp")),
    Target("CPU decode by steps, against transformers eager fp32", "cpu-decode-step", 4, best_against("transformers")),
    Target("CPU decode by steps, against llama.cpp, same file", "cpu-decode-step", 0.8, best_against("llama.cpp")),
    Target("CPU prefill, against transformers in fp32", "cpu-prefill", 1.5, best_against("transformers")),
    Target(
        "CPU prefill in fp32, against transformers", "cpu-prefill", 1.5, best_against("transformers", quantised=False)
    ),
    Target("Loading the GGUF file, against transformers", "cpu-load", 10, as_fast_as("ours", "transformers")),
    Target("H100 decode, 8B bf16, share of copy bandwidth", "gpu-decode-8b", 0.85, of_row(BF16, "MBU")),
    Target("H100 decode, 1B bf16, share of copy bandwidth", "gpu-decode-1b", 0.70, of_row(BF16, "MBU")),
    Target("H100 decode, 8B, int8 against bf16", "gpu-decode-8b", 1.5, as_fast_as(INT8, BF16)),
    Target("H100 decode, 8B, int4 against bf16", "gpu-decode-8b", 1.8, as_fast_as(INT4, BF16)),
    Target("H100 decode, 8B bf16, against transformers", "gpu-decode-8b", 5, as_fast_as(BF16, "transformers")),
    Target("H100 training, 1B, sequence 4096, MFU", "gpu-train-1b", 0.55, highest("MFU")),
]


def read(name: str) -> dict | None:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def command(name: str) -> str:
    return f"{PROGRAM} {COMMANDS[name]} --json benchmarks/{name}.json"


def page() -> str:
    """The text of benchmarks/README.md, from the result files."""
    lines = [
        "# Benchmarks",
        "",
        "Drawn by `python tools/benchmarks.py` from the files in this folder; no number in a table is typed in.",
        "Each file holds the device, the versions, the command and the date of its run. All contestants of a file",
        "ran in one process, on the same tokens and the same weights, which int8 and int4 round; those that are timed,",
        "in turns (but training on a GPU, whose memory holds one). Ratios are medians over the rounds.",
        "`clock cpu` in a command means that the machine had other work: seconds are then those that the process was",
        "at work, with one thread. `python tools/benchmarks.py --run cpu` takes all of them anew, on a quiet machine.",
        "",
        "## Targets",
        "",
        "| target | wanted | measured | reached | in each round | our way | file |",
        "| --- | ---: | ---: | :---: | ---: | --- | --- |",
    ]
    for target in TARGETS:
        lines.append(row(target))
    lines += ["", "`waits`: not measured yet; the command in that row measures it.", ""]
    lines += grid()
    for name in drawings():
        lines += [f"![Measured points under the roof of this machine]({name})", ""]
    lines += (FOLDER / "notes.md").read_text(encoding="utf-8").splitlines() + [""]
    for name in COMMANDS:
        result = read(name)
        if result is not None:
            lines += [f"## {name}", "", *(section(result) if "failed" not in result else failure(result))]
    return "\n".join(lines) + "\n"


def row(target: Target) -> str:
    begin, file, result = f"| {target.what} | {target.wanted:g}", target.file, read(target.file)
    waits = f"{begin} | waits | | | | `{command(file)}` |"
    if result is None:
        return waits
    if "failed" in result:
        return f"{begin} | failed | no | | | [{file}]({file}.json) |"
    try:
        found = target.measured(result)
    except KeyError:  # a contestant that was not installed
        return waits
    reached = "yes" if found.value >= target.wanted else "no"
    rounds = f"{min(found.rounds):.2f} to {max(found.rounds):.2f}" if found.rounds else ""
    return f"{begin} | {found.value:.2f} | {reached} | {rounds} | {found.way} | [{file}]({file}.json) |"


def grid() -> list[str]:
    """A table, batch by context: tokens per second of all sequences together, and the share of the copy bandwidth."""
    lines = ["## Decoding with Llama 3.1 8B in bf16, by batch and context", ""]
    lines += [
        f"| context | {' | '.join(f'batch {batch}' for batch in BATCHES)} |",
        f"| ---: |{' ---: |' * len(BATCHES)}",
    ]
    for context in CONTEXTS:
        cells = []
        for batch in BATCHES:
            name, result = GRID[batch, context], read(GRID[batch, context])
            if name not in COMMANDS:
                cells.append(f"needs {needed(batch, context) / 1e9:.0f} GB")
            elif result is None or "failed" in result:
                cells.append("waits" if result is None else "failed")
            else:
                found = result["rows"][BF16]
                cells.append(f"{found['tokens/s']:.0f} tokens/s, MBU {found['MBU']:.0%}")
        lines.append(f"| {context} | {' | '.join(cells)} |")
    return [*lines, "", f"More than {GPU_MEMORY / 1e9:.0f} GB, of weights and cache alone, do not fit.", ""]


def failure(result: dict) -> list[str]:
    return [f"`{result['command']}`", "", f"Failed: {result['failed']}", ""]


def points(group: str) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """The machine's ceilings, and for each measurement on it the fastest way with each type of weights."""
    roof, found = {}, {}
    for name in COMMANDS:
        result = read(name)
        if not name.startswith(group) or result is None or result.get("what") not in ("decode", "prefill"):
            continue
        card, batch = result["card"], result["setting"]["batch"]
        copy, matmul = card["copy, bytes/s"], next(rate for what, rate in card.items() if what.startswith("matrix"))
        roof = roof or {result["machine"]["device"]: (matmul, copy)}
        kinds: dict[str, str] = {}
        for way, row in result["rows"].items():
            kind = next((bits for bits in ("int8", "int4") if bits in way), "")
            if ("MBU" in row or "MFU" in row) and way != "transformers":
                kinds[kind] = min(kinds.get(kind, way), way, key=lambda way: seconds(result, way))
        for kind, way in kinds.items():
            took, label = result["rows"][way]["seconds"], " ".join([name.removeprefix(f"{group}-"), kind]).rstrip()
            if result["what"] == "decode":
                flops, moved = batch * card["FLOPs a token"], result["rows"][way]["MBU"] * took * copy
                found[label] = (flops / moved, flops / took)
            elif not kind:
                flops = result["rows"][way]["MFU"] * took * matmul
                moved = card["weights read a step, bytes"] + card["cache read a step, bytes"]
                found[label] = (flops / moved, flops / took)
    return roof, found


def drawings() -> dict[str, str]:
    """The roofline of each machine with results: file name to SVG, byte for byte the same at each run."""
    matplotlib.use("svg")
    use_style()
    plt.rcParams["savefig.facecolor"] = "white"  # readable on a dark page, too
    drawn = {}
    for group in ("cpu", "gpu"):
        roof, found = points(group)
        if found:
            draw_roofline(roof, found)
            text = StringIO()
            plt.savefig(text, format="svg", metadata={"Date": None})
            plt.close("all")
            drawn[f"roofline-{group}.svg"] = "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    return drawn


def section(result: dict) -> list[str]:
    """The section of one result file: everything but the single rounds."""
    machine = result["machine"]
    about = [f"{key} {value}" for key, value in machine.items() if key not in ("command", "date", "device")]
    lines = [f"{machine['device']}, {machine['date']}; {', '.join(about)}.", ""]
    lines += [f"`{machine['command']}`", ""]
    columns = [column for column in max(result["rows"].values(), key=len) if column != "rounds"]
    lines += [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for who, found in result["rows"].items():
        lines.append(f"| {who} | {' | '.join(f'{found[c]:.4g}' if c in found else '' for c in columns)} |")
    if "card" in result:
        lines += ["", "; ".join(f"{key} {value:.4g}" for key, value in result["card"].items()) + "."]
    return [*lines, ""]


def measure(name: str, seconds_left: float | None) -> None:
    """Run one command, which writes its result file; after a failure the file has the reason."""
    words = COMMANDS[name].split()
    if find_spec("llama_cpp") is None:
        words = [word for word in words if word != "llama.cpp"]
    file = FOLDER / f"{name}.json"
    print(f"{name}: {command(name)}", flush=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "llama_from_scratch", *words, "--json", str(file)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            timeout=seconds_left,
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: stopped, because the time given with --minutes is over", file=sys.stderr)
        return
    sys.stderr.write(done.stderr)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        print(f"{name}: no result", file=sys.stderr)
        if not file.exists() or "failed" in json.loads(file.read_text(encoding="utf-8")):
            file.write_text(json.dumps({"failed": reason, "command": command(name)}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=GROUPS, help="all measurements of a group")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, metavar="NAME", help=", ".join(COMMANDS))
    parser.add_argument("--minutes", type=float, help="stop then (default: when all are done)")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    end = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    for name in arguments.only or GROUPS.get(arguments.run, ()):
        measure(name, None if end is None else max(0.0, end - time.monotonic()))
    files = {"README.md": page(), **drawings()}
    if arguments.check:
        for name, text in files.items():
            if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text:
                sys.exit(f"benchmarks/{name} is not what the files say; run python tools/benchmarks.py")
    else:
        for name, text in files.items():
            (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

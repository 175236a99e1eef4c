"""The measurements that the book shows, and the page that shows them.

    python tools/benchmarks.py --run cpu     take them on this machine (about ten quiet minutes), then draw the page
    python tools/benchmarks.py --run gpu     the same on a machine with a CUDA device
    python tools/benchmarks.py               draw benchmarks/README.md from the files that are there
    python tools/benchmarks.py --check       fail if the page is not what the files say

Each measurement is one command of the package, which anyone can run; its result is one file in benchmarks/.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

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
GPU = {
    "gpu-decode-8b": f"bench decode {EIGHT} --fuse --compile step --against transformers",
    "gpu-decode-8b-int8": f"bench decode {EIGHT} --fuse --compile step --quantise int8",
    "gpu-decode-8b-int4": f"bench decode {EIGHT} --fuse --compile step --quantise int4",
    "gpu-decode-1b": f"bench decode {ONE} --fuse --compile step --against transformers",
    **{
        f"gpu-decode-8b-batch{batch}-context{context}": f"bench decode {EIGHT} --fuse --compile step --batch {batch} "
        f"--prompt {context}"
        for batch, context in ((1, 1024), (8, 1024), (64, 1024), (1, 8192), (8, 8192), (1, 65536))
    },
    "gpu-prefill-8b": f"bench prefill {EIGHT} --fuse --prompt 8192 --against transformers",
    "gpu-train-1b": f"bench train {ONE.replace('bfloat16', 'float32')} --compile blocks --prompt 4096 --batch 4",
}


def seconds(result: dict, name: str) -> float:
    return result["rows"][name]["time, as a multiple of the first"]


def best(result: dict) -> str:
    """The quickest of our ways."""
    ours = [name for name in result["rows"] if name not in ("transformers", "llama.cpp")]
    return min(ours, key=lambda name: seconds(result, name))


@dataclass(frozen=True)
class Target:
    what: str
    file: str
    wanted: float
    measured: Callable[[dict], float]


def times_as_fast(peer: str) -> Callable[[dict], float]:
    """How many times as long the peer takes as our quickest way: both ratios are of the same rounds."""
    return lambda result: seconds(result, peer) / seconds(result, best(result))


def first_row(column: str) -> Callable[[dict], float]:
    return lambda result: next(iter(result["rows"].values()))[column]


TARGETS = [
    Target("CPU decode by blocks, against transformers eager fp32", "cpu-decode", 4, times_as_fast("transformers")),
    Target("CPU decode by blocks, against llama.cpp on the same file", "cpu-decode", 0.8, times_as_fast("llama.cpp")),
    Target("CPU decode by steps, against transformers eager fp32", "cpu-decode-step", 4, times_as_fast("transformers")),
    Target("CPU decode by steps, against llama.cpp, same file", "cpu-decode-step", 0.8, times_as_fast("llama.cpp")),
    Target("CPU prefill, against transformers", "cpu-prefill", 1.5, times_as_fast("transformers")),
    Target(
        "Loading the GGUF file, against transformers", "cpu-load", 10, lambda result: seconds(result, "transformers")
    ),
    Target("H100 decode, 8B bf16, share of copy bandwidth", "gpu-decode-8b", 0.85, first_row("MBU")),
    Target("H100 decode, 1B bf16, share of copy bandwidth", "gpu-decode-1b", 0.70, first_row("MBU")),
    Target("H100 decode, 8B bf16, against transformers eager", "gpu-decode-8b", 5, times_as_fast("transformers")),
    Target("H100 training, 1B, sequence 4096, MFU", "gpu-train-1b", 0.55, first_row("MFU")),
]
PAIRS = [  # between two files: seconds of the second, as a multiple of the first
    ("H100 decode, 8B int8, against bf16", "gpu-decode-8b-int8", "gpu-decode-8b", 1.5),
    ("H100 decode, 8B int4, against bf16", "gpu-decode-8b-int4", "gpu-decode-8b", 1.8),
]


def read(name: str) -> dict | None:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def command(name: str) -> str:
    return f"{PROGRAM} {(CPU | GPU)[name]} --json benchmarks/{name}.json"


def page() -> str:
    """benchmarks/README.md, from the files."""
    lines = [
        "# Benchmarks",
        "",
        "Drawn by `python tools/benchmarks.py` from the files in this folder; no number in a table is typed in.",
        "Each file holds the device, the versions, the command and the date of its run. All contestants of a file",
        "ran in turns in one process, on the same weights and tokens; ratios are medians over the rounds.",
        "`clock cpu` in a command means that the machine had other work: seconds are then those that the process was",
        "at work, with one thread. `python tools/benchmarks.py --run cpu` takes all of them anew, on a quiet machine.",
        "",
        "## Targets",
        "",
        "| target | wanted | measured | reached | how |",
        "| --- | ---: | ---: | :---: | --- |",
    ]
    for target in TARGETS:
        result = read(target.file)
        measured = None if result is None else target.measured(result)
        lines.append(row(target.what, target.wanted, measured, target.file))
    for what, small, large, wanted in PAIRS:
        both = read(small), read(large)
        measured = None if None in both else first_row("seconds")(both[1]) / first_row("seconds")(both[0])
        lines.append(row(what, wanted, measured, small))
    lines += ["", "`waits`: not measured yet; the command in that row measures it.", ""]
    lines += (FOLDER / "notes.md").read_text(encoding="utf-8").splitlines() + [""]
    for name in CPU | GPU:
        result = read(name)
        if result is not None:
            lines += section(name, result)
    return "\n".join(lines) + "\n"


def row(what: str, wanted: float, measured: float | None, file: str) -> str:
    if measured is None:
        return f"| {what} | {wanted:g} | waits | | `{command(file)}` |"
    return f"| {what} | {wanted:g} | {measured:.2f} | {'yes' if measured >= wanted else 'no'} | [{file}]({file}.json) |"


def section(name: str, result: dict) -> list[str]:
    """All of one file, but for the single rounds."""
    machine = result["machine"]
    about = [f"{key} {value}" for key, value in machine.items() if key not in ("command", "date", "device")]
    lines = [f"## {name}", "", f"{machine['device']}, {machine['date']}; {', '.join(about)}.", ""]
    lines += [f"`{machine['command']}`", ""]
    columns = [column for column in max(result["rows"].values(), key=len) if column != "rounds"]
    lines += [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for who, found in result["rows"].items():
        lines.append(f"| {who} | {' | '.join(f'{found[c]:.4g}' if c in found else '' for c in columns)} |")
    if "card" in result:
        lines += ["", "; ".join(f"{key} {value:.4g}" for key, value in result["card"].items()) + "."]
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=("cpu", "gpu"))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for name, command_line in {"cpu": CPU, "gpu": GPU, None: {}}[arguments.run].items():
        if find_spec("llama_cpp") is None:
            command_line = command_line.replace(" llama.cpp", "")
        print(f"{name}: {command(name)}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "llama_from_scratch", *command_line.split(), "--json", str(FOLDER / f"{name}.json")],
            cwd=ROOT,
        )
        if done.returncode:  # such as a shape that does not fit; the others can still be measured
            print(f"{name}: no result", file=sys.stderr)
    target = FOLDER / "README.md"
    if arguments.check:
        if target.read_text(encoding="utf-8") != page():
            sys.exit("benchmarks/README.md is not what the files say; run python tools/benchmarks.py")
    else:
        target.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

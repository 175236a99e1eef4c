"""Measure how fast a model runs here, beside others and beside what this machine can do."""

import argparse
import json
from pathlib import Path

import torch

from ..bench import runs
from ..bench.runs import SPARE, Setting, Way
from ..bench.train import ON_A_CPU, SWITCHES, USUAL, one_after_the_other, train
from ..config import PRESETS, LlamaConfig
from ..fast.compile import check_compiler
from ..files.atomic import atomic_write
from ..files.resolve import resolve
from ..model import Llama
from ..tokenizer import load_tokenizer
from . import options
from .terminal import loading, note, write

EXAMPLES = """examples:
  one token after the other: plain, and with everything switched on:
    PROGRAM bench decode
    PROGRAM bench decode --fuse --quantise int4 --compile blocks
  what each switch gains, in one run, beside others on the same weights:
    PROGRAM bench decode --each --against transformers llama.cpp --json decode.json
  reading a prompt of 512 tokens; reading a file; a training step:
    PROGRAM bench prefill --fuse --prompt 512 --against transformers
    PROGRAM bench load --against transformers --rounds 1
    PROGRAM bench train --prompt 128 --batch 2 --against transformers
  what quantising changes about the answers, judged on a text of yours:
    PROGRAM bench quality --each --file text.txt
  the shape of a released model with random weights, on a GPU:
    PROGRAM bench decode --model Llama-3.1-8B --device cuda --dtype bfloat16 --fuse --compile graph
    PROGRAM bench train --model Llama-3.2-1B --device cuda --prompt 4096 --batch 4 --with flash parts bf16 fused compile
  what each switch of training gains in time and memory, and the largest batch that fits with it:
    PROGRAM bench train --model Llama-3.2-1B --device cuda --prompt 4096 --batch 1 --each --largest-batch

All contestants run in turns, in rounds: compare ratios, which other work on the machine changes least. MBU is bytes
that must be read / time / what a large copy moves here; MFU is FLOPs on paper / time / what a large matrix product
does here. Both can exceed 1 where a model fits into the processor's cache."""

EACH = [
    Way(),
    Way(fuse=True),
    Way(fuse=True, compile="blocks"),
    Way(fuse=True, quantise="int8"),
    Way(fuse=True, quantise="int8", compile="blocks"),
    Way(fuse=True, quantise="int4"),
    Way(fuse=True, quantise="int4", compile="blocks"),
]
# On a GPU small weights are no quicker until their conversion is compiled into the product.
EACH_ON_GPU = [
    Way(),
    Way(fuse=True),
    Way(fuse=True, compile="step"),
    Way(fuse=True, compile="graph"),
    Way(fuse=True, quantise="int8", compile="graph"),
    Way(fuse=True, quantise="int4", compile="graph"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("decode", "prefill", "train", "load", "quality"), help="what is measured; see the examples"
    )
    ways = parser.add_argument_group("how our model runs")
    ways.add_argument("--fuse", action="store_true", help="q, k and v as one product, gate and up as one")
    ways.add_argument("--quantise", choices=("int8", "int4"), help="weights of 8 or 4 bits")
    ways.add_argument(
        "--compile",
        choices=("blocks", "step", "graph"),
        help="compile a block (seconds) or a step (minutes); graph, on CUDA: a block, and record the step (seconds)",
    )
    ways.add_argument("--each", action="store_true", help="plain, and then these switches one after the other")
    steps = parser.add_argument_group(
        "how it trains (bench train)", "switches: " + "; ".join(f"{name}: {text}" for name, text in SWITCHES.items())
    )
    steps.add_argument(
        "--with",
        dest="switches",
        nargs="*",
        choices=SWITCHES,
        metavar="SWITCH",
        help=f"what is on (default: {' '.join(USUAL)}, as in the command train)",
    )
    steps.add_argument("--largest-batch", action="store_true", help="also find out how large a batch a GPU can hold")
    size = parser.add_argument_group("how much")
    size.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at a time (default: %(default)s)")
    size.add_argument(
        "--prompt", type=int, metavar="N", help="tokens of prompt (default: 64; prefill 512; quality all)"
    )
    size.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens to decode (default: %(default)s)")
    size.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    size.add_argument("--file", metavar="PATH", help="a text in UTF-8 to read (default: random tokens)")
    parser.add_argument(
        "--against", nargs="+", default=[], choices=("transformers", "llama.cpp"), help="others on the same weights"
    )
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: the time this process was at work, for a machine that has other work; needs --threads 1 "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything there, for a table or a drawing")
    options.add_running(parser)


def run(arguments: argparse.Namespace) -> None:
    for name in ("batch", "tokens", "rounds", "prompt"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    chosen = Way(arguments.fuse, arguments.quantise, arguments.compile)
    if arguments.each and (chosen != Way() or arguments.switches is not None):
        raise ValueError("--each runs every switch; leave out --fuse, --quantise, --compile and --with")
    if arguments.what == "train" and chosen != Way():
        raise ValueError("train has switches of its own; give --with instead of --fuse, --quantise and --compile")
    if arguments.what != "train" and (arguments.switches is not None or arguments.largest_batch):
        raise ValueError(f"--with and --largest-batch are for bench train; leave them out of {arguments.what}")
    if arguments.clock == "cpu" and (arguments.threads != 1 or arguments.device != "cpu"):
        raise ValueError("--clock cpu adds up all threads, and sees no GPU; it needs --threads 1, on the CPU")
    if arguments.what == "quality" and not arguments.file:
        raise ValueError("quality is judged on a text; name one with --file")
    _refuse_unused_options(arguments)
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        raise ValueError(f"--json is {arguments.json}, in a folder that does not exist; make it first")
    each = EACH_ON_GPU if arguments.device.startswith("cuda") else EACH
    ways = each if arguments.each else [chosen]
    if arguments.what in ("prefill", "quality"):  # how decoding is compiled changes nothing there
        on_cpu = arguments.what == "prefill" and arguments.device == "cpu"  # where prompts are compiled by blocks
        helps = (None, "blocks") if on_cpu else (None,)
        ways = [way for way in ways if way.compile in helps]
        if not ways:
            raise ValueError(f"--compile {arguments.compile} changes nothing in {arguments.what}; leave it out")
    result = _measure(arguments, ways)
    write(result_text(result))
    if arguments.json:
        with atomic_write(Path(arguments.json)) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _refuse_unused_options(arguments: argparse.Namespace) -> None:
    unused = {
        "quality": {"--batch": arguments.batch != 1, "--against": bool(arguments.against)},
        "load": {
            "--fuse": arguments.fuse,
            "--quantise": arguments.quantise,
            "--compile": arguments.compile,
            "--each": arguments.each,
            "--batch": arguments.batch != 1,
            "--prompt": arguments.prompt,
            "--device": arguments.device != "cpu",
            "--dtype": arguments.dtype != "float32",
        },
    }
    for name, is_given in unused.get(arguments.what, {}).items():
        if is_given:
            raise ValueError(f"{name} changes nothing in {arguments.what}; leave it out")


def _measure(arguments: argparse.Namespace, ways: list[Way]) -> dict:
    options.set_threads(arguments.threads)
    if arguments.what == "load":
        return runs.load(
            arguments.model, resolve(arguments.model), arguments.against, arguments.rounds, arguments.clock, show_head
        )
    model = _model(arguments)
    prompt = _prompt(arguments, model)
    random = _is_random(arguments.model)
    file, name = None if random else resolve(arguments.model), arguments.model + random * ", random weights"
    n_tokens = arguments.tokens if arguments.what == "decode" else 1
    setting = Setting(model, file, prompt, n_tokens, arguments.rounds, arguments.clock, name)
    needed = prompt.shape[1] + n_tokens + SPARE
    if arguments.what in ("decode", "prefill") and needed > model.config.max_seq_len:
        raise ValueError(
            f"a prompt of {prompt.shape[1]} tokens, {n_tokens} new ones and {SPARE} to warm up are {needed}, more than "
            f"the context of {arguments.model}, {model.config.max_seq_len}; lower --prompt or --tokens"
        )
    if arguments.what == "quality":
        return runs.quality(setting, ways, show_head)
    if arguments.what == "train":
        switches = USUAL if arguments.switches is None else tuple(arguments.switches)
        each = one_after_the_other(tuple(SWITCHES) if setting.device.type == "cuda" else ON_A_CPU)
        if "compile" in (ON_A_CPU if arguments.each else switches):
            check_compiler(setting.device)
        ways = each if arguments.each else [switches]
        return train(setting, ways, arguments.against, arguments.largest_batch, show_head)
    return getattr(runs, arguments.what)(setting, ways, arguments.against, show_head)


def _model(arguments: argparse.Namespace) -> Llama:
    device, dtype = options.device(arguments.device), getattr(torch, arguments.dtype)
    if _is_random(arguments.model):
        with torch.device(device):
            torch.set_default_dtype(dtype)
            try:
                return Llama(LlamaConfig.preset(arguments.model)).to(device).eval()
            finally:
                torch.set_default_dtype(torch.float32)
    with loading(arguments.model):
        return Llama.from_pretrained(arguments.model, dtype=dtype, device=device)


def _is_random(name: str) -> bool:
    """Whether only the shape of the model is known here; its speed does not depend on the values of the weights."""
    return name in PRESETS


def _prompt(arguments: argparse.Namespace, model: Llama) -> torch.Tensor:
    wanted = arguments.prompt or (512 if arguments.what == "prefill" else 64)
    if arguments.file is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(model.config.vocab_size, (arguments.batch, wanted), generator=generator)
        return ids.to(model.embedding.weight.device)
    ids = load_tokenizer(arguments.model).encode(options.read_text(arguments.file))
    if arguments.prompt is not None or arguments.what != "quality":
        if len(ids) < wanted:
            raise ValueError(f"{arguments.file} has {len(ids)} tokens and {wanted} are needed; lower --prompt")
        ids = ids[:wanted]
    if len(ids) > model.config.max_seq_len:
        ids = ids[: model.config.max_seq_len]
        note(f"Only the first {len(ids)} tokens of {arguments.file} are read: the context of {arguments.model}.")
    return torch.tensor([ids] * arguments.batch, device=model.embedding.weight.device)


def show_head(head: dict) -> None:
    """Print the machine, the setting and the cost card, before the measurement."""
    for title in ("machine", "setting", "card"):
        if title in head:
            width = max(map(len, head[title]))
            write(f"{title}\n")
            for name, value in head[title].items():
                write(f"  {name.ljust(width)}  {_shown(name, value)}\n")


def result_text(result: dict) -> str:
    """A line for each contestant."""
    lines = []
    columns = [name for name in max(result["rows"].values(), key=len) if name != "rounds"]
    table = [["", *columns]]
    for name, row in result["rows"].items():
        table.append([name, *(_shown(column, row[column]) if column in row else "-" for column in columns)])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines.append(result["what"])
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    if result.get("peak memory, bytes"):
        lines.append(f"peak memory of this process, all of them together: {result['peak memory, bytes'] / 1e9:.2f} GB")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: object) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else value
    if name in ("MBU", "MFU", "MFU, causal", "same_choice", "perplexity_change"):
        return f"{value:.1%}" if name != "perplexity_change" else f"{value:+.2%}"
    if name.endswith("/s") and value >= 1e6:
        return f"{value / 1e9:,.1f} G"
    return f"{value:.4g}"

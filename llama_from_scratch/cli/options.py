"""Options that several commands share."""

import argparse
import os
import re
import sys
from pathlib import Path

import torch

from ..fast import prepare
from ..files import text
from ..files.embedded import EMBEDDED
from ..generation import Sampling
from ..model import Llama
from ..tokenizer import Tokenizer, load_tokenizer
from ..tokenizer.base import ERRORS
from .terminal import loading, note

DTYPES = ("float32", "bfloat16", "float16")


def add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where and how it runs")
    group.add_argument(
        "--model",
        default=EMBEDDED,
        metavar="NAME",
        help="a GGUF file, a folder with safetensors, or a name on the Hugging Face hub (default: %(default)s)",
    )
    group.add_argument("--dtype", default="float32", choices=DTYPES, help="type of the weights (default: %(default)s)")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ..., or mps (default: %(default)s)")
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads (default: PyTorch's, one for each core); where other programs are busy, fewer are faster: "
        "threads wait for the slowest of them",
    )


def add_speed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the same model, run faster")
    group.add_argument(
        "--fast",
        action="store_true",
        help="fewer and larger products: the same numbers; alone it gains next to nothing on a CPU",
    )
    group.add_argument(
        "--quantise",
        choices=("int8", "int4"),
        help="weights of 8 or 4 bits, of which there is less to read: int4 writes nearly twice as fast on a CPU, and "
        "takes the same token more than nine times in ten; int8 gains only when compiled (see bench); implies --fast",
    )


def add_sampling(parser: argparse.ArgumentParser, temperature: float, top_p: float | None) -> None:
    group = parser.add_argument_group("how each token is chosen")
    group.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        metavar="T",
        help="0 always takes the likeliest token, 1 draws as the model says, more is wilder (default: %(default)s)",
    )
    group.add_argument("--top-k", type=int, metavar="K", help="draw among the K most likely tokens only")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw among the most likely tokens that together have probability P"
        + (f" (default: {top_p}, unless the temperature is 0)" if top_p else ""),
    )
    group.add_argument(
        "--min-p", type=float, metavar="P", help="draw among tokens at least P times as likely as the best"
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="make tokens that the text already holds less likely: 1.2 is usual, 1 changes nothing (default)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed draws the same text")
    parser.set_defaults(default_top_p=top_p)


def sampling(arguments: argparse.Namespace) -> Sampling:
    """The sampling rule of the options.

    Raises:
        ValueError: for values out of range, and for options that have no effect at temperature 0.
    """
    temperature = arguments.temperature
    given = [name for name in ("top_k", "top_p", "min_p", "seed") if getattr(arguments, name) is not None]
    if temperature == 0 and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} changes nothing at temperature 0, where the most likely token is always "
            "taken; add --temperature 0.8, for example"
        )
    top_p = arguments.default_top_p if arguments.top_p is None and temperature > 0 else arguments.top_p
    return Sampling(temperature, arguments.top_k, top_p, arguments.min_p, arguments.seed, arguments.repetition_penalty)


def read_text(path: str) -> str:
    """The text in a file; - is the standard input."""
    if path == "-":
        return text.decode_text(sys.stdin.buffer.read(), "the standard input")
    return text.read_text(Path(path))


def from_terminal(typed: str) -> str:
    """An argument as text in UTF-8, also where the system's locale says that arguments are in ASCII.

    Python keeps bytes that the locale does not know as surrogates (PEP 383).

    Raises:
        ValueError: if it is not UTF-8.
    """
    if typed.isascii() or not any("\udc80" <= char <= "\udcff" for char in typed):
        return typed
    return text.decode_text(os.fsencode(typed), "what was typed")


def option(name: str) -> str:
    """The name of an argument as it is typed."""
    return "--" + name.replace("_", "-")


def add_errors(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str | None = "strict") -> None:
    parser.add_argument(
        "--errors",
        choices=ERRORS,
        default=default,
        help="what to do with a character that the vocabulary cannot spell: strict stops there, replace writes U+FFFD "
        "(or ?) for it, ignore leaves it out (default: strict)",
    )


def encode(tokenizer: Tokenizer, prompt: str, errors: str) -> list[int]:
    """The tokens of a text; says on stderr how many characters were replaced or left out."""
    if errors != "strict":
        note_errors(len(tokenizer.unspellable(prompt)), errors)
    return tokenizer.encode(prompt, errors=errors)


def note_errors(count: int, errors: str) -> None:
    """Say how many characters the vocabulary could not spell, if any."""
    if count:
        what = f"{count:,} character{'s were' if count > 1 else ' was'}"
        done = {"replace": "replaced", "ignore": "left out"}[errors]
        note(f"note: {what} {done}, which this model's vocabulary cannot spell")


def load(arguments: argparse.Namespace) -> tuple[Llama, Tokenizer]:
    """The model and its tokenizer, on the device asked for."""
    set_threads(arguments.threads)
    on = device(arguments.device)
    with loading(arguments.model):
        tokenizer = load_tokenizer(arguments.model)
        model = Llama.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype), device=on)
        if getattr(arguments, "fast", False) or getattr(arguments, "quantise", None):  # commands with `add_speed`
            model = prepare(model, quantise=arguments.quantise)
    return model, tokenizer


def load_draft(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Llama:
    """The model that --draft names, in the same type and place as the one that it helps.

    Raises:
        ValueError: if its tokens are not those of `tokenizer`.
    """
    with loading(arguments.draft):
        if load_tokenizer(arguments.draft).pieces != tokenizer.pieces:
            raise ValueError(
                f"--draft {arguments.draft} and --model {arguments.model} have different vocabularies, so one cannot "
                "guess for the other; take a smaller model of the same family, or --prompt-lookup"
            )
        return Llama.from_pretrained(
            arguments.draft, dtype=getattr(torch, arguments.dtype), device=device(arguments.device)
        )


def set_threads(n: int | None) -> None:
    """Set PyTorch's threads; None leaves them to PyTorch."""
    if n is None:
        return
    cpus = os.cpu_count() or 1
    if not 1 <= n <= cpus:  # PyTorch crashes where the system refuses to make so many
        raise ValueError(f"--threads is {n}; it must be from 1 to {cpus}, the CPUs of this machine")
    torch.set_num_threads(n)


def device(name: str) -> str:
    """The value of --device.

    Raises:
        ValueError: if there is no such device here.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", name):
        raise ValueError(f"--device is {name!r}; it must be cpu, cuda, cuda:N or mps")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device is {name}, and PyTorch sees {torch.cuda.device_count()} CUDA devices here; use cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device is mps, and there is none here; use cpu")
    return name

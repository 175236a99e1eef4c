"""Measure how well the model predicts a text."""

import argparse
import json
import time
from math import isfinite

from ..generation import evaluate
from . import options
from .terminal import progress, write

WINDOW = 1024

EXAMPLES = """examples:
  perplexity of a text, and bits per byte, which compare models with different vocabularies:
    PROGRAM evaluate book.txt
  its beginning only, which is quicker:
    PROGRAM evaluate book.txt --max-tokens 2000
  every token with nearly all the context that fits, which is slower and fairer to the model:
    PROGRAM evaluate book.txt --window 2048 --stride 256
  from another program, and for another one to read:
    cat chapter*.txt | PROGRAM evaluate - --json

The model reads a window of tokens, and then moves on by the stride. Each token but the first is predicted once, with
at least window - stride + 1 tokens before it, as far as the text has them. So compare only numbers of the same window
and stride: more context makes every text easier to predict."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a text in UTF-8; - is the standard input")
    parser.add_argument(
        "--window", type=int, metavar="N", help=f"tokens to read at a time (default: {WINDOW}, or the context if less)"
    )
    parser.add_argument("--stride", type=int, metavar="N", help="tokens to move on by (default: half the window)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="stop after the first N tokens of the text")
    options.add_errors(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options.add_running(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.max_tokens is not None and arguments.max_tokens < 2:
        raise ValueError(f"--max-tokens is {arguments.max_tokens}; it must be at least 2: the first is not predicted")
    text = options.read_text(arguments.file)
    if not text:
        raise ValueError(f"{arguments.file} is empty; give a text to predict")
    model, tokenizer = options.load(arguments)
    ids = options.encode(tokenizer, text, arguments.errors)[: arguments.max_tokens]
    window = min(WINDOW, model.config.max_seq_len) if arguments.window is None else arguments.window
    stride = max(1, window // 2) if arguments.stride is None else arguments.stride
    start = time.perf_counter()
    with progress("tokens", len(ids) - 1) as show:
        found = evaluate(model, ids, window, stride, show)
    seconds = time.perf_counter() - start

    n_bytes = sum(len(tokenizer.pieces[token]) for token in ids[1:])
    numbers = {
        "perplexity": found.perplexity,
        "nats_per_token": found.nats_per_token,
        "bits_per_token": found.bits_per_token,
        "bits_per_byte": found.bits_per_byte(n_bytes),
    }
    counts = {"tokens": found.n_tokens, "bytes": n_bytes, "window": window, "stride": stride}
    speed = found.n_tokens / seconds
    if arguments.json:
        for name, value in numbers.items():
            numbers[name] = value if isfinite(value) else None  # JSON has no infinity
        about = {"model": arguments.model, "file": arguments.file, "dtype": arguments.dtype}
        write(json.dumps(about | numbers | counts | {"seconds": seconds, "tokens_per_second": speed}) + "\n")
        return
    for name, value in numbers.items():
        write(f"{name.replace('_', ' '):<16}{value:.4f}\n")
    for name, value in counts.items():
        write(f"{name:<16}{value:,}\n")
    write(f"{'speed':<16}{speed:,.0f} tokens a second\n")

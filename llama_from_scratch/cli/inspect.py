"""Show what a model's file holds, without loading it."""

import argparse
import sys
from collections import Counter
from dataclasses import fields
from math import prod

import torch

from ..checkpoint import Checkpoint, describe
from ..cost import cache_bytes_per_token
from ..files.embedded import EMBEDDED
from ..tokenizer import load_tokenizer
from ..tokenizer.sentencepiece import SentencePieceTokenizer
from .terminal import console, loading, write

EXAMPLES = """examples:
  the model that comes with the project:
    PROGRAM inspect
  a file, a folder (Hugging Face's or Meta's), or a model on the Hugging Face hub:
    PROGRAM inspect model.gguf
    PROGRAM inspect meta-llama/Llama-3.2-1B"""

Table = tuple[str, list[tuple[str, ...]]]  # a title and its rows

PARTS = {
    "embedding": "embedding",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "attention_norm": "norms",
    "ffn_norm": "norms",
    "norm": "norms",
    "lm_head": "output projection",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default=EMBEDDED, help="the model to look at (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    with loading(arguments.model):
        found = describe(arguments.model)
        tables = [*_model(found), ("tokenizer", _tokenizer(arguments.model))]
    _show(tables)


def _model(found: Checkpoint) -> list[Table]:
    config = found.config
    counts: Counter[str] = Counter()
    types: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in found.tensors:
        owner = tensor.name.split(".")
        counts[PARTS[owner[2] if owner[0] == "blocks" else owner[0]]] += prod(tensor.shape)
        types[tensor.stored_type] += 1
        sizes[tensor.stored_type] += tensor.n_bytes
    total = sum(counts.values())
    memory = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        token = cache_bytes_per_token(config, dtype.itemsize)
        memory += [
            (f"weights in {name}", _bytes(found.memory(dtype))),
            (f"cache in {name}", f"{token:,} bytes a token"),
            (f"cache in {name}, full", f"{_bytes(token * config.max_seq_len)} a sequence"),
        ]
    return [
        ("file", [("path", str(found.path)), ("format", found.format), ("weights", _bytes(found.n_bytes))]),
        ("config", [(field.name, str(getattr(config, field.name))) for field in fields(config)]),
        (
            "parameters",
            [(part, f"{n:,}", f"{n / total:.2%}") for part, n in counts.most_common()] + [("all", f"{total:,}", "")],
        ),
        ("tensors as stored", [(kind, str(n), _bytes(sizes[kind])) for kind, n in types.most_common()]),
        ("memory to run it", memory),
    ]


def _tokenizer(name: str) -> list[tuple[str, ...]]:
    try:
        tok = load_tokenizer(name)
    except ValueError as error:  # a model can be whole without one
        return [("none that can be read", str(error))]

    def named(token: int | None) -> str:
        text = "none" if token is None else tok.tokens[token] if token < len(tok) else "(no token)"
        return text if token is None else f"{token} {text}"

    return [
        ("kind", "SentencePiece BPE" if isinstance(tok, SentencePieceTokenizer) else "byte-level BPE"),
        ("tokens", f"{len(tok):,}, {len(tok.special)} of them special"),
        ("bos", named(tok.bos_id) + (", before every text" if tok.add_bos else ", not added to a text")),
        ("eos", named(tok.eos_id)),
        ("stops at", ", ".join(named(token) for token in sorted(tok.stop_ids)) or "none"),
        ("chat template", ", ".join(tok.templates) or "none"),
    ]


def _bytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _show(tables: list[Table]) -> None:
    """Tables on a terminal; into a pipe plain text, a line a row."""
    if not sys.stdout.isatty():
        for title, rows in tables:
            write(f"{title}\n")
            widths = [max(len(row[i]) for row in rows if len(row) > i) for i in range(max(map(len, rows)))]
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
                write("  " + "  ".join(cells).rstrip() + "\n")
        return
    screen = console()
    from rich.table import Table as RichTable
    from rich.text import Text

    for title, rows in tables:
        table = RichTable(title=title, title_justify="left", show_header=False, title_style="bold")
        for i in range(max(map(len, rows))):
            table.add_column(overflow="fold", justify="left" if i == 0 or title in ("file", "config") else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        screen.print(table)

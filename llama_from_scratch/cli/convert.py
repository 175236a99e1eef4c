"""Write a model in another format: Hugging Face, Meta or GGUF."""

import argparse
from pathlib import Path

from ..checkpoint import FORMATS, describe
from ..convert import convert
from ..files.errors import CheckpointError, ExistsError
from .terminal import loading, note, progress

EXAMPLES = """examples:
  the model that comes with the project, as a folder that transformers reads:
    PROGRAM convert SmolLM2-135M-Instruct smollm2 --type BF16
  a folder as one file for llama.cpp, eight bits a number:
    PROGRAM convert smollm2 smollm2.gguf --type Q8_0
  in Meta's layout, params.json and consolidated.00.pth:
    PROGRAM convert smollm2 smollm2-meta --to meta"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a GGUF file, a folder, or a name on the Hugging Face hub")
    parser.add_argument("target", help="a file called something.gguf, or a folder")
    parser.add_argument(
        "--to", choices=FORMATS, metavar="FORMAT", help=f"{', '.join(FORMATS)} (default: gguf for a file, huggingface)"
    )
    parser.add_argument(
        "--type",
        choices=("F32", "F16", "BF16", "Q8_0"),
        help="how numbers are stored; Q8_0 in GGUF only (default: as in the source, and F32 if that is quantised)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model at the target, if there is one")


def run(arguments: argparse.Namespace) -> None:
    with loading(arguments.source):
        found = describe(arguments.source)
    try:
        with progress("Converting, MB", found.n_bytes // 10**6) as show:
            remarks = convert(
                arguments.source,
                arguments.target,
                arguments.to,
                arguments.type,
                arguments.overwrite,
                lambda done: show(done // 10**6),
            )
    except ExistsError as error:
        raise CheckpointError(f"{error.found}; add --overwrite to replace it, or {error.otherwise}") from None
    for remark in remarks:
        note(f"note: {remark}")
    written = describe(Path(arguments.target))  # a path, even if it is called like a model that comes with the project
    note(f"{arguments.target}: {written.format}, {len(written.tensors)} tensors, {written.n_bytes / 1e6:,.1f} MB")

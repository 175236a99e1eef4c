"""Continue a text."""

import argparse
import sys
from pathlib import Path

from ..generation import generate
from . import options
from .terminal import Stopwatch, note, write

EXAMPLES = """examples:
  the most likely continuation, always the same:
    PROGRAM generate "The capital of France is" --max-new-tokens 20
  a story that is different each time, or the same for one seed:
    PROGRAM generate "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 7
  from a file, or from another program (one line break at its end is not part of the prompt):
    PROGRAM generate --file prompt.txt
    echo "Dear Sir or Madam," | PROGRAM generate --file -
  the token ids as well, and the speed:
    PROGRAM generate "1 2 3" --tokens --verbose"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="the text to continue")
    parser.add_argument("--file", metavar="PATH", help="read the prompt from this file; - is the standard input")
    parser.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N", help="stop there (default: %(default)s)"
    )
    parser.add_argument("--tokens", action="store_true", help="print the token ids, too")
    options.add_sampling(parser, temperature=0.0, top_p=None)
    options.add_running(parser)


def run(arguments: argparse.Namespace) -> None:
    rule = options.sampling(arguments)
    text = _prompt(arguments)
    model, tokenizer = options.load(arguments)
    prompt = tokenizer.encode(text)
    watch = Stopwatch()
    tokens = generate(model, prompt, arguments.max_new_tokens, rule, tokenizer.stop_ids)

    write(text, faint=True)
    stream, new = tokenizer.stream(), []
    for token in tokens:
        watch.tick()
        new.append(token)
        write(stream.push(token))
    write(stream.flush() + "\n")
    if arguments.tokens:
        write(f"prompt tokens: {' '.join(map(str, prompt))}\nnew tokens: {' '.join(map(str, new))}\n")
    if arguments.verbose:
        note(watch.report(len(prompt)))


def _prompt(arguments: argparse.Namespace) -> str:
    if (arguments.prompt is None) == (arguments.file is None):
        raise ValueError(
            'give the text to continue, such as "The capital of France is", or --file with a file that has it'
        )
    if arguments.file is None:
        return arguments.prompt
    raw = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.file} is not text in UTF-8 (byte {error.start}); convert it first") from None
    return text.removesuffix("\n").removesuffix("\r")

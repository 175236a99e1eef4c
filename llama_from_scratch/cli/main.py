"""Parsing the command line, running one command, and reporting how it ends."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from ..files.embedded import EMBEDDED
from ..files.errors import ArgumentError, is_out_of_memory
from ..tokenizer.base import SpellingError
from . import bench, chat, convert, evaluate, generate, inspect, options, train

PROGRAM = "python -m llama_from_scratch"
EXAMPLES = f"""examples:
  {PROGRAM} generate "The capital of France is" --max-new-tokens 20
  {PROGRAM} chat "What is a rainbow?"
  {PROGRAM} evaluate book.txt
  {PROGRAM} train my-texts/ --out runs/mine
  {PROGRAM} convert {EMBEDDED} smollm2 --type BF16
  {PROGRAM} inspect
  {PROGRAM} bench decode

Each command explains itself: {PROGRAM} generate --help
The model is {EMBEDDED}, which comes with the project, unless --model names another."""

TYPED = {"prompt", "question", "system"}  # arguments that are text; others can be names of files, of any bytes


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> None:
        if found := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message, re.DOTALL):
            kind = {"int": "a whole number", "float": "a number"}[found[2]]
            message = f"{found[1]} is {found[3]}; it must be {kind}"
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog=PROGRAM,
        description="Run a Llama that was written from scratch.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="command", required=True)
    for module in (generate, chat, evaluate, train, convert, inspect, bench):
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(
            module.__name__.rsplit(".", 1)[-1],
            help=summary,
            description=summary,
            epilog=module.EXAMPLES.replace("PROGRAM", PROGRAM),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, or 2 for a user's mistake, 130 for Ctrl-C, 141 for a closed pipe."""
    try:
        arguments = parser().parse_args(argv)
    except KeyboardInterrupt:
        return 130
    try:
        for name in TYPED & vars(arguments).keys():
            if isinstance(typed := getattr(arguments, name), str):  # `bench --prompt` is a number
                setattr(arguments, name, options.from_terminal(typed))
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as in `... | head`
        _forget_output()
        return 141
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        print(f"error: {' '.join(_message(error, arguments).split())}", file=sys.stderr)
        return 2


def _message(error: Exception, arguments: argparse.Namespace) -> str:
    """What an error says, in the words of the command line."""
    if is_out_of_memory(error):
        advice = "--dtype bfloat16 halves it, and inspect says how much"
        if arguments.run is train.run:
            advice = "lower --batch-size and raise --accumulate, or give --recompute"
        return f"there is not enough memory; {advice}"
    if isinstance(error, ArgumentError):
        return error.message(options.option)
    if isinstance(error, SpellingError) and "errors" in arguments:
        return f"{error.problem}; take the character out, or add --errors replace or --errors ignore"
    if isinstance(error, OSError) and error.strerror:
        if error.filename:
            return f"{error.filename}: {error.strerror}; check the name, and that you may read it"
        _forget_output()  # a stream, which has no name
        return f"the output cannot be written ({error.strerror}); make room, or send it elsewhere"
    return str(error)


def _forget_output() -> None:
    """Redirect stdout to nothing: at exit Python would try again to write, and fail with its own exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

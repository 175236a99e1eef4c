"""What is typed, turned into one call; and how every command ends."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from ..files.embedded import EMBEDDED
from . import bench, chat, convert, evaluate, generate, inspect, train

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
    """Run one command. Gives the exit code: 0, or 2 for a user's mistake, 130 for Ctrl-C, 141 for a closed pipe."""
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, as in `… | head`
        _forget_output()
        return 141
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # so PyTorch says that memory ran out
            raise
        advice = "--dtype bfloat16 halves it, and inspect says how much"
        if arguments.run is train.run:
            advice = "lower --batch-size and raise --accumulate, or give --recompute"
        print(f"error: there is not enough memory; {advice}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        known = isinstance(error, OSError) and error.filename and error.strerror
        advice = "check the name, and that you may read it"
        message = f"{error.filename}: {error.strerror}; {advice}" if known else " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror and not known:  # a stream, which has no name
            message = f"the output cannot be written ({error.strerror}); make room, or send it elsewhere"
            _forget_output()
        print(f"error: {message}", file=sys.stderr)
        return 2


def _forget_output() -> None:
    """At exit Python would try once more to write what is left, and complain with an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

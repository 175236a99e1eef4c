"""Continue a text."""

import argparse
from collections.abc import Iterator

from ..generation import Draft, Tally, draft_model, generate, generate_speculative, prompt_lookup, stream_samples
from ..model import Llama
from ..tokenizer import Tokenizer
from . import options
from .terminal import Stopwatch, note, progress, write

EXAMPLES = """examples:
  the most likely continuation, always the same:
    PROGRAM generate "The capital of France is" --max-new-tokens 20
  a story that is different each time, or the same for one seed:
    PROGRAM generate "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 7
  three stories, none of which goes round in circles:
    PROGRAM generate "Once upon a time" --temperature 0.8 --samples 3 --repetition-penalty 1.2
  from a file, or from another program (one line break at its end is not part of the prompt):
    PROGRAM generate --file prompt.txt
    echo "Dear Sir or Madam," | PROGRAM generate --file -
  the token ids as well, and the speed:
    PROGRAM generate "1 2 3" --tokens --verbose
  fewer passes of the model where a text repeats itself: the words that came next last time are guessed and checked:
    PROGRAM generate "One potato, two potatoes. One potato, two" --prompt-lookup --verbose
  with weights of 4 bits:
    PROGRAM generate "The capital of France is" --quantise int4
  the guesses of a smaller model of the same family, for a large one:
    PROGRAM generate "Once upon a time" --model meta-llama/Llama-3.1-8B --draft meta-llama/Llama-3.2-1B"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="the text to continue")
    parser.add_argument("--file", metavar="PATH", help="read the prompt from this file; - is the standard input")
    options.add_errors(parser)
    parser.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N", help="stop there (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="write N different continuations")
    parser.add_argument("--tokens", action="store_true", help="print the token ids, too")
    parser.add_argument("--verbose", action="store_true", help="say on stderr how fast it was")
    options.add_sampling(parser, temperature=0.0, top_p=None)
    group = parser.add_argument_group("speculative decoding: the same text, from guesses that one pass checks together")
    drafts = group.add_mutually_exclusive_group()
    drafts.add_argument("--draft", metavar="NAME", help="a smaller model with the same vocabulary makes the guesses")
    drafts.add_argument("--prompt-lookup", action="store_true", help="guess that the text repeats itself")
    group.add_argument("--guesses", type=int, metavar="N", help="tokens to guess at a time (default: 4)")
    options.add_speed(parser)
    options.add_running(parser)


def run(arguments: argparse.Namespace) -> None:
    rule = options.sampling(arguments)
    speculates = arguments.draft is not None or arguments.prompt_lookup
    if arguments.guesses is not None and not speculates:
        raise ValueError("--guesses is for speculative decoding; add --prompt-lookup, or --draft with a model")
    if arguments.samples != 1 and speculates:
        raise ValueError("--samples does not go together with --draft or --prompt-lookup; leave one of them out")
    if arguments.samples > 1 and rule.temperature == 0:
        raise ValueError("at temperature 0 all samples are the same text; add --temperature 0.8, for example")
    text = _prompt(arguments)
    model, tokenizer = options.load(arguments)
    prompt, watch, tally = options.encode(tokenizer, text, arguments.errors), Stopwatch(), Tally()
    most, stop = arguments.max_new_tokens, tokenizer.stop_ids

    if arguments.samples != 1:
        steps = stream_samples(model, prompt, arguments.samples, most, rule, stop)
        rows = _write_samples(steps, arguments, text, prompt, tokenizer, watch)
    else:
        if speculates:
            draft = _draft(arguments, model, tokenizer)
            guesses = 4 if arguments.guesses is None else arguments.guesses
            tokens = generate_speculative(model, prompt, most, draft, rule, stop, n_guesses=guesses, tally=tally)
        else:
            tokens = generate(model, prompt, most, rule, stop)
        rows = [_write_one(tokens, text, prompt, tokenizer, watch)]
    if arguments.tokens:
        write(f"prompt tokens: {' '.join(map(str, prompt))}\n")
        for row in rows:
            write(f"new tokens: {' '.join(map(str, row))}\n")
    if arguments.verbose:
        note(watch.report(len(prompt)))
        if speculates:
            note(
                f"{tally.passes} passes of the model; {tally.accepted} of {tally.guessed} guesses accepted "
                f"({tally.acceptance_rate:.0%})"
            )


def _write_one(
    tokens: Iterator[int], text: str, prompt: list[int], tokenizer: Tokenizer, watch: Stopwatch
) -> list[int]:
    """Write the text as it is generated; returns the new tokens."""
    write(text, faint=True)
    stream, new = tokenizer.stream(after=prompt), []
    for token in tokens:
        watch.tick()
        new.append(token)
        write(stream.push(token))
    write(stream.flush() + "\n")
    return new


def _write_samples(
    steps: Iterator[list[int | None]],
    arguments: argparse.Namespace,
    text: str,
    prompt: list[int],
    tokenizer: Tokenizer,
    watch: Stopwatch,
) -> list[list[int]]:
    """Write all samples when the last has ended or Ctrl-C was pressed; returns their new tokens."""
    rows: list[list[int]] = [[] for _ in range(arguments.samples)]
    try:
        with progress("tokens of each sample", arguments.max_new_tokens) as show:
            for done, step in enumerate(steps, start=1):
                for row, token in zip(rows, step, strict=True):
                    if token is not None:
                        watch.tick()
                        row.append(token)
                show(done)
    finally:
        for i, row in enumerate(rows, start=1):
            if any(rows):
                write(f"--- sample {i} of {len(rows)}\n")
                write(text, faint=True)
                stream = tokenizer.stream(after=prompt)
                write("".join(map(stream.push, row)) + stream.flush() + "\n")
    return rows


def _draft(arguments: argparse.Namespace, model: Llama, tokenizer: Tokenizer) -> Draft:
    if arguments.prompt_lookup:
        return prompt_lookup(model)
    return draft_model(model, options.load_draft(arguments, tokenizer))


def _prompt(arguments: argparse.Namespace) -> str:
    if (arguments.prompt is None) == (arguments.file is None):
        raise ValueError(
            'give the text to continue, such as "The capital of France is", or --file with a file that has it'
        )
    if arguments.file is None:
        return arguments.prompt
    return options.read_text(arguments.file).removesuffix("\n")

"""Talk with the model."""

import argparse
import sys

from ..generation import GrowingCache, Sampling, generate
from ..generation.caches import is_same_in_pieces, rewind_to_shared
from ..model import Llama
from ..tokenizer import Tokenizer
from ..tokenizer.chat_formats import FORMATS
from . import options
from .terminal import Stopwatch, note, write

EXAMPLES = """examples:
  a conversation; /quit or Ctrl-D ends it, Ctrl-C stops an answer:
    PROGRAM chat
  one question, one answer:
    PROGRAM chat "What is a rainbow?"
  with another tone, and always the most likely words:
    PROGRAM chat "What is a rainbow?" --system "You are a pirate." --temperature 0

The model remembers the conversation as far as its context reaches. When it outgrows that, the oldest messages are
dropped, and you are told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", help="ask this and leave; without it, a conversation begins")
    parser.add_argument("--system", metavar="TEXT", help="how the model is to behave (default: what its template says)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=512, metavar="N", help="the longest answer (default: %(default)s)"
    )
    parser.add_argument(
        "--chat-format",
        choices=list(FORMATS),
        help="how a conversation is written for the model (default: as the chat template in its files says, or else in "
        "the format that its vocabulary shows)",
    )
    # The rule that SmolLM2-Instruct's model card uses.
    options.add_sampling(parser, temperature=0.2, top_p=0.9)
    options.add_speed(parser)
    options.add_running(parser)
    parser.add_argument("--verbose", action="store_true", help="say on stderr how fast each answer was")


def run(arguments: argparse.Namespace) -> None:
    if arguments.question is not None and not arguments.question.strip():
        raise ValueError("the question is empty; ask something, or leave it out to begin a conversation")
    rule = options.sampling(arguments)
    model, tokenizer = options.load(arguments)
    tokenizer.chat_format(arguments.chat_format)  # an error now, not after each question
    talk = Conversation(
        model,
        tokenizer,
        rule,
        arguments.max_new_tokens,
        arguments.system,
        arguments.verbose,
        arguments.chat_format,
    )
    if arguments.question is not None:
        if not talk.ask(arguments.question):
            raise KeyboardInterrupt
        return
    typed = sys.stdin.isatty()
    if typed:
        try:
            import readline  # noqa: F401  arrow keys and history in input()
        except ImportError:  # not on every system
            pass
        note(f"You are talking with {arguments.model}. /quit or Ctrl-D leaves, Ctrl-C stops an answer.")
    while True:
        try:
            line = input("\nyou: " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            if typed:
                write("\n")
            return
        except UnicodeDecodeError as error:
            raise ValueError(f"a question is not text in UTF-8 (byte {error.start}); convert it first") from None
        if line == "/quit":
            return
        if not line:
            continue
        try:
            talk.ask(line)
        except ValueError as error:  # this message cannot be answered; the next one may be
            note(f"error: {error}")


class Conversation:
    """The conversation so far, kept within the model's context."""

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        rule: Sampling,
        max_new_tokens: int,
        system: str | None = None,
        verbose: bool = False,
        chat_format: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.rule, self.verbose = model, tokenizer, rule, verbose
        self.max_new_tokens, self.chat_format = max_new_tokens, chat_format
        self.system = [] if system is None else [{"role": "system", "content": system}]
        self.turns: list[dict[str, str]] = []  # user and assistant, one after the other
        # Keys and values of the text so far: each question begins with the conversation before it.
        self.cache = model.new_cache(1, 0, GrowingCache)
        self.held: list[int] = []

    def ask(self, question: str) -> bool:
        """Write the model's answer to stdout as it is made, and remember both. False if Ctrl-C stopped it.

        Raises:
            ValueError: if this question cannot be answered, also alone; then it is not remembered.
        """
        asked = {"role": "user", "content": question}
        prompt = self._fit(asked)
        watch = Stopwatch()
        rewind_to_shared(self.cache, self.held if is_same_in_pieces(self.model.config) else [], prompt)
        tokens = generate(self.model, prompt, self.max_new_tokens, self.rule, self.tokenizer.stop_ids, self.cache)
        self.held = list(prompt)
        stream, answer, finished = self.tokenizer.stream(), "", True
        try:
            for token in tokens:
                watch.tick()
                self.held.append(token)
                part = stream.push(token)
                answer += part
                write(part)
            answer += (rest := stream.flush())
            write(rest)
        except KeyboardInterrupt:
            finished = False
        write("\n")
        if not finished:
            note("[stopped]")
        elif watch.n == self.max_new_tokens:
            note(f"[cut off after {watch.n} tokens; --max-new-tokens allows more]")
        if answer:
            self.turns += [asked, {"role": "assistant", "content": answer}]
        if self.verbose:
            note(watch.report(len(prompt)))
        return finished

    def _fit(self, asked: dict[str, str]) -> list[int]:
        """The conversation as tokens, without its oldest turns if there is no room for an answer otherwise."""
        context = self.model.config.max_seq_len
        for dropped in range(0, len(self.turns) + 1, 2):
            prompt = self.tokenizer.chat(self.system + self.turns[dropped:] + [asked], self.chat_format)
            if len(prompt) + self.max_new_tokens <= context:
                break
        else:
            return prompt  # too long by itself, as `generate` will say; no reason to forget what was said
        if dropped:
            del self.turns[:dropped]
            note(
                f"[the conversation outgrew the context of {context} tokens; its {dropped} oldest messages are dropped]"
            )
        return prompt

"""Speculative decoding: guess a few tokens cheaply, check them all in one pass of the model, keep those that hold.

The text is what the model alone would write: the same tokens if greedy, the same distribution if drawn.
Source: Leviathan et al., 2023, arXiv 2211.17192, Algorithm 1.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..model import Llama
from .caches import is_same_in_pieces
from .draft import Draft
from .loop import GREEDY
from .prompt import as_tokens, check_request, new_cache, run_prompt, seen_tokens
from .sampling import Sampling, draw, probabilities


@dataclass
class Tally:
    """Counts while `generate_speculative` runs."""

    passes: int = 0  # of the model, behind the prompt
    guessed: int = 0  # tokens that the draft proposed
    accepted: int = 0  # those of them that the model let stand

    @property
    def acceptance_rate(self) -> float:
        """Accepted of guessed; 0 if nothing was guessed."""
        return self.accepted / self.guessed if self.guessed else 0.0


def generate_speculative(
    model: Llama,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    draft: Draft,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    n_guesses: int = 4,
    tally: Tally | None = None,
) -> Iterator[int]:
    """`generate` with a draft: `draft_model(model, small)` or `prompt_lookup(model)`.

    Each pass of the model gives 1 to n_guesses + 1 tokens.

    Greedy, the tokens are those of `generate`, except where two logits are equal to rounding (so: in fp32). Drawn
    tokens follow the same distribution, but one seed does not draw the same text with and without a draft.
    tally: is told how many guesses were made and accepted.

    Raises (at once):
        ValueError: as `generate`; if n_guesses is below 1; for a model with dynamic NTK scaling, which reads several
            tokens at once differently from one at a time.
    """
    check_request(model, [prompt_ids], max_new_tokens, sampling)
    if type(n_guesses) is not int or n_guesses < 1:
        raise ValueError(f"n_guesses is {n_guesses!r}; it must be a whole number of at least 1")
    if not is_same_in_pieces(model.config):
        raise ValueError(
            "speculative decoding would change what this model writes: its RoPE scaling is dynamic, which turns keys "
            "by how long the text is so far; generate without a draft"
        )
    return _run(
        model, list(prompt_ids), max_new_tokens, draft, sampling, frozenset(stop_ids), n_guesses, tally or Tally()
    )


def _run(
    model: Llama,
    ids: list[int],
    max_new_tokens: int,
    draft: Draft,
    sampling: Sampling,
    stop_ids: frozenset[int],
    n_guesses: int,
    tally: Tally,
) -> Iterator[int]:
    end = len(ids) + max_new_tokens
    cache = new_cache(model, 1, end - 1)
    generator = sampling.generator(model.embedding.weight.device)
    seen = seen_tokens(model, [ids], sampling)
    if len(ids) > 1:
        with torch.inference_mode():
            run_prompt(model, as_tokens(model, [ids[:-1]]), cache)
    while len(ids) < end:
        with torch.inference_mode():
            # A pass gives one token more than were guessed.
            guesses, q = draft(ids, min(n_guesses, end - len(ids) - 1), sampling, generator)
            logits = model(as_tokens(model, [[ids[-1], *guesses]]), cache)[0]
            run = verify(logits, guesses, q, sampling, generator, seen)
        cache.rewind(len(ids) + len(run) - 1)  # forget the guesses that were refused
        ids += run
        if seen is not None:
            seen[0, run] = True
        tally.passes += 1
        tally.guessed += len(guesses)
        tally.accepted += len(run) - 1
        for token in run:
            if token in stop_ids:
                return
            yield token


def verify(
    logits: Float[Tensor, "guesses_and_one vocab"],
    guesses: list[int],
    q: Float[Tensor, "guesses vocab"],
    sampling: Sampling,
    generator: torch.Generator,
    seen: Bool[Tensor, "1 vocab"] | None = None,
) -> list[int]:
    """The guesses that stand, and one token more: instead of the first that does not, or behind the last.

    logits: of the model, for the place of each guess and the one behind them. q: what each guess was drawn from.
    seen: as in `probabilities`; the guesses that stand are added.

    A guess x stands with probability min(1, p(x) / q(x)). If it falls, the token is drawn from max(0, p - q), made to
    add up to 1: where the draft gave too little. Together, that is a draw from p.
    """
    run: list[int] = []
    for i, guess in enumerate(guesses):
        p = probabilities(logits[i : i + 1], sampling, seen)
        chance = torch.rand((), generator=generator, device=p.device)  # from 0 to below 1
        if chance * q[i, guess] >= p[0, guess]:
            rest = (p - q[i]).clamp(min=0)
            # Nothing is left if p = q; then only rounding makes a guess fall.
            return [*run, int(draw(rest if rest.any() else p, generator))]
        run.append(guess)
        if seen is not None:
            seen[0, guess] = True
    return [*run, int(draw(probabilities(logits[-1:], sampling, seen), generator))]

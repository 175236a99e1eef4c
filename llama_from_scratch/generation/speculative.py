"""Speculative decoding: guess a few tokens cheaply, verify them in one pass of the model, keep those it accepts.

The result is that of the model alone: the same tokens at temperature 0, else the same distribution.
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
from .prompt import as_tokens, check_request, run_prompt, seen_tokens
from .sampling import Sampling, draw, probabilities


@dataclass
class Tally:
    """Counts that `generate_speculative` keeps up to date while it runs."""

    passes: int = 0  # of the model, after the prompt
    guessed: int = 0  # tokens that the draft proposed
    accepted: int = 0  # of them, those that the model accepted

    @property
    def acceptance_rate(self) -> float:
        """accepted / guessed; 0 if nothing was guessed."""
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
    """`generate` with a draft, which is `draft_model(model, small)` or `prompt_lookup(model)`.

    Each pass of the model yields 1 to n_guesses + 1 tokens. At temperature 0 they are those of `generate`, unless two
    logits differ by no more than rounding. Otherwise they have the same distribution, but the same seed does not draw
    the same text as without a draft.
    tally: counts the guesses that were made and accepted.

    Raises (at the call):
        ValueError: as `generate`; if n_guesses is below 1; for a model with dynamic NTK scaling, whose logits for
            several tokens in one pass differ from those for one at a time.
    """
    check_request(model, [prompt_ids], max_new_tokens, sampling)
    if type(n_guesses) is not int or n_guesses < 1:
        raise ValueError(f"n_guesses is {n_guesses!r}; it must be a whole number of at least 1")
    if not is_same_in_pieces(model.config):
        raise ValueError(
            "speculative decoding would change what this model writes: its RoPE scaling is dynamic, which rotates keys "
            "by the length of the text so far; generate without a draft"
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
    cache = model.new_cache(1, end - 1)
    generator = sampling.generator(model.embedding.weight.device)
    seen = seen_tokens(model, [ids], sampling)
    if len(ids) > 1:
        with torch.inference_mode():
            run_prompt(model, as_tokens(model, [ids[:-1]]), cache)
    while len(ids) < end:
        with torch.inference_mode():
            # A pass yields one token more than was guessed.
            guesses, q = draft(ids, min(n_guesses, end - len(ids) - 1), sampling, generator)
            logits = model(as_tokens(model, [[ids[-1], *guesses]]), cache)[0]
            run = verify(logits, guesses, q, sampling, generator, seen)
        cache.rewind(len(ids) + len(run) - 1)  # forget the rejected guesses
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
    """The accepted guesses and one token more: in place of the first rejected guess, or after the last one.

    logits: of the model, for each guess and for the token after them. q: the distribution of each guess.
    seen: as in `probabilities`; accepted guesses are added to it.

    A guess x is accepted with probability min(1, p(x) / q(x)). If it is rejected, a token is drawn from max(0, p - q),
    normalised. Together this is a draw from p (Leviathan et al., section 2.3 and appendix A.1).
    """
    run: list[int] = []
    for i, guess in enumerate(guesses):
        p = probabilities(logits[i : i + 1], sampling, seen)
        chance = torch.rand((), generator=generator, device=p.device)  # from 0 to below 1
        if chance * q[i, guess] >= p[0, guess]:
            rest = (p - q[i]).clamp(min=0)
            # If p = q nothing is left, and only rounding rejects a guess.
            return [*run, int(draw(rest if rest.any() else p, generator))]
        run.append(guess)
        if seen is not None:
            seen[0, guess] = True
    return [*run, int(draw(probabilities(logits[-1:], sampling, seen), generator))]

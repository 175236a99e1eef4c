"""From logits to the next token: repetition penalty, temperature, top-k, top-p, min-p, a draw; in this order."""

from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COLDEST = 0.001  # below this, a draw is practically always the most likely token, and logits / temperature may overflow


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Raises:
        ValueError: for a value out of range; the message says what is allowed.
    """

    temperature: float = 0.0  # divides the logits; at 0 the most likely token is always taken
    top_k: int | None = None  # keep this many most likely tokens
    top_p: float | None = None  # keep the fewest most likely tokens that hold this much probability together
    min_p: float | None = None  # keep tokens at least this fraction as likely as the most likely one
    seed: int | None = None  # the same seed draws the same tokens; None draws differently each time
    repetition_penalty: float = 1.0  # above 1, tokens that the text already holds become less likely; 1: off

    def __post_init__(self) -> None:
        if self.temperature != 0 and not (isfinite(self.temperature) and self.temperature >= COLDEST):
            raise ValueError(
                f"temperature is {self.temperature}; it must be 0 (always the most likely token), or a number of at "
                f"least {COLDEST}"
            )
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ValueError(f"top_k is {self.top_k!r}; it must be a whole number of at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must be from 0 to 1")
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed < 2**63):
            raise ValueError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2^63 - 1")
        if not (isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0; 1 turns it off, 1.2 is usual"
            )

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The random number generator for one run: from the seed, or without one different each time."""
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def penalise_repetition(
    logits: Float[Tensor, "... vocab"], seen: Bool[Tensor, "... vocab"], penalty: float
) -> Float[Tensor, "... vocab"]:
    """Divide the logits of tokens that were seen, once or more often, by the penalty.

    A logit below zero is multiplied by it, as in transformers: division would make that token more likely.
    Source: Keskar et al., 2019, CTRL, arXiv 1909.05858, section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Tensor, "... vocab"], k: int) -> Float[Tensor, "... vocab"]:
    """Keep exactly the k largest logits, also among equal ones; the rest become -inf.

    Source: Fan et al., 2018, arXiv 1805.04833, section 5.4.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(
            f"top_k is {k}; this model has {logits.shape[-1]} tokens to choose from, so give 1 to that many"
        )
    values, at = logits.topk(k)
    return torch.full_like(logits, float("-inf")).scatter(-1, at, values)


def keep_top_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Keep the fewest most likely tokens whose probabilities add up to at least p; the rest become -inf.

    Source: Holtzman et al., 2020, arXiv 1904.09751, section 3.1.
    """
    ordered, at = logits.sort(descending=True, stable=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability  # of all more likely tokens together
    drop = before >= p
    drop[..., 0] = False  # rounding must not drop the most likely one
    return torch.empty_like(logits).scatter(-1, at, ordered.masked_fill(drop, float("-inf")))


def keep_min_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Keep the tokens that are at least p times as likely as the most likely one; the rest become -inf.

    Source: Nguyen et al., 2024, arXiv 2407.01082, section 3.
    """
    probability = logits.softmax(dim=-1)
    return logits.masked_fill(probability < p * probability.amax(dim=-1, keepdim=True), float("-inf"))


def probabilities(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, seen: Bool[Tensor, "batch vocab"] | None = None
) -> Float[Tensor, "batch vocab"]:
    """The distribution that `next_token` draws from, in fp32; at temperature 0 the most likely token has all of it.

    seen: the tokens that the text holds, prompt included; only a repetition penalty reads it.

    Raises:
        ValueError: if a logit is NaN or inf, or all of a row are -inf.
    """
    if not logits.amax(dim=-1).isfinite().all():  # the largest of a row is NaN if any is; -inf is a token left out
        raise bad_logits(logits.dtype)
    return distribution(logits, sampling, seen)


def bad_logits(dtype: torch.dtype) -> ValueError:
    """The error for logits that are NaN or infinite, with what to do about it."""
    advice = "load it as torch.float32 or torch.bfloat16"
    if dtype in (torch.float32, torch.bfloat16):
        advice = "check its weights: some must be NaN, infinite or far too large"
    return ValueError(f"the model's logits are NaN or infinite in {dtype}; {advice}")


def distribution(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, seen: Bool[Tensor, "batch vocab"] | None = None
) -> Float[Tensor, "batch vocab"]:
    """`probabilities` without the check of the logits, which would make the CPU wait for a GPU."""
    logits = logits.float()
    if seen is not None:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def next_token(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    seen: Bool[Tensor, "batch vocab"] | None = None,
) -> Int[Tensor, " batch"]:
    """Choose one token for each row from `probabilities`; arguments and errors are the same."""
    chances = probabilities(logits, sampling, seen)
    return chances.argmax(dim=-1) if sampling.temperature == 0 else draw(chances, generator)


def draw(chances: Float[Tensor, "batch vocab"], generator: torch.Generator | None = None) -> Int[Tensor, " batch"]:
    """One token for each row, drawn with probability proportional to `chances`; rows need not add up to 1."""
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)

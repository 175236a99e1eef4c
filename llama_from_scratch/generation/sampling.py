"""From logits to the next token, in this order: repetition penalty, temperature, top-k, top-p, min-p, a draw."""

from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COLDEST = 0.001  # below, there is no chance left in the draw, and at some point no fp32 number for logits / temperature


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Raises:
        ValueError: for a value that means nothing; the message says what is allowed.
    """

    temperature: float = 0.0  # divides the logits; 0 always takes the most likely token
    top_k: int | None = None  # keep this many most likely tokens
    top_p: float | None = None  # keep the fewest most likely tokens that hold this much probability together
    min_p: float | None = None  # keep tokens at least this fraction as likely as the most likely one
    seed: int | None = None  # the same seed draws the same tokens; None draws differently each time
    repetition_penalty: float = 1.0  # above 1, tokens that the text already holds become less likely; 1 changes nothing

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
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0: 1 changes nothing, 1.2 is usual"
            )

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The source of chance for one run: from the seed, or new each time."""
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def penalise_repetition(
    logits: Float[Tensor, "... vocab"], seen: Bool[Tensor, "... vocab"], penalty: float
) -> Float[Tensor, "... vocab"]:
    """Make the tokens that were seen less likely, however often they were: divide their logits by the penalty.

    A logit below zero is multiplied, as in transformers: the paper's division would make that token more likely.
    Source: Keskar et al., 2019, CTRL, arXiv 1909.05858, section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Tensor, "... vocab"], k: int) -> Float[Tensor, "... vocab"]:
    """Keep exactly the k largest logits, also where several are equal; the rest become -inf."""
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(
            f"top_k is {k}; this model has {logits.shape[-1]} tokens to choose from, so give 1 to that many"
        )
    values, at = logits.topk(k)
    return torch.full_like(logits, float("-inf")).scatter(-1, at, values)


def keep_top_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Keep the most likely tokens until together they hold probability p; the one that reaches it is kept too.

    Source: Holtzman et al., 2020, arXiv 1904.09751, section 3.1.
    """
    ordered, at = logits.sort(descending=True, stable=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability  # held by the tokens ahead of this one
    drop = before >= p
    drop[..., 0] = False  # rounding must not drop the most likely one
    return torch.empty_like(logits).scatter(-1, at, ordered.masked_fill(drop, float("-inf")))


def keep_min_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Keep the tokens that are at least p times as likely as the most likely one.

    Source: Nguyen et al., 2024, arXiv 2407.01082.
    """
    probability = logits.softmax(dim=-1)
    return logits.masked_fill(probability < p * probability.amax(dim=-1, keepdim=True), float("-inf"))


def probabilities(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, seen: Bool[Tensor, "batch vocab"] | None = None
) -> Float[Tensor, "batch vocab"]:
    """What `next_token` draws from, in fp32; at temperature 0, all of it is on the most likely token.

    seen: the tokens that the text holds, prompt included; needed for a repetition penalty only.

    Raises:
        ValueError: if a logit is NaN, which would make any choice as good as another.
    """
    if logits.isnan().any():
        raise not_a_number(logits.dtype)
    return distribution(logits, sampling, seen)


def not_a_number(dtype: torch.dtype) -> ValueError:
    """What is raised where logits are NaN."""
    return ValueError(f"the model's logits are NaN in {dtype}; load it as torch.float32 or torch.bfloat16")


def distribution(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, seen: Bool[Tensor, "batch vocab"] | None = None
) -> Float[Tensor, "batch vocab"]:
    """`probabilities` without the look at the logits, for which a GPU would have to be waited for."""
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
    """Choose one token for each row, with `probabilities`."""
    chances = probabilities(logits, sampling, seen)
    return chances.argmax(dim=-1) if sampling.temperature == 0 else draw(chances, generator)


def draw(chances: Float[Tensor, "batch vocab"], generator: torch.Generator | None = None) -> Int[Tensor, " batch"]:
    """One token for each row, as often as its share of the row says; a row need not add up to 1."""
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)

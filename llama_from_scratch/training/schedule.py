"""How large the step is, as a pure function of the step's number: nothing here needs to be saved or restored."""

from math import cos, pi

SCHEDULES = ("cosine", "wsd")


def warmup_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """The factor on the learning rate in step `step` of 0 … steps - 1: up a line, down half a cosine to `final`.

    The last step has the factor `final` itself; where that is 0, it changes nothing.
    Source: Loshchilov and Hutter, 2017, arXiv 1608.03983, eq. 5 (one period); the warm-up of Vaswani et al., 2017.
    """
    if step < warmup:
        return (step + 1) / warmup  # + 1: the first step changes something, too
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return final + (1 - final) * (1 + cos(pi * done)) / 2


def warmup_stable_decay(step: int, steps: int, warmup: int, decay: int, final: float) -> float:
    """The factor on the learning rate: up a line, flat, and down a line to `final` in the last `decay` steps.

    As in `warmup_cosine`, the last step has the factor `final` itself, if there is a decay.
    Until the decay begins it does not depend on `steps`, so it can be decided late how long to train.
    Source: Hu et al., 2024, arXiv 2404.06395, section 4.
    """
    left = steps - 1 - step
    if left < decay:
        return final + (1 - final) * left / decay
    return min(1.0, (step + 1) / warmup) if warmup else 1.0

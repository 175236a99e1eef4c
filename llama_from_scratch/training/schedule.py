"""Learning rate schedules: a factor that is a pure function of the step, so there is nothing to save."""

from math import cos, pi

SCHEDULES = ("cosine", "wsd")


def warmup_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """The factor on the learning rate in step 0 ... steps - 1: linear warm-up, then half a cosine down to `final`.

    The last step has the factor `final` (at `final` = 0 it changes no weight), and any later step that of the last.
    Source: Loshchilov and Hutter, 2017, arXiv 1608.03983, eq. 5 (one period); the warm-up of Vaswani et al., 2017,
    arXiv 1706.03762, section 5.3.
    """
    step = min(step, steps - 1)
    if step < warmup:
        return (step + 1) / warmup  # + 1: the first step changes the weights, too
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return final + (1 - final) * (1 + cos(pi * done)) / 2


def warmup_stable_decay(step: int, steps: int, warmup: int, decay: int, final: float) -> float:
    """The factor on the learning rate: linear warm-up, constant, then linear to `final` in the last `decay` steps.

    The last step has the factor `final` if decay > 0, and any later step that of the last.
    Before the decay it does not depend on `steps`, so the length of training can be decided late.
    Source: Hu et al., 2024, arXiv 2404.06395, section 4.
    """
    step = min(step, steps - 1)
    left = steps - 1 - step
    if left < decay:
        return final + (1 - final) * left / decay
    return min(1.0, (step + 1) / warmup) if warmup else 1.0

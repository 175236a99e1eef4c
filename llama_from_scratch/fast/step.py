"""One step of decoding, from the newest token of each sequence to the next, without a host sync."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..generation import Sampling
from ..generation.sampling import distribution, penalise_repetition
from ..model import Llama
from .compile import CUDA_OPTIONS, GRAPH_OPTIONS, Scope, compile_blocks, mark_fixed
from .fixed_cache import FixedCache
from .recorded import Recorded


class Step:
    """The step as a function of tensors, over a model and a cache that stay where they are.

    reads_all_slots: whether attention reads every slot of the cache, so that shapes are the same in each step, and the
        mask hides the slots that are not filled.
    """

    def __init__(self, model: Llama, cache: FixedCache, reads_all_slots: bool) -> None:
        self.model, self.cache, self.reads_all_slots = model, cache, reads_all_slots
        self.columns = torch.arange(cache.capacity, device=model.embedding.weight.device)
        self.choose = choose  # `compile_step` puts a compiled one in its place

    def __call__(
        self,
        tokens: Int[Tensor, "batch 1"],
        slot: Int[Tensor, "1"],
        pads: Int[Tensor, "batch 1"] | None,
        sampling: Sampling,
        noise: Float[Tensor, "batch vocab"] | None,
        seen: Bool[Tensor, "batch vocab"] | None,
    ) -> Int[Tensor, "batch 1"]:
        """The tokens after `tokens`, which go into `slot` of the cache; -1 where logits are NaN or infinite.

        pads: the number of padding tokens on the left of each sequence. noise, seen: as in `race`.
        """
        positions, mask = slot.expand(len(tokens), 1), None
        if self.reads_all_slots:
            mask = (self.columns <= slot).expand(len(tokens), 1, 1, -1)
        if pads is not None:
            n_read = self.cache.layers[0].read_keys.shape[2]
            not_padding = (self.columns[:n_read] >= pads)[:, None, None, :]
            positions, mask = positions - pads, not_padding if mask is None else mask & not_padding
        x = self.model.norm(self.model.run_blocks(self.model.embedding(tokens), positions, mask, self.cache))
        return self.choose(self.model, x[:, -1], sampling, noise, seen)[:, None]

    def selecting(
        self, tokens: Int[Tensor, "batch 1"], slot: Int[Tensor, "1"], *rest: object
    ) -> Int[Tensor, "batch 1"]:
        """The step for a CUDA graph: the cache must read the slot number from the memory of the graph's own input."""
        self.cache.select(slot, None)
        return self(tokens, slot, *rest)


def compile_step(step: Step, scope: Scope) -> Callable[..., Tensor]:
    """Compile a step, or its parts in place, and the blocks of its model; returns what to call instead of `step`."""
    on_cuda = step.columns.device.type == "cuda"
    if scope == "step":
        for layer in step.cache.layers:
            mark_fixed(layer.keys)
            mark_fixed(layer.values)
        options = GRAPH_OPTIONS if on_cuda else None
        return torch.compile(step.__call__, fullgraph=True, dynamic=False, options=options)
    if not on_cuda:
        step.cache.for_any_length = True
        compile_blocks(step.model)
        return step
    compile_blocks(step.model, dynamic=False, options=CUDA_OPTIONS)
    for part in (step.model.rope, step.model.norm):
        part.compile(fullgraph=True, dynamic=False, options=CUDA_OPTIONS)
    step.choose = torch.compile(step.choose, fullgraph=True, dynamic=False, options=CUDA_OPTIONS)
    return Recorded(step.selecting) if scope == "graph" else step


def choose(
    model: Llama,
    x: Float[Tensor, "batch dim"],
    sampling: Sampling,
    noise: Float[Tensor, "batch vocab"] | None,
    seen: Bool[Tensor, "batch vocab"] | None,
) -> Int[Tensor, " batch"]:
    """The output projection and `race`, together, so that one compiled program holds both."""
    return race(model.logits(x), sampling, noise, seen)


def race(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    noise: Float[Tensor, "batch vocab"] | None,
    seen: Bool[Tensor, "batch vocab"] | None,
) -> Int[Tensor, " batch"]:
    """One token for each row, drawn from `generation.probabilities` without a host sync; -1 for bad logits.

    noise: drawn from the exponential distribution with rate 1; None at temperature 0, where the largest logit wins.
    seen: as in `generation.probabilities`.

    noise / p_i is exponential with rate p_i, and the smallest of such numbers is that of token i with probability p_i:
    the Gumbel-max trick, written for probabilities instead of logits (Maddison et al., 2014, arXiv 1411.0030,
    section 2).
    """
    if noise is not None:
        scores = distribution(logits, sampling, seen) / noise
    else:
        scores = logits if seen is None else penalise_repetition(logits.float(), seen, sampling.repetition_penalty)
    best = scores.argmax(dim=-1) if scores.device.type == "cpu" else first_largest(scores)
    return best.masked_fill(~logits.amax(dim=-1).isfinite(), -1)  # as `generation.probabilities`, which raises


def first_largest(scores: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
    """`argmax` in two reductions: the compiler spreads each over a full GPU, which it does not do with an argmax."""
    last = scores.shape[-1] - 1
    columns = torch.arange(last + 1, device=scores.device)
    return torch.where(scores == scores.amax(dim=-1, keepdim=True), columns, last).amin(dim=-1)

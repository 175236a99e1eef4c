"""The loop that writes, as one program that is run once a token."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention import causal_mask
from ..generation import Sampling
from ..generation.caches import is_same_in_pieces
from ..generation.prompt import as_tokens, check_request, seen_tokens
from ..generation.sampling import distribution, next_token, not_a_number, penalise_repetition
from ..model import Llama
from .compile import CUDA_OPTIONS, GRAPH_OPTIONS, Scope, check_compiler, compile_blocks
from .fixed_cache import FixedCache
from .fused import CHUNK
from .int8 import WIDE
from .recorded import Recorded

GREEDY = Sampling()
PIECE = 256  # tokens of a prompt in one pass on a CPU: what lies between two layers then stays in its cache


def race(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    noise: Float[Tensor, "batch vocab"] | None,
    seen: Bool[Tensor, "batch vocab"] | None,
) -> Int[Tensor, " batch"]:
    """One token for each row, without a word to the CPU.

    Each token waits for a time drawn from the exponential distribution with rate p, that is noise / p with noise of
    rate 1; the first to arrive is token i with probability p_i. So it is a draw, by division and argmax alone.
    Without noise (at temperature 0) the most likely token wins, which the logits show as well as probabilities do.
    Where a score is NaN there is no choice: the token is -1.
    """
    if noise is not None:
        scores = distribution(logits, sampling, seen) / noise
    else:
        scores = logits if seen is None else penalise_repetition(logits.float(), seen, sampling.repetition_penalty)
    best = scores.argmax(dim=-1) if scores.device.type == "cpu" else first_largest(scores)
    return best.masked_fill(scores.isnan().any(dim=-1), -1)


def first_largest(scores: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
    """`argmax` in two reductions: the compiler spreads each over a whole GPU, which it does not do with an argmax."""
    last = scores.shape[-1] - 1
    columns = torch.arange(last + 1, device=scores.device)
    return torch.where(scores == scores.amax(dim=-1, keepdim=True), columns, last).amin(dim=-1)


class Decoder:
    """A model, a `FixedCache` and the step that joins them, for any number of texts, one after the other.

    batch: sequences that are written together.
    capacity: tokens of prompt and answer together; None is the whole context of the model, up to 4096.
    compile: see `compile.Scope`; None runs the same step uncompiled. "blocks" and "graph" compile the blocks of the
        model itself, in place.
    check_every: steps between two looks at the tokens. On a GPU each look waits for it; steps behind a stop are lost.

    Raises:
        ValueError: if a number is below 1, or the capacity is more than the model's context; if a whole step cannot be
            compiled, because the model's frequencies change with the length of the text; for a graph without CUDA.
        OSError: if there is no compiler.
    """

    def __init__(
        self,
        model: Llama,
        batch: int = 1,
        capacity: int | None = None,
        compile: Scope | None = None,
        check_every: int = 1,
    ) -> None:
        context = model.config.max_seq_len
        capacity = min(context, 4096) if capacity is None else capacity
        if batch < 1 or check_every < 1 or not 1 <= capacity <= context:
            raise ValueError(
                f"batch is {batch}, check_every is {check_every} and capacity is {capacity}; "
                f"each must be at least 1, and the capacity at most {context}, the context of the model"
            )
        scaling = model.config.rope_scaling
        if compile == "graph" and model.embedding.weight.device.type != "cuda":
            raise ValueError("compile is 'graph', which only a CUDA device can record; take 'blocks' or 'step' here")
        if compile in ("step", "graph") and scaling is not None and scaling.kind == "dynamic":
            raise ValueError(
                "the frequencies of this model change with the length of the text (rope_scaling dynamic), so no one "
                "program can serve every step; compile its blocks"
            )
        weight = model.embedding.weight
        self.model, self.capacity, self.check_every = model, capacity, check_every
        # On a GPU whole chunks, which `in_chunks` asks for; and other kernels want the start of each row aligned.
        slots = capacity if weight.device.type == "cpu" else -(-capacity // CHUNK) * CHUNK
        self.cache = FixedCache(model.config, batch, slots, weight.dtype, weight.device, compile)
        self.batch, self.columns = batch, torch.arange(slots, device=weight.device)
        # One program for every step must see the whole cache, whatever part is filled. Where shapes may change from
        # step to step, it sees what is filled only.
        self.whole = compile == "step" or weight.device.type == "cuda"
        self._step, self.compiles = self.step, compile is not None
        self.compiles_prompts = compile == "blocks" and weight.device.type == "cpu"
        if self.compiles:
            check_compiler(weight.device)
        if compile == "step":
            options = GRAPH_OPTIONS if weight.device.type == "cuda" else None
            self._step = torch.compile(self.step, fullgraph=True, dynamic=False, options=options)
        elif compile == "blocks" and weight.device.type != "cuda":
            compile_blocks(model)
        elif compile is not None:
            compile_blocks(model, dynamic=False, options=CUDA_OPTIONS)
            for part in (model.rope, model.norm):
                part.compile(fullgraph=True, dynamic=False, options=CUDA_OPTIONS)
            self.choose = torch.compile(self.choose, fullgraph=True, dynamic=False, options=CUDA_OPTIONS)
        if compile == "graph":
            self._step = Recorded(self.aimed_step)

    def step(
        self,
        tokens: Int[Tensor, "batch 1"],
        slot: Int[Tensor, "1"],
        pads: Int[Tensor, "batch 1"] | None,
        sampling: Sampling,
        noise: Float[Tensor, "batch vocab"] | None,
        seen: Bool[Tensor, "batch vocab"] | None,
    ) -> Int[Tensor, "batch 1"]:
        """From the newest token of each sequence, which takes `slot`, to the next. `pads`: padding before each."""
        positions, mask = slot.expand(len(tokens), 1), None
        if self.whole:
            mask = (self.columns <= slot).expand(len(tokens), 1, 1, -1)
        if pads is not None:
            shown = self.cache.layers[0].shown_keys.shape[2]
            real = (self.columns[:shown] >= pads)[:, None, None, :]
            positions, mask = positions - pads, real if mask is None else mask & real
        x = self.model.norm(self.model.run_blocks(self.model.embedding(tokens), positions, mask, self.cache))
        return self.choose(x[:, -1], sampling, noise, seen)[:, None]

    def choose(
        self,
        x: Float[Tensor, "batch dim"],
        sampling: Sampling,
        noise: Float[Tensor, "batch vocab"] | None,
        seen: Bool[Tensor, "batch vocab"] | None,
    ) -> Int[Tensor, " batch"]:
        return race(self.model.logits(x), sampling, noise, seen)

    def aimed_step(self, tokens: Int[Tensor, "batch 1"], slot: Int[Tensor, "1"], *rest) -> Int[Tensor, "batch 1"]:
        """`step` for a recording, in which the cache must read the slot where the recording keeps it."""
        self.cache.aim(slot, None)
        return self.step(tokens, slot, *rest)

    @torch.inference_mode()
    def prefill(
        self, tokens: Int[Tensor, "batch seq"], pads: Int[Tensor, "batch 1"] | None = None
    ) -> Float[Tensor, "batch vocab"]:
        """Begin anew: take a prompt into the cache. Gives the logits behind its last token.

        Compiled by blocks on a CPU only, and for more than a few tokens: the second length makes a program for all.
        """
        start = 0
        # On a GPU one pass, whose causal mask is never written out, is quicker.
        in_pieces = tokens.device.type == "cpu" and is_same_in_pieces(self.model.config)
        for piece in tokens.split(PIECE if in_pieces else tokens.shape[1], dim=1):
            end = start + piece.shape[1]
            slots, mask = self.columns[start:end], None
            positions = slots.expand(len(piece), -1)
            compiled = self.compiles_prompts and piece.shape[1] > WIDE  # one program, so always with a mask
            if start or pads is not None or compiled:
                mask = causal_mask(slots, end)
            if pads is not None:
                mask = mask & (self.columns[:end] >= pads)[:, None, None, :]
                positions = (positions - pads).clamp(min=0)
            self.cache.aim(slots, end)
            with torch.compiler.set_stance("force_eager") if self.compiles and not compiled else nullcontext():
                x = self.model.norm(self.model.run_blocks(self.model.embedding(piece), positions, mask, self.cache))
            start = end
        return self.model.logits(x[:, -1])

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """What `generation.generate` does, with the same errors. Draws are other draws from the same distribution.

        Raises:
            ValueError: also if prompt and answer are more than the capacity, or the batch is not 1.
        """
        return (row[0] for row in self.stream([prompt_ids], max_new_tokens, sampling, stop_ids))

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
    ) -> list[list[int]]:
        """What `generation.generate_batch` does, for exactly `batch` prompts."""
        rows: list[list[int]] = [[] for _ in prompts]
        for step in self.stream(prompts, max_new_tokens, sampling, stop_ids):
            for row, token in zip(rows, step, strict=True):
                row += [] if token is None else [token]
        return rows

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
    ) -> Iterator[list[int | None]]:
        """The next token of each prompt, None for those that have stopped; ends when all have."""
        check_request(self.model, prompts, max_new_tokens, sampling)
        if len(prompts) != self.batch:
            raise ValueError(f"there are {len(prompts)} prompts; this decoder was made for {self.batch}")
        longest = max(map(len, prompts))
        if longest + max_new_tokens - 1 > self.capacity:  # the last token is never fed back
            raise ValueError(
                f"a prompt of length {longest} and {max_new_tokens} new tokens need room for "
                f"{longest + max_new_tokens - 1}; this decoder has {self.capacity}, so make it with a larger capacity"
            )
        return self._stream(prompts, longest, max_new_tokens, sampling, frozenset(stop_ids))

    def _stream(
        self,
        prompts: Sequence[Sequence[int]],
        longest: int,
        max_new_tokens: int,
        sampling: Sampling,
        stop_ids: frozenset[int],
    ) -> Iterator[list[int | None]]:
        generator = sampling.generator(self.columns.device)
        sampling = replace(sampling, seed=None)  # or each seed would have a program of its own
        short = [longest - len(prompt) for prompt in prompts]
        tokens = as_tokens(self.model, [[0] * pad + list(prompt) for pad, prompt in zip(short, prompts, strict=True)])
        pads = torch.tensor(short, device=tokens.device)[:, None] if any(short) else None
        seen = seen_tokens(self.model, prompts, sampling)
        with torch.inference_mode():
            newest = next_token(self.prefill(tokens, pads), sampling, generator, seen)[:, None]
        made, running = [newest], [True] * self.batch
        for n in range(1, max_new_tokens + 1):
            if n == max_new_tokens or len(made) == self.check_every:
                for drawn in torch.cat(made, dim=1).T.tolist():  # the one place where the CPU waits for the GPU
                    if min(drawn) < 0:
                        raise not_a_number(self.model.embedding.weight.dtype)
                    running = [was and token not in stop_ids for was, token in zip(running, drawn, strict=True)]
                    if not any(running):
                        return
                    yield [token if goes else None for goes, token in zip(running, drawn, strict=True)]
                made = []
            if n < max_new_tokens:
                newest = self.advance(newest, longest + n - 1, pads, sampling, generator, seen)
                made.append(newest)

    @torch.inference_mode()
    def advance(
        self,
        tokens: Int[Tensor, "batch 1"],
        at: int,
        pads: Int[Tensor, "batch 1"] | None = None,
        sampling: Sampling = GREEDY,
        generator: torch.Generator | None = None,
        seen: Bool[Tensor, "batch vocab"] | None = None,
    ) -> Int[Tensor, "batch 1"]:
        """One step: `tokens` take the slot `at`, and the tokens after them come back."""
        tokens, noise = tokens.clamp(min=0), None  # behind a NaN, until someone looks
        if sampling.temperature > 0:
            noise = torch.empty(self.batch, self.model.config.vocab_size, device=tokens.device)
            noise.exponential_(generator=generator)
        if seen is not None:
            seen.scatter_(1, tokens, True)
        self.cache.aim(self.columns[at : at + 1], None if self.whole else at + 1)
        if self.compiles:
            torch.compiler.cudagraph_mark_step_begin()
        newest = self._step(tokens, self.columns[at : at + 1], pads, sampling, noise, seen)
        return newest.clone()  # a CUDA graph writes its next result to the same place

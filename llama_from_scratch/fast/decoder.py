"""Generation as one program that runs once for each token."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention import causal_mask
from ..generation import Sampling
from ..generation.batch import collect, left_padded, until_stopped
from ..generation.caches import is_same_in_pieces
from ..generation.loop import GREEDY
from ..generation.prompt import check_request, seen_tokens
from ..generation.sampling import bad_logits, next_token
from ..model import Llama
from .compile import Scope, check_compiler, check_scope
from .fixed_cache import FixedCache
from .fused import CHUNK
from .int8 import WIDE
from .step import Step, compile_step

PIECE = 256  # tokens of a prompt in one pass on a CPU: its activations then stay in the processor's cache


class Decoder:
    """A model, a `FixedCache` and the step that joins them, for any number of texts, one after another.

    batch: sequences that are generated together.
    capacity: tokens of prompt and answer together; None is the context of the model, up to 4096.
    compile: see `compile.Scope`; None runs the same step uncompiled. "blocks" and "graph" compile the blocks of
        `model` itself, in place.
    check_every: steps between two transfers of tokens to the CPU, each of which waits for the GPU. Steps that were
        computed after a stop are discarded.

    Raises:
        ValueError: if a number is below 1, or the capacity is more than the model's context; for "step" and "graph"
            with dynamic RoPE scaling, whose frequencies change with the length of the text; for "graph" without CUDA.
        OSError: if compiling needs a C++ compiler and there is none.
    """

    def __init__(
        self,
        model: Llama,
        batch: int = 1,
        capacity: int | None = None,
        compile: Scope | None = None,
        check_every: int = 1,
    ) -> None:
        context, device = model.config.max_seq_len, model.embedding.weight.device
        capacity = min(context, 4096) if capacity is None else capacity
        if batch < 1 or check_every < 1 or not 1 <= capacity <= context:
            raise ValueError(
                f"batch is {batch}, check_every is {check_every} and capacity is {capacity}; "
                f"each must be at least 1, and the capacity at most {context}, the context of the model"
            )
        if compile is not None:
            check_scope(model, compile)
            check_compiler(device)
        self.model, self.batch, self.capacity, self.check_every = model, batch, capacity, check_every
        # On a GPU full chunks, as `in_chunks` needs; its other kernels also want the start of each row aligned.
        slots = capacity if device.type == "cpu" else -(-capacity // CHUNK) * CHUNK
        self.cache = model.new_cache(batch, slots, FixedCache)
        self.columns = torch.arange(slots, device=device)
        # A program that must be the same for every step reads all slots, and its mask hides those that are not filled.
        # Where shapes may change from step to step, it reads only the filled slots.
        self.step = Step(model, self.cache, reads_all_slots=compile == "step" or device.type == "cuda")
        self.compiled = compile is not None
        self.compiles_prompts = compile == "blocks" and device.type == "cpu"
        self.run_step = self.step if compile is None else compile_step(self.step, compile)

    @torch.inference_mode()
    def prefill(
        self, tokens: Int[Tensor, "batch seq"], pads: Int[Tensor, "batch 1"] | None = None
    ) -> Float[Tensor, "batch vocab"]:
        """Start new texts: run prompts into the cache from slot 0 on. Returns the logits after the last tokens.

        pads: the number of padding tokens on the left of each prompt.
        Prompts are compiled only by blocks on a CPU, and only from `WIDE` tokens on: the second length makes a program
        for all lengths.
        """
        start = 0
        # On a GPU one pass is faster: its mask is plainly causal and is not written out.
        in_pieces = tokens.device.type == "cpu" and is_same_in_pieces(self.model.config)
        for piece in tokens.split(PIECE if in_pieces else tokens.shape[1], dim=1):
            end = start + piece.shape[1]
            slots, mask = self.columns[start:end], None
            positions = slots.expand(len(piece), -1)
            compiled = self.compiles_prompts and piece.shape[1] > WIDE
            if start or pads is not None or compiled:  # compiled: always with a mask, so that one program serves all
                mask = causal_mask(slots, end)
            if pads is not None:
                mask = mask & (self.columns[:end] >= pads)[:, None, None, :]
                positions = (positions - pads).clamp(min=0)
            self.cache.select(slots, end)
            with torch.compiler.set_stance("force_eager") if self.compiled and not compiled else nullcontext():
                x = self.model.norm(self.model.run_blocks(self.model.embedding(piece), positions, mask, self.cache))
            start = end
        return self.model.logits(x[:, -1])

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
        """One step: `tokens` go into slot `at`, and the tokens after them are returned; -1 where logits are bad.

        seen: as in `generation.probabilities`; `tokens` are added to it.
        """
        tokens, noise = tokens.clamp(min=0), None  # -1 after bad logits, until `stream` looks at the tokens
        if sampling.temperature > 0:
            noise = torch.empty(self.batch, self.model.config.vocab_size, device=tokens.device)
            noise.exponential_(generator=generator)
        if seen is not None:
            seen.scatter_(1, tokens, True)
        slot = self.columns[at : at + 1]
        self.cache.select(slot, None if self.step.reads_all_slots else at + 1)
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        newest = self.run_step(tokens, slot, pads, sampling, noise, seen)
        return newest.clone()  # a CUDA graph writes its next result to the same memory

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """The same as `generation.generate`, with the same errors. A seed draws other tokens than there.

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
        """The same as `generation.generate_batch`, for exactly `batch` prompts."""
        return collect(self.stream(prompts, max_new_tokens, sampling, stop_ids), len(prompts))

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_ids: Collection[int] = (),
    ) -> Iterator[list[int | None]]:
        """Yields the next token of each prompt, None for those that have stopped; ends when all have.

        Raises:
            ValueError: as `generation.generate`; if there are not exactly `batch` prompts, or prompt and answer are
                more than the capacity.
        """
        check_request(self.model, prompts, max_new_tokens, sampling)
        if len(prompts) != self.batch:
            raise ValueError(f"there are {len(prompts)} prompts; this decoder was made for {self.batch}")
        longest = max(map(len, prompts))
        if longest + max_new_tokens - 1 > self.capacity:  # the last token is never fed back
            raise ValueError(
                f"a prompt of length {longest} and {max_new_tokens} new tokens need room for "
                f"{longest + max_new_tokens - 1}; this decoder has {self.capacity}, so make it with a larger capacity"
            )
        return until_stopped(self._tokens(prompts, max_new_tokens, sampling), stop_ids)

    def _tokens(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling) -> Iterator[list[int]]:
        """One new token for each prompt, `max_new_tokens` times, brought to the CPU every `check_every` steps."""
        generator = sampling.generator(self.columns.device)
        sampling = replace(sampling, seed=None)  # else each seed would be compiled anew
        tokens, pads = left_padded(self.model, prompts)
        seen = seen_tokens(self.model, prompts, sampling)
        with torch.inference_mode():
            newest = next_token(self.prefill(tokens, pads), sampling, generator, seen)[:, None]
        waiting = [newest]
        for n in range(1, max_new_tokens + 1):
            if n == max_new_tokens or len(waiting) == self.check_every:
                for drawn in torch.cat(waiting, dim=1).T.tolist():  # the only host sync
                    if min(drawn) < 0:
                        raise bad_logits(self.model.embedding.weight.dtype)
                    yield drawn
                waiting = []
            if n < max_new_tokens:
                newest = self.advance(newest, tokens.shape[1] + n - 1, pads, sampling, generator, seen)
                waiting.append(newest)

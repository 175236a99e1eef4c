"""What is done now and then while a model trains: a look at held-out text, and a sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files.errors import ArgumentError
from ..generation import Sampling, generate
from ..tokenizer import Tokenizer
from .batches import in_order
from .log import Record
from .loss import MicroBatch, mean_loss
from .recipe import Recipe
from .saves import State
from .tokens import read_tokens


@dataclass(frozen=True)
class Routine:
    """How often, in steps, and how much. None of it changes the weights.

    Raises:
        ArgumentError: if a number is below 1.
    """

    evaluate_every: int = 200
    evaluate_tokens: int = 100_000  # of the held-out text, at most
    sample_every: int = 200
    sample_tokens: int = 80
    prompt: str = ""  # that samples continue; an empty one is the start of a document
    save_every: int = 200
    keep: int = 2  # saves

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "prompt" and (type(value) is not int or value < 1):
                raise ArgumentError(f"{{{name}}} is {{value!r}}; it must be a whole number of at least 1", value=value)


def to_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Copy a micro-batch. To a GPU from pinned memory, which does not wait for the copy."""
    if device.type == "cuda":
        return batch[0].pin_memory().to(device, non_blocking=True), batch[1].pin_memory().to(device, non_blocking=True)
    return batch[0].to(device), batch[1].to(device)


class Looks:
    """Evaluations and samples of one run, as records of the log.

    Raises:
        ValueError: if the held-out tokens are missing or damaged, or the prompt is too long for the context.
    """

    def __init__(self, data: Path, recipe: Recipe, tokenizer: Tokenizer, routine: Routine) -> None:
        self.recipe, self.tokenizer, self.routine = recipe, tokenizer, routine
        self.held_out = read_tokens(data, "held_out")
        self.prompt = tokenizer.encode(routine.prompt, errors=recipe.errors)
        if len(self.prompt) >= recipe.context:
            raise ArgumentError(
                "the prompt of the samples has {n} tokens, and the context is {context_length}; shorten {prompt}",
                n=len(self.prompt),
                context_length=recipe.context,
            )

    def due(self, state: State) -> Iterator[Record]:
        """The records that are due after this step: all kinds after the last."""
        last = state.step == self.recipe.steps
        if last or state.step % self.routine.evaluate_every == 0:
            yield self.evaluation(state)
        if last or state.step % self.routine.sample_every == 0:
            yield self.sample(state)

    def evaluation(self, state: State) -> Record:
        device = next(state.model.parameters()).device
        batches = in_order(self.held_out, self.recipe.context, self.recipe.batch_size, self.routine.evaluate_tokens)
        on_device = (to_device(batch, device) for batch in batches)
        loss = mean_loss(state.objective, on_device, self.recipe.autocast(device))
        return {"kind": "held_out", "step": state.step, "loss": loss}

    @torch.compiler.set_stance("force_eager")  # blocks compiled for full batches would be recompiled for each token
    def sample(self, state: State) -> Record:
        end = self.tokenizer.eos_id
        start = self.prompt or [end]  # the end of a document, after which the next begins
        length, cache = min(self.recipe.context - len(start), self.routine.sample_tokens), None
        if state.mesh is not None:
            from ..parallel.apply import new_cache

            cache = new_cache(state.model, state.mesh, self.recipe.context)
        rule = Sampling(temperature=0.8, top_p=0.95, seed=state.step)
        ids = list(generate(state.model, start, length, rule, {end}, cache))
        stream = self.tokenizer.stream(after=self.prompt)
        text = self.routine.prompt + "".join(map(stream.push, ids)) + stream.flush()
        return {"kind": "sample", "step": state.step, "seed": state.step, "text": text}

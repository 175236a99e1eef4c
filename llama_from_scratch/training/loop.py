"""The loop: a batch, its gradient, a step; now and then a look at held-out text, a sample, a save."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ..checkpoint.stored import whole
from ..files.atomic import remove_unfinished
from ..files.errors import reason
from ..files.lock import alone
from ..generation import Sampling, generate
from ..model import Llama
from ..parallel import ranks
from ..parallel.plan import check_batch, check_tensor
from ..tokenizer import Tokenizer
from .batches import Batches, in_order
from .log import Log, Record
from .loss import IGNORE, MicroBatch, NextTokenLoss, backward, mean_loss
from .optimizer import adamw
from .recipe import Recipe
from .run import Run, reopen, write_recipe
from .saves import State, restore, save
from .tokens import read_tokens


@dataclass(frozen=True)
class Routine:
    """How often it is done, in steps; none of it changes the weights."""

    evaluate_every: int = 200
    evaluate_tokens: int = 100_000  # of the held-out text, at most
    sample_every: int = 200
    sample_tokens: int = 80
    prompt: str = ""  # what samples begin with; nothing is the start of a document
    save_every: int = 200
    keep: int = 2  # saves

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "prompt" and (type(value) is not int or value < 1):
                raise ValueError(f"--{name.replace('_', '-')} is {value!r}; it must be a whole number of at least 1")


def check_shares(recipe: Recipe, mesh: DeviceMesh | None) -> None:
    """Raise ValueError where the batch or the model cannot be shared out among the processes of a mesh."""
    if mesh is not None:
        check_batch(recipe.batch_size, mesh["data"].size())
        check_tensor(recipe.config(recipe.vocab_size), mesh["tensor"].size())


def fresh_state(recipe: Recipe, device: torch.device | str = "cpu", mesh: DeviceMesh | None = None) -> State:
    """Random weights that follow from the recipe's seed, and an optimizer that has seen nothing.

    mesh: the processes that share the model, see `parallel`; they have to call this, and `train`, together. Each makes
    the whole model first, on the CPU, and keeps its part.

    Raises:
        ValueError: if the model or the batch cannot be shared out among them.
    """
    torch.manual_seed(recipe.seed)
    model = Llama(recipe.config(recipe.vocab_size))
    objective = NextTokenLoss(model)
    if mesh is None:
        model.to(device)
    else:
        from ..parallel.apply import parallelise, share_batch  # imports much of torch that one process does not need

        check_shares(recipe, mesh)
        parallelise(model, mesh)
        share_batch(objective, mesh, IGNORE)
    return State(objective, adamw(model, recipe.learning_rate, recipe.weight_decay), mesh)


def take_step(
    objective: NextTokenLoss,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[MicroBatch],
    recipe: Recipe,
    step: int,
) -> tuple[float, float]:
    """One update of the weights. Gives the loss before it, and the norm of the gradient before it was clipped.

    Raises:
        ValueError: if either is no finite number; the weights are then as they were.
    """
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate_at(step)
    loss = backward(objective, micro_batches, recipe.autocast(micro_batches[0][0].device))
    norm = whole(nn.utils.clip_grad_norm_(objective.parameters(), recipe.clip))
    loss, norm = torch.stack((loss, norm)).tolist()  # the one moment of a step in which a GPU is waited for
    if not (isfinite(loss) and isfinite(norm)):
        raise ValueError(
            f"in step {step + 1} the loss is {loss} and the norm of the gradient {norm}; nothing of it was saved. "
            f"Begin a new run with a smaller --learning-rate than {recipe.learning_rate}, or a longer --warmup"
        )
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm


def train(
    run: Run, state: State, tokenizer: Tokenizer, routine: Routine, stop: Callable[[], bool] = lambda: False
) -> Iterator[Record]:
    """Train from the latest save, or the start, to the end of the recipe. Gives each record of the log as it comes.

    Where several processes share the model, all call this and all get the records; the first writes the files.
    stop: asked after each step; if it says True, in any process, the state is saved and the loop ends.

    Raises:
        ValueError: if the texts are too short for one batch, the prompt too long for the context, a file of the run
            damaged, another process at work on it, or the loss no number.
        OSError: if the disk is full, or a save cannot be read. The last save is whole in any case.
    """
    recipe, device = run.recipe, next(state.model.parameters()).device
    if len(tokenizer) != recipe.vocab_size:
        raise ValueError(
            f"the tokenizer in {run.folder} has {len(tokenizer)} tokens, and its recipe says {recipe.vocab_size}; "
            "bring the old files back, or begin a new run"
        )
    batches = Batches(read_tokens(run.data, "train"), recipe.context, recipe.batch_size, recipe.seed)
    held_out = read_tokens(run.data, "held_out")
    end, prompt = tokenizer.eos_id, tokenizer.encode(routine.prompt)
    if len(prompt) >= recipe.context:
        raise ValueError(
            f"the prompt of the samples has {len(prompt)} tokens, and the context is {recipe.context}; shorten --prompt"
        )

    def to_device(batch: MicroBatch) -> MicroBatch:
        if device.type == "cuda":  # what is pinned is copied while the GPU does something else
            return tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)
        return batch[0].to(device), batch[1].to(device)

    def evaluation() -> Record:
        micro_batches = in_order(held_out, recipe.context, recipe.batch_size, routine.evaluate_tokens)
        loss = mean_loss(state.objective, map(to_device, micro_batches), recipe.autocast(device))
        return {"kind": "held_out", "step": state.step, "loss": loss}

    @torch.compiler.set_stance("force_eager")  # blocks compiled for whole batches would be compiled anew for each token
    def sample() -> Record:
        start = prompt or [end]  # behind the end of a document begins the next
        room = recipe.context - len(start)
        rule = Sampling(temperature=0.8, top_p=0.95, seed=state.step)
        length, cache = min(room, routine.sample_tokens), None
        if state.mesh is not None:
            from ..parallel.apply import new_cache

            cache = new_cache(state.model, state.mesh, recipe.context)
        ids = list(generate(state.model, start, length, rule, {end}, cache))
        stream = tokenizer.stream(after=prompt)
        text = routine.prompt + "".join(map(stream.push, ids)) + stream.flush()
        return {"kind": "sample", "step": state.step, "seed": state.step, "text": text}

    with ExitStack() as stack:
        if ranks.first():
            refusal = ValueError(f"{run.folder} is being trained by another process; wait for it, or stop it first")
            stack.enter_context(alone(run.folder / ".lock", refusal))
        ranks.wait()  # none reads a save before the run is known to be ours
        length, log = restore(run, state), None
        if ranks.first():
            log = stack.enter_context(closing(Log(run.log, length)))
            remove_unfinished(run.folder)
            _store_recipe(run)
        while state.step < recipe.steps:
            started = time.perf_counter()
            numbers = range(state.step * recipe.accumulate, (state.step + 1) * recipe.accumulate)
            loss, norm = take_step(
                state.objective, state.optimizer, [to_device(batches[i]) for i in numbers], recipe, state.step
            )
            seconds = time.perf_counter() - started
            state.step, state.seconds = state.step + 1, state.seconds + seconds
            last = state.step == recipe.steps

            records = [
                {
                    "kind": "step",
                    "step": state.step,
                    "loss": loss,
                    "gradient_norm": norm,
                    "learning_rate": recipe.learning_rate_at(state.step - 1),
                    "tokens": state.step * recipe.tokens_per_step,
                    "seconds": round(state.seconds, 3),
                    "tokens_per_second": round(recipe.tokens_per_step / seconds, 1),
                }
            ]
            if last or state.step % routine.evaluate_every == 0:
                records.append(evaluation())
            if last or state.step % routine.sample_every == 0:
                records.append(sample())
            for record in records:
                if log:
                    log.write(record)
                yield record
            stopping = ranks.anywhere(stop())
            if last or stopping or state.step % routine.save_every == 0:
                save(run, state, tokenizer, log.sync() if log else 0, routine.keep)
            if stopping:
                return


def _store_recipe(run: Run) -> None:
    if reopen(run.folder).recipe == run.recipe:
        return
    try:
        write_recipe(run.folder, run.recipe)  # `resume` gave it another end
    except OSError as error:
        raise OSError(
            f"{run.folder / 'run.json'} cannot be written ({reason(error)}); make room, then give --resume"
        ) from None

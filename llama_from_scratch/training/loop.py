"""The training loop: a batch, its gradient, an update of the weights; now and then an evaluation, a sample, a save."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import isfinite

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ..checkpoint.stored import whole
from ..files.atomic import remove_unfinished
from ..files.errors import ArgumentError, reason
from ..files.lock import exclusive_lock
from ..model import Llama
from ..parallel import ranks
from ..parallel.plan import check_batch, check_tensor
from ..tokenizer import Tokenizer
from .batches import Batches
from .log import Log, Record
from .loss import IGNORE, MicroBatch, NextTokenLoss, backward
from .optimizer import adamw
from .recipe import Recipe
from .routine import Looks, Routine, to_device
from .run import Run, reopen, write_recipe
from .saves import State, restore, save
from .tokens import read_tokens


def check_shares(recipe: Recipe, mesh: DeviceMesh | None) -> None:
    """Raise ValueError if the batch or the model cannot be divided among the processes of a mesh."""
    if mesh is not None:
        check_batch(recipe.batch_size, mesh["data"].size())
        check_tensor(recipe.config(recipe.vocab_size), mesh["tensor"].size())


def fresh_state(
    recipe: Recipe,
    device: torch.device | str = "cpu",
    mesh: DeviceMesh | None = None,
    model: Llama | None = None,
) -> State:
    """A model and an optimizer before the first update.

    model: is trained, in place; of its parameters those that require a gradient (see `Recipe.for_model`). None makes
        random weights, which depend on the recipe's seed alone.
    mesh: the processes that share the model, see `parallel`; they have to call this, and `train`, together. Each has
        the full model first, on the CPU, and keeps its part.

    Raises:
        ValueError: if the model has other sizes than the recipe says, or it or the batch cannot be divided among the
            processes.
    """
    torch.manual_seed(recipe.seed)
    if model is None:
        model = Llama(recipe.config(recipe.vocab_size))
    recipe.check_model(model.config)
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
    """One update of the weights. Returns the loss before it, and the norm of the gradient before it was clipped.

    Raises:
        ArgumentError: if either is not finite; the weights are then unchanged.
    """
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate_at(step)
    loss = backward(objective, micro_batches, recipe.autocast(micro_batches[0][0].device))
    norm = whole(nn.utils.clip_grad_norm_(objective.parameters(), recipe.clip))
    loss, norm = torch.stack((loss, norm)).tolist()  # the only host sync of a step
    if not (isfinite(loss) and isfinite(norm)):
        raise ArgumentError(
            "in step {step} the loss is {loss} and the norm of the gradient {norm}; nothing of it was saved. "
            "Begin a new run with a smaller {learning_rate} than {rate}, or a longer {warmup}",
            step=step + 1,
            loss=loss,
            norm=norm,
            rate=recipe.learning_rate,
        )
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm


def train(
    run: Run, state: State, tokenizer: Tokenizer, routine: Routine, stop: Callable[[], bool] = lambda: False
) -> Iterator[Record]:
    """Train from the latest save, or the start, to the end of the recipe. Yields each record of the log.

    If several processes share the model, all call this and all get the records; the first writes the files.
    stop: called after each step; if it returns True, in any process, the state is saved and the loop ends.

    Raises:
        ValueError: if the texts are too short for one batch, the prompt too long for the context, a file of the run
            damaged, the loss not finite, or another process trains the run.
        OSError: if the disk is full, or a save cannot be read. The last save is complete in any case.
    """
    recipe = run.recipe
    if len(tokenizer) != recipe.vocab_size:
        raise ValueError(
            f"the tokenizer in {run.folder} has {len(tokenizer)} tokens, and its recipe says {recipe.vocab_size}; "
            "bring the old files back, or begin a new run"
        )
    batches = Batches(read_tokens(run.data, "train"), recipe.context, recipe.batch_size, recipe.seed)
    looks = Looks(run.data, recipe, tokenizer, routine)
    with _opened(run, state) as log:
        while state.step < recipe.steps:
            records = [_step(recipe, state, batches), *looks.due(state)]
            for record in records:
                if log:
                    log.write(record)
                yield record
            stopping = ranks.anywhere(stop())
            if stopping or state.step == recipe.steps or state.step % routine.save_every == 0:
                save(run, state, tokenizer, log.sync() if log else 0, routine.keep)
            if stopping:
                return


@contextmanager
def _opened(run: Run, state: State) -> Iterator[Log | None]:
    """Lock the run, restore its latest save and open its log; only the first process does so, the others get None."""
    if not ranks.first():
        ranks.wait()  # until the first holds the lock
        restore(run, state)
        yield None
        return
    refusal = ValueError(f"{run.folder} is being trained by another process; wait for it, or stop it first")
    with exclusive_lock(run.folder / ".lock", refusal):
        ranks.wait()
        with closing(Log(run.log, restore(run, state))) as log:
            remove_unfinished(run.folder)
            _store_recipe(run)
            yield log


def _step(recipe: Recipe, state: State, batches: Batches) -> Record:
    """One update of the weights, and its record."""
    started, device = time.perf_counter(), next(state.model.parameters()).device
    numbers = range(state.step * recipe.accumulate, (state.step + 1) * recipe.accumulate)
    micro_batches = [to_device(batches[i], device) for i in numbers]
    loss, norm = take_step(state.objective, state.optimizer, micro_batches, recipe, state.step)
    seconds = time.perf_counter() - started
    state.step, state.seconds = state.step + 1, state.seconds + seconds
    return {
        "kind": "step",
        "step": state.step,
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": recipe.learning_rate_at(state.step - 1),
        "tokens": state.step * recipe.tokens_per_step,
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(recipe.tokens_per_step / seconds, 1),
    }


def _store_recipe(run: Run) -> None:
    """Write a recipe whose steps `resume` has changed."""
    if reopen(run.folder).recipe == run.recipe:
        return
    try:
        write_recipe(run.folder, run.recipe)
    except OSError as error:
        raise OSError(
            f"{run.folder / 'run.json'} cannot be written ({reason(error)}); make room, then resume"
        ) from None

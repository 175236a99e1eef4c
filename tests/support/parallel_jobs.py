"""A program for test_parallel: runs jobs of several processes on gloo, and says how far they are from one process.

It imports torch once and forks for every process, so that a job takes seconds.

    python parallel_jobs.py FOLDER

writes one JSON object to stdout: for each job, what its first process found out.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint.hf_storage  # this and the one before are slow, and would come late in each process
from torch.distributed.tensor import DTensor

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.generation import generate
from llama_from_scratch.parallel import apply, ranks
from llama_from_scratch.parallel.plan import AXES, PLAN
from llama_from_scratch.plots.sharding import pieces
from llama_from_scratch.training import Recipe, Routine, begin, fresh_state, reopen, take_step, train
from llama_from_scratch.training.faster import recompute_blocks
from llama_from_scratch.training.log import read_log
from llama_from_scratch.training.loss import IGNORE, NextTokenLoss, backward, mean_loss
from llama_from_scratch.training.optimizer import adamw

FP32 = contextlib.nullcontext()
MESHES = {"FSDP 2": (2, 1), "TP 2": (1, 2), "FSDP 3": (3, 1), "FSDP 4": (4, 1), "2 x 2": (2, 2)}
MODELS = {
    "tied": {"tie_embeddings": True},
    "untied, with biases": {"attention_bias": True, "ffn_bias": True},
}
RECIPE = Recipe(data=("x",), steps=2, warmup=0, learning_rate=1e-3, vocab_size=96)
SMALL = dict(vocab_size=300, dim=16, layers=1, heads=4, kv_heads=2, ffn_dim=24, context=64, batch_size=4, accumulate=1)

# name: the line of apply.py, and what stands there instead
MUTATIONS = {
    "mean of means": (
        "return _SumOverRanks.apply(part, data)",
        "n = (_batch[1] != ignore).sum().clamp(min=1); "
        "return _SumOverRanks.apply(part / n, data) * _SumOverRanks.apply(n.float(), data) / data.size()",
    ),
    "gradient averaged twice": ("return of_sum * context.ranks, None", "return of_sum, None"),
    "head not tied": (
        "model.lm_head.weight = model.embedding.weight",
        "model.lm_head.weight = nn.Parameter(model.embedding.weight.detach().clone())",
    ),
    "all heads of k and v for some heads of q": (
        'styles["lm_head"] =',
        "names = [name for name in styles if name.endswith(('k_proj', 'v_proj'))]; "
        'styles |= {name: ColwiseParallel(output_layouts=replicated) for name in names}; styles["lm_head"] =',
    ),
    "every rank reads the same rows": (".chunk(data.size())[data.get_local_rank()]", ".chunk(data.size())[0]"),
    "the loss of one rank's rows": ("loss.register_forward_hook(add_up)", "pass"),
}


def model_of(changes: dict) -> Llama:
    """Grouped queries, norm weights far from one, and weights so large that every part leaves a trace."""
    torch.manual_seed(0)
    config = LlamaConfig(96, 64, 2, 16, 4, 4, 88, max_seq_len=128, **changes)
    model = Llama(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(0.25, 1.75) if weight.dim() == 1 else weight.normal_(0, 0.2)
    return model


def micro_batches(rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two, of unequally many targets, also among the ranks: the first row has none at all, the second few."""
    torch.manual_seed(1)
    found = []
    for ignored in (10, 40):
        text = torch.randint(0, 96, (rows, 73))
        targets = text[:, 1:].clone()
        targets[0], targets[1, 7:], targets[2, :ignored] = IGNORE, IGNORE, IGNORE
        found.append((text[:, :-1], targets))
    return found


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in parts of the largest number."""
    found = found.full_tensor() if isinstance(found, DTensor) else found
    return float((found - expected).abs().max() / expected.abs().max())


def compare(changes: dict, shape: tuple[int, int], module=apply, max_logits: int = 2**27) -> dict[str, object]:
    """How far a sharded model is from the same one in one process."""
    mesh = dist.init_device_mesh("cpu", shape, mesh_dim_names=AXES)
    one, many = model_of(changes), model_of(changes)
    expected, objective = NextTokenLoss(one), NextTokenLoss(many, max_logits)
    module.parallelise(many, mesh)
    module.share_batch(objective, mesh, IGNORE)
    pairs = [(many.get_parameter(name), weight) for name, weight in one.named_parameters()]
    batches = micro_batches(rows=12)
    tokens, found = batches[0][0], {}

    with torch.no_grad():
        found["logits"] = distance(many.logits(many.hidden(tokens)), one(tokens))
    losses = [float(backward(o, batches, FP32)) for o in (objective, expected)]
    found["loss"] = abs(losses[0] / losses[1] - 1)
    found["gradients"] = max(distance(a.grad, b.grad) for a, b in pairs)
    if module is not apply:
        return found

    one.zero_grad()
    many.zero_grad()
    before = [weight.detach().clone() for weight in one.parameters()]
    optimizers = [adamw(model, RECIPE.learning_rate) for model in (many, one)]
    for step in range(RECIPE.steps):
        results = [
            take_step(o, a, batches, RECIPE, step) for o, a in zip((objective, expected), optimizers, strict=True)
        ]
        found["later loss"], found["norm"] = (abs(a / b - 1) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        error = sum(float((a.full_tensor() - b).square().sum()) for a, b in pairs)
        moved = sum(float((a - b).square().sum()) for a, b in zip(before, one.parameters(), strict=True))
    found["weights"] = (error / moved) ** 0.5

    odd = [(tokens[:5], batches[0][1][:5]), (tokens[5:6], batches[0][1][5:6])]  # rows that no number of ranks divides
    found["held out"] = abs(mean_loss(objective, odd, FP32) / mean_loss(expected, odd, FP32) - 1)
    cache = module.new_cache(many, mesh, 32)
    found["same text"] = list(generate(many, [1, 2, 3], 12, cache=cache)) == list(generate(one, [1, 2, 3], 12))
    results = [take_step(o, a, batches, RECIPE, 1) for o, a in zip((objective, expected), optimizers, strict=True)]
    found["loss after the text"] = abs(results[0][0] / results[1][0] - 1)
    return found


def compare_all(shape: tuple[int, int]) -> dict[str, dict]:
    found = {kind: compare(changes, shape) for kind, changes in MODELS.items()}
    if dist.get_world_size() == 2:
        found["tied, logits in parts"] = compare(MODELS["tied"], shape, max_logits=96 * 50)
    return found


def compare_recomputed(shape: tuple[int, int]) -> dict[str, object]:
    """In bfloat16: how far from one process, and whether computing each block twice changes a bit of it."""
    mesh = dist.init_device_mesh("cpu", shape, mesh_dim_names=AXES)
    one, many = model_of({}), model_of({})
    expected, objective, batches = NextTokenLoss(one), NextTokenLoss(many), micro_batches(rows=12)
    apply.parallelise(many, mesh)
    apply.share_batch(objective, mesh, IGNORE)
    calls = []
    many.blocks[0].ffn_norm.register_forward_hook(lambda *_: calls.append(1))

    def gradients(objective: NextTokenLoss) -> tuple[float, dict[str, torch.Tensor]]:
        objective.zero_grad()
        recipe = replace(RECIPE, precision="bfloat16")
        loss = float(backward(objective, batches, recipe.autocast(torch.device("cpu"))))
        parts = {name: weight.grad for name, weight in objective.named_parameters()}
        return loss, {name: p.full_tensor() if isinstance(p, DTensor) else p.clone() for name, p in parts.items()}

    in_fp32 = float(backward(expected, batches, FP32))
    (one_loss, one_found), (once_loss, once), calls_once = gradients(expected), gradients(objective), len(calls)
    recompute_blocks(many)
    loss, found = gradients(objective)
    return {
        "loss": abs(loss / one_loss - 1),
        "gradients": max(distance(found[name], one_found[name]) for name in one_found),
        "loss in fp32": abs(loss / in_fp32 - 1),
        "same bits": loss == once_loss and all(torch.equal(found[name], once[name]) for name in once),
        "calls": [calls_once, len(calls) - calls_once],
    }


def compare_mutants(shape: tuple[int, int]) -> dict[str, dict]:
    return {name: compare(MODELS["tied"], shape, mutated(*change)) for name, change in MUTATIONS.items()}


def plan(shape: tuple[int, int]) -> dict[str, bool]:
    """Whether each rank has the rows and columns that the drawing of the table shows."""
    sizes = dict(zip(AXES, shape, strict=True))
    mesh = dist.init_device_mesh("cpu", shape, mesh_dim_names=AXES)
    one, many, found = model_of({}), model_of({}), {}
    apply.parallelise(many, mesh)
    weights = dict(one.named_parameters())
    for name, weight in many.named_parameters():
        kind, whole = name.split(".")[-2], weights[name].detach()
        (top, bottom), (left, right) = pieces(sizes, PLAN[kind])[dist.get_rank()]
        part = whole[round(top * len(whole)) : round(bottom * len(whole))]
        if whole.dim() == 2:
            part = part[:, round(left * whole.shape[1]) : round(right * whole.shape[1])]
        same = torch.tensor(int(torch.equal(weight.to_local(), part)))
        dist.all_reduce(same, dist.ReduceOp.MIN)
        found[kind] = bool(same) and found.get(kind, True)
    return found


def mutated(old: str, new: str):
    """apply.py with a bug."""
    source = Path(apply.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, old
    module = module_from_spec(spec_from_loader(apply.__name__, None))
    exec(compile(source.replace(old, new), "apply.py with a bug", "exec"), module.__dict__)
    return module


def live(folder: Path, shape: tuple[int, int] | None, until: int | None = None) -> None:
    """A part of a run: from its latest save to its end, or until someone asks to stop after this step."""
    run = reopen(folder)
    mesh = shape and dist.init_device_mesh("cpu", shape, mesh_dim_names=AXES)
    state = fresh_state(run.recipe, "cpu", mesh)
    routine = Routine(evaluate_every=3, evaluate_tokens=400, sample_every=4, sample_tokens=8, save_every=4)
    last = ranks.count() - 1
    asked = lambda: state.step == until and (not mesh or dist.get_rank() == last)  # noqa: E731, one asks, all stop
    for _ in train(run, state, run.tokenizer(), routine, asked):
        pass


def fork(world: int, folder: Path, work: Callable[..., object], *arguments: object) -> object:
    """Run `work` in so many processes; gives what the first one gives. None of them may fail."""
    store, result, pids = folder / "store", folder / "result.json", []
    store.unlink(missing_ok=True)
    for rank in range(world):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        try:
            if world > 1:
                dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
            found = work(*arguments)
            if rank == 0:
                result.write_text(json.dumps(found))
            if world > 1:
                dist.destroy_process_group()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * world, (work, arguments, codes)
    return json.loads(result.read_text())


def ending(folder: Path) -> list[dict]:
    times = ("seconds", "tokens_per_second")
    return [{k: v for k, v in record.items() if k not in times} for record in read_log(folder / "log.jsonl")]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    for name, shape in MESHES.items():
        results[name] = fork(shape[0] * shape[1], folder, compare_all, shape)
    for shape in ((4, 1), (2, 2)):
        results[f"plan {shape}"] = fork(4, folder, plan, shape)
    results["recomputed"] = fork(2, folder, compare_recomputed, (2, 1))
    results["mutants"] = fork(4, folder, compare_mutants, (2, 2))

    text = folder / "text.txt"
    text.write_text("\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300)))
    recipe = Recipe(data=(str(text),), steps=8, warmup=2, seed=3, **SMALL)
    lives = {  # each part of a life: (data, tensor), and the step at which someone stops it
        "one": [(None, None)],
        "two": [((2, 1), None)],
        "two, stopped": [((2, 1), 5), ((2, 1), None)],
        "grid": [((2, 2), None)],
        "grid, stopped": [((2, 2), 5), ((2, 2), None)],
        "one, grid, two": [(None, 3), ((2, 2), 6), ((2, 1), None)],
        "tensor, four, one": [((1, 2), 3), ((4, 1), 6), (None, None)],
    }
    for name, parts in lives.items():
        run = begin(folder / name, recipe).folder
        for shape, until in parts:
            fork(shape[0] * shape[1] if shape else 1, folder, live, run, shape, until)
        results[f"life {name}"] = ending(run)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Run by test_training_faster.py: 20 steps in several ways; prints the losses and what was compiled as JSON."""

import json

import torch
from torch._dynamo.utils import counters

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.training import Recipe, take_step
from llama_from_scratch.training.faster import compile_training, recompute_blocks
from llama_from_scratch.training.loss import NextTokenLoss
from llama_from_scratch.training.optimizer import adamw

STEPS = 20


def run(precision: str, compiled: bool = False, recompute: bool = False, max_logits: int = 2**28) -> dict:
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    recipe = Recipe(data=("x",), steps=STEPS, warmup=2, learning_rate=3e-3, vocab_size=300, precision=precision)
    model = Llama(LlamaConfig(300, 64, 3, 8, 2, 8, 96, max_seq_len=64, tie_embeddings=True))
    objective = NextTokenLoss(model, max_logits)
    if recompute:
        recompute_blocks(model)
    if compiled:
        compile_training(objective)
    optimizer, chance = adamw(model, recipe.learning_rate), torch.Generator().manual_seed(1)
    losses, programs = [], []
    for step in range(STEPS):
        tokens = torch.randint(40, (4, 65), generator=chance)
        micro_batches = [(tokens[:2, :-1], tokens[:2, 1:]), (tokens[2:, :-1], tokens[2:, 1:])]
        losses.append(take_step(objective, optimizer, micro_batches, recipe, step)[0])
        programs.append(counters["stats"]["unique_graphs"])
    return {"losses": losses, "programs": programs, "types": sorted({str(w.dtype) for w in model.parameters()})}


torch.set_num_threads(1)
found = {}
for precision in ("float32", "bfloat16"):
    found[precision] = {
        "plain": run(precision),
        "compiled": run(precision, compiled=True),
        "recomputed": run(precision, recompute=True),
        "all": run(precision, compiled=True, recompute=True, max_logits=300 * 40),
    }
print(json.dumps(found))

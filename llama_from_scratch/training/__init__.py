"""Training: texts, batches, loss, optimizer, schedule, and a loop that can be killed at any moment and resumed.

On the same CPU with as many threads and processes, a resumed run ends with the same bits as an uninterrupted one; with
another number of processes, with the same values up to rounding. Neither is tested on a GPU.

run = begin(Path("run"), Recipe(data=("shakespeare",), steps=1000))
for record in train(run, fresh_state(run.recipe), run.tokenizer(), Routine()):
    print(record)
"""

from .loop import check_shares, fresh_state, take_step, train
from .recipe import Recipe
from .routine import Routine
from .run import Run, begin, reopen
from .saves import State, resume

__all__ = [
    "Recipe",
    "Routine",
    "Run",
    "State",
    "begin",
    "check_shares",
    "fresh_state",
    "reopen",
    "resume",
    "take_step",
    "train",
]

"""Training: texts, batches, loss, optimizer, schedule, and a loop that can be killed at any moment and goes on.

On the same CPU with as many threads and processes it ends with the same bits as one that never stopped, with another
number of processes with the same numbers up to rounding; on a GPU neither is tested.

run = begin(Path("run"), Recipe(data=("shakespeare",), steps=1000))
for record in train(run, fresh_state(run.recipe), run.tokenizer(), Routine()):
    print(record)
"""

from .loop import Routine, check_shares, fresh_state, take_step, train
from .recipe import Recipe
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

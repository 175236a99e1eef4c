"""What is to be trained, on what, and how: everything that decides the weights that come out."""

from dataclasses import dataclass, fields
from sys import float_info

import torch

from ..config import LlamaConfig
from .schedule import SCHEDULES, warmup_cosine, warmup_stable_decay

PRECISIONS = ("float32", "bfloat16")
LARGEST_FLOAT = float_info.max  # a larger int can be written, but is no float
LEAST = {"warmup": 0, "decay": 0, "seed": 0, "context": 2}  # samples need a token to look back on; all else is from 1
LARGEST = 10**10  # parameters, of 16 bytes each while they are trained


@dataclass(frozen=True)
class Recipe:
    """A resumed run must have the recipe that it began with; only the steps of a "wsd" schedule may change in time.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """

    data: tuple[str, ...]  # named corpora, files, folders
    steps: int  # updates of the weights, in all
    # the tokenizer: learned from the training text, unless one is named
    tokenizer: str | None = None
    vocab_size: int = 4096
    # the model
    dim: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    ffn_dim: int = 704
    context: int = 256
    # the batch: batch_size · accumulate windows of context tokens
    batch_size: int = 16
    accumulate: int = 1
    # the optimizer
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.1  # at the end, as a part of learning_rate
    schedule: str = "cosine"
    warmup: int = 100  # steps
    decay: int = 0  # steps, of "wsd"
    weight_decay: float = 0.1
    clip: float = 1.0  # the largest norm of the gradient
    # chance and arithmetic
    seed: int = 0
    precision: str = "float32"  # "bfloat16" is torch.autocast: weights and optimizer stay in fp32

    def __post_init__(self) -> None:
        def refuse(name: str, allowed: str) -> None:
            raise ValueError(f"{option(name)} is {getattr(self, name)!r}; it must be {allowed}")

        for field in fields(self):
            value = getattr(self, field.name)
            least = LEAST.get(field.name, 1)
            if field.type is int and (type(value) is not int or value < least):
                refuse(field.name, f"a whole number of at least {least}")
            if field.type is float and not (type(value) in (int, float) and 0 <= value <= LARGEST_FLOAT):
                refuse(field.name, "a finite number of at least 0")
        if not self.data:
            raise ValueError("there is no text to train on; give a text file, a folder, or a named corpus")
        if self.learning_rate == 0:
            refuse("learning_rate", "above 0")
        if self.final_learning_rate > 1:
            refuse("final_learning_rate", "from 0 to 1, a part of the learning rate")
        if self.seed >= 2**63:
            refuse("seed", "below 2^63")
        if self.clip == 0:
            refuse("clip", "above 0")
        if self.schedule not in SCHEDULES:
            refuse("schedule", f"one of {', '.join(SCHEDULES)}")
        if self.precision not in PRECISIONS:
            refuse("precision", f"one of {', '.join(PRECISIONS)}")
        if self.schedule == "cosine" and self.decay:
            refuse("decay", "0 where the schedule is cosine, which decays all the way; choose --schedule wsd")
        if self.warmup + self.decay > self.steps:
            raise ValueError(
                f"--warmup {self.warmup} and --decay {self.decay} take more than --steps {self.steps}; shorten them"
            )
        if self.dim % self.heads:
            refuse("dim", f"a multiple of --heads {self.heads}")
        n_params = self.config(self.vocab_size).n_params
        if n_params > LARGEST:
            raise ValueError(
                f"this model would have {n_params:,} parameters, and training on one machine ends at {LARGEST:,}; "
                "lower --dim, --ffn-dim or --layers"
            )

    def config(self, vocab_size: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=vocab_size,
            dim=self.dim,
            n_layers=self.layers,
            n_heads=self.heads,
            n_kv_heads=self.kv_heads,
            head_dim=self.dim // self.heads,
            ffn_dim=self.ffn_dim,
            max_seq_len=self.context,
            tie_embeddings=True,  # in a small model the table is a large part of all weights
        )

    def learning_rate_at(self, step: int) -> float:
        """Of step 0 … steps - 1."""
        if self.schedule == "wsd":
            factor = warmup_stable_decay(step, self.steps, self.warmup, self.decay, self.final_learning_rate)
        else:
            factor = warmup_cosine(step, self.steps, self.warmup, self.final_learning_rate)
        return self.learning_rate * factor

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.context


def option(name: str) -> str:
    """The name of a setting on the command line."""
    return "--" + name.replace("_", "-")

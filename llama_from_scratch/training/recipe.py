"""The recipe of a training run: every setting that the trained weights depend on."""

from dataclasses import dataclass, fields
from sys import float_info

import torch

from ..config import LlamaConfig
from ..files.errors import ArgumentError
from ..tokenizer.base import ERRORS
from .schedule import SCHEDULES, warmup_cosine, warmup_stable_decay

PRECISIONS = ("float32", "bfloat16")
LARGEST_FLOAT = float_info.max  # a larger int cannot be converted to float
LEAST = {"warmup": 0, "decay": 0, "seed": 0, "context": 2}  # a sample needs a token to start from; others: 1
LARGEST = 10**10  # parameters; each takes 16 bytes in training
SIZES = {  # setting -> field of LlamaConfig
    "vocab_size": "vocab_size",
    "dim": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "kv_heads": "n_kv_heads",
    "ffn_dim": "ffn_dim",
    "context": "max_seq_len",
    "tie_embeddings": "tie_embeddings",
}


@dataclass(frozen=True)
class Recipe:
    """A resumed run keeps its recipe; only the steps of a "wsd" schedule may change, before its decay begins.

    Raises:
        ArgumentError: naming the setting, its value and what is allowed.
        ValueError: if there is no text.
    """

    data: tuple[str, ...]  # named corpora, files, folders
    steps: int  # updates of the weights, in all
    # the tokenizer: learned from the training text, unless one is named
    tokenizer: str | None = None
    vocab_size: int = 4096
    errors: str = "strict"  # for characters that it cannot spell, see `Tokenizer.encode`
    # the model
    dim: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    ffn_dim: int = 704
    context: int = 256
    tie_embeddings: bool = True  # in a small model the embedding is a large part of all weights
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
    # random numbers and arithmetic
    seed: int = 0
    precision: str = "float32"  # "bfloat16" is torch.autocast: weights and optimizer stay in fp32

    def __post_init__(self) -> None:
        def refuse(name: str, allowed: str) -> None:
            raise ArgumentError(f"{{{name}}} is {{value!r}}; it must be {allowed}", value=getattr(self, name))

        for field in fields(self):
            value = getattr(self, field.name)
            least = LEAST.get(field.name, 1)
            if field.type is int and (type(value) is not int or value < least):
                refuse(field.name, f"a whole number of at least {least}")
            if field.type is float and not (type(value) in (int, float) and 0 <= value <= LARGEST_FLOAT):
                refuse(field.name, "a finite number of at least 0")
            if field.type is bool and type(value) is not bool:
                refuse(field.name, "True or False")
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
        for name, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("errors", ERRORS)):
            if getattr(self, name) not in allowed:
                refuse(name, f"one of {', '.join(allowed)}")
        if self.schedule == "cosine" and self.decay:
            refuse("decay", "0 where the schedule is cosine, which decays all the way; choose {schedule} wsd")
        if self.warmup + self.decay > self.steps:
            raise ArgumentError(
                "{warmup} {w} and {decay} {d} take more than {steps} {n}; shorten them",
                w=self.warmup,
                d=self.decay,
                n=self.steps,
            )
        if self.dim % self.heads:
            refuse("dim", f"a multiple of {{heads}} {self.heads}")
        n_params = self.config(self.vocab_size).n_params
        if n_params > LARGEST:
            raise ArgumentError(
                "this model would have {n:,} parameters, and training on one machine ends at {most:,}; "
                "lower {dim}, {ffn_dim} or {layers}",
                n=n_params,
                most=LARGEST,
            )

    @classmethod
    def for_model(cls, config: LlamaConfig, **settings: object) -> "Recipe":
        """A recipe that goes on training a model of this config, to be given to `fresh_state`.

        settings: all others; `context` may be shorter than the model's.
        """
        return cls(**{name: getattr(config, of_config) for name, of_config in SIZES.items()} | settings)

    def config(self, vocab_size: int) -> LlamaConfig:
        """The config of the model that is trained from random weights."""
        sizes = {of_config: getattr(self, name) for name, of_config in SIZES.items()}
        return LlamaConfig(**sizes | {"vocab_size": vocab_size, "head_dim": self.dim // self.heads})

    def check_model(self, config: LlamaConfig) -> None:
        """Raise ValueError if a model of this config has other sizes than the recipe says, or a shorter context."""
        for name, of_config in SIZES.items():
            mine, its = getattr(self, name), getattr(config, of_config)
            if mine != its and not (name == "context" and mine < its):
                raise ArgumentError(f"{{{name}}} is {{mine}}, and the model's {{its}}", mine=mine, its=its)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate in step 0 ... steps - 1; later that of the last."""
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

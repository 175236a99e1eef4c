"""The contestants: our model in several ways, and other programs on the same weights, behind one interface."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from ..checkpoint.huggingface.config import config_to_json
from ..checkpoint.names import TO_HUGGING_FACE, translate
from ..fast import Decoder
from ..fast.compile import Scope
from ..model import Llama

if TYPE_CHECKING:
    import transformers


@runtime_checkable
class Contestant(Protocol):
    """Greedy decoding without tokenizer and stops, so that only the model's own work is timed."""

    def prefill(self) -> None:
        """Start anew: run the prompt and choose the first new token."""

    def step(self) -> None:
        """Run the newest token and choose the next one."""

    def newest(self) -> int:
        """The newest token of the first sequence."""


class Plain:
    """Our model as it is: not fused, not compiled."""

    def __init__(self, model: Llama, prompt: Int[Tensor, "batch seq"], capacity: int) -> None:
        self.model, self.prompt, self.capacity = model, prompt, capacity

    def prefill(self) -> None:
        self.cache = self.model.new_cache(len(self.prompt), self.capacity)
        self._next(self.prompt)

    def step(self) -> None:
        self._next(self.tokens)

    @torch.inference_mode()
    def _next(self, tokens: Tensor) -> None:
        self.tokens = self.model.logits(self.model.hidden(tokens, self.cache)[:, -1:]).argmax(dim=-1)

    def newest(self) -> int:
        return int(self.tokens[0, 0])


class Fast:
    """Our model in a `Decoder`."""

    def __init__(
        self, model: Llama, prompt: Int[Tensor, "batch seq"], capacity: int, compile: Scope | None = None
    ) -> None:
        self.prompt = prompt
        self.decoder = Decoder(model, len(prompt), capacity, compile)

    @torch.inference_mode()  # like each step: other tensors as its input would be compiled anew
    def prefill(self) -> None:
        self.at = self.prompt.shape[1]
        self.tokens = self.decoder.prefill(self.prompt).argmax(dim=-1, keepdim=True)

    def step(self) -> None:
        self.tokens = self.decoder.advance(self.tokens, self.at)
        self.at += 1

    def newest(self) -> int:
        return int(self.tokens[0, 0])


class Transformers:
    """`LlamaForCausalLM` on the same tensors, with its `DynamicCache` and its default attention, not compiled."""

    def __init__(self, model: Llama, prompt: Int[Tensor, "batch seq"], capacity: int) -> None:
        self.model, self.prompt = transformers_twin(model), prompt

    def prefill(self) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)
        self._next(self.prompt)

    def step(self) -> None:
        self._next(self.tokens)

    @torch.inference_mode()
    def _next(self, tokens: Tensor) -> None:
        out = self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.tokens = out.logits.argmax(dim=-1)

    def newest(self) -> int:
        return int(self.tokens[0, 0])


class LlamaCpp:
    """llama.cpp, through the package llama-cpp-python, on the GGUF file and with its own quantised arithmetic."""

    def __init__(self, path: Path, prompt: Int[Tensor, "1 seq"], capacity: int, threads: int) -> None:
        self.prompt = prompt[0].tolist()
        self.model = llama_cpp().Llama(
            str(path), n_ctx=capacity, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def prefill(self) -> None:
        self.model.reset()
        self._next(self.prompt)

    def step(self) -> None:
        self._next([self.token])

    def _next(self, tokens: Sequence[int]) -> None:
        import numpy as np

        self.model.eval(tokens)
        # From the library itself: the package's own `scores` hold logits for every token of the context.
        context, vocab = self.model.ctx, self.model.n_vocab()
        self.token = int(np.ctypeslib.as_array(llama_cpp().llama_get_logits_ith(context, -1), (vocab,)).argmax())

    def newest(self) -> int:
        return self.token


def transformers_twin(model: Llama) -> "transformers.LlamaForCausalLM":
    """The same model in transformers; its weights are the same memory."""
    transformers = import_transformers()
    weight = model.embedding.weight
    config = transformers.LlamaConfig(**config_to_json(model.config, weight.dtype))
    with torch.device("meta"):
        twin = transformers.LlamaForCausalLM(config)
    weights = {translate(name, TO_HUGGING_FACE): tensor for name, tensor in model.state_dict().items()}
    twin.load_state_dict(weights, assign=True, strict=model.lm_head is not None)
    twin.tie_weights()  # if the config says so: one parameter, not two in the same memory
    with torch.device(weight.device):  # its frequencies are not among the weights
        twin.model.rotary_emb = type(twin.model.rotary_emb)(config=config)
    return twin.eval()


def import_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise ImportError("this needs the package transformers; run: pip install transformers") from None
    return transformers


def llama_cpp() -> ModuleType:
    try:
        import llama_cpp
    except ImportError:
        raise ImportError("this needs the package llama-cpp-python; run: pip install llama-cpp-python") from None
    return llama_cpp

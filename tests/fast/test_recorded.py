"""Steps that are recorded once, on a stand-in for CUDA graphs: the same operations on the same memory, once more."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.fast import Decoder, prepare
from llama_from_scratch.fast.recorded import Recorded
from llama_from_scratch.generation import Sampling, generate, generate_batch


class Graph(TorchDispatchMode):
    """Keeps every operation with its tensors; `replay` runs them again and writes the results where they were."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.operations:
            for place, again in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if (
                    isinstance(place, torch.Tensor) and place.data_ptr() != again.data_ptr()
                ):  # neither view nor in place
                    place.copy_(again)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, as_users_run_it):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": Graph,
        "graph": lambda graph: graph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    model = Llama(LlamaConfig(97, 64, 2, 8, 2, 16, 96, max_seq_len=160)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1 if weight.dim() == 1 else 0, 0.2)
    return model


def recorded(model, batch):
    """As `compile="graph"` sets it up, but for what is compiled."""
    decoder = Decoder(prepare(model), batch, 128)
    decoder.step.reads_all_slots, decoder.run_step = True, Recorded(decoder.step.selecting)
    return decoder


def test_a_recording_reads_what_it_is_given():
    calls = []
    double = Recorded(lambda x, factor: calls.append(1) or x * factor)
    for n in range(4):
        assert torch.equal(double(torch.full((3,), float(n)), 2), torch.full((3,), 2.0 * n))
    assert len(calls) == 3  # two runs before the recording, and that
    assert torch.equal(double(torch.ones(3), 5), torch.full((3,), 5.0)) and len(calls) == 6
    assert torch.equal(double(torch.ones(4), 2), torch.full((4,), 2.0)) and len(calls) == 9
    assert torch.equal(double(torch.ones(3), 2), torch.full((3,), 2.0)) and len(calls) == 9


def test_greedy_tokens_over_64_steps_and_of_other_texts(model):
    decoder = recorded(model, 1)
    for prompt in ([5, 9, 60, 33], [7], list(range(1, 12))):
        assert list(decoder.generate(prompt, 64)) == list(generate(model, prompt, 64))
    assert len(decoder.run_step.recordings) == 1


def test_a_padded_batch_penalties_and_draws(model):
    prompts = [[5, 9, 60, 33], [7], list(range(1, 12))]
    decoder = recorded(model, 3)
    assert decoder.generate_batch(prompts, 24) == generate_batch(model, prompts, 24)
    rule = Sampling(repetition_penalty=1.7)
    assert decoder.generate_batch(prompts, 24, rule) == generate_batch(model, prompts, 24, rule)
    drawn = decoder.generate_batch(prompts, 24, Sampling(temperature=1.0, seed=3))
    plain = Decoder(prepare(model), 3, 128)
    assert drawn == plain.generate_batch(prompts, 24, Sampling(temperature=1.0, seed=3))
    assert drawn != decoder.generate_batch(prompts, 24, Sampling(temperature=1.0, seed=4))
    assert len(decoder.run_step.recordings) == 3  # greedy, with a penalty, drawn: no seed has one of its own


def test_without_cuda_it_is_refused(model):
    with pytest.raises(ValueError, match="which only a CUDA device can record; take 'blocks' or 'step' here"):
        Decoder(model, capacity=64, compile="graph")

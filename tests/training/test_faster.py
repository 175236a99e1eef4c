"""Training faster or in less memory is the same training: compiled, recomputed, and with the logits in parts."""

import contextlib
from itertools import accumulate

import pytest
import torch
from programs import result_of
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.training.faster import recompute_blocks
from llama_from_scratch.training.loss import NextTokenLoss, backward

# Differences of two runs of 20 steps, in which rounding errors grow; the losses fall from 5.7 to 3.8.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3}


@pytest.fixture(scope="module")
def found():
    """What tests/support/compiled_training.py found, without run-time checks of types, which cannot be compiled."""
    return result_of("compiled_training.py")


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("way", ["compiled", "recomputed", "all"])
def test_faster_training_has_the_plain_loss_curve(found, precision, way):
    plain = found[precision]["plain"]["losses"]
    assert plain[-1] < plain[0] - 1 and len(plain) == 20
    assert found[precision][way]["losses"] == pytest.approx(plain, abs=TOLERANCE[precision])
    assert found[precision][way]["types"] == ["torch.float32"]  # of the weights, whatever the products are in


@pytest.mark.parametrize("precision", TOLERANCE)
def test_compile_training_compiles_only_once(found, precision):
    """One block, which all run, and the loss."""
    for way, programs in (("plain", 0), ("compiled", 2), ("recomputed", 0), ("all", 2)):
        assert found[precision][way]["programs"] == [programs] * 20


def test_recompute_blocks_is_exact_and_keeps_block_inputs():
    model, tokens, kept = small_model(), torch.randint(97, (2, 64)), {}
    weights = {weight.data_ptr() for weight in model.parameters()}
    gradients = {}

    for way in ("plain", "recomputed"):
        if way == "recomputed":
            recompute_blocks(model)
        count = []

        def pack(tensor, count=count):
            count.append(0 if tensor.data_ptr() in weights else tensor.numel())
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            x = model.hidden(tokens)
        kept[way] = sum(count)
        x.square().sum().backward()
        gradients[way] = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
    assert all(map(torch.equal, gradients["plain"], gradients["recomputed"]))
    assert kept["recomputed"] < kept["plain"] / 5


def small_model(vocab_size: int = 97) -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(vocab_size, 32, 3, 4, 2, 8, 64, max_seq_len=64, tie_embeddings=True))


def peak(objective: NextTokenLoss, tokens: torch.Tensor, targets: torch.Tensor) -> int:
    """Bytes that a forward and a backward pass take at most, beyond those in use before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        backward(objective, [(tokens, targets)], contextlib.nullcontext())
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def test_loss_in_parts_never_holds_all_logits():
    """Memory as the allocator counts it: with the logits in parts, less than one copy of them all."""
    model, (tokens, targets) = small_model(8192), torch.randint(8192, (2, 8, 64))
    logits = 4 * tokens.numel() * 8192
    assert peak(NextTokenLoss(model), tokens, targets) > 2 * logits
    model.zero_grad()
    assert peak(NextTokenLoss(model, max_logits=16 * 8192), tokens, targets) < 0.6 * logits

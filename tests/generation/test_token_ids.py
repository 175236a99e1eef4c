"""Token ids as NumPy integers and as tensors, without the run-time type checks of the tests."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llama_from_scratch.generation import Sampling, generate, generate_batch, generate_samples

pytestmark = pytest.mark.usefixtures("as_users_run_it")
IDS = [1, 2, 3, 1, 2]
CALLS = {
    "generate": lambda ids, rule: list(generate(tiny_model(), ids, 5, rule)),
    "generate_batch": lambda ids, rule: generate_batch(tiny_model(), [ids, ids], 5, rule),
    "generate_samples": lambda ids, rule: generate_samples(tiny_model(), ids, 2, 5, rule),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("ids", [torch.tensor(IDS), np.array(IDS), [np.int64(i) for i in IDS]])
@pytest.mark.parametrize("rule", [Sampling(), Sampling(repetition_penalty=1.3)])
def test_generate_from_other_integers_equals_ints(call, ids, rule):
    assert CALLS[call](ids, rule) == CALLS[call](IDS, rule)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("ids", [torch.tensor([IDS]), np.array([IDS]), [1.5, 2], torch.tensor([1.0, 2.0])])
def test_generate_from_other_shapes_and_types_raises(call, ids):
    with pytest.raises(ValueError, match="^the prompt holds .*, which is not a token id; give whole numbers in one"):
        CALLS[call](ids, Sampling())

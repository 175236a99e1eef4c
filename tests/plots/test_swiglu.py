"""What the chapter on SwiGLU draws has the numbers that it should."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model

from llama_from_scratch.inside import record
from llama_from_scratch.plots.swiglu import neurons, surface, top_share

TOKENS = torch.tensor([[5, 17, 80, 3, 3, 41, 9]])


def test_neurons_give_the_layers_output():
    model = tiny_model()
    gate, up = neurons(model, TOKENS, 1)
    layer = model.blocks[1].feed_forward
    with torch.no_grad():
        found = (F.silu(gate) * up) @ layer.down_proj.weight.T
    torch.testing.assert_close(found, record(model, TOKENS, "blocks.1.feed_forward")["blocks.1.feed_forward"][1][0])


def test_surface_is_silu_times_up():
    values = surface(gated=True, side=9)  # steps of one, up from 4 down to -4
    assert values[0, 8].item() == pytest.approx(4 * F.silu(torch.tensor(4.0)).item())
    assert values[8, 8] == -values[0, 8] and (values[4] == 0).all()
    plain = surface(gated=False, side=9)
    assert torch.equal(plain, F.silu(torch.linspace(-4, 4, 9)).expand(9, 9))


def test_top_share_of_equal_and_of_single_neurons():
    assert top_share(torch.ones(3, 100)) == pytest.approx(0.05)
    assert top_share(torch.eye(3, 100)) == 1

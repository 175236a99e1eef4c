"""What the chapter "Embeddings and the residual stream" draws has the numbers that it should."""

import json
import re
from html import unescape

import pytest
import torch
from tiny import tiny_model

from llama_from_scratch.inside import record
from llama_from_scratch.plots.residual_stream import account, account_widget, cosines, shares, writings

TOKENS = torch.tensor([[5, 17, 80, 3, 3, 41, 9]])


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_writings_add_up_to_what_the_last_norm_reads(model):
    written = writings(model, TOKENS)
    read = record(model, TOKENS, "norm")["norm"][0][0]
    assert written.shape == (7, 1 + 2 * model.config.n_layers, model.config.dim)
    torch.testing.assert_close(written.sum(1), read, atol=1e-5, rtol=1e-5)
    assert torch.equal(written[:, 0], model.embedding(TOKENS)[0])


def test_account_adds_up_to_the_models_logits(model):
    with torch.no_grad():
        logits = model(TOKENS)[0]
        for at in (0, 3, 6):
            found = account(model, writings(model, TOKENS)[at], [4, 80])
            torch.testing.assert_close(found.sum(0), logits[at, [4, 80]], atol=1e-4, rtol=1e-4)


def test_shares_add_up_to_one(model):
    share = shares(writings(model, TOKENS)[-1])
    assert share.sum().item() == pytest.approx(1, abs=1e-5)


def test_cosines_of_random_directions_are_near_zero():
    found = cosines(torch.randn(500, 400, generator=torch.Generator().manual_seed(1)))
    assert abs(found.mean()) < 0.02 and found.std().item() == pytest.approx(400**-0.5, rel=0.3)


def test_account_widget_holds_every_number():
    numbers = torch.tensor([[1.25, -0.5], [0.125, 2.0]])
    html = account_widget(numbers, [" Paris", "a&b"])
    names, rows = json.loads(unescape(re.search(r'data-account="([^"]*)"', html)[1]))
    assert names == ["␣Paris", "a&b"] and rows == numbers.tolist()
    assert "<td>a&amp;b</td><td>1.5</td>" in html

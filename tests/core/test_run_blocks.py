"""`run_blocks` takes vectors and stops after any block; `new_cache` fits the model."""

import pytest
import torch
from tiny import TINY, tiny_model

from llama_from_scratch import KVCache, Llama
from llama_from_scratch.generation import GrowingCache


@pytest.fixture(scope="module")
def small() -> Llama:
    return tiny_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(97, (2, 12))


def positions(tokens: torch.Tensor) -> torch.Tensor:
    return torch.arange(tokens.shape[1]).expand(tokens.shape)


@torch.no_grad()
def test_run_blocks_on_embeddings_equals_hidden(small, tokens):
    """To the last bit: `hidden` makes the same calls."""
    x = small.run_blocks(small.embedding(tokens), positions(tokens))
    assert torch.equal(small.norm(x), small.hidden(tokens))


@pytest.mark.parametrize("stop", range(TINY.n_layers + 1))
@torch.no_grad()
def test_run_blocks_stop_equals_hook_on_block(small, tokens, stop):
    """`stop` blocks run and no others; their output is what the next block, or the last norm, is given."""
    inputs, ran = [], []
    readers = [*small.blocks, small.norm]
    hooks = [reader.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for reader in readers]
    small.hidden(tokens)
    for hook in hooks:
        hook.remove()
    hooks = [block.register_forward_hook(lambda block, *_: ran.append(block)) for block in small.blocks]
    x = small.run_blocks(small.embedding(tokens), positions(tokens), stop=stop)
    for hook in hooks:
        hook.remove()
    assert ran == list(small.blocks[:stop])
    assert torch.equal(x, inputs[stop])


@torch.no_grad()
def test_run_blocks_fills_the_cache_up_to_stop(small, tokens):
    cache = small.new_cache(2, 12)
    small.run_blocks(small.embedding(tokens), positions(tokens), cache=cache, stop=2)
    assert [layer.length for layer in cache.layers] == [12, 12, 0]


def test_run_blocks_passes_a_gradient_to_x(tokens):
    """Summed over the places of each token, it is the gradient of the embedding table in an ordinary pass."""
    model = tiny_model()
    model.hidden(tokens).square().sum().backward()
    x = model.embedding(tokens).detach().requires_grad_()
    model.norm(model.run_blocks(x, positions(tokens))).square().sum().backward()
    summed = torch.zeros(97, TINY.dim).index_add(0, tokens.flatten(), x.grad.flatten(0, 1))
    assert (x.grad.abs().amax(dim=-1) > 0).all()
    # The same terms, added in another order: at most 24 of them, each rounded to 6e-8 of the largest.
    torch.testing.assert_close(summed, model.embedding.weight.grad, rtol=0, atol=24 * 6e-8 * float(x.grad.abs().max()))


@pytest.mark.parametrize("kind", [KVCache, GrowingCache])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_cache_fits_the_model(tokens, kind, dtype):
    model = tiny_model().to(dtype)
    cache = model.new_cache(2, 12, kind)
    assert type(cache) is kind
    assert cache.layers[0].keys.shape == (2, TINY.n_kv_heads, 12, TINY.head_dim)
    with torch.no_grad():
        model(tokens, cache)
    assert cache.length == 12

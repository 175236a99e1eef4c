"""Independent Llamas to compare ours with, and the comparisons that test_parity and test_mutations share.

The references are the LlamaForCausalLM of transformers and, in Meta's layout, a few lines of complex numbers.
Nothing here uses the package's own tables of names or its permutations.

Models are random, but at sizes and scales where mistakes show: 64 tokens or more, grouped heads, weights large enough
that attention is far from uniform, norm weights far from one, and some embeddings so small that norm_eps matters.
"""

import itertools
from dataclasses import replace

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from llama_from_scratch import KVCache, Llama, LlamaConfig, RopeScaling

# fp32: sums in another order. The largest difference of logits seen on any kernel set is 4.0e-5.
TOLERANCE = 2.5e-4

# our name -> name in transformers, for the module of every weight; {} is the number of the block
HF_NAMES = {
    "embedding": "model.embed_tokens",
    "blocks.{}.attention_norm": "model.layers.{}.input_layernorm",
    "blocks.{}.attention.q_proj": "model.layers.{}.self_attn.q_proj",
    "blocks.{}.attention.k_proj": "model.layers.{}.self_attn.k_proj",
    "blocks.{}.attention.v_proj": "model.layers.{}.self_attn.v_proj",
    "blocks.{}.attention.o_proj": "model.layers.{}.self_attn.o_proj",
    "blocks.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blocks.{}.feed_forward.gate_proj": "model.layers.{}.mlp.gate_proj",
    "blocks.{}.feed_forward.up_proj": "model.layers.{}.mlp.up_proj",
    "blocks.{}.feed_forward.down_proj": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "lm_head": "lm_head",
}

GQA = LlamaConfig(
    vocab_size=256, dim=128, n_layers=3, n_heads=8, n_kv_heads=2, head_dim=16, ffn_dim=352, rope_theta=1e5
)


def scaled(kind: str, factor: float, original: int | None = 32, **options) -> LlamaConfig:
    return replace(GQA, rope_theta=1e4, rope_scaling=RopeScaling(kind, factor, original, **options))


CASES = {
    "gqa": GQA,
    "mha": replace(GQA, n_kv_heads=8),
    "mqa": replace(GQA, n_kv_heads=1),
    "tied": replace(GQA, tie_embeddings=True),
    "wide-heads": replace(GQA, head_dim=24),  # dim / n_heads is 16
    "narrow-heads": replace(GQA, head_dim=8, tie_embeddings=True),
    "eps-1e-6": replace(GQA, norm_eps=1e-6),
    "biases": replace(GQA, attention_bias=True, ffn_bias=True),
    "linear": scaled("linear", 4.0, None),
    "dynamic": scaled("dynamic", 2.0),  # 64 tokens are twice what it was trained on
    "dynamic-within": scaled("dynamic", 2.0, original=128),  # 64 tokens are within it
    "yarn": scaled("yarn", 4.0),
    "yarn-betas": scaled("yarn", 16.0, beta_fast=8.0, beta_slow=2.0),
    "yarn-attention-factor": scaled("yarn", 4.0, attention_factor=0.7),
    "llama3-x8": scaled("llama3", 8.0),
    "llama3-x32": scaled("llama3", 32.0),
    "llama3-bands": scaled("llama3", 8.0, low_freq_factor=2.0, high_freq_factor=3.0),
}


# The references


def hf_config(config: LlamaConfig) -> transformers.LlamaConfig:
    """The same numbers in the words of transformers."""
    rope, context = {"rope_type": "default"}, config.max_seq_len
    if scaling := config.rope_scaling:
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind in ("yarn", "llama3"):
            rope["original_max_position_embeddings"] = scaling.original_max_seq_len
        if scaling.kind == "yarn":
            context = int(scaling.factor * scaling.original_max_seq_len)  # it warns of anything else
            rope |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            rope["attention_factor"] = scaling.attention_factor
        if scaling.kind == "llama3":
            rope |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        if scaling.kind == "dynamic":  # transformers reads the training context from here
            context = scaling.original_max_seq_len
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.ffn_dim,
        rms_norm_eps=config.norm_eps,
        rope_parameters={**rope, "rope_theta": config.rope_theta},
        max_position_embeddings=context,
        tie_word_embeddings=config.tie_embeddings,
        attention_bias=config.attention_bias,
        mlp_bias=config.ffn_bias,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def random_hf(config: LlamaConfig, seed: int = 0) -> transformers.LlamaForCausalLM:
    """A transformers model with random weights that leave no bug in the shade."""
    theirs = (
        transformers.AutoModelForCausalLM.from_config(hf_config(config), attn_implementation="eager").float().eval()
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.dim() == 1:
                weight.uniform_(0.25, 1.75, generator=generator)
            else:
                weight.normal_(0.0, 0.2, generator=generator)
        theirs.model.embed_tokens.weight[::2] *= 0.01
    return theirs


def copy_weights(theirs: transformers.LlamaForCausalLM, ours: Llama) -> Llama:
    """Give our model the weights of theirs."""
    with torch.no_grad():
        for mine, yours in module_pairs(theirs, ours):
            mine.load_state_dict(yours.state_dict())
    return ours


def module_pairs(theirs: transformers.LlamaForCausalLM, ours: Llama):
    """Every module of ours that holds a weight, with the module of theirs that does the same."""
    for mine, yours in HF_NAMES.items():
        if mine == "lm_head" and ours.lm_head is None:
            continue
        for i in range(ours.config.n_layers if "{}" in mine else 1):
            yield ours.get_submodule(mine.format(i)), theirs.get_submodule(yours.format(i))


def random_pair(config: LlamaConfig, seed: int = 0) -> tuple[Llama, transformers.LlamaForCausalLM]:
    theirs = random_hf(config, seed)
    return copy_weights(theirs, Llama(config).eval()), theirs


def random_tokens(config: LlamaConfig, batch: int = 2, seq: int = 64, seed: int = 2) -> Tensor:
    return torch.randint(config.vocab_size, (batch, seq), generator=torch.Generator().manual_seed(seed))


def to_meta_rows(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a q or k weight from halves (0 … half-1, half … head_dim-1) to Meta's pairs (0, half, 1, half+1, …)."""
    half = head_dim // 2
    within = [row for i in range(half) for row in (i, i + half)]
    return weight[[head + row for head in range(0, weight.shape[0], head_dim) for row in within]]


def meta_logits(theirs: transformers.LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """A Llama as Meta's files have it: q and k rows hold adjacent pairs, each pair a complex number that is turned.

    Without rope scaling. Written head by head, in the plainest way there is.
    """
    c, w = theirs.config, dict(theirs.named_parameters())
    frequencies = c.rope_parameters["rope_theta"] ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
    angles = torch.arange(tokens.shape[1], dtype=torch.float64)[:, None] * frequencies
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * weight

    def rotated(x):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(c.num_hidden_layers):
        layer = f"model.layers.{i}."
        h = norm(x, w[layer + "input_layernorm.weight"])
        q = h @ to_meta_rows(w[layer + "self_attn.q_proj.weight"], c.head_dim).T
        k = h @ to_meta_rows(w[layer + "self_attn.k_proj.weight"], c.head_dim).T
        v = h @ w[layer + "self_attn.v_proj.weight"].T
        heads = []
        for head in range(c.num_attention_heads):
            mine = slice(head * c.head_dim, (head + 1) * c.head_dim)
            shared = head * c.num_key_value_heads // c.num_attention_heads
            group = slice(shared * c.head_dim, (shared + 1) * c.head_dim)
            scores = rotated(q[..., mine]) @ rotated(k[..., group]).mT / c.head_dim**0.5
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[..., group])
        x = x + torch.cat(heads, -1) @ w[layer + "self_attn.o_proj.weight"].T
        h = norm(x, w[layer + "post_attention_layernorm.weight"])
        gate, up = h @ w[layer + "mlp.gate_proj.weight"].T, h @ w[layer + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + (-gate).exp()) * up) @ w[layer + "mlp.down_proj.weight"].T
    x = norm(x, w["model.norm.weight"])
    return x @ (w["model.embed_tokens.weight"] if c.tie_word_embeddings else w["lm_head.weight"]).T


# The comparisons. Each raises an AssertionError that says what differs.


def assert_same(what: str, mine: Tensor, yours: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(
        mine, yours, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what} differ: {text}", check_stride=False
    )


def check_full(ours: Llama, theirs: transformers.LlamaForCausalLM) -> None:
    """One uncached pass: the stream after each layer, logits, loss and the gradient of every weight."""
    tokens = random_tokens(ours.config)
    streams = []
    modules = [ours.embedding, *ours.blocks[:-1], ours.norm]  # what transformers calls hidden states
    hooks = [m.register_forward_hook(lambda module, inputs, output: streams.append(output.detach())) for m in modules]
    logits = ours(tokens)
    for hook in hooks:
        hook.remove()
    expected = theirs(tokens, labels=tokens, output_hidden_states=True)

    assert len(streams) == len(expected.hidden_states) == ours.config.n_layers + 1
    for i, (mine, yours) in enumerate(zip(streams, expected.hidden_states, strict=True)):
        size = yours.std()  # the stream grows to many times the size of the logits, and its rounding with it
        assert_same(f"hidden states {i}", mine / size, yours / size)
    assert_same("logits", logits, expected.logits)

    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert_same("losses", loss, expected.loss)
    ours.zero_grad()
    theirs.zero_grad()
    loss.backward()
    expected.loss.backward()
    for mine, yours in module_pairs(theirs, ours):
        size = yours.weight.grad.norm()  # relative to the size of the gradient, which can be far below one
        assert size > 0
        assert_same(f"gradients of {type(yours).__name__}", mine.weight.grad / size, yours.weight.grad / size)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
def check_cached(ours: Llama, theirs: transformers.LlamaForCausalLM) -> None:
    """The same tokens in chunks of 17, 23, 8, 15 and 1, through the cache, against one uncached pass of theirs."""
    tokens = random_tokens(ours.config)
    cache = KVCache(ours.config, batch=2, capacity=64)
    logits = torch.cat([ours(chunk, cache) for chunk in tokens.split([17, 23, 8, 15, 1], dim=1)], dim=1)
    assert_same("logits", logits, theirs(tokens).logits)


@torch.no_grad()
def check_padded(ours: Llama, theirs: transformers.LlamaForCausalLM) -> None:
    """Rows of different lengths, padded on the left, against each row alone."""
    rows = [random_tokens(ours.config, 1, seq, seed=seq)[0] for seq in (64, 40, 1)]
    tokens = torch.stack([F.pad(row, (64 - len(row), 0), value=3) for row in rows])
    mask = torch.stack([torch.arange(64) >= 64 - len(row) for row in rows])
    logits = ours(tokens, attention_mask=mask)
    assert not logits.isnan().any(), "logits differ: there are NaNs"
    for i, row in enumerate(rows):
        assert_same(f"logits of row {i}", logits[i, 64 - len(row) :], theirs(row[None]).logits[0])


@torch.no_grad()
def check_greedy(ours: Llama, theirs: transformers.LlamaForCausalLM, steps: int = 20) -> None:
    """The likeliest continuation, token by token through the cache, against `generate` of transformers."""
    prompt = random_tokens(ours.config, batch=1)
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=steps, pad_token_id=0
    )
    cache = KVCache(ours.config, batch=1, capacity=64 + steps)
    tokens = prompt
    for _ in range(steps):
        logits = ours(tokens[:, cache.length :], cache)[:, -1]
        best, second = logits.topk(2).values[0]
        # A tie could go either way without anybody being wrong; the seed is such that there is none. Each of the two
        # logits may be off by TOLERANCE in either model.
        assert best - second > 4 * TOLERANCE, "there is no clear best token"
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert tokens.tolist() == expected.tolist(), "greedy tokens differ"


CHECKS = {"full": check_full, "cached": check_cached, "padded": check_padded, "greedy": check_greedy}


def parity(check: str, case: str) -> None:
    """Run one of CHECKS on one of CASES with fresh models."""
    CHECKS[check](*random_pair(CASES[case]))


def parity_combinations() -> list[tuple[str, str]]:
    """Every check on every case, except where dynamic scaling makes the question meaningless.

    Its frequencies depend on the longest text seen, and keys in a cache keep the rotation that they were given.
    So in any implementation a pass in chunks differs from a whole one, and a row in a batch from the row alone.
    Greedy decoding changes them as it goes, in ours and in theirs, and is compared all the same.
    """
    return [
        pair for pair in itertools.product(CHECKS, CASES) if pair not in {("cached", "dynamic"), ("padded", "dynamic")}
    ]

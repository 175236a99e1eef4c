"""Meta's layout: we read files written as Meta writes them, and a second implementation reads those that we write."""

import json
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from checkpoint_files import hf_weights, write_meta
from reference import GQA, assert_same, random_hf, random_pair, random_tokens

from llama_from_scratch import PRESETS, Llama, LlamaConfig, RopeScaling
from llama_from_scratch.checkpoint import describe, load_config, load_model, save_model
from llama_from_scratch.checkpoint.meta.config import config_from_params, ffn_dim, params_from_config
from llama_from_scratch.files.errors import CheckpointError

MHA, MQA, TIED = replace(GQA, n_kv_heads=8), replace(GQA, n_kv_heads=1), replace(GQA, tie_embeddings=True)
SCALED = {
    factor: replace(GQA, rope_theta=5e5, rope_scaling=RopeScaling("llama3", factor, 8192)) for factor in (8.0, 32.0)
}
LLAMA_2 = {"vocab_size": -1, "multiple_of": 32}  # as little as its params.json says
LLAMA_3 = {"vocab_size": 256, "n_kv_heads": 2, "multiple_of": 32, "rope_theta": 1e5, "use_scaled_rope": False}


def meta_forward(folder, tokens):
    """Logits by the files alone, in Meta's words and with Meta's complex numbers; the shards stay shards.

    Each is one GPU's model: it computes its own heads, its own part of the feed-forward and of the vocabulary.
    """
    p = json.loads((folder / "params.json").read_text())
    shards = [torch.load(file, weights_only=True) for file in sorted(folder.glob("consolidated.*.pth"))]
    d = p["dim"] // p["n_heads"]
    freqs = p["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    if p.get("use_scaled_rope"):
        turns = 8192 * freqs / (2 * torch.pi)
        kept = ((turns - 1) / 3).clamp(0, 1)
        freqs = freqs * (kept + (1 - kept) / p["rope_scaling_factor"])
    angles = torch.arange(tokens.shape[1])[:, None, None] * freqs
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + p["norm_eps"]) * weight

    def heads(x, rotated):
        x = x.unflatten(-1, (-1, d))  # batch, seq, heads, d
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2) if rotated else x

    tables = [shard["tok_embeddings.weight"] for shard in shards]
    columns = len(tables[0]) == p["vocab_size"]
    h = torch.cat([table[tokens] for table in tables], -1) if columns else torch.cat(tables)[tokens]
    for i in range(p["n_layers"]):
        w = [{k.removeprefix(f"layers.{i}."): v for k, v in s.items() if k.startswith(f"layers.{i}.")} for s in shards]
        x, total = norm(h, w[0]["attention_norm.weight"]), 0
        for part in w:
            q = heads(x @ part["attention.wq.weight"].T, True)
            k = heads(x @ part["attention.wk.weight"].T, True)
            v = heads(x @ part["attention.wv.weight"].T, False)
            k, v = (y.repeat_interleave(q.shape[2] // k.shape[2], 2) for y in (k, v))
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / d**0.5
            scores += torch.full(scores.shape[-2:], -torch.inf).triu(1)
            mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)
            total = total + mixed @ part["attention.wo.weight"].T
        h, total = h + total, 0
        x = norm(h, w[0]["ffn_norm.weight"])
        for part in w:
            gated = F.silu(x @ part["feed_forward.w1.weight"].T) * (x @ part["feed_forward.w3.weight"].T)
            total = total + gated @ part["feed_forward.w2.weight"].T
        h = h + total
    h = norm(h, shards[0]["norm.weight"])
    return torch.cat([h @ shard["output.weight"].T for shard in shards], -1)


# Meta's files to ours


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_llama_2_as_meta_publishes_it(tmp_path, n_shards):
    """No n_kv_heads, no theta, no vocabulary; the embedding's columns are divided."""
    theirs = random_hf(replace(MHA, rope_theta=1e4))
    ours = load_model(write_meta(tmp_path / "model", theirs.config, hf_weights(theirs), LLAMA_2, n_shards=n_shards))
    assert ours.config == replace(MHA, rope_theta=1e4)
    tokens = random_tokens(MHA)
    with torch.no_grad():
        assert_same("logits", ours(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_llama_3_as_meta_publishes_it(tmp_path, n_shards):
    """The embedding's rows are divided; one file of the folder stands for all."""
    theirs = random_hf(GQA)
    weights = hf_weights(theirs)
    folder = write_meta(tmp_path, theirs.config, weights, LLAMA_3, n_shards=n_shards, embedding_dimension=0)
    ours = load_model(folder / "consolidated.00.pth")
    assert ours.config == load_config(folder) == GQA
    tokens = random_tokens(GQA)
    with torch.no_grad():
        assert_same("logits", ours(tokens), theirs(tokens).logits)


def test_the_same_table_twice_is_tied(tmp_path):
    """As in Meta's files of the small Llama 3.2; one number more, and it is a head of its own."""
    theirs = random_hf(TIED)
    weights = hf_weights(theirs)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    folder = write_meta(tmp_path, theirs.config, weights, LLAMA_3)
    assert load_model(folder).config == TIED
    weights["lm_head.weight"][-1, -1] += 1
    assert load_config(write_meta(tmp_path, theirs.config, weights, LLAMA_3)) == GQA
    del weights["lm_head.weight"]
    assert load_config(write_meta(tmp_path, theirs.config, weights, LLAMA_3)) == TIED


def test_description(tmp_path):
    theirs = random_hf(GQA).to(torch.bfloat16)
    found = describe(write_meta(tmp_path, theirs.config, hf_weights(theirs), LLAMA_3, n_shards=2))
    assert (found.format, found.path, found.tokenizer) == ("Meta", tmp_path, None)
    assert {tensor.stored_type for tensor in found.tensors} == {"BF16"}
    row = next(tensor for tensor in found.tensors if tensor.name == "blocks.2.feed_forward.down_proj.weight")
    assert (row.stored_name, row.shape) == ("layers.2.feed_forward.w2.weight", (128, 352))
    assert found.memory(torch.bfloat16) < found.n_bytes < found.memory(torch.bfloat16) + 5000  # norms are there twice


def test_loaded_weights_can_be_trained_and_the_file_stays_as_it_was(tmp_path):
    save_model(Llama(GQA), tmp_path / "model", format="meta")
    before = (tmp_path / "model" / "consolidated.00.pth").read_bytes()
    ours = load_model(tmp_path / "model")
    ours(random_tokens(GQA)).square().mean().backward()
    torch.optim.SGD(ours.parameters(), lr=1.0).step()
    assert (tmp_path / "model" / "consolidated.00.pth").read_bytes() == before


# Our files to theirs


@pytest.mark.parametrize(
    ("config", "n_shards"),
    [(MHA, 1), (MHA, 4), (GQA, 1), (GQA, 2), (MQA, 1), (TIED, 1), (TIED, 2), (SCALED[8.0], 1), (SCALED[32.0], 2)],
    ids=["mha", "mha-4", "gqa", "gqa-2", "mqa", "tied", "tied-2", "x8", "x32-2"],
)
def test_what_we_write(tmp_path, config, n_shards):
    """A second implementation reads it, and so do we, bit for bit."""
    ours = random_pair(config)[0]
    save_model(ours, tmp_path / "model", format="meta", n_shards=n_shards)
    tokens = random_tokens(config)
    with torch.no_grad():
        assert_same("logits", meta_forward(tmp_path / "model", tokens), ours(tokens))
    again = load_model(tmp_path / "model")
    assert again.config == config
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_scaling_shows_in_what_the_second_implementation_computes(tmp_path):
    """Else the test above could not tell 8 from 32."""
    folder = tmp_path / "model"
    save_model(random_pair(SCALED[32.0])[0], folder, format="meta")
    tokens = random_tokens(GQA)
    right = meta_forward(folder, tokens)
    params = json.loads((folder / "params.json").read_text())
    for wrong in ({"rope_scaling_factor": 8.0}, {"use_scaled_rope": False}):
        (folder / "params.json").write_text(json.dumps(params | wrong))
        assert (meta_forward(folder, tokens) - right).abs().max() > 1e-2


def test_a_file_holds_its_weights_and_no_more(tmp_path):
    """Not the whole memory that a part is cut from; and a shared table once."""
    for config, n_shards in ((MHA, 4), (TIED, 1)):
        folder = tmp_path / str(n_shards)
        ours = Llama(config)
        save_model(ours, folder, format="meta", n_shards=n_shards)
        sizes = [file.stat().st_size for file in folder.glob("*.pth")]
        assert len(sizes) == n_shards
        assert sum(sizes) < 4 * config.n_params + n_shards * 30_000


@pytest.mark.parametrize(
    ("n_shards", "expected"), [(3, "must be from 1 to 100 and divide n_kv_heads, 2"), (0, "n_shards is 0")]
)
def test_shards_that_would_be_unequal(tmp_path, n_shards, expected):
    with pytest.raises(CheckpointError, match=expected):
        save_model(Llama(GQA), tmp_path / "model", format="meta", n_shards=n_shards)
    assert not list(tmp_path.iterdir())


# params.json


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back(tmp_path, name):
    """And needs no key that Meta does not have, so nothing is guessed and nothing is odd."""
    config = PRESETS[name]
    params = params_from_config(config)
    assert config_from_params(params, config.vocab_size, config.tie_embeddings, tmp_path) == config
    assert "context_length" not in params


# As published by Meta; sources as for the presets.
PUBLISHED = {
    "Llama-1-7B": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "norm_eps": 1e-6, "vocab_size": -1},
    "Llama-2-7B": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "norm_eps": 1e-5, "vocab_size": -1},
    "Llama-2-70B": {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 4096}
    | {"ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "vocab_size": -1},
    "Llama-3-8B": {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "multiple_of": 1024}
    | {"ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "vocab_size": 128256, "rope_theta": 500000.0},
    "Llama-3.1-405B": {"dim": 16384, "n_layers": 126, "n_heads": 128, "n_kv_heads": 8, "multiple_of": 4096}
    | {"ffn_dim_multiplier": 1.2, "norm_eps": 1e-5, "vocab_size": 128256, "rope_theta": 500000.0}
    | {"use_scaled_rope": True},
    "Llama-3.2-1B": {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "multiple_of": 256}
    | {"ffn_dim_multiplier": 1.5, "norm_eps": 1e-5, "vocab_size": 128256, "rope_theta": 500000.0}
    | {"use_scaled_rope": True},
    "Llama-3.2-3B": {"dim": 3072, "n_layers": 28, "n_heads": 24, "n_kv_heads": 8, "multiple_of": 256}
    | {"ffn_dim_multiplier": 1.0, "norm_eps": 1e-5, "vocab_size": 128256, "rope_theta": 500000.0}
    | {"use_scaled_rope": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_params_mean_the_preset(tmp_path, name):
    """What they leave out follows: 8 or 32, 2048 or 4096 positions, the base of RoPE."""
    config = PRESETS[name]
    assert config_from_params(PUBLISHED[name], config.vocab_size, config.tie_embeddings, tmp_path) == config


def test_any_width_of_the_feed_forward_comes_back(tmp_path):
    rng = random.Random(0)
    for _ in range(200):
        config = replace(GQA, dim=8 * rng.randint(2, 1000), n_heads=4, ffn_dim=rng.randint(1, 40_000))
        config = replace(config, head_dim=config.dim // 4, max_seq_len=rng.randint(1, 10**6))
        params = params_from_config(config)
        assert ffn_dim(config.dim, params["multiple_of"], params.get("ffn_dim_multiplier")) == config.ffn_dim
        assert config_from_params(json.loads(json.dumps(params)), 256, False, tmp_path) == config


HOLES = {
    "biases in attention": (replace(GQA, attention_bias=True), "cannot say biases"),
    "biases in the feed-forward": (replace(GQA, ffn_bias=True), "cannot say biases"),
    "wide heads": (replace(GQA, head_dim=24), "cannot say heads that are 24 wide"),
    "linear": (replace(GQA, rope_scaling=RopeScaling("linear", 4.0)), "by another rule than llama3"),
    "dynamic": (replace(GQA, rope_scaling=RopeScaling("dynamic", 4.0, 512)), "by another rule than llama3"),
    "yarn": (replace(GQA, rope_scaling=RopeScaling("yarn", 4.0, 512)), "by another rule than llama3"),
    "other bands": (
        replace(GQA, rope_scaling=RopeScaling("llama3", 8.0, 8192, low_freq_factor=2.0)),
        "with other numbers than .*low_freq_factor=1.0",
    ),
    "other training length": (replace(GQA, rope_scaling=RopeScaling("llama3", 8.0, 4096)), "original_max_seq_len=8192"),
}


@pytest.mark.parametrize("case", HOLES)
def test_what_params_cannot_say_is_not_written(tmp_path, case):
    config, expected = HOLES[case]
    with pytest.raises(CheckpointError, match=f"{expected}.* write the Hugging Face format instead"):
        save_model(Llama(config), tmp_path / "model", format="meta")
    assert not list(tmp_path.iterdir())


def test_16_heads_for_8(tmp_path):
    """Meta's 405B for 16 GPUs stores each key/value head twice and says so in n_kv_heads; that is how it is read."""
    config = LlamaConfig(64, 32, 1, 4, 4, 8, 96)
    theirs = random_hf(replace(config, n_kv_heads=2))
    weights = hf_weights(theirs)
    for name in ("k_proj", "v_proj"):
        key = f"model.layers.0.self_attn.{name}.weight"
        weights[key] = weights[key].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    params = {"vocab_size": 64, "multiple_of": 32, "n_kv_heads": 4}
    ours = load_model(write_meta(tmp_path, theirs.config, weights, params, n_shards=4))
    assert ours.config.n_kv_heads == 4
    with torch.no_grad():
        assert_same("logits", ours(random_tokens(config)), theirs(random_tokens(config)).logits)

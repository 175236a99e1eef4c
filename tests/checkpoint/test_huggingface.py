"""Hugging Face folders: we read what transformers writes, it reads what we write, and we read that back bit for bit."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from checkpoint_files import memory_of_loading
from reference import CASES, GQA, assert_same, hf_config, random_hf, random_pair, random_tokens, scaled
from safetensors.torch import load_file, save_file

import llama_from_scratch.checkpoint.huggingface.write as huggingface
from llama_from_scratch import Llama, LlamaConfig, RopeScaling
from llama_from_scratch.checkpoint import describe, load_config, load_model, save_model
from llama_from_scratch.files.errors import CheckpointError


def as_stored(config: LlamaConfig) -> LlamaConfig:
    """The config with a max_seq_len that fits its scaling: a config.json of a dynamic one can hold no other."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "linear":
        return config
    return replace(config, max_seq_len=int(scaling.factor * scaling.original_max_seq_len))


def change_config(folder, **changes):
    """Edit config.json; None removes a key."""
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@torch.no_grad()
def assert_same_logits(ours, theirs):
    tokens = random_tokens(ours.config)
    assert_same("logits", ours(tokens), theirs(tokens).logits)


def assert_same_bits(ours: Llama, others: Llama):
    assert ours.config == others.config
    mine, yours = ours.state_dict(), others.state_dict()
    assert mine.keys() == yours.keys()
    for name, weight in mine.items():
        assert weight.dtype == yours[name].dtype and torch.equal(weight, yours[name]), name


def load_theirs(folder):
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(folder, dtype=torch.float32, attn_implementation="eager").eval()


# Theirs to ours


@pytest.mark.parametrize("case", CASES)
def test_what_transformers_saves_loads(tmp_path, case):
    theirs = random_hf(CASES[case])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    expected = CASES[case]
    max_seq_len = theirs.config.max_position_embeddings
    if expected.rope_scaling and expected.rope_scaling.kind == "dynamic":
        max_seq_len = int(max_seq_len * expected.rope_scaling.factor)
    assert ours.config == load_config(tmp_path) == replace(expected, max_seq_len=max_seq_len)
    assert_same_logits(ours, theirs)


def test_shards_of_transformers(tmp_path):
    theirs = random_hf(GQA)
    theirs.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_logits(load_model(tmp_path), theirs)


def test_one_file_beside_its_config(tmp_path):
    theirs = random_hf(GQA)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "best.safetensors")
    assert_same_logits(load_model(tmp_path / "best.safetensors"), theirs)
    assert load_config(tmp_path / "best.safetensors") == GQA


@pytest.mark.parametrize(
    ("dtype", "stored_type"), [(torch.float32, "F32"), (torch.bfloat16, "BF16"), (torch.float16, "F16")]
)
def test_types(tmp_path, dtype, stored_type):
    theirs = random_hf(GQA).to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path, dtype=dtype)
    assert torch.equal(ours.blocks[1].feed_forward.up_proj.weight, theirs.model.layers[1].mlp.up_proj.weight)
    assert {tensor.stored_type for tensor in describe(tmp_path).tensors} == {stored_type}
    assert describe(tmp_path).n_bytes == describe(tmp_path).memory(dtype)
    assert_same_logits(load_model(tmp_path), load_theirs(tmp_path))


def test_tied_with_a_stored_head(tmp_path):
    """Some writers store the shared table under both names."""
    theirs = random_hf(replace(GQA, tie_embeddings=True))
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = load_model(tmp_path)
    assert ours.lm_head is None
    assert_same_logits(ours, theirs)


def test_stored_frequencies_are_ignored(tmp_path):
    theirs = random_hf(GQA)
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same_logits(load_model(tmp_path), theirs)


SPELLINGS = {
    "default": (None, [{}, {"rope_type": "default"}]),
    "linear": (RopeScaling("linear", 4.0), [{"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4}]),
    "dynamic": (RopeScaling("dynamic", 2.0, 512), [{"type": "dynamic", "factor": 2.0}]),
    "llama3": (
        RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0),
        [
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
        ],
    ),
    "yarn": (
        RopeScaling("yarn", 4.0, 64),
        [{k: "yarn", "factor": 4.0, "original_max_position_embeddings": 64} for k in ("type", "rope_type")],
    ),
}


@pytest.mark.parametrize("kind", SPELLINGS)
@pytest.mark.parametrize("version", [4, 5])
def test_every_spelling_of_rope(tmp_path, kind, version):
    """Version 4: rope_theta beside rope_scaling. Version 5: rope_parameters. We read them as transformers does."""
    expected, sections = SPELLINGS[kind]
    for section in sections:
        plain = replace(GQA, max_seq_len=512)
        theirs = random_hf(plain)
        theirs.save_pretrained(tmp_path)
        if version == 4:
            change_config(tmp_path, rope_parameters=None, rope_theta=3e4, rope_scaling=section or None)
        else:
            change_config(tmp_path, rope_parameters={"rope_theta": 3e4, **section})
        ours = load_model(tmp_path)
        assert ours.config.rope_scaling == expected
        assert ours.config.rope_theta == 3e4
        assert ours.config.max_seq_len == (1024 if kind == "dynamic" else 512)
        assert_same_logits(ours, load_theirs(tmp_path))


def test_missing_keys_mean_what_they_mean_to_transformers(tmp_path):
    theirs = random_hf(replace(GQA, n_kv_heads=8))
    theirs.save_pretrained(tmp_path)
    for key in (
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
        "hidden_act",
    ):
        change_config(tmp_path, **{key: None})
    change_config(tmp_path, max_position_embeddings=None)
    config = load_config(tmp_path)
    assert (config.n_kv_heads, config.head_dim, config.norm_eps) == (8, 16, 1e-6)
    assert (config.rope_theta, config.max_seq_len, config.tie_embeddings) == (10000.0, 2048, False)
    assert_same_logits(load_model(tmp_path), load_theirs(tmp_path))


@pytest.mark.parametrize("mscale", [(1.0, 0.707), (0.707, 0.707), (1.0, None)])
def test_mscale_of_yarn(tmp_path, mscale):
    theirs = random_hf(scaled("yarn", 4.0))
    theirs.save_pretrained(tmp_path)
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
    change_config(tmp_path, rope_parameters=rope | {"mscale": mscale[0], "mscale_all_dim": mscale[1]})
    assert_same_logits(load_model(tmp_path), load_theirs(tmp_path))


BIASED = {"attention": (True, False), "feed-forward": (False, True), "both": (True, True)}


@pytest.mark.parametrize("case", BIASED)
def test_biases(tmp_path, case):
    """From theirs to ours and back, with biases that matter; ours, loaded by them, computes the same."""
    attention_bias, mlp_bias = BIASED[case]
    config = hf_config(GQA)
    config.attention_bias, config.mlp_bias = attention_bias, mlp_bias
    theirs = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.uniform_(0.25, 1.75) if weight.dim() == 1 else weight.normal_(0.0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    assert (ours.config.attention_bias, ours.config.ffn_bias) == (attention_bias, mlp_bias)
    assert ours.config.n_params == sum(weight.numel() for weight in theirs.parameters())
    assert_same_logits(ours, theirs)
    save_model(ours, tmp_path / "ours", max_shard_bytes=300_000)
    assert_same_bits(load_model(tmp_path / "ours"), ours)
    assert_same_logits(ours, load_theirs(tmp_path / "ours"))


# Ours to theirs


@pytest.mark.parametrize("max_shard_bytes", [5 * 10**9, 300_000], ids=["whole", "shards"])
@pytest.mark.parametrize("case", CASES)
def test_what_we_save_loads_in_transformers(tmp_path, case, max_shard_bytes):
    ours, theirs = random_pair(as_stored(CASES[case]))
    save_model(ours, tmp_path, max_shard_bytes=max_shard_bytes)
    assert_same_logits(ours, load_theirs(tmp_path))
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bitwise(tmp_path, case, dtype):
    ours = random_pair(as_stored(CASES[case]))[0].to(dtype)
    save_model(ours, tmp_path / "whole")
    save_model(ours, tmp_path / "shards", max_shard_bytes=200_000)
    for folder in ("whole", "shards"):
        assert_same_bits(load_model(tmp_path / folder, dtype=dtype), ours)
    sizes = [f.stat().st_size for f in (tmp_path / "shards").glob("*.safetensors")]
    assert len(sizes) > 2 and max(sizes) < 210_000  # numbers, and a header that names them


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path):
    ours = Llama(GQA)
    save_model(ours, tmp_path, max_shard_bytes=1)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == len(list(ours.parameters()))
    assert_same_bits(load_model(tmp_path), ours)


def test_an_existing_model_is_kept_unless_told_otherwise(tmp_path):
    old, new = Llama(GQA), Llama(replace(GQA, n_layers=1))
    save_model(old, tmp_path)
    with pytest.raises(CheckpointError, match="already holds a model .config.json.; pass overwrite=True"):
        save_model(new, tmp_path)
    assert_same_bits(load_model(tmp_path), old)
    save_model(new, tmp_path, overwrite=True)
    assert_same_bits(load_model(tmp_path), new)


def test_overwriting_leaves_nothing_of_the_old_model(tmp_path):
    """A stale model.safetensors would be read instead of new shards, a stale index after them."""
    first, second, third = (Llama(GQA) for _ in range(3))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(first, tmp_path)
    save_model(second, tmp_path, overwrite=True, max_shard_bytes=300_000)
    assert_same_bits(load_model(tmp_path), second)
    assert_same_bits(load_model(tmp_path), load_model(tmp_path))
    save_model(third, tmp_path, overwrite=True)
    assert_same_bits(load_model(tmp_path), third)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_save_that_fails_half_way_changes_nothing(tmp_path, monkeypatch):
    old = Llama(GQA)
    save_model(old, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    written = 0

    def full_disk(tensors, path, metadata):
        nonlocal written
        written += 1
        if written == 3:
            path.write_bytes(b"half a file")
            raise OSError("No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(huggingface, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="cannot be written .No space left.*choose another folder"):
        save_model(Llama(GQA), tmp_path, overwrite=True, max_shard_bytes=300_000)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_a_new_folder_that_cannot_be_filled_is_not_left_behind(tmp_path):
    """With the system's own error, here in a process that may write 100 kB to a file: a full disk looks the same."""
    code = """
import resource, sys
from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import save_model
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_model(Llama(LlamaConfig(1000, 64, 2, 2, 1, 32, 128)), sys.argv[1])
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], capture_output=True, text=True)
    assert "WriteError" in run.stderr and "new cannot be written (" in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_model_can_be_saved_over_the_file_it_was_loaded_from(tmp_path):
    """Its weights are still pages of that file; they must not change under it."""
    save_model(Llama(GQA), tmp_path)
    ours = load_model(tmp_path)
    with torch.no_grad():
        ours.norm.weight.mul_(2)
    expected = {name: weight.clone() for name, weight in ours.state_dict().items()}
    save_model(ours, tmp_path, overwrite=True)
    for model in (ours, load_model(tmp_path)):
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, expected[name]), name


def test_dynamic_scaling_needs_the_length_that_config_json_implies(tmp_path):
    config = replace(scaled("dynamic", 2.0, 32), max_seq_len=100)
    with pytest.raises(CheckpointError, match="max_seq_len is 100.*here 64"):
        save_model(Llama(config), tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(CheckpointError, match="is a file; give the name of a folder"):
        save_model(Llama(GQA), tmp_path / "model")


# Memory


def test_loaded_weights_can_be_trained_and_the_file_stays_as_it_was(tmp_path):
    save_model(Llama(GQA), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    ours = load_model(tmp_path)
    optimiser = torch.optim.SGD(ours.parameters(), lr=1.0)
    old = {name: weight.detach().clone() for name, weight in ours.named_parameters()}
    ours(random_tokens(GQA)).square().mean().backward()
    optimiser.step()
    for name, weight in ours.named_parameters():
        assert weight.is_leaf and weight.requires_grad
        assert not torch.equal(weight, old[name]), name
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
def test_loading_takes_the_memory_of_one_model(tmp_path):
    """In a process of its own. The parameters are pages of the file: nothing is on top of it but 24 MiB in passing."""
    save_model(Llama(replace(GQA, dim=512, vocab_size=40_000, tie_embeddings=True)), tmp_path)
    taken, parameters, _ = memory_of_loading(tmp_path)
    assert parameters > 76 * 2**20
    assert taken < parameters + 24 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
@pytest.mark.parametrize("format", ["huggingface", "meta"])
def test_loading_in_another_type_takes_the_memory_of_that_type(tmp_path, format):
    """The pages of the file that were read count as well; the system takes them back when it needs them."""
    config = replace(GQA, dim=512, head_dim=64, vocab_size=40_000, tie_embeddings=True)
    save_model(Llama(config), tmp_path / "model", format=format)
    taken, parameters, stored = memory_of_loading(tmp_path / "model", "bfloat16")
    assert parameters > 38 * 2**20
    assert parameters < taken < parameters + stored + 24 * 2**20

"""Every feature from every format to every other: it arrives exactly, or the format that cannot hold it says so.

A cell is read x write x feature. The table in README.md shows the same holes.
"""

from dataclasses import replace

import pytest
import torch
from places import ROOT

from llama_from_scratch import Llama, LlamaConfig, RopeScaling
from llama_from_scratch.checkpoint import FORMATS, describe, load_model, save_model
from llama_from_scratch.convert import convert
from llama_from_scratch.files.errors import CheckpointError

GQA = LlamaConfig(
    vocab_size=96, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=160, rope_theta=1e5, norm_eps=1e-6
)


def scaled(kind, factor, original=None, max_seq_len=2048):
    return replace(GQA, rope_scaling=RopeScaling(kind, factor, original), max_seq_len=max_seq_len)


FEATURES = {
    "MHA": replace(GQA, n_kv_heads=4),
    "GQA": GQA,
    "MQA": replace(GQA, n_kv_heads=1),
    "tied embeddings": replace(GQA, tie_embeddings=True),
    "wide heads": replace(GQA, head_dim=24),
    "biases": replace(GQA, attention_bias=True, ffn_bias=True),
    "linear scaling": scaled("linear", 4.0),
    "llama3 scaling x8": scaled("llama3", 8.0, 8192),
    "llama3 scaling x32": scaled("llama3", 32.0, 8192, 131072),
    "YaRN scaling": scaled("yarn", 4.0, 32),
    "dynamic scaling": scaled("dynamic", 2.0, 32, max_seq_len=64),
}
HOLES = {
    ("meta", "wide heads"): "a Meta checkpoint cannot say heads that are 24 wide",
    ("meta", "biases"): "a Meta checkpoint cannot say biases",
    ("meta", "linear scaling"): "a Meta checkpoint cannot say RoPE scaling by another rule than llama3",
    ("meta", "YaRN scaling"): "a Meta checkpoint cannot say RoPE scaling by another rule than llama3",
    ("meta", "dynamic scaling"): "a Meta checkpoint cannot say RoPE scaling by another rule than llama3",
    ("gguf", "dynamic scaling"): "a GGUF file cannot say that RoPE scaling is 'dynamic'",
}


def random_model(config):
    """Every weight matters: norms far from one, biases far from zero."""
    model = Llama(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.uniform_(0.25, 1.75)
            else:
                weight.normal_(0.0, 0.2)
    return model


def place(folder, format):
    return folder / ("model.gguf" if format == "gguf" else f"model-{format}")


def assert_same(model, found):
    assert found.config == model.config
    mine, yours = model.state_dict(), found.state_dict()
    assert mine.keys() == yours.keys()
    for name, weight in mine.items():
        assert torch.equal(weight, yours[name]), name
    tokens = torch.randint(model.config.vocab_size, (2, 64))
    with torch.no_grad():
        assert torch.equal(model(tokens), found(tokens))


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("read", FORMATS)
def test_cell(tmp_path, read, write, feature):
    model = random_model(FEATURES[feature])
    source, target = place(tmp_path / "source", read), place(tmp_path / "target", write)
    source.parent.mkdir()
    target.parent.mkdir()
    if (read, feature) in HOLES:
        with pytest.raises(CheckpointError, match=HOLES[read, feature]):
            save_model(model, source, format=read)
        assert not list(source.parent.iterdir())
        return
    save_model(model, source, format=read)
    assert_same(model, load_model(source))
    if (write, feature) in HOLES:
        with pytest.raises(CheckpointError, match=HOLES[write, feature]):
            convert(source, target, write)
        assert not list(target.parent.iterdir())
        return
    convert(source, target, write)
    assert_same(model, load_model(target))


@pytest.mark.parametrize("stored_type", ["F16", "BF16"])
@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("read", FORMATS)
def test_half_precision_is_rounded_once(tmp_path, read, write, stored_type):
    """To the type asked for, and then never again. GGUF keeps norms in F32, so they are rounded on loading."""
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[stored_type]
    model = random_model(GQA)
    save_model(model, place(tmp_path, read), format=read)
    (tmp_path / "target").mkdir()
    convert(place(tmp_path, read), place(tmp_path / "target", write), write, stored_type)
    expected = random_model(GQA)
    expected.load_state_dict(model.state_dict())
    assert_same(expected.to(dtype), load_model(place(tmp_path / "target", write), dtype=dtype))
    kinds = {tensor.stored_type for tensor in describe(place(tmp_path / "target", write)).tensors}
    assert kinds == ({stored_type, "F32"} if write == "gguf" else {stored_type})


def test_readme_shows_this_table():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| what a model can have |"))
    assert [cell.strip() for cell in lines[start].split("|")[2:-1]] == ["Hugging Face", "Meta", "GGUF"]
    shown = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        feature, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        shown |= {(format, feature): cell for format, cell in zip(FORMATS, cells, strict=True)}
    assert shown.keys() == {(format, feature) for format in FORMATS for feature in FEATURES}
    assert {cell for cell, answer in shown.items() if answer != "yes"} == HOLES.keys()

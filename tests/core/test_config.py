"""Presets against the published numbers, and configs that cannot be."""

import json
from dataclasses import asdict, replace
from math import inf, nan

import pytest
import torch
from places import DATA
from reference import GQA, hf_config
from transformers import LlamaForCausalLM

from llama_from_scratch import PRESETS, Llama, LlamaConfig, RopeScaling

PUBLISHED = {m["name"]: m for m in json.loads((DATA / "llama_configs.json").read_text())["models"]}


def test_every_published_model_has_a_preset() -> None:
    assert list(PRESETS) == [*PUBLISHED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_has_the_published_numbers(name: str) -> None:
    published = {key: value for key, value in PUBLISHED[name].items() if key not in ("name", "hf_repo", "n_params")}
    config = LlamaConfig.preset(name)
    mine = asdict(config)
    if scaling := config.rope_scaling:
        mine["rope_scaling"] = {
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    assert mine == published | {"attention_bias": False, "ffn_bias": False}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_has_the_published_number_of_parameters(name: str) -> None:
    """The formula, our model and that of transformers, the last two built without memory for their weights."""
    config = LlamaConfig.preset(name)
    with torch.device("meta"):
        ours, theirs = Llama(config), LlamaForCausalLM(hf_config(config))
    for count in (config.n_params, *(sum(p.numel() for p in model.parameters()) for model in (ours, theirs))):
        assert count == PUBLISHED[name]["n_params"]


def test_a_meta_model_runs_without_numbers() -> None:
    """Shapes of the largest model there is."""
    with torch.device("meta"):
        model = Llama(replace(PRESETS["Llama-3.1-405B"], n_layers=2)).to("meta")  # the frequencies too
        logits = model(torch.zeros(1, 8, dtype=torch.long))
    assert logits.shape == (1, 8, 128256)


def test_group_size() -> None:
    assert [LlamaConfig.preset(name).group_size for name in ("Llama-2-7B", "Llama-3.1-8B", "SmolLM2-135M")] == [1, 4, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 7, "n_kv_heads": 2}, "n_heads is 7 and n_kv_heads is 2; n_heads must be a multiple"),
        ({"n_heads": 2, "n_kv_heads": 4}, "n_heads is 2 and n_kv_heads is 4; n_heads must be a multiple"),
        ({"n_kv_heads": 0}, "n_kv_heads is 0; it must be a whole number of at least 1"),
        ({"head_dim": 15}, "head_dim is 15; it must be even"),
        ({"dim": -128}, "dim is -128; it must be a whole number"),
        ({"dim": 128.0}, "dim is 128.0; it must be a whole number"),
        ({"n_layers": "3"}, "n_layers is '3'; it must be a whole number"),
        ({"n_layers": True}, "n_layers is True; it must be a whole number"),
        ({"max_seq_len": 0}, "max_seq_len is 0"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0; it must be a finite number above 0"),
        ({"norm_eps": nan}, "norm_eps is nan"),
        ({"rope_theta": inf}, "rope_theta is inf"),
        ({"rope_theta": -1e4}, "rope_theta is -10000.0"),
        ({"rope_theta": True}, "rope_theta is True"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "it must be a RopeScaling, or None"),
        ({"tie_embeddings": "no"}, "tie_embeddings is 'no'; it must be True or False"),
    ],
)
def test_impossible_config(change: dict, message: str, as_users_run_it) -> None:
    with pytest.raises(ValueError) as error:
        replace(GQA, **change)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "longrope"}, "rope_scaling kind is 'longrope'; known kinds are linear, dynamic, yarn, llama3"),
        ({"factor": 0.5}, "rope_scaling factor is 0.5; it must be a finite number of at least 1"),
        ({"factor": nan}, "rope_scaling factor is nan"),
        ({"factor": "8"}, "rope_scaling factor is '8'"),
        ({"original_max_seq_len": None}, "'llama3' needs original_max_seq_len"),
        ({"original_max_seq_len": 0}, "'llama3' needs original_max_seq_len"),
        ({"original_max_seq_len": 8192.0}, "'llama3' needs original_max_seq_len"),
        ({"high_freq_factor": None}, "rope_scaling high_freq_factor is None; it must be a finite number above 0"),
        ({"beta_slow": -1.0}, "rope_scaling beta_slow is -1.0"),
        ({"low_freq_factor": 4.0}, "0 < low_freq_factor < high_freq_factor"),
        ({"beta_fast": 0.5}, "0 < beta_slow < beta_fast"),
        ({"attention_factor": 0.0}, "attention_factor is 0.0"),
    ],
)
def test_impossible_scaling(fields: dict, message: str, as_users_run_it) -> None:
    with pytest.raises(ValueError) as error:
        RopeScaling(**{"kind": "llama3", "factor": 8.0, "original_max_seq_len": 8192} | fields)
    assert message in str(error.value)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="no preset is called 'Llama-4'; there are: Llama-1-7B, "):
        LlamaConfig.preset("Llama-4")


def test_a_config_cannot_be_changed_in_place() -> None:
    """A model and its cache rely on the same numbers."""
    with pytest.raises(AttributeError):
        GQA.n_heads = 4

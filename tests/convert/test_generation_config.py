"""What `convert` carries over of what a config of ours does not hold: the ids at which generation stops, and others."""

import json

import pytest

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import save_model
from llama_from_scratch.convert import convert
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe

CONFIG = LlamaConfig(vocab_size=300, dim=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8, ffn_dim=16)
TOK = train_bpe("the cat sat on the mat " * 9, 266, special=("<|a|>", "<|b|>", "<|c|>", "<|d|>"))


@pytest.fixture
def source(tmp_path):
    """A Hugging Face folder whose config.json alone says where a text ends."""
    bare = Tokenizer(TOK.pieces, TOK.merges, TOK.special, TOK.patterns)
    save_model(Llama(CONFIG), tmp_path / "source", tokenizer=bare)
    return tmp_path / "source"


def edit(file, **changes):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


@pytest.mark.parametrize("eos", [263, [263, 264], [263, 264, 265]])
@pytest.mark.parametrize("format", ["huggingface", "meta", "gguf"])
def test_convert_carries_over_ids_that_only_config_json_says(source, format, eos):
    edit(source / "config.json", eos_token_id=eos, pad_token_id=262)
    before = load_tokenizer(source)
    assert before.stop_ids == set(eos if isinstance(eos, list) else [eos]) and before.pad_id == 262
    target = source.parent / ("new.gguf" if format == "gguf" else "new")
    remarks = convert(source, target, format)
    after = load_tokenizer(target)
    assert (after.stop_ids, after.eos_id, after.pad_id) == (before.stop_ids, before.eos_id, before.pad_id)
    assert len(remarks) == (format == "meta")
    if format == "huggingface":
        transformers = pytest.importorskip("transformers")
        assert transformers.GenerationConfig.from_pretrained(target).eos_token_id == eos


def test_convert_back_from_gguf_writes_generation_config_json(source):
    edit(source / "config.json", eos_token_id=[263, 264])
    convert(source, source.parent / "new.gguf")
    convert(source.parent / "new.gguf", source.parent / "back")
    content = json.loads((source.parent / "back" / "generation_config.json").read_text())
    assert content == {"eos_token_id": [263, 264]}


def test_convert_says_which_ids_and_settings_gguf_has_no_room_for(source):
    edit(source / "generation_config.json", eos_token_id=[262, 263, 264, 265], temperature=0.6, top_p=0.9)
    remarks = convert(source, source.parent / "new.gguf")
    assert remarks == [
        "stop ids that stay behind, since GGUF has room for three: 265",
        "settings of generation_config.json that stay behind: temperature, top_p",
    ]
    assert load_tokenizer(source.parent / "new.gguf").stop_ids == {262, 263, 264}


def test_convert_keeps_settings_and_adds_ids_from_folder_to_folder(source):
    edit(source / "generation_config.json", temperature=0.6)
    edit(source / "config.json", eos_token_id=263)
    assert convert(source, source.parent / "new") == []
    content = json.loads((source.parent / "new" / "generation_config.json").read_text())
    assert content == {"temperature": 0.6, "eos_token_id": 263}


def test_convert_keeps_a_generation_config_as_it_is(source):
    raw = '{"eos_token_id":[263,264], "top_k":  5}'
    (source / "generation_config.json").write_text(raw)
    convert(source, source.parent / "new")
    assert (source.parent / "new" / "generation_config.json").read_text() == raw


def test_convert_keeps_added_tokens(source):
    config = {"pad_token": "<pad>", "added_tokens_decoder": {"266": {"content": "<think>", "special": False}}}
    edit(source / "tokenizer_config.json", **config)
    before = load_tokenizer(source)
    ids = before.encode("a<think>b<pad>", allow_special=True)
    assert {266, 267} < set(ids)
    for name in ("new", "new.gguf"):
        convert(source, source.parent / name)
        assert load_tokenizer(source.parent / name).encode("a<think>b<pad>", allow_special=True) == ids


def test_convert_keeps_named_tokens(source):
    edit(source / "tokenizer_config.json", unk_token="<|a|>", pad_token="<|b|>", sep_token="<|c|>")
    before = load_tokenizer(source).special_names
    assert {"unk_token": "<|a|>", "pad_token": "<|b|>", "sep_token": "<|c|>"}.items() <= before.items()
    load_tokenizer(source).save(source.parent / "saved")
    assert load_tokenizer(source.parent / "saved").special_names == before
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(source.parent / "saved")
    assert (theirs.unk_token, theirs.pad_token, theirs.sep_token) == ("<|a|>", "<|b|>", "<|c|>")


def test_convert_says_which_fields_of_a_gguf_file_stay_behind(source):
    gguf = pytest.importorskip("gguf")
    convert(source, source.parent / "plain.gguf")
    assert convert(source.parent / "plain.gguf", source.parent / "folder") == []
    writer = gguf.GGUFWriter(source.parent / "licensed.gguf", "llama")
    reader = gguf.GGUFReader(source.parent / "plain.gguf")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(field.name, field.contents(), field.types[0], (field.types[1:] or [None])[0])
    writer.add_license("apache-2.0")
    writer.add_author("us")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    remarks = convert(source.parent / "licensed.gguf", source.parent / "back")
    assert remarks == ["fields of the GGUF file that stay behind: general.author, general.license"]

"""What the files of a model say of its tokens: over all combinations of who says what, as transformers reads it."""

import json
from itertools import product

import pytest

from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.files.model_files import read_model_files
from llama_from_scratch.tokenizer import load_tokenizer, train_bpe

TOK = train_bpe("the cat sat on the mat " * 9, 264, special=("<|a|>", "<|b|>"))
EOS, N = "<|b|>", 264


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def write(folder, **files):
    """A folder with TOK's tokenizer.json, and these JSON files (None: not that file)."""
    TOK.save(folder)
    for name in ("generation_config", "tokenizer_config"):
        (folder / f"{name}.json").unlink(missing_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def added(text, special):
    return {"content": text, "special": special, "lstrip": False, "rstrip": False, "single_word": False}


def combinations():
    eos = [{}, {"eos_token": EOS}, {"eos_token": added(EOS, True) | {"__type": "AddedToken"}}, {"eos_token": None}]
    pad = [{}, {"pad_token": "<pad>"}]
    decoder = [{}, {"added_tokens_decoder": {"264": added("<think>", False), "265": added("<x>", True)}}]
    extra = [{}, {"additional_special_tokens": ["<y>", "<|a|>"], "image_token": "<img>"}]
    maps = [None, {"eos_token": "<|a|>", "pad_token": {"content": "<pad2>", "lstrip": True}}]
    lists = [None, {"<q>": 265, "<pad>": 264}]
    for e, p, d, x, m, a in product(eos, pad, decoder, extra, maps, lists):
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | e | p | d | x
        yield {"tokenizer_config": config, "special_tokens_map": m, "added_tokens": a}


def test_names_and_added_tokens_are_those_of_transformers(transformers, tmp_path):
    names = ("eos", "pad", "bos")
    text = "a <pad> b<think>c <x><q> <pad2>d<y><img><|a|>"
    seen = set()
    for i, files in enumerate(combinations()):
        folder = write(tmp_path / str(i), **files)
        theirs, ours = transformers.PreTrainedTokenizerFast.from_pretrained(folder), load_tokenizer(folder)
        found = [getattr(ours, f"{name}_id") for name in names]
        assert found == [getattr(theirs, f"{name}_token_id") for name in names], files
        assert len(ours) == len(theirs), files
        assert ours.encode(text, allow_special=True) == theirs(text)["input_ids"], files
        assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"], files
        seen.add((*found, len(ours)))
    assert len(seen) > 20  # combinations that differ


@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "pad_token_id"])
def test_ids_are_those_of_transformers(transformers, tmp_path, key):
    """With one exception: transformers takes no id from config.json once generation_config.json exists."""
    values = ["absent", None, 262, 263] + [[262, 263], [263]] * (key == "eos_token_id")
    for i, (config, generation) in enumerate(product(values, ["no file", *values])):
        said = [None if value == "no file" else {key: value} for value in (config, generation)]
        said = [None if each is None else {} if each[key] == "absent" else each for each in said]
        folder = write(tmp_path / str(i), config={"model_type": "llama"} | said[0], generation_config=said[1])
        arguments = {} if said[1] is not None else {"config_file_name": "config.json", "_from_model_config": True}
        theirs = getattr(transformers.GenerationConfig.from_pretrained(folder, **arguments), key)
        if theirs is None and said[1] is not None:
            theirs = said[0].get(key)
        theirs = theirs if isinstance(theirs, list) else [] if theirs is None else [theirs]
        found = read_model_files(folder)
        ours = {"eos_token_id": found.eos_ids, "bos_token_id": found.bos_id, "pad_token_id": found.pad_id}[key]
        assert (list(ours) if isinstance(ours, tuple) else [] if ours is None else [ours]) == theirs
        if key == "eos_token_id":
            assert load_tokenizer(folder).stop_ids == set(theirs)


def test_templates_are_those_of_transformers(transformers, tmp_path):
    several = [{"name": "tools", "template": "t"}, {"name": "rag", "template": "r"}]
    in_config = [None, "c", [*several, {"name": "default", "template": "d"}], several, {"default": "o", "x": "y"}]
    for i, (file, more, config) in enumerate(product([None, "f{{ 1 }}\n"], [None, "m"], in_config)):
        folder = write(tmp_path / str(i), tokenizer_config={"chat_template": config} if config else {})
        if file:
            (folder / "chat_template.jinja").write_text(file)
        if more:
            (folder / "additional_chat_templates").mkdir()
            (folder / "additional_chat_templates" / "more.jinja").write_text(more)
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder).chat_template
        ours = load_tokenizer(folder)
        assert ours.templates == ({"default": theirs} if isinstance(theirs, str) else theirs or {})
        if "default" not in ours.templates:
            refusal = "no chat template, and its vocabulary does not show"
            if ours.templates:
                refusal = "called (tools, rag|more) and none called default; choose one"
            with pytest.raises(ValueError, match=refusal):
                ours.chat([{"role": "user", "content": "x"}])
        for name, template in ours.templates.items():
            assert template[0] in ours.decode(ours.chat([{"role": "user", "content": "x"}], format=name))


def test_chat_template_json_counts_where_nothing_else_says_one(tmp_path):
    """A file of processors in older versions of transformers, whose tokenizers do not read it."""
    folder = write(tmp_path, chat_template={"chat_template": "p"})
    assert load_tokenizer(folder).chat_template == "p"
    (folder / "tokenizer_config.json").write_text('{"chat_template": "c"}')
    assert load_tokenizer(folder).chat_template == "c"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("generation_config", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'; it must be a token id or a list"),
        ("generation_config", {"eos_token_id": [1, True]}, "it must be a token id or a list"),
        ("config", {"pad_token_id": 1.5}, "pad_token_id is 1.5"),
        ("config", {"bos_token_id": [1, 2]}, "bos_token_id is a list of 2; give one id"),
        ("tokenizer_config", {"eos_token": 5}, "eos_token is 5"),
        ("tokenizer_config", {"eos_token": {"text": "a"}}, "'content' is missing"),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}, "does not say its tokens as"),
        ("tokenizer_config", {"added_tokens_decoder": {"264": {"content": "a", "lstrip": 1}}}, "lstrip of an added"),
        ("tokenizer_config", {"chat_template": 5}, "the chat_template must be a text"),
        ("special_tokens_map", {"pad_token": []}, "pad_token is"),
        ("added_tokens", {"<x>": "264"}, "has the id '264'"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, file, content, message):
    with pytest.raises(CheckpointError, match=message):
        read_model_files(write(tmp_path, **{file: content}))


def test_default_ids_of_a_config_are_not_taken_for_special_tokens(tmp_path):
    """config.json of a byte-level model may say transformers' defaults, 1 and 2, which are ordinary tokens there. They
    stop generation, as in transformers, but do not stand for a text's bos and eos."""
    tok = load_tokenizer(write(tmp_path, config={"bos_token_id": 1, "eos_token_id": 2}))
    assert (tok.bos_id, tok.eos_id, tok.stop_ids) == (None, None, {2})
    tok = load_tokenizer(write(tmp_path, config={"eos_token_id": 263}))
    assert (tok.eos_id, tok.stop_ids) == (263, {263})

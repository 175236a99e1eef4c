"""Writing a tokenizer as a folder of the Hugging Face kind."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files.atomic import staging_folder
from ...files.model_files import GENERATION_CONFIG, TEMPLATE, TOKENIZER_CONFIG, AddedToken
from ..byte_table import spell

if TYPE_CHECKING:
    from ..base import Tokenizer

TOKENIZER = "tokenizer.json"


def save_hugging_face_tokenizer(tokenizer: "Tokenizer", folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, generation_config.json with the ids at which generation stops, and
    chat_template.jinja if there is one; older ones are replaced, or removed.

    All are first written completely beside their places: if the disk is full, nothing has changed.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if `folder` is a file, or tokenizer.json cannot say what this tokenizer does.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    files = {TOKENIZER: _json(tokenizer_json(tokenizer)), TOKENIZER_CONFIG: _json(_config(tokenizer))}
    if generation := generation_config(tokenizer):
        files[GENERATION_CONFIG] = _json(generation)
    if tokenizer.templates.keys() == {"default"}:
        files[TEMPLATE] = tokenizer.templates["default"]
    folder.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder / TOKENIZER) as staging:
        for name, content in files.items():
            (staging / name).write_text(content, encoding="utf-8", newline="")
        for name in files:
            os.replace(staging / name, folder / name)
    for name in {TEMPLATE, GENERATION_CONFIG, "special_tokens_map.json", "added_tokens.json"} - files.keys():
        (folder / name).unlink(missing_ok=True)  # another tokenizer's: it would be taken for this one's


def generation_config(tokenizer: "Tokenizer") -> dict[str, Any]:
    """What generation_config.json says of tokens, as transformers reads it: one id, or several in a list."""
    stop = sorted(tokenizer.stop_ids)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": stop[0] if len(stop) == 1 else stop or None,
        "pad_token_id": tokenizer.pad_id,
    }
    return {key: value for key, value in ids.items() if value is not None}


def vocabulary(tokenizer: "Tokenizer") -> list[str]:
    """Each token as files spell it, by id: bytes as visible characters, special tokens as they are.

    Raises:
        ValueError: if two are spelled alike.
    """
    ids: dict[str, int] = {}
    names = {token: name for name, token in tokenizer.special.items()}
    names |= {token.id: name for name, token in tokenizer.added.items()}
    names |= {i: f"[PAD{i}]" for i, piece in enumerate(tokenizer.pieces) if not piece}  # unused, as llama.cpp says it
    vocab = [names[i] if i in names else spell(piece) for i, piece in enumerate(tokenizer.pieces)]
    for i, token in enumerate(vocab):
        if (first := ids.setdefault(token, i)) != i:
            raise ValueError(f"the tokens {first} and {i} are both spelled {token!r}, and files tell tokens by that")
    return vocab


def ranked_merges(tokenizer: "Tokenizer", vocab: list[str]) -> list[tuple[str, str]]:
    """The pairs that are joined, as files spell them, the one that was learned first in front."""
    by_rank = sorted(tokenizer.merges, key=lambda pair: tokenizer.merges[pair][0])
    return [(vocab[left], vocab[right]) for left, right in by_rank]


def tokenizer_json(tokenizer: "Tokenizer") -> dict[str, Any]:
    """The content of tokenizer.json, as the library `tokenizers` reads it.

    Raises:
        ValueError: if it cannot say what this tokenizer does.
    """
    for name, token in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("pad", tokenizer.pad_id)):
        if token is not None and token not in tokenizer.special.values():
            raise ValueError(
                f"its {name} token, {token} {tokenizer.tokens[token]!r}, is no special token, and tokenizer.json must "
                "name one; make it a special token"
            )
    text: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    begin: list[dict[str, Any]] = []
    names: dict[str, Any] = {}
    if tokenizer.add_bos:
        bos = tokenizer.tokens[tokenizer.bos_id]
        begin = [{"SpecialToken": {"id": bos, "type_id": 0}}]
        names = {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}}
    plain = {name: AddedToken(name, i, special=True) for name, i in tokenizer.special.items()}
    added = sorted((plain | tokenizer.added).values(), key=lambda token: token.id)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token._asdict() for token in added],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": begin + text,
            "pair": begin + text + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": names,
        },
        **tokenizer.json_parts(),
    }


def byte_level_parts(tokenizer: "Tokenizer") -> dict[str, Any]:
    vocab = vocabulary(tokenizer)
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    cuts = [split | {"pattern": {"Regex": pattern}} for pattern in tokenizer.patterns]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole_first,
            "vocab": {token: i for i, token in enumerate(vocab)},
            "merges": ranked_merges(tokenizer, vocab),
        },
    }


def _config(tokenizer: "Tokenizer") -> dict[str, Any]:
    names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    if tokenizer.pad_id is not None:
        names["pad_token"] = tokenizer.pad_id
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,  # older versions of transformers would drop spaces
        **{name: None if i is None else tokenizer.tokens[i] for name, i in names.items()},
        **{name: text for name, text in tokenizer.other_names.items() if text in tokenizer.special},
    }
    if tokenizer.templates.keys() - {"default"}:  # a list is what all versions of transformers read
        config["chat_template"] = [{"name": name, "template": text} for name, text in tokenizer.templates.items()]
    return config


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

"""Added tokens: found as the library tokenizers finds them, whatever their options."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_text import MANY

from llama_from_scratch.files.model_files import AddedToken
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.formats.save import tokenizer_json
from llama_from_scratch.tokenizer.pieces import Kind, Piece
from llama_from_scratch.tokenizer.sentencepiece import SentencePieceTokenizer

tokenizers = pytest.importorskip("tokenizers")

CONTENTS = ["<think>", "</think>", "<th", "think", "a", " b", "<|end|>", "é"]
# Spaces of several kinds, word characters that Python's own \w and Rust's do not agree on, and parts of the tokens.
TEXTS = st.lists(
    st.sampled_from([*CONTENTS, " ", "  ", "\n", "\u00a0", "\x1c", "b", "1", "_", "²", "\u0301", "<", ">"]), max_size=12
).map("".join)
FLAGS = st.tuples(*[st.booleans()] * 5)
OPTIONS = st.lists(st.tuples(st.sampled_from(CONTENTS), FLAGS), max_size=5, unique_by=lambda pair: pair[0])


def byte_level() -> dict:
    return tokenizer_json(train_bpe("a thinker thinks of the cat, <think> and of 12 cats " * 3, 275))


def sentencepiece(prefix: str) -> dict:
    names = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    in_bytes = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]
    texts = ["▁a", "th", "in", "▁", "a", "b", "t", "h", "i", "n", "k", "<", ">", "/", "1", "_"]
    pieces = [Piece(text, -float(i), Kind.NORMAL) for i, text in enumerate(texts)]
    return tokenizer_json(SentencePieceTokenizer([*names, *in_bytes, *pieces], prefix=prefix, add_bos=False))


KINDS = {"byte level": byte_level()}
KINDS |= {prefix: sentencepiece(prefix) for prefix in ("always", "never", "if missing", "if missing at the start")}


def with_added(content: dict, options: list) -> dict:
    """tokenizer.json with more added tokens; those whose text is in the vocabulary have its id."""
    content = json.loads(json.dumps(content))
    ids, listed = content["model"]["vocab"], content["added_tokens"]
    n = len({*ids.values(), *(token["id"] for token in listed)})
    for text, (special, lstrip, rstrip, single_word, normalized) in options:
        token = ids.get(text, n)
        n += token == n
        flags: dict = {"lstrip": lstrip, "rstrip": rstrip, "single_word": single_word}
        # Special tokens are not part of the vocabulary of ordinary text, and are searched before it is normalized.
        special = special and token == n - 1
        listed.append(
            {"content": text, "id": token, "special": special, "normalized": normalized and not special} | flags
        )
    listed.sort(key=lambda token: token["id"])
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("added")


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(options=OPTIONS, text=TEXTS, allow_special=st.booleans())
def test_added_tokens_of_a_folder_give_the_ids_of_tokenizers(folder, kind, options, text, allow_special):
    content = with_added(KINDS[kind], options)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    theirs.encode_special_tokens = not allow_special
    ours = load_tokenizer(folder)
    assert ours.encode(text, allow_special) == theirs.encode(text, add_special_tokens=False).ids
    ours.save(folder / "again")
    again = load_tokenizer(folder / "again")
    assert again.encode(text, allow_special) == ours.encode(text, allow_special)


@pytest.mark.parametrize("option", ["lstrip", "rstrip", "single_word", "special"])
def test_each_option_of_an_added_token_changes_ids(option):
    """So that the test above would see an option that is not read."""
    tok = train_bpe("the cat sat on the mat " * 9, 262)
    text = "a <x>b <x> c"

    def ids(**options) -> list[int]:
        token = AddedToken("<x>", len(tok), **{"special": False} | options)
        special = tok.special | ({"<x>": len(tok)} if token.special else {})
        return Tokenizer([*tok.pieces, b"<x>"], tok.merges, special, tok.patterns, added=[token]).encode(text)

    assert ids(**{option: True}) != ids() == [*tok.encode("a "), 262, *tok.encode("b "), 262, *tok.encode(" c")]


def test_an_added_token_with_another_id_than_its_place_is_refused(folder):
    content = with_added(KINDS["byte level"], [("<think>", (False,) * 5)])
    content["added_tokens"][-1]["id"] += 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'<think>' is said to have the id 276, but its place is 275"):
        load_tokenizer(folder)


# --- GGUF ----------------------------------------------------------------------------------------------------------


def write_gguf(path, tok: Tokenizer, **changes):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    adders = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
    fields = tok.gguf_fields() | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    for key, value in fields.items():
        if value is not None:
            adders[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_gguf_types_user_defined_and_unused(tmp_path):
    """Type 4 is found in every text and is written out; type 5 is never found and gives no text, as in llama.cpp."""
    tok = train_bpe("the cat sat on the mat " * 9, 262)
    fields = tok.gguf_fields()
    n, added = len(tok), ["<think>", "[unused]", "<|x|>"]
    types = [*fields["tokenizer.ggml.token_type"], 4, 5, 3]
    tokens = [*fields["tokenizer.ggml.tokens"], *added]
    ours = load_tokenizer(write_gguf(tmp_path / "a.gguf", tok, tokens=tokens, token_type=types))
    assert ours.encode("a<think>b[unused]<|x|>") == [
        *tok.encode("a"),
        n,
        *tok.encode("b[unused]<|x|>"),
    ]
    assert ours.decode([n, n + 1, n + 2]) == "<think><|x|>"
    ours.save(tmp_path / "folder")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    for text in ("a<think>b", "[unused]<think>", "<|x|>the<think><think> cat"):
        assert ours.encode(text, allow_special=True) == theirs.encode(text).ids
    back = load_tokenizer(write_gguf(tmp_path / "b.gguf", ours))
    assert (back.pieces, back.special, back.added) == (ours.pieces, ours.special, ours.added)


def test_a_gguf_without_merges_is_refused(tmp_path):
    tok = train_bpe("the cat sat on the mat " * 9, 262)
    with pytest.raises(ValueError, match="it lists no merges"):
        load_tokenizer(write_gguf(tmp_path / "a.gguf", tok, merges=None))


# --- ids without a token, and text without tokens ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte level", "always"])
def test_decode_an_id_without_a_token_gives_no_text(folder, kind):
    (folder / "tokenizer.json").write_text(json.dumps(KINDS[kind]), encoding="utf-8")
    tok = load_tokenizer(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, second = tok.encode("a"), tok.encode("b")
    for ids in ([*first, len(tok), *second], [len(tok), *first], [*first, len(tok) + 1000]):
        assert tok.decode(ids) == theirs.decode(ids)
    stream = tok.stream(first)
    assert stream.push(len(tok)) == "" and stream.push(second[-1]) == "b"
    with pytest.raises(ValueError, match="token id -1 is negative"):
        tok.decode([-1])


def test_encode_errors_replace_and_ignore():
    """A vocabulary without U+0004 and without the bytes of ñ and U+FFFD."""
    tok = Tokenizer([bytes([byte]) for byte in range(32, 127)], {}, {}, ())
    text = "ma\x04ñ?"
    assert tok.unspellable(text) == ["\x04", "ñ"]
    assert tok.encode(text, errors="replace") == tok.encode("ma???")
    assert tok.encode(text, errors="ignore") == tok.encode("ma?")
    with pytest.raises(ValueError, match='errors="replace" or errors="ignore"'):
        tok.encode(text)


def test_encode_errors_replace_writes_fffd_where_it_can():
    tok = Tokenizer([bytes([byte]) for byte in range(1, 256)], {}, {}, ())
    assert tok.encode("a\x00b", errors="replace") == tok.encode("a\ufffdb")

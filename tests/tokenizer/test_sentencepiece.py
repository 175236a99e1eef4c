"""SentencePiece BPE against the library `sentencepiece` itself, and against `tokenizers` where a file is of its kind.

The large vocabulary is that of Mistral 7B, not Llama 2's. The small ones are learned here by the library.
"""

import io
import json
import re
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_text import FRAGMENTS, MANY, TEXTS
from vocabularies import mistral, read

from llama_from_scratch.tokenizer import load_tokenizer
from llama_from_scratch.tokenizer.formats.sentencepiece_file import field, fields
from llama_from_scratch.tokenizer.formats.tokenizer_model import read_tokenizer_model, tokenizer_model
from llama_from_scratch.tokenizer.pieces import Kind, Piece
from llama_from_scratch.tokenizer.sentencepiece import SentencePieceTokenizer

sentencepiece = pytest.importorskip("sentencepiece")
tokenizers = pytest.importorskip("tokenizers")

USER_DEFINED = ["<sep>", "<sep><sep>", "ab▁c"]
SPACED = st.lists(st.sampled_from([*FRAGMENTS, " ", "▁", " ▁ ", "<sep>", "<sep", "ab c", "a b", "<unk>"])).map("".join)


def learn(**options) -> bytes:
    """A model that the library learns from the manual's words and from text that is meant to break it."""
    from pydoc_data.topics import topics

    model = io.BytesIO()
    usual = {
        "model_type": "bpe",
        "vocab_size": 900,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.98,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*topics["lambda"].split("\n"), *topics["in"].split("\n")] * 2),
        model_writer=model,
        **(usual | options),
    )
    return model.getvalue()


MODELS = {
    "mistral": mistral,
    # pieces that reach across words, and pieces that are found before anything is joined
    "crossing": lambda: learn(split_by_whitespace=False, user_defined_symbols=USER_DEFINED, control_symbols=["<c>"]),
    "no prefix": lambda: learn(add_dummy_prefix=False, unk_id=2, bos_id=0, eos_id=-1),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """(ours, the library's), which read one file."""
    data = MODELS[request.param]()
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.model").write_bytes(data)
    return load_tokenizer(folder), sentencepiece.SentencePieceProcessor(model_proto=data)


@pytest.fixture(scope="module")
def tok() -> SentencePieceTokenizer:
    return read(mistral())


def plain(tok, text: str) -> list[int]:
    """The ids of a text without the bos token."""
    ids = tok.encode(text)
    assert not tok.add_bos or ids[0] == tok.bos_id
    return ids[tok.add_bos :]


# --- ids and text ------------------------------------------------------------------------------------------------


@MANY
@given(text=st.one_of(TEXTS, SPACED))
def test_ids_and_text_equal_the_library(pair, text):
    ours, theirs = pair
    ids = plain(ours, text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids) == text.replace("▁", " ")


@MANY
@given(data=st.data())
def test_any_ids_at_all_can_be_decoded(pair, data):
    """Pieces and bytes in any order: half characters, bytes that begin nothing, spaces at the start."""
    ours, theirs = pair
    ordinary = [i for i, piece in enumerate(ours.vocabulary) if i not in ours.special.values()]
    in_bytes = [i for i, piece in enumerate(ours.vocabulary) if piece.kind == Kind.BYTE]
    spaces = [i for i in ordinary if ours.pieces[i].strip() == b""]
    some = st.one_of(*map(st.sampled_from, (ordinary, in_bytes, spaces)))
    ids = data.draw(st.lists(some, max_size=12))
    text = ours.decode(ids)
    assert text == theirs.decode(ids)
    stream = ours.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == text


@MANY
@given(text=TEXTS)
def test_a_stream_never_gives_half_a_character(tok, text):
    stream = tok.stream()
    parts = [stream.push(i) for i in plain(tok, text)]
    assert "".join(parts) + stream.flush() == text.replace("▁", " ")
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text


# A vocabulary that nobody would learn: few letters, many ties, pieces whose parts or letters are no pieces.
LETTERS = "ab▁"
ODD_PIECES = st.dictionaries(
    st.text(LETTERS, min_size=1, max_size=5),
    st.tuples(st.sampled_from([-3.0, -2.0, -1.5, -1.0, 0.0]), st.sampled_from([*[Kind.NORMAL] * 9, Kind.USER_DEFINED])),
    min_size=1,
    max_size=12,
)
IN_BYTES = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]


def odd(pieces: dict[str, tuple[float, Kind]], **options) -> SentencePieceTokenizer:
    special = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    ordinary = [Piece(text, *rest) for text, rest in pieces.items()]
    return SentencePieceTokenizer([*special, *IN_BYTES, *ordinary], bos_id=1, eos_id=2, **options)


@MANY
@given(pieces=ODD_PIECES, texts=st.lists(st.text("ab c", max_size=12), min_size=1, max_size=8))
def test_odd_vocabularies_equal_the_library(pieces, texts):
    ours = odd(pieces)
    data = tokenizer_model(ours)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert read(data).vocabulary == ours.vocabulary
    for text in texts:
        assert plain(ours, text) == theirs.encode(text)


def test_special_tokens_in_a_text_are_plain_characters(tok):
    text = "<s>a</s><unk><0x0A>"
    assert not set(plain(tok, text)) & set(tok.special.values()) and tok.decode(plain(tok, text)) == text
    ids = tok.encode(text, allow_special=True)
    assert [i for i in ids if i in tok.special.values()] == [1, 2, 0]  # and the bos token is not doubled
    assert tok.decode(ids) == "<s>a</s><unk> <0x0A>"  # a space before each stretch of text, dropped before the first


def test_the_space_before_the_text_is_dropped_once(tok):
    hello = tok.encode("Hello")
    assert tok.tokens[hello[1]] == " Hello"
    assert tok.decode(hello) == "<s>Hello" and tok.decode(hello[1:] * 2) == "Hello Hello"
    assert tok.decode(plain(tok, "  x")) == "  x"
    assert tok.encode("") == [1] and tok.decode([]) == ""
    after = tok.stream(after=hello)  # the text of a model that goes on from a prompt
    assert [after.push(token) for token in plain(tok, "you")] == [" you"]


def test_vocabulary_and_settings(tok):
    assert (len(tok), tok.bos_id, tok.eos_id, tok.add_bos, tok.stop_ids) == (32_000, 1, 2, True, {2})
    assert tok.special == {"<unk>": 0, "<s>": 1, "</s>": 2}
    no_prefix = read(MODELS["no prefix"]())
    assert (no_prefix.bos_id, no_prefix.eos_id, no_prefix.special["<unk>"], no_prefix.prefix) == (0, None, 2, "never")
    assert tok.decode(tok.encode("日本語")[:-1]) != "日本語"


def test_decode_a_negative_id_raises_and_one_without_a_token_is_empty(tok):
    with pytest.raises(ValueError, match="token id -1 is negative; ids begin at 0"):
        tok.decode([5, -1])
    assert tok.decode([5, 32_000, 5]) == tok.decode([5, 5])


def test_half_of_a_surrogate_pair_is_refused(tok):
    with pytest.raises(ValueError, match="surrogate"):
        tok.encode("a\ud800b")


def test_long_texts_take_no_quadratic_time(pair):
    ours, theirs = pair
    for text in ("abcdefghij" * 2_000, " " * 20_000, "the cat " * 2_500, "日" * 20_000):
        assert plain(ours, text) == theirs.encode(text)  # minutes, if it were quadratic


# --- files beside tokenizer.model -----------------------------------------------------------------------------------


def added(text: str, special: bool) -> dict:
    return {"content": text, "special": special, "lstrip": False, "rstrip": False, "single_word": False}


DECODER = {"32000": added("<think>", False), "32001": added("<pad>", True), "32002": added("<|end|>", True)}
BESIDE = {
    "added_tokens.json": {"added_tokens.json": {"<think>": 32000, "<pad>": 32001, "<|end|>": 32002}},
    "added_tokens_decoder": {"tokenizer_config.json": {"added_tokens_decoder": DECODER, "eos_token": "<|end|>"}},
    "names": {"tokenizer_config.json": {"eos_token": "<|end|>", "pad_token": "<pad>"}},
    "map": {"special_tokens_map.json": {"eos_token": "<|end|>", "pad_token": {"content": "<pad>"}}},
    "list and names": {
        "added_tokens.json": {"<think>": 32000, "<pad>": 32001, "<|end|>": 32002},
        "special_tokens_map.json": {"eos_token": "<|end|>", "pad_token": "<pad>"},
    },
}


@pytest.mark.parametrize("files", BESIDE)
def test_added_tokens_beside_tokenizer_model_are_those_of_transformers(tmp_path, files):
    """Behind an added token transformers 5 puts no space before a word, llama.cpp and SentencePiece do, as we: so no
    text here goes on behind one."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.model").write_bytes(mistral())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name, content in ({"tokenizer_config.json": {}} | BESIDE[files]).items():
        kind = {"tokenizer_class": "LlamaTokenizer"} if name == "tokenizer_config.json" else {}
        (tmp_path / name).write_text(json.dumps(kind | content))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (len(ours), ours.eos_id, ours.pad_id) == (len(theirs), theirs.eos_token_id, theirs.pad_token_id)
    assert len(ours) > 32000
    for text in ("Hello", "x<think>", "two words<pad>", "a <think>", "<|end|>", "é<|end|><|end|>"):
        assert plain(ours, text) == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], text
        ids = ours.encode(text, allow_special=True)[ours.add_bos :]
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids), text


# --- Hugging Face's tokenizer.json --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tok, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tok.save(folder)
    return folder


@pytest.fixture(scope="module")
def transformers_tok(saved):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(saved)


@MANY
@given(text=st.one_of(TEXTS, SPACED))
def test_transformers_reads_the_same_ids_from_what_we_save(tok, transformers_tok, text):
    rust = transformers_tok.backend_tokenizer
    rust.encode_special_tokens = True
    assert tok.encode(text) == rust.encode(text).ids
    rust.encode_special_tokens = False
    ids = rust.encode(text, add_special_tokens=False).ids
    assert tok.encode(text, allow_special=True) == [1] * (ids[:1] != [1]) + ids  # where the library would double it


def test_transformers_reads_the_same_settings(tok, transformers_tok):
    assert transformers_tok("Hello  world")["input_ids"] == tok.encode("Hello  world")
    assert (transformers_tok.bos_token_id, transformers_tok.eos_token_id) == (1, 2)
    assert transformers_tok.decode(plain(tok, " a  b")) == " a  b"


def test_we_read_what_we_save(tok, saved):
    again = load_tokenizer(saved)
    assert isinstance(again, SentencePieceTokenizer)
    assert [p[::2] for p in again.vocabulary] == [p[::2] for p in tok.vocabulary]
    assert again.merges.keys() == tok.merges.keys() and again.prefix == "always" and again.add_bos
    twice = read(tokenizer_model(again))  # and back, with scores made from the order of the merges
    text = "Hello   world\n\n    return  x" + " " * 37 + "end"
    assert tok.encode(text) == again.encode(text) == twice.encode(text)


normalizers, Metaspace = tokenizers.normalizers, tokenizers.pre_tokenizers.Metaspace
PREFIXES = {
    "always": {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
    "never": {"normalizer": normalizers.Replace(" ", "▁")},
    "if missing": {"pre_tokenizer": Metaspace(prepend_scheme="always", split=False)},
    "if missing at the start": {"pre_tokenizer": Metaspace(prepend_scheme="first", split=False)},
}


@pytest.fixture(scope="module", params=PREFIXES)
def by_the_library(request, saved, tmp_path_factory):
    """(ours, the Rust library's) from files in which a space is put before a text in each of the known ways."""
    rust = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    rust.normalizer = PREFIXES[request.param].get("normalizer")
    rust.pre_tokenizer = PREFIXES[request.param].get("pre_tokenizer")
    rust.post_processor = None
    if request.param == "never":
        steps = tokenizers.decoders
        rust.decoder = steps.Sequence([steps.Replace("▁", " "), steps.ByteFallback(), steps.Fuse()])
    folder = tmp_path_factory.mktemp("kind")
    rust.save(str(folder / "tokenizer.json"))
    ours = load_tokenizer(folder)
    assert isinstance(ours, SentencePieceTokenizer) and ours.prefix == request.param and not ours.add_bos
    return ours, rust


@MANY
@given(text=SPACED)
def test_each_rule_for_the_space_before_a_text(by_the_library, text):
    ours, rust = by_the_library
    rust.encode_special_tokens = True
    ids = ours.encode(text)
    assert ids == rust.encode(text).ids
    assert ours.decode(ids) == rust.decode(ids)
    rust.encode_special_tokens = False
    assert ours.encode(text, allow_special=True) == rust.encode(text).ids


def test_each_rule_is_saved_as_it_was_read(by_the_library, tmp_path):
    ours, rust = by_the_library
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (" a", "a", "  a b", "x<s>y", "<s> y"):
        assert again.encode(text).ids == rust.encode(text).ids
    if ours.prefix not in ("always", "never"):
        with pytest.raises(ValueError, match=f"before the texts of this tokenizer {ours.prefix}.*tokenizer.model"):
            ours.gguf_fields()
        with pytest.raises(ValueError, match=f"before its texts {ours.prefix}.*tokenizer.json can hold it"):
            tokenizer_model(ours)


@MANY
@given(pieces=ODD_PIECES, texts=st.lists(st.text("ab c", max_size=12), min_size=1, max_size=8))
def test_odd_vocabularies_are_saved_exactly_or_not_at_all(tmp_path_factory, pieces, texts):
    ours = odd(pieces)
    folder = tmp_path_factory.getbasetemp() / "odd"
    try:
        ours.save(folder)
    except ValueError as error:
        assert re.search("have one score|finds .* in texts before|hold characters that are no pieces", str(error))
        return
    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts:
        assert rust.encode(text).ids == ours.encode(text)


# --- GGUF ---------------------------------------------------------------------------------------------------------


def write_gguf(path: Path, values: dict) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        kind = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        kind[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_gguf_files_hold_all_of_it(pair, tmp_path):
    """Written by the package gguf from our fields, and read again: the same pieces, scores, ids and settings."""
    ours, theirs = pair
    if ours.bos_id is None or ours.eos_id is None:
        with pytest.raises(ValueError, match="no bos or no eos token"):
            ours.gguf_fields()
        return
    again = load_tokenizer(write_gguf(tmp_path / "tok.gguf", ours.gguf_fields()))
    assert isinstance(again, SentencePieceTokenizer)
    assert again.vocabulary == [Piece(t, struct.unpack("f", struct.pack("f", s))[0], k) for t, s, k in ours.vocabulary]
    assert again.merges == ours.merges and again.prefix == ours.prefix
    assert (again.bos_id, again.add_bos, again.special) == (ours.bos_id, ours.add_bos, ours.special)
    for text in FRAGMENTS:
        assert plain(again, text) == theirs.encode(text)


def test_fields_are_those_that_llama_cpp_reads(tok):
    """The keys and types of llama.cpp's own converter, from the library's view of the model."""
    theirs = sentencepiece.SentencePieceProcessor(model_proto=mistral())
    values = tok.gguf_fields()
    assert values["tokenizer.ggml.model"] == "llama"
    assert values["tokenizer.ggml.tokens"] == [theirs.id_to_piece(i) for i in range(32_000)]
    assert values["tokenizer.ggml.scores"] == [theirs.get_score(i) for i in range(32_000)]
    assert values["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6] and values["tokenizer.ggml.token_type"][300] == 1
    assert values["tokenizer.ggml.add_space_prefix"] is True and values["tokenizer.ggml.add_bos_token"] is True


def test_rows_beyond_the_last_token_are_left_out(tok, tmp_path):
    values = tok.gguf_fields()
    values["tokenizer.ggml.tokens"] += ["[PAD1]", "[PAD2]"]
    values["tokenizer.ggml.scores"] += [0.0, 0.0]
    values["tokenizer.ggml.token_type"] += [5, 5]
    assert len(load_tokenizer(write_gguf(tmp_path / "pad.gguf", values))) == 32_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0]}, "32000 tokens have 1 scores"),
        ({"token_type": [7] * 32_000}, "32000 types, 7;"),
        ({"remove_extra_whitespaces": True}, "takes spaces out"),
        ({"tokens": ["a"] * 32_000}, "pieces 0 and 1 are both 'a'"),
        ({"token_type": [1] * 32_000}, "byte fallback"),
        ({"bos_token_id": 32_000}, "bos token is 32000"),
        ({"model": "t5"}, "kind is 't5'"),
    ],
)
def test_gguf_files_that_are_something_else_are_refused(tok, tmp_path, changes, message):
    values = tok.gguf_fields() | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    path = write_gguf(tmp_path / "bad.gguf", values)
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


# --- tokenizer.model ----------------------------------------------------------------------------------------------


def test_the_library_reads_what_we_write(pair):
    ours, theirs = pair
    again = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model(ours))
    for text in [*FRAGMENTS, " ".join(FRAGMENTS)]:
        assert again.encode(text) == theirs.encode(text)
    names = ("bos_id", "eos_id", "unk_id", "pad_id", "get_piece_size")
    assert [getattr(again, name)() for name in names] == [getattr(theirs, name)() for name in names]
    assert again.decode([*range(len(ours))]) == theirs.decode([*range(len(ours))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 400}, "its kind is unigram; only BPE"),
        ({"model_type": "char"}, "its kind is char"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normaliser 'nmt_nfkc'"),
        ({"remove_extra_whitespaces": True}, "takes out spaces"),
        ({"byte_fallback": False}, "byte fallback"),
        ({"treat_whitespace_as_suffix": True}, "before its word"),
    ],
)
def test_other_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        read(learn(**options))


def test_damaged_files_are_refused(tmp_path):
    """Cut anywhere, or with any byte changed, a model is read or refused; nothing else happens."""
    good, bad = learn(vocab_size=400), tmp_path / "tokenizer.model"
    for end in range(1, len(good), 197):
        bad.write_bytes(good[:end])
        with pytest.raises(ValueError, match=re.escape(str(bad))):
            read_tokenizer_model(bad)
    refused = 0
    for at in [*range(0, 100), *range(100, len(good), 97)]:
        bad.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            read_tokenizer_model(bad)
        except ValueError as error:
            assert str(bad) in str(error)
            refused += 1
    assert refused > 50


@MANY
@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_refused(data):
    with pytest.raises(ValueError):
        read(b"\n" + data)
    with pytest.raises(ValueError):
        read(data)


BYTES, VARINT, FLOAT = 2, 0, 5


def piece(text: bytes, kind: int = 1, score: bytes = bytes(4)) -> bytes:
    return field((1, BYTES), field((1, BYTES), text) + field((2, FLOAT), score) + field((3, VARINT), kind))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "in the middle of a field"),  # a field of 2 ** 62 bytes
        (b"\n" + b"\xff" * 20, "longer than 10 bytes"),
        (b"\n\x00\x0b", "the form 3"),
        (piece(b""), "piece 0 is empty"),
        (piece(b"\xff"), "piece 0 is not valid UTF-8"),
        (piece(b"a", kind=9), "piece 0 is of kind 9; the kinds are 1 .NORMAL."),
        (piece(b"a", score=struct.pack("<f", float("nan"))), "score nan"),
        (piece(b"a") + piece(b"a"), "pieces 0 and 1 are both 'a'"),
        (b"\n\x00" * 3, "piece 0 is empty"),
        (field((2, BYTES), field((3, VARINT), 2)), "cannot be read"),
    ],
)
def test_hostile_files_are_refused(message, expected):
    no_ids = field((41, VARINT), 2**64 - 1) + field((42, VARINT), 2**64 - 1)
    whole = message + field((2, BYTES), field((3, VARINT), 2) + no_ids) + field((3, BYTES), field((4, VARINT), 0))
    with pytest.raises(ValueError, match=expected):
        read(whole)


def test_a_piece_of_a_million_characters_takes_no_time(tmp_path):
    started = time.process_time()
    with pytest.raises(ValueError, match="is 1000000 characters long; at most 1000"):
        odd({"a" * 1_000_000: (0.0, Kind.NORMAL)})
    assert time.process_time() - started < 10


def test_unused_pieces():
    """One that nothing leads to is a row of the embedding and no more. One that can be joined is not known here."""
    assert plain(odd({"a": (0.0, Kind.NORMAL), "[PAD]": (0.0, Kind.UNUSED)}), "[PAD]")[-1] < 259
    tok = odd({"a": (0.0, Kind.NORMAL), "q": (0.0, Kind.UNUSED), "qa": (0.0, Kind.NORMAL)})
    theirs = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model(tok))
    for text in ("q", "qa", "aqa", "qq a"):
        assert plain(tok, text) == theirs.encode(text)
    with pytest.raises(ValueError, match="'aa', is not to be used although it can be joined"):
        odd({"a": (0.0, Kind.NORMAL), "aa": (0.0, Kind.UNUSED)})


@given(st.lists(st.tuples(st.integers(1, 2**20), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300)))))
def test_fields_of_a_message_come_back(given_fields):
    expected = [((number, VARINT if isinstance(value, int) else BYTES), value) for number, value in given_fields]
    assert list(fields(b"".join(field(key, value) for key, value in expected))) == expected


# --- files that say too much --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFKC"}}, "prepares text"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}}, "pre"),
        ({"model__ignore_merges": True}, "ignore_merges"),
        ({"model__vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, "model__merges": []}, "byte fallback"),
        ({"model__vocab": {"a": 9}, "model__merges": [], "added_tokens": []}, "ids 0 to"),
        ({"model__merges": [["zz", "qqq"]]}, "merge 0 joins"),
    ],
)
def test_folders_that_are_something_else_are_refused(saved, tmp_path, changes, message):
    data = json.loads((saved / "tokenizer.json").read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = data
        for parent in parents:
            part = part[parent]
        part[last] = value
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_merges_that_scores_cannot_say_stay_in_tokenizer_json(saved, tmp_path):
    """Merges learned as pairs: "ab" joins, and so does "bc" to "abc", but not "ab" and "c"."""
    data = json.loads((saved / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"] = data["model"]["merges"][:2000:2]
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert (
        ours.encode("hello the world") == tokenizers.Tokenizer.from_str(json.dumps(data)).encode("hello the world").ids
    )
    for write in (SentencePieceTokenizer.gguf_fields, tokenizer_model):
        with pytest.raises(ValueError, match="depends on the pair|no bos or no eos token"):
            write(ours)


def test_merges_into_special_tokens_are_left_out(saved, tmp_path):
    """A file whose merges spell "<s>" would otherwise let anyone write the special token."""
    data = json.loads((saved / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"].insert(0, ["<", "s>"])
    data["model"]["vocab"]["s>"] = 32_000
    data["model"]["merges"].insert(0, ["s", ">"])
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert 1 not in ours.encode("x<s>") and 32_000 in ours.encode("x<s>")


def test_user_defined_pieces_are_not_put_into_tokenizer_json(tmp_path):
    with pytest.raises(ValueError, match="finds '<sep>' in texts before anything is joined"):
        odd({"a": (0.0, Kind.NORMAL), "<sep>": (0.0, Kind.USER_DEFINED)}).save(tmp_path)
    assert list(tmp_path.iterdir()) == []

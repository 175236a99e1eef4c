"""Vocabularies in tiktoken's format against the library `tiktoken`, on one learned here and, on demand, on Llama 3's.

Meta's own file (llama3/tokenizer.model in the package llama-models 0.3.0) is under Meta's licence and is not a part of
this project. LFS_LLAMA3_TOKENIZER=path/to/tokenizer.model runs the tests that need it.
"""

import base64
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_text import FRAGMENTS, MANY, TEXTS
from vocabularies import tiktoken_lines

from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.formats.tiktoken import SPECIAL
from llama_from_scratch.tokenizer.formats.tokenizer_model import read_tokenizer_model, tokenizer_model
from llama_from_scratch.tokenizer.split import LLAMA3

tiktoken = pytest.importorskip("tiktoken")

LLAMA3_FILE = os.environ.get("LFS_LLAMA3_TOKENIZER")
ONLY_WITH_METAS_FILE = pytest.mark.skipif(
    not LLAMA3_FILE, reason="needs Meta's vocabulary: set LFS_LLAMA3_TOKENIZER to its tokenizer.model"
)
TEXTS_WITH_SPECIALS = st.lists(
    st.one_of(TEXTS, st.sampled_from([*SPECIAL[:12], "<|begin_of_text", "<|eot_id|><|eot_id|>", "|>", "zqxj"]))
).map("".join)


def small_vocabulary() -> list[bytes]:
    """Learned from text, with tokens added that no merge leads to, in the middle and at the end of the ranks."""
    from pydoc_data.topics import topics

    learned = train_bpe([topics["lambda"], topics["in"], *FRAGMENTS * 2], 700, special=(), pre="llama-bpe").pieces
    odd = [b"zqxj", " việc".encode(), b"xxxxxxx", "日本語".encode()[:5]]
    tokens = [*learned[:400], *odd[:2], *learned[400:], *odd[2:]]
    return list(dict.fromkeys(tokens))


@pytest.fixture(scope="module", params=["small", pytest.param("Meta's", marks=ONLY_WITH_METAS_FILE)])
def pair(request, tmp_path_factory):
    """(ours, tiktoken's) of one file."""
    path = tmp_path_factory.mktemp("tiktoken") / "tokenizer.model"
    path.write_bytes(
        Path(LLAMA3_FILE).read_bytes() if request.param == "Meta's" else tiktoken_lines(small_vocabulary())
    )
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in path.read_bytes().splitlines()}
    special = {name: len(ranks) + i for i, name in enumerate(SPECIAL)}
    theirs = tiktoken.Encoding("ours", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special)
    return load_tokenizer(path.parent), theirs


@MANY
@given(text=TEXTS_WITH_SPECIALS)
def test_ids_equal_tiktoken_and_the_text_comes_back(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == [ours.bos_id, *theirs.encode(text, disallowed_special=())]
    assert ours.decode(ids[1:]) == text


@MANY
@given(text=TEXTS_WITH_SPECIALS)
def test_special_tokens_where_they_are_allowed(pair, text):
    ours, theirs = pair
    expected = theirs.encode(text, allowed_special="all")
    assert ours.encode(text, allow_special=True) == [ours.bos_id] * (expected[:1] != [ours.bos_id]) + expected


@MANY
@given(data=st.data())
def test_any_ids_at_all_can_be_decoded(pair, data):
    ours, theirs = pair
    ids = data.draw(st.lists(st.integers(0, len(ours) - 1), max_size=20))
    stream = ours.stream()
    assert ours.decode(ids) == theirs.decode(ids) == "".join(map(stream.push, ids)) + stream.flush()


def test_every_token_by_itself(pair):
    """The bytes of each token, encoded as one piece: with the whole-piece look-up, and by merging alone."""
    ours, theirs = pair
    n = len(ours) - len(SPECIAL)
    spelled = [i for i in range(n) if "\ufffd" not in ours.tokens[i]]
    assert all(plain(ours, ours.tokens[i]) == theirs.encode_ordinary(ours.tokens[i]) for i in spelled)
    alone = Tokenizer(ours.pieces, ours.merges, {}, patterns=())  # no cutting, no look-up
    unreachable = [i for i in spelled if alone.encode(ours.tokens[i]) != [i]]
    if n == 128_000:
        unreachable += [i for i in set(range(n)) - set(spelled) if not reached(ours, i)]
        assert len(unreachable) == 588
    assert len(unreachable) >= 3  # the three that we added
    assert all(theirs.encode_single_token(ours.pieces[i]) == i for i in unreachable)
    whole = [i for i in unreachable if re.fullmatch(r" ?\w+", ours.tokens[i])]
    assert whole and all(plain(ours, ours.tokens[i]) == theirs.encode_ordinary(ours.tokens[i]) for i in whole)


def reached(tok: Tokenizer, token: int) -> bool:
    """Whether merging leads from the bytes of a token to the token."""
    from llama_from_scratch.tokenizer.bpe import merge

    by_bytes = {tok.pieces[i]: i for i in range(256)}
    return merge([by_bytes[bytes([byte])] for byte in tok.pieces[token]], tok.merges) == [token]


def plain(tok: Tokenizer, text: str) -> list[int]:
    return tok.encode(text)[1:]


def test_whole_pieces_come_first(pair):
    """A token that no merge leads to is found where it is a piece by itself, and only there."""
    ours, _ = pair
    token = 100_769 if len(ours) == 128_256 else ours.tokens.index(" việc")
    assert plain(ours, "a việc")[-1] == token and not reached(ours, token)
    assert token not in plain(ours, "a việcviệc")


def test_special_tokens_and_settings(pair):
    ours, _ = pair
    n = len(ours) - 256
    assert [ours.special[name] - n for name in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")] == [0, 1, 9]
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.stop_ids) == (n, n + 1, True, {n + 1, n + 8, n + 9})
    assert len(SPECIAL) == len(set(SPECIAL)) == 256 and SPECIAL[-1] == "<|reserved_special_token_245|>"


def test_runs_that_meta_cuts_are_not_cut(pair):
    """Meta's code cuts runs of more than 25,000 letters, because tiktoken's pattern once could not take them. Cutting
    changes the tokens; tiktoken itself, and Hugging Face, do not."""
    ours, theirs = pair
    for text in ("ab" * 13_000 + " " * 26_000 + "x", "a" * 25_001, "the cat " * 50_000 + "sat"):
        assert plain(ours, text) == theirs.encode_ordinary(text)
    text = "x" * 24_997 + " the end"
    in_two = theirs.encode_ordinary(text[:25_000]) + theirs.encode_ordinary(text[25_000:])
    assert plain(ours, text) != in_two


def test_written_and_read_again(pair, tmp_path):
    ours, _ = pair
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_model(ours))
    again = read_tokenizer_model(path)
    assert (again.pieces, again.merges, again.special) == (ours.pieces, ours.merges, ours.special)
    if len(ours) == 128_256:
        assert path.read_bytes() == Path(LLAMA3_FILE).read_bytes()


def test_through_tokenizer_json(pair, tmp_path):
    """What we save in Hugging Face's form gives transformers the same ids, and goes back to the same tiktoken file."""
    import tokenizers

    ours, theirs = pair
    ours.save(tmp_path)
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rust.encode_special_tokens = True
    text = " ".join(FRAGMENTS) + " zqxj việc\n\n" + "1234567 " * 3
    assert rust.encode(text).ids == [ours.bos_id, *theirs.encode(text, disallowed_special=())]
    assert tokenizer_model(load_tokenizer(tmp_path)) == tokenizer_model(ours)


def test_gguf_fields_name_the_rule(pair):
    values = pair[0].gguf_fields()
    assert values["tokenizer.ggml.pre"] == "llama-bpe" and values["tokenizer.ggml.model"] == "gpt2"


def test_a_template_beside_it_is_used(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_lines([bytes([byte]) for byte in range(256)]))
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}<|eot_id|>")
    ours = load_tokenizer(tmp_path)
    assert ours.chat([{"role": "user", "content": "A"}]) == [256, 65, 265]


BYTES = [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"QQ==\n", "line 1 is b'QQ=='; a token and the rank 0 belong there"),
        (b"QQ== 1\n", "the rank 0"),
        (b"QQ== 0\n\nQg== 1\n", "line 2 is b''"),
        (b"QQ== 0\nQQ== 1\n", "line 2, b'QQ== 1', repeats the token 0"),
        (b"Q 0\n", "line 1, b'Q 0', does not begin with base64"),
        (b"%% 0\n", "does not begin with base64"),
        (b"QQ== 0\n", "no token for 255 of the 256 bytes, such as 0x00"),
        (tiktoken_lines(BYTES) + b"YWI= 257\n", "line 257 is b'YWI= 257'; a token and the rank 256"),
        (tiktoken_lines(BYTES) + b"YWI=", "line 257"),
        (tiktoken_lines([*BYTES, b"a" * 2000]), "token 256 is 2000 characters long; at most 1000"),
        (b"\x80\x04\x95", "line 1"),
        (b"PK\x03\x04" * 10, "line 1"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, data, message):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.model") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"special": {"<|begin_of_text|>": 256}}, "special tokens are not those of Llama 3"),
        ({"patterns": ()}, "in another way than Llama 3"),
        ({"add_bos": False}, "in another way than Llama 3"),
        ({"eos_id": 256}, "in another way than Llama 3"),
        ({"merges": {(97, 98): (0, 99)}}, "merges are not in the order"),
    ],
)
def test_other_tokenizers_are_not_written(tmp_path, changes, message):
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_lines(BYTES))
    tok = load_tokenizer(tmp_path)
    names = ("pieces", "merges", "special", "patterns", "whole_first", "bos_id", "eos_id", "add_bos")
    with pytest.raises(ValueError, match=f"{message}.*; tokenizer.json can hold it"):
        tokenizer_model(Tokenizer(**({name: getattr(tok, name) for name in names} | changes)))

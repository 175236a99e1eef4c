"""Any text, in four vocabularies: the ids and the text of the Rust library `tokenizers`. Nothing of ours is in the
oracles: transformers read one of them from the embedded file, the library learned the others itself."""

import json
from pydoc_data.topics import topics  # Python's own manual: half a megabyte of English that is on every machine

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_text import FRAGMENTS, MANY, TEXTS

from llama_from_scratch.files.embedded import EMBEDDED, embedded_path
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.split import LLAMA3

tokenizers = pytest.importorskip("tokenizers")

CORPUS = ["\n".join(topics[name] for name in sorted(topics))[:150_000], *FRAGMENTS * 3]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB_SIZE = 1500


def cut(kind: str):
    """The ways of cutting text, in the library's own words."""
    steps = tokenizers.pre_tokenizers
    digits, byte_level = steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False)
    if kind == "gpt-2":
        return byte_level
    if kind == "smollm":
        return steps.Sequence([digits, byte_level])
    llama3 = steps.Split(tokenizers.Regex(LLAMA3), behavior="isolated")
    return steps.Sequence([llama3, steps.ByteLevel(add_prefix_space=False, use_regex=False)])


def learned_by_the_library(kind: str):
    rust = tokenizers.Tokenizer(tokenizers.models.BPE())
    rust.pre_tokenizer, rust.decoder = cut(kind), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(CORPUS, trainer)
    rust.add_special_tokens(SPECIAL)
    data = json.loads(rust.to_str())
    data["model"]["ignore_merges"] = kind == "llama-bpe"  # as Llama 3's own file says
    return tokenizers.Tokenizer.from_str(json.dumps(data))


def embedded_read_by_transformers():
    """Its reader of GGUF files forgets to cut digits apart, so that is put back: the tokenizer.json of SmolLM2 says
    Sequence(Digits(individual), ByteLevel)."""
    transformers = pytest.importorskip("transformers")
    file = embedded_path()
    rust = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer
    rust.pre_tokenizer = cut("smollm")
    return rust


@pytest.fixture(scope="module", params=["SmolLM2", "gpt-2", "smollm", "llama-bpe"])
def pair(request):
    """(our tokenizer, the library's)."""
    if request.param == "SmolLM2":
        return load_tokenizer(EMBEDDED), embedded_read_by_transformers()
    ours = train_bpe(CORPUS, VOCAB_SIZE, special=SPECIAL, pre=request.param)
    return ours, learned_by_the_library(request.param)


def stream(tok: Tokenizer, ids: list[int]) -> tuple[list[str], str]:
    """What came for each token, and what was left at the end."""
    decoder = tok.stream()
    return [decoder.push(token) for token in ids], decoder.flush()


@MANY
@given(text=TEXTS)
def test_text_to_ids_and_back(pair, text):
    ours, rust = pair
    for allow_special in (False, True):
        rust.encode_special_tokens = not allow_special
        theirs = rust.encode(text, add_special_tokens=False).ids
        try:
            ids = ours.encode(text, allow_special=allow_special)
        except ValueError as error:  # SmolLM2 has no token for 21 of the 256 bytes; the library drops them silently
            assert "cannot spell" in str(error) and len(ours) == 49_152
            assert rust.decode(theirs, skip_special_tokens=False) != text
            return
        assert ids == theirs
        assert ours.decode(ids) == text == rust.decode(ids, skip_special_tokens=False)
        assert allow_special or not set(ids) & set(ours.special.values())
    parts, rest = stream(ours, ids)
    assert "".join(parts) == text and rest == ""
    # At any time all characters are there whose bytes are, and no half of one.
    half = len(ids) // 2
    done = b"".join(ours.pieces[token] for token in ids[:half])
    assert "".join(parts[:half]) == done.decode("utf-8", errors="ignore")


@MANY
@given(
    text=TEXTS, lost=st.integers(0, 20), junk=st.binary(max_size=20), others=st.lists(st.integers(0, VOCAB_SIZE - 1))
)
def test_any_bytes_can_be_decoded(pair, text, lost, junk, others):
    ours, rust = pair
    of_byte = {piece[0]: token for token, piece in enumerate(ours.pieces) if len(piece) == 1}
    ids = [of_byte[byte] for byte in text.encode()[lost:] + junk if byte in of_byte] + others
    expected = b"".join(ours.pieces[token] for token in ids).decode("utf-8", errors="replace")
    assert ours.decode(ids) == expected == rust.decode(ids, skip_special_tokens=False)
    parts, rest = stream(ours, ids)
    assert "".join(parts) + rest == expected

"""Learning a vocabulary: against a trainer that counts everything anew, and against the Rust library `tokenizers`."""

import json
from collections import Counter
from itertools import pairwise
from pydoc_data.topics import topics  # Python's own manual: half a megabyte of English that is on every machine

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_text import FRAGMENTS, MANY, TEXTS

from llama_from_scratch.tokenizer import Tokenizer, train, train_bpe
from llama_from_scratch.tokenizer.byte_table import BYTE_TO_CHAR, to_bytes
from llama_from_scratch.tokenizer.split import LLAMA3, SPLITS, compile_patterns, split

MANUAL = "\n".join(topics[name] for name in sorted(topics))
# Few letters: many pairs are equally frequent, and many overlap.
BABBLE = st.lists(st.text("ab", max_size=9) | st.text("abcd ", max_size=30), min_size=1, max_size=4)
FEW = settings(MANY, max_examples=max(1, MANY.max_examples // 4))


def learned(tok: Tokenizer) -> list[tuple[bytes, bytes]]:
    """The pairs that were joined, in order."""
    return [(tok.pieces[left], tok.pieces[right]) for left, right in tok.merges]


def as_many_as_there_are(texts: list[str], vocab_size: int, pre: str) -> Tokenizer:
    """Training to `vocab_size`, or to what is possible if that is less."""
    try:
        return train_bpe(texts, vocab_size, special=(), pre=pre)
    except ValueError as error:
        return train_bpe(texts, int(str(error).split("at most ")[1].split(";")[0]), special=(), pre=pre)


# --- the definition ----------------------------------------------------------------------------------------------


def naive(texts: list[str], vocab_size: int, pre: str) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Count all pairs of neighbours, join the most frequent one everywhere, from left to right; then begin again.

    Returns the pairs, and the texts in the tokens that they end as.
    """
    order = [bytes([byte]) for byte in sorted(range(256), key=BYTE_TO_CHAR.get)]
    patterns = compile_patterns(SPLITS[pre])
    words = [[bytes([byte]) for byte in piece.encode()] for text in texts for piece in split(text, patterns)]
    pairs = []
    while len(order) < vocab_size and (counts := Counter(pair for word in words for pair in pairwise(word))):
        best = min(counts, key=lambda pair: (-counts[pair], order.index(pair[0]), order.index(pair[1])))
        pairs.append(best)
        order.append(best[0] + best[1])
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [order[-1]]
                i += 1
    return pairs, [token for word in words for token in word]


@FEW
@given(
    texts=BABBLE | st.lists(TEXTS.map(lambda text: text[:80]), max_size=3),
    extra=st.integers(0, 40),
    pre=st.sampled_from(list(SPLITS)),
)
def test_it_equals_counting_everything_anew(texts, extra, pre):
    tok = as_many_as_there_are(texts, 256 + extra, pre)
    pairs, tokens = naive(texts, 256 + extra, pre)
    assert learned(tok) == pairs
    assert [left + right for left, right in pairs] == tok.pieces[256:]
    assert len(set(tok.pieces)) == len(tok)  # a token is reached in one way only
    # What training saw is what encoding makes of the text.
    assert [tok.pieces[token] for text in texts for token in tok.encode(text)] == tokens


def test_by_hand():
    """ "aaab aaab aab": aa six times (twice in each aaa), "ab" three times, " a" twice. The rest follows."""
    tok = train_bpe(["aaab", "aaab", "aab"], 260, special=())
    assert learned(tok) == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab"), (b"aa", b"b")]
    assert [tok.pieces[i] for i in tok.encode("aaab")] == [b"aaab"]


def test_of_equally_frequent_pairs_the_one_with_the_lower_ids_is_joined():
    assert learned(train_bpe(["ba", "ab", "ac"], 257, special=())) == [(b"a", b"b")]
    assert learned(train_bpe(["a\n", "zz"], 257, special=())) == [(b"z", b"z")]  # as in GPT-2, "\n" comes after "z"
    assert learned(train_bpe(["ba", "ab", "zz", "zz"], 257, special=())) == [(b"z", b"z")]  # unless it is less frequent


# --- the library -------------------------------------------------------------------------------------------------


def learned_by_the_library(texts: list[str], vocab_size: int, pre: str) -> list[tuple[bytes, bytes]]:
    tokenizers = pytest.importorskip("tokenizers")
    steps = tokenizers.pre_tokenizers
    byte_level = steps.ByteLevel(add_prefix_space=False)
    rust = tokenizers.Tokenizer(tokenizers.models.BPE())
    rust.pre_tokenizer = {
        "gpt-2": byte_level,
        "smollm": steps.Sequence([steps.Digits(individual_digits=True), byte_level]),
        "llama-bpe": steps.Sequence(
            [
                steps.Split(tokenizers.Regex(LLAMA3), behavior="isolated"),
                steps.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }[pre]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=steps.ByteLevel.alphabet(), show_progress=False
    )
    rust.train_from_iterator(texts, trainer)
    return [(to_bytes(left), to_bytes(right)) for left, right in json.loads(rust.to_str())["model"]["merges"]]


@pytest.mark.parametrize("pre", SPLITS)
def test_it_equals_the_library_on_english_and_on_everything_else(pre):
    texts = [MANUAL[:150_000], *FRAGMENTS * 2]
    assert learned(train_bpe(texts, 2000, special=(), pre=pre)) == learned_by_the_library(texts, 2000, pre)


@FEW
@given(texts=BABBLE, extra=st.integers(0, 40), pre=st.sampled_from(list(SPLITS)))
def test_it_equals_the_library_where_many_pairs_are_equally_frequent(texts, extra, pre):
    assert learned(as_many_as_there_are(texts, 256 + extra, pre)) == learned_by_the_library(texts, 256 + extra, pre)


# --- what comes out ----------------------------------------------------------------------------------------------


def test_the_vocabulary_is_bytes_then_what_was_learned_then_special_tokens():
    tok = train_bpe("the cat sat on the mat. " * 3, 267, special=("<|end|>", "<|user|>"))
    assert len(tok) == 267 and sorted(tok.pieces[:256]) == [bytes([byte]) for byte in range(256)]
    assert tok.tokens[256:259] == ["at", "he", "the"]
    assert tok.special == {"<|end|>": 265, "<|user|>": 266}
    assert (tok.eos_id, tok.bos_id, tok.stop_ids, tok.add_bos) == (265, 265, {265}, False)
    assert tok.encode("<|end|>", allow_special=True) == [265] != tok.encode("<|end|>")
    assert train_bpe("ab", 257, special=()).eos_id is None


def test_nothing_is_joined_across_texts_or_pieces():
    assert learned(train_bpe(["ab", "ab"], 257, special=())) == [(b"a", b"b")]
    with pytest.raises(ValueError, match="at most 256"):
        train_bpe(iter(["a", "b"] * 9), 257, special=())
    with pytest.raises(ValueError, match="at most 256"):
        train_bpe("1234", 257, special=(), pre="smollm")
    assert len(train_bpe("1234", 259, special=(), pre="gpt-2")) == 259
    assert b"<|end|>" not in train_bpe("<|end|>" * 9, 260, special=("<|end|>",)).pieces[:-1]


def test_only_the_words_that_hold_a_pair_are_touched(monkeypatch):
    """The point of the data structures, counted: of 1.4 million pairs (merge, word), one in a hundred is looked at."""
    touched, merge, text = [], train.merge, MANUAL[:150_000]
    monkeypatch.setattr(train, "merge", lambda word, merges: touched.append(word) or merge(word, merges))
    tok = train_bpe(text, 800, special=())
    n_words = len(set(split(text, compile_patterns(SPLITS["gpt-2"]))))
    assert len(touched) < len(tok.merges) * n_words / 50


def test_progress_is_told_the_size_of_the_vocabulary():
    seen = []
    train_bpe("the cat sat on the mat", 260, special=("<|end|>",), progress=seen.append)
    assert seen == [257, 258, 259]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocab_size": 256},
            "vocab_size is 256; it must be at least 257, which is the 256 bytes and the special tokens",
        ),
        ({"vocab_size": -1}, "at least 257"),
        ({"vocab_size": 10**9}, "this text has pairs to join for at most 262; give more text or a smaller vocab_size"),
        ({"text": ""}, "at most 257"),
        ({"text": []}, "at most 257"),
        ({"text": "a\ud800"}, "half of a surrogate pair"),
        ({"pre": "gpt2"}, "there is no rule 'gpt2' for cutting text; the rules are gpt-2, smollm, llama-bpe"),
        ({"special": [""]}, "a special token is ASCII, has signs and no spaces, as '<|end|>'; got ''"),
        ({"special": ["the"]}, "got 'the'"),  # could be learned
        ({"special": ["<|the end|>"]}, "got"),
        ({"special": ["<|\n|>"]}, "got"),
        ({"special": ["<Ġ>"]}, "got"),
        ({"special": "<|end|>"}, "got '<'"),
        (
            {"special": ["<|a|>", "<|b|>", "<|a|>"]},
            r"each special token can be given once; got <\|a\|>, <\|b\|>, <\|a\|>",
        ),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        train_bpe(**{"text": "the cat", "vocab_size": 258} | change)

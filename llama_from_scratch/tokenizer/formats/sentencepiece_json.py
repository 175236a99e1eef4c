"""SentencePiece BPE as Hugging Face's tokenizer.json spells it, read and written."""

import json
import re
from typing import TYPE_CHECKING, Any

from ...files.model_files import AddedToken
from ..bpe import Merges
from ..pieces import SPACE, Kind, Piece, Prefix, tied

if TYPE_CHECKING:
    from ..sentencepiece import SentencePieceTokenizer

# How each rule for the space before a text is spelled, as (normalizer, pre_tokenizer).
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
METASPACE = {"type": "Metaspace", "replacement": SPACE, "split": False}
SPELLINGS: dict[Prefix, tuple[Any, Any]] = {
    "always": ({"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, None),
    "never": (REPLACE, None),
    "if missing": (None, METASPACE | {"prepend_scheme": "always"}),
    "if missing at the start": (None, METASPACE | {"prepend_scheme": "first"}),
}


def vocabulary_from_json(data: dict[str, Any], added: list[AddedToken], merges: Merges) -> dict[str, Any]:
    """The arguments `vocabulary`, `merges` and `prefix` of a `SentencePieceTokenizer`.

    merges: as the file lists them. Those that end in an added token or a byte piece are left out: a text is to hold
        the names of special tokens as ordinary characters, and other added tokens are found before.

    Raises:
        ValueError: if the file asks for something that SentencePiece does not do.
    """
    model = data["model"]
    ids: dict[str, int] = model["vocab"] | {token.content: token.id for token in added}
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"its {len(ids)} tokens do not have the ids 0 to {len(ids) - 1}")
    if model.get("ignore_merges"):
        raise ValueError("it has byte_fallback and ignore_merges together, which is not known here")

    kinds = dict.fromkeys(ids, Kind.NORMAL)
    kinds |= {text: Kind.BYTE for text in ids if re.fullmatch("<0x[0-9A-F]{2}>", text)}
    kinds |= {token.content: Kind.CONTROL for token in added if token.special}
    kinds |= {
        token.content: Kind.USER_DEFINED for token in added if not (token.special or token.content in model["vocab"])
    }
    if (unknown := model.get("unk_token")) in kinds and kinds[unknown] == Kind.CONTROL:
        kinds[unknown] = Kind.UNKNOWN
    texts = sorted(ids, key=ids.__getitem__)
    merges = {pair: found for pair, found in merges.items() if kinds[texts[found[1]]] == Kind.NORMAL}
    scores = _scores(merges)
    return {
        "vocabulary": [Piece(text, scores.get(i, float(-len(merges))), kinds[text]) for i, text in enumerate(texts)],
        "merges": merges,
        "prefix": _prefix(data),
    }


def _scores(merges: Merges) -> dict[int, float]:
    """A score for each piece that is joined: minus its first rank. Pieces whose ranks are mixed had the same score."""
    ranks: dict[int, list[int]] = {}
    for rank, joined in sorted(merges.values()):
        ranks.setdefault(joined, []).append(rank)
    scores: dict[int, float] = {}
    score = end = -1
    for joined, its in ranks.items():
        if its[0] > end:
            score = -its[0]
        scores[joined], end = float(score), max(end, its[-1])
    return scores


def _prefix(data: dict[str, Any]) -> Prefix:
    steps = (data.get("normalizer"), data.get("pre_tokenizer"))
    never = [({"type": "Sequence", "normalizers": [REPLACE]}, None), (None, METASPACE | {"prepend_scheme": "never"})]
    for prefix, spelling in [*SPELLINGS.items(), *(("never", each) for each in never)]:
        if steps == spelling:
            return prefix
    raise ValueError(f"it prepares text in a way that is not known here: {json.dumps(steps)}")


def sentencepiece_parts(tok: "SentencePieceTokenizer") -> dict[str, Any]:
    """The parts of tokenizer.json in which this kind of tokenizer differs from others.

    Raises:
        ValueError: if such a file cannot say what this tokenizer does.
    """
    kinds = [piece.kind for piece in tok.vocabulary]
    found = [piece.text for piece in tok.vocabulary if piece.kind == Kind.USER_DEFINED and piece.text not in tok.added]
    if found:
        text = found[0]
        raise ValueError(f"it finds {text!r} in texts before anything is joined, which tokenizer.json cannot say")
    if any(min(pair) < 0 for pair in tok.merges):
        raise ValueError("some of its pieces hold characters that are no pieces, which tokenizer.json does not allow")
    if equal := tied(tok.merges, tok.vocabulary):
        raise ValueError(
            f"its pieces {', '.join(map(repr, equal[:3]))} have one score, so that the leftmost is joined first; "
            "in tokenizer.json each pair has a rank of its own"
        )
    text = [piece.text for piece in tok.vocabulary]
    n = kinds.index(Kind.USER_DEFINED) if Kind.USER_DEFINED in kinds else len(text)
    if set(kinds[n:]) <= {Kind.USER_DEFINED, Kind.CONTROL}:  # added tokens, which the vocabulary need not list; in it,
        text_in_vocabulary = text[:n]  # one of a single character would be found in every word
    else:
        text_in_vocabulary = text
    by_rank = sorted(tok.merges, key=lambda pair: (tok.merges[pair][0], *(-len(text[i]) for i in pair)))
    normalizer, pre_tokenizer = SPELLINGS[tok.prefix]
    unknown = text[kinds.index(Kind.UNKNOWN)] if Kind.UNKNOWN in kinds else None
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if tok.prefix != "never":
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(text_in_vocabulary)},
            "merges": [(text[left], text[right]) for left, right in by_rank],
        },
    }

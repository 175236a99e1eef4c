"""The entries of a SentencePiece vocabulary, and the merges that follow from their scores."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, NamedTuple

from .bpe import Merges, merges_of_ranked

SPACE = "▁"


class Kind(IntEnum):
    """What a piece is for. The numbers are those of SentencePiece's and of GGUF's files."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # <s>, </s>: never in a text
    USER_DEFINED = 4  # found in every text before anything is joined
    UNUSED = 5
    BYTE = 6  # <0x00> to <0xFF>


SPECIAL = (Kind.UNKNOWN, Kind.CONTROL)


class Piece(NamedTuple):
    text: str
    score: float  # of two joins, the one with the higher score comes first
    kind: Kind


# When a stretch of text gets one more space in front: SentencePiece always does it, and files can switch it off. Newer
# files of Hugging Face's kind do it if there is none yet; some of them only where the text begins, not after a special
# token.
Prefix = Literal["always", "never", "if missing", "if missing at the start"]


def merges_of_scores(ids: dict[str, int], vocabulary: Sequence[Piece]) -> Merges:
    """Pieces join to any piece that is their sum, in the order of its score, the highest first."""
    order = {score: rank for rank, score in enumerate(sorted({p.score for p in vocabulary}, reverse=True))}
    return merges_of_ranked(ids, {i: order[vocabulary[i].score] for i in ids.values() if i >= 0})


def tied(merges: Merges, vocabulary: Sequence[Piece]) -> list[str]:
    """Pieces of one rank, so that the leftmost is joined first, where this cannot be said by giving each pair a rank.

    It can for runs of one character (of spaces, in Mistral's vocabulary): the longer left part first.
    """
    by_rank: dict[int, set[str]] = {}
    for rank, joined in merges.values():
        by_rank.setdefault(rank, set()).add(vocabulary[joined].text)
    return next((sorted(texts) for texts in by_rank.values() if len(texts) > 1 < len(set("".join(texts)))), [])

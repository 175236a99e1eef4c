"""The entries of a SentencePiece vocabulary, and the merges that follow from their scores."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Literal, NamedTuple

from ..files.model_files import AddedToken
from .added import with_ids
from .bpe import Merges, merges_of_ranked

SPACE = "▁"

# The names under which released models end a document, a turn, or a message: generation stops at any of them.
STOP_NAMES = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


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


def with_added_pieces(
    vocabulary: Sequence[Piece], tokens: Iterable[AddedToken]
) -> tuple[list[Piece], list[AddedToken]]:
    """The vocabulary with a piece for each added token, and the added tokens with their ids.

    Raises:
        ValueError: if a token is said to have another id than its place.
    """
    pieces = list(vocabulary)
    placed = with_ids(tokens, {piece.text: i for i, piece in enumerate(pieces)}, len(pieces))
    lowest = min((piece.score for piece in pieces), default=0.0)
    for token in placed:
        kind = Kind.CONTROL if token.special else Kind.USER_DEFINED
        if token.id == len(pieces):
            pieces.append(Piece(token.content, lowest, kind))
        elif token.special and pieces[token.id].kind not in SPECIAL:
            pieces[token.id] = pieces[token.id]._replace(kind=kind)
    return pieces, placed


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

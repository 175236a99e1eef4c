"""SentencePiece BPE, the tokenizer of Llama 1 and 2: spaces are characters like any other, and no text is unknown.

Where byte-level BPE first cuts a text into words and then into bytes, SentencePiece writes "▁" (U+2581) for each space,
one more before the text, and joins characters. A character without a piece of its own is spelled in bytes.
Sources: Kudo and Richardson, 2018, arXiv 1808.06226, sections 3.1 and 3.2; for the order of the joins, the ties and the
decoding of broken bytes, the behaviour of the library `sentencepiece`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from .base import Tokenizer
from .bpe import Merges, merge
from .byte_table import to_utf8
from .formats.gguf_fields import sentencepiece_fields
from .formats.sentencepiece_json import sentencepiece_parts
from .pieces import SPACE, SPECIAL, Kind, Piece, Prefix, merges_of_scores, tied
from .stream import TextStream


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece BPE with byte fallback. Read one with `load_tokenizer`. Its interface is that of `Tokenizer`.

    vocabulary: the piece of each id.
    merges: which two pieces join to which, for files that list this; otherwise it follows from the scores.

    A "▁" in a text is a space to SentencePiece, and comes back as one.

    Raises:
        ValueError: if the vocabulary is not one that SentencePiece could have made, or has no byte fallback.
    """

    def __init__(
        self,
        vocabulary: Sequence[Piece],
        merges: Merges | None = None,
        *,
        prefix: Prefix = "always",
        bos_id: int | None = None,
        eos_id: int | None = None,
        add_bos: bool = True,
        chat_template: str | None = None,
    ) -> None:
        _check(vocabulary)
        self.vocabulary, self.prefix = list(vocabulary), prefix

        def ids_of(*kinds: Kind) -> dict[str, int]:
            return {piece.text: i for i, piece in enumerate(vocabulary) if piece.kind in kinds}

        self._ids_of_bytes = [ids_of(Kind.BYTE)[f"<0x{byte:02X}>"] for byte in range(256)]
        self._user_defined = ids_of(Kind.USER_DEFINED)
        unused = {text: i for text, i in ids_of(Kind.UNUSED).items() if len(text) > 1}  # a character: in bytes
        self._ids_of_text = ids_of(Kind.NORMAL) | unused
        # A character without a piece stands as a negative number until everything is joined.
        missing = set("".join(self._ids_of_text)) - self._ids_of_text.keys()
        self._ids_of_text |= {char: ~ord(char) for char in missing}

        if merges is None:
            merges = merges_of_scores(self._ids_of_text, vocabulary)
        for _, joined in merges.values():
            if vocabulary[joined].kind == Kind.UNUSED:
                raise ValueError(
                    f"piece {joined}, {vocabulary[joined].text!r}, is not to be used although it can be joined from "
                    "others; this is not known here"
                )
        super().__init__(
            pieces=[_bytes_of(piece) for piece in vocabulary],
            merges=merges,
            special=ids_of(*SPECIAL),
            # Text can be cut into words, which is quicker, if no piece reaches across the end of a word.
            patterns=() if any(re.search(f"[^{SPACE}]{SPACE}", text) for text in self._ids_of_text) else (WORD,),
            bos_id=bos_id,
            eos_id=eos_id,
            add_bos=add_bos,
            chat_template=chat_template,
        )
        longest_first = sorted(self._user_defined, key=len, reverse=True)
        self._user_defined_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _new_stream(self) -> TextStream:
        return SentencePieceStream(self)

    def check_scores(self, target: str) -> None:
        """Whether the scores alone say what is joined first; `target` can hold nothing else.

        Raises:
            ValueError: if it is the merges that say it, and in another order.
        """
        derived = merges_of_scores(self._ids_of_text, self.vocabulary)
        if derived == self.merges:
            return
        in_order = sorted(self.merges, key=lambda pair: self.merges[pair][0])
        ranks = [derived[pair][0] for pair in in_order if pair in derived]
        if derived.keys() != self.merges.keys() or ranks != sorted(ranks) or tied(derived, self.vocabulary):
            raise ValueError(f"the order of its merges depends on the pair; {target} holds one score for each piece")

    def json_parts(self) -> dict[str, Any]:
        return sentencepiece_parts(self)

    def gguf_fields(self) -> dict[str, Any]:
        return sentencepiece_fields(self)

    def _encode_ordinary(self, text: str, at_start: bool = True) -> list[int]:
        if not text:
            return []
        text = text.replace(" ", SPACE)
        missing = not text.startswith(SPACE)
        rule: Prefix = self.prefix
        if rule == "always" or missing and (rule == "if missing" or rule == "if missing at the start" and at_start):
            text = SPACE + text
        ids: list[int] = []
        start = 0
        for match in self._user_defined_pattern.finditer(text):
            ids += super()._encode_ordinary(text[start : match.start()])
            ids.append(self._user_defined[match[0]])
            start = match.end()
        return ids + super()._encode_ordinary(text[start:])

    def _encode_piece(self, piece: str) -> list[int]:
        ids: list[int] = []
        for symbol in merge([self._ids_of_text.get(char, ~ord(char)) for char in piece], self.merges):
            ids += [symbol] if symbol >= 0 else [self._ids_of_bytes[byte] for byte in to_utf8(chr(~symbol))]
        return ids


WORD = f"{SPACE}*[^{SPACE}]+|{SPACE}+"


class SentencePieceStream(TextStream):
    """Text token by token, special tokens by their names. (SentencePiece leaves them out; all else is as there.)

    The space before the text is dropped where the text begins, and nowhere else. Each byte that belongs to no character
    becomes one U+FFFD.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        super().__init__(tokenizer.pieces, errors="surrogateescape")  # marks bytes that are not UTF-8 one by one
        self._vocabulary = tokenizer.vocabulary
        self._waiting = tokenizer.prefix != "never"

    def push(self, token: int) -> str:
        text = super().push(token).translate(REPLACED)
        kind = self._vocabulary[token].kind
        if self._waiting and kind not in SPECIAL:
            self._waiting = False
            if kind != Kind.BYTE:
                return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        return super().flush().translate(REPLACED)


REPLACED = dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd")  # what "surrogateescape" makes of the bytes 0x80 to 0xFF


def _bytes_of(piece: Piece) -> bytes:
    if piece.kind == Kind.BYTE:
        return bytes([int(piece.text[3:5], 16)])
    return (piece.text if piece.kind in SPECIAL else piece.text.replace(SPACE, " ")).encode()


def _check(vocabulary: Sequence[Piece]) -> None:
    first: dict[str, int] = {}
    for i, piece in enumerate(vocabulary):
        if not piece.text:
            raise ValueError(f"piece {i} is empty; each piece of a vocabulary has a text")
        if first.setdefault(piece.text, i) != i:
            raise ValueError(f"the pieces {first[piece.text]} and {i} are both {piece.text!r}; each may stand once")
        if not math.isfinite(piece.score):
            raise ValueError(f"piece {i}, {piece.text!r}, has the score {piece.score}; scores are finite numbers")
    in_bytes = {piece.text for piece in vocabulary if piece.kind == Kind.BYTE}
    needed = {f"<0x{byte:02X}>" for byte in range(256)}
    if in_bytes != needed:
        wrong = min(in_bytes ^ needed)
        raise ValueError(
            f"its byte pieces are {len(in_bytes)}, and {wrong!r} is {'missing' if wrong in needed else 'none'}; "
            "only SentencePiece models with byte fallback, the 256 pieces <0x00> to <0xFF>, are known here"
        )

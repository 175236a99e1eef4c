"""tokenizer.model, SentencePiece's own file: a message in the encoding of Protocol Buffers.

Such a message is a row of fields. Each begins with its number and the form of its value. The encoding is described at
protobuf.dev/programming-guides/encoding, the meaning of the numbers in SentencePiece's sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files.model_files import NOTHING, ModelFiles
from ..pieces import SPECIAL, Kind, Piece, with_added_pieces
from ..sentencepiece import SentencePieceTokenizer
from .named import named_ids

VARINT, BYTES, FLOAT = 0, 2, 5  # the forms that we need; 1 is a number of 8 bytes
SIZES = {1: 8, FLOAT: 4}

# (number, form) of the fields that we need. Of ModelProto:
PIECE, TRAINER, NORMALIZER, DENORMALIZER = (1, BYTES), (2, BYTES), (3, BYTES), (5, BYTES)
TEXT, SCORE, KIND = (1, BYTES), (2, FLOAT), (3, VARINT)  # of SentencePiece
# of TrainerSpec:
MODEL_TYPE, SUFFIX, BYTE_FALLBACK = (3, VARINT), (24, VARINT), (35, VARINT)
UNK_ID, BOS_ID, EOS_ID, PAD_ID = (40, VARINT), (41, VARINT), (42, VARINT), (43, VARINT)
UNK_PIECE, BOS_PIECE, EOS_PIECE = (45, BYTES), (46, BYTES), (47, BYTES)
# of NormalizerSpec:
NAME, RULES, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = (1, BYTES), (2, BYTES), (3, VARINT), (4, VARINT), (5, VARINT)

BPE = 2  # MODEL_TYPE; its default is 1, unigram
NONE = 2**64 - 1  # how -1 is spelled, which stands for "there is no such token"


def read_sentencepiece(path: Path, beside: ModelFiles = NOTHING) -> SentencePieceTokenizer:
    """Read a SentencePiece BPE model.

    Raises:
        ValueError: for a damaged file, another kind of model, or one that changes the text before it cuts it.
    """
    try:
        return _build(path.read_bytes(), beside)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a SentencePiece model: {error}; "
            "download it again, or take this model's tokenizer.json"
        ) from None


def _build(data: bytes, beside: ModelFiles) -> SentencePieceTokenizer:
    vocabulary = []
    specs: dict[tuple[int, int], dict] = {TRAINER: {}, NORMALIZER: {}, DENORMALIZER: {}}
    for key, value in fields(data):
        if key == PIECE:
            vocabulary.append(_piece(dict(fields(value)), len(vocabulary)))
        elif key in specs:
            specs[key].update(fields(value))
    trainer, normalizer = specs[TRAINER], specs[NORMALIZER]
    if not vocabulary:
        raise ValueError("it holds no pieces")
    if trainer.get(MODEL_TYPE, 1) != BPE:
        kind = {1: "unigram", 3: "word", 4: "char"}.get(trainer.get(MODEL_TYPE, 1), "unknown")
        raise ValueError(f"its kind is {kind}; only BPE, the kind of Llama 1 and 2, is known here")
    if normalizer.get(RULES) or specs[DENORMALIZER].get(RULES) or normalizer.get(REMOVE_SPACES, 1):
        name = normalizer.get(NAME, b"").decode(errors="replace") or "without a name"
        spaces = ", and takes out spaces" if normalizer.get(REMOVE_SPACES, 1) else ""
        raise ValueError(
            f"it changes text before cutting it (normaliser {name!r}{spaces}); "
            "only models that leave text as it is ('identity', as for Llama 1 and 2) are known here"
        )
    if trainer.get(SUFFIX, 0) or not normalizer.get(ESCAPE_SPACES, 1):
        raise ValueError("it does not write each space as ▁ before its word; only models that do are known here")

    def special(key: tuple[int, int], default: int) -> int | None:
        token = trainer.get(key, default)
        if token == NONE:
            return None
        if token >= len(vocabulary) or vocabulary[token].kind != Kind.CONTROL:
            raise ValueError(f"its bos or eos token is {token}, which is not a control piece of its vocabulary")
        return token

    own = [None if token is None else vocabulary[token].text for token in (special(BOS_ID, 1), special(EOS_ID, 2))]
    # transformers has no normalizer for these files, so that an added token is found within a word, too.
    as_they_are = (token._replace(normalized=False) for token in beside.added)
    vocabulary, added = with_added_pieces(vocabulary, as_they_are)
    control = {piece.text: i for i, piece in enumerate(vocabulary) if piece.kind in SPECIAL}
    settings = named_ids(beside, control, *own)
    return SentencePieceTokenizer(
        vocabulary,
        added=added,
        prefix="always" if normalizer.get(DUMMY_PREFIX, 1) else "never",
        # tokenizer.model does not say; Llama 1 and 2 always do.
        add_bos=settings["bos_id"] is not None and beside.add_bos is not False,
        **settings,
    )


def _piece(message: dict[tuple[int, int], Any], i: int) -> Piece:
    kind = message.get(KIND, Kind.NORMAL)
    if kind not in list(Kind):
        raise ValueError(f"piece {i} is of kind {kind}; the kinds are {', '.join(f'{k} ({k.name})' for k in Kind)}")
    (score,) = struct.unpack("<f", message.get(SCORE, bytes(4)))
    try:
        return Piece(message.get(TEXT, b"").decode(), score, Kind(kind))
    except UnicodeDecodeError:
        raise ValueError(f"piece {i} is not valid UTF-8") from None


def sentencepiece_file(tok: SentencePieceTokenizer) -> bytes:
    """What `read_sentencepiece` and the library itself read.

    Raises:
        ValueError: if such a file cannot say what this tokenizer does.
    """
    if tok.prefix not in ("always", "never"):
        raise ValueError(f"a space goes before its texts {tok.prefix}; a SentencePiece model cannot say that")
    if tok.added:
        raise ValueError(
            f"it finds {next(iter(tok.added))!r} in texts as tokenizer.json says; a SentencePiece model cannot"
        )
    tok.check_scores("a SentencePiece model")
    unknown = [(i, piece) for i, piece in enumerate(tok.vocabulary) if piece.kind == Kind.UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"its vocabulary has {len(unknown)} pieces of kind UNKNOWN; a SentencePiece model has one")
    trainer = [field(MODEL_TYPE, BPE), field(BYTE_FALLBACK, 1), field(PAD_ID, NONE)]
    names = [(UNK_ID, UNK_PIECE, unknown[0][0]), (BOS_ID, BOS_PIECE, tok.bos_id), (EOS_ID, EOS_PIECE, tok.eos_id)]
    for id_key, text_key, token in names:
        trainer.append(field(id_key, NONE if token is None else token))
        if token is not None:
            trainer.append(field(text_key, tok.vocabulary[token].text.encode()))
    normalizer = [field(NAME, b"identity"), field(DUMMY_PREFIX, tok.prefix == "always"), field(REMOVE_SPACES, 0)]
    pieces = [
        field(PIECE, field(TEXT, text.encode()) + field(SCORE, struct.pack("<f", score)) + field(KIND, kind))
        for text, score, kind in tok.vocabulary
    ]
    return b"".join([*pieces, field(TRAINER, b"".join(trainer)), field(NORMALIZER, b"".join(normalizer))])


def fields(message: bytes) -> Iterator[tuple[tuple[int, int], Any]]:
    """The fields of a message, as ((number, form), value): an int, or bytes, which may be a message again.

    Raises:
        ValueError: if the message ends in the middle of a field, or holds a form that the encoding does not have.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, form = key >> 3, key & 7
        if form == VARINT:
            value, at = _varint(message, at)
        elif form == BYTES or form in SIZES:
            size, at = (SIZES[form], at) if form in SIZES else _varint(message, at)
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise ValueError(f"it ends after {len(message)} bytes, in the middle of a field")
        else:
            raise ValueError(f"a field has the form {form}, which is not in use")
        yield (number, form), value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, the lowest first, and where it ends. The last byte is below 128."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError(f"it ends after {len(message)} bytes, in the middle of a number")
        byte, at = message[at], at + 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number is longer than 10 bytes")


def field(key: tuple[int, int], value: int | bytes) -> bytes:
    """One field of a message."""
    number, form = key
    head = _to_varint(number << 3 | form)
    if form == VARINT:
        return head + _to_varint(int(value))
    return head + (_to_varint(len(value)) if form == BYTES else b"") + value


def _to_varint(number: int) -> bytes:
    low = bytearray()
    while number >= 128:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes([*low, number])

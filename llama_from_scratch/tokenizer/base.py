"""The tokenizer: text in, token ids out, and back."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from .bpe import Merges, merge
from .byte_table import to_utf8
from .chat import check_messages, fill_in, split_special
from .chat_formats import Message, Special, choose_format, write
from .formats.gguf_fields import byte_level_fields
from .formats.save import byte_level_parts, save_hugging_face_tokenizer
from .split import compile_patterns, split
from .stream import TextStream

# The names under which released models end a document, a turn, or a message: generation stops at any of them.
STOP_NAMES = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


class Tokenizer:
    """Byte-level BPE over a given vocabulary. Read one with `load_tokenizer`.

    pieces: the bytes of each token, by id.
    merges: which two tokens join to which, and the rank of that join.
    special: the text of each special token and its id. In a text they are ordinary characters unless allowed.
    patterns: regular expressions (of the package `regex`) that cut a text into pieces, applied one after another.
    whole_first: a piece that is itself a token is taken whole, before any merge (Llama 3: 588 of its tokens
        cannot be reached by merging).
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        merges: Merges,
        special: dict[str, int],
        patterns: Sequence[str],
        *,
        whole_first: bool = False,
        bos_id: int | None = None,
        eos_id: int | None = None,
        add_bos: bool = False,
        chat_template: str | None = None,
    ) -> None:
        named = [*special.items(), ("bos", bos_id), ("eos", eos_id)]
        for name, token in named:
            if token is not None and not 0 <= token < len(pieces):
                raise ValueError(f"the {name} token is {token}; the vocabulary has the ids 0 to {len(pieces) - 1}")
        if add_bos and bos_id is None:
            raise ValueError("texts are to begin with the bos token, and no bos token is given")
        self.pieces = list(pieces)
        self.special = dict(special)
        self.bos_id, self.eos_id, self.add_bos = bos_id, eos_id, add_bos
        self.chat_template = chat_template
        self.other_names: dict[str, str] = {}  # more of `special_names`, if the files have them: pad_token and its like
        stops = {special[name] for name in STOP_NAMES if name in special}
        self.stop_ids: frozenset[int] = frozenset(stops if eos_id is None else stops | {eos_id})

        self.merges, self.whole_first, self.patterns = merges, whole_first, tuple(patterns)

        self._patterns = compile_patterns(patterns)
        ordinary = set(range(len(self.pieces))) - set(special.values())
        self._ids = {self.pieces[token]: token for token in ordinary}
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def tokens(self) -> list[str]:
        """Each token as text, by id; U+FFFD stands for the bytes of an unfinished character."""
        return [piece.decode("utf-8", errors="replace") for piece in self.pieces]

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The token ids of `text`, after the bos token if the model was trained to see one.

        allow_special: read "<|im_end|>" and its like as the special token, not as ten characters. Only for text
            that you wrote yourself: whoever writes special tokens can speak in any role.

        Raises:
            ValueError: if a byte of the text is in no token. (SmolLM2 has 235 of the 256: no U+0004, for one.)
        """
        ids = self._encode_parts(split_special(text, text, self.special) if allow_special else [text])
        if self.add_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens by their names; U+FFFD where the bytes are no UTF-8.

        Raises:
            ValueError: for an id that is not in the vocabulary.
        """
        stream = self.stream()
        return "".join([stream.push(token) for token in ids]) + stream.flush()

    def stream(self, after: Iterable[int] = ()) -> TextStream:
        """A decoder for tokens that come one at a time: those that follow `after`, whose own text it does not give."""
        stream = self._new_stream()
        for token in after:
            stream.push(token)
        return stream

    def _new_stream(self) -> TextStream:
        return TextStream(self.pieces)

    @property
    def special_names(self) -> dict[str, str]:
        """The special tokens that have a name in a chat template, such as {"bos_token": "<s>"}."""
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        return self.other_names | {name: self.tokens[token] for name, token in named.items() if token is not None}

    def chat_format(self, format: str | None = None) -> str:
        """The format in which `chat` writes a conversation: "template", "llama3", "chatml" or "llama2".

        It is `format` where that is given, or else the chat template of the model's files, or else the format whose
        special tokens the vocabulary has.

        Raises:
            ValueError: if none of these is known, or this vocabulary cannot write `format`.
        """
        return "template" if format is None and self.chat_template is not None else choose_format(format, self.special)

    def chat(self, messages: list[Message], format: str | None = None) -> list[int]:
        """The token ids of a conversation, ready for the assistant's next answer, in the format of `chat_format`.

        Special tokens that stand in the messages are read as ordinary characters: nobody can end their own turn and
        speak as someone else.

        Raises:
            ValueError: if no format is known, or the format refuses the messages.
        """
        chosen, messages = self.chat_format(format), check_messages(messages)
        if chosen == "template":
            return self._encode_parts(fill_in(self.chat_template, messages, self.special, self.special_names))
        ids = self._encode_parts(write(chosen, messages))
        if self.add_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer as files that `load_tokenizer` and transformers read (see `save.py`).

        Raises:
            OSError: if the folder cannot be written; what was there stays as it was.
            ValueError: if `folder` is a file, or a tokenizer.json cannot say what this tokenizer does.
        """
        save_hugging_face_tokenizer(self, Path(folder))

    def gguf_fields(self) -> dict[str, Any]:
        """The metadata that holds this tokenizer in a GGUF file.

        Raises:
            ValueError: if GGUF cannot say what this tokenizer does.
        """
        return byte_level_fields(self)

    def json_parts(self) -> dict[str, Any]:
        """The parts of tokenizer.json in which one kind of tokenizer differs from another.

        Raises:
            ValueError: if such a file cannot say what this tokenizer does.
        """
        return byte_level_parts(self)

    def _encode_parts(self, parts: Iterable[str]) -> list[int]:
        """Special tokens as such, and each text between them as an ordinary one."""
        ids: list[int] = []
        for i, part in enumerate(parts):
            ids += [self.special[part]] if isinstance(part, Special) else self._encode_ordinary(part, at_start=i == 0)
        return ids

    def _encode_ordinary(self, text: str, at_start: bool = True) -> list[int]:
        """`at_start` says that no special token stands before `text`. To byte-level BPE it makes no difference."""
        ids: list[int] = []
        for piece in split(text, self._patterns):
            found = self._cache.get(piece)
            if found is None:
                found = self._encode_piece(piece)
                if len(self._cache) < 100_000 and len(piece) <= 100:  # enough for the words of any text, and not more
                    self._cache[piece] = found
            ids += found
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        raw = to_utf8(piece)
        if self.whole_first and raw in self._ids:
            return [self._ids[raw]]
        try:
            single = [self._ids[raw[i : i + 1]] for i in range(len(raw))]
        except KeyError as error:
            char = next(c for c in piece if error.args[0] in c.encode())
            raise ValueError(
                f"this model's vocabulary cannot spell {char!r} (U+{ord(char):04X}): "
                f"no token has the byte 0x{error.args[0][0]:02X}; take the character out"
            ) from None
        return merge(single, self.merges)

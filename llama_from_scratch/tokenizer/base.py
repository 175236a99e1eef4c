"""The tokenizer: text in, token ids out, and back."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from .bpe import Merges, merge
from .byte_table import to_utf8
from .chat import Format, Message, format_of, render
from .formats.gguf_fields import byte_level_fields
from .formats.save import byte_level_parts, save_hugging_face_tokenizer
from .split import compile_patterns, split
from .stream import TextStream

# The names under which released models end a document, a turn, or a message: generation stops at any of them.
STOP_NAMES = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


Errors = Literal["strict", "replace", "ignore"]
ERRORS: tuple[Errors, ...] = get_args(Errors)


class SpellingError(ValueError):
    """A text holds a character that the vocabulary cannot spell. The message is `problem`, then what to do."""

    def __init__(self, problem: str, advice: str = "take the character out") -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem = problem


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
        stops = {special[name] for name in STOP_NAMES if name in special}
        self.stop_ids: frozenset[int] = frozenset(stops if eos_id is None else stops | {eos_id})

        self.merges, self.whole_first, self.patterns = merges, whole_first, tuple(patterns)

        self._patterns = compile_patterns(patterns)
        ordinary = set(range(len(self.pieces))) - set(special.values())
        self._ids = {self.pieces[token]: token for token in ordinary}
        self._cache: dict[str, list[int]] = {}
        longest_first = sorted(special, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def tokens(self) -> list[str]:
        """Each token as text, by id; U+FFFD stands for the bytes of an unfinished character."""
        return [piece.decode("utf-8", errors="replace") for piece in self.pieces]

    def encode(self, text: str, allow_special: bool = False, errors: Errors = "strict") -> list[int]:
        """The token ids of `text`, after the bos token if the model was trained to see one.

        allow_special: read "<|im_end|>" and its like as the special token, not as ten characters. Only for text
            that you wrote yourself: whoever writes special tokens can speak in any role.

        errors: for characters that the vocabulary cannot spell (see `unspellable`): "strict" raises, "replace" encodes
            U+FFFD instead, or "?" if the vocabulary cannot spell that either, and "ignore" leaves them out.

        Raises:
            SpellingError: if errors is "strict" and a byte of the text is in no token. (SmolLM2 has 235 of the 256: no
                U+0004, for one.)
            ValueError: if errors is something else.
        """
        if errors not in ERRORS:
            raise ValueError(f"errors is {errors!r}; it must be one of {', '.join(ERRORS)}")
        if errors != "strict":
            substitute = next((c for c in "\ufffd?" if self._can_spell(c)), "") if errors == "replace" else ""
            text = text.translate({ord(char): substitute for char in self.unspellable(text)})
        try:
            ids = self._encode_special(text) if allow_special else self._encode_ordinary(text)
        except SpellingError as error:
            advice = 'take the character out, or pass errors="replace" or errors="ignore"'
            raise SpellingError(error.problem, advice) from None
        if self.add_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def unspellable(self, text: str) -> list[str]:
        """The characters of a text that `encode` cannot spell, in order: those with a byte that is in no token, and
        surrogates, which are not Unicode characters."""
        able = {char: self._can_spell(char) for char in set(text)}
        return [char for char in text if not able[char]]

    def _can_spell(self, char: str) -> bool:
        return not "\ud800" <= char <= "\udfff" and all(bytes([byte]) in self._ids for byte in char.encode())

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

    def chat(self, messages: list[Message]) -> list[int]:
        """The token ids of a conversation in the model's own format, ready for the assistant's next answer.

        The format is the chat template of the model's files. If they have none, it is the one whose special tokens
        the vocabulary has: Llama 3's, ChatML, or Llama 2's.

        Special tokens that stand in the messages are read as plain characters: nobody can end their own turn and
        speak as someone else.

        Raises:
            ValueError: if the model has no format for chats, or the format refuses the messages.
        """
        form = self.chat_template if self.chat_template is not None else self._own_chat_format()
        if form is None:
            raise ValueError("this model has no chat template; it continues text: use generate, or an Instruct model")
        bos, eos = ("" if i is None else self.tokens[i] for i in (self.bos_id, self.eos_id))
        rendered, marker = render(form, messages, list(self.special), bos, eos)
        ids = self._encode_special(rendered, marker)
        if self.chat_template is None and self.add_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)  # a template has written it, if the model is to see one
        return ids

    def _own_chat_format(self) -> Format | None:
        return format_of(self.special)

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

    def _encode_special(self, text: str, marker: str = "") -> list[int]:
        """Special tokens as such, and what lies between them as ordinary text without `marker`."""
        ids: list[int] = []
        start = 0
        for match in self._special_pattern.finditer(text):
            ids += self._encode_ordinary(text[start : match.start()].replace(marker, ""), at_start=start == 0)
            ids.append(self.special[match[0]])
            start = match.end()
        return ids + self._encode_ordinary(text[start:].replace(marker, ""), at_start=start == 0)

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
            raise SpellingError(
                f"this model's vocabulary cannot spell {char!r} (U+{ord(char):04X}): "
                f"no token has the byte 0x{error.args[0][0]:02X}"
            ) from None
        return merge(single, self.merges)

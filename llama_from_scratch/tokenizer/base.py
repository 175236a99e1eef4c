"""The tokenizer: text in, token ids out, and back."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ..files.model_files import AddedToken
from .added import AddedTokens
from .bpe import Merges, merge
from .byte_table import to_utf8
from .chat import check_messages, fill_in
from .chat_formats import Message, Special, choose_format, write
from .formats.gguf_fields import byte_level_fields
from .formats.save import byte_level_parts, save_hugging_face_tokenizer
from .pieces import STOP_NAMES
from .split import compile_patterns, split
from .stream import TextStream

Errors = Literal["strict", "replace", "ignore"]
ERRORS: tuple[Errors, ...] = get_args(Errors)


class SpellingError(ValueError):
    """A text holds a character that the vocabulary cannot spell. The message: `problem`, a semicolon, `advice`."""

    def __init__(self, problem: str, advice: str = "take the character out") -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem, self.advice = problem, advice


class Tokenizer:
    """Byte-level BPE over a given vocabulary. Read one with `load_tokenizer`.

    pieces: the bytes of each token, by id.
    merges: which two tokens join to which, and the rank of that join.
    special: the text of each special token and its id. In a text they are ordinary characters unless allowed.
    patterns: regular expressions (of the package `regex`) that cut a text into pieces, applied one after another.
    whole_first: a piece that is itself a token is taken whole, before any merge (Llama 3: 588 of its tokens
        cannot be reached by merging).
    added: the added tokens that are not special, such as <think>, which are found in every text; and special tokens
        with options such as `rstrip`.
    bos_id, eos_id, pad_id: the tokens that begin and end a text, and the one that fills up a batch.
    add_bos: whether `encode` puts bos before a text.
    stop_ids: further tokens at which generation stops. The attribute of this name holds all of them: these, eos, and
        the special tokens that end a turn by their name (`STOP_NAMES`).
    chat_template: a Jinja template for chats. templates: several, by name; `chat` takes the one called "default".
    other_names: more of `special_names`, such as {"unk_token": "<unk>"}.
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
        pad_id: int | None = None,
        add_bos: bool = False,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
        templates: dict[str, str] | None = None,
        added: Iterable[AddedToken] = (),
        other_names: dict[str, str] | None = None,
    ) -> None:
        self.added = {token.content: token for token in added}
        ordinary_added = {token.content: token.id for token in self.added.values() if not token.special}
        named = [*special.items(), *ordinary_added.items(), ("bos", bos_id), ("eos", eos_id), ("pad", pad_id)]
        for name, token in named:
            if token is not None and not 0 <= token < len(pieces):
                raise ValueError(f"the {name} token is {token}; the vocabulary has the ids 0 to {len(pieces) - 1}")
        if add_bos and bos_id is None:
            raise ValueError("texts are to begin with the bos token, and no bos token is given")
        self.pieces = list(pieces)
        self.special = dict(special)
        self.bos_id, self.eos_id, self.pad_id, self.add_bos = bos_id, eos_id, pad_id, add_bos
        self.templates = dict(templates or {}) | ({} if chat_template is None else {"default": chat_template})
        self.other_names = dict(other_names or {})
        by_name = {special[name] for name in STOP_NAMES if name in special}
        self.stop_ids: frozenset[int] = frozenset(by_name | set(stop_ids) | ({eos_id} - {None}))

        self.merges, self.whole_first, self.patterns = merges, whole_first, tuple(patterns)

        self._patterns = compile_patterns(patterns)
        ordinary = (
            set(range(len(self.pieces)))
            - set(special.values())
            - {token for text, token in ordinary_added.items() if len(text.encode()) > 1}
        )
        self._ids = {self.pieces[token]: token for token in ordinary}
        self._cache: dict[str, list[int]] = {}
        in_text = [
            *(self.added.get(name) or AddedToken(name, token, special=True) for name, token in special.items()),
            *(token for token in self.added.values() if not token.special),
        ]
        # Two searches, as in tokenizers: special tokens are always part of the first.
        self._added = AddedTokens(token for token in in_text if token.special or not token.normalized)
        self._normalized = AddedTokens(
            (token for token in in_text if not token.special and token.normalized), self._normalize
        )

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def chat_template(self) -> str | None:
        """The chat template called "default"."""
        return self.templates.get("default")

    @chat_template.setter
    def chat_template(self, template: str | None) -> None:
        self.templates.pop("default", None)
        self.templates |= {} if template is None else {"default": template}

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
            ids = self._encode_text(text, allow_special)
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
        """The text of `ids`, special tokens by their names; U+FFFD where the bytes are not UTF-8.

        An id without a token gives no text: a model may have more rows than its tokenizer has tokens, and draw one.

        Raises:
            ValueError: for a negative id.
        """
        stream = self.stream()
        return "".join([stream.push(token) for token in ids]) + stream.flush()

    def stream(self, after: Iterable[int] = ()) -> TextStream:
        """A decoder for tokens that come one at a time, after the tokens `after`, whose text it does not give."""
        stream = self._new_stream()
        for token in after:
            stream.push(token)
        return stream

    def _new_stream(self) -> TextStream:
        return TextStream(self.pieces)

    @property
    def special_names(self) -> dict[str, str]:
        """The special tokens that have a name in a chat template, such as {"bos_token": "<s>"}."""
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        return self.other_names | {name: self.tokens[token] for name, token in named.items() if token is not None}

    def chat_format(self, format: str | None = None) -> str:
        """The format in which `chat` writes a conversation: "template", "llama3", "chatml" or "llama2", or the name of
        one of the model's chat templates if it has several.

        It is `format` where that is given, or else the model's chat template, or else the format whose special tokens
        the vocabulary has.

        Raises:
            ValueError: if none of these is known, if this vocabulary cannot write `format`, or if the model has several
                chat templates, none of them is called "default", and no format is given.
        """
        if format is None and self.chat_template is not None:
            return "template"
        if format is None and self.templates:
            raise ValueError(
                f"this model has chat templates called {', '.join(self.templates)} and none called default; choose one "
                "with --chat-format (in Python format=)"
            )
        return format if format in self.templates else choose_format(format, self.special)

    def chat(self, messages: list[Message], format: str | None = None) -> list[int]:
        """The token ids of a conversation, ready for the assistant's next answer, in the format of `chat_format`.

        Special tokens that stand in the messages are read as ordinary characters: nobody can end their own turn and
        speak as someone else.

        Raises:
            ValueError: if no format is known, or the format refuses the messages.
        """
        chosen, messages = self.chat_format(format), check_messages(messages)
        template = self.chat_template if chosen == "template" else self.templates.get(chosen)
        if template is not None:
            return self._encode_parts(fill_in(template, messages, self.special, self.special_names))
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
        """Special tokens as such, and each text between them as an ordinary one, less the whitespace that an option of
        the token beside it takes."""
        parts, ids = list(parts), []

        def takes(i: int, option: str) -> bool:
            token = self.added.get(parts[i]) if 0 <= i < len(parts) and isinstance(parts[i], Special) else None
            return token is not None and getattr(token, option)

        for i, part in enumerate(parts):
            if isinstance(part, Special):
                ids.append(self.special[part])
                continue
            part = part.lstrip() if takes(i - 1, "rstrip") else part
            part = part.rstrip() if takes(i + 1, "lstrip") else part
            ids += self._encode_text(part, allow_special=False, at_start=i == 0)
        return ids

    def _encode_text(self, text: str, allow_special: bool, at_start: bool = True) -> list[int]:
        ids: list[int] = []
        start = 0
        for part, token in self._added.split(text, allow_special):
            ids += [token.id] if token is not None else self._encode_between(part, at_start=at_start and start == 0)
            start += len(part)
        return ids

    def _encode_between(self, text: str, at_start: bool) -> list[int]:
        """Text between added tokens. at_start: whether it begins the whole text, which byte-level BPE does not need."""
        ids: list[int] = []
        for part, token in self._normalized.split(text, allow_special=False):
            ids += self._encode_words(part) if token is None else [token.id]
        return ids

    def _normalize(self, text: str) -> str:
        """How the text is changed before normalized added tokens are searched in it."""
        return text

    def _encode_words(self, text: str) -> list[int]:
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

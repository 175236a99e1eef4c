"""Added tokens: found in a text before anything is joined. The rules are those of the library `tokenizers`."""

import re
from collections.abc import Callable, Iterable, Iterator

from ..files.model_files import AddedToken
from .split import compile_patterns


class AddedTokens:
    """Finds added tokens in a text: the leftmost, and of several that begin there the longest.

    spell: how the text is changed before it is searched (`AddedToken.normalized`), which is done to the tokens, too.
    """

    def __init__(self, tokens: Iterable[AddedToken], spell: Callable[[str], str] = str) -> None:
        self._tokens = {spell(token.content): token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._space, self._word = compile_patterns((r"\s", r"\w"))  # Unicode's, as in Rust; Python's own differ

    def split(self, text: str, allow_special: bool) -> Iterator[tuple[str, AddedToken | None]]:
        """The parts of `text` in order: ordinary text with None, or what an added token takes, with that token.

        allow_special: False leaves special tokens as ordinary text.
        """
        start = 0
        for match in self._pattern.finditer(text):
            token, (begin, end) = self._tokens[match[0]], match.span()
            if token.special and not allow_special:
                continue
            if token.single_word and any(
                self._word.match(beside) for beside in (text[begin - 1 : begin], text[end : end + 1])
            ):
                continue
            while token.lstrip and begin > start and self._space.match(text[begin - 1]):
                begin -= 1
            while token.rstrip and end < len(text) and self._space.match(text[end]):
                end += 1
            begin = max(begin, start)  # the rstrip of the token before may have taken its first characters
            if begin > start:
                yield text[start:begin], None
            yield text[begin:end], token
            start = max(end, start)
        if start < len(text):
            yield text[start:], None


def with_ids(tokens: Iterable[AddedToken], ids: dict[str, int], n: int) -> list[AddedToken]:
    """The added tokens, each with its id: that of its text in the vocabulary, or else the next free one.

    ids: of the vocabulary, and of added tokens before these. n: how many ids are taken.

    Raises:
        ValueError: if a token is said to have another id. (tokenizers goes by the order alone, and a model was trained
            on one of the two.)
    """
    placed = []
    for token in tokens:
        found = ids.get(token.content, n)
        if token.id not in (None, found):
            raise ValueError(
                f"the added token {token.content!r} is said to have the id {token.id}, but its place is {found}"
            )
        n += found == n
        placed.append(token._replace(id=found))
    return placed

"""tokenizer.model of Llama 3: tiktoken's list of tokens, one a line, as base64 of the bytes, a space and the rank."""

import base64
import binascii
from pathlib import Path

from ...files.model_files import NOTHING, ModelFiles
from ..added import with_ids
from ..base import Tokenizer
from ..bpe import merges_of_ranked
from ..split import LLAMA3
from .named import named_ids

N_SPECIAL = 256  # ids after the tokens of the file
_named = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"),
]
# Their order is not in the file. Source: Meta's package llama-models 0.3.0, llama3/tokenizer.py. Hugging Face's files
# give other names to some of those that no text model uses (<|step_id|> and <|image|> are reserved tokens there).
SPECIAL = _named + [f"<|reserved_special_token_{2 + i}|>" for i in range(N_SPECIAL - len(_named))]


def read_tiktoken(path: Path, beside: ModelFiles = NOTHING) -> Tokenizer:
    """Read a vocabulary that is used as Llama 3 uses its own: its pattern, whole pieces first, 256 special tokens last.

    Meta's own code first cuts a text after every 400,000 characters, and in runs of more than 25,000 characters without
    a space or of spaces alone, because of limits of the library `tiktoken`. That changes the tokens at the cuts. It is
    not done here, nor by Hugging Face.

    Raises:
        ValueError: for a damaged file; the message names the line.
    """
    try:
        tokens = _tokens(path.read_bytes())
        merges = merges_of_tokens(tokens)
        special = _special(len(tokens), beside)
        in_vocabulary = special | {token.decode("utf-8", "replace"): i for i, token in enumerate(tokens)}
        added = with_ids(
            (t for t in beside.added if t.content not in special), in_vocabulary, len(tokens) + len(special)
        )
        special |= {token.content: token.id for token in added if token.special}
        settings = named_ids(beside, special, bos="<|begin_of_text|>", eos="<|end_of_text|>")
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a tiktoken vocabulary: {error}; "
            "download it again, or take this model's tokenizer.json"
        ) from None
    by_id = {i: token for i, token in enumerate(tokens)}
    by_id |= {token.id: token.content.encode() for token in added} | {i: name.encode() for name, i in special.items()}
    return Tokenizer(
        pieces=[by_id[i] for i in range(len(by_id))],
        merges=merges,
        special=special,
        patterns=(LLAMA3,),
        whole_first=True,
        add_bos=beside.add_bos is not False,
        added=added,
        **settings,
    )


def _special(n: int, beside: ModelFiles) -> dict[str, int]:
    """The special tokens after the n of the file. Files beside it may give reserved ones other names."""
    names = {n + i: name for i, name in enumerate(SPECIAL)}
    names |= {token.id: token.content for token in beside.added if token.id in names}
    special = {name: i for i, name in names.items()}
    if len(special) < len(names):
        raise ValueError("the files beside it give two of its special tokens one name")
    return special


def tiktoken_file(tok: Tokenizer) -> bytes:
    """What `read_tiktoken` and Meta's code read. (To both, the end of a text is <|end_of_text|>, and Llama 3 Instruct
    in Hugging Face's form calls <|eot_id|> so; generation stops at either.)

    Raises:
        ValueError: if such a file cannot say what this tokenizer does.
    """
    if tok.added:
        raise ValueError(f"it has the added token {next(iter(tok.added))!r}; tiktoken's file cannot say that")
    n = len(tok) - N_SPECIAL
    theirs = {name: n + i for i, name in enumerate(SPECIAL)}
    ours = {name: i for name, i in tok.special.items() if not name.startswith("<|reserved_special_token_")}
    if n < 0 or sorted(tok.special.values()) != list(range(n, len(tok))) or not ours.items() <= theirs.items():
        raise ValueError("its special tokens are not those of Llama 3, 256 after all others")
    begins = tok.add_bos and tok.bos_id == theirs["<|begin_of_text|>"]
    ends = tok.stop_ids == {theirs[name] for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")}
    if not (tok.patterns == (LLAMA3,) and tok.whole_first and begins and ends):
        raise ValueError("it cuts, begins or ends texts in another way than Llama 3")
    if "eos_token" in (tok.chat_template or "") and tok.eos_id != theirs["<|end_of_text|>"]:
        raise ValueError("its chat template writes another eos token than <|end_of_text|>")
    tokens = tok.pieces[:n]
    in_order = [tok.merges[pair][1] for pair in sorted(tok.merges, key=lambda pair: tok.merges[pair][0])]
    if tok.merges.keys() != merges_of_tokens(tokens).keys() or in_order != sorted(in_order):
        raise ValueError("its merges are not in the order of their ids")
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def _tokens(data: bytes) -> list[bytes]:
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        coded, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(coded, validate=True)
        except binascii.Error:
            raise ValueError(f"line {number}, {line[:60]!r}, does not begin with base64") from None
        if not token or rank != b"%d" % len(tokens):
            raise ValueError(f"line {number} is {line[:60]!r}; a token and the rank {len(tokens)} belong there")
        if token in tokens:
            raise ValueError(f"line {number}, {line[:60]!r}, repeats the token {tokens[token]}")
        tokens[token] = len(tokens)
    missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
    if missing:
        raise ValueError(f"it has no token for {len(missing)} of the 256 bytes, such as 0x{missing[0]:02X}")
    return list(tokens)


def merges_of_tokens(tokens: list[bytes]) -> dict[tuple[int, int], tuple[int, int]]:
    """tiktoken joins two neighbours if both together are a token, the one of the lowest id first."""
    ids = {token: i for i, token in enumerate(tokens)}
    return merges_of_ranked(ids, {i: i for i in range(len(tokens))})

"""Cutting text into pieces before BPE, so that no token reaches across words, numbers or lines."""

from collections.abc import Iterable, Iterator

# Sources: GPT-2's encoder (Radford et al., 2019); the tokenizer.json of HuggingFaceTB/SmolLM2 (each digit by itself,
# then GPT-2's pattern on what lies between); Meta's llama3/tokenizer.py.
GPT2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: dict[str, tuple[str, ...]] = {"gpt-2": (GPT2,), "smollm": (DIGIT, GPT2), "llama-bpe": (LLAMA3,)}


def compile_patterns(patterns: Iterable[str]) -> tuple:
    """The patterns, ready for `split`. They need the package regex: Python's own re knows no classes such as \\p{L}.

    Raises:
        ImportError: if the package is not installed.
    """
    try:
        import regex
    except ImportError:
        raise ImportError("reading text needs the package regex; run: pip install regex") from None
    return tuple(regex.compile(pattern) for pattern in patterns)


def split(text: str, patterns: tuple) -> Iterator[str]:
    """Cut `text` by the first compiled pattern, then each part by the next. Matches and what lies between are kept."""
    if not patterns:
        yield text
        return
    start = 0
    for match in patterns[0].finditer(text):
        if match.start() > start:
            yield from split(text[start : match.start()], patterns[1:])
        yield from split(match[0], patterns[1:])
        start = match.end()
    if start < len(text):
        yield from split(text[start:], patterns[1:])

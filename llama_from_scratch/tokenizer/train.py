"""Learning a vocabulary from text: join the most frequent pair of neighbours, count again, join again."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import pairwise

from .base import Tokenizer
from .bpe import Merges, merge
from .byte_table import CHAR_TO_BYTE, to_utf8
from .split import SPLITS, compile_patterns, split

# All 256, so that no text is unspellable. Their order is GPT-2's, by the character that spells each: "!" has id 0.
BYTES = [bytes([CHAR_TO_BYTE[char]]) for char in sorted(CHAR_TO_BYTE)]


def train_bpe(
    text: str | Iterable[str],
    vocab_size: int,
    special: Iterable[str] = ("<|endoftext|>",),
    pre: str = "gpt-2",
    progress: Callable[[int], None] | None = None,
) -> Tokenizer:
    """A byte-level BPE tokenizer learned from text. The same text always gives the same tokenizer.

    text: one text, or several. Special tokens in it are ordinary characters.
    vocab_size: the 256 bytes, what is learned, and the special tokens, which get the last ids.
    special: the first of them stands between documents: it is both eos and bos.
    pre: the rule that cuts text into pieces (`split.SPLITS`). No token reaches across a cut.
    progress: called after each merge with the number of entries in the vocabulary.

    Raises:
        ValueError: for a vocab_size that has no room for the bytes or that the text is too poor for, a special
            token that could also be learned, or a `pre` that is not known.

    Source: Sennrich et al., 2016, arXiv 1508.07909, algorithm 1; on bytes: Radford et al., 2019, section 2.2.
    """
    special = list(special)
    if pre not in SPLITS:
        raise ValueError(f"there is no rule {pre!r} for cutting text; the rules are {', '.join(SPLITS)}")
    patterns = compile_patterns(SPLITS[pre])
    for name in special:
        # Such a name holds a cut, so that no learned token can be spelled like it.
        if not (name.isascii() and name.isprintable() and " " not in name and len(list(split(name, patterns))) > 1):
            raise ValueError(f"a special token is ASCII, has signs and no spaces, as '<|end|>'; got {name!r}")
    if len(set(special)) < len(special):
        raise ValueError(f"each special token can be given once; got {', '.join(special)}")
    if vocab_size < len(BYTES) + len(special):
        raise ValueError(
            f"vocab_size is {vocab_size}; it must be at least {len(BYTES) + len(special)}, which is the "
            f"{len(BYTES)} bytes and the special tokens ({len(special)})"
        )

    texts = [text] if isinstance(text, str) else text
    pieces = Counter(piece for each in texts for piece in split(each, patterns))
    tokens, merges = learn(pieces, vocab_size - len(special), progress)
    if (most := len(tokens) + len(special)) < vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}, and this text has pairs to join for at most {most}; "
            f"give more text or a smaller vocab_size"
        )
    ids = {name: len(tokens) + i for i, name in enumerate(special)}
    between = ids[special[0]] if special else None
    return Tokenizer(
        pieces=tokens + [name.encode() for name in special],
        merges=merges,
        special=ids,
        patterns=SPLITS[pre],
        whole_first=pre == "llama-bpe",
        bos_id=between,
        eos_id=between,
    )


def learn(
    pieces: Counter[str], n_tokens: int, progress: Callable[[int], None] | None = None
) -> tuple[list[bytes], Merges]:
    """The tokens by id and the merges: at most `n_tokens`, fewer if every piece is one token before that.

    A pair is counted wherever it stands (in "aaa" twice). Of pairs that are equally frequent the one with the lower
    ids is joined, the left id compared first.

    Counting all pairs anew for each merge would take hours. A merge changes few of them, so we keep:
      words   each different piece once, as the ids it is at present, with the times that it occurs;
      counts  how often each pair occurs;
      places  which words a pair has occurred in: the only ones that its merge can change;
      heap    the pairs, most frequent first. When a count changes, the new one is pushed and the old one stays in;
              it is known by no longer being true when it comes out.
    """
    tokens = list(BYTES)
    id_of = {token[0]: i for i, token in enumerate(BYTES)}
    words = [[id_of[byte] for byte in to_utf8(piece)] for piece in pieces]
    times = list(pieces.values())

    counts: Counter[tuple[int, int]] = Counter()
    places = defaultdict(set)
    for w, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[w]
            places[pair].add(w)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapify(heap)

    merges: Merges = {}
    while heap and len(tokens) < n_tokens:
        minus_count, best = heappop(heap)
        if counts[best] != -minus_count:
            continue  # an old entry
        merges[best] = (len(merges), len(tokens))
        tokens.append(tokens[best[0]] + tokens[best[1]])

        change: Counter[tuple[int, int]] = Counter()
        for w in places.pop(best):
            for pair in pairwise(words[w]):
                change[pair] -= times[w]
            words[w] = merge(words[w], merges)
            for pair in pairwise(words[w]):
                change[pair] += times[w]
                places[pair].add(w)
        for pair, difference in change.items():
            if difference:
                counts[pair] += difference
                if counts[pair]:
                    heappush(heap, (-counts[pair], pair))
        if progress:
            progress(len(tokens))
    return tokens, merges

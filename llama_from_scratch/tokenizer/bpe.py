"""Byte-pair encoding: join the two neighbours whose join was learned first, again and again."""

from heapq import heapify, heappop, heappush

Merges = dict[tuple[int, int], tuple[int, int]]  # (left id, right id) -> (rank, id of the two joined)


def merge(ids: list[int], merges: Merges) -> list[int]:
    """Join neighbours in the order of their rank, lowest first, leftmost first among equals, until none can be joined.

    A heap of candidates over a doubly linked list: O(n log n) for n bytes. Searching the whole list for each
    join is shorter to write, and takes minutes on one long word.
    Source: Sennrich et al., 2016, arXiv 1508.07909, section 3.2.
    """
    n = len(ids)
    ids = [*ids, None]  # ids[n] and, since lists count backwards, ids[-1]: a border that no merge contains
    after, before = [*range(1, n + 1), n], list(range(-1, n))
    heap = [(merges[pair][0], i) for i in range(n) if (pair := (ids[i], ids[i + 1])) in merges]
    heapify(heap)
    while heap:
        rank, i = heappop(heap)
        right = after[i]
        found = merges.get((ids[i], ids[right]))
        if not found or found[0] != rank:
            continue  # one of the two has been joined to another since
        ids[i], ids[right] = found[1], None
        after[i] = after[right]
        before[after[i]] = i
        for left in (before[i], i):
            if found := merges.get((ids[left], ids[after[left]])):
                heappush(heap, (found[0], left))
    return [token for token in ids if token is not None]


def merges_of_ranked(ids: dict[str, int] | dict[bytes, int], ranks: dict[int, int]) -> Merges:
    """The merges of a vocabulary that ranks tokens, not pairs: two tokens join to any token that is their sum.

    ids: the id of each token that takes part. ranks: the rank of each id that can be joined to.

    Raises:
        ValueError: for a token of more than 1,000 characters, which no training makes. (Looking at each place where it
            can be cut would take for ever in a file that was made to stop us.)
    """
    merges = {}
    for token, joined in ids.items():
        if len(token) > 1000:
            raise ValueError(f"token {joined} is {len(token)} characters long; at most 1000 are allowed")
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                merges[left, right] = (ranks[joined], joined)
    return merges

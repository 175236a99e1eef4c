"""What the chapter "A whole Llama on one page" draws. The chapter computes the numbers; here they get their look."""

import json
from collections.abc import Callable, Sequence
from html import escape

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import COLOUR, LABEL, WIDTH

BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\xa0": "⍽"}  # a token that is only a blank has to be seen too


def visible(piece: str) -> str:
    """The piece with a mark for each blank character."""
    return "".join(BLANKS.get(character, character) for character in piece)


def round_rank(rank: int) -> int:
    """A rank to two figures: among thousands of near ties the last digits say nothing."""
    scale = 10 ** max(len(str(rank)) - 2, 0)
    return round(rank / scale) * scale


def path(
    pieces: Sequence[str], ids: Sequence[int], streams: Sequence[Float[Tensor, "seq dim"]], shown: Sequence[int]
) -> None:
    """The way of a prompt: tokens, their vectors after the blocks `shown`, and the question what comes next."""
    side = int(streams[0].shape[1] ** 0.5)
    rows, columns = len(shown), len(pieces)
    fig, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 0.88 * rows + 1.1), gridspec_kw={"hspace": 0.03, "wspace": 0.03}
    )
    for row, step in enumerate(shown):
        for column, ax in enumerate(axes[row]):
            vector = streams[step][column]
            tile = (vector / vector.pow(2).mean().sqrt()).clamp(-2, 2).mul(10).round().view(side, -1)
            ax.imshow(tile, cmap="RdBu", vmin=-20, vmax=20, interpolation="none")
            ax.set(xticks=[], yticks=[])
            last = row == rows - 1 and column == columns - 1
            for spine in ax.spines.values():
                spine.set(visible=True, color=COLOUR["real"] if last else COLOUR["faint"], linewidth=2 if last else 0.6)
            if row == 0:
                ax.set_title(f"{visible(pieces[column])}\n{ids[column]}", loc="center")
            if column == 0:
                name = "row of\nthe table" if step == 0 else f"after {step}\nblock{'s' * (step > 1)}"
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
    axes[-1, -1].set_xlabel("↓\nnext?", fontsize=12, weight="bold")
    plt.show()


def lens(ranks: dict[str, Sequence[int]], chances: Sequence[float], answer: str, mark: int) -> None:
    """Ranks of several answers, read from the stream after 0, 1, 2 … blocks, and the probability of one of them.

    mark: the number of a block, drawn as the band between `mark` and `mark + 1` blocks passed.
    """
    _, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True, gridspec_kw={"height_ratios": [3, 2]})
    for name, curve in ranks.items():
        own = name == answer
        colour = COLOUR["real"] if own else COLOUR["residual"]
        top.plot(range(len(curve)), curve, color=colour, linewidth=2.4 if own else 1, alpha=1 if own else 0.7)
    top.set(yscale="log", ylabel="rank of the capital", ylim=(70_000, 0.7))
    top.set_yticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
    top.minorticks_off()
    top.text(0, 60, f"thick: {visible(answer)}\nthin: five others", va="center")
    top.text(0, 1, "1 = best guess", va="center")
    bottom.plot(range(len(chances)), [round(chance, 3) for chance in chances], color=COLOUR["real"], linewidth=2.4)
    bottom.set(ylabel="probability", xlabel="blocks passed", ylim=(-0.03, 1))
    bottom.text(0, 0.1, visible(answer))
    for ax in (top, bottom):
        ax.axvspan(mark, mark + 1, color=COLOUR["theory"], alpha=0.35, linewidth=0)
    bottom.text(mark - 0.3, 0.85, f"block {mark}", ha="right")
    plt.show()


def contributions(
    gains: dict[str, Float[Tensor, " blocks"]], sizes: dict[str, Float[Tensor, " blocks"]], answer: str
) -> None:
    """What each sub-layer writes for the last token: its length, and what it adds to the answer's logit."""
    _, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.6), sharex=True)
    looks = {"attention": (COLOUR["real"], -0.21), "feed-forward": ("#A0A0A0", 0.21)}
    for ax, numbers in zip(axes, (sizes, gains), strict=True):
        for name, values in numbers.items():
            colour, shift = looks[name]
            ax.bar([i + shift for i in range(len(values))], [round(v, 2) for v in values.tolist()], 0.42, color=colour)
        ax.axhline(0, color=COLOUR["residual"], linewidth=0.8)
    axes[0].set(ylabel="length of what is written")
    axes[1].set(ylabel=f"added to {visible(answer)}'s logit\nabove the average", xlabel="block")
    top = int(gains["attention"].argmax())
    axes[1].annotate(
        f"attention, block {top}",
        (top - 0.2, gains["attention"][top].item()),
        (-8, -2),
        textcoords="offset points",
        ha="right",
        va="top",
    )
    loud = int(sizes["feed-forward"].argmax())
    axes[0].annotate(
        f"feed-forward, block {loud}",
        (loud, sizes["feed-forward"][loud].item()),
        (-12, -2),
        textcoords="offset points",
        ha="right",
        va="top",
    )
    axes[0].text(0.02, 0.5, "strong bars: attention\npale bars: feed-forward", transform=axes[0].transAxes)
    plt.show()


def cut_heads(
    left: Float[Tensor, "blocks heads"], before: float, answer: str, named: Sequence[tuple[int, int]]
) -> None:
    """The answer's probability after each head was cut in turn; the heads `named` get a label."""
    n_blocks, n_heads = left.shape
    _, ax = plt.subplots(figsize=(WIDTH, 2.9))
    image = ax.imshow(left.T.mul(100).round(), cmap="viridis", vmin=0, vmax=100, aspect="auto", interpolation="none")
    for block, head in named:
        ax.add_patch(Rectangle((block - 0.5, head - 0.5), 1, 1, fill=False, edgecolor=COLOUR["key"], linewidth=2.2))
        right = block < n_blocks / 2
        ax.text(
            block + (1 if right else -1),
            head,
            f"{left[block, head]:.2f}",
            ha="left" if right else "right",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    ax.set(xlabel="block of the head that is cut", ylabel="head", yticks=range(0, n_heads, 2))
    bar = plt.colorbar(image, ax=ax, ticks=[0, 50, 100], pad=0.02)
    bar.ax.set_yticklabels(["0", "0.5", "1"])
    bar.ax.axhline(100 * before, color=COLOUR["key"], linewidth=2.2)
    ax.set_title(f"probability of {visible(answer)} ({before:.2f} uncut)")
    plt.show()


def attention_map(weights: Float[Tensor, "seq keys"], pieces: Sequence[str]) -> None:
    """Who looks at whom in one head: a row for each query, a column for each key."""
    n = len(pieces)
    fig, ax = plt.subplots(figsize=(WIDTH, 4.4))
    ax.imshow(weights.mul(100).round(), cmap="Blues", vmin=0, vmax=100, interpolation="none")
    for row in range(n):
        for column in range(n):
            if column > row:
                ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=COLOUR["faint"], edgecolor="white"))
                continue
            weight = weights[row, column].item()
            colour = "white" if weight > 0.6 else "black"
            ax.text(column, row, f"{weight:.2f}", ha="center", va="center", color=colour)
    names = [visible(piece) for piece in pieces]
    ax.set_xticks(range(n), names)
    ax.set_yticks(range(n), names)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("… at this token (key)", color=LABEL["key"])
    ax.set_ylabel("this token looks (query) …", color=LABEL["query"])
    ax.tick_params(length=0)
    plt.show()


def parameters(counts: dict[str, int]) -> None:
    """Where the parameters are."""
    total = sum(counts.values())
    _, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(counts) + 0.9))
    names = list(counts)
    ax.barh(names, [counts[name] / 1e6 for name in names], color=COLOUR["real"], height=0.66)
    for y, name in enumerate(names):
        ax.text(
            counts[name] / 1e6 + 0.6,
            y,
            f"{counts[name]:,} · {counts[name] / total:.{1 + (counts[name] < total / 1000)}%}",
            va="center",
        )
    ax.invert_yaxis()
    ax.set(xlabel="parameters (millions)", xlim=(0, 1.6 * max(counts.values()) / 1e6))
    ax.tick_params(axis="y", length=0)
    plt.show()


def pass_times(lengths: Sequence[int], seconds: Sequence[float]) -> None:
    """How long a pass over so many new tokens takes, between two simple ideas of what decides it."""
    _, ax = plt.subplots(figsize=(WIDTH, 3.4))
    once, ms = seconds[0] * 1e3, [1e3 * s for s in seconds]
    ax.plot(lengths, [once * n for n in lengths], "--", color=COLOUR["theory"])
    ax.plot(lengths, [once] * len(lengths), "--", color=COLOUR["theory"])
    ax.plot(lengths, ms, "o-", color=COLOUR["real"])
    ax.set(xscale="log", yscale="log", xlabel="tokens in one pass", ylabel="milliseconds", ylim=(once / 2.2, once * 80))
    ax.set_xticks(lengths, [str(n) for n in lengths])
    low, high = once, once * 64
    ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if low / 2 <= t <= high]
    ax.set_yticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.text(lengths[3] * 0.9, once * lengths[3] * 1.4, "if arithmetic decides", ha="right")
    ax.text(lengths[-1], once / 1.15, "if reading the weights decides", ha="right", va="top")
    ax.text(lengths[-1], ms[-1] * 1.35, "measured", ha="right", weight="bold")
    plt.show()


def bugs(
    rows: Sequence[tuple[str, str, float, float]], tolerance: float, one_token: Sequence[float] | None = None
) -> None:
    """Each version of the model: its name, what it writes, its loss, and how far its logits are from the right ones.

    one_token: the same distance on a text of one token, drawn hollow; below 4e-6 it is drawn there.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 0.62 * len(rows) + 1.3))
    edge, edge_of_axis = ax.get_yaxis_transform(), 4e-6
    for y, (name, text, loss, far) in enumerate(rows):
        right = far <= tolerance
        colour = COLOUR["value"] if right else COLOUR["key"]
        if one_token is not None:
            near = max(one_token[y], edge_of_axis)
            ax.plot([near, far], [y, y], "-", color=COLOUR["faint"], linewidth=1.2, zorder=0)
            ax.plot([near], [y], "o", markerfacecolor="none", color=COLOUR["residual"], markersize=8)
        ax.plot([far], [y], "o" if right else "X", color=colour, markersize=9)
        ax.text(-0.03, y - 0.2, name, transform=edge, ha="right", va="center", weight="bold")
        words = visible(text)
        words = "six underscores" if words == "______" else words if len(words) <= 20 else words[:19] + "…"
        ax.text(-0.03, y + 0.2, words, transform=edge, ha="right", va="center", color="#555555")
        ax.text(1.02, y, f"{loss:.2f}", transform=edge, va="center")
    ax.axvline(tolerance, color=COLOUR["value"], linestyle="--", linewidth=1.2)
    ax.text(1.02, -0.85, "loss", transform=edge, va="center")
    ax.text(-0.03, -0.85, "version, and its text", transform=edge, ha="right", va="center")
    ax.text(tolerance, -0.85, f"tolerance {tolerance:g}", color=LABEL["value"], ha="center", va="center")
    ax.set(xscale="log", xlim=(2e-6, 300), ylim=(len(rows) - 0.4, -0.6), yticks=[])
    ax.set_xticks([1e-5, 1e-3, 0.1, 10], ["$10^{-5}$", "0.001", "0.1", "10"])
    ax.minorticks_off()
    ax.set_xlabel("largest difference of logits")
    ax.spines["left"].set_visible(False)
    plt.show()


def lens_widget(
    guesses: Sequence[Sequence[tuple[str, float]]], ranks: Sequence[int], chances: Sequence[float], answer: str
) -> str:
    """A table of the guesses after each block, as HTML. The book's script turns it into a slider."""
    head = "<tr><th>blocks</th><th>rank</th><th>probability</th><th>best guesses</th></tr>"
    body = "".join(
        f"<tr><td>{step}</td><td>{round_rank(rank)}</td><td>{chance:.2f}</td><td>"
        + " ".join(f'<span data-p="{p:.2f}">{escape(visible(piece))}</span>' for piece, p in best)
        + "</td></tr>\n"
        for step, (best, rank, chance) in enumerate(zip(guesses, ranks, chances, strict=True))
    )
    summary = "What the model would answer after each block: its five best guesses"
    return (
        f'<lfs-lens data-answer="{escape(visible(answer))}"><details><summary>{summary}</summary>\n'
        f"<table>{head}\n{body}</table></details></lfs-lens>"
    )


def temperature_widget(
    logits: Float[Tensor, " vocab"], name: Callable[[int], str], shown: int = 8, drawn: int = 800
) -> str:
    """The real logits of the `shown` best tokens, as HTML. The book's script turns them into a temperature slider.

    name(token) -> its text. A draw can name the `drawn` best; the other tokens matter only together, by
    log sum exp((logit - best) / T) over all but the `shown`, for each temperature T.
    """
    best = logits.topk(drawn)
    below = [round(x, 4) for x in (best.values - best.values[0]).tolist()]
    pieces = [visible(name(i)) for i in best.indices.tolist()]
    rest = (logits.sort(descending=True).values - best.values[0])[shown:].double()
    steps = [n / 10 for n in range(1, 21)]
    tail = " ".join(f"{torch.logsumexp(rest / t, 0).item():.4f}" for t in steps)
    more = escape(json.dumps([pieces[shown:], [round(x, 3) for x in below[shown:]]], ensure_ascii=False))
    body = "".join(
        f"<tr><td>{escape(piece)}</td><td>{x:.4f}</td></tr>"
        for piece, x in zip(pieces[:shown], below[:shown], strict=True)
    )
    return (
        f'<lfs-temperature data-tail="{tail}" data-rest="{len(rest)}" data-more="{more}"><details><summary>The best '
        f"tokens and how far their logits lie below the best one</summary>\n"
        f"<table><tr><th>token</th><th>logit - best</th></tr>{body}</table></details></lfs-temperature>"
    )

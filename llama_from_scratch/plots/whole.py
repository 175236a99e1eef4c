"""What the chapter "A whole Llama on one page" draws. The chapter computes the numbers; here they get their look."""

from collections.abc import Sequence
from html import escape

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import COLOUR

NARROW = 5.2  # inches: drawn a little larger than other figures, since these hold many words

BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\xa0": "⍽"}  # a token that is only a blank has to be seen too


def visible(piece: str) -> str:
    """The piece with a mark for each blank character."""
    return "".join(BLANKS.get(character, character) for character in piece)


def round_rank(rank: int) -> int:
    """A rank to two figures: among thousands of near ties the last digits say nothing."""
    scale = 10 ** max(len(str(rank)) - 2, 0)
    return round(rank / scale) * scale


def path(
    pieces: Sequence[str],
    ids: Sequence[int],
    streams: Sequence[Float[Tensor, "seq dim"]],
    shown: Sequence[int],
    best: Sequence[tuple[str, float]],
) -> None:
    """The way of a prompt: tokens, their vectors after the blocks `shown`, and the next tokens with their chances."""
    side = int(streams[0].shape[1] ** 0.5)
    rows, columns = len(shown), len(pieces)
    fig = plt.figure(figsize=(NARROW, 1.02 * rows + 3.1), layout="none")
    outer = fig.add_gridspec(2, 1, height_ratios=[1.02 * rows + 0.75, 1.75], hspace=0.2)
    grid = outer[0].subgridspec(rows, columns, hspace=0.12, wspace=0.12)
    for row, step in enumerate(shown):
        for column in range(columns):
            ax = fig.add_subplot(grid[row, column])
            vector = streams[step][column]
            tile = (vector / vector.pow(2).mean().sqrt()).clamp(-2, 2).mul(10).round().view(side, -1)
            ax.imshow(tile, cmap="RdBu", vmin=-20, vmax=20, interpolation="none")
            ax.set(xticks=[], yticks=[])
            last = row == rows - 1 and column == columns - 1
            for spine in ax.spines.values():
                spine.set(visible=True, color=COLOUR["real"] if last else COLOUR["faint"], linewidth=2 if last else 0.6)
            if row == 0:
                ax.set_title(f"{visible(pieces[column])}\n{ids[column]}", loc="center", fontsize=11)
            if column == 0:
                name = "row of\nthe table" if step == 0 else f"after {step}\nblock{'s' * (step > 1)}"
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax = fig.add_subplot(outer[1])
    _bars(ax, best, "probability of the next token")
    ax.set_title("what comes after the last token", fontsize=11)
    plt.show()


def next_tokens(best: Sequence[tuple[str, float]], total: float) -> None:
    """The most probable next tokens; `total` is what they have together."""
    _, ax = plt.subplots(figsize=(NARROW, 0.32 * len(best) + 0.9))
    _bars(ax, best, "probability")
    ax.text(0.98, 0.06, f"these {len(best)} together: {total:.2f}", transform=ax.transAxes, ha="right")
    plt.show()


def _bars(ax: plt.Axes, best: Sequence[tuple[str, float]], label: str) -> None:
    chances = [round(chance, 3) for _, chance in best]
    ax.barh(range(len(best)), chances, color=COLOUR["real"], height=0.7)
    ax.set_yticks(range(len(best)), [visible(piece) for piece, _ in best])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel=label)
    ax.tick_params(axis="y", length=0)
    for y, chance in enumerate(chances):
        ax.text(chance + 0.01, y, f"{chance:.3f}", va="center")


def lens(ranks: Sequence[int], chances: Sequence[float], answer: str) -> None:
    """Rank and probability of `answer`, read from the stream after 0, 1, 2 … blocks."""
    _, (top, bottom) = plt.subplots(2, 1, figsize=(NARROW, 4.8), sharex=True)
    steps = range(len(ranks))
    top.plot(steps, [round_rank(rank) for rank in ranks], "o-", color=COLOUR["residual"], markersize=4)
    top.set(yscale="log", ylabel=f"rank of {visible(answer)}")
    top.invert_yaxis()
    top.annotate("1 = best guess", (len(ranks) - 1, 1), (-8, -2), textcoords="offset points", ha="right", va="center")
    bottom.plot(steps, [round(chance, 3) for chance in chances], "o-", color=COLOUR["real"], markersize=4)
    bottom.set(ylabel=f"probability of {visible(answer)}", xlabel="blocks passed", ylim=(-0.03, 1))
    plt.show()


def contributions(
    gains: dict[str, Float[Tensor, "blocks"]], sizes: dict[str, Float[Tensor, "blocks"]], answer: str, total: float
) -> None:
    """What each sub-layer writes for the last token: its length, and what it adds to the answer's logit."""
    _, axes = plt.subplots(2, 1, figsize=(NARROW, 5.6), sharex=True)
    looks = {"attention": (COLOUR["query"], -0.21), "feed-forward": (COLOUR["normalised"], 0.21)}
    for ax, numbers in zip(axes, (sizes, gains), strict=True):
        for name, values in numbers.items():
            colour, shift = looks[name]
            ax.bar([i + shift for i in range(len(values))], [round(v, 2) for v in values.tolist()], 0.42, color=colour)
        ax.axhline(0, color=COLOUR["residual"], linewidth=0.8)
    axes[0].set(ylabel="length of what is written")
    axes[1].set(ylabel=f"logit of {visible(answer)} it adds", xlabel="block")
    for y, (name, (colour, _)) in zip((0.9, 0.78), looks.items(), strict=True):
        axes[0].text(0.02, y, name, color=colour, transform=axes[0].transAxes, weight="bold")
    axes[1].text(0.02, 0.06, f"all 61 terms together: {total:.2f}", transform=axes[1].transAxes)
    top = int(gains["attention"].argmax())
    height = gains["attention"][top].item()
    axes[1].annotate(
        f"attention in block {top}", (top - 0.2, height), (-10, -2), textcoords="offset points", ha="right", va="top"
    )
    plt.show()


def attention_map(weights: Float[Tensor, "seq keys"], pieces: Sequence[str]) -> None:
    """Who looks at whom in one head: a row for each query, a column for each key."""
    n = len(pieces)
    fig, ax = plt.subplots(figsize=(NARROW, 4.4))
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
    ax.set_xlabel("… at this token (key)", color=COLOUR["key"])
    ax.set_ylabel("this token looks (query) …", color=COLOUR["query"])
    ax.tick_params(length=0)
    plt.show()


def parameters(counts: dict[str, int]) -> None:
    """Where the parameters are."""
    total = sum(counts.values())
    _, ax = plt.subplots(figsize=(NARROW, 0.42 * len(counts) + 0.9))
    names = list(counts)
    ax.barh(names, [counts[name] / 1e6 for name in names], color=COLOUR["real"], height=0.66)
    for y, name in enumerate(names):
        ax.text(
            counts[name] / 1e6 + 0.6,
            y,
            f"{counts[name]:,} · {counts[name] / total:.{1 + (counts[name] < total / 1000)}%}",
            va="center",
            fontsize=10,
        )
    ax.invert_yaxis()
    ax.set(xlabel="parameters (millions)", xlim=(0, 1.6 * max(counts.values()) / 1e6))
    ax.tick_params(axis="y", length=0)
    plt.show()


def bugs(rows: Sequence[tuple[str, str, float, float]], tolerance: float) -> None:
    """Each version of the model: its name, what it writes, its loss, and how far its logits are from the right ones."""
    _, ax = plt.subplots(figsize=(NARROW, 0.62 * len(rows) + 1.1))
    for y, (name, text, loss, far) in enumerate(rows):
        right = far <= tolerance
        colour = COLOUR["value"] if right else COLOUR["key"]
        ax.plot([far], [y], "o" if right else "X", color=colour, markersize=9)
        ax.text(-0.03, y - 0.2, name, transform=ax.get_yaxis_transform(), ha="right", va="center", weight="bold")
        words = visible(text)[:20]
        ax.text(-0.03, y + 0.2, words, transform=ax.get_yaxis_transform(), ha="right", va="center", color="#555555")
        ax.text(1.02, y, f"{loss:.2f}", transform=ax.get_yaxis_transform(), va="center")
    ax.axvline(tolerance, color=COLOUR["value"], linestyle="--", linewidth=1.2)
    ax.text(1.02, -0.85, "loss", transform=ax.get_yaxis_transform(), va="center")
    ax.text(-0.03, -0.85, "version, and what it writes", transform=ax.get_yaxis_transform(), ha="right", va="center")
    ax.text(tolerance, -0.85, "tolerance", color=COLOUR["value"], ha="center", va="center")
    ax.set(xscale="log", xlim=(2e-6, 300), ylim=(len(rows) - 0.4, -0.6), yticks=[])
    ax.set_xlabel("largest difference from the right logits")
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


def temperature_widget(logits: Float[Tensor, "vocab"], pieces: Sequence[str], shown: int = 8) -> str:
    """The real logits of the `shown` best tokens, as HTML. The book's script turns them into a temperature slider.

    The other tokens matter only together: log sum exp((logit - best) / T) over them, for each temperature T.
    """
    best = logits.topk(shown)
    rest = (logits.sort(descending=True).values - best.values[0])[shown:].double()
    steps = [n / 10 for n in range(1, 21)]
    tail = " ".join(f"{torch.logsumexp(rest / t, 0).item():.4f}" for t in steps)
    body = "".join(
        f"<tr><td>{escape(visible(pieces[i]))}</td><td>{logit - best.values[0].item():.4f}</td></tr>"
        for logit, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    return (
        f'<lfs-temperature data-tail="{tail}" data-rest="{len(rest)}"><details><summary>The best tokens and how far '
        f"their logits lie below the best one</summary>\n"
        f"<table><tr><th>token</th><th>logit - best</th></tr>{body}</table></details></lfs-temperature>"
    )

"""What the chapter "A whole Llama on one page" draws. The chapter computes the numbers; here they get their look."""

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.patches import Rectangle
from torch import Tensor

from ..checkpoint.names import TO_HUGGING_FACE, translate
from ..model import Llama
from .style import COLOUR, LABEL, WIDTH

BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\xa0": "⍽"}  # a token that is only a blank has to be seen too


def visible(piece: str) -> str:
    """The piece with a mark for each blank character."""
    return "".join(BLANKS.get(character, character) for character in piece)


def round_rank(rank: int) -> int:
    """A rank to two figures: among thousands of near ties the last digits say nothing."""
    scale = 10 ** max(len(str(rank)) - 2, 0)
    return round(rank / scale) * scale


def in_transformers(model: Llama) -> Any:
    """Hugging Face's own Llama with the weights of a tied model of ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            intermediate_size=c.ffn_dim,
            num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads,
            num_key_value_heads=c.n_kv_heads,
            head_dim=c.head_dim,
            rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            max_position_embeddings=c.max_seq_len,
            tie_word_embeddings=True,
        )
    ).eval()
    names = {translate(name, TO_HUGGING_FACE): weight for name, weight in model.state_dict().items()}
    theirs.load_state_dict(names | {"lm_head.weight": model.embedding.weight})
    return theirs


def answer(pieces: Sequence[str], ids: Sequence[int], best: Sequence[tuple[str, float]]) -> None:
    """A prompt's tokens below, the model, and on top the tokens that it finds likeliest to come next."""
    _, ax = plt.subplots(figsize=(WIDTH, 4.7))
    n = len(pieces)
    arrow = {"arrowstyle": "-|>", "color": COLOUR["residual"], "lw": 1.6}
    for x, (piece, token) in enumerate(zip(pieces, ids, strict=True)):
        ax.text(x, -0.1, visible(piece), ha="center", va="center", weight="bold")
        ax.text(x, -0.55, str(token), ha="center", va="center", color=LABEL["residual"])
        ax.annotate("", (x, 1.0), (x, 0.2), arrowprops=arrow)
    ax.add_patch(Rectangle((-0.5, 1.05), n, 1.5, facecolor="none", edgecolor=COLOUR["residual"], lw=1.6))
    ax.text((n - 1) / 2, 2.1, "30 blocks of additions", ha="center", va="center")
    blocks = "each looks back at earlier tokens,\nthen works on one token alone"
    ax.text((n - 1) / 2, 1.55, blocks, ha="center", va="center", color=LABEL["residual"])
    ax.annotate("", (n - 1, 3.1), (n - 1, 2.6), arrowprops=arrow)
    for row, (piece, chance) in enumerate(reversed(best)):
        y = 3.45 + 0.5 * row
        ax.barh(y, -2.6 * chance, height=0.34, left=n - 0.5, color=COLOUR["real"])
        ax.text(n - 0.4, y, f"{visible(piece)}  {chance:.2f}", va="center")
    ax.text(-0.5, 3.45 + 0.5 * (len(best) - 1), "what comes next?", va="center")
    ax.set(xlim=(-0.7, n + 0.9), ylim=(-0.8, 3.6 + 0.5 * len(best)))
    ax.axis("off")
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
        colour = COLOUR["right"] if right else COLOUR["wrong"]
        if one_token is not None:
            near = max(one_token[y], edge_of_axis)
            ax.plot([near, far], [y, y], "-", color=COLOUR["faint"], linewidth=1.2, zorder=0)
            ax.plot([near], [y], "o", markerfacecolor="none", color=COLOUR["residual"], markersize=8)
        ax.plot([far], [y], "o" if right else "X", color=colour, markersize=9)
        ax.text(-0.03, y - 0.2, name, transform=edge, ha="right", va="center", weight="bold")
        words = visible(text)
        words = words if len(words) <= 20 else words[:19] + "…"
        ax.text(-0.03, y + 0.2, words, transform=edge, ha="right", va="center", color="#555555")
        ax.text(1.02, y, f"{loss:.2f}", transform=edge, va="center")
    ax.axvline(tolerance, color=COLOUR["right"], linestyle="--", linewidth=1.2)
    ax.text(1.02, -0.85, "loss", transform=edge, va="center")
    ax.text(-0.03, -0.85, "version, and its text", transform=edge, ha="right", va="center")
    ax.text(tolerance, -0.85, f"tolerance {tolerance:g}", color=LABEL["right"], ha="center", va="center")
    ax.set(xscale="log", xlim=(2e-6, 5000), ylim=(len(rows) - 0.4, -0.6), yticks=[])
    ax.set_xticks([1e-5, 1e-3, 0.1, 10, 1000], ["$10^{-5}$", "0.001", "0.1", "10", "1000"])
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

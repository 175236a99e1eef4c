"""What the chapter on the residual stream draws. The numbers of a drawing come from a small function beside it."""

import json
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..inside import record
from ..model import Llama
from .style import COLOUR, LABEL, WIDTH
from .whole_llama import visible


def writings(model: Llama, tokens: Int[Tensor, "1 seq"]) -> Float[Tensor, "seq writings dim"]:
    """What adds up to each token's stream: its row of the table, then attention and feed-forward of each block."""
    n = model.config.n_layers
    names = [f"blocks.{i}.{part}" for i in range(n) for part in ("attention", "feed_forward")]
    seen = record(model, tokens, "embedding", *names)
    return torch.stack([seen[name][1][0] for name in ("embedding", *names)], dim=1)


def account(model: Llama, written: Float[Tensor, "writings dim"], ids: list[int]) -> Float[Tensor, "writings tokens"]:
    """What each writing gives to the logits of some tokens; each column adds up to the model's logit."""
    x = written.sum(0)
    r = (x.pow(2).mean() + model.config.norm_eps).sqrt()
    head = model.embedding.weight if model.lm_head is None else model.lm_head.weight
    return (written / r * model.norm.weight) @ head[ids].T


def draw_account(by_writing: Float[Tensor, " writings"], ahead: str, behind: str) -> None:
    """What each writing does for one logit against another, and the sum so far."""
    values = by_writing.detach().numpy()
    blocks = np.arange((len(values) - 1) // 2)
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True, height_ratios=(3, 2))
    top.bar(blocks - 0.2, values[1::2], 0.4, color=COLOUR["real"])
    top.bar(blocks + 0.2, values[2::2], 0.4, color=COLOUR["neutral"])
    best = int(values[1::2].argmax())
    arrow = {"arrowstyle": "-"}
    top.annotate(
        f"attention\nof block {best}",
        (best - 0.5, 0.9 * values.max()),
        (best - 9, 0.6 * values.max()),
        arrowprops=arrow,
    )
    top.text(0, values.max() * 0.6, "attention", color=LABEL["real"])
    top.text(0, values.max() * 0.42, "feed-forward", color=LABEL["neutral"])
    top.axhline(0, color=COLOUR["faint"], linewidth=1)
    top.set_ylabel("added by each")
    bottom.plot(np.arange(len(values)) / 2 - 0.5, values.cumsum(), color=COLOUR["residual"], linewidth=2.4)
    bottom.axhline(0, color=COLOUR["faint"], linewidth=1)
    bottom.text(len(blocks) - 0.6, values.sum() * 1.06, f"{values.sum():.1f}", color=LABEL["residual"], ha="right")
    bottom.set(xlabel="block", ylabel="sum so far", ylim=(min(0, values.cumsum().min()) - 0.4, values.sum() * 1.45))
    fig.suptitle(f"logit of {visible(ahead)} minus that of {visible(behind)}", x=0.02, ha="left", fontsize=12)
    plt.show()


def cosines(table: Float[Tensor, "vocab dim"], pairs: int = 20_000) -> Float[Tensor, " pairs"]:
    """Between rows drawn at random, two by two."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(len(table), (pairs,), generator=generator)
    b = (a + torch.randint(1, len(table), (pairs,), generator=generator)) % len(table)  # another row
    return torch.cosine_similarity(table[a], table[b])


def draw_cosines(table: Float[Tensor, "vocab dim"], marked: dict[str, tuple[int, int]]) -> None:
    """Cosines of random pairs of rows, of the table as it is and less its mean row, and those of two pairs of words."""
    fig, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True)
    centred = table - table.mean(0)
    for ax, rows, title in ((axes[0], table, "rows as they are"), (axes[1], centred, "less the mean row")):
        ax.hist(cosines(rows).numpy(), bins=np.arange(-0.5, 1.01, 0.025), color=COLOUR["neutral"], density=True)
        ax.set_title(title)
        ax.set(yticks=[])
        ax.spines["left"].set_visible(False)
        top = ax.get_ylim()[1]
        ax.set_ylim(0, 1.4 * top)
        for (words, (a, b)), side in zip(marked.items(), ("left", "right"), strict=True):
            value = torch.cosine_similarity(rows[a], rows[b], dim=0).item()
            ax.plot([value, value], [0, 1.35 * top], color=COLOUR["real"], linewidth=1.4)
            ax.text(value + (0.015 if side == "left" else -0.015), 1.35 * top, words, va="top", ha=side)
        ax.set_xlim(-0.45, 1.3)
    axes[1].set(xlabel="cosine of two rows", xticks=[-0.25, 0, 0.25, 0.5, 0.75, 1])
    plt.show()


def draw_sizes(written: Float[Tensor, "seq writings dim"]) -> None:
    """Lengths of the last token's stream after each block and of what is written to it, and of the first token's."""
    last, first = written[-1], written[0]
    stream = last.cumsum(0)[2::2].norm(dim=-1)
    blocks = np.arange(len(stream))
    _, ax = plt.subplots(figsize=(WIDTH, 4.2))
    ax.plot(blocks, first.cumsum(0)[2::2].norm(dim=-1), color=COLOUR["residual"], linestyle=":", linewidth=1.6)
    ax.plot(blocks, stream, color=COLOUR["residual"], linewidth=2.6)
    ax.plot(blocks, last[1::2].norm(dim=-1), color=COLOUR["real"], linewidth=1.4, marker="o", markersize=3)
    ax.plot(blocks, last[2::2].norm(dim=-1), color=COLOUR["neutral"], linewidth=1.4, marker="s", markersize=3)
    ax.plot([-1], [last[0].norm()], color=COLOUR["residual"], marker="D", markersize=6)
    ax.text(-0.4, last[0].norm() * 0.72, "row of the table", color=LABEL["residual"], va="center")
    ax.text(11.6, 29000, "stream of the first token", color=LABEL["residual"])
    ax.text(11.8, 750, "stream of the last token", color=LABEL["residual"])
    ax.text(16, 12, "attention writes", color=LABEL["real"])
    ax.text(29.6, 250, "feed-forward\nwrites", color=LABEL["neutral"], ha="left", va="center")
    ax.set(
        yscale="log",
        xlabel="block",
        ylabel="length of the vector",
        xlim=(-1.8, 39),
        ylim=(1.5, 60000),
        xticks=[0, 10, 20, 29],
    )
    plt.show()


def shares(written: Float[Tensor, "writings dim"]) -> Float[Tensor, " writings"]:
    """How much of the final vector each writing is: its part along that vector, over the length; they add up to 1."""
    x = written.sum(0)
    return written @ x / x.pow(2).sum()


def draw_shares(written: Float[Tensor, "writings dim"]) -> None:
    """Shares of the last token's final vector, by block."""
    share = 100 * shares(written).numpy()
    blocks = np.arange((len(share) - 1) // 2)
    _, ax = plt.subplots(figsize=(WIDTH, 3.0))
    ax.bar(blocks - 0.2, share[1::2], 0.4, color=COLOUR["real"])
    ax.bar(blocks + 0.2, share[2::2], 0.4, color=COLOUR["neutral"])
    ax.axhline(0, color=COLOUR["faint"], linewidth=1)
    ax.text(0, share.max() * 0.8, "attention", color=LABEL["real"])
    ax.text(0, share.max() * 0.64, "feed-forward", color=LABEL["neutral"])
    ax.set(xlabel="block", ylabel="share of the final vector, %")
    plt.show()


def draw_lens(rows: list[tuple[int, list[tuple[str, float]]]], pieces: list[str]) -> None:
    """The best token at each position (column) if the stream is read after so many blocks (row); darker is surer."""
    fig, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(rows) + 1.1))
    shade = np.array([[p for _, p in guesses] for _, guesses in rows])
    ax.imshow(shade, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
    for y, (_, guesses) in enumerate(rows):
        for x, (token, _) in enumerate(guesses):
            ax.text(x, y, visible(token)[:9], ha="center", va="center", color=LABEL["real"])
    ax.set_xticks(range(len(pieces)), [visible(piece) for piece in pieces])
    ax.set_yticks(range(len(rows)), [str(blocks) for blocks, _ in rows])
    ax.set(ylabel="blocks run", xlabel="read at this token")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    plt.show()


def account_widget(by_writing: Float[Tensor, "writings tokens"], names: list[str]) -> str:
    """The account of several tokens as HTML; the book's script turns it into sums that the reader chooses."""
    numbers = [[round(value, 3) for value in row] for row in by_writing.tolist()]
    total = by_writing.sum(0).tolist()
    body = "".join(f"<tr><td>{escape(visible(n))}</td><td>{t:.1f}</td></tr>" for n, t in zip(names, total, strict=True))
    data = escape(json.dumps([[visible(name) for name in names], numbers], ensure_ascii=False))
    return (
        f'<lfs-account data-account="{data}"><details><summary>The logits of {len(names)} tokens, all writings '
        f"together</summary>\n<table><tr><th>token</th><th>logit</th></tr>{body}</table></details></lfs-account>"
    )

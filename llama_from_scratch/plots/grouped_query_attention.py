"""What the chapter on grouped-query attention draws."""

import statistics
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.patches import Rectangle
from torch import Tensor

from ..attention import attention_weights, causal_mask
from ..config import LlamaConfig
from ..inside import record
from ..model import Llama
from ..rope import rotate
from .attention import WEIGHTS
from .style import COLOUR, LABEL, WIDTH


def look(model: Llama, tokens: Int[Tensor, "1 seq"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys (both rotated), values and attention weights of every layer for one text, in fp32.

    Shapes: [layers, heads, seq, head_dim], twice [layers, kv_heads, seq, head_dim], [layers, heads, seq, seq].
    """
    names = [f"blocks.{i}.attention" for i in range(len(model.blocks))]
    seen = record(model, tokens, "blocks.*.attention.[qkv]_proj")
    slots = torch.arange(tokens.shape[1])
    cos, sin = model.rope(slots[None])

    def heads(letter: str) -> Tensor:
        outputs = torch.cat([seen[f"{name}.{letter}_proj"][1] for name in names])
        return outputs.unflatten(-1, (-1, model.config.head_dim)).transpose(1, 2)

    q, k, v = rotate(heads("q"), cos, sin), rotate(heads("k"), cos, sin), heads("v")
    return q, k, v, attention_weights(q, k, causal_mask(slots, len(slots)))


def draw_dial(n_heads: int, kv_heads: Sequence[int]) -> None:
    """For each number of key/value heads: which query head reads which, one layer."""
    names = {n_heads: "multi-head (MHA)", 1: "multi-query (MQA)"}
    figure, axes = plt.subplots(len(kv_heads), 1, figsize=(WIDTH, 1.75 * len(kv_heads)))
    for ax, n_kv in zip(axes, kv_heads, strict=True):
        group = n_heads // n_kv
        for h in range(n_heads):
            centre = (h // group + 0.5) * group - 0.5
            ax.plot([h, centre], [0.74, 0.36], color=COLOUR["residual"], lw=1.1, zorder=0)
            _box(ax, h, 0.9, COLOUR["query"], f"{h}")
        for g in range(n_kv):
            centre = (g + 0.5) * group - 0.5
            _box(ax, centre - 0.21, 0.2, COLOUR["key"], "k", width=0.4)
            _box(ax, centre + 0.21, 0.2, COLOUR["value"], "v", width=0.4)
        ax.text(-0.75, 0.9, "queries", ha="right", va="center", color=LABEL["query"])
        ax.text(-0.75, 0.2, "cache", ha="right", va="center")
        name = names.get(n_kv, "grouped-query (GQA)")
        ax.set_title(f"{name}: {n_kv} key/value head{'s' * (n_kv > 1)}, groups of {group}")
        ax.set(xlim=(-2.5, n_heads - 0.4), ylim=(0, 1.12))
        ax.axis("off")
    plt.show()


def _box(ax, x: int | float, y: float, colour: str, label: str, width: float = 0.7) -> None:
    ax.add_patch(Rectangle((x - width / 2, y - 0.15), width, 0.3, color=colour, lw=0))
    ax.text(x, y, label, ha="center", va="center", color="white")


def draw_decode_step(n_tokens: int) -> None:
    """The attention matrix of a text, row by row as it is generated: what is new and what only has to be read again."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.1))
    last = n_tokens - 1
    for row in range(n_tokens):
        for key in range(row + 1):
            colour = COLOUR["query"] if row == last else COLOUR["faint"]
            ax.add_patch(Rectangle((key + 0.06, row + 0.06), 0.88, 0.88, color=colour, lw=0))
    for key in range(n_tokens):
        new = key == last
        for offset, idea in ((1.35, "key"), (2.35, "value")):
            colour, letter = COLOUR[idea], idea[0]
            box = Rectangle((key + 0.06, -offset), 0.88, 0.8, facecolor=colour if new else "white", edgecolor=colour)
            ax.add_patch(box)
            label_colour = "white" if new else LABEL[idea]
            ax.text(key + 0.5, 0.4 - offset, f"${letter}_{key}$", ha="center", va="center", color=label_colour)
    for row in range(last):
        ax.text(-0.2, row + 0.5, f"$q_{row}$", ha="right", va="center", color=LABEL["residual"])
    ax.text(-0.2, last + 0.5, f"new $q_{last}$", ha="right", va="center", color=LABEL["query"])
    ax.text(-1.3, last / 2, "finished rows,\nnever needed\nagain", ha="right", va="center", color=LABEL["residual"])
    ax.text(-0.3, -1.45, "read from\nthe cache", ha="right", va="center", color=LABEL["key"])
    ax.text(n_tokens + 0.2, -1.45, "filled:\nnew", ha="left", va="center")
    ax.set(xlim=(-4.6, n_tokens + 1.7), ylim=(n_tokens + 0.1, -2.5), aspect="equal")
    ax.axis("off")
    plt.show()


def draw_cache_sizes(kb_per_token: Mapping[str, tuple[float, float]]) -> None:
    """kB that one token keeps: as released (filled circle), with one key/value head per query head (open circle)."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.36 * len(kb_per_token) + 1.3))
    open_circle = {"marker": "o", "ls": "", "mfc": "white", "mec": COLOUR["theory"], "mew": 2, "ms": 8}
    filled = {"marker": "o", "ls": "", "color": COLOUR["key"], "ms": 9}
    for y, (released, multi_head) in enumerate(kb_per_token.values()):
        ax.plot([released, multi_head], [y, y], color=COLOUR["theory"], lw=3, zorder=1)
        ax.plot(multi_head, y, **open_circle)
        ax.plot(released, y, **filled)
        ax.text(released / 1.3, y, f"{released:.0f}", va="center", ha="right", color=LABEL["key"])
        if multi_head > released:
            ax.text(multi_head * 1.3, y, f"÷ {multi_head / released:.0f}", va="center")
    # What the two circles mean, above the first row.
    for x, style, label in ((10, filled, "as released"), (300, open_circle, "if K were H")):
        ax.plot(x, -1.4, **style)
        ax.text(x * 1.3, -1.4, label, va="center")
    ax.set_yticks(range(len(kb_per_token)), list(kb_per_token))
    ax.set(xscale="log", xlabel="kB of cache per token (log scale)", xlim=(6, 14_000))
    ax.set_ylim(len(kb_per_token) - 0.4, -2)
    plt.show()


def draw_cache_growth(models: Mapping[str, LlamaConfig]) -> None:
    """GB of cache against tokens of context, beside the GB of the parameters, all in numbers of 2 bytes."""
    _, ax = plt.subplots(figsize=(WIDTH, 4.2))
    ideas = ("neutral", "key", "real")
    for (name, config), idea in zip(models.items(), ideas, strict=False):
        each = 4 * config.n_layers * config.n_kv_heads * config.head_dim / 1e9
        weights = 2 * config.n_params / 1e9
        ax.plot([1000, config.max_seq_len], [1000 * each, config.max_seq_len * each], color=COLOUR[idea], lw=2.6)
        if config.max_seq_len * each < weights:
            ax.plot(
                [config.max_seq_len, weights / each], [config.max_seq_len * each, weights], color=COLOUR[idea], lw=1
            )
        ax.axhline(weights, color=COLOUR[idea], ls="--", lw=1.2)
        if config.max_seq_len > 10_000:
            ax.text(config.max_seq_len * 1.15, config.max_seq_len * each * 0.8, name, color=LABEL[idea], va="center")
        else:  # its line is too short to stand beside
            ax.text(1050, 4.5, name, color=LABEL[idea], va="center")
    ax.text(1050, 2 * list(models.values())[1].n_params / 1e9 * 1.15, "parameters")
    ax.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel="GB", xlim=(1000, 2_500_000))
    plt.show()


def draw_roofline(
    groups: Sequence[int],
    batches: Sequence[int],
    peak_flops: float,
    bandwidth: float,
    prompt: float,
) -> None:
    """The roof of one accelerator. In FLOP per byte: attention to a cache has its group size, a matrix of weights the
    number of conversations (2-byte numbers); `prompt` is the attention of a whole prompt.
    """
    ridge = peak_flops / bandwidth
    figure, ax = plt.subplots(figsize=(WIDTH, 4.3))
    xs = [0.5, ridge, 4096]
    ax.plot(xs, [min(peak_flops, x * bandwidth) / 1e12 for x in xs], color=COLOUR["theory"], lw=4)
    for points, letter, idea, offset, side in (
        (groups, "G", "key", (9, -9), "left"),
        (batches, "B", "residual", (-9, 3), "right"),
    ):
        for x in points:
            y = x * bandwidth / 1e12
            ax.plot(x, y, "o" if letter == "G" else "D", color=COLOUR[idea], ms=8 if letter == "G" else 5)
            label = {"xytext": offset, "textcoords": "offset points", "color": LABEL[idea], "ha": side}
            ax.annotate(f"{letter} = {x}", (x, y), **label)
    ax.plot(prompt, peak_flops / 1e12, "s", color=COLOUR["query"], ms=8)
    ax.annotate(
        "a prompt",
        (prompt, peak_flops / 1e12),
        xytext=(0, -20),
        textcoords="offset points",
        color=COLOUR["query"],
        ha="center",
    )
    ax.plot([ridge, ridge], [1, peak_flops / 1e12], color=COLOUR["faint"], ls="--", zorder=0)
    ax.text(ridge * 1.15, 1.3, f"corner: {ridge:.0f}", color=LABEL["residual"])
    ax.text(0.5, 600, "memory sets\nthe pace", color=LABEL["theory"], va="center")
    ax.text(ridge, peak_flops / 1e12 * 1.5, "arithmetic sets the pace", color=LABEL["theory"], ha="center")
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(0.4, 9000),
        ylim=(1, 4000),
        xlabel="arithmetic intensity (FLOP per byte read)",
        ylabel="attainable TFLOP/s",
    )
    plt.show()


def draw_decode_times(
    kv_heads: Sequence[int],
    grouped: Sequence[Sequence[int | float]],
    one_by_one: Sequence[Sequence[int | float]],
    counted: Sequence[int | float],
) -> None:
    """Times of one decode step's attention, several runs for each number of key/value heads, over the median at the
    first; and the bytes it reads, as a fraction of the first.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8))
    ax.plot(kv_heads, counted, color=COLOUR["theory"], lw=5, alpha=0.6)
    ax.annotate("bytes, counted", (kv_heads[-1], counted[-1]), xytext=(8, -4), textcoords="offset points")
    styles = (
        (grouped, "o-", "key", "a group at a time"),
        (one_by_one, "s--", "real", "a head at a time"),
    )
    for runs, style, idea, label in styles:
        colour = COLOUR[idea]
        one = statistics.median(runs[0])
        middle = [statistics.median(times) / one for times in runs]
        ax.plot(kv_heads, middle, style, color=colour)
        ax.vlines(kv_heads, [min(times) / one for times in runs], [max(times) / one for times in runs], color=colour)
        ax.annotate(label, (kv_heads[-1], middle[-1]), xytext=(8, -4), textcoords="offset points", color=LABEL[idea])
    ax.set(xscale="log", yscale="log", xlabel="n_kv_heads (of 32 query heads)", ylabel="time (1: median at the left)")
    ax.set_xlim(kv_heads[0] * 1.2, kv_heads[-1] / 8)  # many heads on the left: the dial is turned down to the right
    ax.set_xticks(kv_heads, kv_heads)
    ax.set_yticks([1, 1 / 4, 1 / 16], ["1", "1/4", "1/16"])
    ax.minorticks_off()
    plt.show()


def draw_masks(masks: Mapping[str, Bool[Tensor, "seq keys"]]) -> None:
    """Which keys each new query may see, for several ways to build the mask."""
    figure, axes = plt.subplots(len(masks), 1, figsize=(WIDTH, 2.7 * len(masks)))
    for ax, (title, mask) in zip(axes, masks.items(), strict=True):
        seq, keys = mask.shape
        for row in range(seq):
            for key in range(keys):
                colour = COLOUR["query"] if mask[row, key] else COLOUR["faint"]
                ax.add_patch(Rectangle((key + 0.05, row + 0.05), 0.9, 0.9, color=colour, lw=0))
        ax.axvline(keys - seq, color=COLOUR["real"], lw=1.4, ls="--")
        ax.text((keys - seq) / 2, -0.25, "in the cache", ha="center", color=LABEL["key"])
        ax.text(keys - seq / 2, -0.25, "new", ha="center", color=LABEL["key"])
        ax.set(xlim=(0, keys), ylim=(seq, -0.2), aspect="equal")
        ax.set_title(title, pad=18)
        ax.set_xticks([i + 0.5 for i in range(keys)], range(keys))
        ax.set_yticks([i + 0.5 for i in range(seq)], range(keys - seq, keys))
        ax.set(ylabel="query")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[-1].set_xlabel("key")
    plt.show()


def draw_group(weights: Float[Tensor, "group seq seq"], words: Sequence[str], titles: Sequence[str]) -> None:
    """The attention maps of the query heads of one group, one below the other."""
    figure, axes = plt.subplots(len(weights), 1, figsize=(WIDTH, 3.3 * len(weights) + 0.8), sharex=True)
    for ax, map_, title in zip(axes, weights, titles, strict=True):
        image = ax.imshow(map_.numpy(), cmap=WEIGHTS, vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(len(words)), words)
        ax.tick_params(length=0)
        ax.set(title=title, ylabel="this token asks …" if ax is axes[0] else "")
        ax.spines[:].set_color(COLOUR["faint"])
    axes[-1].set_xticks(range(len(words)), words, rotation=90)
    axes[-1].set_xlabel("… and looks here")
    figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.7, aspect=30, label="weight")
    plt.show()


def draw_pooling(one_layer: Sequence[int | float], reference: float, every_layer: Mapping[str, float]) -> None:
    """Loss after pooling the heads of a single layer (top), and of all layers in several ways (bottom)."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 5.8), height_ratios=[1.2, 1])
    top.bar(range(len(one_layer)), [x - reference for x in one_layer], color=COLOUR["key"])
    top.axhline(0, color=COLOUR["real"], lw=1)
    top.set(title="one layer pooled, the others untouched", xlabel="layer", ylabel="loss added (nats/token)")
    top.set_xticks(range(0, len(one_layer), 5))
    names = list(every_layer)
    colours = [COLOUR["faint"] if name in ("untouched", "guessing") else COLOUR["key"] for name in names]
    bottom.barh(names, list(every_layer.values()), color=colours, height=0.6)
    for y, value in enumerate(every_layer.values()):
        bottom.text(value + 0.1, y, f"{value:.2f}", va="center")
    bottom.invert_yaxis()
    bottom.set(title="all layers pooled, no further training", xlabel="loss (nats/token)")
    bottom.set_xlim(0, max(every_layer.values()) * 1.2)
    plt.show()

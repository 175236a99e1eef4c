"""What the RMSNorm chapter draws. The numbers of a drawing come from a small function beside it."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from ..model import Llama
from .style import COLOUR, LABEL, WIDTH

Seen = dict[str, tuple[Tensor, Tensor]]  # what `record` returns: module name -> (its input, its output)


def rms(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """Root mean square over the features, with no ε."""
    return x.float().pow(2).mean(-1).sqrt()


def depth(name: str, n_layers: int) -> float:
    """Where in the stack a norm reads: blocks.3.attention_norm at 3, blocks.3.ffn_norm at 3.5, the last at the end."""
    if name == "norm":
        return float(n_layers)
    _, block, kind = name.split(".")
    return int(block) + (0.5 if kind == "ffn_norm" else 0.0)


def levels(seen: Seen, eps: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Depth and RMS at every norm of the recorded text: {curve: (depths, values)}.

    "first" and "others" are what enters (the first token; the median of the other tokens), "normed" what the division
    by r makes of it, before the gain, and "attention" and "ffn" what leaves (medians of the other tokens), without the
    last norm, which hands its output to the logits.
    """
    n_layers = sum(name.endswith("attention_norm") for name in seen)
    names = sorted(seen, key=lambda name: depth(name, n_layers))
    at = {name: depth(name, n_layers) for name in names}
    enters = {name: rms(seen[name][0][0]) for name in names}
    leaves = {name: rms(seen[name][1][0]) for name in names}

    def curve(chosen, value):
        return np.array([at[name] for name in chosen]), np.array([float(value(name)) for name in chosen])

    return {
        "first": curve(names, lambda name: enters[name][0]),
        "others": curve(names, lambda name: enters[name][1:].median()),
        "normed": curve(names, lambda name: kept_length(enters[name][1:], eps).median()),
        "attention": curve([m for m in names if m.endswith("attention_norm")], lambda name: leaves[name][1:].median()),
        "ffn": curve([m for m in names if m.endswith("ffn_norm")], lambda name: leaves[name][1:].median()),
    }


def draw_levels(seen: Seen, eps: float) -> None:
    """The stream's RMS before every norm, and what the norms make of it and hand to the sub-layers."""
    curves = levels(seen, eps)
    fig, ax = plt.subplots(figsize=(WIDTH, 4.2))
    ax.plot(*curves["first"], color=COLOUR["residual"], linestyle=":", linewidth=1.6)
    ax.plot(*curves["others"], color=COLOUR["residual"], linewidth=2.6)
    ax.plot(*curves["normed"], color=COLOUR["normalised"], linewidth=4)
    ax.plot(*curves["attention"], color=COLOUR["normalised"], linewidth=1.8)
    ax.plot(*curves["ffn"], color=COLOUR["normalised"], linestyle="--", linewidth=2.0)
    end = curves["first"][0][-1]
    ax.text(13, 1500, "stream, first token", color=LABEL["residual"])
    ax.text(13, 40, "stream, other tokens", color=LABEL["residual"])
    ax.text(end, 1.25, "divided by its RMS", color=LABEL["normalised"], ha="right")
    ax.text(end, 0.49, "times the gain: attention reads this", color=LABEL["normalised"], ha="right")
    ax.text(end, 0.075, "the feed-forward reads this", color=LABEL["normalised"], ha="right")
    ax.set(yscale="log", xlabel="depth (block)", ylabel="size (RMS) of a token's vector", xlim=(0, end))
    ax.set_ylim(0.02, 4000)
    plt.show()


def draw_number_lines(rows: list[tuple[str, Float[Tensor, " n"], str]]) -> None:
    """Several vectors, each as dots on a number line of its own, one below the other: (label, numbers, colour name)."""
    fig, axes = plt.subplots(len(rows), 1, figsize=(WIDTH, 1.15 * len(rows)), sharex=True)
    for ax, (label, numbers, colour) in zip(axes, rows, strict=True):
        values = [float(v) for v in numbers]
        ax.axhline(0, color=COLOUR["faint"], zorder=0)
        ax.axvline(0, color="#888888", linewidth=1, zorder=0)
        ax.scatter(values, [0] * len(values), s=46, color=COLOUR[colour], zorder=3)
        ax.scatter([float(np.mean(values))], [-0.42], marker="^", s=40, color="#888888", zorder=3)
        ax.set_title(label, color=LABEL[colour])
        ax.set(ylim=(-0.8, 0.5), yticks=[])
        ax.spines["left"].set_visible(False)
    axes[-1].set_xlabel("value (the triangle marks the mean)")
    plt.show()


def draw_spheres(
    points: Float[Tensor, "points 3"], rms_normed: Float[Tensor, "points 3"], layer_normed: Float[Tensor, "points 3"]
) -> None:
    """Vectors of three features before and after each norm."""
    fig = plt.figure(figsize=(WIDTH, 3.3))
    for i, (title, result) in enumerate((("RMSNorm: a sphere", rms_normed), ("LayerNorm: a circle", layer_normed)), 1):
        ax = fig.add_subplot(1, 2, i, projection="3d")
        for circle in _outline() if "RMS" in title else []:
            ax.plot(*circle, color=COLOUR["normalised"], linewidth=1)
        ax.scatter(*points.T.numpy(), s=7, color=COLOUR["residual"], alpha=0.7, linewidth=0, rasterized=True)
        ax.scatter(*result.T.numpy(), s=9, color=COLOUR["normalised"], linewidth=0, rasterized=True)
        ax.plot([-2.4, 2.4], [-2.4, 2.4], [-2.4, 2.4], color=COLOUR["real"], linewidth=1.2, linestyle="--")
        ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), zlim=(-2.6, 2.6), xticks=[], yticks=[], zticks=[])
        ax.set_box_aspect((1, 1, 1), zoom=1.25)
        ax.view_init(elev=16, azim=-8)
        ax.set_title(title, y=0.98)
    plt.show()


def _outline(around: int = 73) -> list[np.ndarray]:
    """Three great circles of the sphere of radius √3, each [3, points]: dots alone look like a disc."""
    turn = np.linspace(0, 2 * np.pi, around)
    flat = 3**0.5 * np.array([np.cos(turn), np.sin(turn), 0 * turn])
    return [flat[[0, 1, 2]], flat[[2, 0, 1]], flat[[1, 2, 0]]]


def mean_share(seen: Seen) -> dict[str, float]:
    """For every norm, the share of the mean square that the mean contributes: mean² / mean(x²), median over tokens."""
    shares = {}
    for name, (x, _) in seen.items():
        x = x[0].float()
        shares[name] = float((x.mean(-1).pow(2) / x.pow(2).mean(-1)).median())
    return shares


def draw_mean_share(seen: Seen, random: float) -> None:
    """How little the mean contributes at every norm, against `random`, the median share of random directions."""
    shares = mean_share(seen)
    n_layers = sum(name.endswith("attention_norm") for name in shares)
    where = [depth(name, n_layers) for name in shares]
    fig, ax = plt.subplots(figsize=(WIDTH, 3.0))
    ax.scatter(where, [100 * s for s in shares.values()], s=18, color=COLOUR["real"])
    ax.axhline(100 * random, color=COLOUR["residual"], linestyle="--")
    ax.text(2, 102 * random, "median of random vectors", color=LABEL["residual"], va="bottom")
    ax.text(0, 0.003, "dots: SmolLM2's median token", color=LABEL["real"], va="bottom")
    ax.set(xlabel="depth (block)", ylabel="mean² / mean(x²), %", ylim=(0, 0.1))
    plt.show()


def draw_leak(changes: dict[str, Float[Tensor, " seq"]], changed: int) -> None:
    """How far every token's output moves when one token changes, a row for each way to choose the axis."""
    fig, axes = plt.subplots(len(changes), 1, figsize=(WIDTH, 1.25 * len(changes)), sharex=True)
    for ax, (label, change) in zip(axes, changes.items(), strict=True):
        colours = [COLOUR["residual"] if i == changed else COLOUR["real"] for i in range(len(change))]
        ax.bar(range(len(change)), change.tolist(), color=colours)
        ax.set_title(label)
        ax.set(ylim=(0, 1.15 * max(float(c.max()) for c in changes.values())), yticks=[0, 1, 2])
    axes[-1].set(xlabel=f"token (only token {changed} was changed)", xticks=range(len(change)))
    fig.supylabel("change of the output (RMS)")
    plt.show()


def gain_bands(model: Llama) -> dict[str, Float[Tensor, "layers 3"]]:
    """5th, 50th and 95th percentile of the gains of every block: {"attention_norm": [layers, 3], "ffn_norm": ...}."""
    at = torch.tensor([0.05, 0.5, 0.95])
    return {
        kind: torch.stack([torch.quantile(getattr(b, kind).weight.detach().float(), at) for b in model.blocks])
        for kind in ("attention_norm", "ffn_norm")
    }


def draw_gains(model: Llama) -> None:
    """The learned gains, block by block."""
    fig, ax = plt.subplots(figsize=(WIDTH, 3.6))
    blocks = range(len(model.blocks))
    for (_, band), colour in zip(gain_bands(model).items(), ("normalised", "real"), strict=True):
        ax.fill_between(blocks, band[:, 0], band[:, 2], color=COLOUR[colour], alpha=0.22, linewidth=0)
        ax.plot(blocks, band[:, 1], color=COLOUR[colour])
    ax.text(20.5, 0.76, "attention_norm", color=LABEL["normalised"], ha="center")
    ax.text(26.5, 0.14, "ffn_norm", color=LABEL["real"], ha="center")
    ax.axhline(1, color=COLOUR["residual"], linestyle="--")
    ax.text(0, 0.98, "where every gain starts", color=LABEL["residual"], va="top")
    ax.axhline(0, color=COLOUR["faint"], zorder=0)
    ax.set(xlabel="block", ylabel="gain", ylim=(-0.12, 1.08))
    plt.show()


def loudness(x: Float[Tensor, "tokens dim"]) -> Float[Tensor, " dim"]:
    """RMS of every feature over the tokens, after each token was divided by its own RMS: 1 is average."""
    return (x.float() / rms(x)[:, None]).pow(2).mean(0).sqrt()


def draw_loudness(x: Float[Tensor, "tokens dim"], strength: Float[Tensor, " dim"], label: int = 3) -> None:
    """Each feature's loudness in the stream against how strongly it is read, both on logarithmic axes."""
    loud, size = loudness(x), strength
    fig, ax = plt.subplots(figsize=(WIDTH, 3.8))
    ax.scatter(loud, size, s=12, color=COLOUR["real"], alpha=0.5, linewidth=0)
    for i in loud.topk(label).indices.tolist():
        ax.scatter([loud[i]], [size[i]], s=26, color=COLOUR["normalised"])
        ax.annotate(f"feature {i}", (loud[i], size[i]), (0, 8), textcoords="offset points", ha="center")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="loudness of the feature in the stream (1 = average)",
        ylabel="length of its folded column",
    )
    plt.show()


def through_norm(x: Float[Tensor, "2"], upstream: Float[Tensor, "2"], eps: float = 1e-5) -> Float[Tensor, "2"]:
    """What reaches x through an RMSNorm of gain one when the gradient `upstream` arrives at its output (autograd)."""
    x = x.clone().requires_grad_()
    y = x * torch.rsqrt(x.pow(2).mean() + eps)
    return torch.autograd.grad(y, x, upstream)[0]


def draw_gradients(upstream: Float[Tensor, "2"], radii: tuple[float, ...] = (1.0, 2.0, 3.0), around: int = 12) -> None:
    """One upstream gradient seen from many places: what is left of it points along the circle and shrinks outwards."""
    fig, ax = plt.subplots(figsize=(WIDTH * 0.8, WIDTH * 0.8))
    angles = torch.arange(around) * (2 * torch.pi / around) + 0.13
    for radius in radii:
        ax.add_patch(plt.Circle((0, 0), radius, fill=False, color=COLOUR["faint"], linewidth=1))
        for angle in angles:
            x = radius * torch.stack([angle.cos(), angle.sin()])
            _arrow(ax, x, 0.8 * through_norm(x, upstream), COLOUR["normalised"])
            ax.plot(*x.tolist(), ".", color=COLOUR["residual"], markersize=6)
    _arrow(ax, torch.tensor([-3.7, 3.3]), 0.8 * upstream, COLOUR["real"])
    ax.text(-2.7, 3.5, "arrives at y", color=LABEL["real"])
    ax.text(0, -3.6, "reaches x", color=LABEL["normalised"], ha="center")
    ax.plot(0, 0, "+", color=COLOUR["real"], markersize=9)
    ax.set(xlim=(-3.8, 3.8), ylim=(-3.8, 3.9), aspect="equal", xlabel="feature 1", ylabel="feature 2")
    plt.show()


def _arrow(ax: Axes, start: Tensor, step: Tensor, colour: str) -> None:
    ax.annotate(
        "",
        (start + step).tolist(),
        start.tolist(),
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 1.8,
            "mutation_scale": 9,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def draw_depth(panels: dict[str, dict[str, Float[Tensor, " layers"]]]) -> None:
    """Gradient norm of every block's weights: a panel for each kind of block, a curve for each place of the norm."""
    styles = (("normalised", "-"), ("real", "--"))
    fig, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, 2.1 * len(panels)), sharex=True, sharey=True)
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for (label, values), (idea, line) in zip(curves.items(), styles, strict=True):
            ax.plot(range(1, len(values) + 1), values, color=COLOUR[idea], linestyle=line, label=label)
        ax.set_title(title)
        ax.set(yscale="log", ylabel="gradient norm")
    axes[0].legend(labelcolor=[LABEL[idea] for idea, _ in styles], loc="upper right", borderaxespad=0)
    axes[-1].set_xlabel("block")
    plt.show()


def kept_length(input_rms: Float[Tensor, " n"], eps: float, inside: bool = True) -> Float[Tensor, " n"]:
    """RMS of the output for inputs of this RMS and gain one: 1 where ε does not matter."""
    if inside:
        return input_rms / (input_rms**2 + eps).sqrt()
    return input_rms / (input_rms + eps)


def draw_eps(marks: dict[str, float]) -> None:
    """Where ε begins to matter, with marks (label: RMS) of vectors that a model meets."""
    r = torch.logspace(-5, 0.5, 300)
    fig, ax = plt.subplots(figsize=(WIDTH, 4.0))
    lines = (
        (1e-5, True, "normalised", "-", "ε = 10⁻⁵\ninside", 2.7e-3, 0.42, "left"),
        (1e-6, True, "normalised", "--", "10⁻⁶ inside", 1.9e-4, 0.24, "right"),
        (1e-5, False, "real", "-", "10⁻⁵ outside", 1.5e-5, 0.44, "left"),
    )
    for eps, inside, colour, style, label, x, y, align in lines:
        ax.plot(r, kept_length(r, eps, inside), color=COLOUR[colour], linestyle=style)
        ax.text(x, y, label, color=LABEL[colour], ha=align)
    for i, (label, value) in enumerate(marks.items()):
        ax.axvline(value, color=COLOUR["real"], linewidth=1, linestyle=":")
        ax.text(value * 1.1, 0.05 + 0.12 * i, label, color=LABEL["real"], bbox={"color": "white", "pad": 0.5})
    ax.set(xscale="log", xlabel="RMS of the input", ylabel="RMS of the output", xlim=(1e-5, 3), ylim=(0, 1.05))
    plt.show()


def draw_losses(losses: dict[str, Float[Tensor, "seeds steps"]], colours: dict[str, str], smooth: int = 10) -> None:
    """Training curves, a thin line for every seed, smoothed by a running mean over `smooth` steps."""
    fig, ax = plt.subplots(figsize=(WIDTH, 3.4))
    for label, runs in losses.items():
        for run in runs:
            curve = np.convolve(run.numpy(), np.ones(smooth) / smooth, mode="valid")
            ax.plot(range(smooth, len(run) + 1), curve, color=COLOUR[colours[label]], linewidth=1.4)
    ax.set(xlabel="step", ylabel="training loss, nats per byte")
    ends = {label: runs[:, -smooth:].mean(1) for label, runs in losses.items()}
    highest = max(ends, key=lambda label: ends[label].max())
    below = min(float(end.min()) for end in ends.values()) - 0.1
    for label, end in ends.items():
        above = label == highest
        y = float(end.max()) + 0.1 if above else below
        ax.text(len(run), y, label, color=LABEL[colours[label]], ha="right", va="bottom" if above else "top")
        below -= 0 if above else 0.25
    ax.set_ylim(bottom=below)
    plt.show()

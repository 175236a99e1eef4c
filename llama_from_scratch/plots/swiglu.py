"""What the chapter "SwiGLU" draws. The numbers come from the chapter, or from a small function beside the drawing."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..inside import record
from ..model import Llama
from .style import COLOUR, LABEL, SIGNS, WIDTH


def neurons(
    model: Llama, tokens: Int[Tensor, "1 seq"], layer: int
) -> tuple[Float[Tensor, "seq ffn_dim"], Float[Tensor, "seq ffn_dim"]]:
    """What gate and up projection of one layer give for each token of a text."""
    name = f"blocks.{layer}.feed_forward"
    seen = record(model, tokens, f"{name}.gate_proj", f"{name}.up_proj")
    return seen[f"{name}.gate_proj"][1][0], seen[f"{name}.up_proj"][1][0]


def draw_words(values: Mapping[str, float], chosen: Sequence[str]) -> None:
    """One neuron's product for each word, a bar each; `chosen` words are named in a colour of their own."""
    _, ax = plt.subplots(figsize=(WIDTH, 0.27 * len(values) + 0.9))
    for y, (word, value) in enumerate(values.items()):
        idea = "real" if word in chosen else "neutral"
        ax.barh(y, value, color=COLOUR[idea])
        ax.text(0.5, y, word, va="center", color=LABEL[idea])
    ax.axvline(0, color=COLOUR["faint"], linewidth=1)
    ax.set(yticks=[], xlabel="SiLU(gate) · up", xlim=(min(values.values()) * 1.08, 3.0), ylim=(len(values) - 0.4, -0.6))
    ax.spines["left"].set_visible(False)
    plt.show()


def draw_curves() -> None:
    """ReLU, GELU and SiLU."""
    x = torch.linspace(-5, 3, 400)
    _, ax = plt.subplots(figsize=(WIDTH, 3.4))
    for name, fn, idea, style, at in (
        ("ReLU", F.relu, "neutral", "-", (-4.9, 0.12)),
        ("GELU", F.gelu, "theory", "--", (-3.3, -0.42)),
        ("SiLU", F.silu, "real", "-", (-4.9, -0.42)),
    ):
        ax.plot(x, fn(x), color=COLOUR[idea], linestyle=style)
        ax.text(*at, name, color=LABEL[idea])
    ax.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
    ax.axvline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
    ax.set(xlabel="input", ylabel="output", ylim=(-0.7, 3))
    plt.show()


def surface(gated: bool, side: int = 81) -> Float[Tensor, "side side"]:
    """What a neuron gives for each gate (column) and up (row, from 4 down to -4); ungated it ignores up."""
    gate = torch.linspace(-4, 4, side)
    up = torch.linspace(4, -4, side)[:, None] if gated else torch.ones(side, 1)
    return F.silu(gate).expand(side, side) * up


def draw_surfaces() -> None:
    """A plain neuron and a gated one over the two numbers that a gated neuron reads."""
    _, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), sharey=True)
    for ax, gated, title in ((axes[0], False, "SiLU(gate)"), (axes[1], True, "SiLU(gate) · up")):
        values = surface(gated)
        ax.imshow(values, cmap=SIGNS, vmin=-12, vmax=12, extent=(-4, 4, -4, 4))
        lines = ax.contour(
            values.flip(0), levels=[-6, -2, 2, 6], extent=(-4, 4, -4, 4), colors="#222222", linewidths=0.9
        )
        ax.clabel(lines, fontsize=12)
        ax.set(title=title, xlabel="gate", xticks=[-4, 0, 4], yticks=[-4, 0, 4])
    axes[0].set_ylabel("up")
    plt.show()


def top_share(products: Float[Tensor, "seq ffn_dim"], part: float = 0.05) -> float:
    """Share of a token's sum of squares that lies in the largest `part` of the neurons; the mean over tokens."""
    squares = products.pow(2).sort(dim=-1, descending=True).values
    return (squares[:, : round(part * squares.shape[1])].sum(-1) / squares.sum(-1)).mean().item()


def draw_sparsity(shares: Sequence[float], closed: Sequence[float]) -> None:
    """By layer: how much of the squares the top 5 % of neurons hold, and how many gates are below zero."""
    _, ax = plt.subplots(figsize=(WIDTH, 3.2))
    ax.plot([100 * share for share in shares], color=COLOUR["real"], marker="o", markersize=3)
    ax.plot([100 * share for share in closed], color=COLOUR["neutral"], marker="s", markersize=3)
    ax.text(9, 100 * max(shares) * 0.97, "held by the top 5 %", color=LABEL["real"])
    ax.text(12, 100 * min(closed) * 0.9, "gates below zero", color=LABEL["neutral"])
    ax.set(xlabel="layer", ylabel="%", ylim=(0, 105))
    plt.show()


def draw_losses(losses: Mapping[str, Float[Tensor, " seeds"]]) -> None:
    """The last losses of several kinds of layer: a dot for each seed, a line for the mean."""
    _, ax = plt.subplots(figsize=(WIDTH, 0.55 * len(losses) + 1.1))
    for y, (name, values) in enumerate(losses.items()):
        idea = "real" if "gated" in name else "neutral"
        ax.plot(values, np.full(len(values), y), "o", color=COLOUR[idea], alpha=0.7)
        ax.plot([values.mean()] * 2, [y - 0.25, y + 0.25], color=COLOUR[idea], linewidth=2.4)
    ax.set(xlabel="loss, nats per byte", ylim=(len(losses) - 0.5, -0.5))
    ax.set_yticks(range(len(losses)), list(losses))
    ax.tick_params(axis="y", length=0)
    plt.show()

"""What the chapter "Self-attention from first principles" draws. The numbers come from the chapter."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Polygon
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .style import COLOUR, LABEL, WIDTH

# White means no attention, so that a triangle of zeros leaves no ink.
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#FFFFFF", COLOUR["theory"], COLOUR["query"], "#00263D"])


class _Written(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made and is not a view of one of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        old = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in old:
                self.n_bytes += x.nbytes
        return out


def bytes_written(fn: Callable[..., Tensor], *args: Tensor) -> int:
    """Bytes of all tensors that fn(*args) makes on its way, copies and tables of weights included."""
    with _Written() as written:
        fn(*args)
    return written.n_bytes


def draw_mean_of_values(
    words: Sequence[str],
    q: Float[Tensor, "2"],
    k: Float[Tensor, "keys 2"],
    v: Float[Tensor, "keys 2"],
    weights: Float[Tensor, " keys"],
) -> None:
    """One query among its keys (left), and the mean of the values that it takes (right), for heads of two numbers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.3))
    for vector, word in zip(k.tolist(), words, strict=True):
        _arrow(left, vector, COLOUR["key"])
        left.annotate(f"$k$ {word}", vector, xytext=(4, 3), textcoords="offset points", color=LABEL["key"])
    _arrow(left, q.tolist(), COLOUR["query"])
    left.annotate(f"$q$ {words[-1]}", q.tolist(), xytext=(4, 3), textcoords="offset points", color=LABEL["query"])
    left.set(title="how well does q fit each k?", xlim=(-1.7, 2.6), ylim=(-0.6, 2.7), aspect="equal")

    right.add_patch(Polygon(v.tolist(), closed=True, facecolor=COLOUR["faint"], edgecolor="none", alpha=0.7))
    mean = (weights @ v).tolist()
    for vector, word, weight in zip(v.tolist(), words, weights.tolist(), strict=True):
        right.plot([vector[0], mean[0]], [vector[1], mean[1]], color=COLOUR["value"], lw=6 * weight, alpha=0.5)
        right.plot(*vector, "o", color=COLOUR["value"], ms=5 + 16 * weight)
        right.annotate(
            f"$v$ {word}\n{weight:.3f}", vector, xytext=(9, 4), textcoords="offset points", color=LABEL["value"]
        )
    right.plot(*mean, "*", color=COLOUR["real"], ms=15)
    right.annotate("output", mean, xytext=(-8, -16), textcoords="offset points", ha="right")
    right.set(title="the output lies among the v", xlim=(-0.8, 6.9), ylim=(-0.8, 6.4), aspect="equal")
    for ax in (left, right):
        ax.axhline(0, color=COLOUR["faint"], lw=1, zorder=0)
        ax.axvline(0, color=COLOUR["faint"], lw=1, zorder=0)
    plt.show()


def _arrow(ax, tip: Sequence[int | float], colour: str) -> None:
    ax.annotate("", tip, xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2, "shrinkA": 0})


def draw_scale(
    head_dims: Sequence[int],
    variance: Sequence[int | float],
    largest: Mapping[str, Sequence[int | float]],
) -> None:
    """Variance of q·k against head_dim, and the largest weight for each thing the score may be divided by."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 6), sharex=True)
    top.plot(head_dims, head_dims, color=COLOUR["theory"], lw=5, alpha=0.6)
    top.plot(head_dims, variance, "o", color=COLOUR["real"])
    top.annotate("measured", (head_dims[2], variance[2]), xytext=(8, -12), textcoords="offset points")
    top.annotate(
        "head_dim itself",
        (head_dims[-2], head_dims[-2]),
        xytext=(-8, 6),
        textcoords="offset points",
        color=LABEL["theory"],
        ha="right",
    )
    top.set(xscale="log", yscale="log", ylabel="variance of q·k", title="a longer dot product spreads wider")
    styles = {"÷ √head_dim": "theory", "÷ √n_heads": "residual", "undivided": "real"}
    for name, values in largest.items():
        bottom.plot(head_dims, values, "o-", color=COLOUR[styles[name]])
        bottom.annotate(
            name,
            (head_dims[-1], values[-1]),
            xytext=(8, -4),
            textcoords="offset points",
            color=LABEL[styles[name]],
        )
    bottom.set(
        xscale="log",
        ylim=(0, 1),
        xlabel="head_dim (numbers in one head)",
        ylabel="largest of 64 weights",
        title="so one key takes more and more, unless …",
    )
    bottom.set_xticks(head_dims, head_dims)
    bottom.set_xlim(right=head_dims[-1] * 2.6)
    bottom.minorticks_off()
    plt.show()


def draw_patterns(patterns: Mapping[str, Float[Tensor, "layers heads"]]) -> None:
    """For each pattern, how much of each head's weight follows it: a square for a head."""
    figure, axes = plt.subplots(1, len(patterns), figsize=(WIDTH, 5.4), sharey=True)
    for ax, (title, numbers) in zip(axes, patterns.items(), strict=True):
        image = ax.imshow(numbers.numpy(), cmap=WEIGHTS, vmin=0, vmax=1, aspect="auto")
        ax.set_xticks([0, 4, 8])
        ax.tick_params(length=0)
        ax.set(title=title.replace("the ", "the\n", 1).replace("after the\n", "after\nthe "), xlabel="head")
    axes[0].set(ylabel="layer")
    figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.7, aspect=30, label="share of its weight")
    plt.show()


def draw_maps(maps: Mapping[str, Float[Tensor, "seq seq"]]) -> None:
    """Whole attention maps, one below the other: a row for each token that asks."""
    _, axes = plt.subplots(len(maps), 1, figsize=(WIDTH, 4.1 * len(maps)))
    for ax, (title, weights) in zip(axes, maps.items(), strict=True):
        ax.imshow(weights.numpy(), cmap=WEIGHTS, vmin=0, vmax=0.6, interpolation="nearest")
        ax.set(title=title, ylabel="this token asks …")
    axes[-1].set_xlabel("… and looks here")
    plt.show()

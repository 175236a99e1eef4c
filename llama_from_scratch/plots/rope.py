"""What the chapter *RoPE: rotations* draws. Every number comes from the caller; nothing here knows a result."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.colors import LogNorm
from torch import Tensor

from .style import COLOUR, WIDTH


def draw_clock_faces(
    q: Float[Tensor, "2"], k: Float[Tensor, "2"], positions: Sequence[tuple[int, int]], angle_per_token: float
) -> None:
    """One face for each (query position, key position), the two hands turned by position · angle, the score below."""
    fig, axes = plt.subplots(1, len(positions), figsize=(WIDTH, 2.75))
    for ax, (m, n) in zip(axes, positions, strict=True):
        ax.add_patch(plt.Circle((0, 0), 1.42, facecolor="none", edgecolor=COLOUR["faint"], linewidth=2))
        hours = np.exp(1j * np.arange(12) * np.pi / 6)
        ax.plot(1.35 * hours.real, 1.35 * hours.imag, ".", color="#BBBBBB", markersize=3)
        tips = []
        for hand, position, idea, name in ((q, m, "query", "q"), (k, n, "key", "k")):
            turn = np.exp(1j * position * angle_per_token)
            tip, start = complex(*hand.tolist()) * turn, complex(*hand.tolist())
            ax.plot(
                [0, start.real], [0, start.imag], color=COLOUR[idea], linewidth=1.2, linestyle=(0, (2, 2)), alpha=0.6
            )
            ax.annotate(
                "", (tip.real, tip.imag), (0, 0), arrowprops={"arrowstyle": "-|>", "color": COLOUR[idea], "lw": 2.6}
            )
            label = tip * (1 + 0.19 / abs(tip))
            ax.text(
                label.real,
                label.imag,
                f"${name}_{{{position}}}$",
                color=COLOUR[idea],
                ha="center",
                va="center",
                size=13,
            )
            tips.append(tip)
        between = np.angle(tips[1] / tips[0])
        arc = 0.45 * np.exp(1j * (np.angle(tips[0]) + np.linspace(0, between, 40)))
        ax.plot(arc.real, arc.imag, color=COLOUR["position"], linewidth=2)
        ax.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal", xticks=[], yticks=[])
        ax.set_title(f"query at {m}, key at {n}", loc="center")
        ax.set_xlabel(f"score {(tips[0] * tips[1].conjugate()).real:.2f}", size=12)
        ax.spines[:].set_visible(False)
    plt.show()


def draw_waves(distances: Float[Tensor, "n"], waves: Mapping[str, Float[Tensor, "n"]], chosen: int) -> None:
    """The score of one pair against distance, a panel for each (q, k); the dot is the score at distance `chosen`."""
    fig, axes = plt.subplots(len(waves), 1, figsize=(WIDTH, 1.35 * len(waves)), sharex=True, sharey=True)
    for ax, (label, scores) in zip(axes, waves.items(), strict=True):
        ax.plot(distances, scores, color=COLOUR["position"])
        at = int((distances - chosen).abs().argmin())
        ax.plot([chosen], [scores[at]], "o", color=COLOUR["real"], markersize=7)
        ax.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
        ax.set_title(label)
        ax.set_ylabel("score")
    axes[-1].set_xlabel("distance: query position − key position (tokens)")
    plt.show()


def draw_likeness(curves: Mapping[str, Float[Tensor, "n"]]) -> None:
    """How much each later position looks like position 0, a panel for each set of hands."""
    fig, axes = plt.subplots(len(curves), 1, figsize=(WIDTH, 1.4 * len(curves)), sharex=True, sharey=True)
    for ax, (label, likeness) in zip(axes, curves.items(), strict=True):
        ax.plot(likeness, color=COLOUR["position"], linewidth=1.4)
        twins = (likeness[1:] > 0.999).nonzero().flatten() + 1
        ax.plot(
            twins, likeness[twins], "o", color=COLOUR["key"], markersize=5, clip_on=False, rasterized=len(twins) > 100
        )
        ax.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
        ax.set_title(label)
        ax.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1))
    axes[len(axes) // 2].set_ylabel("likeness to position 0 (cosine)")
    axes[-1].set_xlabel("position (tokens)")
    plt.show()


def draw_angle_map(cosines: Float[Tensor, "positions half"]) -> None:
    """cos(position · frequency) as a picture: one row for each pair, fastest on top."""
    fig, ax = plt.subplots(figsize=(WIDTH, 3.6))
    image = ax.imshow(cosines.T.numpy(), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set(xlabel="position (tokens)", ylabel="pair i (fast above, slow below)")
    fig.colorbar(image, ax=ax, label="cos(position · $\\theta_i$)", ticks=(-1, 0, 1))
    plt.show()


def draw_wavelengths(models: Mapping[str, tuple[Float[Tensor, "half"], int]]) -> None:
    """Wavelength of each pair on a log axis, a panel for each model, given (frequencies, context length)."""
    fig, axes = plt.subplots(len(models), 1, figsize=(WIDTH, 1.9 * len(models)), sharey=True, squeeze=False)
    for ax, (label, (freqs, context)) in zip(axes[:, 0], models.items(), strict=True):
        wavelengths = 2 * np.pi / freqs.double()
        inside = wavelengths <= context
        i = np.arange(len(freqs))
        for chosen, idea, text, where in (
            (inside, "position", "turn at least once", 0.02),
            (~inside, "residual", "never complete a turn", 0.98),
        ):
            ax.plot(i[chosen], wavelengths[chosen], "o", color=COLOUR[idea], markersize=4)
            side = "left" if where < 0.5 else "right"
            text = f"{int(chosen.sum())} pairs {text}"
            ax.text(
                where,
                0.9 if where < 0.5 else 0.08,
                text,
                transform=ax.transAxes,
                color=COLOUR[idea],
                ha=side,
                va="center",
            )
        ax.axhline(context, color=COLOUR["real"], linewidth=1, linestyle="--")
        ax.text(len(freqs) * 0.995, context * 0.8, f"context {context}", ha="right", va="top", color=COLOUR["real"])
        ax.set_yscale("log")
        ax.set_title(label)
        ax.set_ylabel("tokens per turn")
    axes[-1, 0].set_xlabel("pair i")
    plt.show()


def draw_decay(
    distances: Int[Tensor, "n"],
    ones: Float[Tensor, "n"],
    random_scores: Float[Tensor, "draws n"],
    built: Float[Tensor, "n"],
    peak: int,
) -> None:
    """Score against distance for three kinds of q and k; random ones as a mean and a band of one standard deviation."""
    fig, axes = plt.subplots(3, 1, figsize=(WIDTH, 5.4), sharex=True)
    mean, std = random_scores.mean(0), random_scores.std(0)
    axes[0].plot(distances, ones, color=COLOUR["position"], linewidth=1.2)
    axes[0].set_title("q = k = all ones: it decays")
    axes[1].fill_between(distances, mean - std, mean + std, color=COLOUR["faint"])
    axes[1].plot(distances, random_scores[0], color=COLOUR["position"], linewidth=0.8)
    axes[1].plot(distances, mean, color=COLOUR["real"])
    axes[1].set_title(f"q and k random: one draw, and mean ± std of {len(random_scores)}")
    axes[2].plot(distances, built, color=COLOUR["position"], linewidth=1.2)
    axes[2].axvline(peak, color=COLOUR["key"], linewidth=1, linestyle="--")
    axes[2].set_title(f"k built for distance {peak}: it peaks there")
    for ax in axes:
        ax.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
        ax.set_ylabel("score / largest" if ax is not axes[1] else "score / √d")
    axes[-1].set_xlabel("distance (tokens)")
    plt.show()


def draw_pair_strength(strength: Float[Tensor, "layers half"], turns: Float[Tensor, "half"]) -> None:
    """Mean |q_i||k_i|/√d of each pair in each layer, and which pairs complete a turn within the context."""
    fig, (top, ax) = plt.subplots(2, 1, figsize=(WIDTH, 5.0), sharex=True, height_ratios=(1, 2.2))
    top.bar(range(len(turns)), strength.mean(0).tolist(), color=COLOUR["real"], width=0.8)
    top.set(ylabel="mean of\nall layers", xlim=(-0.5, len(turns) - 0.5), ylim=(0, 1.3 * float(strength.mean(0).max())))
    image = ax.imshow(strength.numpy(), aspect="auto", norm=LogNorm(), interpolation="nearest")
    ax.set(xlabel="pair i (fast on the left, slow on the right)", ylabel="layer")
    slow = int((turns < 1).nonzero()[0])
    for panel in (top, ax):
        panel.axvline(slow - 0.5, color=COLOUR["key"], linewidth=1.5, linestyle="--")
    top.text(slow - 0.2, top.get_ylim()[1], "less than one turn →", color=COLOUR["key"], va="top", ha="left")
    top.text(slow - 0.8, top.get_ylim()[1], "← at least one turn", color=COLOUR["key"], va="top", ha="right")
    fig.colorbar(image, ax=ax, label="$|q_i||k_i|/\\sqrt{d}$")
    plt.show()


def draw_previous_token_head(
    weights: Float[Tensor, "seq seq"], scores: Mapping[str, Float[Tensor, "distances"]], tokens: Sequence[str]
) -> None:
    """A head's attention map (first tokens), and three lines of mean score against distance: fast, slow, total."""
    fig, (ax, below) = plt.subplots(2, 1, figsize=(WIDTH, 8.2), height_ratios=(1.9, 1))
    n = len(tokens)
    ax.imshow(weights[:n, :n].numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks(range(n), tokens, rotation=90)
    ax.set_yticks(range(n), tokens)
    ax.set(xlabel="key token", ylabel="query token")
    styles = (("position", "-"), ("residual", "-"), ("real", "--"))
    for (label, line), (idea, dash) in zip(scores.items(), styles, strict=True):
        below.plot(line, dash, marker="o", markersize=3.5, color=COLOUR[idea])
        below.text(len(line) - 0.6, line[-1], label, color=COLOUR[idea], va="center")
    below.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
    shown = len(next(iter(scores.values())))
    below.set(xlabel="distance (tokens)", ylabel="mean score", xlim=(-0.3, 1.32 * shown), xticks=range(0, shown, 5))
    plt.show()


def draw_losses(losses: Mapping[str, float]) -> None:
    """Bars of the loss (nats per token); the first entry is the model as it is."""
    fig, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(losses) + 0.7))
    names, values = list(losses), list(losses.values())
    ax.barh(names, values, color=[COLOUR["real"], *[COLOUR["theory"]] * (len(names) - 1)], height=0.62)
    for y, value in enumerate(values):
        ax.text(value, y, f" {value:.3f}", va="center")
    ax.axvline(values[0], color=COLOUR["real"], linewidth=1, linestyle="--")
    ax.invert_yaxis()
    ax.set(xlabel="loss on the passage (nats per token)", xlim=(0, 1.15 * max(values)))
    plt.show()


def draw_bug_table(caught: Bool[Tensor, "bugs tests"], bugs: Sequence[str], tests: Sequence[str]) -> None:
    """Which test sees which bug: a filled square where it does."""
    fig, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(bugs) + 1.9))
    for row in range(len(bugs)):
        for column in range(len(tests)):
            seen = bool(caught[row, column])
            ax.text(
                column, row, "caught" if seen else "—", ha="center", va="center", color="#222222" if seen else "#777777"
            )
            colour = COLOUR["value"] if seen else "none"
            ax.add_patch(plt.Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, facecolor=colour, alpha=0.35))
    ax.set_xticks(range(len(tests)), tests)
    ax.set_yticks(range(len(bugs)), bugs)
    ax.set(xlim=(-0.5, len(tests) - 0.5), ylim=(len(bugs) - 0.5, -0.5))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    plt.show()

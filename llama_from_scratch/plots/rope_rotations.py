"""What the chapter *RoPE: rotations* draws. Every number comes from the caller; nothing here knows a result."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.colors import LogNorm
from torch import Tensor

from .style import COLOUR, LABEL, SIGNS, WIDTH


def draw_clock_faces(
    q: Float[Tensor, "2"], k: Float[Tensor, "2"], positions: Sequence[tuple[int, int]], angle_per_token: float
) -> None:
    """One face for each (query position, key position), two in a row: both hands turned, and the score below."""
    rows = math.ceil(len(positions) / 2)
    fig, axes = plt.subplots(rows, 2, figsize=(WIDTH, 3.15 * rows), layout="constrained")
    fig.get_layout_engine().set(h_pad=0.12)  # else the score of one face touches the title of the next
    for ax, (m, n) in zip(axes.flat, positions, strict=True):
        ax.add_patch(plt.Circle((0, 0), 1.42, facecolor="none", edgecolor=COLOUR["faint"], linewidth=2))
        tips = []
        for hand, position, idea, name in ((q, m, "query", "q"), (k, n, "key", "k")):
            start = complex(*hand.tolist())
            tip = start * np.exp(1j * position * angle_per_token)
            ax.plot([0, start.real], [0, start.imag], color=COLOUR[idea], linewidth=2, alpha=0.3)
            ax.annotate(
                "", (tip.real, tip.imag), (0, 0), arrowprops={"arrowstyle": "-|>", "color": COLOUR[idea], "lw": 2.6}
            )
            at = tip * (1 + 0.19 / abs(tip))
            label = f"${name}_{{{position}}}$"
            ax.text(at.real, at.imag, label, color=LABEL[idea], ha="center", va="center", size=15)
            tips.append(tip)
        between = np.angle(tips[1] / tips[0])
        arc = 0.45 * np.exp(1j * (np.angle(tips[0]) + np.linspace(0, between, 40)))
        ax.plot(arc.real, arc.imag, color=COLOUR["position"], linewidth=2)
        ax.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal", xticks=[], yticks=[])
        ax.set_title(f"query at {m}, key at {n}", loc="center")
        score = (tips[0] * tips[1].conjugate()).real
        ax.set_xlabel(f"distance {m - n}: score {score:.2f}", size=12)
        ax.spines[:].set_visible(False)
    plt.show()


def draw_waves(distances: Float[Tensor, " n"], waves: Mapping[str, Float[Tensor, " n"]], chosen: int) -> None:
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


def draw_likeness(curves: Mapping[str, Float[Tensor, " n"]], twin: float) -> None:
    """How much each later position looks like position 0, a panel for each set of hands; dots where above `twin`."""
    fig, axes = plt.subplots(len(curves), 1, figsize=(WIDTH, 1.4 * len(curves)), sharex=True, sharey=True)
    for ax, (label, likeness) in zip(axes, curves.items(), strict=True):
        ax.plot(likeness, color=COLOUR["position"], linewidth=1.4)
        twins = (likeness[1:] > twin).nonzero().flatten() + 1
        ax.plot(
            twins, likeness[twins], "o", color=COLOUR["real"], markersize=5, clip_on=False, rasterized=len(twins) > 100
        )
        ax.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
        ax.set_title(label)
        ax.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1))
    axes[len(axes) // 2].set_ylabel("likeness to position 0")
    axes[-1].set_xlabel("position (tokens)")
    plt.show()


def draw_angle_map(cosines: Float[Tensor, "positions half"]) -> None:
    """cos(position · frequency) as a picture: one row for each pair, fastest on top."""
    fig, ax = plt.subplots(figsize=(WIDTH, 3.6))
    image = ax.imshow(cosines.T.numpy(), aspect="auto", cmap=SIGNS, vmin=-1, vmax=1, interpolation="nearest")
    ax.set(xlabel="position (tokens)", ylabel="pair i (fast above, slow below)")
    fig.colorbar(image, ax=ax, label="cos(position · $\\theta_i$)", ticks=(-1, 0, 1))
    plt.show()


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The binary digits of 0 … n - 1, and the cosines of as many hands, each half as fast as the one before it."""
    places = np.arange(int(math.log2(n)))[:, None]
    positions = np.arange(n)
    return positions // 2**places % 2, np.cos(math.pi * positions / 2**places)


def draw_digits(n: int) -> None:
    """Positions as binary numbers, and as hands of a clock: the fastest row on top."""
    _, axes = plt.subplots(2, 1, figsize=(WIDTH, 3.6), sharex=True)
    bits, cosines = digits(n)
    axes[0].imshow(bits, aspect="auto", cmap="Greys", vmin=0, vmax=2)
    for (row, column), bit in np.ndenumerate(bits):
        axes[0].text(column, row, str(bit), ha="center", va="center", color=LABEL["real"])
    axes[1].imshow(cosines, aspect="auto", cmap=SIGNS, vmin=-1.6, vmax=1.6)
    for ax, title, names in (
        (axes[0], "binary digits", [f"{2**i}s" for i in range(len(bits))]),
        (axes[1], "cosines of four hands", ["fastest", "", "", "slowest"]),
    ):
        ax.set_title(title)
        ax.set_yticks(range(len(bits)), names)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[1].set(xlabel="position", xticks=range(0, n, 3))
    plt.show()


def draw_wavelengths(models: Mapping[str, tuple[Float[Tensor, " half"], int]]) -> None:
    """Wavelength of each pair on a log axis, a line for each model, given (frequencies, context length).

    Filled dots turn at least once within the context, hollow ones do not.
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 4.2))
    for (label, (freqs, context)), idea in zip(models.items(), ("theory", "position", "residual"), strict=False):
        colour = COLOUR[idea]
        wavelengths = 2 * np.pi / freqs.double()
        inside = wavelengths <= context
        x = np.arange(len(freqs)) / len(freqs)
        ax.plot(x, wavelengths, color=colour, linewidth=1)
        for chosen, fill in ((inside, colour), (~inside, "white")):
            ax.plot(x[chosen], wavelengths[chosen], "o", color=colour, markerfacecolor=fill, markersize=4.5)
        count = f"{label}\n{int(inside.sum())} of {len(freqs)} turn"
        ax.text(x[-1] + 0.03, wavelengths[-1], count, color=LABEL[idea], va="center")
    ax.set(yscale="log", xlim=(-0.02, 1.5), xticks=(0, 0.5, 1), ylabel="tokens per turn")
    ax.set_xlabel("pair, as a share of all pairs: i / (d/2)", loc="left")
    plt.show()


def draw_decay(
    distances: Int[Tensor, " n"],
    ones: Float[Tensor, " n"],
    random_scores: Float[Tensor, "draws n"],
    built: Float[Tensor, " n"],
    peak: int,
) -> None:
    """Score against distance for three kinds of q and k; random ones as a mean and a band of one standard deviation."""
    fig, axes = plt.subplots(3, 1, figsize=(WIDTH, 5.8), sharex=True)
    mean, std = random_scores.mean(0), random_scores.std(0)
    axes[0].plot(distances, ones, color=COLOUR["position"], linewidth=0.7, alpha=0.6)
    near = np.convolve(ones, np.ones(41) / 41, mode="valid")
    axes[0].plot(distances[20 : 20 + len(near)], near, color=COLOUR["real"])
    axes[0].text(1.0, 0.95, "thick: running mean", transform=axes[0].transAxes, ha="right", va="top")
    axes[0].set_title("query and key all equal: it decays")
    axes[1].fill_between(distances, mean - std, mean + std, color=COLOUR["faint"])
    axes[1].plot(distances, random_scores[0], color=COLOUR["position"], linewidth=0.8)
    axes[1].plot(distances, mean, color=COLOUR["real"])
    axes[1].set_title("query and key random: it does not")
    axes[1].text(
        1.0, 0.02, f"band: ± 1 std of {len(random_scores)} draws", transform=axes[1].transAxes, ha="right", va="bottom"
    )
    low, high = axes[1].get_ylim()
    axes[1].set_ylim(low - 0.35 * (high - low), high)
    axes[2].plot(distances, built, color=COLOUR["position"], linewidth=1.2)
    axes[2].axvline(peak, color=COLOUR["key"], linewidth=1, linestyle="--")
    axes[2].set_title(f"a key built for distance {peak}: it peaks there")
    for ax in axes:
        ax.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
        ax.set_ylabel("score, of\nits largest" if ax is not axes[1] else "score")
    axes[-1].set_xlabel("distance (tokens)")
    plt.show()


def draw_pair_strength(
    bound: Float[Tensor, "layers half"], spread: Float[Tensor, "layers half"], edges: Mapping[str, int]
) -> None:
    """For each pair, how far it could move a score and how far it does, mean of all layers; below, the latter by layer.

    edges: the name of each group of neighbouring pairs, with the first pair that belongs to it.
    """
    fig, axes = plt.subplots(3, 1, figsize=(WIDTH, 6.4), sharex=True, height_ratios=(1, 1, 1.9))
    half = bound.shape[1]
    for ax, strength, title in (
        (axes[0], bound, "what a pair could add: $|q_i||k_i|/\\sqrt{d_h}$"),
        (axes[1], spread, "how much it tells keys apart: std of what it adds"),
    ):
        ax.bar(range(half), strength.mean(0).tolist(), color=COLOUR["real"], width=0.8)
        ax.set_title(title)
    image = axes[2].imshow(spread.numpy(), aspect="auto", norm=LogNorm(), interpolation="nearest")
    axes[2].set_title("the same, layer by layer")
    axes[2].set(xlabel="pair i (fast on the left, slow on the right)", ylabel="layer", xlim=(-0.5, half - 0.5))
    axes[0].set_ylim(0, 1.3 * float(bound.mean(0).max()))
    for name, first in edges.items():
        if first:
            for ax in axes:
                ax.axvline(first - 0.5, color=COLOUR["position"], linewidth=1.5, linestyle="--")
        axes[0].text(first - 0.2, axes[0].get_ylim()[1], name, color=LABEL["position"], va="top", ha="left")
    fig.colorbar(image, ax=axes[2], label="std")
    plt.show()


def draw_previous_token_head(
    weights: Float[Tensor, "seq seq"],
    hands: Mapping[str, Float[Tensor, " near"]],
    sums: Mapping[str, Float[Tensor, " distances"]],
    tokens: Sequence[str],
) -> None:
    """A head's attention map (first tokens), then mean scores against distance: of two hands, and three sums."""
    fig, (ax, near, far) = plt.subplots(3, 1, figsize=(WIDTH, 9.2), height_ratios=(2.3, 1, 1))
    n = len(tokens)
    ax.imshow(weights[:n, :n].numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks(range(n), tokens, rotation=90)
    ax.set_yticks(range(n), tokens)
    ax.set(xlabel="key token", ylabel="query token")
    for panel, lines, ideas in ((near, hands, ("position", "theory")), (far, sums, ("position", "residual", "real"))):
        shown = len(next(iter(lines.values())))
        for (label, line), idea in zip(lines.items(), ideas, strict=True):
            marker = "o" if shown < 30 else ""
            panel.plot(line, marker=marker, markersize=3.5, linewidth=1.4, color=COLOUR[idea])
            panel.text(1.02 * shown, line[-1], label, color=LABEL[idea], va="center")
        panel.axhline(0, color=COLOUR["faint"], linewidth=1, zorder=0)
        panel.axvline(1, color=COLOUR["faint"], linewidth=1, zorder=0)
        panel.set(
            ylabel="mean score", xlim=(-0.015 * shown, 1.33 * shown), xticks=range(0, shown, 5 * (1 + shown // 30))
        )
        panel.set_xlabel("distance (tokens)", loc="left")
    plt.show()


def draw_bug_table(caught: Bool[Tensor, "bugs tests"], bugs: Sequence[str], tests: Sequence[str]) -> None:
    """Which test sees which bug: a filled square where it does."""
    fig, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(bugs) + 1.9))
    for row in range(len(bugs)):
        for column in range(len(tests)):
            seen = bool(caught[row, column])
            ax.text(
                column,
                row,
                "caught" if seen else "—",
                ha="center",
                va="center",
                color=LABEL["real" if seen else "faint"],
            )
            colour = COLOUR["right"] if seen else "none"
            ax.add_patch(plt.Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, facecolor=colour, alpha=0.35))
    ax.set_xticks(range(len(tests)), tests)
    ax.set_yticks(range(len(bugs)), bugs)
    ax.set(xlim=(-0.5, len(tests) - 0.5), ylim=(len(bugs) - 0.5, -0.5))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    plt.show()

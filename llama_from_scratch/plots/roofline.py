"""Where the time goes: measured points under the roof of a machine, and the bytes and FLOPs of each part of a model."""

from collections.abc import Mapping

import matplotlib.pyplot as plt

from .style import COLOUR, WIDTH

Number = int | float


def draw_roofline(ceilings: Mapping[str, tuple[Number, Number]], points: Mapping[str, tuple[Number, Number]]) -> None:
    """Measured points under one or more roofs, each named, with its share of the first roof.

    ceilings: name to (FLOP/s, bytes/s), the first one drawn thick: what this machine was measured to do; others, such
    as its data sheet, thin. points: name to (FLOPs for each byte, FLOP/s achieved).
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.4 * len(points) + 2.2))
    peak, bandwidth = next(iter(ceilings.values()))
    left = min(x for x, _ in points.values()) / 2
    right = max(8 * peak / bandwidth, 2 * max(x for x, _ in points.values()))
    top = max(flops for flops, _ in ceilings.values())
    for i, (name, (flops, rate)) in enumerate(ceilings.items()):
        xs = [left, flops / rate, right]
        colour = COLOUR["residual"] if i else COLOUR["theory"]
        ax.plot(xs, [min(flops, x * rate) / 1e12 for x in xs], color=colour, lw=1 if i else 4, ls="--" if i else "-")
        label = f"{name}: {_amount(flops, 'FLOP/s')}, {_amount(rate, 'B/s')}"  # in the corner above the roofs
        ax.text(0.02, 0.99 - 0.06 * i, label, color=colour, va="top", transform=ax.transAxes)
    order = sorted(points, key=lambda name: (-points[name][1], points[name][0]))
    bottom = min(y for _, y in points.values()) / 2e12
    column = 0.55  # of the width: there, below the roof, the names stand, in the order of the points
    for place, name in enumerate(order):
        x, y = points[name]
        share = y / min(peak, x * bandwidth)
        beyond = x > left * (right / left) ** column
        ax.plot(x, y / 1e12, "o", color=COLOUR["real"], ms=6, zorder=3)
        ax.annotate(
            f"{name}, {share:.0%}",
            (x, y / 1e12),
            xytext=(column, 0.52 * (1 - (place + 0.5) / len(order)) + 0.01),
            textcoords="axes fraction",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": COLOUR["faint"],
                "lw": 1.2,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (1.0 if beyond else 0.0, 0.5),
            },
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(left, right),
        ylim=(bottom, top / 1e12 * 6),
        xlabel="arithmetic intensity (FLOP per byte)",
        ylabel="TFLOP/s",
    )
    plt.show()


def draw_parts(cases: Mapping[str, tuple[Mapping[str, Number], Mapping[str, Number]]]) -> None:
    """For each case, the bytes and the FLOPs of each part of the model, as shares, with their sums.

    cases: name to (bytes, FLOPs), both from part to number, as `decode_bytes` and `forward_flops` of
    `llama_from_scratch.cost` give them. Parts below half a per cent of both are left out in every case.
    """
    shares = {
        name: [{part: n / sum(count.values()) for part, n in count.items()} for count in counts]
        for name, counts in cases.items()
    }
    every = [share for pair in shares.values() for share in pair]
    parts = [part for part in every[0] if max(share.get(part, 0) for share in every) >= 0.005]
    figure, axes = plt.subplots(
        len(cases), 2, figsize=(WIDTH, len(cases) * (0.3 * len(parts) + 0.75)), sharey=True, squeeze=False
    )
    for row, (name, counts) in zip(axes, cases.items(), strict=True):
        for ax, share, count, unit in zip(row, shares[name], counts, ("B", "FLOP"), strict=True):
            colours = [COLOUR["key"] if part == "keys and values" else COLOUR["residual"] for part in parts]
            ax.barh(parts, [share.get(part, 0) for part in parts], color=colours, height=0.66)
            for y, part in enumerate(parts):
                ax.text(share.get(part, 0) + 0.03, y, f"{share.get(part, 0):.0%}", va="center")
            ax.set(xlim=(0, 1.25), xticks=[])
            ax.spines["bottom"].set_visible(False)
            ax.tick_params(length=0)
            what = "reads" if unit == "B" else "computes"
            ax.set_title(f"{what} {_amount(sum(count.values()), unit)}")
        row[0].annotate(
            name,
            (0, 1.0),
            xycoords="axes fraction",
            xytext=(-6, 6),
            textcoords="offset points",
            ha="right",
            weight="bold",
        )
    axes[0, 0].invert_yaxis()
    plt.show()


def _amount(n: Number, unit: str) -> str:
    """Three figures and a prefix."""
    prefix, size = next(((p, s) for p, s in (("T", 1e12), ("G", 1e9), ("M", 1e6)) if n >= s), ("", 1))
    return f"{n / size:.0f} {prefix}{unit}" if n >= 100 * size else f"{n / size:.3g} {prefix}{unit}"

"""How a model is cut over ranks, and what each rank then holds."""

from collections.abc import Mapping
from itertools import product

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from .style import COLOUR, LABEL, WIDTH

Number = int | float
Cut = Mapping[
    str, int
]  # axis of the mesh to the dimension of the matrix that it cuts; an axis that cuts none is absent

# Greys for what the model needs, blues for what the tokens need.
KINDS = {
    "weights": "#222222",
    "gradients": "#6B6B6B",
    "optimizer": "#B4B4B4",
    "activations": "#3C8DBC",
    "logits": "#A6D4F0",
}


def pieces(mesh: Mapping[str, int], cut: Cut) -> dict[int, tuple[tuple[float, float], tuple[float, float]]]:
    """Each rank's part of a matrix: rank to (first and last row, first and last column), as fractions of the whole.

    mesh: sizes of the axes of a device mesh, outermost first; ranks count through the last axis first. Where two axes
    cut one dimension, the inner axis cuts first (tensor parallelism), and the outer one cuts what it left.
    """
    found = {}
    for rank, place in enumerate(product(*(range(size) for size in mesh.values()))):
        box = [(0.0, 1.0), (0.0, 1.0)]
        for (axis, size), index in reversed(list(zip(mesh.items(), place, strict=True))):
            if axis in cut:
                start, end = box[cut[axis]]
                step = (end - start) / size
                box[cut[axis]] = (start + index * step, start + (index + 1) * step)
        found[rank] = (box[0], box[1])
    return found


def draw_plan(
    shapes: Mapping[str, tuple[int, int]], plans: Mapping[str, tuple[Mapping[str, int], Mapping[str, Cut]]]
) -> None:
    """The matrices of one block, and for each plan which rank holds which part. The part of rank 0 is filled.

    shapes: matrix to (rows, columns) as it is stored: [outputs, inputs]. plans: title to (mesh, matrix to cut), see
    `pieces`. Sides are drawn as square roots, or the small matrices would vanish.
    """
    side = {name: (rows**0.5, columns**0.5) for name, (rows, columns) in shapes.items()}
    gap = 0.25 * max(width for _, width in side.values())
    tallest = max(height for height, _ in side.values())
    across = sum(width + gap for _, width in side.values()) - gap
    scale = WIDTH / across
    figure, axes = plt.subplots(len(plans), 1, figsize=(WIDTH, len(plans) * (tallest * scale + 0.75)), squeeze=False)
    axes[0, 0].set_title("filled: rank 0", loc="right", color=LABEL["query"])
    for ax, (title, (mesh, cuts)) in zip(axes[:, 0], plans.items(), strict=True):
        x = 0.0
        for name, (height, width) in side.items():
            top = -(tallest - height) / 2  # all in the middle of the line
            cut = cuts.get(name, {})
            parts: dict[tuple, list[int]] = {}  # the same part may lie on several ranks
            for rank, box in pieces(mesh, cut).items():
                parts.setdefault(box, []).append(rank)
            for ((row, row_end), (column, column_end)), ranks in parts.items():
                w, h = (column_end - column) * width, (row_end - row) * height
                corner = (x + column * width, top - row_end * height)
                mine = 0 in ranks
                colour = COLOUR["query"] if mine else COLOUR["faint"]
                ax.add_patch(Rectangle(corner, w, h, facecolor=colour, edgecolor="white", lw=1))
                label = ",".join(map(str, ranks)) if len(ranks) < 5 else f"{ranks[0]}–{ranks[-1]}"
                if h * scale > 0.14 and w * scale > 0.08 * len(label):  # inches; 10 points are 0.14
                    centre = (corner[0] + w / 2, corner[1] + h / 2)
                    text = "white" if mine else COLOUR["real"]
                    ax.text(*centre, label, ha="center", va="center_baseline", color=text, fontsize=9)
            ax.text(x + width / 2, top + 0.04 * tallest, name, ha="center", va="bottom")
            x += width + gap
        ax.set_title(title, loc="left")
        ax.set(xlim=(0, across), ylim=(-tallest, 0.22 * tallest), aspect="equal")
        ax.axis("off")
    plt.show()


def draw_memory(ranks: Mapping[str, Mapping[str, Number]], limit: Number | None = None) -> None:
    """GiB that one rank holds at the peak of a step, one bar for each layout or rank, and the memory that there is.

    ranks: name to what `llama_from_scratch.parallel.memory` gives; limit: bytes of one GPU.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.55 * len(ranks) + 1.5))
    totals = [sum(parts.values()) / 2**30 for parts in ranks.values()]
    blank = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # hides the line behind a number
    end = max([*totals, (limit or 0) / 2**30])
    for y, parts in enumerate(ranks.values()):
        start = 0.0
        for kind, colour in KINDS.items():
            size = parts[kind] / 2**30
            ax.barh(y, size, left=start, color=colour, edgecolor="white", linewidth=0.8, height=0.62)
            if size > 0.07 * end:
                text = COLOUR["real"] if kind in ("optimizer", "logits") else "white"
                ax.text(start + size / 2, y, f"{size:.0f}", ha="center", va="center", color=text, fontsize=9.5)
            start += size
        ax.text(start + 0.015 * end, y, f"{start:.0f}", va="center", weight="bold", bbox=blank)
    if limit is not None:
        ax.axvline(limit / 2**30, color=COLOUR["key"], lw=1.6)
        ax.text(
            limit / 2**30, len(ranks) - 0.45, f" {limit / 2**30:.0f} GiB", color=COLOUR["key"], ha="left", va="center"
        )
    for kind, colour in KINDS.items():
        ax.plot([], [], "s", color=colour, ms=8, label=kind)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, handletextpad=0.1)
    ax.set_yticks(range(len(ranks)), list(ranks))
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="GiB on one rank", xlim=(0, 1.14 * end), ylim=(len(ranks) - 0.3, -0.5))
    plt.show()

"""One look for every figure: one colour per idea, readable on a phone, in print and, turned dark, at night."""

import matplotlib as mpl

# Okabe and Ito's palette, which survives colour blindness. An idea keeps its colour in figures, equations and widgets.
COLOUR = {
    "query": "#0072B2",
    "key": "#D55E00",
    "value": "#009E73",
    "position": "#A3348A",
    "residual": "#6B6B6B",
    "normalised": "#C98A00",
    "real": "#222222",  # numbers of a released model, or measured
    "theory": "#56B4E9",  # numbers predicted by a formula
    "faint": "#D9D9D9",
}
WIDTH = 5.2  # inches; on a phone, 350 pixels wide, letters of 10.5 points are then 10 pixels high


def use_style() -> None:
    """Set matplotlib's defaults, and make inline figures SVG files that come out the same on every run."""
    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.2),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.bbox": "tight",
            "font.family": "DejaVu Sans",  # comes with matplotlib
            "font.size": 10.5,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#444444",
            "axes.labelcolor": "#222222",
            "axes.grid": False,
            "axes.prop_cycle": mpl.cycler(
                color=[COLOUR[c] for c in ("query", "key", "value", "position", "normalised")]
            ),
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "image.cmap": "viridis",
            "svg.fonttype": "path",
            "svg.hashsalt": "llama_from_scratch",  # else the ids inside change at each run
        }
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return  # not in a notebook
    set_matplotlib_formats("svg", metadata={"Date": None})

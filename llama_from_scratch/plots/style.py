"""One look for every figure: one colour per idea, readable on a phone, in print and, turned dark, at night."""

import matplotlib as mpl

# Okabe and Ito's palette, which survives colour blindness, and colours between its own. An idea keeps its colour in
# figures, equations and widgets. `right`, `wrong` and `neutral` judge; `positive` and `negative` are signs, and
# nothing else: a figure that shows both signs as a picture uses the colour map SIGNS. Where a reader must tell two
# of them apart, a word, a mark or a line style says the same.
COLOUR = {
    "query": "#0072B2",
    "key": "#D55E00",
    "value": "#009E73",
    "position": "#A3348A",
    "residual": "#6B6B6B",
    "normalised": "#C98A00",
    "real": "#222222",  # numbers of a released model, or measured
    "theory": "#56B4E9",  # numbers predicted by a formula
    "right": "#4F7A1F",
    "wrong": "#B3122B",
    "neutral": "#A89F91",  # compared with nothing, or neither right nor wrong
    "positive": "#3F3D9E",
    "negative": "#8C510A",
    "faint": "#D9D9D9",
}
# The same ideas for letters: at least 4.5 : 1 on white (WCAG 2.2, 1.4.3). Lines and areas keep COLOUR.
LABEL = COLOUR | {
    "key": "#BB5200",
    "value": "#007F5C",
    "residual": "#666666",
    "normalised": "#946500",
    "theory": "#2D6F94",
    "neutral": "#776E60",
    "faint": "#707070",
}
SIGNS = mpl.colors.LinearSegmentedColormap.from_list("signs", [COLOUR["negative"], "#FFFFFF", COLOUR["positive"]])
WIDTH = 5.2  # inches; where a phone shows them 328 pixels wide, letters of 12 points are 10 pixels high
FONT_SIZE = 12  # points; no label is smaller


def use_style() -> None:
    """Set matplotlib's defaults, and make inline figures that come out the same on every run.

    Each figure is stored twice: as SVG, which the book shows, and as PNG at twice the size, which JupyterLab shows
    in place of an SVG of a notebook that it does not trust.
    """
    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.2),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.bbox": "tight",
            "font.family": "DejaVu Sans",  # comes with matplotlib
            "font.size": FONT_SIZE,
            "axes.titlesize": FONT_SIZE,
            "axes.labelsize": FONT_SIZE,
            "xtick.labelsize": FONT_SIZE,
            "ytick.labelsize": FONT_SIZE,
            "legend.fontsize": FONT_SIZE,
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
    set_matplotlib_formats("svg", "retina", metadata={"Date": None})

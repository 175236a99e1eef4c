"""What the book needs beyond its configuration: widget scripts on every page, and an author-year bibliography."""

from pathlib import Path

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle

WIDGETS = Path(__file__).parents[1] / "_static" / "widgets"


class AuthorYearLabels(BaseLabelStyle):
    """[Zhang and Sennrich, 2019], the form in which the chapters cite."""

    def format_labels(self, sorted_entries):
        for entry in sorted_entries:
            names = [" ".join(p.prelast_names + p.last_names) for p in entry.persons["author"]]
            names = ["et al." if n == "others" else n for n in names]
            if len(names) > 2:
                who = f"{names[0]} et al."
            else:
                who = (" " if names[-1] == "et al." else " and ").join(names)
            yield f"{who}, {entry.fields['year']}"


class AuthorYearStyle(Style):
    default_label_style = "lfs_author_year"


def add_widgets(app, config):
    for name in config.lfs_widgets:
        app.add_js_file(f"widgets/{name}", loading_method="defer")


def setup(app):
    register_plugin("pybtex.style.labels", "lfs_author_year", AuthorYearLabels)
    register_plugin("pybtex.style.formatting", "lfs_author_year", AuthorYearStyle)
    # A configuration value, so that Sphinx writes every page again when a widget is added.
    app.add_config_value("lfs_widgets", sorted(p.name for p in WIDGETS.glob("*.js")), "html", list)
    app.connect("config-inited", add_widgets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

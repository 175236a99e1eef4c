"""What the book needs beyond its configuration: widgets on every page, author-year citations, plain docstrings, and
what search engines and messengers show of a page."""

import re
from html import escape
from pathlib import Path

from docutils import nodes
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


def _escape(text: str) -> str:
    """Plain text with `code` in it, as reStructuredText."""
    parts = re.split(r"`+([^`]+)`+", text)
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([\\*_|])", r"\\\1", part) for i, part in enumerate(parts))


def plain_docstrings(app, what, name, obj, options, lines):
    """Our docstrings are plain text with `code` in it; in a paragraph with a list or a table each line stays one, and
    an example that begins with >>> is set as code."""
    text = "\n".join(lines).strip()
    lines[:] = []
    for paragraph in re.split(r"\n\s*\n", text):
        rows = paragraph.split("\n")
        if rows[0].startswith(">>> "):
            lines += rows
        elif any(row.startswith((" ", "- ")) for row in rows):
            lines += [f"| {_escape(row)}" for row in rows]
        else:
            lines += [_escape(row) for row in rows]
        lines.append("")


def description(doctree: nodes.document) -> str:
    """The page in one sentence or two: a chapter's question, else the first paragraph; at most 200 characters."""
    paragraphs = [p.astext() for p in doctree.findall(nodes.paragraph) if len(p.astext()) > 30]
    first = next((p for p in paragraphs if p.startswith("Question.")), paragraphs[0] if paragraphs else "")
    text = " ".join(first.removeprefix("Question.").split())
    return text if len(text) <= 200 else text[:199].rsplit(" ", 1)[0] + "…"


def add_card(app, pagename, templatename, context, doctree):
    """Description and Open Graph tags. The card's picture needs a full address, so it comes with html_baseurl."""
    if doctree is None:
        return
    title, text = re.sub(r"<[^>]+>", "", context.get("title", "")), description(doctree)
    tags = {"og:type": "article", "og:site_name": app.config.html_title, "og:title": title, "og:description": text}
    if base := app.config.html_baseurl:
        tags |= {"og:url": f"{base.rstrip('/')}/{pagename}.html", "og:image": f"{base.rstrip('/')}/_static/card.png"}
    lines = [f'<meta name="description" content="{escape(text)}" />']
    lines += [f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    lines.append('<meta name="twitter:card" content="summary_large_image" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(lines) + "\n"


def setup(app):
    register_plugin("pybtex.style.labels", "lfs_author_year", AuthorYearLabels)
    register_plugin("pybtex.style.formatting", "lfs_author_year", AuthorYearStyle)
    # A configuration value, so that Sphinx writes every page again when a widget is added.
    app.add_config_value("lfs_widgets", sorted(p.name for p in WIDGETS.glob("*.js")), "html", list)
    app.connect("config-inited", add_widgets)
    app.connect("html-page-context", add_card)
    app.connect("autodoc-process-docstring", plain_docstrings)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""What a chapter writes in plain Markdown, so that JupyterLab and code hosts show it, becomes the book's own form here.

In a notebook                                        in the book
a paragraph "**Fig. 2.3.** …" after a figure's cell  the caption of that figure
[Fig. 2.3](#fig-rms-levels)                          a reference, with the number that the book counts
<a id="eq-rms-def"></a>, then $$ … \\tag{2.1} $$      a numbered equation with a label
[(2.1)](#eq-rms-def)                                 a reference to it
[logit](../book/glossary.md)                         a link to the glossary's entry, not only to its page
a heading "Deeper: …", then *7 minutes.* …           a section that opens when asked
**Question.** and so on under the title              the opening block
**Predict.** …                                       a guess; what follows in <details> is its answer
> **Takeaway.** …                                    a box

tools/notebooks.py keeps the numbers in the notebooks right.
"""

import html
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

LABEL = re.compile(r'<a id="(eq-[\w-]+)">')
TAG = re.compile(r"\s*\\tag\{[^}]*\}")
CAPTION = re.compile(r"Fig\. \d+\.\d+\.$")
OPENING = ("Question.", "Afterwards you can", "You need", "Time.")


def jupyter_slug(title: str) -> str:
    """The id that JupyterLab gives to a heading, so that [below](#What-it-costs) works there and here."""
    return title.replace(" ", "-")


def _after(node: nodes.Element) -> nodes.Node | None:
    """The node that follows in the text, however deep `node` lies in a cell."""
    while node.parent is not None and not isinstance(node.parent, nodes.section):
        node = node.parent
    return node.next_node(descend=False, siblings=True)


def _bold_start(node: nodes.Node | None) -> str:
    """The bold words that a paragraph begins with; "" where it does not."""
    if isinstance(node, nodes.paragraph):
        first = next((child for child in node.children if child.astext()), None)  # MyST puts an empty text before it
        if isinstance(first, nodes.strong):
            return first.astext()
    return ""


class PlainMarkdown(SphinxTransform):
    default_priority = 300  # before MyST resolves links within the page (879)

    def apply(self) -> None:
        self.captions()
        self.equations()
        self.references()
        self.boxes()
        self.deeper()

    def captions(self) -> None:
        for figure in list(self.document.findall(nodes.figure)):
            paragraph = _after(figure)
            if CAPTION.match(_bold_start(paragraph)):
                paragraph.parent.remove(paragraph)
                number = next(iter(paragraph.findall(nodes.strong)))
                text = paragraph.children[paragraph.index(number) + 1 :]
                caption = nodes.caption(paragraph.rawsource, "", nodes.Text(text[0].lstrip()), *text[1:])
                caption.source, caption.line = paragraph.source, paragraph.line
                figure += caption

    def equations(self) -> None:
        domain = self.env.get_domain("math")
        for raw in list(self.document.findall(nodes.raw)):
            label = LABEL.search(raw.astext())
            equation = raw.parent if isinstance(raw.parent, nodes.paragraph) else raw
            equation = equation.next_node(descend=False, siblings=True)
            if label is None or not isinstance(equation, nodes.math_block):
                continue
            domain.note_equation(self.env.docname, label[1], location=equation)
            equation["label"] = label[1]
            equation["number"] = domain.get_equation_number_for(label[1])
            equation["docname"] = self.env.docname
            equation["ids"].append(nodes.make_id(f"equation-{label[1]}"))
            raw.parent.remove(raw)
        for equation in self.document.findall(nodes.math_block):
            for text in list(equation.findall(nodes.Text)):
                equation.replace(text, nodes.Text(TAG.sub("", text)))

    def references(self) -> None:
        glossary = [name for name in self.env.found_docs if name == "book/glossary"]
        for link in list(self.document.findall(nodes.reference)):
            if link.get("id_link") and link["refuri"].startswith("#fig-"):
                self._refer(link, "numref", link["refuri"][1:], [nodes.literal("", link.astext(), classes=["xref"])])
        for link in list(self.document.findall(addnodes.pending_xref)) if glossary else []:
            if link.get("reftarget") in glossary and link.get("refexplicit") and link.astext() != "glossary":
                self._refer(link, "term", link.astext(), link.children)

    def boxes(self) -> None:
        for paragraph in self.document.findall(nodes.paragraph):
            start = _bold_start(paragraph)
            if start == "Predict.":
                paragraph["classes"].append("lfs-predict")
            elif start == "Takeaway." and isinstance(paragraph.parent, nodes.block_quote):
                paragraph.parent["classes"].append("lfs-takeaway")
            elif start in OPENING and isinstance(paragraph.parent.parent, nodes.document):
                paragraph["classes"].append("lfs-opening")
                following = paragraph.next_node(descend=False, siblings=True)
                if isinstance(following, nodes.bullet_list):
                    following["classes"].append("lfs-opening")

    def deeper(self) -> None:
        for section in self.document.findall(nodes.section):
            title, *rest = section.children
            if not title.astext().startswith("Deeper:") or not rest or not isinstance(rest[0], nodes.paragraph):
                continue
            summary = html.escape(rest[0].astext())
            section.remove(rest[0])
            section.insert(1, nodes.raw("", f'<details class="lfs-deeper"><summary>{summary}</summary>', format="html"))
            section.append(nodes.raw("", "</details>", format="html"))

    def _refer(self, link: nodes.Element, role: str, target: str, content: list) -> None:
        reference = addnodes.pending_xref(
            "", *content, refdoc=self.env.docname, refdomain="std", reftype=role, reftarget=target, refexplicit=False
        )
        reference.source, reference.line = link.source, link.line
        link.parent.replace(link, reference)


def setup(app):
    app.add_transform(PlainMarkdown)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""What a chapter writes in plain Markdown, so that JupyterLab and code hosts show it, becomes the book's own form here.

In a notebook                                        in the book
a paragraph "**Fig. 2.3.** …" after a figure's cell  the caption of that figure
[Fig. 2.3](#fig-rms-levels)                          a reference, with the number that the book counts
<a id="eq-rms-def"></a>, then $$ … \\tag{2.1} $$      a numbered equation with a label
[(2.1)](#eq-rms-def)                                 a reference to it
[logit](../book/glossary.md)                         a link to the glossary's entry, not only to its page

tools/notebooks.py keeps the numbers in the notebooks right.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

LABEL = re.compile(r'<a id="(eq-[\w-]+)">')
TAG = re.compile(r"\s*\\tag\{[^}]*\}")
CAPTION = re.compile(r"Fig\. \d+\.\d+\.$")


def _after(node: nodes.Element) -> nodes.Node | None:
    """The node that follows in the text, however deep `node` lies in a cell."""
    while node.parent is not None and not isinstance(node.parent, nodes.section):
        node = node.parent
    return node.next_node(descend=False, siblings=True)


def _is_caption(node: nodes.Node | None) -> bool:
    if not isinstance(node, nodes.paragraph) or not isinstance(node.children[0], nodes.strong):
        return False
    return CAPTION.match(node.children[0].astext()) is not None


class PlainMarkdown(SphinxTransform):
    default_priority = 300  # before MyST resolves links within the page (879)

    def apply(self) -> None:
        self.captions()
        self.equations()
        self.references()

    def captions(self) -> None:
        for figure in list(self.document.findall(nodes.figure)):
            paragraph = _after(figure)
            if _is_caption(paragraph):
                paragraph.parent.remove(paragraph)
                caption = nodes.caption(paragraph.rawsource, "", *paragraph.children[1:])
                caption.source, caption.line = paragraph.source, paragraph.line
                if isinstance(caption.children[0], nodes.Text):
                    caption.replace(caption.children[0], nodes.Text(caption.children[0].lstrip()))
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
            target = nodes.target("", "", ids=[nodes.make_id(f"equation-{label[1]}")])
            self.document.note_explicit_target(target)
            raw.parent.replace(raw, target)
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

    def _refer(self, link: nodes.Element, role: str, target: str, content: list) -> None:
        reference = addnodes.pending_xref(
            "", *content, refdoc=self.env.docname, refdomain="std", reftype=role, reftarget=target, refexplicit=False
        )
        reference.source, reference.line = link.source, link.line
        link.parent.replace(link, reference)


def setup(app):
    app.add_transform(PlainMarkdown)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""What a chapter writes in plain Markdown becomes the book's own form: captions, numbers, boxes, folded sections."""

import re
import subprocess
import sys

import nbformat
import new_chapter
import pytest
from places import ROOT

import notebooks

CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
extensions = ["myst_nb", "sphinx.ext.mathjax", "lfs_markdown"]
nb_execution_mode = "off"
numfig = math_numfig = True
math_eqref_format = "({{number}})"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "lfs_markdown.jupyter_slug"
"""
INDEX = """# Book

```{toctree}
:numbered:
first
chapter
book/glossary
```
"""
GLOSSARY = "# Glossary\n\n```{glossary}\nlogit\n    A number before the softmax.\n```\n"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """HTML of the skeleton of a chapter, the second one of a small book."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "book").mkdir()
    nb = new_chapter.notebook("02_tokens", "Tokens")
    for cell in nb.cells:
        if "figure" in cell.metadata.get("mystnb", {}):
            cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": PNG})]
    nb.cells[3].source += "\n\nSee [Fig. ?.?](#fig-tokens-answer), a [logit](book/glossary.md), and [below](#By-hand)."
    nb.cells[0].source = nb.cells[0].source.replace(
        " with links such as [a whole Llama on one page](01_whole_llama.ipynb)", ""
    )
    text = notebooks.normalise(nb, "02_tokens").replace("?.", "7.").replace(".?", ".7")  # the book counts by itself
    (folder / "chapter.ipynb").write_text(text)
    for name, content in {
        "conf.py": CONF,
        "index.md": INDEX,
        "first.md": "# First\n",
        "book/glossary.md": GLOSSARY,
    }.items():
        (folder / name).write_text(content)
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", str(folder), str(folder / "out")]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return (folder / "out" / "chapter.html").read_text(encoding="utf8")


def test_caption_is_the_figures_and_has_the_books_number(page):
    (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert re.search(r'caption-number">Fig. 2.1\s*</span><span class="caption-text">TODO: what to see', caption)
    assert "Fig. 7" not in page and "<strong>Fig." not in page


def test_references_lead_to_figure_equation_entry_and_heading(page):
    assert re.search(r'href="#fig-tokens-answer"[^>]*><span[^>]*>Fig. 2.1</span>', page)
    assert re.search(r'href="#equation-eq-tokens-sum">\(2.1\)</a>', page)
    assert re.search(r'href="book/glossary.html#term-logit"', page)
    assert re.search(r'href="#by-hand"[^>]*>(<span[^>]*>)?below', page)


def test_equation_is_numbered_once(page):
    assert page.count('<span class="eqno">') == 1 and "\\tag" not in page
    assert '<div class="math notranslate nohighlight" id="equation-eq-tokens-sum">' in page


def test_opening_takeaway_and_guess_have_their_classes(page):
    assert page.count('<p class="lfs-opening">') == 4
    assert re.search(r'<ul class="lfs-opening', page)
    assert len(re.findall(r'<blockquote class="lfs-takeaway">', page)) == 2
    assert re.search(r'<p class="lfs-predict">.*?</p>\s*<details><summary>Answer</summary>', page, re.DOTALL)


def test_deeper_section_is_folded_below_its_heading(page):
    section = page[page.index("Deeper:") :]
    fold = re.search(
        r'</h2>\s*<details class="lfs-deeper"><summary>1 minute. Nothing later needs it.</summary>', section
    )
    assert fold and page.count("<details") == page.count("</details>")
    assert section.index("</details>") < section.index("Exercises")

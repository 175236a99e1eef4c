"""What a tool writes into a chapter because a person would get it wrong: numbers of figures and equations, minutes.

A chapter is read in three places, and only the book counts by itself. So the numbers stand in the text, as plain
Markdown, and `python tools/notebooks.py --form` renews them:

    **Fig. 2.3.** The caption, first in the Markdown cell after the figure's cell.
    [Fig. 2.3](#fig-rms-levels)            a reference to the figure of that name
    <a id="eq-rms-def"></a>                before an equation that has a number; in it, last, \\tag{2.1}
    [(2.1)](#eq-rms-def)                   a reference to that equation
    **Time.** 34 minutes to read, 12 for *Deeper*, 40 for the exercises.
    *7 minutes.* …                         first under a heading "Deeper: …"

The chapter's number is its place in _toc.yml. A minute is 200 words or 12 lines of code; the minutes of the exercises
are those that stand beside each of them, summed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
WORDS_A_MINUTE = 200
LINES_A_MINUTE = 12
MAIN_PATH = 35  # minutes at most

FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
CAPTION = re.compile(r"\A\*\*Fig\. [\d?]+\.[\d?]+\.\*\*")
FIGURE_LINK = re.compile(r"\[Fig\. [\d?]+\.[\d?]+\]\(#(fig-[\w-]+)\)")
EQUATION = re.compile(r'(<a id="(eq-[\w-]+)"></a>\s*\$\$.*?)(?:\s*\\tag\{[^}]*\})?(\s*\$\$)', re.DOTALL)
EQUATION_LINK = re.compile(r"\[\([\d?]+\.[\d?]+\)\]\(#(eq-[\w-]+)\)")
TIME = re.compile(r"^\*\*Time\.\*\* .*$", re.MULTILINE)
DEEPER_TIME = re.compile(r"\A(#+ Deeper: [^\n]*\n+)\*\d+ minutes?\.\*")
HEADING = re.compile(r"^(#{1,6}) (.*)$", re.MULTILINE)
EXERCISE = re.compile(r"^\*\*\d+ [●○]{3} [^*]+\*\*(?: \*(\d+) minutes?\.\*)?", re.MULTILINE)
NOT_READ = ("Exercises", "The chapter on a card", "Sources")


def chapters() -> list[str]:
    """Names of the notebooks in reading order, without ending."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [Path(name).name for name in files if name.startswith("notebooks/")]


def folded(cell) -> bool:
    """Whether the book and JupyterLab show this code cell's source only when asked."""
    return bool(FOLDED.intersection(cell.metadata.get("tags", [])))


def figure_name(cell) -> str | None:
    return cell.metadata.get("mystnb", {}).get("figure", {}).get("name")


def prose(source: str) -> str:
    """A Markdown cell as it is read: no markup, a formula or a piece of code is one word, a displayed one is none."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<style.*?</style>", " ", source, flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$|`[^`]+`", "x", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<[^>]+>", " ", text)
    return re.sub(r"[*_|#>]+|:?-{3,}:?", " ", text)


@dataclass
class Amount:
    """How much there is to read."""

    words: int = 0
    lines: int = 0

    @property
    def minutes(self) -> int:
        return math.ceil(self.words / WORDS_A_MINUTE + self.lines / LINES_A_MINUTE)


def minutes(amount: Amount) -> str:
    return f"{amount.minutes} minute" + "s" * (amount.minutes != 1)


@dataclass
class Measure:
    """A chapter, measured: its main path, each part marked Deeper by its heading, minutes of the exercises."""

    main: Amount = field(default_factory=Amount)
    deeper: dict[str, Amount] = field(default_factory=dict)
    exercises: int = 0

    def time(self) -> str:
        """The line of the opening block."""
        deeper = sum(amount.minutes for amount in self.deeper.values())
        parts = [f"{deeper} for *Deeper*"] if deeper else []
        parts += [f"{self.exercises} for the exercises"] if self.exercises else []
        return "**Time.** " + ", ".join([f"{minutes(self.main)} to read", *parts]) + "."


def measure(nb) -> Measure:
    """Count words and visible lines of code. Exercises, the card and the sources are not on the main path."""
    result, read, deep = Measure(), True, None  # deep: (level, heading) of the part that we are in
    for cell in nb.cells:
        if cell.cell_type == "code":
            pieces = [(None, "")]
        else:
            marks = list(HEADING.finditer(re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)))
            text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            ends = [mark.start() for mark in marks] + [len(text)]
            pieces = [(None, text[: ends[0]])]
            pieces += [(m, text[m.start() : end]) for m, end in zip(marks, ends[1:], strict=True)]
            result.exercises += sum(int(minutes or 0) for minutes in EXERCISE.findall(cell.source))
        for mark, text in pieces:
            if mark:
                level, title = len(mark[1]), mark[2]
                if deep and level <= deep[0]:
                    deep = None
                if title.startswith("Deeper:"):
                    deep = (level, title)
                if level <= 2:
                    read = not title.startswith(NOT_READ)
            if not read:
                continue
            amount = result.deeper.setdefault(deep[1], Amount()) if deep else result.main
            amount.words += len(prose(text).split())
            if cell.cell_type == "code" and not folded(cell):
                amount.lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    return result


def write_numbers(nb, chapter: int | None) -> None:
    """Renew, in place, the numbers of figures and equations. A chapter outside the table of contents has "?"."""
    here = "?" if chapter is None else chapter
    markdown = [cell for cell in nb.cells if cell.cell_type == "markdown"]
    names = [name for cell in nb.cells if (name := figure_name(cell))]
    number = {name: f"{here}.{i}" for i, name in enumerate(names, 1)}
    labels = [match[1] for cell in markdown for match in EQUATION.findall(cell.source)]
    number |= {label: f"{here}.{i}" for i, label in enumerate(labels, 1)}

    def figure(match: re.Match) -> str:
        return f"[Fig. {number[match[1]]}](#{match[1]})" if match[1] in number else match[0]

    def equation(match: re.Match) -> str:
        return f"[({number[match[1]]})](#{match[1]})" if match[1] in number else match[0]

    for before, cell in zip(nb.cells, nb.cells[1:], strict=False):
        if cell.cell_type == "markdown" and (name := figure_name(before)):
            cell.source = CAPTION.sub(f"**Fig. {number[name]}.**", cell.source)
    for cell in markdown:
        cell.source = FIGURE_LINK.sub(figure, cell.source)
        cell.source = EQUATION.sub(lambda m: f"{m[1].rstrip()} \\tag{{{number[m[2]]}}}{m[3]}", cell.source)
        cell.source = EQUATION_LINK.sub(equation, cell.source)


def write_minutes(nb) -> None:
    """Renew, in place, the minutes in the opening block and under each heading "Deeper: …"."""
    measured = measure(nb)
    for cell in nb.cells:
        if cell.cell_type != "markdown":
            continue
        cell.source = TIME.sub(lambda _: measured.time(), cell.source)
        if match := DEEPER_TIME.match(cell.source):
            heading = HEADING.match(cell.source)[2]
            cell.source = f"{match[1]}*{minutes(measured.deeper[heading])}.*{cell.source[match.end() :]}"

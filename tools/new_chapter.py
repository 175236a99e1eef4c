"""Make the skeleton of a new chapter in the pattern that all chapters share (CONTRIBUTING.md, "A chapter's rules").

    python tools/new_chapter.py 02_tokens "Tokens"

Writes notebooks/02_tokens.ipynb, what it draws and checks (llama_from_scratch/plots/tokens.py and exercises/tokens.py)
and their tests, and enters the chapter in _toc.yml and llama_from_scratch/exercises/__init__.py. All of it runs. Where
the text says TODO, something is to be written; `python tools/notebooks.py --check` names each such place. The numbers
of later chapters change; renew them by `python tools/notebooks.py --form`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from chapter_rules import INSTALL, SOLUTION

import notebooks

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"(\d\d)_([a-z][a-z0-9]*(?:_[a-z0-9]+)*)")
INSTALL_FOLD = {
    "jupyter": {"source_hidden": True},
    "mystnb": {"code_prompt_hide": "Hide it", "code_prompt_show": "Show what installs the package"},
    "tags": ["hide-cell"],
}

OPENING = """\
# {title}

**Question.** TODO: what does this chapter answer, in one sentence that ends in a question mark?

**Afterwards you can**

- TODO: something that can be checked

**You need** TODO: what a reader knows already, with links such as [a whole Llama on one page](01_whole_llama.ipynb).

**Time.** 1 minutes to read."""
SETUP = """\
import torch

from llama_from_scratch import exercises
from llama_from_scratch.plots import {short} as draw
from llama_from_scratch.plots import use_style

torch.manual_seed(0)
torch.set_num_threads(2)
use_style()"""
PICTURE = """\
## The answer in one picture

**Predict.** TODO: a question that a reader can guess at.

<details><summary>Answer</summary>

TODO: the answer, and why.

</details>"""
CAPTION = """\
**Fig. 1.1.** TODO: what to see in the picture.

TODO: what it means.

> **Takeaway.** TODO: the section in one sentence."""
BY_HAND = """\
## By hand

TODO: the smallest example, with its numbers. A formula that has a number stands like this:

<a id="eq-{label}-sum"></a>

$$
y = \\sum_i x_i
\\tag{{1.1}}
$$

The next cell checks [(1.1)](#eq-{label}-sum)."""
BY_HAND_CODE = """\
x = torch.tensor([1.0, 2.0, 3.0])
y = sum(x)
assert y == x.sum()
print(f"{y:.0f}")"""
BY_HAND_END = "> **Takeaway.** TODO: the section in one sentence."
DEEPER = """\
## Deeper: TODO, what the next chapters do not need

*1 minutes.* Nothing later needs it.

TODO: it opens when a reader asks for it."""
EXERCISES = """\
## Exercises

Each check says what it found. Change the stub, run the cell, read the verdict.

"""
EXERCISE = "**{i} {level} TODO.** *5 minutes.* TODO: the task."
STUB = """\
def my_answer_{i}(x):
    ...


exercises.check_{short}_{i}(my_answer_{i})"""
ANSWER = """\
# Solution
def solution_answer_{i}(x):
    return {factor} * x


exercises.check_{short}_{i}(solution_answer_{i})"""
CARD = """\
## The chapter on a card

| | |
|---|---|
| formula | TODO |

## Sources

- TODO: [Authors (year)](https://arxiv.org/abs/1706.03762), section and equation."""

PLOTS = '''\
"""What the chapter "{title}" draws. The numbers of a drawing come from a small function beside it."""

import matplotlib.pyplot as plt

from .style import COLOUR, LABEL, WIDTH


def curve() -> list[float]:
    """TODO: the numbers of the picture."""
    return [0.0, 1.0, 4.0]


def draw_answer() -> None:
    """TODO: what the picture shows."""
    _, ax = plt.subplots(figsize=(WIDTH, 3.2))
    ax.plot(curve(), color=COLOUR["theory"])
    ax.text(1.1, curve()[1], "TODO: a label at the line", color=LABEL["theory"], va="top")
    ax.set(xlabel="TODO (unit)", ylabel="TODO (unit)")
    plt.show()
'''
CHECKS = '''\
"""Checks of the chapter "{title}". Each names the classic mistake that an answer shows, if it shows one."""

from collections.abc import Callable

import torch

from .verdict import NotYet, exercise, tensor_of

'''
CHECK = '''
@exercise
def check_{short}_{i}(fn: Callable) -> str:
    """fn: TODO. A vector of three numbers to one that is {factor} times as long."""
    x = torch.tensor([1.0, 2.0, 3.0])
    y = tensor_of(fn(x.clone()), x.shape)
    if torch.equal(y, x):
        raise NotYet("the vector comes back as it was", "Multiply it by {factor}.")
    if not torch.equal(y, {factor} * x):
        raise NotYet("the result is another vector", "Print it beside the one that is asked for.")
    return "each number is {factor} times as large."

'''
TEST_PLOTS = '''\
"""What the chapter "{title}" draws has the numbers that it should."""

from llama_from_scratch.plots.{short} import curve


def test_curve_rises():
    """TODO: compare the numbers of the picture with another way to compute them."""
    assert curve() == sorted(curve())
'''
TEST_CHECKS = '''\
"""The checks of the chapter "{title}" say what is right, and name each classic mistake."""

import pytest

from llama_from_scratch import exercises

CASES = {{
{cases}}}


@pytest.mark.parametrize("case", CASES)
def test_check_{short}_says_what_is_wrong(case, capsys):
    check, answer, verdict = CASES[case]
    getattr(exercises, check)(answer)
    assert verdict in capsys.readouterr().out
'''


def notebook(name: str, title: str) -> nbformat.NotebookNode:
    """The chapter's cells, not yet run."""
    short = name[3:]
    label = short.replace("_", "-")
    words, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    figure = {"figure": {"name": f"fig-{label}-answer"}, "image": {"alt": "TODO: what the picture shows, in words."}}
    cells = [
        words(OPENING.format(title=title)),
        code(INSTALL, metadata=INSTALL_FOLD),
        code(SETUP.format(short=short), metadata={"tags": ["hide-input"]}),
        words(PICTURE),
        code("draw.draw_answer()", metadata={"mystnb": figure}),
        words(CAPTION),
        words(BY_HAND.format(label=label)),
        code(BY_HAND_CODE),
        words(BY_HAND_END),
        words(DEEPER),
    ]
    for i, level in enumerate(("●○○", "●○○", "●●○", "●●○", "●●●"), 1):
        values = {"i": i, "level": level, "short": short, "factor": i + 1}
        cells += [
            words((EXERCISES if i == 1 else "") + EXERCISE.format(**values)),
            code(STUB.format(**values)),
            code(ANSWER.format(**values), metadata=SOLUTION),
        ]
    return nbformat.v4.new_notebook(cells=[*cells, words(CARD)])


def enter(toc: str, name: str) -> str:
    """_toc.yml with the chapter before the first one that has a higher number, else after the last chapter."""
    lines = toc.splitlines()
    numbers = {i: line.split("notebooks/")[1] for i, line in enumerate(lines) if "- file: notebooks/" in line}
    after = [i for i, other in numbers.items() if other < name]
    place = max(after) + 1 if after else min(numbers)
    return "\n".join([*lines[:place], f"      - file: notebooks/{name}", *lines[place:]]) + "\n"


def files(root: Path, name: str, title: str) -> dict[Path, str]:
    """The new files and what they hold, but for the notebook."""
    short, package = name[3:], root / "llama_from_scratch"
    checks = "".join(CHECK.format(short=short, i=i, factor=i + 1) for i in range(1, 6))
    cases = "".join(
        f'    "{i}: {case}": ("check_{short}_{i}", lambda x: {answer}, "{verdict}"),\n'
        for i in range(1, 6)
        for case, answer, verdict in (
            ("right", f"{i + 1} * x", "Correct"),
            ("unchanged", "x", "comes back as it was"),
            ("another", "x + 100", "another vector"),
            ("stub", "None", "returns None"),
        )
    )
    return {
        package / "plots" / f"{short}.py": PLOTS.format(title=title),
        package / "exercises" / f"{short}.py": CHECKS.format(title=title) + checks.rstrip() + "\n",
        root / "tests" / "plots" / f"test_{short}.py": TEST_PLOTS.format(title=title, short=short),
        root / "tests" / "exercises" / f"test_{short}.py": TEST_CHECKS.format(title=title, short=short, cases=cases),
    }


def refusal(root: Path, name: str, title: str) -> str | None:
    """Why there can be no chapter of this name; None if there can."""
    if not (match := NAME.fullmatch(name)):
        return f"{name!r} is no name of a chapter. It is two digits, then small words: 02_tokens, 07_rope_layouts."
    if not title.strip() or '"' in title or "\\" in title:
        return f"{title!r} is no title. Give words, without double quotation marks or backslashes."
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        if path.stem[:2] == match[1]:
            return f"{path.name} has the number {match[1]} already. Give another one."
    taken = [path for path in files(root, name, title) if path.exists()]
    return f"{taken[0].relative_to(root)} is there already. Give the chapter another name." if taken else None


def write(root: Path, name: str, title: str) -> list[Path]:
    """Write the chapter's files and entries below `root`. Returns what was written or changed."""
    new = files(root, name, title)
    for path, text in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    toc = root / "_toc.yml"
    toc.write_text(enter(toc.read_text(encoding="utf8"), name), encoding="utf8")
    init = root / "llama_from_scratch" / "exercises" / "__init__.py"
    names = [f"check_{name[3:]}_{i}" for i in range(1, 6)]
    text = init.read_text(encoding="utf8")
    text = text.replace("\nfrom .", f"\nfrom .{name[3:]} import {', '.join(names)}\nfrom .", 1)
    text = text.replace("__all__ = [", "__all__ = [" + ", ".join(f'"{n}"' for n in names) + ", ", 1)
    init.write_text(text, encoding="utf8")
    path = root / "notebooks" / f"{name}.ipynb"
    path.write_text(notebooks.normalise(notebook(name, title), name), encoding="utf8")
    ruff = [sys.executable, "-m", "ruff"]
    code = [str(p) for p in (*new, init)]
    subprocess.run([*ruff, "check", "--quiet", "--select", "I,RUF022", "--fix", *code], check=True, cwd=root)
    subprocess.run([*ruff, "format", "--quiet", *code], check=True, cwd=root)
    return [path, *new, toc, init]


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="two digits, for the place among the notebooks, and small words: 02_tokens")
    parser.add_argument("title", help='the chapter\'s title, such as "Tokens"')
    args = parser.parse_args(argv)
    if why_not := refusal(root, args.name, args.title):
        print(why_not, file=sys.stderr)
        return 2
    for path in write(root, args.name, args.title):
        print(path.relative_to(root))
    print(f"Next: write, then run  python tools/notebooks.py notebooks/{args.name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())

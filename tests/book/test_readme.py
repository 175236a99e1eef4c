"""The Python block of the README is run, without the network, and the files that it names exist.

Its commands are run by tests/cli/test_examples.py.
"""

import re
import subprocess
import sys

from commands import in_a_folder_with_program
from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_readme_python_block_runs(tmp_path) -> None:
    (block,) = PYTHON
    options = in_a_folder_with_program(tmp_path)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, done.stderr
    assert " Paris" in done.stdout


def test_files_that_the_readme_names_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"^\| `([\w./]+)` \|", README, re.MULTILINE):
        assert (ROOT / path).exists(), path

"""`import llama_from_scratch` is quick and light, and the modules of the core depend on nothing outside it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from test_core_size import CORE, PACKAGE

from llama_from_scratch.rope import rotate

ALLOWED = {  # what is not core -> what of that it may import; everything may import the core
    "checkpoint": set(),
    "tokenizer": {"checkpoint"},
    "generation": set(),
    "fast": {"generation"},
    "training": {"checkpoint", "tokenizer", "generation", "fast", "parallel"},
    "cost": set(),
    "parallel": {"cost"},
    "bench": {"checkpoint", "fast", "training", "cost"},
    "plots": set(),
    "exercises": set(),
    "cli": {"checkpoint", "tokenizer", "generation", "fast", "parallel", "training", "bench"},
}
# Against the arrow: what carries a tokenizer from one checkpoint to another, and what puts one inside a file. Neither
# is imported with `checkpoint`; each is when it is called.
AGAINST = {"checkpoint/convert.py": {"tokenizer"}, "checkpoint/gguf_write.py": {"tokenizer"}}

HEAVY = {
    "matplotlib",
    "jupyter",
    "IPython",
    "transformers",
    "pytest",
    "rich",
    "gguf",
    "regex",
    "hypothesis",
    "beartype",
}
HEAVY |= {"safetensors", "huggingface_hub", "jinja2", "numpy.testing", "tensorboard", "wandb"}
HEAVY |= {f"llama_from_scratch.{name}" for name in ALLOWED}


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=120)


def seconds_beyond_torch() -> float:
    """What importing the package costs after torch is there, as Python itself counts it."""
    report = python("-X", "importtime", "-c", "import torch, llama_from_scratch").stderr
    cumulative = {
        name: int(microseconds)
        for microseconds, name in re.findall(r"^import time:\s+\d+ \|\s+(\d+) \| (\S+)$", report, re.MULTILINE)
    }  # only lines that are not indented: what the command line itself imported
    assert "torch" in cumulative
    return cumulative["llama_from_scratch"] / 1e6


def test_import_costs_less_than_three_tenths_of_a_second_beyond_torch() -> None:
    times = [seconds_beyond_torch() for _ in range(3)]
    assert min(times) < 0.3, times  # the least, because whatever else this machine does only adds


def test_import_brings_in_nothing_heavy_and_prints_nothing() -> None:
    run = python("-c", "import torch, sys; before = set(sys.modules); import llama_from_scratch; print(*sys.modules)")
    assert not HEAVY & set(run.stdout.split())
    quiet = python("-W", "error", "-c", "import llama_from_scratch")
    assert quiet.stdout == quiet.stderr == ""


def test_everything_but_plots_imports_without_the_optional_packages() -> None:
    """`pip install .` without extras; what is missing is named when it is needed, not before."""
    absent = HEAVY - {name for name in HEAVY if "." in name or name == "safetensors"}
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)}))\n"
    code += "".join(f"import llama_from_scratch.{name}\n" for name in ALLOWED if name != "plots")
    assert python("-W", "error", "-c", code).stdout == ""


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Names of the packages, and of the modules of this package, that a file imports at its top level."""
    outside, inside = set(), set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            inside |= {node.module} if node.module else {alias.name for alias in node.names}
    return outside, inside


@pytest.mark.parametrize("name", CORE)
def test_core_imports_torch_and_itself_only(name: str) -> None:
    outside, inside = imports(PACKAGE / f"{name}.py")
    assert outside <= {"torch", "einops", "jaxtyping"} | sys.stdlib_module_names
    assert inside <= set(CORE)


def test_core_reaches_outside_itself_in_one_place() -> None:
    """`Llama.from_pretrained` calls the reader of checkpoints when it is called."""
    lazy = [
        (name, node.module)
        for name in CORE
        for function in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert lazy == [("model", "checkpoint")]


def arrows(name: str) -> dict[str, set[str]]:
    """What each file of a folder, or a module, imports of the rest of the package; inside functions, too."""
    path = PACKAGE / name
    found = {}
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        parts = file.relative_to(PACKAGE).parts
        targets = found["/".join(parts)] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("llama_from_scratch") for alias in node.names), file
            elif isinstance(node, ast.ImportFrom) and node.level == len(parts):
                targets |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not node.module.startswith("llama_from_scratch"), file  # the package imports itself by dots
    return found


def test_every_part_of_the_package_has_its_place() -> None:
    parts = {path.stem for path in PACKAGE.glob("*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts == set(CORE) | set(ALLOWED) | {"__init__", "__main__"}


@pytest.mark.parametrize("name", ALLOWED)
def test_dependencies_point_one_way(name: str) -> None:
    """Nothing that reads, runs or trains a model knows of plots, exercises or the command line."""
    for file, targets in arrows(name).items():
        beyond = targets - set(CORE) - ALLOWED[name]
        assert beyond == AGAINST.get(file, set()), f"{file} imports {beyond}"


def test_the_arrows_make_no_circle() -> None:
    placed = set()
    while ready := [name for name in ALLOWED if name not in placed and ALLOWED[name] <= placed]:
        placed |= set(ready)
    assert placed == set(ALLOWED)


def test_checkpoints_are_read_without_the_tokenizer() -> None:
    code = "import llama_from_scratch.checkpoint as c, sys; c.load_config(c.EMBEDDED); print(*sys.modules)"
    assert "llama_from_scratch.tokenizer" not in python("-c", code).stdout.split()
    for file in AGAINST:  # and whoever wants one of these first can have it
        python("-c", f"import llama_from_scratch.{file.removesuffix('.py').replace('/', '.')}")


def test_shapes_in_signatures_are_checked_in_the_tests() -> None:
    """By the import hook of conftest.py: the right shapes pass; a wrong type, rank or length of an axis does not."""
    x, angle = torch.zeros(2, 3, 5, 8), torch.zeros(5, 4)
    assert rotate(x, angle, angle).shape == x.shape
    for wrong in ((x.int(), angle, angle), (x[0], angle, angle), (x, angle, angle[:, :3]), (x, angle[:4], angle[:4])):
        with pytest.raises(TypeCheckError):
            rotate(*wrong)


def test_type_checks_of_the_tests_stay_in_the_tests() -> None:
    """The import hook of conftest.py works in this process alone: a subprocess runs the package as users do."""
    code = "import llama_from_scratch, torch; llama_from_scratch.RMSNorm(4)(torch.zeros(2, 3, 4)); import sys"
    assert "beartype" not in python("-c", code + "; print(*sys.modules)").stdout.split()

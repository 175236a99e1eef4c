"""`import llama_from_scratch` is quick and light, and the modules of the core depend on nothing outside it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from places import CORE, PACKAGE

from llama_from_scratch.rope import rotate

# The floors of the package from the ground up: each part imports only from floors below it. The core is below them all.
FLOORS = (
    ("files", "cost", "inside"),
    ("tokenizer", "checkpoint", "generation", "parallel"),
    ("convert", "fast"),
    ("training",),
    ("bench", "plots", "exercises"),
    ("cli",),
)
BELOW = {part: set().union(*FLOORS[:i]) for i, floor in enumerate(FLOORS) for part in floor}

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
HEAVY |= {f"llama_from_scratch.{name}" for name in BELOW}


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
    code += "".join(f"import llama_from_scratch.{name}\n" for name in BELOW if name != "plots")
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


def test_every_part_of_the_package_is_on_one_floor() -> None:
    parts = {path.stem for path in PACKAGE.glob("*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts == set(CORE) | set(BELOW) | {"__init__", "__main__"}
    assert len(BELOW) == sum(map(len, FLOORS))


@pytest.mark.parametrize("part", BELOW)
def test_parts_import_from_floors_below(part: str) -> None:
    for file, targets in arrows(part).items():
        assert not (beyond := targets - set(CORE) - BELOW[part]), f"{file} imports {beyond}"


def test_files_import_each_other_in_no_circle() -> None:
    graph = file_arrows()
    while leaves := {file for file, targets in graph.items() if not targets & graph.keys()}:
        graph = {file: targets for file, targets in graph.items() if file not in leaves}
    assert not graph, f"in a circle, or behind one: {sorted(graph)}"


class WithoutTypeChecking(ast.NodeTransformer):
    """Leaves out what is imported for annotations alone."""

    def visit_If(self, node: ast.If) -> ast.If | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def file_arrows() -> dict[str, set[str]]:
    """Module -> the modules it imports, inside functions, too. Of `from .part import name` it is the module `name`, or
    `part` itself. The one arrow from the core upwards is left out."""
    files = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for name, path in files.items():
        targets = graph[name] = set()
        package = name.split(".")[:-1]
        for node in ast.walk(WithoutTypeChecking().visit(ast.parse(path.read_text(encoding="utf-8")))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = package[: len(package) + 1 - node.level] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                found = [".".join([*base, alias.name]), ".".join(base), ".".join([*base, "__init__"])]
                targets |= {next(each for each in found if each in files)}
    graph["model"] -= {"checkpoint.__init__"}
    return graph


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

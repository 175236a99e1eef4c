"""The set-up and the tools: what they say when something is missing, and that they leave things as they should be."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import bootstrap
import pytest
from places import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project whose pip only notes what it is asked for."""
    for name in bootstrap.DECIDES:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / ".venv" / ".ready"))
    monkeypatch.setattr(bootstrap, "check_space", lambda folder: None)
    asked = []
    monkeypatch.setattr(bootstrap, "pip", lambda *arguments: asked.append(arguments))

    def run(command, **how):
        if command[1:3] == ["-m", "venv"]:  # a real one takes seconds
            python = Path(command[3]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
            return types.SimpleNamespace(returncode=0)
        return real_run(command, **how)

    real_run = subprocess.run
    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    return types.SimpleNamespace(path=tmp_path, asked=asked, real_run=real_run)


def fake_python(folder: Path, name: str, version: str | None) -> None:
    """A command that says it is Python `version`; one that does not run for None."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 1\n")
    script.chmod(0o755)


def test_a_first_set_up_installs_from_the_lock_and_a_second_does_nothing(project):
    bootstrap.install(sys.executable)
    assert project.asked[0] == ("-r", "requirements.txt", "-c", "constraints.txt")
    assert project.asked[1] == ("--no-deps", *bootstrap.FILES)
    assert project.asked[2][-1] == "."
    bootstrap.install(None)
    assert len(project.asked) == 3


def test_a_changed_list_of_packages_is_installed_into_the_same_environment(project):
    bootstrap.install(sys.executable)
    kept = project.path / ".venv" / "kept"
    kept.touch()
    (project.path / "requirements.txt").write_text("another")
    bootstrap.install(None)
    assert len(project.asked) == 6
    assert kept.exists()


@pytest.mark.parametrize("stopped_in", [0, 1, 2])
def test_a_stopped_set_up_is_started_again_from_a_clean_environment(project, monkeypatch, stopped_in):
    steps = []

    def stop(*arguments):
        steps.append(arguments)
        if len(steps) == stopped_in + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "pip", stop)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.install(sys.executable)
    half_made = project.path / ".venv" / "half_made"
    half_made.touch()
    monkeypatch.setattr(bootstrap, "pip", lambda *arguments: project.asked.append(arguments))
    bootstrap.install(sys.executable)
    assert len(project.asked) == 3
    assert not half_made.exists()


def test_an_environment_that_was_moved_is_made_anew(project):
    """Scripts inside .venv name their folder."""
    bootstrap.install(sys.executable)
    stamp = json.loads(Path(bootstrap.STAMP).read_text())
    Path(bootstrap.STAMP).write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    bootstrap.install(sys.executable)
    assert len(project.asked) == 6


def test_an_environment_whose_python_is_gone_is_made_anew(project):
    bootstrap.install(sys.executable)
    (project.path / ".venv" / "bin" / "python").unlink()
    bootstrap.install(sys.executable)
    assert len(project.asked) == 6


def found_pythons() -> dict[tuple[int, int], str]:
    """Each Python of this machine, once for each version: those on the PATH, and those that pyenv keeps."""
    names = [f"python3.{minor}" for minor in range(6, 16)]
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    commands = [sys.executable, *filter(None, map(shutil.which, names))]
    commands += [str(python) for python in sorted(kept.glob("3.*/bin/python"))]
    found = {}
    for command in commands:
        if version := bootstrap.version_of(command):
            found.setdefault(version, command)
    return found


PYTHONS = found_pythons()


@pytest.mark.parametrize("version", [v for v in bootstrap.SUPPORTED if v in PYTHONS], ids=bootstrap.dotted)
def test_set_up_makes_an_environment_of_each_supported_python(project, monkeypatch, version):
    monkeypatch.setattr(bootstrap.subprocess, "run", project.real_run)
    bootstrap.install(PYTHONS[version])
    assert bootstrap.version_of(project.path / ".venv" / "bin" / "python") == version
    assert (project.path / ".venv" / "bin" / "pip").exists() and len(project.asked) == 3
    bootstrap.install(None)
    assert len(project.asked) == 3


@pytest.mark.parametrize("version", [v for v in PYTHONS if v >= (3, 6)], ids=bootstrap.dotted)
def test_set_up_started_by_any_python_says_what_it_needs(tmp_path, version):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "bootstrap.py", tmp_path / "tools")
    for name in bootstrap.DECIDES:
        (tmp_path / name).touch()
    done = subprocess.run(
        [PYTHONS[version], tmp_path / "tools" / "bootstrap.py"],
        env=os.environ | {"PYTHON": "/nowhere/python"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "PYTHON=/nowhere/python does not run" in done.stderr, done.stderr


def test_a_command_that_does_not_run_is_passed_over(tmp_path, monkeypatch):
    fake_python(tmp_path / "bin", "python3.11", None)
    fake_python(tmp_path / "bin", "python3", "3 12")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert bootstrap.find_python(None) == "python3"


def test_no_supported_python(tmp_path, monkeypatch, capsys):
    fake_python(tmp_path / "bin", "python3", "3 9")
    fake_python(tmp_path / "bin", "python3.11", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / "none"))
    assert bootstrap.main() == 1
    said = capsys.readouterr().err
    assert "No Python 3.11 to 3.14 was found" in said and "apt install python3" in said and "PYTHON=" in said


@pytest.mark.parametrize(
    "version, word", [("3 9", "is Python 3.9"), ("3 15", "is Python 3.15"), (None, "does not run")]
)
def test_a_python_that_was_asked_for_and_cannot_be(tmp_path, version, word):
    fake_python(tmp_path / "bin", "mine", version)
    with pytest.raises(bootstrap.Failure, match=f"mine {word}.* 3.11 to 3.14"):
        bootstrap.find_python(str(tmp_path / "bin" / "mine"))


def test_python_without_the_venv_module(tmp_path):
    fake_python(tmp_path / "bin", "bare", None)
    with pytest.raises(bootstrap.Failure, match="apt install python3-venv"):
        bootstrap.check_venv_module(str(tmp_path / "bin" / "bare"))


def test_too_little_space(monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1.26e9))
    with pytest.raises(bootstrap.Failure, match=r"Only 1\.3 GB are free .* needs 6"):
        bootstrap.check_space("/")


@pytest.mark.parametrize(
    "message, sentence",
    [
        ("Retrying ... NewConnectionError(<...>: Failed to establish a new connection)", "Connect to the network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "its message stands above"),
    ],
)
def test_pip_fails(tmp_path, monkeypatch, message, sentence):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path))
    with pytest.raises(bootstrap.Failure, match=sentence):
        bootstrap.pip("anything")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command, where = [shutil.which("make"), *arguments], {**clean, **environment}
    return subprocess.run(command, cwd=ROOT, env=where, text=True, capture_output=True)


def test_make_alone_lists_the_targets():
    said = make().stdout
    for target in ("book", "test", "serve", "lab", "notebooks", "lint", "clean"):
        assert f"\n  {target} " in said


def test_make_without_any_python(tmp_path):
    for tool in ("sh", "echo", "sed"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    result = make("setup", PATH=f"{tmp_path}", SHELL="/bin/sh")
    assert result.returncode
    assert "No Python was found. Install Python 3.11 to 3.14" in result.stderr


def test_every_direct_requirement_is_pinned_as_in_the_lock():
    def pins(name):
        lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
        pairs = [line.split("==") for line in lines if line]
        return {package.lower().replace("_", "-"): version for package, version in pairs}

    direct, lock = pins("requirements.txt"), pins("constraints.txt")
    assert direct["torch"] == "2.13.0"
    assert {p: v for p, v in direct.items() if lock.get(p) != v} == {}


def test_the_package_needs_nothing_that_is_optional():
    """What `pip install .` brings is enough to import the package and run a model; the rest may be absent."""
    optional = ["jupyter", "IPython", "matplotlib", "pytest", "beartype", "hypothesis", "transformers", "gguf", "regex"]
    optional += ["jinja2", "huggingface_hub", "rich", "playwright", "nbformat"]
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        # torch looks for some of these itself, and lives without them
        if name.partition(".")[0] in {optional}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
import torch
from llama_from_scratch import Llama, LlamaConfig
import llama_from_scratch.checkpoint, llama_from_scratch.generation, llama_from_scratch.tokenizer
config = LlamaConfig(vocab_size=7, dim=8, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, ffn_dim=16)
print(Llama(config)(torch.zeros(1, 3, dtype=torch.long)).shape)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert result.stdout.strip() == "torch.Size([1, 3, 7])", result.stderr


def test_the_code_is_in_good_style():
    for arguments in (["check", "."], ["format", "--check", "."]):
        result = subprocess.run([sys.executable, "-m", "ruff", *arguments], cwd=ROOT, text=True, capture_output=True)
        assert result.returncode == 0, result.stdout

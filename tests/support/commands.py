"""The command line, run in this process, where a process of its own would prove nothing more, and as users start it."""

import io
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from llama_from_scratch.cli import main
from llama_from_scratch.cli.main import PROGRAM

COMMAND = [sys.executable, "-m", "llama_from_scratch"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


def hear_ctrl_c() -> None:
    """For a new process: a job started in the background of a script ignores Ctrl-C, and so would all its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_process(argv: list[str], stdin: bytes = b"") -> Done:
    """One command in this process, in the current folder; its streams are pipes to it."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    old, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            try:
                code = main(argv)
            except SystemExit as end:  # argparse's way
                code = end.code
    finally:
        sys.stdin = old
    return Done(code, *(stream.buffer.getvalue().decode() for stream in streams))


def run_line(line: str) -> Done:
    """A line as it is typed in the current folder. What stands before a pipe is run by a shell."""
    before, _, after = line.rpartition(" | ")
    stdin = subprocess.run(before, shell=True, check=True, stdout=subprocess.PIPE).stdout if before else b""
    argv = [
        name
        for word in shlex.split(after, comments=True)
        for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    assert argv[:3] == PROGRAM.split(), line
    return in_process(argv[3:], stdin)


def in_a_folder_with_program(folder: Path) -> dict[str, object]:
    """Options for a process that finds our `python`, asks no network, and hears Ctrl-C."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    return {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "preexec_fn": hear_ctrl_c}


@contextmanager
def files_of_at_most(n_bytes: int | None) -> Iterator[None]:
    """A disk that is full after so many bytes: writing more to one file fails. None: no limit."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (old[0] if n_bytes is None else n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)

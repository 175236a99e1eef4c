"""Runs a program that stands beside the tests in a process of its own, and reads the JSON that it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path


def result_of(program: str, *arguments: Path, timeout: int = 1500):
    """On one thread, so that sums come out the same; what goes wrong is said on stderr."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)

"""Run a program of tests/support in a process of its own, and read the JSON that it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path


def result_of(program: str, *arguments: Path, timeout: int = 1500):
    """On one thread, so that sums have one order; its errors are on stderr."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)

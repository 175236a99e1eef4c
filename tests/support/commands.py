"""The command line as users start it."""

import signal
import sys

COMMAND = [sys.executable, "-m", "llama_from_scratch"]


def hear_ctrl_c() -> None:
    """For a new process: a job started in the background of a script ignores Ctrl-C, and so would all its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

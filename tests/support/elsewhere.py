"""A plugin for `make test-elsewhere`: says which kernels compute, and allows a fifth of each numerical tolerance.

A tolerance that passes so, on the oldest kernels and on newer ones, has the margin that a processor we have not seen
may need. `pytest -p elsewhere`; at full tolerance, without the plugin, nothing changes.
"""

import getpass
import os
import tempfile

import pytest
import torch

PART = 0.2
# What torch.testing.assert_close allows where a test names no tolerance: (relative, absolute).
DEFAULTS = {torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5), torch.float32: (1.3e-6, 1e-5)}
DEFAULTS |= {torch.float64: (1e-7, 1e-7)}

assert_close, approx = torch.testing.assert_close, pytest.approx


def strict_assert_close(actual, expected, *, rtol=None, atol=None, **options) -> None:
    if rtol is None:
        rtol, atol = max(DEFAULTS.get(getattr(each, "dtype", torch.float64), (0.0, 0.0)) for each in (actual, expected))
    assert_close(actual, expected, rtol=PART * rtol, atol=PART * atol, **options)


def strict_approx(expected, rel=None, abs=None, nan_ok=False):  # noqa: A002, pytest calls it so
    rel = 1e-6 if rel is None and abs is None else rel
    return approx(expected, rel and PART * rel, abs and PART * abs, nan_ok)


def pytest_configure(config) -> None:
    torch.testing.assert_close, pytest.approx = strict_assert_close, strict_approx
    wanted, found = os.environ.get("ATEN_CPU_CAPABILITY", ""), torch.backends.cpu.get_cpu_capability()
    if wanted and wanted.upper() != found:
        raise pytest.UsageError(f"asked for the kernels {wanted}, and torch computes with {found}")
    # Programs that torch.compile made for other instructions must not be taken.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{tempfile.gettempdir()}/torchinductor-{getpass.getuser()}-{found}"
    if not hasattr(config, "workerinput"):  # the process that starts the workers
        print(f"Kernels: torch {found}, threads {torch.get_num_threads()}, 1/{1 / PART:.0f} of each tolerance")

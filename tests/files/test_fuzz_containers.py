"""Damaged headers and tables of every format: the same weights bit for bit, or one plain error, quickly and in little
memory. `LFS_EXAMPLES=10000` damages each format so often."""

import os
import random
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from fuzzed_containers import healthy_files, mutations

from llama_from_scratch.checkpoint import load_model

N = int(os.environ.get("LFS_EXAMPLES", "200"))
FORMATS = ("gguf", "gguf-q8", "safetensors", "meta", "pytorch", "json", "params")
SECONDS, N_BYTES = 2, 2**30
pytestmark = [
    pytest.mark.usefixtures("as_users_run_it"),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as only Linux does"),
]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return healthy_files(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def one_gigabyte():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + N_BYTES, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def outcome(name: Path, expected: dict[str, torch.Tensor]) -> str:
    start = time.process_time()
    try:
        found = load_model(name).state_dict()
    except ValueError as error:
        assert str(error) and "\n" not in str(error), error
        result = "refused"
    else:
        same = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
        result = "same" if same else "silent"
    assert time.process_time() - start < SECONDS, "it took too long"
    return result


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_tables_are_refused_or_harmless(kind, healthy, tmp_path, one_gigabyte):
    name, files = healthy[kind]
    counts, chance = Counter(), random.Random(kind)
    expected = load_model(name).state_dict()
    copy = Path((shutil.copytree if name.is_dir() else shutil.copy)(name, tmp_path / name.name))
    for file in files:
        target = copy / file.name if name.is_dir() else copy
        whole = file.read_bytes()
        for _, damaged in zip(range(N // len(files)), mutations(file, chance), strict=False):
            target.unlink()  # a new file: the old one may still be mapped into memory
            target.write_bytes(damaged)
            result = outcome(copy, expected)
            if result == "silent":
                (tmp_path / "silent").write_bytes(damaged)  # to look at
            counts[result] += damaged != whole and 1
        target.write_bytes(whole)
    print(kind, dict(counts))
    assert counts["silent"] == 0, counts
    assert counts["refused"] > N // 5

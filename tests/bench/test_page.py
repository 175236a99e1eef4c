"""The page of the benchmarks: what is measured, what waits, what failed and what cannot fit, each as it is."""

import json

import pytest
import torch

import benchmarks
from llama_from_scratch import PRESETS, KVCache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place for results."""
    (tmp_path / "notes.md").write_text("## Notes\n")
    monkeypatch.setattr(benchmarks, "FOLDER", tmp_path)
    return tmp_path


def result(seconds: dict[str, float], what: str = "decode", batch: int = 1) -> dict:
    rows = {
        name: {
            "seconds": s,
            "tokens/s": batch / s,
            "time, as a multiple of the first": s,
            "MBU": 0.5 / s,
            "rounds": [s],
        }
        for name, s in seconds.items()
    }
    card = {"FLOPs a token": 15e9, "copy, bytes/s": 3e12, "matrix product in bfloat16, FLOP/s": 8e14}
    machine = {"device": "a GPU", "date": "2026-01-01", "command": "bench"}
    return {"what": what, "machine": machine, "setting": {"batch": batch}, "card": card, "rows": rows}


def test_ratios_are_of_the_rows_that_they_name(folder):
    ways = {"plain": 9.0, benchmarks.BF16: 2.0, benchmarks.INT8: 1.25, benchmarks.INT4: 1.0, "transformers": 12.0}
    (folder / "gpu-decode-8b.json").write_text(json.dumps(result(ways)))
    lines = {line.split(" | ")[0]: line for line in benchmarks.page().splitlines()}
    assert "| 1.5 | 1.60 | yes |" in lines["| H100 decode, 8B, int8 against bf16"]
    assert "| 1.8 | 2.00 | yes |" in lines["| H100 decode, 8B, int4 against bf16"]
    assert "| 5 | 6.00 | yes |" in lines["| H100 decode, 8B bf16, against transformers"]
    assert "| 0.85 | 0.25 | no |" in lines["| H100 decode, 8B bf16, share of copy bandwidth"]
    assert "| waits |" in lines["| H100 decode, 1B bf16, share of copy bandwidth"]


def test_a_contestant_that_was_not_there_waits(folder):
    ways = {"fused, int4, compiled step": 1.0, "fused, compiled step": 2.0, "transformers": 3.0}
    (folder / "cpu-decode-step.json").write_text(json.dumps(result(ways)))
    page = benchmarks.page()
    assert "against transformers eager fp32 | 4 | 3.00 | no | 3.00 to 3.00 | fused, int4, compiled step |" in page
    assert "against llama.cpp, same file | 0.8 | waits |" in page
    (folder / "cpu-prefill.json").write_text(json.dumps(result(ways)))
    assert "| CPU prefill in fp32, against transformers | 1.5 | 1.50 | yes |" in benchmarks.page()


def test_batch_by_context(folder):
    (folder / "gpu-decode-8b-batch8-context1024.json").write_text(json.dumps(result({benchmarks.BF16: 0.01}, batch=8)))
    table = [line for line in benchmarks.page().splitlines() if line.startswith(("| 1024 ", "| 8192 ", "| 65536 "))]
    assert table == [
        "| 1024 | waits | 800 tokens/s, MBU 5000% | waits |",
        "| 8192 | waits | waits | needs 85 GB |",
        "| 65536 | waits | needs 85 GB | needs 566 GB |",
    ]


def test_what_is_needed_is_the_model_and_its_cache():
    eight = PRESETS["Llama-3.1-8B"]
    cache = KVCache(eight, 8, 65536 + benchmarks.NEW, torch.bfloat16, "meta")
    assert benchmarks.needed(8, 65536) == 2 * eight.n_params + cache.n_bytes


def test_a_failure_is_shown_and_loses_nothing(folder, monkeypatch):
    monkeypatch.setitem(benchmarks.COMMANDS, "gpu-decode-8b", "bench decode --rounds 0")
    benchmarks.measure("gpu-decode-8b", None)
    message = "error: --rounds is 0; it must be at least 1"
    assert json.loads((folder / "gpu-decode-8b.json").read_text())["failed"] == message
    page = benchmarks.page()
    assert page.count("| failed | no |") == 4 and f"Failed: {message}" in page
    good = json.dumps(result({benchmarks.BF16: 1.0}))
    (folder / "gpu-decode-8b.json").write_text(good)
    benchmarks.measure("gpu-decode-8b", None)  # an earlier result stays
    assert (folder / "gpu-decode-8b.json").read_text() == good


def test_no_time_is_no_failure(folder, capsys):
    benchmarks.measure("gpu-decode-8b", 0.0)
    assert not (folder / "gpu-decode-8b.json").exists()
    assert "the time given with --minutes is over" in capsys.readouterr().err


def test_the_roofline_has_the_quickest_way_in_each_type(folder):
    ways = {"plain": 9.0, benchmarks.BF16: 2.0, benchmarks.INT4: 1.0, "transformers": 0.5}
    (folder / "gpu-decode-8b.json").write_text(json.dumps(result(ways)))
    roof, found = benchmarks.points("gpu")
    assert roof == {"a GPU": (8e14, 3e12)}
    # 0.5 / s of the bandwidth for s seconds: 1.5e12 bytes, for 15e9 FLOPs
    assert found == {
        "decode-8b": pytest.approx((0.01, 7.5e9)),
        "decode-8b int4": pytest.approx((0.01, 15e9)),
    }
    assert list(benchmarks.drawings()) == ["roofline-gpu.svg"]

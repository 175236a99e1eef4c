"""Training that is killed many times ends bit for bit like uninterrupted training; each planted bug is detected."""

import pytest
from programs import result_of
from training_lives import MUTATIONS


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """The program of training_lives.py, run once for all tests of this file."""
    return result_of("training_lives.py", tmp_path_factory.mktemp("lives"))


def differences(one: dict, other: dict) -> set[str]:
    return {what for what in ("step", "weights", "memory", "log") if one[what] != other[what]}


def test_resume_after_twenty_kills_is_bit_exact(lives):
    """Real kills (SIGKILL), saves after each step. Weights, optimizer and generators are equal to the last bit."""
    killed = lives["killed"]
    assert differences(killed, lives["calm"]) == set()
    assert len(killed["reached"]) == 20
    assert killed["during a save"] >= 3  # some of them hit a save that was being written
    assert killed["reached"] == sorted(killed["reached"])  # no save is ever lost
    assert len(set(killed["reached"])) > 10  # and they were spread over the run


def test_resume_log_has_each_step_once(lives):
    steps = [record["step"] for record in lives["killed"]["log"] if record["kind"] == "step"]
    assert steps == list(range(1, 61))
    assert [r["step"] for r in lives["killed"]["log"] if r["kind"] == "held_out"] == [*range(7, 60, 7), 60]
    assert [r["step"] for r in lives["killed"]["log"] if r["kind"] == "sample"] == [*range(11, 60, 11), 60]


def test_resume_of_short_runs_is_bit_exact(lives):
    """What the mutants below are compared with."""
    assert differences(lives["mutant "], lives["calm, short"]) == set()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_resume_mutant_is_detected(lives, mutation):
    found = differences(lives[f"mutant {mutation}"], lives["calm, short"])
    assert found == ({"log"} if mutation == "log" else {"weights", "memory", "log"})

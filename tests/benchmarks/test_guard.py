"""The regression guard fails on what got slower, whatever the machine, and on nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import guard
from benchmarks.guard_work import PAIRS, Pair

MATRIX = np.random.default_rng(0).random((160, 160))


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    """The works here are alike: short turns tell them apart."""
    monkeypatch.setattr(guard, "LEAST_SECONDS", 0.004)
    monkeypatch.setattr(guard, "TURNS", 5)


def work(times: int):
    def run() -> None:
        for _ in range(times):
            np.sort(MATRIX, axis=0)

    return run


def pair(times: int) -> Pair:
    return Pair(work(times), work(4))


def test_equal_work_passes_and_slower_work_fails():
    committed = {"sorting": guard.ratio_of(pair(4), 9)}
    assert committed["sorting"] == pytest.approx(1.0, rel=0.3)
    code, (equal,) = guard.guard({"sorting": lambda: pair(4)}, committed, turns=9)
    assert code == 0 and not equal.slower
    code, (slowed,) = guard.guard({"sorting": lambda: pair(10)}, committed, turns=9)
    assert code == guard.EXIT_SLOWER and slowed.growth == pytest.approx(2.5, rel=0.3)
    code, (faster,) = guard.guard({"sorting": lambda: pair(1)}, committed, turns=9)
    assert code == 0 and "renew" in guard.table([faster])


def test_a_slower_training_step_of_the_app_fails():
    own = PAIRS["training epoch"]()
    committed = {"training epoch": guard.ratio_of(own, 5)}

    def thrice() -> None:
        for _ in range(3):
            own.work()

    assert guard.guard({"training epoch": lambda: own}, committed, turns=5)[0] == 0
    slowed = {"training epoch": lambda: Pair(thrice, own.reference)}
    assert guard.guard(slowed, committed, turns=5)[0] == guard.EXIT_SLOWER


@pytest.mark.parametrize(("looks", "slower"), [([2.0, 1.1], False), ([2.0, 1.9], True), ([1.4], False)])
def test_only_what_is_slow_at_the_second_look_too_is_slower(monkeypatch, looks, slower):
    turns = []

    def look(_: Pair, count: int) -> float:
        turns.append(count)
        return looks[len(turns) - 1]

    monkeypatch.setattr(guard, "ratio_of", look)
    assert guard.examine("work", lambda: pair(1), 1.0, turns=4).slower is slower
    assert turns == [4, 12][: len(looks)]


def test_the_command_compares_with_a_file_that_it_can_write(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(guard, "PAIRS", {"sorting": lambda: pair(4)})
    path = tmp_path / "ratios.json"
    given = ["--only", "sorting", "--ratios", str(path)]
    assert guard.main([*given, "--write"]) == 0 and guard.main(given) == 0
    assert "| sorting |" in capsys.readouterr().out
    content = json.loads(path.read_text())
    content["ratios"]["sorting"] /= 3
    path.write_text(json.dumps(content))
    assert guard.main(given) == guard.EXIT_SLOWER and "SLOWER" in capsys.readouterr().out
    path.write_text('{"ratios": {}}')
    assert guard.main(given) == guard.EXIT_MISSING and "--write" in capsys.readouterr().err


def test_every_work_has_a_committed_ratio():
    committed = json.loads(guard.RATIOS.read_text())["ratios"]
    assert set(committed) == set(PAIRS) and min(committed.values()) > 0

"""The regression guard fails on what got slower, whatever the machine, and on nothing else."""

from __future__ import annotations

import json

import pytest

from benchmarks.speed import guard
from benchmarks.speed.guard_work import PAIRS, Pair


@pytest.fixture
def clock(monkeypatch):
    """A processor clock that runs by the work done, not by the load of the machine."""
    now = [0.0]
    monkeypatch.setattr(guard.time, "process_time", lambda: now[0])
    return now


def pair(clock: list[float], times: int) -> Pair:
    """A work that takes ``times`` hundredths of a second, beside a reference of four."""

    def work(hundredths: int):
        def run() -> None:
            clock[0] += hundredths / 100

        return run

    return Pair(work(times), work(4))


def test_equal_work_passes_and_slower_work_fails(clock):
    committed = {"work": guard.ratio_of(pair(clock, 4), 9)}
    assert committed["work"] == pytest.approx(1.0)
    code, (equal,) = guard.guard({"work": lambda: pair(clock, 4)}, committed, turns=9)
    assert code == 0 and not equal.slower
    code, (slowed,) = guard.guard({"work": lambda: pair(clock, 10)}, committed, turns=9)
    assert code == guard.EXIT_SLOWER and slowed.growth == pytest.approx(2.5)
    code, (faster,) = guard.guard({"work": lambda: pair(clock, 1)}, committed, turns=9)
    assert code == 0 and "renew" in guard.table([faster])


@pytest.mark.slow
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
def test_only_what_is_slow_at_the_second_look_too_is_slower(monkeypatch, clock, looks, slower):
    turns = []

    def look(_: Pair, count: int) -> float:
        turns.append(count)
        return looks[len(turns) - 1]

    monkeypatch.setattr(guard, "ratio_of", look)
    assert guard.examine("work", lambda: pair(clock, 1), 1.0, turns=4).slower is slower
    assert turns == [4, 12][: len(looks)]


def test_the_command_compares_with_a_file_that_it_can_write(tmp_path, monkeypatch, clock, capsys):
    monkeypatch.setattr(guard, "PAIRS", {"work": lambda: pair(clock, 4)})
    path = tmp_path / "ratios.json"
    given = ["--only", "work", "--ratios", str(path)]
    assert guard.main([*given, "--write"]) == 0 and guard.main(given) == 0
    assert "| work |" in capsys.readouterr().out
    content = json.loads(path.read_text())
    content["ratios"]["work"] /= 3
    path.write_text(json.dumps(content))
    assert guard.main(given) == guard.EXIT_SLOWER and "SLOWER" in capsys.readouterr().out
    path.write_text(json.dumps({**content, "processor": "another one"}))
    assert guard.main([*given, "--same-processor"]) == 0 and "not judged" in capsys.readouterr().out
    assert guard.main(given) == guard.EXIT_SLOWER
    path.write_text('{"ratios": {}}')
    assert guard.main(given) == guard.EXIT_MISSING and "--write" in capsys.readouterr().err


def test_every_work_has_a_committed_ratio():
    committed = json.loads(guard.RATIOS.read_text())["ratios"]
    assert set(committed) == set(PAIRS) and min(committed.values()) > 0

"""What the settings of the tests promise: none goes on for ever, and none depends on the luck of the day."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from app_runs import ROOT
from slow_suite import PARTS

HANGING = """
import subprocess, sys
from hypothesis import given, strategies

@given(strategies.integers())
def test_a_property_that_hangs(number):
    while number > 3:
        pass

def test_a_child_that_hangs(tmp_path):
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"])

def test_the_next_one():
    pass
"""

DRAWN = """
from hypothesis import given, strategies

@given(strategies.integers())
def test_drawn(number):
    print("drawn", number)
"""


def run_tests(folder, content: str, *options: str) -> str:
    """What pytest says of tests below the settings of these."""
    path = folder / "test_made.py"
    path.write_text(content)
    words = ["-p", "conftest", "-n0", "-s", "-p", "no:cacheprovider", f"--rootdir={folder}", *options]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *words, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return done.stdout


def test_what_hangs_fails_at_its_limit_and_the_others_go_on(tmp_path):
    said = run_tests(tmp_path, HANGING, "--timeout=3")
    assert "2 failed, 1 passed" in said, said
    assert said.count("longer than 3 s") >= 2


@pytest.mark.parametrize(("profile", "again"), [("repeatable", True), ("explore", False)])
def test_examples_are_the_same_every_time_unless_asked_for_others(tmp_path, profile, again):
    first, second = (
        [line for line in run_tests(tmp_path, DRAWN, *options).splitlines() if "drawn" in line]
        for options in ([], [f"--hypothesis-profile={profile}"])
    )
    assert first and (first == second) is again


def test_every_slow_test_is_in_one_part_of_the_slow_suite():
    slow = re.compile(r"pytest\.mark\.slow\b")
    marked = {
        path.relative_to(ROOT / "tests").as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if slow.search(path.read_text(encoding="utf-8"))
    }
    assert sorted(name for part in PARTS.values() for name in part.files) == sorted(marked)

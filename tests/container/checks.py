"""Checks are functions that raise AssertionError; here they are run, one line each, and put into a page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from image import package_version

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Result:
    """How a check came out; ``failure`` is None when it passed."""

    check: Callable
    seconds: float
    failure: str | None


def name_of(check: Callable) -> str:
    """Name of a check on the command line and in the page."""
    return check.__name__.removeprefix("check_")


def run_checks(subject: Subject, checks: Sequence[Callable[[Subject], None]]) -> list[Result]:
    """Run checks one after the other and print a line for each."""
    results = []
    for check in checks:
        started = time.monotonic()
        failure = None
        try:
            check(subject)
        except AssertionError as error:
            failure = str(error)
        results.append(Result(check, time.monotonic() - started, failure))
        outcome = "PASSED" if failure is None else f"FAILED: {failure}"
        print(f"{name_of(check)} ({results[-1].seconds:.1f} s) {outcome}", flush=True)
    failed = count_failed(results)
    print(f"container checks: {len(results) - failed} passed, {failed} failed")
    return results


def count_failed(results: Sequence[Result]) -> int:
    """How many checks did not pass."""
    return sum(result.failure is not None for result in results)


def page(title: str, text: str, command: str, facts: str, results: Sequence[Result]) -> str:
    """The results in Markdown: what was run, by which command, and a line per check."""
    rows = "\n".join(
        f"| {name_of(result.check)} | {result.check.__doc__.strip()} | {result.seconds:.1f} | "
        f"{'passed' if result.failure is None else 'FAILED'} |"
        for result in results
    )
    return (
        f"# {title}\n\n{text} Made by\n\n    {command}\n\n"
        f"Version {package_version()}, {facts}, {os.cpu_count()} cores. The seconds are those of a "
        "machine that did other work\nat the same time.\n\n"
        f"| check | what must hold | seconds | outcome |\n|---|---|---|---|\n{rows}\n"
    )

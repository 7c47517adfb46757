"""What holds for every test."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

SLOW_LIMIT = 1800
"""Seconds that a slow test may take; what others may is said in pyproject.toml."""

AGAIN = 60
"""Seconds after which a test that goes on beyond its limit is told so again."""

# How fast examples are made says something about the machine, which other jobs may share, not about the code.
# The same examples are tried everywhere, so that what fails is the change and not the luck of the day.
settings.register_profile(
    "repeatable",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    print_blob=True,
)
settings.register_profile(
    "explore", parent=settings.get_profile("repeatable"), derandomize=False, max_examples=1000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT))


class OverLimit(BaseException):
    """A test took too long; no Exception, which hypothesis would take for a failure and try again."""


def pytest_timeout_set_timer(item, settings):
    """At its limit a test fails where it is, so that its own cleaning up ends the processes it started."""

    def end(*_) -> None:
        raise OverLimit(f"longer than {settings.timeout:g} s")

    signal.signal(signal.SIGALRM, end)
    # Once more where it is lost, as in a destructor, or where the cleaning up waits as well.
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN)
    item.cancel_timeout = lambda: signal.setitimer(signal.ITIMER_REAL, 0)
    return True


@pytest.fixture
def signals_as_in_a_terminal():
    """A shell that runs the tests in the background makes them ignore SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

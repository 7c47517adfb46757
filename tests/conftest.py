"""What holds for every test."""

import signal

import pytest
from hypothesis import HealthCheck, settings

# How fast examples are made says something about the machine, which other jobs may share, not about the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture
def signals_as_in_a_terminal():
    """A shell that runs the tests in the background makes them ignore SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

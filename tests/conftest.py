"""What holds for every test."""

from hypothesis import HealthCheck, settings

# How fast examples are made says something about the machine, which other jobs may share, not about the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

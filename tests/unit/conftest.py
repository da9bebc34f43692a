"""Settings of the unit tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in every run, and no verdict by the clock: a test that fails here fails everywhere.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

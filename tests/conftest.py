"""Loads the shipped fixtures and settles how Hypothesis searches."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["atlas.testing"]

settings.register_profile(
    "pleiades", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pleiades")

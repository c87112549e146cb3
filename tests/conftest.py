"""Loads the shipped fixtures and settles how Hypothesis searches."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["atlas.testing"]

settings.register_profile(
    "pleiades", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pleiades")

# Tests started in the background of a shell get SIGINT ignored, and so would the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""Loads the shipped fixtures and settles how Hypothesis searches."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["atlas.testing"]

settings.register_profile(
    "pleiades", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pleiades")

# Tests started in the background of a shell get SIGINT ignored, and so would the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

COVERAGE_DATA = Path(__file__).resolve().parent.parent / ".coverage.d"


# Innermost, so that it is done before pytest-cov combines the files.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Remove what killed processes left of their coverage, which would only bring warnings."""
    result = yield
    if not hasattr(session.config, "workerinput"):
        remove_broken(COVERAGE_DATA)
    return result


def remove_broken(folder: Path) -> None:
    """Remove files of coverage that were begun and never finished."""
    for path in folder.glob("data.*"):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as data:
                complete = data.execute("SELECT count(*) FROM coverage_schema").fetchone()[0] == 1
        except sqlite3.DatabaseError:
            complete = False
        if not complete:
            path.unlink()

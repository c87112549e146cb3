"""Loads the shipped fixtures; settles how Hypothesis searches: EXAMPLES=1000 for longer."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from maia.logs import StderrHandler
from tests.fork_server import FORKS

pytest_plugins = ["atlas.testing"]

settings.register_profile(
    "pleiades",
    deadline=None,
    derandomize=True,
    max_examples=int(os.environ.get("EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pleiades")

# Tests started in the background of a shell get SIGINT ignored, and so would the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without the garbage collector, which takes a third of the time: what is made stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


COVERAGE_DATA = Path(__file__).resolve().parent.parent / ".coverage.d"


@pytest.fixture(autouse=True)
def _logging_stays() -> Iterator[None]:
    """Undo what a command that ran in this process did to logging, which later tests would see."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [each for each in root.handlers if each not in handlers]:
        if isinstance(handler, StderrHandler):
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    """Undo how a command that ran in this process handles signals: it ends its process soon after one."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    lost = sys.unraisablehook
    yield
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    sys.unraisablehook = lost


@pytest.fixture(scope="session", autouse=True)
def _forks_end() -> Iterator[None]:
    """End the process that commands were forked from, if there is one."""
    yield
    FORKS.end()


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

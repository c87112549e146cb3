"""Waiting for other processes, with a limit that only a hopeless case reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, happens: Callable[[], T | None], limit_s: float = 300) -> T:
    """Wait for something true, and return it."""
    deadline = time.monotonic() + limit_s
    while not (found := happens()):
        assert time.monotonic() < deadline, f"{what} within {limit_s:g} s"
        time.sleep(0.5)
    return found

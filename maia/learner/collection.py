"""Keeps Python's collector of cycles from searching a page of observations again and again, for nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Let objects live and die without a search for cycles among them.

    A page has hundreds of thousands of objects without a cycle, which go as soon as nothing refers to them.
    As they come, the collector would look through all of them several times, and through what the detectors
    know: a quarter of the time that learning takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

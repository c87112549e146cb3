"""Signals as cancellation: an agent that is told to stop gives back what it holds and goes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TERMINATED_STATUS = 128 + signal.SIGTERM
"""What the process exits with after SIGTERM, as shells have it."""


@contextmanager
def cancelled_by_sigterm(*, exits: bool = True) -> Iterator[None]:
    """Within it SIGTERM cancels the calling task, for SystemExit(143), or CancelledError if not `exits`.

    Further ones change nothing, as whoever sends them to a group and to its members does: the task is ending.
    It works only in the main thread, as Python delivers signals nowhere else.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def cancel() -> None:
        nonlocal terminated
        if not terminated:
            terminated = True
            task.cancel("SIGTERM")

    previous = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if terminated and exits:
            raise SystemExit(TERMINATED_STATUS) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, previous)

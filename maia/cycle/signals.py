"""Turns SIGTERM into cancellation, so that an agent releases its claims before it exits."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from maia.cycle.termination import TERMINATED_STATUS, Terminator

__all__ = ["TERMINATED_STATUS", "cancelled_by_sigterm"]


@contextmanager
def cancelled_by_sigterm(*, exits: bool = True) -> Iterator[None]:
    """Let SIGTERM cancel the calling task, which raises SystemExit(143), or CancelledError if not `exits`.

    Further SIGTERMs are ignored: a process in a group may get several. This works only in the main thread,
    as Python delivers signals nowhere else. The handler also makes the event loop notice every other signal
    at once, including Ctrl-C: under plain asyncio.run, a signal that arrives just before the loop waits is
    noticed only when something else wakes the loop.
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
    if isinstance(previous, Terminator):
        # Runs even while the loop is stuck in a callback; the loop still learns of the signal afterwards.
        signal.signal(signal.SIGTERM, previous.start_grace)
    try:
        yield
    except asyncio.CancelledError:
        if terminated and exits:
            raise SystemExit(TERMINATED_STATUS) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, previous)

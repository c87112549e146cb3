"""Ends a process after SIGTERM: cleanly if possible, but always within seconds."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

TERMINATED_STATUS = 128 + signal.SIGTERM
"""The exit status after SIGTERM: 128 + 15, by the shells' convention."""

GRACE_S = 10.0
"""How long a process may take to clean up after SIGTERM."""

_AGAIN_AFTER_S = 0.01


class Terminator:
    """Handles SIGTERM for a whole process: it cleans up as after Ctrl-C, or else is ended by force.

    Nothing interrupts a thread that waits for a disk or a pipe, and the interpreter waits for all threads. So
    the process ends `grace_s` after the first SIGTERM, whatever its state.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s, self.has_started = grace_s, False

    def __call__(self, *_: object) -> None:
        self.start_grace()
        ignore_unawaited()
        raise SystemExit(TERMINATED_STATUS)

    def start_grace(self, *_: object) -> None:
        """End the process by force once the grace period is over."""
        if not self.has_started:
            self.has_started = True
            # Not threading.Thread, which takes locks that the interrupted code may hold.
            _thread.start_new_thread(self._end, ())

    def _end(self) -> None:
        time.sleep(self._grace_s)
        os._exit(TERMINATED_STATUS)

    def repeat_what_is_lost(self) -> None:
        """Send SIGTERM or Ctrl-C again wherever Python could only ignore the exception that it had raised.

        It ignores exceptions in what the garbage collector calls, and in callbacks of compiled code.
        """
        others = sys.unraisablehook

        def repeat(lost: UnraisableHookArgs) -> None:
            if isinstance(lost.exc_value, SystemExit) and self.has_started:
                _thread.start_new_thread(_send, (signal.SIGTERM,))
            elif isinstance(lost.exc_value, KeyboardInterrupt):
                _thread.start_new_thread(_send, (signal.SIGINT,))
            else:
                others(lost)

        sys.unraisablehook = repeat


def end_at_once_by_ctrl_c() -> None:
    """Let Ctrl-C end a process that is ending already, without an exception that nobody handles any more."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_unawaited() -> None:
    """Let Python not warn of coroutines that a signal kept from being awaited."""
    warnings.filterwarnings("ignore", ".* was never awaited", RuntimeWarning)


def _send(number: signal.Signals) -> None:
    # Later, as its exception would otherwise be raised in the hook itself.
    time.sleep(_AGAIN_AFTER_S)
    os.kill(os.getpid(), number)

"""Runs a program that is killed when its parent dies: `python -I -S leash.py PARENT NICE PROGRAM ARGUMENT…`.

A separate file that needs no site-packages, so that it starts quickly.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, nice, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        # The parent may have died before prctl took effect.
        if os.getppid() != int(parent):
            raise SystemExit(1)
    # A confined service may not even lower its priority; it then runs at its own.
    with suppress(PermissionError):
        os.nice(int(nice))
    os.execvp(command[0], command)  # noqa: S606 - running it is the purpose


def leashed(command: Sequence[str], *, nice: int = 0) -> list[str]:
    """The command that runs a program until it ends, or until the calling thread of this process does."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(nice), *command]


if __name__ == "__main__":
    main()

"""Runs a program that ends when its parent does: `python -I -S leash.py PARENT SIGNAL PROGRAM ARGUMENT…`.

A separate file that needs no site-packages, so that it adds little to the start of each process of `maia up`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    parent, number, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        # The parent may have died before prctl took effect.
        if os.getppid() != int(parent):
            raise SystemExit(1)
    os.execvp(command[0], command)  # noqa: S606 - running it is the purpose


def leashed(command: Sequence[str]) -> list[str]:
    """The command by which this process starts a child that gets SIGTERM when this process dies."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(signal.SIGTERM)), *command]


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none gets lost."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


if __name__ == "__main__":
    main()

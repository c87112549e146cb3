"""Runs a program that ends when its parent does: `python -I -S leash.py PARENT SIGNAL PROGRAM ARGUMENT…`.

A separate file that needs no site-packages, so that it adds little to the start of each process of `maia up`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PID = "MAIA_UP_PID"
"""The variable that tells a child from its descendants, which inherit it, but have other ids."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def main() -> None:
    parent, number, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        # The parent may have died before prctl took effect.
        if os.getppid() != int(parent):
            raise SystemExit(1)
    os.environ[PID] = str(os.getpid())
    os.execvp(command[0], command)  # noqa: S606 - running it is the purpose


def leashed(command: Sequence[str]) -> list[str]:
    """The command by which this process starts a child that gets SIGTERM when this process dies."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(signal.SIGTERM)), *command]


def adopt_orphans(adopts: bool = True) -> bool:
    """Be the parent of descendants whose own parent dies, or no longer; returns whether it was before."""
    if sys.platform != "linux":
        return False
    library, before = ctypes.CDLL(None), ctypes.c_int(0)
    library.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    library.prctl(_PR_SET_CHILD_SUBREAPER, int(adopts))
    return bool(before.value)


if __name__ == "__main__":
    main()

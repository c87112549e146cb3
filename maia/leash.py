"""Runs a program that ends when its parent does: `python -I -S leash.py PARENT SIGNAL PROGRAM ARGUMENT…`.

A file to itself, run without site-packages, as it stands before every process of `maia up`.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    parent, number, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        # It may have died before it could be heard.
        if os.getppid() != int(parent):
            raise SystemExit(1)
    os.execvp(command[0], command)  # noqa: S606 - the very purpose


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none gets lost."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


if __name__ == "__main__":
    main()

"""A small process that stops an embedded server nobody uses any more: `python -I -S caretaker.py FOLDER`.

The last process to leave normally stops the server itself; this one covers processes that were killed. It
waits for a lock that every process using the server shares, so the kernel wakes it when the last of them
ends, for whatever reason. It imports no other module of ours, because it stays in memory as long as the
server does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress

_POLL_S = 0.01
_PAUSE_S = 0.1
_BARELY_STARTED_S = 2


def main() -> None:
    folder = sys.argv[1]
    if os.fork():
        # The starter waits only for the parent; init reaps the child.
        os._exit(0)
    try:
        mine = _open(folder, "caretaker.lock")
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        presence = _open(folder, "presence.lock")
        while not _stop_when_unused(folder, presence):
            time.sleep(_PAUSE_S)
    except (BlockingIOError, FileNotFoundError):
        # Another caretaker is running, or the whole folder is gone.
        return


def _stop_when_unused(folder: str, presence: int) -> bool:
    """Wait until nobody uses the server, then stop it; False if somebody has started using it meanwhile."""
    fcntl.flock(presence, fcntl.LOCK_EX)
    fcntl.flock(presence, fcntl.LOCK_UN)
    if os.fstat(presence).st_nlink == 0:
        # The folder was deleted; a new one of the same name has its own caretaker.
        return True
    if _server_pid(folder) is None:
        # Usually the last user has stopped it; but one that was killed may have only just started it.
        time.sleep(_BARELY_STARTED_S)
    locks = [_open(folder, name) for name in ("server.lock", "users.lock", "turn.lock")]
    server, users, turn = locks
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _stop(folder, server)
    except BlockingIOError:
        return False
    finally:
        for lock in locks:
            os.close(lock)


def _stop(folder: str, server: int) -> bool:
    """Stop the server; returns whether it has ended. Repeats the signal, ignored while the server starts."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(server, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        pid = _server_pid(folder)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        time.sleep(_POLL_S)


def _server_pid(folder: str) -> int | None:
    """The server's pid; None if no process in this container has the cluster as its working directory."""
    cluster = os.path.join(folder, "data")  # noqa: PTH118
    try:
        with open(os.path.join(cluster, "postmaster.pid")) as file:  # noqa: PTH118, PTH123
            pid = int(file.readline())
        works_in = os.readlink(f"/proc/{pid}/cwd") if sys.platform == "linux" else cluster  # noqa: PTH115
    except (OSError, ValueError):
        return None
    return pid if works_in == cluster else None


def _open(folder: str, name: str) -> int:
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # noqa: PTH118


if __name__ == "__main__":
    main()

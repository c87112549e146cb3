"""The processes of `maia up` on this host: how others find them, whether they answer, and how to end one.

`maia up` marks each process that it starts, in its environment: with a mark that all processes of one tree
share, its name, its own id (descendants inherit all of them, but have other ids), and the URL of its check.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psutil

MARK: Final = "MAIA_UP"
NAME: Final = "MAIA_UP_NAME"
CHECK: Final = "MAIA_UP_CHECK"
PID: Final = "MAIA_UP_PID"

CHECK_TRIES: Final = 3
CHECK_TIMEOUT_S: Final = 5.0
CHECK_PAUSE_S: Final = 2.0

_INSTALLATION: Final = ("DATABASE_URL", "PLEIADES_DATA_DIR")
"""Two trees of one user that differ in these belong to two installations."""
_POLL_S: Final = 0.1
_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A process that `maia up` started; `check` is the URL that must answer while it runs, if it has one."""

    name: str
    mark: str
    check: str | None
    process: psutil.Process = field(compare=False)

    @property
    def age_s(self) -> float:
        """How long it has been running."""
        return max(0.0, time.time() - self.process.create_time())


def marks(name: str, mark: str, check: str | None) -> dict[str, str]:
    """The variables by which a process is found, but for PID, which it sets itself."""
    return {MARK: mark, NAME: name, **({CHECK: check} if check else {})}


def running_children(environment: Mapping[str, str]) -> list[ChildProcess]:
    """The running processes of `maia up` that may be ended, by name.

    They belong to this user and this installation, and to our own tree if we are part of one. We and those
    that started us are left out, as ending them would end us.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = [
        child
        for process in psutil.process_iter()
        if process.pid not in spared and (child := _child(process, environment)) is not None
    ]
    return sorted(found, key=lambda child: (child.name, child.process.pid))


def _child(process: psutil.Process, ours: Mapping[str, str]) -> ChildProcess | None:
    # We may not inspect other users' processes, or those that have just ended: they are not ours.
    with suppress(psutil.Error, OSError):
        if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
            return None
        theirs = process.environ()
        mark, name = theirs.get(MARK), theirs.get(NAME)
        if not mark or not name or theirs.get(PID) != str(process.pid):
            return None
        if mark == ours.get(MARK) or (MARK not in ours and _same_installation(theirs, ours)):
            return ChildProcess(name, mark, theirs.get(CHECK), process)
    return None


def _same_installation(theirs: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    return all(theirs.get(name) == ours.get(name) for name in _INSTALLATION)


async def failure_of(
    url: str,
    *,
    tries: int = CHECK_TRIES,
    timeout_s: float = CHECK_TIMEOUT_S,
    pause_s: float = CHECK_PAUSE_S,
) -> str | None:
    """Why a check fails, several times in a row; None if it answers.

    503 is an answer: what the process needs is away, and restarting it would not bring that back.
    """
    failure = None
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(pause_s)
        failure = await _failure_once(url, timeout_s)
        if failure is None:
            return None
    return failure


async def _failure_once(url: str, timeout_s: float) -> str | None:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            is_broken = answer.status >= 500 and answer.status != _UNAVAILABLE
            return f"{url} answers with status {answer.status}" if is_broken else None
    except TimeoutError:
        return f"{url} does not answer within {timeout_s:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return f"{url} does not answer: {error}"


async def end(child: ChildProcess, grace_s: float) -> bool:
    """End a process by SIGTERM, and by SIGKILL if it hasn't ended after `grace_s`; returns whether by that.

    Its identity is checked before each signal, so that none hits another process with the same id.
    """
    with suppress(psutil.NoSuchProcess):
        child.process.terminate()
    deadline_s = time.monotonic() + grace_s
    while _is_running(child) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - it can set no event
        await asyncio.sleep(_POLL_S)
    if not _is_running(child):
        return False
    with suppress(psutil.NoSuchProcess):
        child.process.kill()
    return True


def _is_running(child: ChildProcess) -> bool:
    with suppress(psutil.Error, OSError):
        return child.process.is_running() and child.process.status() != psutil.STATUS_ZOMBIE
    return False

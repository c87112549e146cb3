"""A tree of processes: started, watched, restarted with back-off, and ended without a remainder.

Each process leads a group of its own and is told to end when this one dies, whatever killed it. Descendants
that leave their group are found by a mark in their environment, which every process here passes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from maia import leash
from maia.errors import MaiaError

logger = logging.getLogger(__name__)

MARK = "MAIA_UP"
LONGEST_PAUSE_S = 30.0

_POLL_S = 0.1
_REAP_S = 1.0
_KILL_GRACE_S = 1.0
_CHUNK_BYTES = 1 << 16

Report = Callable[[str, Mapping[str, Any]], None]


class ChildError(MaiaError):
    """A process cannot be kept running."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and how patiently."""

    max_restarts: int
    restart_s: float
    stable_s: float
    start_timeout_s: float
    stop_timeout_s: float


@dataclass(frozen=True, slots=True)
class Child:
    """A program to keep running.

    It is ready when `ready` says so or, where that is None, with the first line it prints. At the end those
    of a higher tier are stopped before those of a lower one, which they need.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    ready: Callable[[], Awaitable[bool]] | None = None
    tier: int = 0
    restarts: bool = True


class Supervisor:
    """Keeps children; what becomes of them is told to `report` as a kind of event and its details."""

    def __init__(self, policy: Policy, report: Report) -> None:
        self._policy, self._report = policy, report
        self._mark = secrets.token_hex(8)
        self._kept: list[_Kept] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hurried = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, policy: Policy, report: Report) -> AsyncIterator[Supervisor]:
        """A supervisor whose children have all ended when the block has."""
        leash.adopt_orphans()
        supervisor = cls(policy, report)
        reaper = asyncio.create_task(supervisor._reap_orphans())
        try:
            yield supervisor
        finally:
            # A further signal cancels again: it only hurries, and the end is waited for all the same.
            ending = asyncio.create_task(supervisor._stop())
            while not ending.done():
                try:
                    await asyncio.shield(ending)
                except asyncio.CancelledError:
                    supervisor._hurried.set()
            reaper.cancel()
            if supervisor._failed.done():
                supervisor._failed.exception()

    async def start(self, *children: Child) -> None:
        """Start children at once and wait until all are ready; ChildError if one ends before it is."""
        started = [_Kept(child, self._policy, self._report, self._mark) for child in children]
        self._kept += started
        for kept in started:
            kept.keeping = asyncio.create_task(kept.keep())
            kept.keeping.add_done_callback(self._note_end)
        ready = asyncio.create_task(_all_set([kept.ready for kept in started]))
        try:
            await asyncio.wait({ready, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
        finally:
            ready.cancel()

    async def watch(self) -> None:
        """Wait until a child is given up, and raise ChildError then."""
        await asyncio.shield(self._failed)

    def announcement(self, name: str) -> bytes:
        """The first line that a child printed."""
        return next(kept.announcement for kept in self._kept if kept.child.name == name)

    def pids(self) -> dict[str, int]:
        """The children that run, by name."""
        return {kept.child.name: pid for kept in self._kept if (pid := kept.pid) is not None}

    def _note_end(self, keeping: asyncio.Task[None]) -> None:
        if keeping.cancelled() or self._failed.done():
            return
        if error := keeping.exception():
            self._failed.set_exception(error)

    async def _stop(self) -> None:
        """End tier by tier, each asked first; then kill whatever is left anywhere."""
        deadline_s = time.monotonic() + self._policy.stop_timeout_s
        for kept in self._kept:
            kept.stopping = True
        tiers = sorted({kept.child.tier for kept in self._kept}, reverse=True)
        for nth, tier in enumerate(tiers, 1):
            # The first tiers do the work: each gets half of what is left, the last one all of it.
            left_s = max(0.0, deadline_s - time.monotonic())
            grace_s = left_s if nth == len(tiers) else left_s * 0.7
            await asyncio.gather(
                *(kept.stop(grace_s, self._hurried) for kept in self._kept if kept.child.tier == tier)
            )
        left = await asyncio.to_thread(_marked, self._mark)
        for process in left:
            logger.warning("killed %s (%d), which outlived its parent", _name_of(process), process.pid)
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, left, timeout=_KILL_GRACE_S)

    async def _reap_orphans(self) -> None:
        """Collect the exit status of adopted processes, which otherwise stay as zombies."""
        before: set[int] = set()
        while True:
            zombies = {child.pid for child in psutil.Process().children() if _is_zombie(child)}
            # Those that asyncio waits for are gone within one round.
            for pid in zombies & before:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not block
            before = zombies
            await asyncio.sleep(_REAP_S)


class _Kept:
    """One child over all its lives."""

    def __init__(self, child: Child, policy: Policy, report: Report, mark: str) -> None:
        self.child, self._policy, self._report, self._mark = child, policy, report, mark
        self.ready = asyncio.Event()
        self.announcement = b""
        self.keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.stopping = False
        self._restarts = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def keep(self) -> None:
        """Run it again and again; ChildError when that is hopeless."""
        while True:
            began_s = time.monotonic()
            status = await self._live()
            if self.stopping:
                return
            if not self.ready.is_set():
                raise ChildError(f"{self.child.name} ended before it was ready, {_told(status)}")
            if time.monotonic() - began_s >= self._policy.stable_s:
                self._restarts = 0
            if not self.child.restarts or self._restarts >= self._policy.max_restarts:
                self._report("given_up", {"name": self.child.name, "restarts": self._restarts})
                raise ChildError(
                    f"{self.child.name} is given up after {self._restarts} restarts in a row, at last "
                    f"{_told(status)}"
                )
            pause_s = min(self._policy.restart_s * 2**self._restarts, LONGEST_PAUSE_S)
            self._restarts += 1
            told = {"name": self.child.name, "restart": self._restarts, "in_s": pause_s}
            self._report("restarting", {**told, "reason": _told(status)})
            await asyncio.sleep(pause_s)

    async def _live(self) -> int:
        """One life, from its start to its end; returns the status."""
        # A pipe that asyncio knows of would delay the news of the end until all who inherited it have ended.
        printed, prints = os.pipe()
        try:
            self._process = process = await self._spawn(prints)
        except BaseException as error:
            os.close(printed)
            if isinstance(error, OSError):
                raise ChildError(f"{self.child.name} cannot be started: {error}") from error
            raise
        finally:
            os.close(prints)
        self._report("started", {"name": self.child.name, "pid": process.pid})
        attending = asyncio.create_task(self._attend(process, printed))
        try:
            return await process.wait()
        finally:
            attending.cancel()
            await asyncio.wait({attending})
            # What it started goes with it: its successor knows nothing of them.
            if not self.stopping:
                await self._end_group(process.pid, _KILL_GRACE_S)

    async def _spawn(self, stdout: int) -> asyncio.subprocess.Process:
        tether = (sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(int(signal.SIGTERM)))
        return await asyncio.create_subprocess_exec(
            *tether,
            *self.child.command,
            env={**self.child.environment, MARK: self._mark},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            start_new_session=True,
        )

    async def _attend(self, process: asyncio.subprocess.Process, printed: int) -> None:
        """Tell when it is ready, and kill it if it never is; pass on what it prints."""
        spoke = asyncio.Event()
        printing = asyncio.create_task(self._pass_on(printed, spoke))
        try:
            async with asyncio.timeout(self._policy.start_timeout_s):
                await self._become_ready(spoke)
            self.ready.set()
            self._report("ready", {"name": self.child.name, "pid": process.pid})
            await printing
        except TimeoutError:
            limit_s = self._policy.start_timeout_s
            logger.error(
                "%s is not ready after %g s (PLEIADES_UP__START_TIMEOUT_S)", self.child.name, limit_s
            )
            _signal_group(process.pid, signal.SIGKILL)
        finally:
            printing.cancel()
            await asyncio.wait({printing})

    async def _become_ready(self, spoke: asyncio.Event) -> None:
        if self.child.ready is None:
            await spoke.wait()
            return
        while not await self.child.ready():  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(_POLL_S)

    async def _pass_on(self, printed: int, spoke: asyncio.Event) -> None:
        """Its lines go to stderr, as stdout is the supervisor's own; the first may announce something."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(printed, "rb", buffering=0)
        )
        try:
            text, decode = b"", getincrementaldecoder("utf-8")("replace").decode
            while chunk := await reader.read(_CHUNK_BYTES):
                text += chunk
                if not spoke.is_set() and self.child.ready is None:
                    self.announcement, newline, text = text.partition(b"\n")
                    if not newline:
                        text = self.announcement
                        continue
                    spoke.set()
                sys.stderr.write(decode(text))
                sys.stderr.flush()
                text = b""
        finally:
            transport.close()

    async def stop(self, grace_s: float, hurried: asyncio.Event) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            await self._end_group(process.pid, grace_s, hurried)
            await process.wait()
        if self.keeping is not None:
            self.keeping.cancel()
            await asyncio.wait({self.keeping})
        self._report("stopped", {"name": self.child.name})

    async def _end_group(self, pid: int, grace_s: float, hurried: asyncio.Event | None = None) -> None:
        """Ask every process of a group to end, and kill those that have not when the grace is over."""
        deadline_s = time.monotonic() + grace_s
        alive = _signal_group(pid, signal.SIGTERM)
        while alive and time.monotonic() < deadline_s and not (hurried and hurried.is_set()):
            await asyncio.sleep(_POLL_S / 2)
            alive = _has_members(pid)
        if alive:
            _signal_group(pid, signal.SIGKILL)


async def _all_set(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Signal every process of a group; whether there is any."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _has_members(group: int) -> bool:
    """Whether a group has a process that is more than a zombie."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and not _is_zombie(process):
                return True
    return False


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _marked(mark: str) -> list[psutil.Process]:
    """Every process that carries a mark in its environment, wherever it hangs in the tree."""
    found = []
    for process in psutil.process_iter():
        # Another user's, or one that has just ended, cannot be one of ours that is left.
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and not _is_zombie(process):
                found.append(process)
    return found


def _name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:4])
    except psutil.Error:
        return "a process"


def _told(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"

"""Supervises a tree of processes: starts, watches and restarts them with back-off, and stops all of them.

Each process leads its own process group, and gets a signal when this process dies, for whatever reason.
Descendants that leave their group are found by a mark in their environment, which all of them inherit.
"""

from __future__ import annotations

import asyncio
import json
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

from atlas.recovery import Backoff
from atlas.wording import counted
from maia.errors import MaiaError
from maia.maintenance.children import MARK, marks
from maia.stack import leash
from maia.stack.watchdog import Pulse

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 30.0

_POLL_S = 0.1
_REAP_S = 1.0
_KILL_GRACE_S = 1.0
_PULSE_LIMIT_S = 60.0
_CHUNK_BYTES = 1 << 16

Report = Callable[[str, Mapping[str, Any]], None]


class ChildError(MaiaError):
    """A process could not be kept running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often to restart a child, and how long to wait for it to start and to stop.

    The pause before a restart is `restart_s` at first and doubles each time. A child that has run for
    `stable_s` counts as healthy again.
    """

    max_restarts: int
    start_timeout_s: float
    stop_timeout_s: float
    restart_s: float = 1.0
    stable_s: float = 60.0

    @property
    def pauses(self) -> Backoff:
        """The pauses before restarts."""
        return Backoff(first_s=self.restart_s, longest_s=max(self.restart_s, LONGEST_PAUSE_S))


@dataclass(frozen=True, slots=True)
class Child:
    """A program to keep running.

    It is ready when `ready` says so or, if that is None, when it has printed its first line, unless that is
    the JSON of an error. Children of a higher tier depend on those of a lower one, and are stopped first.
    `check` is a URL that answers while it runs; if it doesn't, the maintainer may end the child, so that it
    is started again.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    ready: Callable[[], Awaitable[bool]] | None = None
    tier: int = 0
    restarts: bool = True
    check: str | None = None


class Supervisor:
    """Keeps children running; calls `report` with the kind and the details of each event."""

    def __init__(self, policy: Policy, report: Report) -> None:
        self._policy, self._report = policy, report
        self._mark = secrets.token_hex(8)
        self._keepers: list[_Keeper] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()
        self.pulse = Pulse("the supervision of the processes", _PULSE_LIMIT_S)
        """Beats while children are watched."""

    @classmethod
    @asynccontextmanager
    async def open(cls, policy: Policy, report: Report) -> AsyncIterator[Supervisor]:
        """Open a supervisor, which stops all its children at the end of the block."""
        adopted_before = leash.adopt_orphans()
        supervisor = cls(policy, report)
        reaper = asyncio.create_task(supervisor._reap_orphans())
        try:
            yield supervisor
        finally:
            # A second signal cancels again: that only makes stopping faster, and we still wait for its end.
            stopping = asyncio.create_task(supervisor._stop())
            while not stopping.done():
                try:
                    await asyncio.shield(stopping)
                except asyncio.CancelledError:
                    supervisor._hurry.set()
            reaper.cancel()
            # Whoever adopts must also reap.
            leash.adopt_orphans(adopted_before)
            if supervisor._failed.done():
                supervisor._failed.exception()

    async def start(self, *children: Child) -> None:
        """Start all children together and wait until they are ready; ChildError if one ends before."""
        started = [_Keeper(child, self._policy, self._report, self._mark) for child in children]
        self._keepers += started
        for keeper in started:
            keeper.task = asyncio.create_task(keeper.run())
            keeper.task.add_done_callback(self._note_end)
        ready = asyncio.create_task(_all_set([keeper.ready for keeper in started]))
        try:
            await asyncio.wait({ready, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
        finally:
            ready.cancel()

    async def watch(self) -> None:
        """Wait until a child has failed for good, and raise ChildError then."""
        await asyncio.shield(self._failed)

    def announcement(self, name: str) -> bytes:
        """The first line that a child printed."""
        return next(keeper.announcement for keeper in self._keepers if keeper.child.name == name)

    def pids(self) -> dict[str, int]:
        """The process ids of the running children, by name."""
        return {keeper.child.name: pid for keeper in self._keepers if (pid := keeper.pid) is not None}

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed.done():
            return
        if error := task.exception():
            self._failed.set_exception(error)

    async def _stop(self) -> None:
        """Stop tier by tier, by SIGTERM first; then kill all processes that are left anywhere."""
        deadline_s = time.monotonic() + self._policy.stop_timeout_s
        for keeper in self._keepers:
            keeper.stopping = True
        tiers = sorted({keeper.child.tier for keeper in self._keepers}, reverse=True)
        for nth, tier in enumerate(tiers, 1):
            # The first tiers do the work, so each gets most of the time that is left; the last gets the rest.
            left_s = max(0.0, deadline_s - time.monotonic())
            grace_s = left_s if nth == len(tiers) else left_s * 0.7
            await asyncio.gather(
                *(each.stop(grace_s, self._hurry) for each in self._keepers if each.child.tier == tier)
            )
        left = await asyncio.to_thread(_find_marked, self._mark)
        for process in left:
            logger.warning("killed %s (%d), which outlived its parent", _name_of(process), process.pid)
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, left, timeout=_KILL_GRACE_S)

    async def _reap_orphans(self) -> None:
        """Collect the exit status of adopted processes, which would otherwise stay zombies."""
        before: set[int] = set()
        while True:
            self.pulse.beat()
            zombies = {child.pid for child in psutil.Process().children() if _is_zombie(child)}
            # Leave asyncio's own children to asyncio: it collects them, on an idle machine within one round.
            for pid in (zombies & before) - set(self.pids().values()):
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not block
            before = zombies
            await asyncio.sleep(_REAP_S)


class _Keeper:
    """Keeps one child running, across all its restarts."""

    def __init__(self, child: Child, policy: Policy, report: Report, mark: str) -> None:
        self.child, self._policy, self._report, self._mark = child, policy, report, mark
        self.ready = asyncio.Event()
        self.announcement = b""
        self.task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.stopping = False
        self._restarts = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self) -> None:
        """Run the child, restarting it when it ends; ChildError if it fails for good."""
        while True:
            began_s = time.monotonic()
            status = await self._run_once()
            if self.stopping:
                return
            if not self.ready.is_set():
                raise ChildError(f"{self.child.name} ended before it was ready, {_how_it_ended(status)}")
            if time.monotonic() - began_s >= self._policy.stable_s:
                self._restarts = 0
            if not self.child.restarts or self._restarts >= self._policy.max_restarts:
                self._report("given_up", {"name": self.child.name, "restarts": self._restarts})
                raise ChildError(
                    f"gave up on {self.child.name} after {counted(self._restarts, 'restart')} in a row: it "
                    f"ended {_how_it_ended(status)}"
                )
            pause_s = self._policy.pauses.pause_s(self._restarts)
            self._restarts += 1
            details = {"name": self.child.name, "restart": self._restarts, "in_s": pause_s}
            self._report("restarting", {**details, "reason": _how_it_ended(status)})
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> int:
        """Start the child and wait until it ends; returns its exit status."""
        # Not asyncio's pipe: with that, wait() would return only when all who inherited the pipe have ended.
        read_end, write_end = os.pipe()
        try:
            self._process = process = await self._spawn(write_end)
        except BaseException as error:
            os.close(read_end)
            if isinstance(error, OSError):
                raise ChildError(f"{self.child.name} cannot be started: {error}") from error
            raise
        finally:
            os.close(write_end)
        self._report("started", {"name": self.child.name, "pid": process.pid})
        attending = asyncio.create_task(self._attend(process, read_end))
        try:
            return await process.wait()
        finally:
            attending.cancel()
            await asyncio.wait({attending})
            # Stop the processes that it started too, as the restarted child would not know of them.
            if not self.stopping:
                await self._end_group(process.pid, _KILL_GRACE_S)

    async def _spawn(self, stdout: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *leash.leashed(self.child.command),
            env={**self.child.environment, **marks(self.child.name, self._mark, self.child.check)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            start_new_session=True,
        )

    async def _attend(self, process: asyncio.subprocess.Process, read_end: int) -> None:
        """Forward the child's output and report when it is ready; kill it if that takes too long."""
        printed_line = asyncio.Event()
        printing = asyncio.create_task(self._forward_output(read_end, printed_line))
        try:
            async with asyncio.timeout(self._policy.start_timeout_s):
                await self._wait_until_ready(printed_line)
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

    async def _wait_until_ready(self, printed_line: asyncio.Event) -> None:
        if self.child.ready is None:
            await printed_line.wait()
            return
        while not await self.child.ready():  # noqa: ASYNC110 - another process can set no event
            await asyncio.sleep(_POLL_S)

    async def _forward_output(self, read_end: int, printed_line: asyncio.Event) -> None:
        """Write the child's output to stderr, as stdout is for events; keep its first line if asked to."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            text, decode = b"", getincrementaldecoder("utf-8")("replace").decode
            while chunk := await reader.read(_CHUNK_BYTES):
                text += chunk
                if not printed_line.is_set() and self.child.ready is None:
                    self.announcement, newline, text = text.partition(b"\n")
                    if not newline:
                        text = self.announcement
                        continue
                    if not _is_error(self.announcement):
                        printed_line.set()
                sys.stderr.write(decode(text))
                sys.stderr.flush()
                text = b""
        finally:
            transport.close()

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            await self._end_group(process.pid, grace_s, hurry)
            await process.wait()
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
        self._report("stopped", {"name": self.child.name})

    async def _end_group(self, pid: int, grace_s: float, hurry: asyncio.Event | None = None) -> None:
        """Send SIGTERM to a process group, and SIGKILL if it has not ended within the grace period."""
        deadline_s = time.monotonic() + grace_s
        alive = _signal_group(pid, signal.SIGTERM)
        while alive and time.monotonic() < deadline_s and not (hurry and hurry.is_set()):
            await asyncio.sleep(_POLL_S / 2)
            alive = _has_members(pid)
        if alive:
            _signal_group(pid, signal.SIGKILL)


async def _all_set(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Signal every process of a group; returns whether there is any."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _has_members(group: int) -> bool:
    """Whether a group has a process that is not a zombie."""
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


def _find_marked(mark: str) -> list[psutil.Process]:
    """All processes with that mark in their environment, wherever they are in the tree."""
    found = []
    for process in psutil.process_iter():
        # We may not inspect other users' processes, or those that have just ended: they are not ours.
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and not _is_zombie(process):
                found.append(process)
    return found


def _name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:4])
    except psutil.Error:
        return "a process"


def _is_error(line: bytes) -> bool:
    """Whether a line is what our commands print as JSON when they fail."""
    try:
        told = json.loads(line)
    except ValueError:
        return False
    return isinstance(told, dict) and "error" in told


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"

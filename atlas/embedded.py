"""Start, share and stop an embedded PostgreSQL server: one per data folder, stopped by its last user.

Processes coordinate through lock files in the server's folder; the kernel releases them however a process
ends:

- `turn.lock`, exclusive: its holder may create, start or stop the server;
- `users.lock`, shared: held by every process that uses the server, so that the last to leave knows it is;
- `presence.lock`, shared: held by the same processes; `caretaker.py` waits for it, to stop the server when
  its last users were killed;
- `server.lock`, exclusive: inherited by the server and its children, so it is free only when all have ended.

The server listens only on a socket in its folder, which only its user and root can open.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from atlas import caretaker
from atlas.cluster import DATABASE, REMEDY, ROLE, SOCKET, Home, explain_os_errors, failure_summary
from atlas.config import DatabaseSettings
from atlas.connections import IDLE_TRANSACTION_TIMEOUT_S
from atlas.errors import EmbeddedServerError

LARGEST_LOG_BYTES = 8 * 1024 * 1024

_POLL_S = 0.003
_START_TIMEOUT_S = 60
"""How long the server may start up without making progress; recovery after a crash makes progress."""

logger = logging.getLogger(__name__)


class EmbeddedServer:
    """One process's use of the data folder's server; `dsn` is valid until this process leaves."""

    def __init__(self, data_dir: Path, settings: DatabaseSettings, *, durable: bool = True) -> None:
        self.home = Home(data_dir)
        self._settings, self._durable = settings, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._shares: list[int] = []
        self._log_start = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, data_dir: Path, settings: DatabaseSettings, *, durable: bool = True
    ) -> AsyncIterator[EmbeddedServer]:
        """Create and start the server if necessary; the last process to leave stops it.

        `durable=False`, meant for tests, is faster but may lose data if the machine crashes, though not if
        the server does.
        """
        server = cls(data_dir, settings, durable=durable)
        await server._join()
        try:
            yield server
        finally:
            await server._leave()

    @property
    def dsn(self) -> str:
        """The URL of the Pleiades database."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """The URL of another database on the server."""
        pid_file = _PidFile.read(self.home.cluster)
        folder = (pid_file and pid_file.socket_folder) or self.home.socket_folder
        return f"postgresql:///{quote(database)}?host={quote(str(folder), safe='')}&user={ROLE}"

    @property
    def pid(self) -> int | None:
        """The server's pid; None if it isn't running."""
        return self._running_pid()

    async def ensure_running(self) -> None:
        """Start the server if it isn't running."""
        async with self._turn():
            await self._start()

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server even if others use it, and wait for all its processes; SIGKILL crashes it."""
        async with self._turn():
            await self._stop(how)

    async def stop_unless_used(self) -> bool:
        """Stop the server, unless another process uses it; returns whether it is stopped."""
        async with self._turn():
            alone = self.home.try_lock("users", fcntl.LOCK_EX)
            if alone is None:
                return False
            try:
                await self._stop(signal.SIGINT)
            finally:
                os.close(alone)
        return True

    async def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start the server without letting another process in between."""
        async with self._turn():
            await self._stop(how)
            await self._start()

    async def destroy(self) -> bool:
        """Stop the server and delete all its data, unless another process uses it; returns whether it did."""
        async with self._turn():
            alone = self.home.try_lock("users", fcntl.LOCK_EX)
            if alone is None:
                return False
            try:
                # SIGKILL would leave shared memory behind until the next start in this folder.
                await self._stop(signal.SIGQUIT)
                await asyncio.to_thread(shutil.rmtree, self.home.path)
            finally:
                os.close(alone)
        return True

    async def _join(self) -> None:
        with explain_os_errors(self.home.path):
            self.home.prepare()
        async with self._turn():
            try:
                await self._take_share()
                await self.home.ensure_cluster(durable=self._durable)
                await self._start()
            except BaseException:
                self._drop_share()
                raise

    async def _leave(self) -> None:
        try:
            async with self._turn():
                self._drop_share()
                alone = self.home.try_lock("users", fcntl.LOCK_EX)
                if alone is not None:
                    try:
                        await self._stop(signal.SIGINT)
                    finally:
                        os.close(alone)
        except EmbeddedServerError as error:
            logger.warning("The embedded server may be left running: %s", error)
        finally:
            self._drop_share()
            self._forget_process()

    async def _take_share(self) -> None:
        for name in ("users", "presence"):
            # The caretaker briefly holds the presence lock.
            while (share := self.home.try_lock(name, fcntl.LOCK_SH)) is None:  # noqa: ASYNC110 - locks tell no event
                await asyncio.sleep(_POLL_S)
            self._shares.append(share)

    def _drop_share(self) -> None:
        while self._shares:
            os.close(self._shares.pop())

    def _forget_process(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # Other processes still use the server and will stop it: keep Popen from warning that it runs.
            self._process.returncode = 0
        self._process = None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold `turn.lock`: the right to create, start and stop the server."""
        progress = _StallDetector(self.home, _START_TIMEOUT_S)
        with explain_os_errors(self.home.path):
            while (turn := self.home.try_lock("turn", fcntl.LOCK_EX)) is None:
                if progress.stalled():
                    raise EmbeddedServerError(
                        f"another process has been starting or stopping the server in {self.home.path} for "
                        f"{progress.limit_s:g} s without progress: check {self.home.log}, end that process "
                        "and try again"
                    )
                await asyncio.sleep(_POLL_S)
            try:
                yield
            finally:
                os.close(turn)

    # Start and stop; the caller holds turn.lock

    async def _start(self) -> None:
        progress = _StallDetector(self.home, _START_TIMEOUT_S)
        started = False
        # server.lock being free proves that no process of an earlier server is left.
        while (free := self.home.try_lock("server", fcntl.LOCK_EX)) is not None or not self._answers():
            if free is not None:
                try:
                    await self._check_start(started)
                    self._spawn(free)
                    await self._start_caretaker()
                    started = True
                finally:
                    os.close(free)
            elif progress.stalled():
                raise EmbeddedServerError(
                    f"PostgreSQL has made no progress in starting for {progress.limit_s:g} s: "
                    f"{self._log_summary()}"
                )
            await asyncio.sleep(_POLL_S)

    async def _check_start(self, started: bool) -> None:
        if started:
            await self._reap()
            raise EmbeddedServerError(f"PostgreSQL did not start: {self._log_summary()}")
        leftover = _PidFile.read(self.home.cluster)
        if leftover is not None and leftover.works_in(self.home.cluster):
            raise EmbeddedServerError(
                f"process {leftover.pid} uses {self.home.cluster} but was not started by Pleiades: "
                f"stop it (kill -INT {leftover.pid}) and try again, {REMEDY}"
            )

    async def _reap(self) -> None:
        while self._process is not None:
            if self._process.poll() is not None:
                break
            await asyncio.sleep(_POLL_S)

    def _answers(self) -> bool:
        pid_file = _PidFile.read(self.home.cluster)
        return pid_file is not None and pid_file.status == "ready" and pid_file.listener_pid() is not None

    def _spawn(self, server_lock: int) -> None:
        home = self.home
        self._forget_process()
        # The pid that a killed server left in this file may now belong to another process.
        (home.cluster / "postmaster.pid").unlink(missing_ok=True)
        home.clear_sockets()
        home.write("pg_hba.conf", "local all all peer map=pleiades\n")
        users = dict.fromkeys((home.account.name, "root"))
        home.write("pg_ident.conf", "".join(f'pleiades "{name}" {ROLE}\n' for name in users))
        self._start_log()
        log = home.open_file(home.log.name, os.O_WRONLY | os.O_APPEND)
        settings = [f"--{name}={value}" for name, value in self._server_settings().items()]
        try:
            self._process = subprocess.Popen(
                [str(home.programs / "postgres"), "-D", str(home.cluster), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(server_lock,),
                **home.process_options(),
            )
        finally:
            os.close(log)

    async def _start_caretaker(self) -> None:
        """Start the process that stops the server once its users were killed, unless one is running."""
        for name in ("caretaker", "presence"):
            os.close(self.home.open_file(f"{name}.lock", os.O_RDWR))
        try:
            process = self._spawn_caretaker()
        except OSError as error:
            # For example, the user may not run this Python. The server then runs until its next user leaves.
            logger.debug("the server runs without a caretaker: %s", error)
            return
        await asyncio.to_thread(process.wait)

    def _spawn_caretaker(self) -> subprocess.Popen[bytes]:
        # Without site-packages, and detached from this process's group, environment and files.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", caretaker.__file__, str(self.home.path)],
            cwd="/", env={}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _start_log(self) -> None:
        log = self.home.log
        self._log_start = log.stat().st_size if log.exists() else 0
        if self._log_start > LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
            self._log_start = 0

    def _server_settings(self) -> dict[str, object]:
        socket_folder = str(self.home.socket_folder).replace('"', '""')
        settings: dict[str, object] = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{socket_folder}"',
            "unix_socket_permissions": "0700",
            "hba_file": self.home.path / "pg_hba.conf",
            "ident_file": self.home.path / "pg_ident.conf",
            "cluster_name": "pleiades",
            "max_connections": 200,
            "max_logical_replication_workers": 0,
            "shared_buffers": f"{self._settings.shared_buffers_mb}MB",
            "max_wal_size": "4GB",
            "checkpoint_timeout": "15min",
            "wal_compression": "off",
            "autovacuum_naptime": "5s",
            "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_TIMEOUT_S * 1000:.0f}",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_startup_progress_interval": "1s",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
            settings |= {"dynamic_shared_memory_type": "mmap"}
        return settings

    async def _stop(self, how: signal.Signals) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        asked = False
        while (free := self.home.try_lock("server", fcntl.LOCK_EX)) is None:
            pid = None if asked else self._running_pid()
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
                asked = True
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"PostgreSQL does not stop: {self._log_summary()}")
            await asyncio.sleep(_POLL_S)
        try:
            await self._reap()
            if self.home.socket_folder != self.home.path:
                shutil.rmtree(self.home.socket_folder, ignore_errors=True)
        finally:
            os.close(free)

    def _running_pid(self) -> int | None:
        """The server's pid; None if it isn't running or doesn't listen yet."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        pid_file = _PidFile.read(self.home.cluster)
        if pid_file is None:
            return None
        listener = pid_file.listener_pid()
        if listener not in {None, pid_file.pid}:
            raise EmbeddedServerError(
                f"the server in {self.home.path} runs in another container: stop it from there"
            )
        return listener

    def _log_summary(self) -> str:
        log = self.home.log
        try:
            with log.open("rb") as file:
                file.seek(max(self._log_start, log.stat().st_size - 8192))
                text = file.read().decode(errors="replace")
        except OSError as error:
            return f"{log} cannot be read ({error.strerror})"
        return f"{failure_summary(text)} ({log} has more)"


@dataclass(frozen=True, slots=True)
class _PidFile:
    """The content of `postmaster.pid`, which a server that was killed leaves behind.

    A server writes its pid first, and later fills in the other lines, not in their order. What isn't there
    yet is None, or "".
    """

    pid: int
    socket_folder: Path | None
    status: str

    @classmethod
    def read(cls, cluster: Path) -> _PidFile | None:
        try:
            text = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None
        # What follows the last line end may be written in part.
        lines = text.split("\n")[:-1]
        if not lines or not lines[0].isdigit():
            return None
        lines += [""] * (8 - len(lines))
        return cls(int(lines[0]), Path(lines[4]) if lines[4].startswith("/") else None, lines[7].strip())

    def listener_pid(self) -> int | None:
        """The pid that listens on the server's socket; 0 if it is in another pid namespace, None if none."""
        if self.socket_folder is None:
            return None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket_folder / SOCKET))
            except (ConnectionRefusedError, FileNotFoundError):
                return None
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def works_in(self, cluster: Path) -> bool:
        """Whether the pid is alive and has the cluster as its working directory, as a server does."""
        try:
            return Path(f"/proc/{self.pid}/cwd").readlink() == cluster
        except OSError:
            return False


def listener_of(cluster: Path) -> tuple[int, Path] | None:
    """The pid of the server that listens in a cluster, and its socket; None if none does."""
    pid_file = _PidFile.read(cluster)
    if pid_file is None or pid_file.socket_folder is None or not (pid := pid_file.listener_pid()):
        return None
    return pid, pid_file.socket_folder / SOCKET


class _StallDetector:
    """Detects that a starting server has shown no sign of life for too long.

    While recovery makes progress, the server logs that every second (`log_startup_progress_interval`).
    """

    def __init__(self, home: Home, limit_s: float) -> None:
        self.limit_s = limit_s
        self._signs = (home.path, home.log, home.cluster / "postmaster.pid")
        self._last, self._since = self._look(), time.monotonic()

    def _look(self) -> list[int]:
        signs = []
        for path in self._signs:
            with suppress(OSError):
                signs.append(path.stat().st_mtime_ns)
        return signs

    def stalled(self) -> bool:
        if (now := self._look()) != self._last:
            self._last, self._since = now, time.monotonic()
        return time.monotonic() - self._since > self.limit_s

"""The embedded PostgreSQL server: one a data folder, shared by the machine's processes, gone with the last.

Three locks in its home, which the kernel releases however a process ends, tell what goes on:

- `turn.lock`, exclusive: whoever holds it may create, start or stop the server;
- `users.lock`, shared: held by every process that uses the server, so the last one to leave can tell;
- `server.lock`, exclusive: inherited by the server and its children, so it is free only when none is left.

The server listens on a socket in its home alone, which only its user and root can open.
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
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from atlas.cluster import DATABASE, REMEDY, ROLE, SOCKET, Home, essence, explained
from atlas.config import DatabaseSettings
from atlas.errors import EmbeddedServerError

LARGEST_LOG_BYTES = 8 * 1024 * 1024

_POLL_S = 0.003

logger = logging.getLogger(__name__)


class EmbeddedServer:
    """A share in the server of one data folder; `dsn` reaches it while the share is held."""

    def __init__(self, data_dir: Path, settings: DatabaseSettings, *, durable: bool = True) -> None:
        self.home = Home(data_dir)
        self._settings, self._durable = settings, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._share: int | None = None
        self._log_start = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, data_dir: Path, settings: DatabaseSettings, *, durable: bool = True
    ) -> AsyncIterator[EmbeddedServer]:
        """Create and start the server where needed; the last one that leaves stops it.

        `durable=False` gives up the safety of data in a crash of the machine for speed, as tests may.
        """
        server = cls(data_dir, settings, durable=durable)
        await server._join()
        try:
            yield server
        finally:
            await server._leave()

    @property
    def dsn(self) -> str:
        """Reaches the database of Pleiades."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """Reaches another database of the server."""
        told = _PidFile.read(self.home.cluster)
        folder = told.socket_folder if told else self.home.socket_folder
        return f"postgresql:///{quote(database)}?host={quote(str(folder), safe='')}&user={ROLE}"

    @property
    def pid(self) -> int | None:
        """The server's process; None while there is none."""
        return self._running_pid()

    async def ensure_running(self) -> None:
        """Start the server again if it died; otherwise do nothing."""
        async with self._turn():
            await self._start()

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server, whoever uses it, and wait until nothing is left of it; SIGKILL is a crash."""
        async with self._turn():
            await self._stop(how)

    async def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server and start it before anyone else can."""
        async with self._turn():
            await self._stop(how)
            await self._start()

    async def destroy(self) -> bool:
        """Stop the server and delete all its data, unless somebody uses it; tells whether it did."""
        async with self._turn():
            alone = self.home.try_lock("users", fcntl.LOCK_EX)
            if alone is None:
                return False
            try:
                # SIGKILL would leave shared memory behind, which only a later start in this folder frees.
                await self._stop(signal.SIGQUIT)
                await asyncio.to_thread(shutil.rmtree, self.home.path)
            finally:
                os.close(alone)
        return True

    async def _join(self) -> None:
        with explained(self.home.path):
            self.home.prepare()
        async with self._turn():
            self._share = self.home.try_lock("users", fcntl.LOCK_SH)
            try:
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

    def _drop_share(self) -> None:
        if self._share is not None:
            os.close(self._share)
            self._share = None

    def _forget_process(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # Others use the server on, and will end it: Popen must not complain that it still runs.
            self._process.returncode = 0
        self._process = None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold the right to create, start and stop the server."""
        progress = _Progress(self.home, self._settings.start_timeout_s)
        with explained(self.home.path):
            while (turn := self.home.try_lock("turn", fcntl.LOCK_EX)) is None:
                if progress.stalled():
                    raise EmbeddedServerError(
                        f"another process has been starting or stopping the server in {self.home.path} for "
                        f"{progress.limit_s:g} s without progress: look into {self.home.log}, end that "
                        "process and try again"
                    )
                await asyncio.sleep(_POLL_S)
            try:
                yield
            finally:
                os.close(turn)

    # Start and stop; both need the turn

    async def _start(self) -> None:
        progress = _Progress(self.home, self._settings.start_timeout_s)
        started = False
        # Getting this lock proves that no process of an earlier server is left.
        while (free := self.home.try_lock("server", fcntl.LOCK_EX)) is not None or not self._answers():
            if free is not None:
                try:
                    await self._check_start(started)
                    self._spawn(free)
                    started = True
                finally:
                    os.close(free)
            elif progress.stalled():
                raise EmbeddedServerError(
                    f"PostgreSQL made no progress in starting for {progress.limit_s:g} s "
                    f"(PLEIADES_DATABASE__START_TIMEOUT_S): {self._log_essence()}"
                )
            await asyncio.sleep(_POLL_S)

    async def _check_start(self, started: bool) -> None:
        if started:
            await self._reap()
            raise EmbeddedServerError(f"PostgreSQL did not start: {self._log_essence()}")
        left = _PidFile.read(self.home.cluster)
        if left is not None and left.works_in(self.home.cluster):
            raise EmbeddedServerError(
                f"process {left.pid} uses {self.home.cluster} but was not started by Pleiades: "
                f"stop it (kill -INT {left.pid}) and try again, {REMEDY}"
            )

    async def _reap(self) -> None:
        while self._process is not None:
            if self._process.poll() is not None:
                break
            await asyncio.sleep(_POLL_S)

    def _answers(self) -> bool:
        told = _PidFile.read(self.home.cluster)
        return told is not None and told.status == "ready" and told.listener_pid() is not None

    def _spawn(self, server_lock: int) -> None:
        home = self.home
        self._forget_process()
        # The pid that a killed server left in this file may by now be another process's.
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
            "idle_in_transaction_session_timeout": f"{self._settings.idle_transaction_timeout_s * 1000:.0f}",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_startup_progress_interval": "1s",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
            settings |= {"max_wal_size": "256MB", "dynamic_shared_memory_type": "mmap"}
        return settings

    async def _stop(self, how: signal.Signals) -> None:
        deadline = time.monotonic() + self._settings.start_timeout_s
        asked = False
        while (free := self.home.try_lock("server", fcntl.LOCK_EX)) is None:
            pid = None if asked else self._running_pid()
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
                asked = True
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"the server does not stop: {self._log_essence()}")
            await asyncio.sleep(_POLL_S)
        try:
            await self._reap()
            if self.home.socket_folder != self.home.path:
                shutil.rmtree(self.home.socket_folder, ignore_errors=True)
        finally:
            os.close(free)

    def _running_pid(self) -> int | None:
        """The server's process; None if there is none, or none that listens yet."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        told = _PidFile.read(self.home.cluster)
        if told is None:
            return None
        listener = told.listener_pid()
        if listener not in {None, told.pid}:
            raise EmbeddedServerError(
                f"the server in {self.home.path} runs in another container, which has to stop it"
            )
        return listener

    def _log_essence(self) -> str:
        log = self.home.log
        try:
            with log.open("rb") as file:
                file.seek(max(self._log_start, log.stat().st_size - 8192))
                text = file.read().decode(errors="replace")
        except OSError as error:
            return f"{log} cannot be read ({error.strerror})"
        return f"{essence(text)} ({log} has more)"


@dataclass(frozen=True, slots=True)
class _PidFile:
    """What a server tells of itself in `postmaster.pid`; it may be gone nevertheless."""

    pid: int
    socket_folder: Path
    status: str

    @classmethod
    def read(cls, cluster: Path) -> _PidFile | None:
        try:
            text = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None
        lines = text.split("\n")
        if len(lines) < 8 or not lines[0].isdigit():
            return None
        return cls(int(lines[0]), Path(lines[4]), lines[7].strip())

    def listener_pid(self) -> int | None:
        """The process behind the server's socket; 0 for one in another pid namespace, None for none."""
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
        """Whether that pid is alive and, as servers do, has its working directory there."""
        try:
            return Path(f"/proc/{self.pid}/cwd").readlink() == cluster
        except OSError:
            return False


class _Progress:
    """Tells when a server in the making has shown no sign of life for too long.

    While recovery advances, the server says so in its log every second.
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

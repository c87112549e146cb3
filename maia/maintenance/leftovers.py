"""Temporary files of ours that a killed process left behind, by name, owner and age; never one in use.

In use is what a process has open, works in, or was told of by its arguments or environment, what a socket is
bound to, and every folder with a lock file that somebody holds. Locks also tell of other containers.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from atlas.cluster import Home
from atlas.config import Settings

_FOLDER: Final = re.compile(r"pleiades-((bench|demo|prefect|verify)-[a-z0-9_]{8}|[0-9a-f]{16})")
"""What our code names its temporary folders, the last of them for sockets. People name theirs pleiades-… too:
one that they restored a backup to, for example, must stay."""
_FILE: Final = re.compile(r"pleiades-[a-z0-9_]{8}")
_LASTING: Final = re.compile(r"pleiades-prefect-\d+")
"""A fallback home of Prefect's that a user keeps."""
_STAGED: Final = re.compile(r"\..{1,100}\.incoming-[0-9a-f]{32}")
_OBJECT: Final = re.compile(r"[0-9a-f]{32}(-\d+)?")
"""What a store names the files in which it stages objects."""
_INCOMING: Final = ".incoming"
_DRAFTS: Final = re.compile(r"(new|programs)-[0-9a-f]{8}")
_LOCK_NAMES: Final = ("claim", ".lock")
_DEPTH: Final = 3


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder that nobody will miss."""

    path: Path
    bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Places:
    """Where our code leaves temporary files."""

    temporary: Path
    data: Path
    stores: tuple[Path, ...] = ()
    """Folders in which objects are staged before they are renamed."""

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """The places of an installation."""
        stores = [store for store in (vault_folder(settings), settings.maintainer.backups.path) if store]
        return cls(Path(tempfile.gettempdir()), settings.data_folder, tuple(stores))


def vault_folder(settings: Settings) -> Path | None:
    """The folder of a vault that is one."""
    if settings.vault_provider != "file":
        return None
    return settings.vault.path or settings.data_folder / "vault"


def find(places: Places, now: datetime, older_than: timedelta, proc: Path = Path("/proc")) -> list[Leftover]:
    """What was left behind and has not been touched for so long, the largest first."""
    before = now - older_than
    old = [each for path in _candidates(places) if (each := _measured(path, now)).modified_at < before]
    used = _in_use([each.path for each in old], proc)
    return sorted((each for each in old if each.path not in used), key=lambda each: -each.bytes)


def remove(leftover: Leftover) -> None:
    """Delete a leftover, without following links; what can't be deleted only takes up space."""
    path = leftover.path
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
    else:
        # It does not follow links either, even if somebody puts one there meanwhile.
        shutil.rmtree(path, ignore_errors=True)


def _candidates(places: Places) -> Iterator[Path]:
    """Files and folders with a name that only our code gives, and that belong to this user."""
    for folder in dict.fromkeys((places.temporary, places.data)):
        yield from _owned(folder, _is_folder_of_ours)
        yield from _owned(folder, lambda entry: _is_file_of_ours(entry, _FILE))
    yield from _owned(places.data, lambda entry: _is_file_of_ours(entry, _STAGED))
    for store in places.stores:
        if not (store / _INCOMING).is_symlink():
            yield from _owned(store / _INCOMING, lambda entry: _is_file_of_ours(entry, _OBJECT))
    yield from _drafts(places.data)


def _is_folder_of_ours(entry: os.DirEntry[str]) -> bool:
    named = _FOLDER.fullmatch(entry.name) and not _LASTING.fullmatch(entry.name)
    return bool(named) and entry.is_dir(follow_symlinks=False)


def _is_file_of_ours(entry: os.DirEntry[str], name: re.Pattern[str]) -> bool:
    return name.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)


def _drafts(data: Path) -> Iterator[Path]:
    """What is left of creating the embedded server, unless somebody is creating it now."""
    home = Home(data)
    if not (home.path / "turn.lock").exists():
        return
    turn = home.try_lock("turn", fcntl.LOCK_EX)
    if turn is not None:
        os.close(turn)
        yield from _owned(home.path, lambda entry: _DRAFTS.fullmatch(entry.name) is not None, any_owner=True)


def _owned(
    folder: Path, is_ours: Callable[[os.DirEntry[str]], bool], *, any_owner: bool = False
) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        with suppress(OSError):
            mine = any_owner or entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            if mine and is_ours(entry) and not entry.is_symlink():
                yield Path(entry.path)


def _measured(path: Path, now: datetime) -> Leftover:
    """A file or folder with the size and the last change of everything in it; unreadable counts as new."""
    size, newest = 0, 0.0
    for each in _walk(path):
        try:
            status = each.lstat()
        except OSError:
            return Leftover(path, size, now)
        size, newest = size + status.st_blocks * 512, max(newest, status.st_mtime)
    return Leftover(path, size, datetime.fromtimestamp(newest, now.tzinfo) if newest else now)


def _walk(path: Path, depth: int | None = None) -> Iterator[Path]:
    yield path
    if path.is_symlink() or not path.is_dir() or depth == 0:
        return
    with suppress(OSError):
        for entry in list(os.scandir(path)):
            yield from _walk(Path(entry.path), None if depth is None else depth - 1)


def _in_use(paths: Sequence[Path], proc: Path) -> set[Path]:
    """Those of the paths that a process or a lock holds."""
    if not paths:
        return set()
    used = {path for path in paths if any(_is_locked(each) for each in _lock_files(path))}
    left = [path for path in paths if path not in used]
    for told in _told_by_processes(proc):
        used |= {path for path in left if _names(told, str(path))}
    return used


def _names(told: str, path: str) -> bool:
    """Whether a text has the path, or one below it, rather than one that only begins alike."""
    start = told.find(path)
    while start >= 0:
        following = told[start + len(path) : start + len(path) + 1]
        if following == "" or not (following.isalnum() or following in "-_."):
            return True
        start = told.find(path, start + 1)
    return False


def _lock_files(path: Path) -> Iterable[Path]:
    return (each for each in _walk(path, _DEPTH) if each.name.endswith(_LOCK_NAMES))


def _is_locked(path: Path) -> bool:
    """Whether somebody holds a lock on the file; one that can't be opened counts as held."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return path.exists() and not stat.S_ISSOCK(path.lstat().st_mode)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def _told_by_processes(proc: Path) -> Iterator[str]:
    """Every path that a process that we may look at has open, works in or was told of; and bound sockets."""
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        for name in ("cwd", "root", "exe"):
            with suppress(OSError):
                yield str((folder / name).readlink())
        with suppress(OSError):
            for descriptor in list(os.scandir(folder / "fd")):
                with suppress(OSError):
                    yield str(Path(descriptor.path).readlink())
        if folder.name == str(os.getpid()):
            continue
        for name in ("environ", "cmdline"):
            with suppress(OSError):
                yield (folder / name).read_bytes().decode(errors="replace")
    with suppress(OSError):
        yield (proc / "net/unix").read_text(errors="replace")

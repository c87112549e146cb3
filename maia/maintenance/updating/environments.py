"""The folder of environments: `envs/<stamp>` and the link `current`, its lock, and an update's journal.

While an update is not confirmed, a link `fallback` leads to the environment before it. With that and a file
`starts`, deployments/systemd/rollback/pleiades-rollback goes back from a release that does not start; these
two names are its interface, whatever the releases.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import psutil

from maia.maintenance.updating.errors import UpdateFailed, UpdateRunning

_ENVIRONMENTS: Final = "envs"
_CURRENT: Final = "current"
_FALLBACK: Final = "fallback"
_STARTS: Final = "starts"
_NEXT: Final = ".current.next"
_LOCK: Final = "lock"
_JOURNAL: Final = "update.json"
_WORK: Final = ".pleiades-work"
_MARK: Final = "pleiades.json"
_DELETED: Final = ".deleted-"
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_STAMPED: Final = re.compile(r"\d{8}T\d{6}Z(-\d+)?")


class Phase(StrEnum):
    """How far an update has come, as its journal says."""

    BUILDING = "building"
    """The new environment is not complete."""
    SWITCHING = "switching"
    """It is complete, but not confirmed: services may be stopped, and the link may or may not lead to it."""
    GOING_BACK = "going back"
    """It has failed; the link may or may not lead to the previous one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """An update that is not finished: from which environment to which, and how things were before it."""

    phase: Phase
    new: str
    previous: str | None
    version: str
    made: bool = True
    """Whether the update made the new environment, which it deletes if that fails."""
    migrates: bool = False
    restarts: int = 0
    """How often everything was restarted in this phase: the restart may end the process that asks for it."""
    score: float | None = None
    problems: tuple[str, ...] = ()
    """The keys of what was wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An environment in the folder; `version` is None unless an update completed and tested it."""

    stamp: str
    path: Path
    version: str | None = None

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"


class EnvironmentFolder:
    """The folder of environments. Whatever changes it holds its lock."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.link = self.root / _CURRENT
        self.work = self.root / _WORK

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the folder's lock; UpdateRunning if another process does.

        Yields the lock's descriptor: a program that inherits it keeps others out if this process is killed
        while that program still writes.
        """
        try:
            (self.root / _ENVIRONMENTS).mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UpdateFailed(f"{self.root} can't be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UpdateRunning(f"another update works in {self.root}: wait until it is done") from None
            yield handle
        finally:
            os.close(handle)

    def current(self) -> Environment | None:
        """The environment that the link leads to; None if there is no link yet."""
        if not self.link.is_symlink():
            if self.link.exists():
                raise UpdateFailed(f"{self.link} is no link: move it away, so that updates can make one")
            return None
        path = Path(os.path.realpath(self.link))
        if not path.is_dir():
            raise UpdateFailed(f"{self.link} leads nowhere: point it to one of {self.root / _ENVIRONMENTS}")
        if path.parent != Path(os.path.realpath(self.root / _ENVIRONMENTS)):
            # An update could not go back there, as it knows environments by their names alone.
            raise UpdateFailed(
                f"{self.link} leads out of {self.root / _ENVIRONMENTS}: point it to an environment in there"
            )
        return self._read(path)

    def environments(self) -> list[Environment]:
        """Every environment, half-made ones too, the newest first."""
        with suppress(FileNotFoundError):
            return [
                self._read(path)
                for path in sorted((self.root / _ENVIRONMENTS).iterdir(), reverse=True)
                if path.is_dir() and not path.name.startswith(".")
            ]
        return []

    def named(self, stamp: str) -> Environment:
        """The environment with that stamp, which need not exist."""
        return self._read(self.root / _ENVIRONMENTS / stamp)

    def new(self, now: datetime) -> Environment:
        """A new environment by the time of its making; nothing is made yet."""
        stamp = now.astimezone(UTC).strftime(_STAMP)
        # Others in the folder are of people, who name them as they like.
        taken = {each.stamp for each in self.environments() if _STAMPED.fullmatch(each.stamp)}
        # After a clock that went back, too, the newest is last in order.
        latest = max(taken, default="")
        if stamp <= latest:
            base, _, number = latest.partition("-")
            stamp = f"{base}-{int(number or 0) + 1:03}"
        return self.named(stamp)

    def complete(self, environment: Environment, version: str, details: Mapping[str, Any]) -> Environment:
        """Mark an environment as complete, and have everything in it on the disk."""
        os.sync()
        _write_json(environment.path / _MARK, {"version": version, **details})
        return self._read(environment.path)

    def switch(self, to: Environment) -> None:
        """Let the link lead to another environment, at once and for good: it is there at every moment."""
        self._lead(_CURRENT, to)

    def offer_way_back(self, to: Environment) -> None:
        """Let pleiades-rollback go back to an environment if the one to be switched to does not start."""
        (self.root / _STARTS).unlink(missing_ok=True)
        self._lead(_FALLBACK, to)

    def close_way_back(self) -> None:
        """Confirm an update, unless pleiades-rollback was quicker: look where the link leads afterwards."""
        (self.root / _FALLBACK).unlink(missing_ok=True)
        _sync_folder(self.root)

    def starts(self) -> int:
        """How often units have started what the update installed since it was switched to."""
        with suppress(FileNotFoundError):
            return len((self.root / _STARTS).read_bytes().splitlines())
        return 0

    def _lead(self, name: str, to: Environment) -> None:
        next_link = self.root / _NEXT
        next_link.unlink(missing_ok=True)
        next_link.symlink_to(Path(_ENVIRONMENTS) / to.stamp)
        next_link.replace(self.root / name)
        _sync_folder(self.root)

    def unlink(self) -> None:
        """Remove the link, after a first installation that failed."""
        self.link.unlink(missing_ok=True)
        _sync_folder(self.root)

    def discard(self, environment: Environment) -> None:
        """Delete an environment; it has vanished from the others before its files do."""
        doomed = environment.path.with_name(_DELETED + environment.path.name)
        with suppress(FileNotFoundError):
            environment.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the remains of what was being deleted, and the working files of killed updates."""
        for path in (self.root / _ENVIRONMENTS).glob(f"{_DELETED}*"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)
        for path in (self.root / _NEXT, _unfinished(self.root / _JOURNAL)):
            path.unlink(missing_ok=True)

    def journal(self) -> Journal | None:
        """The update that is not finished, if there is one."""
        try:
            values = json.loads((self.root / _JOURNAL).read_text("utf-8"))
            for stamp in {values["new"], values["previous"]} - {None}:
                if not re.fullmatch(r"[^./][^/]*", stamp):
                    # It would be deleted, wherever that leads.
                    raise ValueError(f"{stamp!r} is no environment's name")
            return Journal(
                **(values | {"phase": Phase(values["phase"]), "problems": tuple(values["problems"])})
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UpdateFailed(
                f"{self.root / _JOURNAL} can't be read ({error}): check where {self.link} leads, "
                "then delete it"
            ) from error

    def write_journal(self, journal: Journal) -> None:
        _write_json(self.root / _JOURNAL, asdict(journal))

    def end_journal(self) -> None:
        # The journal last: whoever is killed before that leaves nothing that could undo a finished update.
        for name in (_FALLBACK, _STARTS, _JOURNAL):
            (self.root / name).unlink(missing_ok=True)
        _sync_folder(self.root)

    def _read(self, path: Path) -> Environment:
        version: str | None = None
        with suppress(OSError, ValueError, KeyError, TypeError):
            version = str(json.loads((path / _MARK).read_text("utf-8"))["version"])
        return Environment(stamp=path.name, path=path, version=version)


def to_delete(
    environments: Sequence[Environment],
    *,
    current: str | None,
    previous: str | None,
    keep: int,
    in_use: Iterable[str],
) -> list[Environment]:
    """The environments that are not kept, of those that updates made: any other is left to whoever made it.

    Kept are the current one, the one to go back to, `keep` of the newest others, counting that, and whatever
    a process runs from.
    """
    others = [each for each in environments if each.stamp != current and each.version is not None]
    order = sorted(others, key=lambda each: (each.stamp == previous, each.stamp), reverse=True)
    busy = {*in_use}
    return [each for each in order[keep:] if each.stamp not in busy and each.stamp != previous]


def users_of(folder: EnvironmentFolder, environments: Sequence[Environment]) -> dict[str, list[int]]:
    """The processes that run from each environment, by its stamp.

    A Python of an environment is known by its arguments, because its program is the one that the environment
    was made from; servers within it by their program, others by their working folder or what they map.
    One that was started through the link may come from any of them.
    """
    found: dict[str, list[int]] = {}
    paths = {f"{each.path}{os.sep}": each.stamp for each in environments}
    link = f"{folder.link}{os.sep}"
    for process in psutil.process_iter():
        texts = [f"{text}{os.sep}" for text in _paths_of(process)]
        from_any = bool(texts) and texts[0].startswith(link)
        for path, stamp in paths.items():
            if from_any or any(text.startswith(path) for text in texts):
                found.setdefault(stamp, []).append(process.pid)
    return found


def _paths_of(process: psutil.Process) -> list[str]:
    """What a process names that may lie in an environment, its program first, if this user may see it."""
    texts: list[str] = []
    with suppress(psutil.Error, OSError):
        texts += process.cmdline()
    with suppress(psutil.Error, OSError):
        texts.append(process.exe())
    with suppress(psutil.Error, OSError):
        texts.append(process.cwd())
    with suppress(OSError):
        # Not by psutil, which also counts the pages of each, and takes seconds for a busy host.
        lines = Path(f"/proc/{process.pid}/maps").read_text("utf-8", errors="surrogateescape").splitlines()
        texts += {line[line.index("/") :] for line in lines if "/" in line}
    return texts


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file that is either there as a whole or not at all, after a power failure too."""
    written = _unfinished(path)
    with written.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
    _sync_folder(path.parent)


def _unfinished(path: Path) -> Path:
    """Where a file is written before it gets its name; a kill may leave it there."""
    return path.with_name(f".{path.name}.new")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

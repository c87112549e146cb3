"""The files by which Pleiades runs under systemd: which there are, and how they differ from those installed.

Their one source is the folder deployments/systemd of the repository, which the package holds too. Installing
only puts the place of this `maia` into them. A record of what was installed tells later which files people
have changed since.
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from maia.errors import MaiaError

PROGRAM_OF_SYSTEM: Final = "/opt/pleiades/bin/maia"
PROGRAM_OF_USER: Final = "%h/.local/bin/maia"
"""The programs that the units name in the repository."""

SERVICE: Final = "pleiades.service"
BACKUP_TIMER: Final = "pleiades-backup.timer"
METRICS: Final = "pleiades-metrics.service"
API: Final = "pleiades-api.service"

_OURS: Final = "pleiades"


class NotInstallable(MaiaError):
    """Pleiades can't be installed as a service here."""


class Scope(StrEnum):
    """Whose systemd runs Pleiades: the machine's, or a user's own."""

    SYSTEM = "system"
    USER = "user"


class FileState(StrEnum):
    """How an installed file compares with the one that would be installed now."""

    MISSING = "missing"
    SAME = "same"
    OUTDATED = "outdated"
    """As it was installed, by an earlier version or with another place of maia."""
    CHANGED = "changed"
    """Changed by hand, or not from us: never overwritten unless that is asked for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a scope's files are."""

    scope: Scope
    units: Path
    config: Path
    data: Path

    @property
    def record(self) -> Path:
        return self.config / "installed.json"

    @classmethod
    def of(cls, scope: Scope, environment: Mapping[str, str], root: Path = Path("/")) -> Layout:
        """The layout of the machine, below `root`, or of the user whose environment that is."""
        if scope is Scope.SYSTEM:
            return cls(scope, root / "etc/systemd/system", root / "etc/pleiades", root / "var/lib/pleiades")
        if not (home := environment.get("HOME")):
            raise NotInstallable(
                "HOME is not set, so there is no folder for a user's units: set it, or install as root"
            )
        config = Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config")
        data = Path(environment.get("XDG_DATA_HOME") or f"{home}/.local/share")
        return cls(scope, config / "systemd/user", config / "pleiades", data / "pleiades")


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file to install."""

    path: Path
    text: str
    mode: int = 0o644


def files_of(layout: Layout, program: Path, root: Path = Path("/")) -> list[UnitFile]:
    """Every file of a scope, with `program` as the `maia` that the units run."""
    source = resources.files("maia.maintenance") / "systemd"
    if not (source / layout.scope).is_dir():
        raise NotInstallable("this installation of Pleiades lacks its units: install its wheel, or a clone")
    named = PROGRAM_OF_SYSTEM if layout.scope is Scope.SYSTEM else PROGRAM_OF_USER
    files = [
        UnitFile(layout.units / name, content.replace(named, _quoted(program)))
        for name, content in _walk(source / layout.scope)
    ]
    rollback = source.joinpath("rollback/pleiades-rollback").read_text("utf-8")
    if layout.scope is Scope.USER:
        return [*files, UnitFile(layout.config / "pleiades-rollback", rollback, 0o755)]
    program_of_root = (resources.files("maia.maintenance") / "privileged.py").read_text("utf-8")
    places = {
        "sysusers.d/pleiades.conf": root / "etc/sysusers.d/pleiades.conf",
        "polkit/49-pleiades.rules": root / "etc/polkit-1/rules.d/49-pleiades.rules",
        "privileged/privileged": layout.config / "privileged",
        "privileged/pleiades.preferences": root / "etc/apt/pleiades.preferences",
    }
    files += [UnitFile(place, source.joinpath(name).read_text("utf-8")) for name, place in places.items()]
    programs = {"pleiades-privileged": program_of_root, "pleiades-rollback": rollback}
    own = root / "usr/local/libexec"
    return [*files, *(UnitFile(own / name, text, 0o755) for name, text in programs.items())]


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir():
            yield from _walk(each, f"{prefix}{each.name}/")
        elif each.name.startswith(_OURS) or prefix:
            yield prefix + each.name, each.read_text("utf-8")


def _quoted(program: Path) -> str:
    """A path as units write it: specifiers and dollars doubled, and quoted if it holds a blank."""
    text = str(program).replace("%", "%%").replace("$", "$$")
    if not text.isprintable() or any(sign in text for sign in "\"'\\"):
        raise NotInstallable(f"units can't name the path {program}: install Pleiades in a plainer one")
    return f'"{text}"' if " " in text else text


# What is installed


@dataclass(frozen=True, slots=True)
class Record:
    """What was installed: the program, the units that are started, and a digest of each file."""

    program: str = ""
    units: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, layout: Layout) -> Record:
        """The record of what is installed; an empty one if there is none."""
        try:
            content = json.loads(layout.record.read_text("utf-8"))
            return cls(str(content["program"]), tuple(content["units"]), dict(content["files"]))
        except FileNotFoundError:
            return cls()
        except PermissionError as error:
            raise NotInstallable(f"{layout.record} can't be read: run this as root") from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise NotInstallable(
                f"{layout.record} can't be read ({error}): remove it, and install again with --force"
            ) from error

    def write(self, layout: Layout) -> None:
        content = {"program": self.program, "units": list(self.units), "files": dict(self.digests)}
        write_file(UnitFile(layout.record, json.dumps(content, indent=2) + "\n"))


def state_of(file: UnitFile, record: Record) -> FileState:
    """How what is at a file's path compares with the file."""
    if not is_there(file.path):
        return FileState.MISSING
    installed = _content(file.path)
    if installed == file.text:
        return FileState.SAME
    ours = installed is not None and record.digests.get(str(file.path)) == digest_of(installed)
    return FileState.OUTDATED if ours else FileState.CHANGED


def is_there(path: Path) -> bool:
    """Whether anything has that path, be it a link that leads nowhere."""
    return os.path.lexists(path)


def digest_of(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def difference(file: UnitFile) -> str:
    """What installing the file would change, as a unified diff."""
    installed = _content(file.path) or ""
    lines = difflib.unified_diff(
        installed.splitlines(),
        file.text.splitlines(),
        str(file.path),
        "as it would be installed",
        lineterm="",
    )
    return "\n".join(lines)


def _content(path: Path) -> str | None:
    """The text of a plain file; None of a link or anything else."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_text("utf-8", "surrogateescape")


def write_file(file: UnitFile) -> None:
    """Write a file so that it is complete at every moment, making its folder if it is missing."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    draft = file.path.with_name(f".{file.path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as out:
            out.write(file.text)
            out.flush()
            os.fchmod(out.fileno(), file.mode)
            os.fsync(out.fileno())
        draft.replace(file.path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files, and folders of ours that are empty then."""
    for path in paths:
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(_OURS) and not any(path.parent.iterdir()):
            path.parent.rmdir()

"""Versions: what an environment has, what the constraints say, and which release is the newest."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import Final, Literal, cast
from zipfile import BadZipFile, ZipFile

from packaging.markers import Environment as Markers
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from maia.maintenance.programs import ProgramFailed, plain_environment, run
from maia.maintenance.updating.errors import UpdateFailed

Kind = Literal["major", "minor", "patch", "other"]

_ASK_TIMEOUT_S: Final = 60.0
_INDEX_TIMEOUT_S: Final = 60.0
_ASK: Final = """
import importlib.metadata, json, platform, sys
print(json.dumps({
    "base_python": getattr(sys, "_base_executable", sys.executable),
    "python_version": platform.python_version(),
    "packages": {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()},
}))
"""
_MIGRATION: Final = re.compile(r"atlas/sql/migrations/(\d{4}_[a-z0-9_]+)\.sql")
_AVAILABLE: Final = re.compile(r"^Available versions: (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What an environment has: its packages by canonical name, and the Python that it was made from."""

    python: Path
    base_python: Path
    python_version: str
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A package whose version the constraints forbid; `wanted` is a version, or a range such as `<3`."""

    name: str
    installed: str
    wanted: str
    kind: Kind
    is_downgrade: bool = False

    def __str__(self) -> str:
        how = (
            "a downgrade" if self.is_downgrade else "outside its range" if self.kind == "other" else self.kind
        )
        return f"{self.name} {self.installed} → {self.wanted} ({how})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of ours: its wheel, if it is in the wheelhouse, and that wheel's migrations."""

    version: str
    wheel: Path | None = None
    migrations: tuple[str, ...] = ()
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The packages that each of its extras needs, by canonical name."""


async def ask_environment(python: Path) -> Installed:
    """What the environment of this interpreter has; ProgramFailed if it does not run."""
    finished = await run((str(python), "-I", "-c", _ASK), timeout_s=_ASK_TIMEOUT_S)
    answer = json.loads(finished.check().out)
    return Installed(
        python=python,
        base_python=Path(answer["base_python"]),
        python_version=answer["python_version"],
        packages={canonicalize_name(name): version for name, version in answer["packages"].items()},
    )


def read_constraints(path: Path) -> list[Requirement]:
    """The constraints in a file as pip reads it; UpdateFailed names the line that is none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UpdateFailed(f"the constraints in {path} can't be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not text or text.startswith("--hash"):
            continue
        try:
            found.append(Requirement(re.split(r"\s+--hash|\s*\\$", text)[0]))
        except InvalidRequirement as error:
            raise UpdateFailed(
                f"line {number} of {path} is no constraint such as name==1.2: {error}"
            ) from error
    return found


def compare(installed: Installed, constraints: Iterable[Requirement]) -> list[Difference]:
    """The installed packages whose versions the constraints that apply to this Python do not permit."""
    markers = default_environment()
    markers["python_full_version"] = installed.python_version
    markers["python_version"] = ".".join(installed.python_version.split(".")[:2])
    differences = (_difference(installed, each, markers) for each in constraints)
    return sorted((each for each in differences if each), key=lambda each: each.name)


def _difference(installed: Installed, constraint: Requirement, markers: Markers) -> Difference | None:
    name = canonicalize_name(constraint.name)
    has = installed.packages.get(name)
    if has is None or (
        constraint.marker
        and not constraint.marker.evaluate(cast("dict[str, str | AbstractSet[str]]", markers))
    ):
        return None
    if constraint.specifier.contains(has, prereleases=True):
        return None
    pins = [each.version for each in constraint.specifier if each.operator in ("==", "===")]
    wanted = pins[0] if len(pins) == 1 and not pins[0].endswith(".*") else str(constraint.specifier)
    kind, is_downgrade = kind_of_change(has, wanted)
    return Difference(name=name, installed=has, wanted=wanted, kind=kind, is_downgrade=is_downgrade)


def kind_of_change(old: str, new: str) -> tuple[Kind, bool]:
    """Which part of the version changes first, and whether it goes down; "other" if one is no version."""
    try:
        before, after = Version(old), Version(new)
    except InvalidVersion:
        return "other", False
    kind: Kind = "patch"
    if (before.epoch, before.major) != (after.epoch, after.major):
        kind = "major"
    elif before.minor != after.minor:
        kind = "minor"
    return kind, after < before


def newest_release(wheelhouse: Path, name: str, python_version: str) -> tuple[Release | None, list[str]]:
    """The newest final release of ours in a folder of wheels that runs here, and notes on wheels left out."""
    notes: list[str] = []
    candidates: list[tuple[Version, Path]] = []
    tags = frozenset(sys_tags())
    for path in _wheels(wheelhouse):
        try:
            found, version, _, wheel_tags = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if found == canonicalize_name(name) and not version.is_prerelease and wheel_tags & tags:
            candidates.append((version, path))
    for version, path in sorted(candidates, reverse=True):
        try:
            release, python = _look_into(path, version)
        except (BadZipFile, OSError, InvalidSpecifier, InvalidRequirement, KeyError) as error:
            notes.append(f"{path.name} is left out, because it can't be read: {error}")
            continue
        if python.contains(python_version, prereleases=True):
            return release, notes
        notes.append(f"{path.name} is left out, because it needs Python {python}, not {python_version}")
    return None, notes


def _wheels(wheelhouse: Path) -> list[Path]:
    try:
        return sorted(wheelhouse.glob("*.whl"))
    except OSError as error:
        raise UpdateFailed(f"the wheelhouse {wheelhouse} can't be read: {error}") from error


def _look_into(wheel: Path, version: Version) -> tuple[Release, SpecifierSet]:
    """The release in a wheel, and the Python versions that it runs on."""
    with ZipFile(wheel) as opened:
        names = opened.namelist()
        [metadata] = [name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)] or [""]
        head = HeaderParser().parsestr(opened.read(metadata).decode("utf-8", errors="replace"))
    release = Release(
        version=str(version),
        wheel=wheel,
        migrations=tuple(sorted(match[1] for name in names if (match := _MIGRATION.fullmatch(name)))),
        extras={
            extra: tuple(_needed(head.get_all("Requires-Dist", []), extra))
            for extra in head.get_all("Provides-Extra", [])
        },
    )
    return release, SpecifierSet(head.get("Requires-Python", ""))


def _needed(requirements: Iterable[str], extra: str) -> Iterator[str]:
    """The packages that only this extra needs."""
    for text in requirements:
        found = Requirement(text)
        if (
            found.marker
            and found.marker.evaluate({"extra": extra})
            and not found.marker.evaluate({"extra": ""})
        ):
            yield canonicalize_name(found.name)


def extras_in_use(release: Release, installed: Installed) -> tuple[str, ...]:
    """The extras whose packages an environment has, which the next one must have too."""
    return tuple(
        sorted(
            extra
            for extra, names in release.extras.items()
            if names and all(name in installed.packages for name in names)
        )
    )


def has_wheel(wheelhouse: Path, name: str) -> bool:
    """Whether a folder has a wheel of the package with that canonical name."""
    return any(canonicalize_name(path.name.partition("-")[0]) == name for path in _wheels(wheelhouse))


def unpacked_bytes(wheelhouse: Path) -> int:
    """Bytes that the newest wheel of each name takes once installed; an upper estimate of an environment."""
    newest: dict[str, tuple[Version, Path]] = {}
    for path in _wheels(wheelhouse):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if name not in newest or version > newest[name][0]:
            newest[name] = version, path
    total = 0
    for _, path in newest.values():
        try:
            with ZipFile(path) as opened:
                total += sum(entry.file_size for entry in opened.infolist())
        except (BadZipFile, OSError):
            total += 3 * path.stat().st_size
    return total


async def newest_on_index(
    name: str, python: Path, uv: Path | None, *, timeout_s: float = _INDEX_TIMEOUT_S
) -> tuple[str | None, str | None]:
    """The newest release of ours on the index that pip or uv is set up for; or else why it is not known."""
    pip = (
        str(python),
        "-I",
        "-m",
        "pip",
        "index",
        "versions",
        name,
        "--no-input",
        "--disable-pip-version-check",
    )
    try:
        finished = await run(pip, timeout_s=timeout_s, environment=plain_environment())
        if not finished.status and (match := _AVAILABLE.search(finished.out)):
            return match[1].split(",")[0].strip(), None
        if uv is not None and "No module named pip" in finished.err:
            return await _newest_by_uv(name, python, uv, timeout_s)
    except ProgramFailed as error:
        return None, f"the package index was not asked: {error}"
    return None, f"the package index knows no release of {name}, or can't be reached"


async def _newest_by_uv(name: str, python: Path, uv: Path, timeout_s: float) -> tuple[str | None, str | None]:
    command = (
        str(uv),
        "pip",
        "compile",
        "-",
        "--no-deps",
        "--no-header",
        "--no-annotate",
        "-q",
        "--no-cache",
    )
    finished = await run((*command, "--python", str(python)), timeout_s=timeout_s, text=f"{name}\n")
    match = re.search(rf"^{re.escape(name)}==(\S+)$", finished.out, re.MULTILINE)
    if finished.status or match is None:
        return None, f"the package index knows no release of {name}, or can't be reached"
    return match[1], None


def is_newer(version: str, than: str | None) -> bool:
    """Whether a version is later than the installed one; whatever is none counts as older."""
    if than is None:
        return True
    try:
        return Version(version) > Version(than)
    except InvalidVersion:
        return version != than


def this_python() -> Path:
    """The interpreter of the environment that this process runs in, without resolving the links to it."""
    return Path(sys.executable)

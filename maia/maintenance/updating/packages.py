"""System packages: what `apt-get -s` would upgrade, and which of that the settings permit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from atlas.wording import counted
from maia.maintenance.programs import plain_environment, run, run_to_its_end
from maia.maintenance.updating.errors import UpdateFailed

_INST: Final = re.compile(
    r"Inst (?P<name>\S+)(?: \[(?P<old>[^\]]*)\])? "
    r"\((?P<new>\S+) (?P<origins>.*?) \[(?P<architecture>[^\]]+)\]\)"
)
_REMV: Final = re.compile(r"Remv (?P<name>\S+)")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?")
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+:~-]*")
_LOCK_WAIT_S: Final = 120
_OLD_LISTS: Final = timedelta(days=7)
_LISTS: Final = ("var/lib/apt/periodic/update-success-stamp", "var/lib/apt/lists")
_REBOOT: Final = "var/run/reboot-required"
_POLICY: Final = "etc/apt/pleiades.preferences"
_SIMULATE: Final = (
    "-s",
    "-q",
    "-o",
    "Debug::NoLocking=true",
    "-o",
    "APT::Get::Show-User-Simulation-Note=false",
)


class Verdict(StrEnum):
    """Whether a package may be updated, and if not, why."""

    PERMITTED = "permitted"
    BLOCKED = "blocked"
    """The settings block it by name."""
    OTHER_ORIGIN = "other origin"
    """It comes from an origin that the settings do not name."""
    CHANGES_OTHERS = "changes others"
    """It needs new packages, or the removal of some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageUpdate:
    """A package that apt would upgrade, or newly install if `old` is None; origins as apt writes them."""

    name: str
    old: str | None
    new: str
    origins: tuple[str, ...]
    architecture: str
    verdict: Verdict = Verdict.PERMITTED

    @property
    def is_security(self) -> bool:
        """Whether it is from a security archive: Debian-Security:12/…, or Ubuntu:24.04/noble-security."""
        return any(re.search(r"security(?=[:/]|$)", origin, re.IGNORECASE) for origin in self.origins)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemUpdates:
    """What apt would upgrade, judged by the settings; `notes` say what people should know beside it."""

    packages: tuple[PackageUpdate, ...] = ()
    notes: tuple[str, ...] = ()
    refused_by_root: tuple[str, ...] = ()
    """What the settings permit, but not the policy by which root's units install packages."""
    only_by_root: tuple[str, ...] = ()
    """What root's units would install, although the settings do not permit it."""

    @property
    def permitted(self) -> tuple[PackageUpdate, ...]:
        return tuple(each for each in self.packages if each.verdict is Verdict.PERMITTED)


def parse_simulation(text: str) -> tuple[list[PackageUpdate], list[str]]:
    """The `Inst` lines of apt-get -s, and the names in its `Remv` lines; UpdateFailed if one is odd."""
    updates: dict[str, PackageUpdate] = {}
    removed: list[str] = []
    for line in text.splitlines():
        if line.startswith("Inst "):
            update = _parse_inst(line)
            updates[update.name] = update
        elif match := _REMV.match(line):
            removed.append(match["name"])
    return list(updates.values()), removed


def _parse_inst(line: str) -> PackageUpdate:
    match = _INST.match(line)
    if match is None or not (_NAME.fullmatch(match["name"]) and _VERSION.fullmatch(match["new"])):
        raise UpdateFailed(f"apt-get wrote a line that can't be read: {line[:200]!r}")
    return PackageUpdate(
        name=match["name"],
        old=match["old"],
        new=match["new"],
        origins=tuple(each.strip() for each in match["origins"].split(",") if each.strip()),
        architecture=match["architecture"],
    )


def judge(
    upgrade: str, full_upgrade: str, *, origins: Sequence[str], block: Sequence[str]
) -> tuple[PackageUpdate, ...]:
    """Everything that apt-get -s upgrade and dist-upgrade would upgrade, with security updates first.

    Packages that only the latter upgrades would bring new packages, or remove some.
    """
    plain, _ = parse_simulation(upgrade)
    full, _ = parse_simulation(full_upgrade)
    known = {each.name for each in plain}
    harder = [replace(each, verdict=Verdict.CHANGES_OTHERS) for each in full if each.name not in known]
    judged = [replace(each, verdict=_verdict(each, origins, block)) for each in plain]
    every = [*judged, *(each for each in harder if each.old is not None)]
    return tuple(sorted(every, key=lambda each: (not each.is_security, each.name)))


def _verdict(update: PackageUpdate, origins: Sequence[str], block: Sequence[str]) -> Verdict:
    if update.old is None:
        return Verdict.CHANGES_OTHERS
    if _matches([update.name, update.name.partition(":")[0]], block):
        return Verdict.BLOCKED
    return Verdict.PERMITTED if _matches(update.origins, origins) else Verdict.OTHER_ORIGIN


def _matches(values: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for value in values for pattern in patterns)


async def look_for_packages(
    *,
    origins: Sequence[str],
    block: Sequence[str],
    timeout_s: float,
    now: datetime,
    root: Path = Path("/"),
    apt_get: str | None = None,
) -> SystemUpdates | None:
    """What apt would upgrade by the lists that it has; None where there is no apt. Needs no root."""
    program = apt_get or shutil.which("apt-get")
    if program is None:
        return None
    written = []
    for verb in ("upgrade", "dist-upgrade"):
        finished = await run(
            (program, *_SIMULATE, verb), timeout_s=timeout_s, environment=plain_environment()
        )
        written.append(finished.check().out)
    packages = judge(*written, origins=origins, block=block)
    found = SystemUpdates(packages=packages, notes=tuple(_notes(root, now)))
    policy = root / _POLICY
    if not policy.is_file():
        return found
    return await _compare_with_root(found, policy, program, timeout_s, origins=origins, block=block)


async def _compare_with_root(
    found: SystemUpdates,
    policy: Path,
    apt_get: str,
    timeout_s: float,
    *,
    origins: Sequence[str],
    block: Sequence[str],
) -> SystemUpdates:
    """The same with how the policy, that of root's units, differs from the settings."""
    options = ("-o", f"Dir::Etc::Preferences={policy}", "-o", "Dir::Etc::PreferencesParts=/dev/null")
    finished = await run((apt_get, *_SIMULATE, *options, "upgrade"), timeout_s=timeout_s)
    if finished.status:
        note = f"root's policy in {policy} can't be used: {finished.last_words}"
        return replace(found, notes=(*found.notes, note))
    by_root, _ = parse_simulation(finished.out)
    names = {each.name for each in by_root}
    refused = sorted(each.name for each in found.permitted if each.name not in names)
    # It may choose another version than apt would without it, and so one of another origin.
    uninvited = sorted(
        each.name for each in by_root if _verdict(each, origins, block) is not Verdict.PERMITTED
    )
    notes = list(found.notes)
    if refused:
        notes.append(
            f"root's policy in {policy} refuses what the settings permit, so it stays as it is: "
            f"{', '.join(refused)}"
        )
    if uninvited:
        notes.append(
            f"root's policy in {policy} lets in what the settings do not permit, so the service installs "
            f"nothing until they agree: {', '.join(uninvited)}"
        )
    return replace(found, notes=tuple(notes), refused_by_root=tuple(refused), only_by_root=tuple(uninvited))


def _notes(root: Path, now: datetime) -> Iterator[str]:
    stamps = [stamp for name in _LISTS if (stamp := _changed_at(root / name)) is not None]
    if not stamps:
        yield "apt has no lists of packages: run apt-get update as root"
    elif now - max(stamps) > _OLD_LISTS:
        days = (now - max(stamps)) // timedelta(days=1)
        yield f"apt's lists of packages are {counted(days, 'day')} old: run apt-get update as root"
    if _changed_at(root / _REBOOT) is not None:
        yield "an earlier update of the system takes effect after a reboot"


def _changed_at(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def install_command(updates: Sequence[PackageUpdate]) -> tuple[str, ...]:
    """The command that brings packages to exactly these versions, removes none, and keeps edited files."""
    return (
        "apt-get", "install", "--only-upgrade", "--no-remove", "-y", "-q",
        "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
        "-o", f"DPkg::Lock::Timeout={_LOCK_WAIT_S}", "--", *(f"{each.name}={each.new}" for each in updates),
    )  # fmt: skip


async def without_strangers(
    updates: Sequence[PackageUpdate], *, timeout_s: float, apt_get: str = "apt-get"
) -> list[PackageUpdate]:
    """Those of the updates that bring nothing which is not among them, by apt's own simulation.

    A library may insist on a package that is blocked: then it stays as it is.
    """
    permitted = {each.name for each in updates}

    async def closed(some: Sequence[PackageUpdate]) -> list[PackageUpdate]:
        if not some or (strangers := await _strangers(permitted, some, timeout_s, apt_get)) == set():
            return list(some)
        if len(some) == 1:
            return []
        # What few packages bring is found in few simulations, which take seconds each: those that bring
        # strangers are mostly of the same source, and so of the same version.
        alike = [each for each in some if each.new in (strangers or ())]
        if 0 < len(alike) < len(some):
            halves = [each for each in some if each not in alike], alike
        else:
            halves = [*some[: len(some) // 2]], [*some[len(some) // 2 :]]
        return [each for half in halves for each in await closed(half)]

    kept = {each.name for each in await closed(updates)}
    return [each for each in updates if each.name in kept]


async def _strangers(
    permitted: set[str], updates: Sequence[PackageUpdate], timeout_s: float, apt_get: str
) -> set[str] | None:
    """The versions of packages that the updates would bring unasked; None if they can't be installed so."""
    _, *options = install_command(updates)
    finished = await run((apt_get, *_SIMULATE, *options), timeout_s=timeout_s)
    if finished.status:
        return None
    brought, removed = parse_simulation(finished.out)
    return None if removed else {each.new for each in brought if each.name not in permitted}


async def install(updates: Sequence[PackageUpdate], *, timeout_s: float, apt_get: str = "apt-get") -> str:
    """Bring packages to these versions, which only root can; UpdateFailed if one of them did not get there.

    A dpkg that is killed leaves a system that is half configured, so nothing ends it, not even the time-out.
    """
    environment = plain_environment() | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    _, *options = install_command(updates)
    finished = await run_to_its_end((apt_get, *options), timeout_s=timeout_s, environment=environment)
    if finished.status:
        raise UpdateFailed(
            f"apt-get install failed: {finished.last_words}\nAs root, run dpkg --configure -a and "
            "apt-get -f install, then try again."
        )
    offered, _ = parse_simulation((await run((apt_get, *_SIMULATE, "upgrade"), timeout_s=timeout_s)).out)
    wanted = {(each.name, each.new) for each in updates}
    if missed := sorted(each.name for each in offered if (each.name, each.new) in wanted):
        raise UpdateFailed(f"apt-get did not say why it left these as they were: {', '.join(missed)}")
    return f"brought {counted(len(updates), 'system package')} to the newest version"

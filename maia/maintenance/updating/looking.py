"""Looks for every kind of update, and says in plain words what there is. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from atlas import migrations
from atlas.maintainer_settings import UpdateSettings
from atlas.wording import counted
from maia.maintenance.programs import ProgramFailed
from maia.maintenance.updating.building import PLEIADES, Product, find_uv
from maia.maintenance.updating.environments import Environment, EnvironmentFolder, Journal
from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.updating.packages import SystemUpdates, Verdict, look_for_packages
from maia.maintenance.updating.procedure import Target
from maia.maintenance.updating.versions import (
    Difference,
    Installed,
    Release,
    ask_environment,
    compare,
    extras_in_use,
    has_wheel,
    is_newer,
    newest_on_index,
    newest_release,
    read_constraints,
    this_python,
)

_APT_TIMEOUT_S: Final = 300.0
_NAMED: Final = 5


class Part(StrEnum):
    """What can be updated by itself."""

    SYSTEM = "system"
    ENVIRONMENT = "environment"
    RELEASE = "release"


EVERY_PART: Final = frozenset(Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """What could be updated on this host, and by what; what was not looked for is None or empty."""

    system: SystemUpdates | None = None
    environment: Installed | None = None
    differences: tuple[Difference, ...] = ()
    release: Release | None = None
    """A release that is newer than the installed one."""
    target: Target | None = None
    """What an installation would bring; None if there is nothing, or no way, to install."""
    current: Environment | None = None
    is_first: bool = False
    """Whether the folder of environments has none in use yet, so that any release is new there."""
    environments: tuple[Environment, ...] = ()
    unfinished: Journal | None = None
    notes: tuple[str, ...] = ()

    @property
    def installed(self) -> str | None:
        """The version of ours that is in use."""
        return None if self.environment is None else self.environment.packages.get(PLEIADES.distribution)

    def sentences(self) -> dict[Part, str]:
        """What there is, a sentence for each part that has something."""
        said = {
            Part.SYSTEM: _system_in_words(self.system),
            Part.ENVIRONMENT: _differences_in_words(self.differences),
            Part.RELEASE: self._release_in_words(),
        }
        return {part: text for part, text in said.items() if text}

    def _release_in_words(self) -> str:
        if self.release is None:
            return ""
        text = f"Release {self.release.version} is available; installed is {self.installed or 'none'}."
        if self.is_first:
            text = f"Release {self.release.version} can be installed as the first of the environments."
        if self.target is not None and self.target.migrates:
            text += (
                " It brings migrations of the database: everything stops meanwhile, and only the backup "
                "leads back."
            )
        return text


def _system_in_words(system: SystemUpdates | None) -> str:
    if system is None or not system.packages:
        return ""
    permitted, security = len(system.permitted), sum(each.is_security for each in system.packages)
    text = (
        f"{counted(len(system.packages), 'system package')} can be updated, {security} of them for security"
    )
    names = [each.name for each in system.permitted]
    text += f"; {permitted} of them permitted" + (f": {_listed(names)}." if names else ".")
    held = [
        each.name for each in system.packages if each.is_security and each.verdict is not Verdict.PERMITTED
    ]
    return text + (f" Not permitted, though for security: {_listed(held)}." if held else "")


def _differences_in_words(differences: Sequence[Difference]) -> str:
    if not differences:
        return ""
    differ = counted(len(differences), "Python package differs", "Python packages differ")
    return f"{differ} from the constraints: {_listed([str(each) for each in differences])}."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


async def look(
    settings: UpdateSettings,
    now: datetime,
    *,
    parts: Collection[Part] = EVERY_PART,
    product: Product = PLEIADES,
) -> Updates:
    """Look for updates of these parts. What can't be found out is a note, and hides no other."""
    notes: list[str] = []
    found = Updates(system=await _look_at_system(settings, now, notes) if Part.SYSTEM in parts else None)
    if {*parts} - {Part.SYSTEM}:
        try:
            found = await _look_at_ours(settings, found, parts, product, notes)
        except (UpdateFailed, ProgramFailed) as error:
            notes.append(str(error))
    return replace(found, notes=tuple(notes))


async def _look_at_ours(
    settings: UpdateSettings, found: Updates, parts: Collection[Part], product: Product, notes: list[str]
) -> Updates:
    """Look at the environment in use, what the constraints say of it, and the releases there are."""
    folder = None if settings.root is None else EnvironmentFolder(settings.root)
    current = None if folder is None else await asyncio.to_thread(folder.current)
    installed = await ask_environment(this_python() if current is None else current.python)
    differences = await _compare(settings, installed, notes) if Part.ENVIRONMENT in parts else []
    has = installed.packages.get(product.distribution)
    if has is None:
        notes.append(f"the environment of {installed.python} has no {product.distribution}")
    release = await _newest(settings, installed, product, notes)
    is_first = folder is not None and current is None
    is_new = release is not None and (is_first or is_newer(release.version, has))
    newer = release if is_new and Part.RELEASE in parts else None
    return replace(
        found,
        environment=installed,
        differences=tuple(differences),
        release=newer,
        target=_target(settings, newer, release, installed, differences, notes, is_first=is_first),
        current=current,
        is_first=is_first,
        environments=tuple([] if folder is None else await asyncio.to_thread(folder.environments)),
        unfinished=None if folder is None else await asyncio.to_thread(folder.journal),
    )


async def _look_at_system(settings: UpdateSettings, now: datetime, notes: list[str]) -> SystemUpdates | None:
    try:
        system = await look_for_packages(
            origins=settings.origins,
            block=settings.block,
            timeout_s=min(settings.timeout_s, _APT_TIMEOUT_S),
            now=now,
        )
    except (UpdateFailed, ProgramFailed) as error:
        notes.append(f"apt could not be asked: {error}")
        return None
    notes += () if system is None else system.notes
    return system


async def _compare(settings: UpdateSettings, installed: Installed, notes: list[str]) -> list[Difference]:
    if settings.constraints is None:
        return []
    try:
        constraints = await asyncio.to_thread(read_constraints, settings.constraints)
    except UpdateFailed as error:
        notes.append(str(error))
        return []
    return compare(installed, constraints)


async def _newest(
    settings: UpdateSettings, installed: Installed, product: Product, notes: list[str]
) -> Release | None:
    """The newest release of the wheelhouse, or else of the index, which needs no answer."""
    if settings.wheelhouse is None:
        uv = await asyncio.to_thread(find_uv, installed.python)
        version, note = await newest_on_index(product.distribution, installed.python, uv)
        notes += [] if note is None else [note]
        return None if version is None else Release(version=version)
    if not await asyncio.to_thread(settings.wheelhouse.is_dir):
        notes.append(f"there is no folder {settings.wheelhouse}: put the wheels to install there")
        return None
    release, left_out = await asyncio.to_thread(
        newest_release, settings.wheelhouse, product.distribution, installed.python_version
    )
    notes += left_out
    return release


def _target(
    settings: UpdateSettings,
    newer: Release | None,
    newest: Release | None,
    installed: Installed,
    differences: Sequence[Difference],
    notes: list[str],
    *,
    is_first: bool,
) -> Target | None:
    """What to install: the newer release, or the same one again with what the constraints say."""
    if newer is None and not differences:
        return None
    if settings.root is None or settings.wheelhouse is None:
        notes.append(
            "nothing is installed, because that needs PLEIADES_MAINTAINER__UPDATES__ROOT, the folder of "
            "environments, and PLEIADES_MAINTAINER__UPDATES__WHEELHOUSE, the folder of wheels"
        )
        return None
    has = installed.packages.get(PLEIADES.distribution)
    chosen = newer or (newest if newest is not None and newest.version == has else None)
    if chosen is None:
        notes.append(f"the wheelhouse has no wheel of release {has}, so its packages can't be renewed")
        return None
    extras = extras_in_use(chosen, installed)
    if is_first:
        # The environment that looks may be anybody's, with extras that nobody needs here.
        wheelhouse = settings.wheelhouse
        extras = tuple(
            extra for extra in extras if all(has_wheel(wheelhouse, name) for name in chosen.extras[extra])
        )
    return _target_of(chosen, extras, settings.wheelhouse, settings.constraints)


def _target_of(
    release: Release, extras: tuple[str, ...], wheelhouse: Path, constraints: Path | None
) -> Target:
    """The release as something to install.

    It migrates if it has migrations that this version does not know. The next update is quicker if uv is in
    the environment too.
    """
    ours = {each.name for each in migrations.known()}
    details = {"wheel": str(release.wheel), "constraints": str(constraints) if constraints else "none"}
    return Target(
        version=release.version,
        extras=extras,
        also=("uv",) if has_wheel(wheelhouse, "uv") else (),
        migrates=any(name not in ours for name in release.migrations),
        details=tuple(details.items()),
    )

"""The duty that backs the database up: makes a backup, verifies it if the settings say so, and rotates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final
from zoneinfo import ZoneInfo

from atlas.backups.creation import LOCK, create, outlook
from atlas.backups.manifest import begun_at
from atlas.backups.restoration import verify
from atlas.backups.shelf import Shelf, Shelved, Verification
from atlas.errors import AtlasError
from atlas.wording import counted
from maia.maintainer.actions import Action, ActionFailed, ActionState, Plan
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintenance.rotation import Rotation
from maia.maintenance.wording import size_text

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.backups.manifest import Manifest
    from atlas.composition import Atlas
    from atlas.config import Settings

logger = logging.getLogger(__name__)

EVENT: Final = "maintainer.backup"
"""The kind of event that tells of each backup: name, bytes, seconds, and whether it was verified."""
SLOWER: Final = "while a backup runs, claims are slower, because it keeps an old snapshot"
ABANDONED_AFTER: Final = timedelta(days=1)
"""How old an incomplete backup must be to be deleted, or how far in the future: else it may be being made."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A backup that was made just now; without a verification, `unverified` says why."""

    manifest: Manifest
    verification: Verification | None
    unverified: str | None = None


def rotation_of(settings: Settings) -> Rotation:
    """The rotation that the settings describe."""
    backups = settings.maintainer.backups
    return Rotation(
        daily=backups.daily,
        weekly=backups.weekly,
        monthly=backups.monthly,
        zone=ZoneInfo(settings.maintainer.time_zone),
    )


def identity_for(manifest: Manifest, settings: Settings, given: Path | None = None) -> Path | None:
    """The file with the secret key, if the backup needs one and there is one."""
    if manifest.recipient_fingerprint is None:
        return None
    return given or settings.maintainer.backups.identity_file


async def make(atlas: Atlas, shelf: Shelf, *, verified: bool, on_progress: OnProgress) -> Made:
    """Make a backup, verify it if that is wanted and possible, and append an event that tells of it."""
    logger.info("A backup begins: %s", SLOWER, extra={"action": "backup_begun"})
    manifest = await create(atlas, shelf, on_progress=on_progress)
    made = (
        await _verified(atlas, shelf, manifest, on_progress)
        if verified
        else Made(manifest=manifest, verification=None)
    )
    await atlas.events.append(
        EVENT,
        {
            "name": manifest.name,
            "bytes": manifest.size_bytes,
            "database_bytes": manifest.contents.database_bytes,
            "rows": manifest.contents.rows,
            "seconds": manifest.seconds,
            "verified": made.verification is not None and made.verification.problem is None,
            "problem": made.verification and made.verification.problem,
        },
        agent="maintainer",
    )
    return made


async def _verified(atlas: Atlas, shelf: Shelf, manifest: Manifest, on_progress: OnProgress) -> Made:
    identity = identity_for(manifest, atlas.settings)
    if manifest.recipient_fingerprint is not None and identity is None:
        return Made(
            manifest=manifest,
            verification=None,
            unverified="it is encrypted, and PLEIADES_MAINTAINER__BACKUPS__IDENTITY_FILE is not set here",
        )
    try:
        verification = await verify(
            shelf, manifest, atlas.settings, atlas.clock, identity=identity, on_progress=on_progress
        )
    except AtlasError as error:
        return Made(manifest=manifest, verification=None, unverified=str(error))
    return Made(manifest=manifest, verification=verification)


class CreateBackup(Action):
    """Makes a backup."""

    kind: ClassVar[str] = "backup"
    about: ClassVar[str] = "Back up the database."

    def __init__(self, atlas: Atlas, shelf: Shelf, on_progress: OnProgress) -> None:
        self._atlas, self._shelf, self._on_progress = atlas, shelf, on_progress
        self.target = "database"
        self.made: Made | None = None

    async def plan(self) -> Plan:
        seen = await outlook(self._atlas)
        shelved = await self._shelf.list(self._atlas.clock.now())
        latest = next((each.manifest for each in shelved if each.manifest), None)
        database_bytes = seen.facts.database_bytes
        estimate = ""
        details: dict[str, Any] = {"database_bytes": database_bytes, "method": seen.method}
        if latest is not None:
            details["bytes"] = round(
                database_bytes * latest.size_bytes / max(1, latest.contents.database_bytes)
            )
            estimate = f", about {size_text(details['bytes'])}"
        encrypted = self._atlas.settings.maintainer.backups.recipient is not None
        how = f"by {'COPY' if seen.method == 'copy' else 'pg_dump'}{', encrypted' if encrypted else ''}"
        return Plan(
            text=f"Back up the database of {size_text(database_bytes)} to {self._shelf.place} {how}"
            f"{estimate}: {SLOWER}.",
            commands=("maia backup create",),
            details=details,
        )

    async def apply(self, plan: Plan) -> str:
        verified = self._atlas.settings.maintainer.backups.verify
        try:
            made = await make(self._atlas, self._shelf, verified=verified, on_progress=self._on_progress)
        except AtlasError as error:
            raise ActionFailed(f"the database was not backed up: {error}") from error
        self.made = made
        if made.verification and made.verification.problem:
            raise ActionFailed(f"the backup {made.manifest.name} is no good: {made.verification.problem}")
        return told(made)


class RotateBackups(Action):
    """Deletes the backups that rotation does not keep, and what killed processes left of theirs."""

    kind: ClassVar[str] = "backup"
    about: ClassVar[str] = "Delete backups that rotation does not keep."

    def __init__(self, atlas: Atlas, shelf: Shelf) -> None:
        self._atlas, self._shelf = atlas, shelf
        self.target = "rotation"

    async def plan(self) -> Plan | None:
        now = self._atlas.clock.now()
        good = {each.name: each for each in await self._shelf.list(now) if each.is_good}
        superfluous = rotation_of(self._atlas.settings).superfluous(instants_of(good), now)
        _, incomplete = await self._shelf.names()
        abandoned = [name for name in incomplete if abs(now - begun_at(name)) > ABANDONED_AFTER]
        if not superfluous and not abandoned:
            return None
        freed = sum(each.manifest.size_bytes for name in superfluous if (each := good[name]).manifest)
        texts = (
            [f"Delete {counted(len(superfluous), 'backup')} that rotation does not keep ({size_text(freed)})"]
            if superfluous
            else []
        )
        texts += (
            [f"delete what is left of {counted(len(abandoned), 'backup')} that never got complete"]
            if abandoned
            else []
        )
        text = " and ".join(texts)
        return Plan(
            text=f"{text[0].upper()}{text[1:]}: {', '.join([*superfluous, *abandoned])}.",
            details={"superfluous": superfluous, "abandoned": abandoned, "bytes": freed},
        )

    async def apply(self, plan: Plan) -> str:
        names = [*plan.details["superfluous"], *plan.details["abandoned"]]
        try:
            async with self._atlas.db.only_one(LOCK) as is_ours:
                if not is_ours:
                    raise ActionFailed("a backup is being made: the next run rotates")
                for name in names:
                    await self._shelf.delete(name)
        except AtlasError as error:
            raise ActionFailed(f"not all of {', '.join(names)} were deleted: {error}") from error
        return f"deleted {counted(len(names), 'backup')}"


async def back_up(context: DutyContext) -> DutyReport:
    """Make a backup, then delete those that rotation does not keep."""
    shelf = Shelf.of(context.atlas.settings, context.atlas.db)
    creation = CreateBackup(context.atlas, shelf, context.progress)
    taken = await context.take(creation)
    await context.take(RotateBackups(context.atlas, shelf))
    shelved = await shelf.list(context.atlas.clock.now())
    damaged = [each.name for each in shelved if not each.is_good]
    future = [each.name for each in shelved if each.from_future]
    newest = next((each for each in shelved if each.is_good), None)
    failed = taken is not None and taken.state is ActionState.FAILED
    return DutyReport(
        summary=_summary(creation.made, newest, damaged, future, failed=failed),
        details={
            "backups": len(shelved),
            "bytes": sum(each.manifest.size_bytes for each in shelved if each.manifest),
            "newest_good": newest and newest.begun_at,
            "damaged": damaged,
            "from_future": future,
        },
        failed=failed,
    )


def _summary(
    made: Made | None, newest: Shelved | None, damaged: list[str], future: list[str], *, failed: bool
) -> str:
    if made is not None and not failed:
        text = told(made)
    elif newest is None:
        text = "there is no good backup yet"
    else:
        text = f"the newest good backup is {newest.name}"
    if damaged:
        unusable = f"{counted(len(damaged), 'backup')} can't be used ({', '.join(damaged)})"
        text += f"; {unusable}: maia backup list says why"
    if future:
        text += f"; named by a clock that was ahead: {', '.join(future)} (maia backup list tells more)"
    return text


def told(made: Made) -> str:
    """What was made, in a sentence."""
    manifest = made.manifest
    text = (
        f"backed up {counted(manifest.contents.rows, 'row')} as {manifest.name} "
        f"({size_text(manifest.size_bytes)} in {manifest.seconds:.0f} s)"
    )
    if made.verification is not None:
        return f"{text} and verified it"
    return f"{text}; it is not verified: {made.unverified}" if made.unverified else text


def instants_of(shelved: Mapping[str, Shelved]) -> dict[str, Any]:
    """When each backup began, for the rotation."""
    return {name: each.begun_at for name, each in shelved.items()}

"""Frees space on the data folder's disk at once, in an order in which the cheapest loss comes first.

It stops as soon as there is enough. Files are freed without the database, which may not be able to store, or
even to start, until then. Work that is not done yet is never touched: answers that wait for the vault,
claims, topics, samples within their retention, the newest backup and the newest verified one, and the raw
answers of the last days.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from atlas import paths
from atlas.adapters.tracking import TrackingDAO
from atlas.adapters.upkeep import UpkeepDAO
from atlas.backups.manifest import begun_at
from atlas.backups.shelf import Shelf
from atlas.clock import SystemClock
from atlas.composition import MIN_FREE_BYTES, Atlas, clock_of
from atlas.config import Settings
from atlas.embedded import LARGEST_LOG_BYTES
from atlas.errors import AtlasError
from atlas.stores import FileStore
from atlas.vault import day_of, is_answer
from atlas.wording import counted
from maia.errors import MaiaError
from maia.maintainer.actions import Action, ActionFailed, Plan
from maia.maintenance import leftovers, log_files
from maia.maintenance.leftovers import Places, vault_folder
from maia.maintenance.updating.environments import EnvironmentFolder, to_delete, users_of
from maia.maintenance.wording import size_text

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

ANSWERS_KEPT_DAYS: Final = 2
"""Raw answers of so many last days stay: a cycle that is under way may have stored them just now."""

_ABANDONED: Final = timedelta(hours=1)
_ABANDONED_BACKUP: Final = timedelta(days=1)
_DATABASE_TIMEOUT_S: Final = 60.0
_ENOUGH_FREE: Final = 2 * MIN_FREE_BYTES

Free = Callable[[], AsyncIterator[str]]


@dataclass(frozen=True, slots=True)
class DiskUse:
    """How full a disk is. Root's reserve counts as used, as in the samples by which health is judged."""

    percent: float
    free_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, folder: Path) -> DiskUse:
        """The disk that a folder is on, which need not exist yet."""
        found = shutil.disk_usage(paths.nearest(folder))
        return cls(100 * (1 - found.free / max(found.total, 1)), found.free, found.total)

    def is_over(self, percent: float) -> bool:
        """Whether it is fuller than that, or has no space left for the embedded server to work in."""
        return self.percent >= percent or self.free_bytes < min(_ENOUGH_FREE, self.total_bytes // 10)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that frees space. It yields what it has freed after each thing, so that it can be stopped."""

    name: str
    loses: str
    free: Free


class FreeSpace(Action):
    """Frees space on this host's disk until it is well below the limit."""

    kind = "emergency"
    about = "Free space on a full disk, the cheapest loss first."
    cool_down_s: ClassVar[float | None] = 0.0

    def __init__(
        self, settings: Settings, atlas: Atlas | None = None, *, use: Callable[[Path], DiskUse] = DiskUse.of
    ) -> None:
        self._settings, self._atlas, self._use = settings, atlas, use
        self._clock = atlas.clock if atlas else clock_of(settings)
        self.target = f"disk of {settings.node_id}"

    async def plan(self) -> Plan | None:
        limit, use = self._settings.maintainer.health.emergency_disk_percent, self._disk()
        if not use.is_over(limit):
            return None
        steps = self.steps()
        return Plan(
            text=f"The disk of {self._settings.data_folder} is {use.percent:.0f} % full "
            f"({size_text(use.free_bytes)} free): free space, in up to {counted(len(steps), 'step')}",
            commands=tuple(f"{step.name}: {step.loses}" for step in steps),
            details={
                "table": "disk", "what": f"{use.percent:.0f} % full", "rows": None,
                "bytes": use.total_bytes - use.free_bytes,
                "how": f"up to {counted(len(steps), 'step')}, in order",
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        before, freed = self._disk(), list[str]()
        for step in self.steps():
            if self._is_enough():
                break
            freed += await self._take(step)
        use = self._disk()
        told = "; ".join(freed) or "there was nothing to free"
        gained = max(use.free_bytes - before.free_bytes, 0)
        text = f"{size_text(gained)} freed, {use.percent:.0f} % used: {told}"
        logger.warning("the disk was full: %s", text, extra={"action": "space_freed"})
        if not self._is_enough():
            raise ActionFailed(
                f"{text}; that is not enough: free space on the disk of {self._settings.data_folder}, or set "
                "PLEIADES_DATA_DIR to a folder on another one"
            )
        return text

    def steps(self) -> list[Step]:
        """Every step, the cheapest loss first; those about PostgreSQL only if it is on this disk."""
        return [
            Step("temporary files", "nothing that anybody uses", self._temporary_files),
            Step("logs", "older log lines", self._logs),
            Step("environments", "old environments that updates would not go back to", self._environments),
            Step("old answers", "raw answers beyond their retention", self._expired_answers),
            *([] if self._settings.database_url is not None else self._server_steps()),
            Step("backups", "backups but the newest and the newest verified one", self._backups),
            Step("raw answers", f"raw answers, oldest first, but none of the last {ANSWERS_KEPT_DAYS} days",
                 self._answers),
        ]  # fmt: skip

    def _server_steps(self) -> list[Step]:
        return [
            Step("old samples", "samples beyond their retention", self._expired_samples),
            Step("checkpoint", "nothing", self._checkpoint),
            Step("vacuum", "nothing", self._vacuum),
        ]

    async def _take(self, step: Step) -> list[str]:
        """Take one step until there is enough; one that fails leaves its turn to the next."""
        freed: list[str] = []
        try:
            async for what in step.free():
                freed.append(f"{step.name}: {what}")
                if self._is_enough():
                    break
        except (AtlasError, MaiaError, OSError, TimeoutError) as error:
            logger.warning("no space was freed by %s: %s", step.name, error, extra={"action": "step_failed"})
        return freed

    def _disk(self) -> DiskUse:
        return self._use(self._settings.data_folder)

    def _is_enough(self) -> bool:
        health = self._settings.maintainer.health
        return not self._disk().is_over(health.clear_below(health.emergency_disk_percent))

    def _is_here(self, folder: Path) -> bool:
        """Whether deleting something there frees space on the data folder's disk."""
        try:
            return folder.stat().st_dev == self._settings.data_folder.stat().st_dev
        except OSError:
            return False

    # Files, without the database

    async def _temporary_files(self) -> AsyncIterator[str]:
        places = Places.of(self._settings)
        found = await asyncio.to_thread(leftovers.find, places, SystemClock().now(), _ABANDONED)
        for each in found:
            if self._is_here(each.path):
                await asyncio.to_thread(leftovers.remove, each)
                yield each.path.name

    async def _logs(self) -> AsyncIterator[str]:
        logs = log_files.find(self._settings.data_folder)
        for log in sorted((log for log in logs if log.is_rotated), key=lambda log: log.modified_at):
            log.path.unlink(missing_ok=True)
            yield log.path.name
        for log in logs:
            if not log.is_rotated and log.bytes > LARGEST_LOG_BYTES:
                log_files.cut(log)
                yield f"{log.path.name} was emptied"

    async def _environments(self) -> AsyncIterator[str]:
        """Delete environments that the settings do not keep, and that nothing runs from."""
        root = self._settings.maintainer.updates.root
        if root is None or not self._is_here(root):
            return
        folder = EnvironmentFolder(root)
        with folder.locked():
            current, known, journal = folder.current(), folder.environments(), folder.journal()
            if journal is not None:
                # An update was interrupted, and nobody knows yet which environment it will go on with.
                return
            doomed = to_delete(
                known,
                current=current.stamp if current else None,
                previous=None,
                keep=self._settings.maintainer.updates.keep,
                in_use=users_of(folder, known),
            )
            for environment in reversed(doomed):
                await asyncio.to_thread(folder.discard, environment)
                yield environment.stamp

    async def _backups(self) -> AsyncIterator[str]:
        """Delete backups, the oldest first, but not the newest one and the newest verified one.

        Before them goes what killed backups left: without a manifest it is none.
        """
        vault = vault_folder(self._settings)
        place = self._settings.maintainer.backups.path or (vault and vault / "backups")
        # It may be a link to another disk.
        if place is None or not self._is_here(place):
            return
        shelf = Shelf.of(self._settings)
        for name in (await shelf.names())[1]:
            if begun_at(name) < SystemClock().now() - _ABANDONED_BACKUP:
                await shelf.delete(name)
                yield f"{name}, which is incomplete"
        good = [backup for backup in await shelf.list(SystemClock().now()) if backup.is_good]
        by_time = sorted(good, key=lambda backup: backup.name)
        verified = [backup for backup in good if backup.verification is not None]
        # The last by name stays too: it may be from the future only because this machine's clock is behind.
        kept = {backup.name for backup in (*good[:1], *verified[:1], *by_time[-1:])}
        for backup in by_time:
            if backup.name not in kept:
                await shelf.delete(backup.name)
                yield backup.name

    async def _expired_answers(self) -> AsyncIterator[str]:
        days = self._settings.maintainer.retention.metadata_days
        async for day in self._delete_answers(days):
            yield day

    async def _answers(self) -> AsyncIterator[str]:
        async for day in self._delete_answers(ANSWERS_KEPT_DAYS):
            yield day

    async def _delete_answers(self, kept_days: int) -> AsyncIterator[str]:
        """Delete raw answers of the days before the last ones, the oldest day first."""
        vault = vault_folder(self._settings)
        if vault is None or not self._is_here(vault / "metadata"):
            return
        days = sorted(_days_of(vault / "metadata"))
        # A clock that is fast must not make answers old that were stored just now.
        today = min(days[-1:], default=date.max)
        first_kept = min(today, self._clock.now().astimezone(UTC).date()) - timedelta(days=kept_days)
        store = FileStore(vault)
        for day in days:
            if day < first_kept and await _delete_answers_of(day, store):
                yield str(day)

    # The embedded server, which may be down

    async def _expired_samples(self) -> AsyncIterator[str]:
        if self._atlas is not None:
            atlas = self._atlas
            dao = TrackingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
            kept = timedelta(days=atlas.settings.tracker.retention_days)
            before = atlas.clock.now().astimezone(UTC).date() - kept
            for dropped in await _in_time(dao.drop_samples_before(before)):
                yield dropped

    async def _checkpoint(self) -> AsyncIterator[str]:
        if self._atlas is not None:
            await _in_time(self._upkeep.checkpoint())
            yield "written out"

    async def _vacuum(self) -> AsyncIterator[str]:
        if self._atlas is not None:
            for table in await _in_time(self._upkeep.bloated_tables()):
                await _in_time(self._upkeep.run(table.command))
                yield table.name

    @property
    def _upkeep(self) -> UpkeepDAO:
        assert self._atlas is not None
        return UpkeepDAO(self._atlas.db, clock=self._atlas.clock, settings=self._atlas.settings)


def emergency_action(atlas: Atlas) -> FreeSpace:
    """The action that frees space on this host's disk; it plans nothing while there is enough."""
    return FreeSpace(atlas.settings, atlas)


async def free_without_database(settings: Settings) -> str | None:
    """Free space by files alone, for a maintainer that can't open the database; returns what came of it.

    None if there is enough space, or if the settings do not allow it. Nothing can be recorded then, so it is
    logged. Never raises: it must work when nothing else does.
    """
    action = FreeSpace(settings)
    try:
        plan = await action.plan() if settings.maintainer.allows(action.kind) else None
        return None if plan is None else await action.apply(plan)
    except (AtlasError, MaiaError, OSError) as error:
        logger.error("space could not be freed: %s", error, extra={"action": "space_not_freed"})
        return str(error)


async def _in_time(work: Awaitable[_T]) -> _T:
    """The result of work with the database, which may not answer while its disk is full."""
    async with asyncio.timeout(_DATABASE_TIMEOUT_S):
        return await work


def _days_of(folder: Path) -> list[date]:
    """The days that have folders."""
    with suppress(OSError):
        entries = list(os.scandir(folder))
        found = [day_of(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        return [day for day in found if day is not None]
    return []


async def _delete_answers_of(day: date, store: FileStore) -> int:
    """Delete the raw answers of a day; returns how many. One that can't be deleted holds up no other."""
    deleted = 0
    try:
        async with aclosing(store.clear(f"metadata/{day}", is_answer)) as steps:
            async for names in steps:
                deleted += len(names)
    except AtlasError as error:
        logger.warning("%s", error, extra={"action": "answer_not_deleted"})
    return deleted

"""The procedure of an update: build beside, test, switch, restart, check, and go back if anything fails.

It can be killed at any moment: `current` always leads to a complete environment, and a journal tells the next
run what to finish. An update that brings migrations of the database goes the way of docs/operations.md, with
everything stopped; from the first applied migration on there is no way back without the backup.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from atlas.wording import counted
from maia.errors import MaiaError
from maia.maintenance.updating.building import Builder, Product, check_space, smoke_test
from maia.maintenance.updating.environments import (
    Environment,
    EnvironmentFolder,
    Journal,
    Phase,
    to_delete,
    users_of,
)
from maia.maintenance.updating.errors import LeftToPeople, UpdateFailed
from maia.maintenance.updating.versions import unpacked_bytes

logger = logging.getLogger(__name__)

_MOST_RESTARTS: Final = 2

_TOLERANCE: Final = 0.1
"""By how much the score may fall because of the restart itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How the system is: its score of health, if there is one, and a sentence for each problem by its key."""

    score: float | None = None
    problems: Mapping[str, str] = field(default_factory=dict)

    def worse_than(self, before: Condition) -> list[str]:
        """What has become worse since; empty if nothing has."""
        worse = [text for key, text in self.problems.items() if key not in before.problems]
        if None not in (self.score, before.score) and self.score < before.score - _TOLERANCE:  # type: ignore[operator]
            worse.append(f"the score of health fell from {before.score:.2f} to {self.score:.2f}")
        return worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to install; `migrates` if its release has migrations that the database lacks."""

    version: str
    extras: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Other requirements to install with it, such as uv."""
    migrates: bool = False
    details: tuple[tuple[str, str], ...] = ()

    def requirements(self, distribution: str) -> tuple[str, ...]:
        """What to ask an installer for."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return (f"{distribution}{extras}=={self.version}", *self.also)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for services to be well again, and how often in a row they must be."""

    settle_s: float = 120.0
    pause_s: float = 2.0
    times: int = 3


class Surroundings(Protocol):
    """What the procedure needs of the rest of the system."""

    async def back_up(self) -> str:
        """Back the database up; returns the backup's name. Raises if there is no backup."""
        ...

    async def stop(self) -> None:
        """Stop everything that runs the product."""
        ...

    async def start(self) -> None:
        """Start what `stop` stopped; nothing if it runs."""
        ...

    async def restart(self) -> None:
        """Restart everything that runs the product, and start what is stopped; it may end this process."""
        ...

    async def condition(self) -> Condition:
        """How the system is now."""
        ...

    async def pending_migrations(self, python: Path) -> Sequence[str]:
        """The migrations that this environment has and the database lacks; raises if it can't use that."""
        ...

    async def migrate(self, python: Path) -> None:
        """Bring the database to this environment's schema."""
        ...

    async def record(self, step: str, text: str) -> None:
        """Record a step; an update does not fail because its record does."""
        ...

    async def alert(self, text: str) -> None:
        """Tell people."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """Installs updates into a folder of environments, and goes back."""

    folder: EnvironmentFolder
    product: Product
    surroundings: Surroundings
    keep: int
    patience: Patience = Patience()

    async def install(self, target: Target, builder: Builder, now: datetime) -> str:
        """Install a release into a new environment and switch to it; returns what was done, in words.

        UpdateFailed if it had to go back, LeftToPeople if it can't.
        """
        with self.folder.locked() as lock:
            await self._finish(lock)
            check_space(self.folder.root, await asyncio.to_thread(unpacked_bytes, builder.wheelhouse))
            before = await self.surroundings.condition()
            if not target.migrates:
                await self._back_up()
            journal, new = await self._build(target, builder, now, lock, before)
            if target.migrates:
                await self._switch_and_migrate(journal, new)
            else:
                await self._switch(journal, new)
            await self._tidy(journal.previous)
            await self._record("done", f"{target.version} runs from {new.path}")
            return f"{target.version} runs from {new.path}"

    async def finish(self) -> str | None:
        """Finish an update that was killed, one way or the other; None if there is none."""
        with self.folder.locked() as lock:
            return await self._finish(lock)

    async def roll_back(self, stamp: str | None = None) -> str:
        """Go back to an earlier environment, by default the newest one before the current."""
        with self.folder.locked() as lock:
            await self._finish(lock)
            current, to = self._goal(stamp)
            await smoke_test(to, self.product)
            if misfit := await self._misfit(to):
                raise LeftToPeople(f"nothing was changed, because {to.stamp} can't be used: {misfit}")
            before = await self.surroundings.condition()
            journal = Journal(
                phase=Phase.SWITCHING, made=False, new=to.stamp, previous=current.stamp,
                version=to.version or to.stamp, score=before.score, problems=tuple(before.problems),
            )  # fmt: skip
            await self._switch(journal, to)
            await self._record("rolled back", f"from {current.stamp} to {to.stamp}")
            return f"back to {to.version or 'the environment'} in {to.path}"

    # Steps of an installation

    async def _back_up(self) -> None:
        try:
            name = await self.surroundings.back_up()
        except Exception as error:
            raise UpdateFailed(f"nothing is updated, because the backup failed: {error}") from error
        await self._record("backed up", name)

    async def _build(
        self, target: Target, builder: Builder, now: datetime, lock: int, before: Condition
    ) -> tuple[Journal, Environment]:
        """Build and test a new environment; nothing is left of it if that fails."""
        current = self.folder.current()
        new = self.folder.new(now)
        journal = Journal(
            phase=Phase.BUILDING, new=new.stamp, previous=current.stamp if current else None,
            version=target.version, migrates=target.migrates, score=before.score,
            problems=tuple(before.problems),
        )  # fmt: skip
        self.folder.write_journal(journal)
        try:
            await self._record("building", f"{target.version} in {new.path}")
            await builder.build(new, target.requirements(self.product.distribution), self.folder.work, lock)
            tested = await smoke_test(new, self.product)
            await self._check_migrations(new, target)
            new = await asyncio.to_thread(self.folder.complete, new, target.version, dict(target.details))
        except Exception as error:
            await asyncio.to_thread(self.folder.discard, new)
            self.folder.end_journal()
            await self._failed("the new environment could not be made, and nothing was changed", error)
            raise UpdateFailed(f"the new environment could not be made: {error}") from error
        await self._record("tested", tested)
        return journal, new

    async def _check_migrations(self, new: Environment, target: Target) -> None:
        pending = await self.surroundings.pending_migrations(new.python)
        if pending and not target.migrates:
            raise UpdateFailed(
                f"it brings migrations that were not planned ({', '.join(pending)}): plan the update again"
            )

    async def _switch(self, journal: Journal, new: Environment) -> None:
        """Switch to an environment, restart, and check; or go back."""
        journal = replace(journal, phase=Phase.SWITCHING)
        self.folder.write_journal(journal)
        try:
            if journal.previous is not None:
                self.folder.offer_way_back(self.folder.named(journal.previous))
            self.folder.switch(new)
            await self._record("switched", f"current leads to {new.stamp}")
            await self._settle(journal)
        except Exception as error:
            await self._go_back(journal, error)
            raise UpdateFailed(f"went back to {journal.previous or 'no environment'}: {error}") from error
        self.folder.end_journal()

    async def _settle(self, journal: Journal) -> None:
        """Restart everything, and wait until it is as well as before; UpdateFailed if it is not."""
        await self._restart(journal, journal.previous)
        await self._check(journal)
        self.folder.close_way_back()
        if not self._leads_to(journal.new):
            # What is well is the previous release.
            raise self._undone(journal)

    def _leads_to(self, stamp: str) -> bool:
        current = self.folder.current()
        return current is not None and current.stamp == stamp

    def _undone(self, journal: Journal) -> UpdateFailed:
        starts = self.folder.starts()
        return UpdateFailed(
            f"{journal.version} was started {counted(starts, 'time')} and never well, so its unit went back "
            "to the release before: maia daemon logs shows why"
        )

    async def _restart(self, journal: Journal, leaving: str | None) -> None:
        """Restart everything; once more if something still runs from the environment to leave, but no more.

        The restart may end this process, and the next one resumes here: it must not do the same for ever.
        """
        if journal.restarts and (
            journal.restarts >= _MOST_RESTARTS or leaving is None or not await self._is_used(leaving)
        ):
            # The restart may have been interrupted when everything was stopped.
            await self.surroundings.start()
            return
        self.folder.write_journal(replace(journal, restarts=journal.restarts + 1))
        await self.surroundings.restart()
        await self._record("restarted", "everything that runs the product")

    async def _is_used(self, stamp: str) -> bool:
        users = await asyncio.to_thread(users_of, self.folder, [self.folder.named(stamp)])
        return bool({*users.get(stamp, ())} - {os.getpid()})

    async def _check(self, journal: Journal) -> None:
        before = Condition(score=journal.score, problems=dict.fromkeys(journal.problems, ""))
        loop = asyncio.get_running_loop()
        deadline_s, well = loop.time() + self.patience.settle_s, 0
        while True:
            worse = (await self.surroundings.condition()).worse_than(before)
            well = 0 if worse else well + 1
            if well >= self.patience.times:
                break
            if loop.time() > deadline_s:
                raise UpdateFailed("; ".join(worse) or "the system did not stay well")
            await asyncio.sleep(self.patience.pause_s)
        await self._record("healthy", "everything is as well as before")

    async def _go_back(self, journal: Journal, why: Exception, *, restarts: int = 0) -> None:
        """Switch to the previous environment, restart, and tell people; what fails here is told too.

        `restarts` is how often everything was restarted from that already.
        """
        if journal.phase is not Phase.GOING_BACK:
            journal = replace(journal, phase=Phase.GOING_BACK, restarts=restarts)
            self.folder.write_journal(journal)
            await self._record("going back", str(why))
        if journal.previous is None:
            self.folder.unlink()
        else:
            self.folder.switch(self.folder.named(journal.previous))
        after = "is in use again"
        try:
            await self._restart(journal, journal.new)
            await self._check(journal)
        except Exception as error:  # noqa: BLE001 - whatever it is, people must hear of both
            after = f"is in use again, but is not well: {error}"
        await self._forget(journal)
        self.folder.end_journal()
        await self._failed(f"{journal.previous or 'no environment'} {after}; the update failed", why)

    async def _forget(self, journal: Journal) -> None:
        """Delete an environment that did not prove itself, unless something still runs from it."""
        if journal.made and not await self._is_used(journal.new):
            await asyncio.to_thread(self.folder.discard, self.folder.named(journal.new))

    # Updates with migrations

    async def _switch_and_migrate(self, journal: Journal, new: Environment) -> None:
        """Stop everything, back up, switch, migrate, start: so no old process meets the newer schema."""
        journal = replace(journal, phase=Phase.SWITCHING)
        self.folder.write_journal(journal)
        try:
            await self.surroundings.stop()
            await self._record("stopped", "everything that uses the database")
            await self._back_up()
            self.folder.switch(new)
            await self._record("switched", f"current leads to {new.stamp}")
        except Exception as error:
            await self._go_back(journal, error)
            raise UpdateFailed(f"nothing is updated, the old release runs on: {error}") from error
        await self._migrate(journal, new)
        self.folder.end_journal()

    async def _migrate(self, journal: Journal, new: Environment) -> None:
        """Apply what is pending and start; from the first migration on, the old release can't come back."""
        try:
            await self.surroundings.migrate(new.python)
        except Exception as error:
            if journal.previous is None or await self._misfit(self.folder.named(journal.previous)):
                raise await self._stuck(journal, f"a migration failed: {error}") from error
            await self._go_back(journal, error)
            raise UpdateFailed(f"no migration was applied, and the old release runs on: {error}") from error
        await self._record("migrated", f"the database has the schema of {journal.version}")
        try:
            await self.surroundings.start()
            await self._check(journal)
        except Exception as error:
            raise await self._stuck(journal, f"the new release is not well: {error}") from error

    async def _stuck(self, journal: Journal, why: str) -> LeftToPeople:
        """What to tell people when only the backup leads back."""
        stuck = LeftToPeople(
            f"{why}\nThe database has the schema of {journal.version} now, so nothing goes back by itself. "
            "Repair it and run maia migrate. Or else stop everything, and go back with the backup made "
            "before the update:\n  maia backup list\n  maia backup restore NAME --data-dir DIR (an empty "
            "one; or RESTORE_URL=… for another database)\n"
            f"  maia system update --rollback --to {shlex.quote(journal.previous or '')}"
        )
        self.folder.end_journal()
        await self._failed("the update needs a person", stuck)
        return stuck

    # What was killed, and what is left over

    async def _finish(self, lock: int) -> str | None:
        """Finish what a killed process left: half-made environments go, a switch is checked or undone."""
        self.folder.sweep()
        journal = self.folder.journal()
        if journal is None:
            return None
        new = self.folder.named(journal.new)
        await self._record(
            "resuming", f"an update to {journal.version} was interrupted while {journal.phase}"
        )
        match journal.phase:
            case Phase.BUILDING:
                await asyncio.to_thread(self.folder.discard, new)
                self.folder.end_journal()
                return "deleted the half-made environment of an interrupted update"
            case Phase.GOING_BACK:
                await self._go_back(journal, UpdateFailed("an interrupted update had failed"))
                return f"went back to {journal.previous}, as an interrupted update had begun to"
        return await self._finish_switch(journal, new)

    async def _finish_switch(self, journal: Journal, new: Environment) -> str:
        if not self._leads_to(journal.new):
            if self.folder.starts():
                await self._go_back(journal, undone := self._undone(journal), restarts=1)
                raise undone
            # Services may have been stopped already.
            await self.surroundings.start()
            await self._forget(journal)
            self.folder.end_journal()
            return f"an interrupted update had not switched yet: {journal.previous} stays in use"
        if journal.migrates:
            await self._migrate(journal, new)
        else:
            await self._settle_or_go_back(journal)
        self.folder.end_journal()
        await self._record("done", f"finished the interrupted update to {journal.version}")
        return f"finished the interrupted update to {journal.version}"

    async def _settle_or_go_back(self, journal: Journal) -> None:
        try:
            await self._settle(journal)
        except Exception as error:
            await self._go_back(journal, error)
            raise UpdateFailed(f"went back to {journal.previous}: {error}") from error

    async def _tidy(self, previous: str | None) -> None:
        """Delete the environments that are neither kept nor in use."""
        environments, current = self.folder.environments(), self.folder.current()
        users = await asyncio.to_thread(users_of, self.folder, environments)
        doomed = to_delete(
            environments,
            current=current.stamp if current else None,
            previous=previous,
            keep=self.keep,
            in_use=users,
        )
        for each in doomed:
            await asyncio.to_thread(self.folder.discard, each)
            await self._record("deleted", f"the old environment {each.stamp}")

    def _goal(self, stamp: str | None) -> tuple[Environment, Environment]:
        current = self.folder.current()
        if current is None:
            raise UpdateFailed(f"there is no environment in use in {self.folder.root}")
        known = [each for each in self.folder.environments() if each.stamp != current.stamp]
        earlier = [each for each in known if each.stamp < current.stamp] or known
        wanted = earlier[:1] if stamp is None else [each for each in known if each.stamp == stamp]
        if not wanted:
            others = ", ".join(each.stamp for each in known) or "none"
            raise UpdateFailed(
                f"there is no environment {stamp or 'to go back to'}; beside the current: {others}"
            )
        return current, wanted[0]

    async def _misfit(self, environment: Environment) -> str | None:
        """Why an environment does not fit the database's schema; None if it does."""
        try:
            pending = await self.surroundings.pending_migrations(environment.python)
        except MaiaError as error:
            return str(error)
        return f"it has migrations to apply: {', '.join(pending)}" if pending else None

    async def _record(self, step: str, text: str) -> None:
        logger.info("update: %s: %s", step, text, extra={"action": "update"})
        await self.surroundings.record(step, text)

    async def _failed(self, what: str, why: Exception) -> None:
        await self._record("failed", f"{what}: {why}")
        await self.surroundings.alert(f"{what}: {why}")

"""The maintainer's duties: when each last ran and how that went, and schedules changed at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from atlas.adapters.dao import DAO, json_text
from atlas.db import lock_key
from atlas.queries import clean_text

RunState = Literal["running", "done", "failed", "interrupted"]
"""A run is interrupted if its process ended before it: nothing is stored then, but nobody holds its lock."""
MOST_ATTEMPTS: Final = 3
"""How many runs may begin for one turn, as a run may fail, or end its process."""


@dataclass(frozen=True, slots=True)
class ChangedSchedule:
    """A schedule that was changed at run time."""

    duty: str
    cron: str
    time_zone: str
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyRun:
    """A duty's last run. `node` is empty for a duty of all hosts; `done_at` is when it was last done."""

    duty: str
    node: str
    turn: datetime
    attempts: int
    state: RunState
    started_at: datetime
    finished_at: datetime | None
    done_at: datetime | None
    summary: str | None
    details: Mapping[str, Any]


class DutiesDAO(DAO):
    """Runs and schedules of duties."""

    async def schedules(self) -> list[ChangedSchedule]:
        """The schedules that were changed at run time, by duty."""
        return [ChangedSchedule(**row) for row in await self._executor.fetch("duties.schedules")]

    async def set_schedule(self, changed: ChangedSchedule) -> None:
        """Change a schedule, whatever the files say."""
        await self._executor.execute(
            "duties.set_schedule",
            changed.duty,
            changed.cron,
            changed.time_zone,
            changed.enabled,
            self._clock.now(),
        )

    async def reset_schedule(self, duty: str) -> bool:
        """Let the files decide again; whether the schedule had been changed."""
        return bool(await self._executor.execute("duties.reset_schedule", duty))

    async def runs(self, locks: Mapping[str, str]) -> dict[tuple[str, str], DutyRun]:
        """The last run by duty and node: those of all hosts, and those of this one.

        `locks` are the names of the locks under which duties run, by duty.
        """
        keys = [lock_key(name) for name in locks.values()]
        rows = await self._executor.fetch("duties.runs", self._settings.node_id, list(locks), keys)
        runs = [DutyRun(**row) for row in rows]
        return {(run.duty, run.node): run for run in runs}

    async def last_done(self, duty: str) -> datetime | None:
        """When a duty was last done, on any host."""
        done_at: datetime | None = await self._executor.fetchval("duties.last_done", duty)
        return done_at

    async def begin(self, duty: str, node: str, turn: datetime, *, asked: bool = False) -> datetime | None:
        """Begin a run for a turn, under the duty's lock; returns when it began, which `finish` wants to know.

        None if it was done for this turn meanwhile, or if MOST_ATTEMPTS runs have begun for it. A run that a
        person `asked` for always begins.
        """
        now = self._clock.now()
        begun = await self._executor.fetchval("duties.begin", duty, node, turn, now, MOST_ATTEMPTS, asked)
        return None if begun is None else now

    async def finish(
        self,
        duty: str,
        node: str,
        began: datetime,
        state: Literal["done", "failed"],
        summary: str,
        details: Mapping[str, Any],
    ) -> None:
        """Note how a run ended, unless another run has begun since."""
        await self._executor.execute(
            "duties.finish",
            duty,
            node,
            began,
            self._clock.now(),
            state,
            clean_text(summary),
            json_text(dict(details)),
        )

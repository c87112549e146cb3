"""The rota: which duties are due on this host now, by the schedules and by when each last ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from atlas.adapters.duties import MOST_ATTEMPTS, ChangedSchedule, DutiesDAO, DutyRun
from atlas.composition import Atlas
from maia.maintainer.duties import DUTIES, DutyRecord, check_duties
from maia.maintenance.schedules import Schedule, configured, due_turn, shipped

PAUSE_AFTER_FAILURE: Final = timedelta(minutes=15)
_FIRST: Final = "health"
"""The duty that a new host runs first."""
Origin = Literal["shipped", "file", "changed"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A duty, its schedule and where that comes from, and its last run on this host (None: never)."""

    duty: DutyRecord
    schedule: Schedule
    origin: Origin
    last: DutyRun | None
    waits: bool = False
    """It is not due yet, because this host is new."""

    def due(self, now: datetime) -> datetime | None:
        """The turn that the duty should run for now.

        A run that never ended counts as not done: whoever takes the duty's lock knows that its process is
        gone. One that failed is tried again after a pause. But MOST_ATTEMPTS runs for a turn are enough.
        """
        if self.waits:
            return None
        return due_turn(self.schedule, None if self._is_worth_repeating(now) else self._last_turn, now)

    @property
    def _last_turn(self) -> datetime | None:
        return None if self.last is None else self.last.turn

    def _is_worth_repeating(self, now: datetime) -> bool:
        last = self.last
        if last is None or last.state == "done" or last.attempts >= MOST_ATTEMPTS:
            return False
        return last.finished_at is None or now - last.finished_at >= PAUSE_AFTER_FAILURE * last.attempts

    def next_at(self, now: datetime) -> datetime | None:
        """When the duty is due next; None if it is off."""
        if not self.schedule.enabled:
            return None
        return now if self.due(now) is not None else self.schedule.next_after(now)


async def rota(atlas: Atlas) -> list[Turn]:
    """Every duty with its schedule and last run; ConfigError if the file of schedules is wrong."""
    dao = DutiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    changed = {each.duty: each for each in await dao.schedules()}
    runs = await dao.runs({duty.name: duty.lock for duty in DUTIES})
    settings = atlas.settings.maintainer
    file = configured(settings.schedules, settings.time_zone)
    usual = {duty: schedule.cron for duty, schedule in shipped().items()}
    check_duties(settings.off)
    turns = [
        _turn(duty, changed.get(duty.name), file[duty.name], usual[duty.name], runs, atlas)
        for duty in DUTIES
        if duty.name not in settings.off
    ]
    return _with_waiting(turns)


def _with_waiting(turns: list[Turn]) -> list[Turn]:
    """On a host that was never judged, its other duties wait for the next cycle.

    A container that lives for one cycle alone would look for updates in every one, and never profit.
    """
    first = next((turn for turn in turns if turn.duty.name == _FIRST), None)
    if first is None or first.last is not None or not first.schedule.enabled:
        return turns
    return [
        replace(turn, waits=True) if turn.duty.of_host and turn is not first and turn.last is None else turn
        for turn in turns
    ]


def node_of(duty: DutyRecord, atlas: Atlas) -> str:
    """The node that a duty's runs are noted for: this one, or none for a duty of all hosts."""
    return atlas.settings.node_id if duty.of_host else ""


def _turn(
    duty: DutyRecord,
    changed: ChangedSchedule | None,
    file: Schedule,
    usual: str,
    runs: Mapping[tuple[str, str], DutyRun],
    atlas: Atlas,
) -> Turn:
    last = runs.get((duty.name, node_of(duty, atlas)))
    if changed is not None:
        return Turn(duty, Schedule(changed.cron, changed.time_zone, changed.enabled), "changed", last)
    is_usual = file == Schedule(usual, atlas.settings.maintainer.time_zone)
    origin: Origin = "shipped" if is_usual else "file"
    return Turn(duty, file, origin, last)

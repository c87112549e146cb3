"""Schedules: when a duty is due. A run that was missed is caught up once, however many were missed.

The shipped schedules are in `schedules.yaml`. The file that the settings name differs from them, and what
was changed at run time differs from both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from cronsim import CronSim, CronSimError

from atlas.errors import ConfigError
from atlas.wording import counted

_MINUTE = timedelta(minutes=1)
_SHIPPED = "schedules.yaml"
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a duty runs: `cron` (five fields) by the wall clock of a time zone, unless it is off."""

    cron: str
    time_zone: str = "UTC"
    enabled: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError if the expression or the zone makes no sense."""
        if len(self.cron.split()) != 5:
            raise ConfigError(
                f"{self.cron!r} is no schedule: write five fields, minute, hour, day of the month, month and "
                'day of the week, such as "0 3 * * *" for every day at 03:00'
            )
        try:
            ZoneInfo(self.time_zone)
        except (LookupError, OSError, ValueError) as error:
            raise ConfigError(f"there is no time zone {self.time_zone!r}") from error
        try:
            next(CronSim(self.cron, datetime(2026, 1, 1)))  # noqa: DTZ001 - any wall clock
        except CronSimError as error:
            raise ConfigError(f"{self.cron!r} is no schedule: {error}") from error
        except StopIteration:
            raise ConfigError(f"{self.cron!r} is no schedule: that day never comes") from None

    def next_after(self, instant: datetime) -> datetime:
        """The first turn after an instant."""
        found: datetime | None = None
        for wall in CronSim(self.cron, self._wall_before(instant)):
            turns = self._turns(wall)
            # What comes twice comes the first time in the order of the wall clock, but not the second time.
            if found is not None and turns and turns[0] >= found:
                break
            later = [turn for turn in turns if turn > instant]
            found = min([*later, *([] if found is None else [found])], default=None)
        assert found is not None
        return found

    def last_until(self, instant: datetime) -> datetime:
        """The latest turn up to and including an instant."""
        # A turn falls on a whole minute, and the search leaves out the minute where it begins.
        following = self._wall(instant).replace(second=0, microsecond=0) + _MINUTE
        turn = next(
            turn
            for wall in CronSim(self.cron, following, reverse=True)
            for turn in reversed(self._turns(wall))
            if turn <= instant
        )
        while (later := self.next_after(turn)) <= instant:
            turn = later
        return turn

    def in_words(self) -> str:
        """When it is due: short for what is usual, as a sentence for the rest."""
        minute, hour, day, month, weekday = self.cron.split()
        found = _in_few_words(minute, hour, weekday) if (day, month) == ("*", "*") else None
        # A naive instant, as only words are asked for.
        return found or CronSim(self.cron, datetime(2026, 1, 1)).explain()  # noqa: DTZ001

    # cronsim gets wall clocks alone. With a zone whose clock changes by half an hour it leaves turns out, and
    # with one whose clock changes at a quarter to an hour, such as Pacific/Chatham, it may never return.

    def _turns(self, wall: datetime) -> list[datetime]:
        """The instants of the turn at a time of the wall clock, as Debian's cron has it.

        A time of day that comes twice is due the first time, and one that is skipped when the clock jumps. If
        the minute or the hour is a star, a turn is due whenever the wall clock shows it.
        """
        is_time_of_day = not any(each.startswith("*") for each in self.cron.split()[:2])
        shown = self._shown(wall)
        while is_time_of_day and not shown:
            wall += _MINUTE
            shown = self._shown(wall)
        return shown[:1] if is_time_of_day else shown

    def _shown(self, wall: datetime) -> list[datetime]:
        """The instants at which the wall clock shows a time: one, or two, or none if it is skipped."""
        zone = ZoneInfo(self.time_zone)
        both = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
        return sorted(each for each in both if each.astimezone(zone).replace(tzinfo=None, fold=0) == wall)

    def _wall(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.time_zone)).replace(tzinfo=None, fold=0)

    def _wall_before(self, instant: datetime) -> datetime:
        """A time of the wall clock after which all turns after an instant lie, also those that come again."""
        wall = self._wall(instant)
        shown = self._shown(wall)
        return wall - (shown[-1] - shown[0])


def _in_few_words(minute: str, hour: str, weekday: str) -> str | None:
    if weekday == "*" and hour == "*":
        if (step := minute.removeprefix("*/")) != minute and step.isdecimal():
            return f"every {counted(int(step), 'minute')}"
        return f"hourly at :{int(minute):02}" if minute.isdecimal() else None
    if not minute.isdecimal():
        return None
    if weekday == "*" and (step := hour.removeprefix("*/")) != hour and step.isdecimal():
        return f"every {counted(int(step), 'hour')}" + (f" at :{int(minute):02}" if int(minute) else "")
    if not hour.isdecimal():
        return None
    at = f"{int(hour):02}:{int(minute):02}"
    if weekday == "*":
        return f"daily at {at}"
    names = {name[:3].lower(): name for name in _WEEKDAYS} | {str(n): _WEEKDAYS[n % 7] for n in range(8)}
    named = names.get(weekday.lower())
    return named and f"{named} at {at}"


def due_turn(schedule: Schedule, last: datetime | None, now: datetime) -> datetime | None:
    """The turn that a duty should run for now; None if the one that it last ran for is the latest.

    A duty that has never run is due at once. A last turn that is yet to come was noted while a clock was
    ahead, and no longer counts.
    """
    if not schedule.enabled:
        return None
    turn = schedule.last_until(now)
    return None if last is not None and turn <= last <= now else turn


def shipped() -> dict[str, Schedule]:
    """The schedules by duty, as they are shipped."""
    return read(files("maia.maintenance").joinpath(_SHIPPED).read_text("utf-8"), {}, "UTC", _SHIPPED)


def configured(path: Path | None, time_zone: str) -> dict[str, Schedule]:
    """The shipped schedules in a time zone, with what a YAML file changes; ConfigError if it is wrong."""
    known = {name: replace(schedule, time_zone=time_zone) for name, schedule in shipped().items()}
    if path is None:
        return known
    try:
        text = path.expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"PLEIADES_MAINTAINER__SCHEDULES: {path} can't be read: {error}") from error
    return known | read(text, known, time_zone, str(path))


def read(text: str, known: Mapping[str, Schedule], time_zone: str, name: str) -> dict[str, Schedule]:
    """The schedules in a YAML text, by duty; without `known` ones, any duty may stand there."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name} is no YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(f'{name}: write a line for each duty, such as cleanup: "0 3 * * *"')
    return {
        _duty(each, known, name): _schedule(value, known.get(each), time_zone, f"{name}: {each}")
        for each, value in found.items()
    }


def _duty(name: Any, known: Collection[str], file: str) -> str:
    if not isinstance(name, str) or (known and name not in known):
        raise ConfigError(f"{file}: there is no duty {name!r}; the duties are {', '.join(known)}")
    return name


def _schedule(value: Any, known: Schedule | None, time_zone: str, place: str) -> Schedule:
    """A schedule from a cron expression, `off`, or a mapping of cron, time_zone and enabled."""
    if value is False or value == "off":
        if known is None:
            raise ConfigError(f"{place} has no schedule yet that could be off")
        return replace(known, enabled=False)
    fields = {"cron": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or (unknown := set(fields) - {"cron", "time_zone", "enabled"}):
        detail = "" if not isinstance(fields, Mapping) else f", and not {', '.join(map(str, unknown))}"
        raise ConfigError(f"{place}: write a cron expression, off, or cron, time_zone and enabled{detail}")
    cron = fields.get("cron", known and known.cron)
    zone, enabled = fields.get("time_zone", time_zone), fields.get("enabled", True)
    if not isinstance(cron, str) or not isinstance(zone, str) or not isinstance(enabled, bool):
        raise ConfigError(f"{place}: cron and time_zone are texts, and enabled is true or false")
    try:
        return Schedule(cron, zone, enabled)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error

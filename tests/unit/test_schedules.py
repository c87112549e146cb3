"""Schedules: turns by the wall clock, also on the days when clocks change, and missed ones caught up once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import ConfigError
from maia.maintainer.duties import DUTIES
from maia.maintenance.schedules import Schedule, configured, due_turn, read, shipped

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
CRONS = ("*/5 * * * *", "0 3 * * *", "30 2 * * *", "30 1 * * *", "0 2 * * sun", "0 9 * * mon", "0 */6 * * *")
schedules = st.builds(Schedule, st.sampled_from(CRONS), st.sampled_from(ZONES))
instants = st.timedeltas(timedelta(0), timedelta(days=730)).map(
    lambda span: datetime(2026, 1, 1, tzinfo=UTC) + span
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(schedules, instants)
def test_the_last_and_the_next_turn_enclose_an_instant(schedule: Schedule, instant: datetime) -> None:
    last, following = schedule.last_until(instant), schedule.next_after(instant)
    assert last <= instant < following
    assert schedule.last_until(following) == following
    assert schedule.next_after(last) == following


@pytest.mark.parametrize(
    ("day", "turns"),
    [
        ("2026-03-29", ["2026-03-29T01:00"]),  # 02:30 does not exist: it runs when the clock jumps to 03:00.
        ("2026-10-25", ["2026-10-25T00:30"]),  # 02:30 comes twice: it runs the first time.
        ("2026-06-01", ["2026-06-01T00:30"]),
    ],
)
def test_a_daily_duty_runs_once_on_every_day_of_a_clock_change(day: str, turns: list[str]) -> None:
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    found, instant = [], at(f"{day}T00:00") - timedelta(hours=1)
    while (instant := schedule.next_after(instant)) < at(f"{day}T22:00"):
        found.append(instant)
    assert found == [at(each) for each in turns]


@given(schedules, instants, st.lists(st.integers(1, 20_000), min_size=1, max_size=40))
def test_missed_turns_are_caught_up_once(schedule: Schedule, begin: datetime, pauses_min: list[int]) -> None:
    ran: list[datetime] = []
    now = begin
    for pause_min in pauses_min:
        now += timedelta(minutes=pause_min)
        turn = due_turn(schedule, ran[-1] if ran else None, now)
        if turn is not None:
            ran.append(turn)
        assert due_turn(schedule, ran[-1], now) is None
    assert ran == sorted(set(ran))


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("*/5 * * * *", "every 5 minutes"),
        ("15 * * * *", "hourly at :15"),
        ("0 */6 * * *", "every 6 hours"),
        ("30 1 * * *", "daily at 01:30"),
        ("0 2 * * sun", "Sunday at 02:00"),
        ("0 9 * * 1", "Monday at 09:00"),
        ("0 9 1 * *", "At 09:00 on the first day of every month"),
        ("0 9 * * 1-5", "At 09:00 on Monday through Friday"),
    ],
)
def test_a_schedule_is_told_in_words(cron: str, words: str) -> None:
    assert Schedule(cron).in_words() == words


def test_a_duty_that_never_ran_is_due_at_once_and_one_that_is_off_never() -> None:
    schedule = Schedule("0 9 * * mon")
    assert due_turn(schedule, None, at("2026-11-29T12:00")) == at("2026-11-23T09:00")
    assert due_turn(Schedule("0 9 * * mon", enabled=False), None, at("2026-11-29T12:00")) is None


def test_a_turn_that_is_yet_to_come_was_noted_by_a_wrong_clock() -> None:
    schedule = Schedule("0 3 * * *")
    assert due_turn(schedule, at("2031-01-01T03:00"), at("2026-11-29T12:00")) == at("2026-11-29T03:00")


@pytest.mark.parametrize("cron", ["", "* * * *", "61 * * * *", "a b c d e", "0 0 30 2 *", "0 0 * * * *"])
def test_what_is_no_schedule_is_refused(cron: str) -> None:
    with pytest.raises(ConfigError, match="is no schedule"):
        Schedule(cron)


def test_the_shipped_schedules_are_those_of_the_duties() -> None:
    assert shipped().keys() == {duty.name for duty in DUTIES}


def test_a_file_changes_single_lines(tmp_path: Path) -> None:
    path = tmp_path / "schedules.yaml"
    path.write_text(
        'cleanup: "0 4 * * *"\nupdates: off\nreport: {cron: "0 7 * * mon", time_zone: Asia/Tokyo}\n'
    )
    found = configured(path, "Europe/Berlin")
    assert found["cleanup"] == Schedule("0 4 * * *", "Europe/Berlin")
    assert not found["updates"].enabled
    assert found["report"] == Schedule("0 7 * * mon", "Asia/Tokyo")
    assert found["backup"] == Schedule("30 1 * * *", "Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cleanup: [", "is no YAML"),
        ("[" * 600, "is no YAML"),
        ("- cleanup", "write a line for each duty"),
        ("cleanings: off", "there is no duty 'cleanings'"),
        ("cleanup: 0 3 * *", "cleanup: '0 3"),
        ("cleanup: {crn: x}", "and not crn"),
        ("cleanup: 7", "write a cron expression"),
        ("cleanup: {cron: 7}", "are texts"),
        ("cleanup: {cron: 0 3 * * *, time_zone: Mars/Base}", "no time zone 'Mars/Base'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text, shipped(), "UTC", "schedules.yaml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        configured(tmp_path / "missing.yaml", "UTC")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Antarctica/Troll"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "30 1 * * *", "15 * * * *"])
@pytest.mark.parametrize("day", [datetime(2026, 10, 25, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)])
def test_within_the_hour_that_comes_twice_last_and_next_turn_enclose_the_instant(
    zone: str, cron: str, day: datetime
) -> None:
    schedule = Schedule(cron, zone)
    for minutes in range(0, 8 * 60, 20):
        instant = day + timedelta(minutes=minutes, seconds=7)
        last, following = schedule.last_until(instant), schedule.next_after(instant)
        assert last <= instant < following
        assert (schedule.next_after(last), schedule.last_until(following)) == (following, following)


def test_every_duty_has_a_function() -> None:
    assert all(callable(duty.load()) for duty in DUTIES)


MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
AROUND = timedelta(hours=3)
AT_CHANGES = (
    (set(range(60)), {2}, "0-59 2 * * *"), ({30}, {1}, "30 1 * * *"), ({15, 45}, {2, 3}, "15,45 2,3 * * *"),
    ({0}, set(range(0, 24, 2)), "0 */2 * * *"), ({0, 20, 40}, {1, 2}, "*/20 1,2 * * *"),
    ({15}, set(range(24)), "15 * * * *"),
)  # fmt: skip
"""Minutes and hours, and the schedule of them."""


def changes_of_clocks() -> dict[tuple[datetime, timedelta, timedelta], str]:
    """When a clock changes somewhere in 2026, from which offset to which, and a zone where it does."""
    found = {}
    for name in sorted(available_timezones()):
        zone, before = ZoneInfo(name), datetime(2025, 12, 31, tzinfo=UTC)
        for day in (datetime(2026, 1, 1, tzinfo=UTC) + number * DAY for number in range(366)):
            old, new = (each.astimezone(zone).utcoffset() for each in (before, day))
            if old != new:
                minutes = range(0, 24 * 60, 15)
                [*_, last] = [
                    at for at in (before + minute * MINUTE for minute in minutes)
                    if at.astimezone(zone).utcoffset() == old
                ]  # fmt: skip
                assert old is not None
                assert new is not None
                found[last + 15 * MINUTE, old, new] = name
            before = day
    return found


def seen_on_the_clock(
    minutes: set[int], hours: set[int], stars: bool, zone: ZoneInfo, begin: datetime, end: datetime
) -> list[datetime]:
    """The turns that somebody finds who watches the wall clock from minute to minute."""
    turns, shown = list[datetime](), set[datetime]()
    last, at = begin.astimezone(zone).replace(tzinfo=None), begin
    while (at := at + MINUTE) < end:
        wall = at.astimezone(zone).replace(tzinfo=None, fold=0)
        skipped = [] if stars else [last + n * MINUTE for n in range(1, (wall - last) // MINUTE)]
        new = [each for each in (*skipped, wall) if stars or each not in shown]
        if any(each.minute in minutes and each.hour in hours for each in new):
            turns.append(at)
        shown.add(wall)
        last = wall
    return turns


def test_turns_are_those_of_the_wall_clock_wherever_clocks_change() -> None:
    changes = changes_of_clocks()
    assert {new - old for _, old, new in changes} >= {n * timedelta(minutes=30) for n in (-2, -1, 1, 2)}
    for (at, _, _), name in changes.items():
        zone, begin, end = ZoneInfo(name), at - AROUND, at + AROUND
        for minutes, hours, cron in AT_CHANGES:
            schedule = Schedule(cron, name)
            stars = "*" in cron.removesuffix(" * * *")
            expected = seen_on_the_clock(minutes, hours, stars, zone, begin, end)
            turns, turn = [], begin
            while (turn := schedule.next_after(turn)) < end:
                turns.append(turn)
            assert turns == expected, (name, cron)
            for earlier, later in pairwise(turns):
                assert schedule.last_until(later - MINUTE) == earlier, (name, cron)

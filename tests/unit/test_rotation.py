"""Which backups are kept: over years, with missed days, across clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from maia.maintenance.rotation import Rotation, Tier

BERLIN = ZoneInfo("Europe/Berlin")
DEFAULT = Rotation(daily=7, weekly=4, monthly=12, zone=ZoneInfo("UTC"))
START = datetime(2024, 1, 1, 1, 30, tzinfo=UTC)
LATER = datetime(2030, 1, 1, tzinfo=UTC)

rotations = st.builds(
    Rotation,
    daily=st.integers(1, 10),
    weekly=st.integers(0, 8),
    monthly=st.integers(0, 14),
    zone=st.sampled_from([ZoneInfo("UTC"), BERLIN, ZoneInfo("America/Los_Angeles"), ZoneInfo("Asia/Tokyo")]),
)
histories = st.lists(st.integers(0, 3 * 365 * 24 * 60), min_size=1, max_size=120, unique=True).map(
    lambda minutes: {f"{minute:08}": START + timedelta(minutes=minute) for minute in sorted(minutes)}
)


def daily(days: int) -> dict[str, datetime]:
    return {f"{day:05}": START + timedelta(days=day) for day in range(days)}


def test_two_years_of_daily_backups_leave_days_weeks_and_months() -> None:
    backups = daily(730)
    kept = DEFAULT.kept(backups, LATER)
    of = {tier: [backups[name] for name in sorted(kept) if tier in kept[name]] for tier in Tier}
    assert [at.date().isoformat() for at in of[Tier.DAILY]] == [f"2025-12-{day}" for day in range(24, 31)]
    assert [at.date().isoformat() for at in of[Tier.WEEKLY]] == [
        "2025-12-14", "2025-12-21", "2025-12-28", "2025-12-30",
    ]  # fmt: skip
    assert [at.month for at in of[Tier.MONTHLY]] == list(range(1, 13))
    assert len(kept) <= 7 + 4 + 12


def test_a_machine_that_was_off_for_a_month_loses_nothing() -> None:
    before = daily(60)
    after = before | {"late": START + timedelta(days=100)}
    # The new backup replaces the oldest of the days and the oldest of the weeks: nothing expires by its age.
    assert DEFAULT.kept(before, LATER).keys() - DEFAULT.kept(after, LATER).keys() == {"00041", "00053"}


def test_days_are_those_of_the_zone() -> None:
    # In Berlin both are on the 2nd, by UTC on the 1st and the 2nd.
    backups = {
        "late": datetime(2026, 6, 1, 22, 30, tzinfo=UTC),
        "early": datetime(2026, 6, 2, 1, tzinfo=UTC),
    }
    assert Rotation(daily=2, weekly=0, monthly=0, zone=BERLIN).superfluous(backups, LATER) == ["late"]
    assert Rotation(daily=2, weekly=0, monthly=0, zone=ZoneInfo("UTC")).superfluous(backups, LATER) == []


def test_both_hours_of_the_night_when_clocks_go_back_are_one_day() -> None:
    backups = {name: datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for name, hour in (("a", 0), ("b", 1))}
    assert Rotation(daily=1, weekly=0, monthly=0, zone=BERLIN).superfluous(backups, LATER) == ["a"]


def test_one_from_the_future_counts_for_no_period() -> None:
    backups = daily(60)
    now = max(backups.values()) + timedelta(hours=1)
    kept = DEFAULT.kept(backups, now)
    assert DEFAULT.kept(backups | {"future": now + timedelta(days=400)}, now) == kept


def test_one_from_the_future_goes_once_there_are_enough_others_of_late() -> None:
    future = {"future": START + timedelta(days=500)}
    for day in range(30):
        now = START + timedelta(days=day)
        kept = DEFAULT.kept(daily(day + 1) | future, now)
        assert kept.get("future", ()) == ((Tier.FUTURE,) if day < 6 else ())
    # On every other day this machine was off.
    sparse = {name: at for name, at in daily(30).items() if int(name) % 2}
    assert "future" in DEFAULT.superfluous(sparse | future, START + timedelta(days=29))


def test_a_clock_that_is_behind_costs_nothing_at_once() -> None:
    backups = {name: daily(60)[name] for name in DEFAULT.kept(daily(60), START + timedelta(days=60))}
    for days_behind in (*range(1, 32), 3000):
        assert DEFAULT.superfluous(backups, START + timedelta(days=60 - days_behind)) == []


def test_one_of_the_next_days_waits_for_its_own_day() -> None:
    now = max(daily(60).values()) + timedelta(hours=1)
    future = {f"in {days} days": now + timedelta(days=days) for days in (1, 7, 8)}
    assert {*future} - {*DEFAULT.superfluous(daily(60) | future, now)} == {"in 1 days", "in 7 days"}


def test_clocks_may_differ_a_little() -> None:
    backups = daily(3)
    assert "00002" in DEFAULT.kept(backups, backups["00002"] - timedelta(minutes=5))
    assert Tier.DAILY in DEFAULT.kept(backups, backups["00002"] - timedelta(minutes=5))["00002"]


def test_nothing_is_kept_of_nothing() -> None:
    assert DEFAULT.kept({}, LATER) == {}


@given(rotations, histories)
def test_the_newest_is_never_superfluous(rotation: Rotation, backups: dict[str, datetime]) -> None:
    assert max(backups) not in rotation.superfluous(backups, LATER)


@given(rotations, histories)
def test_kept_and_superfluous_are_all(rotation: Rotation, backups: dict[str, datetime]) -> None:
    kept, superfluous = rotation.kept(backups, LATER), rotation.superfluous(backups, LATER)
    assert kept.keys() | set(superfluous) == backups.keys()
    assert not kept.keys() & set(superfluous)
    assert len(kept) <= rotation.daily + rotation.weekly + rotation.monthly


@given(rotations, histories)
def test_rotating_after_each_backup_keeps_what_rotating_once_keeps(
    rotation: Rotation, backups: dict[str, datetime]
) -> None:
    shelf: dict[str, datetime] = {}
    for name, at in backups.items():
        shelf[name] = at
        for superfluous in rotation.superfluous(shelf, LATER):
            del shelf[superfluous]
    assert shelf.keys() == rotation.kept(backups, LATER).keys()


@given(rotations, histories)
def test_each_tier_has_as_many_periods_as_it_promises(
    rotation: Rotation, backups: dict[str, datetime]
) -> None:
    kept = rotation.kept(backups, LATER)
    local = {name: at.astimezone(rotation.zone) for name, at in backups.items()}
    for tier, count, period in (
        (Tier.DAILY, rotation.daily, lambda at: at.date()),
        (Tier.WEEKLY, rotation.weekly, lambda at: at.isocalendar()[:2]),
        (Tier.MONTHLY, rotation.monthly, lambda at: (at.year, at.month)),
    ):
        had = sorted({period(at) for at in local.values()})
        has = sorted(period(local[name]) for name, tiers in kept.items() if tier in tiers)
        assert has == (had[-count:] if count else [])

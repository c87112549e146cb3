"""The open Atlas as a whole: its clock beside the database's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atlas.clock import FixedClock, SystemClock
from atlas.composition import Atlas, check_clock
from atlas.errors import ClockSkew, ConfigError
from atlas.testing import NOON, SettingsFactory

pytestmark = pytest.mark.integration

LIMIT = timedelta(minutes=2)


class Wrong:
    """What `datetime.now` is replaced by: off by so much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, off: timedelta) -> None:
        right = SystemClock.now
        monkeypatch.setattr(SystemClock, "now", lambda clock: right(clock) + off)


async def test_clocks_that_agree_are_accepted(settings_factory: SettingsFactory) -> None:
    async with Atlas.open(settings_factory()) as atlas:
        assert await atlas.clock_skew() == timedelta()
        await check_clock(atlas, timedelta())


@pytest.mark.parametrize("off", [timedelta(days=40), timedelta(minutes=-3)])
async def test_a_wrong_clock_is_refused_with_both_readings(
    settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    async with Atlas.open(settings_factory()) as atlas:
        right = SystemClock().now()
        Wrong(monkeypatch, off)
        skew = await atlas.clock_skew()
        assert abs(skew - off) < timedelta(seconds=10)
        with pytest.raises(ClockSkew) as refused:
            await check_clock(atlas, LIMIT)
    assert isinstance(refused.value, ConfigError)
    assert f"this machine's clock says {right + off:%Y-%m-%d %H:}" in str(refused.value)
    assert f"the database's {right:%Y-%m-%d %H:}" in str(refused.value)


async def test_a_slow_answer_is_no_difference(
    settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read before and after; what lies between says nothing about the difference."""
    async with Atlas.open(settings_factory()) as atlas:
        readings = iter([SystemClock().now() - timedelta(hours=1), SystemClock().now() + timedelta(hours=1)])
        monkeypatch.setattr(SystemClock, "now", lambda _: next(readings))
        assert await atlas.clock_skew() == timedelta()


async def test_a_clock_that_differs_on_purpose_is_not_checked(settings_factory: SettingsFactory) -> None:
    async with Atlas.open(settings_factory(), clock=FixedClock(NOON)) as atlas:
        await check_clock(atlas, LIMIT)

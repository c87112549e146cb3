"""A 429 costs one restart: what it closed stays closed, without a call, until the time it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_recorded import popular_tags

pytestmark = pytest.mark.acceptance


async def test_429_by_day_closes_until_the_pacific_midnight(
    stage_of: StageFactory, synthetic: Catalogue
) -> None:
    """On the day on which clocks fall back, which lasts longest."""
    noon, reset = datetime(2026, 11, 1, 20, tzinfo=UTC), datetime(2026, 11, 2, 8, tzinfo=UTC)
    stage: Stage = await stage_of(
        synthetic, now=noon, search=3, settings={"PLEIADES_QUOTA__LIMITS__SEARCH": "100"}
    )
    assert (await stage.maia("seed", *popular_tags(synthetic, 5))).status == 0

    assert (await stage.hunt("--cycles", "50")).status == 75
    before = len(stage.emulator.calls)
    assert await stage.rows("SELECT count(*) FROM search_queue WHERE lease_token IS NOT NULL") == [(0,)]
    for instant in (noon + timedelta(minutes=5), reset - timedelta(minutes=1)):
        stage.set_clock(instant)
        closed = await stage.hunt("--cycles", "50")
        assert closed.status == 0, closed.stderr
        assert closed.json["outcome"] == "closed"
        assert datetime.fromisoformat(closed.json["reopens_at"]) == reset
        assert len(stage.emulator.calls) == before

    stage.set_clock(reset + timedelta(seconds=1))
    opened = await stage.hunt("--batch-size", "2")
    assert opened.status == 0, opened.stderr
    assert (opened.json["outcome"], opened.json["pages"]) == ("done", 2)


async def test_429_by_minute_cools_down(stage_of: StageFactory, synthetic: Catalogue) -> None:
    noon = datetime(2026, 7, 15, 19, tzinfo=UTC)
    stage: Stage = await stage_of(synthetic, now=noon)
    assert (await stage.maia("seed", *popular_tags(synthetic, 5))).status == 0
    stage.emulator.set_faults(["429-minute:1"])
    assert (await stage.hunt()).status == 75
    stage.emulator.set_faults([])
    before = len(stage.emulator.calls)

    closed = await stage.hunt()
    assert (closed.status, closed.json["outcome"]) == (0, "closed"), closed.stderr
    reopens_at = datetime.fromisoformat(closed.json["reopens_at"])
    assert noon < reopens_at <= noon + timedelta(minutes=10)
    assert len(stage.emulator.calls) == before

    stage.set_clock(reopens_at + timedelta(seconds=1))
    opened = await stage.hunt("--batch-size", "2")
    assert (opened.status, opened.json["pages"]) == (0, 2), opened.stderr
    verdicts = await stage.rows(
        "SELECT payload ->> 'outcome' FROM events WHERE kind = 'hunter.cycle' ORDER BY id"
    )
    assert verdicts == [("rate_limited",), ("closed",), ("done",)]

"""A 429 costs one restart: what it closed stays closed, without a call, until the time it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from maia.youtube.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.acceptance.test_recorded import popular_tags

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    ("noon", "reset"),
    [
        (datetime(2026, 3, 8, 19, tzinfo=UTC), datetime(2026, 3, 9, 7, tzinfo=UTC)),
        (datetime(2026, 7, 15, 19, tzinfo=UTC), datetime(2026, 7, 16, 7, tzinfo=UTC)),
        (datetime(2026, 11, 1, 20, tzinfo=UTC), datetime(2026, 11, 2, 8, tzinfo=UTC)),
    ],
    ids=["spring forward", "ordinary day", "fall back"],
)
async def test_429_by_day_closes_until_the_pacific_midnight(
    stage_of: StageFactory, synthetic: Catalogue, noon: datetime, reset: datetime
) -> None:
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


@pytest.mark.parametrize("kind", ["429-minute", "429-bare", "429-retry-after"])
async def test_429_by_minute_cools_down(stage_of: StageFactory, synthetic: Catalogue, kind: str) -> None:
    noon = datetime(2026, 7, 15, 19, tzinfo=UTC)
    stage: Stage = await stage_of(synthetic, now=noon)
    assert (await stage.maia("seed", *popular_tags(synthetic, 5))).status == 0
    stage.emulator.set_faults([f"{kind}:1"])
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

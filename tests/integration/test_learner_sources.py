"""The pages that the learner reads of the event log: nothing skipped, nothing twice, and how much is left."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.cycle.agent import run
from maia.cycle.outcome import Progress
from maia.learner import sources
from maia.learner.cycle import Learner, pseudonyms_of
from maia.learner.sources import Acts, Curves, Figures, Page, Yields
from tests.growth import HOUR, store_samples, store_video
from tests.integration.test_learner import failing_nights, record_steps

pytestmark = pytest.mark.integration

STEPS = 24 * 9


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a page be read seven events at a time."""
    monkeypatch.setattr(sources, "_EVENTS_AT_ONCE", 7)


async def acts(atlas: Atlas) -> Acts:
    return Acts(atlas, await pseudonyms_of(atlas), {})


async def pages_of(source: Acts, limit: int) -> list[Page]:
    pages, position = [], source.start
    while not pages or not pages[-1].is_last:
        pages.append(await source.read(position, limit))
        position = pages[-1].end
    return pages


@pytest.mark.usefixtures("few_at_once")
class TestPages:
    @pytest.mark.parametrize("limit", [1, 6, 7, 8, 20, 216, 217, 1000])
    async def test_read_a_few_at_a_time_they_hold_what_one_read_holds(
        self, atlas: Atlas, clock: FixedClock, limit: int
    ) -> None:
        await failing_nights(atlas, clock, 1)
        whole = (await acts(atlas)).inputs(await atlas.events.since(0, limit=1000))
        pages = await pages_of(await acts(atlas), limit)
        assert [each for page in pages for each in page.inputs] == whole
        assert [page.read for page in pages[:-1]] == [limit] * (STEPS // limit)
        assert pages[-1].read == STEPS % limit
        assert int(pages[-1].end) == await atlas.events.cursor()

    async def test_a_page_at_the_end_of_the_log_stays_there(self, atlas: Atlas, clock: FixedClock) -> None:
        await failing_nights(atlas, clock, 1)
        end = str(await atlas.events.cursor())
        assert await (await acts(atlas)).read(end, 10) == Page([], end, 0, is_last=True)

    async def test_other_events_are_passed_over_and_not_read_again(self, atlas: Atlas) -> None:
        await record_steps(atlas, ["success"] * 3)
        await atlas.events.append_many([("quota.spent", {})] * 50)
        page = await Figures(atlas).read("0", 10)
        assert page == Page([], str(await atlas.events.cursor()), 0, is_last=True)


class TestProgress:
    async def test_events_of_other_kinds_are_not_taken_for_work_that_is_left(self, atlas: Atlas) -> None:
        for _ in range(40):
            await record_steps(atlas, ["success"] * 5)
            await atlas.events.append_many([("quota.spent", {})] * 15)
        source = await acts(atlas)
        assert source.left == 0
        page = await source.read("0", 50)
        assert (page.read, source.left) == (50, pytest.approx(150, abs=20))
        await source.read(page.end, 1000)
        assert source.left == 0

    async def test_each_page_is_reported_and_the_last_is_the_end(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await failing_nights(atlas, clock, 1)
        told: list[Progress] = []
        await run(Learner, atlas, batch_size=100, on_progress=told.append)
        of_events = [(each.done, each.claimed) for each in told if each.text.endswith("events")]
        assert of_events == [(100, STEPS), (200, STEPS), (STEPS, STEPS)]
        assert all(len(each.text) < 40 for each in told)


class TestClocks:
    """A clock was ahead for one cycle, by a year."""

    async def test_curves_are_read_again_once_the_clock_is_right(
        self, atlas: Atlas, clock: FixedClock, sql: Any
    ) -> None:
        async def published(id_: str, at: datetime) -> None:
            await store_video(sql, id_, published_at=at, discovered_at=at)
            await store_samples(sql, id_, [(at + n * HOUR, 100 * n) for n in range(1, 6)])

        source = Curves(atlas)
        await published("before", NOON - timedelta(days=20))
        clock.advance(timedelta(days=365))
        first = await source.read(source.start, 10)
        assert [each.video_id for each in first.inputs] == ["before"]
        assert (await source.read(first.end, 10)).end == first.end
        clock.advance(timedelta(days=-365))
        await published("after", NOON)
        clock.advance(timedelta(days=9))
        second = await source.read(first.end, 10)
        assert [each.video_id for each in second.inputs] == ["after"]
        assert (await source.read(second.end, 10)).read == 0

    async def test_what_arms_brought_is_read_again_once_the_clock_is_right(
        self, atlas: Atlas, clock: FixedClock, sql: Any
    ) -> None:
        async def brought(day: date) -> None:
            await sql.execute(
                "INSERT INTO discovery_yields (pacific_day, arm, asks, units, found) "
                "VALUES ($1, 'trending', 10, 10, 5)",
                day,
            )

        source = Yields(atlas)
        await brought(NOON.date() - timedelta(days=20))
        clock.advance(timedelta(days=365))
        first = await source.read(source.start, 100)
        clock.advance(timedelta(days=-365))
        await brought(NOON.date())
        clock.advance(timedelta(days=9))
        second = await source.read(first.end, 100)
        assert [len(first.inputs), len(second.inputs)] == [1, 1]
        assert (await source.read(second.end, 100)).read == 0

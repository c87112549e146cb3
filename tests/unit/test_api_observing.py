"""Notices between processes, and who waits for which of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import orjson
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.observations import MOST_NOTICE_BYTES
from maia.api.observing import Lessons, notices_of, read_notice
from maia.learner.continual import Lesson
from maia.learning.patterns import PatternType
from maia.views.patterns import BelievedPattern

AT = datetime(2026, 11, 2, tzinfo=UTC)


def pattern(number: int, statement: str = "so it is", data: str = "") -> BelievedPattern:
    return BelievedPattern(
        f"{number:032x}", PatternType.TASK_SEQUENCE, statement, ("a = b",), None, 0.9, 0.8, 0.95, 10, 9, 1,
        0.0, 1, 1, AT, AT, AT, False, 0.0, {"what": data},
    )  # fmt: skip


def lesson(after: int, up_to: int, *patterns: BelievedPattern) -> Lesson:
    return Lesson(after, up_to, frozenset({"us"}), patterns)


def hear(lessons: Lessons, learnt: Lesson) -> None:
    for notice in notices_of(learnt, ["us"]):
        told = read_notice(notice, "us")
        assert told is not None
        lessons.add(told)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=2_000), st.text(max_size=9_000)), max_size=20))
def test_notices_are_short_enough_and_lose_no_pattern_that_fits(texts: list[tuple[str, str]]) -> None:
    patterns = [pattern(n, statement, data) for n, (statement, data) in enumerate(texts)]
    notices = notices_of(lesson(0, 9, *patterns), ["us", "them"])
    assert all(len(notice.encode()) <= MOST_NOTICE_BYTES for notice in notices)
    heard = {
        id_: each for n in notices if (told := read_notice(n, "us")) for id_, each in told.patterns.items()
    }
    short = [each.id for each in patterns if len(orjson.dumps(each.statement)) < 6_000]
    assert set(short) <= heard.keys()
    assert read_notice(notices[0], "somebody else") is None


async def test_a_range_is_whole_with_its_last_notice() -> None:
    lessons = Lessons()
    first, *others = notices_of(lesson(0, 9, *(pattern(n, data="x" * 3_000) for n in range(5))), ["us"])
    assert others
    waiting = asyncio.ensure_future(lessons.of(3, 7, 60))
    for notice in (first, *others):
        await asyncio.sleep(0)
        assert not waiting.done()
        told = read_notice(notice, "us")
        assert told is not None
        lessons.add(told)
    outcome = await waiting
    assert (len(outcome.patterns), outcome.pending) == (5, False)


async def test_only_lessons_of_ones_own_observations_count_and_the_latest_of_them() -> None:
    lessons = Lessons()
    hear(lessons, lesson(0, 4, pattern(1)))
    hear(lessons, lesson(4, 8, pattern(2, "before"), pattern(3)))
    hear(lessons, lesson(8, 12, pattern(2, "now")))
    hear(lessons, lesson(12, 16, pattern(4)))
    outcome = await lessons.of(6, 12, 0)
    found = {orjson.loads(each)["id"]: orjson.loads(each)["statement"] for each in outcome.patterns.values()}
    assert found == {f"{2:032x}": "now", f"{3:032x}": "so it is"}


async def test_who_waits_in_vain_is_told_that_it_is_pending() -> None:
    lessons = Lessons()
    assert (await lessons.of(1, 2, 0)).pending
    hear(lessons, lesson(0, 1))
    assert (await lessons.of(1, 2, 0)).pending
    hear(lessons, lesson(1, 2))
    assert not (await lessons.of(1, 2, 0)).pending

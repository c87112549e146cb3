"""Patterns in PostgreSQL: evidence, merging, forgetting, cursors, models, alarms and suggestions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from atlas.adapters.patterns import (
    Alarm,
    Model,
    NewEvidence,
    PatternContent,
    PatternCopy,
    PatternsDAO,
    StoredEvidence,
    StoredPattern,
)
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.errors import DataRefused, LeaseLost
from atlas.testing import NOON, SettingsFactory

pytestmark = pytest.mark.integration

DAY = NOON.date()
A, B = "a" * 32, "b" * 32


@pytest.fixture
def dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> PatternsDAO:
    return PatternsDAO(database, clock=clock, settings=settings_factory())


def pattern(id_: str = A, statement: str = "feeds find early", **changes: Any) -> PatternContent:
    condition = {"field": "hour", "operator": "=", "value": 3}
    return PatternContent(
        id_, "tool_usage", {"tool": "feeds"}, statement, [condition], changes.pop("action", "feeds"), changes
    )


def counted(id_: str = A, day: date = DAY, pos: int = 3, neg: int = 1) -> NewEvidence:
    return NewEvidence(id_, day, pos, neg, 2.5, NOON)


async def only(dao: PatternsDAO) -> StoredPattern:
    [found] = await dao.known()
    return found


class TestCounting:
    async def test_a_pattern_comes_back_with_the_sums_of_its_evidence(self, dao: PatternsDAO) -> None:
        assert await dao.store([pattern(), pattern(B)]) == {A: True, B: True}
        await dao.count([counted(), counted(day=DAY - timedelta(days=1), pos=1, neg=0)])
        await dao.count([counted()])

        one, other = await dao.known()

        assert (one.pos, one.neg, one.sum_reward, one.days, one.sites) == (7, 2, 7.5, 2, 1)
        assert one.conditions == [{"field": "hour", "operator": "=", "value": 3}]
        assert (one.signature, one.action, one.last_seen) == ({"tool": "feeds"}, "feeds", NOON)
        assert (other.support, other.last_seen) == (0, None)

    async def test_only_changed_texts_are_rewritten(self, dao: PatternsDAO, clock: FixedClock) -> None:
        await dao.store([pattern()])
        clock.advance(timedelta(hours=1))

        assert await dao.store([pattern()]) == {}
        assert (await only(dao)).updated_at == NOON
        assert await dao.store([pattern(statement="feeds find most")]) == {A: False}
        found = await only(dao)
        assert (found.statement, found.version) == ("feeds find most", 2)
        assert (found.created_at, found.updated_at) == (NOON, NOON + timedelta(hours=1))

    async def test_thousands_are_stored_at_once(self, dao: PatternsDAO) -> None:
        ids = [f"{n:032x}" for n in range(2_500)]
        await dao.store([pattern(id_) for id_ in ids])
        await dao.count([counted(id_) for id_ in ids])

        assert await dao.count_known() == len(ids)
        assert {each.pos for each in await dao.known()} == {3}

    @pytest.mark.parametrize("wrong", [replace(pattern(), id="short"), replace(pattern(), type="hunch")])
    async def test_what_is_no_pattern_is_refused(self, dao: PatternsDAO, wrong: PatternContent) -> None:
        with pytest.raises(DataRefused):
            await dao.store([wrong])

    async def test_evidence_of_unknown_patterns_is_left_out(self, dao: PatternsDAO) -> None:
        await dao.count([counted(B)])
        await dao.store([pattern(B)])
        assert (await only(dao)).support == 0


class TestMerging:
    def rows(self) -> list[StoredEvidence]:
        return [
            StoredEvidence(A, node, DAY - timedelta(days=day), pos, neg, reward, NOON, version)
            for node in ("north", "south")
            for day in (0, 1)
            for pos, neg, reward, version in ((1, 0, 1.0, 1), (2, 1, -0.5, 2), (2, 5, 0.5, 3))
        ]

    async def test_order_and_repetition_make_no_difference(self, dao: PatternsDAO) -> None:
        await dao.store([pattern()])
        rows = self.rows() * 2
        random.Random(7).shuffle(rows)
        for row in rows:
            await dao.merge_evidence([row])
        await dao.merge_evidence(rows)

        found = await only(dao)
        assert (found.pos, found.neg, found.sum_reward, found.sites, found.days) == (8, 20, 2.0, 2, 2)
        assert await dao.merge_evidence(latest(self.rows())) == 0

    async def test_own_counts_and_others_add_up(self, dao: PatternsDAO) -> None:
        await dao.store([pattern()])
        await dao.count([counted()])
        assert await dao.merge_evidence(latest(self.rows())) == 4
        await dao.count([counted()])

        found = await only(dao)
        assert (found.pos, found.neg, found.sites) == (6 + 8, 2 + 20, 3)

    async def test_days_before_the_limit_and_unknown_patterns_are_left_out(self, dao: PatternsDAO) -> None:
        await dao.store([pattern()])
        strange = replace(self.rows()[0], pattern_id=B)
        assert await dao.merge_evidence([*latest(self.rows()), strange], since=DAY) == 2


def latest(rows: Sequence[StoredEvidence]) -> list[StoredEvidence]:
    return list({(row.node, row.day): row for row in rows}.values())


def copy_of(statement: str, version: int, **kept: Any) -> PatternCopy:
    content = pattern(statement=statement)
    fields = {name: getattr(content, name) for name in PatternContent.__dataclass_fields__}
    times = {"created_at": NOON, "updated_at": NOON, "attended_at": NOON}
    return PatternCopy(
        **fields, **times, version=version, pinned=kept.pop("pinned", False), sti=0, lti=0, **kept
    )


class TestMergingPatterns:
    """Copies of one pattern from several sites, of which operators forgot and remembered it."""

    COPIES = (
        copy_of("first", 1),
        copy_of("one site's text", 3),
        copy_of("another site's text", 3, pinned=True),
        copy_of("first", 2, forgotten_at=NOON + timedelta(hours=1), forgotten_by="operator"),
        copy_of("first", 9, forgotten_at=NOON + timedelta(hours=3), forgotten_by="operator"),
        copy_of("first", 4, remembered_at=NOON + timedelta(hours=2)),
        copy_of("first", 5, remembered_at=NOON + timedelta(hours=4)),
    )

    async def test_any_order_and_repetition_end_the_same(self, dao: PatternsDAO, sql: Any) -> None:
        rng = random.Random(9)
        for _ in range(60):
            copies = rng.sample(self.COPIES, rng.randint(2, len(self.COPIES)))
            ends = set()
            for _ in range(3):
                await sql.execute("TRUNCATE patterns CASCADE")
                for each in rng.sample(copies, len(copies)) + rng.sample(copies, 2):
                    await dao.merge_patterns([each])
                [end] = [each async for each in dao.all_patterns()]
                ends.add((end.statement, end.version, end.pinned, end.forgotten_at, end.forgotten_by))
                assert await dao.merge_patterns(copies[:1]) == [], "what was merged changes nothing again"
            assert len(ends) == 1, (copies, ends)

    @pytest.mark.parametrize(
        ("copies", "is_forgotten"),
        [
            ((1, 3), True),
            ((3, 1), True),
            ((4, 6), False),
            ((6, 4), False),
            ((5, 4), True),
            ((5, 3), False),
            ((4, 3, 2), True),
            ((3, 4), True),
        ],
    )
    async def test_of_an_operators_acts_the_later_one_holds(
        self, dao: PatternsDAO, copies: tuple[int, ...], is_forgotten: bool
    ) -> None:
        for nth in copies:
            await dao.merge_patterns([self.COPIES[nth]])
        assert (await dao.known() == []) is is_forgotten

    async def test_forgetting_and_remembering_are_in_order_though_the_clock_jumps_back(
        self, dao: PatternsDAO, clock: FixedClock
    ) -> None:
        await dao.store([pattern()])
        await dao.forget([A], "operator")
        [dead] = [each async for each in dao.all_patterns()]
        clock.advance(timedelta(hours=-5))
        await dao.remember([A])
        await dao.store([pattern()])
        [alive] = [each async for each in dao.all_patterns()]
        assert await dao.merge_patterns([dead]) == []
        assert alive.forgotten_at is None
        await dao.forget([A], "operator")
        [buried] = [each async for each in dao.all_patterns()]
        assert buried.forgotten_at == alive.remembered_at
        assert await dao.merge_patterns([alive]) == []


class TestForgetting:
    async def test_evidence_revives_what_the_learner_forgot(self, dao: PatternsDAO) -> None:
        await dao.store([pattern()])
        await dao.count([counted()])
        assert await dao.forget([A], "learner") == 1
        assert await dao.known() == []

        await dao.store([pattern()])
        await dao.count([counted()])
        assert (await only(dao)).pos == 3

    async def test_what_an_operator_forgets_stays_forgotten(self, dao: PatternsDAO) -> None:
        await dao.store([pattern()])
        await dao.forget([A], "operator")
        assert await dao.store([pattern()]) == {}
        await dao.count([counted()])
        assert await dao.known() == []

        assert await dao.beginning_with(A[:4]) == []
        assert await dao.beginning_with(A[:4], forgotten=True) == [A]
        assert await dao.remember([A]) == 1
        assert await dao.beginning_with(A[:4], forgotten=True) == []
        await dao.store([pattern()])
        assert (await only(dao)).support == 0

    async def test_old_evidence_expires_and_takes_patterns_along(
        self, dao: PatternsDAO, clock: FixedClock
    ) -> None:
        await dao.store([pattern(), pattern(B), pattern("c" * 32)])
        old = DAY - timedelta(days=90)
        await dao.count([counted(A, old), counted(A), counted(B, old), counted("c" * 32, old)])
        await dao.pin([B])

        assert await dao.expire(NOON - timedelta(days=89)) == 1
        assert [(each.id, each.pos) for each in await dao.known()] == [(A, 3), (B, 0)]

    async def test_some_are_read_by_their_ids(self, dao: PatternsDAO) -> None:
        await dao.store([pattern(A), pattern(B)])
        await dao.count([counted(A), counted(B, pos=7)])
        assert [(each.id, each.pos) for each in await dao.known(ids=[B, "c" * 32])] == [(B, 7)]
        assert await dao.known(["failure_mode"], ids=[B]) == []

    async def test_ids_are_found_by_their_beginning(self, dao: PatternsDAO) -> None:
        await dao.store([pattern(A), pattern("ab" * 16)])
        assert await dao.beginning_with("a") == [A, "ab" * 16]
        assert await dao.beginning_with("ab") == ["ab" * 16]
        assert await dao.beginning_with("%") == []

    async def test_so_are_those_that_an_operator_forgot(self, dao: PatternsDAO) -> None:
        await dao.store([pattern(A), pattern(B), pattern("ab" * 16)])
        await dao.forget([A], "operator")
        await dao.forget(["ab" * 16], "learner")
        assert await dao.beginning_with("a", forgotten=True) == [A]
        assert await dao.beginning_with("b", forgotten=True) == []
        await dao.remember([A])
        assert await dao.beginning_with("a", forgotten=True) == []


class TestCursors:
    async def test_a_cursor_moves_only_from_where_it_was_read(self, dao: PatternsDAO) -> None:
        assert await dao.cursor("events", "0") == "0"
        await dao.move_cursor("events", "0", "17")
        with pytest.raises(LeaseLost):
            await dao.move_cursor("events", "0", "20")
        assert await dao.cursor("events", "0") == "17"

    async def test_a_lost_cursor_takes_back_what_was_learnt(self, dao: PatternsDAO) -> None:
        await dao.cursor("events", "0")
        with pytest.raises(LeaseLost):
            async with dao.transaction() as inner:
                await inner.store([pattern()])
                await inner.move_cursor("events", "3", "4")
        assert await dao.known() == []

    async def test_models_are_replaced(self, dao: PatternsDAO) -> None:
        await dao.save_models([Model("one", 1, b"a", 5), Model("two", 1, b"b", 6)])
        await dao.save_models([Model("one", 2, b"c", 7)])
        assert await dao.models(["one", "two", "three"]) == {
            "one": Model("one", 2, b"c", 7),
            "two": Model("two", 1, b"b", 6),
        }


class TestAlarmsAndSuggestions:
    async def test_an_alarm_is_stored_once(self, dao: PatternsDAO) -> None:
        alarm = Alarm("cpu", NOON, "anomaly", 97.0, 0.99, "CPU load is odd")
        await dao.add_alarms([alarm])
        await dao.add_alarms([alarm, replace(alarm, series="load")])
        assert await dao.alarms(NOON - timedelta(hours=1), series="cpu") == [alarm]
        assert len(await dao.alarms(NOON)) == 2
        assert await dao.alarms(NOON + timedelta(seconds=1)) == []

    async def test_a_closed_suggestion_returns_only_with_another_text(self, dao: PatternsDAO) -> None:
        async def suggest(text: str) -> list[str]:
            await dao.suggest("interval", "schedule", text, command=None, evidence={"runs": 9})
            return [each.text for each in await dao.suggestions()]

        assert await suggest("run less often") == ["run less often"]
        assert await dao.close_suggestion("interval")
        assert await suggest("run less often") == []
        assert await suggest("run more often") == ["run more often"]

    async def test_a_site_has_one_name_and_hides_its_key(self, dao: PatternsDAO) -> None:
        site = await dao.site()
        assert site == await dao.site()
        assert len(site.privacy_key) == 32
        assert site.privacy_key.hex() not in repr(site)
        assert str(site.privacy_key) not in repr(site)

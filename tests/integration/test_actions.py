"""Actions in a real database: one decision at a time, abandoned attempts, and what the view tells."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from atlas.adapters.actions import ActionsDAO, Attempt, AttemptState, History, Permission, Thing
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import DataRefused
from atlas.maintainer_settings import ACTIONS
from atlas.testing import NOON, SettingsFactory
from maia.maintenance import policy
from maia.views.actions import actions, given_up

pytestmark = pytest.mark.integration

MINUTE = timedelta(minutes=1)
UNIT = Thing("restart", "pleiades.service", "test")
YES = Permission(permitted=True)


@pytest.fixture
def dao(atlas: Atlas) -> ActionsDAO:
    return ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def wanted(dao: ActionsDAO, thing: Thing = UNIT, **changes: Any) -> Attempt:
    node = thing.node or "test"
    return Attempt(**{"at": dao._clock.now(), "node": node, "thing": thing, "plan": "restart it", **changes})


async def begin(
    dao: ActionsDAO, decision: Permission = YES, lease_s: float = 60, **changes: Any
) -> int | None:
    _, id_ = await dao.begin(wanted(dao, **changes), lambda _: decision, spacing_s=300, lease_s=lease_s)
    return id_


async def one(dao: ActionsDAO, state: AttemptState = AttemptState.APPLIED, **changes: Any) -> int:
    id_ = await begin(dao, **changes)
    assert id_ is not None
    await dao.finish(id_, state, "done", 1.5)
    return id_


async def attempts(dao: ActionsDAO, thing: Thing = UNIT) -> tuple[Attempt, ...]:
    return (await dao.history(thing, 300)).attempts


async def test_an_attempt_is_on_the_record_from_its_beginning(dao: ActionsDAO, clock: FixedClock) -> None:
    id_ = await begin(dao, commands=("systemctl restart pleiades.service",), asked=True, is_restart=True)
    assert id_ is not None
    [running] = await attempts(dao)
    assert running == wanted(
        dao, id=id_, commands=("systemctl restart pleiades.service",), asked=True, is_restart=True
    )
    clock.advance(MINUTE)
    assert await dao.finish(id_, AttemptState.APPLIED, "it is active", 59.5)
    [applied] = await attempts(dao)
    assert (applied.state, applied.result, applied.seconds) == (AttemptState.APPLIED, "it is active", 59.5)
    assert applied.finished_at == applied.well_since == clock.now()
    assert not await dao.finish(id_, AttemptState.FAILED, "too late", 1)


async def test_what_is_held_back_leaves_no_attempt(dao: ActionsDAO) -> None:
    assert await begin(dao, Permission(permitted=False, reason="not now")) is None
    assert await attempts(dao) == ()


async def test_of_many_at_once_one_begins(dao: ActionsDAO) -> None:
    limits = policy.Limits.of(dao._settings.maintainer)

    def decide(history: History) -> Permission:
        return policy.decide(policy.Request(is_restart=True), history, limits, NOON)

    async def compete(node: str) -> int | None:
        attempt = wanted(dao, Thing("restart", "pleiades.service", node), is_restart=True)
        # Its own node, as each host has its own settings.
        of_node = ActionsDAO(
            dao._executor, clock=dao._clock, settings=dao._settings.model_copy(update={"node_id": node})
        )
        return (await of_node.begin(attempt, decide, spacing_s=300, lease_s=60))[1]

    begun = await asyncio.gather(*(compete(f"node-{n % 4}") for n in range(12)))
    assert len([id_ for id_ in begun if id_ is not None]) == 1


async def test_the_database_itself_refuses_a_second_one(dao: ActionsDAO, sql: Any) -> None:
    await begin(dao)
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute(
            "INSERT INTO actions (at, node, kind, target, scope, is_restart, asked, state, plan, expires_at) "
            "SELECT at, node, kind, target, scope, is_restart, asked, state, plan, expires_at FROM actions"
        )


async def test_the_kinds_are_those_that_can_be_allowed(sql: Any) -> None:
    check = await sql.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'actions_kind_check'"
    )
    assert sorted(ACTIONS) == sorted(check.split("'")[1::2])


class TestAbandoned:
    async def test_it_counts_as_unknown_even_before_it_is_closed(self, dao: ActionsDAO) -> None:
        await begin(dao, lease_s=0)
        [attempt] = await attempts(dao)
        assert attempt.state is AttemptState.UNKNOWN

    async def test_it_is_closed_by_the_next_decision(
        self, dao: ActionsDAO, clock: FixedClock, sql: Any
    ) -> None:
        await begin(dao, lease_s=0)
        clock.advance(MINUTE)
        await begin(dao, Permission(permitted=False))
        row = await sql.fetchrow("SELECT state, finished_at, result FROM actions")
        assert tuple(row) == ("unknown", NOON + MINUTE, "whoever began it ended before it was done")

    async def test_a_heartbeat_keeps_it(self, dao: ActionsDAO) -> None:
        id_ = await begin(dao, lease_s=0.2)
        assert id_ is not None
        assert await dao.keep(id_, 60)
        await asyncio.sleep(0.25)
        [attempt] = await attempts(dao)
        assert attempt.state is AttemptState.RUNNING

    async def test_whoever_lives_after_all_may_still_say_what_came_of_it(self, dao: ActionsDAO) -> None:
        id_ = await begin(dao, lease_s=0)
        assert id_ is not None
        await begin(dao, Permission(permitted=False))
        assert await dao.keep(id_, 60)
        [attempt] = await attempts(dao)
        assert (attempt.state, attempt.finished_at) == (AttemptState.RUNNING, None)
        await begin(dao, Permission(permitted=False))
        assert await dao.finish(id_, AttemptState.APPLIED, "it is active", 1)
        [attempt] = await attempts(dao)
        assert attempt.state is AttemptState.APPLIED

    async def test_but_not_that_it_still_runs_once_another_one_does(self, dao: ActionsDAO) -> None:
        id_ = await begin(dao, lease_s=0)
        assert id_ is not None
        await begin(dao)
        with pytest.raises(DataRefused):
            await dao.keep(id_, 60)


class TestElsewhere:
    async def test_only_restarts_of_other_nodes_that_matter_are_told(
        self, dao: ActionsDAO, clock: FixedClock
    ) -> None:
        there, apart = Thing("restart", "a.service", "there"), Thing("restart", "b.service", "apart")
        await one(dao, thing=there, is_restart=True)
        await one(dao, thing=Thing("vacuum", "videos"), node="there")
        await one(dao, is_restart=True)
        await begin(dao, thing=apart, is_restart=True)
        found = (await dao.history(UNIT, 300)).elsewhere
        assert {attempt.thing for attempt in found} == {there, apart}
        clock.advance(5 * MINUTE)
        assert [attempt.thing for attempt in (await dao.history(UNIT, 300)).elsewhere] == [apart]

    async def test_each_node_has_its_own_history_but_they_share_that_of_shared_things(
        self, dao: ActionsDAO
    ) -> None:
        await one(dao, thing=Thing("restart", "pleiades.service", "there"), is_restart=True)
        await one(dao, thing=Thing("vacuum", "videos"), node="there")
        assert await attempts(dao) == ()
        assert len(await attempts(dao, Thing("vacuum", "videos"))) == 1


class TestLastingEffect:
    """The database keeps what `maia.maintenance.policy` says of attempts."""

    LASTING_S = 3600.0

    async def test_it_is_kept_as_the_policy_says(self, dao: ActionsDAO, clock: FixedClock) -> None:
        lasting = timedelta(seconds=self.LASTING_S)
        await one(dao, AttemptState.FAILED)
        [expected] = await attempts(dao)
        for minutes, well in [(5, True), (5, False), (5, True), (30, True), (30, True), (5, False)]:
            clock.advance(minutes * MINUTE)
            now = clock.now()
            if well:
                await dao.note_well("restart", [UNIT.target, "another"], "test", self.LASTING_S)
                expected = policy.seen_well(expected, lasting, now)
            else:
                settled = policy.has_settled(expected, lasting, now)
                await begin(dao, Permission(permitted=False, settled=settled))
                expected = policy.needed_again(expected, lasting, now)
            assert await attempts(dao) == (expected,)
        assert expected.settled

    async def test_what_is_settled_or_was_never_tried_is_not_written_again(self, dao: ActionsDAO) -> None:
        await one(dao)
        assert await dao.note_well("restart", [UNIT.target], "test", 0) == 1
        assert await dao.note_well("restart", [UNIT.target], "test", 0) == 0
        assert await dao.note_well("restart", ["another"], "test", 0) == 0
        assert await dao.note_well("restart", [UNIT.target], "there", 0) == 0

    async def test_only_the_last_attempt_counts(self, dao: ActionsDAO, clock: FixedClock) -> None:
        first = await one(dao, AttemptState.FAILED)
        clock.advance(MINUTE)
        await one(dao, AttemptState.FAILED)
        await dao.note_well("restart", [UNIT.target], "test", self.LASTING_S)
        later, earlier = await attempts(dao)
        assert (later.well_since, earlier.id, earlier.well_since) == (clock.now(), first, None)


async def test_a_restored_record_of_an_attempt_is_like_one_that_was_begun(dao: ActionsDAO) -> None:
    thing = Thing("emergency", "logs", "test")
    ended = policy.ended(wanted(dao, thing, result="freed 1 GB", seconds=2.0), AttemptState.APPLIED, NOON)
    id_ = await dao.add(ended)
    [stored] = await attempts(dao, thing)
    assert stored == replace(ended, id=id_)


async def test_text_that_cannot_be_stored_is_cleaned_and_cut(dao: ActionsDAO) -> None:
    thing = Thing("restart", "bad\0name" + "x" * 400, "test")
    id_ = await begin(dao, thing=thing, plan="nul \0 in it", commands=("\ud800",))
    assert id_ is not None
    await dao.finish(id_, AttemptState.FAILED, "y" * 100_000, 0)
    [stored] = await attempts(dao, thing)
    assert (stored.plan, stored.commands, len(stored.result)) == ("nul  in it", ("\ufffd",), 4000)
    assert len(stored.thing.target) == 300


class TestView:
    async def test_it_lists_the_last_actions_of_all_hosts_or_of_one(
        self, atlas: Atlas, dao: ActionsDAO, clock: FixedClock
    ) -> None:
        await one(dao)
        clock.advance(MINUTE)
        await one(dao, AttemptState.FAILED, thing=Thing("vacuum", "videos"), node="there")
        shown = await actions(atlas, NOON)
        assert [(line.kind, line.target, line.state) for line in shown.lines] == [
            ("vacuum", "videos", "failed"),
            ("restart", "pleiades.service", "applied"),
        ]
        assert shown.counts == {"applied": 1, "failed": 1}
        assert [line.node for line in (await actions(atlas, NOON, node="test")).lines] == ["test"]
        assert (await actions(atlas, NOON + MINUTE)).counts == {"failed": 1}

    async def test_it_tells_what_is_left_to_people(
        self, atlas: Atlas, dao: ActionsDAO, clock: FixedClock
    ) -> None:
        for _ in range(5):
            clock.advance(10 * MINUTE)
            await one(dao, AttemptState.FAILED)
            await one(dao, AttemptState.FAILED, asked=True, thing=Thing("vacuum", "videos"))
        [found] = (await actions(atlas, NOON)).given_up
        assert (found.kind, found.target, found.node, found.attempts) == (
            "restart",
            "pleiades.service",
            "test",
            5,
        )
        assert found.last_at == clock.now()
        await one(dao, asked=True)
        assert await given_up(atlas) == []

    async def test_it_counts_by_kind_and_state(self, dao: ActionsDAO) -> None:
        await one(dao)
        await one(dao, AttemptState.FAILED)
        await begin(dao, lease_s=0)
        counted = await dao.counts(NOON, NOON + MINUTE)
        assert [(each.kind, each.state.value, each.count) for each in counted] == [
            ("restart", "applied", 1),
            ("restart", "failed", 1),
            ("restart", "unknown", 1),
        ]


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Any:
    return settings_factory(maintainer={"actions": {"give_up_after": 5}})

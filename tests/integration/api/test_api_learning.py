"""The learning service over HTTP: its patterns, and runs of the learner in a process of their own."""

from __future__ import annotations

import asyncio

import pytest

from atlas.adapters.patterns import NewEvidence, PatternsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.learner.cycle import LOCK
from maia.learner.knowledge import content_of
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from tests.integration.test_learner import failing_nights
from tests.served import Served, served

pytestmark = pytest.mark.integration

LEARN = "/api/v1/patterns/learn"


@pytest.fixture
def dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def test_patterns_have_the_shape_that_others_rely_on(atlas: Atlas, dao: PatternsDAO) -> None:
    hot = Condition("cpu_percent", Operator.ABOVE, 80)
    learnt = Pattern(PatternType.THRESHOLD, {"x": 1}, "hot", (hot,), "notify_admin", {"n": 2})
    await dao.store([content_of(learnt)])
    await dao.count([NewEvidence(learnt.id, NOON.date(), 40, 1, 0.0, NOON)])
    async with served(atlas) as service:
        found = (await service.get("/api/v1/patterns?type=threshold&confidence_min=0.5&limit=5")).json
        none = (await service.get("/api/v1/patterns?type=anomaly")).json
    [pattern] = found["patterns"]
    assert (found["total"], found["offset"], found["limit"]) == (1, 0, 5)
    assert (pattern["id"], pattern["type"]) == (learnt.id, "threshold")
    assert (pattern["support"], pattern["sites"]) == (41, 1)
    assert (pattern["created_at"], pattern["updated_at"]) == ("2026-11-02T12:00:00Z",) * 2
    assert pattern["data"] == {
        "pattern": "hot", "conditions": ["cpu_percent > 80"], "actions": ["notify_admin"],
        "details": {"n": 2},
    }  # fmt: skip
    assert (none["patterns"], none["total"]) == ([], 0)


async def test_a_run_learns_and_one_under_way_is_named(
    service: Served, atlas: Atlas, dao: PatternsDAO, clock: FixedClock
) -> None:
    await failing_nights(atlas, clock, 6)
    body = {"force": True, "full_analysis": False}
    both = await asyncio.gather(service.post(LEARN, body), service.post(LEARN, body))
    learnt, second = sorted(both, key=lambda answer: answer.status)
    assert (learnt.status, second.status) == (200, 409)
    assert (learnt.json["success"], learnt.json["outcome"]) == (True, "done"), learnt.json
    assert second.json["run"] == learnt.json["run"] != ""
    assert learnt.json["new_patterns"] == await dao.count_known() > 0
    assert learnt.json["duration_seconds"] > 0
    [event] = await atlas.events.latest(1, kinds=["learner.cycle"])
    assert event.session == learnt.json["run"]


async def test_a_run_of_somebody_else_is_named(service: Served, atlas: Atlas, dao: PatternsDAO) -> None:
    async with atlas.db.only_one(LOCK) as is_only:
        assert is_only
        await dao.begin_run("theirs")
        answer = await service.post(LEARN, {})
    assert (answer.status, answer.json["run"]) == (409, "theirs")
    assert await dao.run_under_way(LOCK) is None


async def test_no_learner_survives_the_service(atlas: Atlas, dao: PatternsDAO, clock: FixedClock) -> None:
    await failing_nights(atlas, clock, 12)
    async with served(atlas) as service:
        running = asyncio.create_task(service.post(LEARN, {}))
        async with asyncio.timeout(60):
            while await dao.run_under_way(LOCK) is None:
                assert not running.done()
                await asyncio.sleep(0.01)
    await asyncio.wait([running])
    assert await dao.run_under_way(LOCK) is None


async def test_what_is_no_request_is_refused(service: Served) -> None:
    bodies: list[object] = [[], {"force": "yes"}, {"force": 1}, {"surprise": True}, None]
    for body in bodies:
        assert (await service.post(LEARN, body)).status == 422
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    told = await service.ask("POST", LEARN, data='{"force": false}', headers=form)
    assert (told.status, "Content-Type: application/json" in told.json["detail"]) == (422, True)

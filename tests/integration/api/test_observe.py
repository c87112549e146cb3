"""POST /observe: what is sent is stored durably, learnt once by one process, and told to whoever sent it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from atlas.adapters.observations import ObservationsDAO
from atlas.adapters.patterns import PatternsDAO
from atlas.adapters.retention import RULES, RetentionDAO
from atlas.composition import Atlas
from atlas.errors import LeaseLost
from atlas.scopes import Scope
from atlas.testing import NOON
from maia.api.observing import Observing
from maia.api.problems import Problem
from maia.cycle.agent import run
from maia.learner import continual
from maia.learner.continual import LOCK, MODELS, ContinualLearner
from maia.learner.cycle import Learner
from maia.learner.replay import observation_of
from maia.learning.observations import Observation, as_logged
from maia.views import patterns as views
from tests.served import Served, served

pytestmark = pytest.mark.integration

DEPLOY = {"agent": "deployer", "session": "s", "action": "build"}

REFUSED: tuple[tuple[Any, str], ...] = (
    (b"", "body"),
    (b"{", "body"),
    (b"7", "body"),
    (b'"text"', "body"),
    ({}, "body.agent"),
    (DEPLOY | {"mood": "good"}, "body.mood"),
    (DEPLOY | {"agent": " "}, "body.agent"),
    (DEPLOY | {"agent": "a" * 81}, "body.agent"),
    (DEPLOY | {"session": 7}, "body.session"),
    (DEPLOY | {"action": "a\0b"}, "body.action"),
    (DEPLOY | {"reward": True}, "body.reward"),
    (DEPLOY | {"reward": "1"}, "body.reward"),
    (DEPLOY | {"cost": -1}, "body.cost"),
    (DEPLOY | {"cost": 1e300}, "body.cost"),
    (DEPLOY | {"at": "2026-11-02T12:00:00"}, "body.at"),
    (DEPLOY | {"at": "2026-11-04T12:00:00Z"}, "body.at"),
    (DEPLOY | {"at": "1969-12-31T23:59:59Z"}, "body.at"),
    (DEPLOY | {"at": "9999-12-31T23:59:59-23:00"}, "body.at"),
    (DEPLOY | {"at": 1_700_000_000}, "body.at"),
    (DEPLOY | {"context": {"a": {"b": 1}}}, "body.context.a"),
    (DEPLOY | {"context": {"a": "b" * 201}}, "body.context.a"),
    (DEPLOY | {"context": {"a": 2**63}}, "body.context.a"),
    (DEPLOY | {"context": {f"f{n}": 1 for n in range(38)}}, "body.context"),
    (DEPLOY | {"agent": "offer", "context": {"count": 10**7}}, "body.context.count"),
    ([DEPLOY, DEPLOY | {"cost": None}], "body.1.cost"),
    ([DEPLOY, DEPLOY, DEPLOY | {"at": "1800-01-01T00:00:00Z"}], "body.2.at"),
    ([DEPLOY] * 1_001, "body"),
    (b'{"agent":"a","session":"s","action":"b","reward":NaN}', "body.reward"),
    (b'{"agent":"a","session":"s","action":"b","context":{"x":1e999}}', "body.context.x"),
    (b'{"agent":"\xff","session":"s","action":"b"}', "body"),
    (b'{"agent":"\\ud800","session":"s","action":"b"}', "body"),
)


def sessions(first: int, count: int) -> list[dict[str, Any]]:
    """Sessions in which a test follows each build, and sometimes other things happen."""
    made = []
    for n in range(first, first + count):
        actions = ("build", "test", "release") if n % 3 else ("build", "test", "rest", "lint")
        made += [{"agent": "deployer", "session": f"s{n}", "action": action} for action in actions]
    return made


def observations(first: int, count: int) -> list[Observation]:
    """The same as `Observation`s."""
    return [Observation(**each, at=NOON) for each in sessions(first, count)]


def with_api(atlas: Atlas, **changes: Any) -> Atlas:
    api = atlas.settings.api.model_copy(update=changes)
    return replace(atlas, settings=atlas.settings.model_copy(update={"api": api}))


async def learnt_by(atlas: Atlas, detector: str = "task_sequences") -> int:
    """How many observations a detector of the service has learnt, as stored."""
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    models = await dao.models([MODELS + detector])
    return sum(model.observations for model in models.values())


async def times_tested(atlas: Atlas) -> int:
    """The stored evidence that a test follows a build."""
    found = await views.patterns(atlas)
    [pattern] = [each for each in found if each.statement.startswith("after build, ")]
    return pattern.pos


@pytest.fixture
def dao(atlas: Atlas) -> ObservationsDAO:
    return ObservationsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


class TestLearning:
    async def test_what_changed_is_in_the_answer_and_then_in_the_database(self, atlas: Atlas) -> None:
        async with served(atlas) as service:
            first = await service.post("/observe", DEPLOY)
            assert first.json == {"accepted": 1, "patterns": [], "pending": False, "repeated": 0}
            answer = await service.post("/observe", sessions(0, 60))
        told = {each["statement"]: each for each in answer.json["patterns"]}
        [tested] = [each for statement, each in told.items() if statement.startswith("after build, ")]
        assert (tested["type"], tested["pos"], tested["neg"]) == ("task_sequence", 60, 0)
        stored = await views.pattern(atlas, tested["id"])
        assert stored is not None
        assert stored.pattern.confidence == pytest.approx(tested["confidence"])
        assert (stored.pattern.pos, stored.pattern.days) == (60, 1)

    async def test_the_next_process_goes_on_where_the_last_one_stopped(self, atlas: Atlas) -> None:
        for first in (0, 60, 120):
            async with served(atlas) as service:
                answer = await service.post("/observe", sessions(first, 60))
                assert not answer.json["pending"]
            assert await learnt_by(atlas) == len(sessions(0, first + 60))
            assert await times_tested(atlas) == first + 60

    async def test_what_was_sent_twice_under_a_key_counts_once(self, atlas: Atlas, sql: Any) -> None:
        keyed = [DEPLOY | {"key": f"k{n}"} for n in range(3)]
        async with served(atlas) as service:

            async def repeated(body: Any, key: str | None = None) -> int:
                headers = {} if key is None else {"Idempotency-Key": key}
                answer = await service.post("/observe", body, headers=headers)
                assert answer.status == 200, answer.body
                assert not answer.json["pending"]
                return int(answer.json["repeated"])

            both = sessions(0, 2)
            assert [await repeated(both, "one"), await repeated(both, "one")] == [0, len(both)]
            assert await repeated([*both, DEPLOY], "one") == len(both)
            assert [await repeated(both, "two"), await repeated(both)] == [0, 0]
            assert [await repeated(keyed[:2]), await repeated([*keyed, keyed[2]], "one")] == [0, 3]
            odd = await service.post("/observe", DEPLOY, headers={"Idempotency-Key": "a b"})
            assert odd.status == 422
            stored = 3 * len(both) + 1 + 3
            assert await sql.fetchval("SELECT count(*) FROM observations") == stored
            told = (await service.get("/statistics")).json["process"]
            assert told["observations"] == stored
        async with served(atlas) as service:
            assert (await service.get("/statistics")).json["observed"] == stored
            metrics = (await service.get("/metrics")).body.decode()
            assert f"pattern_engine_interactions_total {stored:.1f}" in metrics

    async def test_what_was_learnt_but_not_stored_is_learnt_again(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        await dao.append(observations(0, 60), writer="gone", most_waiting=1_000, wake=False)
        crashed = await ContinualLearner.restore(atlas)
        lesson, _ = await crashed.learn()
        assert lesson is not None
        assert lesson.patterns
        assert await learnt_by(atlas) == 0
        async with served(atlas) as service:
            await service.post("/observe", sessions(60, 1))
        assert await times_tested(atlas) == 61

    async def test_states_that_were_stored_earlier_are_brought_up_to_date(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        learner = await ContinualLearner.restore(atlas)
        for n, states in enumerate((True, False, False)):
            await dao.append(observations(60 * n, 60), writer="w", most_waiting=1_000, wake=False)
            await learner.learn()
            await learner.flush(states=states)
        assert await learnt_by(atlas) == len(sessions(0, 60))
        assert await times_tested(atlas) == 180
        restored = await ContinualLearner.restore(atlas)
        assert restored._knowledge.models("observations") == learner._knowledge.models("observations")
        assert (await restored.learn())[0] is None
        await restored.flush()
        assert await learnt_by(atlas) == len(sessions(0, 180))
        assert await times_tested(atlas) == 180

    async def test_a_process_of_its_own_makes_the_states_that_a_successor_would_have(
        self, atlas: Atlas, dao: ObservationsDAO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        learner = await ContinualLearner.restore(atlas)
        for n in range(3):
            await dao.append(observations(60 * n, 60), writer="w", most_waiting=1_000, wake=False)
            await learner.learn()
            await learner.flush(states=n == 0)
        monkeypatch.setattr(continual, "_QUICK_S", -1.0)
        monkeypatch.setattr(continual, "_FLUSH_S", 0.0)
        learner._states_at = learner._flush_at = 0.0
        await learner.keep()
        await dao.append(observations(180, 60), writer="w", most_waiting=1_000, wake=False)
        await learner.learn()
        async with asyncio.timeout(60):
            while await learnt_by(atlas) == len(sessions(0, 60)):
                await learner.keep()
                await asyncio.sleep(0.05)
        await learner.close()
        assert await learnt_by(atlas) == len(sessions(0, 180))
        restored = await ContinualLearner.restore(atlas)
        assert restored._knowledge.models("observations") == learner._knowledge.models("observations")

    async def test_what_is_handed_is_learnt_as_if_it_was_read(
        self, atlas: Atlas, dao: ObservationsDAO, sql: Any
    ) -> None:
        odd = {
            "long name": 1.0,
            "b": -0.0,
            "ä": 1e16,
            "z" * 80: 0.1,
            "n": None,
            "t": True,
            "e": 1e300,
            "s": "x",
        }
        given = [
            replace(each, context=odd | {"hour": n}, reward=-0.0, cost=0.1)
            for n, each in enumerate(observations(0, 3))
        ]
        appended = await dao.append(given, writer="w", most_waiting=1_000, wake=False)
        assert appended is not None
        rows = await dao.since(0, await dao.watermark(), 100)
        for row, each in zip(map(observation_of, rows), map(as_logged, given), strict=True):
            assert (row, repr(row.context)) == (each, repr(each.context))
        learner = await ContinualLearner.restore(atlas)
        learner.hand(appended[:4], given[:4], "w")
        learner.hand(appended[6:], given[6:], "w")
        ends = []
        while (lesson := (await learner.learn())[0]) is not None:
            ends.append(lesson.up_to)
        assert ends == [appended[3].id, appended[-1].id]
        await learner.flush()
        assert await learnt_by(atlas) == len(given)

    async def test_what_is_learnt_while_others_are_stored_is_told_and_stored_once(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        learner = await ContinualLearner.restore(atlas)
        told: dict[str, int] = {}
        for n in range(3):
            await dao.append(observations(60 * n, 60), writer="w", most_waiting=1_000, wake=False)
            lesson, _ = await learner.learn()
            assert lesson is not None
            told |= {each.id: each.pos for each in lesson.patterns}
            if n == 1:
                # As if others had changed patterns since.
                learner._current.clear()
            learner._flush_at = 0.0
            await learner.keep()
        await learner.flush()
        stored = await views.patterns(atlas)
        assert {each.id: each.pos for each in stored if each.id in told} == told
        assert await times_tested(atlas) == 180

    async def test_of_two_that_learn_at_once_only_one_can_store(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        await dao.append(observations(0, 60), writer="gone", most_waiting=1_000, wake=False)
        both = [await ContinualLearner.restore(atlas) for _ in range(2)]
        for each in both:
            await each.learn()
        await both[1].flush()
        with pytest.raises(LeaseLost):
            await both[0].flush()
        assert await times_tested(atlas) == 60

    async def test_nothing_is_stored_of_a_batch_that_was_cut_off(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        await dao.append(observations(0, 60), writer="gone", most_waiting=1_000, wake=False)
        learner = await ContinualLearner.restore(atlas)
        learner._is_torn = True
        await learner.flush()
        assert await learnt_by(atlas) == 0

    async def test_the_learner_agent_leaves_them_alone(self, atlas: Atlas, service: Served) -> None:
        await service.post("/observe", sessions(0, 60))
        assert (await run(Learner, atlas))["observations"] == 0

    async def test_what_an_operator_forgot_is_not_told_again(self, atlas: Atlas) -> None:
        async with served(atlas) as service:
            first = await service.post("/observe", sessions(0, 60))
        ids = [each["id"] for each in first.json["patterns"]]
        await PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).forget(ids, "operator")
        async with served(atlas) as service:
            again = await service.post("/observe", sessions(60, 60))
        assert not {each["id"] for each in again.json["patterns"]} & set(ids)

    async def test_personal_data_never_reaches_the_log(self, service: Served, sql: Any) -> None:
        context = {"client": "192.0.2.1", "contact": "ada@example.org", "password": "hunter2", "n": 3}
        await service.post("/observe", DEPLOY | {"session": "192.0.2.1", "context": context})
        row = dict(await sql.fetchrow("SELECT session, context FROM observations"))
        assert not [text for text in ("192.0.2.1", "ada@", "hunter2") if text in str(row)]
        kept = orjson.loads(row["context"])
        assert (kept["n"], kept["hour"], kept["weekday"]) == (3, NOON.hour, NOON.weekday())


class TestRefusals:
    async def test_say_what_is_wrong_where_and_nothing_is_stored(self, service: Served, sql: Any) -> None:
        for body, where in REFUSED:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            answer = await service.ask("POST", "/observe", data=data)
            assert answer.status == 422, body
            assert answer.json["errors"][0]["where"].startswith(where), body
            assert answer.json["errors"][0]["why"]
        assert await sql.fetchval("SELECT count(*) FROM observations") == 0

    async def test_those_who_may_only_read(self, service: Served) -> None:
        header = await service.add_key("reader", Scope.READ)
        assert (await service.post("/observe", DEPLOY, headers=header)).status == 403

    async def test_an_empty_list_is_no_fault(self, service: Served) -> None:
        answer = await service.post("/observe", [])
        assert (answer.status, answer.json["accepted"]) == (200, 0)

    async def test_a_long_list_is_taken_whole(self, service: Served, sql: Any) -> None:
        long = [DEPLOY | {"context": {"text": "x" * 190}, "session": f"s{n}"} for n in range(1_000)]
        assert (await service.post("/observe", long)).json["accepted"] == 1_000
        assert await sql.fetchval("SELECT count(*) FROM observations") == 1_000

    async def test_too_much_that_waits(self, atlas: Atlas, sql: Any) -> None:
        limited = with_api(atlas, most_unlearnt=1_000, observe_wait_s=0)
        async with atlas.db.only_one(LOCK) as is_only, served(limited) as service:
            assert is_only
            first = await service.post("/observe", sessions(0, 150))
            assert first.json["pending"]
            for _ in range(4):
                last = await service.post("/observe", sessions(0, 150))
        assert last.status == 503
        assert int(last.headers["Retry-After"]) >= 1
        assert await sql.fetchval("SELECT count(*) FROM observations") <= 1_000


class TestProcesses:
    async def test_those_that_do_not_lead_hear_what_changed(self, atlas: Atlas) -> None:
        patient = with_api(atlas, observe_wait_s=30)
        async with served(patient) as leader, served(patient) as other:
            own = await leader.post("/observe", sessions(0, 60))
            answer = await other.post("/observe", sessions(60, 60))
        assert not answer.json["pending"]
        told = {each["id"]: each["pos"] for each in answer.json["patterns"]}
        before = {each["id"]: each["pos"] for each in own.json["patterns"]}
        assert all(told[id_] > before[id_] for id_ in told.keys() & before.keys())
        assert told.keys() & before.keys()
        assert await times_tested(atlas) == 120

    async def test_without_a_leader_it_is_learnt_later(self, atlas: Atlas) -> None:
        async with atlas.db.only_one(LOCK), served(with_api(atlas, observe_wait_s=0.01)) as service:
            answer = await service.post("/observe", sessions(0, 60))
            assert answer.json == {"accepted": 200, "patterns": [], "pending": True, "repeated": 0}
        async with served(atlas) as service:
            await service.post("/observe", DEPLOY)
        assert await times_tested(atlas) == 60

    async def test_many_requests_are_stored_with_few_statements(self, atlas: Atlas, sql: Any) -> None:
        observing = Observing(with_api(atlas, observe_wait_s=0))
        async with observing.running():
            requests = [observing.observe(observations(n, 1)) for n in range(50)]
            await asyncio.gather(*requests)
        assert await sql.fetchval("SELECT count(*) FROM observations") == len(sessions(0, 50))
        assert await sql.fetchval("SELECT count(DISTINCT xmin::text) FROM observations") <= 2

    async def test_a_process_that_stops_gives_its_callers_an_answer(self, atlas: Atlas, sql: Any) -> None:
        observing = Observing(atlas)
        async with sql.transaction():
            # Nobody can append meanwhile.
            await sql.execute("LOCK TABLE observations IN EXCLUSIVE MODE")
            async with observing.running():
                waiting = [asyncio.ensure_future(observing.observe(observations(n, 1))) for n in range(3)]
                await asyncio.sleep(0.05)
                waiting.append(asyncio.ensure_future(observing.observe(observations(4, 1))))
                await asyncio.sleep(0)
        for each in waiting:
            with pytest.raises(Problem, match="stopped"):
                await each
        with pytest.raises(Problem, match="stopped"):
            await observing.observe(observations(5, 1))


class TestLog:
    async def test_readers_skip_none_though_later_ones_commit_first(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        async def append(where: ObservationsDAO, first: int) -> list[int]:
            rows = observations(first, 1)
            appended = await where.append(rows, writer="w", most_waiting=1_000, wake=False)
            assert appended is not None
            return [each.id for each in appended if each.id is not None]

        async with dao.transaction() as slow:
            early = await append(slow, 0)
            late = await append(dao, 1)
            watermark = await dao.watermark()
            assert watermark.readable < early[0]
            assert watermark.taken == late[-1]
            assert await dao.since(0, watermark, 100) == []
        rows = await dao.since(0, await dao.watermark(), 100)
        assert [row.id for row in rows] == [*early, *late]

    async def test_ids_that_were_rolled_back_do_not_count_as_waiting(
        self, atlas: Atlas, dao: ObservationsDAO
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            async with dao.transaction() as ours:
                await ours.append(observations(0, 100), writer="w", most_waiting=1_000, wake=False)
                raise ZeroDivisionError
        learner = await ContinualLearner.restore(atlas)
        assert await learner.learn() == (None, False)
        await learner.flush()
        assert await dao.append(observations(0, 1), writer="w", most_waiting=4, wake=False)

    async def test_what_is_learnt_is_deleted_after_its_days(
        self, atlas: Atlas, dao: ObservationsDAO, clock: Any, sql: Any
    ) -> None:
        [rule] = [rule for rule in RULES if rule.table == "observations"]
        retention = RetentionDAO(atlas.db, clock=clock, settings=atlas.settings)
        learner = await ContinualLearner.restore(atlas)
        for n, states in enumerate((True, False, None)):
            await dao.append(observations(n, 1), writer="w", most_waiting=1_000, wake=False)
            if states is not None:
                await learner.learn()
                await learner.flush(states=states)
        assert await retention.find(rule) is None
        clock.advance(timedelta(days=8))
        expired = await retention.find(rule)
        assert expired is not None
        assert [each async for each in retention.remove(expired)] == [len(sessions(0, 1))]
        # What is in no stored state yet would have to be learnt again.
        assert await sql.fetchval("SELECT count(*) FROM observations") == len(sessions(1, 2))

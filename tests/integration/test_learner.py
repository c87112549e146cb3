"""The learner over a real database: what it reads, learns and stores, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.graph import GraphDAO
from atlas.adapters.patterns import PatternsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from maia import acts
from maia.cycle.agent import run
from maia.cycle.expectations import SUCCESS_MODEL
from maia.learner import outcomes
from maia.learner.cycle import LOCK, Learner
from maia.learner.llama import LlamaError, StatisticalFailures
from maia.learner.outcomes import CLASSES, MOST_CLASSIFIED, TEMPLATES, classify_new_templates
from maia.learner.sequences import next_steps
from maia.learner.sources import Acts
from maia.learning.failure_classes import BY_REASON, FailureClasses
from maia.learning.success import SuccessPredictor, known_before
from maia.learning.templates import Classified, FailureClass, FailureTemplates
from tests.interference import database_lost_at_third_page

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)


async def record_steps(atlas: Atlas, outcomes: Sequence[str], *, session: str = "s", **context: Any) -> None:
    """Steps of a hunter, one after the other, with the outcomes in turn."""
    steps = [
        (
            "hunter.step",
            {
                "action": "search:slices" if n % 2 else "feeds",
                "outcome": outcome,
                "reward": 2.0 if outcome == "success" else 0.0,
                "cost": 1.0,
                "seconds": 0.5,
                "context": {"arm": "slices", **context},
            }
            | ({} if outcome == "success" else {"error": f"backend error {n} at 10.0.0.{n % 250}"}),
        )
        for n, outcome in enumerate(outcomes)
    ]
    await atlas.events.append_many(steps, agent="hunter", session=session)


async def learn(atlas: Atlas, **options: Any) -> dict[str, Any]:
    return await run(Learner, atlas, **options)


def dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def evidence(atlas: Atlas) -> dict[str, tuple[int, int]]:
    return {each.id: (each.pos, each.neg) for each in await dao(atlas).known()}


async def failing_nights(atlas: Atlas, clock: FixedClock, days: int) -> None:
    """A hunter that mostly fails at night, and recovers by feeds."""
    for _ in range(days * 24):
        clock.advance(HOUR)
        night = clock.now().hour < 6
        outcomes = ["transient", "success", "transient"] * 3 if night else ["success"] * 9
        await record_steps(atlas, outcomes, session=clock.now().isoformat(), night=night)


class TestLearning:
    async def test_what_happens_at_night_is_found(self, atlas: Atlas, clock: FixedClock) -> None:
        await failing_nights(atlas, clock, 6)

        statistics = await learn(atlas)

        assert statistics["outcome"] == "done"
        assert statistics["observations"] == 6 * 24 * 9
        known = await dao(atlas).known()
        assert statistics["patterns"] == statistics["new_patterns"] == len(known) > 0
        modes = [each for each in known if each.type == "failure_mode"]
        assert any("night" in each.statement for each in modes), [each.statement for each in modes]
        assert max(each.pos for each in modes) > 20

    async def test_each_event_is_learnt_once(self, atlas: Atlas, clock: FixedClock) -> None:
        await failing_nights(atlas, clock, 5)
        await learn(atlas)
        first = await evidence(atlas)

        again = await learn(atlas)

        assert (again["observations"], again["new_patterns"]) == (0, 0)
        assert await evidence(atlas) == first

    async def test_pages_and_cycles_learn_the_same_as_one_page(self, atlas: Atlas, clock: FixedClock) -> None:
        await failing_nights(atlas, clock, 5)
        await learn(atlas, batch_size=200)
        in_pages = {each.id for each in await dao(atlas).known()}
        models = await dao(atlas).models(["detector.error_recoveries"])

        assert sum(each.observations for each in models.values()) == 5 * 24 * 9
        assert in_pages

    async def test_contexts_and_errors_lose_personal_data(self, atlas: Atlas, clock: FixedClock) -> None:
        for _ in range(40):
            clock.advance(HOUR)
            await record_steps(
                atlas,
                ["success", "transient"] * 5,
                session=clock.now().isoformat(),
                proxy="192.0.2.77",
                owner="someone@example.org",
            )
        await learn(atlas)
        dump = str(await dao(atlas).known()) + str(await states(atlas))
        assert "192.0.2.77" not in dump
        assert "someone@example.org" not in dump


async def states(atlas: Atlas) -> list[Any]:
    from maia.learner.knowledge import Knowledge, detector_classes

    models = await dao(atlas).models([*Knowledge.model_names(detector_classes()), "failure_templates"])
    return [unpack_any(model.state) for model in models.values()]


def unpack_any(state: bytes) -> Any:
    import msgpack
    import zstandard

    return msgpack.unpackb(zstandard.ZstdDecompressor().decompress(state), strict_map_key=False)


class TestFull:
    async def test_the_whole_history_is_searched_for_sequences_and_counts_once(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        for n in range(120):
            clock.advance(HOUR)
            actions = (
                ["plan", "feeds", "search", "feeds", "charts"] if n % 2 else ["feeds", "search", "feeds"]
            )
            steps = [("hunter.step", {"action": action, "outcome": "success"}) for action in actions]
            await atlas.events.append_many(steps, agent="hunter", session=str(n))
        clock.advance(2 * HOUR)
        await learn(atlas)
        sequence = {"agent": "hunter", "in_episode": ["plan"], "then": "charts"}
        assert sequence not in [each.signature for each in await dao(atlas).known()]

        first = await learn(atlas, options=["full"])
        found = {each.id: each for each in await dao(atlas).known()}
        again = await learn(atlas, options=["full"])

        [charts] = [each for each in found.values() if each.signature == sequence]
        assert (charts.pos, charts.neg) == (60, 0)
        assert charts.data["course"] == ["plan", "feeds", "search", "feeds", "charts"]
        assert first["new_patterns"] >= 1
        assert again["new_patterns"] == again["changed_patterns"] == 0
        assert {each.id: (each.pos, each.neg) for each in found.values()} == await evidence(atlas)


class TestOneAtATime:
    async def test_a_second_learner_has_nothing_to_do(self, atlas: Atlas, clock: FixedClock) -> None:
        await failing_nights(atlas, clock, 1)
        async with atlas.db.only_one(LOCK) as is_mine:
            assert is_mine
            statistics = await learn(atlas)
        assert (statistics["outcome"], statistics["observations"]) == ("idle", 0)
        assert statistics["detail"] == "another learner is at work"

    async def test_a_failure_while_storing_leaves_nothing_half_learnt(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await failing_nights(atlas, clock, 5)
        with database_lost_at_third_page():
            await learn(atlas, batch_size=200)
        await learn(atlas, batch_size=200)
        interrupted = await evidence(atlas)

        await forget_everything(atlas)
        await learn(atlas, batch_size=200)
        assert await evidence(atlas) == interrupted

    async def test_a_moved_cursor_ends_the_cycle_without_a_trace(
        self, atlas: Atlas, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from atlas.errors import LeaseLost

        await failing_nights(atlas, clock, 2)
        read = Acts.read

        async def read_late(self: Acts, position: str, limit: int) -> Any:
            page = await read(self, position, limit)
            await dao(atlas).move_cursor(self.name, position, page.end)
            return page

        monkeypatch.setattr(Acts, "read", read_late)
        with pytest.raises(LeaseLost):
            await learn(atlas)
        assert await dao(atlas).known() == []


async def test_next_actions_are_learnt_of_operators_alone_and_across_commands(
    atlas: Atlas, clock: FixedClock
) -> None:
    await failing_nights(atlas, clock, 1)
    for day in range(20):
        for action, things in (("seed", 3), ("watch", 2), ("pin", 1)):
            acts = [("operator.act", {"action": action, "context": {}})] * things
            await atlas.events.append_many(acts, agent="operator", session=f"{day} {action}")
        if day == 9:
            await learn(atlas)
    await learn(atlas)
    await learn(atlas)
    found = await next_steps(dao(atlas), ["seed"])
    assert found.agents == {"operator": 60}, "a command counts once, and no agent's step does"
    assert found.next[0].action == "watch"
    assert (await next_steps(dao(atlas), ["watch", "pin"])).next[0].action == "seed"


async def predictor(atlas: Atlas) -> tuple[SuccessPredictor, int]:
    """The stored predictor, and of how many steps it was stored."""
    model = (await dao(atlas).models([SUCCESS_MODEL]))[SUCCESS_MODEL]
    return SuccessPredictor.from_state(model.state), model.observations


class TestSuccess:
    async def test_the_predictor_learns_each_step_once_and_nothing_else(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await failing_nights(atlas, clock, 5)
        await atlas.events.append("operator.act", {"action": "seed"})
        await atlas.events.append("hunter.cycle", {"outcome": "failed", "detail": "a bug"}, agent="hunter")

        await learn(atlas, batch_size=200)
        await learn(atlas)

        learnt, observations = await predictor(atlas)
        assert learnt.predict({}).support == observations == 5 * 24 * 9
        night = known_before("hunter", "feeds", {"arm": "slices", "night": True}, clock.now())
        day = night | {"night": False, "hour": 12}
        assert learnt.predict(night | {"hour": 3}).success < learnt.predict(day).success

    async def test_a_crash_leaves_no_step_learnt_twice_and_none_out(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await failing_nights(atlas, clock, 5)
        with database_lost_at_third_page():
            await learn(atlas, batch_size=200)
        _, observations = await predictor(atlas)
        assert observations == 400
        await learn(atlas, batch_size=200)
        interrupted = await predictor(atlas)

        await forget_everything(atlas)
        await learn(atlas, batch_size=200)
        whole = await predictor(atlas)
        assert (interrupted[0].state(), interrupted[1]) == (whole[0].state(), whole[1])

    async def test_new_failures_get_a_class_with_who_said_it(self, atlas: Atlas, clock: FixedClock) -> None:
        await record_steps(atlas, ["vault"] * 3 + ["strange"] * 3)
        await learn(atlas)
        stored = await dao(atlas).models([CLASSES, TEMPLATES])
        classes = FailureClasses.from_state(stored[CLASSES].state)
        templates = FailureTemplates.from_state(stored[TEMPLATES].state).templates()
        said = {classes.of(template.text) for template in templates}
        assert None not in said
        assert {each.by for each in said if each} <= {BY_REASON, "statistical classifier: no model is set"}

    async def test_at_most_some_new_failures_are_classified_in_a_cycle(self, atlas: Atlas) -> None:
        words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
        steps = [
            ("hunter.step", {"action": "feeds", "outcome": "strange", "error": f"{one} {two} broke {one}"})
            for one in words
            for two in words
            if one != two
        ]
        await atlas.events.append_many(steps, agent="hunter", session="s")
        await learn(atlas)
        assert await count_classes(atlas) == MOST_CLASSIFIED
        assert await classify_new_templates(atlas) == len(steps) - MOST_CLASSIFIED
        assert await classify_new_templates(atlas) == 0

    async def test_a_model_that_does_not_answer_is_asked_again_in_the_next_cycle(
        self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked: list[tuple[str, int]] = []

        class Slow(StatisticalFailures):
            async def classify(self, text: str, examples: Any = ()) -> Classified:
                asked.append((text, len(examples)))
                if len(asked) == 2:
                    raise LlamaError("llama.cpp did not answer within 30 s")
                return Classified(FailureClass.DISK, 1.0)

        async def backend(*_: Any, **__: Any) -> StatisticalFailures:
            return Slow()

        monkeypatch.setattr(outcomes, "failure_backend", backend)
        texts = ["the wombat sleeps", "cannot reach any moon today", "strange noise in room"]
        steps = [("hunter.step", {"action": "feeds", "outcome": "strange", "error": text}) for text in texts]
        known = {"action": "feeds", "outcome": "vault", "error": "this one is known by its own reason"}
        await atlas.events.append_many([*steps, ("hunter.step", known)], agent="hunter", session="s")

        statistics = await learn(atlas)

        assert statistics["outcome"] == "done"
        assert "new failures are classified in the next cycle" in caplog.text
        assert [examples for _, examples in asked] == [1, 1]
        assert await count_classes(atlas) == 2
        assert await classify_new_templates(atlas) == 2


async def count_classes(atlas: Atlas) -> int:
    """How many templates have a class."""
    stored = await dao(atlas).models([CLASSES, TEMPLATES])
    classes = FailureClasses.from_state(stored[CLASSES].state)
    templates = FailureTemplates.from_state(stored[TEMPLATES].state).templates()
    return sum(classes.of(template.text) is not None for template in templates)


async def forget_everything(atlas: Atlas) -> None:
    for table in ("pattern_evidence", "patterns", "models", "learner_cursors"):
        await execute(atlas, f"DELETE FROM {table}")


async def execute(atlas: Atlas, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(atlas.db.url_of())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_cycle_feeds_the_graph_and_pays_what_operators_attend_to(atlas: Atlas) -> None:
    await acts.seed(atlas, ["lo fi"])
    done = await learn(atlas)
    assert done["graph_changes"] > 0
    attended = await GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).most_attended("topic")
    assert [atom.name for atom in attended] == ["lo fi"]
    assert (await learn(atlas))["graph_changes"] == 0

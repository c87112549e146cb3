"""The learner over a real database: what it reads, learns and stores, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.patterns import PatternsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import DatabaseUnavailable
from maia.cycle.agent import run
from maia.learner.cycle import LOCK, Learner
from maia.learner.sources import Acts

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


class TestOneAtATime:
    async def test_a_second_learner_has_nothing_to_do(self, atlas: Atlas, clock: FixedClock) -> None:
        await failing_nights(atlas, clock, 1)
        async with atlas.db.only_one(LOCK) as is_mine:
            assert is_mine
            statistics = await learn(atlas)
        assert (statistics["outcome"], statistics["observations"]) == ("idle", 0)
        assert statistics["detail"] == "another learner is at work"

    async def test_a_failure_while_storing_leaves_nothing_half_learnt(
        self, atlas: Atlas, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await failing_nights(atlas, clock, 5)
        store = PatternsDAO.save_models
        calls = 0

        async def fail_once(self: PatternsDAO, models: Any) -> None:
            nonlocal calls
            await store(self, models)
            calls += 1
            if calls == 3:
                raise DatabaseUnavailable("the database went away")

        monkeypatch.setattr(PatternsDAO, "save_models", fail_once)
        with pytest.raises(DatabaseUnavailable):
            await learn(atlas, batch_size=200)
        monkeypatch.undo()
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

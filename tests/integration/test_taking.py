"""Taking actions on a real database: what is allowed, what holds back, what is recorded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from atlas.adapters.actions import ActionsDAO, AttemptState, Thing
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import CannotStore, ConfigError, DatabaseUnavailable, VaultUnavailable
from atlas.testing import NOON, SettingsFactory
from maia.learner.observing import observations
from maia.learning.privacy import Pseudonyms
from maia.maintainer import taking
from maia.maintainer.actions import Action, ActionFailed, ActionState, Plan, Taken
from maia.maintainer.taking import Taker
from maia.views.actions import actions

pytestmark = pytest.mark.integration

MINUTE = timedelta(minutes=1)


class Tidy(Action):
    """Does what it is told to, and counts how often it did."""

    kind: ClassVar[str] = "cleanup"
    about: ClassVar[str] = "Tidy."

    def __init__(self, does: Callable[[], Any] = lambda: None, target: str = "things") -> None:
        self.target, self.does, self.applied = target, does, 0

    async def plan(self) -> Plan | None:
        return Plan(text="tidy things", commands=("tidy --now",))

    async def apply(self, plan: Plan) -> str:
        self.applied += 1
        found = self.does()
        if asyncio.iscoroutine(found):
            await found
        return "tidied 3 things"


class Disturb(Tidy):
    disturbs = True


class Restart(Tidy):
    kind: ClassVar[str] = "restart"
    is_restart = True


class Emergency(Tidy):
    kind: ClassVar[str] = "emergency"


class Shell(Tidy):
    kind: ClassVar[str] = "shell"


class Unneeded(Tidy):
    async def plan(self) -> Plan | None:
        return None


class Unplannable(Tidy):
    async def plan(self) -> Plan | None:
        raise ActionFailed("there is no such thing")


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def taker(atlas: Atlas) -> Taker:
    return Taker(atlas, ("all",))


async def take(taker: Taker, action: Action) -> Taken:
    taken = await taker.take(action)
    assert taken is not None
    return taken


async def lines(atlas: Atlas) -> list[tuple[str, str]]:
    return [(line.state, line.result) for line in (await actions(atlas, NOON)).lines]


class TestAllowing:
    async def test_by_default_it_is_only_planned(self, atlas: Atlas) -> None:
        action = Tidy()
        taken = await take(Taker(atlas), action)
        assert (taken.state, action.applied) == (ActionState.PLANNED, 0)
        assert taken.plan.commands == ("tidy --now",)
        assert taken.result == "cleanup is not allowed"

    async def test_planning_writes_nothing(self, settings_factory: SettingsFactory, sql: Any) -> None:
        database = await sql.fetchval("SELECT current_database()")
        await sql.execute(f"ALTER DATABASE {database} SET default_transaction_read_only TO on")
        settings = settings_factory(monitoring={"enabled": False})
        async with Atlas.open(settings) as atlas:
            for action in (Tidy(), Disturb(), Restart(), Emergency()):
                assert (await take(Taker(atlas), action)).state is ActionState.PLANNED
            await Taker(atlas).note_well("cleanup", ["things"])
            with pytest.raises(CannotStore):
                await Taker(atlas, ("all",)).take(Tidy())

    async def test_a_plan_tells_when_it_would_be_possible(self, atlas: Atlas) -> None:
        taken = await take(Taker(atlas), Disturb())
        assert taken.result.endswith(
            "it would be held back: outside the maintenance window (01:30-06:00 UTC); "
            "possible from 2026-11-03 01:30 UTC"
        )

    @pytest.mark.parametrize("apply", [("cleanup",), ("all",), ("backup", "cleanup")])
    async def test_the_run_can_allow_it(self, atlas: Atlas, apply: tuple[str, ...]) -> None:
        assert (await take(Taker(atlas, apply), Tidy())).state is ActionState.APPLIED

    async def test_another_kind_stays_planned(self, atlas: Atlas) -> None:
        assert (await take(Taker(atlas, ("backup",)), Tidy())).state is ActionState.PLANNED

    async def test_the_settings_can_allow_it(self, settings_factory: SettingsFactory) -> None:
        async with Atlas.open(settings_factory(maintainer={"apply": "cleanup"})) as atlas:
            assert (await take(Taker(atlas), Tidy())).state is ActionState.APPLIED
            assert (await take(Taker(atlas), Restart())).state is ActionState.PLANNED

    async def test_what_is_on_no_list_is_never_taken(self, taker: Taker) -> None:
        action = Shell()
        with pytest.raises(ConfigError, match="'shell' is no kind of action; there are backup, cleanup"):
            await taker.take(action)
        assert action.applied == 0

    async def test_what_cannot_be_allowed_is_refused(self, atlas: Atlas) -> None:
        with pytest.raises(ConfigError, match="there is no action 'everything'"):
            Taker(atlas, ("everything",))

    async def test_nothing_to_do_is_nothing_taken(self, taker: Taker, atlas: Atlas) -> None:
        assert await taker.take(Unneeded()) is None
        assert await lines(atlas) == []

    async def test_what_cannot_be_planned_has_failed_and_was_no_attempt(
        self, taker: Taker, atlas: Atlas
    ) -> None:
        taken = await take(taker, Unplannable())
        assert (taken.state, taken.result) == (
            ActionState.FAILED,
            "can't be planned: there is no such thing",
        )
        assert await lines(atlas) == []


class TestRecording:
    async def test_what_came_of_it_is_recorded(self, taker: Taker, atlas: Atlas) -> None:
        taken = await take(taker, Tidy())
        assert (taken.state, taken.result) == (ActionState.APPLIED, "tidied 3 things")
        [line] = (await actions(atlas, NOON)).lines
        assert (line.node, line.kind, line.target, line.state) == ("test", "cleanup", "things", "applied")
        assert (line.plan, line.commands, line.result) == ("tidy things", ("tidy --now",), "tidied 3 things")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ActionFailed("the unit is masked"), "the unit is masked"),
            (VaultUnavailable("no vault"), "no vault"),
            (FileNotFoundError(2, "No such file", "tidy"), "[Errno 2] No such file: 'tidy'"),
            (TimeoutError(), "TimeoutError"),
        ],
    )
    async def test_a_failure_is_a_result(
        self, taker: Taker, atlas: Atlas, error: Exception, reason: str
    ) -> None:
        taken = await take(taker, Tidy(failing(error)))
        assert (taken.state, taken.result) == (ActionState.FAILED, reason)
        assert await lines(atlas) == [("failed", reason)]

    async def test_a_bug_is_recorded_and_raised(self, taker: Taker, atlas: Atlas) -> None:
        with pytest.raises(ZeroDivisionError):
            await taker.take(Tidy(lambda: 1 / 0))
        assert await lines(atlas) == [("failed", "division by zero")]

    async def test_being_told_to_end_is_recorded(self, taker: Taker, atlas: Atlas) -> None:
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(taker.take(Tidy(hang)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await lines(atlas) == [("failed", "interrupted")]

    async def test_the_learner_reads_it(self, taker: Taker, atlas: Atlas) -> None:
        await take(taker, Tidy())
        await take(taker, Restart(failing(ActionFailed("the unit is masked"))))
        events = await atlas.events.since(0, kinds=[taking.EVENT])
        found = observations(events, Pseudonyms(b"a key of sixteen bytes"))
        assert [(each.agent, each.action, each.outcome, each.reward) for each in found] == [
            ("maintainer", "take cleanup", "success", 1.0),
            ("maintainer", "take restart", "failed", 0.0),
        ]
        assert found[0].context["target"] == "things"
        assert found[1].context["error"] == "the unit is masked"

    async def test_a_database_that_is_away_for_a_moment_loses_no_result(
        self, taker: Taker, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, tries = ActionsDAO.finish, 0

        async def finish(self: ActionsDAO, *args: Any) -> bool:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise DatabaseUnavailable("it restarts")
            return await store(self, *args)

        monkeypatch.setattr(ActionsDAO, "finish", finish)
        assert (await take(taker, Tidy())).state is ActionState.APPLIED
        assert tries == 2
        assert await lines(atlas) == [("applied", "tidied 3 things")]

    async def test_if_it_cannot_be_recorded_it_was_taken_all_the_same(
        self, taker: Taker, atlas: Atlas, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def finish(*_: Any) -> bool:
            raise CannotStore("the disk is full")

        monkeypatch.setattr(ActionsDAO, "finish", finish)
        assert (await take(taker, Tidy())).state is ActionState.APPLIED
        assert "the result of cleanup on things is not recorded: the disk is full" in caplog.text
        assert [state for state, _ in await lines(atlas)] == ["running"]


class TestHoldingBack:
    async def test_a_cool_down_holds_the_same_thing_back_and_no_other(
        self, taker: Taker, clock: FixedClock
    ) -> None:
        await take(taker, Tidy())
        action = Tidy()
        held = await take(taker, action)
        assert (held.state, action.applied) == (ActionState.HELD_BACK, 0)
        assert held.result == "its cool-down of 10 min lasts; possible from 12:10 UTC"
        assert (await take(taker, Tidy(target="others"))).state is ActionState.APPLIED
        clock.advance(10 * MINUTE)
        assert (await take(taker, Tidy())).state is ActionState.APPLIED

    async def test_a_window_holds_back_what_disturbs(self, taker: Taker, clock: FixedClock) -> None:
        assert (await take(taker, Disturb())).state is ActionState.HELD_BACK
        clock.advance(timedelta(hours=14))
        assert (await take(taker, Disturb())).state is ActionState.APPLIED

    async def test_a_person_passes_over_both(self, atlas: Atlas, taker: Taker) -> None:
        await take(taker, Tidy())
        asked = Taker(atlas, ("all",), asked=True)
        assert (await take(asked, Disturb())).state is ActionState.APPLIED

    async def test_not_even_a_person_takes_what_is_under_way(self, atlas: Atlas, taker: Taker) -> None:
        asked, inner = Taker(atlas, ("all",), asked=True), Tidy()
        results: list[Taken] = []

        async def again() -> None:
            results.append(await take(asked, inner))

        await take(taker, Tidy(again))
        assert [taken.state for taken in results] == [ActionState.HELD_BACK]
        assert (results[0].result, inner.applied) == ("it has been under way since 12:00 UTC", 0)

    async def test_it_gives_up_until_a_person_intervenes(
        self, atlas: Atlas, taker: Taker, clock: FixedClock
    ) -> None:
        """A service that is ill again after five minutes, whatever is done."""
        states = []
        for _ in range(100):
            states.append((await take(taker, Restart())).state)
            clock.advance(5 * MINUTE)
        assert states.count(ActionState.APPLIED) == 5
        assert states[-20:] == [ActionState.HELD_BACK] * 20
        [given_up] = (await actions(atlas, NOON)).given_up
        assert (given_up.target, given_up.attempts) == ("things", 5)
        await take(Taker(atlas, ("all",), asked=True), Restart())
        clock.advance(10 * MINUTE)
        assert (await take(taker, Restart())).state is ActionState.APPLIED

    async def test_or_until_the_thing_has_been_well_for_long(
        self, atlas: Atlas, taker: Taker, clock: FixedClock
    ) -> None:
        for _ in range(30):
            await take(taker, Restart(failing(ActionFailed("no"))))
            clock.advance(5 * MINUTE)
        assert (await take(taker, Restart())).state is ActionState.HELD_BACK
        for _ in range(13):
            clock.advance(5 * MINUTE)
            await taker.note_well("restart", ["things"])
        assert (await actions(atlas, NOON)).given_up == ()
        assert (await take(taker, Restart())).state is ActionState.APPLIED


class TestHosts:
    async def test_restarts_are_never_at_once_on_two_hosts(
        self, atlas: Atlas, settings_factory: SettingsFactory, clock: FixedClock
    ) -> None:
        there = settings_factory(node_id="there", maintainer={"apply": "restart"})
        async with Atlas.open(there, clock=clock) as other:
            results: list[Taken] = []

            async def meanwhile() -> None:
                results.append(await take(Taker(other), Restart()))
                results.append(await take(Taker(other, ("all",)), Tidy()))

            await take(Taker(atlas, ("all",)), Restart(meanwhile))
            held, tidied = results
            assert (held.state, held.result) == (ActionState.HELD_BACK, "test restarts things now")
            assert tidied.state is ActionState.APPLIED
            held = await take(Taker(other), Restart())
            assert held.result == "test restarted things at 12:00 UTC; possible from 12:05 UTC"
            clock.advance(5 * MINUTE)
            assert (await take(Taker(other), Restart())).state is ActionState.APPLIED

    async def test_two_maintainers_at_once_take_it_once(
        self, atlas: Atlas, settings_factory: SettingsFactory, clock: FixedClock
    ) -> None:
        there = settings_factory(node_id="there")
        async with Atlas.open(there, clock=clock) as other:
            action = Tidy()
            takers = [Taker(each, ("all",)) for each in (atlas, other) * 4]
            taken = await asyncio.gather(*(take(taker, action) for taker in takers))
        assert [each.state for each in taken].count(ActionState.APPLIED) == action.applied == 1


class TestFullDisk:
    """The table of actions can't be written to; what frees space must be done all the same."""

    @pytest.fixture(autouse=True)
    def full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def begin(*_: Any, **__: Any) -> Any:
            raise CannotStore("the disk is full")

        monkeypatch.setattr(ActionsDAO, "begin", begin)

    async def test_an_emergency_is_taken_and_recorded_afterwards(self, taker: Taker, atlas: Atlas) -> None:
        assert (await take(taker, Emergency())).state is ActionState.APPLIED
        assert await lines(atlas) == [("applied", "tidied 3 things")]
        held = await take(taker, Emergency())
        assert held.result == "its cool-down of 10 min lasts; possible from 12:10 UTC"

    async def test_only_by_one_at_a_time(self, taker: Taker) -> None:
        results: list[Taken] = []

        async def again() -> None:
            results.append(await take(taker, Emergency()))

        await take(taker, Emergency(again))
        assert [taken.result for taken in results] == ["another process is taking it now"]

    async def test_anything_else_is_not(self, taker: Taker) -> None:
        action = Tidy()
        with pytest.raises(CannotStore):
            await taker.take(action)
        assert action.applied == 0


class TestDying:
    PROGRAM = """
import asyncio, json, os, sys
from atlas.composition import Atlas
from atlas.config import Settings
from maia.maintainer import taking
from tests.integration.test_taking import Tidy

async def hang():
    print("begun", flush=True)
    await asyncio.Event().wait()

async def main():
    taking.LEASE_S = 0.4
    async with Atlas.open(Settings()) as atlas:
        await taking.Taker(atlas, ("all",)).take(Tidy(hang))

asyncio.run(main())
"""

    async def test_a_maintainer_that_is_killed_leaves_an_attempt_that_counts(
        self, atlas: Atlas, environment: dict[str, str]
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            self.PROGRAM,
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"begun\n"
        dao = ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        thing = Thing("cleanup", "things")
        # Its heartbeat keeps it alive for longer than its lease.
        await asyncio.sleep(0.6)
        [running] = (await dao.history(thing, 0)).attempts
        assert running.state is AttemptState.RUNNING
        process.send_signal(signal.SIGKILL)
        await process.wait()
        while (await dao.history(thing, 0)).attempts[0].state is AttemptState.RUNNING:
            await asyncio.sleep(0.05)
        held = await take(Taker(atlas, ("all",)), Tidy())
        assert held.result.startswith("its cool-down of 10 min lasts")
        assert [state for state, _ in await lines(atlas)] == ["unknown"]


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory()

"""The maintainer's cycle over a real database: turns, locks, failures, and what a killed run leaves."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from atlas.adapters.duties import MOST_ATTEMPTS, ChangedSchedule, DutiesDAO, DutyRun
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import CannotStore, ConfigError, DatabaseUnavailable
from atlas.testing import SettingsFactory
from maia.cycle.agent import run
from maia.maintainer import cycle as cycles
from maia.maintainer import duties as known
from maia.maintainer import rota as rotas
from maia.maintainer.cycle import Maintainer
from maia.maintainer.duties import HEAVY_LOCK, LIGHT_LOCK, DutyContext, DutyRecord, DutyReport
from maia.maintainer.rota import PAUSE_AFTER_FAILURE, rota

pytestmark = pytest.mark.integration

MODULE = "tests_of_duties"
Calls = list[str]
Behave = Callable[[DutyContext], Any]


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def duties(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> dict[str, Behave]:
    """Two light duties and a heavy one that note their runs; a test may change what each does."""
    module, behaviour = ModuleType(MODULE), dict[str, Behave]()

    def runner(name: str) -> Callable[[DutyContext], Any]:
        async def run_duty(context: DutyContext) -> DutyReport:
            calls.append(name)
            done = behaviour.get(name, lambda _: None)(context)
            if asyncio.iscoroutine(done):
                done = await done
            return done or DutyReport(summary=f"did {name}", details={"by": name})

        return run_duty

    records = [
        DutyRecord(name="health", about="", implementation=f"{MODULE}:health", of_host=True),
        DutyRecord(name="backup", about="", implementation=f"{MODULE}:backup", heavy=True),
        DutyRecord(name="report", about="", implementation=f"{MODULE}:report"),
    ]
    for record in records:
        setattr(module, record.name, runner(record.name))
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setattr(rotas, "DUTIES", tuple(records))
    monkeypatch.setattr(known, "DUTIES", tuple(records))
    return behaviour


async def maintain(atlas: Atlas, **options: Any) -> dict[str, Any]:
    return await run(Maintainer, atlas, **options)


def dao(atlas: Atlas) -> DutiesDAO:
    return DutiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def last_run(atlas: Atlas, duty: str) -> DutyRun | None:
    return next(turn.last for turn in await rota(atlas) if turn.duty.name == duty)


async def test_duties_run_when_they_are_due_and_missed_turns_once(
    atlas: Atlas, clock: FixedClock, duties: dict[str, Behave], calls: Calls
) -> None:
    assert (await maintain(atlas))["duties"] == {"health": 1, "backup": 1, "report": 1}
    second = await maintain(atlas)
    assert (second["outcome"], second["duties"]) == ("idle", {})
    assert "nothing is due before" in second["detail"]
    clock.advance(timedelta(minutes=5))
    assert (await maintain(atlas))["duties"] == {"health": 1}
    clock.advance(timedelta(days=10))
    assert (await maintain(atlas))["duties"] == {"health": 1, "backup": 1, "report": 1}
    assert (await maintain(atlas))["duties"] == {}
    assert calls == ["health", "backup", "report", "health", "health", "backup", "report"]


async def test_what_is_asked_for_runs_now_and_satisfies_its_turn(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls
) -> None:
    for _ in range(2):
        assert (await maintain(atlas, options=["only=backup"]))["duties"] == {"backup": 1}
    assert (await maintain(atlas))["duties"] == {"health": 1, "report": 1}
    with pytest.raises(
        ConfigError, match="there is no duty 'backups'; the duties are health, backup, report"
    ):
        await maintain(atlas, options=["only=backups"])


async def test_a_failed_duty_does_not_keep_others_from_running_and_is_tried_again_later(
    atlas: Atlas, clock: FixedClock, duties: dict[str, Behave], calls: Calls
) -> None:
    def fail(_: DutyContext) -> None:
        raise OSError("the disk is gone")

    duties["backup"] = fail
    statistics = await maintain(atlas)
    assert (statistics["outcome"], statistics["failed"]) == ("failed", {"backup": 1})
    assert statistics["duties"] == {"health": 1, "backup": 1, "report": 1}
    assert "the disk is gone" in statistics["reports"]["backup"]["summary"]
    assert (await maintain(atlas))["duties"] == {}
    for _ in range(5):
        clock.advance(PAUSE_AFTER_FAILURE * MOST_ATTEMPTS)
        await maintain(atlas)
    assert calls.count("backup") == MOST_ATTEMPTS
    stored = await last_run(atlas, "backup")
    assert stored is not None
    assert (stored.state, stored.attempts, stored.done_at) == ("failed", MOST_ATTEMPTS, None)


async def test_a_run_that_was_killed_is_repeated_but_not_for_ever(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls
) -> None:
    def die(_: DutyContext) -> None:
        raise SystemExit(137)

    duties["health"] = die
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(SystemExit):
            await maintain(atlas)
    assert (await maintain(atlas))["duties"] == {"backup": 1, "report": 1}
    assert calls.count("health") == MOST_ATTEMPTS


async def test_a_run_is_interrupted_as_soon_as_nobody_runs_it(
    atlas: Atlas, clock: FixedClock, duties: dict[str, Behave]
) -> None:
    states: dict[str, list[str]] = {"report": [], "backup": []}

    async def look_and_die(_: DutyContext) -> None:
        await look()
        raise SystemExit(137)

    async def look(_: object = None) -> None:
        for duty, seen in states.items():
            last = await last_run(atlas, duty)
            seen.append("never" if last is None else last.state)

    for duty in ("report", "backup"):
        duties[duty] = look_and_die
        with pytest.raises(SystemExit):
            await maintain(atlas, options=[f"only={duty}"])
        await look()
        clock.advance(timedelta(minutes=1))
    # Another duty holds the lock by now under which the report ran, and none that of backups.
    duties["health"] = look
    await maintain(atlas, options=["only=health"])
    assert states["report"] == ["running", *["interrupted"] * 4]
    assert states["backup"] == ["never", "never", "running", "interrupted", "interrupted"]
    del duties["report"]
    await maintain(atlas, options=["only=report"])
    await look()
    assert states["report"][-1] == "done"


async def test_a_heavy_duty_does_not_hold_up_a_light_one(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls
) -> None:
    async with atlas.db.only_one(HEAVY_LOCK) as is_only:
        assert is_only
        assert (await maintain(atlas))["duties"] == {"health": 1, "report": 1}
    assert (await maintain(atlas))["duties"] == {"backup": 1}


async def test_one_maintainer_at_a_time(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycles, "_LOCK_PATIENCE_S", 0.0)
    async with atlas.db.only_one(LIGHT_LOCK), atlas.db.only_one(HEAVY_LOCK):
        statistics = await maintain(atlas)
        assert (statistics["outcome"], statistics["detail"]) == ("idle", "another maintainer is at work")
    monkeypatch.undo()


async def test_two_maintainers_at_once_run_each_turn_once(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls
) -> None:
    async def take_a_moment(_: DutyContext) -> None:
        await asyncio.sleep(0.05)

    duties["health"] = take_a_moment
    await asyncio.gather(*(maintain(atlas) for _ in range(3)))
    assert sorted(calls) == ["backup", "health", "report"]


async def test_each_host_has_its_own_turns(
    atlas: Atlas, duties: dict[str, Behave], settings_factory: SettingsFactory, calls: Calls
) -> None:
    await maintain(atlas)
    other = settings_factory(database_url=atlas.settings.database_url, node_id="another-host")
    async with Atlas.open(other, clock=atlas.clock) as elsewhere:
        assert (await maintain(elsewhere))["duties"] == {"health": 1}


async def test_on_a_new_host_its_duties_but_health_wait_for_the_second_cycle(
    atlas: Atlas,
    settings_factory: SettingsFactory,
    duties: dict[str, Behave],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tidy = DutyRecord(name="tidy", about="", implementation=f"{MODULE}:report", of_host=True)
    for module in (rotas, cycles):
        monkeypatch.setattr(module, "DUTIES", (*module.DUTIES, tidy))
    assert (await maintain(atlas))["duties"] == {"health": 1, "backup": 1, "report": 1}
    assert (await maintain(atlas))["duties"] == {"tidy": 1}
    another = settings_factory(database_url=atlas.settings.database_url, node_id="node-2")
    async with Atlas.open(another, clock=atlas.clock) as elsewhere:
        assert (await maintain(elsewhere))["duties"] == {"health": 1}
        assert {node for _, node in await dao(elsewhere).runs({})} == {"", "node-2"}


async def test_a_duty_that_does_not_exist_can_t_be_off(
    atlas: Atlas, settings_factory: SettingsFactory, duties: dict[str, Behave]
) -> None:
    wrong = settings_factory(database_url=atlas.settings.database_url, maintainer={"off": ["backups"]})
    async with Atlas.open(wrong, clock=atlas.clock) as other:
        with pytest.raises(ConfigError, match="there is no duty 'backups'"):
            await rota(other)


async def test_schedules_change_at_run_time(
    atlas: Atlas, clock: FixedClock, duties: dict[str, Behave], calls: Calls
) -> None:
    await maintain(atlas)
    await dao(atlas).set_schedule(ChangedSchedule("report", "* * * * *", "Europe/Berlin", True))
    await dao(atlas).set_schedule(ChangedSchedule("health", "*/5 * * * *", "UTC", False))
    clock.advance(timedelta(minutes=6))
    assert (await maintain(atlas))["duties"] == {"report": 1}
    assert await dao(atlas).reset_schedule("report")
    turns = {turn.duty.name: turn for turn in await rota(atlas)}
    assert (turns["report"].origin, turns["health"].origin) == ("shipped", "changed")
    assert turns["health"].next_at(clock.now()) is None


async def test_on_a_disk_that_takes_no_row_what_is_light_runs_all_the_same(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise CannotStore("no space left on device")

    monkeypatch.setattr(DutiesDAO, "begin", refuse)
    statistics = await maintain(atlas, options=["only=health"])
    assert (statistics["outcome"], calls) == ("done", ["health"])
    assert (await maintain(atlas, options=["only=backup"]))["outcome"] == "storage_failed"


async def test_each_duty_is_an_event_and_the_cycle_s_own_is_short(
    atlas: Atlas, duties: dict[str, Behave], calls: Calls
) -> None:
    await maintain(atlas)
    told = await atlas.events.latest(10, kinds=["maintainer.duty"])
    assert {event.payload["duty"] for event in told} == {"health", "backup", "report"}
    assert told[0].payload["details"] == {"by": told[0].payload["duty"]}
    [cycle] = await atlas.events.latest(10, kinds=["maintainer.cycle"])
    assert cycle.payload["reports"] == {}
    assert cycle.payload["duties"] == {"health": 1, "backup": 1, "report": 1}


def test_commands_change_a_schedule_and_bring_the_shipped_one_back(run_maia: Any) -> None:
    status, changed, _ = run_maia("schedule", "set", "report", "0 7 * * mon", "--time-zone", "Europe/Berlin")
    assert (status, "Monday at 07:00 (Europe/Berlin)" in changed) == (0, True)
    status, _, refused = run_maia("schedule", "set", "report", "0 7 * *")
    assert (status, "five fields" in refused) == (2, True)
    _, listed, _ = run_maia("schedule", "list", "--yaml")
    assert 'report: {cron: "0 7 * * mon", time_zone: Europe/Berlin}' in listed
    _, printed, _ = run_maia("schedule", "set", "report", "--default", "--json")
    back = json.loads(printed)
    assert (back["cron"], back["set_by"]) == ("0 9 * * mon", "shipped")


def test_a_run_whose_process_is_gone_is_listed_as_interrupted(
    run_maia: Any, environment: dict[str, str]
) -> None:
    async def leave_a_run_behind() -> None:
        connection = await asyncpg.connect(environment["DATABASE_URL"])
        await connection.execute(
            "INSERT INTO duty_runs (duty, node, turn, attempts, state, started_at)"
            " VALUES ('backup', '', now(), 1, 'running', '2026-11-02 01:30+00')"
        )
        await connection.close()

    assert run_maia("migrate")[0] == 0
    asyncio.run(leave_a_run_behind())
    _, printed, _ = run_maia("schedule", "--json")
    assert [line["last"]["state"] for line in json.loads(printed) if line["last"]] == ["interrupted"]
    _, listed, _ = run_maia("schedule")
    told = "backup was interrupted: the process that began it at 2026-11-02 01:30 UTC is gone."
    assert told in " ".join(listed.split())
    assert "To run it again now: maia schedule run backup" in " ".join(listed.split())


def test_a_command_that_names_no_duty_lists_them(run_maia: Any) -> None:
    status, _, wrong = run_maia("maintainer", "--direct", "--only", "cleaning")
    assert (status, "the duties are health" in wrong) == (78, True)


async def test_a_connection_that_broke_is_no_outage_while_the_database_answers(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def tell(settings: Any, error: Exception) -> None:
        told.append(str(error))

    monkeypatch.setattr(cycles.outage, "report_outage", tell)
    await Maintainer.report_outage(atlas.settings, DatabaseUnavailable("the connection broke"))
    assert not told
    away = atlas.settings.model_copy(
        update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")}
    )
    await Maintainer.report_outage(away, DatabaseUnavailable("refused"))
    assert told == ["refused"]

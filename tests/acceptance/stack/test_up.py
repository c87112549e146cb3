"""`maia up`: it starts, keeps, and ends everything."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer
from atlas.testing import RecordingNotifier
from maia.agents import AGENTS
from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import KEYS, StageFactory
from tests.acceptance.stack.conftest import UpFactory, alive, family_of, until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


async def answer_of(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def runs_of(api: str, state: str) -> list[dict[str, Any]]:
    chosen = {"flow_runs": {"state": {"type": {"any_": [state]}}}}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api}/flow_runs/filter", json=chosen) as answer,
    ):
        return list(await answer.json())


def quick(prefect_database: str, **settings: str) -> dict[str, str]:
    """Settings with which runs come soon, and Prefect finds its database migrated."""
    return {
        "PLEIADES_PREFECT__DATABASE": prefect_database,
        "PLEIADES_AGENTS__INTERVALS_S": '{"hunter": 4, "tracker": 4}',
        "YOUTUBE_API_KEY_POOL_JSON": KEYS,
        **settings,
    }


async def test_everything_runs_on_schedule_is_kept_and_ends(
    stage_of: StageFactory, synthetic: Catalogue, start_up: UpFactory, prefect_database: str, sql: Any
) -> None:
    hurried = {"PLEIADES_UP__STOP_TIMEOUT_S": "2", "PLEIADES_MONITORING__INTERVAL_S": "1"}
    stage = await stage_of(synthetic, settings=quick(prefect_database, **hurried))
    assert (await stage.maia("seed", "stop motion", "cats")).status == 0
    up = await start_up(stage.environment)
    ready = await up.next_event("up")

    assert ready["deployments"] == [f"{agent.name}/default" for agent in AGENTS]
    status, page = await answer_of(ready["ui"])
    assert (status, "<title>Prefect" in page) == (200, True)
    assert "pleiades_up 1.0" in (await answer_of(ready["metrics"]))[1]
    assert await answer_of(f"{ready['dashboard']}/healthz") == (200, "ok\n")
    # What people look at first is ready first.
    assert next(event["name"] for event in up.events if event["event"] == "ready") == "api"

    async def both_ran() -> bool:
        done = await runs_of(ready["api"], "COMPLETED")
        return len(done) >= 2 and len({run["flow_id"] for run in done}) == 2

    # Two runs of the hunter may overlap: the one that finds every topic taken completes first.
    async def videos_are_stored() -> bool:
        return bool(await sql.fetchval("SELECT count(*) FROM videos"))

    async def the_machine_is_sampled() -> bool:
        return bool(await sql.fetchval("SELECT count(*) FROM system_metrics WHERE cpu_percent IS NOT NULL"))

    await until(both_ran)
    await until(videos_are_stored)
    await until(the_machine_is_sampled)

    async def more_ran() -> bool:
        return len(await runs_of(ready["api"], "COMPLETED")) > completed

    for name in ("prefect", "metrics", "agents", "api"):
        before = up.pid_of(name)
        os.kill(before, signal.SIGKILL)
        await up.next_event("ready", name=name)
        assert up.pid_of(name) != before
    assert (await answer_of(f"{ready['dashboard']}/healthz"))[0] == 200
    [restarting] = [
        event for event in up.events if event["event"] == "restarting" and event["name"] == "agents"
    ]
    assert restarting["reason"] == "by SIGKILL"
    completed = len(await runs_of(ready["api"], "COMPLETED"))
    await until(more_ran)
    assert "Traceback" not in await up.complaints()

    # A stopped process hears SIGTERM only when it goes on, which nobody tells it to.
    for name in ("prefect", "agents"):
        os.kill(up.pid_of(name), signal.SIGSTOP)
    family = family_of(up.process.pid)
    assert len(family) >= 3
    up.process.terminate()
    assert await up.end() == 143
    assert [pid for pid in family if alive(pid)] == []
    assert up.events[-1]["event"] == "stopped"


async def test_runs_under_way_give_back_what_they_hold(
    stage_of: StageFactory, synthetic: Catalogue, start_up: UpFactory, prefect_database: str, sql: Any
) -> None:
    slow = {
        "PLEIADES_YOUTUBE__TIMEOUT_S": "100",
        "PLEIADES_YOUTUBE__TOTAL_TIMEOUT_S": "100",
        # The others hold nothing, but would start processes while the hunter has four seconds to give back.
        "PLEIADES_PREFECT__AGENTS": "hunter",
    }
    stage = await stage_of(synthetic, settings=quick(prefect_database, **slow))
    assert (await stage.maia("seed", "stop motion", "cats")).status == 0
    stage.emulator.set_faults(["latency-60s:1"])
    up = await start_up(stage.environment)
    await up.next_event("up")

    async def asked() -> bool:
        return bool(await sql.fetchval("SELECT count(*) FROM quota_ledger WHERE reserved > 0"))

    await until(asked)
    family = family_of(up.process.pid)
    up.process.send_signal(signal.SIGINT)
    assert await up.end() == 130
    assert [pid for pid in family if alive(pid)] == []
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    outcomes = await sql.fetch(
        "SELECT payload->>'outcome' AS outcome FROM events WHERE kind = 'hunter.cycle'"
    )
    assert "interrupted" in {row["outcome"] for row in outcomes}, await up.complaints()
    # That runs end is what was asked for.
    assert " ERROR " not in await up.complaints()


@pytest.mark.stack
async def test_what_cannot_be_kept_is_reported_and_ends_all(
    environment: Mapping[str, str],
    start_up: UpFactory,
    prefect_database: str,
    recording_notifier: RecordingNotifier,
) -> None:
    limits = {"PLEIADES_UP__MAX_RESTARTS": "1", "PLEIADES_NOTIFIER__URLS": f'["{recording_notifier.url}"]'}
    up = await start_up({**environment, **quick(prefect_database, **limits)})
    await up.next_event("up")
    family = family_of(up.process.pid)
    os.kill(up.pid_of("metrics"), signal.SIGKILL)
    await up.next_event("ready", name="metrics")
    os.kill(up.pid_of("metrics"), signal.SIGKILL)

    assert await up.end() == 1
    assert [pid for pid in family if alive(pid)] == []
    *events, error = up.events
    assert [event["name"] for event in events if event["event"] == "given_up"] == ["metrics"]
    assert "gave up on metrics" in error["error"]
    assert error["exit_status"] == 1
    assert "gave up on metrics after 1 restart in a row" in await up.complaints()
    [alert] = recording_notifier.alerts
    assert (alert["title"], alert["type"]) == ("maia up stopped", "failure")


@pytest.mark.stack
async def test_the_embedded_server_comes_and_goes_with_it_even_killed(
    environment: dict[str, str], start_up: UpFactory, embedded_data_dir: Path
) -> None:
    del environment["DATABASE_URL"]
    environment |= {"PLEIADES_DATA_DIR": str(embedded_data_dir), "YOUTUBE_API_KEY_POOL_JSON": KEYS}
    up = await start_up(environment)
    await up.next_event("up")
    embedded = EmbeddedServer(embedded_data_dir, DatabaseSettings())
    server = embedded.pid
    assert server is not None
    connection = await asyncpg.connect(embedded.dsn_of("prefect"))
    assert await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'") == 1
    assert await connection.fetchval("SELECT count(*) FROM deployment") == len(AGENTS) + 1
    await connection.close()

    os.kill(server, signal.SIGKILL)

    async def back() -> bool:
        return await asyncio.to_thread(lambda: embedded.pid) not in {None, server}

    await until(back)
    family = family_of(up.process.pid)
    up.process.kill()
    await up.process.wait()

    async def all_gone() -> bool:
        return not any(map(alive, family)) and await asyncio.to_thread(lambda: embedded.pid) is None

    await until(all_gone)


async def test_the_demo_runs_against_an_emulator_in_fast_time(start_up: UpFactory, tmp_path: Path) -> None:
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("PLEIADES_", "PREFECT_"))
    }
    up = await start_up(ours | {"DATABASE_URL": "postgresql://nobody@nowhere.invalid/nothing"}, "--demo")
    await up.next_event("ready", name="api")
    # There is something to look at before Prefect and the agents have started.
    status, page = await answer_of(f"http://127.0.0.1:{up.environment['PORT']}/")
    assert (status, "<h1>Rising</h1>" in page) == (200, True)
    ready = await up.next_event("up")
    assert (await answer_of(f"{ready['dashboard']}/metrics"))[0] == 200
    exported = Path(ready["environment_file"]).read_text("utf-8")
    url = next(line for line in exported.splitlines() if line.startswith("export DATABASE_URL="))
    connection = await asyncpg.connect(url.partition("=")[2].strip("'"))

    async def moves() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM video_clock WHERE samples > 0"))

    await until(moves)
    await connection.close()
    (emulator,) = re.findall(r"^export PLEIADES_YOUTUBE__BASE_URL=(\S+)$", exported, re.MULTILINE)
    async with aiohttp.ClientSession() as session, session.get(f"{emulator}/_emulator") as response:
        assert (await response.json())["realism"]["name"] == "realistic"
    folder = Path(ready["environment_file"]).parent
    family = family_of(up.process.pid)
    up.process.send_signal(signal.SIGINT)
    assert await up.end() == 130
    assert [pid for pid in family if alive(pid)] == []
    assert not folder.exists()

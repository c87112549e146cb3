"""Maintaining from outside: real processes of `maia`, from a plan to a restored backup."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fork_server import FORKS, Finished
from tests.growth import store_video

pytestmark = pytest.mark.acceptance


@pytest.fixture
def maintained(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a database, with a vault of its own and no updates of this machine."""
    return environment | {
        "PLEIADES_VAULT__PATH": str(tmp_path / "vault"),
        "PLEIADES_DATA_DIR": str(tmp_path / "data"),
        "PLEIADES_MAINTAINER__OFF": "updates,upgrade",
        "PLEIADES_NOTIFIER__URLS": "[]",
    }


@pytest_asyncio.fixture
async def calls() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    """The URL of a real HTTP server, and the paths and bodies of the calls that reached it."""
    received: list[tuple[str, str]] = []

    async def receive(request: web.Request) -> web.Response:
        received.append((request.path, await request.text()))
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receive)
    async with TestServer(app) as server:
        yield f"127.0.0.1:{server.port}", received


async def maia(environment: dict[str, str], *arguments: str) -> Finished:
    return await FORKS.run(*arguments, environment={**environment, "COLUMNS": "80"})


async def test_everything_that_is_due_runs_and_only_what_is_allowed_changes_anything(
    maintained: dict[str, str], tmp_path: Path
) -> None:
    planned = await maia(maintained, "maintainer", "--direct", "--json")
    assert planned.status == 0, planned.stderr
    assert planned.json["outcome"] == "done"
    assert set(planned.json["duties"]) == {"health", "backup", "cleanup", "report", "suggestions"}
    assert set(planned.json["actions"]) <= {"planned", "held_back"}
    assert not list((tmp_path / "vault").glob("backups/*"))

    taken = await maia(maintained, "maintainer", "--direct", "--apply", "--only", "backup,cleanup", "--json")
    assert taken.json["actions"]["applied"] >= 2, taken.stdout
    assert list((tmp_path / "vault").glob("backups/*"))

    told = (await maia(maintained, "system", "actions", "--json")).json
    assert {line["kind"] for line in told["lines"]} >= {"backup", "partitions"}
    assert {line["state"] for line in told["lines"]} == {"applied"}

    listed = {line["duty"]: line for line in (await maia(maintained, "schedule", "--json")).json}
    assert {listed[duty]["last"]["state"] for duty in planned.json["duties"]} == {"done"}
    assert "updates" not in listed


async def test_an_outage_is_one_alert_and_its_end_another(
    maintained: dict[str, str], calls: tuple[str, list[tuple[str, str]]]
) -> None:
    address, received = calls
    told = maintained | {
        "PLEIADES_NOTIFIER__URLS": json.dumps([f"json://{address}/alerts"]),
        "PLEIADES_MAINTAINER__ALERTS__PING_URL": f"http://{address}/ping",
        "PLEIADES_MAINTAINER__ALERTS__RECOVERY_SETTLE_S": "0",
        "PLEIADES_DATABASE__CONNECT_TIMEOUT_S": "0.5",
    }
    away = told | {"DATABASE_URL": "postgresql://pleiades@127.0.0.1:1/pleiades"}
    for _ in range(2):
        assert (await maia(away, "maintainer", "--direct")).status == 69
    assert [path for path, _ in received] == ["/alerts", "/ping/fail", "/ping/fail"]
    assert "database.unreachable" in received[0][1]
    received.clear()
    assert (await maia(told, "maintainer", "--direct", "--only", "health")).status == 0
    assert [path for path, _ in received][:1] == ["/alerts"]
    assert "Recovered" in received[0][1]
    assert received[-1][0] == "/ping"


async def test_a_database_is_backed_up_and_restored(
    maintained: dict[str, str], sql: object, embedded_data_dir: Path
) -> None:
    for number in range(20):
        await store_video(sql, f"kept-{number:06}", title=f"Kept {number}")
    made = await maia(maintained, "backup", "create", "--json")
    assert made.status == 0, made.stderr
    folder = embedded_data_dir / "restored"
    restored = await maia(maintained, "backup", "restore", "latest", "--data-dir", str(folder))
    assert restored.status == 0, restored.stderr
    without_url = {name: value for name, value in maintained.items() if name != "DATABASE_URL"}
    elsewhere = without_url | {"PLEIADES_DATA_DIR": str(folder)}
    assert (await maia(elsewhere, "video", "kept-000007", "--json")).json["title"] == "Kept 7"

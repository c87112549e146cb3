"""Deleting runs from Prefect: by its API, only ours, only those that ended long ago, in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from atlas.composition import Atlas
from atlas.wording import counted
from maia.maintainer.actions import ActionFailed
from maia.maintainer.runs import DeleteRuns

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)


class RecordedServer:
    """Answers as Prefect's server does about 120 old runs, and records what it is asked."""

    def __init__(self) -> None:
        self.url, self.runs = "", [f"{n:032x}" for n in range(120)]
        self.asked: list[tuple[str, Any]] = []
        self.authorization: list[str | None] = []
        self.deletes = True

    async def answer(self, request: web.Request) -> web.Response:
        path, body = request.path.removeprefix("/api/flow_runs/"), await request.json()
        self.asked.append((path, body))
        self.authorization.append(request.headers.get("Authorization"))
        if path == "count":
            return web.json_response(len(self.runs))
        if path == "filter":
            return web.json_response([{"id": id_} for id_ in self.runs[: body["limit"]]])
        ids = body["flow_runs"]["id"]["any_"] if self.deletes else []
        self.runs = [id_ for id_ in self.runs if id_ not in ids]
        return web.json_response({"deleted": ids})


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RecordedServer]:
    recorded, app = RecordedServer(), web.Application()
    app.router.add_post("/api/flow_runs/{verb}", recorded.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    recorded.url = f"http://{host}:{port}/api"
    yield recorded
    await runner.cleanup()


def action(atlas: Atlas, url: str, *, is_time_up: bool = False, **environment: str) -> DeleteRuns:
    return DeleteRuns(atlas, {"PREFECT_API_URL": url, **environment}, 30, lambda: is_time_up)


async def test_runs_are_deleted_in_batches(atlas: Atlas, server: RecordedServer) -> None:
    deleting = action(atlas, server.url)
    plan = await deleting.plan()
    assert plan is not None
    assert plan.details["rows"] == 120
    assert len(server.runs) == 120, "a plan deletes nothing"
    assert await deleting.apply(plan) == "deleted 120 runs"
    assert await deleting.plan() is None
    chosen = server.asked[0][1]
    assert {"hunter", "tracker"} <= {*chosen["flows"]["name"]["any_"]}
    assert "RUNNING" not in chosen["flow_runs"]["state"]["type"]["any_"]
    age = NOW - datetime.fromisoformat(chosen["flow_runs"]["end_time"]["before_"])
    assert timedelta(days=29, hours=23) < age < timedelta(days=30, hours=1)
    assert [path for path, _ in server.asked].count("bulk_delete") == 3


async def test_the_time_of_a_clean_up_ends_it(atlas: Atlas, server: RecordedServer) -> None:
    deleting = action(atlas, server.url, is_time_up=True)
    plan = await deleting.plan()
    assert plan is not None
    assert "next clean-up continues" in await deleting.apply(plan)
    assert len(server.runs) == 120


async def test_a_server_that_deletes_nothing_does_not_keep_us(atlas: Atlas, server: RecordedServer) -> None:
    server.deletes = False
    deleting = action(atlas, server.url)
    plan = await deleting.plan()
    assert plan is not None
    with pytest.raises(ActionFailed, match="deletes none"):
        await deleting.apply(plan)


async def test_without_a_server_there_is_nothing_to_do(atlas: Atlas) -> None:
    assert await DeleteRuns(atlas, {}, 30, lambda: False).plan() is None


async def test_a_server_that_is_away_is_told_of_without_credentials(atlas: Atlas) -> None:
    with pytest.raises(ActionFailed, match="PREFECT_API_URL") as failed:
        await action(atlas, "http://127.0.0.1:9/api", PREFECT_API_KEY="pnu_secret").plan()
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({}, None),
        ({"PREFECT_API_KEY": "pnu_key"}, "Bearer pnu_key"),
        ({"PREFECT_API_AUTH_STRING": "user:word"}, "Basic dXNlcjp3b3Jk"),
    ],
)
async def test_credentials_travel_in_the_header(
    atlas: Atlas, server: RecordedServer, environment: dict[str, str], sent: str | None
) -> None:
    await action(atlas, server.url, **environment).plan()
    assert server.authorization == [sent]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_real_server_deletes_ended_runs_of_ours_alone(atlas: Atlas, prefect: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.flows import Flow
    from prefect.states import Completed, Running

    def work() -> None: ...

    async with get_client() as client:
        runs = {}
        for name, state in (("tracker", Completed()), ("hunter", Running()), ("theirs", Completed())):
            run = await client.create_flow_run(Flow(work, name=name), name=name)
            await client.set_flow_run_state(run.id, Running(), force=True)
            await client.set_flow_run_state(run.id, state, force=True)
            runs[name] = run.id
        # The server dates what ended now, so everything that has ended counts as old.
        deleting = DeleteRuns(atlas, {"PREFECT_API_URL": prefect}, 0, lambda: False)
        plan = await deleting.plan()
        assert plan is not None
        assert await deleting.apply(plan) == f"deleted {counted(plan.details['rows'], 'run')}"
        left = {run.id for run in await client.read_flow_runs(limit=200)}
    assert runs["tracker"] not in left
    assert {runs["hunter"], runs["theirs"]} <= left

"""The whole stack in processes of its own: `maia up`, and a Prefect server with workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from atlas.dsn import sqlalchemy_url
from atlas.testing import ThrowAwayServer
from maia.stack.supervisor import MARK


@pytest.fixture(scope="session")
def prefect_template(postgres: ThrowAwayServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that Prefect has migrated, which takes it longer than all else about its start."""
    name = postgres.create_database()
    url = postgres.dsn_of(name)
    postgres._run(_execute(url, "CREATE EXTENSION pg_trgm"))
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        env=os.environ
        | {
            "PREFECT_API_DATABASE_CONNECTION_URL": sqlalchemy_url(url),
            "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect-home")),
        },
        check=True,
        capture_output=True,
    )
    return name


async def _execute(url: str, sql: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


@pytest.fixture
def prefect_database(postgres: ThrowAwayServer, prefect_template: str) -> Iterator[str]:
    """Name of a migrated database of Prefect's, of this test alone."""
    name = postgres.create_database(prefect_template)
    yield name
    postgres.drop_database(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def family_of(pid: int) -> list[int]:
    """Every process of a supervisor: its descendants, and whatever bears the mark that those inherit."""
    parent = psutil.Process(pid)
    marks, found = set(), {child.pid for child in parent.children(recursive=True)}
    for child in parent.children():
        with suppress(psutil.Error):
            marks.add(child.environ().get(MARK))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) in marks - {None}:
                found.add(process.pid)
    return sorted(found)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Wait for something true, and return it; the test's time limit is the limit."""
    while not (found := await condition()):
        await asyncio.sleep(0.1)
    return found


class Up:
    """A `maia up` under way."""

    def __init__(self, process: asyncio.subprocess.Process, environment: Mapping[str, str]) -> None:
        self.process, self.environment = process, environment
        self.events: list[dict[str, Any]] = []

    async def next_event(self, kind: str, **details: Any) -> dict[str, Any]:
        """The next event of a kind with these details; what else happens is kept too."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == kind and all(event.get(key) == value for key, value in details.items()):
                return dict(event)
        raise AssertionError(f"maia up ended without {kind} {details}: {await self.complaints()}")

    def pid_of(self, name: str) -> int:
        started = [event for event in self.events if event["event"] == "started" and event["name"] == name]
        return int(started[-1]["pid"])

    async def complaints(self) -> str:
        return await asyncio.to_thread(Path(self.environment["STDERR"]).read_text)

    async def end(self) -> int:
        """Wait for the end; the exit status."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.events.append(json.loads(line))
        return await self.process.wait()


UpFactory = Callable[..., Awaitable[Up]]


@pytest_asyncio.fixture
async def start_up(tmp_path: Path) -> AsyncIterator[UpFactory]:
    """Starts `maia up --json` in an environment; kills what is left of it at the end."""
    started: list[Up] = []

    async def start(environment: Mapping[str, str], *arguments: str) -> Up:
        stderr = tmp_path / f"stderr-{len(started)}"
        surroundings = {
            "PORT": str(free_port()),
            "PLEIADES_PREFECT__PORT": str(free_port()),
            "PLEIADES_METRICS__PORT": str(free_port()),
            "PREFECT_HOME": str(tmp_path / "prefect"),
            **environment,
            "STDERR": str(stderr),
        }
        with stderr.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "maia", "up", "--json", *arguments,
                env=surroundings, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        started.append(Up(process, surroundings))
        return started[-1]

    yield start
    for up in started:
        if up.process.returncode is None:
            family = family_of(up.process.pid)
            up.process.kill()
            await up.process.wait()
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Prefect:
    """A Prefect server with its automations, and workers of ours."""

    def __init__(self, api: str, environment: dict[str, str], folder: Path) -> None:
        self.api, self.environment, self.folder = api, environment, folder
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, *command: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        """Start a program that talks to the server, in a group of its own."""
        with (self.folder / f"log-{len(self.processes)}").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *command,
                env={**environment, **self.environment}, cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    async def run(self, *command: str, environment: Mapping[str, str]) -> tuple[int, str]:
        """Run a program to its end: its status, and all it printed."""
        process = await self.start(*command, environment=environment)
        log = self.folder / f"log-{len(self.processes) - 1}"
        status = await process.wait()
        return status, await asyncio.to_thread(log.read_text)

    async def worker(self, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        """A worker of the pool "process" that looks for work every second."""
        return await self.start(
            "prefect", "worker", "start", "--pool", "process", "--limit", "4",
            environment={**environment, "PREFECT_WORKER_QUERY_SECONDS": "1"},
        )  # fmt: skip

    async def post(self, path: str, **body: Any) -> Any:
        import aiohttp

        async with aiohttp.ClientSession() as session, session.post(f"{self.api}{path}", json=body) as answer:
            assert answer.ok, await answer.text()
            return await answer.json(content_type=None)

    async def ask_for(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run now; its id."""
        import aiohttp

        url = f"{self.api}/deployments/name/{deployment}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            found = await answer.json()
        wanted = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str((await self.post(f"/deployments/{found['id']}/create_flow_run", **wanted))["id"])

    async def state_of(self, run_id: str) -> dict[str, Any]:
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.api}/flow_runs/{run_id}") as answer,
        ):
            return dict((await answer.json())["state"])

    async def ended(self, run_id: str) -> dict[str, Any]:
        """The state in which a run ended."""

        async def final() -> dict[str, Any] | None:
            state = await self.state_of(run_id)
            return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

        return dict(await until(final))

    async def end(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@pytest_asyncio.fixture
async def prefect_server(
    postgres: ThrowAwayServer, prefect_database: str, environment: dict[str, str], tmp_path: Path
) -> AsyncIterator[Prefect]:
    """A Prefect server of this test, which looks twice a second for runs that fell silent."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    ours = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    prefect = Prefect(api, ours, tmp_path)
    serving = {
        "PREFECT_API_DATABASE_CONNECTION_URL": sqlalchemy_url(postgres.dsn_of(prefect_database)),
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT0.5S",
    }
    await prefect.start(
        "prefect", "server", "start", "--port", str(port), "--no-ui", environment=environment | serving
    )

    async def answers() -> bool:
        import aiohttp

        try:
            async with aiohttp.ClientSession() as session, session.get(f"{api}/health") as answer:
                return answer.ok
        except aiohttp.ClientError:
            return False

    await until(answers)
    prefect.environment["PREFECT_API_URL"] = api
    yield prefect
    await prefect.end()

"""The product from outside: real processes of `maia`, a real PostgreSQL, the emulator over real sockets."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from atlas.clock import Clock
from atlas.testing import ThrowAwayServer
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue
from maia.emulator.synthesis import synthesize
from tests.fork_server import FORKS, Finished, Running

KEYS = json.dumps([{"key": "lab-key", "project": "lab"}])
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests with the longest time limits first, so that no worker is left with one in the end.

    Before them come those of the stack: one worker gets the first two, and makes their template once.
    """
    usual_s = float(config.getini("timeout"))

    def length(item: pytest.Item) -> tuple[bool, float]:
        mark = item.get_closest_marker("timeout")
        return item.path.parent != HERE, usual_s if mark is None else mark.args[0]

    ours = sorted((item for item in items if item.path.is_relative_to(HERE)), key=length, reverse=True)
    items[:] = [*(item for item in items if not item.path.is_relative_to(HERE)), *ours]


@dataclass
class Stage:
    """An emulator, a database, and the environment in which `maia` meets both."""

    environment: dict[str, str]
    database_url: str
    emulator: Emulator
    processes: list[asyncio.subprocess.Process | Running] = field(default_factory=list)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "maia",
            *arguments,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    async def fork(self, *arguments: str) -> Running:
        """Start one that has loaded everything, as its loading is not what is tested."""
        process = await FORKS.start(*arguments, environment=self.environment)
        self.processes.append(process)
        return process

    async def maia(self, *arguments: str) -> Finished:
        return await FORKS.run(*arguments, environment=self.environment)

    async def hunt(self, *arguments: str) -> Finished:
        return await self.maia("hunter", "--direct", "--json", *arguments)

    async def track(self, *arguments: str) -> Finished:
        return await self.maia("tracker", "--direct", "--json", *arguments)

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return [tuple(row) for row in await connection.fetch(sql, *arguments)]
        finally:
            await connection.close()

    def set_clock(self, now: datetime, *, speed: float = 1.0) -> None:
        """Let emulator and agents read `now` from this moment on."""
        self.emulator.set_clock(now, speed)
        clock: Any = self.emulator.clock
        self.environment |= {
            "PLEIADES_CLOCK__START": clock.start.isoformat(),
            "PLEIADES_CLOCK__ANCHOR": clock.anchor.isoformat(),
            "PLEIADES_CLOCK__SPEED": str(speed),
        }

    async def end(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


StageFactory = Callable[..., Any]


@pytest_asyncio.fixture
async def stage_of(environment: dict[str, str]) -> AsyncIterator[StageFactory]:
    """Sets a stage around a catalogue: `await stage_of(catalogue, search=100, …)`; ends with the test."""
    async with AsyncExitStack() as stack:

        async def build(
            catalogue: Catalogue,
            *,
            now: datetime | None = None,
            clock: Clock | None = None,
            settings: Mapping[str, str] | None = None,
            **limits: int,
        ) -> Stage:
            quota = {"search": 1_000_000, "stats": 1_000_000, "general": 1_000_000} | limits
            emulator = await stack.enter_async_context(
                Emulator.serve(catalogue, clock=clock, projects=[Project("lab", **quota)])
            )
            ours = {
                "YOUTUBE_API_KEY_POOL_JSON": KEYS,
                "PLEIADES_YOUTUBE__BASE_URL": emulator.url,
                "PLEIADES_QUOTA__LIMITS__SEARCH": str(quota["search"]),
                "PLEIADES_QUOTA__LIMITS__STATS": str(quota["stats"]),
                "PLEIADES_QUOTA__LIMITS__GENERAL": str(quota["general"]),
                "PLEIADES_QUOTA__SHARES__HUNTING__SEARCH": "1",
                "PLEIADES_QUOTA__SHARES__ARCHEOLOGY__SEARCH": "0",
                "PLEIADES_QUOTA__RESERVE": "0",
                "PLEIADES_QUOTA__PACING": "false",
                # Topic by topic, so that what is found follows from the topics.
                "PLEIADES_HUNTER__STRATEGY": "specification",
                "PLEIADES_HUNTER__ORDER": "date",
                **(settings or {}),
            }
            stage = Stage(environment | ours, environment["DATABASE_URL"], emulator)
            stack.push_async_callback(stage.end)
            stage.set_clock(now or catalogue.span[1])
            return stage

        yield build


@pytest.fixture
def restartable(own_postgres: ThrowAwayServer) -> tuple[ThrowAwayServer, str]:
    """A server that a test may restart and crash, and a migrated database on it."""
    return own_postgres, own_postgres.dsn_of(own_postgres.create_database(own_postgres.migrated_template()))


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """A small catalogue that is the same in every run."""
    path = tmp_path_factory.mktemp("catalogue") / "synthetic.catalogue"
    start = datetime(2026, 2, 1, 12, tzinfo=UTC)
    synthesize(path, videos=1200, channels=120, days=20, seed=7, start=start)
    with Catalogue.open(path) as catalogue:
        yield catalogue

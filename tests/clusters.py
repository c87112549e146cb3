"""Clusters of sites with databases of their own, on a network that loses, repeats and delays what it carries.

What all sites must come to know is counted once more in a database of its own, the central one, by which
nothing is ever exchanged.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web
from pydantic import SecretStr

from atlas.adapters.patterns import PatternsDAO
from atlas.clock import Clock
from atlas.composition import Atlas
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation.running import Federation
from tests.federated import TOKEN, FederatedSite, pattern
from tests.served import served

HOPS = {"Content-Length", "Transfer-Encoding", "Connection", "Host"}


@dataclass(slots=True)
class Weather:
    """How bad the network is: shares of the messages."""

    lost: float = 0.0
    """Half of them arrive, and only their answers are lost."""
    twice: float = 0.0
    late: float = 0.0
    """Before the message, one arrives that was sent earlier."""


GOOD = Weather()
STORM = Weather(lost=0.25, twice=0.2, late=0.3)


@dataclass
class Network:
    """Ways from each site to each other one, over which the messages of `FederatedSite`s go."""

    seed: int
    weather: Weather = field(default_factory=Weather)
    urls: dict[int, str] = field(default_factory=dict)
    """Where each site is served now."""
    parts: list[set[int]] = field(default_factory=list)
    """Between these, nothing gets through."""
    counts: Counter[str] = field(default_factory=Counter)
    on_answer: Callable[[int, int], None] = lambda _source, _target: None
    """Called before an answer is passed back."""

    def __post_init__(self) -> None:
        self._drawn = random.Random(self.seed)
        self._ways: dict[int, tuple[int, int]] = {}
        self._ports: dict[tuple[int, int], int] = {}
        self._earlier: dict[int, deque[tuple[str, dict[str, str], bytes]]] = {}
        self._client: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(self, sites: int) -> AsyncIterator[None]:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._carry)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            for way in [(one, other) for one in range(sites) for other in range(sites) if one != other]:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                port = runner.addresses[-1][1]
                self._ways[port], self._ports[way] = way, port
            async with aiohttp.ClientSession() as self._client:
                yield
        finally:
            await runner.cleanup()

    def way(self, source: int, target: int) -> str:
        """The URL under which a site calls another one."""
        return f"http://127.0.0.1:{self._ports[source, target]}"

    def _is_cut(self, source: int, target: int) -> bool:
        return any((source in part) != (target in part) for part in self.parts) or target not in self.urls

    async def _carry(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        source, target = self._ways[request.transport.get_extra_info("sockname")[1]]
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name not in HOPS}
        sent = (request.path, headers, body)
        weather = Weather(lost=2.0) if self._is_cut(source, target) else self.weather
        earlier = self._earlier.setdefault(target, deque(maxlen=20))
        if earlier and self._drawn.random() < weather.late:
            self.counts["late"] += 1
            await self._deliver(target, *self._drawn.choice(earlier))
        earlier.append(sent)
        fate = self._drawn.random()
        if fate < weather.lost / 2:
            return self._lose(request)
        status, answer = await self._deliver(target, *sent)
        if self._drawn.random() < weather.twice:
            self.counts["twice"] += 1
            status, answer = await self._deliver(target, *sent)
        self.on_answer(source, target)
        if fate < weather.lost or status == 0:
            return self._lose(request)
        self.counts["carried"] += 1
        return web.Response(body=answer, status=status)

    def _lose(self, request: web.Request) -> web.StreamResponse:
        self.counts["lost"] += 1
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)

    async def _deliver(
        self, target: int, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        assert self._client is not None
        try:
            async with self._client.post(f"{self.urls[target]}{path}", data=body, headers=headers) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, KeyError):
            return 0, b""


@dataclass
class Cluster:
    """Sites that can be stopped, killed and set back; `central` counts what all of them counted."""

    postgres: ThrowAwayServer
    make_settings: SettingsFactory
    clock: Clock
    template: str
    network: Network
    redis_url: str | None = None
    sites: dict[int, FederatedSite] = field(default_factory=dict)
    databases: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stacks: dict[int, AsyncExitStack] = {}
        self._calls: dict[int, list[int]] = {}
        self._drawn = random.Random(self.network.seed + 1)

    @asynccontextmanager
    async def open(self, sites: int) -> AsyncIterator[None]:
        self._central_database = self.postgres.create_database(self.template)
        try:
            async with (
                self.network.open(sites),
                Atlas.open(self._settings(self._central_database), clock=self.clock) as central,
            ):
                self.central = PatternsDAO(central.db, clock=self.clock, settings=central.settings)
                for number in range(sites):
                    self.databases[number] = self.postgres.create_database(self.template)
                    await self._name(number)
                try:
                    for number in range(sites):
                        await self.start(number)
                    yield
                finally:
                    for number in [*self.sites]:
                        await self.stop(number)
        finally:
            for database in (self._central_database, *self.databases.values()):
                self.postgres.drop_database(database)

    async def start(self, number: int) -> None:
        """Serve a site, and let it call the others as before."""
        stack = AsyncExitStack()
        settings = self._settings(self.databases[number])
        atlas = await stack.enter_async_context(Atlas.open(settings, clock=self.clock))
        service = await stack.enter_async_context(served(atlas))
        self._stacks[number] = stack
        self.sites[number] = FederatedSite(atlas, service, Federation(atlas))
        self.network.urls[number] = service.url
        self.calls(number, *self._calls.get(number, []))

    async def stop(self, number: int) -> None:
        self.network.urls.pop(number)
        self.sites.pop(number)
        await self._stacks.pop(number).aclose()

    def calls(self, number: int, *others: int) -> None:
        """Let a site call these others from now on."""
        self._calls[number] = [*others]
        self.sites[number].call(*(self.network.way(number, other) for other in others))

    def mesh(self) -> None:
        for number in self.sites:
            self.calls(number, *(other for other in self.sites if other != number))

    def star(self, middle: int = 0) -> None:
        for number in self.sites:
            self.calls(number, *([] if number == middle else [middle]))

    def environment(self, number: int) -> dict[str, str]:
        """The settings of a site, for a process of its own."""
        urls = [self.network.way(number, other) for other in self._calls.get(number, [])]
        redis = {} if self.redis_url is None else {"REDIS_URL": self.redis_url}
        return redis | {
            "DATABASE_URL": self.postgres.dsn_of(self.databases[number]),
            "PLEIADES_FEDERATION__TOKEN": TOKEN,
            "PLEIADES_FEDERATION__CLUSTER_NAME": "test",
            "PLEIADES_FEDERATION__PEERS": ",".join(urls),
            "PLEIADES_FEDERATION__SYNC_INTERVAL_S": "1",
        }

    async def backup(self, number: int) -> str:
        """A copy of a site's database as it is now; the site is stopped and started for it."""
        await self.stop(number)
        copy = self.postgres.create_database(self.databases[number])
        await self.start(number)
        return copy

    async def restore(self, number: int, copy: str) -> None:
        """Set a site back to a copy, which becomes its database."""
        await self.stop(number)
        self.postgres.drop_database(self.databases[number])
        self.databases[number] = copy
        await self.start(number)

    async def learn(self, observations: int, *numbers: int) -> None:
        """Let sites, all unless some are named, count evidence; the central database counts all of it."""
        for _ in range(observations):
            site = self.sites[self._drawn.choice([*(numbers or self.sites)])]
            name = f"pattern {self._drawn.randrange(30)}"
            at = self._now - timedelta(days=self._drawn.randrange(3), seconds=self._drawn.randrange(3_600))
            pos, neg = self._drawn.randrange(1, 6), self._drawn.randrange(4)
            for each in (site, self._as_site()):
                await each.learn(name, pos, neg, at=at)

    async def forget(self, number: int, name: str) -> None:
        """Let an operator of a site forget a pattern, if it is known there."""
        ids = [pattern(name).id]
        if await self.sites[number].patterns.forget(ids, "operator"):
            await self.central.forget(ids, "operator")

    @property
    def _now(self) -> datetime:
        return self.clock.now()

    def _as_site(self) -> _Central:
        return _Central(self.central, self.clock)

    async def sync(self, *numbers: int) -> int:
        """Let sites call their peers, in any order; how many exchanges failed."""
        order = [*(numbers or self.sites)]
        self._drawn.shuffle(order)
        return sum([await self._call(number) for number in order])

    async def sync_at_once(self) -> int:
        """Let all sites call their peers at the same time; how many exchanges failed."""
        return sum(await asyncio.gather(*(self._call(number) for number in self.sites)))

    async def _call(self, number: int) -> int:
        done = await self.sites[number].federation.sync()
        return sum(each.failed is not None for each in done)

    async def truth(self) -> dict[str, Any]:
        """What one count of everything gives."""
        return await _counted(self.central)

    async def counted(self, number: int) -> dict[str, Any]:
        return await _counted(self.sites[number].patterns)

    async def check_agreement(self) -> None:
        """All sites know the same, row by row, and of each pattern what the central database counts."""
        truth, known = await self.truth(), await self.sites[next(iter(self.sites))].known()
        for number, site in self.sites.items():
            assert await self.counted(number) == truth, f"site {number} counts otherwise"
            assert await site.known() == known, f"site {number} holds other rows"

    async def until_agreement(self, seconds: float = 60) -> None:
        """Wait until all sites count as the central database does."""
        truth = await self.truth()
        async with asyncio.timeout(seconds):
            for number in self.sites:
                while await self.counted(number) != truth:
                    await asyncio.sleep(0.05)

    @asynccontextmanager
    async def process(self, number: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process of its own that federates a site until the block ends."""
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.federating",
            env=os.environ | self.environment(number), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert started.stdout is not None
            assert await started.stdout.readline() == b"ready\n"
            yield started
        finally:
            if started.returncode is None:
                started.kill()
            await started.wait()

    async def kill_in_mid_sync(self, number: int, answers: int) -> None:
        """Let a process of a site call its peers, and kill it (-9) when so many answers are on their way."""
        async with self.process(number) as process:

            def strike(source: int, _: int) -> None:
                nonlocal answers
                answers -= source == number
                if not answers and process.returncode is None:
                    process.kill()

            self.network.on_answer = strike
            assert await process.wait() == -signal.SIGKILL
        self.network.on_answer = lambda _source, _target: None

    def _settings(self, database: str) -> Any:
        return self.make_settings(
            database_url=SecretStr(self.postgres.dsn_of(database)),
            redis_url=None if self.redis_url is None else SecretStr(self.redis_url),
            federation={"token": TOKEN, "cluster_name": "test"},
        )

    async def _name(self, number: int) -> None:
        """Sites that are cloned from one template would have one name, and be one site."""
        connection = await asyncpg.connect(self.postgres.dsn_of(self.databases[number]))
        try:
            await connection.execute(
                "UPDATE site SET node = $1, counts_in = database_identity()", f"site-{number}"
            )
        finally:
            await connection.close()


@dataclass(frozen=True, slots=True)
class _Central:
    """The central database, which learns as a site does."""

    patterns: PatternsDAO
    clock: Clock

    learn = FederatedSite.learn


async def _counted(dao: PatternsDAO) -> dict[str, Any]:
    return {
        each.id: (each.statement, each.pos, each.neg, each.sum_reward, each.last_seen)
        for each in await dao.known()
    }

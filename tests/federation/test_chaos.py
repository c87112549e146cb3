"""Five sites for minutes in whatever can happen to them: all end equal to what one count of everything gives.

Each site has a database of its own, is served on a socket, and is federated by a process of its own. Events
are drawn by a seed: sites learn and forget, messages are lost, repeated and delayed, the network is divided,
processes are killed (-9), services are away, and databases are set back to old copies. ROUNDS and SEED in the
environment ask for more, or for other events.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from atlas.adapters.patterns import StoredEvidence
from atlas.clock import SystemClock
from atlas.testing import SettingsFactory, ThrowAwayServer
from tests.clusters import GOOD, STORM, Cluster, Network
from tests.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.timeout(1_800)

SITES = 5
ROUNDS = int(os.environ.get("ROUNDS", "40"))
SEED = int(os.environ.get("SEED", "20261130"))
STREAM = "pleiades:test:changes"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Chaos:
    """What happens to a cluster, drawn by a seed."""

    def __init__(self, cluster: Cluster, redis: RedisServer | None, seed: int) -> None:
        self._cluster, self._redis, self._drawn = cluster, redis, random.Random(seed)
        self._processes: dict[int, AsyncExitStack] = {}
        self.happened: list[str] = []

    @asynccontextmanager
    async def reigning(self) -> AsyncIterator[None]:
        """Federate all sites during the block."""
        try:
            for number in self._cluster.sites:
                await self._federate(number)
            yield
        finally:
            for number in [*self._processes]:
                await self._kill(number)

    async def strike(self) -> None:
        """Let sites learn, and one thing happen."""
        await self._cluster.learn(self._drawn.randrange(1, 20))
        site = self._drawn.randrange(SITES)
        events: list[Callable[[int], object]] = [
            self.forget, self.storm, self.calm, self.divide, self.unite,
            self.kill, self.kill, self.away, self.set_back, self.vandalise, self.lose_redis,
        ]  # fmt: skip
        event = self._drawn.choice(events)
        self.happened.append(f"{event.__name__} {site}")
        result = event(site)
        if asyncio.iscoroutine(result):
            await result

    async def forget(self, site: int) -> None:
        # What others count before they hear of it counts nowhere.
        await self._cluster.forget(site, f"pattern {self._drawn.randrange(30)}")

    def storm(self, _: int) -> None:
        self._cluster.network.weather = STORM

    def calm(self, _: int) -> None:
        self._cluster.network.weather = GOOD

    def divide(self, site: int) -> None:
        self._cluster.network.parts = [{site, (site + 1) % SITES}]

    def unite(self, _: int) -> None:
        self._cluster.network.parts = []

    async def kill(self, site: int) -> None:
        await self._kill(site)
        await self._federate(site)

    async def away(self, site: int) -> None:
        await self._cluster.stop(site)
        await asyncio.sleep(self._drawn.uniform(0, 2))
        await self._cluster.start(site)

    async def set_back(self, site: int) -> None:
        """Set a site back to an old copy, once others have what it counted since."""
        self.unite(site)
        await self._kill(site)
        copy = await self._cluster.backup(site)
        await self._federate(site)
        await self._cluster.learn(5, site)
        if self._redis is None:
            self.calm(site)
        await self._until_elsewhere(site)
        await self._kill(site)
        await self._cluster.restore(site, copy)
        await self._federate(site)

    async def vandalise(self, _: int) -> None:
        """Lose, repeat and reorder what is in the stream."""
        if self._redis is None:
            return
        async with Redis.from_url(self._redis.url, protocol=2) as redis:
            entries = await redis.xrange(STREAM)
            self._drawn.shuffle(entries)
            for position, fields in entries[: len(entries) // 2]:
                await redis.xdel(STREAM, position)
                if self._drawn.random() < 0.5:
                    await redis.xadd(STREAM, fields)
            await redis.xadd(STREAM, {b"m": self._drawn.randbytes(200)})

    async def lose_redis(self, _: int) -> None:
        if self._redis is not None:
            self._redis.kill()
            await asyncio.sleep(self._drawn.uniform(0, 1))
            self._redis.start()

    async def _until_elsewhere(self, site: int) -> None:
        async with asyncio.timeout(300):
            # Each time anew: what others forgot is gone here, too, as soon as that is heard.
            while not await self._is_held(await self._own_rows(site), site):
                await asyncio.sleep(0.1)

    async def _own_rows(self, site: int) -> set[StoredEvidence]:
        """What a site has counted under its present name."""
        rows = {row async for row in self._cluster.sites[site].patterns.all_evidence()}
        name = max((row.node for row in rows if _is(row.node, site)), default="")
        return {row for row in rows if row.node == name}

    async def _is_held(self, rows: set[StoredEvidence], site: int) -> bool:
        """Whether any other site holds these rows."""
        for number, other in self._cluster.sites.items():
            if number != site and rows <= {row async for row in other.patterns.all_evidence()}:
                return True
        return False

    async def _federate(self, site: int) -> None:
        stack = AsyncExitStack()
        await stack.enter_async_context(self._cluster.process(site))
        self._processes[site] = stack

    async def _kill(self, site: int) -> None:
        await self._processes.pop(site).aclose()


def _is(node: str, site: int) -> bool:
    return node.partition(".")[0] == f"site-{site}"


@pytest.mark.parametrize("way", ["mesh", "star", "redis"])
async def test_all_end_equal_to_the_truth(
    way: str,
    postgres: ThrowAwayServer,
    template: str,
    settings_factory: SettingsFactory,
    redis: RedisServer,
) -> None:
    cluster = Cluster(postgres, settings_factory, SystemClock(), template, Network(SEED))
    if way == "redis":
        cluster.redis_url = redis.url
    async with cluster.open(SITES):
        if way == "mesh":
            cluster.mesh()
        elif way == "star":
            cluster.star()
        chaos = Chaos(cluster, redis if way == "redis" else None, SEED)
        try:
            async with chaos.reigning():
                for _ in range(ROUNDS):
                    await chaos.strike()
                chaos.calm(0)
                chaos.unite(0)
                await cluster.until_agreement(600)
            await cluster.check_agreement()
        finally:
            print(f"{len(chaos.happened)} events:", ", ".join(chaos.happened))
            print(cluster.network.counts)

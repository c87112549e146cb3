"""Five sites, whatever happens to them and to what they send: all come to know what one count of all gives.

The same with more of everything, and longer, is in tests/federation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from atlas.clock import SystemClock
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.federation.publishing import streaming
from tests.clusters import GOOD, STORM, Cluster, Network
from tests.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.integration

SITES = 5


@pytest.fixture
def cluster(postgres: ThrowAwayServer, template: str, settings_factory: SettingsFactory) -> Cluster:
    return Cluster(postgres, settings_factory, SystemClock(), template, Network(seed=7))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


async def test_sites_in_a_storm_divided_killed_and_set_back(cluster: Cluster) -> None:
    network = cluster.network
    async with cluster.open(SITES):
        cluster.mesh()
        network.weather = STORM
        await cluster.learn(30)
        await cluster.sync()
        counts = network.counts
        assert min(counts["lost"], counts["twice"], counts["late"]) > 3, counts

        # Two parts learn by themselves; an operator of one forgets what the other one still counts.
        cluster.star(0)
        network.weather, network.parts = GOOD, [{0, 1}]
        await cluster.forget(0, "pattern 3")
        await cluster.learn(20)
        assert await cluster.sync() == 3
        network.parts = []

        # Then a site is killed when it has sent what it knows, and before it hears the answer.
        await cluster.kill_in_mid_sync(2, answers=2)

        # Another one is set back to a copy, and what it counted since comes back to it.
        copy = await cluster.backup(4)
        await cluster.learn(10, 4)
        await cluster.sync(4)
        await cluster.restore(4, copy)
        await cluster.learn(10, 4)
        for _ in range(2):
            assert await cluster.sync_at_once() == 0
        await cluster.check_agreement()
        nodes = {row.node async for row in cluster.sites[0].patterns.all_evidence()}
        assert len(nodes) == SITES + 1, "the copy counts under a name of its own"


async def test_sites_that_only_share_a_redis_which_forgets_everything(
    cluster: Cluster, redis: RedisServer
) -> None:
    cluster.redis_url = redis.url
    async with cluster.open(SITES), AsyncExitStack() as stack:
        await cluster.learn(20)
        for site in cluster.sites.values():
            await stack.enter_async_context(streaming(site.atlas))
        await cluster.until_agreement()
        redis.kill()
        await cluster.learn(20)
        redis.start()
        await cluster.learn(20)
        await cluster.until_agreement()
        await cluster.check_agreement()

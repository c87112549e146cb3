"""The graph on two servers: a coordinator that keeps no atoms, and a shard in a database of each server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import pytest

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, Value, node_handle
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer, throw_away_server
from maia.graphing.reading import read_arrays

SQL = Path(__file__).parents[2] / "deployments" / "postgres"
TAGS = [Node("tag", f"t{n}") for n in range(20)]
LINKS = [
    Link("tagged", (Node("video", f"v{n}"), TAGS[tag]), Evidence(1))
    for n in range(100)
    for tag in {n % 20, n * 7 % 20}
]


@pytest.fixture(scope="module")
def other_server() -> Iterator[ThrowAwayServer]:
    with throw_away_server() as server:
        yield server


@pytest.fixture
async def sharded(
    settings_factory: SettingsFactory,
    clock: FixedClock,
    sql: Any,
    postgres: ThrowAwayServer,
    template: str,
    other_server: ThrowAwayServer,
) -> AsyncIterator[Atlas]:
    """An Atlas whose graph, which has a few atoms already, was split over two servers."""
    async with Atlas.open(settings_factory(), clock=clock) as atlas:
        await dao(atlas).add(LINKS[:50], Sources.FACTS)
        await sql.execute("CREATE EXTENSION postgres_fdw")
        for nth, (server, like) in enumerate(
            ((postgres, template), (other_server, other_server.migrated_template()))
        ):
            await add_shard(sql, nth, server.dsn_of(server.create_database(like)))
        await sql.execute((SQL / "graph-coordinator.sql").read_text())
        await sql.execute("SELECT split_graph(ARRAY['shard_0', 'shard_1'])")
        yield atlas


async def add_shard(sql: Any, nth: int, url: str) -> None:
    shard = await asyncpg.connect(url)
    await shard.execute((SQL / "graph-shard.sql").read_text())
    await shard.close()
    parts = urlsplit(url)
    place = {key: values[0] for key, values in parse_qs(parts.query).items()}
    await sql.execute(
        f"CREATE SERVER shard_{nth} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{place['host']}', "
        f"dbname '{parts.path.lstrip('/')}', batch_size '1000', fetch_size '10000')"
    )
    user = unquote(parts.username or place.get("user", ""))
    await sql.execute(f"CREATE USER MAPPING FOR CURRENT_USER SERVER shard_{nth} OPTIONS (user '{user}')")


def dao(atlas: Atlas) -> GraphDAO:
    return GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def test_everything_works_on_two_servers_as_on_one(sharded: Atlas, sql: Any) -> None:
    graph = dao(sharded)
    await graph.add(LINKS, Sources.FACTS)
    assert (await graph.add(LINKS, Sources.FACTS)).changed == 0
    await graph.add([Node("concept", "craze", Evidence(2, 1))], counting=True)
    await graph.add([Node("concept", "craze", Evidence(2, 1))], counting=True)
    split = [await sql.fetchval(f"SELECT count(*) FROM atoms_{nth}") for nth in range(2)]
    assert min(split) > 50
    assert sum(split) == len(LINKS) + 20 + 100 + 1
    craze = node_handle("concept", "craze")
    [atom] = await graph.get([craze])
    assert (atom.pos, atom.neg, atom.count) == (4, 2, 6)
    t3 = node_handle("tag", "t3")
    expected = {link.outgoing[0] for link in LINKS if link.outgoing[1] == TAGS[3]}
    assert len(await graph.incoming(t3)) == len(await graph.neighbours([t3])) == len(expected)
    await graph.set_values([Value(craze, "v", floats=[1.0])])
    await graph.attend({craze: Attention(2.0, 1.0), t3: Attention(1.0, 1.0)}, NOON)
    assert [each.name for each in await graph.most_attended()] == ["craze", "t3"]
    assert len(await read_arrays(sharded)) == sum(split)
    gone = await graph.remove([t3], Sources.FACTS)
    assert len(gone) == 1 + len(expected)
    assert await graph.incoming(t3) == []
    assert len(await read_arrays(sharded)) == sum(split) - len(gone)
    for video in expected:
        links = await graph.incoming(node_handle("video", str(getattr(video, "name", ""))))
        assert all(t3 not in (link.outgoing or ()) for link in links)

"""Deriving links from the facts of the graph: what holds is written once, and goes when it doesn't."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.graph import Evidence, GraphDAO, Link, Node, Sources
from atlas.adapters.graph_embeddings import GraphEmbeddingsDAO
from atlas.adapters.graph_feeding import GraphFeedDAO
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.graph import embedded_nodes
from maia.graph.embedded_nodes import learn_embedding
from maia.graph.embedding import DIMENSIONS
from maia.graph.merging import facts_of
from maia.graphing import deriving
from maia.graphing.communities import communities_of, find_communities, keep_communities
from maia.graphing.deriving import derive, is_due
from maia.graphing.feeding import feed
from maia.graphing.reading import read_arrays
from maia.views import graph
from tests.stored_graphs import SOURCE, TOPIC, VIDEO, links

pytestmark = pytest.mark.integration


async def derived(sql: Any, *, alike: bool = False) -> dict[str, tuple[int, int, float | None]]:
    found = await links(sql, Sources.DERIVED)
    return {text: told for text, told in found.items() if text.startswith("similar") is alike}


@pytest.fixture
async def fed(atlas: Atlas, sql: Any) -> Atlas:
    """Eight videos, of which two topics found some."""
    await sql.execute("INSERT INTO channels VALUES ('UC', NULL, $1, $1)", NOON)
    for topic in ("jazz", "blues"):
        await sql.execute(TOPIC, topic, NOON)
    ids = {row["key"]: row["id"] for row in await sql.fetch("SELECT id, key FROM search_queue")}
    for nth, (tags, category) in enumerate(
        [("jazz blues", 10), ("jazz blues", 10), ("jazz blues", 1), ("jazz", 10), ("rock", 1), ("rock", 1),
         ("", None), ("", None)]
    ):  # fmt: skip
        await sql.execute(VIDEO, f"v{nth}", "UC", NOON, category, tags.split(), None)
        if "jazz" in tags:
            await sql.execute(SOURCE, f"v{nth}", "related", NOON, [ids["jazz"]])
    await feed(atlas)
    return atlas


async def test_what_holds_is_written_once_and_goes_when_it_holds_no_longer(fed: Atlas, sql: Any) -> None:
    assert await is_due(fed)
    made = await derive(fed)
    assert await derived(sql) == {
        "co_occurs(tag:blues, tag:jazz)": (3, 1, pytest.approx(math.log(3 * 8 / (4 * 3)))),
        "follows(topic:jazz, topic:blues)": (3, 1, pytest.approx(math.log(3 * 8 / (4 * 3)))),
        "inherits(topic:jazz, category:10)": (3, 1, 0.75),
    }
    alike = await derived(sql, alike=True)
    assert alike["similar(video:v4, video:v5)"] == (0, 0, 1)
    assert alike["similar(video:v0, video:v4)"] < (0, 0, 1)
    assert (made.links, made.written, made.removed) == (3 + len(alike), 3 + len(alike), 0)
    assert (await derive(fed)).written == 0
    assert not await is_due(fed)
    dao = GraphDAO(fed.db, clock=fed.clock, settings=fed.settings)
    jazz, blues = Node("tag", "jazz"), Node("tag", "blues")
    await dao.add([Link("co_occurs", (jazz, blues), Evidence(9, 1))], Sources.PEOPLE)
    assert (await derive(fed)).written == 0
    await sql.execute("UPDATE videos SET tags = '{jazz}' WHERE id IN ('v1', 'v2')")
    await feed(fed)
    made = await derive(fed)
    assert made.removed >= 1
    assert (await derived(sql)).keys() == {"inherits(topic:jazz, category:10)"}
    assert await sql.fetchval("SELECT sources FROM atoms WHERE type = 'co_occurs'") == Sources.PEOPLE
    # What has left a tombstone comes back.
    await sql.execute("UPDATE videos SET tags = '{jazz,blues}' WHERE id IN ('v1', 'v2')")
    await feed(fed)
    await derive(fed)
    assert "follows(topic:jazz, topic:blues)" in await derived(sql)
    await sql.execute("DELETE FROM videos")
    # The ends of this one are topics, which are there as before.
    assert (await derived(sql)).keys() == {"follows(topic:jazz, topic:blues)"}
    assert await derived(sql, alike=True) == {}


async def test_links_are_derived_when_enough_has_changed(
    fed: Atlas, sql: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await derive(fed)
    await sql.execute("ANALYZE atoms")
    dao = GraphFeedDAO(fed.db, clock=fed.clock, settings=fed.settings)
    assert await dao.estimate_atoms() == await sql.fetchval("SELECT count(*) FROM atoms")
    await sql.execute("UPDATE graph_state SET changes = 200")
    assert not await is_due(fed)
    clock.advance(timedelta(hours=6))
    assert await is_due(fed)
    await sql.execute("UPDATE graph_state SET derived_at = derived_at + interval '400 days'")
    assert await is_due(fed), "the clock was ahead"
    await sql.execute("UPDATE graph_state SET derived_at = derived_at - interval '400 days'")
    monkeypatch.setattr(deriving, "_CHANGED", 100)
    assert not await is_due(fed), "next to the whole graph, that is little"
    clock.advance(timedelta(hours=18))
    assert await is_due(fed), "but it was long ago"
    await sql.execute("UPDATE graph_state SET changes = 99")
    assert not await is_due(fed)


async def stored(sql: Any) -> dict[str, bytes]:
    rows = await sql.fetch(
        "SELECT a.type || ':' || a.name AS text, e.vector FROM atom_embeddings AS e "
        "JOIN embedding_bases AS b ON b.id = e.basis AND b.is_present "
        "LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = e.handle"
    )
    return {row["text"]: row["vector"] for row in rows}


async def test_vectors_follow_the_graph_on_one_basis(
    fed: Atlas, sql: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await derive(fed)
    first, made = await sql.fetchrow("SELECT * FROM embedding_bases"), await stored(sql)
    assert first["is_present"]
    assert made.keys() >= {"video:v0", "video:v6", "channel:UC", "tag:jazz", "topic:blues"}
    assert {len(each) for each in made.values()} == {2 * DIMENSIONS}
    await sql.execute("UPDATE videos SET tags = '{rock}' WHERE id = 'v3'")
    await sql.execute(VIDEO, "v8", "UC", NOON, 1, ["rock", "jazz"], None)
    await sql.execute("INSERT INTO channels VALUES ('UD', NULL, $1, $1)", NOON)
    await sql.execute(VIDEO, "v9", "UD", NOON, 1, ["blues", "blues ballads"], None)
    await feed(fed)
    # What came just now is compared as it will be once it has vectors.
    early = await graph.similar(fed, "video:v8")
    assert {each.by for each in (early, await graph.similar(fed, "video:v9"))} == {"vectors"}
    assert (await graph.similar(fed, "tag:blues ballads")).by == "vectors"
    assert (await graph.similar(fed, "channel:UD")).by == "neighbours"
    await derive(fed)
    derived = await graph.similar(fed, "video:v8")
    assert derived.by == "links"
    assert early.atoms[0].atom.atom == derived.atoms[0].atom.atom
    assert {each.atom.atom: each.likeness for each in early.atoms} == pytest.approx(
        {each.atom.atom: each.likeness for each in derived.atoms}, abs=0.05
    )
    later = await stored(sql)
    assert await sql.fetchval("SELECT max(id) FROM embedding_bases") == first["id"]
    assert later.keys() == made.keys() | {"video:v8", "video:v9", "channel:UD", "tag:blues ballads"}
    assert later["video:v3"] != made["video:v3"]
    # Of its channel, all videos moved.
    assert {text for text in made if later[text] == made[text]} >= {"tag:rock", "tag:blues", "topic:jazz"}
    # Whoever leaves takes the vector along, and the direction of a tag that only this one had.
    features = await sql.fetchval("SELECT count(*) FROM embedding_features")
    await sql.execute("DELETE FROM videos WHERE id IN ('v0', 'v1', 'v2', 'v9')")
    gone = {"video:v0", "video:v1", "video:v2", "video:v9", "channel:UD", "tag:blues", "tag:blues ballads"}
    assert (await stored(sql)).keys() == later.keys() - gone
    assert await sql.fetchval("SELECT count(*) FROM embedding_features") == features - 1
    # Another basis takes the place of this one with all its vectors, or not at all.
    clock.advance(timedelta(days=8))

    async def cut_off(*_: object) -> None:
        raise RuntimeError("cut off")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="cut off"):
        patched.setattr(GraphEmbeddingsDAO, "enter", cut_off)
        await derive(fed)
    assert await sql.fetchval("SELECT id FROM embedding_bases WHERE is_present") == first["id"]
    assert (await stored(sql)).keys() == later.keys() - gone
    await derive(fed)
    [again] = await sql.fetch("SELECT * FROM embedding_bases")
    assert again["id"] > first["id"]
    assert again["is_present"]
    assert await sql.fetchval("SELECT count(DISTINCT basis) FROM atom_embeddings") == 1


async def test_communities_are_kept_as_values_and_are_those_that_would_be_found(
    fed: Atlas, sql: Any, clock: Any
) -> None:
    await derive(fed)
    first = await graph.get(fed, ["video:v0", "tag:blues", "video:v4", "video:v6", "channel:UC"])
    numbers = [each.values["community"] for each in first]
    assert numbers[0] == numbers[1]
    ranks: list[Any] = [each.values["pagerank"][0] for each in first]
    assert ranks[4] > ranks[3] > 0
    clock.advance(timedelta(hours=1))
    found = await graph.communities(fed)
    assert found.found_at == NOON
    assert sum(each.size for each in found.communities) == await sql.fetchval(
        "SELECT count(*) FROM atom_values WHERE key = 'community'"
    )
    of_blues = (await graph.communities(fed, of="tag:blues")).communities
    assert {each.atom for each in of_blues[0].tags} <= {"tag:jazz", "tag:blues", "tag:rock"}
    assert "video:v0" in {each.atom for each in of_blues[0].members}
    assert (await graph.communities(fed, resolution=2)).found_at == clock.now()
    # The facts are the same, and so is everything; then they aren't, and what is left keeps its number.
    facts = facts_of(await read_arrays(fed))
    assert await keep_communities(fed, facts) == 0
    made = communities_of(facts, NOON).chosen(None, 10, 10)
    assert (await find_communities(fed)).chosen(None, 10, 10) == made
    assert (await graph.communities(fed)).found_at == clock.now()
    await sql.execute("DELETE FROM videos WHERE id IN ('v4', 'v6')")
    await sql.execute(VIDEO, "v9", "UC", NOON, 1, [], None)
    await feed(fed)
    assert await keep_communities(fed, facts_of(await read_arrays(fed))) > 0
    [kept, new] = await graph.get(fed, ["video:v0", "video:v9"])
    assert kept.values["community"] == numbers[0]
    assert "community" in new.values


async def test_a_basis_is_learnt_from_those_with_most_links(
    fed: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(await read_arrays(fed))
    everything = learn_embedding(facts)
    monkeypatch.setattr(embedded_nodes, "MOST_LEARNT", 3)
    fewer = learn_embedding(facts)
    # The first three have two tags each, and what they don't have isn't learnt.
    assert len(fewer.basis.tags) == 2 < len(everything.basis.tags) == 3
    assert len(fewer.of_type(facts, "video")) == len(everything.of_type(facts, "video"))

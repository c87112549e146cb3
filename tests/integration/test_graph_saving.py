"""Snapshots of the graph over a real database and a vault in a folder, and arrays brought up to date."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import pytest

from atlas.adapters.graph import (
    OWN,
    Attention,
    Evidence,
    GraphDAO,
    Link,
    Node,
    Sources,
    Value,
    link_handle,
    node_handle,
)
from atlas.adapters.graph_columns import GraphColumns, GraphColumnsDAO
from atlas.adapters.graph_communities import GraphCommunitiesDAO
from atlas.adapters.graph_embeddings import GraphEmbeddingsDAO
from atlas.adapters.graph_loading import GraphLoadingDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, SettingsFactory
from maia.cycle.agent import run
from maia.cycle.snapshot_chains import MOST_INCREMENTS
from maia.graph.arrays import GraphArrays
from maia.graph.files import GraphSnapshot
from maia.graph.merging import part_of
from maia.graph.values import NO_VALUES, Elements, Kind, Values
from maia.graphing import feeding, saving
from maia.graphing.deriving import is_due
from maia.graphing.present import cache_of, present_arrays, present_graph
from maia.graphing.reading import columns_of, read_arrays, values_from
from maia.graphing.restoring import GraphBusy, replace_graph
from maia.graphing.saving import GraphCopyRefused
from maia.learner.cycle import Learner
from tests.graph_arrays import Known, Numbers, contents, graph_of, told
from tests.sized_graphs import made_graph

pytestmark = pytest.mark.integration

FIRST = made_graph(200, 600)


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(graph={"snapshots_kept": 2})


def later(graph: GraphArrays, place: int) -> GraphArrays:
    """The same graph with another attention of one atom."""
    sti = graph.sti.copy()
    sti[place] += np.float32(1)
    return replace(graph, sti=sti)


class Stage:
    """What stands for the database: the graph to read, and what was restored."""

    def __init__(self, graph: GraphArrays) -> None:
        self.graph, self.values, self.restored = graph, NO_VALUES, list[GraphSnapshot]()

    async def read(self) -> tuple[GraphArrays, Values]:
        return self.graph, self.values

    async def store(self, snapshot: GraphSnapshot) -> None:
        self.restored.append(snapshot)


async def test_a_chain_brings_back_each_of_its_states(atlas: Atlas, clock: FixedClock) -> None:
    stage, states, taken = Stage(FIRST), [], []
    for nth in range(3):
        stage.graph = later(stage.graph, nth)
        stage.values = Values.of([(FIRST.handle(7), {"rank": Elements(Kind.FLOATS, [nth])})])
        states.append((stage.graph, stage.values))
        taken.append(await saving.take(atlas, stage.read))
        clock.advance(timedelta(hours=1))
    names = [each.snapshot.name for each in taken]
    assert [each.snapshot.base for each in taken] == [None, *(each.snapshot.id for each in taken[:2])]
    assert names[0].startswith(f"graph/{NOON:%Y%m%dT%H%M%S}.000000Z-")
    assert taken[0].atoms == len(FIRST)
    assert all(each.atoms <= 3 and each.bytes < taken[0].bytes / 10 for each in taken[1:])
    for nth, name in enumerate((names[0], taken[1].snapshot.id, None)):
        restored = await saving.restore(atlas, stage.store, name)
        found, (graph, values) = stage.restored.pop(), states[nth]
        assert (contents(found.graph), told(found.values)) == (contents(graph), told(values))
        assert [each.name for each in restored.chain] == names[: nth + 1]
    with pytest.raises(GraphCopyRefused, match="no snapshot of the graph has the name"):
        await saving.restore(atlas, stage.store, "f" * 15)
    # So much has changed that an increment would be as large as everything.
    stage.graph = replace(stage.graph, seen_us=stage.graph.seen_us + 1, pos=stage.graph.pos + 1)
    assert (await saving.take(atlas, stage.read)).snapshot.is_full


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
async def test_a_damaged_base_restores_nothing_and_makes_the_next_one_full(
    atlas: Atlas, clock: FixedClock, damage: str
) -> None:
    stage = Stage(FIRST)
    base = (await saving.take(atlas, stage.read)).snapshot.name
    clock.advance(timedelta(hours=1))
    stage.graph = later(FIRST, 1)
    await saving.take(atlas, stage.read)
    if damage == "deleted":
        await atlas.vault.delete(base)
    else:
        body = bytearray(await atlas.vault.fetch_bytes(base))
        body[len(body) // 2] ^= 1
        await atlas.vault.store(base, bytes(body))
    words = {"deleted": "is not there", "flipped": r"block [a-z_]+/0 is damaged: name an earlier"}[damage]
    with pytest.raises(GraphCopyRefused, match=words):
        await saving.restore(atlas, stage.store)
    assert stage.restored == []
    assert (await saving.take(atlas, stage.read)).snapshot.is_full


async def test_chains_end_and_old_ones_are_deleted(atlas: Atlas, clock: FixedClock) -> None:
    kept, stage = atlas.settings.graph.snapshots_kept, Stage(made_graph(30, 60))
    with pytest.raises(GraphCopyRefused, match="there is no snapshot of the graph"):
        await saving.restore(atlas, stage.store)
    kinds = []
    for _ in range((kept + 1) * (MOST_INCREMENTS + 1)):
        kinds.append((await saving.take(atlas, stage.read)).snapshot.is_full)
        clock.advance(timedelta(hours=1))
    assert kinds == ([True] + [False] * MOST_INCREMENTS) * (kept + 1)
    assert len(await saving.stored(atlas)) == kept * (MOST_INCREMENTS + 1)
    last = (await saving.take(atlas, stage.read)).snapshot
    clock.advance(timedelta(days=atlas.settings.maintainer.retention.metadata_days, hours=1))
    taken = await saving.take(atlas, stage.read)
    assert taken.snapshot.is_full
    assert last not in await saving.stored(atlas)
    assert await saving.stored(atlas) == [taken.snapshot]


async def test_one_is_due_by_the_interval_once_there_is_something(atlas: Atlas, clock: FixedClock) -> None:
    assert not await saving.is_due(atlas)
    await GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).add([Node("tag", "music")])
    assert await saving.is_due(atlas)
    await saving.take(atlas, Stage(FIRST).read)
    for hours, due in ((23, False), (1, True)):
        clock.advance(timedelta(hours=hours))
        assert await saving.is_due(atlas) == due


async def test_the_copy_of_the_arrays_follows_the_database(atlas: Atlas, clock: FixedClock) -> None:
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    tags = [Node("tag", f"t{nth}") for nth in range(4)]
    links = [Link("co_occurs", (tags[nth], tags[nth + 1]), weight=1.5) for nth in range(3)]

    async def check() -> GraphArrays:
        present = await present_arrays(atlas)
        assert contents(present) == contents(await read_arrays(atlas))
        return present

    assert len(await check()) == 0
    await dao.add(links, Sources.DERIVED)
    assert len(await check()) == 7
    await dao.attend({node_handle("tag", "t1"): Attention(2.5, 1)}, NOON)
    await check()
    await dao.remove([node_handle("tag", "t0")], Sources.DERIVED)
    await dao.add([Link("related_to", (links[1], tags[3], Node("video", "v")))])
    assert len(await check()) == 7
    cached = await cache_of(atlas.settings).load(verify=True)
    assert cached is not None
    assert len(cached.graph) == 7
    # A space that is filled anew has no tombstones of what was in it.
    loading = GraphLoadingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    is_tag = np.isin(np.arange(len(cached.graph)), cached.graph.of_type("tag"))
    await loading.load(OWN, columns_of(part_of(cached.graph, is_tag)))
    assert len(await check()) == 3
    # A copy of another database is worth nothing.
    await cache_of(atlas.settings).store(FIRST, "other 7", clock.now())
    assert len(await check()) == 3
    # What went so long ago that the database no longer knows it would stay in an old one.
    await cache_of(atlas.settings).store(FIRST, cached.cursor, clock.now())
    clock.advance(timedelta(days=1))
    assert len(await check()) == 3


async def test_a_learner_takes_one_that_brings_the_graph_back(atlas: Atlas, clock: FixedClock) -> None:
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    standing = GraphCommunitiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    vectors = GraphEmbeddingsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    music, cafe = node_handle("tag", "music"), node_handle("tag", "café 🎵")
    both = Link("co_occurs", (Node("tag", "music"), Node("tag", "café 🎵")), Evidence(3, 1), 1.5)
    await dao.add([Link("related_to", (both, *both.outgoing))])
    await dao.set_values(
        [
            Value(music, "shown", texts=["Music", "", "MUSIC"]),
            Value(music, "mood", floats=[0.25, -3]),
            Value(cafe, "near", handles=[music, cafe]),
            Value(cafe, "mood", floats=[]),
            Value(link_handle("co_occurs", sorted([music, cafe])), "shown", floats=[7]),
        ]
    )
    await dao.attend({music: Attention(2.5, 1, 1)}, NOON - timedelta(hours=5))
    everything = [music, cafe, link_handle("co_occurs", sorted([music, cafe]))]
    before = await read_arrays(atlas), await dao.values(everything), await dao.get(everything)
    assert (await run(Learner, atlas))["snapshots"] == 1
    assert await atlas.events.since(0, kinds=["learner.graph_snapshot"])
    # What is there by then goes, and what was derived of it is not answered any more.
    await dao.remove([music])
    await dao.add([Node("concept", "later")])
    await dao.set_values([Value(cafe, "mood", floats=[9]), Value(cafe, "later", texts=["x"])])
    await vectors.enter(await vectors.begin(1, {"dimensions": 2}, 1.0))
    await standing.group({1: [cafe]}, 0.5)
    clock.advance(timedelta(days=2))
    restored = await saving.restore(atlas, partial(replace_graph, atlas))
    assert (restored.atoms, len(restored.chain)) == (4, 1)
    after = await present_graph(atlas)
    assert contents(after[0]) == contents(before[0])
    assert told(after[1]) == told(values_from(await columns_with_values(atlas), before[0]))
    assert (await dao.values(everything), await dao.get(everything)) == before[1:]
    assert (await vectors.present(), await standing.grouped(), await standing.communities()) == (
        None,
        None,
        {},
    )
    assert await is_due(atlas)
    # A feeder that is at work would go on with what it had read before.
    async with atlas.db.only_one(feeding.LOCK):
        with pytest.raises(GraphBusy, match="the graph feeder is at work"):
            await replace_graph(atlas, GraphSnapshot(FIRST, NOON, NOON), wait_s=0)
    assert contents(await present_arrays(atlas)) == contents(before[0])
    # What other sites said isn't restored, nor what was derived of that.
    own, theirs = Known("tag", "music"), Known("tag", "café")
    alike = Known("similar", "", tuple(sorted([own.handle, theirs.handle])))
    graph = graph_of({own: Numbers(sources=9), theirs: Numbers(sources=8), alike: Numbers(sources=2)})
    await replace_graph(atlas, GraphSnapshot(graph, NOON, NOON))
    found = await present_arrays(atlas)
    assert [(found.handle(place), found.sources[place]) for place in range(len(found))] == [(own.handle, 1)]


async def columns_with_values(atlas: Atlas) -> GraphColumns:
    dao = GraphColumnsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return await dao.read(OWN, with_values=True)

"""Reading the whole graph into arrays."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, link_handle, node_handle
from atlas.adapters.graph_columns import GraphColumnsDAO
from atlas.adapters.graph_loading import GraphLoadingDAO
from atlas.composition import Atlas
from atlas.errors import UnknownCursor
from maia.graph.arrays import NO_ATOM, GraphArrays
from maia.graphing.reading import columns_of, read_arrays

TAGS = [Node("tag", name) for name in ("music", "café 🎵", "live")]
VIDEOS = [Node("video", f"v{n}") for n in range(4)]


@pytest.fixture
async def graph(atlas: Atlas) -> GraphDAO:
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    tagged = [Link("tagged", (video, tag), Evidence(1)) for video in VIDEOS for tag in TAGS]
    await dao.add([*tagged, Link("co_occurs", tuple(TAGS[:2]), Evidence(3, 1), 1.5)], Sources.FACTS)
    await dao.add([Link("related_to", (tagged[0], TAGS[1], VIDEOS[3]))])
    return dao


def described(arrays: GraphArrays) -> dict[str, tuple[object, ...]]:
    """Every atom in words, with its numbers."""

    def text(place: int) -> str:
        name = arrays.names[place]
        type_ = arrays.types[arrays.type_of[place]]
        ends = arrays.outgoing[arrays.outgoing_starts[place] : arrays.outgoing_starts[place + 1]]
        return f"{type_}:{name}" if name else f"{type_}({', '.join(map(text, ends.tolist()))})"

    return {
        text(place): (arrays.handle(place), arrays.positive[place], arrays.count[place], arrays.sti[place])
        for place in range(len(arrays))
    }


async def test_arrays_hold_the_whole_graph(graph: GraphDAO, atlas: Atlas) -> None:
    music = node_handle("tag", "music")
    await graph.attend({music: Attention(2.5, 1, 1)}, datetime(2026, 11, 1, tzinfo=UTC))
    arrays = await read_arrays(atlas)
    found = described(arrays)
    assert len(found) == len(arrays) == 21
    assert found["tag:café 🎵"][0] == node_handle("tag", "café 🎵")
    ends = [node_handle("video", "v2"), node_handle("tag", "live")]
    assert found["tagged(video:v2, tag:live)"] == (link_handle("tagged", ends), 1, 1, 0)
    assert found["related_to(tagged(video:v0, tag:music), tag:café 🎵, video:v3)"][1:] == (0, 0, 0)
    assert found["tag:music"][3] == 2.5
    weights = arrays.weight[arrays.of_type("co_occurs")]
    assert weights.tolist() == [1.5]
    assert np.isnan(arrays.weight[arrays.of_type("tag", "tagged")]).all()
    assert arrays.places([music, node_handle("tag", "not there")]).tolist() == [
        list(found).index("tag:music"),
        NO_ATOM,
    ]


async def test_an_empty_graph_has_empty_arrays(atlas: Atlas) -> None:
    arrays = await read_arrays(atlas)
    assert (len(arrays), arrays.types, len(arrays.outgoing)) == (0, (), 0)
    assert arrays.places([node_handle("tag", "x")]).tolist() == [NO_ATOM]


async def test_changes_come_with_the_ends_of_links(graph: GraphDAO, atlas: Atlas) -> None:
    dao = GraphColumnsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    cursor = (await dao.read(0)).cursor
    assert len((await dao.changes(0, cursor)).rows) == 0
    await graph.remove([node_handle("video", "v1")], Sources.FACTS)
    await graph.add([Link("tagged", (VIDEOS[2], Node("tag", "new")))])
    columns = await dao.changes(0, cursor)
    assert {name for _, name in columns.names} == {"new", "v2"}
    assert len(columns.rows) == 3
    assert len(columns.gone) == 4
    with pytest.raises(UnknownCursor):
        await dao.changes(0, "another 7")


async def test_a_graph_can_be_loaded_as_it_was_read(graph: GraphDAO, atlas: Atlas) -> None:
    live = node_handle("tag", "live")
    at = datetime(2026, 11, 1, tzinfo=UTC)
    await graph.attend({live: Attention(2.5, 1, 1)}, at)
    before = await read_arrays(atlas)
    loading = GraphLoadingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await graph.add([Node("tag", "later")])
    for space in (0, 1):
        await loading.load(space, columns_of(before))
        after = await read_arrays(atlas, space)
        for name in (
            "handles",
            "type_of",
            "outgoing",
            "pos",
            "neg",
            "sources",
            "sti",
            "lti",
            "vlti",
            "attended_us",
            "seen_us",
        ):
            assert getattr(after, name).tolist() == getattr(before, name).tolist()
        assert described(after) == described(before)
        copy = graph.of(space)
        for atom in await copy.get([before.handle(place) for place in range(len(before))]):
            ends = await graph.incoming(atom.handle)
            assert [each.handle for each in await copy.incoming(atom.handle)] == [
                each.handle for each in ends
            ]
        assert await copy.neighbours([live]) == await graph.neighbours([live])
        assert (await copy.get([live]))[0].attended_at == at

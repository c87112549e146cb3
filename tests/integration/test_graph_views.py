"""What people see of the knowledge graph: atoms by their names, neighbours, and how much there is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, Value, node_handle
from atlas.composition import Atlas
from maia.graphing.forms import FormError
from maia.graphing.naming import NoSuchAtom
from maia.views import graph
from maia.views.words import plain
from tests.growth import store_video

pytestmark = pytest.mark.integration

MUSIC, LIVE, RARE = Node("tag", "music"), Node("tag", "live"), Node("tag", 'a "b", c')
VIDEOS = [Node("video", f"v{nth}") for nth in range(6)]
CHANNEL = Node("channel", "UC-one")


@pytest_asyncio.fixture
async def small(atlas: Atlas, sql: Any) -> GraphDAO:
    """Six videos tagged music, two of them rare, too; with titles of the first."""
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await store_video(sql, "v0", title="A song")
    links = [Link("tagged", (video, MUSIC), Evidence(1)) for video in VIDEOS]
    links += [Link("tagged", (video, RARE), Evidence(1)) for video in VIDEOS[:2]]
    links += [Link("uploaded_by", (VIDEOS[0], CHANNEL), Evidence(1))]
    links += [Link("inherits", (VIDEOS[0], Node("category", "10")), Evidence(3, 1))]
    await dao.add(links, Sources.FACTS)
    await dao.add([Link("co_occurs", (MUSIC, LIVE), Evidence(6), 2.5)], Sources.DERIVED)
    await dao.set_values([Value(node_handle("tag", "music"), "shown", texts=["Music"])])
    return dao


async def test_get_shows_what_people_call_atoms_in_the_order_asked_for(atlas: Atlas, small: GraphDAO) -> None:
    tagged = "tagged(video:v0, tag:Music)"
    found = await graph.get(
        atlas, [tagged, "tag:MUSIC", "video:v0", "category:music", "tag:none", "tag:music"]
    )
    assert [each.atom for each in found] == [
        "tagged(video:v0, tag:music)", "tag:music", "video:v0", "category:10",
    ]  # fmt: skip
    link, tag, video, category = found
    assert (link.shown, tag.shown, video.shown, category.shown) == (
        "A song – Music", "Music", "A song", "Music",
    )  # fmt: skip
    assert [each.atom for each in link.outgoing or ()] == ["video:v0", "tag:music"]
    assert tag.outgoing is None
    assert (tag.values, tag.incoming) == ({"shown": ("Music",)}, {"tagged": 6, "co_occurs": 1})
    [belief] = await graph.get(atlas, ["inherits(video:v0, category:Music)"])
    assert (belief.strength, belief.count, belief.own_neg, belief.sources) == (0.75, 4, 1, ("facts",))
    assert belief.confidence == pytest.approx(4 / 804)
    assert plain(belief)["outgoing"][1]["shown"] == "Music"
    [again] = await graph.get(atlas, [belief.handle[:13]])
    assert again == belief


async def test_links_with_links_are_named_all_the_way_down(atlas: Atlas, small: GraphDAO) -> None:
    inner = Link("tagged", (VIDEOS[0], RARE))
    await small.add([Link("evidence_for", (Node("pattern", "p"), Link("related_to", (inner, MUSIC))))])
    [outer] = (
        await graph.incoming(atlas, 'related_to(tagged(video:v0, tag:"a \\"b\\", c"), tag:music)')
    ).atoms
    assert outer.atom == (
        'evidence_for(pattern:p, related_to(tagged(video:v0, tag:"a \\"b\\", c"), tag:music))'
    )
    assert [each.handle for each in await graph.get(atlas, [outer.atom])] == [outer.handle]


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("planet:x", NoSuchAtom, "no type of nodes; there are agent, category"),
        ("tag(tag:x)", NoSuchAtom, "no type of links; there are co_occurs"),
        ("00000", NoSuchAtom, "no atom's handle begins with 00000"),
        ("tag:x", NoSuchAtom, "maia graph find"),
        ("tagged(tag:x", FormError, "closing parenthesis"),
    ],
)
async def test_what_there_is_not_is_told(atlas: Atlas, text: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        await graph.incoming(atlas, text)


async def test_find_and_incoming_go_on_where_the_last_page_ended(atlas: Atlas, small: GraphDAO) -> None:
    every, after = [], None
    while True:
        page = await graph.find(atlas, "", after=after, limit=3)
        every += [each.atom for each in page.atoms]
        if (after := page.next) is None:
            break
    assert every == [
        "category:10", "channel:UC-one", 'tag:"a \\"b\\", c"', "tag:live", "tag:music", *map(str, VIDEOS),
    ]  # fmt: skip
    assert [each.atom for each in (await graph.find(atlas, "tag:MU")).atoms] == ["tag:music"]
    assert [each.atom for each in (await graph.find(atlas, "v", type_="video", limit=2)).atoms] == [
        "video:v0", "video:v1",
    ]  # fmt: skip
    links, after = set(), None
    while True:
        page = await graph.incoming(atlas, "tag:music", types=["tagged"], after=after, limit=4)
        links |= {each.atom for each in page.atoms}
        if (after := page.next) is None:
            break
    assert links == {f"tagged({video}, tag:music)" for video in VIDEOS}


async def test_neighbours_of_two_hops_rank_by_what_few_share(atlas: Atlas, small: GraphDAO) -> None:
    found = await graph.neighbours(atlas, "video:v0", hops=2)
    near = [each.neighbour.atom for each in found.neighbours if each.hops == 1]
    far = [each for each in found.neighbours if each.hops == 2]
    assert sorted(near) == ["category:10", "channel:UC-one", 'tag:"a \\"b\\", c"', "tag:music"]
    assert not found.sampled
    assert far[0].neighbour.atom == "video:v1"
    assert far[0].paths == 2
    assert far[0].closeness == pytest.approx(1 / math.log(3) + 1 / math.log(8))
    assert far[0].via is not None
    assert far[0].via.atom == 'tag:"a \\"b\\", c"'
    assert {each.neighbour.atom for each in far} == {"tag:live", *map(str, VIDEOS[1:])}
    [live] = (await graph.neighbours(atlas, "tag:music", types=["co_occurs"])).neighbours
    assert (live.neighbour.atom, live.weight, live.types) == ("tag:live", 2.5, ("co_occurs",))
    assert live.link is not None
    assert (live.link.count, live.link.sources) == (6, ("derived",))
    with pytest.raises(NoSuchAtom, match="no type of links"):
        await graph.neighbours(atlas, "tag:music", types=["tag"])


async def test_stats_count_by_type_and_source(atlas: Atlas, small: GraphDAO) -> None:
    await small.add([MUSIC], Sources.PEOPLE)
    await small.remove([node_handle("video", "v5")], Sources.FACTS)
    await small.attend({node_handle("tag", "live"): Attention(3, 2, 1)}, atlas.clock.now())
    found = await graph.stats(atlas)
    assert (found.nodes, found.links, found.gone, found.space) == (10, 10, 2, "own")
    tags, tagged = (next(each for each in found.types if each.type == name) for name in ("tag", "tagged"))
    assert (tags.atoms, tags.by_source) == (3, {"facts": 2, "derived": 2, "people": 1})
    assert (tagged.atoms, tagged.positive, tagged.count, tagged.is_link) == (7, 7, 7, True)
    assert (found.attended, found.kept, found.sti, found.lti) == (1, 1, 3, 2)
    assert min(found.bytes.values()) > 0
    assert [each.atom for each in await graph.most_attended(atlas, "tag")] == ["tag:live"]
    assert (await graph.stats(atlas, space=await graph.space_named(atlas, "own"))) == found
    with pytest.raises(NoSuchAtom, match="there are own"):
        await graph.space_named(atlas, "mars")

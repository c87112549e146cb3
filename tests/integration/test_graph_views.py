"""What people see of the knowledge graph: atoms by their names, neighbours, and how much there is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, Value, node_handle
from atlas.adapters.graph_views import GraphViewsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import DataRefused
from maia.graphing import paths
from maia.graphing.forms import FormError
from maia.graphing.naming import NoSuchAtom
from maia.graphing.paths import shortest_path
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


async def test_channels_and_videos_are_found_by_title(atlas: Atlas, small: GraphDAO, sql: Any) -> None:
    await store_video(sql, "not-in-the-graph", title="A song, too")
    assert [each.atom for each in (await graph.find_titled(atlas, "song")).atoms] == ["video:v0"]
    both = await graph.find_titled(atlas, "UC-one")
    assert [(each.atom, each.shown) for each in both.atoms] == [("channel:UC-one", "Channel UC-one")]
    assert (await graph.find_titled(atlas, "UC-one", type_="video")).atoms == ()
    with pytest.raises(NoSuchAtom, match="only channels and videos"):
        await graph.find_titled(atlas, "x", type_="tag")


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
    rare = Link("co_occurs", (MUSIC, Node("tag", "once")), Evidence(1), 9.0)
    await small.add([rare], Sources.DERIVED)
    near = (await graph.neighbours(atlas, "tag:music", types=["co_occurs"])).neighbours
    assert [each.neighbour.atom for each in near] == ["tag:live", "tag:once"]
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
    with pytest.raises(NoSuchAtom, match="there is own"):
        await graph.space_named(atlas, "mars")


async def test_the_shortest_path_is_found_over_links_that_are_allowed(
    atlas: Atlas, small: GraphDAO, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Link("related_to", (Node("concept", "x"), Link("tagged", (VIDEOS[5], MUSIC))))
    await small.add([far, Node("concept", "alone"), Link("related_to", (CHANNEL, Node("concept", "x")))])
    found = await graph.path(atlas, "channel:UC-one", "tag:live")
    assert [each.atom for each in found.atoms] == ["channel:UC-one", "video:v0", "tag:music", "tag:live"]
    assert [each.atom for each in found.links] == [
        "uploaded_by(video:v0, channel:UC-one)",
        "tagged(video:v0, tag:music)",
        f"co_occurs({', '.join(sorted(['tag:live', 'tag:music'], key=ordered))})",
    ]
    assert found.note is None
    tagged = await graph.path(atlas, "video:v0", "video:v3", types=["tagged"])
    assert [each.atom for each in tagged.atoms] == ["video:v0", "tag:music", "video:v3"]
    assert [each.atom for each in (await graph.path(atlas, "tag:live", "tag:live")).atoms] == ["tag:live"]
    # What nearly everything is linked with is only an end of a path.
    await small.add(
        [
            Link("inherits", (VIDEOS[4], Node("category", "10"))),
            Link("found_by", (VIDEOS[0], Node("agent", "a"))),
        ]
    )
    around = await graph.path(atlas, "video:v4", "agent:a")
    assert [each.atom for each in around.atoms] == ["video:v4", "tag:music", "video:v0", "agent:a"]
    monkeypatch.setattr(paths, "_WIDE", 0)
    over_category = await graph.path(atlas, "video:v0", "video:v4", types=["inherits"])
    assert over_category.atoms == ()
    short = await graph.path(atlas, "channel:UC-one", "tag:live", most_links=2)
    assert (short.atoms, short.note) == ((), "There is no path of at most 2 links.")
    none = await graph.path(atlas, "channel:UC-one", "concept:alone")
    assert (none.atoms, none.links, none.note) == ((), (), "There is no path of at most 8 links.")


@dataclass(frozen=True)
class OnRunner:
    """A graph for what Hypothesis repeats, which it calls outside of a loop."""

    runner: asyncio.Runner
    atlas: Atlas

    @property
    def dao(self) -> GraphViewsDAO:
        return GraphViewsDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)


@pytest.fixture
def views_on_runner(atlas_settings: Settings, clock: FixedClock) -> Iterator[OnRunner]:
    with asyncio.Runner() as runner:
        opening = Atlas.open(atlas_settings, clock=clock)
        yield OnRunner(runner, runner.run(opening.__aenter__()))
        runner.run(opening.__aexit__(None, None, None))


def ordered(text: str) -> str:
    type_, _, name = text.partition(":")
    return str(node_handle(type_, name))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edges=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=6, max_size=18),
    avoided=st.integers(1, 9),
    most=st.sampled_from([2, 3, 20]),
)
@example(edges=[(nth, nth + 1) for nth in range(9)], avoided=7, most=3)
def test_paths_are_as_short_as_in_a_search_of_all(
    views_on_runner: OnRunner, edges: list[tuple[int, int]], avoided: int, most: int
) -> None:
    views_on_runner.run(compare_paths(views_on_runner.dao, edges, avoided, most))


async def compare_paths(dao: GraphViewsDAO, edges: list[tuple[int, int]], avoided: int, most: int) -> None:
    names = [Node("concept", str(nth)) for nth in range(10)]
    await dao._executor.execute("graph.empty_incoming", dao.space)
    await dao._executor.execute("graph.empty_atoms", dao.space)
    await dao.add([*names, *(Link("related_to", (names[a], names[b])) for a, b in edges)])
    handles = [node_handle("concept", str(nth)) for nth in range(10)]
    for goal in range(10):
        # The same whether the links of the last levels are followed or only intersected.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paths, "_WIDE", 0 if goal % 4 else 2_000)
            patch.setattr(paths, "_MOST_COUNTED", (1, 100_000)[goal % 2])
            avoid = [handles[avoided]]
            found = await shortest_path(dao, handles[0], handles[goal], avoid=avoid, most_links=most)
        length = length_of_shortest(edges, goal, avoided)
        assert found.is_certain
        assert (len(found.links) if found.atoms else None) == (length if length <= most else None)
        assert not {handles[avoided]} & set(found.atoms[1:-1])
        links = {each.handle: set(each.outgoing or ()) for each in await dao.get(found.links)}
        for nth, link in enumerate(found.links):
            assert links[link] == {found.atoms[nth], found.atoms[nth + 1]}


def length_of_shortest(edges: list[tuple[int, int]], goal: int, avoided: int) -> float:
    """How many links it takes from 0 to a goal, not over one that is avoided; infinite if there is no way."""
    reached, rim, length = {0}, {0}, 0
    while rim and goal not in rim:
        near = {b for a, b in edges if a in rim} | {a for a, b in edges if b in rim}
        rim = near - reached - ({avoided} - {goal})
        reached |= rim
        length += 1
    return length if rim else math.inf


async def test_a_search_that_gives_up_is_not_certain(atlas: Atlas, small: GraphDAO) -> None:
    dao = GraphViewsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    ends = node_handle("channel", "UC-one"), node_handle("video", "v3")
    gone = await shortest_path(dao, *ends, most_visited=3)
    assert (gone.atoms, gone.is_certain) == ((), False)
    assert gone.visited > 3
    found = await shortest_path(dao, *ends, most_visited=gone.visited + 20)
    assert (len(found.links), found.is_certain) == (3, True)
    assert found == await shortest_path(dao, *ends)


async def test_similar_atoms_are_by_links_or_else_by_neighbours(atlas: Atlas, small: GraphDAO) -> None:
    alike = await graph.similar(atlas, "video:v0", limit=3)
    assert (alike.by, alike.of.atom, alike.atoms[0].atom.atom) == ("neighbours", "video:v0", "video:v1")
    assert len(alike.atoms) == 3
    await small.add(
        [
            Link("similar", (VIDEOS[0], video), weight=weight)
            for video, weight in zip(VIDEOS[3:], (0.5, 0.9, 0.7), strict=True)
        ],
        Sources.DERIVED,
    )
    alike = await graph.similar(atlas, "video:v0", limit=2)
    assert alike.by == "links"
    assert [(each.atom.atom, round(each.likeness, 3)) for each in alike.atoms] == [
        ("video:v4", 0.9),
        ("video:v5", 0.7),
    ]


async def test_queries_answer_with_what_people_call_atoms(atlas: Atlas, small: GraphDAO) -> None:
    found = await graph.query(
        atlas, "tagged(?video, tag:Music), uploaded_by(?video, ?channel), inherits(?video, category:music)"
    )
    assert (found.variables, found.more, found.missing) == (("?video", "?channel"), False, ())
    [row] = found.rows
    assert [(each.atom, each.shown) for each in row.atoms] == [
        ("video:v0", "A song"),
        ("channel:UC-one", "Channel UC-one"),
    ]
    pairs = await graph.query(atlas, "tagged(?a:video, ?tag), tagged(?b, ?tag), ?a != ?b, ?tag != tag:music")
    assert sorted(row.atoms[0].atom for row in pairs.rows) == ["video:v0", "video:v1"]
    tally = await graph.query(atlas, "tagged(?v, ?tag)", show=["tag"], mode="tally")
    assert (tally.rows[0].atoms[0].atom, tally.rows[0].tally) == ("tag:music", 6)
    assert (await graph.query(atlas, "tagged(?v, ?tag), not tagged(?v, tag:music)", mode="count")).total == 0
    assert (await graph.query(atlas, "?v:video, not inherits(?v, ?c:category|tag)", mode="count")).total == 5
    assert (await graph.query(atlas, "?v:video, not inherits(?v, ?t:tag)", mode="count")).total == 6
    heavy = await graph.query(atlas, "?l = co_occurs(?a, ?b)[weight >= 2, count < 9]", order=["?a.name"])
    assert [row.atoms[1].atom for row in heavy.rows] == ["tag:live", "tag:music"]
    inner = Link("tagged", (VIDEOS[0], MUSIC))
    await small.add([Link("evidence_for", (Node("pattern", "p"), inner))])
    nested = await graph.query(atlas, "evidence_for(?p, tagged(?v, tag:music))")
    assert [[each.atom for each in row.atoms] for row in nested.rows] == [["pattern:p", "video:v0"]]
    constant = await graph.query(
        atlas, "evidence_for(?p, tagged(video:v0, tag:music)), tagged(video:v0, tag:music)"
    )
    assert len(constant.rows) == 1
    plan = await graph.query(atlas, "tagged(?v, tag:music)", explain=True)
    assert plan.plan is not None
    assert "incoming" in (plan.sql or "")


async def test_queries_that_find_nothing_or_make_no_sense_say_why(atlas: Atlas, small: GraphDAO) -> None:
    none = await graph.query(atlas, 'tagged(?v, tag:musik), tagged(?v, tag:"a \\"b\\", c")')
    assert (none.rows, none.missing) == ((), ("tag:musik",))
    with pytest.raises(FormError, match="planet is no type of links; there are") as refused:
        await graph.query(atlas, "tagged(?v, tag:music), planet(?v)")
    assert refused.value.at == 23
    with pytest.raises(FormError, match="can't have links with variables"):
        await graph.query(atlas, "tagged(?v, ?t), not evidence_for(?p, tagged(?v, ?t))")
    with pytest.raises(NoSuchAtom, match="planet is no type of nodes"):
        await graph.query(atlas, "tagged(?v, planet:x)")
    with pytest.raises(DataRefused, match=r"\?w is in no clause"):
        await graph.query(atlas, "tagged(?v, ?t), ?v != ?w")

"""The knowledge graph in PostgreSQL: atoms, incoming sets, values, attention, and taking them back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest

from atlas.adapters.graph import (
    DEEPEST,
    Added,
    AtomType,
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
from atlas.composition import Atlas
from atlas.errors import DataRefused

MUSIC, LIVE = Node("tag", "music"), Node("tag", "live")
VIDEO = Node("video", "dQw4w9WgXcQ")
AT = datetime(2026, 11, 1, tzinfo=UTC)


def handle(node: Node) -> UUID:
    return node_handle(node.type, node.name)


@pytest.fixture
def graph(atlas: Atlas) -> GraphDAO:
    return GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def test_add_is_idempotent_and_shares_atoms(graph: GraphDAO) -> None:
    links = [
        Link("tagged", (VIDEO, MUSIC), Evidence(1)),
        Link("co_occurs", (MUSIC, LIVE), Evidence(3, 1), 2.5),
    ]
    assert await graph.add(links, Sources.FACTS) == Added(5, 0)
    assert await graph.add(links, Sources.FACTS) == Added(0, 0)
    assert await graph.add([Link("co_occurs", (LIVE, MUSIC), Evidence(4, 1))], Sources.FACTS) == Added(0, 1)
    assert await graph.count_by_type() == {"co_occurs": 1, "tag": 2, "tagged": 1, "video": 1}
    [link] = await graph.incoming(handle(LIVE))
    assert (link.pos, link.neg, link.positive, link.count, link.weight) == (4, 1, 4, 5, 2.5)
    assert sorted(link.outgoing or ()) == sorted([handle(MUSIC), handle(LIVE)])
    assert [(each.handle, each.links) for each in await graph.neighbours([handle(VIDEO)])] == [
        (handle(MUSIC), 1)
    ]


async def test_handles_are_those_of_sql(graph: GraphDAO, atlas: Atlas) -> None:
    name = "café 🎵 ' \\"
    outgoing = [node_handle("tag", name), handle(MUSIC), handle(LIVE)]
    await graph.add([Link("related_to", (Node("tag", name), MUSIC, LIVE))])
    found = await graph.get([*outgoing, link_handle("related_to", outgoing)])
    async with atlas.db.transaction() as executor:
        for atom in found:
            sql = "graph.node_handle" if atom.name else "graph.link_handle"
            assert await executor.fetchval(sql, atom.type, atom.name or atom.outgoing) == atom.handle
    assert len(found) == 4


async def test_counting_adds_evidence_of_people(graph: GraphDAO) -> None:
    for _ in range(3):
        await graph.add([Node("concept", "craze", Evidence(2, 1))], counting=True)
    [atom] = await graph.get([node_handle("concept", "craze")])
    assert (atom.pos, atom.neg, atom.sources) == (6, 3, Sources.PEOPLE)


async def test_links_may_be_nested_and_name_stored_atoms_by_handle(graph: GraphDAO) -> None:
    inner = Link("tagged", (VIDEO, MUSIC))
    await graph.add([Link("evidence_for", (Node("pattern", "p"), inner))])
    [outer] = await graph.incoming(link_handle("tagged", [handle(VIDEO), handle(MUSIC)]))
    assert await graph.add([Link("related_to", (outer.handle, handle(MUSIC)))]) == Added(1, 0)
    with pytest.raises(DataRefused, match="there is no atom"):
        await graph.add([Node("tag", "new"), Link("related_to", (outer.handle, UUID(int=7)))])
    assert await graph.get([node_handle("tag", "new")]) == []
    # No deeper than what can be read and written, also one by one, or all at once by their handles.
    top, chain = handle(MUSIC), list[Link]()
    for _ in range(DEEPEST + 1):
        chain.append(Link("related_to", (top,)))
        top = link_handle("related_to", [top])
    with pytest.raises(DataRefused, match="nested more than 10 deep"):
        await graph.add(chain)
    for link in chain[:-1]:
        await graph.add([link])
    for link in (chain[-1], Link("related_to", (MUSIC, chain[-1]))):
        with pytest.raises(DataRefused, match="nested more than 10 deep"):
            await graph.add([link])


@pytest.mark.parametrize(
    ("atom", "told"),
    [
        (Node("planet", "x"), "is no type of nodes"),
        (Link("tag", (MUSIC,)), "is no type of links"),
        (Node("tag", ""), "use 1 to 300"),
        (Node("tag", "x" * 301), "use 1 to 300"),
        (Node("tag", "x", Evidence(-1)), "less than no evidence"),
        (Node("tag", "x", Evidence(1, 2**53 + 1)), "more than 2\\^53 observations"),
        (Link("tagged", ()), "outgoing set of 1 to 100"),
        (Link("tagged", (MUSIC,), weight=float("nan")), "the weight nan is none"),
        (Link("tagged", (MUSIC,), weight=float("-inf")), "the weight -inf is none"),
        (Link("tagged", (MUSIC,), weight=1e300), "the weight"),
    ],
)
async def test_what_makes_no_sense_is_refused(graph: GraphDAO, atom: Node | Link, told: str) -> None:
    with pytest.raises(DataRefused, match=told):
        await graph.add([MUSIC, atom])
    assert await graph.count_by_type() == {}


async def test_an_atom_goes_when_nobody_says_so_any_more_and_takes_its_links_along(graph: GraphDAO) -> None:
    tagged = Link("tagged", (VIDEO, MUSIC))
    await graph.add([tagged], Sources.FACTS)
    stored = link_handle("tagged", [handle(VIDEO), handle(MUSIC)])
    await graph.add([MUSIC, Link("evidence_for", (Node("pattern", "p"), stored))], Sources.PEOPLE)
    await graph.set_values([Value(handle(VIDEO), "v", floats=[1.0])])
    await graph.attend({handle(VIDEO): Attention(3, 1)}, AT)
    assert await graph.remove([handle(MUSIC)], Sources.FACTS) == []
    gone = await graph.remove([handle(VIDEO)], Sources.FACTS)
    assert len(gone) == 3
    assert {atom.type for atom in await graph.get([handle(MUSIC), node_handle("pattern", "p")])} == {
        "tag",
        "pattern",
    }
    assert await graph.count_by_type() == {"pattern": 1, "tag": 1}
    assert await graph.incoming(handle(MUSIC)) == []
    assert await graph.values([handle(VIDEO)]) == []
    assert await graph.add([tagged], Sources.FACTS) == Added(0, 3)
    assert [atom.attended_at for atom in await graph.get([handle(VIDEO)])] == [None]
    assert len(await graph.incoming(handle(MUSIC))) == 1


async def test_adding_and_removing_at_once_leaves_no_link_without_its_ends(graph: GraphDAO) -> None:
    tags = [Node("tag", f"t{n}") for n in range(30)]
    await graph.add([VIDEO, *tags])

    async def link(nth: int) -> None:
        for tag in tags[nth::3]:
            try:
                await graph.add([Link("related_to", (handle(VIDEO), handle(tag)))])
            except DataRefused:
                continue

    await asyncio.gather(*map(link, range(3)), *(graph.remove([handle(tag)]) for tag in tags[::2]))
    for atom in await graph.incoming(handle(VIDEO)):
        assert len(await graph.get(list(atom.outgoing or ()))) == 2


async def test_incoming_goes_on_behind_the_last(graph: GraphDAO) -> None:
    tags = [Node("tag", f"lo {n:03}") for n in range(25)]
    await graph.add([*tags, Node("tag", "lp"), *(Link("tagged", (VIDEO, tag)) for tag in tags)])
    handles, last = [], UUID(int=0)
    while links := await graph.incoming(handle(VIDEO), ["tagged"], after=last, limit=10):
        handles += [atom.handle for atom in links]
        last = links[-1].handle
    assert len({*handles}) == len(handles) == 25


async def test_values_and_attention(graph: GraphDAO) -> None:
    await graph.add([MUSIC, LIVE])
    values = [
        Value(handle(MUSIC), "shown", texts=["Music", "MUSIC"]),
        Value(handle(MUSIC), "vector", floats=[1.5, -2.0]),
        Value(handle(MUSIC), "near", handles=[handle(LIVE)]),
    ]
    assert await graph.set_values(values) == 3
    assert await graph.set_values(values) == 0
    assert {each.key: each for each in await graph.values([handle(MUSIC)])} == {
        each.key: each for each in values
    }
    assert await graph.drop_values([(handle(MUSIC), "near")]) == 1
    with pytest.raises(DataRefused, match="must be one of"):
        await graph.set_values([Value(handle(MUSIC), "none")])
    await graph.attend({handle(MUSIC): Attention(2.5, 1.0, 1), UUID(int=3): Attention(9, 9)}, AT)
    [first] = await graph.most_attended("tag")
    assert (first.name, first.sti, first.lti, first.vlti, first.attended_at) == ("music", 2.5, 1.0, 1, AT)


async def test_types_can_be_added_once(graph: GraphDAO) -> None:
    await graph.add_type(AtomType("sponsors", is_link=True, is_symmetric=False, what="pays for"))
    await graph.add_type(AtomType("sponsors", is_link=True, is_symmetric=False, what="pays for"))
    await graph.add([Link("sponsors", (Node("concept", "x"), VIDEO))])
    with pytest.raises(DataRefused, match="another type"):
        await graph.add_type(AtomType("sponsors", is_link=False, is_symmetric=False, what="pays for"))

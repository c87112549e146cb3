"""Exports and imports of the knowledge graph, and `Graph`, the way of programs to it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from pyarrow import parquet

from atlas.adapters.graph import AtomType, Evidence, GraphDAO, Link, Node, Sources, Value, node_handle
from atlas.composition import Atlas
from atlas.errors import DataRefused
from maia.graphing import Graph
from maia.graphing.exporting import Exported, Format, Selection, export
from maia.graphing.forms import FormError
from maia.graphing.importing import ImportRefused, import_file
from maia.graphing.naming import NoSuchAtom

pytestmark = pytest.mark.integration

ODD = 'a "b", <c> & \x0b \ufffe 🎵'
NS = "{http://graphml.graphdrawing.org/xmlns}"


class Memory:
    """A destination that keeps what it gets."""

    def __init__(self) -> None:
        self.written: bytes | None = None

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        file = io.BytesIO()
        yield file
        self.written = file.getvalue()

    @property
    def text(self) -> str:
        return (self.written or b"").decode()


async def exported(atlas: Atlas, format_: Format = Format.JSON, **selection: object) -> tuple[Exported, str]:
    target = Memory()
    done = await export(atlas, Selection(**selection), format_, [(target, "x")])  # type: ignore[arg-type]
    assert done.bytes == len(target.written or b"")
    return done, target.text


@pytest_asyncio.fixture
async def mixed(atlas: Atlas) -> GraphDAO:
    """Nodes, links of two, a link of three, and links in links; with odd names, weights and values."""
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    music, odd = Node("tag", "music"), Node("concept", ODD)
    first = Link("tagged", (Node("video", "v1"), music), Evidence(3, 1))
    await dao.add(
        [
            first,
            Link("tagged", (Node("video", "v2"), odd), Evidence(1)),
            Link("uploaded_by", (Node("video", "v2"), Node("channel", "c"))),
            Link("co_occurs", (music, odd), Evidence(2), 1.5),
            Link("related_to", (Node("concept", "x"), music, odd)),
            Link("evidence_for", (Node("pattern", "p"), Link("related_to", (first, music)))),
        ],
        Sources.FACTS,
    )
    await dao.set_values(
        [
            Value(node_handle("tag", "music"), "shown", texts=["Music", "1"]),
            Value(node_handle("tag", "music"), "vector", floats=[1.5, 2]),
            Value(node_handle("tag", "music"), "near", handles=[node_handle("concept", ODD)]),
            Value(node_handle("concept", ODD), "shown", texts=[ODD]),
        ]
    )
    return dao


@pytest.mark.parametrize("format_", [Format.JSON, Format.GRAPHML])
async def test_what_is_exported_comes_back_the_same(
    atlas: Atlas, mixed: GraphDAO, format_: Format, tmp_path: Path
) -> None:
    done, text = await exported(atlas, format_)
    assert (done.nodes, done.links) == (7, 7)
    path = tmp_path / "graph"
    path.write_text(text, "utf-8", newline="")
    again = await import_file(atlas, path, format_)
    assert (again.atoms, again.added) == (14, 0)
    before = sorted(without(text))
    everything = [node_handle("video", "v1"), node_handle("video", "v2"), node_handle("concept", "x")]
    everything += [node_handle("tag", "music"), node_handle("concept", ODD)]
    everything += [node_handle("channel", "c"), node_handle("pattern", "p")]
    await mixed.remove(everything, Sources(15))
    assert await mixed.count_by_type() == {}
    back = await import_file(atlas, path, format_)
    assert (back.atoms, back.added + back.changed) == (14, 14)
    assert sorted(without((await exported(atlas, format_))[1])) == before


def without(text: str) -> list[str]:
    """The lines of an export without what an import doesn't take over."""
    text = re.sub(r'"sources":\[[^]]*\]|"seen_at":"[^"]*"', "", text)
    return re.sub(r'<data key="(sources|seen_at)">[^<]*</data>', "", text).splitlines()


async def test_json_has_values_and_names_the_ends_of_links(
    atlas: Atlas, mixed: GraphDAO, tmp_path: Path
) -> None:
    _, text = await exported(atlas, types=("tag", "concept"))
    found = {each["name"]: each for each in map(json.loads, text.splitlines()) if "name" in each}
    assert found.keys() == {"music", "x", ODD}
    near = str(node_handle("concept", ODD))
    assert found["music"]["values"] == {
        "shown": ["Music", "1"],
        "vector": [1.5, 2.0],
        "near": {"atoms": [near]},
    }
    link = next(each for each in map(json.loads, text.splitlines()) if each["type"] == "co_occurs")
    assert (link["type"], link["weight"], link["pos"]) == ("co_occurs", 1.5, 2)
    await mixed.drop_values([(node_handle("tag", "music"), key) for key in ("shown", "vector", "near")])
    path = tmp_path / "graph.jsonl"
    path.write_text(text, "utf-8")
    await import_file(atlas, path, Format.JSON)
    values = {each.key: each for each in await mixed.values([node_handle("tag", "music")])}
    assert values["near"].handles == [node_handle("concept", ODD)]
    assert (values["shown"].texts, values["vector"].floats) == (["Music", "1"], [1.5, 2.0])


async def test_graphml_has_nodes_and_edges_for_other_programs(atlas: Atlas, mixed: GraphDAO) -> None:
    _, text = await exported(atlas, Format.GRAPHML)
    root = ET.fromstring(text)
    assert root.tag == f"{NS}graphml"
    keys = {each.get("id"): each.get("attr.name") for each in root.findall(f"{NS}key")}
    [graph] = root.findall(f"{NS}graph")
    nodes = {each.get("id"): data(each) for each in graph.findall(f"{NS}node")}
    edges = [(each.get("source"), each.get("target"), data(each)) for each in graph.findall(f"{NS}edge")]
    assert all(source in nodes and target in nodes for source, target, _ in edges)
    assert {key for each in nodes.values() for key in each} <= keys.keys()
    texts = sorted(each["atom"] for each in nodes.values())
    # Links that others are about, and links of three, are nodes.
    assert [each for each in texts if "(" in each and not each.startswith("concept:")] == [
        f"related_to(concept:x, tag:music, {odd_form()})",
        "related_to(tagged(video:v1, tag:music), tag:music)",
        "tagged(video:v1, tag:music)",
    ]
    tagged = next(each for _, _, each in edges if each.get("type") == "tagged")
    assert (tagged["atom"], tagged["strength"], tagged["pos"]) == (
        f"tagged(video:v2, {odd_form()})",
        "1.0",
        "1",
    )
    assert sorted(each["position"] for _, _, each in edges if "position" in each) == list("1112223")


def odd_form() -> str:
    return 'concept:"a \\"b\\", <c> & \\u000b \\ufffe 🎵"'


def data(element: ET.Element) -> dict[str, str]:
    return {each.get("key", ""): each.text or "" for each in element.findall(f"{NS}data")}


async def test_parts_are_by_types_or_around_an_atom(atlas: Atlas, mixed: GraphDAO) -> None:
    def atoms(text: str) -> set[str]:
        return {data(each)["atom"] for each in ET.fromstring(text).iter(f"{NS}node")} | {
            data(each)["atom"] for each in ET.fromstring(text).iter(f"{NS}edge") if "atom" in data(each)
        }

    done, text = await exported(atlas, Format.GRAPHML, types=("uploaded_by",))
    assert atoms(text) == {"video:v2", "channel:c", "uploaded_by(video:v2, channel:c)"}
    done, text = await exported(atlas, Format.GRAPHML, types=("video", "channel"))
    assert atoms(text) == {"video:v1", "video:v2", "channel:c", "uploaded_by(video:v2, channel:c)"}
    done, text = await exported(atlas, Format.GRAPHML, around="channel:c", hops=1)
    assert (done.nodes, done.links) == (2, 1)
    done, text = await exported(atlas, Format.GRAPHML, around="channel:c", hops=2)
    assert atoms(text) == {
        "channel:c",
        "video:v2",
        odd_form(),
        "uploaded_by(video:v2, channel:c)",
        f"tagged(video:v2, {odd_form()})",
    }
    done, text = await exported(atlas, around="channel:c", hops=20, types=("video", "concept", "tag"))
    assert {json.loads(line)["type"] for line in text.splitlines()} >= {"video", "tag", "tagged", "co_occurs"}
    assert "channel" not in text
    with pytest.raises(NoSuchAtom, match="no atom tag:none"):
        await exported(atlas, around="tag:none")
    with pytest.raises(NoSuchAtom, match="no type of atoms"):
        await exported(atlas, types=("planet",))


async def test_parquet_has_a_file_for_nodes_and_one_for_links(atlas: Atlas, mixed: GraphDAO) -> None:
    nodes, links = Memory(), Memory()
    await export(atlas, Selection(), Format.PARQUET, [(nodes, "n"), (links, "l")])
    of_nodes = parquet.read_table(io.BytesIO(nodes.written or b"")).to_pylist()
    of_links = parquet.read_table(io.BytesIO(links.written or b"")).to_pylist()
    assert {each["name"] for each in of_nodes} == {"v1", "v2", "c", "x", "p", "music", ODD}
    tagged = next(each for each in of_links if each["atom"] == "tagged(video:v1, tag:music)")
    assert (tagged["ends"], tagged["strength"], tagged["count"]) == (["video:v1", "tag:music"], 0.75, 4)
    assert tagged["outgoing"] == [str(node_handle("video", "v1")), str(node_handle("tag", "music"))]
    values = {each["name"]: each["values"] for each in of_nodes if each["values"]}
    assert json.loads(values["music"])["vector"] == [1.5, 2.0]
    assert json.loads(values[ODD]) == {"shown": [ODD]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "it is no JSON"),
        ("[]", "an atom is an object"),
        ('{"type": "tag"}', "either a name or an outgoing set"),
        ('{"type": "planet", "name": "x"}', "planet is no type of nodes; there are"),
        ('{"type": "tag", "name": ""}', "1 to 300 characters"),
        ('{"type": "tag", "name": "x", "pos": -1}', "pos is no whole number"),
        ('{"type": "tag", "name": "x", "weight": 1}', "only links have a weight"),
        ('{"type": "tag", "name": "x", "values": {"a": [1, "b"]}}', "values are lists"),
        ('{"type": "tagged", "outgoing": ["video:x", "tag("]}', "an atom is expected here"),
        ('{"type": "tagged", "outgoing": ["video:x", "abcd"]}', "a handle says nothing"),
        ('{"type": "tagged", "outgoing": []}', "a list of 1 to 100"),
        ('{"type": "tagged", "outgoing": ["video:x"], "weight": "1"}', "weight is no number"),
        ('{"type": "tagged", "outgoing": ["video:x"], "weight": 1e300}', "from -3e38 to 3e38"),
        ('{"type": "tag", "name": "x", "values": {"": [1]}}', "the key of a value has 1 to 100"),
        ('{"type": "tag", "name": "x", "values": {"' + "k" * 101 + '": []}}', "the key of a value"),
        ('{"type": "tag", "name": "' + "x" * (1 << 20) + '"}', "longer than 1 MiB"),
    ],
)
def test_lines_that_make_no_sense(line: str, told: str) -> None:
    from maia.graphing.importing import _of_lines

    types = {
        "tag": AtomType("tag", is_link=False, is_symmetric=False, what="x"),
        "video": AtomType("video", is_link=False, is_symmetric=False, what="x"),
        "tagged": AtomType("tagged", is_link=True, is_symmetric=False, what="x"),
    }
    good = '{"type": "tag", "name": "good"}\n\n'
    with pytest.raises(ImportRefused) as refused:
        list(_of_lines(io.BytesIO((good + line + "\n").encode()), types))
    assert told in refused.value.reason
    assert refused.value.line == 3


async def test_a_bad_line_leaves_the_graph_as_it_was(atlas: Atlas, mixed: GraphDAO, tmp_path: Path) -> None:
    path = tmp_path / "graph.jsonl"
    before = await mixed.count_by_type()
    lines = [json.dumps({"type": "concept", "name": f"c{nth}"}) for nth in range(2_500)]
    path.write_text("\n".join([*lines, "{"]))
    with pytest.raises(ImportRefused, match=r"line 2,501: it is no JSON.*nothing was imported"):
        await import_file(atlas, path, Format.JSON)
    assert await mixed.count_by_type() == before
    path.write_text("\n".join(lines))
    seen: list[int] = []
    assert (await import_file(atlas, path, Format.JSON, seen.append)).added == 2_500
    assert seen == [1_000, 2_000, 2_500]


@pytest.mark.parametrize(
    ("body", "line", "told"),
    [
        ("<graphml>\n<graph>\n<node id='1'>\n</graph></graphml>", 4, "it is no XML: mismatched tag"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]>\n<graphml/>", 1, "no document type"),
        ("<gexf/>", 1, "no GraphML"),
        ("<graphml><graph>\n<edge source='1' target='2'/></graph></graphml>", 2, "come before it"),
        ("<graphml><graph>\n<node id=''/></graph></graphml>", 2, "a node has an id"),
        (
            "<graphml><graph>\n<node id='1'><data key='atom'>tag(</data></node></graph></graphml>",
            2,
            "expected",
        ),
        ("<graphml><graph>\n<hyperedge/></graph></graphml>", 2, "hyperedge of GraphML is not read"),
        (
            "<graphml><graph>\n<node id=''><data key='atom'>tag:x</data><data key='values'>{</data></node>",
            2,
            "values are no JSON",
        ),
        (
            "<graphml><graph><node id='1'><data key='pos'>x</data></node></graph></graphml>",
            1,
            "pos is no whole",
        ),
        (f"<graphml><node id='1'><data key='pos'>{'0' * 20 + '9' * 20}</data></node></graphml>", 1, "pos is"),
        (f"<graphml><node id='1'><data key='pos'>{'0' * 5_000}</data></node></graphml>", 1, "pos is no"),
        (
            "<graphml><node id='1'/>\n<edge source='1' target='1'><data key='weight'>inf</data></edge>",
            2,
            "from -3e38 to 3e38",
        ),
        ("<?xml version='1.0' encoding='shift_jis'?><graphml/>", 1, "'shift_jis' can't be read: use UTF-8"),
        ("<?xml version='1.0' encoding='rot13'?><graphml/>", 1, "can't be read"),
        ("<?xml version='1.0' encoding='idna'?><graphml/>", 1, "can't be read"),
    ],
)
async def test_graphml_that_makes_no_sense(
    atlas: Atlas, body: str, line: int, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "graph.graphml"
    path.write_text(body)
    with pytest.raises(ImportRefused) as refused:
        await import_file(atlas, path, Format.GRAPHML)
    assert (refused.value.line, told in refused.value.reason) == (line, True), refused.value.reason


async def test_graphml_of_other_programs_becomes_concepts(atlas: Atlas, tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    path.write_text(
        "<graphml xmlns='http://graphml.graphdrawing.org/xmlns'><key id='d0' attr.name='weight'/>"
        "<key id='d1' attr.name='label'/><graph><node id='n0'><data key='d1'>Ann</data></node><node id='n1'/>"
        "<edge source='n0' target='n1'><data key='d0'>2.5</data></edge></graph></graphml>"
    )
    assert (await import_file(atlas, path, Format.GRAPHML)).added == 3
    async with opened(atlas) as graph:
        [edge] = await graph.edges("concept:Ann")
    assert (edge.id, edge.weight) == ("related_to(concept:Ann, concept:n1)", 2.5)


async def test_nodes_of_graphml_may_hold_graphs(atlas: Atlas, tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    path.write_text(
        "<?xml version='1.0' encoding='windows-1252'?><graphml><graph><node id='group'><data key='label'>All"
        "</data><graph><node id='a'><data key='pos'>3</data></node><node id='b'/>"
        "<edge source='a' target='b'/></graph><data key='pos'>2</data></node>"
        "<edge source='group' target='b'/></graph></graphml>"
    )
    assert (await import_file(atlas, path, Format.GRAPHML)).added == 5
    async with opened(atlas) as graph:
        assert [(await graph.node(f"concept:{name}")).count for name in ("All", "a", "b")] == [2, 3, 0]
        assert len(await graph.edges("concept:b")) == 2


@asynccontextmanager
async def opened(atlas: Atlas) -> AsyncIterator[Graph]:
    yield Graph(atlas)


async def test_programs_add_read_and_remove(atlas: Atlas) -> None:
    graph = Graph()
    await graph.add_node("tag:Lo Fi", {"shown": "Lo-Fi", "mood": [0.25, 1], "rank": 3}, pos=2)
    await graph.add_node("tag:lo fi", {"shown": "LoFi"})
    node = await graph.node("tag:lo fi")
    assert node is not None
    assert node.values == {"shown": ("LoFi",), "mood": (0.25, 1.0), "rank": (3.0,)}
    assert (node.id, node.name, node.count, node.truth.strength) == ("tag:lo fi", "lo fi", 2, 1.0)
    await graph.observe("tag:lo fi", neg=2)
    assert (await graph.node("tag:lo fi")).truth.strength == 0.5  # type: ignore[union-attr]
    link = await graph.add_edge("co_occurs", "tag:lo fi", "tag:jazz", weight=2)
    assert link == await graph.add_edge("co_occurs", "tag:jazz", "tag:lo fi")
    assert [(each.id, each.weight) for each in await graph.edges("tag:jazz")] == [(link, 2.0)]
    await graph.add_all([f"tagged(video:v{nth}, tag:jazz)" for nth in range(3)])
    assert set(await graph.neighbours("tag:jazz")) == {"tag:lo fi", "video:v0", "video:v1", "video:v2"}
    assert await graph.path("video:v1", "tag:lo fi") == ["video:v1", "tag:jazz", "tag:lo fi"]
    assert {each for each, _ in await graph.similar("video:v0")} == {"video:v1", "video:v2"}
    assert await graph.query("tagged(?v, tag:jazz)", order=["?v.name"], limit=2) == [
        {"v": "video:v0"}, {"v": "video:v1"},
    ]  # fmt: skip
    assert await graph.remove("tag:jazz") == 5
    assert await graph.node("tag:jazz") is None
    about = await graph.add_link("evidence_for", ["pattern:p", "tagged(video:v0, tag:x)"])
    assert (await graph.node(about)).ends == ("pattern:p", "tagged(video:v0, tag:x)")  # type: ignore[union-attr]


async def test_programs_are_told_what_makes_no_sense(atlas: Atlas) -> None:
    graph = Graph(atlas)
    refused: list[tuple[type[Exception], str, object]] = [
        (FormError, "add_edge or add_link", lambda: graph.add_node("tagged(video:x, tag:y)")),
        (NoSuchAtom, "no type of nodes", lambda: graph.add_node("planet:x")),
        (NoSuchAtom, "mixes texts and numbers", lambda: graph.add_node("tag:x", {"a": [1, "b"]})),
        (NoSuchAtom, "no atom tag:x", lambda: graph.similar("tag:x")),
        (NoSuchAtom, "begins with abcd", lambda: graph.add_edge("related_to", "abcd", "tag:x")),
        (NoSuchAtom, "read-only here", lambda: Graph(atlas, space=1).add_node("tag:x")),
        (DataRefused, "less than no evidence", lambda: graph.observe("tag:x", pos=-1)),
    ]
    for error, told, work in refused:
        with pytest.raises(error, match=told):
            await work()  # type: ignore[operator]
    assert await graph.node("tag:x") is None

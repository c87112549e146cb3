"""The knowledge graph over HTTP: what is asked of it, what people add, and what is refused."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import quote
from xml.etree import ElementTree as ET

import orjson
import pytest
import pytest_asyncio

from atlas.adapters.graph import Link, Node, link_handle, node_handle
from atlas.adapters.graph_communities import GraphCommunitiesDAO
from atlas.composition import Atlas
from atlas.scopes import Scope
from atlas.testing import NOON
from maia.api import graph, graph_communities, graph_query
from maia.api.graph_export import Streamed
from maia.graph.files import GraphSnapshot
from maia.graphing.reading import read_arrays
from maia.graphing.restoring import replace_graph
from tests.growth import store_video
from tests.integration.api.test_api_documented import is_of_form
from tests.served import Served
from tests.stored_graphs import AWKWARD, TAGS, VIDEOS, graph_of, store_graph

pytestmark = pytest.mark.integration

API = "/api/v1/graph"
MUSIC = "tag:lofi"
REFUSED_QUERIES: Final[list[tuple[dict[str, Any], int, str]]] = [
    ({}, 422, "either as the text"),
    ({"query": "tagged(?a, ?b)", "links": [{"type": "tagged", "outgoing": ["?a"]}]}, 422, "either as"),
    ({"query": "tagged(?a"}, 422, "at character"),
    ({"query": "tagged(?a, ?b), tagged(?c, ?d)", "mode": "count", "max_cost": 1}, 422, "name an atom"),
    ({"query": "tagged(?a, ?b)", "limit": 100_000}, 422, "less than or equal to 1000"),
    ({"links": [{"type": "tagged", "outgoing": ["?v:", MUSIC]}]}, 422, "is no variable"),
    ({"query": "tagged(?a, ?b)", "space": "nowhere"}, 404, "there is no space nowhere"),
    ({"query": "tagged(?a, ?b)", "surprise": 1}, 422, "surprise"),
    (
        {"query": ", ".join(f"tagged(?a{n}, ?b{n})" for n in range(7)), "mode": "count", "timeout_s": 0.05},
        503, "took more than 0.05 s",
    ),
]  # fmt: skip
REFUSED_ATOMS: Final[list[tuple[dict[str, Any], str]]] = [
    ({"atom": "tag:x", "weight": 1.0}, "only links have a weight"),
    ({"atom": "0123456789abcdef0123456789abcdef"}, "is a handle"),
    ({"atom": "no_type:x"}, "no type of nodes"),
    ({"atom": "tagged(tag:x, 0123456789abcdef0123456789abcdef)"}, "add it before links to it"),
    ({"atom": "tag:x", "pos": -1}, "greater than or equal to 0"),
    ({"atom": "tag:x", "pos": True}, "valid integer"),
]


@pytest_asyncio.fixture
async def graph_service(service: Served) -> Served:
    await store_graph(service.atlas)
    return service


def test_each_example_has_the_documented_form() -> None:
    for route in (*graph.router.routes, *graph_communities.router.routes, *graph_query.router.routes):
        example = route.responses[200]["content"]["application/json"]["example"]  # type: ignore[attr-defined]
        assert is_of_form(route, example), route.path  # type: ignore[arg-type,attr-defined]


async def test_atoms_are_found_and_read_in_pages_and_by_all_their_names(graph_service: Served) -> None:
    get = graph_service.get
    for path, total in (("atoms?type=tag", len(TAGS)), (f"atoms/{MUSIC}/incoming?type=co_occurs", 5)):
        whole = (await get(f"{API}/{path}&limit=1000")).json
        assert len(whole["atoms"]) == total
        found, cursor = [], ""
        while cursor is not None:
            page = (await get(f"{API}/{path}&limit=2{cursor}")).json
            found += page["atoms"]
            cursor = None if page["next"] is None else f"&cursor={page['next']}"
        assert found == whole["atoms"]
        first = (await get(f"{API}/{path}&limit=2")).json["next"]
        other = await get(f"{API}/atoms?type=video&cursor={first}")
        assert (other.status, "not of this list" in other.json["detail"]) == (422, True)
    handle = str(node_handle("tag", "lofi"))
    for id_ in (MUSIC, "tag:LOFI", handle, handle.replace("-", "")[:12]):
        found = (await get(f"{API}/atoms/{id_}")).json
        assert (found["atom"], found["handle"], found["sti"]) == (MUSIC, handle, 9.0)
    link = quote(f"co_occurs(tag:lofi, tag:{TAGS[3]})", safe="")
    found = (await get(f"{API}/atoms/{link}")).json
    assert (found["weight"], found["own_pos"], found["own_neg"], found["count"]) == (1.5, 3, 3, 6)
    slashes = (await get(f"{API}/atoms/{quote('tag:a/b?c&d', safe='')}")).json
    assert slashes["incoming"] == {"co_occurs": 1, "tagged": 4}
    await graph_of(graph_service.atlas).add([Node("concept", "=1+1")])
    answer = await get(f"{API}/atoms?type=concept&prefix=%3D1&format=csv")
    [row] = csv.DictReader(io.StringIO(answer.body.decode()))
    assert (row["atom"], row["sources"]) == ("concept:=1+1", "people")


async def test_neighbours_similar_atoms_paths_attention_and_figures(graph_service: Served) -> None:
    get = graph_service.get
    near = (await get(f"{API}/atoms/{MUSIC}/neighbours?type=co_occurs&limit=2")).json
    assert [each["weight"] for each in near["neighbours"]] == [2.5, 2.0]
    further = (await get(f"{API}/atoms/channel:UC-0/neighbours?hops=2&limit=500")).json["neighbours"]
    assert {each["hops"] for each in further} == {1, 2}
    related = await get(f"{API}/atoms/{quote('topic:lo fi')}/neighbours?type=related_to&format=csv")
    [row] = csv.DictReader(io.StringIO(related.body.decode()))
    assert row["neighbour_atom"].replace('\\"', '"').startswith(f'concept:"{AWKWARD[:10]}')
    alike = (await get(f"{API}/atoms/video:video1/similar")).json
    [first] = alike["atoms"]
    assert (alike["by"], first["atom"]["atom"], first["likeness"]) == ("links", "video:video2", 0.75)
    way = (await get(f"{API}/path?from=channel:UC-0&to=tag:jazz&type=uploaded_by&type=tagged")).json
    assert [each["type"] for each in way["atoms"]] == ["channel", "video", "tag"]
    assert [each["type"] for each in way["links"]] == ["uploaded_by", "tagged"]
    none = (await get(f"{API}/path?from=channel:UC-0&to=tag:jazz&most_links=1")).json
    assert (none["atoms"], "no path of at most 1 link" in none["note"]) == ([], True)
    attended = (await get(f"{API}/attention?type=tag&limit=2")).json["atoms"]
    assert [(each["atom"], each["sti"]) for each in attended] == [(MUSIC, 9.0), ("tag:chill", 8.0)]
    groups = (await get(f"{API}/communities")).json
    assert sum(each["size"] for each in groups["communities"]) == VIDEOS + len(TAGS) + 3 + 1
    assert groups["total"] == len(groups["communities"]) > 1
    [own] = (await get(f"{API}/communities?of=video:video1&members=2")).json["communities"]
    assert own["size"] in {each["size"] for each in groups["communities"]}
    assert len(own["members"]) == 2
    assert (await get(f"{API}/communities?of=category:10")).json["communities"] == []
    # Those that are derived, and those of a graph that was restored, are answered at once.
    atlas = graph_service.atlas
    standing = GraphCommunitiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await standing.set_numbers("community", [node_handle("video", "video1")], [3])
    await standing.group({3: []}, 0.25)
    derived = (await get(f"{API}/communities")).json
    assert (derived["modularity"], derived["total"]) == (0.25, 1)
    await replace_graph(atlas, GraphSnapshot(await read_arrays(atlas), NOON, NOON))
    assert (await get(f"{API}/communities")).json["total"] == groups["total"]
    found = (await get(f"{API}/stats")).json
    by_type = {each["type"]: each["atoms"] for each in found["types"]}
    assert (by_type["video"], by_type["uploaded_by"], by_type["co_occurs"]) == (VIDEOS, VIDEOS, 5)
    assert found["nodes"] + found["links"] == sum(by_type.values())


async def test_a_query_is_asked_as_text_and_as_json_and_refused_with_what_to_do(
    graph_service: Served,
) -> None:
    shown = {"show": ["?c"], "mode": "tally"}
    clauses = "tagged(?v, tag:lofi), uploaded_by(?v, ?c), not tagged(?v, tag:jazz)"
    text = {"query": f"{clauses}, ?c.count >= 0, ?v != video:x"} | shown
    links = [
        {"type": "tagged", "outgoing": ["?v", MUSIC]},
        {"type": "uploaded_by", "outgoing": ["?v", "?c:channel"]},
        {"type": "tagged", "outgoing": ["?v", "tag:jazz"], "absent": True},
    ]
    where = [{"variable": "?c", "property": "count", "comparison": ">=", "value": 0}]
    json = {"links": links, "where": where, "different": [{"variable": "?v", "other": "video:x"}]} | shown
    for body in (text, json):
        rows = (await graph_service.post(f"{API}/query", body)).json["rows"]
        assert [(row["atoms"][0]["atom"], row["tally"]) for row in rows] == [("channel:UC-0", 2)]
    planned = (await graph_service.post(f"{API}/query", text | {"explain": True})).json
    assert planned["plan"]
    assert not planned["rows"]
    for body, status, told in REFUSED_QUERIES:
        answer = await graph_service.post(f"{API}/query", body)
        assert (answer.status, told in answer.json["detail"]) == (status, True), (body, answer.json)


async def test_an_export_is_read_back_and_ends_with_its_client(graph_service: Served) -> None:
    whole = await graph_service.get(f"{API}/export")
    assert whole.headers["Content-Type"] == "application/x-ndjson"
    lines = [orjson.loads(line) for line in whole.body.splitlines()]
    assert len(lines) == len(set(whole.body.splitlines()))
    nodes = [each for each in lines if "name" in each]
    assert lines[: len(nodes)] == nodes
    assert {each["name"] for each in nodes if each["type"] == "tag"} == set(TAGS)
    part = await graph_service.get(f"{API}/export?format=graphml&around=tag:lofi&type=tag&type=co_occurs")
    document = ET.fromstring(part.body)
    kinds = [each.tag.rpartition("}")[2] for each in document.iter()]
    assert (kinds.count("node"), kinds.count("edge")) == (6, 5)
    for query, status in (
        ("type=no_type", 404),
        ("around=tag:nothing", 404),
        ("around=tag(", 422),
        ("format=x", 422),
    ):
        assert (await graph_service.get(f"{API}/export?{query}")).status == status, query


async def test_a_client_that_leaves_ends_its_export_at_once() -> None:
    closed, sent, turns = asyncio.Event(), list[Any](), asyncio.Semaphore(1)

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"line\n"
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        while len(sent) < 5:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def stuck(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def forever() -> Any:
        await asyncio.Event().wait()

    for sending, receiving in ((send, receive), (stuck, forever)):
        closed.clear()
        parts = endless()
        answer = Streamed(await anext(parts), parts, turns, "text/plain", "x", send_timeout_s=0.01)
        async with asyncio.timeout(20):
            await answer({"type": "http"}, receiving, sending)
        assert closed.is_set()
        assert not turns.locked()
        assert all(each.get("more_body", True) for each in sent)


async def test_people_add_atoms_and_take_back_what_nobody_else_says(graph_service: Served) -> None:
    new = {"atom": "related_to(tag:lofi, concept:calm)", "pos": 3, "neg": 1, "weight": 0.5}
    added = await graph_service.post(f"{API}/atoms", {"atoms": [new, {"atom": MUSIC}]})
    assert (added.status, added.json["added"]) == (201, 2)
    again = await graph_service.post(f"{API}/atoms", {"atoms": [new]})
    assert (again.json["added"], again.json["changed"]) == (0, 0)
    counted = await graph_service.post(f"{API}/atoms", {"atoms": [new], "counting": True})
    assert counted.json["changed"] == 1
    handle, music = added.json["handles"]
    found = (await graph_service.get(f"{API}/atoms/{handle}")).json
    assert (found["own_pos"], found["own_neg"], found["weight"], found["sources"]) == (6, 2, 0.5, ["people"])
    taken = await graph_service.ask("DELETE", f"{API}/atoms/{music}")
    assert taken.json == {"handle": music, "still": ["facts"], "gone": 0}
    gone = await graph_service.ask("DELETE", f"{API}/atoms/concept:calm")
    assert (gone.json["still"], gone.json["gone"]) == ([], 2)
    assert (await graph_service.get(f"{API}/atoms/{handle}")).status == 404
    assert (await graph_service.ask("DELETE", f"{API}/atoms/{handle}")).status == 404
    facts = await graph_service.ask("DELETE", f"{API}/atoms/{music}")
    assert (facts.status, "facts say" in facts.json["detail"]) == (409, True)
    for atom, told in REFUSED_ATOMS:
        answer = await graph_service.post(f"{API}/atoms", {"atoms": [{"atom": "concept:fine"}, atom]})
        assert (answer.status, told in answer.json["detail"]) == (422, True), answer.json
    assert (await graph_service.get(f"{API}/atoms/concept:fine")).status == 404
    key = await graph_service.add_key("reader", Scope.READ)
    async with asyncio.timeout(20):
        # A process hears of a new key by a notice.
        while (await graph_service.get(f"{API}/stats", headers=key)).status == 401:
            await asyncio.sleep(0.02)
    posted = await graph_service.post(f"{API}/atoms", {"atoms": [{"atom": "concept:x"}]}, headers=key)
    deleted = await graph_service.ask("DELETE", f"{API}/atoms/{MUSIC}", headers=key)
    asked = await graph_service.post(f"{API}/query", {"query": "tagged(?v, tag:lofi)"}, headers=key)
    assert (posted.status, deleted.status, asked.status) == (403, 403, 200)


async def test_titles_are_those_of_now_and_a_mirror_is_read_by_its_name(
    atlas: Atlas, sql: Any, graph_service: Served
) -> None:
    await store_video(sql, "video1", title="Never before")
    path = f"{API}/atoms/video:video1"
    assert (await graph_service.get(path)).json["shown"] == "Never before"
    titled = (await graph_service.get(f"{API}/atoms?title=before")).json["atoms"]
    assert [each["atom"] for each in titled] == ["video:video1"]
    assert (await graph_service.get(f"{API}/atoms?title=before&prefix=v")).status == 422
    await sql.execute("UPDATE videos SET title = NULL WHERE id = 'video1'")
    assert (await graph_service.get(f"{path}?space=own")).json["shown"] is None

    await store_mirror(atlas, sql)
    assert (await graph_service.get(f"{API}/atoms/tag:their")).status == 404
    assert (await graph_service.get(f"{API}/atoms/tag:their?space=north")).json["sources"] == ["sites"]
    assert (await graph_service.get(f"{API}/stats?space=north")).json["nodes"] == 2
    asked = {"query": "tagged(?v, tag:their)", "space": "north"}
    [row] = (await graph_service.post(f"{API}/query", asked)).json["rows"]
    assert [each["atom"] for each in row["atoms"]] == ["video:theirs"]


async def store_mirror(atlas: Atlas, sql: Any) -> None:
    """A space that has a video with a tag of its own, as copying from another site would leave it."""
    ends = Node("video", "theirs"), Node("tag", "their")
    await graph_of(atlas).add([Link("tagged", ends)])
    handles = [node_handle(each.type, each.name) for each in ends]
    handles.append(link_handle("tagged", handles))
    await sql.execute("INSERT INTO graph_spaces (id, name) VALUES (7, 'north')")
    await sql.execute(
        "INSERT INTO atoms (space, sources, handle, type, name, outgoing, seen_at, version) "
        "SELECT 7, 8, handle, type, name, outgoing, seen_at, version FROM atoms WHERE handle = ANY ($1)",
        handles,
    )
    await sql.execute(
        "INSERT INTO incoming (space, position, target, link, other, type) "
        "SELECT 7, position, target, link, other, type FROM incoming WHERE link = $1",
        handles[-1],
    )
    await graph_of(atlas).remove(handles)

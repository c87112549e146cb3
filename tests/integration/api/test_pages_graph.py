"""The pages of the knowledge graph: what lies around an atom, drawn and in words, and where it leads."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from atlas.adapters.graph import DEEPEST, Link, Node, link_handle, node_handle
from atlas.composition import Atlas
from maia.api.pages.rendering import in_graph
from tests.growth import store_video
from tests.integration.api.test_pages import HTML, Page, seen
from tests.served import Served
from tests.stored_graphs import AWKWARD, TAGS, VIDEOS, graph_of, store_graph

pytestmark = pytest.mark.integration


def drawings(page: Page) -> list[str]:
    return [each["id"] or "" for each in page.named("svg") if each.get("class") == "graph"]


async def add_tower(atlas: Atlas, node: Node) -> None:
    """Links on links, as deep as may be."""
    top = node_handle(node.type, node.name)
    for _ in range(DEEPEST):
        await graph_of(atlas).add([Link("related_to", (top, node))])
        top = link_handle("related_to", [top, node_handle(node.type, node.name)])


async def test_the_graph_leads_from_its_figures_to_each_atom(service: Served) -> None:
    empty = await seen(service, "/graph")
    assert "maia graph update" in empty.text
    assert "not in the graph yet" in (await seen(service, "/graph/tag:lofi")).text
    await store_graph(service.atlas)
    # Whoever acts sees what they did, and so does whoever looks after them.
    await service.post("/api/v1/graph/atoms", {"atoms": [{"atom": "concept:alone"}]})

    page = await seen(service, "/graph?q=lo&type=tag")
    links = {each.get("href") for each in page.named("a")}
    assert {"/graph/tag%3Alofi", "/graph?type=tag"} <= links
    assert "What deserves attention" in page.text
    await service.get("/api/v1/graph/communities")
    assert "What tells most of it" in (await seen(service, "/graph/tag:lofi")).text
    await service.post("/api/v1/graph/atoms", {"atoms": [{"atom": "concept:low"}]})
    await add_tower(service.atlas, Node("concept", "low"))
    assert "concept" in (await seen(service, "/graph/concept:low")).text
    alone = await seen(service, "/graph/concept:alone")
    assert "Nothing is linked with it yet" in alone.text
    assert drawings(alone) == []
    for path in ("/graph?type=no_type", "/graph/tagged(", "/graph/0123456789"):
        assert (await service.get(path, headers=HTML)).status == 404, path


async def test_surroundings_are_drawn_and_told_and_strangers_texts_stay_text(
    service: Served, sql: Any
) -> None:
    await store_video(sql, "video1", title=AWKWARD)
    await store_graph(service.atlas)
    page = await seen(service, "/graph/tag:lofi")
    assert drawings(page) == ["wide-graph", "narrow-graph"]
    [wide, _] = [each for each in page.named("svg") if each.get("class") == "graph"]
    assert wide["role"] == "group"
    leading = [each["href"] for each in page.named("a") if each.get("class") == "atom"]
    assert f"/graph/{quote('tag:chill', safe='')}" in leading
    assert {f"/graph/{quote(f'tag:{tag}', safe='')}" for tag in TAGS[1:]} <= set(leading)
    for path in (
        in_graph("concept", AWKWARD),
        "/graph/video:video1",
        "/graph/topic:lo%20fi",
    ):
        page = await seen(service, path)
        assert "<script>alert(1)</script>" in page.text, path
        assert "{{7*7}}" in page.text, path
        assert "\u202e" not in page.text, path
        for tag, attributes in page.elements:
            assert "style" not in attributes, (path, tag)
    for path in leading:
        assert (await service.get(path or "", headers=HTML)).status == 200, path
    told = await service.get("/graph/topic:lo%20fi?table=links&as=json")
    rows = json.loads(told.body)["rows"]
    found_by = [each for each in rows if each["type"] == "found_by"]
    assert 0 < len(found_by) <= VIDEOS
    assert {each["second"] for each in found_by} == {"topic:lo fi"}


async def test_videos_channels_and_topics_lead_to_the_graph(service: Served, sql: Any) -> None:
    await store_video(sql, "video1", channel="UC-1")
    await service.post("/api/v1/topics", {"queries": ["lo fi"]})
    await store_graph(service.atlas)
    for page, path in (
        ("/videos/video1", "/graph/video%3Avideo1"),
        ("/channels/UC-1", "/graph/channel%3AUC-1"),
        ("/topics", "/graph/topic%3Alo%20fi"),
    ):
        assert path in {each.get("href") for each in (await seen(service, page)).named("a")}
        assert (await service.get(path, headers=HTML)).status == 200

"""Deriving links from the facts of the graph: what holds is written once, and goes when it doesn't."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from atlas.adapters.graph import Evidence, GraphDAO, Link, Node, Sources
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.graph import likeness
from maia.graph.facts import facts_of
from maia.graph.likeness import likenesses
from maia.graphing.deriving import derive, is_due
from maia.graphing.feeding import feed
from maia.graphing.reading import read_arrays
from tests.graph_facts import SOURCE, TOPIC, VIDEO, links

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
    await sql.execute("DELETE FROM videos")
    assert await derived(sql) == await derived(sql, alike=True) == {}


async def test_of_many_atoms_those_with_most_links_are_compared(
    fed: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(await read_arrays(fed))
    everything = likenesses(facts, most=10)
    monkeypatch.setattr(likeness, "MOST_EMBEDDED", 5)
    monkeypatch.setattr(likeness, "MOST_COMPARED", 3)
    fewer = likenesses(facts, most=10)
    videos = {facts.names[place] for place in np.intersect1d(facts.of_type("video"), fewer.firsts)}
    # These have two tags each.
    assert videos <= {"v0", "v1", "v2"}
    assert 0 < len(fewer) < len(everything)

"""Attention in PostgreSQL: what stimulates it, once whatever fails, who has it, and what leaves the graph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, node_handle
from atlas.adapters.queue import QueueDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import DatabaseError
from atlas.testing import NOON, SettingsFactory
from maia import acts
from maia.graphing import spreading
from maia.graphing.feeding import feed
from maia.graphing.spreading import LEAST_STI, Spread, atoms_to_forget, forget_atoms, spread_attention
from maia.graphing.steering import attention_of_topics
from maia.learning.importance import ECONOMY
from tests.growth import store_video

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
VIDEO, CHANNEL, OTHER = Node("video", "dQw4w9WgXcQ"), Node("channel", "UC-one"), Node("video", "quiet000000")
TAG, BESIDE, FAR = Node("tag", "lo fi"), Node("tag", "jazz"), Node("tag", "chess")
TOPIC = Node("topic", "lo fi")
GRAPH = [
    Link("tagged", (VIDEO, TAG), Evidence(1)),
    Link("uploaded_by", (VIDEO, CHANNEL), Evidence(1)),
    Link("co_occurs", (TAG, BESIDE), Evidence(5), 1.5),
    Link("inherits", (TOPIC, TAG), Evidence(1)),
    *(Link("tagged", (Node("video", f"quiet00000{n}"), FAR), Evidence(1)) for n in range(4)),
]


@pytest.fixture
async def graph(atlas: Atlas) -> GraphDAO:
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.add(GRAPH, Sources.FACTS)
    return dao


async def sti_of(graph: GraphDAO, *nodes: Node) -> list[float]:
    handles = [node_handle(each.type, each.name) for each in nodes]
    found = {each.handle: each.sti for each in await graph.get(handles)}
    return [found.get(each, 0.0) for each in handles]


async def total(graph: GraphDAO) -> float:
    return sum([atom.sti for atom in await graph.most_attended(limit=1000)])


async def judge(sql: Any, video: Node, hours_ago: float, *, growing: bool = True) -> None:
    await store_video(sql, video.name)
    await sql.execute(
        "INSERT INTO video_sources (video_id, arm, met_at, is_first, age_h, views_per_hour, growing,"
        " judged_at) VALUES ($1, 'feeds', $2, true, 1, 900, $3, $4)",
        video.name,
        NOON - 30 * HOUR,
        growing,
        NOON - hours_ago * HOUR,
    )


async def test_growing_videos_and_breakouts_are_paid_once(graph: GraphDAO, atlas: Atlas, sql: Any) -> None:
    assert await spread_attention(atlas) == Spread()
    await judge(sql, VIDEO, 3)
    await judge(sql, OTHER, 3, growing=False)
    await atlas.events.append("tracker.breakout", {"video_id": VIDEO.name})
    await atlas.events.append("tracker.breakout", {"video_id": "unknown0000"})
    done = await spread_attention(atlas)
    assert (done.stimuli, done.unknown) == (3, 1)
    video, tag, channel, beside, topic, far = await sti_of(graph, VIDEO, TAG, CHANNEL, BESIDE, TOPIC, FAR)
    assert video > tag > topic > beside > 0
    assert channel > 0
    assert far == 0
    paid, _ = ECONOMY.after(10, 0, 3)
    assert await total(graph) == pytest.approx(20 + float(paid), rel=0.01), "all that was paid is somewhere"
    assert await spread_attention(atlas) == Spread()
    assert await sti_of(graph, VIDEO) == [video]
    # What is judged just now may not be all yet.
    await judge(sql, Node("video", "justnow0000"), 0.01)
    assert (await spread_attention(atlas)).stimuli == 0


async def test_operators_acts_stimulate(graph: GraphDAO, atlas: Atlas, sql: Any) -> None:
    await acts.seed(atlas, ["Lo Fi", "not in the graph"])
    await acts.record(
        atlas, "watch", [{"kind": "video", "channel_id": "UC-one", "tag_1": "Jazz", "category_id": 10}]
    )
    await acts.park(atlas, ["Lo Fi"], "enough")
    await acts.retry(atlas, None)
    await atlas.events.append("operator.act", {"action": "seed", "topics": ["x", True, 10**12], "context": 3})
    done = await spread_attention(atlas)
    assert (done.stimuli, done.unknown) == (4, 1)
    topic, beside = await sti_of(graph, TOPIC, BESIDE)
    assert topic > beside > 0
    assert await total(graph) == pytest.approx(25 + 20, rel=0.01)


async def test_rent_is_charged_and_importance_is_kept(
    graph: GraphDAO, atlas: Atlas, clock: FixedClock
) -> None:
    video = node_handle("video", VIDEO.name)
    await graph.attend({video: Attention(8, 1, 1)}, NOON - 10 * HOUR)
    await atlas.events.append("tracker.breakout", {"video_id": VIDEO.name})
    await spread_attention(atlas)
    [found] = await graph.get([video])
    sti, lti = ECONOMY.after(8, 1, 10)
    fresh = await sti_of(graph, VIDEO)
    assert found.vlti == 1
    assert found.lti == pytest.approx(float(lti))
    assert fresh[0] - float(sti) == pytest.approx(20 * 0.6 / (1 - 0.4**2 / 2), rel=0.15)
    clock.advance(timedelta(days=300))
    await atlas.events.append("tracker.breakout", {"video_id": "quiet000000"})
    await spread_attention(atlas)
    kept = {atom.name: atom.sti for atom in await graph.most_attended(limit=100)}
    assert (VIDEO.name in kept, TAG.name in kept) == (True, False), (
        "what faded is deleted, unless kept for ever"
    )
    assert min(kept.values()) >= LEAST_STI


async def test_what_has_attention_is_bounded(
    graph: GraphDAO, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreading, "MOST_KEPT", 2)
    await graph.attend({node_handle("tag", "chess"): Attention(0, 0, 1)}, NOON)
    await atlas.events.append("tracker.breakout", {"video_id": VIDEO.name})
    await spread_attention(atlas)
    kept = {atom.name for atom in await graph.most_attended(limit=100)}
    assert len(kept) == 3
    assert kept > {VIDEO.name, "chess"}


async def test_two_at_once_and_a_failure_pay_once(
    graph: GraphDAO, atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await atlas.events.append("tracker.breakout", {"video_id": VIDEO.name})

    async def fails(*_: Any) -> None:
        raise DatabaseError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(GraphDAO, "attend", fails)
        with pytest.raises(DatabaseError):
            await spread_attention(atlas)
    assert await total(graph) == 0
    both = await asyncio.gather(spread_attention(atlas), spread_attention(atlas))
    assert sum(each.stimuli for each in both) == 5
    assert await total(graph) == pytest.approx(100, rel=0.01)


async def test_pages_are_paid_as_one(
    graph: GraphDAO, atlas: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreading, "_AT_ONCE", 2)
    for _ in range(5):
        await atlas.events.append("tracker.breakout", {"video_id": VIDEO.name})
    assert (await spread_attention(atlas)).stimuli == 5
    assert await total(graph) == pytest.approx(100, rel=0.01)


async def test_topics_have_their_attention_and_their_tags(graph: GraphDAO, atlas: Atlas) -> None:
    handles = [node_handle(each.type, each.name) for each in (TOPIC, TAG)]
    assert await attention_of_topics(atlas, ["lo fi", "chess"]) == {}
    await graph.attend({handles[0]: Attention(3, 0), handles[1]: Attention(5, 0)}, NOON - 4 * HOUR)
    left, _ = ECONOMY.after(8, 0, 4)
    assert await attention_of_topics(atlas, ["lo fi", "chess"]) == {"lo fi": pytest.approx(float(left))}


async def test_a_graph_that_is_fed_lets_topics_know_what_grows(atlas: Atlas, sql: Any) -> None:
    queue = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await queue.seed(["JAZZ", "beside", "chess"])
    await judge(sql, VIDEO, 1)
    await store_video(sql, OTHER.name, tags=["Jazz", "beside"])
    await store_video(sql, "elsewhere00", channel="UC-two", category_id=20, tags=["chess"])
    await feed(atlas)
    assert await spread_attention(atlas) == Spread(1, 0, ANY)
    found = await attention_of_topics(atlas, ["jazz", "beside", "chess"])
    assert found["jazz"] > found["beside"] > 0
    assert "chess" not in found


@pytest.fixture
async def small(settings_factory: SettingsFactory, clock: FixedClock) -> AsyncIterator[Atlas]:
    async with Atlas.open(settings_factory(graph={"max_atoms": 1000}), clock=clock) as opened:
        yield opened


async def test_loose_atoms_leave_by_importance(small: Atlas) -> None:
    dao = GraphDAO(small.db, clock=small.clock, settings=small.settings)
    await dao.add(GRAPH, Sources.FACTS)
    assert await atoms_to_forget(small) == []
    filler = [Node("concept", f"c{n}") for n in range(1000)]
    loved, noted = Node("tag", "loved"), Node("tag", "noted by people")
    lately, once = Node("tag", "lately"), Node("tag", "once")
    await dao.add([*filler, loved, lately, once], Sources.FACTS)
    await dao.add([noted], Sources.PEOPLE)
    h = {node.name: node_handle("tag", node.name) for node in (loved, noted, lately, once, TAG, BESIDE, FAR)}
    await dao.attend({h["loved"]: Attention(0, 0, 1), h["lately"]: Attention(50, 0)}, NOON)
    await dao.attend({h["once"]: Attention(0.1, 0.1)}, NOON - 90 * 24 * HOUR)
    leaving = await atoms_to_forget(small)
    topic = node_handle("topic", TOPIC.name)
    assert set(leaving[:2]) == {h["jazz"], topic}, "those that nobody uses"
    assert leaving[2] == h["lo fi"], "then those that few do"
    assert leaving[3:] == [h["once"], h["lately"]], "then by long-term importance"
    assert not {h["loved"], h["noted by people"], h["chess"]} & set(leaving)
    assert await forget_atoms(small) >= len(leaving)
    assert await dao.get(leaving) == []
    assert len(await dao.get([h["loved"], h["noted by people"]])) == 2

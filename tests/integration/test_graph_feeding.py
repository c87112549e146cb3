"""Feeding the graph with facts: what the outbox names, everything, and the same graph either way."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from atlas.adapters.graph import Evidence, GraphDAO, Link, Node, Sources, node_handle
from atlas.adapters.graph_feeding import Entry, GraphFeedDAO
from atlas.adapters.retention import RULES, RetentionDAO
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.cycle.agent import run
from maia.graph.files import GraphSnapshot
from maia.graphing import feeding
from maia.graphing.feeding import LOCK, feed, rebuild
from maia.graphing.present import present_graph
from maia.graphing.restoring import replace_graph
from maia.learner.cycle import Learner
from tests.stored_graphs import PATTERN, SOURCE, TOPIC, VIDEO, links

pytestmark = pytest.mark.integration

LEARNT = "1".zfill(32)
GRAPH = """
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources,
    (SELECT array_agg((i.position, i.target, i.other, i.type) ORDER BY i.position) FROM incoming AS i
     WHERE i.space = 0 AND i.link = a.handle)::text AS used,
    (SELECT array_agg((v.key, v.floats, v.texts) ORDER BY v.key) FROM atom_values AS v
     WHERE v.space = 0 AND v.handle = a.handle)::text AS values
FROM atoms AS a WHERE a.space = 0 AND a.sources > 0 ORDER BY a.handle
"""


async def graph_of(sql: Any) -> list[Any]:
    return [tuple(row) for row in await sql.fetch(GRAPH)]


@pytest.fixture
async def filled(atlas: Atlas, sql: Any) -> Atlas:
    """Three videos with their channels, a topic and a pattern."""
    await sql.execute(
        "INSERT INTO channels SELECT 'UC' || n, 'A title', $1, $1 FROM generate_series(1, 2) AS n", NOON
    )
    await sql.execute(TOPIC, "lo fi", NOON)
    await sql.execute(TOPIC, "nobody", NOON)
    await sql.execute(VIDEO, "v1", "UC1", NOON, 10, ["#Lo Fi", "Jazz", "video"], "lo fi")
    await sql.execute(VIDEO, "v2", "UC1", NOON, 10, ["lo fi", "JAZZ"], None)
    await sql.execute(VIDEO, "v3", "UC2", NOON, None, ["JAZZ", "Ｊａｚｚ"], None)
    await sql.execute(SOURCE, "v1", "related", NOON, [])
    conditions = [
        ("tag_1", "=", "Jazz"), ("channel_id", "=", "UC9"), ("category", "=", "Music"),
        ("topic", "!=", "lo fi"),
    ]  # fmt: skip
    named = [{"field": name, "operator": sign, "value": value} for name, sign, value in conditions]
    signature = {"agent": "hunter", "field": "arm", "tool": "charts"}
    await sql.execute(PATTERN, LEARNT, json.dumps(signature), json.dumps(named), NOON)
    return atlas


FACTS = {
    "tagged(video:v1, tag:lo fi)", "tagged(video:v1, tag:jazz)", "tagged(video:v2, tag:lo fi)",
    "tagged(video:v2, tag:jazz)", "tagged(video:v3, tag:jazz)", "uploaded_by(video:v1, channel:UC1)",
    "uploaded_by(video:v2, channel:UC1)", "uploaded_by(video:v3, channel:UC2)",
    "inherits(video:v1, category:10)", "inherits(video:v2, category:10)", "found_by(video:v1, topic:lo fi)",
    "found_by(video:v1, agent:hunter:related)", "inherits(topic:lo fi, tag:lo fi)",
    f"evidence_for(pattern:{LEARNT}, agent:hunter)", f"evidence_for(pattern:{LEARNT}, agent:hunter:charts)",
    f"evidence_for(pattern:{LEARNT}, tag:jazz)", f"evidence_for(pattern:{LEARNT}, category:10)",
}  # fmt: skip


async def test_feeding_takes_over_what_is_named_once(filled: Atlas, sql: Any) -> None:
    fed = await feed(filled)
    assert (fed.read, fed.rebuilt) == (6, False)
    assert (await links(sql, Sources.FACTS)).keys() == FACTS
    assert await sql.fetchval("SELECT count(*) FROM graph_outbox") == 0
    dao = GraphDAO(filled.db, clock=filled.clock, settings=filled.settings)
    shown = await dao.values([node_handle("tag", "jazz"), node_handle("tag", "lo fi")])
    assert [value.texts for value in shown if value.handle == node_handle("tag", "jazz")] == [["JAZZ"]]
    before = await graph_of(sql)
    again = await rebuild(filled)
    assert (again.changed, again.rebuilt) == (0, True)
    # Where enough wait, a page takes eight times as many.
    read: list[int] = []
    await sql.execute(
        "INSERT INTO graph_outbox (kind, key) SELECT 'video', 'v' || n FROM generate_series(1, 10) AS n"
    )
    await feed(filled, lambda done, total: read.append(done), page=1)
    assert read[:3] == [8, 9, 10]
    assert await graph_of(sql) == before


DAMAGES = (
    "SELECT remove_atoms(0::smallint, ARRAY[node_handle('video', 'v1')], 1, now())",
    "SELECT remove_atoms(0::smallint, ARRAY[node_handle('tag', 'jazz')], 1, now())",
    "SELECT remove_atoms(0::smallint, ARRAY[node_handle('topic', 'lo fi')], 1, now())",
    "SELECT remove_atoms(0::smallint, array_agg(handle), 1, now()) FROM atoms WHERE type = 'evidence_for'",
    "UPDATE atoms SET pos = 7, neg = 2, positive = 7, count = 9 WHERE type = 'uploaded_by'",
    "UPDATE atoms SET sources = 2 WHERE type IN ('tag', 'agent') AND sources > 0",
    "UPDATE atoms SET sources = 2 WHERE type = 'tagged' AND sources > 0",
    "UPDATE atom_values SET texts = '{nobody}'",
    "DELETE FROM atom_values",
)


async def facts_of(sql: Any) -> list[Any]:
    return [(*row[:9], row[9] & int(Sources.FACTS), *row[10:]) for row in await graph_of(sql)]


async def test_a_rebuild_mends_whatever_is_wrong(filled: Atlas, sql: Any) -> None:
    await feed(filled)
    dao = GraphDAO(filled.db, clock=filled.clock, settings=filled.settings)
    before = await facts_of(sql)
    for damage in DAMAGES:
        await sql.execute(damage)
        assert await facts_of(sql) != before
        await rebuild(filled)
        assert await facts_of(sql) == before, damage
    video, jazz, bogus = Node("video", "v1"), Node("tag", "jazz"), Node("tag", "bogus")
    wrong = [
        Link("tagged", (video, bogus)), Link("uploaded_by", (video, Node("channel", "UC9"))),
        Link("tagged", (Node("video", "unknown"), jazz), Evidence(1)), Node("tag", "alone"),
        Link("inherits", (Node("topic", "unknown"), jazz), Evidence(1)), Node("pattern", "2".zfill(32)),
    ]  # fmt: skip
    await dao.add(wrong, Sources.FACTS)
    await rebuild(filled)
    assert await facts_of(sql) == before
    assert (await rebuild(filled)).changed == 0


class Crash(Exception):
    """Ends a feeder between two pages."""


class History:
    """Random changes of a small world, with feeders that end anywhere."""

    def __init__(self, atlas: Atlas, sql: Any, chance: random.Random) -> None:
        self.atlas, self.sql, self.chance = atlas, sql, chance
        self.dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    async def step(self) -> None:
        acts = [
            self.store, self.store, self.retag, self.move, self.meet, self.lose, self.erase, self.queue,
            self.trim, self.learn, self.forget, self.people, self.feed,
        ]  # fmt: skip
        await self.chance.choice(acts)()

    def _tags(self) -> list[str]:
        return self.chance.sample(
            ["Jazz", "jazz", "JAZZ", "#Lo Fi", "lo fi", "Rock", "video", "x"], self.chance.randint(0, 4)
        )

    def _video(self) -> str:
        return f"v{self.chance.randint(1, 6)}"

    async def store(self) -> None:
        channel = f"UC{self.chance.randint(1, 3)}"
        await self.sql.execute(
            "INSERT INTO channels VALUES ($1, NULL, $2, $2) ON CONFLICT DO NOTHING", channel, NOON
        )
        await self.sql.execute(
            "INSERT INTO videos AS v (id, channel_id, discovered_at, refreshed_at, category_id, tags) "
            "VALUES ($1, $2, $3, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET tags = excluded.tags",
            self._video(), channel, NOON, self.chance.choice([None, 1, 10]), self._tags(),
        )  # fmt: skip

    async def retag(self) -> None:
        await self.sql.execute("UPDATE videos SET tags = $2 WHERE id = $1", self._video(), self._tags())

    async def move(self) -> None:
        await self.sql.execute(
            "UPDATE videos SET channel_id = (SELECT max(id) FROM channels), category_id = $2 WHERE id = $1",
            self._video(), self.chance.choice([None, 1, 10]),
        )  # fmt: skip

    async def meet(self) -> None:
        await self.sql.execute(
            "INSERT INTO video_sources (video_id, arm, met_at, topics, is_first) "
            "SELECT id, $2, $3, ARRAY(SELECT id FROM search_queue LIMIT 1), false FROM videos WHERE id = $1 "
            "ON CONFLICT DO NOTHING",
            self._video(), self.chance.choice(["charts", "related"]), NOON,
        )  # fmt: skip

    async def lose(self) -> None:
        await self.sql.execute("DELETE FROM video_sources WHERE video_id = $1", self._video())

    async def erase(self) -> None:
        await self.sql.execute("DELETE FROM videos WHERE id = $1", self._video())
        await self.sql.execute(
            "DELETE FROM channels AS c WHERE NOT EXISTS (SELECT FROM videos WHERE channel_id = c.id)"
        )

    async def queue(self) -> None:
        parameters = self.chance.choice(["{}", '{"language": "en"}'])
        await self.sql.execute(
            "INSERT INTO search_queue (query, key, parameters, origin, priority, created_at) "
            "VALUES ($1::text, $1::text, $2::jsonb, 'tag', 0, $3) ON CONFLICT DO NOTHING",
            self.chance.choice(["jazz", "lo fi", "polka"]), parameters, NOON,
        )  # fmt: skip

    async def trim(self) -> None:
        await self.sql.execute(
            "DELETE FROM search_queue WHERE key = $1 AND parameters = $2::jsonb",
            self.chance.choice(["jazz", "lo fi", "polka"]), self.chance.choice(["{}", '{"language": "en"}']),
        )  # fmt: skip

    async def learn(self) -> None:
        field, value = self.chance.choice(
            [("tag", "jazz"), ("topic", "lo fi"), ("category", "Music"), ("arm", "charts")]
        )
        await self.sql.execute(
            f"{PATTERN.rstrip()} ON CONFLICT (id) DO UPDATE "
            "SET conditions = excluded.conditions, forgotten_at = NULL, forgotten_by = NULL",
            str(self.chance.randint(1, 2)).zfill(32), "{}",
            json.dumps([{"field": field, "operator": "=", "value": value}]), NOON,
        )  # fmt: skip

    async def forget(self) -> None:
        act = self.chance.choice(
            ["UPDATE patterns SET forgotten_at = now(), forgotten_by = 'learner'", "DELETE FROM patterns"]
        )
        await self.sql.execute(f"{act} WHERE id = $1", str(self.chance.randint(1, 2)).zfill(32))

    async def people(self) -> None:
        video, tag = Node("video", self._video()), Node("tag", self.chance.choice(["jazz", "rock", "polka"]))
        told = self.chance.choice(
            [
                Link("tagged", (video, tag), Evidence(3, 1)),
                Link("related_to", (tag, Node("concept", "craze"))),
            ]
        )
        await self.dao.add([told], Sources.PEOPLE)

    async def feed(self) -> None:
        left = self.chance.randint(0, 6)

        def crash(read: int, total: int) -> None:
            if read > left:
                raise Crash

        with suppress(Crash):
            await self.chance.choice([feed, feed, rebuild])(self.atlas, crash, page=self.chance.randint(1, 3))


async def _same_from_nothing(atlas: Atlas, sql: Any) -> None:
    """A rebuild of an empty graph, to which people added what they did, brings the same."""
    found = await graph_of(sql)
    people = await sql.fetch("SELECT * FROM atoms WHERE space = 0 AND sources & 4 <> 0")
    for table in ("incoming", "atom_values", "atoms"):
        await sql.execute(f"DELETE FROM {table}")
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    names = {row["handle"]: Node(row["type"], row["name"]) for row in people if row["name"] is not None}
    told = [
        Link(row["type"], tuple(names[each] for each in row["outgoing"]), Evidence(row["pos"], row["neg"]))
        for row in people
        if row["outgoing"] is not None
    ]
    await dao.add([*names.values(), *told], Sources.PEOPLE)
    await rebuild(atlas, page=4)
    assert await graph_of(sql) == found


@pytest.mark.parametrize("seed", range(2))
async def test_any_history_ends_with_the_graph_that_a_rebuild_makes(
    atlas: Atlas, sql: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed == 1:
        # Everything by COPY, and a few changes are many.
        monkeypatch.setattr(feeding, "COPIED", 1)
        monkeypatch.setattr(feeding, "MANY", 3)
    for part in range(4):
        history = History(atlas, sql, random.Random(seed * 100 + part))
        for _ in range(history.chance.randint(10, 40)):
            await history.step()
        await feed(atlas, page=3)
        again = await rebuild(atlas, page=2)
        assert again.changed == 0
        await _same_from_nothing(atlas, sql)


async def test_tags_are_shown_as_a_rebuild_shows_them(
    atlas: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "COPIED", 1)
    history = History(atlas, sql, random.Random(7))
    for _ in range(30):
        await history.chance.choice([history.store, history.retag, history.retag, history.erase])()
        if history.chance.random() < 0.4:
            await feed(atlas, page=history.chance.randint(1, 3))
            shown = await graph_of(sql)
            await rebuild(atlas)
            assert await graph_of(sql) == shown


async def test_a_video_that_left_before_comes_back(
    filled: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "COPIED", 1)
    await feed(filled)
    before = await graph_of(sql)
    await sql.execute("UPDATE videos SET tags = '{}', category_id = NULL WHERE id = 'v3'")
    await feed(filled)
    await sql.execute("DELETE FROM videos WHERE id = 'v3'")
    # Of some of its links there are tombstones for longer than of itself, so that COPY is refused.
    await sql.execute("DELETE FROM atoms WHERE sources = 0 AND handle = node_handle('video', 'v3')")
    await sql.execute(VIDEO, "v3", "UC2", NOON, None, ["JAZZ", "Ｊａｚｚ"], None)
    await feed(filled)
    assert await graph_of(sql) == before


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Any]:
    """Another connection, to be in the middle of a transaction."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def tagged(sql: Any, video: str) -> set[str]:
    """The tags that a video has in the graph."""
    start = f"tagged(video:{video}, tag:"
    return {
        text.removeprefix(start)[:-1] for text in await links(sql, Sources.FACTS) if text.startswith(start)
    }


async def entries(sql: Any) -> list[tuple[str, str]]:
    return [tuple(row) for row in await sql.fetch("SELECT kind, key FROM graph_outbox ORDER BY 1, 2")]


async def test_what_commits_after_the_feeder_looked_isnt_missed(filled: Atlas, sql: Any, other: Any) -> None:
    retag = "UPDATE videos SET tags = $2 WHERE id = $1"
    async with other.transaction():
        # One has an entry already, which the feeder must leave; the other one has none that others can see.
        await other.execute(retag, "v1", ["late"])
        await other.execute(VIDEO, "v9", "UC1", NOON, None, ["late"], None)
        await feed(filled)
        assert await tagged(sql, "v1") == await tagged(sql, "v9") == set()
    await feed(filled)
    assert await tagged(sql, "v1") == await tagged(sql, "v9") == {"late"}
    dao = GraphFeedDAO(filled.db, clock=filled.clock, settings=filled.settings)
    await sql.execute(retag, "v1", ["taken"])
    async with dao.page() as page:
        assert await page.take(Entry(), 10) == [Entry("video", "v1")]
        # The writer waits for nobody, and names it again.
        await other.execute(retag, "v1", ["meanwhile"])
    await feed(filled)
    assert await tagged(sql, "v1") == {"meanwhile"}


async def test_the_outbox_names_what_changed_once(filled: Atlas, sql: Any) -> None:
    await feed(filled)
    await sql.execute("UPDATE videos SET tags = tags, category_id = category_id, channel_id = channel_id")
    await sql.execute("UPDATE patterns SET conditions = conditions, sti = 1")
    assert await entries(sql) == []
    for nth in range(3):
        await sql.execute("UPDATE videos SET tags = ARRAY[$1] WHERE id = 'v1'", f"tag {nth}")
        await sql.execute("INSERT INTO video_sources VALUES ('v1', $1, now(), '{}', false)", f"arm {nth}")
    assert await entries(sql) == [("video", "v1")]
    await sql.execute("DELETE FROM videos WHERE id = 'v1'")
    # The others say now how the tags are shown that it carried in the graph.
    assert await entries(sql) == [("video", "v2"), ("video", "v3")]


async def test_erasing_takes_along_what_led_nowhere_else(filled: Atlas, sql: Any) -> None:
    await feed(filled)
    dao = GraphDAO(filled.db, clock=filled.clock, settings=filled.settings)
    await dao.add([Link("related_to", (Node("concept", "mine"), Node("video", "v3")))])
    for video, tags in (("v2", ["jazz"]), ("v3", ["JaZZ", "only"])):
        await sql.execute("UPDATE videos SET tags = $2 WHERE id = $1", video, tags)
    await feed(filled)
    # As if it had been the only one that is spelled so.
    await sql.execute("UPDATE atom_values SET texts = '{JaZZ}' WHERE handle = node_handle('tag', 'jazz')")
    await sql.execute("DELETE FROM videos WHERE id = 'v3'")
    assert await sql.fetchval("SELECT count(*) FROM atom_values WHERE 'JaZZ' = ANY (texts)") == 0
    assert ("video", "v2") in await entries(sql)
    await feed(filled)
    await sql.execute("DELETE FROM channels WHERE id = 'UC2'")
    left = await sql.fetch("SELECT type, name FROM atoms WHERE sources > 0 AND name IS NOT NULL")
    names = {f"{type_}:{name}" for type_, name in left}
    assert {"tag:jazz", "concept:mine", "video:v1"} <= names
    assert names.isdisjoint({"video:v3", "tag:only", "channel:UC2"})
    assert (
        await sql.fetchval(
            "SELECT count(*) FROM atoms WHERE sources = 0 AND (name, outgoing) IS DISTINCT FROM (NULL, NULL)"
        )
        == 0
    )
    gone = node_handle("video", "v3")
    assert (
        await sql.fetchval("SELECT count(*) FROM incoming WHERE target = $1 OR other = $1 OR link = $1", gone)
        == 0
    )
    assert (await rebuild(filled)).changed == 0


async def test_what_a_restored_copy_brings_back_is_erased_again(filled: Atlas, sql: Any) -> None:
    await feed(filled)
    dao = GraphDAO(filled.db, clock=filled.clock, settings=filled.settings)
    mine, seen = Node("concept", "mine"), Node("video", "seen elsewhere")
    await dao.add([Link("related_to", (mine, each)) for each in (Node("video", "v3"), seen)])
    arrays, values = await present_graph(filled)
    copy = GraphSnapshot(arrays, NOON, NOON, values=values)
    await sql.execute("DELETE FROM videos WHERE id = 'v3'")
    await sql.execute("DELETE FROM channels WHERE id = 'UC2'")
    await feed(filled)
    erased = await graph_of(sql)
    await replace_graph(filled, copy)
    assert node_handle("video", "v3") in {row[0] for row in await graph_of(sql)}
    assert (await feed(filled)).rebuilt
    assert await graph_of(sql) == erased


async def test_hunters_do_not_wait_for_the_graph(filled: Atlas, sql: Any, other: Any) -> None:
    await feed(filled)
    async with other.transaction():
        await other.execute("SELECT lock_graph(true)")
        await sql.execute("SET lock_timeout = '100ms'")
        await sql.execute("DELETE FROM search_queue WHERE key = 'nobody'")
        await sql.execute("UPDATE patterns SET forgotten_at = now(), forgotten_by = 'operator'")
        await sql.execute("UPDATE videos SET tags = '{}' WHERE id = 'v1'")
    assert len(await entries(sql)) == 3
    await feed(filled)
    assert not any(text.startswith("evidence_for") for text in await links(sql, Sources.FACTS))
    nodes = {
        row[0]
        for row in await sql.fetch("SELECT name FROM atoms WHERE type IN ('topic', 'agent') AND sources > 0")
    }
    assert nodes == {"lo fi", "hunter:related"}


async def test_odd_links_of_people_are_passed_over(filled: Atlas, sql: Any) -> None:
    await feed(filled)
    before = (await links(sql, Sources.FACTS)).keys()
    jazz, video = Node("tag", "jazz"), Node("video", "v1")
    dao = GraphDAO(filled.db, clock=filled.clock, settings=filled.settings)
    odd = [(jazz,), (jazz, video), (jazz, jazz), (video, Node("concept", "x")), (video, jazz, jazz)]
    await dao.add([Link("tagged", ends) for ends in odd])
    assert (await rebuild(filled)).changed == 0
    await sql.execute("UPDATE videos SET tags = tags || ARRAY['swing'] WHERE id = 'v3'")
    await feed(filled)
    assert (await links(sql, Sources.FACTS)).keys() == before | {"tagged(video:v3, tag:swing)"}


async def test_only_one_feeds_and_a_lost_change_asks_for_a_rebuild(filled: Atlas, sql: Any) -> None:
    async with filled.db.only_one(LOCK):
        assert not (await feed(filled)).is_alone
        assert not (await rebuild(filled)).is_alone
    await sql.execute("UPDATE graph_outbox SET at = at - interval '1 year'")
    dao = RetentionDAO(filled.db, clock=filled.clock, settings=filled.settings)
    found = await dao.find(next(rule for rule in RULES if rule.table == "graph_outbox"))
    assert found is not None
    assert [rows async for rows in dao.remove(found)] == [6]
    fed = await feed(filled)
    assert fed.rebuilt
    assert (await links(sql, Sources.FACTS)).keys() == FACTS
    assert not (await feed(filled)).rebuilt


async def test_the_learner_feeds_the_graph_unless_it_is_off(filled: Atlas, sql: Any) -> None:
    for id_ in ("v7", "v8"):
        await sql.execute(VIDEO, id_, "UC1", NOON, 10, ["ska", "dub"], None)
    off = filled.settings.graph.model_copy(update={"enabled": False})
    without = filled.settings.model_copy(update={"graph": off})
    fed = await run(Learner, replace(filled, settings=without), batch_size=1000)
    assert (fed["graph_changes"], len(await entries(sql))) == (0, 8)
    fed = await run(Learner, filled, batch_size=1000)
    assert fed["graph_changes"] == await sql.fetchval("SELECT count(*) FROM atoms WHERE sources & 1 = 1")
    assert fed["derived_links"] == await sql.fetchval("SELECT count(*) FROM atoms WHERE sources = 2") > 0
    assert f"{fed['graph_changes'] + fed['derived_links']} changes of the graph" in Learner.summary(fed)
    assert (await run(Learner, filled, batch_size=1000))["graph_changes"] == 0

"""Feeding the graph with facts: what the outbox names, everything, and the same graph either way."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.adapters.graph import GraphDAO, Link, Node, Sources, node_handle
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.graphing.feeding import feed, rebuild

pytestmark = pytest.mark.integration

GRAPH = """
SELECT a.handle, a.type, a.name, a.outgoing, a.pos, a.neg, a.positive, a.count, a.weight, a.sources,
    (SELECT array_agg((i.position, i.target, i.other, i.type) ORDER BY i.position) FROM incoming AS i
     WHERE i.space = 0 AND i.link = a.handle)::text AS used,
    (SELECT array_agg((v.key, v.floats, v.texts) ORDER BY v.key) FROM atom_values AS v
     WHERE v.space = 0 AND v.handle = a.handle)::text AS values
FROM atoms AS a WHERE a.space = 0 AND a.sources > 0 ORDER BY a.handle
"""
TEXT = """
WITH named AS (SELECT handle, type || ':' || name AS text FROM atoms WHERE space = 0 AND name IS NOT NULL)
SELECT a.type || '(' || string_agg(n.text, ', ' ORDER BY e.position) || ')'
FROM atoms AS a CROSS JOIN LATERAL unnest(a.outgoing) WITH ORDINALITY AS e (handle, position)
JOIN named AS n ON n.handle = e.handle
WHERE a.space = 0 GROUP BY a.handle, a.type
"""
VIDEO = """
INSERT INTO videos (id, channel_id, discovered_at, refreshed_at, category_id, tags, discovered_by)
VALUES ($1, $2, $3, $3, $4, $5, (SELECT id FROM search_queue WHERE key = $6))
"""
TOPIC = "INSERT INTO search_queue (query, key, origin, priority, created_at) VALUES ($1::text, $1::text, 'tag', 0, $2)"
SOURCE = "INSERT INTO video_sources (video_id, arm, met_at, topics, is_first) VALUES ($1, $2, $3, $4, false)"
PATTERN = """
INSERT INTO patterns (id, type, signature, statement, conditions, data, created_at, updated_at, attended_at)
VALUES ($1, 'tool_usage', $2::jsonb, 'text', $3::jsonb, '{}', $4, $4, $4)
"""


async def links(sql: Any) -> set[str]:
    return {row[0] for row in await sql.fetch(TEXT)}


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
    await sql.execute(
        PATTERN, "0" * 31 + "1", '{"agent": "hunter", "field": "arm", "tool": "charts"}',
        '[{"field": "tag_1", "operator": "=", "value": "Jazz"}, {"field": "channel_id", "operator": "=", "value": "UC9"},'
        ' {"field": "category", "operator": "=", "value": "Music"}, {"field": "topic", "operator": "!=", "value": "lo fi"}]',
        NOON,
    )  # fmt: skip
    return atlas


FACTS = {
    "tagged(video:v1, tag:lo fi)", "tagged(video:v1, tag:jazz)", "tagged(video:v2, tag:lo fi)", "tagged(video:v2, tag:jazz)",
    "tagged(video:v3, tag:jazz)", "uploaded_by(video:v1, channel:UC1)", "uploaded_by(video:v2, channel:UC1)",
    "uploaded_by(video:v3, channel:UC2)", "inherits(video:v1, category:10)", "inherits(video:v2, category:10)",
    "found_by(video:v1, topic:lo fi)", "found_by(video:v1, agent:hunter:related)", "inherits(topic:lo fi, tag:lo fi)",
    "evidence_for(pattern:00000000000000000000000000000001, agent:hunter)",
    "evidence_for(pattern:00000000000000000000000000000001, agent:hunter:charts)",
    "evidence_for(pattern:00000000000000000000000000000001, tag:jazz)",
    "evidence_for(pattern:00000000000000000000000000000001, category:10)",
}  # fmt: skip


async def test_feeding_takes_over_what_is_named_once(filled: Atlas, sql: Any) -> None:
    fed = await feed(filled)
    assert (fed.read, fed.rebuilt) == (6, False)
    assert await links(sql) == FACTS
    assert await sql.fetchval("SELECT count(*) FROM graph_outbox") == 0
    dao = GraphDAO(filled.db, clock=filled.clock, settings=filled.settings)
    shown = await dao.values([node_handle("tag", "jazz"), node_handle("tag", "lo fi")])
    assert [value.texts for value in shown if value.handle == node_handle("tag", "jazz")] == [["JAZZ"]]
    before = await graph_of(sql)
    again = await rebuild(filled)
    assert (again.changed, again.rebuilt) == (0, True)
    assert await graph_of(sql) == before

"""A small knowledge graph in the database, for tests, and facts of which one can be made.

In the graph there are tags that go together, videos that carry them, channels and topics. Facts are written
straight into the tables.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, node_handle
from atlas.composition import Atlas

TAGS: Final = ("lofi", "chill", "study", "jazz", "beats", "a/b?c&d")
VIDEOS: Final = 12
ONCE: Final = Evidence(1)
AWKWARD: Final = "\"'><script>alert(1)</script>{{7*7}}\u202egnp, (x)"

VIDEO = """
INSERT INTO videos (id, channel_id, discovered_at, refreshed_at, category_id, tags, discovered_by)
VALUES ($1, $2, $3, $3, $4, $5, (SELECT id FROM search_queue WHERE key = $6))
"""
TOPIC = """
INSERT INTO search_queue (query, key, origin, priority, created_at) VALUES ($1::text, $1::text, 'tag', 0, $2)
"""
SOURCE = "INSERT INTO video_sources (video_id, arm, met_at, topics, is_first) VALUES ($1, $2, $3, $4, false)"
PATTERN = """
INSERT INTO patterns (id, type, signature, statement, conditions, data, created_at, updated_at, attended_at)
VALUES ($1, 'tool_usage', $2::jsonb, 'text', $3::jsonb, '{}', $4, $4, $4)
"""
_LINKS = """
WITH named AS (SELECT handle, type || ':' || name AS text FROM atoms WHERE space = 0 AND name IS NOT NULL)
SELECT a.type || '(' || string_agg(n.text, ', ' ORDER BY n.text) || ')' AS sorted,
    a.type || '(' || string_agg(n.text, ', ' ORDER BY e.position) || ')' AS text, a.pos, a.neg, a.weight
FROM atoms AS a CROSS JOIN LATERAL unnest(a.outgoing) WITH ORDINALITY AS e (handle, position)
JOIN named AS n ON n.handle = e.handle
WHERE a.space = 0 AND a.sources & $1 <> 0 GROUP BY a.space, a.handle
"""


def graph_of(atlas: Atlas) -> GraphDAO:
    return GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _atoms() -> list[Link]:
    """Each video has a channel, a category, a topic that found it, and two tags; tags go together."""
    found = []
    topic = Node("topic", "lo fi")
    for n in range(VIDEOS):
        video = Node("video", f"video{n}")
        found += [
            Link("uploaded_by", (video, Node("channel", f"UC-{n % 3}")), ONCE),
            Link("inherits", (video, Node("category", "10"))),
            Link("found_by", (video, topic), ONCE),
            *(Link("tagged", (video, Node("tag", TAGS[(n * k) % len(TAGS)])), ONCE) for k in (1, 5)),
        ]
    for n, tag in enumerate(TAGS[1:], 1):
        together = (Node("tag", TAGS[0]), Node("tag", tag))
        found.append(Link("co_occurs", together, Evidence(n, 3), 0.5 * n))
    found.append(Link("similar", (Node("video", "video1"), Node("video", "video2")), weight=0.75))
    found.append(Link("inherits", (topic, Node("tag", "lofi"))))
    found.append(Link("related_to", (topic, Node("concept", AWKWARD)), Evidence(3, 1), 0.9))
    return found


async def store_graph(atlas: Atlas, at: datetime | None = None) -> None:
    """Store the graph, in which the first tag has most attention."""
    graph = graph_of(atlas)
    await graph.add(_atoms(), Sources.FACTS)
    attention = {node_handle("tag", tag): Attention(9.0 - n, 2.0) for n, tag in enumerate(TAGS[:3])}
    await graph.attend(attention, at or atlas.clock.now())


async def links(sql: Any, sources: int) -> dict[str, tuple[int, int, float | None]]:
    """The links that some sources say are there, as text, with evidence and weight."""
    rows = await sql.fetch(_LINKS, sources)
    return {
        row["sorted" if row["text"].startswith(("co_occurs", "similar")) else "text"]: (
            row["pos"],
            row["neg"],
            row["weight"],
        )
        for row in rows
    }

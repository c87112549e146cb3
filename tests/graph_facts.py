"""Facts for the graph, written straight into the tables, and what the graph makes of them as text."""

from __future__ import annotations

from typing import Any

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

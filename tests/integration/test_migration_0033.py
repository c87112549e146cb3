"""The log's steps are indexed on the days that a window reaches and on those to come, but not on old ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from atlas import migrations

pytestmark = pytest.mark.integration

INDEXED = """
SELECT t.relname
FROM pg_index AS i
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_inherits AS h ON h.inhrelid = t.oid
WHERE h.inhparent = 'video_stats_log'::regclass
    AND i.indexrelid::regclass::text LIKE '%velocity%' AND i.indisvalid
ORDER BY 1
"""


async def test_days_within_reach_and_to_come_have_the_index(empty_database_url: str) -> None:
    sql = await asyncpg.connect(empty_database_url)
    await migrations.apply_pending(sql, up_to=32)
    today = datetime.now(UTC).date()
    ancient, recent, to_come = today - timedelta(days=90), today - timedelta(days=20), today + timedelta(1)
    await sql.execute("SELECT ensure_sample_days($1)", [ancient, recent, today])
    await migrations.apply_pending(sql, up_to=33)
    await sql.execute("SELECT ensure_sample_days($1)", [to_come])
    indexed = [row["relname"] for row in await sql.fetch(INDEXED)]
    assert indexed == [f"video_stats_log_{day:%Y%m%d}" for day in (recent, today, to_come)]
    await sql.execute("SELECT drop_sample_days($1)", today - timedelta(days=60))
    assert await sql.fetchval("SELECT count(*) FROM video_stats_log") == 0
    await sql.close()

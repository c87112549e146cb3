"""What a judgement of health costs in a large system: a million videos and topics, fifty hosts, long logs.

It prints the pages that each statement reads and how long it took, and fails if one reads a whole large table
that needs to read a part.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import sql_of
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer
from maia.views.health import Wanted, health

pytestmark = pytest.mark.integration

VIDEOS = int(os.environ.get("HEALTH_VIDEOS", "1000000"))
DUE = 50
"""One in so many videos is due."""
HOSTS, EVENTS = 50, 500_000
KEYS = SecretStr('[{"key": "AIzaSyTest-0123456789-0123456789-01234", "project": "p"}]')

FILL = """
INSERT INTO channels (id, discovered_at, refreshed_at) VALUES ('UC1', $1, $1);
INSERT INTO videos (id, channel_id, discovered_at, refreshed_at) SELECT 'v' || i, 'UC1', $1, $1
FROM generate_series(1, $2) AS i;
INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at)
SELECT 'v' || i, 'UC1', i % 3, 1, $1, $1::timestamptz + (i % 1000 - 20) * interval '1 minute', $1
FROM generate_series(1, $2) AS i;
INSERT INTO search_queue (query, key, origin, status, priority, created_at)
SELECT format('t %s', i), format('t %s', i), 'tag',
    CASE WHEN i % 500 = 0 THEN 'parked' ELSE 'active' END, i, $1
FROM generate_series(1, $2) AS i;
INSERT INTO system_metrics (at, node, cpu_percent, memory_percent, disk_percent)
SELECT $1::timestamptz - minute * interval '1 minute', 'node ' || node, 10, 20, 30
FROM generate_series(1, $3) AS node, generate_series(0, 2880) AS minute;
INSERT INTO events (at, kind, node, payload)
SELECT $1::timestamptz - ($4 - i) * interval '15 seconds',
    (ARRAY['hunter.cycle', 'tracker.cycle', 'hunter.step', 'maintainer.duty'])[i % 4 + 1], 'node',
    CASE WHEN i % 4 = 3 THEN '{"duty": "health", "details": {"measured": {"database_bytes": 1}}}'
        ELSE '{"outcome": "done"}' END::jsonb
FROM generate_series(1, $4) AS i;
"""

READ = {
    "health.figures": f"'{NOON.date()}', '{NOON - timedelta(hours=1)}'",
    "upkeep.bloated_tables": "10000, 0.15, 20",
    "upkeep.invalid_indexes": "",
    "health.backlog": f"'{NOON}', 5000",
    "health.expired_asks": "5000",
    "queue.count_topics": "",
    "health.last_cycles": "ARRAY['hunter', 'tracker', 'learner'], ARRAY['done', 'idle'], "
    "ARRAY[600, 600, 1800], 100",
    "health.first_event": "",
    "health.heartbeats": f"'{NOON - timedelta(hours=48)}', 200",
    "health.loads": f"'{{{','.join(f'node {number}' for number in range(1, HOSTS + 1))}}}', "
    f"'{NOON - timedelta(hours=6)}', 400",
    "health.judgements": f"'{NOON - timedelta(hours=2)}', 50",
    "health.judgement_before": f"'{NOON - timedelta(hours=48)}', '{NOON - timedelta(hours=20)}'",
}
WHOLE = {"queue.count_topics"}
"""The statement that maia status shows too, and that counts a whole table."""


@pytest.mark.timeout(1200)
async def test_a_judgement_of_a_large_system(
    own_postgres: ThrowAwayServer, settings_factory: SettingsFactory
) -> None:
    name = own_postgres.create_database(own_postgres.migrated_template())
    sql = await asyncpg.connect(own_postgres.dsn_of(name))
    await sql.execute("SET synchronous_commit = off")
    await fill(sql)
    print(f"\n{VIDEOS:,} videos and topics, {HOSTS} hosts, {EVENTS:,} events")
    for statement, arguments in READ.items():
        plan = await explained(sql, statement, arguments)
        pages = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        print(f"{statement:24} {plan['Execution Time']:8.1f} ms {pages:8,} pages")
        if statement not in WHOLE:
            large = {"video_clock", "search_queue", "events", "videos"}
            assert not {table for table in whole_scans(plan["Plan"]) if table in large}, statement
    await sql.close()
    settings = settings_factory(
        database_url=SecretStr(own_postgres.dsn_of(name)), youtube_api_key_pool_json=KEYS
    )
    wanted = Wanted(agents={"hunter": 600.0, "tracker": 600.0})
    async with Atlas.open(settings, clock=FixedClock(NOON)) as atlas:
        for round_ in range(3):
            began_s = time.perf_counter()
            found = await health(atlas, wanted)
            print(f"judgement {round_}: {1000 * (time.perf_counter() - began_s):.0f} ms")
    # A day ago the database was said to have had one byte.
    assert {each.key for each in found.judgement.findings} == {"database.growth", "queues.parked"}


async def fill(sql: Any) -> None:
    for statement in FILL.strip().split(";\n"):
        text = statement.rstrip(";")
        for place, value in enumerate((f"'{NOON}'::timestamptz", VIDEOS, HOSTS, EVENTS), 1):
            text = text.replace(f"${place}", str(value))
        await sql.execute(text)
    await sql.execute("VACUUM ANALYZE")


async def explained(sql: Any, statement: str, arguments: str) -> dict[str, Any]:
    """The generic plan as it was run, the second time."""
    await sql.execute("SET plan_cache_mode = force_generic_plan")
    await sql.execute(f"PREPARE measured AS {sql_of(statement)}")
    call = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE measured{f' ({arguments})' if arguments else ''}"
    await sql.fetchval(call)
    plan: dict[str, Any] = json.loads(await sql.fetchval(call))[0]
    await sql.execute("DEALLOCATE measured")
    return plan


def whole_scans(node: dict[str, Any]) -> set[str]:
    """The tables that a plan reads from end to end."""
    found = {node["Relation Name"]} if node["Node Type"] == "Seq Scan" else set()
    return found.union(*(whole_scans(child) for child in node.get("Plans", ())))

"""A database and a vault with something old and something young in every place that retention reaches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from atlas.composition import Atlas
from maia.maintainer.actions import Action, ActionFailed, ActionState, Plan, Taken
from tests.ids import vid

OLD, YOUNG = timedelta(days=1100), timedelta(hours=1)
FRESH, GONE, STALE, SAMPLED, CLAIMED = (vid(name) for name in
                                        ("fresh", "gone", "stale", "sampled", "claimed"))  # fmt: skip

ROWS = {
    "channel_stats_log": ("channel_id, sampled_at, views", "'UC-one', t, 5"),
    "velocity_cohorts": ("day, age_class, category_id, measure, digest", "t, 1, 0, 'growth', ''"),
    "system_metrics": ("at, node", "t, 'a host'"),
    "log_lines": ("at, node, level, logger, text", "t, 'a host', 20, 'maia', 'a line'"),
    "application_usage": (
        "day, kind, name, count, errors, seconds, last_at",
        "t, 'command', 'a', 1, 0, 0, t",
    ),
    "series_alarms": ("series, at, kind, value, score, detail", "'a', t, 'anomaly', 1, 1, ''"),
    "discovery_plan": (
        "pacific_day, arm, bucket, share, least_share, expected, low, high, reason, made_at",
        "t, 'arm', 'search', 0, 0, 0, 0, 0, '', t",
    ),
    "discovery_yields": ("pacific_day, arm", "t, 'arm'"),
    "discovery_asks": ("key, arm, question, asked_at", "md5(t::text), 'arm', '{}', t"),
    "quota_ledger": ("project, bucket, pacific_day", "'project', 'search', t"),
    "suggestions": (
        "key, category, text, evidence, made_at, updated_at, closed_at",
        "md5(t::text), 'quota', 'text', '{}', t, t, t",
    ),
    "alerts": ("key, title, quiet_until, claim", "md5(t::text), 'title', t, gen_random_uuid()"),
    "metric_lapses": ("lease_token, seen_at", "gen_random_uuid(), t"),
    "sample_drops": ("day, days", "t, 1"),
    "events": ("at, kind, node, payload", "t, 'hunter.cycle', 'a host', '{}'"),
    "retention_days": ("rule, day, oldest", "md5(t::text), t, t"),
    "pattern_evidence": (
        "pattern_id, node, day, pos, neg, sum_reward, last_seen, version",
        "'00000000000000000000000000000001', 'site', t, 1, 0, 0, t, 1",
    ),
    "patterns": (
        "id, type, signature, statement, conditions, data, created_at, updated_at, attended_at, "  # noqa: ISC004
        "forgotten_at, forgotten_by",
        "md5(t::text), 'threshold', '{}', 'text', '[]', '{}', t, t, t, t, 'learner'",
    ),
    "federation_peers": ("node, seen_at", "md5(t::text), t"),
    "federation_refusals": (
        "node, reason, count, last_at, last_told",
        "'', md5(t::text), 1, t, ''",
    ),
    "atoms": ("handle, type, sources, seen_at, version, gone_at", "md5(t::text)::uuid, 'tag', 0, t, 1, t"),
    "atom_claims": (
        "handle, node, present, is_link, pos, neg, seen_at, version",
        "gen_random_uuid(), 'site', false, false, 0, 0, t, 1",
    ),
    "federation_failures": ("place, node, failed_at, told", "md5(t::text), '', t, 'no connection'"),
    "video_sources": ("video_id, arm, met_at, is_first", f"'{FRESH}', md5(t::text), t, false"),
    "forecast_checks": (
        "video_id, made_at, horizon_h, due_at, age_class, views, expected, settled_at",
        f"'{FRESH}', t, 1, t, 1, 5, 5, t",
    ),
    "duty_runs": (
        "duty, node, turn, attempts, state, started_at, finished_at",
        "(ARRAY['cleanup', 'health'])[1 + extract(day FROM t)::int % 2], md5(t::text), t, 1, 'done', t, t",
    ),
    "actions": (
        "at, node, kind, target, scope, is_restart, asked, state, plan, expires_at, finished_at",
        "t, 'a', 'cleanup', 'a', '', false, false, 'applied', 'text', t, t",
    ),
    "incidents": (
        "key, component, node, status, severity, text, opened_at, seen_at, recovered_at",
        "'host.disk', 'host', 'a', 'closed', 'error', 'text', t, t, t",
    ),
    "reports": (
        "week, begins_at, ends_at, made_at, summary, data, has_names",
        "to_char(t, 'IYYY\"-W\"IW'), t, t + interval '7 days', t, 'text', '{}', false",
    ),
    "observations": (
        "taken_at, writer, agent, session, action, at, outcome, context, reward, cost",
        "t, 'a', 'a', 's', 'b', t, 'success', '{}', 0, 0",
    ),
    "graph_outbox": ("kind, key, at", "'topic', md5(t::text), t"),
    "pending_counts": ("video_id, at, views", f"'{FRESH}', t, 5"),
}
"""The columns and values of a row of each table by its time t."""

ONCE = {
    "video_forecasts": ("video_id, made_at, views, day, week", f"'{FRESH}', t, 5, 5, 5"),
    "channel_walks": (
        "channel_id, begun_at, issued_at, pages, listed, stored, finished_at",
        "'UC-one', t, t, 0, 0, 0, t",
    ),
}
"""The same of tables with one row for each thing: only an old one."""

VIDEO = """
WITH stored AS (
    INSERT INTO videos (id, channel_id, status, discovered_at, refreshed_at, title, tags, category_id)
    VALUES ($1, 'UC-one', $2, $3::timestamptz, $3::timestamptz, 'A title', '{a}', 22)
)
INSERT INTO video_clock (
    video_id, channel_id, zone, status, interval_h, born_at, metadata_at, category_id, next_due_at, gone_at,
    last_sampled_at, last_at, last_views, lease_until, lease_token, lease_owner
)
VALUES (
    $1, 'UC-one', 0, $2, 1, $3::timestamptz, $3::timestamptz, 22,
    CASE $2 WHEN 'live' THEN $3::timestamptz END, CASE $2 WHEN 'gone' THEN $3::timestamptz END,
    $4, $4, 5, $5, CASE WHEN $5::timestamptz IS NOT NULL THEN gen_random_uuid() END,
    CASE WHEN $5::timestamptz IS NOT NULL THEN 'a tracker' END
)
"""

SAMPLE = "INSERT INTO video_stats_log (video_id, methodology, sampled_at) VALUES ($1, 2, $2)"
PATTERN = """
INSERT INTO patterns (id, type, signature, statement, conditions, data, created_at, updated_at, attended_at)
VALUES ('00000000000000000000000000000001', 'threshold', '{}', 'text', '[]', '{}', $1, $1, $1)
"""
LEARNT = "INSERT INTO learner_cursors VALUES ('observations', '1000', $1)"
BREAKOUT = "INSERT INTO events (at, kind, node, payload) VALUES ($1, 'tracker.breakout', 'a', $2::jsonb)"
ALERT = "INSERT INTO alerts (key, title, quiet_until, claim) VALUES ($1, 't', $2, gen_random_uuid())"
CHANNEL = "INSERT INTO channels VALUES ($1, 'A title', $2, $2)"
CHANNEL_CLOCK = """
INSERT INTO channel_clock (channel_id, status, next_due_at, last_at, views)
VALUES ($1, $2, $3::timestamptz, $3::timestamptz, 5)
"""


async def _add_videos(sql: Any, old: datetime, young: datetime) -> None:
    lease = datetime.now(UTC) + timedelta(hours=1)
    for id_, status, refreshed, sampled, until in (
        (FRESH, "live", young, young, None),
        (GONE, "gone", young, young, None),
        (STALE, "live", old, old, None),
        (SAMPLED, "live", old, young, None),
        (CLAIMED, "live", old, old, lease),
    ):
        await sql.execute(VIDEO, id_, status, refreshed, sampled, until)
    await sql.execute("SELECT ensure_sample_days(ARRAY[$1, $2]::date[])", old.date(), young.date())
    for id_ in (FRESH, GONE, SAMPLED):
        for at in (old, young):
            await sql.execute(SAMPLE, id_, at)


async def age(atlas: Atlas, sql: Any) -> None:
    """Fill every table and the vault."""
    now = atlas.clock.now()
    old, young = now - OLD, now - YOUNG
    await sql.execute(CHANNEL, "UC-one", young)
    for id_, status in (("UC-gone", "gone"), ("UC-quiet", "live")):
        await sql.execute(CHANNEL, id_, old)
        await sql.execute(CHANNEL_CLOCK, id_, status, old)
    await _add_videos(sql, old, young)
    await sql.execute(PATTERN, young)
    await sql.execute(LEARNT, young)
    for at, rows in ((old, ROWS), (young, ROWS), (old, ONCE)):
        for table, (columns, values) in rows.items():
            moment = "(SELECT $1::timestamptz AS t) AS moment"
            await sql.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {moment}", at)
    for id_ in (FRESH, GONE):
        await sql.execute(BREAKOUT, young, f'{{"video_id": "{id_}"}}')
        await sql.execute(ALERT, f"breakout {id_} 2026", young)
    for at, ids in ((old, (STALE, SAMPLED)), (young, (FRESH, GONE))):
        await atlas.vault.store(f"exports/{at.date()}.csv", b"rows")
        for id_ in ids:
            await atlas.vault.store(f"metadata/{at.date()}/{id_}.json", b"{}")


async def digest(sql: Any, vault: Path) -> str:
    """A hash of every row of every table, of the sequences, and of the vault's files."""
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    told = blake2b()
    for (table,) in tables:
        rows = await sql.fetch(f'SELECT t::text FROM "{table}" AS t ORDER BY 1')
        told.update(orjson.dumps([table, [row[0] for row in rows]]))
    sequences = await sql.fetch("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
    told.update(orjson.dumps([[*row] for row in sequences]))
    for path in sorted(path for path in vault.rglob("*") if path.is_file()):
        told.update(str(path.relative_to(vault)).encode() + path.read_bytes())
    return told.hexdigest()


@dataclass
class PlainTaker:
    """Takes actions of some kinds at once, and only plans all others."""

    apply: Collection[str] = ()
    plans: list[Plan] = field(default_factory=list)

    async def take(self, action: Action) -> Taken | None:
        plan = await action.plan()
        if plan is None:
            return None
        self.plans.append(plan)
        state, result = ActionState.PLANNED, ""
        if action.kind in self.apply:
            try:
                state, result = ActionState.APPLIED, await action.apply(plan)
            except ActionFailed as error:
                state, result = ActionState.FAILED, str(error)
        return Taken(kind=action.kind, target=action.target, state=state, plan=plan, result=result)

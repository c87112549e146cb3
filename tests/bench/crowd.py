"""Fills a database with made-up videos, a million if need be, skewed as they are on YouTube; by SQL on sets.

A few channels have most videos, one tag stands on nine of ten, few videos grow fast, and most are old. Words
and tags are drawn by Zipf's law. Young videos have many samples, others few.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, Final

import asyncpg

from atlas import migrations

DAYS: Final = 31
"""Samples go back so many days."""
_COMMON_WORDS: Final = (
    "the official video music how to in minecraft live best new shorts full lofi study remix gameplay "
    "highlights trailer tutorial podcast reaction episode cover beats football cooking travel review "
    "unboxing guitar piano relaxing sleep history science python drawing fitness camping vlog asmr speedrun"
)
_SYLLABLES: Final = (
    "ka lo mi ren tu sha vel no pra zi bor qua dex fi gal hum jo kri lam mon net ol pex rus sti tor"
)
_WORDS: Final = 18_000
_BULKY_INDEXES: Final = ("videos_by_title", "videos_by_tag", "channels_by_title")
_BEFORE_THE_PAGES: Final = 32
"""The last migration before that which makes pages quick, so that it is timed on a full database."""

_STATEMENTS: Final = Path(__file__).with_name("crowd.sql")
_STATEMENT: Final = re.compile(r"^-- name: (.+)\n((?:(?!-- name: ).*\n?)+)", re.MULTILINE)


async def fill(sql: asyncpg.Connection[Any], videos: int) -> AsyncIterator[tuple[str, float]]:
    """Migrate an empty database and fill it; yields what was done, and the seconds that it took.

    The last yielded is the migration that was written for this many videos.
    """
    now = datetime.now(UTC)
    await sql.execute("SET statement_timeout = 0; SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'")
    await sql.execute("SET synchronous_commit = off")
    await migrations.apply_pending(sql, up_to=_BEFORE_THE_PAGES)
    await sql.execute("SELECT setseed(0.5)")
    await _give(sql, now, videos)
    indexes = await sql.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE indexname = ANY ($1)", list(_BULKY_INDEXES)
    )
    for index in indexes:
        await sql.execute(f"DROP INDEX {index['indexname']}")
    statements = [
        *_STATEMENT.findall(_STATEMENTS.read_text()),
        *((index["indexname"], index["indexdef"]) for index in indexes),
    ]
    for what, statement in statements:
        began_s = time.perf_counter()
        await sql.execute(statement)
        yield what, time.perf_counter() - began_s
    began_s = time.perf_counter()
    await sql.execute("DROP TABLE traits, texts, words")
    await sql.execute("VACUUM ANALYZE")
    yield "VACUUM ANALYZE", time.perf_counter() - began_s
    began_s = time.perf_counter()
    applied = await migrations.apply_pending(sql)
    yield f"migrations {', '.join(applied)}", time.perf_counter() - began_s
    await sql.execute("VACUUM ANALYZE video_clock, video_forecasts, video_stats_log, search_queue")


async def _give(sql: asyncpg.Connection[Any], now: datetime, videos: int) -> None:
    """What the statements refer to: how many videos, the instant, the words; and the days of samples."""
    await sql.execute(
        f"CREATE FUNCTION pg_temp.at() RETURNS timestamptz IMMUTABLE RETURN timestamptz '{now}'"
    )
    await sql.execute(f"CREATE FUNCTION pg_temp.videos() RETURNS int IMMUTABLE RETURN {videos}")
    await sql.execute(f"CREATE FUNCTION pg_temp.words() RETURNS int IMMUTABLE RETURN {_WORDS}")
    await sql.execute("CREATE TEMPORARY TABLE words (n int, word text)")
    made = (syllables for n in (2, 3) for syllables in product(_SYLLABLES.split(), repeat=n))
    words = islice(chain(_COMMON_WORDS.split(), map("".join, made)), _WORDS)
    await sql.copy_records_to_table("words", records=list(enumerate(words)))
    await sql.execute("ANALYZE words")
    first = (now - timedelta(days=DAYS + 1)).date()
    await sql.execute(
        "SELECT ensure_sample_days(ARRAY(SELECT $1::date + n FROM generate_series(0, $2::int) AS n))",
        first, DAYS + 3,
    )  # fmt: skip

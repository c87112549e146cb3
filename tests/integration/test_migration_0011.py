"""Topics that were folded when they were stored get a key, and those that are one now are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from atlas import migrations
from atlas.adapters.maia import MaiaDAO
from atlas.clock import FixedClock
from atlas.db import Database
from atlas.testing import NOON, SettingsFactory

pytestmark = pytest.mark.integration

MANGLED = "i\u0307stanbul gezi"


async def topic(sql: Any, query: str, **values: Any) -> int:
    row = {"query": query, "origin": "tag", "priority": 1.0, "created_at": NOON} | values
    places = ", ".join(f"${number + 1}" for number in range(len(row)))
    inserted = f"INSERT INTO search_queue ({', '.join(row)}) VALUES ({places}) RETURNING id"
    return int(await sql.fetchval(inserted, *row.values()))


async def test_topics_get_keys_and_those_that_are_one_are_merged(
    settings_factory: SettingsFactory,
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: FixedClock,
) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for path in migrations.FOLDER.glob("*.sql"):
        if path.name < "0011":
            (older / path.name).write_bytes(path.read_bytes())
    settings = settings_factory(database_url=SecretStr(empty_database_url))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "FOLDER", older)
        async with Database.open(settings):
            pass
    sql = await asyncpg.connect(empty_database_url)
    kept = await topic(sql, "istanbul gezi", mention_count=3, pages_total=2, results_total=60)
    mangled = await topic(
        sql, MANGLED, origin="seed", priority=9.0, mention_count=4, pages_total=1, new_videos_total=5
    )
    await topic(sql, "ışık")
    await topic(sql, "cats")
    await topic(sql, "i\u0307zmir")
    await sql.execute("UPDATE queue_state SET topics = 5")
    await sql.execute("INSERT INTO channels VALUES ('UC1', 'One', $1, $1)", NOON)
    await sql.execute(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at, discovered_by) "
        "VALUES ('found', 'UC1', $1, $1, $2)",
        NOON, mangled,
    )  # fmt: skip

    async with Database.open(settings) as database:
        rows = await sql.fetch(
            "SELECT query, key, parameters::text, mention_count FROM search_queue ORDER BY 2"
        )
        assert [tuple(row) for row in rows] == [
            ("cats", "cats", "{}", 1),
            ("istanbul gezi", "istanbul gezi", "{}", 7),
            ("izmir", "izmir", "{}", 1),
            ("ışık", "işik", "{}", 1),
        ]
        row = await sql.fetchrow("SELECT * FROM search_queue WHERE id = $1", kept)
        assert (row["origin"], row["priority"], row["pages_total"]) == ("seed", 9.0, 3)
        assert (row["results_total"], row["new_videos_total"]) == (60, 5)
        assert await sql.fetchval("SELECT discovered_by FROM videos") == kept
        assert await sql.fetchval("SELECT topics FROM queue_state") == 4
        dao = MaiaDAO(database, clock=clock, settings=settings)
        assert await dao.seed(["İSTANBUL gezi"]) == 0
        [claimed] = await dao.fetch_hunter_batch(1)
        assert (claimed.id, claimed.query) == (kept, "İSTANBUL gezi")
        # Of spellings nothing was known; the first tag that comes tells one.
        await dao.add_to_search_queue(["CATS"])
        assert await sql.fetchval("SELECT query FROM search_queue WHERE key = 'cats'") == "CATS"
    await sql.close()

"""Search on a server that lacks trigrams, and by their indexes on one that has them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from atlas.adapters.search import SearchDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import Database, sql_of
from atlas.testing import SettingsFactory
from maia.views.search import meant, nearest
from tests.growth import store_video

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture
async def modest_url(empty_database_url: str) -> AsyncIterator[str]:
    """A database for somebody who may make tables in it, but add no extension."""
    role = f"modest_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(empty_database_url)
    await admin.execute(f"CREATE ROLE {role}; GRANT CREATE, USAGE ON SCHEMA public TO {role}")
    # The server admits its own role only, by the socket's peer: become the other one after that.
    yield f"{empty_database_url}&options=-c%20role%3D{role}"
    await admin.execute(f"DROP OWNED BY {role}")
    await admin.execute(f"DROP ROLE {role}")
    await admin.close()


async def test_without_the_right_to_add_trigrams_search_only_is_slower(
    modest_url: str, empty_database_url: str, settings_factory: SettingsFactory, clock: FixedClock
) -> None:
    settings = settings_factory(database_url=SecretStr(modest_url))
    async with Database.open(settings) as database:
        dao = SearchDAO(database, clock=clock, settings=settings)
        assert not await dao.is_indexed()
        assert (await dao.videos("lofi", 10)).total == 0
        sql = await asyncpg.connect(empty_database_url)
        await store_video(sql, "v1", title="Some LoFi beats")
        await sql.close()
        assert [each.id for each in (await dao.videos("beats lofi", 10)).videos] == ["v1"]


async def test_titles_and_tags_are_found_by_their_indexes(sql: Any) -> None:
    await sql.execute("INSERT INTO channels VALUES ('UC-one', 'One', now(), now())")
    await sql.execute(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at, title, tags) SELECT 'v' || n, "
        "'UC-one', now(), now(), md5(n::text), ARRAY['tag ' || n] FROM generate_series(1, 20000) AS n"
    )
    await sql.execute("VACUUM ANALYZE videos")
    await sql.execute(f"PREPARE looked AS {sql_of('search.videos')}")
    plan = await sql.fetchval(
        "EXPLAIN (FORMAT JSON) EXECUTE looked ('%c4ca4238%', ARRAY['%a0b9%'], 'tag 7', 2000, 20, 0, NULL)"
    )
    assert '"videos_by_title"' in plan
    assert '"videos_by_tag"' in plan
    plan = await sql.fetchval(
        "EXPLAIN (FORMAT JSON) EXECUTE looked ('c4%', ARRAY[]::text[], NULL, 2000, 20, 0, '% c4%')"
    )
    assert plan.count('"videos_by_title"') == 2


class TestMisspelt:
    @pytest_asyncio.fixture(autouse=True)
    async def titles(self, sql: Any) -> None:
        for number, (title, channel) in enumerate(
            [
                ("Minecraft: Building a Castle", "UC-builders"),
                ("Guitar Tutorial for Beginners", "UC-strings"),
                ("Mining in the Craft Age", "UC-history"),
                ("Piano tutorial, again for guitar players", "UC-strings"),
                ("MINECRAFT castle tour", "UC-builders"),
            ]
        ):
            await store_video(sql, f"v{number}", title=title, channel=channel, clock_velocity=float(number))
        await sql.execute("UPDATE channels SET title = 'Castle Builders' WHERE id = 'UC-builders'")

    @pytest.mark.parametrize(
        ("asked", "found", "meant"),
        [
            ("minecarft", ["v4", "v0"], "minecraft"),
            ("Mincraft castel", ["v4", "v0"], "minecraft castle"),
            ("guitar tutoral", ["v3", "v1"], "guitar tutorial"),
            ("zzzzqqqq", [], None),
            ("tu", [], None),
        ],
    )
    async def test_finds_what_is_spelt_most_alike(
        self, atlas: Atlas, asked: str, found: list[str], meant: str | None
    ) -> None:
        told = await nearest(atlas, asked, 10, "title")
        assert [each.id for each in told.matches][: len(found) or 1] == found
        assert (told.nearest, told.did_you_mean) == (True, meant)

    async def test_finds_channels_first_and_no_more_than_asked_for(self, atlas: Atlas) -> None:
        told = await nearest(atlas, "casle", 2)
        assert [(each.kind, each.id) for each in told.matches] == [
            ("channel", "UC-builders"),
            ("video", "v4"),
        ]
        assert told.did_you_mean == "castle"


def test_words_that_are_known_stay_as_they_are() -> None:
    titles = ["The video of the day", "Videos!"]
    assert meant("vidoe of", ["vidoe"], titles) == "video of"
    assert meant("Video", ["video"], titles) is None
    assert meant("(vidoe)+ [x", ["vidoe"], titles) == "(video)+ [x"
    assert meant("nothing", ["nothing"], titles) is None

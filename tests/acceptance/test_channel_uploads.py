"""`maia channel uploads`: storing a channel's history, stopping and going on, and what it costs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from atlas.testing import NOON
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from tests.acceptance.conftest import Stage, StageFactory
from tests.ids import cid, vid

pytestmark = pytest.mark.acceptance

CHANNEL, EMPTY = cid("history"), cid("empty")
UPLOADS = 230
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """A channel with 230 uploads, ten hours apart, and one without any."""
    path = tmp_path_factory.mktemp("catalogue") / "history.sqlite"
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels([CatalogueChannel(CHANNEL, "History"), CatalogueChannel(EMPTY, "Empty")])
        for n in reversed(range(UPLOADS)):
            born = int((NOON - (10 * n + 1) * HOUR).timestamp())
            video = CatalogueVideo(vid(f"u{n}"), CHANNEL, f"Upload {n}", born)
            writer.add(video, "History", [Sample(born, 0), Sample(born + 10**7, 1000)])
    with Catalogue.open(path) as opened:
        yield opened


@pytest_asyncio.fixture
async def stage(stage_of: StageFactory, catalogue: Catalogue) -> Stage:
    stage: Stage = await stage_of(catalogue, now=NOON)
    return stage


async def stored(sql: Any) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM videos"))


async def test_the_newest_uploads_and_then_all_of_them(stage: Stage, sql: Any) -> None:
    newest = await stage.maia("channel", "uploads", CHANNEL)
    assert newest.status == 0
    assert "stored 50 new uploads" in newest.stdout
    assert f"maia channel uploads {CHANNEL} --all" in newest.stdout
    whole = await stage.maia("channel", "uploads", CHANNEL, "--all", "--json")
    assert whole.status == 0
    result = whole.json
    assert (result["finished"], result["pages"], result["listed"], result["stored_now"]) == (
        True,
        5,
        230,
        180,
    )
    assert result["units"] == 9, "five pages, and metadata for the four with new videos"
    assert await stored(sql) == UPLOADS
    again = await stage.maia("channel", "uploads", CHANNEL, "--all", "--json")
    assert (again.json["stored_now"], again.json["units"]) == (0, 5)
    arms = {row["arm"] for row in await sql.fetch("SELECT arm FROM video_sources")}
    assert arms == {"watch"}
    ledger = {call.method: call.units for call in stage.emulator.calls}
    assert set(ledger) == {"playlistItems.list", "videos.list"}


async def test_a_walk_that_is_killed_goes_on_where_it_was(stage: Stage, sql: Any) -> None:
    stage.emulator.set_faults(["latency-1s:1"])
    process = await stage.fork("channel", "uploads", CHANNEL, "--all")
    async with asyncio.timeout(60):
        while await stored(sql) < 100:
            await asyncio.sleep(0.05)
    process.kill()
    await process.communicate()
    stage.emulator.set_faults([])
    pages = await sql.fetchval("SELECT pages FROM channel_walks")
    asked = len([call for call in stage.emulator.calls if call.method == "playlistItems.list"])
    assert 2 <= pages < 5
    rest = await stage.maia("channel", "uploads", CHANNEL, "--all", "--json")
    assert (rest.json["finished"], rest.json["listed"]) == (True, UPLOADS)
    assert await stored(sql) == UPLOADS
    calls = [call for call in stage.emulator.calls if call.method == "playlistItems.list"]
    assert len(calls) - asked <= 5 - pages + 1, "only what was missing, and what was on its way when killed"


async def test_ctrl_c_says_how_to_go_on(stage: Stage, sql: Any) -> None:
    stage.emulator.set_faults(["latency-1s:1"])
    process = await stage.start("channel", "uploads", CHANNEL, "--all")
    async with asyncio.timeout(60):
        while not await stored(sql):
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 130
    assert b"the same command goes on from there" in errors
    assert b"Traceback" not in errors


async def test_used_up_quota_says_when_to_go_on(stage_of: StageFactory, catalogue: Catalogue) -> None:
    stage = await stage_of(catalogue, now=NOON, general=40)
    first = await stage.maia("channel", "uploads", CHANNEL, "--all")
    assert first.status == 0
    assert "used up for now" in first.stdout
    assert "2026-11-0" in first.stdout
    units = len(stage.emulator.calls)
    assert units == 4, "the ring archeology's tenth of the bucket"
    other = await stage.maia("channel", "uploads", CHANNEL, "--all")
    assert other.status == 0
    assert len(stage.emulator.calls) == units, "it asks for nothing that isn't granted"


async def test_a_channel_that_youtube_does_not_know(stage: Stage) -> None:
    unknown = await stage.maia("channel", "uploads", cid("nobody"))
    assert unknown.status == 1
    assert "Traceback" not in unknown.stderr


async def test_a_channel_without_uploads(stage: Stage) -> None:
    empty = await stage.maia("channel", "uploads", EMPTY, "--all")
    assert (empty.status, "That is all of them." in empty.stdout) == (0, True)


async def test_a_channel_is_still_shown_without_a_commands_name(stage: Stage) -> None:
    await stage.maia("channel", "uploads", CHANNEL)
    by_title = await stage.maia("channel", "History", "--limit", "2", "--json")
    named = await stage.maia("channel", "show", CHANNEL, "--json")
    options_first = await stage.maia("channel", "--json", "--limit", "2", CHANNEL)
    assert by_title.json["id"] == named.json["id"] == options_first.json["id"] == CHANNEL
    assert len(by_title.json["uploads"]) == 2

"""Hunters that share the looks at feeds under `kill -9`, refusals of feeds, and the uploads' quota."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from atlas.testing import NOON
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from tests.acceptance.conftest import Stage, StageFactory
from tests.feed_server import FeedServer, Upload, serving_feeds
from tests.fork_server import Running
from tests.ids import cid, vid

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HUNTERS = 3
CHANNELS = 2_000
SPEED = 240.0
ONLY_FEEDS = {"PLEIADES_HUNTER__STRATEGY": "portfolio", "PLEIADES_DISCOVERY__OFF": "search,charts,uploads"}

# Writes down when each look begins, with the interval that was in force until then.
SPY = """
CREATE TABLE begun (channel_id text, looked_before timestamptz, interval_h real, begun_at timestamptz);
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO begun VALUES (new.channel_id, old.looked_at, old.interval_h, new.looked_at);
    RETURN new;
END
$$;
CREATE TRIGGER spy BEFORE UPDATE ON channel_uploads FOR EACH ROW
WHEN (new.looked_at IS DISTINCT FROM old.looked_at AND new.claim_token IS NOT NULL)
EXECUTE FUNCTION spy();
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """400 channels with a few uploads each."""
    path = tmp_path_factory.mktemp("catalogue") / "channels.sqlite"
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels(CatalogueChannel(cid(n), f"Channel {n}") for n in range(400))
        for n in range(1200):
            born = int((NOON - (1200 - n) * MINUTE).timestamp())
            video = CatalogueVideo(vid(f"u{n}"), cid(n % 400), f"Upload {n}", born)
            writer.add(video, f"Channel {n % 400}", [Sample(born, 0), Sample(born + 10**7, 1000)])
    with Catalogue.open(path) as opened:
        yield opened


@pytest_asyncio.fixture
async def feeds() -> AsyncIterator[FeedServer]:
    async with serving_feeds(lambda: datetime.now(UTC)) as server:
        yield server


async def staged(
    stage_of: StageFactory, catalogue: Catalogue, feeds: FeedServer, speed: float, **settings: str
) -> Stage:
    """A stage whose feeds come from `feeds`, which reads the same clock."""
    ours = ONLY_FEEDS | {"PLEIADES_YOUTUBE__FEED_URL": feeds.url, "PLEIADES_HUNTER__LEASE_S": "5"} | settings
    stage: Stage = await stage_of(catalogue, settings=ours)
    stage.set_clock(NOON, speed=speed)

    def now() -> datetime:
        return stage.emulator.clock.now()

    feeds.now = now
    return stage


async def plan(sql: Any, channels: int) -> None:
    """Channels that are known but were never looked at."""
    ids = [cid(n) for n in range(channels)]
    await sql.execute("INSERT INTO channels SELECT id, 't', $2, $2 FROM unnest($1::text[]) AS id", ids, NOON)
    await sql.execute(
        "INSERT INTO channel_uploads (channel_id, next_look_at) SELECT id, $1 FROM channels", NOON
    )


def old_uploads(n: int) -> list[Upload]:
    """Uploads that are too old to be fetched; a few channels upload much more often than others."""
    apart = timedelta(hours=6 if n % 20 == 0 else 200)
    return [Upload(vid(f"{n}-{k}"), NOON - 50 * HOUR - k * apart, 100) for k in range(10)]


async def hunt_until(
    is_done: Callable[[], bool],
    stage: Stage,
    exits: list[int],
    *,
    progress: Callable[[], int] = int,
    kill_every: int = 0,
) -> None:
    """Keep HUNTERS hunters running until `is_done`; kill one whenever `progress` has grown by `kill_every`.

    A kill by progress, not by time, hits hunters at work however slow the machine is.
    """
    rng, killed_at = random.Random(7), progress()
    running: dict[Running, asyncio.Task[Any]] = {}
    async with asyncio.timeout(240):
        while not is_done():
            while len(running) < HUNTERS:
                process = await stage.fork("hunter", "--direct", "--cycles", "50")
                running[process] = asyncio.create_task(process.communicate())
            await asyncio.wait(running.values(), timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            for process in [each for each, task in running.items() if task.done()]:
                exits.append(process.returncode or 0)
                del running[process]
            if kill_every and running and progress() - killed_at >= kill_every:
                killed_at = progress()
                rng.choice(list(running)).kill()
    for process in running:
        process.kill()
    await asyncio.gather(*running.values())


async def test_hunters_that_are_killed_ask_nobody_twice_and_forget_nobody(
    stage_of: StageFactory, catalogue: Catalogue, feeds: FeedServer, sql: Any
) -> None:
    """Thousands of channels, three hunters, dozens of kills: each request comes after its interval."""
    stage = await staged(stage_of, catalogue, feeds, SPEED)
    feeds.channels = {cid(n): old_uploads(n) for n in range(CHANNELS)}
    await plan(sql, CHANNELS)
    await sql.execute(SPY)
    exits: list[int] = []

    def progress() -> int:
        return len(feeds.requests)

    await hunt_until(lambda: progress() >= CHANNELS, stage, exits, progress=progress, kill_every=60)
    # In the end a hunter is left alone, so that what the killed ones had claimed comes due.
    async with asyncio.timeout(120):
        while set(feeds.asked()) != set(feeds.channels):
            await stage.hunt("--cycles", "20")
    assert exits.count(-9) >= 10
    assert set(exits) <= {0, -9}
    assert set(feeds.statuses()) <= {200, 304}
    times = defaultdict(list)
    for request in feeds.requests:
        times[request.channel_id].append(request.at)
    intervals = defaultdict(list)
    for row in await sql.fetch("SELECT * FROM begun WHERE looked_before IS NOT NULL ORDER BY begun_at"):
        intervals[row["channel_id"]].append((row["begun_at"], row["interval_h"]))
    repeated = 0
    for channel_id, asked in times.items():
        for before, after in pairwise(asked):
            # The look that the later request is part of: the last one begun before it.
            interval_h = [hours for at, hours in intervals[channel_id] if at <= after][-1]
            assert after - before >= interval_h * HOUR, f"{channel_id} was asked twice within its interval"
            assert after - before >= 15 * MINUTE
            repeated += 1
    assert repeated > 50, "some channels were due again within the test"
    late = await sql.fetchval(
        "SELECT count(*) FROM channel_uploads WHERE next_look_at > $1::timestamptz + interval '8 days'",
        stage.emulator.clock.now(),
    )
    assert late == 0


async def test_after_a_429_nobody_asks_until_the_back_off_ends(
    stage_of: StageFactory, catalogue: Catalogue, feeds: FeedServer, sql: Any
) -> None:
    """YouTube refuses for an hour: one request learns that, and one tests whether it is over."""
    stage = await staged(stage_of, catalogue, feeds, 1.0, PLEIADES_FEEDS__REQUESTS_PER_S="20")
    feeds.channels = {cid(n): old_uploads(n) for n in range(300)}
    await plan(sql, 300)
    feeds.refusal = (429, {})
    exits: list[int] = []
    await hunt_until(lambda: len(exits) >= 3 * HUNTERS, stage, exits)
    refused = list(feeds.requests)
    assert {request.status for request in refused} == {429}
    assert len(refused) <= HUNTERS, "only requests that were on their way when the first was refused"
    assert exits.count(75) == len(refused)
    assert set(exits) == {0, 75}
    until = await sql.fetchval("SELECT closed_until FROM feed_pace")
    assert until == pytest.approx(refused[0].at + HOUR, abs=MINUTE)
    stage.set_clock(until - timedelta(seconds=15))
    feeds.refusal = None
    await hunt_until(lambda: len(feeds.requests) >= len(refused) + 50, stage, exits)
    answered = feeds.requests[len(refused) :]
    assert min(request.at for request in answered) >= until
    assert {request.status for request in answered} == {200}
    assert await sql.fetchval("SELECT refusals FROM feed_pace") == 0


async def test_uploads_without_feeds_stay_within_the_quota(
    stage_of: StageFactory, catalogue: Catalogue, feeds: FeedServer, sql: Any
) -> None:
    """Three hunters that are killed never overrun the general bucket, and find what is new."""
    stage = await stage_of(
        catalogue,
        now=NOON,
        general=60,
        settings=ONLY_FEEDS | {"PLEIADES_DISCOVERY__OFF": "search,charts,feeds"},
    )
    await plan(sql, 400)
    exits: list[int] = []

    def progress() -> int:
        return len(stage.emulator.calls)

    await hunt_until(lambda: exits[-6:] == [0] * 6, stage, exits, progress=progress, kill_every=3)
    used = stage.emulator.used("lab", "general")
    refused = sum(call.status in (403, 429) for call in stage.emulator.calls)
    ledger = await sql.fetchval("SELECT sum(used + reserved) FROM quota_ledger WHERE bucket = 'general'")
    assert used <= 0.5 * 60, "the hunter's share, with what archeology lends"
    assert refused == 0
    assert ledger >= used
    methods = Counter(call.method for call in stage.emulator.calls)
    assert methods["playlistItems.list"] > 0
    # A hunter that is killed before it lists what it compared may have to compare again, so not all count.
    compared = [
        len(dict(call.parameters)["id"].split(","))
        for call in stage.emulator.calls
        if call.method == "channels.list"
    ]
    assert sum(compared) / len(compared) > 25, "up to 50 channels are compared for a unit"
    assert await sql.fetchval("SELECT count(*) FROM videos") > 0
    assert feeds.requests == []

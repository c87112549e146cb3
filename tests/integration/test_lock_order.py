"""Pages that are stored at once lock in one order; where others do not, nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest
import pytest_asyncio

from atlas.adapters.discovery import DiscoveryDAO, PlannedArm
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.queue import Mention, QueueDAO
from atlas.adapters.tracking import ChannelUpdate
from atlas.adapters.uploads import LookResult, UploadsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import Database
from atlas.errors import TransactionConflict
from atlas.testing import NOON, SettingsFactory
from maia.discovery.feeds import Answer, FeedsFinding
from maia.discovery.forms import FORMS
from maia.discovery.source import CHARTS, FEEDS, Ask, Finding
from maia.emulator import Emulator
from maia.hunter.cycle import EnrichedFinding, Hunter, StoredPage
from maia.youtube.resources import Video
from tests.ids import cid, vid
from tests.integration.test_tracking import found
from tests.integration.test_uploads import HOLD, RULE

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

KNOWN = cid("known")
LONG_AGO = NOON - timedelta(days=2)
AddTopics = Callable[[QueueDAO, Iterable[Mention]], Awaitable[int]]


@pytest_asyncio.fixture
async def hunter(
    settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock, sql: Any
) -> AsyncIterator[Hunter]:
    """A hunter that asks for charts and feeds, and knows a channel whose data are two days old."""
    # A deadlock is found by whoever waits last; these connections find it at once.
    await sql.execute(
        "DO $$ BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET deadlock_timeout = ''10ms''', current_database()); END $$"
    )
    settings = settings_factory(
        youtube_api_key_pool_json=json.dumps([{"key": "demo-one", "project": "demo"}]),
        youtube={"base_url": emulator.url},
        quota={"pacing": False},
        discovery={"off": ("uploads", *(form.arm for form in FORMS)), "regions": ("JP",)},
    )
    async with Atlas.open(settings, clock=clock) as atlas, Hunter.open(atlas) as opened:
        await opened.dao.ingest_video_metadata([found("old", channel_id=KNOWN)], fetched_at=LONG_AGO)
        yield opened


async def claim(hunter: Hunter, arm: str) -> Any:
    (source,) = (source for source in hunter.sources if arm in source.arms)
    (ask, *_) = await source.claim({arm: 1})
    return ask


def page_of(ask: Ask, *videos: Any, finding: Finding | None = None) -> EnrichedFinding:
    ids = tuple(video.id for video in videos)
    finding = finding or Finding(ask=ask, asked_at=NOON, ids=ids)
    return EnrichedFinding(finding, cast("tuple[Video, ...]", videos), {}, NOON)


def video_of(name: str, channel_id: str, tag: str) -> Any:
    return found(vid(name), channel_id=channel_id, tags=(tag,), raw={})


async def look_at_known(hunter: Hunter, *videos: Any) -> EnrichedFinding:
    """A look at the known channel's feed, which did not answer, stored with videos of others."""
    ask = await claim(hunter, FEEDS)
    (look,) = ask.looks
    assert look.channel_id == KNOWN
    ask.asked.add(KNOWN)
    pace = await UploadsDAO(hunter.atlas.db, clock=hunter.atlas.clock, settings=hunter.atlas.settings).pace()
    finding = FeedsFinding(
        ask=ask, asked_at=NOON, ids=tuple(video.id for video in videos), units=0,
        answers=(Answer(look, NOON, None),), pace=pace,
    )  # fmt: skip
    return page_of(ask, *videos, finding=finding)


def before_topics(monkeypatch: pytest.MonkeyPatch, step: Callable[[str, AddTopics], AddTopics]) -> None:
    """Have `step`, given the first tag, wrap what adds a page's tags under the snowball lock."""
    add = QueueDAO.add_to_search_queue

    async def wrapped(self: QueueDAO, tags: Iterable[Mention], **options: Any) -> int:
        mentions = list(tags)
        return await step(mentions[0].tag if mentions else "", add)(self, mentions, **options)

    monkeypatch.setattr(QueueDAO, "add_to_search_queue", wrapped)


async def test_a_chart_and_a_look_at_one_of_its_channels_never_deadlock(
    hunter: Hunter, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart holds its channels while the look has the snowball lock; each would then want the other's."""
    chart = page_of(await claim(hunter, CHARTS), video_of("charted", KNOWN, "charted tag"))
    looked = await look_at_known(hunter, video_of("uploaded", cid("other"), "uploaded tag"))
    chart_is_stored, look_has_lock = asyncio.Event(), asyncio.Event()
    tries: list[str] = []

    def interleave(tag: str, add: AddTopics) -> AddTopics:
        tries.append(tag)

        async def charted(*arguments: Any, **options: Any) -> int:
            chart_is_stored.set()
            await look_has_lock.wait()
            return await add(*arguments, **options)

        async def uploaded(*arguments: Any, **options: Any) -> int:
            looked_at = "SELECT FROM channel_uploads WHERE channel_id = $1 FOR UPDATE SKIP LOCKED"
            assert not await sql.fetch(looked_at, KNOWN), "it comes before the snowball lock"
            added = await add(*arguments, **options)
            look_has_lock.set()
            return added

        return charted if tag == "charted tag" else uploaded

    async def look() -> StoredPage:
        await chart_is_stored.wait()
        return await hunter.ingest(looked)

    before_topics(monkeypatch, interleave)
    stored = await asyncio.gather(hunter.ingest(chart), look())
    assert [page.new for page in stored] == [1, 1]
    assert sorted(tries) == ["charted tag", "uploaded tag"], "nobody had to try again"


async def waiting(sql: Any) -> None:
    """Return once somebody waits for a lock in this database."""
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not await sql.fetchval(f"SELECT EXISTS ({waits})"):
        await asyncio.sleep(0.01)


async def test_a_page_that_a_deadlock_ends_is_stored_by_the_next_try(
    hunter: Hunter,
    sql: Any,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody takes the snowball lock first, and then a channel: in the wrong order."""
    page = page_of(await claim(hunter, CHARTS), video_of("charted", cid("new"), "tag"))
    other = await asyncpg.connect(database_url, server_settings={"deadlock_timeout": "10min"})
    block, tries = other.transaction(), []
    await block.start()
    await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('maia.snowball', 0))")

    async def take_channel() -> None:
        await other.execute(
            "INSERT INTO channels VALUES ($1, NULL, $2, $2) ON CONFLICT DO NOTHING", cid("new"), NOON
        )
        await block.commit()

    def interleave(tag: str, add: AddTopics) -> AddTopics:
        tries.append(asyncio.create_task(take_channel()) if not tries else tries[0])

        async def once_both_wait(*arguments: Any, **options: Any) -> int:
            if len(tries) == 1:
                await waiting(sql)
            return await add(*arguments, **options)

        return once_both_wait

    before_topics(monkeypatch, interleave)
    stored = await hunter.ingest(page)
    await tries[0]
    await other.close()
    assert len(tries) == 2
    assert (stored.new, stored.tags) == (1, 1)
    brought = await sql.fetchrow(
        "SELECT asks, units, found, new FROM discovery_yields WHERE arm = $1", CHARTS
    )
    assert tuple(brought) == (1, 1, 1, 1)
    asked = await sql.fetchrow("SELECT is_open, pages, results, attempts FROM discovery_asks")
    assert tuple(asked) == (False, 1, 1, 0)
    assert await sql.fetchval("SELECT mention_count FROM search_queue WHERE key = 'tag'") == 1


async def test_an_ask_whose_page_conflicts_for_ever_is_put_again_and_not_blamed(
    hunter: Hunter, emulator: Emulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cost stays paid, since YouTube answered; it is asked once more in the next cycle."""

    def refuse(tag: str, add: AddTopics) -> AddTopics:
        async def conflicts(*_: Any, **__: Any) -> int:
            raise TransactionConflict("queue.lock_snowball: deadlock detected")

        return conflicts

    await sql.execute("UPDATE channel_uploads SET next_look_at = 'infinity'")
    with monkeypatch.context() as patch:
        before_topics(patch, refuse)
        first = await hunter.cycle(1)
    assert (first.pages, first.skipped) == (0, {"database": 1})
    assert await sql.fetchval("SELECT count(*) FROM videos WHERE id <> 'old'") == 0
    assert await sql.fetchval("SELECT count(*) FROM discovery_yields") == 0
    asked = await sql.fetchrow("SELECT key, is_open, attempts, lease_token, last_error FROM discovery_asks")
    assert tuple(asked)[1:] == (True, 0, None, "queue.lock_snowball: deadlock detected")
    second = await hunter.cycle(1)
    assert (second.pages, second.skipped) == (1, {})
    assert await sql.fetchval("SELECT is_open FROM discovery_asks WHERE key = $1", asked["key"]) is False
    charts = [call for call in emulator.calls if call.method == "videos.list"]
    assert len(charts) == 2
    assert await sql.fetchval("SELECT claimed FROM discovery_plan WHERE arm = $1", CHARTS) == 2
    assert await sql.fetchval("SELECT asks FROM discovery_yields WHERE arm = $1", CHARTS) == 1


async def test_several_rows_are_locked_in_the_order_of_their_keys(
    database: Database, sql: Any, clock: FixedClock, settings_factory: SettingsFactory, database_url: str
) -> None:
    """Whoever waits for the first of two rows, which was stored last, does not hold the other one yet."""
    made: dict[str, Any] = {"clock": clock, "settings": settings_factory()}
    maia, uploads = MaiaDAO(database, **made), UploadsDAO(database, **made)
    plans, day = DiscoveryDAO(database, **made), NOON.date()
    channels, arms = [cid("b"), cid("a")], ["search:b", "search:a"]
    for id_ in channels:
        await maia.ingest_video_metadata(found(f"v{id_}", channel_id=id_), fetched_at=LONG_AGO)
    await plans.make_plan(day, [PlannedArm(arm, "search", 0.5, 0.1, 1, 0, 2, "test") for arm in arms])
    claimed = await uploads.claim_looks(2, RULE, HOLD)
    looks = [LookResult.of(look, NOON) for look in claimed]
    samples = [
        ChannelUpdate(target.id, target.lease_token, NOON, NOON + HOLD, title="new")
        for target in await maia.fetch_channel_targets(2)
    ]
    await sql.execute("UPDATE videos SET status = 'gone'")
    videos = [f"v{id_}" for id_ in channels]
    statements: list[tuple[str, str, Callable[[], Coroutine[Any, Any, object]]]] = [
        ("channel_uploads", "channel_id", lambda: uploads.watch(database, channels, True, NOON)),
        ("channel_uploads", "channel_id", lambda: uploads.store_looks(claimed[0].token, looks)),
        ("channels", "id", lambda: maia.update_channel_stats_batch(samples)),
        ("videos", "id", lambda: database.execute("watches.revive_videos", videos, NOON)),
        ("discovery_plan", "arm", lambda: plans.return_units(day, dict.fromkeys(arms, 1))),
    ]
    other = await asyncpg.connect(database_url)
    for table, key, statement in statements:
        async with other.transaction():
            await other.execute(f"SELECT FROM {table} ORDER BY {key} LIMIT 1 FOR UPDATE")
            running = asyncio.create_task(statement())
            await waiting(sql)
            free = await sql.fetch(f"SELECT FROM {table} FOR UPDATE SKIP LOCKED")
        await running
        assert len(free) == 1, table
    async with other.transaction():
        await other.execute("SELECT FROM channels ORDER BY id LIMIT 1 FOR UPDATE")
        cleared = await database.execute("retention.clear_channels", NOON + HOLD, NOON + HOLD, 0, 1000)
    assert cleared == 1, "retention waits for nobody"
    await other.close()

"""The hunter against a real database and the emulator over real sockets: its cycle, and what fails in it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import stamina

from atlas.adapters.maia import Topic
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import ConfigError, DatabaseError, DatabaseUnavailable, EmptyKeyRing, LeaseLost
from atlas.testing import NOON, SettingsFactory
from maia.hunter import (
    MOST_RESTARTS,
    Batch,
    EnrichedPage,
    FoundPage,
    Hunter,
    Progress,
    Statistics,
    StoredPage,
    run,
    run_direct,
)
from maia.tags import TagRules
from maia.youtube.catalogue import Catalogue, CatalogueVideo, Channel, new_catalogue
from maia.youtube.curves import Sample
from maia.youtube.emulator import Emulator, Project
from maia.youtube.errors import KeyRejected

pytestmark = pytest.mark.integration

CATS, GARDENS = 120, 3
KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
ALL_TO_THE_HUNTER = {
    "hunting": {"search": 1, "general": 1},
    "tracking": {"general": 0},
    "archeology": {"search": 0, "general": 0},
}
Hunting = Callable[..., AbstractAsyncContextManager[Hunter]]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """120 videos of cats, an hour apart, and 3 of gardens; three of their tags differ from video to video."""
    path = tmp_path_factory.mktemp("catalogue") / "cats.sqlite"
    first = int((NOON - timedelta(hours=CATS + GARDENS)).timestamp())
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels(Channel(f"UC{n:022d}", f"Channel {n}") for n in range(5))
        for n in range(CATS + GARDENS):
            subject = "cats" if n < CATS else "gardens"
            tags = (subject, f"breed {n % 7}", f"season {n % 4}", f"mood {n}", "Viral", f"#{subject.upper()}")
            at = first + n * 3600
            video = CatalogueVideo(
                f"video{n:06d}", f"UC{n % 5:022d}", f"{subject} number {n}", at, category_id=15, tags=tags
            )
            writer.add(
                video, f"Channel {n % 5}", [Sample(at + 60, 10 * n, n, 1), Sample(at + 1800, 20 * n, n, 2)]
            )
    with Catalogue.open(path) as opened:
        yield opened


@pytest_asyncio.fixture
async def emulator(catalogue: Catalogue, clock: FixedClock) -> AsyncIterator[Emulator]:
    async with Emulator.serve(catalogue, clock=clock) as served:
        yield served


@pytest.fixture(autouse=True)
def _without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def hunting(settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock) -> Hunting:
    @asynccontextmanager
    async def open_hunter(*seeds: str, **groups: Any) -> AsyncIterator[Hunter]:
        youtube = {"base_url": emulator.url} | groups.pop("youtube", {})
        quota = {"pacing": False} | groups.pop("quota", {})
        defaults: dict[str, Any] = {"youtube_api_key_pool_json": KEYS}
        settings = settings_factory(**(defaults | groups), youtube=youtube, quota=quota)
        async with Atlas.open(settings, clock=clock) as atlas, Hunter.open(atlas) as hunter:
            if seeds:
                await hunter.dao.seed(seeds)
            yield hunter

    return open_hunter


class Between:
    """The hunter's steps, with something happening before one of them."""

    def __init__(self, hunter: Hunter, **before: Callable[[Any], Awaitable[None]]) -> None:
        self.hunter, self.before = hunter, before

    async def _first(self, step: str, item: Any) -> None:
        if step in self.before:
            await self.before[step](item)

    async def fetch_batch(self, batch_size: int) -> Batch:
        await self._first("fetch_batch", batch_size)
        return await self.hunter.fetch_batch(batch_size)

    async def search(self, topic: Topic) -> FoundPage:
        await self._first("search", topic)
        return await self.hunter.search(topic)

    async def enrich(self, page: FoundPage) -> EnrichedPage:
        await self._first("enrich", page)
        return await self.hunter.enrich(page)

    async def ingest(self, page: EnrichedPage) -> StoredPage:
        await self._first("ingest", page)
        return await self.hunter.ingest(page)


def searches(emulator: Emulator) -> list[dict[str, str]]:
    return [dict(call.parameters) for call in emulator.calls if call.method == "search.list"]


async def topic_of(sql: Any, query: str = "cats") -> dict[str, Any]:
    return dict(await sql.fetchrow("SELECT * FROM search_queue WHERE query = $1", query))


async def verdict(sql: Any) -> dict[str, Any]:
    """The payload of the last cycle's event."""
    text = await sql.fetchval(
        "SELECT payload FROM events WHERE kind = 'hunter.cycle' AND agent = 'hunter' ORDER BY id DESC LIMIT 1"
    )
    payload: dict[str, Any] = json.loads(text)
    return payload


async def test_a_cycle_stores_a_page_with_its_tags_and_its_place(
    hunting: Hunting, emulator: Emulator, catalogue: Catalogue, sql: Any
) -> None:
    async with hunting("cats") as hunter:
        statistics = await hunter.cycle()
        kept = await hunter.atlas.vault.list("metadata/2026-11-02/")
        answer = await hunter.atlas.vault.fetch("metadata/2026-11-02/video000119.json")
    expected = catalogue.search_ids("cats", NOON, order="date", limit=50)
    rows = await sql.fetch("SELECT * FROM videos ORDER BY published_at DESC")
    assert [row["id"] for row in rows] == expected
    for row in rows:
        counts = catalogue.counts_of(row["id"], NOON)
        assert counts is not None
        assert (row["view_count"], row["like_count"]) == (counts.views, counts.likes)
    assert kept == sorted(f"metadata/2026-11-02/{id_}.json" for id_ in expected)
    assert answer["snippet"]["tags"] == ["cats", "breed 0", "season 3", "mood 119", "Viral", "#CATS"]
    topic = await topic_of(sql)
    assert (topic["status"], topic["results"], topic["pages"], topic["attempts"]) == ("active", 50, 1, 0)
    assert topic["page_token"] is not None
    assert (topic["lease_token"], topic["searched_at"], topic["page_issued_at"]) == (None, NOON, NOON)
    assert statistics == replace(
        Statistics(cycles=1, topics=1, pages=1, found=50, new=50, tags=7 + 4 + 50),
        units={"search": 1, "general": 1},
        seconds=statistics.seconds,
    )
    assert await verdict(sql) == statistics.as_dict()


async def test_tags_become_topics_counted_by_the_new_videos_that_mention_them(
    hunting: Hunting, catalogue: Catalogue, sql: Any
) -> None:
    async with hunting("gardens", hunter={"tags_per_video": 3, "tag_deny": ["^season"]}) as hunter:
        await hunter.cycle()
    topics = {row["query"]: row for row in await sql.fetch("SELECT * FROM search_queue")}
    assert {query: topic["mention_count"] for query, topic in topics.items()} == {
        "gardens": 3, "breed 1": 1, "breed 2": 1, "breed 3": 1, "mood 120": 1, "mood 121": 1, "mood 122": 1,
    }  # fmt: skip
    assert {topic["origin"] for query, topic in topics.items() if query != "gardens"} == {"tag"}


async def test_a_topic_is_paged_to_its_end_then_rests_then_asks_for_what_is_newer(
    hunting: Hunting, emulator: Emulator, clock: FixedClock, catalogue: Catalogue, sql: Any
) -> None:
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        cycles = []
        for _ in range(3):
            clock.advance(timedelta(minutes=1))
            cycles.append(await hunter.cycle())
        assert [cycle.found for cycle in cycles] == [50, 50, 20]
        assert [cycle.exhausted for cycle in cycles] == [0, 0, 1]
        topic = await topic_of(sql)
        assert (topic["status"], topic["page_token"]) == ("cooling", None)
        assert topic["cool_until"] == clock.now() + timedelta(days=1)
        assert await sql.fetchval("SELECT count(*) FROM videos") == CATS
        assert (await hunter.cycle()).outcome == "idle"

        clock.advance(timedelta(days=1))
        later = await hunter.cycle()
    assert (later.pages, later.found, later.exhausted) == (1, 0, 1)
    asked = searches(emulator)
    assert ["pageToken" in search for search in asked] == [False, True, True, False]
    assert asked[-1]["publishedAfter"] == "2026-11-02T12:01:00Z"
    assert all("publishedAfter" not in search for search in asked[:-1])


async def test_a_stale_token_is_dropped_and_the_search_begins_anew(
    hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async with hunting("cats", hunter={"tags_per_video": 3}) as hunter:
        await hunter.cycle(1)
        mentions = dict(await sql.fetch("SELECT query, mention_count FROM search_queue"))
        clock.advance(timedelta(hours=12))
        again = await hunter.cycle(1)
    assert "pageToken" not in searches(emulator)[-1]
    assert (again.found, again.new, again.updated, again.tags) == (50, 0, 50, 0)
    topic = await topic_of(sql)
    assert (topic["pages"], topic["results"], topic["searched_at"]) == (1, 50, clock.now())
    assert dict(await sql.fetch("SELECT query, mention_count FROM search_queue")) == mentions


async def test_a_token_is_never_used_with_other_parameters(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async with hunting("cats") as hunter:
        await hunter.cycle(1)
    async with hunting(hunter={"order": "viewCount"}) as hunter:
        await hunter.cycle(1)
        await hunter.cycle(1)
    asked = searches(emulator)
    assert [(search["order"], "pageToken" in search) for search in asked] == [
        ("date", False), ("viewCount", False), ("viewCount", True),
    ]  # fmt: skip
    assert (await topic_of(sql))["pages"] == 2


async def test_a_token_that_youtube_forgot_is_dropped_and_the_topic_stays_active(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        await hunter.cycle()
        emulator.set_faults(["invalid-page-token:1:search.list"])
        refused = await hunter.cycle()
        topic = await topic_of(sql)
        assert (topic["status"], topic["page_token"], topic["results"]) == ("active", None, 0)
        assert (topic["lease_token"], topic["lease_until"]) == (None, None)
        assert "invalidPageToken" in topic["last_error"]
        emulator.set_faults([])
        again = await hunter.cycle()
    assert (refused.pages, refused.skipped) == (0, {"page_token": 1})
    assert (again.found, again.new, again.updated) == (50, 0, 50)
    assert ["pageToken" in search for search in searches(emulator)] == [False, True, False]


async def test_a_search_whose_later_pages_are_always_refused_rests_with_what_it_found(
    hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    async def search(topic: Topic) -> None:
        emulator.set_faults(["invalid-page-token:1:search.list"] if topic.pages == 2 else [])
        if topic.pages == 0:
            begun.append(topic.claimed_at)
        clock.advance(timedelta(minutes=1))

    begun: list[datetime] = []
    async with hunting("cats", hunter={"tags_per_video": 0, "cooling_s": 3600}) as hunter:
        steps = Between(hunter, search=search)
        cycles = [await hunter.cycle(steps=steps) for _ in range(3 * (MOST_RESTARTS + 1))]
        topic = await topic_of(sql)
        assert (await hunter.cycle(steps=steps)).outcome == "idle"
        clock.advance(timedelta(hours=2))
        emulator.set_faults([])
        again = await hunter.cycle()
    assert sum(cycle.pages for cycle in cycles) == 2 * (MOST_RESTARTS + 1)
    assert sum(cycle.skipped.get("page_token", 0) for cycle in cycles) == MOST_RESTARTS + 1
    assert (topic["status"], topic["restarts"], topic["attempts"]) == ("cooling", 0, 0)
    assert "invalidPageToken" in topic["last_error"]
    assert again.pages == 1
    assert (len(begun), (await topic_of(sql))["published_after"]) == (MOST_RESTARTS + 1, begun[-1])


@pytest.mark.parametrize("fault", ["empty-page", "repeat-page"])
async def test_a_search_ends_where_pages_come_empty_or_again(
    hunting: Hunting, emulator: Emulator, sql: Any, fault: str
) -> None:
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        await hunter.cycle()
        emulator.set_faults([f"{fault}:1:search.list"])
        ended = await hunter.cycle()
    assert ended.exhausted == 1
    assert (await topic_of(sql))["status"] == "cooling"
    assert await sql.fetchval("SELECT count(*) FROM videos") == 50


async def test_a_search_ends_at_the_most_results(hunting: Hunting, sql: Any) -> None:
    limits = {"max_results": 40, "results_per_page": 20, "tags_per_video": 0}
    async with hunting("cats", hunter=limits) as hunter:
        assert [(await hunter.cycle()).exhausted for _ in range(2)] == [0, 1]
    topic = await topic_of(sql)
    assert (topic["status"], topic["results"]) == ("cooling", 40)


async def test_a_search_begun_anew_counts_its_results_anew(
    hunting: Hunting, clock: FixedClock, sql: Any
) -> None:
    limits = {"max_results": 60, "results_per_page": 20, "tags_per_video": 0}
    async with hunting("cats", hunter=limits) as hunter:
        for _ in range(2):
            await hunter.cycle()
        clock.advance(timedelta(hours=13))
        assert [(await hunter.cycle()).exhausted for _ in range(3)] == [0, 0, 1]


async def test_a_page_that_was_stored_cannot_be_stored_twice(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats") as hunter:
        batch = await hunter.fetch_batch(1)
        page = await hunter.enrich(await hunter.search(batch.topics[0]))
        await hunter.ingest(page)
        before = await sql.fetch("SELECT * FROM search_queue ORDER BY id")
        with pytest.raises(LeaseLost):
            await hunter.ingest(page)
    assert await sql.fetch("SELECT * FROM search_queue ORDER BY id") == before


async def test_a_closed_ring_makes_no_call_and_no_claim_until_it_reopens(
    hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
) -> None:
    quota = {"limits": {"search": 2, "stats": 0, "general": 10}, "reserve": 0, "shares": ALL_TO_THE_HUNTER}
    async with hunting("cats", quota=quota, hunter={"tags_per_video": 0}) as hunter:
        assert [(await hunter.cycle()).pages for _ in range(2)] == [1, 1]
        calls, before = len(emulator.calls), await topic_of(sql)
        closed = await hunter.cycle()
        assert (closed.outcome, closed.topics, closed.pages, closed.units) == ("closed", 0, 0, {})
        assert closed.reopens_at == datetime(2026, 11, 3, 8, tzinfo=UTC)
        assert "until 2026-11-03 08:00:00 UTC" in str(closed.detail)
        assert (len(emulator.calls), await topic_of(sql)) == (calls, before)
        assert (await verdict(sql))["reopens_at"] == "2026-11-03T08:00:00+00:00"

        clock.instant = closed.reopens_at
        assert (await hunter.cycle()).pages == 1


async def test_no_more_is_claimed_than_the_ring_may_pay_for(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    quota = {"limits": {"search": 100, "stats": 0, "general": 3}, "reserve": 0, "shares": ALL_TO_THE_HUNTER}
    async with hunting(*(f"cats {n}" for n in range(5)), quota=quota) as hunter:
        statistics = await hunter.cycle(5)
    assert (statistics.topics, statistics.outcome) == (3, "done")
    assert await sql.fetchval("SELECT count(*) FROM search_queue WHERE pages_total = 1") == 3


@pytest.mark.parametrize(("fault", "found"), [("empty-page:1", 0), ("500:1:search.list", None)])
async def test_a_search_that_finds_nothing_pays_for_no_enrichment(
    hunting: Hunting, emulator: Emulator, sql: Any, fault: str, found: int | None
) -> None:
    emulator.set_faults([fault])
    async with hunting("cats") as hunter:
        statistics = await hunter.cycle()
        ledger = {line.bucket: line.used + line.reserved for line in await hunter.keys.ledger()}
    assert [statistics.found] * statistics.pages == ([] if found is None else [found])
    assert (ledger["general"], statistics.units.get("general", 0)) == (0, 0)
    assert ledger["search"] == statistics.units["search"] == len(searches(emulator))


async def test_a_unit_that_cannot_be_given_back_stays_counted(
    hunting: Hunting, emulator: Emulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.set_faults(["empty-page:1"])
    async with hunting("cats") as hunter:
        await sql.execute(
            """CREATE TRIGGER stuck BEFORE UPDATE ON quota_ledger FOR EACH ROW
               WHEN (NEW.hunting_reserved < OLD.hunting_reserved AND NEW.bucket = 'general')
               EXECUTE FUNCTION refuse_to_rewrite_events()"""
        )
        statistics = await hunter.cycle()
        ledger = {line.bucket: (line.used, line.reserved) for line in await hunter.keys.ledger()}
    assert (statistics.pages, statistics.skipped, ledger["general"]) == (1, {}, (0, 1))
    assert "a unit that was not spent stays reserved" in caplog.text


async def test_a_spent_day_gives_the_topics_back_and_says_when_it_reopens(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    emulator.set_faults(["403-quota:1:videos.list"])
    async with hunting("cats", "gardens", "breed 1") as hunter:
        statistics = await hunter.cycle()
        calls = len(emulator.calls)
        assert (await hunter.cycle()).outcome == "closed"
        assert len(emulator.calls) == calls
    assert (statistics.outcome, statistics.pages) == ("closed", 0)
    assert statistics.skipped == {"ring_closed": 3}
    assert statistics.reopens_at == datetime(2026, 11, 3, 8, tzinfo=UTC)
    rows = await sql.fetch("SELECT attempts, lease_token, lease_until, page_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None, None, None)}


@pytest.mark.parametrize("kind", ["429-day", "429-minute", "429-retry-after", "429-bare"])
async def test_a_429_releases_every_claim_and_ends_the_process(
    hunting: Hunting, emulator: Emulator, sql: Any, kind: str
) -> None:
    emulator.set_faults([f"{kind}:1"])
    async with hunting("cats", "gardens", "cats two", "cats three") as hunter:
        with pytest.raises(SystemExit) as ended:
            await hunter.cycle()
        calls = len(emulator.calls)
        closed = await hunter.cycle()
        assert len(emulator.calls) == calls
    assert ended.value.code == 75
    assert closed.outcome == "closed"
    rows = await sql.fetch("SELECT status, attempts, lease_token, lease_until FROM search_queue")
    assert {tuple(row) for row in rows} == {("active", 0, None, None)}
    told = [json.loads(row["payload"]) for row in await sql.fetch("SELECT payload FROM events ORDER BY id")]
    assert [(cycle["outcome"], cycle["skipped"]) for cycle in told] == [
        ("rate_limited", {"rate_limited": 4}), ("closed", {}),
    ]  # fmt: skip
    until = await sql.fetchval("SELECT closed_until FROM quota_ledger WHERE bucket = 'search'")
    assert told[0]["reopens_at"] is not None
    assert told[1]["reopens_at"] == until.isoformat()


async def test_a_429_cancels_what_is_under_way(hunting: Hunting, emulator: Emulator, sql: Any) -> None:
    begun = asyncio.Event()
    cancelled: list[str] = []

    async def search(topic: Topic) -> None:
        if topic.query == "gardens":
            await begun.wait()
            emulator.set_faults(["429-day:1:search.list"])

    async def enrich(page: FoundPage) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(page.topic.query)
            raise

    async with hunting("cats", "gardens") as hunter:
        with pytest.raises(SystemExit):
            await hunter.cycle(steps=Between(hunter, search=search, enrich=enrich))
    assert cancelled == ["cats"]
    rows = await sql.fetch("SELECT attempts, lease_token, pages_total FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None, 0)}


async def test_a_429_ends_the_process_even_if_the_database_hangs(
    hunting: Hunting, emulator: Emulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lock = sql.transaction()

    async def search(topic: Topic) -> None:
        await lock.start()
        await sql.execute("LOCK TABLE search_queue")

    emulator.set_faults(["429-day:1"])
    async with hunting("cats", database={"lock_timeout_s": 100, "statement_timeout_s": 100}) as hunter:
        with pytest.raises(SystemExit) as ended:
            await hunter.cycle(steps=Between(hunter, search=search))
        assert ended.value.code == 75
        assert "giving the claims back took longer than" in caplog.text
        await lock.rollback()
    assert (await verdict(sql))["outcome"] == "rate_limited"


async def test_a_network_that_fails_skips_topics_and_counts_but_never_parks_them(
    hunting: Hunting, clock: FixedClock, unused_tcp_port: int, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {"base_url": f"http://127.0.0.1:{unused_tcp_port}"}
    async with hunting("cats", youtube=nowhere, hunter={"max_attempts": 2}) as hunter:
        first = await hunter.cycle()
        topic = await topic_of(sql)
        assert (topic["attempts"], topic["lease_token"], topic["status"]) == (1, None, "active")
        assert topic["lease_until"] is not None
        assert (await hunter.cycle()).outcome == "idle"
        for _ in range(4):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            assert (await hunter.cycle()).skipped == {"network": 1}
    assert (first.outcome, first.skipped, first.units) == ("unavailable", {"network": 1}, {})
    assert (await topic_of(sql))["status"] == "active"
    assert "skipped topic 'cats' (network)" in caplog.text


@pytest.mark.parametrize("fault", ["500", "truncated", "reset", "reset-midway", "html", "empty-body"])
async def test_answers_that_fail_or_are_torn_skip_the_topic_with_its_token_unmoved(
    hunting: Hunting, emulator: Emulator, sql: Any, fault: str
) -> None:
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        await hunter.cycle()
        before = await topic_of(sql)
        emulator.set_faults([f"{fault}:1:videos.list"])
        skipped = await hunter.cycle()
        after = await topic_of(sql)
    assert skipped.skipped == {"network": 1}
    assert skipped.units == {"search": 1, "general": 3}
    assert after["attempts"] == 1
    assert (after["page_token"], after["pages"]) == (before["page_token"], before["pages"])
    assert await sql.fetchval("SELECT count(*) FROM videos") == 50


@pytest.mark.parametrize("fault", ["invalid-parameter", "500"])
async def test_a_poison_topic_is_parked_with_its_reason(
    hunting: Hunting, emulator: Emulator, sql: Any, fault: str
) -> None:
    emulator.set_faults([f"{fault}:1:search.list"])
    async with hunting("cats", hunter={"max_attempts": 3}, quota={"failures_to_open": 100}) as hunter:
        for attempt in (1, 2, 3):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            statistics = await hunter.cycle()
            assert (await topic_of(sql))["attempts"] == attempt
        assert statistics.parked == 1
        assert (await hunter.cycle()).outcome == "idle"
    topic = await topic_of(sql)
    assert topic["status"] == "parked"
    assert "search.list" in topic["last_error"]


async def test_a_topic_that_kills_its_hunters_is_parked_by_the_next(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", hunter={"max_attempts": 2}) as hunter:
        for _ in range(2):
            assert len((await hunter.fetch_batch(1)).topics) == 1
            await sql.execute("UPDATE search_queue SET lease_until = clock_timestamp() - interval '1 s'")
        statistics = await hunter.cycle()
    assert (statistics.topics, statistics.parked) == (0, 1)
    assert (await topic_of(sql))["status"] == "parked"


@pytest.fixture
def blocked_vault(tmp_path: Path) -> Path:
    """A path where the file vault cannot make its folder."""
    path = tmp_path / "occupied"
    path.write_text("a file, not a folder")
    return path


async def test_an_optional_vault_that_refuses_costs_no_page_and_loses_nothing(
    hunting: Hunting, blocked_vault: Path, sql: Any
) -> None:
    groups = {"vault": {"path": str(blocked_vault), "retry_s": 0.001}, "hunter": {"tags_per_video": 0}}
    async with hunting("cats", **groups) as hunter:
        assert (await hunter.cycle()).pages == 1
        assert await hunter.atlas.vault.waiting() == 50
        await asyncio.to_thread(blocked_vault.unlink)
    async with hunting(**groups) as hunter:
        assert (await hunter.cycle()).pages == 1
        assert await hunter.atlas.vault.waiting() == 0
        assert len(await hunter.atlas.vault.list("metadata/")) == 100


async def test_a_required_vault_that_refuses_leaves_the_page_unacknowledged(
    hunting: Hunting, blocked_vault: Path, sql: Any
) -> None:
    vault = {"path": str(blocked_vault), "required": True}
    async with hunting("cats", "gardens", vault=vault, youtube={"concurrency": 1}) as hunter:
        statistics = await hunter.cycle()
    assert statistics.skipped == {"vault": 2}
    assert statistics.units == {"search": 1, "general": 1}
    rows = await sql.fetch("SELECT attempts, lease_token, page_token, pages_total FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None, None, 0)}
    assert await sql.fetchval("SELECT count(*) FROM videos") == 0


async def test_a_page_that_the_database_refuses_is_skipped_with_its_token_unmoved(
    hunting: Hunting, sql: Any
) -> None:
    async with hunting("cats", "gardens", hunter={"tags_per_video": 0}) as hunter:
        await sql.execute("ALTER TABLE videos ADD CONSTRAINT picky CHECK (title NOT LIKE 'cats number 100')")
        statistics = await hunter.cycle()
    assert (statistics.pages, statistics.skipped) == (1, {"database": 1})
    topic = await topic_of(sql)
    assert (topic["attempts"], topic["lease_token"], topic["page_token"]) == (1, None, None)
    assert "picky" in topic["last_error"]
    assert await sql.fetchval("SELECT count(*) FROM videos") == GARDENS


async def test_a_connection_lost_in_mid_page_costs_that_page_only(hunting: Hunting, sql: Any) -> None:
    async def ingest(page: EnrichedPage) -> None:
        if page.found.topic.query == "cats":
            raise DatabaseUnavailable("the server closed the connection")

    async with hunting("cats", "gardens", hunter={"tags_per_video": 0}) as hunter:
        statistics = await hunter.cycle(steps=Between(hunter, ingest=ingest))
        again = await hunter.cycle()
    assert (statistics.pages, statistics.skipped) == (1, {"database": 1})
    assert (again.pages, again.new) == (1, 50)


async def test_a_server_that_restarts_in_mid_cycle_loses_nothing(
    settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock, own_postgres: Any
) -> None:
    url = own_postgres.dsn_of(own_postgres.create_database())
    settings = settings_factory(
        database_url=url, youtube={"base_url": emulator.url}, quota={"pacing": False},
        hunter={"tags_per_video": 0}, youtube_api_key_pool_json=KEYS,
    )  # fmt: skip

    async def enrich(page: FoundPage) -> None:
        if page.topic.query == "cats":
            await asyncio.to_thread(own_postgres.restart, signal.SIGKILL)

    async with Atlas.open(settings, clock=clock) as atlas, Hunter.open(atlas) as hunter:
        await hunter.dao.seed(["cats", "gardens"])
        await hunter.cycle(steps=Between(hunter, enrich=enrich))
        for _ in range(3):
            await hunter.cycle()
        discovered = await hunter.dao.discoveries()
        counts = await hunter.dao.queue_counts()
    assert discovered.videos == CATS + GARDENS
    assert (counts.cooling, counts.leased, counts.parked) == (2, 0, 0)


async def test_a_lost_lease_stores_nothing(hunting: Hunting, sql: Any) -> None:
    async def ingest(page: EnrichedPage) -> None:
        await sql.execute("UPDATE search_queue SET lease_token = gen_random_uuid()")

    async with hunting("cats") as hunter:
        statistics = await hunter.cycle(steps=Between(hunter, ingest=ingest))
    assert statistics.skipped == {"lease_lost": 1}
    assert await sql.fetchval("SELECT count(*) FROM videos") == 0
    assert (await topic_of(sql))["lease_token"] is not None


async def test_a_forgotten_token_of_a_lost_lease_is_left_to_who_holds_it(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async def search(topic: Topic) -> None:
        await sql.execute("UPDATE search_queue SET lease_token = gen_random_uuid()")

    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        await hunter.cycle()
        emulator.set_faults(["invalid-page-token:1:search.list"])
        statistics = await hunter.cycle(steps=Between(hunter, search=search))
    assert statistics.skipped == {"lease_lost": 1}
    assert (await topic_of(sql))["page_token"] is not None


async def test_a_claim_that_cannot_be_given_back_ends_with_its_lease(
    hunting: Hunting, emulator: Emulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def search(topic: Topic) -> None:
        await sql.execute("ALTER TABLE search_queue RENAME TO elsewhere")

    emulator.set_faults(["500:1"])
    async with hunting("cats") as hunter:
        statistics = await hunter.cycle(steps=Between(hunter, search=search))
        await sql.execute("ALTER TABLE elsewhere RENAME TO search_queue")
        assert (await hunter.cycle()).outcome == "idle"
        await sql.execute("UPDATE search_queue SET lease_until = clock_timestamp() - interval '1 s'")
        emulator.set_faults([])
        assert (await hunter.cycle()).pages == 1
    assert (statistics.pages, statistics.skipped) == (0, {"database": 1})
    assert "1 claims were not given back, and end with their lease" in caplog.text


async def test_a_queue_that_cannot_be_read_fails_the_cycle_and_is_told(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats") as hunter:
        await sql.execute("ALTER TABLE search_queue RENAME TO elsewhere")
        with pytest.raises(DatabaseError):
            await hunter.cycle()
    told = await verdict(sql)
    assert told["outcome"] == "failed"
    assert "search_queue" in told["detail"]


async def test_objects_that_cannot_be_retried_are_no_reason_to_fail(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with hunting() as hunter:
        await sql.execute("ALTER TABLE vault_refused RENAME TO elsewhere")
        assert (await hunter.cycle()).outcome == "idle"
    assert "the vault's waiting objects go on waiting" in caplog.text


async def test_an_answer_that_no_vault_could_keep_does_not_hold_up_its_page(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with hunting("cats", vault={"required": True}) as hunter:
        batch = await hunter.fetch_batch(1)
        page = await hunter.enrich(await hunter.search(batch.topics[0]))
        odd = replace(page.videos[0], id="no.such.id")
        await hunter.ingest(replace(page, videos=(odd, *page.videos[1:])))
        assert len(await hunter.atlas.vault.list("metadata/")) == 49
    assert await sql.fetchval("SELECT count(*) FROM videos") == 50
    assert "'no.such.id' is no video id" in caplog.text


async def test_what_a_slow_batch_did_not_begin_is_given_back(hunting: Hunting, sql: Any) -> None:
    async def enrich(page: FoundPage) -> None:
        await asyncio.sleep(0.6)

    async with hunting("cats", "gardens", youtube={"concurrency": 1}, hunter={"lease_s": 1}) as hunter:
        statistics = await hunter.cycle(steps=Between(hunter, enrich=enrich))
    assert (statistics.pages, statistics.skipped) == (1, {"late": 1})
    left = await topic_of(sql, "gardens")
    assert (left["attempts"], left["lease_token"], left["pages_total"]) == (0, None, 0)


async def test_a_ring_whose_keys_are_all_refused_is_a_clear_error(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    emulator.set_faults(["not-configured:1"])
    async with hunting("cats", "gardens") as hunter:
        with pytest.raises(KeyRejected, match="Enable it in the Google Cloud console"):
            await hunter.cycle()
        calls = len(emulator.calls)
        closed = await hunter.cycle()
        assert len(emulator.calls) == calls
    assert (closed.outcome, closed.reopens_at) == ("keys_rejected", None)
    assert "until you act" in str(closed.detail)
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}


async def test_a_ring_without_keys_is_a_clear_error(hunting: Hunting) -> None:
    with pytest.raises(EmptyKeyRing, match="YOUTUBE_API_KEY_POOL_JSON"):
        async with hunting(youtube_api_key_pool_json=None):
            pass


async def test_an_unusable_tag_pattern_is_told_before_anything_is_claimed(hunting: Hunting) -> None:
    with pytest.raises(ConfigError, match="tag_deny"):
        async with hunting("cats", hunter={"tag_deny": ["("]}):
            pass


async def test_cancelling_gives_every_claim_back(hunting: Hunting, emulator: Emulator, sql: Any) -> None:
    emulator.set_faults(["latency-60s:1:videos.list"])
    searched = asyncio.Event()

    async def enrich(page: FoundPage) -> None:
        searched.set()

    async with hunting("cats", "gardens", youtube={"timeout_s": 100, "total_timeout_s": 200}) as hunter:
        cycle = asyncio.create_task(hunter.cycle(steps=Between(hunter, enrich=enrich)))
        await searched.wait()
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    told = await verdict(sql)
    assert (told["outcome"], told["skipped"]) == ("interrupted", {"interrupted": 2})


async def waits_for_a_lock(sql: Any) -> None:
    """Return once somebody waits for a lock in this database."""
    mine = "SELECT oid FROM pg_database WHERE datname = current_database()"
    while not await sql.fetchval(f"SELECT count(*) FROM pg_locks WHERE NOT granted AND database = ({mine})"):
        await asyncio.sleep(0.01)


async def test_cancelling_a_claim_under_way_gives_it_back(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", "gardens") as hunter:
        block = sql.transaction()
        await block.start()
        await sql.execute("LOCK TABLE search_queue")
        cycle = asyncio.create_task(hunter.cycle())
        await waits_for_a_lock(sql)
        cycle.cancel()
        await asyncio.sleep(0)
        await block.rollback()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    told = await verdict(sql)
    assert (told["topics"], told["skipped"]) == (2, {"interrupted": 2})


async def test_a_claim_that_takes_too_long_is_not_waited_for(
    hunting: Hunting, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maia.cycles.RELEASE_GRACE_S", 0.2)
    async with hunting("cats") as hunter, sql.transaction():
        await sql.execute("LOCK TABLE search_queue")
        cycle = asyncio.create_task(hunter.cycle())
        await waits_for_a_lock(sql)
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    assert (await topic_of(sql))["lease_token"] is None
    assert (await verdict(sql))["outcome"] == "interrupted"


PROGRAM = """
import asyncio
from atlas.config import Settings
from maia.hunter import run_direct
asyncio.run(run_direct(Settings()))
"""


@pytest.mark.parametrize(("signalled", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
async def test_a_process_that_is_told_to_stop_gives_its_claims_back(
    hunting: Hunting,
    emulator: Emulator,
    environment: dict[str, str],
    sql: Any,
    tmp_path: Path,
    signalled: signal.Signals,
    status: int,
) -> None:
    async with hunting("cats", "gardens"):
        pass
    emulator.set_faults(["latency-60s:1"])
    settings = {
        "PLEIADES_YOUTUBE__BASE_URL": emulator.url, "PLEIADES_YOUTUBE__TIMEOUT_S": "100",
        "PLEIADES_YOUTUBE__TOTAL_TIMEOUT_S": "100", "PLEIADES_QUOTA__PACING": "false",
        "YOUTUBE_API_KEY_POOL_JSON": KEYS, "PYTHONPATH": str(Path.cwd()),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env=environment | settings,
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        while not await sql.fetchval("SELECT count(*) FROM quota_ledger WHERE reserved > 0"):
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(signalled)
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == status, errors.decode()
    rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {(0, None)}
    assert (await verdict(sql))["outcome"] == "interrupted"


async def test_an_event_that_cannot_be_written_is_a_warning(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with hunting("cats") as hunter:
        await sql.execute("ALTER TABLE events RENAME TO elsewhere")
        assert (await hunter.cycle()).pages == 1
    assert "the cycle's event is not written" in caplog.text


async def test_several_cycles_stop_where_nothing_is_left(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[Progress] = []
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        total = await run(hunter.atlas, batch_size=2, cycles=10, on_progress=seen.append)
    assert (total["cycles"], total["outcome"], total["pages"], total["found"]) == (4, "idle", 3, CATS)
    assert total["units"] == {"search": 3, "general": 3}
    assert [(step.cycle, step.query, step.page and step.page.found) for step in seen] == [
        (1, "cats", 50), (2, "cats", 50), (3, "cats", 20),
    ]  # fmt: skip
    sessions = await sql.fetchval("SELECT count(DISTINCT session) FROM events WHERE kind = 'hunter.cycle'")
    assert sessions == 1


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"cycles": 0}])
async def test_no_cycle_and_no_batch_is_refused(hunting: Hunting, wrong: dict[str, Any]) -> None:
    async with hunting() as hunter:
        with pytest.raises(ConfigError, match="at least 1"):
            await run(hunter.atlas, **wrong)


def reachable(catalogue: Catalogue, rules: TagRules, *seeds: str) -> set[str]:
    """Every video that searching the seeds, then the tags of what is found, can lead to."""
    topics, asked, found = set(seeds), set[str](), set[str]()
    while topics - asked:
        topic = (topics - asked).pop()
        asked.add(topic)
        for id_ in catalogue.search_ids(topic, NOON):
            number = catalogue.number(id_)
            assert number is not None
            topics.update(rules.topics(catalogue.video(number).tags))
            found.add(id_)
    return found


async def test_the_snowball_reaches_all_that_its_seeds_can_lead_to_each_once(
    catalogue: Catalogue, clock: FixedClock, hunting: Hunting, sql: Any
) -> None:
    plenty = {"search": 10_000, "stats": 10_000, "general": 10_000}
    async with Emulator.serve(catalogue, clock=clock, projects=[Project("demo", **plenty)]) as generous:
        groups = {"youtube": {"base_url": generous.url}, "quota": {"limits": plenty}}
        async with hunting("gardens", "no such thing", hunter={"tags_per_video": 100}, **groups) as hunter:
            expected = reachable(catalogue, hunter.rules, "gardens", "no such thing")
            total = await run(hunter.atlas, batch_size=20, cycles=1000)
            used = generous.used("demo", "search")
            ledger = {line.bucket: line for line in await hunter.keys.ledger()}
    assert len(expected) > CATS
    assert {row["id"] for row in await sql.fetch("SELECT id FROM videos")} == expected
    assert (total["outcome"], total["new"], total["skipped"]) == ("idle", len(expected), {})
    assert (ledger["search"].used, ledger["search"].reserved, total["units"]["search"]) == (used, 0, used)
    mentions = dict(await sql.fetch("SELECT query, mention_count FROM search_queue WHERE origin = 'tag'"))
    tags = await sql.fetch("SELECT tags FROM videos")
    assert mentions == Counter(
        topic for row in tags for topic in hunter.rules.topics(row["tags"]) if topic != "gardens"
    )


async def test_two_hunters_never_hunt_the_same_page(hunting: Hunting, emulator: Emulator, sql: Any) -> None:
    async with hunting("cats", "gardens", "breed 1", "breed 2") as one, hunting() as other:
        both = await asyncio.gather(*(hunter.cycle(2) for hunter in (one, other)))
    assert sum(cycle.topics for cycle in both) == 4
    assert sum(cycle.new for cycle in both) == await sql.fetchval("SELECT count(*) FROM videos")
    asked = [search["q"] for search in searches(emulator)]
    assert len(asked) == len(set(asked)) == 4


async def test_a_direct_run_opens_and_closes_all_it_needs(
    settings_factory: SettingsFactory, emulator: Emulator
) -> None:
    settings = settings_factory(
        youtube={"base_url": emulator.url}, quota={"pacing": False}, youtube_api_key_pool_json=KEYS
    )
    assert (await run_direct(settings))["outcome"] == "idle"

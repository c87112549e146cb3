"""The hunter against a real database and the emulator over real sockets: its cycle, and what fails in it.

Here it asks in the original order, one topic after the other; `test_portfolio` has the plan and its forms.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.adapters.patterns import Model, PatternsDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.errors import ConfigError, DatabaseError, DatabaseUnavailable, EmptyKeyRing, LeaseLost
from atlas.queries import SearchParameters
from atlas.testing import NOON, SettingsFactory
from maia.cycle.agent import run, run_directly
from maia.cycle.expectations import SUCCESS_MODEL
from maia.discovery.search import MOST_RESTARTS
from maia.emulator import Emulator, Project
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.hunter.cycle import (
    AskProgress,
    Hunter,
    HunterStatistics,
)
from maia.hunter.tags import TagRules
from maia.learning.success import Outcome, SuccessPredictor, known_before
from maia.youtube.errors import KeyRejected
from tests.interference import Interferer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

CATS, GARDENS = 120, 3
KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
ALL_TO_THE_HUNTER = {
    "hunting": {"search": 1, "general": 1},
    "tracking": {"general": 0},
    "archeology": {"search": 0, "general": 0},
}
ORIGINAL = {"strategy": "specification", "order": "date"}
Hunting = Callable[..., AbstractAsyncContextManager[Hunter]]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """120 videos of cats, an hour apart, and 3 of gardens; three of their tags differ from video to video."""
    path = tmp_path_factory.mktemp("catalogue") / "cats.sqlite"
    first = int((NOON - timedelta(hours=CATS + GARDENS)).timestamp())
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels(CatalogueChannel(f"UC{n:022d}", f"Channel {n}") for n in range(5))
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


@pytest.fixture
def hunting(settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock) -> Hunting:
    @asynccontextmanager
    async def open_hunter(*seeds: str, **groups: Any) -> AsyncIterator[Hunter]:
        youtube = {"base_url": emulator.url} | groups.pop("youtube", {})
        quota = {"pacing": False} | groups.pop("quota", {})
        groups["hunter"] = ORIGINAL | groups.get("hunter", {})
        defaults: dict[str, Any] = {"youtube_api_key_pool_json": KEYS}
        settings = settings_factory(**(defaults | groups), youtube=youtube, quota=quota)
        async with Atlas.open(settings, clock=clock) as atlas, Hunter.open(atlas) as hunter:
            if seeds:
                await hunter.dao.seed(seeds)
            yield hunter

    return open_hunter


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
        HunterStatistics(cycles=1, asks=1, topics=1, pages=1, found=50, new=50, tags=7 + 4 + 50, early=21),
        arms={
            "search:specification": {
                "asks": 1,
                "units": 1,
                "enrichments": 1,
                "found": 50,
                "new": 50,
                "early": 21,
            }
        },
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
    begun: list[datetime] = []

    async def search(_: str) -> None:
        topic = await topic_of(sql)
        emulator.set_faults(["invalid-page-token:1:search.list"] if topic["pages"] == 2 else [])
        if topic["pages"] == 0:
            begun.append(clock.now())
        clock.advance(timedelta(minutes=1))

    async with hunting("cats", hunter={"tags_per_video": 0, "cooling_s": 3600}) as hunter:
        steps = Interferer(hunter, search=search)
        cycles = [await steps.cycle() for _ in range(3 * (MOST_RESTARTS + 1))]
        topic = await topic_of(sql)
        assert (await steps.cycle()).outcome == "idle"
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


async def test_a_search_ends_at_the_most_results(
    hunting: Hunting, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maia.discovery.search.MOST_RESULTS", 40)
    limits = {"results_per_page": 20, "tags_per_video": 0}
    async with hunting("cats", hunter=limits) as hunter:
        assert [(await hunter.cycle()).exhausted for _ in range(2)] == [0, 1]
    topic = await topic_of(sql)
    assert (topic["status"], topic["results"]) == ("cooling", 40)


async def test_a_search_begun_anew_counts_its_results_anew(
    hunting: Hunting, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maia.discovery.search.MOST_RESULTS", 60)
    limits = {"results_per_page": 20, "tags_per_video": 0}
    async with hunting("cats", hunter=limits) as hunter:
        for _ in range(2):
            await hunter.cycle()
        clock.advance(timedelta(hours=13))
        assert [(await hunter.cycle()).exhausted for _ in range(3)] == [0, 0, 1]


async def test_a_page_that_was_stored_cannot_be_stored_twice(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats") as hunter:
        batch = await hunter.fetch_batch(1)
        (page,) = await hunter.enrich([await hunter.put(batch.asks[0])])
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
    assert "an unspent unit stays reserved" in caplog.text


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
    told = [
        json.loads(row["payload"])
        for row in await sql.fetch("SELECT payload FROM events WHERE kind = 'hunter.cycle' ORDER BY id")
    ]
    assert [(cycle["outcome"], cycle["skipped"]) for cycle in told] == [
        ("rate_limited", {"rate_limited": 4}), ("closed", {}),
    ]  # fmt: skip
    until = await sql.fetchval("SELECT closed_until FROM quota_ledger WHERE bucket = 'search'")
    assert told[0]["reopens_at"] is not None
    assert told[1]["reopens_at"] == until.isoformat()


async def test_a_429_cancels_what_is_under_way(hunting: Hunting, emulator: Emulator, sql: Any) -> None:
    begun = asyncio.Event()
    cancelled: list[str] = []

    async def search(query: str) -> None:
        if query == "gardens":
            await begun.wait()
            emulator.set_faults(["429-day:1:search.list"])

    async def enrich(query: str) -> None:
        if query == "cats":
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(query)
                raise

    # The first page goes alone.
    async with hunting("no such thing", "cats", "gardens") as hunter:
        with pytest.raises(SystemExit):
            await Interferer(hunter, search=search, enrich=enrich).cycle()
    assert cancelled == ["cats"]
    rows = await sql.fetch(
        "SELECT attempts, lease_token, pages_total FROM search_queue WHERE query <> $1", "no such thing"
    )
    assert {tuple(row) for row in rows} == {(0, None, 0)}


async def test_a_429_ends_the_process_even_if_the_database_hangs(
    hunting: Hunting, emulator: Emulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lock = sql.transaction()

    async def search(_: str) -> None:
        await lock.start()
        await sql.execute("LOCK TABLE search_queue")

    emulator.set_faults(["429-day:1"])
    async with hunting("cats", database={"lock_timeout_s": 100, "statement_timeout_s": 100}) as hunter:
        with pytest.raises(SystemExit) as ended:
            await Interferer(hunter, search=search).cycle()
        assert ended.value.code == 75
        assert "releasing the claims took longer than" in caplog.text
        await lock.rollback()
    assert (await verdict(sql))["outcome"] == "rate_limited"


async def test_a_network_that_fails_skips_topics_and_counts_but_never_parks_them(
    hunting: Hunting, clock: FixedClock, unused_tcp_port: int, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {"base_url": f"http://127.0.0.1:{unused_tcp_port}"}
    async with hunting("cats", youtube=nowhere, hunter={"max_attempts": 2}) as hunter:
        first = await hunter.cycle()
        topic = await topic_of(sql)
        assert (topic["attempts"], topic["lease_token"], topic["status"]) == (0, None, "active")
        assert topic["lease_until"] is not None
        assert (await hunter.cycle()).outcome == "idle"
        for _ in range(4):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            assert (await hunter.cycle()).skipped == {"network": 1}
    assert (first.outcome, first.skipped, first.units) == ("unavailable", {"network": 1}, {})
    assert await sql.fetchval("SELECT coalesce(sum(used + reserved), 0)::integer FROM quota_ledger") == 0
    assert first.detail == "YouTube could not be reached"
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
    # Nothing fared well in that cycle, so nothing says that the topic is at fault.
    assert (after["attempts"], after["lease_token"]) == (0, None)
    assert after["lease_until"] is not None
    assert (after["page_token"], after["pages"]) == (before["page_token"], before["pages"])
    assert await sql.fetchval("SELECT count(*) FROM videos") == 50


REFUSALS = {
    "unavailable": (
        "500", "503", "reset", "reset-midway", "truncated", "empty-body", "html", "403-delegation",
        "invalid-query",
    ),
    "misconfigured": ("invalid-parameter", "invalid-region"),
    "closed": ("403-quota", "403-daily", "403-user-rate"),
}  # fmt: skip


@pytest.mark.parametrize("outcome", REFUSALS)
async def test_refused_searches_leave_the_queue_as_it_was(
    hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any, outcome: str
) -> None:
    patient: dict[str, Any] = {"hunter": {"retry_after_s": 0}, "quota": {"failures_to_open": 1000}}
    async with hunting("cats", "gardens", "breed 1", **patient) as hunter:
        for kind in REFUSALS[outcome]:
            emulator.set_faults([f"{kind}:1:search.list"])
            refused = await hunter.cycle()
            assert (refused.outcome, refused.pages) == (outcome, 0), kind
            rows = await sql.fetch("SELECT page_token, pages_total, lease_token FROM search_queue")
            assert {tuple(row) for row in rows} == {(None, 0, None)}, kind
            clock.advance(timedelta(days=1))
        emulator.set_faults([])
        mended = await hunter.cycle()
    assert (mended.outcome, mended.pages) == ("done", 3)


async def test_a_topic_whose_own_words_are_refused_is_parked_with_the_reason(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    emulator.set_faults(["invalid-query:1:search.list"])
    async with hunting("cats", hunter={"max_attempts": 3}) as hunter:
        for attempt in (1, 2, 3):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            statistics = await hunter.cycle()
            assert (await topic_of(sql))["attempts"] == attempt
        assert statistics.parked == 1
        assert (await hunter.cycle()).outcome == "idle"
    topic = await topic_of(sql)
    assert topic["status"] == "parked"
    assert "search.list" in topic["last_error"]


async def test_a_topic_that_alone_fails_is_charged_and_parked(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async def search(query: str) -> None:
        emulator.set_faults(["500:1:search.list"] if query == "cats" else [])

    quota = {"failures_to_open": 100}
    async with hunting("cats", hunter={"max_attempts": 2}, quota=quota) as hunter:
        for attempt in (1, 2):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            await hunter.dao.seed([f"gardens number {attempt}"])
            statistics = await Interferer(hunter, search=search).cycle()
            assert (await topic_of(sql))["attempts"] == attempt
    assert (statistics.pages > 0, statistics.parked) == (True, 1)


async def test_topics_that_are_refused_alike_are_not_charged(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    emulator.set_faults(["500:1:videos.list"])
    quota = {"failures_to_open": 100}
    async with hunting("cats", "gardens", "breed 1", hunter={"max_attempts": 2}, quota=quota) as hunter:
        for _ in range(3):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            statistics = await hunter.cycle()
    assert (statistics.outcome, statistics.skipped) == ("unavailable", {"network": 3})
    rows = await sql.fetch("SELECT status, attempts, lease_token FROM search_queue")
    assert {tuple(row) for row in rows} == {("active", 0, None)}


async def test_topics_that_fail_alike_beside_others_that_fare_well_are_parked_at_last(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async def search(query: str) -> None:
        emulator.set_faults(["500:1:search.list"] if query.startswith("poison") else [])

    options: dict[str, Any] = {"quota": {"failures_to_open": 1000}, "youtube": {"concurrency": 1}}
    async with hunting("poison one", "poison two", hunter={"max_attempts": 3}, **options) as hunter:
        for attempt in range(20):
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            await hunter.dao.seed([f"gardens number {attempt}"])
            await Interferer(hunter, search=search).cycle()
    rows = await sql.fetch("SELECT query, status, attempts FROM search_queue WHERE query LIKE 'poison%'")
    assert {row["status"] for row in rows} == {"parked"}


async def test_a_setting_that_youtube_refuses_stops_at_once_and_charges_nobody(
    hunting: Hunting, emulator: Emulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.set_faults(["invalid-parameter:1:search.list"])
    async with hunting("cats", "gardens", "breed 1") as hunter:
        statistics = await hunter.cycle()
    assert (statistics.outcome, statistics.skipped) == ("misconfigured", {"misconfigured": 3})
    assert statistics.units == {"search": 1}
    assert "PLEIADES_HUNTER__ORDER" in (statistics.detail or "")
    rows = await sql.fetch("SELECT status, attempts, lease_token, lease_until FROM search_queue")
    assert {tuple(row) for row in rows} == {("active", 0, None, None)}
    assert (await verdict(sql))["outcome"] == "misconfigured"
    assert "hunter is misconfigured" in caplog.text


async def test_what_narrows_a_topic_is_sent_with_every_page(
    hunting: Hunting, emulator: Emulator, clock: FixedClock
) -> None:
    begins, ends = NOON - timedelta(days=4), NOON - timedelta(hours=1)
    narrow = SearchParameters(
        published_after=begins, published_before=ends, region="JP", language="ja", duration="short",
        category=15, event_type="completed",
    )  # fmt: skip
    defaults = {"region_code": "GB", "relevance_language": "en", "results_per_page": 5, "tags_per_video": 0}
    async with hunting(hunter=defaults) as hunter:
        await hunter.dao.seed(["cats"], narrow)
        await hunter.dao.seed(["gardens"])
        await hunter.cycle()
    sent = {search["q"]: search for search in searches(emulator)}
    expected = {
        "publishedAfter": "2026-10-29T12:00:00Z", "publishedBefore": "2026-11-02T11:00:00Z",
        "regionCode": "JP", "relevanceLanguage": "ja", "videoDuration": "short", "videoCategoryId": "15",
        "eventType": "completed",
    }  # fmt: skip
    assert {name: sent["cats"].get(name) for name in expected} == expected
    others = ("publishedAfter", "publishedBefore", "videoDuration", "videoCategoryId", "eventType")
    assert [sent["gardens"].get(name) for name in others] == [None] * 5
    assert (sent["gardens"]["regionCode"], sent["gardens"]["relevanceLanguage"]) == ("GB", "en")


async def test_a_narrowed_topic_goes_on_where_it_was_and_later_asks_for_what_is_new(
    hunting: Hunting, emulator: Emulator, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    begins = NOON - timedelta(hours=CATS + GARDENS + 1)
    rules = {"results_per_page": 50, "tags_per_video": 0, "cooling_s": 60, "region_code": "GB"}
    async with hunting(hunter=rules) as hunter:
        await hunter.dao.seed(["cats"], SearchParameters(published_after=begins, region="JP"))
        for _ in range(3):
            await hunter.cycle()
        clock.advance(timedelta(hours=1))
        await hunter.cycle()
    sent = searches(emulator)
    assert ["pageToken" in search for search in sent] == [False, True, True, False]
    assert [search["publishedAfter"] for search in sent] == ["2026-10-28T08:00:00Z"] * 3 + [
        "2026-11-02T12:00:00Z"
    ]
    assert "PLEIADES_HUNTER__REGION_CODE" not in caplog.text


async def test_a_region_that_youtube_refuses_is_the_topics_where_the_topic_supplied_it(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async def search(query: str) -> None:
        emulator.set_faults(["invalid-region:1:search.list"] if query == "cats" else [])

    async with hunting("gardens", hunter={"max_attempts": 1}) as hunter:
        await hunter.dao.seed(["cats"], SearchParameters(region="JP"))
        statistics = await Interferer(hunter, search=search).cycle()
    assert (statistics.outcome, statistics.pages, statistics.parked) == ("done", 1, 1)
    topic = await topic_of(sql)
    assert topic["status"] == "parked"
    assert "invalidRegionCode" in topic["last_error"]


async def test_a_topic_that_kills_its_hunters_is_parked_by_the_next(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", hunter={"max_attempts": 2}) as hunter:
        for _ in range(2):
            assert len((await hunter.fetch_batch(1)).asks) == 1
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
    assert (statistics.outcome, statistics.skipped) == ("vault_failed", {"vault": 2})
    assert statistics.units == {}
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
    async def ingest(query: str) -> None:
        if query == "cats":
            raise DatabaseUnavailable("the server closed the connection")

    async with hunting("cats", "gardens", hunter={"tags_per_video": 0}) as hunter:
        statistics = await Interferer(hunter, ingest=ingest).cycle()
        again = await hunter.cycle()
    assert (statistics.pages, statistics.skipped) == (1, {"database": 1})
    assert (again.pages, again.new) == (1, 50)


async def test_a_server_that_restarts_in_mid_cycle_loses_nothing(
    settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock, own_postgres: Any
) -> None:
    url = own_postgres.dsn_of(own_postgres.create_database())
    settings = settings_factory(
        database_url=url, youtube={"base_url": emulator.url}, quota={"pacing": False},
        hunter=ORIGINAL | {"tags_per_video": 0}, youtube_api_key_pool_json=KEYS,
    )  # fmt: skip

    async def enrich(query: str) -> None:
        if query == "cats":
            await asyncio.to_thread(own_postgres.restart, signal.SIGKILL)

    async with Atlas.open(settings, clock=clock) as atlas, Hunter.open(atlas) as hunter:
        await hunter.dao.seed(["cats", "gardens"])
        await Interferer(hunter, enrich=enrich).cycle()
        for _ in range(3):
            await hunter.cycle()
        discovered = await hunter.dao.discoveries()
        counts = await hunter.dao.queue_counts()
    assert discovered.videos == CATS + GARDENS
    assert (counts.cooling, counts.leased, counts.parked) == (2, 0, 0)


async def test_a_lost_lease_stores_nothing(hunting: Hunting, sql: Any) -> None:
    async def ingest(_: str) -> None:
        await sql.execute("UPDATE search_queue SET lease_token = gen_random_uuid()")

    async with hunting("cats") as hunter:
        statistics = await Interferer(hunter, ingest=ingest).cycle()
    assert statistics.skipped == {"lease_lost": 1}
    assert await sql.fetchval("SELECT count(*) FROM videos") == 0
    assert (await topic_of(sql))["lease_token"] is not None


async def test_a_forgotten_token_of_a_lost_lease_is_left_to_who_holds_it(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async def search(_: str) -> None:
        await sql.execute("UPDATE search_queue SET lease_token = gen_random_uuid()")

    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        await hunter.cycle()
        emulator.set_faults(["invalid-page-token:1:search.list"])
        statistics = await Interferer(hunter, search=search).cycle()
    assert statistics.skipped == {"lease_lost": 1}
    assert (await topic_of(sql))["page_token"] is not None


async def test_a_claim_that_cannot_be_given_back_ends_with_its_lease(
    hunting: Hunting, emulator: Emulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def search(_: str) -> None:
        await sql.execute("ALTER TABLE search_queue RENAME TO elsewhere")

    emulator.set_faults(["500:1"])
    async with hunting("cats") as hunter:
        statistics = await Interferer(hunter, search=search).cycle()
        await sql.execute("ALTER TABLE elsewhere RENAME TO search_queue")
        assert (await hunter.cycle()).outcome == "idle"
        await sql.execute("UPDATE search_queue SET lease_until = clock_timestamp() - interval '1 s'")
        emulator.set_faults([])
        assert (await hunter.cycle()).pages == 1
    assert (statistics.pages, statistics.skipped) == (0, {"network": 1})
    assert "1 claim could not be released, and ends when its lease expires" in caplog.text


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
    assert "the vault's pending objects are not written yet" in caplog.text


async def test_an_answer_that_no_vault_could_keep_does_not_hold_up_its_page(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with hunting("cats", vault={"required": True}) as hunter:
        batch = await hunter.fetch_batch(1)
        (page,) = await hunter.enrich([await hunter.put(batch.asks[0])])
        odd = replace(page.videos[0], id="no.such.id")
        await hunter.ingest(replace(page, videos=(odd, *page.videos[1:])))
        assert len(await hunter.atlas.vault.list("metadata/")) == 49
    assert await sql.fetchval("SELECT count(*) FROM videos") == 50
    assert "'no.such.id' is not a video id" in caplog.text


async def test_what_a_slow_batch_did_not_begin_is_given_back(hunting: Hunting, sql: Any) -> None:
    async def enrich(_: str) -> None:
        await asyncio.sleep(0.6)

    async with hunting("cats", "gardens", youtube={"concurrency": 1}, hunter={"lease_s": 1}) as hunter:
        statistics = await Interferer(hunter, enrich=enrich).cycle()
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

    async def enrich(_: str) -> None:
        searched.set()

    async with hunting("cats", "gardens", youtube={"timeout_s": 100, "total_timeout_s": 200}) as hunter:
        cycle = asyncio.create_task(Interferer(hunter, enrich=enrich).cycle())
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
    monkeypatch.setattr("maia.cycle.cycle.GRACE_S", 0.2)
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
from maia.cycle.agent import run_directly
from maia.hunter.cycle import Hunter
asyncio.run(run_directly(Hunter, Settings()))
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
        "PLEIADES_HUNTER__STRATEGY": "specification",
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


# What is recorded of each ask


async def steps(sql: Any) -> list[dict[str, Any]]:
    rows = await sql.fetch("SELECT payload FROM events WHERE kind = 'hunter.step' ORDER BY id")
    return [json.loads(row["payload"]) for row in rows]


async def test_each_ask_is_recorded_with_what_it_cost_and_brought(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", "gardens", hunter={"tags_per_video": 0}) as hunter:
        first = await hunter.cycle()
        again = await hunter.cycle()
    cats, gardens, cats_again = await steps(sql)
    context = {
        "goal": "find", "source": "search", "arm": "search:specification", "bucket": "search", "topics": 1,
        "page": "first",
        "origin": "seed",
    }  # fmt: skip
    assert cats == {
        "action": "search:specification", "at": "2026-11-02T12:00:00+00:00", "outcome": "success",
        "reward": 21, "cost": 2.0, "seconds": cats["seconds"], "context": context,
        "results": {"found": 50, "new": 50},
    }  # fmt: skip
    assert 0 < cats["seconds"] <= first.seconds
    assert (gardens["context"], gardens["results"]) == (context, {"found": GARDENS, "new": GARDENS})
    assert cats["reward"] + gardens["reward"] == first.early
    assert cats["cost"] + gardens["cost"] == sum(first.units.values())
    assert cats_again["context"]["page"] == "next"
    assert cats_again["cost"] == sum(again.units.values())
    kinds = await sql.fetch("SELECT kind, agent, session FROM events ORDER BY id")
    assert [tuple(row) for row in kinds] == [
        (f"hunter.{kind}", "hunter", hunter.session)
        for kind in ("step", "step", "offer", "cycle", "step", "offer", "cycle")
    ]


async def test_the_new_videos_of_a_cycle_are_what_was_on_offer(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        for _ in range(2):
            await hunter.cycle()
        await sql.execute(
            "UPDATE search_queue SET page_token = NULL, page_issued_at = NULL, page_params = NULL"
        )
        stored_before = await sql.fetchval("SELECT count(*) FROM videos")
        await hunter.cycle()
        assert await sql.fetchval("SELECT count(*) FROM videos") == stored_before
    offers = [
        json.loads(row["payload"])
        for row in await sql.fetch("SELECT payload FROM events WHERE kind = 'hunter.offer' ORDER BY id")
    ]
    of_channels: Counter[str] = Counter()
    for offer in offers:
        assert offer["by_category"] == {"15": offer["total"]}
        of_channels.update(offer["by_channel"])
    stored = await sql.fetch("SELECT channel_id, count(*) FROM videos GROUP BY 1")
    assert of_channels == {row["channel_id"]: row["count"] for row in stored}
    assert [offer["total"] for offer in offers] == [50, 50]


@pytest.mark.parametrize(
    ("fault", "outcome", "cost", "error"),
    [
        ("503:1:search.list", "network", 1.0, "search.list: HTTP 503 backendError"),
        ("invalid-query:1:search.list", "bad_request", 1.0, "search.list: HTTP 400 invalidParameter"),
        ("503:1:videos.list", "network", 1.0, "videos.list: HTTP 503 backendError"),
        (
            "403-quota:1:search.list",
            "ring_closed",
            0.0,
            "search.list: the day's quota is spent until 2026-11-03 08:00",
        ),
        ("429-day:1:search.list", "rate_limited", 1.0, "search.list: HTTP 429 rateLimitExceeded"),
        ("key-invalid:1:search.list", "keys_rejected", 1.0, "search.list: no key is left"),
    ],
)
async def test_an_ask_that_fails_is_recorded_with_its_reason_and_error(
    hunting: Hunting, emulator: Emulator, sql: Any, fault: str, outcome: str, cost: float, error: str
) -> None:
    emulator.set_faults([fault])
    async with hunting("cats") as hunter:
        with suppress(SystemExit, KeyRejected):
            await hunter.cycle()
    (step,) = await steps(sql)
    assert (step["outcome"], step["reward"], step["cost"]) == (outcome, 0, cost)
    assert step["error"].startswith(error)
    assert len(step["error"]) <= 300
    assert "results" not in step


async def test_an_answer_that_cannot_be_stored_was_paid_for(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", "gardens", hunter={"tags_per_video": 0}) as hunter:
        await sql.execute("ALTER TABLE videos ADD CONSTRAINT picky CHECK (title NOT LIKE 'cats number 100')")
        statistics = await hunter.cycle()
    refused, stored = await steps(sql)
    assert (refused["outcome"], stored["outcome"]) == ("database", "success")
    assert "picky" in refused["error"]
    assert refused["cost"] + stored["cost"] == sum(statistics.units.values())


async def test_asks_that_are_cut_off_are_recorded_as_interrupted_and_those_not_begun_are_not(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    emulator.set_faults(["latency-60s:1:videos.list"])
    searched = asyncio.Event()

    async def enrich(_: str) -> None:
        searched.set()

    async with hunting("cats", "gardens", youtube={"timeout_s": 100, "total_timeout_s": 200}) as hunter:
        cycle = asyncio.create_task(Interferer(hunter, enrich=enrich).cycle())
        await searched.wait()
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    (step,) = await steps(sql)
    assert (step["outcome"], step["cost"], "error" in step) == ("interrupted", 1.0, False)
    assert (await verdict(sql))["outcome"] == "interrupted"


async def test_what_a_429_cuts_off_did_not_fail_by_itself(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    begun = asyncio.Event()

    async def search(query: str) -> None:
        if query == "gardens":
            await begun.wait()
            emulator.set_faults(["429-day:1:search.list"])

    async def enrich(query: str) -> None:
        if query == "cats":
            begun.set()
            await asyncio.Event().wait()

    async with hunting("no such thing", "cats", "gardens") as hunter:
        with pytest.raises(SystemExit):
            await Interferer(hunter, search=search, enrich=enrich).cycle()
    assert [step["outcome"] for step in await steps(sql)] == ["success", "rate_limited", "interrupted"]


async def test_a_cycle_records_a_bounded_number_of_steps(
    hunting: Hunting, sql: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("maia.cycle.cycle.MOST_STEPS", 2)
    caplog.set_level(logging.INFO)
    async with hunting("cats", "gardens", "no such thing", "nor this") as hunter:
        await hunter.cycle()
    assert len(await steps(sql)) == 2
    assert "2 steps are not recorded" in caplog.text


async def test_several_cycles_stop_where_nothing_is_left(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[AskProgress] = []
    async with hunting("cats", hunter={"tags_per_video": 0}) as hunter:
        total = await run(Hunter, hunter.atlas, batch_size=2, cycles=10, on_progress=seen.append)
    assert (total["cycles"], total["outcome"], total["pages"], total["found"]) == (4, "idle", 3, CATS)
    assert total["units"] == {"search": 3, "general": 3}
    assert [(step.cycle, step.about, step.page and step.page.found) for step in seen] == [
        (1, "cats", 50), (2, "cats", 50), (3, "cats", 20),
    ]  # fmt: skip
    sessions = await sql.fetchval("SELECT count(DISTINCT session) FROM events WHERE kind = 'hunter.cycle'")
    assert sessions == 1


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"cycles": 0}])
async def test_no_cycle_and_no_batch_is_refused(hunting: Hunting, wrong: dict[str, Any]) -> None:
    async with hunting() as hunter:
        with pytest.raises(ConfigError, match="at least 1"):
            await run(Hunter, hunter.atlas, **wrong)


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
            total = await run(Hunter, hunter.atlas, batch_size=20, cycles=1000)
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
        youtube={"base_url": emulator.url}, quota={"pacing": False}, youtube_api_key_pool_json=KEYS,
        hunter=ORIGINAL,
    )  # fmt: skip
    assert (await run_directly(Hunter, settings))["outcome"] == "idle"


# What the learner expects


async def expect(hunter: Hunter, *, success: bool) -> None:
    """Let the learner know that searches always succeed, or always fail for want of quota."""
    context = known_before("hunter", "search:specification", {"page": "first"}, NOON)
    predictor = SuccessPredictor()
    predictor.learn_many([Outcome(context, success, None if success else "quota")] * 500)
    dao = PatternsDAO(hunter.atlas.db, clock=hunter.atlas.clock, settings=hunter.atlas.settings)
    await dao.save_models([Model(SUCCESS_MODEL, 1, predictor.state(), 500)])


async def test_before_the_learner_knows_anything_nothing_is_expected(hunting: Hunting, sql: Any) -> None:
    async with hunting("cats", learner={"expect_failure_below": 0.9}) as hunter:
        assert (await hunter.cycle()).pages == 1
    (step,) = await steps(sql)
    assert "expected" not in step


async def test_each_ask_is_recorded_with_what_was_expected_of_it(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    async with hunting("cats", "gardens") as hunter:
        await expect(hunter, success=True)
        emulator.set_faults(["503:0.5:search.list"])
        await hunter.cycle()
        emulator.set_faults([])
        await expect(hunter, success=False)
        await hunter.cycle()
    recorded = await steps(sql)
    first = [step for step in recorded if step["expected"]["success"] > 0.9]
    later = [step for step in recorded if step["expected"]["success"] < 0.1]
    assert len(first) + len(later) == len(recorded)
    assert first
    assert later, "without a guard, what is expected to fail is asked all the same"
    assert {step["expected"]["failure_class"] for step in first} == {None}
    assert {step["expected"]["failure_class"] for step in later} == {"quota"}


async def test_a_damaged_predictor_stops_no_cycle(
    hunting: Hunting, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with hunting("cats") as hunter:
        dao = PatternsDAO(hunter.atlas.db, clock=hunter.atlas.clock, settings=hunter.atlas.settings)
        await dao.save_models([Model(SUCCESS_MODEL, 1, b"damaged", 1)])
        assert (await hunter.cycle()).pages == 1
    assert "nothing is expected of calls in this cycle" in caplog.text


async def test_with_the_guard_on_what_would_fail_waits_but_for_some_probes(
    hunting: Hunting, emulator: Emulator, sql: Any
) -> None:
    topics = [f"topic {number}" for number in range(30)]
    async with hunting(*topics, hunter={"batch_size": 30}, learner={"expect_failure_below": 0.3}) as hunter:
        await expect(hunter, success=False)
        statistics = await hunter.cycle()
        again = await hunter.cycle()
    waiting = statistics.skipped["unpromising"]
    assert statistics.pages + waiting == 30
    assert waiting >= 20
    assert statistics.pages >= 1, "a probe lets the world prove the learner wrong"
    assert len(searches(emulator)) == len(await steps(sql)) == statistics.pages
    assert statistics.units["search"] == statistics.pages
    rows = await sql.fetch("SELECT * FROM search_queue WHERE last_error LIKE 'the learner expects%'")
    assert len(rows) == waiting
    assert {(row["attempts"], row["lease_token"]) for row in rows} == {(0, None)}
    assert "most likely by quota" in rows[0]["last_error"]
    assert again.asks == 0, "they rest for a while"


async def test_with_the_guard_on_what_should_succeed_is_asked(hunting: Hunting) -> None:
    async with hunting("cats", learner={"expect_failure_below": 0.3}) as hunter:
        await expect(hunter, success=True)
        assert (await hunter.cycle()).pages == 1

"""The search queue, videos and channels against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, count, product
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas import Atlas
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.queue import Mention, QueueCounts, Topic, TopicOutcome, TopicStatus
from atlas.adapters.videos import Ingested
from atlas.clock import FixedClock
from atlas.config import Settings
from atlas.db import Database, Transaction, sql_of
from atlas.errors import DataRefused, LeaseLost, NoCurrentAtlas
from atlas.queries import SearchParameters, clean_text, topic_key
from atlas.testing import NOON, SettingsFactory

pytestmark = pytest.mark.integration

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HALF_LIFE_S = 48 * 3600
MakeDAO = Callable[..., MaiaDAO]


@dataclass(frozen=True)
class Clip:
    """A video as the API tells it, fully fetched."""

    id: str
    channel_id: str = "UC-one"
    channel_title: str | None = "Channel one"
    title: str | None = "A title"
    description: str | None = "A description"
    published_at: datetime | None = NOON - DAY
    category_id: int | None = 22
    tags: tuple[str, ...] = ("tag one", "tag two")
    duration_s: int | None = 90
    live_broadcast_content: str | None = "none"
    default_language: str | None = "en"
    view_count: int | None = 1000
    like_count: int | None = 10
    comment_count: int | None = 1
    etag: str | None = "etag"
    scheduled_start_at: datetime | None = None
    actual_start_at: datetime | None = None
    actual_end_at: datetime | None = None


UNFETCHED = Clip(
    "", channel_title=None, title=None, description=None, published_at=None, category_id=None, tags=(),
    duration_s=None, live_broadcast_content=None, default_language=None, view_count=None, like_count=None,
    comment_count=None, etag=None,
)  # fmt: skip


@pytest.fixture
def make_dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> MakeDAO:
    """Makes a DAO; each is to the queue what a process of its own is."""

    def make(**hunter: Any) -> MaiaDAO:
        return MaiaDAO(database, clock=clock, settings=settings_factory(hunter=hunter))

    return make


@pytest.fixture
def dao(make_dao: MakeDAO) -> MaiaDAO:
    return make_dao()


async def claim_one(dao: MaiaDAO) -> Topic:
    (topic,) = await dao.fetch_hunter_batch(1)
    return topic


async def expire_leases(sql: Any) -> None:
    await sql.execute("UPDATE search_queue SET lease_until = clock_timestamp() - interval '1 second'")


async def topic_row(sql: Any, query: str) -> Any:
    return await sql.fetchrow("SELECT * FROM search_queue WHERE key = $1", topic_key(query))


async def video_row(sql: Any, video_id: str) -> Any:
    return await sql.fetchrow("SELECT * FROM videos WHERE id = $1", video_id)


async def status_of(sql: Any, query: str) -> str:
    return str(await sql.fetchval("SELECT status FROM search_queue WHERE key = $1", topic_key(query)))


async def check_counter(sql: Any) -> None:
    counted = await sql.fetchval("SELECT count(*) FROM search_queue")
    assert counted == await sql.fetchval("SELECT topics FROM queue_state")


# Claims


async def test_seeds_come_first_in_their_order_then_tags_by_mentions(dao: MaiaDAO) -> None:
    await dao.add_to_search_queue([Mention("rare"), Mention("common", 50)])
    await dao.seed(["first", "second"])
    topics = await dao.fetch_hunter_batch(10)
    assert [topic.query for topic in topics] == ["first", "second", "common", "rare"]
    assert [topic.origin for topic in topics] == ["seed", "seed", "tag", "tag"]


async def test_a_claim_tells_where_the_run_stands(dao: MaiaDAO, clock: FixedClock) -> None:
    await dao.seed(["cats"])
    topic = await claim_one(dao)
    assert (topic.attempts, topic.claimed_at, topic.page_token, topic.searched_at) == (1, NOON, None, None)
    params = {"q": "cats", "order": "date", "publishedAfter": None}
    await dao.update_search_state(
        topic.id, "TOKEN", 50, "active", params=params, issued_at=NOON, new=7, page_digest="digest"
    )
    clock.advance(HOUR)
    again = await claim_one(dao)
    assert (again.page_token, again.page_params, again.page_issued_at) == ("TOKEN", params, NOON)
    assert (again.pages, again.results, again.new_videos, again.last_page_digest) == (1, 50, 7, "digest")
    assert (again.searched_at, again.claimed_at, again.attempts) == (NOON, NOON + HOUR, 1)
    assert again.lease_token != topic.lease_token


async def test_workers_at_once_never_claim_the_same_topic(make_dao: MakeDAO) -> None:
    dao = make_dao()
    await dao.add_to_search_queue([f"topic {number}" for number in range(300)])

    async def work(dao: MaiaDAO) -> list[int]:
        claimed: list[int] = []
        while topics := await dao.fetch_hunter_batch(7):
            claimed += [topic.id for topic in topics]
        return claimed

    claimed = list(chain(*await asyncio.gather(*(work(make_dao()) for _ in range(8)))))
    assert len(claimed) == len(set(claimed)) == 300


async def test_a_lease_holds_until_it_expires(make_dao: MakeDAO, sql: Any) -> None:
    owner, other = make_dao(), make_dao()
    await owner.seed(["cats"])
    await claim_one(owner)
    assert await other.fetch_hunter_batch(10) == []
    await expire_leases(sql)
    assert (await claim_one(other)).attempts == 2


async def test_whoever_lost_the_lease_stores_nothing(make_dao: MakeDAO, sql: Any) -> None:
    slow, quick = make_dao(), make_dao()
    await slow.seed(["cats"])
    topic = await claim_one(slow)
    await expire_leases(sql)
    taken = await claim_one(quick)
    with pytest.raises(LeaseLost, match=f"topic {topic.id}"):
        async with slow.transaction() as transaction:
            await transaction.ingest_video_metadata([Clip("v1")], discovered_by=topic.id)
            await transaction.add_to_search_queue(["tag"])
            await transaction.update_search_state(topic.id, "TOKEN", 50, TopicStatus.ACTIVE)
    assert await sql.fetchval("SELECT count(*) FROM videos") == 0
    assert await sql.fetchval("SELECT count(*) FROM channels") == 0
    assert await sql.fetchval("SELECT count(*) FROM search_queue") == 1
    await check_counter(sql)
    await quick.update_search_state(taken.id, None, 3, TopicStatus.COOLING)
    assert (await topic_row(sql, "cats"))["results_total"] == 3


async def test_a_late_owner_whose_topic_nobody_took_may_still_store_it(dao: MaiaDAO, sql: Any) -> None:
    await dao.seed(["cats"])
    topic = await claim_one(dao)
    await expire_leases(sql)
    await dao.update_search_state(topic.id, None, 3, "cooling")
    assert await status_of(sql, "cats") == "cooling"


async def test_the_next_wake_is_the_first_that_cools(dao: MaiaDAO, sql: Any) -> None:
    await dao.seed(["cats", "dogs"])
    assert await dao.next_wake_at() is None
    for topic, hours in zip(await dao.fetch_hunter_batch(2), (5, 3), strict=True):
        await dao.update_search_state(topic.id, None, 0, "cooling")
        await sql.execute(
            "UPDATE search_queue SET cool_until = $2 WHERE id = $1", topic.id, NOON + timedelta(hours=hours)
        )
    assert await dao.next_wake_at() == NOON + timedelta(hours=3)


async def test_outcomes_are_stored_all_or_none(make_dao: MakeDAO, sql: Any) -> None:
    dao = make_dao()
    await dao.seed(["kept", "lost"])
    topics = await dao.fetch_hunter_batch(2)
    outcomes = [TopicOutcome(topic.id, None, 1, TopicStatus.COOLING) for topic in topics]
    with pytest.raises(LeaseLost):
        await dao.update_search_states([outcomes[0], replace(outcomes[1], lease_token=uuid4())])
    assert [await status_of(sql, query) for query in ("kept", "lost")] == ["active", "active"]
    await dao.update_search_states(outcomes)
    assert [await status_of(sql, query) for query in ("kept", "lost")] == ["cooling", "cooling"]


async def test_only_the_claimer_may_leave_out_the_token(make_dao: MakeDAO) -> None:
    owner, stranger = make_dao(), make_dao()
    await owner.seed(["cats"])
    topic = await claim_one(owner)
    with pytest.raises(LeaseLost, match="pass its lease_token"):
        await stranger.update_search_state(topic.id, None, 0, "cooling")
    await stranger.update_search_state(topic.id, None, 0, "cooling", lease_token=topic.lease_token)


async def test_a_claim_waits_for_no_disk_but_leaves_its_callers_transaction_durable(
    dao: MaiaDAO, sql: Any, settings_factory: SettingsFactory, clock: FixedClock
) -> None:
    await dao.seed(["one", "two"])
    await sql.execute("SET synchronous_commit = on")
    async with sql.transaction():
        await claim_one(MaiaDAO(Transaction(sql), clock=clock, settings=settings_factory()))
        assert await sql.fetchval("SHOW synchronous_commit") == "on"
    alone = sql_of("queue.claim_topics")
    arguments = (1, "test", uuid4(), 300.0, 5, NOON, False, True)
    async with sql.transaction():
        assert len(await sql.fetch(alone, *arguments)) == 1
        assert await sql.fetchval("SHOW synchronous_commit") == "off"
    assert await sql.fetchval("SHOW synchronous_commit") == "on"


async def test_remembered_tokens_do_not_grow_without_end(
    make_dao: MakeDAO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.adapters.queue._MAX_REMEMBERED_TOKENS", 2)
    dao = make_dao()
    await dao.seed(["one", "two", "three"])
    one, two, three = [await claim_one(dao) for _ in range(3)]
    await dao.update_search_state(three.id, None, 0, "cooling")
    await dao.update_search_state(two.id, None, 0, "cooling")
    with pytest.raises(LeaseLost):
        await dao.update_search_state(one.id, None, 0, "cooling")


CLAIM_AND_HANG = """
import asyncio
from atlas.adapters.maia import MaiaDAO
from atlas.clock import SystemClock
from atlas.config import load
from atlas.db import Database

async def main():
    settings = load()
    async with Database.open(settings) as database:
        dao = MaiaDAO(database, clock=SystemClock(), settings=settings)
        topics = await dao.fetch_hunter_batch(3)
        async with dao.transaction() as transaction:
            await transaction.add_to_search_queue(["never committed"])
            print(len(topics), flush=True)
            await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_a_process_killed_between_claim_and_completion_loses_and_blocks_nothing(
    dao: MaiaDAO, sql: Any, environment: dict[str, str]
) -> None:
    await dao.seed(["one", "two", "three"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(CLAIM_AND_HANG), env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"3\n"
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL

    assert await dao.fetch_hunter_batch(3) == []
    await expire_leases(sql)
    topics = await dao.fetch_hunter_batch(3)
    assert {topic.query for topic in topics} == {"one", "two", "three"}
    assert {topic.attempts for topic in topics} == {2}
    assert await dao.add_to_search_queue(["never committed"]) == 1


async def test_a_topic_that_kills_its_workers_is_parked_by_the_claim(
    make_dao: MakeDAO, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dao = make_dao(max_attempts=3)
    await dao.add_to_search_queue([Mention("poison", 100), Mention("sound")])
    for attempt in (1, 2, 3):
        topic = await claim_one(dao)
        assert (topic.query, topic.attempts) == ("poison", attempt)
        await expire_leases(sql)
    with caplog.at_level(logging.WARNING, "atlas.adapters.queue"):
        claim = await dao.claim_topics(1)
    assert [topic.query for topic in claim.topics] == ["sound"]
    assert [(topic.query, topic.reason) for topic in claim.parked] == [
        ("poison", "claimed 3 times, and no page was ever stored")
    ]
    assert "Parked topic 'poison'" in caplog.text
    row = await topic_row(sql, "poison")
    assert (row["status"], row["lease_token"], row["attempts"]) == ("parked", None, 3)
    with pytest.raises(LeaseLost):
        await dao.update_search_state(topic.id, None, 0, "cooling", lease_token=topic.lease_token)


async def test_exhausted_topics_take_no_place_in_the_batch(make_dao: MakeDAO, sql: Any) -> None:
    dao = make_dao(max_attempts=1)
    await dao.seed([f"exhausted {number}" for number in range(5)])
    assert len(await dao.fetch_hunter_batch(5)) == 5
    await expire_leases(sql)
    await dao.add_to_search_queue([f"fresh {number}" for number in range(3)])
    claim = await dao.claim_topics(3)
    assert len(claim.topics) == 3
    assert len(claim.parked) == 5
    assert all(topic.query.startswith("fresh") for topic in claim.topics)


async def test_a_claim_of_nothing_is_refused(dao: MaiaDAO) -> None:
    with pytest.raises(DataRefused, match="at least 1"):
        await dao.fetch_hunter_batch(0)


# Giving back


async def seconds_until_lease_ends(sql: Any, query: str) -> float:
    return float(
        await sql.fetchval(
            "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM search_queue WHERE query = $1",
            query,
        )
    )


async def test_a_failed_topic_waits_twice_as_long_each_time_and_is_parked_with_its_reason(
    make_dao: MakeDAO, sql: Any
) -> None:
    dao = make_dao(max_attempts=3)
    await dao.seed(["cats"])
    for most in (100, 200):
        topic = await claim_one(dao)
        assert await dao.release_topics([topic], error="the API said no\0", retry_after_s=100) == 1
        assert most - 30 < await seconds_until_lease_ends(sql, "cats") <= most
        assert await dao.fetch_hunter_batch(1) == []
        await expire_leases(sql)
    topic = await claim_one(dao)
    assert topic.last_error == "the API said no"
    assert await dao.release_topics([topic], error="the API said no again", retry_after_s=100) == 1
    row = await topic_row(sql, "cats")
    assert (row["status"], row["last_error"]) == ("parked", "the API said no again")


async def test_a_pause_may_be_a_part_of_a_second(dao: MaiaDAO, sql: Any) -> None:
    await dao.seed(["cats"])
    topic = await claim_one(dao)
    before = await sql.fetchval("SELECT clock_timestamp()")
    await dao.release_topics([topic], retry_after_s=0.25)
    pause = (await topic_row(sql, "cats"))["lease_until"] - before
    assert pause >= timedelta(milliseconds=250)


async def test_the_pause_never_exceeds_a_day(make_dao: MakeDAO, sql: Any) -> None:
    dao = make_dao(max_attempts=100)
    await dao.seed(["cats"])
    await sql.execute("UPDATE search_queue SET attempts = 60")
    await dao.release_topics([await claim_one(dao)], retry_after_s=100)
    assert await seconds_until_lease_ends(sql, "cats") <= 86400


async def test_uncounted_refusals_lengthen_the_pause_up_to_an_hour_until_a_page_is_stored(
    make_dao: MakeDAO, sql: Any
) -> None:
    dao = make_dao(max_attempts=2)
    await dao.seed(["cats"])
    for refusals, most in enumerate((100, 200, 400, 800, 1600, 3200, 3600, 3600)):
        topic = await claim_one(dao)
        assert (topic.refusals, topic.attempts) == (refusals, 1)
        await dao.release_topics([topic], error="refused", retry_after_s=100, count_attempt=False)
        assert most - 5 <= await seconds_until_lease_ends(sql, "cats") <= most
        await sql.execute("UPDATE search_queue SET lease_until = NULL")
    await dao.update_search_state((await claim_one(dao)).id, "token", 1, TopicStatus.ACTIVE)
    assert (await claim_one(dao)).refusals == 0


async def test_a_claim_given_back_unserved_does_not_count(make_dao: MakeDAO) -> None:
    dao = make_dao(max_attempts=2)
    await dao.seed(["one", "two"])
    for _ in range(5):
        topics = await dao.fetch_hunter_batch(10)
        assert [topic.attempts for topic in topics] == [1, 1]
        assert await dao.release_topics(topics, count_attempt=False) == 2


async def test_a_lost_claim_cannot_be_given_back(make_dao: MakeDAO, sql: Any) -> None:
    slow, quick = make_dao(), make_dao()
    await slow.seed(["cats"])
    lost = await claim_one(slow)
    await expire_leases(sql)
    held = await claim_one(quick)
    assert await slow.release_topics([lost]) == 0
    assert await quick.release_topics([held]) == 1


# Runs


async def test_a_stored_page_clears_attempts_and_the_error(dao: MaiaDAO, sql: Any) -> None:
    await dao.seed(["cats"])
    await dao.release_topics([await claim_one(dao)], error="timed out")
    topic = await claim_one(dao)
    assert topic.attempts == 2
    await dao.update_search_state(topic.id, "TOKEN", 50, "active")
    row = await topic_row(sql, "cats")
    assert (row["attempts"], row["last_error"], row["lease_token"], row["lease_until"]) == (
        0,
        None,
        None,
        None,
    )
    assert (row["page_token"], row["page_params"], row["page_issued_at"]) == ("TOKEN", "{}", NOON)


async def test_a_run_begun_anew_counts_from_its_first_page(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.seed(["cats"])
    for _ in range(3):
        topic = await claim_one(dao)
        await dao.update_search_state(topic.id, "TOKEN", 50, "active", new=20)
    clock.advance(DAY)
    topic = await claim_one(dao)
    await dao.update_search_state(topic.id, "OTHER", 40, "active", new=1, restarted=True)
    row = await topic_row(sql, "cats")
    assert (row["pages"], row["results"], row["new_videos"], row["searched_at"]) == (1, 40, 1, NOON + DAY)
    assert (row["pages_total"], row["results_total"], row["new_videos_total"]) == (4, 190, 61)


async def test_an_exhausted_topic_cools_and_comes_back_for_what_is_newer(
    make_dao: MakeDAO, sql: Any, clock: FixedClock
) -> None:
    dao = make_dao(cooling_s=7200)
    await dao.seed(["cats"])
    topic = await claim_one(dao)
    await dao.update_search_state(topic.id, "TOKEN", 50, "active", new=30)
    clock.advance(HOUR)
    topic = await claim_one(dao)
    await dao.update_search_state(topic.id, "IGNORED", 5, TopicStatus.COOLING, new=2, page_digest="last")
    row = await topic_row(sql, "cats")
    assert (row["status"], row["cool_until"], row["page_token"]) == ("cooling", NOON + 3 * HOUR, None)

    clock.advance(2 * HOUR - timedelta(microseconds=1))
    assert await dao.fetch_hunter_batch(1) == []
    clock.advance(timedelta(microseconds=1))
    claim = await dao.claim_topics(1)
    assert claim.woken == 1
    (topic,) = claim.topics
    assert (topic.published_after, topic.searched_at, topic.last_page_digest) == (NOON, None, None)
    assert (topic.pages, topic.results, topic.new_videos) == (0, 0, 0)
    await dao.update_search_state(topic.id, None, 0, "cooling", cool_until=NOON + DAY)
    row = await topic_row(sql, "cats")
    assert (row["cool_until"], row["pages_total"], row["new_videos_total"]) == (NOON + DAY, 3, 32)


async def test_topics_that_brought_more_come_back_sooner(dao: MaiaDAO, clock: FixedClock) -> None:
    await dao.seed(["poor", "rich", "barren"])
    for topic, new in zip(await dao.fetch_hunter_batch(3), (3, 40, 0), strict=True):
        await dao.update_search_state(topic.id, None, 50, "cooling", new=new)
    await dao.add_to_search_queue(["a day older"])
    clock.advance(DAY)
    topics = await dao.fetch_hunter_batch(10)
    assert [topic.query for topic in topics] == ["rich", "poor", "barren", "a day older"]
    rich, poor = topics[:2]
    assert rich.priority - poor.priority == pytest.approx(math.log2(41 / 4))


async def test_the_queue_never_dies_out(dao: MaiaDAO, clock: FixedClock) -> None:
    await dao.seed(["cats", "dogs"])
    for _ in range(30):
        topics = await dao.fetch_hunter_batch(5)
        assert len(topics) == 2
        for topic in topics:
            await dao.update_search_state(topic.id, None, 0, "cooling")
        clock.advance(DAY)


async def test_a_bad_request_parks_the_topic_with_its_reason(dao: MaiaDAO, sql: Any) -> None:
    await dao.seed(["cats"])
    topic = await claim_one(dao)
    with pytest.raises(DataRefused, match="without a reason"):
        await dao.update_search_state(topic.id, None, 0, "parked")
    await dao.update_search_state(topic.id, None, 0, "parked", error="invalidParameter: q\ud800")
    row = await topic_row(sql, "cats")
    assert (row["status"], row["last_error"]) == ("parked", "invalidParameter: q�")
    with pytest.raises(ValueError, match="asleep"):
        await dao.update_search_state(topic.id, None, 0, "asleep")


# The queue


async def test_equal_queries_are_one_topic(dao: MaiaDAO, sql: Any) -> None:
    assert await dao.add_to_search_queue(["Straße  Köln", "STRASSE KÖLN", " strasse\tköln "]) == 1
    assert await dao.add_to_search_queue([Mention("strasse köln", 4), "\0", " ", "x" * 201]) == 0
    assert (await topic_row(sql, "strasse köln"))["mention_count"] == 7
    assert await dao.tag_mentions(["Straße Köln", "unknown"]) == {"Straße Köln": 7, "unknown": 0}
    await check_counter(sql)


async def test_a_tag_is_searched_in_its_commonest_spelling(dao: MaiaDAO, sql: Any) -> None:
    await dao.add_to_search_queue(["LOFI", Mention("LoFi", 2), Mention("lofi", 2)])
    assert (await topic_row(sql, "lofi"))["query"] == "LoFi"
    await dao.add_to_search_queue([Mention("lofi", 1)])
    topic = await claim_one(dao)
    assert topic.query == "lofi"
    await dao.update_search_state(topic.id, "NEXT", 50, "active")
    await dao.add_to_search_queue([Mention("LOFI", 9)])
    topic = await claim_one(dao)
    # The token of the next page is good for this spelling alone.
    assert (topic.query, topic.page_token) == ("lofi", "NEXT")
    await dao.update_search_state(topic.id, None, 50, "cooling")
    await dao.add_to_search_queue(["lofi"])
    row = await topic_row(sql, "lofi")
    assert (row["query"], row["mention_count"]) == ("LOFI", 16)


async def test_the_spellings_kept_of_a_topic_are_few(dao: MaiaDAO, sql: Any) -> None:
    spellings = ["".join(letters) for letters in product(*zip("abcd", "ABCD", strict=True))]
    await dao.add_to_search_queue([Mention("ABCD", 3), *spellings])
    row = await topic_row(sql, "abcd")
    assert (row["query"], row["mention_count"]) == ("ABCD", 19)
    assert await sql.fetchval("SELECT count(*) FROM search_queue, jsonb_each(spellings)") == 8


async def test_a_seed_is_searched_as_it_was_typed(dao: MaiaDAO, sql: Any) -> None:
    await dao.add_to_search_queue([Mention("strasse", 9)])
    assert await dao.seed(["Straße", "İSTANBUL gezi", "istanbul gezi", "½ marathon"]) == 2
    await dao.add_to_search_queue([Mention("STRASSE", 99)])
    assert [topic.query for topic in await dao.fetch_hunter_batch(5)] == [
        "Straße", "İSTANBUL gezi", "½ marathon",
    ]  # fmt: skip
    assert await dao.park_topics(["strasse"], "enough") == 1
    assert await dao.seed(["STRASSE"]) == 1
    assert (await claim_one(dao)).query == "STRASSE"
    await check_counter(sql)


async def test_the_same_words_with_other_parameters_are_another_topic(dao: MaiaDAO, sql: Any) -> None:
    in_japan = SearchParameters(region="JP", duration="long", published_after=NOON - DAY)
    assert await dao.seed(["Jazz"]) == await dao.seed(["jazz"], in_japan) == 1
    assert await dao.seed(["JAZZ"], in_japan) == 0
    await dao.add_to_search_queue(["jazz"])
    plain, narrowed = await dao.fetch_hunter_batch(5)
    assert (plain.query, plain.parameters) == ("Jazz", SearchParameters())
    assert (narrowed.query, narrowed.parameters, narrowed.search_after) == ("JAZZ", in_japan, NOON - DAY)
    assert {(topic.mention_count, topic.parameters) for topic in await dao.list_topics()} == {
        (1, SearchParameters()), (0, in_japan),
    }  # fmt: skip
    assert await dao.tag_mentions(["jazz"]) == {"jazz": 1}
    await check_counter(sql)


async def test_a_span_that_is_over_is_searched_once(dao: MaiaDAO, clock: FixedClock) -> None:
    with pytest.raises(DataRefused, match="in the future"):
        await dao.seed(["cats"], SearchParameters(published_after=NOON + DAY))
    past = SearchParameters(published_after=NOON - 9 * DAY, published_before=NOON - 2 * DAY)
    await dao.seed(["elections"], past)
    await dao.seed(["football"], SearchParameters(published_before=NOON + DAY))
    elections, football = await dao.fetch_hunter_batch(2)
    await dao.update_search_state(elections.id, None, 50, "cooling")
    await dao.update_search_state(football.id, None, 50, "cooling")
    [over] = await dao.list_topics("parked")
    assert (over.query, over.parameters) == ("elections", past)
    assert over.last_error == "searched to the end of its span, which is over: nothing more can appear in it"
    clock.advance(2 * DAY)
    again = await claim_one(dao)
    assert (again.query, again.search_after) == ("football", NOON)
    assert await dao.seed(["elections"], past) == 1
    assert (await claim_one(dao)).search_after == NOON - 9 * DAY


@pytest.mark.parametrize(
    "wrong",
    [
        '{"region": "Japan"}', '{"colour": "red"}', '{"duration": "endless"}', '{"category": "10"}', "[]",
        '{"published_after": "2026-11-02"}', '{"event_type": null}',
        '{"published_after": "2026-11-03T00:00:00Z", "published_before": "2026-11-02T00:00:00Z"}',
    ],
)  # fmt: skip
async def test_parameters_are_the_databases_to_check_too(dao: MaiaDAO, sql: Any, wrong: str) -> None:
    await dao.seed(["cats"])
    with pytest.raises(Exception, match="search_parameters"):
        await sql.execute(f"UPDATE search_queue SET parameters = '{wrong}'")


async def test_nothing_to_add_is_no_work(dao: MaiaDAO) -> None:
    assert await dao.add_to_search_queue([]) == 0
    assert await dao.tag_mentions([]) == {}


async def test_an_unknown_origin_is_refused(dao: MaiaDAO, sql: Any) -> None:
    with pytest.raises(DataRefused, match="topic_origin"):
        await dao.add_to_search_queue(["cats"], origin="rumour")
    await check_counter(sql)


NUMBERS = count()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mentions=st.lists(
        st.tuples(st.integers(0, 400 * 24 * 3600), st.floats(1e-6, 1e9), st.integers(1, 1000)),
        min_size=1,
        max_size=6,
    )
)
async def test_priorities_are_the_forward_decayed_sum_of_all_mentions(
    dao: MaiaDAO, sql: Any, clock: FixedClock, mentions: Sequence[tuple[int, float, int]]
) -> None:
    query = f"topic {next(NUMBERS)}"
    scores = []
    for after_s, weight, often in mentions:
        clock.instant = NOON + timedelta(seconds=after_s)
        await dao.add_to_search_queue([Mention(query, often, weight)])
        scores.append(math.log2(weight) + clock.instant.timestamp() / HALF_LIFE_S)
    highest = max(scores)
    expected = highest + math.log2(math.fsum(2 ** (score - highest) for score in scores))
    row = await topic_row(sql, query)
    assert row["priority"] == pytest.approx(expected, rel=1e-12)
    assert row["mention_count"] == sum(often for _, _, often in mentions)


async def test_an_old_mention_weighs_half_after_a_half_life(dao: MaiaDAO, clock: FixedClock) -> None:
    await dao.add_to_search_queue([Mention("older", 3)])
    clock.advance(timedelta(seconds=HALF_LIFE_S))
    await dao.add_to_search_queue([Mention("younger", 2), Mention("youngest")])
    assert [topic.query for topic in await dao.fetch_hunter_batch(3)] == ["younger", "older", "youngest"]


async def test_another_half_life_keeps_what_weights_have_decayed_to(
    make_dao: MakeDAO, sql: Any, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    await make_dao().add_to_search_queue([Mention("old", 8)])
    clock.advance(timedelta(seconds=2 * HALF_LIFE_S))
    dao = make_dao(half_life_h=1)
    await dao.add_to_search_queue([Mention("new", 2)])
    assert "half-life changes to 1 h" in caplog.text
    old, new = [(await topic_row(sql, query))["priority"] for query in ("old", "new")]
    assert old == pytest.approx(new, abs=1e-6)
    clock.advance(HOUR)
    await dao.add_to_search_queue(["newer"])
    assert (await topic_row(sql, "newer"))["priority"] == pytest.approx(new, abs=1e-6)


async def test_at_the_cap_the_least_wanted_tags_make_room(
    make_dao: MakeDAO, sql: Any, clock: FixedClock
) -> None:
    dao = make_dao(queue_cap=6)
    await dao.seed(["seed"])
    await dao.add_to_search_queue([Mention("searched", 9), Mention("held", 8)])
    searched, held = [await claim_one(dao) for _ in range(3)][1:]
    assert (searched.query, held.query) == ("searched", "held")
    await dao.update_search_state(searched.id, "TOKEN", 50, "active")
    await dao.add_to_search_queue([Mention("weak", 2), Mention("weaker"), Mention("strong", 1000)])
    await check_counter(sql)

    assert await dao.add_to_search_queue([Mention("young", 5), Mention("hopeless", 1, 0.5)]) == 1
    names = {row["query"] for row in await sql.fetch("SELECT query FROM search_queue")}
    assert names == {"seed", "searched", "held", "weak", "strong", "young"}
    assert await dao.add_to_search_queue([f"flood {number}" for number in range(50)]) == 0
    clock.advance(10 * DAY)
    assert await dao.add_to_search_queue([f"flood {number}" for number in range(50)]) == 2
    assert await sql.fetchval("SELECT count(*) FROM search_queue") == 6
    names = {row["query"] for row in await sql.fetch("SELECT query FROM search_queue WHERE origin = 'tag'")}
    assert {"searched", "held", "strong"} <= names
    await check_counter(sql)


async def test_seeds_are_never_refused_and_never_make_room(make_dao: MakeDAO, sql: Any) -> None:
    dao = make_dao(queue_cap=3)
    await dao.add_to_search_queue(["one", "two", "three"])
    assert await dao.seed([f"seed {number}" for number in range(5)]) == 5
    assert await dao.add_to_search_queue([Mention("late", 1000)]) == 0
    rows = await sql.fetch("SELECT query FROM search_queue ORDER BY query")
    assert [row["query"] for row in rows] == [f"seed {number}" for number in range(5)]
    await check_counter(sql)


async def test_seeding_a_known_topic_raises_and_revives_it(dao: MaiaDAO, sql: Any, clock: FixedClock) -> None:
    await dao.add_to_search_queue(["waiting", "cooling", "parked", "held", Mention("popular", 1000)])
    topics = {topic.query: topic for topic in await dao.fetch_hunter_batch(10)}
    await dao.release_topics([topics["waiting"], topics["popular"]], error="timed out", retry_after_s=900)
    await dao.update_search_state(topics["cooling"].id, None, 9, "cooling", new=3)
    await dao.update_search_state(topics["parked"].id, None, 0, "parked", error="refused")
    clock.advance(HOUR)
    assert await dao.seed(["Waiting", "cooling", "parked", "held", "brand new"]) == 3

    claimed = await dao.fetch_hunter_batch(10)
    assert {topic.query for topic in claimed} == {"Waiting", "cooling", "parked", "brand new"}
    assert {topic.origin for topic in claimed} == {"seed"}
    assert {topic.attempts for topic in claimed} == {1}
    cooled = next(topic for topic in claimed if topic.query == "cooling")
    assert (cooled.published_after, cooled.results) == (NOON, 0)
    await dao.update_search_state(
        topics["held"].id, None, 1, "cooling", lease_token=topics["held"].lease_token
    )
    assert (await topic_row(sql, "held"))["origin"] == "seed"
    await check_counter(sql)


async def test_a_query_that_cannot_be_one_is_named(dao: MaiaDAO, sql: Any) -> None:
    with pytest.raises(DataRefused, match="blank"):
        await dao.seed(["fine", " \t"])
    with pytest.raises(DataRefused, match="201 characters"):
        await dao.seed(["x" * 201])
    assert await sql.fetchval("SELECT count(*) FROM search_queue") == 0


async def test_topics_are_parked_and_put_back_by_hand(make_dao: MakeDAO, sql: Any) -> None:
    dao, worker = make_dao(), make_dao()
    await dao.seed(["one", "two", "three", "four"])
    held = await claim_one(worker)
    assert held.query == "one"
    two = (await topic_row(sql, "two"))["id"]
    assert await dao.park_topics(["One ", two, "unknown"], "asked for") == 2
    assert await dao.park_topics(["one"], "twice") == 0
    with pytest.raises(LeaseLost):
        await worker.update_search_state(held.id, None, 0, "cooling")
    parked = await dao.list_topics(TopicStatus.PARKED)
    assert [(topic.query, topic.last_error) for topic in parked] == [
        ("one", "asked for"),
        ("two", "asked for"),
    ]

    assert await dao.retry_topics(["two"]) == 1
    assert await dao.retry_topics() == 1
    assert [topic.query for topic in await dao.list_topics("active")] == ["one", "two", "three", "four"]
    assert len(await dao.fetch_hunter_batch(10)) == 4


async def test_retrying_ends_the_pause_of_a_failed_topic_but_takes_nobodys_claim(make_dao: MakeDAO) -> None:
    dao = make_dao()
    await dao.seed(["failed", "held"])
    failed, held = await dao.fetch_hunter_batch(2)
    await dao.release_topics([failed], error="timed out", retry_after_s=900)
    assert await dao.retry_topics() == 1
    assert [topic.query for topic in await dao.fetch_hunter_batch(2)] == ["failed"]
    await dao.update_search_state(held.id, None, 0, "cooling")


async def test_the_queue_is_counted_and_listed(make_dao: MakeDAO, sql: Any) -> None:
    dao = make_dao()
    await dao.seed([f"topic {number}" for number in range(7)])
    topics = await dao.fetch_hunter_batch(5)
    await dao.release_topics(topics[:1], error="timed out", retry_after_s=900)
    await dao.update_search_state(topics[1].id, None, 0, "cooling")
    await dao.update_search_state(topics[2].id, None, 0, "parked", error="refused")
    assert await dao.queue_counts() == QueueCounts(active=5, cooling=1, parked=1, leased=2, waiting=1)
    await expire_leases(sql)
    assert await dao.queue_counts() == QueueCounts(active=5, cooling=1, parked=1, leased=0, waiting=0)
    listed = await dao.list_topics(most=3)
    assert [topic.query for topic in listed] == ["topic 0", "topic 1", "topic 2"]
    assert listed[1].status is TopicStatus.COOLING
    with pytest.raises(ValueError, match="asleep"):
        await dao.list_topics("asleep")


# Videos


async def test_videos_are_inserted_once_and_refreshed_after(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    await dao.seed(["cats", "dogs"])
    cats, dogs = await dao.fetch_hunter_batch(2)
    first = [Clip("v1"), Clip("v2", channel_id="UC-two"), Clip("v3")]
    ingested = await dao.ingest_video_metadata(first, discovered_by=cats.id)
    assert ingested == Ingested(frozenset({"v1", "v2", "v3"}), updated=0, channels_new=2)
    assert ingested.new == 3

    clock.advance(HOUR)
    later = [
        Clip("v1", title="Retitled", tags=("new",), view_count=2000, like_count=20, channel_title="Renamed"),
        Clip("v4"),
    ]
    assert await dao.ingest_video_metadata(later, discovered_by=dogs.id) == Ingested(frozenset({"v4"}), 1, 0)
    row = await video_row(sql, "v1")
    assert (row["title"], row["tags"], row["view_count"], row["like_count"]) == (
        "Retitled",
        ["new"],
        2000,
        20,
    )
    assert (row["discovered_by"], row["discovered_at"], row["refreshed_at"]) == (cats.id, NOON, NOON + HOUR)
    assert (row["status"], row["published_at"], row["duration_s"]) == ("live", NOON - DAY, 90)
    assert (await video_row(sql, "v4"))["discovered_by"] == dogs.id
    assert await sql.fetchval("SELECT title FROM channels WHERE id = 'UC-one'") == "Renamed"


async def test_the_same_page_twice_is_stored_once(dao: MaiaDAO, sql: Any) -> None:
    page = [Clip(f"v{number}", channel_id=f"UC-{number % 7}") for number in range(50)]
    assert (await dao.ingest_video_metadata(page)).new == 50
    before = await sql.fetch("SELECT * FROM videos ORDER BY id")
    assert await dao.ingest_video_metadata(page) == Ingested(frozenset(), 50, 0)
    assert await sql.fetch("SELECT * FROM videos ORDER BY id") == before
    assert await sql.fetchval("SELECT count(*) FROM channels") == 7


async def test_what_was_fetched_earlier_undoes_nothing(dao: MaiaDAO, sql: Any) -> None:
    await dao.ingest_video_metadata(Clip("v1", title="New"), fetched_at=NOON + HOUR)
    stale = await dao.ingest_video_metadata(Clip("v1", title="Old", channel_title="Old"), fetched_at=NOON)
    assert stale == Ingested(frozenset(), 0, 0)
    row = await video_row(sql, "v1")
    assert (row["title"], row["refreshed_at"]) == ("New", NOON + HOUR)
    assert await sql.fetchval("SELECT title FROM channels") == "Channel one"


async def test_hidden_counts_are_null_and_unfetched_parts_keep_their_values(dao: MaiaDAO, sql: Any) -> None:
    await dao.ingest_video_metadata(Clip("v1"))
    await dao.ingest_video_metadata(Clip("v1", like_count=None, comment_count=None, view_count=5))
    row = await video_row(sql, "v1")
    assert (row["view_count"], row["like_count"], row["comment_count"]) == (5, None, None)

    await dao.ingest_video_metadata(replace(UNFETCHED, id="v1", view_count=6, like_count=2))
    row = await video_row(sql, "v1")
    assert (row["view_count"], row["like_count"], row["comment_count"]) == (6, 2, None)
    assert (row["title"], row["tags"], row["description"], row["category_id"]) == (
        "A title", ["tag one", "tag two"], "A description", 22,
    )  # fmt: skip
    assert (row["duration_s"], row["default_language"], row["etag"]) == (90, "en", "etag")

    await dao.ingest_video_metadata(Clip("v1", tags=(), description=None, view_count=None, like_count=None))
    row = await video_row(sql, "v1")
    assert (row["tags"], row["description"]) == ([], None)
    assert (row["view_count"], row["like_count"]) == (6, 2)


async def test_a_video_that_was_gone_is_live_again(dao: MaiaDAO, sql: Any) -> None:
    await dao.ingest_video_metadata(Clip("v1"))
    await sql.execute("UPDATE videos SET status = 'gone'")
    await dao.ingest_video_metadata(Clip("v1"))
    assert (await video_row(sql, "v1"))["status"] == "live"


async def test_channels_are_rewritten_only_for_a_new_title_or_once_a_day(
    dao: MaiaDAO, sql: Any, clock: FixedClock
) -> None:
    versions = []
    for title, pause in (("A", HOUR), ("A", HOUR), ("B", HOUR), (None, 2 * DAY), ("B", HOUR)):
        clock.advance(pause)
        await dao.ingest_video_metadata(Clip("v1", channel_title=title))
        versions.append(tuple(await sql.fetchrow("SELECT title, refreshed_at FROM channels")))
    assert versions == [
        ("A", NOON + HOUR),
        ("A", NOON + HOUR),
        ("B", NOON + 3 * HOUR),
        ("B", NOON + 3 * HOUR),
        ("B", NOON + 4 * HOUR + 2 * DAY),
    ]


async def test_a_video_twice_in_a_batch_is_merged(dao: MaiaDAO, sql: Any) -> None:
    batch = [
        Clip("v1", title="First", like_count=7),
        Clip("v2"),
        Clip("v1", title="Last", like_count=None, tags=()),
    ]
    assert (await dao.ingest_video_metadata(batch)).new_ids == {"v1", "v2"}
    row = await video_row(sql, "v1")
    assert (row["title"], row["like_count"], row["tags"]) == ("Last", 7, ["tag one", "tag two"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    title=st.text(st.characters(exclude_categories=[])),
    tags=st.lists(st.text(st.characters(exclude_categories=[])), max_size=4),
)
async def test_any_text_is_stored_and_crashes_no_batch(
    dao: MaiaDAO, sql: Any, title: str, tags: list[str]
) -> None:
    await dao.ingest_video_metadata([Clip("sound"), Clip("odd", title=title, tags=tuple(tags))])
    row = await video_row(sql, "odd")
    assert row["title"] == clean_text(title)
    assert row["tags"] == [clean_text(tag) for tag in tags]


async def test_pairs_of_surrogates_become_the_character_they_stand_for(dao: MaiaDAO, sql: Any) -> None:
    await dao.ingest_video_metadata(Clip("v1", title="a\0b \ud83d\ude00 \ud83d \\u0000"))
    assert (await video_row(sql, "v1"))["title"] == "ab 😀 \ufffd \\u0000"


@pytest.mark.parametrize(
    "refused",
    [
        Clip("v2", channel_id=""),
        Clip(""),
        Clip("v" * 65),
        Clip("v2", view_count=-1),
        Clip("v2", view_count=2**63),
        Clip("v2", view_count=2**70),
        Clip("v2", category_id=object()),  # type: ignore[arg-type]
    ],
)
async def test_what_cannot_be_stored_is_refused_with_its_whole_batch(
    dao: MaiaDAO, sql: Any, refused: Clip
) -> None:
    with pytest.raises(DataRefused):
        await dao.ingest_video_metadata([Clip("v1"), refused])
    assert await sql.fetchval("SELECT count(*) FROM videos") == 0
    assert await sql.fetchval("SELECT count(*) FROM channels") == 0


async def test_a_discoverer_must_exist(dao: MaiaDAO) -> None:
    with pytest.raises(DataRefused, match="discovered_by"):
        await dao.ingest_video_metadata([Clip("v1")], discovered_by=4711)


async def test_an_empty_page_is_no_error(dao: MaiaDAO) -> None:
    assert await dao.ingest_video_metadata([]) == Ingested(frozenset(), 0, 0)


async def test_the_demo_sees_what_was_found(dao: MaiaDAO) -> None:
    await dao.seed(["cats"])
    topic = await claim_one(dao)
    await dao.ingest_video_metadata(
        [Clip("v1", view_count=5), Clip("v2", view_count=50), Clip("v3", view_count=None)],
        discovered_by=topic.id,
    )
    await dao.add_to_search_queue([Mention("kittens", 3), "tabbies"])
    await dao.update_search_state(topic.id, None, 3, "cooling", new=3)
    assert [(video.id, video.view_count) for video in await dao.top_videos(5)] == [("v2", 50), ("v1", 5)]
    assert (await dao.top_videos(1))[0].channel_title == "Channel one"
    assert await dao.top_topics(5) == [("kittens", 3), ("tabbies", 1)]
    found = await dao.discoveries()
    assert (found.videos, found.channels, found.topics) == (3, 1, 3)


# Transactions


async def test_the_same_videos_at_once_never_deadlock(make_dao: MakeDAO, sql: Any) -> None:
    async def work(seed: int) -> int:
        dao, rng, new = make_dao(), random.Random(seed), 0
        for _ in range(10):
            batch = [Clip(f"v{number}") for number in range(300)]
            rng.shuffle(batch)
            new += (await dao.ingest_video_metadata(batch)).new
        return new

    assert sum(await asyncio.gather(*(work(seed) for seed in range(8)))) == 300


async def test_the_same_channels_at_once_never_deadlock(make_dao: MakeDAO, sql: Any) -> None:
    async def work(seed: int) -> int:
        dao, rng, new = make_dao(), random.Random(seed), 0
        for round_ in range(10):
            batch = [Clip(f"v{seed} {n}", f"UC{n}", f"title {seed} {round_}") for n in range(300)]
            rng.shuffle(batch)
            new += (await dao.ingest_video_metadata(batch)).channels_new
        return new

    assert sum(await asyncio.gather(*(work(seed) for seed in range(8)))) == 300


async def test_topics_that_mention_each_other_never_deadlock(make_dao: MakeDAO) -> None:
    dao = make_dao()
    await dao.seed(["cats", "dogs"])

    async def store(topic: Topic, tag: str) -> None:
        async with dao.transaction() as transaction:
            await transaction.ingest_video_metadata(Clip(f"v {tag}"), discovered_by=topic.id)
            await transaction.add_to_search_queue([tag])
            await transaction.update_search_state(topic.id, "TOKEN", 1, "active")

    for _ in range(20):
        cats, dogs = sorted(await dao.fetch_hunter_batch(2), key=lambda topic: topic.query)
        await asyncio.gather(store(cats, "dogs"), store(dogs, "cats"))


async def test_pages_stored_at_once_never_deadlock(make_dao: MakeDAO, sql: Any) -> None:
    """Workers store overlapping videos, channels and tags, the tags being each other's topics."""
    workers, rounds = 12, 12
    names = [f"topic {number}" for number in range(40)]
    await make_dao().seed(names)

    async def work(seed: int) -> tuple[int, int]:
        dao, rng = make_dao(), random.Random(seed)
        new = pages = 0
        for _ in range(rounds):
            (topic,) = await dao.fetch_hunter_batch(1)
            clips = [Clip(f"v{n}", f"UC{n % 20}", str(rng.random())) for n in rng.sample(range(200), 50)]
            async with dao.transaction() as transaction:
                ingested = await transaction.ingest_video_metadata(clips, discovered_by=topic.id)
                await transaction.add_to_search_queue(
                    [*rng.sample(names, 20), *(f"tag {n}" for n in rng.sample(range(100), 20))]
                )
                await transaction.update_search_state(topic.id, "TOKEN", 50, "active", new=ingested.new)
            new, pages = new + ingested.new, pages + 1
            held = await dao.fetch_hunter_batch(3)
            await dao.release_topics(held, error="timed out")
        return new, pages

    stored = await asyncio.gather(*(work(seed) for seed in range(workers)))
    assert sum(new for new, _ in stored) == await sql.fetchval("SELECT count(*) FROM videos")
    assert sum(pages for _, pages in stored) == workers * rounds
    totals = await sql.fetchrow(
        "SELECT sum(pages_total), sum(new_videos_total), sum(mention_count) FROM search_queue"
    )
    assert tuple(totals) == (workers * rounds, sum(new for new, _ in stored), workers * rounds * 40)
    await check_counter(sql)


async def test_a_transaction_that_fails_leaves_nothing(dao: MaiaDAO, sql: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with dao.transaction() as transaction:
            await transaction.ingest_video_metadata(Clip("v1"))
            async with transaction.transaction() as nested:
                await nested.seed(["cats"])
            1 / 0  # noqa: B018
    assert await sql.fetchval("SELECT count(*) FROM videos") == 0
    await check_counter(sql)


async def test_without_arguments_it_takes_the_current_atlas(atlas: Atlas) -> None:
    dao = MaiaDAO()
    await dao.seed(["cats"])
    assert (await claim_one(dao)).claimed_at == NOON


def test_without_an_atlas_it_says_so() -> None:
    with pytest.raises(NoCurrentAtlas):
        MaiaDAO()


async def test_the_owner_of_a_lease_can_be_told(
    sql: Any, clock: FixedClock, settings_factory: Callable[..., Settings]
) -> None:
    dao = MaiaDAO(Transaction(sql), clock=clock, settings=settings_factory(node_id="node-7"))
    await dao.seed(["cats"])
    await claim_one(dao)
    (listed,) = await dao.list_topics()
    assert listed.lease_owner is not None
    assert listed.lease_owner.startswith("node-7:")


async def test_invariants_of_a_topic_are_the_databases(sql: Any, dao: MaiaDAO) -> None:
    """Whatever a later statement does wrong, a half-written claim or token never gets in."""
    await dao.seed(["cats"])
    for wrong in (
        "lease_token = gen_random_uuid()",
        "page_token = 'TOKEN'",
        "status = 'cooling'",
        "status = 'asleep'",
        "origin = 'rumour'",
        "attempts = -1",
        "query = ''",
    ):
        with pytest.raises(Exception, match="check constraint"):
            await sql.execute(f"UPDATE search_queue SET {wrong}")
    topic = await claim_one(dao)
    with pytest.raises(DataRefused, match="tally"):
        await dao.update_search_state(topic.id, None, -5, "active")

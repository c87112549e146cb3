"""The hunter's aggregate: the search queue, and the videos and channels that it finds.

Transactions lock in one order, so that they never deadlock: channels, videos, then the snowball lock, then
rows of the queue. So store a page as one `ingest_video_metadata`, then `add_to_search_queue`, then
`update_search_state`, and only one page in a transaction.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Protocol
from uuid import UUID, uuid4

import orjson

from atlas.adapters.dao import clean_text
from atlas.adapters.tracking import TrackingDAO
from atlas.clock import Clock
from atlas.config import Settings
from atlas.db import Executor, Row
from atlas.errors import DatabaseError, DataRefused, LeaseLost

LONGEST_QUERY = 200
SEED_WEIGHT = 2.0**1000
"""Puts a seed 1,000 half-lives ahead of a tag that was mentioned once."""

_LEASE_LOST = "PL001"
_MOST_WOKEN = 1000
_MOST_REMEMBERED = 10_000

log = logging.getLogger(__name__)


class VideoData(Protocol):
    """A video as the API told it; None is what it left out."""

    @property
    def id(self) -> str: ...
    @property
    def channel_id(self) -> str: ...
    @property
    def channel_title(self) -> str | None: ...
    @property
    def title(self) -> str | None: ...
    @property
    def description(self) -> str | None: ...
    @property
    def published_at(self) -> datetime | None: ...
    @property
    def category_id(self) -> int | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def duration_s(self) -> int | None: ...
    @property
    def live_broadcast_content(self) -> str | None: ...
    @property
    def default_language(self) -> str | None: ...
    @property
    def view_count(self) -> int | None: ...
    @property
    def like_count(self) -> int | None: ...
    @property
    def comment_count(self) -> int | None: ...
    @property
    def etag(self) -> str | None: ...


_VIDEO_FIELDS = tuple(name for name in vars(VideoData) if isinstance(vars(VideoData)[name], property))
_values_of = attrgetter(*_VIDEO_FIELDS)


class TopicStatus(StrEnum):
    """What the queue does with a topic."""

    ACTIVE = "active"
    COOLING = "cooling"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Topic:
    """A claimed topic: what to search for, and where its current run stands, as the claim returns it."""

    id: int
    query: str
    origin: str
    priority: float
    lease_token: UUID
    claimed_at: datetime
    attempts: int
    page_token: str | None
    page_params: Mapping[str, Any] | None
    page_issued_at: datetime | None
    published_after: datetime | None
    searched_at: datetime | None
    pages: int
    results: int
    new_videos: int
    restarts: int
    last_page_digest: str | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class ParkedTopic:
    """A topic that a claim parked, and why."""

    id: int
    query: str
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim brought."""

    topics: tuple[Topic, ...]
    parked: tuple[ParkedTopic, ...]
    woken: int


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """What a search brought, or why it can't; see `MaiaDAO.update_search_state`."""

    topic_id: int
    next_token: str | None
    count: int
    status: TopicStatus | str
    lease_token: UUID | None = None
    params: Mapping[str, Any] | None = None
    issued_at: datetime | None = None
    new: int = 0
    pages: int = 1
    page_digest: str | None = None
    restarted: bool = False
    cool_until: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Mention:
    """A tag, and how often it was met; `weight` is what that counts for, by default the same."""

    tag: str
    count: int = 1
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch of videos."""

    new_ids: frozenset[str]
    updated: int
    channels_new: int

    @property
    def new(self) -> int:
        return len(self.new_ids)


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """A topic as `maia queue` shows it."""

    id: int
    query: str
    origin: str
    status: TopicStatus
    mention_count: int
    attempts: int
    lease_owner: str | None
    lease_until: datetime | None
    cool_until: datetime | None
    last_error: str | None
    searched_at: datetime | None
    published_after: datetime | None
    pages_total: int
    results_total: int
    new_videos_total: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Topics by status; `leased` and `waiting` (after a failure) are among the active."""

    active: int
    cooling: int
    parked: int
    leased: int
    waiting: int


@dataclass(frozen=True, slots=True)
class TopVideo:
    """A video of the leaderboard."""

    id: str
    title: str | None
    channel_title: str | None
    view_count: int
    published_at: datetime | None


@dataclass(frozen=True, slots=True)
class Discoveries:
    """How much there is."""

    videos: int
    channels: int
    topics: int
    pages: int


class MaiaDAO(TrackingDAO):
    """The documented door to the queue, the videos and the channels, and to their clock.

    Without an executor, clock or settings it takes those of the current Atlas.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        clock: Clock | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(executor, clock=clock, settings=settings)
        self._tokens: dict[int, UUID] = {}

    # Claims

    async def fetch_hunter_batch(self, batch_size: int) -> list[Topic]:
        """Lease up to `batch_size` topics, highest priority first; see `claim_topics`."""
        return list((await self.claim_topics(batch_size)).topics)

    async def claim_topics(self, batch_size: int) -> Claim:
        """Wake what has cooled, then lease topics; those whose attempts are used up are parked instead."""
        if batch_size < 1:
            raise DataRefused(f"batch_size is {batch_size}: claim at least 1 topic")
        claimed = await self._claim(batch_size, unless_due=True)
        topics, parked, woken = [*_leased(claimed)], [*_parked(claimed)], 0
        while len(topics) < batch_size:
            woken += await self.wake_topics()
            claimed = await self._claim(batch_size - len(topics), unless_due=False)
            topics += _leased(claimed)
            parked += _parked(claimed)
            if not _parked(claimed):
                break
        for topic in parked:
            log.warning("parked topic %r: %s", topic.query, topic.reason, extra={"action": "topic_parked"})
        topics.sort(key=lambda topic: (-topic.priority, topic.id))
        return Claim(tuple(topics), tuple(parked), woken)

    async def _claim(self, most: int, *, unless_due: bool) -> list[Row]:
        hunter, token = self._settings.hunter, uuid4()
        rows = await self._executor.fetch(
            "maia.claim_topics",
            most,
            self._owner,
            token,
            hunter.lease_s,
            hunter.max_attempts,
            self._clock.now(),
            unless_due,
            self._alone,
        )
        self._tokens |= {row["id"]: token for row in rows}
        while len(self._tokens) > _MOST_REMEMBERED:
            del self._tokens[next(iter(self._tokens))]
        return rows

    async def wake_topics(self) -> int:
        """Put topics whose pause is over back into the queue; how many. Claims do it by themselves."""
        return await self._executor.execute("maia.wake_topics", self._clock.now(), _MOST_WOKEN)

    async def update_search_state(
        self,
        topic_id: int,
        next_token: str | None,
        count: int,
        status: TopicStatus | str,
        *,
        lease_token: UUID | None = None,
        params: Mapping[str, Any] | None = None,
        issued_at: datetime | None = None,
        new: int = 0,
        page_digest: str | None = None,
        restarted: bool = False,
        cool_until: datetime | None = None,
        error: str | None = None,
    ) -> None:
        """Acknowledge a page of `count` results, `new` of them unknown before, and give the topic back.

        ACTIVE goes on at `next_token`, kept with the `params` and the instant it was issued for (None: from
        the first page); COOLING ends the run until `cool_until` (default: settings); PARKED needs `error`.
        `restarted` says that this page was the first of a run begun anew. Without `lease_token`, that of this
        DAO's last claim of the topic counts. Raises LeaseLost, and stores nothing, if the topic is no longer
        held under it.
        """
        outcome = TopicOutcome(
            topic_id, next_token, count, status, lease_token, params, issued_at, new, 1, page_digest,
            restarted, cool_until, error,
        )  # fmt: skip
        await self.update_search_states([outcome])

    async def update_search_states(self, outcomes: Sequence[TopicOutcome]) -> None:
        """The set-based twin of `update_search_state`: all of them, or LeaseLost and none."""
        if not outcomes:
            return
        columns = zip(*map(self._outcome_row, outcomes), strict=True)
        try:
            await self._executor.execute("maia.update_search_states", *columns)
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlstate", None) != _LEASE_LOST:
                raise
            ids = ", ".join(str(outcome.topic_id) for outcome in outcomes[:10])
            raise LeaseLost(f"a lease on topic {ids} was lost: nothing was stored; claim it again") from error

    def _outcome_row(self, outcome: TopicOutcome) -> tuple[Any, ...]:
        """The outcome as the statement takes it, in the order of its parameters."""
        status = TopicStatus(outcome.status)
        if status is TopicStatus.PARKED and not outcome.error:
            raise DataRefused(f"topic {outcome.topic_id} is to be parked: say why (error=…)")
        cool_until = page_token = params = issued_at = None
        if status is TopicStatus.COOLING:
            pause = timedelta(seconds=self._settings.hunter.cooling_s)
            cool_until = outcome.cool_until or self._clock.now() + pause
        elif outcome.next_token is not None:
            page_token, params = clean_text(outcome.next_token), _json(outcome.params or {})
            issued_at = outcome.issued_at or self._clock.now()
        return (
            outcome.topic_id,
            self._token_of(outcome.topic_id, outcome.lease_token),
            status,
            cool_until,
            outcome.error and clean_text(outcome.error),
            page_token,
            params,
            issued_at,
            outcome.restarted,
            outcome.pages,
            outcome.count,
            outcome.new,
            outcome.page_digest,
        )

    async def release_topics(
        self,
        topics: Iterable[Topic],
        *,
        error: str | None = None,
        retry_after_s: float = 0,
        count_attempt: bool = True,
    ) -> int:
        """Give claims back unserved, in one statement; how many were still held.

        They may be claimed again after `retry_after_s`, doubled for each attempt before this one, up to a
        day. A topic whose attempts are used up is parked with `error`, unless this attempt is not to count.
        """
        held = list(topics)
        return await self._executor.execute(
            "maia.release_topics",
            [topic.id for topic in held],
            [topic.lease_token for topic in held],
            None if error is None else clean_text(error),
            float(retry_after_s),
            count_attempt,
            self._settings.hunter.max_attempts,
        )

    def _token_of(self, topic_id: int, token: UUID | None) -> UUID:
        token = token or self._tokens.get(topic_id)
        if token is None:
            raise LeaseLost(f"topic {topic_id} was not claimed here: claim it, or pass its lease_token")
        return token

    # Videos

    async def ingest_video_metadata(
        self,
        video_data: Sequence[VideoData] | VideoData,
        *,
        fetched_at: datetime | None = None,
        discovered_by: int | None = None,
    ) -> Ingested:
        """Store videos and their channels in one statement: insert the new, refresh the known.

        A refresh keeps `discovered_at` and `discovered_by`, and never undoes what was fetched later. Hidden
        counts become NULL where the statistics were fetched (`view_count` is there); a part that was not
        fetched keeps its old values. Several entries of one id are merged, the last one first.
        """
        videos = video_data if isinstance(video_data, Sequence) else [video_data]
        payload = _json(_merged_rows(videos))
        clock = self._settings.tracker
        row = await self._executor.fetchrow(
            "maia.ingest_videos",
            payload,
            fetched_at or self._clock.now(),
            discovered_by,
            clock.hot_until_h,
            clock.warm_until_h,
            (clock.hot_interval_h, clock.warm_interval_h, clock.cold_interval_h),
        )
        assert row is not None
        new_ids = frozenset(row["new_ids"] or ())
        return Ingested(new_ids, row["stored"] - len(new_ids), row["new_channels"])

    async def top_videos(self, most: int = 10) -> list[TopVideo]:
        """The videos seen most often."""
        return [TopVideo(**row) for row in await self._executor.fetch("maia.top_videos", most)]

    async def discoveries(self) -> Discoveries:
        """Count everything there is."""
        row = await self._executor.fetchrow("maia.count_discoveries")
        assert row is not None
        return Discoveries(**row)

    # The queue

    async def add_to_search_queue(self, tags: Iterable[str | Mention], *, origin: str = "tag") -> int:
        """Add mentions to the topics that exist and create the others; how many were created and kept.

        At the queue's cap the tags of lowest priority that were never searched, these among them, make room.
        What can't be a query (blank, or longer than 200 characters) is left out.
        """
        mentions = _merged_mentions(tags)
        if not mentions:
            return 0
        queries, counts, weights = zip(*mentions, strict=True)
        async with self._snowball() as executor:
            row = await executor.fetchrow(
                "maia.add_topics", queries, counts, weights, origin, self._clock.now()
            )
            assert row is not None
            return int(row["added"]) - await self._trim(executor, row["topics"], queries)

    async def _trim(self, executor: Executor, topics: int, queries: Sequence[str]) -> int:
        excess = topics - self._settings.hunter.queue_cap
        return await executor.fetchval("maia.trim_queue", excess, queries) if excess > 0 else 0

    async def seed(self, queries: Iterable[str]) -> int:
        """Put queries ahead of all tags, in their order; how many are new in the queue or active again.

        A seed is never refused for the queue's cap. DataRefused names the query that can't be one.
        """
        wanted = dict.fromkeys(map(query_of, queries))
        async with self._snowball() as executor:
            row = await executor.fetchrow("maia.seed_topics", list(wanted), SEED_WEIGHT, self._clock.now())
            assert row is not None
            await self._trim(executor, row["topics"], [])
            return int(row["added"] + row["reactivated"])

    async def park_topics(self, topics: Iterable[int | str], reason: str) -> int:
        """Take topics, by id or query, out of the queue; how many. Whoever holds one loses its lease."""
        ids, queries = _ids_and_queries(topics)
        async with self._snowball() as executor:
            return await executor.execute("maia.park_topics", ids, queries, clean_text(reason))

    async def retry_topics(self, topics: Iterable[int | str] | None = None) -> int:
        """Put parked topics (None: all of them) back, and end the pause of failed ones; how many."""
        ids, queries = _ids_and_queries(topics or ())
        async with self._snowball() as executor:
            return await executor.execute(
                "maia.retry_topics", ids, queries, topics is None, self._clock.now()
            )

    async def list_topics(
        self, status: TopicStatus | str | None = None, most: int = 50
    ) -> list[TopicSummary]:
        """Topics of a status (None: any), highest priority first."""
        wanted = None if status is None else TopicStatus(status)
        rows = await self._executor.fetch("maia.list_topics", wanted, most)
        return [TopicSummary(**{**row, "status": TopicStatus(row["status"])}) for row in rows]

    async def queue_counts(self) -> QueueCounts:
        """How the queue stands."""
        row = await self._executor.fetchrow("maia.count_topics")
        assert row is not None
        return QueueCounts(**row)

    async def tag_mentions(self, tags: Iterable[str]) -> dict[str, int]:
        """How often each tag was mentioned so far, by the tag as given; 0 if the queue doesn't know it."""
        queries = {tag: normalised_query(tag) for tag in tags}
        rows = await self._executor.fetch("maia.tag_mentions", list(set(queries.values())))
        counts = {row["query"]: row["mention_count"] for row in rows}
        return {tag: counts.get(query, 0) for tag, query in queries.items()}

    async def top_topics(self, most: int = 10) -> list[tuple[str, int]]:
        """The topics mentioned most often, with how often."""
        rows = await self._executor.fetch("maia.top_topics", most)
        return [(row["query"], row["mention_count"]) for row in rows]

    # Transactions

    @asynccontextmanager
    async def _snowball(self) -> AsyncIterator[Executor]:
        """A transaction that alone adds to the queue, with scores of the half-life in the settings."""
        half_life_s = self._settings.hunter.half_life_h * 3600
        async with self._atomic() as executor:
            if await executor.fetchval("maia.lock_snowball") != half_life_s:
                log.warning(
                    "the queue's half-life becomes %g h: all its priorities are rewritten",
                    half_life_s / 3600,
                    extra={"action": "queue_rescaled"},
                )
                await executor.execute("maia.rescale_scores", half_life_s, self._clock.now())
            yield executor


@lru_cache(_MOST_REMEMBERED)
def normalised_query(text: str) -> str:
    """The form in which equal queries are equal: NFKC, case-folded, single spaces; stable under itself."""
    while True:
        folded = unicodedata.normalize("NFKC", clean_text(text)).casefold()
        folded = " ".join(folded.split())
        if folded == text:
            return folded
        text = folded


def query_of(text: str) -> str:
    """The query that `text` stands for; DataRefused if it can't be one."""
    query = normalised_query(text)
    if not query:
        raise DataRefused("a query is blank: give at least one word")
    if len(query) > LONGEST_QUERY:
        raise DataRefused(
            f"the query {query[:40]!r}… has {len(query)} characters: use at most {LONGEST_QUERY}"
        )
    return query


def _json(value: Any) -> str:
    """The value as JSON, with its texts cleaned if one of them needs it."""
    try:
        payload = orjson.dumps(value)
        if rb"\u0000" not in payload:
            return payload.decode()
        return orjson.dumps(_cleaned(value)).decode()
    except TypeError as error:
        if "surrogate" not in str(error):
            raise DataRefused(f"a value can't be stored: {error}") from error
        return orjson.dumps(_cleaned(value)).decode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value


def _merged_rows(videos: Iterable[VideoData]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for video in videos:
        row = dict(zip(_VIDEO_FIELDS, _values_of(video), strict=True))
        if video.id in rows:
            row = rows[video.id] | {name: value for name, value in row.items() if value not in (None, ())}
        rows[video.id] = row
    return list(rows.values())


def _merged_mentions(tags: Iterable[str | Mention]) -> list[tuple[str, int, float]]:
    """Query, count and weight, summed by query and sorted by it."""
    sums: dict[str, tuple[int, float]] = {}
    for tag in tags:
        mention = tag if isinstance(tag, Mention) else Mention(tag)
        query = normalised_query(mention.tag)
        if 0 < len(query) <= LONGEST_QUERY:
            count, weight = sums.get(query, (0, 0.0))
            own = mention.count if mention.weight is None else mention.weight
            sums[query] = (count + mention.count, weight + own)
    return sorted((query, count, weight) for query, (count, weight) in sums.items())


def _ids_and_queries(topics: Iterable[int | str]) -> tuple[list[int], list[str]]:
    given = list(topics)
    ids = [topic for topic in given if isinstance(topic, int)]
    return ids, [normalised_query(topic) for topic in given if isinstance(topic, str)]


def _leased(rows: Iterable[Row]) -> list[Topic]:
    return [Topic(*row) for row in rows if row["lease_token"] is not None]


def _parked(rows: Iterable[Row]) -> list[ParkedTopic]:
    return [
        ParkedTopic(row["id"], row["query"], row["last_error"]) for row in rows if row["lease_token"] is None
    ]

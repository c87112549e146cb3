"""The search queue: topics in order of priority, claims on them, and the outcomes of searches."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from atlas.adapters.dao import DAO, json_text
from atlas.clock import Clock
from atlas.config import Settings
from atlas.db import Executor, Row
from atlas.errors import DatabaseError, DataRefused, LeaseLost
from atlas.queries import LONGEST_QUERY, SearchParameters, clean_text, query_of, shown_query, topic_key

SEED_WEIGHT = 2.0**1000
"""Puts a seed 1,000 half-lives ahead of a tag that was mentioned once."""

_LEASE_LOST = "PL001"
_WAKE_LIMIT = 1000
_MOST_SPELLINGS = 8
_MAX_REMEMBERED_TOKENS = 10_000

log = logging.getLogger(__name__)


class TopicStatus(StrEnum):
    """A topic's state: waiting to be searched, resting until it may be searched again, or taken out."""

    ACTIVE = "active"
    COOLING = "cooling"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Topic:
    """A claimed topic: what to search for, and the progress of its current run, as the claim returns it."""

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
    refusals: int
    """How often in a row it was refused without being charged for it."""
    last_page_digest: str | None
    last_error: str | None
    parameters: SearchParameters = field(default_factory=SearchParameters)

    @property
    def search_after(self) -> datetime | None:
        """The publication time from which to search: the topic's own, or the last run's if that is later."""
        starts = (self.published_after, self.parameters.published_after)
        return max((start for start in starts if start), default=None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A free topic that may be asked about, with what is known of its yield."""

    id: int
    query: str
    key: str
    origin: str
    priority: float
    mention_count: int
    growing_mentions: int
    asks_total: float
    early_total: int
    judged_total: int
    early_growing_total: int
    asked_at: datetime | None
    has_page: bool
    page_params: Mapping[str, Any] | None
    page_issued_at: datetime | None
    parameters: SearchParameters = field(default_factory=SearchParameters)

    @property
    def is_untried_seed(self) -> bool:
        return self.origin == "seed" and self.asks_total == 0


@dataclass(frozen=True, slots=True)
class ParkedTopic:
    """A topic that a claim parked, and why."""

    id: int
    query: str
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The topics that were claimed and parked, and how many were woken."""

    topics: tuple[Topic, ...]
    parked: tuple[ParkedTopic, ...]
    woken: int


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """The outcome of searching a page of a topic; see `QueueDAO.update_search_state`."""

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
    asks: float | None = None
    """How much of a question was about this topic, by default one per page."""
    early: int = 0
    """Videos that it found within 24 hours of publication."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A tag and how often it was found; `weight` is what that adds to its priority, by default `count`."""

    tag: str
    count: int = 1
    weight: float | None = None


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
    asks_total: float
    """How often it was asked about; a question about n topics counts as 1/n for each."""
    pages_total: int
    results_total: int
    new_videos_total: int
    judged_total: int
    early_growing_total: int
    created_at: datetime
    parameters: SearchParameters = field(default_factory=SearchParameters)


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Topics by status; `leased` and `waiting` (after a failure) are among the active."""

    active: int
    cooling: int
    parked: int
    leased: int
    waiting: int


class QueueDAO(DAO):
    """Claims topics, stores the outcomes of searches, and adds, parks and lists topics."""

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
        """Wake topics that have cooled, then lease topics; park those whose attempts are used up instead."""
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
        return _claim_of(topics, parked, woken)

    async def candidates(self, most: int, head: int) -> list[Candidate]:
        """Topics to choose from: the `most` of highest priority, and as many that were never asked about.

        The latter are sought among the first `head`.
        """
        rows = await self._executor.fetch("queue.topic_candidates", most, head)
        return [Candidate(**_with_parameters(row)) for row in rows]

    async def claim_chosen_topics(self, ids: Iterable[int]) -> Claim:
        """Lease those of the topics that are still free; park those whose attempts are used up instead."""
        hunter, token, wanted = self._settings.hunter, uuid4(), sorted(set(ids))
        rows = await self._executor.fetch(
            "queue.claim_chosen_topics",
            wanted,
            self._owner,
            token,
            hunter.lease_s,
            hunter.max_attempts,
            self._clock.now(),
            self._autocommits,
        )
        self._remember(token, rows)
        return _claim_of(_leased(rows), _parked(rows), 0)

    async def _claim(self, most: int, *, unless_due: bool) -> list[Row]:
        hunter, token = self._settings.hunter, uuid4()
        rows = await self._executor.fetch(
            "queue.claim_topics",
            most,
            self._owner,
            token,
            hunter.lease_s,
            hunter.max_attempts,
            self._clock.now(),
            unless_due,
            self._autocommits,
        )
        self._remember(token, rows)
        return rows

    def _remember(self, token: UUID, rows: Iterable[Row]) -> None:
        self._tokens |= {row["id"]: token for row in rows}
        while len(self._tokens) > _MAX_REMEMBERED_TOKENS:
            del self._tokens[next(iter(self._tokens))]

    async def wake_topics(self) -> int:
        """Return topics that have cooled to the queue; returns how many. Claims do this themselves."""
        return await self._executor.execute("queue.wake_topics", self._clock.now(), _WAKE_LIMIT)

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
        """Store the outcome of a page with `count` results, `new` of them unknown before; ends the claim.

        ACTIVE continues at `next_token` (None: from the first page), stored with its `params` and the instant
        it was issued. COOLING ends the run until `cool_until` (default: the settings' pause). PARKED needs
        `error`. `restarted` says that this page was the first of a run that started over. `lease_token`
        defaults to that of this DAO's last claim of the topic. If the topic is no longer held under it,
        LeaseLost is raised and nothing is stored.
        """
        outcome = TopicOutcome(
            topic_id, next_token, count, status, lease_token, params, issued_at, new, 1, page_digest,
            restarted, cool_until, error,
        )  # fmt: skip
        await self.update_search_states([outcome])

    async def update_search_states(self, outcomes: Sequence[TopicOutcome]) -> None:
        """Like `update_search_state` for several topics at once: stores all of them, or none on LeaseLost."""
        if not outcomes:
            return
        columns = zip(*map(self._outcome_row, outcomes), strict=True)
        try:
            await self._executor.execute("queue.update_search_states", *columns)
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlstate", None) != _LEASE_LOST:
                raise
            ids = ", ".join(str(outcome.topic_id) for outcome in outcomes[:10])
            raise LeaseLost(f"a lease on topic {ids} was lost: nothing was stored; claim it again") from error

    async def count_asks(self, topics: Sequence[int], asks: float, early: Mapping[int, int]) -> None:
        """Count that topics were asked about without a claim, and the early videos of each found."""
        found = [early.get(topic, 0) for topic in topics]
        await self._executor.execute("queue.count_asks", topics, asks, found)

    def _outcome_row(self, outcome: TopicOutcome) -> tuple[Any, ...]:
        """The outcome as parameters of the statement, in order."""
        status = TopicStatus(outcome.status)
        if status is TopicStatus.PARKED and not outcome.error:
            raise DataRefused(f"topic {outcome.topic_id} cannot be parked without a reason (error=…)")
        cool_until = page_token = params = issued_at = None
        if status is TopicStatus.COOLING:
            pause = timedelta(seconds=self._settings.hunter.cooling_s)
            cool_until = outcome.cool_until or self._clock.now() + pause
        elif outcome.next_token is not None:
            page_token, params = clean_text(outcome.next_token), json_text(outcome.params or {})
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
            float(outcome.pages) if outcome.asks is None else outcome.asks,
            outcome.early,
        )

    async def release_topics(
        self,
        topics: Iterable[Topic],
        *,
        error: str | None = None,
        retry_after_s: float = 0,
        count_attempt: bool = True,
    ) -> int:
        """Release claims without a result, in one statement; returns how many were still held.

        They may be claimed again after `retry_after_s`, doubled for each earlier attempt and uncounted
        refusal, up to a day, or up to an hour if this attempt does not count. A topic whose attempts are used
        up is parked with `error`, unless this attempt does not count.
        """
        held = list(topics)
        return await self._executor.execute(
            "queue.release_topics",
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

    # Topics

    async def add_to_search_queue(self, tags: Iterable[str | Mention], *, origin: str = "tag") -> int:
        """Add mentions to existing topics and create the others; returns how many were created and kept.

        A topic that is not a seed is searched and shown in its most common spelling. At the queue's cap, tags
        of the lowest priority that were never searched are deleted, which may include new ones. Tags that
        can't be a query (blank, or longer than 200 characters) are ignored.
        """
        mentions = _merged_mentions(tags)
        if not mentions:
            return 0
        keys, spellings = list(mentions), [each.commonest for each in mentions.values()]
        columns = (
            keys,
            [json_text(each) for each in spellings],
            [next(iter(each)) for each in spellings],
            [each.count for each in mentions.values()],
            [each.weight for each in mentions.values()],
        )
        async with self._snowball() as executor:
            row = await executor.fetchrow("queue.add_topics", *columns, origin, self._clock.now())
            assert row is not None
            return int(row["added"]) - await self._trim(executor, row["topics"], keys)

    async def _trim(self, executor: Executor, topics: int, keys: Sequence[str]) -> int:
        excess = topics - self._settings.hunter.queue_cap
        return await executor.fetchval("queue.trim_queue", excess, keys) if excess > 0 else 0

    async def seed(self, queries: Iterable[str], parameters: SearchParameters | None = None) -> int:
        """Put queries ahead of all tags, in order; returns how many are new in the queue or active again.

        They are searched as they are typed here, all with the same `parameters`. The queue's cap does not
        apply to seeds. DataRefused names a query that is blank or too long, and a search of the future.
        """
        after, now = (parameters or SearchParameters()).published_after, self._clock.now()
        if after is not None and after > now:
            raise DataRefused(f"published_after ({after}) is in the future: nothing is published then yet")
        wanted: dict[str, str] = {}
        for query in map(query_of, queries):
            wanted.setdefault(topic_key(query), query)
        given = json_text((parameters or SearchParameters()).as_json())
        async with self._snowball() as executor:
            row = await executor.fetchrow(
                "queue.seed_topics", [*wanted.values()], [*wanted], given, SEED_WEIGHT, now
            )
            assert row is not None
            await self._trim(executor, row["topics"], [])
            return int(row["added"] + row["reactivated"])

    async def park_topics(self, topics: Iterable[int | str], reason: str) -> int:
        """Take topics out of the queue, by id or query (with any parameters); returns how many.

        A claim on one of them is lost.
        """
        ids, keys = _ids_and_keys(topics)
        async with self._snowball() as executor:
            return await executor.execute("queue.park_topics", ids, keys, clean_text(reason))

    async def retry_topics(self, topics: Iterable[int | str] | None = None) -> int:
        """Return parked topics (None: all) to the queue, and end failed ones' pauses; returns how many."""
        ids, keys = _ids_and_keys(topics or ())
        async with self._snowball() as executor:
            return await executor.execute("queue.retry_topics", ids, keys, topics is None, self._clock.now())

    async def list_topics(
        self, status: TopicStatus | str | None = None, most: int = 50
    ) -> list[TopicSummary]:
        """Topics of a status (None: any), highest priority first."""
        return [topic for _, topic in await self.page_of_topics(status, most)]

    async def topics_by_yield(self, most: int, fewest_asks: float = 1.0) -> list[TopicSummary]:
        """Topics that were asked about so often, those with the most growing videos a question first."""
        return _summaries(await self._executor.fetch("queue.topics_by_yield", most, fewest_asks))

    async def topic_ids(self, named: Sequence[int | str]) -> list[int]:
        """The ids of topics named by id or query (with any parameters), not more than are named."""
        rows = await self._executor.fetch("queue.topic_ids", *_ids_and_keys(named), len(named))
        return [row["id"] for row in rows]

    async def topics_of(self, keys: Iterable[str]) -> dict[str, TopicSummary]:
        """The topics with these keys, by key; of equal ones that with the fewest search parameters."""
        found = _summaries(await self._executor.fetch("queue.topics_of", list(keys)))
        return {topic_key(each.query): each for each in found}

    async def page_of_topics(
        self, status: TopicStatus | str | None, most: int, after: tuple[float, int] | None = None
    ) -> list[tuple[float, TopicSummary]]:
        """Topics with their priorities, highest first, after the one with this priority and id."""
        wanted = None if status is None else TopicStatus(status)
        rows = await self._executor.fetch("queue.page_of_topics", wanted, most, *(after or (None, None)))
        page = []
        for row in rows:
            columns = _with_parameters(row) | {"status": TopicStatus(row["status"])}
            page.append((columns.pop("priority"), TopicSummary(**columns)))
        return page

    async def queue_counts(self) -> QueueCounts:
        """Counts of the queue's topics by status."""
        row = await self._executor.fetchrow("queue.count_topics")
        assert row is not None
        return QueueCounts(**row)

    async def next_wake_at(self) -> datetime | None:
        """When the first cooling topic may be searched again; None if none cools."""
        at: datetime | None = await self._executor.fetchval("queue.next_wake")
        return at

    async def topic_queries(self, ids: Iterable[int]) -> dict[int, str]:
        """What these topics search for; those that are no longer stored are missing."""
        return {row["id"]: row["query"] for row in await self._executor.fetch("queue.topic_queries", [*ids])}

    async def tag_mentions(self, tags: Iterable[str]) -> dict[str, int]:
        """How often each tag has been mentioned, by the tag as given; 0 if it is not in the queue."""
        keys = {tag: topic_key(tag) for tag in tags}
        rows = await self._executor.fetch("queue.tag_mentions", list(set(keys.values())))
        counts = {row["key"]: row["mention_count"] for row in rows}
        return {tag: counts.get(key, 0) for tag, key in keys.items()}

    async def top_topics(self, most: int = 10) -> list[tuple[str, int]]:
        """The topics mentioned most often, and how often."""
        rows = await self._executor.fetch("queue.top_topics", most)
        return [(row["query"], row["mention_count"]) for row in rows]

    # Transactions

    @asynccontextmanager
    async def _snowball(self) -> AsyncIterator[Executor]:
        """A transaction with the exclusive right to add topics; rescales scores if the half-life changed."""
        half_life_s = self._settings.hunter.half_life_h * 3600
        async with self._atomic() as executor:
            if await executor.fetchval("queue.lock_snowball") != half_life_s:
                log.warning(
                    "The queue's half-life changes to %g h: all priorities are recomputed",
                    half_life_s / 3600,
                    extra={"action": "queue_rescaled"},
                )
                await executor.execute("queue.rescale_scores", half_life_s, self._clock.now())
            yield executor


@dataclass(slots=True)
class _Mentions:
    """The mentions of one topic."""

    count: int = 0
    weight: float = 0.0
    spellings: Counter[str] = field(default_factory=Counter)

    @property
    def commonest(self) -> dict[str, int]:
        """The commonest spellings, most mentions first."""
        ranked = sorted(self.spellings.items(), key=lambda spelling: (-spelling[1], spelling[0]))
        return dict(ranked[:_MOST_SPELLINGS])


def _merged_mentions(tags: Iterable[str | Mention]) -> dict[str, _Mentions]:
    """The mentions by topic key, sorted by it."""
    mentions: defaultdict[str, _Mentions] = defaultdict(_Mentions)
    for tag in tags:
        mention = tag if isinstance(tag, Mention) else Mention(tag)
        key, query = topic_key(mention.tag), shown_query(mention.tag)
        if key and max(len(key), len(query)) <= LONGEST_QUERY:
            topic = mentions[key]
            topic.count += mention.count
            topic.weight += mention.count if mention.weight is None else mention.weight
            topic.spellings[query] += mention.count
    return dict(sorted(mentions.items()))


def _ids_and_keys(topics: Iterable[int | str]) -> tuple[list[int], list[str]]:
    given = list(topics)
    ids = [topic for topic in given if isinstance(topic, int)]
    return ids, [topic_key(topic) for topic in given if isinstance(topic, str)]


def _claim_of(topics: list[Topic], parked: list[ParkedTopic], woken: int) -> Claim:
    for topic in parked:
        log.warning("Parked topic %r: %s", topic.query, topic.reason, extra={"action": "topic_parked"})
    topics.sort(key=lambda topic: (-topic.priority, topic.id))
    return Claim(tuple(topics), tuple(parked), woken)


def _leased(rows: Iterable[Row]) -> list[Topic]:
    return [Topic(**_with_parameters(row)) for row in rows if row["lease_token"] is not None]


def _with_parameters(row: Row) -> dict[str, Any]:
    return {**row, "parameters": SearchParameters.of_json(row["parameters"] or {})}


def _summaries(rows: Iterable[Row]) -> list[TopicSummary]:
    return [TopicSummary(**{**_with_parameters(row), "status": TopicStatus(row["status"])}) for row in rows]


def _parked(rows: Iterable[Row]) -> list[ParkedTopic]:
    return [
        ParkedTopic(row["id"], row["query"], row["last_error"]) for row in rows if row["lease_token"] is None
    ]

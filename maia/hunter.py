"""The hunter: searches the queue's topics, stores what it finds, and queues the tags of what is new.

A cycle claims a batch of topics and takes each through search → enrich → ingest, several at once. A page is
acknowledged in the transaction that stores its videos and tags, so that whatever ends a cycle costs only the
pages then under way: the next cycle asks for them again.

What a failure means for its topic (`skipped` counts them by these names):

ring_closed      no quota now: given back, as all that are left, until the ring reopens
network          no answer, or none that is whole: tried again later; no answer at all never parks
page_token       YouTube forgot the place in the results: the search begins anew, up to three times a run
bad_request      the query itself is refused: tried again later, parked when its attempts are used up
vault            a required vault refused the page: given back, as all that are left
database         the page could not be stored: tried again later, or given back if the server is away
lease_lost       it took too long and somebody else has the topic
late             the batch took half its lease: what was not begun by then is given back
rate_limited     a 429: every claim is given back and the process ends with status 75
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Protocol

from atlas.adapters.maia import MaiaDAO, Mention, ParkedTopic, Topic, TopicOutcome, TopicStatus
from atlas.composition import Atlas
from atlas.config import Bucket, Settings
from atlas.errors import (
    DatabaseError,
    DatabaseUnavailable,
    LeaseLost,
    RingClosed,
    VaultError,
)
from atlas.keyring import Grant, KeyRing
from maia import sessions
from maia.budget import units_now
from maia.cycles import (
    SETTLED_WITHIN_S,
    Closing,
    Cycle,
    CycleStatistics,
    directly,
    keep_answers,
    refuse_nothing,
    repeated,
)
from maia.tags import TagRules
from maia.youtube.client import YouTube
from maia.youtube.errors import (
    BadRequest,
    Gone,
    QuotaExhausted,
    Transient,
)
from maia.youtube.resources import Video

logger = logging.getLogger(__name__)

MOST_RESTARTS = 3
"""How often a run may begin anew because YouTube forgot its place; then what it found has to do."""

_SKIPPED = (
    RingClosed, QuotaExhausted, BadRequest, Gone, Transient, VaultError, LeaseLost, DatabaseError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """The topics to hunt now; none where `closing` says why."""

    topics: tuple[Topic, ...] = ()
    parked: tuple[ParkedTopic, ...] = ()
    closing: Closing | None = None


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A page of search results: ids only, as search.list knows little else."""

    topic: Topic
    params: Mapping[str, Any]
    begins: bool
    ids: tuple[str, ...]
    next_token: str | None
    asked_at: datetime
    grant: Grant | None = None
    """What pays for asking what its videos are."""

    @property
    def digest(self) -> str:
        return blake2b(",".join(self.ids).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class EnrichedPage:
    """A page with what videos.list tells of its videos; deleted and private ones are missing."""

    found: FoundPage
    videos: tuple[Video, ...]
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class StoredPage:
    """What an acknowledged page brought."""

    found: int
    new: int
    updated: int
    tags: int
    exhausted: bool


class Steps(Protocol):
    """The four steps of a cycle: the hunter's own, or wrapped, as the flow does to show each as a task."""

    async def fetch_batch(self, batch_size: int) -> Batch: ...
    async def search(self, topic: Topic) -> FoundPage: ...
    async def enrich(self, page: FoundPage) -> EnrichedPage: ...
    async def ingest(self, page: EnrichedPage) -> StoredPage: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(CycleStatistics):
    """What one or more cycles did; `topics` = `pages` + the sum of `skipped`."""

    topics: int = 0
    pages: int = 0
    found: int = 0
    new: int = 0
    updated: int = 0
    tags: int = 0
    exhausted: int = 0
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A topic is through: its page, or why it was skipped; `done` of `claimed` in this cycle."""

    cycle: int
    query: str
    page: StoredPage | None
    skipped: str | None
    done: int
    claimed: int


OnProgress = Callable[[Progress], None]


class Hunter:
    """The four steps over an Atlas, and the cycle that they make up."""

    def __init__(self, atlas: Atlas, youtube: YouTube, keys: KeyRing, dao: MaiaDAO, rules: TagRules) -> None:
        self.atlas, self.youtube, self.keys, self.dao, self.rules = atlas, youtube, keys, dao, rules
        self.settings = atlas.settings.hunter
        self.session = sessions.id_of_run()

    @classmethod
    @asynccontextmanager
    async def open(cls, atlas: Atlas) -> AsyncIterator[Hunter]:
        """A hunter with a client of its own; ConfigError (EmptyKeyRing) if the settings allow none."""
        rules = TagRules.of(atlas.settings.hunter)
        keys = KeyRing("hunting", atlas=atlas)
        dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        async with (
            keys.settling_together(SETTLED_WITHIN_S),
            YouTube.open(atlas.settings.youtube, keys, clock=atlas.clock) as youtube,
        ):
            yield cls(atlas, youtube, keys, dao, rules)

    async def cycle(
        self,
        batch_size: int | None = None,
        *,
        number: int = 1,
        steps: Steps | None = None,
        on_progress: OnProgress | None = None,
    ) -> Statistics:
        """Hunt one batch (by default as large as the settings say) and write what became of it as an event.

        Raises SystemExit(75) after a 429, KeyRejected when no key is left, and DatabaseError when nothing
        could be claimed; every claim has then been given back if the database answered.
        """
        cycle = _Cycle(self, steps or self, number, on_progress)
        return await cycle.run(self.settings.batch_size if batch_size is None else batch_size)

    async def fetch_batch(self, batch_size: int) -> Batch:
        """Claim as many topics as the ring may pay for now, up to `batch_size`; none while it is closed."""
        ledger = await self.keys.ledger()
        for bucket in _SPENT_BUCKETS:
            availability = self.keys.verdict(ledger, bucket)
            if not availability.open:
                closed = RingClosed("hunting", bucket, availability.reopens_at, availability.reason)
                return Batch(closing=Closing(closed.reopens_at, str(closed)))
        # None where all that may be done is to probe whether a key works again.
        payable = min(units_now(ledger, bucket) for bucket in _SPENT_BUCKETS)
        claim = await self.dao.claim_topics(min(batch_size, max(1, payable)))
        return Batch(claim.topics, claim.parked)

    async def search(self, topic: Topic) -> FoundPage:
        """Ask for a topic's next page, or for its first if the token is stale or another search's."""
        asked_at = self.atlas.clock.now()
        params = self._params(topic)
        token = self._token(topic, params, asked_at)
        searching, enriching = await self.keys.acquire_each(_SPENT_BUCKETS)
        try:
            page = await self.youtube.search(
                q=topic.query,
                order=self.settings.order,
                published_after=topic.published_after,
                region_code=self.settings.region_code,
                relevance_language=self.settings.relevance_language,
                page_token=token,
                max_results=self.settings.results_per_page,
                ids_only=True,
                grant=searching,
            )
        except _SKIPPED:
            await self._give_back(enriching)
            raise
        ids = tuple(dict.fromkeys(hit.video_id for hit in page.items))
        if not ids:
            await self._give_back(enriching)
        return FoundPage(topic, params, token is None, ids, page.next_page_token, asked_at, enriching)

    async def enrich(self, page: FoundPage) -> EnrichedPage:
        """Ask for the tags, counts and durations of a page's videos."""
        videos = await self.youtube.videos(page.ids, grant=page.grant) if page.ids else ()
        return EnrichedPage(page, videos, self.atlas.clock.now())

    async def ingest(self, page: EnrichedPage) -> StoredPage:
        """Keep the raw answers, then store videos, tags and the topic's new state in one transaction."""
        await keep_answers(self.atlas.vault, page.videos)
        exhausted = self._exhausted(page.found)
        async with self.dao.transaction() as dao:
            topic = page.found.topic
            ingested = await dao.ingest_video_metadata(
                page.videos, fetched_at=page.fetched_at, discovered_by=topic.id
            )
            # A video's tags count once, when it is new, however often its page is done again.
            new = [video for video in page.videos if video.id in ingested.new_ids]
            tags = await self._snowball(dao, new)
            await dao.update_search_states([_outcome(page.found, exhausted, ingested.new)])
        return StoredPage(len(page.found.ids), ingested.new, ingested.updated, tags, exhausted)

    async def forget_token(self, topic: Topic, error: Exception) -> None:
        """Give a topic back to begin its search anew, or to rest if that was of no use before."""
        again = topic.restarts < MOST_RESTARTS
        forgotten = TopicOutcome(
            topic.id,
            None,
            0,
            TopicStatus.ACTIVE if again else TopicStatus.COOLING,
            topic.lease_token,
            pages=0,
            restarted=again,
            error=str(error),
        )
        await self.dao.update_search_states([forgotten])

    async def _give_back(self, grant: Grant) -> None:
        """Cancel what a page needed no more; without the database its unit stays counted."""
        try:
            await self.keys.cancel(grant)
        except DatabaseError as error:
            logger.warning("a unit that was not spent stays reserved: %s", error)

    async def _snowball(self, dao: MaiaDAO, videos: Sequence[Video]) -> int:
        topics = [self.rules.topics(video.tags) for video in videos]
        mentions = await dao.tag_mentions({topic for video in topics for topic in video})
        chosen = self.rules.rarest(topics, mentions)
        return await dao.add_to_search_queue(Mention(tag, count) for tag, count in chosen.items())

    def _params(self, topic: Topic) -> dict[str, Any]:
        """What makes a search this one and no other: a page token is good only for the same again."""
        after = topic.published_after
        return {
            "q": topic.query,
            "order": self.settings.order,
            "publishedAfter": after and after.isoformat(),
            "regionCode": self.settings.region_code,
            "relevanceLanguage": self.settings.relevance_language,
            "maxResults": self.settings.results_per_page,
        }

    def _token(self, topic: Topic, params: Mapping[str, Any], now: datetime) -> str | None:
        if topic.page_token is None or topic.page_issued_at is None or topic.page_params != params:
            return None
        age = now - topic.page_issued_at
        return topic.page_token if age < timedelta(seconds=self.settings.token_lifetime_s) else None

    def _exhausted(self, page: FoundPage) -> bool:
        """Whether the search ends here; what the API estimates as its total says nothing about that."""
        earlier = 0 if page.begins else page.topic.results
        return (
            page.next_token is None
            or not page.ids
            or (not page.begins and page.digest == page.topic.last_page_digest)
            or earlier + len(page.ids) >= self.settings.max_results
        )


_SPENT_BUCKETS: tuple[Bucket, ...] = ("search", "general")


def _outcome(page: FoundPage, exhausted: bool, new: int) -> TopicOutcome:
    return TopicOutcome(
        page.topic.id,
        None if exhausted else page.next_token,
        len(page.ids),
        TopicStatus.COOLING if exhausted else TopicStatus.ACTIVE,
        page.topic.lease_token,
        params=page.params,
        issued_at=page.asked_at,
        new=new,
        page_digest=page.digest,
        restarted=page.begins,
    )


class _Cycle(Cycle[Topic, Statistics]):
    """One cycle under way, with the topics that wait for a worker and the pages stored so far."""

    agent = "hunter"
    idle = "no topic can be claimed now: seed some, or wait"

    def __init__(self, hunter: Hunter, steps: Steps, number: int, on_progress: OnProgress | None) -> None:
        super().__init__(hunter.atlas, hunter.youtube, hunter.session)
        self.hunter, self.steps, self.number, self.on_progress = hunter, steps, number, on_progress
        self.waiting: deque[Topic] = deque()
        self.pages: list[StoredPage] = []
        self.parked = 0
        self.begin_until_s = 0.0

    async def _do(self, batch_size: int) -> None:
        """Take every topic through the steps; the first failure that is not a topic's own ends it."""
        await self._fetch(self.steps.fetch_batch(batch_size), self._accept)
        workers = min(self.atlas.settings.youtube.concurrency, len(self.waiting))
        await self._work_together(self._work() for _ in range(workers))

    def _accept(self, batch: Batch) -> None:
        self.waiting.extend(batch.topics)
        self.held = {topic.id: topic for topic in batch.topics}
        self.claimed, self.parked = len(batch.topics), len(batch.parked)
        self.begin_until_s = time.monotonic() + self.hunter.settings.lease_s / 2
        if batch.closing:
            self._close(batch.closing)

    async def _work(self) -> None:
        while self.waiting and self.stopped is None:
            if time.monotonic() > self.begin_until_s:
                self.stopped = "late"
                return
            topic = self.waiting.popleft()
            try:
                found = await self.steps.search(topic)
                page = await self.steps.enrich(found)
                stored = await self.steps.ingest(page)
            except _SKIPPED as error:
                await self._skip(topic, error)
            else:
                del self.held[topic.id]
                self.pages.append(stored)
                self._report(topic, stored, None)

    async def _skip(self, topic: Topic, error: Exception) -> None:
        """Do with a topic that failed what the table at the head of this module says."""
        reason = _reason_of(error)
        if reason == "ring_closed":
            self._close(Closing(getattr(error, "reopens_at", None), str(error)))
            return
        logger.warning(
            "skipped topic %r (%s): %s", topic.query, reason, error, extra={"action": f"skipped_{reason}"}
        )
        if isinstance(error, VaultError):
            self.stopped = reason
        if isinstance(error, (VaultError, DatabaseUnavailable)):
            # Stays held, as after a closing: given back at the end, together with what was not begun.
            return
        try:
            await self._put_back(topic, reason, error)
        except LeaseLost:
            reason = "lease_lost"
        except DatabaseError as failure:
            logger.warning("topic %r is not given back yet: %s", topic.query, failure)
            return
        del self.held[topic.id]
        self.skipped[reason] += 1
        self._report(topic, None, reason)

    async def _put_back(self, topic: Topic, reason: str, error: Exception) -> None:
        if reason == "lease_lost":
            return
        if reason == "page_token":
            await self.hunter.forget_token(topic, error)
            return
        settings = self.hunter.settings
        last = topic.attempts >= settings.max_attempts
        # No answer at all is hardly the topic's fault: a night without network must not park them all.
        counts = not (last and isinstance(error, Transient) and error.verdict.status == 0)
        released = await self.hunter.dao.release_topics(
            [topic], error=str(error), retry_after_s=settings.retry_after_s, count_attempt=counts
        )
        self.parked += released if last and counts else 0

    async def _release(self, items: Sequence[Topic]) -> None:
        await self.hunter.dao.release_topics(items, count_attempt=False)

    def _given_back(self, items: Sequence[Topic], reason: str) -> None:
        for topic in items:
            self._report(topic, None, reason)

    def _report(self, topic: Topic, page: StoredPage | None, skipped: str | None) -> None:
        if self.on_progress is not None:
            done = len(self.pages) + self.skipped.total()
            self.on_progress(Progress(self.number, topic.query, page, skipped, done, self.claimed))

    def _counted(self) -> Statistics:
        return Statistics(
            topics=self.claimed,
            pages=len(self.pages),
            found=sum(page.found for page in self.pages),
            new=sum(page.new for page in self.pages),
            updated=sum(page.updated for page in self.pages),
            tags=sum(page.tags for page in self.pages),
            exhausted=sum(page.exhausted for page in self.pages),
            parked=self.parked,
        )

    def _summary(self, statistics: Statistics) -> str:
        return (
            f"hunted {statistics.topics} topics: {statistics.pages} pages, {statistics.new} new videos, "
            f"{statistics.tags} new topics"
        )


def _reason_of(error: Exception) -> str:
    match error:
        case RingClosed() | QuotaExhausted():
            return "ring_closed"
        case Transient():
            return "network"
        case BadRequest(reason="invalidPageToken"):
            return "page_token"
        case BadRequest() | Gone():
            return "bad_request"
        case VaultError():
            return "vault"
        case LeaseLost():
            return "lease_lost"
    return "database"


async def run(
    atlas: Atlas,
    *,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
    wrap: Callable[[Steps], Steps] | None = None,
) -> dict[str, Any]:
    """Hunt up to `cycles` batches, fewer if the ring closes or nothing is left; returns the statistics.

    `wrap` puts something around the four steps. Raises as `Hunter.cycle` does.
    """
    refuse_nothing(batch_size, cycles)
    async with Hunter.open(atlas) as hunter:
        steps: Steps = wrap(hunter) if wrap else hunter

        def cycle(number: int) -> Awaitable[Statistics]:
            return hunter.cycle(batch_size, number=number, steps=steps, on_progress=on_progress)

        return (await repeated(cycles, cycle, Statistics())).as_dict()


async def run_direct(
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Hunt without Prefect, and return the statistics.

    The outcomes "unavailable" (exit status 69) and "keys_rejected" (78) are failures, every other one is a
    success. Raises as `maia.cycles.directly` does.
    """
    return await directly(
        settings, lambda atlas: run(atlas, batch_size=batch_size, cycles=cycles, on_progress=on_progress)
    )

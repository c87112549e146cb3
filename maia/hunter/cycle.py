"""The hunter asks its sources, stores the videos found, and queues the tags of new ones.

A cycle makes sure that the day has a plan, claims asks as it says, and takes each through put → enrich →
ingest, several at once. What becomes of an ask is written in the transaction that stores its videos and tags,
and so is what the ask cost and found. So an interrupted cycle loses only the asks in progress, and the next
cycle puts them again. The first ask is processed alone, to spend no more quota if its answer cannot be
stored. `maia.cycle.reasons` says what a failure means for its ask.

With the strategy `specification` there is no plan: topics are searched one after the other by priority.
"""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from atlas.adapters.discovery import ArmYield, DiscoveryDAO, KnownVideo
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.queue import Mention
from atlas.clock import next_reset, pacific_day
from atlas.composition import Atlas
from atlas.config import BUCKETS, Bucket
from atlas.conflicts import retry_conflicts
from atlas.errors import ConfigError, DatabaseError, DatabaseUnavailable, DataRefused, LeaseLost
from atlas.keyring import KeyRing, LedgerLine
from atlas.wording import counted
from maia.agents import round_s
from maia.cycle.adapting import QUOTA, sized_for_quota
from maia.cycle.agent import Agent, Highlight
from maia.cycle.claims import FailedRequest, together
from maia.cycle.cycle import OnProgress, StepRecord, cost_of_failure
from maia.cycle.expectations import Expectations, Expected, shall_wait
from maia.cycle.outcome import Closing, CycleStatistics, Progress
from maia.cycle.paid import PaidCycle, closed, closing_of, is_usable, keep_answers, units_now
from maia.cycle.reasons import ITEMS_OWN, JUDGED, SkipReason, reason_of
from maia.cycle.steps import StepRunner, plain
from maia.cycle.words import coming, in_words
from maia.discovery import judging
from maia.discovery.charts import Charts
from maia.discovery.feeds import Feeds
from maia.discovery.forms import SPECIFICATION
from maia.discovery.plan import Planner
from maia.discovery.search import SPENT_BUCKETS, Search, SearchAsk
from maia.discovery.source import Ask, Finding, Source, Stored
from maia.discovery.uploads import Uploads
from maia.hunter.tags import TagRules
from maia.learning.observations import Scalar
from maia.views.plan import plan
from maia.youtube.client import IDS_PER_CALL, YouTube
from maia.youtube.errors import RateLimited, is_unreachable
from maia.youtube.resources import Video

logger = logging.getLogger(__name__)

MOST_UNCHARGED = 3
"""How many refusals in a row are not charged to an ask, even if others have the same cause."""

_COST_OF_GENERAL = 2
"""Units of a question of the general bucket: it may need one for the metadata of what it finds, too."""

ASKS_TOGETHER = 4
"""How many searches are enriched together."""

OFFERED_CHANNELS = 20
"""How many channels the event of a cycle's new videos names: those with most of them."""

_NOUNS = {
    "topics": ("topic", "topics"), "pages": ("page", "pages"), "found": ("result", "results"),
    "new": ("new video", "new videos"), "tags": ("new topic", "new topics"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AskBatch:
    """The asks to put now. If there are none, `closing` says why, or `next_wake_at` until when."""

    asks: tuple[Ask, ...] = ()
    closing: Closing | None = None
    next_wake_at: datetime | None = None
    general: tuple[int, int] | None = None
    """How many questions of the general bucket these are, as so many units are left; None: as usual."""


@dataclass(frozen=True, slots=True)
class EnrichedFinding:
    """A finding with its videos from videos.list; deleted and private videos are missing.

    `known` are those of its videos that were stored lately, and were not fetched again.
    """

    finding: Finding
    videos: tuple[Video, ...]
    known: Mapping[str, KnownVideo]
    fetched_at: datetime
    enrichments: float = 0.0
    """Its part of the units that fetching cost."""


@dataclass(frozen=True, slots=True)
class StoredPage:
    """Counts for an answer that was stored."""

    arm: str
    found: int
    new: int
    updated: int
    tags: int
    early: int
    units: int
    enrichments: float
    exhausted: bool
    by_category: Mapping[int | None, int] = field(default_factory=dict)
    by_channel: Mapping[str, int] = field(default_factory=dict)
    """The new videos by category and by channel."""


@dataclass(slots=True)
class UnderWay:
    """An ask that was begun: how long its steps took, and once it has an answer, what that cost in all."""

    ask: Ask
    expected: Expected | None = None
    seconds: float = 0.0
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HunterStatistics(CycleStatistics):
    """Counts for one or more cycles; `asks` is `pages` + the sum of `skipped`.

    `topics` are those that were asked about, and `arms` says by arm how many asks, units, videos found, new
    ones and early ones there were.
    """

    asks: int = 0
    topics: int = 0
    pages: int = 0
    found: int = 0
    new: int = 0
    updated: int = 0
    tags: int = 0
    early: int = 0
    exhausted: int = 0
    parked: int = 0
    arms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskProgress(Progress):
    """A finished ask: what it brought, or why it was skipped."""

    arm: str
    about: str
    page: StoredPage | None
    skipped: SkipReason | None


class Hunter(Agent[HunterStatistics]):
    """The hunter's steps, over an Atlas, a YouTube client and its sources."""

    name = "hunter"
    statistics = HunterStatistics

    def __init__(
        self, atlas: Atlas, youtube: YouTube, keys: KeyRing, rules: TagRules, step: StepRunner = plain
    ) -> None:
        super().__init__(atlas, step)
        self.youtube, self.keys, self.rules = youtube, keys, rules
        self.dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.discovery = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.settings = atlas.settings.hunter
        self._follows_quota = atlas.settings.learner.adapt_to_quota
        self._round_s = round_s(atlas.settings, self.name)
        self.search = Search(atlas, youtube, keys)
        self.sources = self._sources()
        self._source_of = {arm: source for source in self.sources for arm in source.arms}
        priced = {arm: of for source in self.sources if not source.is_free for arm, of in source.arms.items()}
        self.planner = Planner(atlas, priced)

    def _sources(self) -> list[Source[Any, Any]]:
        discovery = self.atlas.settings.discovery
        if self.search.is_original:
            if discovery.is_off(Search.name):
                raise ConfigError(
                    "PLEIADES_DISCOVERY__OFF switches search off, "
                    "but PLEIADES_HUNTER__STRATEGY=specification does nothing else"
                )
            return [self.search]
        others: list[Source[Any, Any]] = [
            Feeds(self.atlas, self.youtube),
            Uploads(self.atlas, self.youtube),
            Charts(self.atlas, self.youtube),
        ]
        used = [source for source in (self.search, *others) if not all(map(discovery.is_off, source.arms))]
        if not used:
            raise ConfigError("PLEIADES_DISCOVERY__OFF switches every source off, so there is nothing to do")
        return used

    @classmethod
    @asynccontextmanager
    async def open(cls, atlas: Atlas, step: StepRunner = plain) -> AsyncIterator[Hunter]:
        """Open a hunter with its own client; ConfigError (EmptyKeyRing) if the settings don't allow it."""
        rules = TagRules.of(atlas.settings.hunter)
        keys = KeyRing("hunting", atlas=atlas)
        async with YouTube.open(atlas.settings.youtube, keys, clock=atlas.clock) as youtube:
            yield cls(atlas, youtube, keys, rules, step)

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def parked(self) -> int:
        """How many items the sources have taken out so far."""
        return sum(source.parked for source in self.sources)

    @property
    def searches(self) -> bool:
        """Whether search is among its sources."""
        return self.search in self.sources

    def source_of(self, ask: Ask) -> Source[Any, Any]:
        """The source that an ask belongs to."""
        return self._source_of[ask.arm]

    def new_cycle(self, number: int, on_progress: OnProgress | None) -> HunterCycle:
        return HunterCycle(self, number, on_progress)

    @staticmethod
    def headline(statistics: Mapping[str, Any]) -> str:
        return counted(statistics["new"], "new video")

    @staticmethod
    def summary(statistics: Mapping[str, Any]) -> str:
        return in_words(statistics, _NOUNS)

    @classmethod
    async def highlights(cls, atlas: Atlas, limit: int) -> list[Highlight]:
        dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        found = await dao.top_videos(limit)
        return [Highlight(video.id, video.title, counted(video.view_count, "view")) for video in found]

    @classmethod
    async def table(cls, atlas: Atlas, name: str) -> list[Mapping[str, Any]]:
        """The day's plan by arm, with what came of it so far."""
        lines = (await plan(atlas)).today
        return [
            {
                "arm": line.arm,
                "share": None if line.share is None else f"{line.share:.0%}",
                "planned": line.planned,
                "used": line.used,
                "found": line.found,
                "new": line.new,
                "early": line.early,
                "why": line.unwell or line.reason,
            }
            for line in lines
        ]

    # The steps

    async def fetch_batch(self, batch_size: int) -> AskBatch:
        """Claim as many asks as the ring can pay for now, up to `batch_size` of each bucket.

        None while the ring is closed. What is free to ask is claimed as long as what it finds can be stored.
        """
        ledger = await self.keys.ledger()
        closings = {bucket: closing_of(self.keys, ledger, bucket) for bucket in SPENT_BUCKETS}
        if self.search.is_original:
            if closing := closings["search"] or closings["general"]:
                return AskBatch(closing=closing)
            # 0 units means that a key may be probed: claim one topic for that.
            payable = min(units_now(ledger, bucket) for bucket in SPENT_BUCKETS)
            topics = await self.search.claim({SPECIFICATION: min(batch_size, max(1, payable))})
            return AskBatch(tuple(topics), next_wake_at=self.search.next_wake_at)
        if closing := closings["general"]:
            return AskBatch(closing=closing)
        await self.planner.today(_units_a_day(ledger), self.session)
        wanted = self._wanted(ledger, batch_size)
        asks = await self._claim_planned(ledger, batch_size, wanted, searches=closings["search"] is None)
        closing = None if asks or not self.searches else closings["search"]
        general = sum(self.planner.arms.get(ask.arm) == "general" for ask in asks)
        more = (general, _units_left(ledger)) if general > batch_size else None
        return AskBatch(tuple(asks), closing, None if asks else self.search.next_wake_at, more)

    def _wanted(self, ledger: Sequence[LedgerLine], batch_size: int) -> int:
        """How many questions of the general bucket to ask: more if its units would be left over today.

        A batch that the host's state has made smaller stays as it is.
        """
        if not self._follows_quota or not self.is_free or batch_size < self.batch_size:
            return batch_size
        now = self.atlas.clock.now()
        rounds = (next_reset(now) - now).total_seconds() / self._round_s
        return sized_for_quota(batch_size, _units_left(ledger), _COST_OF_GENERAL, rounds)

    async def _claim_planned(
        self, ledger: Sequence[LedgerLine], batch_size: int, wanted: int, *, searches: bool
    ) -> list[Ask]:
        general = units_now(ledger, "general")
        asks: list[Ask] = []
        try:
            if searches and self.searches:
                payable = max(1, min(units_now(ledger, "search"), general))
                asks += await self._take("search", min(batch_size, payable))
            for source in self.sources:
                if source.is_free:
                    asks += await source.claim(dict.fromkeys(source.arms, batch_size))
            asks += await self._take("general", min(wanted, (general - len(asks)) // _COST_OF_GENERAL))
        except BaseException:
            await self.release(asks)
            raise
        return asks

    async def _take(self, bucket: Bucket, units: int) -> list[Ask]:
        """Claim asks of a bucket as planned; arms with nothing to ask leave their units to the others."""
        asks: list[Ask] = []
        dry: set[str] = set()
        while units - len(asks) > 0:
            taken = await self.planner.take(bucket, units - len(asks), dry)
            if not taken:
                break
            claimed: list[Ask] = []
            for source in self.sources:
                if wanted := {arm: taken[arm] for arm in source.arms if arm in taken}:
                    claimed += await source.claim(wanted)
            counts = Counter(ask.arm for ask in claimed)
            missing = {arm: count - counts[arm] for arm, count in taken.items() if count > counts[arm]}
            await self.planner.put_back(missing)
            dry |= missing.keys()
            asks += claimed
        return asks

    async def release(
        self, asks: Sequence[Ask], error: str | None = None, *, count_attempt: bool = False
    ) -> None:
        """Give asks back to their sources, and to the plan the units of those that no error stopped.

        What failed has been paid for, or was at least tried in its arm's turn.
        """
        by_source: defaultdict[str, list[Ask]] = defaultdict(list)
        for ask in asks:
            by_source[self.source_of(ask).name].append(ask)
        for source in self.sources:
            if mine := by_source.get(source.name):
                await source.release(mine, error, count_attempt=count_attempt)
        if error is None and not self.search.is_original:
            await self.planner.put_back(_units_of(asks))

    async def hold_back(self, ask: Ask, why: str) -> None:
        """Let an ask wait that was not put; it is not charged, and the plan gets its units back."""
        await self.source_of(ask).release([ask], why)
        if not self.search.is_original:
            await self.planner.put_back(_units_of([ask]))

    async def put(self, ask: Ask) -> Finding:
        """Put an ask to YouTube."""
        found: Finding = await self.source_of(ask).put(ask)
        return found

    async def enrich(self, findings: Sequence[Finding]) -> list[EnrichedFinding]:
        """Request the tags, counters and durations of the videos found, 50 at a time.

        Videos whose metadata are fresh are not requested again; findings may have such videos in common.
        """
        ids = list(dict.fromkeys(id_ for each in findings for id_ in each.ids))
        whole = {video.id for each in findings for video in each.videos}
        known = await self._known([id_ for id_ in ids if id_ not in whole])
        wanted = [id_ for id_ in ids if id_ not in whole and id_ not in known]
        grants = [each.grant for each in findings if each.grant is not None]
        fetched = await self.youtube.videos(wanted, grants=grants) if wanted or grants else ()
        units = -(-len(wanted) // IDS_PER_CALL)
        return self._shared_out(findings, {video.id: video for video in fetched}, known, wanted, units)

    def _shared_out(
        self,
        findings: Sequence[Finding],
        fetched: Mapping[str, Video],
        known: Mapping[str, KnownVideo],
        wanted: Sequence[str],
        units: int,
    ) -> list[EnrichedFinding]:
        fetched_at, asked = self.atlas.clock.now(), set(wanted)
        parts = [sum(id_ in asked for id_ in each.ids) for each in findings]
        total = sum(parts) or 1
        return [
            EnrichedFinding(
                each,
                (*each.videos, *(fetched[id_] for id_ in each.ids if id_ in fetched)),
                {id_: known[id_] for id_ in each.ids if id_ in known},
                fetched_at,
                units * part / total,
            )
            for each, part in zip(findings, parts, strict=True)
        ]

    async def _known(self, ids: Sequence[str]) -> Mapping[str, KnownVideo]:
        """Those of the videos whose metadata are fresh; none in the original order, which fetches all."""
        known_for = timedelta(hours=self.atlas.settings.discovery.known_for_h)
        if self.search.is_original or not ids or not known_for:
            return {}
        return await self.discovery.known_videos(ids, self.atlas.clock.now() - known_for)

    async def ingest(self, page: EnrichedFinding) -> StoredPage:
        """Keep the raw responses, then store videos, tags and the ask's outcome in one transaction.

        If it conflicts with another one, it is tried again: the answer has been paid for.
        """
        await keep_answers(self.atlas.vault, page.videos)
        finding = page.finding
        ask, source = finding.ask, self.source_of(finding.ask)
        async for trial in retry_conflicts():
            with trial:
                async with self.dao.transaction() as dao:
                    stored, tags = await self._store(dao, page)
                    oddity = source.oddity(finding, stored)
                    today = await self._add_yield(dao, page, stored, is_odd=oddity is not None)
        if not self.search.is_original:
            # An answer may take further pages.
            await self.planner.put_back({ask.arm: ask.units - finding.units})
        if oddity is not None:
            await self.planner.notice(ask.arm, oddity, *today)
        exhausted = bool(getattr(finding, "is_last", False))
        new = stored.new_videos
        return StoredPage(
            ask.arm, len(finding.ids), len(stored.new_ids), stored.updated, tags, stored.early, finding.units,
            page.enrichments, exhausted, Counter(video.category_id for video in new),
            Counter(str(video.channel_id) for video in new),
        )  # fmt: skip

    async def _store(self, dao: MaiaDAO, page: EnrichedFinding) -> tuple[Stored, int]:
        """Store the videos, where they were met, the ask's outcome and tags; returns how many tags are new.

        The order is that in which locks have to be taken, see `atlas.adapters.maia`.
        """
        finding = page.finding
        ask, source = finding.ask, self.source_of(finding.ask)
        discoverer = ask.topics[0] if len(ask.topics) == 1 else None
        ingested = await dao.ingest_video_metadata(
            page.videos, fetched_at=page.fetched_at, discovered_by=discoverer
        )
        credited: dict[str, tuple[int, ...]] = dict.fromkeys(page.known, ())
        credited |= {video.id: source.topics_of(finding, video) for video in page.videos}
        discovery = self.discovery.joining(dao.queue)
        met = await discovery.meet_videos(ask.arm, finding.asked_at, credited, ingested.new_ids)
        stored = Stored(
            videos=page.videos, new_ids=ingested.new_ids, updated=ingested.updated, known=page.known,
            early=met.early, early_by_topic=met.by_topic,
        )  # fmt: skip
        await source.complete(dao, finding, stored)
        # A video's tags count only once, when it is new, even if its page is stored again.
        tags = await self._snowball(dao, stored.new_videos)
        await source.complete_topics(dao, finding, stored)
        return stored, tags

    async def _add_yield(
        self, dao: MaiaDAO, page: EnrichedFinding, stored: Stored, *, is_odd: bool
    ) -> tuple[int, int]:
        """Count what the ask brought; returns the arm's asks and odd ones of the day so far."""
        finding = page.finding
        counts = ArmYield(
            finding.ask.arm,
            asks=1,
            units=finding.units,
            enrichments=page.enrichments,
            found=len(finding.ids),
            new=len(stored.new_ids),
            early=stored.early,
            odd=is_odd,
        )
        return await self.discovery.joining(dao.queue).add_yield(pacific_day(finding.asked_at), counts)

    async def count_odd(self, ask: Ask, oddity: str) -> None:
        """Count a question whose form YouTube refuses, so that the arm loses its share if that goes on."""
        refused = ArmYield(ask.arm, asks=1, units=ask.units, odd=1)
        today = await self.discovery.add_yield(self.planner.day, refused)
        await self.planner.notice(ask.arm, oddity, *today)

    async def judge(self) -> None:
        """See which of the videos found a day ago grew, if nobody did so within the hour."""
        judged = await judging.judge(self.atlas)
        if judged is None:
            return
        for source in self.sources:
            await source.tidy()
        if judged.videos:
            logger.info(
                "of %s found early, %d grew",
                counted(judged.videos, "video"),
                judged.growing,
                extra={"action": "hunter_judged"},
            )

    async def _snowball(self, dao: MaiaDAO, videos: Sequence[Video]) -> int:
        topics = [self.rules.topics(video.tags) for video in videos]
        mentions = await dao.tag_mentions({topic for video in topics for topic in video})
        chosen = self.rules.rarest(topics, mentions)
        return await dao.add_to_search_queue(Mention(tag, count) for tag, count in chosen.items())


def _units_of(asks: Sequence[Ask]) -> dict[str, int]:
    units: Counter[str] = Counter()
    for ask in asks:
        units[ask.arm] += ask.units
    return dict(units)


def _units_left(ledger: Sequence[LedgerLine]) -> int:
    """Units of the general bucket that the ring can still spend today."""
    return sum(max(line.left, 0) for line in ledger if line.bucket == "general" and is_usable(line))


def _units_a_day(ledger: Sequence[LedgerLine]) -> dict[Bucket, int]:
    return {bucket: sum(line.ring_limit for line in ledger if line.bucket == bucket) for bucket in BUCKETS}


class HunterCycle(PaidCycle[Ask, HunterStatistics]):
    """A hunter's cycle: the asks that wait for a worker, and the answers stored so far."""

    agent: Hunter

    def __init__(self, hunter: Hunter, number: int = 1, on_progress: OnProgress | None = None) -> None:
        super().__init__(hunter, hunter.youtube, number, on_progress)
        self.hunter = hunter
        self.idle = "there is nothing to ask now: " + ("seed topics, or wait" if hunter.searches else "wait")
        self.waiting: defaultdict[str, deque[Ask]] = defaultdict(deque)
        """By source: slow feeds don't hold up searches."""
        self.pages: list[StoredPage] = []
        self.topics = 0
        self.refusal: RateLimited | None = None
        """A feed's 429. It ends the process, but only once all answers that were paid for are stored."""
        self._parked_before = hunter.parked
        self._under_way: dict[Hashable, UnderWay] = {}
        self._expectations = Expectations(hunter.name)

    async def _work(self, batch_size: int) -> None:
        """Take every ask through the steps; the first failure that is not specific to an ask ends it."""
        hunter = self.hunter
        self._expectations = await Expectations.load(self.atlas, hunter.name)
        await hunter.judge()
        await self._claim(
            self.step("fetch_batch", batch_size, lambda: hunter.fetch_batch(batch_size)), self._accept
        )
        if first := next(iter(self.waiting.values()), None):
            await self.atlas.vault.check()
            # Alone, so that no more quota is spent if its page cannot be stored.
            await self._work_together([self._hunt([first.popleft()])])
        await self._work_together(self._hunt_waiting(name) for name in self._workers_needed())
        if self.refusal:
            raise self.refusal

    def _accept(self, batch: AskBatch) -> None:
        for ask in batch.asks:
            self.waiting[self.hunter.source_of(ask).name].append(ask)
        self.topics = sum(len(ask.topics) for ask in batch.asks)
        self._hold({ask.key: ask for ask in batch.asks}, self.hunter.settings.lease_s)
        if soonest := coming(batch.next_wake_at, self.atlas.clock.now()):
            self.idle += f" for the next at {soonest}"
        if batch.general is not None:
            count, left = batch.general
            remaining = counted(left, "unit is left", "units are left")
            reason = f"{counted(count, 'question')} of the general bucket, as {remaining} today"
            self.adaptation.note(QUOTA, reason)
        if batch.closing:
            self._close(batch.closing)

    @property
    def _group_size(self) -> int:
        return 1 if self.hunter.search.is_original else ASKS_TOGETHER

    def _workers_needed(self) -> list[str]:
        """One name of a source for each worker; a free source has one, which keeps its own pace."""
        most = max(1, self.atlas.settings.youtube.concurrency // self._group_size)
        free = {source.name for source in self.hunter.sources if source.is_free}
        return [
            name
            for name, asks in self.waiting.items()
            for _ in range(1 if name in free else min(most, -(-len(asks) // self._group_size)))
            if asks
        ]

    async def _hunt_waiting(self, name: str) -> None:
        waiting = self.waiting[name]
        size = self._group_size if name == self.hunter.search.name else 1
        while waiting and self._may_begin():
            await self._hunt([waiting.popleft() for _ in range(min(size, len(waiting)))])

    async def _hunt(self, asks: Sequence[Ask]) -> None:
        found = [each for each in await together(self._put(ask) for ask in asks) if each is not None]
        if not found:
            return
        hunter, about = self.hunter, _about(found)
        try:
            with self._timed(finding.ask for finding in found):
                pages = await self.step("enrich", about, lambda: hunter.enrich(found))
        except Exception as error:
            if not all([await self._is_handled(finding.ask, error) for finding in found]):
                raise
            return
        for page in pages:
            self._under_way[page.finding.ask.key].cost = page.finding.units + page.enrichments
        for page in pages:
            await self._ingest(page)

    async def _put(self, ask: Ask) -> Finding | None:
        source, now = self.hunter.source_of(ask), self.atlas.clock.now()
        expected = self._expectations.of(ask.arm, self._context(ask), now)
        below = self.atlas.settings.learner.expect_failure_below
        if not source.is_free and shall_wait(expected, below, ask.key, now):
            await self._hold_back(ask, expected)
            return None
        self._under_way[ask.key] = UnderWay(ask, expected)
        try:
            with self._timed([ask]):
                finding: Finding = await self.step(source.name, ask.about, lambda: self.hunter.put(ask))
        except Exception as error:
            if source.is_free and isinstance(error, RateLimited):
                self._note_failed(ask, error)
                self.refusal, self.stopped = error, SkipReason.RATE_LIMITED
            elif not await self._is_handled(ask, error):
                raise
            elif not source.is_free and not self.pages and is_unreachable(error):
                # No other question would reach it.
                self.stopped = SkipReason.NETWORK
            return None
        self._under_way[ask.key].cost = finding.units
        return finding

    async def _hold_back(self, ask: Ask, expected: Expected | None) -> None:
        """Let an ask wait that the learner expects to fail."""
        why = "the learner expects that it would fail"
        if expected is not None:
            likeliest = f", most likely by {expected.failure_class}" if expected.failure_class else ""
            why = f"{why}{likeliest}: success has a probability of {expected.success:.2f}"
        logger.info("%r waits: %s", ask.about, why, extra={"action": "skipped_unpromising"})
        reason = SkipReason.UNPROMISING
        try:
            await self.hunter.hold_back(ask, why)
        except LeaseLost:
            reason = SkipReason.LEASE_LOST
        except DatabaseError as error:
            logger.warning("%r could not be released yet: %s", ask.about, error)
            return
        del self.held[ask.key]
        self.skipped[reason] += 1
        self._report(ask, None, reason)

    async def _ingest(self, page: EnrichedFinding) -> None:
        ask = page.finding.ask
        try:
            with self._timed([ask]):
                stored = await self.step("ingest", ask.about, lambda: self.hunter.ingest(page))
        except Exception as error:
            if not await self._is_handled(ask, error):
                raise
        else:
            del self.held[ask.key]
            self.pages.append(stored)
            self._note_stored(ask, stored)
            self._report(ask, stored, None)

    async def _is_handled(self, ask: Ask, error: Exception) -> bool:
        """Skip the ask if the failure is its own, or close the cycle; False if the error ends the cycle."""
        self._note_failed(ask, error)
        reason = reason_of(error)
        if reason is SkipReason.RING_CLOSED:
            # The claim stays held, and is released at the end with those that were not started.
            self._close(closed(error))
        elif reason in ITEMS_OWN:
            await self._skip(ask, reason, error)
        else:
            return False
        return True

    async def _skip(self, ask: Ask, reason: SkipReason, error: Exception) -> None:
        noun = "topic" if len(ask.topics) == 1 else "question"
        logger.warning(
            "skipped %s %r (%s): %s", noun, ask.about, reason, error, extra={"action": f"skipped_{reason}"}
        )
        if isinstance(error, DatabaseUnavailable):
            # The claim stays held: it can only be released when the database is back.
            return
        is_arms = self.hunter.source_of(ask).is_arm_at_fault(ask, error)
        if reason in JUDGED and not is_arms:
            self._record_failure(FailedRequest((ask,), error), [ask.key])
        else:
            try:
                await self._put_back_now(ask, reason, error)
                if is_arms:
                    await self.hunter.count_odd(ask, str(error))
            except LeaseLost:
                reason = SkipReason.LEASE_LOST
            except DatabaseError as failure:
                logger.warning("%s %r could not be released yet: %s", noun, ask.about, failure)
                return
            del self.held[ask.key]
            self.skipped[reason] += 1
        self._report(ask, None, reason)

    # What is recorded for the learner

    @contextmanager
    def _timed(self, asks: Iterable[Ask]) -> Iterator[None]:
        """Count the time that the block takes for each of these asks, all of which are under way."""
        under_way = [self._under_way[ask.key] for ask in asks]
        began_s = time.monotonic()
        try:
            yield
        finally:
            for each in under_way:
                each.seconds += time.monotonic() - began_s

    def _note_stored(self, ask: Ask, page: StoredPage) -> None:
        done = self._under_way.pop(ask.key)
        self.note(
            StepRecord(
                ask.arm, reward=page.early, cost=page.units + page.enrichments, seconds=done.seconds,
                context=self._context(ask), results={"found": page.found, "new": page.new},
                expected=done.expected,
            )
        )  # fmt: skip

    def _note_failed(self, ask: Ask, error: BaseException) -> None:
        done = self._under_way.pop(ask.key)
        cost = cost_of_failure(error, ask.units) if done.cost is None else done.cost
        context = self._context(ask)
        self.note(StepRecord.failed(ask.arm, error, cost, done.seconds, context, done.expected))

    def _context(self, ask: Ask) -> dict[str, Scalar]:
        """What may bear on how the ask ends and is known before; no text that somebody typed."""
        source = self.hunter.source_of(ask)
        context: dict[str, Scalar] = {
            "goal": "find",
            "source": source.name,
            "arm": ask.arm,
            "bucket": source.arms[ask.arm],
            "topics": len(ask.topics),
        }
        if isinstance(ask, SearchAsk):
            topic = ask.topic
            goes_on = ask.page_token or (topic is not None and topic.page_token)
            context["page"] = "next" if goes_on else "first"
            if topic is not None:
                context["origin"] = topic.origin
            context |= ask.known
        return context

    async def _abandon(self, reason: SkipReason) -> None:
        await super()._abandon(reason)
        for each in list(self._under_way.values()):
            # Whatever ended the cycle, these were only cut off by it.
            self._note_failed(each.ask, CancelledError())

    def _noted(self) -> list[tuple[str, Mapping[str, Any]]]:
        events = super()._noted()
        by_category, by_channel = Counter[int | None](), Counter[str]()
        for page in self.pages:
            by_category.update(page.by_category)
            by_channel.update(page.by_channel)
        if by_channel:
            events.append(("hunter.offer", _offer(by_category, by_channel)))
        return events

    def _any_succeeded(self) -> bool:
        return bool(self.pages)

    def _is_its_own_fault(self, failure: FailedRequest[Ask]) -> bool:
        (ask,), error = failure.items, failure.error
        source = self.hunter.source_of(ask)
        if source.is_at_fault(ask, error):
            return True
        return source.times_refused(ask) >= MOST_UNCHARGED and self._any_succeeded()

    async def _put_back_now(self, ask: Ask, reason: SkipReason, error: Exception) -> None:
        if reason is SkipReason.PAGE_TOKEN:
            await self.hunter.source_of(ask).start_over(ask, str(error))
        elif reason is not SkipReason.LEASE_LOST:
            counts = isinstance(error, DataRefused)
            await self._put_back([ask], str(error), count_attempt=counts)

    async def _put_back(self, items: Sequence[Ask], error: str, *, count_attempt: bool) -> None:
        await self.hunter.release(items, error, count_attempt=count_attempt)

    async def _release(self, items: Sequence[Ask]) -> None:
        await self.hunter.release(items)

    def _given_back(self, items: Sequence[Ask], reason: SkipReason) -> None:
        for ask in items:
            self._report(ask, None, reason)

    def _report(self, ask: Ask, page: StoredPage | None, skipped: SkipReason | None) -> None:
        if self.on_progress is not None:
            done = len(self.pages) + self.skipped.total()
            self.on_progress(
                AskProgress(
                    cycle=self.number,
                    text=f"cycle {self.number}: {ask.about}",
                    done=done,
                    claimed=self.claimed,
                    arm=ask.arm,
                    about=ask.about,
                    page=page,
                    skipped=skipped,
                )
            )

    def _counted(self) -> HunterStatistics:
        return HunterStatistics(
            asks=self.claimed,
            topics=self.topics,
            pages=len(self.pages),
            found=sum(page.found for page in self.pages),
            new=sum(page.new for page in self.pages),
            updated=sum(page.updated for page in self.pages),
            tags=sum(page.tags for page in self.pages),
            early=sum(page.early for page in self.pages),
            exhausted=sum(page.exhausted for page in self.pages),
            parked=self.hunter.parked - self._parked_before,
            arms=_by_arm(self.pages),
        )

    def _summary(self, statistics: HunterStatistics) -> str:
        return (
            f"hunted by {counted(statistics.asks, 'question')}: {counted(statistics.pages, 'page')}, "
            f"{counted(statistics.new, 'new video')}, {counted(statistics.tags, 'new topic')}"
        )


def _about(findings: Sequence[Finding]) -> str:
    others = len(findings) - 1
    return findings[0].ask.about + (f" and {others} more" if others else "")


def _offer(by_category: Counter[int | None], by_channel: Counter[str]) -> dict[str, Any]:
    """The payload that says of which categories and channels new videos were stored."""
    return {
        "total": by_channel.total(),
        "by_category": {str(id_): count for id_, count in by_category.items() if id_ is not None},
        "by_channel": dict(by_channel.most_common(OFFERED_CHANNELS)),
    }


def _by_arm(pages: Sequence[StoredPage]) -> dict[str, dict[str, float]]:
    arms: dict[str, dict[str, float]] = {}
    for page in pages:
        counts = arms.setdefault(
            page.arm, {"asks": 0, "units": 0, "enrichments": 0.0, "found": 0, "new": 0, "early": 0}
        )
        counts["asks"] += 1
        counts["units"] += page.units
        counts["enrichments"] = round(counts["enrichments"] + page.enrichments, 3)
        counts["found"] += page.found
        counts["new"] += page.new
        counts["early"] += page.early
    return arms

"""Discovery: the day's plan of units by arm, what each arm brought, where videos were met, and which grew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson

from atlas.adapters.dao import DAO, json_text
from atlas.config import Bucket
from atlas.db import Row
from atlas.errors import DatabaseError, LeaseLost
from atlas.queries import clean_text

_LEASE_LOST = "PL001"


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """An arm's share of its bucket on a day, the early growing videos expected per unit, and why."""

    arm: str
    bucket: Bucket
    share: float
    least_share: float
    """What is left of the share when the arm stops answering as expected."""
    expected: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True, slots=True)
class ArmOfDay(PlannedArm):
    """A planned arm with what came of it so far."""

    claimed: int
    unwell: str | None
    made_at: datetime
    asks: int
    units: int
    enrichments: float
    found: int
    new: int
    early: int
    judged: int
    growing: int
    odd: int


@dataclass(frozen=True, slots=True)
class ShareByPattern:
    """An arm's share of a day's units; `reason` says which pattern changed its prior, and by how much."""

    pacific_day: date
    arm: str
    share: float
    reason: str


@dataclass(frozen=True, slots=True)
class ArmYield:
    """What an arm brought: `growing` of the `judged` ones of its `early` videos grew."""

    arm: str
    asks: int = 0
    units: int = 0
    enrichments: float = 0.0
    found: int = 0
    new: int = 0
    early: int = 0
    judged: int = 0
    growing: int = 0
    odd: int = 0


@dataclass(frozen=True, slots=True)
class DayOfArm(ArmYield):
    """What an arm brought on a Pacific day."""

    pacific_day: date = date.min


@dataclass(frozen=True, slots=True)
class Meeting:
    """How many of the videos that an ask met are early, altogether and by topic credited."""

    early: int
    by_topic: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class KnownVideo:
    """A video that was stored before, as it was last seen; `published_at` is when it was first on air."""

    id: str
    published_at: datetime | None
    view_count: int | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class VideoSource:
    """An arm that met a video. `is_first` if it found it; whether it is `growing` is None while unknown."""

    arm: str
    met_at: datetime
    is_first: bool
    age_h: float | None
    views_per_hour: float | None
    growing: bool | None


@dataclass(frozen=True, slots=True)
class NewQuestion:
    """A question to claim. Its key is unique for ever; for slices of time, `covers_until` is their end."""

    key: str
    question: Mapping[str, Any]
    topics: tuple[int, ...] = ()
    covers_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A claimed question that no single topic asks, and how far it got."""

    key: str
    arm: str
    question: Mapping[str, Any]
    topics: tuple[int, ...]
    asked_at: datetime
    lease_token: UUID
    attempts: int
    page_token: str | None
    pages: int
    results: int
    last_page_digest: str | None


@dataclass(frozen=True, slots=True)
class Unjudged:
    """An early video that is a day old, with its last count up to that age and the first one from it on."""

    video_id: str
    met_at: datetime
    born_at: datetime
    is_gone: bool
    tags: tuple[str, ...]
    last_at: datetime | None
    last_views: int | None
    before_at: datetime | None
    before_views: int | None
    after_at: datetime | None
    after_views: int | None


@dataclass(frozen=True, slots=True)
class GrowthVerdict:
    """Whether a video grew, by its views an hour over the first 24; None if that will never be known."""

    video_id: str
    views_per_hour: float | None
    growing: bool | None
    tags: tuple[str, ...] = field(default=())
    """The keys of its tags, if it grew."""


class DiscoveryDAO(DAO):
    """Plans, yields, sources of videos, questions without a topic, and verdicts on growth."""

    # The plan

    async def plan(self, day: date) -> list[ArmOfDay]:
        """The plan of a Pacific day, by bucket, largest share first; empty if there is none yet."""
        return [ArmOfDay(**row) for row in await self._executor.fetch("discovery.plan", day)]

    async def plans_by_patterns(self, most: int, beginning: str | None = None) -> list[ShareByPattern]:
        """The last shares of plans that a pattern changed, or the one whose id begins so; newest first."""
        rows = await self._executor.fetch("discovery.plans_by_patterns", beginning, most)
        return [ShareByPattern(**row) for row in rows]

    async def make_plan(self, day: date, arms: Sequence[PlannedArm]) -> bool:
        """Store the plan of a day, or add arms that it lacks; returns whether it was changed."""
        columns = [
            [getattr(arm, name) for arm in arms]
            for name in ("arm", "bucket", "share", "least_share", "expected", "low", "high", "reason")
        ]
        return await self._executor.execute("discovery.make_plan", day, *columns, self._clock.now()) > 0

    async def take_units(self, day: date, bucket: Bucket, units: int, arms: Iterable[str]) -> dict[str, int]:
        """Take units of a bucket for some of the arms, as their shares of the day's plan say."""
        if units < 1:
            return {}
        rows = await self._executor.fetch("discovery.take_units", day, bucket, units, sorted(set(arms)))
        return {row["arm"]: row["units"] for row in rows}

    async def return_units(self, day: date, units: Mapping[str, int]) -> None:
        """Return taken units that were not spent; a negative number are units that were spent besides."""
        given = {arm: count for arm, count in units.items() if count}
        if given:
            await self._executor.execute("discovery.return_units", day, [*given], [*given.values()])

    async def mark_unwell(self, day: date, arm: str, how: str) -> bool:
        """Note that an arm stopped answering as expected; returns whether that is news today."""
        return await self._executor.fetchval("discovery.mark_unwell", day, arm, how) is not None

    # Yields

    async def add_yield(self, day: date, brought: ArmYield) -> tuple[int, int]:
        """Add what an ask brought to the day's yields; returns the arm's asks and odd asks of that day."""
        row = await self._executor.fetchrow(
            "discovery.add_yield",
            day,
            brought.arm,
            brought.asks,
            brought.units,
            brought.enrichments,
            brought.found,
            brought.new,
            brought.early,
            brought.odd,
        )
        assert row is not None
        return row["asks"], row["odd"]

    async def yields_since(self, day: date) -> list[DayOfArm]:
        """What each arm brought on each Pacific day from `day` on."""
        return [DayOfArm(**row) for row in await self._executor.fetch("discovery.yields_since", day)]

    async def totals_by_arm(self) -> list[ArmYield]:
        """What each arm has brought altogether."""
        return [ArmYield(**row) for row in await self._executor.fetch("discovery.totals_by_arm")]

    # Sources of videos

    async def meet_videos(
        self, arm: str, met_at: datetime, credited: Mapping[str, Iterable[int]], new_ids: Iterable[str]
    ) -> Meeting:
        """Remember that an arm met videos, each with the topics to credit for it.

        `new_ids` are those stored for the first time in this transaction. Videos that are not stored are
        left out.
        """
        if not credited:
            return Meeting(0, {})
        topics = [_array(each) for each in credited.values()]
        row = await self._executor.fetchrow(
            "discovery.meet_videos", arm, [*credited], met_at, topics, sorted(new_ids)
        )
        assert row is not None
        return Meeting(row["early"], dict(zip(row["topics"], row["early_by_topic"], strict=True)))

    async def known_videos(self, ids: Iterable[str], since: datetime) -> dict[str, KnownVideo]:
        """Those of the videos whose metadata were fetched since then, as last seen."""
        rows = await self._executor.fetch("discovery.known_videos", list(ids), since)
        return {row["id"]: KnownVideo(**row) for row in rows}

    async def sources_of(self, video_id: str) -> list[VideoSource]:
        """Each arm that met a video, the one that found it first."""
        return [VideoSource(**row) for row in await self._executor.fetch("discovery.sources_of", video_id)]

    # Questions without a topic

    async def lock_questions(self, arm: str) -> None:
        """Hold the arm's lock until the transaction ends; claim its questions under it."""
        await self._executor.execute("discovery.lock_asks", arm)

    async def claim_open_questions(self, arm: str, most: int, issued_since: datetime) -> list[Question]:
        """Claim questions that were released, abandoned, or have a page worth asking for.

        Page tokens issued before `issued_since` have expired; their questions stay as they are.
        """
        lease_s, now = self._settings.hunter.lease_s, self._clock.now()
        rows = await self._executor.fetch(
            "discovery.claim_open_asks", arm, most, uuid4(), lease_s, now, issued_since
        )
        return sorted(map(_question, rows), key=lambda question: (question.asked_at, question.key))

    async def add_questions(self, arm: str, questions: Sequence[NewQuestion]) -> list[Question]:
        """Claim new questions; those whose key exists are left to whoever asked them first."""
        if not questions:
            return []
        rows = await self._executor.fetch(
            "discovery.add_asks",
            arm,
            uuid4(),
            self._settings.hunter.lease_s,
            self._clock.now(),
            [each.key for each in questions],
            [json_text(each.question) for each in questions],
            [_array(each.topics) for each in questions],
            [each.covers_until for each in questions],
        )
        return [_question(row) for row in rows]

    async def covered_until(self, arm: str) -> datetime | None:
        """Up to which instant the arm's slices of time were asked for."""
        until: datetime | None = await self._executor.fetchval("discovery.covered_until", arm)
        return until

    async def last_asked(self, arm: str, since: datetime) -> dict[str, datetime]:
        """When each subject (the part of a key before the @) was last asked since then."""
        rows = await self._executor.fetch("discovery.last_asked", arm, since)
        return {row["subject"]: row["asked_at"] for row in rows}

    async def complete_question(
        self,
        question: Question,
        *,
        next_token: str | None,
        issued_at: datetime,
        results: int,
        digest: str | None,
    ) -> None:
        """Store a page's outcome; with `next_token` the question stays open. LeaseLost if it was lost."""
        outcome = (next_token is not None, next_token and clean_text(next_token), issued_at, results, digest)
        try:
            await self._executor.execute(
                "discovery.complete_ask", question.key, question.lease_token, *outcome
            )
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlstate", None) != _LEASE_LOST:
                raise
            raise LeaseLost(f"the lease on {question.key} was lost: nothing was stored") from error

    async def release_questions(
        self,
        questions: Iterable[Question],
        *,
        error: str | None = None,
        count_attempt: bool = False,
        close: bool = False,
    ) -> int:
        """Give claims back without a result; returns how many were still held.

        A question whose attempts are used up is closed, or every one with `close`.
        """
        held = list(questions)
        return await self._executor.execute(
            "discovery.release_asks",
            [each.key for each in held],
            [each.lease_token for each in held],
            None if error is None else clean_text(error),
            count_attempt,
            self._settings.hunter.max_attempts,
            close,
        )

    async def forget_questions(self, before: datetime) -> int:
        """Delete questions asked before then."""
        return await self._executor.execute("discovery.forget_asks", before)

    # Growth

    async def begin_judging(self, interval: timedelta) -> bool:
        """Claim the next look at which videos grew; False if the last one is less than `interval` ago."""
        now, interval_s = self._clock.now(), interval.total_seconds()
        return await self._executor.fetchrow("discovery.begin_judging", now, interval_s) is not None

    async def growing_views_per_hour(self) -> float | None:
        """Views an hour over the first 24 from which a video counts as growing; None before any is known."""
        threshold: float | None = await self._executor.fetchval("discovery.growing_views_per_hour")
        return threshold

    async def keep_growing_views_per_hour(self, threshold: float) -> None:
        """Keep that threshold for every hunter."""
        await self._executor.execute("discovery.keep_growing_views_per_hour", threshold)

    async def to_judge(self, after: Unjudged | None, most: int) -> list[Unjudged]:
        """Early videos not judged yet, in the order they were met, from behind `after`."""
        behind = (after.met_at, after.video_id) if after else (datetime.min.replace(tzinfo=UTC), "")
        rows = await self._executor.fetch("discovery.to_judge", self._clock.now(), *behind, most)
        return [Unjudged(**{**row, "tags": tuple(row["tags"])}) for row in rows]

    async def known_growth(self, since: datetime, most: int) -> list[float]:
        """Views an hour over the first 24 of the videos judged last."""
        rows = await self._executor.fetch("discovery.known_growth", since, most)
        return [row["views_per_hour"] for row in rows]

    async def store_verdicts(self, verdicts: Sequence[GrowthVerdict], worth_in_mentions: float) -> int:
        """Store which videos grew, and credit the arms that found them and their topics.

        Returns of how many that is known; the others count nowhere. Takes the snowball lock. A growing video
        raises its topics' priority like `worth_in_mentions`.
        """
        if not verdicts:
            return 0
        columns = [[getattr(v, name) for v in verdicts] for name in ("video_id", "views_per_hour", "growing")]
        carried: dict[str, int] = {}
        for key in (key for verdict in verdicts if verdict.growing for key in verdict.tags):
            carried[key] = carried.get(key, 0) + 1
        async with self._atomic() as executor:
            await executor.fetchval("queue.lock_snowball")
            rows = await executor.fetch(
                "discovery.judge_videos", *columns, self._clock.now(), worth_in_mentions
            )
            if carried:
                keys = sorted(carried)
                await executor.execute("discovery.add_growing_mentions", keys, [carried[key] for key in keys])
            if rows:
                names = ("pacific_day", "arm", "judged", "growing")
                await executor.execute(
                    "discovery.add_verdicts", *([row[name] for row in rows] for name in names)
                )
        return sum(row["judged"] for row in rows)


def _array(ids: Iterable[int]) -> str:
    """A literal of bigint[]: the driver takes no arrays of arrays of different lengths."""
    return "{" + ",".join(map(str, ids)) + "}"


def _question(row: Row) -> Question:
    given = row["question"]
    question = orjson.loads(given) if isinstance(given, str) else given
    return Question(**{**row, "question": question, "topics": tuple(row["topics"])})

"""A hunter in virtual time: what it knows, what it spends, and what it has found, without HTTP or database.

A strategy is called once a tick, about a quarter of an hour, and asks the world through a `Desk`, which
charges the units, notes what was found when and by which arm, and keeps what the snowball learns: topics and
channels. Whether a video grew is told a day after its publication, as the tracker would know it then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from maia.discovery.forms import Request
from maia.emulator.world import World
from maia.learning.growth import GrowthSettings, threshold
from maia.learning.triage import DEFAULTS as TRIAGE
from maia.learning.triage import grows
from maia.learning.velocity import Booleans, Floats, Integers
from tests.bench.discovery.scene import DAY, HOUR, Scene

TICKS_A_DAY = 100
"""One search unit each."""
SEEDS = 3
"""Topics that a new user begins with."""
GROWTH = GrowthSettings()


@dataclass(frozen=True)
class Quota:
    """Units a day of each bucket, and requests of feeds, which cost none."""

    search: float = 100.0
    general: float = 9000.0
    feeds: float = 20_000.0
    stats: float = 10_000.0


QUOTA = Quota()


@dataclass
class Ledger:
    """What was spent on each arm, by bucket and day."""

    spent: Counter[tuple[int, str, str]] = field(default_factory=Counter)

    def charge(self, day: int, bucket: str, arm: str, units: float) -> None:
        self.spent[day, bucket, arm] += units  # type: ignore[assignment]

    def total(self, bucket: str, days: int) -> float:
        """What the first days spent of a bucket."""
        return sum(units for (day, of, _), units in self.spent.items() if of == bucket and day < days)


class TopicTable:
    """The queue as columns, one element per topic of the world; it is known once a stored video has it."""

    def __init__(self, topics: int, channels: int) -> None:
        self.mentions, self.videos, self.asks, self.pending = (np.zeros(topics) for _ in range(4))
        self.judged, self.growing, self.early_growing, self.channels = (np.zeros(topics) for _ in range(4))
        self.asked_s, self.rests_until_s = np.full(topics, -np.inf), np.full(topics, -np.inf)
        self.score = np.zeros(topics)
        """Mentions that count half for each 48 h before the others: the queue's priority."""
        self._pairs: set[int] = set()
        self._channels_in_all = channels

    def mention(self, topics: Integers, channels: Integers, weight: float) -> None:
        np.add.at(self.mentions, topics, 1)
        np.add.at(self.videos, topics, 1)
        np.add.at(self.score, topics, weight)
        pairs = set((topics * self._channels_in_all + channels).tolist()) - self._pairs
        self._pairs |= pairs
        new = np.fromiter(pairs, np.int64, len(pairs)) // self._channels_in_all
        np.add.at(self.channels, new, 1)


class Desk:
    """Asks the world and keeps the books of one run."""

    def __init__(self, scene: Scene, world: World, quota: Quota, seed: int) -> None:
        self.scene, self.world, self.quota = scene, world, quota
        self.random = np.random.default_rng([seed, 77])
        videos, channels = len(scene.published), int(scene.channel.max()) + 1
        self.now = scene.start_s
        self.found_s = np.full(videos, np.nan)
        self.arm_of = np.full(videos, -1, np.int16)
        self.arms: list[str] = []
        self.is_judged = np.zeros(videos, np.bool_)
        self.known_s = np.full(channels, np.nan)
        """When each channel was first met."""
        self.topics = TopicTable(len(scene.queries), channels)
        self.ledger = Ledger()
        self.threshold = GROWTH.first_threshold
        self._rates: list[Floats] = []
        self.found_day: dict[tuple[int, str], list[float]] = {}
        """By day and arm: early videos judged, those of them that grow, and early ones in all."""
        self.seeds = self._seeds(seed)

    @property
    def day(self) -> int:
        return int((self.now - self.scene.start_s) // DAY)

    @property
    def weight(self) -> float:
        """What a mention adds to a priority now: earlier ones count half for each 48 h."""
        weight: float = 2 ** ((self.now - self.scene.start_s) / (2 * DAY))
        return weight

    def _seeds(self, seed: int) -> list[int]:
        """Topics that a person might name: not the broadest, not the rarest."""
        recent = self.scene.published < self.scene.start_s
        topics, _ = self.scene.topics_of(np.flatnonzero(recent))
        counts = np.bincount(topics, minlength=len(self.scene.queries))
        usual = np.flatnonzero((counts >= np.quantile(counts, 0.98)) & (counts <= np.quantile(counts, 0.998)))
        return [int(topic) for topic in np.random.default_rng([seed, 5]).choice(usual, SEEDS, replace=False)]

    # Asking

    def search(self, arm: str, request: Request, *, start: int = 0) -> tuple[Integers, bool]:
        """One page of search for one unit: its videos in order, and whether another follows."""
        self.ledger.charge(self.day, "search", arm, 1)
        after, before = request.published_after, request.published_before
        page = self.world.search(
            self.now,
            request.q,
            order=request.order,
            published_after=after.timestamp() if after else None,
            published_before=before.timestamp() if before else None,
            region=request.region_code,
            category_id=request.video_category_id,
            start=start,
        )
        return np.array([*dict.fromkeys(page.numbers)], np.int64), page.more

    def chart(self, arm: str, region: str, category: int | None, start: int = 0) -> Integers:
        self.ledger.charge(self.day, "general", arm, 1)
        page = self.world.chart(self.now, region=region, category_id=category, start=start)
        return np.array(page.numbers, np.int64)

    def store(self, arm: str, numbers: Integers) -> Integers:
        """Enrich and store the videos that are new, and return them."""
        new: Integers = numbers[np.isnan(self.found_s[numbers])]
        if not len(new):
            return new
        self.ledger.charge(self.day, "general", f"enrich {arm}", -(-len(new) // 50))
        if arm not in self.arms:
            self.arms.append(arm)
        self.found_s[new] = self.now
        self.arm_of[new] = self.arms.index(arm)
        channels = self.scene.channel[new]
        unknown = channels[np.isnan(self.known_s[channels])]
        self.known_s[unknown] = self.now
        topics, rows = self.scene.topics_of(new)
        self.topics.mention(topics, channels[rows], self.weight)
        early = self.now - self.scene.published[new] <= DAY
        self._count(arm, self.day, early=int(early.sum()))
        return new

    def _count(self, arm: str, day: int, *, early: int = 0, judged: int = 0, growing: int = 0) -> None:
        row = self.found_day.setdefault((day, arm), [0.0, 0.0, 0.0])
        row[0] += judged
        row[1] += growing
        row[2] += early

    # What is known a day later

    def judge(self) -> tuple[Integers, Booleans]:
        """Tell of early videos that are over a day old by now whether they grew, as the hunter sees it."""
        published, found = self.scene.published, self.found_s
        with np.errstate(invalid="ignore"):
            due = ~self.is_judged & (found - published <= DAY) & (self.now - published >= DAY)
        numbers = np.flatnonzero(due)
        if not len(numbers):
            return numbers, np.zeros(0, np.bool_)
        self.is_judged[numbers] = True
        rates = self.scene.views_per_hour[numbers]
        self._rates.append(rates)
        self.threshold = threshold(np.concatenate(self._rates[-40:]), GROWTH)
        grows: Booleans = rates >= self.threshold
        days = ((found[numbers] - self.scene.start_s) // DAY).astype(int)
        for arm_number, day in {*zip(self.arm_of[numbers].tolist(), days.tolist(), strict=True)}:
            those = (self.arm_of[numbers] == arm_number) & (days == day)
            self._count(
                self.arms[arm_number], day, judged=int(those.sum()), growing=int((those & grows).sum())
            )
        topics, rows = self.scene.topics_of(numbers)
        np.add.at(self.topics.judged, topics, 1)
        np.add.at(self.topics.growing, topics, grows[rows])
        return numbers, grows


class Strategy(Protocol):
    """What to ask, tick by tick."""

    name: str

    def tick(self, desk: Desk, searches: int) -> None:
        """Spend up to so many search units now, and general units as the strategy sees fit."""


@dataclass(frozen=True)
class Following:
    """The samples a day that hot videos take, and the share of growing videos' hours that have one."""

    samples_a_day: float
    growing_hours: float


@dataclass(frozen=True)
class Outcome:
    """What a run found and spent."""

    strategy: str
    world: str
    seed: int
    early_growing: Sequence[int]
    """Per day of publication."""
    growing: Sequence[int]
    """How many there were."""
    median_age_h: float
    search_units: float
    general_units: float
    feeds: float
    found: int
    by_arm: dict[str, int]
    """Early growing videos by the arm that found them."""
    hourly: Following
    """What following every early video hourly for its first day would take."""
    triaged: Following
    """The same if those that don't look like growing leave early."""

    @property
    def a_day(self) -> float:
        return sum(self.early_growing) / len(self.early_growing)

    @property
    def recall(self) -> float:
        return sum(self.early_growing) / max(1, sum(self.growing))

    @property
    def per_100_searches(self) -> float:
        return 100 * sum(self.early_growing) / max(1.0, self.search_units)


def run(
    strategy: Strategy,
    scene: Scene,
    world: World,
    *,
    name: str,
    quota: Quota = QUOTA,
    days: int | None = None,
) -> Outcome:
    """Let a strategy hunt through the virtual days, and a day more for the videos of the last."""
    desk = Desk(scene, world, quota, scene.seed)
    days = days or scene.size.days
    done = 0
    for tick in range((days + 1) * TICKS_A_DAY):
        desk.now = scene.start_s + (tick + 1) * DAY / TICKS_A_DAY - 1
        due = int((tick + 1) * quota.search / TICKS_A_DAY)
        strategy.tick(desk, due - done)
        done = due
    return _outcome(strategy, desk, name, days)


def _outcome(strategy: Strategy, desk: Desk, world: str, days: int) -> Outcome:
    scene = desk.scene
    age_s = desk.found_s - scene.published
    with np.errstate(invalid="ignore"):
        early = scene.grows & (age_s <= DAY)
    day = ((scene.published - scene.start_s) // DAY).astype(int)
    return Outcome(
        strategy.name,
        world,
        scene.seed,
        [int((early & (day == k)).sum()) for k in range(days)],
        [int((scene.grows & (day == k)).sum()) for k in range(days)],
        float(np.median(age_s[early]) / HOUR) if early.any() else float("nan"),
        desk.ledger.total("search", days),
        desk.ledger.total("general", days),
        desk.ledger.total("feeds", days),
        int((~np.isnan(desk.found_s)).sum()),
        {arm: int((early & (desk.arm_of == k)).sum()) for k, arm in enumerate(desk.arms)},
        following(desk, days, triage=False),
        following(desk, days, triage=True),
    )


WARM_H = 6.0


def following(desk: Desk, days: int, *, triage: bool) -> Following:
    """Hourly samples of the early videos found, until they are a day old or leave.

    A video leaves by its counts when found and an hour later, and may come back by its first warm sample.
    """
    scene = desk.scene
    with np.errstate(invalid="ignore"):
        numbers = np.flatnonzero(scene.counts & (desk.found_s - scene.published < DAY))
    age = np.maximum((desk.found_s - scene.published)[numbers] / HOUR, 0.02)
    whole = 24 - age
    hours = whole
    if triage:

        def chance(later_h: float) -> Floats:
            at = desk.found_s[numbers] + later_h * HOUR
            return grows(
                age + later_h,
                scene.catalogue.views_at(numbers, at),
                desk.threshold,
                first_age_h=age,
                first_views=first,
            )

        first = scene.catalogue.views_at(numbers, desk.found_s[numbers])
        leaves, returns = chance(1.0) < TRIAGE.leave, chance(1.0 + WARM_H) >= TRIAGE.back
        back = np.where(returns, np.maximum(whole - 1 - WARM_H, 0), 0)
        hours = np.where(leaves, np.minimum(whole, 1) + back, whole)
    grown = scene.grows[numbers]
    kept = float(hours[grown].sum() / max(whole[grown].sum(), 1e-9))
    return Following(float(hours.sum()) / days, kept)

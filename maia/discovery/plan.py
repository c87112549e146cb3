"""The day's plan: which arm gets how many of the units, by what each is expected to find.

Whichever hunter comes first makes a Pacific day's plan, and all of them follow it. It is kept in PostgreSQL
with its reasons. Units are taken so that what was taken follows the shares at any time of the day.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Final

from atlas.adapters.discovery import ArmOfDay, ArmYield, DayOfArm, DiscoveryDAO, PlannedArm
from atlas.adapters.patterns import PatternsDAO, StoredPattern
from atlas.clock import pacific_day
from atlas.composition import Atlas
from atlas.config import BUCKETS, Bucket, DiscoverySettings, LearnerSettings
from atlas.errors import AtlasError, ConfigError
from atlas.wording import counted
from maia.discovery.forms import FORMS, SPECIFICATION
from maia.discovery.source import CHARTS, FEEDS, UPLOADS
from maia.learning import conduct
from maia.learning.allocation import ArmRecord, DayYield, Share, allocate
from maia.learning.evidence import Prior, confidence
from maia.learning.patterns import PatternType
from maia.learning.priors import AGENT, GOAL, ArmPrior, LearntYield, arm_priors

logger = logging.getLogger(__name__)

PRIORS: Final[Mapping[str, float]] = {form.arm: form.prior_yield for form in FORMS} | {
    SPECIFICATION: 0.3,
    UPLOADS: 0.5,
    CHARTS: 0.3,
    FEEDS: 1.0,
}
"""Early growing videos expected per unit before any is known; only ratios within a bucket matter."""

_SEARCH: Final = "search"
_SOURCES: Final = (_SEARCH, FEEDS, UPLOADS, CHARTS)
_LOOK_BACK: Final = timedelta(days=21)
_HEALTH_DAYS: Final = 3
"""Days whose answers say whether an arm answers as expected."""


class Planner:
    """Makes and follows the plan of each day, for the arms that this hunter has."""

    def __init__(self, atlas: Atlas, arms: Mapping[str, Bucket]) -> None:
        """`arms` are those that units are planned for; ConfigError if the settings name unknown ones."""
        self.atlas, self.settings = atlas, atlas.settings.discovery
        self.arms = {arm: bucket for arm, bucket in arms.items() if not self.settings.is_off(arm)}
        self.dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        check_arms(self.settings)

    @property
    def day(self) -> date:
        """The Pacific day, by which units are planned."""
        return pacific_day(self.atlas.clock.now())

    async def today(self, units: Mapping[Bucket, int], session: str | None = None) -> list[ArmOfDay]:
        """Today's plan, made now if there is none. `units` is what the buckets have to spend a day.

        Arms that it lacks, because they were switched on since, join it; shares are ratios.
        """
        day = self.day
        plan = await self.dao.plan(day)
        if self.arms.keys() <= {arm.arm for arm in plan}:
            return plan
        made = await self._allocated(day, units)
        if await self.dao.make_plan(day, made):
            await self._announce(day, made, session)
        return await self.dao.plan(day)

    async def _allocated(self, day: date, units: Mapping[Bucket, int]) -> list[PlannedArm]:
        history = await self.dao.yields_since(day - _LOOK_BACK)
        priors = await self._learnt_priors()
        records = records_of(self.arms, history, day, self.settings, priors)
        try:
            shares = allocate(
                records,
                seed=day.toordinal(),
                explore=self.settings.exploration,
                cap=self.settings.cap,
                units={bucket: count for bucket, count in units.items() if count > 0},
            )
        except ValueError as error:
            raise ConfigError(f"PLEIADES_DISCOVERY__PINS can't be kept: {error}") from error
        return [_explained(arm, priors) for arm in planned(shares, self.arms, self.settings.exploration)]

    async def _learnt_priors(self) -> dict[str, ArmPrior]:
        """What the learner's patterns say of the arms, if they say enough and the settings want to know."""
        settings = self.atlas.settings.learner
        if not settings.discovery_priors:
            return {}
        dao = PatternsDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        learnt = learnt_yields(await dao.known([PatternType.TOOL_USAGE]), settings)
        priors: dict[str, ArmPrior] = {}
        for bucket in BUCKETS:
            builtin = {arm: PRIORS.get(arm, 1.0) for arm, of in self.arms.items() if of == bucket}
            priors |= arm_priors(builtin, learnt, least_confidence=settings.confidence_threshold)
        return priors

    async def _announce(self, day: date, made: Sequence[PlannedArm], session: str | None) -> None:
        """Write the plan's event; a plan without one is still a plan."""
        payload = {
            "pacific_day": day.isoformat(),
            "arms": [
                {
                    "arm": arm.arm,
                    "bucket": arm.bucket,
                    "share": round(arm.share, 4),
                    "expected": round(arm.expected, 4),
                    "low": round(arm.low, 4),
                    "high": round(arm.high, 4),
                    "reason": arm.reason,
                }
                for arm in made
            ],
        }
        leading = ", ".join(f"{arm.arm} {arm.share:.0%}" for arm in made[:3])
        logger.info("planned %s: %s", day, leading, extra={"action": "hunter_plan"})
        await self.atlas.events.append("hunter.plan", payload, agent="hunter", session=session)

    async def take(self, bucket: Bucket, units: int, without: Collection[str] = ()) -> dict[str, int]:
        """Take units of a bucket for the arms that are on and not in `without`, as the plan says."""
        able = [arm for arm, of in self.arms.items() if of == bucket and arm not in without]
        return await self.dao.take_units(self.day, bucket, units, able) if able else {}

    async def put_back(self, units: Mapping[str, int]) -> None:
        """Return units that were taken and not spent; less than none if more were spent than taken."""
        await self.dao.return_units(self.day, units)

    async def notice(self, arm: str, oddity: str, asks: int, odd: int) -> None:
        """If most of an arm's answers of today are odd, take its share away and tell people, once."""
        standing = conduct.standing([frozenset({_KIND})] * odd + [frozenset()] * (asks - odd))
        if standing.is_well or not await self.dao.mark_unwell(self.day, arm, oddity):
            return
        text = f"Of {counted(asks, 'answer')} today, {counted(odd, 'was', 'were')} not as asked: {oddity}."
        logger.warning("%s: %s", arm, text, extra={"action": "arm_unwell"})
        payload = {"arm": arm, "oddity": oddity, "asks": asks, "odd": odd}
        await self.atlas.events.append("hunter.unwell", payload, agent="hunter")
        try:
            await self.atlas.notifier.notify(
                f"{arm} no longer answers as asked",
                f"{text} It gets only its part of the exploration until it recovers; `maia plan` shows it.",
                level="warning",
                key=f"unwell {arm}",
            )
        except AtlasError as error:
            logger.warning("the alert about %s was not sent: %s", arm, error, extra={"action": "alert_lost"})


_KIND: Final = conduct.Oddity.ORDER_IGNORED
"""Which kind an odd answer was is not kept, and doesn't matter for whether there are too many."""


def check_arms(settings: DiscoverySettings) -> None:
    """ConfigError if a setting names an arm that doesn't exist, or more than all of a bucket is pinned."""
    known = [*PRIORS, *_SOURCES]
    for name, arms in (("PINS", [*settings.pins]), ("OFF", settings.off)):
        for arm in arms:
            if arm not in known or (name == "PINS" and arm in (_SEARCH, FEEDS)):
                choices = ", ".join(sorted(set(known) - ({_SEARCH, FEEDS} if name == "PINS" else set())))
                raise ConfigError(f"PLEIADES_DISCOVERY__{name} names {arm!r}, which is none of {choices}")
    pinned: defaultdict[str, float] = defaultdict(float)
    for arm, share in settings.pins.items():
        if not settings.is_off(arm):
            pinned[bucket_of(arm)] += share
    for bucket, total in pinned.items():
        if total > 1 + 1e-9:
            raise ConfigError(
                f"PLEIADES_DISCOVERY__PINS can't be kept: the shares of the {bucket} bucket "
                f"add up to {total:g}, which is more than 1"
            )


def records_of(
    arms: Mapping[str, Bucket],
    history: Iterable[DayOfArm],
    day: date,
    settings: DiscoverySettings,
    priors: Mapping[str, ArmPrior] = {},
) -> list[ArmRecord]:
    """What is known of each arm, for `maia.learning.allocation`."""
    days: defaultdict[str, list[DayOfArm]] = defaultdict(list)
    for each in history:
        days[each.arm].append(each)
    return [
        ArmRecord(
            arm,
            bucket,
            prior_yield=priors[arm].value if arm in priors else PRIORS.get(arm, 1.0),
            days=[_day_yield(each, day, bucket) for each in days[arm] if each.pacific_day < day],
            health=_health(days[arm], day),
            pinned=settings.pins.get(arm),
            off=settings.is_off(arm),
        )
        for arm, bucket in arms.items()
    ]


def _day_yield(each: DayOfArm, today: date, bucket: Bucket) -> DayYield:
    judged = min(each.judged / each.early, 1.0) if each.early else 1.0
    age_days = float((today - each.pacific_day).days)
    return DayYield(age_days, units_spent(each, bucket), float(each.growing), judged)


def units_spent(each: ArmYield, bucket: Bucket) -> float:
    """What an arm spent of its bucket.

    Metadata come from the general bucket: arms that spend it pay for what they find, too.
    """
    return float(each.units + (each.enrichments if bucket == "general" else 0.0))


def bucket_of(arm: str) -> Bucket:
    """The bucket that an arm spends."""
    return "search" if arm.startswith("search:") else "general"


def learnt_yields(patterns: Iterable[StoredPattern], settings: LearnerSettings) -> list[LearntYield]:
    """What patterns of tool usage say of arms, in any context."""
    prior = Prior(settings.prior_alpha, settings.prior_beta)
    return [
        LearntYield(
            each.id,
            str(each.signature["tool"]),
            each.sum_reward / each.support,
            each.support,
            float(confidence(each.pos, each.neg, prior)),
        )
        for each in patterns
        if each.support
        and (each.signature.get("agent"), each.signature.get("task")) == (AGENT, GOAL)
        and not each.signature.get("conditions")
    ]


def _explained(arm: PlannedArm, priors: Mapping[str, ArmPrior]) -> PlannedArm:
    """The arm with the pattern that changed its prior among its reasons."""
    prior = priors.get(arm.arm)
    if prior is None:
        return arm
    by = f"pattern {prior.pattern_id[:8]} ({counted(prior.days, 'day')})"
    return replace(arm, reason=f"{arm.reason}; prior ×{prior.factor:.2g} by {by}")


def _health(days: Iterable[DayOfArm], today: date) -> float:
    recent = [each for each in days if (today - each.pacific_day).days <= _HEALTH_DAYS]
    asks, odd = sum(each.asks for each in recent), sum(each.odd for each in recent)
    return conduct.standing([frozenset({_KIND})] * odd + [frozenset()] * max(asks - odd, 0)).health


def planned(
    shares: Mapping[str, Sequence[Share]], arms: Mapping[str, Bucket], exploration: float
) -> list[PlannedArm]:
    """The shares as a plan, by bucket, largest share first."""
    plan = []
    for bucket in BUCKETS:
        of_bucket = shares.get(bucket, ())
        least = exploration / max(len(of_bucket), 1)
        plan += [
            PlannedArm(
                share.arm,
                arms[share.arm],
                min(max(share.share, 0.0), 1.0),
                min(least, max(share.share, 0.0), 1.0),
                share.expected,
                share.low,
                max(share.high, share.low),
                share.reason,
            )
            for share in of_bucket
        ]
    return plan

"""The patterns view: what is believed, how firmly, on what evidence, and what it advises in a context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from maia.learning import evidence as beliefs
from maia.learning.evidence import Counts, Prior
from maia.learning.known_patterns import known
from maia.learning.matching import Match, Matcher
from maia.learning.patterns import Pattern, PatternType, condition_of
from maia.learning.recommending import Adviser, Recommendation, Recommendations
from maia.views.federation import count_sites

if TYPE_CHECKING:
    from atlas.adapters.patterns import PatternContent, PatternsDAO, StoredEvidence, StoredPattern
    from atlas.composition import Atlas
    from atlas.config import LearnerSettings
    from maia.learning.observations import Scalar


@dataclass(frozen=True, slots=True)
class BelievedPattern:
    """A pattern with what its evidence lets one believe.

    `strength` is the posterior mean of the chance that the statement proves true, `low` and `high` bound its
    90 % credible interval, and `confidence` is `low`. `sites` and `days` say how many counted it, of as many
    as `of_sites` that learn together.
    """

    id: str
    type: PatternType
    statement: str
    conditions: tuple[str, ...]
    action: str | None
    strength: float
    confidence: float
    high: float
    support: int
    pos: int
    neg: int
    reward: float
    sites: int
    days: int
    last_seen: datetime | None
    created_at: datetime
    updated_at: datetime
    pinned: bool
    importance: float
    data: Mapping[str, object] = field(default_factory=dict)
    of_sites: int = 1


@dataclass(frozen=True, slots=True)
class EvidenceOfDay:
    """What a site counted for a pattern on a UTC day, and the confidence after it, over all sites."""

    day: date
    node: str
    pos: int
    neg: int
    reward: float
    confidence: float


@dataclass(frozen=True, slots=True)
class EvidenceOfSite:
    """What a site counted for a pattern over all days, and the confidence if only that were known."""

    node: str
    days: int
    pos: int
    neg: int
    confidence: float
    last: date


@dataclass(frozen=True, slots=True)
class PatternDetails:
    """A pattern with its evidence by day, oldest first, and by site."""

    pattern: BelievedPattern
    signature: Mapping[str, object]
    evidence: tuple[EvidenceOfDay, ...]
    sites: tuple[EvidenceOfSite, ...] = ()

    @property
    def confidence_by_day(self) -> Mapping[date, float]:
        """The confidence after each day on which something was counted, over all sites."""
        return {each.day: each.confidence for each in self.evidence}


@dataclass(frozen=True, slots=True)
class MatchedPattern:
    """A pattern with those of its conditions that a context meets, and those that it misses.

    `score` is the share of conditions met × confidence × recency, in [0, 1].
    """

    id: str
    type: PatternType
    statement: str
    action: str | None
    met: tuple[str, ...]
    missed: tuple[str, ...]
    score: float
    strength: float
    confidence: float
    high: float
    support: int
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class Matches:
    """The patterns that a context meets, best first; if there are none, `reason` says why."""

    patterns: tuple[MatchedPattern, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RecommendedAction:
    """An action with the reward per cost that is expected of it, the intervals of that, and why.

    `because` are the best of the patterns that advise it. `pos` and `neg` are the evidence of the best
    supported one, which need not be among these, and `confidence` is the highest of all. `drawn` is what
    Thompson sampling drew, if it was asked to explore.
    """

    action: str
    reward: float
    interval_80: tuple[float, float]
    interval_90: tuple[float, float]
    confidence: float
    pos: int
    neg: int
    why: str
    because: tuple[MatchedPattern, ...]
    drawn: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do in a context, best first; if nothing is advised, `reason` says why."""

    actions: tuple[RecommendedAction, ...]
    reason: str | None = None


async def matches(
    atlas: Atlas, context: Mapping[str, Scalar], limit: int = 20, min_confidence: float = 0.0
) -> Matches:
    """The patterns of which a context meets at least one condition.

    Pseudonyms must stand for personal data in the context, as they do in patterns.
    """
    return matches_of(await _matcher(atlas), context, atlas.clock.now(), limit, min_confidence)


def matches_of(
    matcher: Matcher, context: Mapping[str, Scalar], now: datetime, limit: int, min_confidence: float
) -> Matches:
    """The patterns of a matcher of which a context meets at least one condition."""
    found = matcher.match(context, now, limit, min_confidence)
    return Matches(tuple(map(_matched, found))) if found else no_matches(matcher, min_confidence)


def no_matches(matcher: Matcher, min_confidence: float) -> Matches:
    """Why no pattern of a matcher matches."""
    if not len(matcher):
        return Matches((), "Nothing has been learnt yet.")
    fields = sorted(matcher.fields())
    asked = f" with confidence {min_confidence:.2f} or more" if min_confidence else ""
    return Matches(
        (),
        f"No pattern{asked} has a condition that this context meets. "
        f"The fields that conditions are about: {', '.join(fields) or 'none'}.",
    )


async def advice(
    atlas: Atlas, context: Mapping[str, Scalar], limit: int = 5, *, explore: bool = False, seed: int = 0
) -> Advice:
    """What the patterns advise in a context; with `explore` ranked by draws from the posteriors."""
    adviser = Adviser(
        await _matcher(atlas),
        confidence_threshold=atlas.settings.learner.confidence_threshold,
        prior=prior_of(atlas),
    )
    return advice_of(adviser.recommend(context, atlas.clock.now(), limit, explore=explore, seed=seed))


async def consult(
    atlas: Atlas, context: Mapping[str, Scalar], limit: int = 20, min_confidence: float = 0.0
) -> tuple[Matches, Advice]:
    """The same as `matches` and `advice` together, for which the patterns are read once."""
    matcher, now = await _matcher(atlas), atlas.clock.now()
    adviser = Adviser(
        matcher, confidence_threshold=atlas.settings.learner.confidence_threshold, prior=prior_of(atlas)
    )
    found = matches_of(matcher, context, now, limit, min_confidence)
    return found, advice_of(adviser.recommend(context, now))


def advice_of(found: Recommendations) -> Advice:
    """Recommendations for people and programs to read."""
    return Advice(tuple(map(_recommended, found.actions)), found.reason)


async def patterns(
    atlas: Atlas, types: Iterable[PatternType] | None = None, min_confidence: float = 0.0
) -> list[BelievedPattern]:
    """The patterns of some types, or of all, the most firmly believed first."""
    stored = await _dao(atlas).known(None if types is None else [each.value for each in types])
    known = believe(stored, prior_of(atlas), await count_sites(atlas))
    believed = [each for each in known if each.confidence >= min_confidence]
    return sorted(believed, key=lambda each: (-each.confidence, -each.support, each.id))


async def pattern(atlas: Atlas, id_: str) -> PatternDetails | None:
    """A pattern with its evidence; None if it isn't known."""
    dao = _dao(atlas)
    found = await dao.known(ids=[id_])
    if not found:
        return None
    [believed] = believe(found, prior_of(atlas), await count_sites(atlas))
    rows = await dao.evidence([id_])
    confidences = beliefs.confidence(
        np.cumsum([row.pos for row in rows]), np.cumsum([row.neg for row in rows]), prior_of(atlas)
    )
    return PatternDetails(
        believed,
        found[0].signature,
        tuple(
            EvidenceOfDay(row.day, row.node, row.pos, row.neg, row.sum_reward, float(confidence))
            for row, confidence in zip(rows, confidences, strict=True)
        ),
        _by_site(rows, prior_of(atlas)),
    )


def _by_site(rows: Sequence[StoredEvidence], prior: Prior) -> tuple[EvidenceOfSite, ...]:
    """The sites, those that counted most first."""
    of_site: dict[str, list[StoredEvidence]] = {}
    for row in rows:
        of_site.setdefault(row.node, []).append(row)
    sums = [(sum(row.pos for row in found), sum(row.neg for row in found)) for found in of_site.values()]
    confidences = beliefs.confidence([pos for pos, _ in sums], [neg for _, neg in sums], prior)
    sites = [
        EvidenceOfSite(
            node, len({row.day for row in found}), pos, neg, float(alone), max(row.day for row in found)
        )
        for (node, found), (pos, neg), alone in zip(of_site.items(), sums, confidences, strict=True)
    ]
    return tuple(sorted(sites, key=lambda each: (-(each.pos + each.neg), each.node)))


def prior_of(atlas: Atlas) -> Prior:
    """The prior that the settings give every statement."""
    settings: LearnerSettings = atlas.settings.learner
    return Prior(settings.prior_alpha, settings.prior_beta)


def believe(stored: Sequence[StoredPattern], prior: Prior, of_sites: int = 1) -> list[BelievedPattern]:
    """Stored patterns with what their evidence lets one believe, in the same order.

    `of_sites` is how many sites there are; a site that counted and has left is one more.
    """
    pos, neg = [each.pos for each in stored], [each.neg for each in stored]
    strengths = beliefs.strength(pos, neg, prior)
    lows, highs = beliefs.interval(pos, neg, prior)
    return [
        BelievedPattern(
            id=each.id,
            type=PatternType(each.type),
            statement=each.statement,
            conditions=tuple(str(condition_of(condition)) for condition in each.conditions),
            action=each.action,
            strength=float(strength),
            confidence=float(low),
            high=float(high),
            support=each.support,
            pos=each.pos,
            neg=each.neg,
            reward=each.sum_reward,
            sites=each.sites,
            days=each.days,
            last_seen=each.last_seen,
            created_at=each.created_at,
            updated_at=each.updated_at,
            pinned=each.pinned,
            importance=each.lti,
            data=each.data,
            of_sites=max(of_sites, each.sites),
        )
        for each, strength, low, high in zip(stored, strengths, lows, highs, strict=True)
    ]


def as_learnt(stored: StoredPattern) -> tuple[Pattern, Counts]:
    """A stored pattern with its counts, in the terms of `maia.learning`."""
    return pattern_of(stored), Counts(stored.pos, stored.neg, stored.sum_reward, stored.last_seen)


def pattern_of(stored: PatternContent) -> Pattern:
    """What a stored pattern says, in the terms of `maia.learning`."""
    return Pattern(
        PatternType(stored.type),
        stored.signature,
        stored.statement,
        tuple(condition_of(condition) for condition in stored.conditions),
        stored.action,
        stored.data,
    )


def columns_of(pattern: Pattern, id_: str | None = None) -> dict[str, Any]:
    """What a pattern says, by the names of the columns that hold it: the reverse of `pattern_of`."""
    return {
        "id": id_ or pattern.id,
        "type": pattern.type.value,
        "signature": pattern.signature,
        "statement": pattern.statement,
        "conditions": [condition.as_dict() for condition in pattern.conditions],
        "action": pattern.action,
        "data": pattern.data,
    }


async def _matcher(atlas: Atlas) -> Matcher:
    stored = await _dao(atlas).known()
    return Matcher(known([as_learnt(each) for each in stored], prior_of(atlas)))


def _matched(match: Match) -> MatchedPattern:
    each = match.known
    return MatchedPattern(
        id=each.id,
        type=each.pattern.type,
        statement=each.pattern.statement,
        action=each.pattern.action,
        met=tuple(map(str, match.met)),
        missed=tuple(map(str, match.missed)),
        score=match.score,
        strength=each.strength,
        confidence=each.confidence,
        high=each.ceiling,
        support=each.support,
        last_seen=each.last_seen,
    )


def _recommended(found: Recommendation) -> RecommendedAction:
    return RecommendedAction(
        action=found.action,
        reward=found.reward,
        interval_80=found.interval_80,
        interval_90=found.interval_90,
        confidence=found.confidence,
        pos=found.counts.pos,
        neg=found.counts.neg,
        why=found.why,
        because=tuple(map(_matched, found.because)),
        drawn=found.drawn,
    )


def _dao(atlas: Atlas) -> PatternsDAO:
    from atlas.adapters.patterns import PatternsDAO

    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

"""What the arms of discovery are expected to find, by what patterns say they have found over a long time.

The day's allocation forgets within days, and a new site knows nothing: both begin from priors. The built-in
ones are guesses drawn together. Patterns of tool usage tell better: each counts the days on which an arm
brought early growing videos, and how many for what it spent. They last as long as evidence is kept, and come
with patterns that another site exported.

A prior moves from the built-in one towards what a pattern says by how many days are behind that, and never
by more than `LARGEST_FACTOR`. Only ratios between the arms of a bucket matter, so what all of them have in
common is left out: another site may find ten times as much and still teach which arms are the best ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from math import exp, fsum, log
from typing import Final

from maia.learning.allocation import DEFAULTS
from maia.learning.observations import Observation, Scalar

AGENT: Final = "discovery"
"""Not the hunter: what its single steps brought is observed under its own name."""
GOAL: Final = "early growing videos"
LARGEST_FACTOR: Final = 2.0
"""Shares go with about the fourth power of yields, so twice is much; the bench of priors shows it."""
_DAYS: Final = 10.0
"""After so many days, a prior has gone half of the way to what was found."""
_LEAST_YIELD: Final = 1e-3


def judged_day(arm: str, bucket: str, day: date, units: float, growing: float) -> Observation:
    """What an arm brought on a day all of whose early videos are judged, as an observation to learn from.

    Each has a session of its own, as arms of a day follow no order. Its cost is what the allocation counts
    with: units^r, as later questions of a day find less.
    """
    noon = datetime.combine(day, time(20), UTC)
    context: dict[str, Scalar] = {"goal": GOAL, "bucket": bucket, "weekday": day.weekday()}
    cost = units**DEFAULTS.returns if units > 0 else 0.0
    return Observation(
        AGENT, f"{day.isoformat()} {arm}", arm, noon, context=context, reward=growing, cost=cost
    )


@dataclass(frozen=True, slots=True)
class LearntYield:
    """What a pattern says of an arm: early growing videos for a day's cost, on how many days, how surely."""

    pattern_id: str
    arm: str
    mean: float
    days: int
    confidence: float


@dataclass(frozen=True, slots=True)
class ArmPrior:
    """An arm's prior yield, as a factor of the built-in one, and the pattern that it comes from."""

    value: float
    factor: float
    pattern_id: str
    days: int


def arm_priors(
    builtin: Mapping[str, float], learnt: Iterable[LearntYield], *, least_confidence: float
) -> dict[str, ArmPrior]:
    """The priors of a bucket's arms of which patterns say enough; `builtin` has all arms of the bucket.

    A pattern below `least_confidence` changes nothing, and of two for one arm that with more days counts.
    With fewer than two arms there is nothing to compare.
    """
    best: dict[str, LearntYield] = {}
    for each in learnt:
        if each.arm not in builtin or each.confidence < least_confidence or each.days < 1:
            continue
        known = best.get(each.arm)
        if known is None or (each.days, each.pattern_id) > (known.days, known.pattern_id):
            best[each.arm] = each
    if len(best) < 2:
        return {}
    ratios = {arm: log(max(each.mean, _LEAST_YIELD) / builtin[arm]) for arm, each in best.items()}
    weights = {arm: each.days / (each.days + _DAYS) for arm, each in best.items()}
    level = fsum(weights[arm] * ratios[arm] for arm in best) / fsum(weights.values())
    priors = {}
    for arm, each in best.items():
        most = log(LARGEST_FACTOR)
        factor = exp(min(max(weights[arm] * (ratios[arm] - level), -most), most))
        priors[arm] = ArmPrior(builtin[arm] * factor, factor, each.pattern_id, each.days)
    return priors

"""Decides which young videos stay in the hot zone, by their chance to grow and by what the quota pays for.

A video is hot for its first day, unless its first two counts make it unlikely to grow
(`maia.learning.triage`): then it is sampled like a warm one, and each later sample, also from its channel's
feed, may bring it back. Pinned videos and broadcasts that are coming up or on air stay hot. A tracker sees a
batch of due videos, not all of them, so it keeps of each batch the share that all hot videos may keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np

from atlas.adapters.tracking import ChannelNorm
from maia.learning import growth, triage
from maia.learning.velocity import Booleans, Floats, Integers, age_class, column
from maia.learning.zones import Zone
from maia.tracker.measuring import NormKey, Reading

_HOUR: Final = timedelta(hours=1)
_NO_NORM: Final = ChannelNorm(0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class HotBudget:
    """How many videos may be hot, as a share of those that are, and what counts as growing."""

    share: float
    """The part of the hot videos that the quota pays for; 1 if it pays for all."""
    views_per_hour: float | None
    """The threshold of growing; None while too few videos are known, and then the budget alone decides."""

    @classmethod
    def of(
        cls, samples_a_day: float, hot_videos: int, hot_interval_h: float, views_per_hour: float | None
    ) -> HotBudget:
        affordable = triage.hot_budget(samples_a_day, hot_interval_h=hot_interval_h)
        return cls(min(1.0, affordable / max(hot_videos, 1)), views_per_hour)

    def choose(
        self,
        readings: Sequence[Reading],
        age_h: Floats,
        zones: Integers,
        norms: Mapping[NormKey, ChannelNorm],
    ) -> Integers:
        """The zones, with those of young videos that need not be hot changed to warm."""
        candidates = np.flatnonzero(self._candidates(readings, age_h, zones))
        if not len(candidates):
            return zones
        chosen = [readings[row] for row in candidates.tolist()]
        chance = self.chances(chosen, age_h[candidates], norms)
        is_hot = np.array([reading.target.zone == Zone.HOT for reading in chosen])
        settings = self._settings
        wanting = int(is_hot.sum()) + int((~is_hot & (chance >= settings.back)).sum())
        stays = triage.stays_hot(
            chance, age_h[candidates], math.ceil(self.share * wanting), is_hot=is_hot, settings=settings
        )
        changed = zones.copy()
        changed[candidates[~stays]] = Zone.WARM
        return changed

    @property
    def _settings(self) -> triage.TriageSettings:
        return triage.DEFAULTS if self.views_per_hour else replace(triage.DEFAULTS, leave=0.0)

    @staticmethod
    def _candidates(readings: Sequence[Reading], age_h: Floats, zones: Integers) -> Booleans:
        """Young videos of which two counts are known, unless they must be hot."""
        free = [
            reading.target.pinned_zone is None
            and reading.target.broadcast == "none"
            and reading.target.last_views is not None
            and reading.counts is not None
            and reading.counts.views is not None
            for reading in readings
        ]
        young: Booleans = (zones == Zone.HOT) & (age_h >= 0) & np.array(free, dtype=bool)
        return young

    def chances(
        self, readings: Sequence[Reading], age_h: Floats, norms: Mapping[NormKey, ChannelNorm]
    ) -> Floats:
        """The probability that each video grows."""
        return triage.grows(
            age_h,
            column([reading.counts.views if reading.counts else None for reading in readings]),
            self.views_per_hour or growth.DEFAULTS.first_threshold,
            first_age_h=column([_first_age_h(reading) for reading in readings]),
            first_views=column([reading.target.last_views for reading in readings]),
            norms=_norms_at_24h(readings, age_h, norms),
        )


def _first_age_h(reading: Reading) -> float | None:
    last_at = reading.target.last_at
    return None if last_at is None else (last_at - reading.target.born_at) / _HOUR


def _norms_at_24h(
    readings: Sequence[Reading], age_h: Floats, norms: Mapping[NormKey, ChannelNorm]
) -> triage.ChannelNorms:
    """What the channels' videos usually have at 24 h, from their usual velocity at the age of each reading.

    By the typical curve, whose rate of views falls as (1 + age/scale)^−decay.
    """
    keys = zip((reading.target.channel_id for reading in readings), age_class(age_h).tolist(), strict=True)
    videos, mean, squares = np.array([norms.get(key, _NO_NORM) for key in keys], dtype=np.float64).T
    curve, power = growth.DEFAULTS, 1 - growth.DEFAULTS.decay
    day = curve.scale_h * ((1 + growth.HORIZON_H / curve.scale_h) ** power - 1) / power
    hours = day * (1 + age_h / curve.scale_h) ** curve.decay
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(squares / np.maximum(videos - 1, 1.0))
    known = np.where(videos > 0, mean + np.log(hours), np.nan)
    return triage.ChannelNorms.of(known, np.where(videos > 1, spread, np.nan), videos)

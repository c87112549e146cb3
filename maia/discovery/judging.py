"""Judge which of the videos found early grew, a day after their publication, and credit who found them.

A video grew if it is among the fastest by views an hour over its first 24 hours, of all videos found early
and judged in the last week. Fast and slow ones alike are judged as soon as the ages of their counts allow it.
The first arm that met a video gets the credit, with the topics that it carries. Whichever hunter comes does
this, at most once an hour; if it is killed, the next one goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from atlas.adapters.discovery import DiscoveryDAO, GrowthVerdict, Unjudged
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.queries import topic_key
from maia.learning import growth
from maia.learning.velocity import Floats

EVERY: Final = timedelta(hours=1)
GIVE_UP: Final = timedelta(hours=96)
"""Age at which a video without a count at 24 hours or later is given up as unknown."""
WORTH_IN_MENTIONS: Final = 10.0
"""How much a growing video raises its topics' priority, in mentions."""
THRESHOLD_DAYS: Final = timedelta(days=7)
_THRESHOLD_VIDEOS: Final = 20_000
_BATCH: Final = 2_000
_HOUR: Final = timedelta(hours=1)


@dataclass(slots=True)
class Judged:
    """How many videos were judged, and how many of them grew; not those that are given up as unknown."""

    videos: int = 0
    growing: int = 0
    threshold: float | None = None
    known: list[float] = field(default_factory=list)
    """Views an hour of the videos that make the threshold."""


async def judge(atlas: Atlas) -> Judged | None:
    """Judge what can be judged now; None if that was done less than an hour ago."""
    dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    if not await dao.begin_judging(EVERY):
        return None
    now = atlas.clock.now()
    result = Judged(known=await dao.known_growth(now - THRESHOLD_DAYS, _THRESHOLD_VIDEOS))
    settings = replace(growth.DEFAULTS, share=atlas.settings.discovery.growing_share)
    after: Unjudged | None = None
    while batch := await dao.to_judge(after, _BATCH):
        await _judge_batch(dao, batch, now, result, settings)
        after = batch[-1]
        if len(batch) < _BATCH:
            break
    if result.threshold is not None and result.videos:
        await dao.keep_growing_views_per_hour(result.threshold)
    return result


async def _judge_batch(
    dao: DiscoveryDAO,
    batch: Sequence[Unjudged],
    now: datetime,
    result: Judged,
    settings: growth.GrowthSettings,
) -> None:
    at_24h = views_at_24h(batch, settings)
    per_hour = at_24h / growth.HORIZON_H
    result.known += [float(rate) for rate in per_hour if not np.isnan(rate)]
    result.threshold = growth.threshold(result.known, settings)
    verdicts = verdicts_of(batch, at_24h, result.threshold, now)
    async for trial in retry_conflicts():
        with trial:
            result.videos += await dao.store_verdicts(verdicts, WORTH_IN_MENTIONS)
    result.growing += sum(bool(verdict.growing) for verdict in verdicts)


def views_at_24h(batch: Sequence[Unjudged], settings: growth.GrowthSettings) -> Floats:
    """The videos' views at the age of 24 hours; NaN while unknown."""
    counts = np.array([_counts_of(video) for video in batch]).reshape(-1, 4)
    before_age_h, before, after_age_h, after = counts.T
    return growth.views_at_horizon(before_age_h, before, after_age_h, after, settings)


def verdicts_of(
    batch: Sequence[Unjudged], at_24h: Floats, threshold: float, now: datetime
) -> list[GrowthVerdict]:
    """The verdicts on those videos that are known, or never will be."""
    verdicts = []
    for video, views, grew in zip(batch, at_24h, growth.labels(at_24h, threshold), strict=True):
        if grew is None and not video.is_gone and now - video.born_at < GIVE_UP:
            continue
        per_hour = None if np.isnan(views) else float(views) / growth.HORIZON_H
        tags = tuple({topic_key(tag) for tag in video.tags} - {""}) if grew else ()
        verdicts.append(GrowthVerdict(video.video_id, per_hour, grew, tags))
    return verdicts


def _counts_of(video: Unjudged) -> tuple[float, float, float, float]:
    """Age and views of the last count up to 24 hours and of the first one from then on; NaN for none.

    What was counted when the video was found is in the log only once there is a sample.
    """
    before = _age_h(video, video.before_at), _views(video.before_views)
    after = _age_h(video, video.after_at), _views(video.after_views)
    last = _age_h(video, video.last_at), _views(video.last_views)
    if 0 <= last[0] <= growth.HORIZON_H and not last[0] <= before[0]:
        return *last, *after
    if growth.HORIZON_H < last[0] <= GIVE_UP / _HOUR and np.isnan(after[0]):
        return *before, *last
    return *before, *after


def _age_h(video: Unjudged, at: datetime | None) -> float:
    return float("nan") if at is None else (at - video.born_at) / _HOUR


def _views(count: int | None) -> float:
    return float("nan") if count is None else float(count)

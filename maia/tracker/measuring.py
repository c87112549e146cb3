"""Computes what to store for claimed videos and their new counters: samples, next due times and breakouts.

This module does no I/O. A `Meter` belongs to one cycle and works on columns with one row per video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atlas.adapters.tracking import ChannelNorm, Measure, SampleSource, StoredCohort, Target, VideoUpdate
from atlas.config import TrackerSettings
from maia.learning.breakouts import BreakoutSettings, BreakoutStates, Observation, observe
from maia.learning.velocity import (
    RESTARTS,
    Advance,
    Booleans,
    Cohort,
    Floats,
    Integers,
    Norms,
    Step,
    Tracks,
    VelocitySettings,
    advance,
    age_class,
    growth_rate,
    nullable,
    percentiles,
    relative_velocity,
    to_scale,
    viral_score,
)
from maia.learning.zones import airing_wait_h, interval_h, within_zone, zone_of
from maia.views.clock import zone_settings

if TYPE_CHECKING:
    from maia.tracker.foresight import Foresight
    from maia.tracker.hotness import HotBudget

NormKey = tuple[str, int]
"""A channel and an age class."""
CohortKey = tuple[int, int]
"""An age class and a category; 0 is the unknown one."""
MISSES_BEFORE_GONE = 2
"""Consecutive answers without a video, or a channel, after which it counts as deleted."""
_HOUR_S = 3600.0
_SAME = 1e-6
"""Waits that differ by less, relatively, are the same."""
_NO_NORM = ChannelNorm(0, 0.0, 0.0)
_LOOKS = (timedelta(days=1), timedelta(days=7), timedelta(days=25))
"""When to look for a gone video again; the last look comes before its samples are dropped."""


class Counts(NamedTuple):
    """A video's counters; None if hidden."""

    views: int | None
    likes: int | None
    comments: int | None


class Reading(NamedTuple):
    """A claimed video and its counters in a response; no counters if the video was not in the response.

    If `refreshed`, the response also had its metadata, and the target has their broadcast state and
    `born_at`. If its `source` is a feed, only the views are known.
    """

    target: Target
    at: datetime
    counts: Counts | None
    refreshed: bool = False
    source: SampleSource | None = None


@dataclass(frozen=True, slots=True)
class Breakout:
    """A video that grows faster than its age and history suggest, by the factor `ratio`."""

    id: str
    at: datetime
    age_h: float
    views: int | None
    velocity: float | None
    ratio: float | None
    viral_score: float | None

    def as_dict(self) -> dict[str, Any]:
        """The payload of the breakout's event."""
        return {
            "video_id": self.id,
            "at": self.at.isoformat(),
            "age_h": round(self.age_h, 2),
            "views": self.views,
            "views_per_hour": self.velocity,
            "times_expected": self.ratio,
            "viral_score": self.viral_score,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What to store, and what to announce once it is stored.

    `not_later` are videos that already have a sample of that time or later, so this one is not stored.
    `by_forecast` counts the videos whose wait the forecast changed.
    """

    updates: tuple[VideoUpdate, ...] = ()
    breakouts: tuple[Breakout, ...] = ()
    not_later: frozenset[str] = frozenset()
    by_forecast: int = 0


class Cohorts:
    """The velocities and growth rates with which videos are compared: of the last days and of this cycle."""

    def __init__(self, stored: Iterable[StoredCohort]) -> None:
        digests: dict[Measure, dict[CohortKey, list[Cohort]]] = {"velocity": {}, "growth": {}}
        for row in stored:
            key = (row.age_class, row.category_id)
            digests[row.measure].setdefault(key, []).append(Cohort.from_bytes(row.digest))
        self._known = {
            measure: defaultdict(Cohort, {key: Cohort.merge(days) for key, days in by_key.items()})
            for measure, by_key in digests.items()
        }
        self._added = defaultdict[tuple[Measure, date, CohortKey], Cohort](Cohort)

    def observe(
        self, measure: Measure, days: Sequence[date], keys: Sequence[CohortKey], values: Floats
    ) -> None:
        """Add one value per row."""
        scaled = to_scale(values)
        numbers = scaled.tolist()
        known: dict[tuple[date, CohortKey], list[float]] = {}
        for row in np.flatnonzero(np.isfinite(scaled)).tolist():
            known.setdefault((days[row], keys[row]), []).append(numbers[row])
        for (day, key), of_cohort in known.items():
            self._known[measure][key].observe_scaled(of_cohort)
            self._added[measure, day, key].observe_scaled(of_cohort)

    def percentiles(self, measure: Measure, keys: Sequence[CohortKey], values: Floats) -> Floats:
        """Each value's percentile in its cohort; NaN if there is no cohort."""
        return percentiles(keys, values, self._known[measure])

    def norms(self, keys: Sequence[CohortKey]) -> Norms:
        """The usual velocity of each row's cohort."""
        known = self._known["velocity"]
        of_key = {key: known[key].norm() if key in known else (0.0, 0.0, 0.0) for key in set(keys)}
        columns = np.array([of_key[key] for key in keys]).reshape(-1, 3).T
        return Norms(*columns)

    def take_added(self) -> list[StoredCohort]:
        """Return what was observed since the last call, for storage."""
        added, self._added = self._added, defaultdict(Cohort)
        return [
            StoredCohort(day, *key, measure, cohort.to_bytes())
            for (measure, day, key), cohort in added.items()
            if len(cohort)
        ]

    @staticmethod
    def merge(stored: bytes, added: bytes) -> bytes:
        """Merge two digests."""
        return Cohort.merge((Cohort.from_bytes(stored), Cohort.from_bytes(added))).to_bytes()


@dataclass(frozen=True, slots=True)
class _Columns:
    """The readings that have counters, as columns."""

    readings: Sequence[Reading]
    age_h: Floats
    zones: Integers
    classes: Integers
    cohort_keys: Sequence[CohortKey]
    advanced: Advance
    observed: Observation
    upcoming: Booleans
    on_air: Booleans

    @property
    def measured(self) -> Booleans:
        """The rows whose step measures growth; upcoming videos are left out, as nobody can watch them yet."""
        measured: Booleans = (self.advanced.step == Step.MEASURED) & ~self.upcoming
        return measured

    @property
    def velocity(self) -> Floats:
        return self.advanced.tracks.velocity


@dataclass(frozen=True, slots=True)
class _Compared:
    """How each row compares, when its video is due again, and whether the forecast changed that."""

    relative: Floats
    score: Floats
    waits_h: Floats
    by_forecast: Booleans


class Meter:
    """Computes the results of one cycle's readings, compared with the cohorts and the channels' norms.

    While the budget is short, `saving` is set, and no video is sampled more often than its zone's interval.
    With a `hot` budget, young videos that are unlikely to grow leave the hot zone early. With `foresight`,
    waits follow the forecast, but for pinned videos, broadcasts, and while saving.
    """

    def __init__(
        self,
        tracker: TrackerSettings,
        cohorts: Cohorts,
        *,
        saving: bool = False,
        hot: HotBudget | None = None,
        foresight: Foresight | None = None,
    ) -> None:
        self.cohorts, self._hot, self._foresight = cohorts, hot, foresight
        self._zones, self._saving = zone_settings(tracker), saving
        self._epoch = tracker.methodology_epoch
        self._velocity = VelocitySettings(tracker.half_life_h, self._epoch.timestamp())
        self._breakouts = BreakoutSettings(
            false_alarms_per_month=tracker.false_alarms_per_month,
            least_rise=tracker.least_rise,
            least_velocity=tracker.least_velocity,
        )

    def norm_keys(self, readings: Sequence[Reading]) -> set[NormKey]:
        """The keys of the channels' norms that `measure` needs."""
        answered = [reading for reading in readings if reading.counts]
        classes = age_class(_ages_h(answered)).tolist()
        return {
            (reading.target.channel_id, of_age) for reading, of_age in zip(answered, classes, strict=True)
        }

    def measure(self, readings: Sequence[Reading], norms: Mapping[NormKey, ChannelNorm]) -> Measured:
        """Turn readings, one per video, into rows to store."""
        answered = [reading for reading in readings if reading.counts]
        missing = tuple(self._update_missing(reading) for reading in readings if not reading.counts)
        if not answered:
            return Measured(missing)
        sampled = self._to_columns(answered, norms)
        self._observe(sampled)
        compared = self._compare(sampled, norms)
        updates = self._updates(sampled, compared)
        refused = np.flatnonzero(sampled.advanced.step == Step.NOT_LATER).tolist()
        not_later = frozenset(answered[row].target.id for row in refused)
        changed = int(compared.by_forecast.sum()) - int(compared.by_forecast[refused].sum())
        return Measured((*updates, *missing), tuple(_breakouts(sampled, compared)), not_later, changed)

    def _update_missing(self, reading: Reading) -> VideoUpdate:
        target, at = reading.target, reading.at
        gone = target.gone_at is not None or target.misses + 1 >= MISSES_BEFORE_GONE
        return VideoUpdate(
            target.id,
            target.lease_token,
            None,
            _next_look(target.gone_at or at, at) if gone else at + timedelta(hours=target.interval_h),
            target.zone,
            target.interval_h,
            misses=target.misses + 1,
            gone=gone,
        )

    def _to_columns(self, readings: Sequence[Reading], norms: Mapping[NormKey, ChannelNorm]) -> _Columns:
        # One Target whose fields are columns: the values of that field in all targets.
        of: Any = Target._make(zip(*(reading.target for reading in readings), strict=True))
        last_s = [at and at.timestamp() for at in of.last_at]
        tracks = Tracks.of(last_s, of.last_views, of.velocity, of.acceleration, of.weight, of.doubted_views)
        at_s = [reading.at.timestamp() for reading in readings]
        views = [reading.counts.views if reading.counts else None for reading in readings]
        advanced = advance(tracks, at_s, views, self._velocity)
        age_h = _ages_h(readings)
        states = BreakoutStates.of(*zip(*of.breakout_state, strict=True))
        restarted = np.isin(advanced.step, RESTARTS)
        observed = observe(
            states, age_h, advanced.hours, advanced.gained, self._breakouts, restarted=restarted
        )
        zones, classes = zone_of(age_h, self._zones, pinned=of.pinned_zone), age_class(age_h)
        if self._hot is not None:
            zones = self._hot.choose(readings, age_h, zones, norms)
        categories = (category_id or 0 for category_id in of.category_id)
        cohort_keys = [*zip(classes.tolist(), categories, strict=True)]
        broadcasts = np.array(of.broadcast)
        return _Columns(
            readings, age_h, zones, classes, cohort_keys, advanced, observed,
            upcoming=broadcasts == "upcoming", on_air=broadcasts == "live",
        )  # fmt: skip

    def _observe(self, sampled: _Columns) -> None:
        """Count each video in its cohort once per UTC day, however often it is sampled."""
        fresh = [
            row
            for row in np.flatnonzero(sampled.measured).tolist()
            if _is_first_of_day(sampled.readings[row], int(sampled.classes[row]))
        ]
        keys = sampled.cohort_keys
        days = [sampled.readings[row].at.astimezone(UTC).date() for row in fresh]
        of_rows = [keys[row] for row in fresh]
        velocity, acceleration = sampled.velocity[fresh], sampled.advanced.tracks.acceleration[fresh]
        self.cohorts.observe("velocity", days, of_rows, velocity)
        self.cohorts.observe("growth", days, of_rows, growth_rate(velocity, acceleration))

    def _compare(self, sampled: _Columns, norms: Mapping[NormKey, ChannelNorm]) -> _Compared:
        keys, velocity = sampled.cohort_keys, sampled.velocity
        acceleration = sampled.advanced.tracks.acceleration
        channel = _channel_norms(sampled, norms)
        relative = relative_velocity(velocity, channel, self.cohorts.norms(keys))
        score = viral_score(
            self.cohorts.percentiles("velocity", keys, velocity),
            relative.z,
            self.cohorts.percentiles("growth", keys, growth_rate(velocity, acceleration)),
        )
        usual_h = np.array(self._zones.intervals_h)[sampled.zones]
        today_h = interval_h(sampled.zones, velocity, acceleration, self._zones)
        waits_h = self._foreseen(sampled, channel, today_h)
        changed = np.abs(waits_h - today_h) > _SAME * today_h
        if self._saving:
            waits_h = np.maximum(waits_h, usual_h)
        # A broadcast that has just gone live has no views yet from which to predict its growth.
        waits_h = np.where(sampled.on_air, np.minimum(waits_h, usual_h), waits_h)
        waits_h = np.where(sampled.upcoming, airing_wait_h(-sampled.age_h, self._zones), waits_h)
        return _Compared(relative.ratio, score, waits_h, changed)

    def _foreseen(self, sampled: _Columns, channel: Norms, waits_h: Floats) -> Floats:
        """The waits as the forecast changes them, within the bounds of the zones."""
        if self._foresight is None or self._saving:
            return waits_h
        targets = [reading.target for reading in sampled.readings]
        ordinary = np.array([each.pinned_zone is None and each.broadcast == "none" for each in targets])
        born_s = [target.born_at.timestamp() for target in targets]
        factors = self._foresight.factors(
            sampled.advanced.tracks, born_s, channel.videos, np.expm1(channel.mean)
        )
        changes = ordinary & (factors != 1)
        foreseen: Floats = np.where(
            changes, within_zone(waits_h * factors, sampled.zones, self._zones), waits_h
        )
        return foreseen

    def _updates(self, sampled: _Columns, compared: _Compared) -> Iterator[VideoUpdate]:
        """Turn the columns into rows to store."""
        steps, tracks = sampled.advanced.step.tolist(), sampled.advanced.tracks
        logs = np.log1p(np.maximum(sampled.velocity, 0.0)).tolist()
        for (
            reading, step, measured, of_age, log, zone, wait_h, of_step, smoothed, change, weight, doubted,
            ratio, score, breakout_state,
        ) in zip(
            sampled.readings, steps, sampled.measured.tolist(), sampled.classes.tolist(), logs,
            sampled.zones.tolist(), compared.waits_h.tolist(), nullable(sampled.advanced.velocity),
            nullable(tracks.velocity),
            nullable(tracks.acceleration), nullable(tracks.weight), nullable(tracks.doubted),
            nullable(compared.relative),
            nullable(compared.score), zip(*map(nullable, sampled.observed.states.columns()), strict=True),
            strict=True,
        ):  # fmt: skip
            target, at, counts, refreshed, source = reading
            id_, token, due_at = target.id, target.lease_token, at + timedelta(hours=wait_h)
            if step == Step.NOT_LATER:
                yield VideoUpdate(id_, token, None, due_at, zone, wait_h, misses=target.misses)
                continue
            views, likes, comments = counts
            untrusted = views is None or step == Step.DOUBTED
            last_at, last_views = (target.last_at, target.last_views) if untrusted else (at, views)
            joins = measured and of_age != target.age_class
            yield VideoUpdate(
                id_, token, at, due_at, zone, wait_h, views, likes, comments, of_step,
                1 if at < self._epoch else 2, 0, False, last_at, last_views, smoothed, change, weight, ratio,
                score, of_age if joins else target.age_class, at if refreshed else None,
                None if doubted is None else int(doubted), target.gone_at is not None, breakout_state,
                (of_age, log) if joins else None, source,
            )  # fmt: skip


def _next_look(gone_at: datetime, at: datetime) -> datetime | None:
    """When to look for a gone video again; None: never."""
    return next((gone_at + look for look in _LOOKS if gone_at + look > at), None)


def _ages_h(readings: Sequence[Reading]) -> Floats:
    seconds = [(reading.at - reading.target.born_at).total_seconds() for reading in readings]
    return np.array(seconds, dtype=np.float64) / _HOUR_S


def _is_first_of_day(reading: Reading, of_age: int) -> bool:
    last_at = reading.target.last_at
    return (
        reading.target.age_class != of_age
        or last_at is None
        or last_at.astimezone(UTC).date() < reading.at.astimezone(UTC).date()
    )


def _channel_norms(sampled: _Columns, norms: Mapping[NormKey, ChannelNorm]) -> Norms:
    targets = (reading.target for reading in sampled.readings)
    keys = (
        (target.channel_id, of_age) for target, of_age in zip(targets, sampled.classes.tolist(), strict=True)
    )
    return Norms(*np.array([norms.get(key, _NO_NORM) for key in keys], dtype=np.float64).T)


def _breakouts(sampled: _Columns, compared: _Compared) -> Iterable[Breakout]:
    ratios, velocity, score = map(nullable, (sampled.observed.ratio, sampled.velocity, compared.score))
    for row in np.flatnonzero(sampled.observed.fired).tolist():
        reading = sampled.readings[row]
        yield Breakout(
            reading.target.id,
            reading.at,
            float(sampled.age_h[row]),
            reading.counts.views if reading.counts else None,
            velocity[row],
            ratios[row],
            score[row],
        )

"""What answers mean: from claimed videos and their new counts to samples, clocks and breakouts.

Nothing here waits or writes. A `Meter` belongs to one cycle and works on columns, a row a video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from atlas.adapters.tracking import ChannelNorm, Measure, Target, VideoStats
from atlas.adapters.tracking import Cohort as StoredCohort
from atlas.config import TrackerSettings
from maia.budget import zone_settings
from maia.learning.breakouts import BreakoutSettings, Observation, Watch, observe
from maia.learning.velocity import (
    Advance,
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
from maia.learning.zones import Booleans, interval_h, zone_of

NormKey = tuple[str, int]
"""A channel and an age class."""
CohortKey = tuple[int, int]
"""An age class and a category; 0 is the unknown one."""
_HOUR_S = 3600.0
_NO_NORM = ChannelNorm(0, 0.0, 0.0)


class Counts(NamedTuple):
    """A video's counters; None is hidden."""

    views: int | None
    likes: int | None
    comments: int | None


class Reading(NamedTuple):
    """What an answer told of a claimed video, and when; no counts: it was left out.

    `refreshed` says that title and tags came with them.
    """

    target: Target
    at: datetime
    counts: Counts | None
    refreshed: bool = False


@dataclass(frozen=True, slots=True)
class Breakout:
    """A video that rises over what its age and its past let expect; `ratio` says how many times."""

    id: str
    at: datetime
    age_h: float
    views: int | None
    velocity: float | None
    ratio: float | None
    viral_score: float | None

    def as_dict(self) -> dict[str, Any]:
        """As its event tells it."""
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
    """What to store, and what to tell when it is stored.

    `not_later` are videos whose last count is no earlier than this one, which is therefore no sample.
    """

    updates: tuple[VideoStats, ...] = ()
    breakouts: tuple[Breakout, ...] = ()
    not_later: frozenset[str] = frozenset()


class Cohorts:
    """What videos are compared with: the velocities and growth rates of the last days and of this cycle."""

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
        """Take in a value a row."""
        scaled = to_scale(values)
        numbers = scaled.tolist()
        known: dict[tuple[date, CohortKey], list[float]] = {}
        for row in np.flatnonzero(np.isfinite(scaled)).tolist():
            known.setdefault((days[row], keys[row]), []).append(numbers[row])
        for (day, key), of_cohort in known.items():
            self._known[measure][key].observe_scaled(of_cohort)
            self._added[measure, day, key].observe_scaled(of_cohort)

    def percentiles(self, measure: Measure, keys: Sequence[CohortKey], values: Floats) -> Floats:
        """Each value's percentile in its cohort; NaN where there is none."""
        return percentiles(keys, values, self._known[measure])

    def norms(self, keys: Sequence[CohortKey]) -> Norms:
        """The usual velocity of each row's cohort."""
        known = self._known["velocity"]
        of_key = {key: known[key].norm() if key in known else (0.0, 0.0, 0.0) for key in set(keys)}
        columns = np.array([of_key[key] for key in keys]).reshape(-1, 3).T
        return Norms(*columns)

    def take_added(self) -> list[StoredCohort]:
        """What was observed since the last time, for storage."""
        added, self._added = self._added, defaultdict(Cohort)
        return [
            StoredCohort(day, *key, measure, cohort.to_bytes())
            for (measure, day, key), cohort in added.items()
            if len(cohort)
        ]

    @staticmethod
    def merged(stored: bytes, added: bytes) -> bytes:
        """Two digests in one."""
        return Cohort.merge((Cohort.from_bytes(stored), Cohort.from_bytes(added))).to_bytes()


@dataclass(frozen=True, slots=True)
class _Sampled:
    """The readings that told counts, as columns."""

    readings: Sequence[Reading]
    age_h: Floats
    zones: Integers
    classes: Integers
    cohort_keys: Sequence[CohortKey]
    advanced: Advance
    watched: Observation

    @property
    def measured(self) -> Booleans:
        measured: Booleans = self.advanced.step == Step.MEASURED
        return measured

    @property
    def velocity(self) -> Floats:
        return self.advanced.tracks.velocity


@dataclass(frozen=True, slots=True)
class _Compared:
    """How each row's velocity compares, and when the video is due again."""

    relative: Floats
    score: Floats
    waits_h: Floats


class Meter:
    """Measures the readings of one cycle against the cohorts and the channels' norms.

    `saving` is set while the budget is short: then nobody is sampled faster than the zone's interval.
    """

    def __init__(self, tracker: TrackerSettings, cohorts: Cohorts, *, saving: bool = False) -> None:
        self.cohorts = cohorts
        self._zones, self._saving = zone_settings(tracker), saving
        self._misses_before_gone = tracker.misses_before_gone
        self._epoch = tracker.methodology_epoch
        self._velocity = VelocitySettings(tracker.half_life_h, self._epoch.timestamp())
        self._breakouts = BreakoutSettings(
            false_alarms_per_month=tracker.false_alarms_per_month,
            least_rise=tracker.least_rise,
            least_velocity=tracker.least_velocity,
        )

    def norm_keys(self, readings: Sequence[Reading]) -> set[NormKey]:
        """The channels' norms that `measure` wants."""
        answered = [reading for reading in readings if reading.counts]
        classes = age_class(_ages_h(answered)).tolist()
        return {
            (reading.target.channel_id, of_age) for reading, of_age in zip(answered, classes, strict=True)
        }

    def measure(self, readings: Sequence[Reading], norms: Mapping[NormKey, ChannelNorm]) -> Measured:
        """What to store of readings, each of another video."""
        answered = [reading for reading in readings if reading.counts]
        missing = tuple(self._missed(reading) for reading in readings if not reading.counts)
        if not answered:
            return Measured(missing)
        sampled = self._sampled(answered)
        self._observe(sampled)
        compared = self._compared(sampled, norms)
        updates = self._updates(sampled, compared)
        refused = np.flatnonzero(sampled.advanced.step == Step.NOT_LATER).tolist()
        not_later = frozenset(answered[row].target.id for row in refused)
        return Measured((*updates, *missing), tuple(_breakouts(sampled, compared)), not_later)

    def _missed(self, reading: Reading) -> VideoStats:
        target = reading.target
        gone = target.misses + 1 >= self._misses_before_gone
        return VideoStats(
            target.id,
            target.lease_token,
            None,
            reading.at if gone else reading.at + timedelta(hours=target.interval_h),
            target.zone,
            target.interval_h,
            misses=target.misses + 1,
            gone=gone,
        )

    def _sampled(self, readings: Sequence[Reading]) -> _Sampled:
        # One target whose fields are the columns of all.
        of: Any = Target._make(zip(*(reading.target for reading in readings), strict=True))
        last_s = [at and at.timestamp() for at in of.last_at]
        tracks = Tracks.of(last_s, of.last_views, of.velocity, of.acceleration, of.weight)
        at_s = [reading.at.timestamp() for reading in readings]
        views = [reading.counts.views if reading.counts else None for reading in readings]
        advanced = advance(tracks, at_s, views, self._velocity)
        age_h = _ages_h(readings)
        watch = Watch.of(*zip(*of.watch, strict=True))
        restarted = advanced.step == Step.EPOCH
        watched = observe(watch, age_h, advanced.hours, advanced.gained, self._breakouts, restarted=restarted)
        zones, classes = zone_of(age_h, self._zones, pinned=of.pinned_zone), age_class(age_h)
        categories = (category_id or 0 for category_id in of.category_id)
        cohort_keys = [*zip(classes.tolist(), categories, strict=True)]
        return _Sampled(readings, age_h, zones, classes, cohort_keys, advanced, watched)

    def _observe(self, sampled: _Sampled) -> None:
        """Count each video once a UTC day in its cohort, lest those sampled often outweigh the others."""
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

    def _compared(self, sampled: _Sampled, norms: Mapping[NormKey, ChannelNorm]) -> _Compared:
        keys, velocity = sampled.cohort_keys, sampled.velocity
        acceleration = sampled.advanced.tracks.acceleration
        channel = _channel_norms(sampled, norms)
        relative = relative_velocity(velocity, channel, self.cohorts.norms(keys))
        score = viral_score(
            self.cohorts.percentiles("velocity", keys, velocity),
            relative.z,
            self.cohorts.percentiles("growth", keys, growth_rate(velocity, acceleration)),
        )
        waits_h = interval_h(sampled.zones, velocity, acceleration, self._zones)
        if self._saving:
            waits_h = np.maximum(waits_h, np.array(self._zones.intervals_h)[sampled.zones])
        return _Compared(relative.ratio, score, waits_h)

    def _updates(self, sampled: _Sampled, compared: _Compared) -> Iterator[VideoStats]:
        """The columns as rows."""
        steps, tracks = sampled.advanced.step.tolist(), sampled.advanced.tracks
        logs = np.log1p(np.maximum(sampled.velocity, 0.0)).tolist()
        for (
            reading, step, of_age, log, zone, wait_h, of_step, smoothed, change, weight, ratio, score, watch
        ) in zip(
            sampled.readings, steps, sampled.classes.tolist(), logs, sampled.zones.tolist(),
            compared.waits_h.tolist(), nullable(sampled.advanced.velocity), nullable(tracks.velocity),
            nullable(tracks.acceleration), nullable(tracks.weight), nullable(compared.relative),
            nullable(compared.score), zip(*map(nullable, sampled.watched.watch.columns()), strict=True),
            strict=True,
        ):  # fmt: skip
            target, at, counts, refreshed = reading
            id_, token, due_at = target.id, target.lease_token, at + timedelta(hours=wait_h)
            if step == Step.NOT_LATER:
                yield VideoStats(id_, token, None, due_at, zone, wait_h, misses=target.misses)
                continue
            views, likes, comments = counts
            last_at, last_views = (target.last_at, target.last_views) if views is None else (at, views)
            joins = step == Step.MEASURED and of_age != target.age_class
            yield VideoStats(
                id_, token, at, due_at, zone, wait_h, views, likes, comments, of_step,
                1 if at < self._epoch else 2, 0, False, last_at, last_views, smoothed, change, weight, ratio,
                score, of_age if joins else target.age_class, at if refreshed else None, watch,
                (of_age, log) if joins else None,
            )  # fmt: skip


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


def _channel_norms(sampled: _Sampled, norms: Mapping[NormKey, ChannelNorm]) -> Norms:
    targets = (reading.target for reading in sampled.readings)
    keys = (
        (target.channel_id, of_age) for target, of_age in zip(targets, sampled.classes.tolist(), strict=True)
    )
    return Norms(*np.array([norms.get(key, _NO_NORM) for key in keys], dtype=np.float64).T)


def _breakouts(sampled: _Sampled, compared: _Compared) -> Iterable[Breakout]:
    ratios, velocity, score = map(nullable, (sampled.watched.ratio, sampled.velocity, compared.score))
    for row in np.flatnonzero(sampled.watched.fired).tolist():
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

"""What answers mean: from claimed videos and their new counts to samples, clocks and breakouts.

Nothing here waits or writes. A `Meter` belongs to one cycle and works on columns, a row a video.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from atlas.adapters.tracking import ChannelNorm, Measure, Target, VideoStats, Watched
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
    viral_score,
)
from maia.learning.zones import Booleans, interval_h, zone_of

NormKey = tuple[str, int]
"""A channel and an age class."""
CohortKey = tuple[int, int]
"""An age class and a category; 0 is the unknown one."""
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Counts:
    """A video's counters; None is hidden."""

    views: int | None
    likes: int | None
    comments: int | None


@dataclass(frozen=True, slots=True)
class Reading:
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
            measure: {key: Cohort.merge(days) for key, days in by_key.items()}
            for measure, by_key in digests.items()
        }
        self._added: dict[tuple[Measure, date, CohortKey], Cohort] = {}

    def observe(
        self, measure: Measure, days: Sequence[date], keys: Sequence[CohortKey], values: Floats
    ) -> None:
        """Take in a value a row."""
        rows: dict[tuple[date, CohortKey], list[int]] = {}
        for row, of_day in enumerate(zip(days, keys, strict=True)):
            rows.setdefault(of_day, []).append(row)
        for (day, key), members in rows.items():
            for cohort in (
                self._known[measure].setdefault(key, Cohort()),
                self._added.setdefault((measure, day, key), Cohort()),
            ):
                cohort.observe(values[members])

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
        added, self._added = self._added, {}
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
    advanced: Advance
    watched: Observation

    @property
    def measured(self) -> Booleans:
        measured: Booleans = self.advanced.step == Step.MEASURED
        return measured

    @property
    def velocity(self) -> Floats:
        return self.advanced.tracks.velocity

    @property
    def cohort_keys(self) -> list[CohortKey]:
        pairs = zip(self.classes.tolist(), self.readings, strict=True)
        return [(of_age, reading.target.category_id or 0) for of_age, reading in pairs]


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
        epoch_s = tracker.methodology_epoch.timestamp()
        self._velocity = VelocitySettings(tracker.half_life_h, epoch_s)
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
        targets = [reading.target for reading in readings]
        tracks = Tracks.of(
            [target.last_at.timestamp() if target.last_at else None for target in targets],
            [target.last_views for target in targets],
            [target.velocity for target in targets],
            [target.acceleration for target in targets],
            [target.weight for target in targets],
        )
        at_s = [reading.at.timestamp() for reading in readings]
        views = [reading.counts.views if reading.counts else None for reading in readings]
        advanced = advance(tracks, at_s, views, self._velocity)
        age_h = _ages_h(readings)
        watch = Watch.of(*zip(*(target.watch for target in targets), strict=True))
        restarted = advanced.step == Step.EPOCH
        watched = observe(watch, age_h, advanced.hours, advanced.gained, self._breakouts, restarted=restarted)
        zones = zone_of(age_h, self._zones, pinned=[target.pinned_zone for target in targets])
        return _Sampled(readings, age_h, zones, age_class(age_h), advanced, watched)

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

    def _updates(self, sampled: _Sampled, compared: _Compared) -> list[VideoStats]:
        """The columns as rows."""
        advanced, tracks = sampled.advanced, sampled.advanced.tracks
        counted = np.log1p(np.maximum(sampled.velocity, 0.0))
        return [
            self._update(*row)
            for row in zip(
                sampled.readings, advanced.step.tolist(), nullable(advanced.velocity),
                sampled.zones.tolist(), compared.waits_h.tolist(), sampled.classes.tolist(), counted.tolist(),
                zip(
                    nullable(tracks.velocity), nullable(tracks.acceleration), nullable(tracks.weight),
                    nullable(compared.relative), nullable(compared.score), strict=True,
                ),
                zip(*map(nullable, sampled.watched.watch.columns()), strict=True),
                strict=True,
            )
        ]  # fmt: skip

    def _update(
        self,
        reading: Reading,
        step: int,
        velocity_of_step: float | None,
        zone: int,
        wait_h: float,
        of_age: int,
        counted: float,
        growth: tuple[float | None, ...],
        watch: Watched,
    ) -> VideoStats:
        target, at, counts = reading.target, reading.at, reading.counts
        assert counts is not None
        due_at = at + timedelta(hours=wait_h)
        if step == Step.NOT_LATER:
            return VideoStats(target.id, target.lease_token, None, due_at, zone, wait_h, misses=target.misses)
        velocity, acceleration, weight, relative, score = growth
        joins = step == Step.MEASURED and of_age != target.age_class
        known = counts.views is not None
        return VideoStats(
            target.id,
            target.lease_token,
            at,
            due_at,
            zone,
            wait_h,
            counts.views,
            counts.likes,
            counts.comments,
            velocity_of_step,
            1 if at.timestamp() < self._velocity.methodology_epoch_s else 2,
            last_at=at if known else target.last_at,
            last_views=counts.views if known else target.last_views,
            velocity=velocity,
            acceleration=acceleration,
            weight=weight,
            relative_velocity=relative,
            viral_score=score,
            age_class=of_age if joins else target.age_class,
            watch=watch,
            counted=(of_age, counted) if joins else None,
            metadata_at=at if reading.refreshed else None,
        )


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
    columns = np.zeros((3, len(sampled.readings)))
    for row, (reading, of_age) in enumerate(zip(sampled.readings, sampled.classes.tolist(), strict=True)):
        if norm := norms.get((reading.target.channel_id, of_age)):
            columns[:, row] = norm.videos, norm.mean, norm.squares
    return Norms(*columns)


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

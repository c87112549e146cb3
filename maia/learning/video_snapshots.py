"""What is known of videos at their last samples, from which their views are forecast.

All columns have one element per video.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np

from maia.learning.velocity import (
    Booleans,
    ColumnLike,
    Floats,
    Integers,
    Tracks,
    advance,
    column,
)

_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What is known of each video at its last sample; NaN where unknown.

    `velocity`, `acceleration` and `weight` are those of `velocity.Tracks`. `hour_of_week` counts from Monday
    0:00 UTC. `short` is 1 for a Short. `usual_velocity` is what the channel's videos have at this age.
    """

    age_h: Floats
    views: Floats
    velocity: Floats
    acceleration: Floats
    weight: Floats
    hour_of_week: Floats
    short: Floats
    usual_velocity: Floats

    @classmethod
    def of(
        cls,
        age_h: ColumnLike,
        views: ColumnLike,
        velocity: ColumnLike | None = None,
        acceleration: ColumnLike | None = None,
        weight: ColumnLike | None = None,
        hour_of_week: ColumnLike | None = None,
        short: ColumnLike | None = None,
        usual_velocity: ColumnLike | None = None,
    ) -> Self:
        """From columns with None for NULL; a column that is None is unknown for every video.

        A negative age, of a video not live yet, is taken for 0. Raises ValueError for columns of unequal
        length, infinite values, or negative views.
        """
        given = age_h, views, velocity, acceleration, weight, hour_of_week, short, usual_velocity
        age = np.maximum(column(age_h), 0.0)
        columns = [age, *(np.full(len(age), np.nan) if one is None else column(one) for one in given[1:])]
        for field, values in zip(fields(cls), columns, strict=True):
            if values.shape != age.shape or np.isinf(values).any():
                raise ValueError(f"{field.name} needs {len(age)} finite or unknown values")
        if (columns[1] < 0).any():
            raise ValueError("views are never negative; a hidden count is None")
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.age_h)

    def __getitem__(self, rows: Integers | Booleans | slice) -> Snapshots:
        return Snapshots(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def usable(self) -> Booleans:
        """Whether the views and the age are known."""
        known: Booleans = np.isfinite(self.views) & np.isfinite(self.age_h)
        return known


def snapshots_of_tracks(
    tracks: Tracks,
    grows_from_s: ColumnLike,
    short: ColumnLike | None = None,
    usual_velocity: ColumnLike | None = None,
) -> Snapshots:
    """From what is kept of each video, and when it was published or went live, in seconds since 1970."""
    age_h = (tracks.at_s - column(grows_from_s)) / _HOUR_S
    growth = tracks.velocity, tracks.acceleration, tracks.weight
    return Snapshots.of(age_h, tracks.views, *growth, hours_of_week(tracks.at_s), short, usual_velocity)


def hours_of_week(at_s: ColumnLike) -> Floats:
    """Hours since Monday 0:00 UTC at instants in seconds since 1970."""
    # 1970 began on a Thursday.
    hours: Floats = (column(at_s) / _HOUR_S + 72) % 168
    return hours


def snapshot_of_samples(at_s: ColumnLike, views: ColumnLike, grows_from_s: float) -> Snapshots:
    """One video's, from its samples in order; hidden and implausible counts do not matter."""
    tracks = Tracks.new(1)
    for instant, count in zip(column(at_s), column(views), strict=True):
        tracks = advance(tracks, [instant], [count]).tracks
    return snapshots_of_tracks(tracks, [grows_from_s])

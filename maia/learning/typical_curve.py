"""What videos gain from one age to another if they follow the typical curve, that of `maia.learning.growth`.

All columns have one element per video.
"""

from __future__ import annotations

import numpy as np

from maia.learning.growth import DEFAULTS as TYPICAL
from maia.learning.growth import projection
from maia.learning.velocity import ColumnLike, Floats, column
from maia.learning.video_snapshots import Snapshots


def views_later(
    age_h: ColumnLike,
    before_age_h: ColumnLike,
    before_views: ColumnLike,
    after_age_h: ColumnLike,
    after_views: ColumnLike,
    *,
    widest_h: float,
) -> Floats:
    """Views at an age, from the last count up to it and the first from it on.

    Between the two, views grow in proportion to the typical curve. A count within a fiftieth of `widest_h` of
    the age does without the other. Otherwise it is NaN if either is unknown, or they are further apart.
    """
    age, age0, age1 = column(age_h), column(before_age_h), column(after_age_h)
    views0, views1 = column(before_views), column(after_views)
    passed = typical_gain(age0, np.maximum(age - age0, 0.0))
    whole = np.maximum(typical_gain(age0, np.maximum(age1 - age0, 0.0)), 1e-9)
    between = views0 + (views1 - views0) * np.clip(passed / whole, 0.0, 1.0)
    is_between = (age0 <= age) & (age <= age1) & (age1 - age0 <= widest_h) & np.isfinite(between)
    near_h = widest_h / 50
    after = np.where(np.abs(age1 - age) <= near_h, views1, np.nan)
    alone = np.where((np.abs(age - age0) <= near_h) & np.isfinite(views0), views0, after)
    known: Floats = np.where(is_between, between, alone)
    return known


def damped_views(snapshots: Snapshots, horizon_h: float = 24.0) -> Floats:
    """Views at the horizon if the velocity fades as is typical, for comparison; NaN without a velocity."""
    ahead: Floats = np.maximum(snapshots.velocity, 0.0) * typical_gain(snapshots.age_h, horizon_h)
    return snapshots.views + ahead


def log_gains(snapshots: Snapshots, horizon_h: float) -> tuple[Floats, Floats]:
    """Log(1 + views gained) by the typical curve: from the views so far; and from the velocity, if known."""
    age = np.maximum(snapshots.age_h, 1 / 6)
    ratio = np.expm1(projection(age)[0] - projection(age + horizon_h)[0])
    by_views = np.log1p(ratio * snapshots.views)
    by_velocity = np.log1p(np.maximum(snapshots.velocity, 0.0) * typical_gain(age, horizon_h))
    return by_views, np.where(np.isnan(by_velocity), by_views, by_velocity)


def typical_gain(age_h: Floats, hours: Floats | float) -> Floats:
    """Views gained in the next `hours` by the typical curve, over the velocity at `age_h`."""
    power, scale = 1 - TYPICAL.decay, TYPICAL.scale_h + np.maximum(age_h, 0.0)
    gain: Floats = scale * (np.power(1 + hours / scale, power) - 1) / power
    return gain

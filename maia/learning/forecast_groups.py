"""The groups of videos whose forecasts are learnt apart: by what is known of a video, and by its age class.

An array by group has the two indices of `GROUPS` first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from maia.learning.velocity import AGE_CLASS_EDGES_H, Floats, Integers, age_class
from maia.learning.video_snapshots import Snapshots

CLASSES: Final = len(AGE_CLASS_EDGES_H) + 1
GROUPS: Final = (3, CLASSES)
"""Whether no velocity, only the velocity, or the acceleration too is known; and the age class."""


def group_of(snapshots: Snapshots) -> Integers:
    """The index of each video's group, if the two of `GROUPS` were one."""
    known = np.isfinite(snapshots.velocity) * (1 + np.isfinite(snapshots.acceleration))
    groups: Integers = known * CLASSES + age_class(snapshots.age_h)
    return groups


def flat(by_group: Floats) -> Floats:
    """The array by group, with the two indices of `GROUPS` joined to one."""
    return by_group.reshape(-1, *by_group.shape[2:])


def summed(group: Integers, values: Floats | None = None) -> Floats:
    """The sum of the values, or the number of videos, in each group."""
    sums = np.bincount(group, values, GROUPS[0] * CLASSES).reshape(GROUPS)
    return sums.astype(np.float64)


def fade(sums: Iterable[Floats], outcomes: Floats, half_life: float) -> None:
    """Let old sums of each group count less, as so many outcomes more come, before those are added."""
    kept = np.exp2(-outcomes / half_life)
    for each in sums:
        np.multiply(each, kept.reshape(kept.shape + (1,) * (each.ndim - kept.ndim)), out=each)

"""Scores of forecasts and of rankings, by group: errors, coverage of intervals, average precision.

All columns have one element per video. Errors of views are differences of log(1 + views), so 0.1 is about a
tenth. Rows with NaN are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from maia.learning.velocity import Booleans, ColumnLike, Floats, Integers, column

_Z_95: Final = 1.96


@dataclass(frozen=True, slots=True)
class Score:
    """How good forecasts with intervals were.

    `error` is the median absolute log error of the median forecast, `coverage` the share of the intervals
    that held, with its own 95 % interval from `coverage_low` to `coverage_high` (Wilson, 1927) as if outcomes
    were independent. `width` is the median of log(high / low). `interval_score` is the mean of Gneiting and
    Raftery's (2007) score on the log scale: smaller is better, and both wide intervals and misses cost.
    """

    videos: int
    error: float
    coverage: float
    coverage_low: float
    coverage_high: float
    width: float
    interval_score: float


def log_error(forecast: ColumnLike, actual: ColumnLike) -> Floats:
    """Log of (1 + forecast) over (1 + actual), positive if too much was forecast."""
    error: Floats = np.log1p(column(forecast)) - np.log1p(column(actual))
    return error


def pinball(forecast: ColumnLike, actual: ColumnLike, level: float) -> Floats:
    """The loss of a forecast of the quantile at `level`, on the log scale (Koenker and Bassett, 1978)."""
    above = -log_error(forecast, actual)
    loss: Floats = np.maximum(level * above, (level - 1) * above)
    return loss


def score(
    median: ColumnLike, low: ColumnLike, high: ColumnLike, actual: ColumnLike, nominal: float = 0.8
) -> Score:
    """Score forecasts with intervals that should hold in the share `nominal` of the cases."""
    columns = np.stack([column(median), column(low), column(high), column(actual)])
    middle, lower, upper, views = columns[:, np.isfinite(columns).all(axis=0)]
    if not len(views):
        return Score(0, *(math.nan,) * 6)
    held = (lower <= views) & (views <= upper)
    tail = (1 - nominal) / 2
    losses = pinball(lower, views, tail) + pinball(upper, views, 1 - tail)
    return Score(
        len(views),
        float(np.median(np.abs(log_error(middle, views)))),
        float(held.mean()),
        *wilson(int(held.sum()), len(views)),
        float(np.median(log_error(upper, lower))),
        float(losses.mean()) / tail,
    )


def score_by(
    groups: Integers,
    median: ColumnLike,
    low: ColumnLike,
    high: ColumnLike,
    actual: ColumnLike,
    nominal: float = 0.8,
) -> dict[int, Score]:
    """The score of each group, such as an age class, in the order of the groups."""
    columns = np.stack([column(values) for values in (median, low, high, actual)])

    def of_group(group: int) -> Score:
        middle, lower, upper, views = columns[:, groups == group]
        return score(middle, lower, upper, views, nominal)

    return {int(group): of_group(group) for group in np.unique(groups)}


def wilson(held: int, of: int, z: float = _Z_95) -> tuple[float, float]:
    """The interval of a share (Wilson, 1927); (NaN, NaN) of nothing."""
    if of == 0:
        return math.nan, math.nan
    share, scale = held / of, 1 + z**2 / of
    middle = (share + z**2 / (2 * of)) / scale
    half = z * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2)) / scale
    return middle - half, middle + half


def average_precision(relevant: Booleans, ranking: ColumnLike) -> float:
    """The mean of the precision over the relevant videos, from the highest value of `ranking` down.

    Equal values count together, so their order can't help; NaN come last. It is NaN if none is relevant.
    """
    values = np.nan_to_num(column(ranking), nan=-np.inf)
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], relevant[order]
    if not hits.any():
        return math.nan
    last = np.append(values[1:] != values[:-1], True)
    found = np.cumsum(hits)[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / found[-1])


def top_of_groups(groups: Integers, values: ColumnLike, share: float = 0.05) -> Booleans:
    """Whether each value is among the largest `share` of its group; NaN never are."""
    numbers, top = column(values), np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups):
        member = (groups == group) & np.isfinite(numbers)
        if member.any():
            top[member] = numbers[member] >= np.quantile(numbers[member], 1 - share)
    return top


def precision_and_recall(relevant: Booleans, flagged: Booleans) -> tuple[float, float]:
    """The share of the flagged videos that are relevant, and of the relevant that are flagged."""
    hits = int((relevant & flagged).sum())
    of_flagged, of_relevant = int(flagged.sum()), int(relevant.sum())
    return (hits / of_flagged if of_flagged else math.nan, hits / of_relevant if of_relevant else math.nan)

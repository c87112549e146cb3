"""Thins a series to what a plot can show, and keeps its extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

T = TypeVar("T")


def thinned(
    series: Sequence[T],
    most: int,
    *,
    at: Callable[[T], datetime],
    value: Callable[[T], float | None],
) -> list[T]:
    """At most `most` (4 or more) of a series in the order of time: its ends, and peaks and troughs.

    Time is divided into equal spans, of each of which the lowest and the highest value are kept, so that no
    extreme is lost, however the points are spread. Points without a value count as lower than all others:
    one of them shows that the span has a gap.
    """
    if len(series) <= most:
        return list(series)
    spans = (most - 2) // 2
    begin, end = at(series[0]), at(series[-1])
    length_s = max((end - begin).total_seconds(), 1e-6)
    lowest: dict[int, int] = {}
    highest: dict[int, int] = {}
    values = [_or_lowest(value(point)) for point in series]
    for place in range(1, len(series) - 1):
        since_s = (at(series[place]) - begin).total_seconds()
        span = min(int(since_s / length_s * spans), spans - 1)
        if span not in lowest or values[place] < values[lowest[span]]:
            lowest[span] = place
        if span not in highest or values[place] > values[highest[span]]:
            highest[span] = place
    kept = sorted({0, len(series) - 1, *lowest.values(), *highest.values()})
    return [series[place] for place in kept]


def _or_lowest(value: float | None) -> float:
    return float("-inf") if value is None else value

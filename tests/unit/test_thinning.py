"""A thinned series keeps its ends, its order and every extreme of each span."""

from __future__ import annotations

from datetime import datetime, timedelta
from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from atlas.testing import NOON
from maia.views.thinning import thinned

Point = tuple[datetime, float | None]


def thin(series: list[Point], most: int) -> list[Point]:
    return thinned(series, most, at=itemgetter(0), value=itemgetter(1))


points = st.lists(
    st.tuples(st.integers(0, 10_000), st.none() | st.floats(-1e9, 1e9)),
    max_size=300,
    unique_by=lambda point: point[0],
).map(lambda found: [(NOON + timedelta(minutes=at), value) for at, value in sorted(found)])


@given(points, st.integers(4, 60))
def test_it_is_a_short_part_with_the_extremes(series: list[Point], most: int) -> None:
    kept = thin(series, most)
    assert len(kept) <= most
    assert kept == sorted(set(kept) & set(series))
    if not series:
        return
    assert (kept[0], kept[-1]) == (series[0], series[-1])
    values = [value for _, value in series if value is not None]
    shown = [value for _, value in kept if value is not None]
    if values:
        assert max(shown) == max(values)
    if len(values) == len(series):
        assert min(shown) == min(values)


def test_a_short_series_is_whole() -> None:
    series: list[Point] = [(NOON + timedelta(hours=n), None) for n in range(10)]
    assert thin(series, 10) == series


def test_a_gap_is_shown() -> None:
    series: list[Point] = [(NOON + timedelta(hours=n), None if n == 50 else float(n % 7)) for n in range(100)]
    assert (NOON + timedelta(hours=50), None) in thin(series, 20)

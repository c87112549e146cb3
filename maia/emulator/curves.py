"""Interpolates a video's counters between its samples.

A counter is linear between two samples, constant after the last, and grows from 0 at publication to the
first. A counter that a sample marks as hidden stays hidden until the next sample. If a sample did not record
a counter, the counter is interpolated between the samples around it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Counter = Literal["views", "likes", "comments"]

HIDDEN = -1
UNRECORDED = -2


class Sample(NamedTuple):
    """Counters at an instant (seconds since 1970, UTC): None if not recorded, HIDDEN if not public."""

    at: int
    views: int | None
    likes: int | None = None
    comments: int | None = None


class Counters(NamedTuple):
    """A video's counters at an instant; None if hidden or never recorded."""

    views: int | None
    likes: int | None
    comments: int | None


class SampleRows(NamedTuple):
    """Samples as columns, ascending by video and time; counts may be HIDDEN or UNRECORDED."""

    n: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    likes: npt.NDArray[np.int64]
    comments: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int, int, int]]) -> SampleRows:
        """The columns of rows."""
        columns = np.array(list(rows), np.int64).reshape(-1, 5).T
        return cls(*(np.ascontiguousarray(column) for column in columns))

    def check_order(self, after: tuple[int, int]) -> tuple[int, int]:
        """The video and instant of the last row; ValueError unless the rows ascend from `after`."""
        if not len(self.n):
            return after
        n, at = np.append(after[0], self.n), np.append(after[1], self.at)
        wrong = np.flatnonzero((n[1:] < n[:-1]) | ((n[1:] == n[:-1]) & (at[1:] <= at[:-1])))
        if len(wrong):
            raise ValueError(f"a sample of video number {self.n[wrong[0]]} is not after the one before")
        return int(self.n[-1]), int(self.at[-1])


def _scalars(column: npt.NDArray[np.int64]) -> array[int]:
    """The column as an array whose single items are read several times as fast as NumPy's."""
    return array("q", column.astype(np.int64).tobytes())


class Curves:
    """The samples of all videos as columns, ordered by video and time."""

    def __init__(self, published: Sequence[int], rows: SampleRows) -> None:
        """`published` holds the instant from which each video's counters grow."""
        self._published = published
        self._first = _scalars(np.searchsorted(rows.n, np.arange(len(published) + 1)))
        self._at, self._views, self._likes, self._comments = map(_scalars, rows[1:])
        for column in (self._views, self._likes, self._comments):
            if UNRECORDED in column:
                self._fill(column)
        self._columns = _Columns(
            *(
                np.asarray(column, np.int64)
                for column in (self._first, self._at, self._views, self._likes, self._comments, published)
            )
        )

    def __len__(self) -> int:
        return len(self._at)

    @property
    def span(self) -> tuple[int, int] | None:
        """The instants of the first and the last sample."""
        at = self._columns.at
        return (int(at.min()), int(at.max())) if len(at) else None

    def at(self, n: int, instant: float) -> Counters:
        """The counters of video number `n` at `instant`."""
        low, high = self._first[n], self._first[n + 1]
        if low == high:
            return Counters(None, None, None)
        after = bisect_right(self._at, instant, low, high)
        if after == high:
            return self._sampled(high - 1)
        if after == low:
            part = self._grown(n, low, instant)
            return Counters(*(None if count is None else int(count * part) for count in self._sampled(low)))
        before = after - 1
        start = self._at[before]
        part = (instant - start) / (self._at[after] - start)
        views, more_views = self._views[before], self._views[after]
        likes, more_likes = self._likes[before], self._likes[after]
        comments, more_comments = self._comments[before], self._comments[after]
        if views < 0 or more_views < 0 or likes < 0 or more_likes < 0 or comments < 0 or more_comments < 0:
            return Counters(
                _between(views, more_views, part),
                _between(likes, more_likes, part),
                _between(comments, more_comments, part),
            )
        return Counters(
            views + int((more_views - views) * part),
            likes + int((more_likes - likes) * part),
            comments + int((more_comments - comments) * part),
        )

    def column_at(
        self, counter: Counter, numbers: npt.NDArray[np.int64], instants: float | npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """One counter of many videos, at one instant or one for each: as `at`, with HIDDEN for None."""
        rows, (first, at, *_, grows_from) = self._columns, self._columns
        counts: npt.NDArray[np.int64] = getattr(rows, counter)
        found = np.full(len(numbers), HIDDEN, np.int64)
        sampled = first[numbers] < first[numbers + 1]
        if not sampled.all():
            moments = np.broadcast_to(np.asarray(instants, np.float64), numbers.shape)[sampled]
            found[sampled] = self.column_at(counter, numbers[sampled], moments)
            return found
        if not len(numbers):
            return found
        low, high = first[numbers], first[numbers + 1]
        after = _bisect_right(at, instants, low, high)
        # The row before: a video's start, where there is none, and the row itself past the last one.
        later = np.minimum(after, high - 1)
        earlier = np.maximum(after - 1, low)
        begins = np.where(after == low, grows_from[numbers], at[earlier])
        before = np.where(after == low, np.minimum(counts[later], 0), counts[earlier])
        then = counts[later]
        length = np.maximum(at[later] - begins, 1)
        part = np.where(after == high, 0.0, np.clip((instants - begins) / length, 0.0, 1.0))
        grown = before + np.trunc((then - before) * part).astype(np.int64)
        return np.where(before < 0, HIDDEN, np.where(then < 0, before, grown))

    def _sampled(self, row: int) -> Counters:
        views, likes, comments = self._views[row], self._likes[row], self._comments[row]
        return Counters(
            None if views == HIDDEN else views,
            None if likes == HIDDEN else likes,
            None if comments == HIDDEN else comments,
        )

    def _grown(self, n: int, row: int, instant: float) -> float:
        """The fraction of the count at `row`, a video's first sample, that is reached at `instant`."""
        start, end = self._published[n], self._at[row]
        return (instant - start) / (end - start) if start < instant else 0.0

    def _fill(self, column: array[int]) -> None:
        """Replace every unrecorded count in `column` with an interpolated one."""
        for n in range(len(self._published)):
            low, high = self._first[n], self._first[n + 1]
            recorded = [row for row in range(low, high) if column[row] != UNRECORDED]
            if len(recorded) == high - low:
                continue
            for row in range(low, high):
                if column[row] == UNRECORDED:
                    column[row] = self._supposed(column, n, row, recorded)

    def _supposed(self, column: array[int], n: int, row: int, recorded: Sequence[int]) -> int:
        if not recorded:
            return HIDDEN
        at, after = self._at, bisect_right(recorded, row)
        if after == len(recorded):
            return column[recorded[-1]]
        later = recorded[after]
        if after == 0:
            return HIDDEN if column[later] == HIDDEN else int(column[later] * self._grown(n, later, at[row]))
        earlier = recorded[after - 1]
        part = (at[row] - at[earlier]) / (at[later] - at[earlier])
        supposed = _between(column[earlier], column[later], part)
        return HIDDEN if supposed is None else supposed


class _Columns(NamedTuple):
    """The same columns as NumPy sees them, and the instants from which counters grow."""

    first: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    likes: npt.NDArray[np.int64]
    comments: npt.NDArray[np.int64]
    grows_from: npt.NDArray[np.int64]


def _bisect_right(
    at: npt.NDArray[np.int64],
    instants: float | npt.NDArray[np.float64],
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The first row of each range [low, high) that is later than its instant; `high` if there is none."""
    while (low < high).any():
        middle = (low + high) >> 1
        later = at[np.minimum(middle, len(at) - 1)] > instants
        open_ = low < high
        high = np.where(open_ & later, middle, high)
        low = np.where(open_ & ~later, middle + 1, low)
    return low


def _between(before: int, after: int, part: float) -> int | None:
    if before == HIDDEN:
        return None
    return before if after == HIDDEN else before + int((after - before) * part)

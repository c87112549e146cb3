"""Counters between their samples.

A counter is interpolated linearly between two real samples and never beyond the last; before the first
it grows from nothing at the publication. Where a sample says that a counter was hidden, it is hidden
until the next sample; a counter that a sample did not record is interpolated past it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

HIDDEN = -1
_UNRECORDED = -2


class Sample(NamedTuple):
    """Counters read at an instant (seconds since 1970, UTC); None: not recorded, HIDDEN: not shown."""

    at: int
    views: int | None
    likes: int | None = None
    comments: int | None = None


class Counts(NamedTuple):
    """A video's counters at an instant; None: hidden, or never recorded."""

    views: int | None
    likes: int | None
    comments: int | None


class Curves:
    """The samples of numbered videos in columns, video after video."""

    def __init__(self, published: Sequence[int], samples: Iterable[tuple[int, int, int, int, int]]) -> None:
        """`samples` are (video, at, views, likes, comments), ascending; -2 is what was not recorded."""
        self._published = published
        self._first = array("q", bytes(8 * (len(published) + 1)))
        self._at, self._views, self._likes, self._comments = array("q"), array("q"), array("q"), array("q")
        rows = iter(samples)
        while block := list(islice(rows, 20_000)):
            numbers, at, views, likes, comments = zip(*block, strict=True)
            for n in numbers:
                self._first[n + 1] += 1
            self._at.extend(at)
            self._views.extend(views)
            self._likes.extend(likes)
            self._comments.extend(comments)
        for n in range(len(published)):
            self._first[n + 1] += self._first[n]
        for column in (self._views, self._likes, self._comments):
            if _UNRECORDED in column:
                self._fill(column)

    @property
    def span(self) -> tuple[int, int] | None:
        """The instants of the first and the last sample of all."""
        return (min(self._at), max(self._at)) if self._at else None

    def at(self, n: int, instant: float) -> Counts:
        """The counters of video number `n` at `instant`."""
        low, high = self._first[n], self._first[n + 1]
        if low == high:
            return Counts(None, None, None)
        after = bisect_right(self._at, instant, low, high)
        if after == high:
            return self._sampled(high - 1)
        if after == low:
            part = self._grown(n, low, instant)
            return Counts(*(None if count is None else int(count * part) for count in self._sampled(low)))
        before = after - 1
        start = self._at[before]
        part = (instant - start) / (self._at[after] - start)
        views, more_views = self._views[before], self._views[after]
        likes, more_likes = self._likes[before], self._likes[after]
        comments, more_comments = self._comments[before], self._comments[after]
        if views < 0 or more_views < 0 or likes < 0 or more_likes < 0 or comments < 0 or more_comments < 0:
            return Counts(
                _between(views, more_views, part),
                _between(likes, more_likes, part),
                _between(comments, more_comments, part),
            )
        return Counts(
            views + int((more_views - views) * part),
            likes + int((more_likes - likes) * part),
            comments + int((more_comments - comments) * part),
        )

    def _sampled(self, row: int) -> Counts:
        views, likes, comments = self._views[row], self._likes[row], self._comments[row]
        return Counts(
            None if views == HIDDEN else views,
            None if likes == HIDDEN else likes,
            None if comments == HIDDEN else comments,
        )

    def _grown(self, n: int, row: int, instant: float) -> float:
        """Which part of the count at `row` there is at an earlier instant."""
        start, end = self._published[n], self._at[row]
        return (instant - start) / (end - start) if start < instant else 0.0

    def _fill(self, column: array[int]) -> None:
        """Put into `column` what each unrecorded count would be interpolated to."""
        for n in range(len(self._published)):
            low, high = self._first[n], self._first[n + 1]
            recorded = [row for row in range(low, high) if column[row] != _UNRECORDED]
            if len(recorded) == high - low:
                continue
            for row in range(low, high):
                if column[row] == _UNRECORDED:
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


def _between(before: int, after: int, part: float) -> int | None:
    if before == HIDDEN:
        return None
    return before if after == HIDDEN else before + int((after - before) * part)

"""Running estimates: of a median, and of the means of many sequences at once.

Each value moves the estimate a little towards itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from maia.learning.velocity import Floats, Integers

_RADIX: Final = 2**16
"""Below it, NumPy sorts by radix, in linear time."""


@dataclass(slots=True)
class RunningMedian:
    """About the median of the values so far, and their mean distance from it."""

    median: float = 0.0
    spread: float = 0.0
    values: int = 0

    def observe(self, value: float, least_rate: float) -> None:
        """Learn from a value; the more there were, the more slowly, but never more so than at this rate."""
        self.values += 1
        if self.values == 1:
            self.median = value
            return
        rate, off = max(least_rate, 1 / self.values), value - self.median
        self.spread += rate * (abs(off) - self.spread)
        self.median += 3 * rate * self.spread * ((off > 0) - (off < 0))


class Sequences(NamedTuple):
    """Entries of several sequences, brought together by sequence, in their order within each."""

    order: Integers
    """Which entry comes where."""
    of: Integers
    """The sequence of each entry, in this order."""
    lengths: Integers
    """How many entries each sequence has."""
    place: Integers
    """How many entries of its sequence come before an entry, in this order."""

    @classmethod
    def by(cls, sequences: Integers, number: int) -> Sequences:
        """Sort entries by their sequence, of which there are `number`."""
        order = np.argsort(sequences.astype(np.uint16) if number < _RADIX else sequences, kind="stable")
        lengths = np.bincount(sequences, minlength=number)
        starts = np.cumsum(lengths) - lengths
        of = np.repeat(np.arange(number), lengths)
        return cls(order, of, lengths, np.arange(len(order)) - starts[of])


def mean_after(sequences: Sequences, start: Floats, rate: Floats, outcome: Floats) -> Floats:
    """Each sequence's mean after its last entry, if with each one mean += rate · (outcome − mean).

    `start` has a mean for each sequence; `rate`, which is below 1, and `outcome` are sorted like the entries.
    """
    kept = np.cumsum(np.log1p(-rate))
    ends = np.cumsum(sequences.lengths)
    kept_to = np.concatenate(([0.0], kept))
    share = rate * np.exp(kept_to[ends][sequences.of] - kept)
    of_start = np.exp(kept_to[ends] - kept_to[ends - sequences.lengths])
    mean: Floats = of_start * start + np.bincount(sequences.of, share * outcome, len(start))
    return mean

"""Corrects probabilities by what came of predictions like them, and keeps doing so as that changes."""

from __future__ import annotations

from typing import Final

import numpy as np

from maia.learning.log_odds import EDGE, probability
from maia.learning.running import Sequences, mean_after
from maia.learning.velocity import Floats

_BINS: Final = 21
"""Log-odds from -5 to 5, half a unit each."""


class Recalibration:
    """How often what was predicted came true, for predictions of similar log-odds."""

    def __init__(self, least_rate: float, bins: list[list[float]] | None = None) -> None:
        """`least_rate` is the least weight of the last outcome; `bins` are those of an earlier one."""
        self.bins = bins or [[probability(_centre(place)), 0.0] for place in range(_BINS)]
        self._least_rate = least_rate

    def corrected(self, log_odds: float) -> float:
        """The probability: the mean of what is predicted and of what came of predictions like it."""
        low, share = _place(log_odds)
        learnt = (1 - share) * self.bins[low][0] + share * self.bins[low + 1][0]
        return min(max((probability(log_odds) + learnt) / 2, EDGE), 1 - EDGE)

    def learn(self, log_odds: float, outcome: float) -> None:
        """Learn what came of a prediction: 1 if it came true, otherwise 0."""
        low, share = _place(log_odds)
        for place, weight in ((low, 1 - share), (low + 1, share)):
            bin_ = self.bins[place]
            bin_[1] += weight
            rate = max(1 / (bin_[1] + 10), self._least_rate)
            bin_[0] += weight * rate * (outcome - bin_[0])

    def learn_many(self, log_odds: Floats, outcomes: Floats) -> None:
        """Learn what came of many predictions, as if one after the other."""
        position = np.clip(log_odds * 2 + _BINS // 2, 0.0, _BINS - 1.0)
        low = np.minimum(position.astype(np.intp), _BINS - 2)
        share = position - low
        sequences = Sequences.by(np.stack((low, low + 1), axis=1).ravel(), _BINS)
        order = sequences.order
        weight = np.stack((1 - share, share), axis=1).ravel()[order]
        means, totals = np.array(self.bins).T
        before = np.cumsum(sequences.lengths) - sequences.lengths
        seen = np.concatenate(([0.0], np.cumsum(weight)))
        counted = seen[1:] + (totals - seen[before])[sequences.of]
        rate = weight * np.maximum(1 / (counted + 10), self._least_rate)
        means = mean_after(sequences, means, rate, outcomes[order // 2])
        totals = totals + seen[before + sequences.lengths] - seen[before]
        self.bins = np.stack((means, totals), axis=1).tolist()


def _centre(place: int) -> float:
    return (place - _BINS // 2) / 2


def _place(log_odds: float) -> tuple[int, float]:
    """The bin below, and how far it is to the one above, from 0 to 1."""
    position = min(max(log_odds * 2 + _BINS // 2, 0.0), _BINS - 1.0)
    low = min(int(position), _BINS - 2)
    return low, position - low

"""Probabilities and their log-odds; those next to 0 and 1 are taken for others that aren't quite so sure."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from maia.learning.velocity import Floats

EDGE: Final = 1e-4
"""Probabilities stay this far from 0 and 1."""
_LARGEST: Final = 30.0


def log_odds(probability: float) -> float:
    inside = min(max(probability, EDGE), 1 - EDGE)
    return math.log(inside / (1 - inside))


def log_odds_of(probabilities: Floats) -> Floats:
    """The log-odds of each of many probabilities."""
    inside = np.clip(probabilities, EDGE, 1 - EDGE)
    each: Floats = np.log(inside / (1 - inside))
    return each


def probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -_LARGEST), _LARGEST)))


def probabilities_of(log_odds: Floats) -> Floats:
    """The probability of each of many log-odds."""
    each: Floats = 1 / (1 + np.exp(-np.clip(log_odds, -_LARGEST, _LARGEST)))
    return each

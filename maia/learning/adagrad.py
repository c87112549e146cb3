"""Weights of a regression that learns online, each at a rate of its own.

AdaGrad: Duchi, Hazan and Singer, 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from maia.learning.velocity import Floats, Integers


class Weight:
    """A weight of a regression, with AdaGrad's sum of squared gradients."""

    __slots__ = ("square", "value")

    def __init__(self, value: float, square: float = 1.0) -> None:
        self.value, self.square = value, square

    def move(self, gradient: float, rate: float, square: float | None = None) -> None:
        """Go along a gradient; of a sum of gradients, `square` is the sum of their squares."""
        self.square += gradient * gradient if square is None else square
        self.value += rate * gradient / math.sqrt(self.square)


def move_all(weights: Sequence[Weight], of: Integers, gradients: Floats, rate: float) -> None:
    """Move each weight along the sum of its gradients, as AdaGrad does for a batch."""
    sums = sums_of(of, gradients, len(weights)).tolist()
    sums_of_squares = sums_of(of, gradients**2, len(weights)).tolist()
    for weight, gradient, square in zip(weights, sums, sums_of_squares, strict=True):
        weight.move(gradient, rate, max(square, gradient * gradient))


def sums_of(of: Integers, values: Floats, number: int) -> Floats:
    """The sum of the values of each of a number of things."""
    return np.bincount(of, values, number).astype(np.float64)

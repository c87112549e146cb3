"""Patterns with what is believed of them: how often each proves true, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from maia.learning.evidence import FLAT, Counts, Prior, interval, strength
from maia.learning.patterns import Pattern


@dataclass(frozen=True, slots=True)
class KnownPattern:
    """A pattern with what is believed of it. `known` makes many at once."""

    id: str
    pattern: Pattern
    counts: Counts
    strength: float
    """The posterior mean of the chance that the statement proves true."""
    confidence: float
    """The lower bound of the 90 % credible interval of that chance."""
    ceiling: float
    """The upper bound of the same interval."""
    pinned: bool = False

    @property
    def support(self) -> int:
        return self.counts.support

    @property
    def last_seen(self) -> datetime | None:
        return self.counts.last_seen


def known(
    patterns: Sequence[tuple[Pattern, Counts]],
    prior: Prior = FLAT,
    pinned: Iterable[str] = (),
    ids: Sequence[str] | None = None,
) -> list[KnownPattern]:
    """Patterns with strength and confidence, computed for all of them at once.

    `ids` spares computing them; then the patterns need no signatures.
    """
    if not patterns:
        return []
    pairs = np.array([(counts.pos, counts.neg) for _, counts in patterns], float)
    # Few counts are frequent, and the bounds of an interval cost a microsecond each.
    distinct, which = np.unique(pairs, axis=0, return_inverse=True)
    lows, highs = interval(distinct[:, 0], distinct[:, 1], prior)
    means = strength(distinct[:, 0], distinct[:, 1], prior)
    columns = np.column_stack([means, lows, highs])[which.ravel()].tolist()
    pins = frozenset(pinned)
    return [
        KnownPattern(id_, pattern, counts, mean, low, high, id_ in pins)
        for (pattern, counts), (mean, low, high), id_ in zip(
            patterns, columns, ids or [pattern.id for pattern, _ in patterns], strict=True
        )
    ]

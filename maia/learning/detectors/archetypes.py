"""Kinds of view curves: how videos of each kind rise and fade, learnt from whole weeks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from math import log
from typing import Final, Self

import numpy as np

from maia.learning.archetypes import Archetypes, normalized
from maia.learning.detector import CurveDetector
from maia.learning.detectors.tallies import Tallies
from maia.learning.observations import ViewCurve
from maia.learning.patterns import Finding, Pattern, PatternType
from maia.learning.states import pack, unpack

FIRST_H: Final = 24.0
"""A video is assigned by what is known of it at this age."""

TOLERANCE: Final = log(1.5)
"""An archetype proves true for a video if the week's views come within a factor of 1.5 of what it says."""

_WEEK: Final = timedelta(days=7)
_CAPACITY: Final = 200


class VelocityArchetypes(CurveDetector):
    """Learns archetypes of view curves, and tests each video's: do its first 24 h tell the week's views?

    A video is assigned before its own week is learnt, so the evidence is of forecasts.
    """

    name = "velocity_archetypes"
    types = frozenset({PatternType.VELOCITY_ARCHETYPE})

    def __init__(self) -> None:
        self._archetypes = Archetypes()
        self._tallies: Tallies[tuple[str]] = Tallies(_CAPACITY)

    def observe(self, batch: Sequence[ViewCurve]) -> None:
        for curve in batch:
            shares = normalized(curve.ages_h, curve.views)
            if shares is not None:
                self._test(curve)
                self._archetypes.learn([shares])
        self._tallies.trim()

    def patterns(self) -> list[Finding]:
        known = {each.name: each for each in self._archetypes.archetypes}
        taken = self._tallies.take([(name,) for name in known if (name,) in self._tallies])
        return [
            Finding(
                Pattern(
                    PatternType.VELOCITY_ARCHETYPE,
                    {"shape": name},
                    f"a video whose first day looks so goes on so: {name}",
                    data={
                        "share_of_videos": round(known[name].weight, 2),
                        "first_day_of_week": round(known[name].first_day, 2),
                        "first_6h_of_day": round(known[name].first_hours, 2),
                        "peak_h": round(known[name].peak_h),
                    },
                ),
                days,
            )
            for (name,), days in taken.items()
        ]

    def _test(self, curve: ViewCurve) -> None:
        ages, views = np.asarray(curve.ages_h, float), np.asarray(curve.views, float)
        early = ages <= FIRST_H
        chances = self._archetypes.assign(ages[early], views[early])
        if not len(chances) or early.sum() < 2 or views[early][-1] < 1:
            return
        archetype = self._archetypes.archetypes[int(np.argmax(chances))]
        share = float(archetype.share_at([ages[early][-1]])[0])
        if share <= 0:
            return
        expected = views[early][-1] / share
        holds = abs(log(expected) - log(max(views[-1], 1.0))) <= TOLERANCE
        at = curve.published_at + _WEEK
        self._tallies.add((archetype.name,), at.toordinal(), holds, not holds, at)

    def state(self) -> bytes:
        return pack(self.name, self.version, [self._archetypes.state(), self._tallies.content()])

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        archetypes, tallies = unpack(cls.name, cls.version, state)
        detector = cls()
        detector._archetypes = Archetypes.from_state(archetypes)
        detector._tallies = Tallies.from_content(tallies)
        return detector

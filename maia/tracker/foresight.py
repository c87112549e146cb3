"""What the tracker knows of forecasts: how a video's wait for its next sample follows from its chances.

The learner's forecaster is only read here. While it has learnt too little, or can't be read, waits stay as
they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from maia.learning.states import StateError
from maia.learning.velocity import Floats, Tracks, age_class
from maia.learning.zones import forecast_factor

if TYPE_CHECKING:
    from maia.learning.forecasts import Forecaster

logger = logging.getLogger(__name__)

MODEL: Final = "forecaster"
"""The name under which the learner stores the forecaster."""

_LEAST_NORM: Final = 3
"""A channel's usual velocity is known once so many of its videos were measured."""


@dataclass(frozen=True, slots=True)
class Foresight:
    """A forecaster as it was stored, and how many outcomes it had learnt by then: its version."""

    forecaster: Forecaster
    learnt: int

    def factors(
        self, tracks: Tracks, born_s: Sequence[float], channel_videos: Floats, channel_velocity: Floats
    ) -> Floats:
        """By how much each video's wait changes; the last two are of its channel's norm."""
        from maia.learning.video_snapshots import snapshots_of_tracks

        usual = np.where(channel_videos >= _LEAST_NORM, channel_velocity, np.nan)
        snapshots = snapshots_of_tracks(tracks, born_s, usual_velocity=usual)
        outcomes = self.forecaster.outcomes()[age_class(snapshots.age_h)]
        return forecast_factor(self.forecaster.forecast(snapshots).top_chance, outcomes)


async def stored_foresight(atlas: Atlas) -> Foresight | None:
    """The forecaster that the learner stored; None if there is none, or the settings don't want it."""
    if not atlas.settings.learner.forecast_intervals:
        return None
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    stored = (await dao.models([MODEL])).get(MODEL)
    if stored is None:
        return None
    # Only where there is one: loading it takes NumPy, for which a cycle with nothing to do has no use.
    from maia.learning.forecasts import Forecaster

    try:
        return Foresight(Forecaster.from_state(stored.state), stored.observations)
    except StateError as error:
        logger.warning(
            "intervals don't follow the forecasts, as %s", error, extra={"action": "forecaster_unread"}
        )
        return None

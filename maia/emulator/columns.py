"""What search filters videos by, as one array per property."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maia.youtube.methods import Duration, EventType

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

_DURATIONS: Mapping[Duration, tuple[int, int]] = {
    "short": (0, 240),
    "medium": (240, 1201),
    "long": (1201, 1 << 40),
}
Origin = tuple[str | None, str | None]
"""A video's channel's country, and its language."""


class Columns(NamedTuple):
    """One array per property, indexed by the number of the video."""

    published: npt.NDArray[np.int64]
    removed: npt.NDArray[np.int64]
    """0: never."""
    channel: npt.NDArray[np.int64]
    """Channels are numbered in the order of their first videos."""
    category: npt.NDArray[np.int16]
    duration: npt.NDArray[np.int64]
    origin: npt.NDArray[np.int64]
    """A place in `Catalogue.origins`."""
    live_from: npt.NDArray[np.float64]
    live_to: npt.NDArray[np.float64]
    """-inf for what is no broadcast."""

    def lasts(self, duration: Duration, numbers: npt.NDArray[np.int64], at: float) -> npt.NDArray[np.bool_]:
        """Which of the videos have such a length; upcoming and live ones have none yet."""
        shortest, longest = _DURATIONS[duration]
        lengths = self.duration[numbers]
        return (lengths >= shortest) & (lengths < longest) & (self.live_to[numbers] <= at)

    def in_state(
        self, event_type: EventType, numbers: npt.NDArray[np.int64], at: float
    ) -> npt.NDArray[np.bool_]:
        """Which of the videos are broadcasts that this `eventType` finds at an instant."""
        starts, ends = self.live_from[numbers], self.live_to[numbers]
        if event_type == "upcoming":
            return (at < ends) & (at < starts)
        if event_type == "live":
            return (at < ends) & (at >= starts)
        return (at >= ends) & (ends > -inf)


def descending(keys: npt.NDArray[Any], most: int | None = None) -> npt.NDArray[np.int64]:
    """The places of the `most` greatest keys (None: all), the greatest first; equals keep their order."""
    if most is None or not 0 < most < len(keys):
        return np.argsort(-keys, kind="stable")[:most]
    # Sorting only what reaches the last place is several times as fast for a page of many.
    places = np.flatnonzero(keys >= np.partition(keys, len(keys) - most)[len(keys) - most])
    return places[np.argsort(-keys[places], kind="stable")][:most]

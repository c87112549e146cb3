"""Curves as a plot needs them: no more points than can be told apart, and videos aligned by age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Final

from maia.views.thinning import thinned

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.adapters.board import SampleLine
    from maia.views.video import VideoView

POINTS: Final = 400
"""How many samples a plot shows at most."""


@dataclass(frozen=True, slots=True)
class PlottedBand:
    """The forecast that continues a curve, by instant; None is an end of the interval that can't be told."""

    at_s: tuple[float, ...]
    low: tuple[float | None, ...]
    median: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PlottedVideo:
    """A video's counts and views per hour by instant, in seconds since 1970, and its breakouts."""

    at_s: tuple[float, ...]
    views: tuple[int | None, ...]
    velocity: tuple[float | None, ...]
    band: PlottedBand | None
    breakouts_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AlignedCurve:
    """A video's counts by its age in hours."""

    id: str
    title: str | None
    age_h: tuple[float, ...]
    views: tuple[int | None, ...]


def plotted(view: VideoView, most: int = POINTS) -> PlottedVideo:
    """A video as the plot of its page shows it."""
    samples, band = _thinned(view.samples, most), view.band()
    return PlottedVideo(
        at_s=tuple(sample.sampled_at.timestamp() for sample in samples),
        views=tuple(sample.views for sample in samples),
        velocity=tuple(sample.velocity for sample in samples),
        band=None
        if band is None
        else PlottedBand(*(_known(each.tolist()) for each in (band.at_s, band.low, band.median, band.high))),  # type: ignore[arg-type]
        breakouts_s=tuple(breakout.at.timestamp() for breakout in reversed(view.breakouts)),
    )


def aligned(view: VideoView, most: int = POINTS) -> AlignedCurve:
    """A video's counts by its age; since it was first sampled, if nobody knows when it was published."""
    samples = _thinned([sample for sample in view.samples if sample.views is not None], most)
    born = _born(view)
    return AlignedCurve(
        id=view.details.id,
        title=view.details.title,
        age_h=tuple((sample.sampled_at - born).total_seconds() / 3600 for sample in samples if born),
        views=tuple(sample.views for sample in samples),
    )


def _born(view: VideoView) -> datetime | None:
    return view.details.published_at or (view.samples[0].sampled_at if view.samples else None)


def _thinned(samples: Sequence[SampleLine], most: int) -> list[SampleLine]:
    return thinned(samples, most, at=lambda each: each.sampled_at, value=lambda each: each.velocity)


def _known(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(None if isnan(value) else value for value in values)

"""Whether search still answers a form as asked: its order and window are kept, and it finds something.

`judge` looks at one page. An order is ignored if the page is no more sorted than chance would have it; a
window is ignored if a good part of the videos lies outside. Counts in search lag by hours and publication
times of premieres change, so both are judged with tolerance, and a page with few videos tells nothing.
Many a topic has no new video, but hardly ever do nearly all topics have none: `LastAnswers` tells whether a
form that asks about one topic finds anything. `standing` looks at a form's recent pages: it has stopped
answering if most of its pages are odd, beyond what chance explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import erf, sqrt
from typing import Final, Literal

import numpy as np

from maia.learning.velocity import Floats

ClaimedOrder = Literal["date", "viewCount"]
"""The orders that can be checked from outside; nobody but YouTube knows what is relevant."""


class Oddity(StrEnum):
    """How a page differs from what was asked."""

    EMPTY = "empty"
    ORDER_IGNORED = "order ignored"
    WINDOW_IGNORED = "window ignored"


@dataclass(frozen=True, slots=True)
class AskedPage:
    """A page of search results beside what was asked. Instants are seconds since 1970."""

    published_s: Sequence[float]
    """The videos' publication times, in the order of the page."""
    views: Sequence[int | None] = ()
    """Their counts, None where hidden; only needed to check viewCount."""
    order: ClaimedOrder | None = None
    after_s: float | None = None
    before_s: float | None = None
    must_find: bool = True
    """A first page must find something, unless its topic may be too narrow for that."""


@dataclass(frozen=True, slots=True)
class ConductSettings:
    """How much a page may differ from what was asked."""

    least_videos: int = 8
    """A page with fewer videos tells nothing about order and window."""
    date_agreement: float = 0.5
    """Share of pairs in order minus share of those not (Kendall's τ) below which order=date is ignored."""
    views_agreement: float = 0.25
    """The same for viewCount: counts of young videos lag by hours, so its pages look less sorted."""
    clear_factor: float = 2.0
    """Only pairs whose counts differ by this factor tell about viewCount."""
    outside: float = 0.25
    """Share of videos outside the window from which it is ignored."""
    tolerance_s: float = 3600.0
    """How far outside the window a video may be."""
    least_pages: int = 4
    least_topics: int = 5
    most_topics: int = 20
    nearly_all: float = 0.9
    """Single topics may have no new video; it is odd if this share of the last `most_topics` has none."""
    odd_share: float = 0.5
    """A form answers as expected while fewer of its pages than this are odd."""
    certainty: float = 0.95

    def __post_init__(self) -> None:
        if self.least_videos < 2 or self.least_pages < 1 or self.clear_factor < 1:
            raise ValueError("least_videos must be at least 2, least_pages and clear_factor at least 1")
        if not 1 <= self.least_topics <= self.most_topics or not 0 < self.nearly_all <= 1:
            raise ValueError("least_topics must be from 1 to most_topics, and nearly_all a share")
        if not 0 < self.outside <= 1 or not 0 < self.odd_share < 1 or not 0.5 <= self.certainty < 1:
            raise ValueError("outside, odd_share and certainty must be shares, certainty from .5")


DEFAULTS: Final = ConductSettings()


def judge(page: AskedPage, settings: ConductSettings = DEFAULTS) -> frozenset[Oddity]:
    """What is odd about a page; empty if nothing is, or if the page is too short to tell."""
    published = np.array(page.published_s, dtype=np.float64)
    if not len(published):
        return frozenset({Oddity.EMPTY} if page.must_find else ())
    if len(published) < settings.least_videos:
        return frozenset()
    odd = set()
    if _outside(page, published, settings) > settings.outside:
        odd.add(Oddity.WINDOW_IGNORED)
    if page.order == "date" and (agreed := agreement(published)) is not None:
        if agreed < settings.date_agreement:
            odd.add(Oddity.ORDER_IGNORED)
    elif page.order == "viewCount" and _ignores_views(page, settings):
        odd.add(Oddity.ORDER_IGNORED)
    return frozenset(odd)


@dataclass(slots=True)
class LastAnswers:
    """Whether a form's last answers about single topics found something, each topic counted once."""

    settings: ConductSettings = DEFAULTS
    _were_empty: dict[int, bool] = field(default_factory=dict)

    def note(self, topic: int, *, is_empty: bool) -> None:
        """Remember the answer to a first page."""
        self._were_empty.pop(topic, None)
        self._were_empty[topic] = is_empty
        if len(self._were_empty) > self.settings.most_topics:
            del self._were_empty[next(iter(self._were_empty))]

    @property
    def are_nearly_all_empty(self) -> bool:
        """Whether so few topics find something that it is not for what they are about."""
        topics, empty = len(self._were_empty), sum(self._were_empty.values())
        return topics >= self.settings.least_topics and empty >= self.settings.nearly_all * topics


def _outside(page: AskedPage, published: Floats, settings: ConductSettings) -> float:
    too_old = published < (-np.inf if page.after_s is None else page.after_s - settings.tolerance_s)
    too_new = published > (np.inf if page.before_s is None else page.before_s + settings.tolerance_s)
    return float((too_old | too_new).mean())


def _ignores_views(page: AskedPage, settings: ConductSettings) -> bool:
    known = np.array([count for count in page.views if count is not None], dtype=np.float64)
    if len(known) < settings.least_videos:
        return False
    agreed = agreement(np.log(known + 1), clear=float(np.log(settings.clear_factor)))
    return agreed is not None and agreed < settings.views_agreement


def agreement(values: Floats, clear: float = 0.0) -> float | None:
    """How well values fall: Kendall's τ over the pairs that differ by more than `clear`.

    1 for a falling sequence, about 0 for a shuffled one, −1 for a rising one; None if too few pairs differ.
    """
    apart = values[:, None] - values[None, :]
    earlier = np.triu(np.ones(apart.shape, dtype=bool), k=1)
    falling = int((earlier & (apart > clear)).sum())
    rising = int((earlier & (apart < -clear)).sum())
    # Of n values at least n pairs, else a few ties decide.
    return (falling - rising) / (falling + rising) if falling + rising >= len(values) else None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a form has answered lately."""

    health: float
    """From 0 (odd) to 1 (as expected), for `allocation.ArmRecord`."""
    is_well: bool
    reason: str


def standing(recent: Iterable[frozenset[Oddity]], settings: ConductSettings = DEFAULTS) -> Standing:
    """How a form answers, by its recent pages as judged.

    A form that has few pages, or whose odd ones may be chance, is well.
    """
    pages = list(recent)
    if len(pages) < settings.least_pages:
        return Standing(1.0, True, f"too few pages to tell: {len(pages)}")
    kinds = {kind: sum(kind in page for page in pages) for kind in Oddity}
    worst = max(kinds, key=lambda kind: (kinds[kind], kind))
    odd, n = kinds[worst], len(pages)
    health = 1 - odd / n
    is_well = _chance_above(odd, n, settings.odd_share) < settings.certainty
    if odd == 0:
        return Standing(1.0, True, f"{n} pages as asked")
    return Standing(
        max(health, settings.odd_share) if is_well else min(health, 0.49),
        is_well,
        f"{worst} on {odd} of {n} pages",
    )


def _chance_above(odd: int, n: int, share: float) -> float:
    """The probability that the true share is above `share`, by Wilson's score."""
    rate = (odd + 0.5) / (n + 1)
    z = (rate - share) / sqrt(share * (1 - share) / n)
    return 0.5 * (1 + erf(z / sqrt(2)))

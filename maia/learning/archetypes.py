"""Archetypes of view curves: the few ways in which videos' views rise and fade in their first week.

A curve is normalised to the logarithm of the share of the week's views that had come by each of `AGES_H`.
Curves are clustered online by k-means with mini-batches (Sculley, 2010): the first ones wait until there are
enough to start (k-means++; Arthur and Vassilvitskii, 2007), then each moves its nearest centre a little.
Centres count a limited number of curves, so that they follow what changes.

A video is assigned from its first samples, when the week's views are not known yet, by how well their shape
fits each archetype at any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np

from maia.learning.growth import projection
from maia.learning.states import StateError, pack, unpack
from maia.learning.velocity import ColumnLike, Floats, Integers, column

AGES_H: Final = (1.0, 2.0, 3.0, 6.0, 9.0, 12.0, 18.0, 24.0, 36.0, 48.0, 72.0, 96.0, 120.0, 168.0)
WEEK_H: Final = AGES_H[-1]
_GRID_H: Final = np.array(AGES_H)
_AT_6H, _AT_24H, _AT_48H = (AGES_H.index(age_h) for age_h in (6.0, 24.0, 48.0))
_LEAST_LOG_SHARE: Final = -8.0
_LEAST_DEVIATION: Final = 0.05
_INDEPENDENT: Final = 4.0
"""How many independent numbers the points of a curve are worth at most: neighbours deviate alike."""

_RISES: Final = ((6.0, "peaks within 6 h"), (24.0, "peaks within a day"), (48.0, "peaks on the second day"))
_HALVES: Final = tuple(
    (hours, f"has half its week's views within {words}")
    for hours, words in (
        (6.0, "6 h"),
        (12.0, "12 h"),
        (24.0, "a day"),
        (48.0, "two days"),
        (96.0, "four days"),
    )
)
_FADES: Final = ((0.1, "is flat after two days"), (0.35, "fades over days"), (0.6, "keeps growing"))


@dataclass(frozen=True, slots=True)
class ArchetypeSettings:
    """How many archetypes, and which curves tell of them."""

    archetypes: int = 6
    first_curves: int = 300
    """With how many curves clustering starts."""
    memory: float = 3_000.0
    """How many curves a centre counts at most."""
    latest_first_h: float = 9.0
    """A curve whose first count is later than this does not tell how it rose."""
    widest_h: float = 36.0
    """Nor does one with a longer gap between counts."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.archetypes <= self.first_curves or self.memory < 1:
            raise ValueError("there must be at least one archetype, and as many first curves; memory from 1")


DEFAULTS: Final = ArchetypeSettings()


@dataclass(frozen=True, slots=True)
class Archetype:
    """A way to rise and fade. `log_shares` are at `AGES_H`; `weight` is its part of all curves.

    `peak_h` is the age of the fastest growth, `half_life_h` how long after it growth is half as fast, NaN if
    it never is. `half_h` is the age by which half of the week's views had come.
    """

    log_shares: Floats
    deviations: Floats
    weight: float
    peak_h: float
    half_life_h: float
    half_h: float

    @classmethod
    def of(cls, log_shares: Floats, deviations: Floats, weight: float) -> Self:
        velocity = np.diff(np.exp(log_shares), prepend=0.0) / np.diff(_GRID_H, prepend=0.0)
        middle = (_GRID_H + np.concatenate(([0.0], _GRID_H[:-1]))) / 2
        peak = int(np.argmax(velocity))
        slower = np.flatnonzero(velocity[peak:] <= velocity[peak] / 2)
        half_life = float(middle[peak + slower[0]] - middle[peak]) if len(slower) else np.nan
        half = np.interp(0.5, np.concatenate(([0.0], np.exp(log_shares))), np.concatenate(([0.0], _GRID_H)))
        return cls(log_shares, deviations, weight, float(middle[peak]), half_life, float(half))

    @property
    def first_day(self) -> float:
        """The share of the week's views that come on the first day."""
        return float(np.exp(self.log_shares[_AT_24H]))

    @property
    def first_hours(self) -> float:
        """The share of the first day's views that come in the first 6 h."""
        return float(np.exp(self.log_shares[_AT_6H] - self.log_shares[_AT_24H]))

    @property
    def later_days(self) -> float:
        """The share of the week's views that come after two days."""
        return 1 - float(np.exp(self.log_shares[_AT_48H]))

    @property
    def name(self) -> str:
        """The archetype in a few words, which change less than its figures; close archetypes may share them."""
        return f"{self._rise}, {self._half}, {self._fade}"

    @property
    def _rise(self) -> str:
        return _first_over(self.peak_h, _RISES, "peaks after two days")

    @property
    def _half(self) -> str:
        return _first_over(self.half_h, _HALVES, "has half its week's views after four days")

    @property
    def _fade(self) -> str:
        if self.first_day > 0.8:
            return "is flat after a day"
        return _first_over(self.later_days, _FADES, "grows most after two days")

    @property
    def description(self) -> str:
        """A sentence with the archetype's figures."""
        fading = "" if np.isnan(self.half_life_h) else f", half as fast {self.half_life_h:.0f} h later"
        return (
            f"{self.name}: fastest at {self.peak_h:.2g} h{fading}; {self.first_hours:.0%} of the first day's "
            f"views come in 6 h, and {self.first_day:.0%} of the week's on the first day"
        )

    def share_at(self, age_h: ColumnLike) -> Floats:
        """The share of the week's views that had come by each age; 1 after a week."""
        return _interpolated(_GRID_H, np.exp(self.log_shares), age_h)


def _first_over(value: float, bounds: Sequence[tuple[float, str]], otherwise: str) -> str:
    """The words of the first bound above the value."""
    return next((words for bound, words in bounds if value < bound), otherwise)


def _typical(age_h: ColumnLike) -> Floats:
    """Views up to each age by the typical curve, in any unit; 0 at age 0."""
    age = np.maximum(column(age_h), 0.0)
    views: Floats = np.where(age > 0, np.exp(-projection(age)[0]), 0.0)
    return views


def _interpolated(ages_h: Floats, views: Floats, at_h: ColumnLike) -> Floats:
    """Views at some ages, from 0 at age 0, in proportion to the typical curve between the known ones."""
    ages, counts = np.concatenate(([0.0], ages_h)), np.concatenate(([0.0], views))
    found: Floats = np.interp(_typical(at_h), _typical(ages), counts)
    return found


def normalized(
    ages_h: ColumnLike, views: ColumnLike, settings: ArchetypeSettings = DEFAULTS
) -> Floats | None:
    """A curve's log shares at `AGES_H`; None if its counts do not tell, or nobody watched.

    Counts that are hidden (NaN) are left out; where views fell, the most so far counts.
    """
    age, count = _known(ages_h, views)
    if not len(age) or age[0] > settings.latest_first_h or age[-1] < WEEK_H:
        return None
    if np.diff(age).max(initial=0.0) > settings.widest_h:
        return None
    at = _interpolated(age, count, _GRID_H)
    if at[-1] < 1:
        return None
    shares: Floats = np.maximum(np.log1p(at) - np.log1p(at[-1]), _LEAST_LOG_SHARE)
    return shares


def _known(ages_h: ColumnLike, views: ColumnLike) -> tuple[Floats, Floats]:
    """The known counts after age 0, in order, none below the one before."""
    age, count = column(ages_h), column(views)
    known = np.isfinite(age) & np.isfinite(count) & (age > 0)
    order = np.argsort(age[known], kind="stable")
    count = count[known][order]
    return age[known][order], np.maximum.accumulate(count) if len(count) else count


class Archetypes:
    """Learns archetypes from curves of whole weeks, and assigns videos to them; its state is bounded."""

    name: ClassVar[str] = "archetypes"
    version: ClassVar[int] = 1
    """The version of its state."""

    def __init__(self, settings: ArchetypeSettings = DEFAULTS) -> None:
        self.settings = settings
        self._waiting: list[Floats] = []
        self._centres = np.empty((0, len(AGES_H)))
        self._variances = np.empty((0, len(AGES_H)))
        self._counts = np.empty(0)

    def __len__(self) -> int:
        return len(self._centres)

    @property
    def archetypes(self) -> list[Archetype]:
        """The archetypes by number; none before there were enough curves."""
        total = self._counts.sum()
        return [
            Archetype.of(np.maximum.accumulate(centre), self._deviations()[n], float(count / total))
            for n, (centre, count) in enumerate(zip(self._centres, self._counts, strict=True))
        ]

    def learn(self, curves: Sequence[Floats]) -> Integers:
        """Learn from curves that `normalized` returned; returns the archetype of each, -1 if none yet."""
        curves = list(curves)
        if not len(self):
            room = self.settings.first_curves - len(self._waiting)
            self._waiting += curves[:room]
            if len(self._waiting) < self.settings.first_curves:
                return np.full(len(curves), -1)
            self._start()
            early, curves = np.full(room, -1), curves[room:]
        else:
            early = np.empty(0, dtype=np.int64)
        found = [self._move(np.asarray(curve)) for curve in curves]
        return np.concatenate((early, np.array(found, dtype=np.int64)))

    def assign(self, ages_h: ColumnLike, views: ColumnLike) -> Floats:
        """The probability that a video is of each archetype, from its first samples; empty if none is known.

        With fewer than two known counts above 0, it is each archetype's part of all curves.
        """
        if not len(self):
            return np.empty(0)
        age, count = _known(ages_h, views)
        inside = (count > 0) & (age <= WEEK_H)
        age, count = age[inside], count[inside]
        log_prior = np.log((self._counts + 1) / (self._counts + 1).sum())
        if len(age) < 2:
            return np.asarray(np.exp(log_prior), dtype=np.float64)
        at, logs = _spread_over(age, np.log1p(count))
        centres = np.stack([np.interp(np.log(at), np.log(_GRID_H), centre) for centre in self._centres])
        deviations = np.stack([np.interp(np.log(at), np.log(_GRID_H), each) for each in self._deviations()])
        # The week's views are unknown: the scale that fits best is taken for each archetype.
        weight = 1 / (deviations**2 + 1 / (np.exp(logs) + 1))
        off = logs - centres
        off -= (weight * off).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
        worth = min(1.0, _INDEPENDENT / len(at))
        fit = worth * (0.5 * np.log(weight) - 0.5 * weight * off**2).sum(axis=1) + log_prior
        shares = np.exp(fit - fit.max())
        return np.asarray(shares / shares.sum(), dtype=np.float64)

    def _start(self) -> None:
        """Cluster the waiting curves: k-means++ and a few rounds of Lloyd's algorithm."""
        curves, count = np.stack(self._waiting), self.settings.archetypes
        random = np.random.default_rng(self.settings.seed)
        centres = curves[[random.integers(len(curves))]]
        while len(centres) < count:
            apart = _squares(curves, centres).min(axis=1)
            chances = apart / apart.sum() if apart.sum() > 0 else None
            centres = np.concatenate((centres, curves[[random.choice(len(curves), p=chances)]]))
        for _ in range(20):
            nearest = _squares(curves, centres).argmin(axis=1)
            for number in np.unique(nearest):
                centres[number] = curves[nearest == number].mean(axis=0)
        nearest = _squares(curves, centres).argmin(axis=1)
        spread = curves.var(axis=0)
        self._centres, self._waiting = centres, []
        self._counts = np.bincount(nearest, minlength=count).astype(np.float64)
        self._variances = np.stack(
            [curves[nearest == n].var(axis=0) if (nearest == n).sum() > 1 else spread for n in range(count)]
        )

    def _move(self, curve: Floats) -> int:
        """Move the nearest centre towards a curve, and return its number."""
        number = int(_squares(curve[None], self._centres)[0].argmin())
        self._counts[number] += 1
        share, off = 1 / min(self._counts[number], self.settings.memory), curve - self._centres[number]
        self._centres[number] += share * off
        self._variances[number] += share * ((1 - share) * off**2 - self._variances[number])
        if self._counts.sum() > self.settings.memory * len(self):
            self._counts *= 1 - 1 / self._counts.sum()
        return number

    def _deviations(self) -> Floats:
        deviations: Floats = np.sqrt(self._variances + _LEAST_DEVIATION**2)
        return deviations

    def state(self) -> bytes:
        """Serialize what was learnt, without the settings, for `from_state`."""
        waiting = np.array(self._waiting).reshape(-1, len(AGES_H))
        tables = waiting, self._centres, self._variances, self._counts
        return pack(self.name, self.version, [np.ascontiguousarray(table).tobytes() for table in tables])

    @classmethod
    def from_state(cls, state: bytes, settings: ArchetypeSettings = DEFAULTS) -> Self:
        """Archetypes that go on as those that wrote the state; StateError if they can't."""
        restored, content = cls(settings), unpack(cls.name, cls.version, state)
        try:
            waiting, centres, variances = (_table(part) for part in content[:3])
            counts = np.frombuffer(content[3]).copy()
        except (IndexError, TypeError, ValueError) as error:
            raise StateError(f"the state of {cls.name} is incomplete: {error!r}") from error
        if not len(centres) == len(variances) == len(counts):
            raise StateError(f"the state of {cls.name} is incomplete")
        restored._waiting, restored._counts = list(waiting), counts
        restored._centres, restored._variances = centres, variances
        return restored


def _table(stored: Any) -> Floats:
    return np.frombuffer(stored).reshape(-1, len(AGES_H)).copy()


def _squares(curves: Floats, centres: Floats) -> Floats:
    """The squared distance of each curve from each centre."""
    squares: Floats = ((curves[:, None] - centres[None]) ** 2).sum(axis=2)
    return squares


def _spread_over(age_h: Floats, logs: Floats) -> tuple[Floats, Floats]:
    """The curve at those of `AGES_H` that its counts span, with its first and last count; so samples that are
    close together don't weigh more.
    """
    inner = np.array([age for age in AGES_H if age_h[0] < age < age_h[-1]])
    at = np.concatenate((age_h[:1], inner, age_h[-1:]))
    views = _interpolated(age_h, np.expm1(logs), at)
    return at, np.log1p(views)

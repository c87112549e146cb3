"""Plots as inline SVG: no script, nothing loaded, colours by the page's classes, and described in words.

A library would bring its own colours, fonts and scripts; these few shapes need none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, floor, log10
from typing import Final

from markupsafe import Markup

from atlas import foreign
from maia.views.figures import compact

COLOURS: Final = 6
"""How many series a plot tells apart; the page gives the classes c0 to c5 their colours."""

_WIDTH, _HEIGHT = 400.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 38.0, 4.0, 8.0, 20.0
_SPARK_WIDTH, _SPARK_HEIGHT = 120.0, 28.0
_GAP: Final = 0.28


@dataclass(frozen=True, slots=True)
class Series:
    """Values in the order of the plot's labels; None is a gap."""

    name: str
    values: tuple[float | None, ...]


class Plots:
    """Draws plots whose ids are unique in one page."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def bars(self, title: str, labels: Sequence[str], series: Sequence[Series], unit: str) -> Markup:
        """Stacked bars, one for each label."""
        columns = [[value or 0.0 for value in column] for column in _columns(series, len(labels))]
        top = _round_up(max((sum(column) for column in columns), default=0.0))
        scale = _Scale(top, len(labels))
        parts = [*_grid(scale), *_axis(labels, scale)]
        for place, column in enumerate(columns):
            base = 0.0
            for number, value in enumerate(column):
                if value > 0:
                    parts.append(
                        _rectangle(scale, place, base, base + value, number, _tip(series[number], value))
                    )
                base += value
        return self._framed(title, _told(labels, series, unit), parts, _WIDTH, _HEIGHT, "plot")

    def lines(self, title: str, labels: Sequence[str], series: Sequence[Series], unit: str) -> Markup:
        """A line for each series over the same labels."""
        highest = max((value for each in series for value in each.values if value is not None), default=0.0)
        scale = _Scale(_round_up(highest), len(labels))
        parts = [*_grid(scale), *_axis(labels, scale)]
        for number, each in enumerate(series):
            parts += [_line(run, number) for run in _runs(scale, each.values)]
        return self._framed(title, _told(labels, series, unit), parts, _WIDTH, _HEIGHT, "plot")

    def sparkline(self, title: str, values: Sequence[float | None], full: float | None = None) -> Markup:
        """Narrow bars without axes; the highest value has the full height, or `full` if that is more."""
        highest = max((value for value in values if value is not None), default=0.0)
        most = max(highest, full or 0.0)
        step = _SPARK_WIDTH / max(len(values), 1)
        wide = max(step - 0.8, 0.5)
        # One path, as a page has hundreds of bars, and each element costs a browser time before it paints.
        bars = "".join(
            f"M{place * step:.1f} {_SPARK_HEIGHT:g}v{-high:.1f}h{wide:.1f}v{high:.1f}z"
            for place, value in enumerate(values)
            if value is not None
            for high in (max(1.0, _SPARK_HEIGHT * value / most if most > 0 else 0.0),)
        )
        parts = [f'<path class="c0" d="{bars}"/>'] if bars else []
        told = (
            f"from {compact(_first(values))} to {compact(_first(values[::-1]))}, at most {compact(highest)}"
        )
        return self._framed(title, told, parts, _SPARK_WIDTH, _SPARK_HEIGHT, "spark")

    def _framed(
        self, title: str, told: str, parts: Sequence[str], width: float, height: float, kind: str
    ) -> Markup:
        id_ = f"p{next(self._numbers)}"
        return Markup(  # noqa: S704 - all text in it is escaped, everything else are our own numbers
            f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-labelledby="{id_}t {id_}d"><title id="{id_}t">{_safe(title)}</title>'
            f'<desc id="{id_}d">{_safe(told)}</desc>{"".join(parts)}</svg>'
        )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where values and labels are drawn, with the axis from 0 to `top`."""

    top: float
    labels: int

    @property
    def step(self) -> float:
        return (_WIDTH - _LEFT - _RIGHT) / max(self.labels, 1)

    def x(self, place: float) -> float:
        return _LEFT + (place + 0.5) * self.step

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.top


def _safe(text: str) -> str:
    return foreign.html_text(foreign.one_line(text))


def _columns(series: Sequence[Series], labels: int) -> Iterator[list[float | None]]:
    for place in range(labels):
        yield [each.values[place] for each in series]


def _round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 4, 5 or 8 times a power of ten that is not less."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(power * factor for factor in (1, 2, 2.5, 4, 5, 8, 10) if power * factor >= value * (1 - 1e-9))


def _grid(scale: _Scale) -> Iterator[str]:
    for part in (0, 0.5, 1):
        y = scale.y(scale.top * part)
        yield f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        label = compact(scale.top * part)
        yield f'<text x="{_LEFT - 4:g}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'


def _axis(labels: Sequence[str], scale: _Scale) -> Iterator[str]:
    every = ceil(len(labels) / 10)
    for place, label in enumerate(labels):
        if place % every == 0:
            x = f"{scale.x(place):.1f}"
            yield f'<text x="{x}" y="{_HEIGHT - 5:g}" text-anchor="middle">{_safe(label)}</text>'


def _rectangle(scale: _Scale, place: int, base: float, top: float, number: int, tip: str) -> str:
    wide = scale.step * (1 - _GAP)
    x, y = scale.x(place) - wide / 2, scale.y(top)
    high = max(scale.y(base) - y, 0.5)
    return (
        f'<rect class="c{number % COLOURS}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}">'
        f"<title>{_safe(tip)}</title></rect>"
    )


def _tip(series: Series, value: float) -> str:
    return f"{series.name}: {value:,.0f}"


def _runs(scale: _Scale, values: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    """The points between two gaps."""
    run: list[tuple[float, float]] = []
    for place, value in enumerate([*values, None]):
        if value is not None:
            run.append((scale.x(place), scale.y(value)))
        elif run:
            yield run
            run = []


def _line(run: Sequence[tuple[float, float]], number: int) -> str:
    colour = f"l{number % COLOURS}"
    dots = "".join(f'<circle class="c{number % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in run)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
    return f'<polyline class="line {colour}" points="{points}"/>{dots}'


def _told(labels: Sequence[str], series: Sequence[Series], unit: str) -> str:
    """The plot in words: each series' highest and total, as a listener can follow."""
    said = []
    for each in series:
        known = [
            (value, label) for value, label in zip(each.values, labels, strict=True) if value is not None
        ]
        if known:
            most, where = max(known, key=lambda pair: pair[0])
            said.append(f"{each.name}: at most {compact(most)} {unit} ({where})")
    return "; ".join(said) or "There is nothing to show."


def _first(values: Sequence[float | None]) -> float:
    return next((value for value in values if value is not None), 0.0)

"""A small part of the knowledge graph as inline SVG: atoms that lead on, and links as wide as they weigh.

Types of atoms differ by colour and by shape, and all that is drawn is also said in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Final
from unicodedata import category, east_asian_width

import numpy as np
from markupsafe import Markup

from atlas import foreign
from maia.graph.layout import Floats, Frame, placed

_RADIUS: Final = 6.0
_MORE_RADIUS: Final = 7.0
_MIDDLE_RADIUS: Final = 15.0
_LEAST_STROKE: Final = 0.8
_MORE_STROKE: Final = 4.2
_LINE_HEIGHT: Final = 15.0
_LETTER: Final = 6.5
_WIDE_LETTER: Final = 12.5
_LONGEST_LABEL: Final = 130.0
"""Widths of labels in pixels, as estimated: the fonts of those who look are not known here."""


@dataclass(frozen=True, slots=True)
class _Symbol:
    """How atoms of a type are drawn: `corners` on a circle, none of them being at its top if `turned`."""

    colour: int
    corners: int
    turned: bool = False


_SYMBOLS: Final[Mapping[str, _Symbol]] = {
    "tag": _Symbol(0, 0),
    "topic": _Symbol(1, 4),
    "video": _Symbol(2, 4, turned=True),
    "channel": _Symbol(3, 6),
    "category": _Symbol(4, 3),
    "pattern": _Symbol(5, 5),
    "agent": _Symbol(5, 3, turned=True),
}
_OTHER: Final = _Symbol(5, 8, turned=True)


@dataclass(frozen=True, slots=True)
class Dot:
    """An atom to draw; `size` is from 0 to 1, and `told` says all about it in a line."""

    type: str
    label: str
    address: str
    size: float
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    """A link between two dots, called by their places; `weight` is from 0 to 1."""

    first: int
    second: int
    weight: float
    told: str


def drawn(
    id_: str, title: str, told: str, dots: Sequence[Dot], lines: Sequence[Line], frame: Frame
) -> Markup:
    """The drawing. The first dot is what it is about; `id_` is the name of its element in the page."""
    radii = [_MIDDLE_RADIUS if not nth else _RADIUS + _MORE_RADIUS * dot.size for nth, dot in enumerate(dots)]
    labels = [_cut(dot.label, _LONGEST_LABEL * (1.6 if not nth else 1)) for nth, dot in enumerate(dots)]
    sizes = np.array(
        [(max(_wide(text), 2 * r) + 2, 2 * r + _LINE_HEIGHT) for text, r in zip(labels, radii, strict=True)]
    ).reshape(-1, 2)
    ends = np.array([(line.first, line.second) for line in lines], np.int64).reshape(-1, 2)
    at = placed(ends, np.array([line.weight for line in lines], float), sizes, frame)
    # The symbol is above the label.
    at = at - np.array([0.0, _LINE_HEIGHT / 2])
    parts = [*_lines(lines, at), *_dots(dots, labels, radii, at)]
    return Markup(  # noqa: S704 - all text in it is escaped, everything else are our own numbers
        f'<svg id="{id_}" class="graph" viewBox="0 0 {frame.width:g} {frame.height:g}" role="group" '
        f'aria-labelledby="{id_}t" aria-describedby="{id_}d"><title id="{id_}t">{_safe(title)}</title>'
        f'<desc id="{id_}d">{_safe(told)}</desc>{"".join(parts)}</svg>'
    )


def symbol(type_: str) -> Markup:
    """The symbol of a type of atoms, for a legend; it says nothing to those who can't see it."""
    return Markup(  # noqa: S704 - our own numbers
        f'<svg class="symbol" viewBox="-9 -9 18 18" aria-hidden="true">{_shape(type_, 0, 0, 7.5)}</svg>'
    )


def _lines(lines: Sequence[Line], at: Floats) -> Iterator[str]:
    yield '<g class="links">'
    # The heaviest on top.
    for line in sorted(lines, key=lambda each: each.weight):
        (x1, y1), (x2, y2) = at[line.first].tolist(), at[line.second].tolist()
        near = ' class="near"' if 0 in (line.first, line.second) else ""
        wide = _LEAST_STROKE + _MORE_STROKE * line.weight
        yield (
            f'<line{near} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke-width="{wide:.1f}">'
            f"<title>{_safe(line.told)}</title></line>"
        )
    yield "</g>"


def _dots(dots: Sequence[Dot], labels: Sequence[str], radii: Sequence[float], at: Floats) -> Iterator[str]:
    for nth, (dot, label, r) in enumerate(zip(dots, labels, radii, strict=True)):
        x, y = at[nth].tolist()
        inside = (
            f"{_shape(dot.type, x, y, r)}"
            f'<text x="{x:.1f}" y="{y + r + _LINE_HEIGHT - 3:.1f}">{foreign.html_text(label)}</text>'
            f"<title>{_safe(dot.told)}</title>"
        )
        # What a page is about doesn't lead to itself.
        if nth:
            yield f'<a class="atom" href="{foreign.html_text(dot.address)}">{inside}</a>'
        else:
            yield f'<g class="atom middle">{inside}</g>'


def _shape(type_: str, x: float, y: float, r: float) -> str:
    kind = _SYMBOLS.get(type_, _OTHER)
    if not kind.corners:
        return f'<circle class="c{kind.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    # As large to the eye as a circle.
    r *= 1.25 if kind.corners < 5 else 1.1
    step = 2 * pi / kind.corners
    begin = -pi / 2 + (step / 2 if kind.turned else 0)
    corners = " ".join(
        f"{x + r * cos(begin + nth * step):.1f},{y + r * sin(begin + nth * step):.1f}"
        for nth in range(kind.corners)
    )
    return f'<polygon class="c{kind.colour}" points="{corners}"/>'


def _safe(text: str) -> str:
    return foreign.html_text(foreign.one_line(text))


def _wide(text: str) -> float:
    return sum(map(_letter, text))


def _letter(letter: str) -> float:
    if category(letter) in ("Mn", "Me", "Cf"):
        return 0.0
    is_wide = east_asian_width(letter) in ("W", "F") or category(letter) == "So"
    return _WIDE_LETTER if is_wide else _LETTER


def _cut(text: str, most: float) -> str:
    """A text as it is, or as much of its beginning as is at most so wide, with an ellipsis."""
    shown = foreign.one_line(text)
    if _wide(shown) <= most:
        return shown
    used, kept = _LETTER, 0
    for letter in shown:
        used += _letter(letter)
        if used > most:
            break
        kept += 1
    return f"{shown[:kept].rstrip()}…"

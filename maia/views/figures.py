"""Figures in few characters: compact numbers, changes, and sparklines of text."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Final

_BARS: Final = "▁▂▃▄▅▆▇█"
_NO_BAR: Final = " "
_LARGEST: Final = 1e15
_LARGE: Final = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def compact(value: float) -> str:
    """A number in few characters, such as 950, 1.2k, −3.4M or 3.4e+20; a dash for NaN."""
    if isnan(value):
        return "–"
    sign, size = "−" if value < 0 else "", abs(value)
    if size >= _LARGEST * 0.9995:
        return f"{sign}{size:.3g}"
    for unit, letter in _LARGE:
        # A number that would round up to 1000 of a unit is written in the next unit.
        if size >= unit * 0.9995:
            return f"{sign}{_three_figures(size / unit)}{letter}"
    return f"{sign}{_three_figures(size)}"


def _three_figures(size: float) -> str:
    text = f"{size:.0f}" if size >= 99.95 else f"{size:.1f}" if size >= 9.995 else f"{size:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def bars_of(values: Sequence[float | None], most: float | None = None) -> str:
    """A sparkline: `most` (the largest value) gets the highest bar, zero or less the lowest, None a blank."""
    if most is None:
        most = max((value for value in values if value is not None), default=0.0)
    return "".join(_NO_BAR if value is None else _bar(value, most) for value in values)


def _bar(rate: float, most: float) -> str:
    if most <= 0 or rate <= 0:
        return _BARS[0]
    return _BARS[min(int(rate / most * len(_BARS)), len(_BARS) - 1)]


def change(now: float, before: float) -> str | None:
    """How much more or less than before, such as +12 %; None where there was nothing before."""
    if before <= 0:
        return None
    relative = now / before - 1
    if round(abs(relative), 2) == 0:
        return "±0 %"
    if relative >= 9.995:
        return f"×{compact(now / before)}"
    return f"{relative:+.0%}".replace("-", "−").replace("%", " %")

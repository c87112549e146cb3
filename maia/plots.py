"""A video's curve as text and as a picture, and sparklines of growth. Every instant is shown in UTC."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from maia.errors import MaiaError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

ATTRIBUTION: Final = "computed by Pleiades, not by YouTube"
"""What stands wherever a velocity, or what is made of one, is shown."""

_BARS: Final = "▁▂▃▄▅▆▇█"
_UNSEEN: Final = " "
_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_TIME_STEPS_S: Final = tuple(
    unit * step
    for unit, steps in ((_MINUTE_S, (1, 5, 15, 30)), (_HOUR_S, (1, 2, 3, 6, 12)), (_DAY_S, (1, 2, 7, 14, 28)))
    for step in steps
)
_TIME_LABEL_COLUMNS: Final = 14
_ROWS_A_LABEL: Final = 3
_LEAST_COLUMNS: Final = 20
_TITLE_CELLS: Final = 84
_VIEWS_ROWS, _VELOCITY_ROWS = 10, 8
_WORLD_FONTS: Final = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans KR", "Source Han Sans", "WenQuanYi Zen Hei",
    "IPAexGothic", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS",
    "Unifont",
)  # fmt: skip
_LARGE: Final = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


class PlotError(MaiaError):
    """The picture cannot be made."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A video's samples, oldest first: seconds since 1970, counts, and the velocity of the step up to each.

    NaN is a hidden count, and a step that has no velocity.
    """

    at_s: Floats
    views: Floats
    velocity: Floats

    @classmethod
    def of(
        cls, at: Sequence[datetime], views: Sequence[float | None], velocity: Sequence[float | None]
    ) -> Curve:
        """From columns with None for NULL."""
        return cls(
            np.array([instant.timestamp() for instant in at], np.float64),
            np.array(views, np.float64),
            np.array(velocity, np.float64),
        )

    def steps(self) -> Iterator[tuple[float, float, float]]:
        """Begin, end and velocity of each step that has one; it begins at the known count before."""
        known = np.flatnonzero(~np.isnan(self.views))
        for before, after in pairwise(known.tolist()):
            if not np.isnan(self.velocity[after]):
                yield float(self.at_s[before]), float(self.at_s[after]), float(self.velocity[after])


def compact(value: float) -> str:
    """A number in few characters, such as 950, 1.2k or −3.4M; a dash for NaN."""
    if np.isnan(value):
        return "–"
    sign, size = "−" if value < 0 else "", abs(value)
    for unit, letter in _LARGE:
        # What would be rounded up to the next unit is told in it.
        if size >= unit * 0.9995:
            return f"{sign}{_three_figures(size / unit)}{letter}"
    return f"{sign}{_three_figures(size)}"


def _three_figures(size: float) -> str:
    text = f"{size:.0f}" if size >= 99.95 else f"{size:.1f}" if size >= 9.995 else f"{size:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# Sparklines


def rates(curve: Curve, since_s: float, until_s: float, parts: int) -> Floats:
    """Views per hour in each of so many equal parts of a span; NaN where nothing was measured.

    Between two samples growth is even.
    """
    edges = np.linspace(since_s, until_s, parts + 1)
    gained, seen_s = np.zeros(parts), np.zeros(parts)
    for begin, end, velocity in curve.steps():
        inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0.0, None)
        gained += velocity * inside
        seen_s += inside
    means: Floats = np.divide(gained, seen_s, out=np.full(parts, np.nan), where=seen_s > 0)
    return means


def bars_of(values: Sequence[float | None]) -> str:
    """A sparkline: the greatest is the highest bar, zero and less the lowest, None a blank."""
    most = max((value for value in values if value is not None), default=0.0)
    return "".join(_UNSEEN if value is None else _bar(value, most) for value in values)


def _bar(rate: float, most: float) -> str:
    if most <= 0 or rate <= 0:
        return _BARS[0]
    return _BARS[min(int(rate / most * len(_BARS)), len(_BARS) - 1)]


# In the terminal


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart as lines of text: labels to the left of the axis, and what is drawn to the right."""

    title: str
    labels: list[str]
    drawn: list[str]


@dataclass(frozen=True, slots=True)
class TerminalPlot:
    """Views above velocity over the same time axis; `margin` is the width of the labels."""

    panels: tuple[Panel, ...]
    margin: int
    axis: tuple[str, str]


def terminal_plot(curve: Curve, columns: int, marks: Sequence[datetime] = ()) -> TerminalPlot:
    """Draw a curve of at least one sample in so many columns; `marks` are pointed at on the time axis."""
    views_lines = list(_known_pairs(curve))
    steps = list(curve.steps())
    scales = [
        _Scale.of(curve.views, _VIEWS_ROWS),
        _Scale.of(np.array([v for _, _, v in steps] + [0.0]), _VELOCITY_ROWS),
    ]
    margin = max(len(label) for scale in scales for label in scale.labels())
    width = max(columns - margin - 2, _LEAST_COLUMNS)
    span = _span(curve)
    stairs = list(_stairs(steps))
    panels = (
        Panel("views", scales[0].labels(), _braille(views_lines, span, scales[0], width)),
        Panel("views per hour", scales[1].labels(), _braille(stairs, span, scales[1], width)),
    )
    return TerminalPlot(panels, margin, _time_axis(span, width, [mark.timestamp() for mark in marks]))


def _span(curve: Curve) -> tuple[float, float]:
    begin, end = float(curve.at_s[0]), float(curve.at_s[-1])
    return (begin, end) if end > begin else (begin - _HOUR_S / 2, begin + _HOUR_S / 2)


Line = tuple[float, float, float, float]


def _known_pairs(curve: Curve) -> Iterator[Line]:
    """From each count to the next; hidden ones leave a gap."""
    at, views = curve.at_s.tolist(), curve.views.tolist()
    for row, (instant, count) in enumerate(zip(at, views, strict=True)):
        if not np.isnan(count):
            follows = row + 1 < len(at) and not np.isnan(views[row + 1])
            yield (
                (instant, count, at[row + 1], views[row + 1]) if follows else (instant, count, instant, count)
            )


def _stairs(steps: Sequence[tuple[float, float, float]]) -> Iterator[Line]:
    """A level for each step, and the rise from the one before where they meet."""
    last: tuple[float, float] | None = None
    for begin, end, velocity in steps:
        if last is not None and last[0] == begin:
            yield begin, last[1], begin, velocity
        yield begin, velocity, end, velocity
        last = end, velocity


@dataclass(frozen=True, slots=True)
class _Scale:
    """A value axis of so many rows between two round values, with a label at every round step."""

    low: float
    high: float
    step: float
    rows: int

    @classmethod
    def of(cls, values: Floats, rows: int) -> _Scale:
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if low == high:
            # Enough to tell the two from each other as floats.
            apart = max(1.0, abs(low) * 1e-3)
            low, high = low - apart, high + apart
        step = _round_step((high - low) / max(rows // _ROWS_A_LABEL, 1))
        return cls(floor(low / step) * step, ceil(high / step) * step, step, rows)

    def labels(self) -> list[str]:
        """From the top row down; rows between are blank."""
        labels = [""] * self.rows
        for number in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + number * self.step
            row = round((self.high - value) / (self.high - self.low) * (self.rows - 1))
            labels[row] = compact(0.0 if abs(value) < self.step / 2 else value)
        return labels


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is no less."""
    power = 10.0 ** floor(log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * (1 - 1e-9))


def _braille(lines: Sequence[Line], span: tuple[float, float], scale: _Scale, width: int) -> list[str]:
    from plotille import Canvas

    # A canvas leaves out its upper edges, so they lie one dot beyond what is drawn.
    right = span[1] + (span[1] - span[0]) / (2 * width - 1)
    top = scale.high + (scale.high - scale.low) / (4 * scale.rows - 1)
    canvas = Canvas(width, scale.rows, span[0], scale.low, right, top)
    for line in lines:
        canvas.line(*line)
    return str(canvas.plot("\n")).split("\n")


def _time_axis(span: tuple[float, float], width: int, marks: Sequence[float]) -> tuple[str, str]:
    """The axis with a tick at round instants and ▲ at the marks, and the labels beneath."""
    step_s = _time_step((span[1] - span[0]) / max(width // _TIME_LABEL_COLUMNS, 1))
    axis, labels = ["─"] * width, ""
    for instant in np.arange(ceil(span[0] / step_s) * step_s, span[1] + 1, step_s).tolist():
        place = _column(instant, span, width)
        axis[place] = "┬"
        label = _time_label(instant, step_s)
        begin = max(0, min(place - len(label) // 2, width - len(label)))
        if begin >= len(labels) + (2 if labels else 0):
            labels = labels.ljust(begin) + label
    for mark in marks:
        if span[0] <= mark <= span[1]:
            axis[_column(mark, span, width)] = "▲"
    return "".join(axis), labels


def _column(instant: float, span: tuple[float, float], width: int) -> int:
    return round((instant - span[0]) / (span[1] - span[0]) * (width - 1))


def _time_step(least_s: float) -> float:
    longer = (step for step in _TIME_STEPS_S if step >= least_s)
    return next(longer, ceil(least_s / _TIME_STEPS_S[-1]) * _TIME_STEPS_S[-1])


def _time_label(instant_s: float, step_s: float) -> str:
    instant = datetime.fromtimestamp(instant_s, UTC)
    day = f"{instant:%b} {instant.day}"
    return day if step_s >= _DAY_S else f"{day} {instant:%H:%M}"


# As a picture


def save_png(curve: Curve, path: Path, *, title: str, subtitle: str, marks: Sequence[datetime] = ()) -> None:
    """Write the curve as a PNG; PlotError says what to install, or why the file cannot be written."""
    if find_spec("matplotlib") is None:
        raise PlotError("a PNG needs another package: pip install 'pleiades[plots]'")
    # Its own canvas, not pyplot: no display is looked for, and no state is kept.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, curve, title, subtitle, marks)
    try:
        with warnings.catch_warnings():
            # A title in a script that no font here knows is no reason to complain of each character.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(path, format="png")
    except OSError as error:
        raise PlotError(f"cannot write {path}: {error.strerror or error}") from error


def _draw(figure: Figure, curve: Curve, title: str, subtitle: str, marks: Sequence[datetime]) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    at = [datetime.fromtimestamp(instant, UTC) for instant in curve.at_s.tolist()]
    upper.plot(at, curve.views, color="#1f5fa8", linewidth=1.6, marker=".", markersize=_marker_size(len(at)))
    upper.set_ylabel("views")
    when, velocity = _as_columns(curve.steps())
    lower.fill_between(when, velocity, color="#c8553d", alpha=0.35, linewidth=0)
    lower.plot(when, velocity, color="#c8553d", linewidth=1.4)
    lower.set_ylabel("views per hour")
    for axes in (upper, lower):
        _dress(axes, marks)
    _date_axis(lower, at)
    # No formula: titles may hold dollar signs.
    plain = {"parse_math": False, "fontfamily": _families()}
    figure.suptitle(_shortened(title), x=0.01, ha="left", fontsize=13, fontweight="bold", **plain)
    upper.set_title(subtitle, loc="left", fontsize=9, color="#555555", **plain)
    figure.supxlabel(
        f"Velocity is {ATTRIBUTION}. Times are UTC.", x=0.99, ha="right", fontsize=8, color="#777777"
    )


def _shortened(title: str) -> str:
    """What of a title has room in a line."""
    from rich.cells import cell_len, set_cell_size

    return title if cell_len(title) <= _TITLE_CELLS else f"{set_cell_size(title, _TITLE_CELLS - 1).rstrip()}…"


def _as_columns(steps: Iterable[tuple[float, float, float]]) -> tuple[list[datetime], list[float]]:
    """Both ends of every step in a row, with a gap after each that the next doesn't continue."""
    at_s: list[float] = []
    velocities: list[float] = []
    for begin, end, velocity in steps:
        if at_s and at_s[-1] != begin:
            at_s.append(at_s[-1])
            velocities.append(float("nan"))
        at_s += begin, end
        velocities += velocity, velocity
    return [datetime.fromtimestamp(instant, UTC) for instant in at_s], velocities


def _families() -> list[str]:
    """The usual font, then those here that know the scripts it doesn't."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(family for family in _WORLD_FONTS if family in installed)]


def _marker_size(samples: int) -> float:
    return 5.0 if samples <= 60 else 2.5 if samples <= 300 else 0.0


def _dress(axes: Axes, marks: Sequence[datetime]) -> None:
    from matplotlib.ticker import FuncFormatter

    def label(value: float, _: Any) -> str:
        return compact(value)

    axes.yaxis.set_major_formatter(FuncFormatter(label))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for mark in marks:
        axes.axvline(mark, color="#8a6d00", linewidth=1, linestyle="--")  # type: ignore[arg-type]  # a date is as good


def _date_axis(axes: Axes, at: Sequence[datetime]) -> None:
    from matplotlib import dates

    if at[0] == at[-1]:
        axes.set_xlim(at[0] - timedelta(minutes=30), at[0] + timedelta(minutes=30))  # type: ignore[arg-type]
    locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]

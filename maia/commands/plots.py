"""Plots of curves, as text for the terminal or as a PNG, and sparklines of growth. All times are in UTC."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import cycle
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from atlas.extras import how_to_install
from maia.errors import MaiaError
from maia.views.curves import Band, Curve, Floats
from maia.views.figures import bars_of, compact
from maia.views.words import ATTRIBUTION

__all__ = [
    "Chart", "Panel", "PlotError", "TerminalPlot", "bars_of", "chart_plot", "compact", "print_plot",
    "save_charts", "save_png", "terminal_plot",
]  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console

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
_LABEL_CELLS: Final = 70
"""How many letters of the usual size fit beside all charts of a picture, one above the other."""
_VIEWS_ROWS, _VELOCITY_ROWS = 10, 8
_COLOURS: Final = ("cyan", "green")
_PICTURE_COLOURS: Final = ("#1f5fa8", "#c8553d")
_WORLD_FONTS: Final = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans KR", "Source Han Sans", "WenQuanYi Zen Hei",
    "IPAexGothic", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS",
    "Unifont",
)  # fmt: skip


class PlotError(MaiaError):
    """The picture cannot be made."""


# In the terminal


@dataclass(frozen=True, slots=True)
class Chart:
    """Counts over time, oldest first: seconds since 1970 and the counts, NaN where one is hidden.

    A picture has a line at each of the chart's `marks`.
    """

    title: str
    at_s: Floats
    values: Floats
    marks: tuple[datetime, ...] = ()

    @classmethod
    def of(
        cls,
        title: str,
        at: Sequence[datetime],
        values: Sequence[float | None],
        marks: Sequence[datetime] = (),
    ) -> Chart:
        """From columns with None for NULL."""
        return cls(
            title,
            np.array([instant.timestamp() for instant in at], np.float64),
            np.array(values, np.float64),
            tuple(marks),
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart as lines of text: the labels left of the axis, and the drawing right of it."""

    title: str
    labels: list[str]
    drawn: list[str]


@dataclass(frozen=True, slots=True)
class TerminalPlot:
    """Views above velocity over the same time axis; `margin` is the width of the labels."""

    panels: tuple[Panel, ...]
    margin: int
    axis: tuple[str, str]


def terminal_plot(
    curve: Curve, columns: int, marks: Sequence[datetime] = (), band: Band | None = None
) -> TerminalPlot:
    """Draw a curve of at least one sample, `columns` wide; `marks` get an arrow on the time axis.

    A band continues the views by dotted lines.
    """
    views_lines = list(_known_pairs(curve.at_s, curve.views))
    steps = list(curve.steps())
    ahead = () if band is None else (band.low, band.median, band.high)
    scales = [
        _Scale.of(np.concatenate([curve.views, *ahead]), _VIEWS_ROWS),
        _Scale.of(np.array([v for _, _, v in steps] + [0.0]), _VELOCITY_ROWS),
    ]
    margin = max(len(label) for scale in scales for label in scale.labels())
    width = max(columns - margin - 2, _LEAST_COLUMNS)
    span = _span(curve.at_s if band is None else np.concatenate([curve.at_s, band.at_s]))
    stairs = list(_stairs(steps))
    title = "views" if band is None else "views; dotted: the forecast and its 80 % interval"
    if band is not None:
        views_lines += _dots(band, (span[1] - span[0]) / width)
    panels = (
        Panel(title, scales[0].labels(), _braille(views_lines, span, scales[0], width)),
        Panel("views per hour", scales[1].labels(), _braille(stairs, span, scales[1], width)),
    )
    return TerminalPlot(panels, margin, _time_axis(span, width, [mark.timestamp() for mark in marks]))


def chart_plot(charts: Sequence[Chart], columns: int, marks: Sequence[datetime] = ()) -> TerminalPlot:
    """Draw charts of at least one count each, one above the other over the same time axis.

    `marks` get an arrow on that axis.
    """
    scales = [_Scale.of(chart.values, _VELOCITY_ROWS) for chart in charts]
    margin = max(len(label) for scale in scales for label in scale.labels())
    width = max(columns - margin - 2, _LEAST_COLUMNS)
    span = _span(np.concatenate([chart.at_s for chart in charts]))
    panels = tuple(
        Panel(
            chart.title,
            scale.labels(),
            _braille(list(_known_pairs(chart.at_s, chart.values)), span, scale, width),
        )
        for chart, scale in zip(charts, scales, strict=True)
    )
    return TerminalPlot(panels, margin, _time_axis(span, width, [mark.timestamp() for mark in marks]))


def print_plot(out: Console, plot: TerminalPlot) -> None:
    """Print the panels, each in a colour of its own, above their time axis."""
    for panel, colour in zip(plot.panels, cycle(_COLOURS), strict=False):
        out.print(f"\n{' ' * plot.margin} {panel.title}", style="bold")
        _print_panel(out, panel, plot.margin, colour)
    axis, labels = plot.axis
    out.print(f"{' ' * plot.margin}└{axis}\n{' ' * plot.margin} {labels}", style="dim")


def _print_panel(out: Console, panel: Panel, margin: int, colour: str) -> None:
    from rich.text import Text

    for label, drawn in zip(panel.labels, panel.drawn, strict=True):
        line = Text(f"{label.rjust(margin)}{'┤' if label else '│'}", style="dim")
        out.print(line.append(drawn.rstrip("\u2800"), style=f"not dim {colour}"))


def _span(at_s: Floats) -> tuple[float, float]:
    begin, end = float(at_s.min()), float(at_s.max())
    return (begin, end) if end > begin else (begin - _HOUR_S / 2, begin + _HOUR_S / 2)


Line = tuple[float, float, float, float]


def _known_pairs(at_s: Floats, values: Floats) -> Iterator[Line]:
    """A line from each count to the next; a hidden count leaves a gap."""
    at, views = at_s.tolist(), values.tolist()
    for row, (instant, count) in enumerate(zip(at, views, strict=True)):
        if not np.isnan(count):
            follows = row + 1 < len(at) and not np.isnan(views[row + 1])
            yield (
                (instant, count, at[row + 1], views[row + 1]) if follows else (instant, count, instant, count)
            )


def _dots(band: Band, every_s: float) -> Iterator[Line]:
    """Dots along the median and the ends of the interval."""
    at_s = np.arange(band.at_s[0] + every_s, band.at_s[-1] + every_s / 2, every_s)
    for values in (band.low, band.median, band.high):
        if not np.isnan(values).any():
            for instant, value in zip(
                at_s.tolist(), np.interp(at_s, band.at_s, values).tolist(), strict=True
            ):
                yield instant, value, instant, value


def _stairs(steps: Sequence[tuple[float, float, float]]) -> Iterator[Line]:
    """A horizontal line for each step, joined to the step before if they touch."""
    last: tuple[float, float] | None = None
    for begin, end, velocity in steps:
        if last is not None and last[0] == begin:
            yield begin, last[1], begin, velocity
        yield begin, velocity, end, velocity
        last = end, velocity


@dataclass(frozen=True, slots=True)
class _Scale:
    """A value axis of `rows` rows between two round values, with a label at every round step."""

    low: float
    high: float
    step: float
    rows: int

    @classmethod
    def of(cls, values: Floats, rows: int) -> _Scale:
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if low == high:
            # Far enough apart to differ as floats.
            apart = max(1.0, abs(low) * 1e-3)
            low, high = low - apart, high + apart
        step = _round_step((high - low) / max(rows // _ROWS_A_LABEL, 1))
        return cls(floor(low / step) * step, ceil(high / step) * step, step, rows)

    def labels(self) -> list[str]:
        """The label of each row from the top down; most are blank."""
        labels = [""] * self.rows
        for number in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + number * self.step
            row = round((self.high - value) / (self.high - self.low) * (self.rows - 1))
            labels[row] = compact(0.0 if abs(value) < self.step / 2 else value)
        return labels


def _round_step(least: float) -> float:
    """The smallest number of at least `least` that is 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * (1 - 1e-9))


def _braille(lines: Sequence[Line], span: tuple[float, float], scale: _Scale, width: int) -> list[str]:
    from plotille import Canvas

    # The canvas does not draw its upper and right edges, so put them one dot further out.
    right = span[1] + (span[1] - span[0]) / (2 * width - 1)
    top = scale.high + (scale.high - scale.low) / (4 * scale.rows - 1)
    canvas = Canvas(width, scale.rows, span[0], scale.low, right, top)
    for line in lines:
        canvas.line(*line)
    return str(canvas.plot("\n")).split("\n")


def _time_axis(span: tuple[float, float], width: int, marks: Sequence[float]) -> tuple[str, str]:
    """The axis, with ticks at round times and ▲ at the marks, and the line of labels below it."""
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


def save_png(
    curve: Curve,
    path: Path,
    *,
    title: str,
    subtitle: str,
    marks: Sequence[datetime] = (),
    band: Band | None = None,
) -> None:
    """Write the curve as a PNG; PlotError says what to install, or why the file cannot be written."""
    _save(path, lambda figure: _draw(figure, curve, title, subtitle, marks, band))


def save_charts(charts: Sequence[Chart], path: Path, *, title: str, subtitle: str) -> None:
    """Write charts as a PNG, one above the other; PlotError as in `save_png`."""
    _save(path, lambda figure: _draw_charts(figure, charts, title, subtitle))


def _save(path: Path, draw: Callable[[Figure], None]) -> None:
    if find_spec("matplotlib") is None:
        raise PlotError(f"a PNG needs matplotlib; install it: {how_to_install('plots')}")
    # Not pyplot, which looks for a display and keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    try:
        with warnings.catch_warnings():
            # If no installed font has a title's script, matplotlib would warn about each character.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(path, format="png")
    except OSError as error:
        raise PlotError(f"cannot write {path}: {error.strerror or error}") from error


def _draw(
    figure: Figure, curve: Curve, title: str, subtitle: str, marks: Sequence[datetime], band: Band | None
) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    at = [datetime.fromtimestamp(instant, UTC) for instant in curve.at_s.tolist()]
    upper.plot(at, curve.views, color="#1f5fa8", linewidth=1.6, marker=".", markersize=_marker_size(len(at)))
    upper.set_ylabel("views")
    note = f"Velocity is {ATTRIBUTION}. Times are UTC."
    if band is not None:
        _draw_band(upper, band)
        note = f"Velocity and forecast are {ATTRIBUTION}. Times are UTC."
    when, velocity = _as_columns(curve.steps())
    lower.fill_between(when, velocity, color="#c8553d", alpha=0.35, linewidth=0)
    lower.plot(when, velocity, color="#c8553d", linewidth=1.4)
    lower.set_ylabel("views per hour")
    for axes in (upper, lower):
        _style(axes, marks)
    _date_axis(lower, at)
    _caption(figure, upper, title, subtitle, note)


def _draw_band(axes: Axes, band: Band) -> None:
    at: Any = [datetime.fromtimestamp(instant, UTC) for instant in band.at_s.tolist()]
    if not np.isnan(band.low + band.high).any():
        axes.fill_between(
            at, band.low, band.high, color="#1f5fa8", alpha=0.18, linewidth=0, label="80 % interval"
        )
    axes.plot(at, band.median, color="#1f5fa8", linewidth=1.3, linestyle="--", label="forecast")
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def _draw_charts(figure: Figure, charts: Sequence[Chart], title: str, subtitle: str) -> None:
    every = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axes, chart, colour in zip(every, charts, cycle(_PICTURE_COLOURS), strict=False):
        at = [datetime.fromtimestamp(instant, UTC) for instant in chart.at_s.tolist()]
        axes.plot(at, chart.values, color=colour, linewidth=1.6, marker=".", markersize=_marker_size(len(at)))
        room = _LABEL_CELLS / (len(charts) * max(len(chart.title), 1))
        axes.set_ylabel(chart.title, parse_math=False, fontsize=min(10.0, 10.0 * room))
        _style(axes, chart.marks)
    _date_axis(every[-1], [datetime.fromtimestamp(s, UTC) for s in _span(charts[0].at_s)])
    _caption(figure, every[0], title, subtitle, "Times are UTC.")


def _caption(figure: Figure, upper: Axes, title: str, subtitle: str, note: str) -> None:
    # Titles may contain dollar signs, which would start a formula.
    plain: dict[str, Any] = {"parse_math": False, "fontfamily": _families()}
    figure.suptitle(_shorten(title), x=0.01, ha="left", fontsize=13, fontweight="bold", **plain)
    upper.set_title(subtitle, loc="left", fontsize=9, color="#555555", **plain)
    figure.supxlabel(note, x=0.99, ha="right", fontsize=8, color="#777777")


def _shorten(title: str) -> str:
    """A title, cut to fit in one line."""
    from rich.cells import cell_len, set_cell_size

    return title if cell_len(title) <= _TITLE_CELLS else f"{set_cell_size(title, _TITLE_CELLS - 1).rstrip()}…"


def _as_columns(steps: Iterable[tuple[float, float, float]]) -> tuple[list[datetime], list[float]]:
    """The ends of all steps as a series of points, with a gap wherever two steps do not touch."""
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
    """The default font, then installed fonts for scripts that it lacks."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(family for family in _WORLD_FONTS if family in installed)]


def _marker_size(samples: int) -> float:
    return 5.0 if samples <= 60 else 2.5 if samples <= 300 else 0.0


def _style(axes: Axes, marks: Sequence[datetime]) -> None:
    from matplotlib.ticker import FuncFormatter

    def label(value: float, _: Any) -> str:
        return compact(value)

    axes.yaxis.set_major_formatter(FuncFormatter(label))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for mark in marks:
        axes.axvline(mark, color="#8a6d00", linewidth=1, linestyle="--")  # type: ignore[arg-type]  # accepts dates too


def _date_axis(axes: Axes, at: Sequence[datetime]) -> None:
    from matplotlib import dates

    if at[0] == at[-1]:
        axes.set_xlim(at[0] - timedelta(minutes=30), at[0] + timedelta(minutes=30))  # type: ignore[arg-type]
    locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]

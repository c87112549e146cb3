"""Curves as text and as pictures, sparklines, numbers in few characters."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.commands import plots
from maia.commands.plots import (
    Chart,
    PlotError,
    bars_of,
    chart_plot,
    compact,
    save_charts,
    save_png,
    terminal_plot,
)
from maia.views.curves import Band, Curve, rates

START = datetime(2026, 11, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def curve_of(*views: int | None, every: timedelta = HOUR) -> Curve:
    """Samples at even steps, with the velocity of each step between known counts."""
    at = [START + every * number for number in range(len(views))]
    velocity: list[float | None] = []
    known: tuple[datetime, int] | None = None
    for instant, count in zip(at, views, strict=True):
        measured = count is not None and known is not None
        velocity.append((count - known[1]) / ((instant - known[0]) / HOUR) if measured else None)  # type: ignore[index,operator]
        known = (instant, count) if count is not None else known
    return Curve.of(at, views, velocity)


class TestCompact:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"), (0.0432, "0.04"), (7, "7"), (9.996, "10"), (99.96, "100"), (950, "950"), (999.4, "999"),
            (999.6, "1k"), (1200, "1.2k"), (12345, "12.3k"), (999_499, "999k"), (999_999, "1M"),
            (3_400_000, "3.4M"), (1.2e9, "1.2B"), (7e12, "7T"), (9.99e14, "999T"), (1e15, "1e+15"),
            (-3e38, "−3e+38"), (-1500, "−1.5k"), (math.nan, "–"),
        ],
    )  # fmt: skip
    def test_says_much_in_little(self, value: float, text: str) -> None:
        assert compact(value) == text

    @given(st.floats(min_value=0.01, max_value=1e14))
    def test_is_true_to_three_figures(self, value: float) -> None:
        text = compact(value)
        assert len(text) <= 6
        unit = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1)
        told = float(text.rstrip("kMBT")) * unit
        assert told == pytest.approx(value, rel=5.1e-3, abs=5.1e-3)


class TestGrowth:
    def test_is_the_mean_of_what_was_seen(self) -> None:
        curve = curve_of(0, 100, 300)
        begin, end = START.timestamp(), (START + 2 * HOUR).timestamp()
        assert rates(curve, begin, end, 2).tolist() == [100, 200]
        assert rates(curve, begin, end, 1).tolist() == [150]

    def test_is_unknown_where_nothing_was_measured(self) -> None:
        begin, end = (START - 2 * HOUR).timestamp(), (START + 4 * HOUR).timestamp()
        told = rates(curve_of(0, 60, None, None), begin, end, 6).tolist()
        assert [None if math.isnan(rate) else rate for rate in told] == [None, None, 60, None, None, None]

    def test_a_hidden_count_is_bridged_by_the_next_known_one(self) -> None:
        begin, end = START.timestamp(), (START + 2 * HOUR).timestamp()
        assert rates(curve_of(0, None, 60), begin, end, 2).tolist() == [30, 30]

    @given(
        st.lists(st.integers(0, 10**9), min_size=2, max_size=30),
        st.integers(1, 40),
        st.integers(1, 5000),
    )
    def test_adds_up_to_what_was_gained(self, views: list[int], parts: int, minutes: int) -> None:
        curve = curve_of(*views, every=timedelta(minutes=minutes))
        begin, end = float(curve.at_s[0]), float(curve.at_s[-1])
        gained = rates(curve, begin, end, parts).sum() * (end - begin) / 3600 / parts
        assert gained == pytest.approx(
            views[-1] - views[0], rel=1e-6, abs=1e-3 * max(views, default=1) + 1e-6
        )


class TestBars:
    def test_grow_with_the_values(self) -> None:
        assert bars_of([0, 1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇██"

    def test_leave_the_unknown_blank_and_losses_low(self) -> None:
        assert bars_of([None, -5, 10]) == " ▁█"

    def test_of_nothing(self) -> None:
        assert bars_of([]) == ""
        assert bars_of([None, None]) == "  "
        assert bars_of([0, 0]) == "▁▁"


def dots(drawn: list[str]) -> int:
    return sum((ord(cell) - 0x2800).bit_count() for line in drawn for cell in line)


class TestTerminalPlot:
    def test_fits_the_columns(self) -> None:
        plot = terminal_plot(curve_of(*range(0, 2_000_000, 50_000)), 72)
        for panel in plot.panels:
            assert {len(line) + plot.margin + 1 for line in panel.drawn} <= set(range(30, 73))
            assert len(panel.labels) == len(panel.drawn)
        assert len(plot.axis[0]) + plot.margin + 1 <= 72
        assert len(plot.axis[1]) <= len(plot.axis[0])

    def test_labels_are_round_and_enclose_the_curve(self) -> None:
        plot = terminal_plot(curve_of(130_412, 190_000, 288_311), 80)
        labels = [label for label in plot.panels[0].labels if label]
        assert labels == ["300k", "250k", "200k", "150k", "100k"] or labels == ["300k", "200k", "100k"]
        assert plot.panels[1].labels[-1] == "0"

    def test_a_rising_curve_rises(self) -> None:
        drawn = terminal_plot(curve_of(0, 100, 200, 300, 400), 60).panels[0].drawn
        highest = [
            min(row for row, line in enumerate(drawn) if line[column] != "\u2800") for column in (0, -1)
        ]
        assert highest[0] == len(drawn) - 1
        assert highest[1] == 0

    def test_hidden_counts_leave_a_gap(self) -> None:
        drawn = terminal_plot(curve_of(5, 10, 15, None, None, None, 20, 25, 30), 60).panels[0].drawn
        columns = ["".join(line[place] for line in drawn) for place in range(len(drawn[0]))]
        blank = [set(column) == {"\u2800"} for column in columns]
        middle = len(blank) // 2
        assert blank[middle]
        assert not blank[2]
        assert not blank[-3]

    def test_velocity_stands_on_its_steps(self) -> None:
        drawn = terminal_plot(curve_of(0, 10, 1010, 1020), 63).panels[1].drawn
        top = drawn[0]
        third = len(top) // 3
        lit = [place for place, cell in enumerate(top) if cell != "\u2800"]
        assert lit
        assert third - 2 <= min(lit) <= max(lit) <= 2 * third + 2

    def test_marks_stand_on_the_axis(self) -> None:
        curve = curve_of(*range(25))
        axis, _ = terminal_plot(curve, 80, [START + 12 * HOUR, START - HOUR, START + 99 * HOUR]).axis
        assert axis.count("▲") == 1
        assert abs(axis.index("▲") - len(axis) // 2) <= 1

    @pytest.mark.parametrize(
        ("span", "labels"),
        [
            (timedelta(minutes=50), "Nov 2 12:15"),
            (timedelta(hours=30), "Nov 3 00:00"),
            (timedelta(days=9), "Nov 7"),
            (timedelta(days=300), "Jan 14"),
        ],
    )
    def test_instants_are_round(self, span: timedelta, labels: str) -> None:
        curve = curve_of(1, 2, 3, every=span / 2)
        assert labels in terminal_plot(curve, 90).axis[1]

    def test_one_sample_is_a_dot(self) -> None:
        plot = terminal_plot(curve_of(42), 60)
        assert dots(plot.panels[0].drawn) == 1
        assert dots(plot.panels[1].drawn) == 0

    def test_all_hidden_is_empty(self) -> None:
        plot = terminal_plot(curve_of(None, None), 60)
        assert [dots(panel.drawn) for panel in plot.panels] == [0, 0]

    @given(
        st.lists(st.one_of(st.none(), st.integers(0, 2**62)), min_size=1, max_size=40),
        st.integers(1, 300),
        st.integers(1, 10**7),
    )
    def test_draws_whatever_was_sampled(self, views: list[int | None], columns: int, seconds: int) -> None:
        plot = terminal_plot(curve_of(*views, every=timedelta(seconds=seconds)), columns)
        widths = {len(line) for panel in plot.panels for line in panel.drawn} | {len(plot.axis[0])}
        assert len(widths) == 1

    def test_rows_of_a_scale_lie_in_order(self) -> None:
        labels = [label for label in terminal_plot(curve_of(-0, 7, 3, 12), 60).panels[1].labels if label]
        values = [float(label.replace("−", "-").rstrip("k")) for label in labels]
        assert all(upper > lower for upper, lower in pairwise(values))


def band_after(hours: int, views: int, low: float | None, median: float, high: float | None) -> Band:
    """A forecast for the day after a curve's last count."""
    last = START + hours * HOUR
    return Band.of([last, last + 24 * HOUR], [views, low], [views, median], [views, high])


class TestForecast:
    def test_continues_the_curve_up_to_its_last_instant(self) -> None:
        curve = curve_of(*(100 * number for number in range(25)))
        plain, continued = (
            terminal_plot(curve, 80, band=band) for band in (None, band_after(24, 2400, 4000, 4800, 5600))
        )
        views, velocity = continued.panels
        assert views.title == "views; dotted: the forecast and its 80 % interval"
        assert (views.labels[0], plain.panels[0].labels[0]) == ("6k", "3k")
        # The curve has the left half, three dotted lines have the right one.
        right = [line[len(line) // 2 + 4 :] for line in views.drawn]
        assert sum(any(mark != "\u2800" for mark in line) for line in right) >= 4
        assert not any(mark != "\u2800" for line in velocity.drawn for mark in line[len(line) // 2 + 4 :])
        assert continued.axis[1] != plain.axis[1]

    def test_without_an_interval_is_one_line(self) -> None:
        curve = curve_of(0, 100, 200)
        dots = [
            sum(
                (ord(mark) - 0x2800).bit_count()
                for line in plot.panels[0].drawn
                for mark in line
                if mark != " "
            )
            for plot in (
                terminal_plot(curve, 80, band=band_after(2, 200, None, 1000, None)),
                terminal_plot(curve, 80, band=band_after(2, 200, 1000, 1000, 1000)),
                terminal_plot(curve, 80, band=band_after(2, 200, 500, 1000, 1000)),
            )
        ]
        assert dots[0] == dots[1] < dots[2]

    def test_is_in_the_picture(self, tmp_path: Path) -> None:
        curve = curve_of(0, 100, 200)
        pictures = []
        for number, band in enumerate(
            (None, band_after(2, 200, None, 900, None), band_after(2, 200, 500, 900, 1500))
        ):
            save_png(curve, tmp_path / f"{number}.png", title="a", subtitle="b", band=band)
            pictures.append((tmp_path / f"{number}.png").read_bytes())
        assert len(set(pictures)) == 3


class TestPicture:
    def test_is_a_png_of_both_charts(self, tmp_path: Path) -> None:
        path = tmp_path / "curve.png"
        curve = curve_of(*(round(900 * number**0.7) for number in range(60)))
        save_png(curve, path, title="A $5 title", subtitle="abc", marks=[START + 5 * HOUR])
        from matplotlib.image import imread

        picture: Any = imread(path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert picture.shape[:2] == (930, 1500)
        blue = np.array([0x1F, 0x5F, 0xA8]) / 255
        upper, lower = picture[: 930 * 3 // 5, :, :3], picture[930 * 3 // 5 :, :, :3]
        assert (np.abs(upper - blue).max(axis=2) < 0.02).sum() > 1000
        assert (np.abs(lower - blue).max(axis=2) < 0.02).sum() == 0

    @pytest.mark.parametrize("title", ["서울의 아침", "東京の夜", "$$ \\frac{1}{2} $", ""])
    def test_takes_any_title(self, tmp_path: Path, title: str) -> None:
        path = tmp_path / "curve.png"
        save_png(curve_of(1, None, 3), path, title=title, subtitle="")
        assert path.stat().st_size > 10_000

    def test_a_long_title_ends_within_the_picture(self, tmp_path: Path) -> None:
        from matplotlib.image import imread

        save_png(curve_of(1, 2), tmp_path / "curve.png", title="A long title, " * 20, subtitle="")
        picture: Any = imread(tmp_path / "curve.png")
        assert (picture[:40, -30:, :3] == 1).all()
        assert (picture[:40, 300:600, :3] < 0.5).any()

    def test_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plots, "find_spec", lambda name: None)
        with pytest.raises(PlotError, match=r"pip install -e '.*\[plots\]'|pip install 'matplotlib"):
            save_png(curve_of(1, 2), tmp_path / "curve.png", title="", subtitle="")

    def test_says_why_a_file_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(PlotError, match=r"cannot write .*absent.*: No such file"):
            save_png(curve_of(1, 2), tmp_path / "absent" / "curve.png", title="", subtitle="")


class TestCharts:
    """Series without a velocity, such as a channel's subscribers and views."""

    AT: ClassVar = [START + timedelta(days=day) for day in range(10)]

    def charts(self, *subscribers: int | None) -> list[Chart]:
        views = [1000 * number**2 for number in range(len(subscribers))]
        at = self.AT[: len(subscribers)]
        return [Chart.of("subscribers", at, subscribers), Chart.of("views", at, views)]

    @pytest.mark.parametrize("columns", [40, 79, 139])
    def test_stand_one_above_the_other_over_one_time_axis(self, columns: int) -> None:
        plot = chart_plot(self.charts(*range(10, 20)), columns)
        assert [panel.title for panel in plot.panels] == ["subscribers", "views"]
        widths = {len(line) for panel in plot.panels for line in panel.drawn}
        assert widths == {len(plot.axis[0])} == {columns - plot.margin - 2}
        assert all(dots(panel.drawn) > 10 for panel in plot.panels)

    def test_hidden_counts_leave_a_gap(self) -> None:
        whole, gap = (
            dots(chart_plot(self.charts(*counts), 79).panels[0].drawn)
            for counts in ((1, 2, 3, 4, 5, 6), (1, 2, None, None, 5, 6))
        )
        assert 0 < gap < whole
        assert dots(chart_plot(self.charts(None, None), 79).panels[0].drawn) == 0

    def test_one_sample_is_a_dot(self) -> None:
        assert [dots(panel.drawn) for panel in chart_plot(self.charts(7), 79).panels] == [1, 1]

    def test_are_a_picture_in_two_colours(self, tmp_path: Path) -> None:
        from matplotlib.image import imread

        path = tmp_path / "channel.png"
        save_charts(self.charts(*range(10, 20)), path, title="A $5 title", subtitle="abc")
        picture: Any = imread(path)
        upper, lower = picture[:465, :, :3], picture[465:, :, :3]
        for half, colour in ((upper, (0x1F, 0x5F, 0xA8)), (lower, (0xC8, 0x55, 0x3D))):
            assert (np.abs(half - np.array(colour) / 255).max(axis=2) < 0.02).sum() > 1000
        with pytest.raises(PlotError, match="cannot write"):
            save_charts(self.charts(1, 2), tmp_path / "absent" / "channel.png", title="", subtitle="")

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from maia.views.figures import change
from maia.views.svg import Plots, Series

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=30
)
VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1e12, allow_nan=False)), min_size=7, max_size=7).map(
    tuple
)
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
SVG_ELEMENTS = {"svg", "title", "desc", "line", "text", "rect", "polyline", "circle", "path"}
BAR = re.compile(r"M([\d.]+) ([\d.]+)v-([\d.]+)h([\d.]+)v\3z")


def parsed(drawn: str) -> ET.Element:
    return ET.fromstring(drawn)


@settings(max_examples=40)
@given(NAMES, st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_any_series_is_drawn_within_the_plot_and_by_known_elements(
    title: str, columns: list[tuple[str, tuple[float | None, ...]]]
) -> None:
    plots = Plots()
    series = [Series(name, values) for name, values in columns]
    for drawn in (
        plots.bars(title, DAYS, series, "videos"),
        plots.lines(title, DAYS, series, "videos"),
        *(plots.sparkline(title, each.values) for each in series),
    ):
        root = parsed(drawn)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert {each.tag for each in root.iter()} <= SVG_ELEMENTS
        assert root.find("title").text in (title, None)  # type: ignore[union-attr]
        for each in root.iter("rect"):
            left, top = float(each.attrib["x"]), float(each.attrib["y"])
            assert left >= -0.1
            assert left + float(each.attrib["width"]) <= width + 0.1
            assert top >= -0.6
            assert top + float(each.attrib["height"]) <= height + 0.6
        for each in root.iter("path"):
            assert BAR.sub("", each.attrib["d"]) == ""
            for left, top, high, wide in (map(float, bar) for bar in BAR.findall(each.attrib["d"])):
                assert left + wide <= width + 0.1
                assert 0 < high <= top + 0.1 <= height + 0.2
        for each in root.iter("circle"):
            assert 0 <= float(each.attrib["cy"]) <= height


def test_plots_of_a_page_have_ids_of_their_own_and_say_what_they_show() -> None:
    plots = Plots()
    drawn = [
        plots.sparkline("one", (1, 2, 3)),
        plots.lines("two", DAYS, [Series("hot", (3.0,) * 7)], "videos"),
    ]
    ids = [each.attrib["id"] for svg in drawn for each in parsed(svg).iter() if "id" in each.attrib]
    assert len(ids) == len(set(ids)) == 4
    for svg in drawn:
        root = parsed(svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-labelledby"].split() == [root[0].attrib["id"], root[1].attrib["id"]]
    assert parsed(drawn[1]).find("desc").text == "hot: at most 3 videos (Mon)"  # type: ignore[union-attr]


def test_a_sparkline_has_a_bar_for_each_value_that_is_known() -> None:
    [path] = parsed(Plots().sparkline("spark", (1.0, None, 4.0, 2.0))).iter("path")
    bars = [(float(bar[0]), float(bar[2])) for bar in BAR.findall(path.attrib["d"])]
    assert bars == [(0, 7), (60, 28), (90, 14)]
    assert not list(parsed(Plots().sparkline("spark", (None, None))).iter("path"))


def test_a_gap_ends_a_line() -> None:
    values = (1.0, 2.0, None, 3.0, 4.0, None, 5.0)
    root = parsed(Plots().lines("gaps", DAYS, [Series("a", values)], "videos"))
    assert [len(each.attrib["points"].split()) for each in root.iter("polyline")] == [2, 2, 1]


def test_bars_stand_on_each_other() -> None:
    series = [Series("a", (10.0,) + (0.0,) * 6), Series("b", (30.0,) + (0.0,) * 6)]
    low, high = list(parsed(Plots().bars("stack", DAYS, series, "videos")).iter("rect"))
    assert float(high.attrib["y"]) + float(high.attrib["height"]) == float(low.attrib["y"])
    assert round(float(high.attrib["height"]) / float(low.attrib["height"])) == 3


def test_a_change_is_told_as_people_would() -> None:
    weeks = ((112, 100), (90, 100), (100, 100), (5, 0), (2000, 100))
    assert [change(*each) for each in weeks] == ["+12 %", "−10 %", "±0 %", None, "×20"]

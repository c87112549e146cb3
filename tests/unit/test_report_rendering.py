from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import TypeAdapter

from maia.maintainer.rendering import as_html, as_markdown, summary_of
from maia.views.report import (
    ActionOfWeek,
    AgentOfWeek,
    ArmOfWeek,
    ComponentHealth,
    DutyOfWeek,
    ForecastOfWeek,
    HostFigures,
    IncidentOfWeek,
    LearntOfWeek,
    LearntPattern,
    OpenSuggestion,
    QuotaOfWeek,
    Report,
    Riser,
    Totals,
    ZoneOfWeek,
)
from tests.report_week import BEGIN, END, HOSTILE, WEEK

ALLOWED_ELEMENTS = frozenset(
    {
        "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "h1", "h2", "h3", "p",
        "ul", "li", "b", "i", "strong", "span", "br", "a", "bdi", "code", "table", "caption", "thead",
        "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "desc", "line", "text", "rect", "polyline",
        "path", "circle", "div",
    }
)  # fmt: skip
VOID = {"meta", "br"}
INLINE = {"text", "text_special", "softbreak"}
"""Pieces that a text may be cut into."""
TEXTS = st.text(max_size=60) | st.sampled_from(HOSTILE)


class Page(HTMLParser):
    """A page's elements with their attributes and the text of each; fails on what is not nested well."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def full(name: str = "A title", **changes: Any) -> Report:
    """A report with something in every section; every text of others is `name`."""
    pattern = LearntPattern("0" * 32, "failure_mode", name, 0.9, 12)
    return Report(
        week=str(WEEK), begins_at=BEGIN, ends_at=END, made_at=END + timedelta(hours=9),
        time_zone="Europe/Berlin", is_complete=True, attribution="Computed by Pleiades.", days=WEEK.days,
        totals=Totals(100, 50, 20, 5, 900, 3, 700, 42), before=Totals(90, 40, 20, 6, 800, 2, 600, 40),
        arms=tuple(
            ArmOfWeek(f"{name}{n}", 7, 7.5, 20, 10, 4, 3, 1, None if n else 0.1, (n,) * 7, (1,) * 7, (0,) * 7)
            for n in range(8)
        ),
        risers=(
            Riser(1, "dQw4w9WgXcQ", name, "UC-1", name, BEGIN, "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
                  12_345, 10_000, 59.5, 300.0, (None, 1.0, 5.0, None) * 7),
        ),
        quota=(
            QuotaOfWeek("search", "hunting", 690, 98, (98,) * 7, 1.0, name),
            QuotaOfWeek("stats", "tracking", 690, None, (98,) * 7, None, None),
        ),
        zones=(ZoneOfWeek("hot", 12.5, 40, (1.0, None, 3.0, 4.0, 5.0, 6.0, 7.0), (1, None, 3, 4, 5, 6, 7)),),
        agents=(AgentOfWeek("tracker", 42, 40, 2, 21.5, {"done": 40, name: 2}),),
        hosts=(HostFigures(name, 40.0, 90.0, 60.0, 61.0, 57.0, 130 * 10**9), HostFigures("b", *[None] * 6)),
        health=(ComponentHealth("database", 0.98, 0.5, (1.0, None, 0.5, 1.0, 1.0, 1.0, 1.0)),),
        incidents=(
            IncidentOfWeek("host.disk:a", "error", name, BEGIN, None, 5000.0, acknowledged=True),
            IncidentOfWeek("host.cpu:a", "warning", name, BEGIN, END, 50.0),
        ),
        learnt=LearntOfWeek(20, 1, 1, (pattern,), (pattern,), (name,)),
        actions=(
            ActionOfWeek(BEGIN, "backup", name, "applied", name),
            ActionOfWeek(BEGIN, "vacuum", "t", "failed", name),
        ),
        more_actions=3,
        duties=(DutyOfWeek("backup", 7, 1, name),),
        suggestions=(
            OpenSuggestion(7, "storage", name, "maia backup create", BEGIN, name),
            OpenSuggestion(8, "quota", name, name or None, BEGIN, None),
        ),
        forecasts=(ForecastOfWeek("24 h", 1000, 0.123, -0.05, 0.81),),
        **changes,
    )  # fmt: skip


def empty() -> Report:
    return Report(
        week=str(WEEK), begins_at=BEGIN, ends_at=END, made_at=END, time_zone="UTC", is_complete=True,
        attribution="Computed by Pleiades.", days=WEEK.days, totals=Totals(), before=Totals(),
    )  # fmt: skip


def shape(html: str) -> Counter[tuple[str, tuple[str, ...]]]:
    """Which elements with which attributes a page has, whatever they say."""
    return Counter((tag, tuple(sorted(attributes))) for tag, attributes in Page(html).elements)


# HTML


@settings(max_examples=25)
@given(TEXTS)
def test_no_text_of_others_changes_what_a_page_is_made_of(name: str) -> None:
    given_name = name or "x"
    assert shape(as_html(full(given_name))) == shape(as_html(full("A title")))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_page_runs_and_loads_nothing(name: str) -> None:
    page = Page(as_html(full(name)))
    assert {tag for tag, _ in page.elements} <= ALLOWED_ELEMENTS
    for tag, attributes in page.elements:
        assert not [
            each for each in attributes if each.startswith("on") or each in ("src", "srcset", "style")
        ]
        if "href" in attributes:
            assert tag == "a"
            assert re.fullmatch(r"https://www\.youtube\.com/watch\?v=[\w%-]+", attributes["href"] or "")
    [policy] = [each for each in page.named("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy["content"] or "")
    assert "url(" not in as_html(full(name))
    assert "@import" not in as_html(full(name))


def test_a_page_shows_titles_as_they_are_but_for_control_characters() -> None:
    for name in HOSTILE:
        text = "".join(Page(as_html(full(name))).text)
        if name.isprintable():
            assert name in text
    text = "".join(Page(as_html(full("\x1b[31mred \u202egnp.exe\x00"))).text)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "␛[31mred gnp.exe␀" in text


def test_a_page_can_be_read_by_a_screen_reader() -> None:
    page = Page(as_html(full()))
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == len(page.named("main")) == 1
    assert all(each.get("scope") in ("col", "row") for each in page.named("th"))
    for svg in page.named("svg"):
        assert svg["role"] == "img"
        assert svg["aria-labelledby"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(later <= before + 1 for before, later in pairwise(levels))
    [viewport] = [each for each in page.named("meta") if each.get("name") == "viewport"]
    assert viewport["content"] == "width=device-width, initial-scale=1"


def test_colours_have_enough_contrast_in_light_and_dark() -> None:
    style = re.search(r"<style>(.*?)</style>", as_html(empty()), re.DOTALL)
    assert style is not None
    light, dark = re.findall(r":root\{(--bg.*?)\}", style[1], re.DOTALL)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", theme))
        for ground in ("bg", "card"):
            for ink in ("ink", "soft", "link", "good", "bad", "warn"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            for shape_colour in ("c0", "c1", "c2", "c3", "c4", "c5"):
                assert contrast(colours[shape_colour], colours["bg"]) >= 3, shape_colour


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Markdown


def unescaped(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


@settings(max_examples=25)
@given(TEXTS)
def test_no_text_of_others_changes_the_form_of_markdown(name: str) -> None:
    plain = as_markdown(full("A title"))
    told = as_markdown(full(name or "x"))
    assert len(told.splitlines()) == len(plain.splitlines())
    for line, usual in zip(told.splitlines(), plain.splitlines(), strict=True):
        # Bars that are not escaped are what cells are made of.
        assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", usual))
        assert line[:2] == usual[:2]


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_links_nowhere_but_to_videos(name: str) -> None:
    told = as_markdown(full(name))
    without_code = re.sub(r"(`+).*?[^`]\1(?!`)", "", told)
    assert set(re.findall(r"(?<!\\)\]\(([^)]*)\)", without_code)) == {
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    }
    assert not re.search(r"(?<!\\)<", without_code)
    assert "@everyone" not in unescaped(without_code)


def parsed(markdown: str) -> list[Token]:
    """The tokens of Markdown as GitHub reads it, with raw HTML, and the tokens inside."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    return [each for token in tokens for each in (token, *(token.children or ()))]


@settings(max_examples=25)
@given(TEXTS)
def test_a_reader_of_markdown_finds_the_same_whatever_titles_say(name: str) -> None:
    usual, tokens = parsed(as_markdown(full("A title"))), parsed(as_markdown(full(name.strip() or "x")))
    assert not [each for each in tokens if each.type.startswith(("html", "image"))]
    assert {each.attrs["href"] for each in tokens if each.type == "link_open"} == {
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    }
    assert [each.type for each in tokens if each.type not in INLINE] == [
        each.type for each in usual if each.type not in INLINE
    ]


def test_a_reader_of_markdown_sees_titles_as_they_are() -> None:
    for name in (each for each in HOSTILE if each.isprintable()):
        shown = [
            "".join(leaf.content for leaf in each.children or ()) for each in parsed(as_markdown(full(name)))
        ]
        assert any(name in text.replace("\u200b", "") for text in shown), name


def test_every_table_of_markdown_has_as_many_cells_in_each_row() -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", as_markdown(full()), re.MULTILINE)
    assert len(tables) >= 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert re.fullmatch(r"(\|:?-+:?)+\|", table.splitlines()[1])


def test_a_command_is_code_whatever_it_holds() -> None:
    held = full()
    for command in ("a`b``c", "`", "x | y", "``` ``"):
        suggested = OpenSuggestion(1, "quota", "t", command, BEGIN, None)
        told = as_markdown(replace(held, suggestions=(suggested,)))
        fence, inside = re.search(r"^  (`+)(.*?)(?<!`)\1(?!`)$", told, re.MULTILINE).groups()  # type: ignore[union-attr]
        assert inside.strip().replace("\\|", "|") == command
        assert fence not in inside


# Both, and the summary


def test_an_empty_week_says_so_and_is_short() -> None:
    html, markdown = as_html(empty()), as_markdown(empty())
    assert "A quiet week" in html
    assert "A quiet week" in markdown
    assert len(markdown) < 1_000
    assert Page(html).named("svg") == Page(html).named("table") == []
    assert summary_of(empty()) == "A quiet week: nothing was found, sampled or changed."


def test_a_week_that_is_not_over_says_so() -> None:
    now = replace(full(), is_complete=False)
    assert "The week is not over yet" in as_html(now)
    assert "The week is not over yet" in as_markdown(now)


def test_times_are_in_the_zone_of_the_report() -> None:
    assert "Mon 9 Nov 10:00" in as_html(full())
    assert "Mon 9 Nov 10:00" in as_markdown(full())


def test_every_section_is_in_both() -> None:
    html, markdown = as_html(full()), as_markdown(full())
    for heading in ("Discoveries", "Top risers", "Quota", "Lag", "Health", "Incidents", "Learnt", "Forecasts",
                    "What the maintainer did", "Suggestions"):  # fmt: skip
        assert f">{heading}</h2>" in html
        assert f"\n## {heading}\n" in markdown
    for told in (html, markdown):
        assert "computed by Pleiades, not by YouTube" in told
        assert "maia backup create" in told
        assert "not over" in told


def test_the_summary_has_the_most_telling_figures() -> None:
    assert summary_of(full("Cats")).splitlines() == [
        "50 new videos (+25 %).",
        "20 found within a day of publication; 5 of them grew fast.",
        "900 samples (+12 %).",
        "3 breakouts.",
        "Top riser: Cats, +10k views.",
        "2 incidents, 1 of them not over.",
        "Cycles that failed: 2 of the tracker.",
        "2 suggestions to look at: maia comments.",
    ]


def test_names_can_be_taken_out_and_figures_stay() -> None:
    named = full("Cats")
    plainer = named.without_names()
    assert named.has_names
    assert not plainer.has_names
    assert plainer.risers[0].gained == named.risers[0].gained
    assert "Cats" not in as_html(replace(plainer, arms=(), quota=(), suggestions=(), actions=(), duties=(),
                                         incidents=(), agents=(), hosts=(), learnt=None))  # fmt: skip
    assert named.without_names(["other"]) == named


@settings(max_examples=25)
@given(TEXTS)
def test_a_report_survives_its_json(name: str) -> None:
    report = full(name)
    adapter = TypeAdapter(Report)
    assert adapter.validate_python(report.as_dict()) == report
    assert {each.name for each in fields(Report)} == report.as_dict().keys()


def test_instants_are_utc_in_json() -> None:
    assert full().as_dict()["made_at"] == "2026-11-09T09:00:00Z"
    assert full().as_dict()["begins_at"] == "2026-11-02T00:00:00Z"

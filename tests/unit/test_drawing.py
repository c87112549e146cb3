"""Drawings of a part of the graph: links that lead on, text of strangers as text, labels that fit."""

from __future__ import annotations

from urllib.parse import quote
from xml.etree import ElementTree as ET

from maia.graph.layout import Frame
from maia.views.drawing import Dot, Line, drawn, symbol

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "\"'><script>alert(1)</script>&\u202egnp\x00"


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(str(markup).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def dot(type_: str, label: str, address: str = "/graph/x") -> Dot:
    return Dot(type_, label, address, 0.5, f"{type_}: {label}")


def test_atoms_lead_on_but_the_middle_one_does_not() -> None:
    dots = [dot("topic", "lofi"), dot("tag", "chill", "/graph/tag%3Achill"), dot("video", "v", "/graph/v")]
    svg = parsed(drawn("g", "Around lofi", "2 atoms", dots, [Line(0, 1, 1.0, "goes with")], Frame(400, 300)))
    assert [each.get("href") for each in svg.iter(f"{SVG}a")] == ["/graph/tag%3Achill", "/graph/v"]
    assert [each.text for each in svg.iter(f"{SVG}text")] == ["lofi", "chill", "v"]
    assert svg.get("aria-labelledby") == svg.find(f"{SVG}title").get("id")  # type: ignore[union-attr]
    [line] = svg.iter(f"{SVG}line")
    assert (line.get("class"), line.findtext(f"{SVG}title")) == ("near", "goes with")


def test_the_heavier_a_link_the_wider_it_is_and_the_later_it_is_drawn() -> None:
    dots = [dot("tag", str(nth)) for nth in range(3)]
    lines = [Line(0, 1, 0.9, "heavy"), Line(1, 2, 0.1, "light")]
    svg = parsed(drawn("g", "t", "d", dots, lines, Frame(400, 300)))
    light, heavy = svg.iter(f"{SVG}line")
    assert [each.findtext(f"{SVG}title") for each in (light, heavy)] == ["light", "heavy"]
    assert float(light.get("stroke-width", 0)) < float(heavy.get("stroke-width", 0))


def test_what_strangers_wrote_stays_text() -> None:
    dots = [dot("tag", HOSTILE), dot("video", HOSTILE, quote(HOSTILE))]
    markup = drawn("g", HOSTILE, HOSTILE, dots, [Line(0, 1, 1.0, HOSTILE)], Frame(400, 300))
    assert "<script" not in markup
    svg = parsed(markup)
    assert {each.tag.removeprefix(SVG) for each in svg.iter()} <= {
        "svg", "title", "desc", "g", "line", "a", "circle", "polygon", "text",
    }  # fmt: skip
    assert "\u202e" not in markup


def test_long_labels_are_cut_and_wide_letters_count_twice() -> None:
    dots = [dot("tag", "m"), dot("tag", "a" * 100), dot("tag", "音" * 100), dot("tag", "e\u0301" * 10)]
    svg = parsed(drawn("g", "t", "d", dots, [], Frame(900, 600)))
    _, latin, wide, combined = [each.text or "" for each in svg.iter(f"{SVG}text")]
    assert latin.endswith("…")
    assert wide.endswith("…")
    assert len(wide) < 0.7 * len(latin)
    assert combined == "e\u0301" * 10


def test_types_differ_by_colour_or_shape() -> None:
    types = ("video", "channel", "tag", "topic", "category", "pattern", "agent", "concept")
    assert len({symbol(each) for each in types}) == len(types)
    assert symbol("of_somebody") == symbol("concept")

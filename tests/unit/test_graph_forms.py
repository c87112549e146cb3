"""Text forms of atoms: what is written reads back the same, and errors point at the place."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.queries import clean_text
from maia.graphing.forms import (
    Form,
    FormError,
    HandleForm,
    LinkForm,
    NodeForm,
    canonical,
    category_title,
    parse_form,
)

types = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
names = st.text(min_size=1, max_size=40).map(clean_text).filter(bool)
awkward = st.text('",()[]?\\: \t\u2028aé🎵', min_size=1, max_size=12)
nodes = st.builds(NodeForm, types, names | awkward)
handles = st.uuids().map(lambda each: HandleForm(each.hex)) | st.text(
    "0123456789abcdef", min_size=4, max_size=31
).map(HandleForm)
forms: st.SearchStrategy[Form] = st.recursive(
    nodes | handles,
    lambda inner: st.builds(LinkForm, types, st.lists(inner, min_size=1, max_size=4).map(tuple)),
    max_leaves=8,
)


@given(forms)
def test_every_form_reads_back_the_same(form: Form) -> None:
    assert parse_form(str(form)) == form
    assert parse_form(f"  {form} ") == form


@given(st.text('ab:(),"\\ ?-[]0f', max_size=25) | st.text(max_size=25))
def test_whatever_is_written_is_read_or_refused_with_a_place(text: str) -> None:
    refused = None
    try:
        form = parse_form(text)
    except FormError as error:
        refused = error
    if refused is None:
        assert parse_form(str(form)) == form
    else:
        assert 0 <= refused.at <= len(clean_text(text))
        assert "^" in str(refused)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("tag:lo fi", NodeForm("tag", "lo fi")),
        ('concept:what, (really) "so"', NodeForm("concept", 'what, (really) "so"')),
        (r'tag:"a \"b\", c"', NodeForm("tag", 'a "b", c')),
        (
            "tagged(video:-x_9, tag:a:b)",
            LinkForm("tagged", (NodeForm("video", "-x_9"), NodeForm("tag", "a:b"))),
        ),
        ("deadbeef", HandleForm("deadbeef")),
        ("00000000-0000-0000-0000-00000000000A", HandleForm(UUID(int=10).hex)),
        ("abba:x", NodeForm("abba", "x")),
        ("f(abba, cafe12)", LinkForm("f", (HandleForm("abba"), HandleForm("cafe12")))),
    ],
)
def test_what_people_write(text: str, form: Form) -> None:
    assert parse_form(text) == form


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("", 0, "an atom is expected"),
        ("music", 0, "an atom is expected"),
        ("tag:", 4, "1 to 300"),
        ("tag:" + "x" * 301, 4, "has 301"),
        ("abc", 0, "4 to 32"),
        ("tagged(video:x, tag:y", 21, "closing parenthesis of tagged("),
        ("tagged(video:x, tag:y) z", 23, "one too many"),
        ('tagged(video:x, tag:"y)', 20, "have no end"),
        (r'tagged(tag:"\q")', 11, "there must be one of"),
        ("tagged(video:x tag:(y))", 19, "closing parenthesis"),
        ("tagged()", 7, "an atom is expected"),
        ("a(" * 12 + "tag:x", 22, "more than 10 deep"),
        (f"l({', '.join(['tag:x'] * 101)})", 701, "at most 100"),
    ],
)
def test_errors_point_at_the_place(text: str, at: int, told: str) -> None:
    with pytest.raises(FormError, match="at character") as refused:
        parse_form(text)
    assert told in refused.value.reason
    assert refused.value.at == at
    quoted, mark = str(refused.value).splitlines()[1:]
    if at < len(text):
        assert quoted[mark.index("^")] == text[at]


def test_spellings_of_tags_and_names_of_categories_are_one_node() -> None:
    assert canonical(NodeForm("tag", "Lo  Fi")) == canonical(NodeForm("tag", "lo fi"))
    assert canonical(NodeForm("category", "music")) == NodeForm("category", "10")
    assert canonical(NodeForm("video", "Lo  Fi")) == NodeForm("video", "Lo  Fi")
    assert category_title("10") == "Music"
    assert category_title("²") is None

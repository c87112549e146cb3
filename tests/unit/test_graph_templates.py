"""Queries of the knowledge graph: what is written reads back the same, and errors point at the place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.graph_queries import BOUNDABLE, COMPARISONS, Order, Variable
from maia.graphing.forms import FormError, HandleForm, NodeForm
from maia.graphing.templates import (
    BoundForm,
    ClauseForm,
    DifferenceForm,
    QueryForm,
    VariableBoundForm,
    VariableForm,
    parse_order,
    parse_query,
    parse_variable,
)

types = st.sampled_from(["tagged", "uploaded_by", "x", "not_so"])
names = st.sampled_from(["video", "v", "_1", "A9"])
variables = st.builds(VariableForm, names, st.lists(types, max_size=2).map(tuple))
nodes = st.builds(NodeForm, types, st.text('ab ,()[]?!="\\.é', min_size=1, max_size=8))
constants = nodes | st.builds(HandleForm, st.text("0123456789abcdef", min_size=4, max_size=32))
bounds = st.builds(
    BoundForm,
    st.sampled_from(BOUNDABLE),
    st.sampled_from(COMPARISONS),
    st.floats(-1e9, 1e9, allow_nan=False),
)
few_bounds = st.lists(bounds, max_size=2).map(tuple)


def clause(ends: st.SearchStrategy[object]) -> st.SearchStrategy[ClauseForm]:
    outgoing = st.lists(ends, min_size=1, max_size=3).map(tuple)
    return st.builds(ClauseForm, types, outgoing, st.none() | names, few_bounds)


ends = variables | constants
clauses = clause(ends | clause(ends))
absent = st.builds(
    ClauseForm, types, st.lists(ends, min_size=1, max_size=2).map(tuple), is_absent=st.just(True)
)
differences = st.builds(DifferenceForm, names, st.builds(VariableForm, names) | constants)
items = (
    clauses
    | absent
    | differences
    | st.builds(VariableBoundForm, names, bounds)
    | st.builds(VariableForm, names, st.lists(types, min_size=1, max_size=2).map(tuple))
)
queries = st.lists(items, min_size=1, max_size=4).map(lambda each: QueryForm(tuple(each)))


@given(queries)
def test_every_query_reads_back_the_same(query: QueryForm) -> None:
    assert parse_query(str(query)) == query
    assert parse_query(f" {query}\n") == query


@given(st.text('?vx:=.,!()[]"not tagged> 1|ab', max_size=40))
def test_whatever_is_written_is_read_or_refused_with_a_place(text: str) -> None:
    refused = None
    try:
        query = parse_query(text)
    except FormError as error:
        refused = error
    if refused is None:
        assert parse_query(str(query)) == query
    else:
        assert 0 <= refused.at <= len(text)


def test_spaces_and_lines_are_free() -> None:
    spaced = parse_query(
        "?l = tagged( ?v : video | channel ,tag:lo fi )[ count>=2 ],\n not  x(?v) , ?v!=abcd"
    )
    assert spaced.items == (
        ClauseForm(
            "tagged",
            (VariableForm("v", ("video", "channel")), NodeForm("tag", "lo fi")),
            "l",
            (BoundForm("count", ">=", 2.0),),
        ),
        ClauseForm("x", (VariableForm("v"),), is_absent=True),
        DifferenceForm("v", HandleForm("abcd")),
    )
    assert str(spaced) == ("?l = tagged(?v:video|channel, tag:lo fi)[count >= 2.0], not x(?v), ?v != abcd")


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("", 0, "a link is expected"),
        ("tag:music", 0, "a link is expected"),
        ("tagged(?v, tag:music", 20, "closing parenthesis of tagged("),
        ("tagged(?v tag:music)", 10, "there must be a comma"),
        ("tagged(?1)", 7, "a variable is a question mark"),
        ("tagged(?v:)", 10, "after the colon there must be a type"),
        ("tagged(?v),", 11, "a link is expected"),
        ("tagged(?v) x(?v)", 11, "there must be a comma between"),
        ("?v", 2, "alone says nothing"),
        ("?v = tag:x", 5, "a link is expected"),
        ("?v.size > 1", 3, "a bound is of one of strength"),
        ("?v.count = 1", 9, "after count there must be one of >= <= > <"),
        ("x(?v)[count > many]", 14, "a number is expected"),
        ("x(?v)[count > 1", 15, "there must be ']'"),
        ("not x(?v)[count > 1]", 9, "has no bounds"),
        ("not ?v", 4, "a link is expected"),
        ("x(" * 12 + "?v", 22, "more than 10 deep"),
        (", ".join(["?v:x"] * 30), 167, "no more parts"),
        ("x(?v)" + " " * 4_000, 4_000, "at most 4,000 characters"),
    ],
)
def test_errors_point_at_the_place(text: str, at: int, told: str) -> None:
    with pytest.raises(FormError) as refused:
        parse_query(text)
    assert told in refused.value.reason
    assert refused.value.at == at


def test_order_is_the_greatest_first_but_by_alphabet() -> None:
    assert parse_order("?l.weight") == Order(Variable("l"), "weight", descending=True)
    assert parse_order("?v.name") == Order(Variable("v"), "name", descending=False)
    assert parse_order(" ?v . name desc ") == Order(Variable("v"), "name", descending=True)
    assert parse_variable("v") == parse_variable("?v") == Variable("v")
    for wrong, told in (
        ("?v", "after the variable"),
        ("?v.size", "sorted by one of"),
        ("?v.name up", "asc or desc"),
    ):
        with pytest.raises(FormError, match=told):
            parse_order(wrong)

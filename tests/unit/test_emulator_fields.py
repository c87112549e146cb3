from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.emulator.facts import METHODS
from maia.emulator.fields import ANYTHING, InvalidFields, check_fields, parse_fields, select

VALUE: dict[str, Any] = {
    "kind": "list",
    "items": [
        {"id": "a", "snippet": {"title": "A", "tags": ["x", "y"]}, "statistics": {"viewCount": "1"}},
        {"id": "b", "snippet": {"title": "B"}},
    ],
    "pageInfo": {"totalResults": 2, "resultsPerPage": 5},
}

TITLED = [{"id": "a", "snippet": {"title": "A"}}, {"id": "b", "snippet": {"title": "B"}}]


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        ("kind/anything", {}),
        ("kind", {"kind": "list"}),
        ("items/id", {"items": [{"id": "a"}, {"id": "b"}]}),
        (
            "items(id,snippet/tags)",
            {"items": [{"id": "a", "snippet": {"tags": ["x", "y"]}}, {"id": "b", "snippet": {}}]},
        ),
        ("items/snippet(title)", {"items": [{"snippet": {"title": "A"}}, {"snippet": {"title": "B"}}]}),
        (
            "items/*/viewCount",
            {"items": [{"snippet": {}, "statistics": {"viewCount": "1"}}, {"snippet": {}}]},
        ),
        ("*/totalResults", {"items": [{}, {}], "pageInfo": {"totalResults": 2}}),
        ("items/statistics", {"items": [{"statistics": {"viewCount": "1"}}, {}]}),
        ("items(id),items(snippet/title)", {"items": TITLED}),
        (" pageInfo ( totalResults ) , kind ", {"kind": "list", "pageInfo": {"totalResults": 2}}),
        ("*", VALUE),
        ("items,items/id", {"items": VALUE["items"]}),
    ],
)
def test_a_mask_keeps_what_it_names(mask: str, kept: dict[str, Any]):
    assert select(VALUE, parse_fields(mask)) == kept


@pytest.mark.parametrize(
    "mask", ["", ",", "a,", "a(", "a()", "a(b", "a)b", "a/", "/a", "a(b)c", "a b", "a;b", "(a)"]
)
def test_a_malformed_mask_is_refused(mask: str):
    with pytest.raises(InvalidFields):
        parse_fields(mask)


def test_a_mask_that_selects_what_does_not_exist_is_refused():
    shape = parse_fields("items(id,snippet(title)),kind")
    check_fields(parse_fields("items(id,snippet/title),kind"), shape)
    check_fields(parse_fields("items/*"), shape)
    check_fields(parse_fields("items/id/anything"), shape)
    for wrong in ("item", "items/etag", "items(id,snippet(titel))"):
        with pytest.raises(InvalidFields):
            check_fields(parse_fields(wrong), shape)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_embedded_shapes_are_masks_with_items_and_parts(method: Any):
    assert method.shape["items"] is not ANYTHING
    assert {"id"} < method.parts
    assert not method.parts & {"kind", "etag"}


names = st.sampled_from(["a", "b", "c"])
trees: st.SearchStrategy[Any] = st.recursive(
    st.integers(), lambda inner: st.dictionaries(names, inner) | st.lists(inner, max_size=3), max_leaves=12
)


def paths_of(value: Any) -> set[tuple[str, ...]]:
    if isinstance(value, list):
        return set().union(*map(paths_of, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return {(name,) for name in value} | {
        (name, *path) for name, inner in value.items() for path in paths_of(inner)
    }


@given(
    st.dictionaries(names, trees), st.lists(st.lists(names, min_size=1, max_size=3), min_size=1, max_size=4)
)
def test_paths_joined_by_commas_keep_what_each_keeps_alone(value: dict[str, Any], paths: list[list[str]]):
    masks = ["/".join(path) for path in paths]
    together = paths_of(select(value, parse_fields(",".join(masks))))
    alone = set().union(*(paths_of(select(value, parse_fields(mask))) for mask in masks))
    assert together == alone

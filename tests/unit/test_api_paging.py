"""Cursors come back as they were made, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.api.paging import cursor_after, values_of
from maia.api.problems import Problem


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=64).filter(str.isprintable),
    st.integers(-(2**63) + 1, 2**63 - 1),
)  # fmt: skip
def test_a_cursor_comes_back_as_it_was_made(leads_by: float, id_: str, number: int) -> None:
    cursor = cursor_after(["videos"], leads_by, id_, number)
    assert cursor.isascii()
    assert values_of(cursor, ["videos"], float, str, int) == [leads_by, id_, number]


@given(st.text(max_size=100))
def test_nothing_else_is_taken_for_one(text: str) -> None:
    with pytest.raises(Problem, match="cursor"):
        values_of(text, ["videos"], float, str)


@pytest.mark.parametrize(
    ("listed", "kinds"),
    [
        (["topics"], (float, int)),
        (["videos"], (int, int)),
        (["videos"], (float,)),
        (["videos"], (float, str)),
    ],
)
def test_one_of_another_list_or_form_is_refused(listed: list[str], kinds: tuple[type, ...]) -> None:
    with pytest.raises(Problem) as refused:
        values_of(cursor_after(["videos"], 1.5, 7), listed, *kinds)
    assert refused.value.status == 422


def test_numbers_that_the_database_lacks_are_refused() -> None:
    with pytest.raises(Problem):
        values_of(cursor_after(["videos"], 2**63), ["videos"], int)
    with pytest.raises(Problem):
        values_of(cursor_after(["videos"], True), ["videos"], int)

"""A number agrees with its noun, wherever one is shown."""

from __future__ import annotations

import pytest

from atlas.wording import counted


@pytest.mark.parametrize(
    ("number", "rows", "duties", "waiting"),
    [
        (0, "0 rows", "0 duties", "0 objects wait"),
        (1, "1 row", "1 duty", "1 object waits"),
        (2, "2 rows", "2 duties", "2 objects wait"),
        (1_000_000, "1,000,000 rows", "1,000,000 duties", "1,000,000 objects wait"),
        (1.0, "1 row", "1 duty", "1 object waits"),
        (1.5, "1.5 rows", "1.5 duties", "1.5 objects wait"),
    ],
)
def test_a_number_with_its_noun(number: float, rows: str, duties: str, waiting: str) -> None:
    assert counted(number, "row") == rows
    assert counted(number, "duty", "duties") == duties
    assert counted(number, "object waits", "objects wait") == waiting

"""The state of another site, as `maia federation` shows it."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from atlas.testing import NOON
from maia.commands import federation


@pytest.mark.parametrize(
    ("peer", "state"),
    [
        ({"lag_s": None}, "told of"),
        ({"lag_s": 3_599.0}, "well"),
        ({"lag_s": 3_601.0}, "silent"),
        ({"lag_s": 9.0, "isolated_until": NOON}, "isolated until 12:00"),
        ({"lag_s": 9.0, "left_at": NOON}, "left"),
    ],
)
def test_a_site_that_is_not_heard_is_not_well(peer: dict[str, Any], state: str) -> None:
    told = Mock(**({"isolated_until": None, "left_at": None} | peer))
    assert federation._state(told, 300) == state
    assert federation._state(Mock(isolated_until=None, left_at=None, lag_s=3_601.0), 1_800) == "well"

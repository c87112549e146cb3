"""What copies may hold: nothing that a database would change, and no figure that can't be added to others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.admission import DEEPEST, fault_of, fault_of_value
from maia.learning.evidence import EvidenceKey, EvidenceRow
from maia.learning.importance import Importance
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from maia.learning.snapshots import Remembered, Snapshot, Tombstone

NOW = datetime(2026, 11, 29, tzinfo=UTC)
OLD = datetime(1, 1, 1, tzinfo=UTC)
LAST = 2**63 - 1
GOOD = Pattern(
    PatternType.TOOL_USAGE,
    {"tool": "feeds", "hours": [1, 2.5, None]},
    "feeds find early — mostly",
    (Condition("hour", Operator.EQUALS, 3),),
    "feeds",
    {"rate": -0.0},
)
ROW = EvidenceRow(3, 1, 2.5, NOW, 1)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def copy(pattern: Pattern = GOOD, row: EvidenceRow = ROW, node: str = "site", **kept: Any) -> Snapshot:
    key = EvidenceKey(pattern.id, node, NOW.date())
    return Snapshot(NOW, {pattern.id: Remembered(pattern, **kept)}, {key: row})


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_what_is_whole_is_admitted() -> None:
    whole = copy(importance=Importance(1, 2, NOW), created_at=NOW, forgotten=Tombstone(NOW, "operator"))
    assert fault_of(whole) is None
    assert fault_of(copy(replace(GOOD, data={"x": nested(DEEPEST - 1)}))) is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"signature": {"tool": "a\0b"}}, "its signature holds the character NUL"),
        ({"signature": {"tool": -0.0}}, "its signature holds a negative zero"),
        ({"signature": {"tool": [{"a": -0.0}]}}, "its signature holds a negative zero"),
        ({"signature": {"tool": 2**63}}, "its signature holds an integer of more than 64 bits"),
        ({"statement": "half \ud800"}, "its statement holds half of a character"),
        ({"statement": " "}, "its statement or action is empty"),
        ({"action": ""}, "its statement or action is empty"),
        ({"action": "\0"}, "its action holds the character NUL"),
        ({"data": {"a\0": 1}}, "its data holds the character NUL"),
        ({"data": {"a": math.nan}}, "its data holds a number that is not finite"),
        ({"data": {"a": nested(DEEPEST)}}, "its data is nested too deeply"),
        ({"data": {"a": NOW}}, "its data holds datetime, which is no JSON"),
        (
            {"conditions": (Condition("x", Operator.ABOVE, math.inf),)},
            "its conditions holds a number that is not finite",
        ),
        ({"conditions": (Condition("x", Operator.EQUALS, 1),) * 101}, "it has more than 100 conditions"),
    ],
)
def test_a_pattern_that_cannot_be_kept_as_it_is_is_named(change: dict[str, Any], fault: str) -> None:
    odd = copy()
    patterns = {"0" * 32: Remembered(replace(GOOD, **change))}
    assert fault_of(replace(odd, patterns=patterns)) == f"the pattern {'0' * 32} can't be stored: {fault}"


@pytest.mark.parametrize(
    ("kept", "fault"),
    [
        ({"version": LAST}, "its version is"),
        ({"version": 0}, "its version is 0"),
        ({"importance": Importance(math.nan, 0, NOW)}, "its importance is nan and 0"),
        ({"importance": Importance(0, math.inf, NOW)}, "its importance is 0 and inf"),
        ({"importance": Importance(-1, 0, NOW)}, "its importance is -1 and 0"),
        ({"importance": Importance(0, 0, OLD)}, "it is from before 1970"),
        ({"created_at": OLD}, "it is from before 1970"),
        ({"forgotten": Tombstone(OLD, "operator")}, "it is from before 1970"),
    ],
)
def test_what_is_known_of_a_pattern_must_be_possible(kept: dict[str, Any], fault: str) -> None:
    assert fault in (fault_of(copy(**kept)) or "")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"pos": LAST}, "nobody counts 9,223,372,036,854,775,807 for and 1 against on one day"),
        ({"neg": -1}, "nobody counts 3 for and -1 against on one day"),
        ({"version": LAST}, "its version is"),
        ({"version": 0}, "its version is 0"),
        ({"sum_reward": math.nan}, "its reward is nan"),
        ({"sum_reward": 1e308}, "its reward is 1e+308"),
        ({"last_seen": OLD}, "it is from before 1970"),
    ],
)
def test_figures_that_do_not_add_up_are_named(change: dict[str, Any], fault: str) -> None:
    assert fault in (fault_of(copy(row=replace(ROW, **change))) or "")


@pytest.mark.parametrize("node", ["", "a" * 101, "a\0", "\udc00"])
def test_sites_have_names_that_can_be_stored(node: str) -> None:
    assert "the name of its site" in (fault_of(copy(node=node)) or "")


def test_a_day_before_there_were_computers_is_refused() -> None:
    snapshot = Snapshot(NOW, {}, {EvidenceKey(GOOD.id, "site", date(1, 1, 1)): ROW})
    assert "before 1970" in (fault_of(snapshot) or "")


@given(values)
def test_what_is_admitted_comes_back_from_json_as_it_was(value: object) -> None:
    if fault_of_value(value) is None:
        assert orjson.loads(orjson.dumps(value)) == json.loads(json.dumps(value)) == value

"""What may be written as an event."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr

from atlas.errors import DataRefused
from atlas.events import _checked, _to_json


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize("kind", ["hunter", "hunter.cycle", "vault.refused_2.again", "a" * 100])
def test_kinds_are_dotted_lower_case_words(kind: str) -> None:
    assert _checked(kind) == kind


@pytest.mark.parametrize(
    "kind", ["", ".", "Hunter", "hunter.", ".cycle", "a..b", "a b", "2a", "a\n", "a" * 101, "é"]
)
def test_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(DataRefused, match="no kind of event"):
        _checked(kind)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values))
def test_payloads_survive_the_round_trip(payload: dict[str, Any]) -> None:
    assert orjson.loads(_to_json("a", payload)) == payload


def test_instants_days_ids_and_states_are_written_as_text() -> None:
    payload = {
        "at": datetime(2026, 11, 2, tzinfo=UTC),
        "day": date(2026, 11, 2),
        "id": UUID(int=1),
        "is": Colour.RED,
    }

    assert orjson.loads(_to_json("a", payload)) == {
        "at": "2026-11-02T00:00:00+00:00",
        "day": "2026-11-02",
        "id": "00000000-0000-0000-0000-000000000001",
        "is": "red",
    }


@pytest.mark.parametrize("secret", [SecretStr("hush"), SecretBytes(b"hush")])
def test_a_secret_is_refused_without_being_told(secret: object) -> None:
    with pytest.raises(DataRefused, match=r"'keys\.seen'.*contains a secret: use its fingerprint") as refusal:
        _to_json("keys.seen", {"key": {"of": [secret]}})

    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("value", [Path("x"), object(), {1: "x"}, 2**70])
def test_what_json_has_not_is_refused(value: object) -> None:
    with pytest.raises(DataRefused, match="event 'a' cannot be written"):
        _to_json("a", {"x": value})

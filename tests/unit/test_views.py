"""What views say and the form that they take as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest

from maia import views
from maia.views.words import SHORT_AT_MOST_S, State, length_of, plain, state_of, zone_name, zone_number

MODULES = sorted(module.name for module in iter_modules(views.__path__))


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    at: datetime
    colour: Colour


@dataclass(frozen=True, slots=True)
class Outer:
    inner: tuple[Inner, ...]
    by_name: dict[str, float | None]
    day: date


class TestPlain:
    def test_views_become_what_json_has(self) -> None:
        cairo = timezone(timedelta(hours=2))
        inner = Inner(datetime(2026, 11, 2, 8, 30, tzinfo=cairo), Colour.RED)
        view = Outer((inner,), {"nan": float("nan"), "inf": float("-inf"), "one": 1.0}, date(2026, 11, 2))
        assert json.loads(json.dumps(plain(view), allow_nan=False)) == {
            "inner": [{"at": "2026-11-02T06:30:00Z", "colour": "red"}],
            "by_name": {"nan": None, "inf": None, "one": 1.0},
            "day": "2026-11-02",
        }

    @pytest.mark.parametrize("name", MODULES)
    def test_every_view_is_frozen(self, name: str) -> None:
        module = import_module(f"maia.views.{name}")
        found = [each for each in vars(module).values() if is_dataclass(each) and isinstance(each, type)]
        assert all(each.__dataclass_params__.frozen and fields(each) for each in found)  # type: ignore[attr-defined]


class TestStates:
    @pytest.mark.parametrize(
        ("status", "broadcast", "tracked", "state"),
        [
            ("live", "none", True, "tracked"),
            ("live", None, True, "tracked"),
            ("live", None, False, "stored"),
            ("live", "upcoming", True, "upcoming"),
            ("live", "live", True, "live"),
            ("gone", "upcoming", True, "gone"),
            ("gone", None, False, "gone"),
        ],
    )
    def test_are_what_people_call_them(
        self, status: str, broadcast: str | None, tracked: bool, state: State
    ) -> None:
        assert state_of(status, broadcast, tracked=tracked) == state

    @pytest.mark.parametrize(
        ("duration_s", "length"),
        [(None, None), (0, None), (1, "short"), (SHORT_AT_MOST_S, "short"), (SHORT_AT_MOST_S + 1, "long")],
    )
    def test_no_length_is_neither_short_nor_long(self, duration_s: int | None, length: Any) -> None:
        assert length_of(duration_s) == length

    def test_zones_have_names_and_numbers(self) -> None:
        assert [zone_name(number) for number in (0, 1, 2, None)] == ["hot", "warm", "cold", None]
        assert [zone_number(name) for name in ("hot", "warm", "cold", None)] == [0, 1, 2, None]


def test_instants_are_told_in_utc() -> None:
    assert plain(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00Z"

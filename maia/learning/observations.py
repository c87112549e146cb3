"""What detectors learn from: what an agent did, what a series measured, and how a video's views grew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import Final

Scalar = str | int | float | bool | None
"""A value of a context. Floats are finite."""

SUCCESS: Final = "success"
"""The outcome of what succeeded; any other outcome names how it failed."""

IMPORTED: Final = "imported"
"""The agent of what was read from a log of somebody else's."""

_MAX_FIELDS: Final = 40
_MAX_NAME: Final = 80
_MAX_TEXT: Final = 200
_NOTHING: Final[Mapping[str, Scalar]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Observation:
    """One action and what came of it.

    `session` holds actions that belong together in their order. `cost` is in units of quota or whatever else
    the action spends, `reward` in what it is done for; both only compare within one kind of action.
    """

    agent: str
    session: str
    action: str
    at: datetime
    """Aware, UTC."""
    outcome: str = SUCCESS
    # A mapping proxy as the plain default would be refused by Python 3.11, as it has no hash there.
    context: Mapping[str, Scalar] = field(default_factory=lambda: _NOTHING)
    reward: float = 0.0
    cost: float = 0.0
    duration_s: float | None = None

    @property
    def succeeded(self) -> bool:
        return self.outcome == SUCCESS

    @property
    def day(self) -> date:
        """The UTC day."""
        return self.at.date()


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value of a series, such as a host's CPU load, at an instant (aware, UTC)."""

    series: str
    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class ViewCurve:
    """A video's views by its age: `ages_h` ascending, in hours since it was published; views as counted."""

    video_id: str
    published_at: datetime
    ages_h: Sequence[float]
    views: Sequence[float]
    category_id: int | None = None


def checked(
    *,
    agent: object,
    session: object,
    action: object,
    at: datetime,
    outcome: object = SUCCESS,
    context: Mapping[str, object] | None = None,
    reward: object = 0.0,
    cost: object = 0.0,
    duration_s: object = None,
) -> Observation:
    """An observation from outside; ValueError says which field is wrong.

    Texts are cut to a bounded length, contexts to a bounded number of fields in the order of their names,
    and values that are no scalars are refused.
    """
    if at.tzinfo is None:
        raise ValueError("at must say its time zone, such as 2026-11-29T12:00:00Z")
    return Observation(
        _text("agent", agent, _MAX_NAME),
        _text("session", session, _MAX_TEXT),
        _text("action", action, _MAX_NAME),
        at,
        _text("outcome", outcome, _MAX_NAME),
        _checked_context(context or {}),
        _number("reward", reward),
        _number("cost", cost, least=0),
        None if duration_s is None else _number("duration_s", duration_s, least=0),
    )


def _text(name: str, value: object, most: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text that is not empty")
    return value[:most]


def _number(name: str, value: object, least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number")
    if value < least:
        raise ValueError(f"{name} cannot be less than {least:g}")
    return float(value)


def _checked_context(context: Mapping[str, object]) -> dict[str, Scalar]:
    kept: dict[str, Scalar] = {}
    for name in sorted(map(str, context))[:_MAX_FIELDS]:
        value = context[name]
        if isinstance(value, str):
            kept[name[:_MAX_NAME]] = value[:_MAX_TEXT]
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError(f"context.{name[:_MAX_NAME]} must be a finite number")
            kept[name[:_MAX_NAME]] = value
        elif value is None or isinstance(value, (bool, int)):
            kept[name[:_MAX_NAME]] = value
        else:
            raise ValueError(f"context.{name[:_MAX_NAME]} must be a text, number, boolean or null")
    return kept

"""What detectors learn from: what an agent did, what a series measured, and how a video's views grew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from types import MappingProxyType
from typing import Final

Scalar = str | int | float | bool | None
"""A value of a context. Floats are finite."""

SUCCESS: Final = "success"
"""The outcome of what succeeded; any other outcome names how it failed."""

IMPORTED: Final = "imported"
"""The agent of what was read from a log of somebody else's."""

CYCLE: Final = "cycle"
"""The action that sums up an agent's cycle at its end: not a step of its own."""

_MAX_FIELDS: Final = 40
_MAX_NAME: Final = 80
_MAX_TEXT: Final = 200
_MAX_AMOUNT: Final = 2.0**53
"""Numbers up to here add up over any number of observations without becoming infinite."""
_MOST_INTEGER: Final = 2**63
_LARGE_FLOAT: Final = 1e16
"""From there on, floats are whole numbers and are written with an exponent."""
_LEAST_INTEGER: Final = -(2**63)
_LARGEST_INTEGER: Final = 2**64 - 1
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


def storable(value: object) -> object:
    """The value as it comes back from the database, so that what is learnt is what is stored.

    Text loses NUL and lone surrogates. JSON in PostgreSQL keeps neither the sign of zero nor that a large
    whole number was a float, and whole numbers of more than 64 bits come back as floats.
    """
    match value:
        case bool():
            return value
        case str():
            return _storable_text(value)
        case int() | float():
            return _storable_number(value)
        case Mapping():
            return {_storable_text(str(name)): storable(each) for name, each in value.items()}
        case list() | tuple():
            return [storable(each) for each in value]
    return value


def _storable_text(text: str) -> str:
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _storable_number(value: float) -> float:
    if -_LARGE_FLOAT < value < _LARGE_FLOAT or not math.isfinite(value):
        return abs(value) if value == 0 else value
    whole = int(value)
    return whole if _LEAST_INTEGER <= whole <= _LARGEST_INTEGER else float(value)


def as_logged(observation: Observation) -> Observation:
    """A checked observation as it is read from the log of observations, with its context in that order."""
    context = observation.context
    by_length = sorted((len(name.encode()), name.encode(), name) for name in context)
    return replace(observation, context={name: _storable_scalar(context[name]) for *_, name in by_length})


def _storable_scalar(value: Scalar) -> Scalar:
    return _storable_number(value) if isinstance(value, float) else value


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

    Texts are cut to a bounded length and cleaned of what can't be stored, contexts to a bounded number of
    fields in the order of their names; values that are no scalars are refused.
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
    text = _storable_text(value) if isinstance(value, str) else ""
    if not text.strip():
        raise ValueError(f"{name} must be a text that is not empty")
    return text[:most]


def _number(name: str, value: object, least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number")
    if value < least:
        raise ValueError(f"{name} cannot be less than {least:g}")
    if abs(value) > _MAX_AMOUNT:
        raise ValueError(f"{name} is too large a number to add up: {value:g}")
    return float(value)


def _checked_context(context: Mapping[str, object]) -> dict[str, Scalar]:
    kept: dict[str, Scalar] = {}
    for name in sorted(map(str, context))[:_MAX_FIELDS]:
        short = _storable_text(name)[:_MAX_NAME]
        kept[short] = _scalar(short, context[name])
    return kept


def _scalar(name: str, value: object) -> Scalar:
    if isinstance(value, str):
        return _storable_text(value)[:_MAX_TEXT]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # What has more digits is no quantity but a name, such as a serial number.
        return value if abs(value) < _MOST_INTEGER else str(value)[:_MAX_TEXT]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"context.{name} must be a finite number")
        # Without the sign of zero, which a database doesn't keep.
        return value + 0.0
    raise ValueError(f"context.{name} must be a text, number, boolean or null")

"""How detectors read a batch: by session, and sessions in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from maia.learning.detectors.tallies import SLACK, frozen
from maia.learning.observations import Observation, Scalar

SessionKey = tuple[str, str]
"""Agent and session."""
Value = TypeVar("Value")

METHOD_FIELDS: Final = ("arm", "ring", "source")
"""Fields that name the tool or method of an action, if it has one; the first that is there counts."""

_at = attrgetter("at")


def by_session(batch: Sequence[Observation]) -> dict[SessionKey, list[Observation]]:
    """The batch's observations by session, each in the order of time."""
    sessions: dict[SessionKey, list[Observation]] = {}
    for each in batch:
        key = (each.agent, each.session)
        if key in sessions:
            sessions[key].append(each)
        else:
            sessions[key] = [each]
    for members in sessions.values():
        members.sort(key=_at)
    return sessions


class Recent(Generic[Value]):
    """What is remembered of the sessions, or whatever else, that were touched last."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self._values: dict[Any, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def pop(self, key: Any) -> Value | None:
        """Take out what is known; `put` back what becomes of it, as the one touched last."""
        return self._values.pop(key, None)

    def put(self, key: Any, value: Value) -> None:
        self._values[key] = value

    def items(self) -> Iterator[tuple[Any, Value]]:
        """From the one touched longest ago."""
        yield from self._values.items()

    def trim(self) -> list[tuple[Any, Value]]:
        """Forget those touched longest ago if there are too many, and say which."""
        if len(self._values) <= self.capacity * SLACK:
            return []
        oldest = list(self._values)[: len(self._values) - self.capacity]
        return [(key, self._values.pop(key)) for key in oldest]

    def content(self, packed: Callable[[Value], Any]) -> list[Any]:
        """Everything as lists, for `maia.learning.states`."""
        return [self.capacity, [[key, packed(value)] for key, value in self._values.items()]]

    @classmethod
    def from_content(cls, content: list[Any], unpacked: Callable[[Any], Value]) -> Recent[Value]:
        capacity, rows = content
        made = cls(capacity)
        made._values = {frozen(key): unpacked(value) for key, value in rows}
        return made


def method_of(observation: Observation) -> tuple[str, str] | None:
    """The field and text that name the tool or method of an action, if its context has one."""
    context = observation.context
    for name in METHOD_FIELDS:
        if name in context:
            value = text_of(context[name])
            return None if value is None else (name, value)
    return None


def goal_of(observation: Observation) -> str | None:
    """The goal that the context names."""
    return text_of(observation.context.get("goal"))


def text_of(value: Scalar) -> str | None:
    """A value that names something, as a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return None
    return str(value)


def latest_of(batch: Sequence[Observation]) -> datetime:
    """When the latest of them was."""
    return max(each.at for each in batch)

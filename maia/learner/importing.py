"""Turns the events of an imported log into observations: from XES, CSV or JSON lines, once they are parsed.

A case of the log is a session, an activity an action, and the resource part of the context. The agent is
called what the caller says, or as the log calls itself. Each activity counts as a success unless the log says
otherwise: by an outcome, or by XES's transactional states for what was aborted or withdrawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from maia.learner.observing import Pseudonymizing, Remembered, hashed
from maia.learning.event_logs import DENIALS, SUCCESSES
from maia.learning.observations import IMPORTED, SUCCESS, Observation, checked

AGENT: Final = IMPORTED
"""The agent of imported observations, if neither the caller nor the log names one."""

_FIRST_YEAR: Final = 1970
_CLOCKS_DIFFER: Final = timedelta(days=1)
_MOST_REASONS: Final = 100
_OTHER_REASONS: Final = "something else"
_FAILED: Final = "failed"
_LIFECYCLE: Final = "lifecycle:transition"
_ABORTED: Final = frozenset({"ate_abort", "pi_abort", "withdraw"})
"""The transitions of XES (IEEE 1849) after which an activity has come to nothing."""


class LogRecord(Protocol):
    """An event of a log: what was done in a session and when, and if known by whom and with what result."""

    @property
    def session(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def at(self) -> datetime | None: ...
    @property
    def resource(self) -> str | None: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def cost(self) -> float | None: ...
    @property
    def duration_s(self) -> float | None: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def log(self) -> str | None: ...


@dataclass(slots=True)
class LogImport:
    """Reads records one after the other, and counts those that can't be used, by what is wrong with them."""

    pseudonyms: Pseudonymizing
    agent: str | None = None
    now: datetime | None = None
    """If given, events from later than a day after it are refused: evidence of them would never expire."""
    refused: Counter[str] = field(default_factory=Counter)
    _remembered: Remembered = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._remembered = Remembered(self.pseudonyms)

    def observations(self, records: Iterable[LogRecord]) -> Iterator[Observation]:
        """The records as observations, one at a time; those that can't be used are left out."""
        for record in records:
            try:
                yield self.observation(record)
            except (ValueError, OverflowError) as error:
                self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        if reason not in self.refused and len(self.refused) >= _MOST_REASONS:
            reason = _OTHER_REASONS
        self.refused[reason] += 1

    def observation(self, record: LogRecord) -> Observation:
        """The record as an observation; ValueError or OverflowError if it can't be used."""
        if record.at is None:
            raise ValueError("at is missing: an observation needs its instant")
        if record.at.tzinfo is None:
            raise ValueError("at must say its time zone, such as 2026-11-29T12:00:00Z")
        at = record.at.astimezone(UTC)
        if at.year < _FIRST_YEAR:
            raise ValueError(f"at is in the year {at.year}, before there were logs")
        if self.now is not None and at > self.now + _CLOCKS_DIFFER:
            raise ValueError(f"at is yet to come: {at.isoformat()}")
        described = {name: _scalar(value) for name, value in record.attributes.items()}
        outcome = _outcome(record.outcome, described.pop(_LIFECYCLE, None))
        if record.resource:
            described["resource"] = record.resource
        context = self._remembered.context(described) | {"hour": at.hour, "weekday": at.weekday()}
        return checked(
            agent=self.pseudonyms.text(self.agent or record.log or AGENT),
            session=hashed(self.pseudonyms.text(record.session)),
            action=self.pseudonyms.text(record.action),
            at=at,
            outcome=self.pseudonyms.text(outcome),
            context=context,
            reward=record.reward or 0.0,
            cost=record.cost or 0.0,
            duration_s=record.duration_s,
        )


def _scalar(value: Any) -> Any:
    """The value of an attribute; what is no scalar becomes a text."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _outcome(said: str | None, transition: Any) -> str:
    """How an activity ended, by what the log says of it or by its transactional state."""
    word = (said or "").strip()
    if word.casefold() in SUCCESSES:
        return SUCCESS
    if word.casefold() in DENIALS:
        return _FAILED
    if word:
        return word
    state = str(transition).strip().casefold()
    return state if state in _ABORTED else SUCCESS

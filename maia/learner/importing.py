"""Turns the records of an event log into observations, such as a log in XES, CSV or JSON lines.

A case is a session, an activity an action, and the resource part of the context. Each activity counts as a
success unless the log says otherwise: by an attribute that holds its outcome, or by XES's transactional
states for what was aborted or withdrawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from maia.learner.observing import Pseudonymizing, hashed
from maia.learning.observations import SUCCESS, Observation, checked

AGENT: Final = "imported"
"""The agent of imported observations, unless the caller names one."""

_MOST_REASONS: Final = 100
_OTHER_REASONS: Final = "something else"
_SUCCESSES: Final = frozenset(
    {"success", "succeeded", "successful", "ok", "true", "yes", "1", "done", "complete", "completed"}
)
_FAILURES: Final = frozenset({"false", "no", "0"})
_FAILED: Final = "failed"
_LIFECYCLE: Final = "lifecycle:transition"
_ABORTED: Final = frozenset({"ate_abort", "pi_abort", "withdraw"})
"""The transitions of XES (IEEE 1849) after which an activity has come to nothing."""
_AMOUNTS: Final = {"reward": "reward", "cost": "cost", "cost:total": "cost", "duration_s": "duration_s"}
"""Attributes that are figures of the observation and no part of its context."""


class LogRecord(Protocol):
    """An event of a log: what was done in a case, when, and by whom."""

    @property
    def case(self) -> str: ...
    @property
    def activity(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def resource(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class LogImport:
    """Reads records one after the other, and counts those that can't be used, by what is wrong with them."""

    pseudonyms: Pseudonymizing
    agent: str = AGENT
    outcome: str = "outcome"
    """The attribute that says how an activity ended."""
    refused: Counter[str] = field(default_factory=Counter)

    def observations(self, records: Iterable[LogRecord]) -> Iterator[Observation]:
        """The records as observations, one at a time; those that can't be used are left out."""
        for record in records:
            try:
                yield self._observation(record)
            except (ValueError, OverflowError) as error:
                self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        if reason not in self.refused and len(self.refused) >= _MOST_REASONS:
            reason = _OTHER_REASONS
        self.refused[reason] += 1

    def _observation(self, record: LogRecord) -> Observation:
        if record.at.tzinfo is None:
            raise ValueError("at must say its time zone, such as 2026-11-29T12:00:00Z")
        at = record.at.astimezone(UTC)
        figures, described = _divided(record.attributes)
        outcome = _outcome(described.pop(self.outcome, None), described.pop(_LIFECYCLE, None))
        if record.resource:
            described["resource"] = record.resource
        context = dict(self.pseudonyms.context(described)) | {"hour": at.hour, "weekday": at.weekday()}
        return checked(
            agent=self.agent,
            session=hashed(self.pseudonyms.text(record.case)),
            action=self.pseudonyms.text(record.activity),
            at=at,
            outcome=self.pseudonyms.text(outcome),
            context=context,
            **figures,
        )


def _divided(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures among the attributes, and the others as scalars: what is none becomes a text."""
    figures: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in _AMOUNTS:
            if value not in (None, ""):
                figures[_AMOUNTS[name]] = _as_number(value)
        elif value is None or isinstance(value, (str, int, float)):
            described[name] = value
        else:
            described[name] = value.isoformat() if isinstance(value, datetime) else str(value)
    return figures, described


def _as_number(value: Any) -> Any:
    """The number that a text of a CSV file stands for; anything else as it is, to be refused by name."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _outcome(said: Any, transition: Any) -> str:
    """How an activity ended, by the attribute that says so or by its transactional state."""
    word = "" if said is None else str(said).strip()
    if word.casefold() in _SUCCESSES:
        return SUCCESS
    if word.casefold() in _FAILURES:
        return _FAILED
    if word:
        return word
    state = str(transition).strip().casefold() if transition is not None else ""
    return state if state in _ABORTED else SUCCESS

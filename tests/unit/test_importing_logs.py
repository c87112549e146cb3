"""Observations of imported event logs: sessions, outcomes, figures, and records that can't be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from maia.learner.importing import LogImport
from maia.learning.observations import Observation
from maia.learning.privacy import Pseudonyms

AT = datetime(2026, 11, 2, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    """A record as a parser of logs makes it."""

    session: str = "case 1"
    action: str = "Assign"
    at: datetime | None = AT
    resource: str | None = None
    outcome: str | None = None
    reward: float | None = None
    cost: float | None = None
    duration_s: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    log: str | None = None


class Initials:
    """Makes pseudonyms that are easy to see."""

    def context(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.text(each) if isinstance(each, str) else each for name, each in value.items()}

    def text(self, text: str) -> str:
        return text.replace("ann@example.org", "A.")


def read(*records: Record, **options: Any) -> list[Observation]:
    return list(LogImport(Initials(), **options).observations(records))


def test_a_record_is_an_action_of_its_session() -> None:
    first, second, other = read(
        Record(resource="ann@example.org", attributes={"product": "PC", "level": 2, "urgent": True}),
        Record(action="Close", at=AT + timedelta(hours=1)),
        Record(session="case 2", reward=2.5, cost=3, duration_s=60),
    )
    assert (first.agent, first.action, first.outcome, first.at) == ("imported", "Assign", "success", AT)
    assert first.context == {
        "product": "PC", "level": 2, "urgent": True, "resource": "A.", "hour": 12, "weekday": 0,
    }  # fmt: skip
    assert first.session == second.session != other.session
    assert "case" not in first.session
    assert (first.reward, first.cost, first.duration_s) == (0, 0, None)
    assert (other.reward, other.cost, other.duration_s) == (2.5, 3, 60)


@pytest.mark.parametrize(
    ("outcome", "transition", "told"),
    [
        (None, None, "success"),
        ("OK", None, "success"),
        ("False", None, "failed"),
        ("0", None, "failed"),
        ("timeout", None, "timeout"),
        ("sent to ann@example.org", None, "sent to A."),
        (" ", None, "success"),
        (None, "complete", "success"),
        (None, "ate_abort", "ate_abort"),
        (None, "Withdraw", "withdraw"),
        ("ok", "withdraw", "success"),
    ],
)
def test_an_activity_succeeded_unless_the_log_says_otherwise(
    outcome: str | None, transition: str | None, told: str
) -> None:
    attributes = {"lifecycle:transition": transition} if transition else {}
    (observed,) = read(Record(outcome=outcome, attributes=attributes), agent="desk")
    assert (observed.agent, observed.outcome) == ("desk", told)
    assert observed.context == {"hour": 12, "weekday": 0}


@pytest.mark.parametrize(
    ("said", "log", "agent"),
    [
        (None, None, "imported"),
        (None, "claims", "claims"),
        (None, "claims of ann@example.org", "claims of A."),
        ("desk", "claims", "desk"),
        ("ann@example.org", None, "A."),
    ],
)
def test_the_agent_is_what_the_caller_or_the_log_says(said: str | None, log: str | None, agent: str) -> None:
    (observed,) = read(Record(log=log), agent=said)
    assert observed.agent == agent


def test_attributes_that_are_no_scalars_become_texts() -> None:
    (observed,) = read(Record(attributes={"due": AT, "steps": [1], "none": None}))
    assert observed.context == {
        "due": AT.isoformat(), "steps": "[1]", "none": None, "hour": 12, "weekday": 0,
    }  # fmt: skip


def test_instants_become_utc() -> None:
    (observed,) = read(Record(at=AT.astimezone(timezone(timedelta(hours=-9)))))
    assert (observed.at.tzinfo, observed.context["hour"]) == (UTC, 12)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(at=None), "at is missing: an observation needs its instant"),
        (Record(at=AT.replace(tzinfo=None)), "at must say its time zone, such as 2026-11-29T12:00:00Z"),
        (Record(action=" "), "action must be a text that is not empty"),
        (Record(cost=-1), "cost cannot be less than 0"),
        (Record(reward=float("inf")), "reward must be a finite number"),
        (
            Record(attributes={"level": float("nan")}),
            "context.level must be a text, a finite number, a boolean or null",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_left_out_and_counted(record: Record, reason: str) -> None:
    log = LogImport(Initials())
    assert len(list(log.observations([Record(), record, Record()]))) == 2
    assert log.refused == {reason: 1}


def test_the_reasons_for_refusing_are_bounded() -> None:
    log = LogImport(Initials())
    odd = (Record(attributes={f"field {n}": float("inf")}) for n in range(1000))
    assert list(log.observations(odd)) == []
    assert log.refused.total() == 1000
    assert len(log.refused) <= 101
    assert log.refused["something else"] == 900


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (AT.replace(year=9999), "at is yet to come: 9999-11-02T12:00:00+00:00"),
        (AT + timedelta(days=1, seconds=1), "at is yet to come: 2026-11-03T12:00:01+00:00"),
        (AT.replace(year=1), "at is in the year 1, before there were logs"),
        (AT.replace(year=1969), "at is in the year 1969, before there were logs"),
    ],
)
def test_an_event_of_no_believable_time_is_refused(at: datetime, reason: str) -> None:
    log = LogImport(Initials(), now=AT)
    assert len(list(log.observations([Record(), Record(at=at), Record(at=AT + timedelta(days=1))]))) == 2
    assert log.refused == {reason: 1}


def test_a_password_of_digits_is_one() -> None:
    secret = {"db.password": 12345678, "api_key": 9876543210, "PWD": 4711.5}
    kept = {"max_tokens": 4096, "password": True, "passwords": 5000, "secret": 3, "cookie": 1_000_000}
    [found] = LogImport(Pseudonyms(b"k" * 32)).observations([Record(attributes=secret | kept)])
    assert {name: found.context[name] for name in kept} == kept
    for name in secret:
        assert str(found.context[name]).startswith("key-")

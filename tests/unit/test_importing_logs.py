"""Observations of imported event logs: sessions, outcomes, figures, and records that can't be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from maia.learner.importing import LogImport
from maia.learning.observations import Observation

AT = datetime(2026, 11, 2, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    """A record as a parser of logs makes it."""

    case: str = "case 1"
    activity: str = "Assign"
    at: datetime = AT
    resource: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Initials:
    """Makes pseudonyms that are easy to see."""

    def context(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.text(each) if isinstance(each, str) else each for name, each in value.items()}

    def text(self, text: str) -> str:
        return text.replace("ann@example.org", "A.")


def read(*records: Record, **options: Any) -> list[Observation]:
    return list(LogImport(Initials(), **options).observations(records))


def test_a_record_is_an_action_of_its_cases_session() -> None:
    first, second, other = read(
        Record(resource="ann@example.org", attributes={"product": "PC", "level": 2, "urgent": True}),
        Record(activity="Close", at=AT + timedelta(hours=1)),
        Record(case="case 2"),
    )
    assert (first.agent, first.action, first.outcome, first.at) == ("imported", "Assign", "success", AT)
    assert first.context == {
        "product": "PC", "level": 2, "urgent": True, "resource": "A.", "hour": 12, "weekday": 0,
    }  # fmt: skip
    assert first.session == second.session != other.session
    assert "case" not in first.session


@pytest.mark.parametrize(
    ("attributes", "outcome"),
    [
        ({}, "success"),
        ({"outcome": "OK"}, "success"),
        ({"outcome": True}, "success"),
        ({"outcome": "false"}, "failed"),
        ({"outcome": 0}, "failed"),
        ({"outcome": "timeout"}, "timeout"),
        ({"outcome": ""}, "success"),
        ({"lifecycle:transition": "complete"}, "success"),
        ({"lifecycle:transition": "ate_abort"}, "ate_abort"),
        ({"lifecycle:transition": "withdraw", "outcome": "ok"}, "success"),
    ],
)
def test_an_activity_succeeded_unless_the_log_says_otherwise(
    attributes: dict[str, Any], outcome: str
) -> None:
    (observed,) = read(Record(attributes=attributes))
    assert observed.outcome == outcome
    assert not observed.context.keys() & {"outcome", "lifecycle:transition"}


def test_the_outcome_may_have_another_name() -> None:
    (observed,) = read(Record(attributes={"result": "lost", "outcome": "ok"}), outcome="result", agent="desk")
    assert (observed.agent, observed.outcome, observed.context["outcome"]) == ("desk", "lost", "ok")


def test_figures_are_no_part_of_the_context() -> None:
    attributes = {"reward": "2.5", "cost:total": 3, "duration_s": "60", "cost": "", "hue": AT, "more": [1]}
    (observed,) = read(Record(attributes=attributes))
    assert (observed.reward, observed.cost, observed.duration_s) == (2.5, 3.0, 60.0)
    assert observed.context == {"hue": AT.isoformat(), "more": "[1]", "hour": 12, "weekday": 0}


def test_instants_become_utc() -> None:
    (observed,) = read(Record(at=AT.astimezone(timezone(timedelta(hours=-9)))))
    assert (observed.at.tzinfo, observed.context["hour"]) == (UTC, 12)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(at=AT.replace(tzinfo=None)), "at must say its time zone, such as 2026-11-29T12:00:00Z"),
        (Record(activity=" "), "action must be a text that is not empty"),
        (Record(attributes={"cost": "dear"}), "cost must be a finite number"),
        (Record(attributes={"cost": -1}), "cost cannot be less than 0"),
        (Record(attributes={"level": float("nan")}), "context.level must be a finite number"),
        (Record(attributes={"reward": "inf"}), "reward must be a finite number"),
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

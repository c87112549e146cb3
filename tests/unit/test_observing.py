"""Observations of events: what they say, what is malformed, and that nothing personal is left in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.events import Event
from maia.agents import AGENTS
from maia.cycle.cycle import StepRecord
from maia.learner.observing import KINDS, Observer, observations
from maia.learning.observations import Observation, checked
from maia.youtube.errors import Disposition, Transient, Verdict

AT = datetime(2026, 11, 2, 12, 30, tzinfo=UTC)
SESSION = "5f0c9a52-5c5c-4d3c-9a55-0e8bb1f6a0c1"


class Capitals:
    """Makes pseudonyms that are easy to see: capital letters, for names too."""

    def context(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {
            self.text(name): self.text(each) if isinstance(each, str) else each
            for name, each in value.items()
        }

    def text(self, text: str) -> str:
        return text.replace("192.0.2.1", "SOMEBODY")


def event(kind: str, payload: Mapping[str, Any], **others: Any) -> Event:
    fields: dict[str, Any] = {"id": 1, "at": AT, "agent": kind.partition(".")[0], "node": "n"}
    return Event(**fields | {"session": SESSION} | others, kind=kind, payload=payload)


def observe(*events: Event, **options: Any) -> list[Observation]:
    return observations(events, Capitals(), **options)


def test_a_step_is_an_observation_of_its_own_instant() -> None:
    step = StepRecord("feeds", "success", 3, 1.25, 0.5, {"found": 7, "source": "feeds"})
    (observed,) = observe(event("hunter.step", step.as_dict(AT - timedelta(hours=13))))
    assert observed == Observation(
        "hunter", observed.session, "feeds", AT - timedelta(hours=13), "success",
        {"found": 7, "source": "feeds", "hour": 23, "weekday": 6}, 3.0, 1.25, 0.5,
    )  # fmt: skip
    assert observed.succeeded


def test_a_failed_step_has_the_template_of_its_error_without_personal_data() -> None:
    refusal = Transient("search.list", Verdict(Disposition.TRANSIENT, "x", "192.0.2.1 is busy", status=503))
    step = StepRecord.failed("search:any", refusal, 1.0, 2.0, {"192.0.2.1": "from 192.0.2.1"})
    (observed,) = observe(
        event("hunter.step", step.as_dict(AT)), template=lambda text: text.partition(":")[2].strip()
    )
    assert observed.outcome == "network"
    assert observed.context == {
        "SOMEBODY": "from SOMEBODY", "hour": 12, "weekday": 0, "error": "HTTP 503 x: SOMEBODY is busy",
    }  # fmt: skip


def test_a_cycle_is_an_observation_of_what_was_known_before_it() -> None:
    payload = {
        "outcome": "done", "skipped": {"network": 2, "late": 5}, "units": {"search": 3, "general": 4},
        "new": 7, "samples": 10, "seconds": 2.5, "detail": None,
    }  # fmt: skip
    (observed,) = observe(event("tracker.cycle", payload))
    assert (observed.action, observed.outcome) == ("cycle", "success")
    assert (observed.reward, observed.cost, observed.duration_s) == (17, 7, 2.5)
    assert observed.context == {"hour": 12, "weekday": 0}


@pytest.mark.parametrize("outcome", ["idle", "closed", "interrupted"])
def test_what_was_not_carried_out_is_no_observation(outcome: str) -> None:
    assert observe(event("tracker.cycle", {"outcome": outcome})) == []
    assert observe(event("hunter.step", STEP | {"outcome": outcome})) == []


@pytest.mark.parametrize(("outcome", "error"), [("done", None), ("unavailable", "SOMEBODY is away")])
def test_only_a_cycle_that_failed_has_an_error(outcome: str, error: str | None) -> None:
    (observed,) = observe(event("hunter.cycle", {"outcome": outcome, "detail": "192.0.2.1 is away"}))
    assert observed.outcome == ("success" if outcome == "done" else outcome)
    assert observed.context.get("error") == error


def test_an_act_tells_what_was_chosen_with_its_category_by_name() -> None:
    context = {"kind": "video", "category_id": 10, "tag_1": "lofi"}
    (observed,) = observe(event("operator.act", {"action": "watch", "context": context}))
    assert (observed.agent, observed.action, observed.outcome) == ("operator", "watch", "success")
    assert observed.context == {
        "kind": "video", "category": "Music", "tag_1": "lofi", "hour": 12, "weekday": 0,
    }  # fmt: skip


def test_an_offer_is_an_observation_of_each_category_and_channel() -> None:
    payload = {"total": 5, "by_category": {"10": 4, "999": 1}, "by_channel": {"UCa": 5}}
    offered = observe(event("hunter.offer", payload))
    assert {(each.agent, each.action) for each in offered} == {("offer", "offer")}
    common = {"kind": "video", "total": 5, "hour": 12, "weekday": 0}
    assert [each.context for each in offered] == [
        {"category": "Music", "count": 4} | common,
        {"category": "999", "count": 1} | common,
        {"channel_id": "UCa", "count": 5} | common,
    ]


def test_the_session_is_a_short_hash_that_stays_the_same() -> None:
    step = StepRecord("feeds").as_dict(AT)
    observed = observe(
        event("hunter.step", step),
        event("hunter.cycle", {"outcome": "done"}),
        event("hunter.step", step, session=None, id=7),
        event("hunter.step", step, session=None, id=8),
    )
    sessions = [each.session for each in observed]
    assert sessions[0] == sessions[1]
    assert len({*sessions}) == 3
    assert {len(each) for each in sessions} == {16}
    assert SESSION not in str(observed)


def test_instants_become_utc() -> None:
    in_india = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    cycle, step = observe(
        event("hunter.cycle", {"outcome": "done"}, at=in_india),
        event("hunter.step", StepRecord("feeds").as_dict(in_india), at=in_india),
    )
    assert (cycle.at, cycle.at.tzinfo, cycle.context["hour"]) == (AT, UTC, 12)
    assert (step.at, step.at.tzinfo, step.context["hour"]) == (AT, UTC, 12)


def test_the_learners_own_events_are_not_observed_and_others_are_passed_over() -> None:
    assert "hunter.step" in KINDS
    assert not [kind for kind in KINDS if kind.startswith("learner.")]
    assert {f"{agent.name}.cycle" for agent in AGENTS} - {"learner.cycle"} <= set(KINDS)
    observer = Observer(Capitals())
    assert observer.observations([event("tracker.breakout", {}), event("hunter.plan", {})]) == []
    assert not observer.malformed


STEP = StepRecord("feeds", context={"batch": 1}).as_dict(AT)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("hunter.step", {}),
        ("hunter.step", STEP | {"action": " "}),
        ("hunter.step", STEP | {"action": 3}),
        ("hunter.step", STEP | {"outcome": None}),
        ("hunter.step", STEP | {"reward": "many"}),
        ("hunter.step", STEP | {"reward": True}),
        ("hunter.step", STEP | {"reward": 10**400}),
        ("hunter.step", STEP | {"cost": -1}),
        ("hunter.step", STEP | {"seconds": float("nan")}),
        ("hunter.step", STEP | {"at": "2026-11-02T12:00:00"}),
        ("hunter.step", STEP | {"at": "yesterday"}),
        ("hunter.step", STEP | {"at": 5}),
        ("hunter.step", STEP | {"context": [1]}),
        ("hunter.step", STEP | {"context": {"nested": {"a": 1}}}),
        ("hunter.step", STEP | {"context": {"batch": float("inf")}}),
        ("hunter.step", STEP | {"error": 7}),
        ("hunter.cycle", {"outcome": 1}),
        ("hunter.cycle", {"outcome": "done", "units": [1]}),
        ("hunter.cycle", {"outcome": "done", "units": {"search": "3"}}),
        ("hunter.cycle", {"outcome": "failed", "detail": {"a": 1}}),
        ("operator.act", {"context": {}}),
        ("operator.act", {"action": "watch", "context": 3}),
        ("hunter.offer", {"by_category": {"10": -1}}),
        ("hunter.offer", {"by_channel": "UC"}),
    ],
)
def test_a_malformed_payload_is_left_out_and_counted(kind: str, payload: Mapping[str, Any]) -> None:
    observer = Observer(Capitals())
    good = event("hunter.step", STEP)
    assert len(observer.observations([good, event(kind, payload), good])) == 2
    assert observer.malformed == {kind: 1}


def test_contexts_are_bounded() -> None:
    wide = {f"field {n:03}": "x" * 500 for n in range(100)}
    (observed,) = observe(event("hunter.step", STEP | {"context": wide, "error": "y" * 500}))
    assert len(observed.context) == 40
    assert max(len(str(value)) for value in observed.context.values()) == 200
    fields = {name: getattr(observed, name) for name in observed.__slots__}
    assert checked(**fields) == observed


SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ("action", "at", "outcome", "reward", "cost", "seconds", "context", "error", "skipped", "units", "detail",
     "total", "by_category", "by_channel")
)  # fmt: skip


@given(st.sampled_from(KINDS), st.dictionaries(NAMES, JSON))
def test_no_payload_raises_and_what_is_observed_is_sound(kind: str, payload: dict[str, Any]) -> None:
    observer = Observer(Capitals())
    observed = observer.observations([event(kind, payload), event(kind, STEP | payload)])
    assert len(observed) + observer.malformed.total() >= 2 or kind == "hunter.offer"
    for each in observed:
        fields = {name: getattr(each, name) for name in each.__slots__}
        assert checked(**fields) == each


@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), max_size=30))
def test_what_is_remembered_of_texts_changes_nothing(pairs: list[tuple[str, str]]) -> None:
    observer = Observer(Capitals())
    for name, value in [*pairs, *pairs]:
        fresh = observe(event("hunter.step", STEP | {"context": {name: value}}))
        assert observer.observations([event("hunter.step", STEP | {"context": {name: value}})]) == fresh

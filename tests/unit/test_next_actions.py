"""Next actions by agent: whole sessions with their ends, in bounded memory, and the same after a restart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning import next_actions
from maia.learning.next_action import END, STATE_VERSION
from maia.learning.next_actions import MOST_AGENTS, AgentActions, NextActions
from maia.learning.states import NewerState, StateError, pack

EVENTS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from("xyz"), st.sampled_from("abc")), max_size=40
)


def restored(learnt: NextActions) -> NextActions:
    return NextActions([AgentActions.from_state(each.state()) for each in learnt.places])


def end_all(learnt: NextActions, prefix: str = "") -> None:
    for agent, session in learnt.waiting(prefix):
        learnt.end(agent, session)


def likeliest(learnt: NextActions, agent: str, *actions: str) -> str:
    return learnt.predict(agent, actions)[0].action


def test_agents_are_kept_apart() -> None:
    learnt = NextActions()
    for number in range(10):
        learnt.wait("ann", f"log {number}", "ab")
        learnt.wait("bob", f"log {number}", "ac")
    end_all(learnt)
    assert (likeliest(learnt, "ann", "a"), likeliest(learnt, "bob", "a")) == ("b", "c")
    assert likeliest(learnt, "ann", "b") == END
    assert learnt.agents == {"bob": 30, "ann": 30}
    assert (learnt.count("ann", "b"), learnt.count("ann", "c"), learnt.count("eve", "a")) == (10, 0, 0)
    assert learnt.predict("eve", "a") == []


def test_a_session_is_learnt_when_it_has_ended_in_whatever_pieces_it_came() -> None:
    whole, pieces = NextActions(), NextActions()
    for number in range(20):
        whole.wait("ann", f"log {number}", "abcd")
    for piece in ("a", "bc", "d"):
        for number in range(20):
            pieces.wait("ann", f"log {number}", piece)
        pieces = restored(pieces)
    assert pieces.agents == {"ann": 0}
    end_all(whole)
    end_all(pieces)
    assert pieces.agents == whole.agents == {"ann": 100}
    assert pieces.predict("ann", "b") == whole.predict("ann", "b")


def test_only_the_sessions_of_one_log_end() -> None:
    learnt = NextActions()
    learnt.learn("ann", "acts", "ab")
    learnt.wait("ann", "one 1", "ab")
    learnt.wait("ann", "two 1", "ab")
    end_all(learnt, "one ")
    assert learnt.agents == {"ann": 5}
    assert learnt.waiting("") == [("ann", "two 1")]


def test_a_short_history_is_no_beginning() -> None:
    learnt = NextActions()
    for number in range(40):
        learnt.wait("ann", f"log {number}", "axy" if number % 2 else "xz")
        learnt.wait("ann", f"log more {number}", "axyaxy")
    end_all(learnt)
    assert likeliest(learnt, "ann", "x") == "y"


def test_the_agent_learnt_least_recently_makes_room() -> None:
    learnt = NextActions()
    for number in range(MOST_AGENTS):
        learnt.learn(f"agent {number}", "s", "ab")
    learnt.learn("agent 0", "s", "c")
    learnt = restored(learnt)
    learnt.learn("new", "s", "x")
    assert len(learnt.agents) == MOST_AGENTS
    assert list(learnt.agents)[:2] == ["new", "agent 0"]
    assert "agent 1" not in learnt.agents
    assert learnt.agents["new"] == 1
    assert [number for number, _ in learnt.changed] == [1]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_actions, "_MOST_WAITING", 10)
    monkeypatch.setattr(next_actions, "_LONGEST_WAITING", 5)
    learnt, noise = NextActions(), random.Random(3)
    for _ in range(500):
        learnt.wait("ann", f"log {noise.randrange(30)}", "ab")
        [place] = [each for each in learnt.places if each.turn]
        assert place.waiting_actions == sum(map(len, place.waiting.values())) <= 10
    end_all(learnt)
    assert learnt.count("ann", "a") == learnt.count("ann", "b") == 500, "nothing is lost"
    assert likeliest(learnt, "ann", "a") == "b"


def test_a_long_session_is_learnt_bit_by_bit_and_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_actions, "_LONGEST_WAITING", 5)
    learnt = NextActions()
    for _ in range(6):
        learnt.wait("ann", "log 1", "ab")
    assert learnt.agents == {"ann": 12}
    end_all(learnt)
    assert learnt.agents == {"ann": 13}


@settings(deadline=None, max_examples=40)
@given(EVENTS, EVENTS)
def test_restored_places_have_the_same_future(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]
) -> None:
    learnt = NextActions()
    for agent, session, action in before:
        learnt.wait(agent, session, [action])
    end_all(learnt, "x")
    copy = restored(learnt)
    for each in (learnt, copy):
        for agent, session, action in after:
            each.wait(agent, session, [action])
        end_all(each)
    assert copy.agents == learnt.agents
    assert [each.state() for each in copy.places] == [each.state() for each in learnt.places]


def test_a_place_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(StateError, match="damaged"):
        AgentActions.from_state(b"nonsense")
    with pytest.raises(NewerState):
        AgentActions.from_state(pack("next_action", STATE_VERSION + 1, []))
    old = [STATE_VERSION - 1, "ann", 1, 0, [], None]
    with pytest.raises(StateError, match="isn't read any more"):
        AgentActions.from_state(pack("next_action", STATE_VERSION - 1, old))

"""Next action: what is learnt, that it is bounded, and that a restored model has the same future."""

from __future__ import annotations

import random

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.next_action import END, NextAction, _Context

SESSIONS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8), max_size=12)


def likeliest(model: NextAction, history: list[str], attributes: dict[str, str] | None = None) -> str:
    return model.predict(history, 1, attributes)[0].action


def test_learns_a_cycle() -> None:
    model = NextAction()
    for _ in range(20):
        model.learn(["search", "batch", "sample"] * 3)
    assert likeliest(model, ["search"]) == "batch"
    assert likeliest(model, ["search", "batch"]) == "sample"
    assert model.predict(["search", "batch"])[0].probability > 0.8


def test_the_action_before_the_last_decides() -> None:
    model = NextAction()
    for _ in range(30):
        model.learn(["a", "wait", "x"])
        model.learn(["b", "wait", "y"])
    assert likeliest(model, ["a", "wait"]) == "x"
    assert likeliest(model, ["b", "wait"]) == "y"


def test_an_action_across_noise_decides() -> None:
    noise = random.Random(1)
    model = NextAction()

    def session() -> list[str]:
        kind = noise.choice("ab")
        return [kind, *(f"noise {noise.randrange(40)}" for _ in range(2)), f"end of {kind}"]

    for _ in range(300):
        model.learn(session())
    asked = [session() for _ in range(100)]
    right = sum(likeliest(model, each[:-1]) == each[-1] for each in asked)
    assert right >= 90


def test_attributes_decide() -> None:
    model = NextAction()
    for _ in range(40):
        for who in ("Ann", "Bob"):
            model.learn(["open", f"by {who}"], [{"resource": who}])
    assert likeliest(model, ["open"], {"resource": "Ann"}) == "by Ann"
    assert likeliest(model, ["open"], {"resource": "Bob"}) == "by Bob"
    assert model.predict(["open"], 2, {"never": "seen"})[0].probability < 0.6


def test_follows_a_process_that_changes() -> None:
    model = NextAction()
    for following in ["old"] * 300 + ["new"] * 100:
        model.learn(["wait", following])
    assert likeliest(model, ["wait"]) == "new"


def test_the_end_is_predicted() -> None:
    model = NextAction()
    for _ in range(20):
        model.learn(["open", "close"], ended=True)
    assert likeliest(model, ["open"]) == "close"
    assert likeliest(model, ["open", "close"]) == END
    model.learn([], ended=True)
    assert model.observed == 60


def test_sessions_side_by_side_are_learnt_like_one_after_the_other() -> None:
    model = NextAction()
    for number in range(30):
        one, two = f"one {number}", f"two {number}"
        for first, second in zip(["a", "b", "c"], ["x", "y", "z"], strict=True):
            model.update(one, first)
            model.update(two, second)
        model.end(one)
    model.update("asked", "a")
    assert model.predict_session("asked", 1)[0].action == "b"
    model.update("asked", "b")
    model.update("asked", "c")
    assert model.predict_session("asked", 1)[0].action == END
    before = model.observed
    model.end("unknown")
    assert model.observed == before


def test_the_attributes_of_the_last_event_are_kept_for_its_session() -> None:
    model = NextAction()
    for number in range(40):
        for who in ("Ann", "Bob"):
            model.update(f"{who} {number}", "open", {"resource": who})
            model.update(f"{who} {number}", f"by {who}")
    model.update("asked", "open", {"resource": "Bob"})
    assert model.predict_session("asked", 1)[0].action == "by Bob"


def test_names_the_likeliest_of_many_followers() -> None:
    model = NextAction()
    for number in range(400):
        model.learn(["start", f"action {number % 40}"])
    for _ in range(60):
        model.learn(["start", "action 33"])
    predictions = model.predict(["start"], 100)
    assert predictions[0].action == "action 33"
    assert 5 <= len(predictions) <= 8


def test_leaves_a_share_for_what_has_never_come() -> None:
    usual, endless = NextAction(), NextAction()
    for number in range(400):
        usual.learn(["start", f"action {number % 4}"])
        endless.learn(["start", f"action {number}"])
    assert sum(each.probability for each in usual.predict(["start"], 8)) > 0.95
    assert 0.4 < sum(each.probability for each in endless.predict(["start"], 8)) < 0.6, "every other was new"


def test_knows_nothing_at_first() -> None:
    assert NextAction().predict(["a"]) == []
    assert NextAction().predict_session("s") == []


def test_an_unknown_history_gets_what_is_frequent() -> None:
    model = NextAction()
    model.learn(["a", "b", "a", "b", "a"])
    assert likeliest(model, ["never", "seen"]) == "a"


@settings(deadline=None)
@given(SESSIONS, st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=8))
def test_probabilities_are_ranked_and_sum_to_one_at_most(sessions: list[list[str]], asked: list[str]) -> None:
    model = NextAction()
    for session in sessions:
        model.learn(session, ended=True)
    predictions = model.predict(asked, 100)
    shares = [each.probability for each in predictions]
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) <= 1 + 1e-9
    assert len({each.action for each in predictions}) == len(predictions)
    assert bool(predictions) == any(sessions)


@settings(deadline=None)
@given(SESSIONS, SESSIONS)
def test_a_restored_model_has_the_same_future(before: list[list[str]], after: list[list[str]]) -> None:
    model = NextAction(max_contexts=40)
    for number, session in enumerate(before):
        for action in session:
            model.update(f"session {number % 3}", action, {"resource": action})
    restored = NextAction.from_state(model.state())
    for each in (model, restored):
        for session in after:
            each.learn(session, [{"resource": "r"} for _ in session], ended=True)
        each.update("session 0", "a")
    assert restored.predict(["a", "b"]) == model.predict(["a", "b"])
    assert restored.predict_session("session 1") == model.predict_session("session 1")
    assert restored.state() == model.state()


@given(st.lists(st.integers(0, 30).map(str), max_size=300), st.sampled_from([10, 20, 100]))
def test_the_most_frequent_followers_are_at_hand(actions: list[str], most: int) -> None:
    context = _Context()
    for action in actions:
        context.add(action, most)
        highest = sorted(context.counts.values(), reverse=True)[:8]
        assert sorted((context.top or context.counts).values(), reverse=True) == highest
        assert all(context.counts[each] == count for each, count in context.top.items())
        assert len(context.counts) <= most
    assert context.total == len(actions)


def test_a_context_seen_once_survives_in_a_state() -> None:
    model = NextAction()
    model.learn(["a", "b", "c"])
    restored = NextAction.from_state(model.state())
    assert restored.contexts == model.contexts
    for each in (model, restored):
        each.learn(["a", "b", "d"])
    assert restored.predict(["a", "b"]) == model.predict(["a", "b"])
    assert {each.action for each in restored.predict(["a", "b"], 2)} == {"c", "d"}


def test_memory_is_bounded() -> None:
    noise = random.Random(2)
    model = NextAction(max_contexts=200, max_actions=50)
    sizes = []
    for number in range(600):
        model.learn([f"action {noise.randrange(2_000)}" for _ in range(6)], [{f"name {number}": number}])
        model.learn(["often", "follows"])
        assert model.contexts <= 200
        if number in (299, 599):
            sizes.append(len(model.state()))
    assert sizes[1] < sizes[0] * 1.5
    assert likeliest(model, ["often"]) == "follows"


def test_followers_of_one_context_are_bounded() -> None:
    model = NextAction()
    for number in range(1_000):
        model.learn(["start", f"action {number}"])
        model.learn(["start", "usual"])
    assert likeliest(model, ["start"]) == "usual"
    assert len(model.state()) < 60_000


def test_sessions_are_bounded() -> None:
    model = NextAction()
    for number in range(10_050):
        model.update(f"session {number}", "open")
    observed = model.observed
    assert observed == 10_050 + 50, "the sessions that were quiet longest have ended"
    assert model.open_sessions[0] == "session 50"
    model.end("session 0")
    assert model.observed == observed
    model.end("session 10049")
    assert model.observed == observed + 1


def test_fading_counts_survive_many_events() -> None:
    model = NextAction()
    model.learn(["tick", "tock"] * 5_000)
    restored = NextAction.from_state(model.state())
    assert likeliest(restored, ["tick"]) == "tock"


@pytest.mark.parametrize("kind", [{"max_contexts": 0}, {"max_actions": 0}])
def test_refuses_no_memory(kind: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NextAction(**kind)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"nonsense",
        zstandard.compress(b"\xc1"),
        zstandard.compress(msgpack.packb([1])),
        zstandard.compress(msgpack.packb([99, [1, 1, [], 1.0], [], [], [], []])),
        NextAction().state()[:-3],
    ],
)
def test_refuses_a_damaged_state(state: bytes) -> None:
    with pytest.raises(ValueError, match="state of"):
        NextAction.from_state(state)

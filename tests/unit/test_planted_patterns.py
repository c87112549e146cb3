"""Each detector finds a truth that was planted, says how strong it is, and finds no more than that."""

from __future__ import annotations

import random
from datetime import datetime

import pytest
from scipy.stats import fisher_exact, mannwhitneyu

from maia.learning.detector import Detector
from maia.learning.detectors.attributes import Attributes, attribute_of, conditions_of
from maia.learning.detectors.context_switches import ContextSwitches
from maia.learning.detectors.contrasts import Contrasts
from maia.learning.detectors.error_recoveries import ErrorRecoveries
from maia.learning.detectors.failure_modes import FailureModes
from maia.learning.detectors.optimizations import Optimizations, quicker_share
from maia.learning.detectors.preferences import Preferences
from maia.learning.detectors.significance import Screen, fisher_greater, sign_greater
from maia.learning.detectors.success_paths import SuccessPaths, paths_in
from maia.learning.detectors.tallies import Tallies
from maia.learning.detectors.task_sequences import TaskSequences
from maia.learning.detectors.tool_usage import ToolUsage
from maia.learning.evidence import Counts, confidence, strength
from maia.learning.observations import Observation
from maia.learning.patterns import Condition, Finding, Operator, PatternType
from tests.observing import BEGIN, after, batches, findings, step


def learn(detector: Detector[Observation], read: list[Observation], size: int = 500) -> dict[str, Finding]:
    """What was found, by its statement's conditions and action in words."""
    found = findings(detector, batches(read, size))
    return {each.pattern.statement: each for each in found}


def only(found: dict[str, Finding], **signature: object) -> Finding:
    """The one pattern with these in its signature."""
    (one,) = [each for each in found.values() if signature.items() <= each.pattern.signature.items()]
    return one


def support(finding: Finding) -> Counts:
    return sum(finding.evidence.values(), Counts())


# Failure modes.


def searches(seed: int, count: int, **rates: float) -> list[Observation]:
    """Searches that fail in 5 % of cases, or as `rates` says for an hour, a region, or one in the other."""
    drawn = random.Random(seed)
    made = []
    for number in range(count):
        hour, region = drawn.randrange(6), drawn.choice(("US", "KR", "JP"))
        facts = {f"hour{hour}", region, f"hour{hour}_{region}"}
        rate = max((rates[name] for name in facts if name in rates), default=0.05)
        outcome = drawn.choice(("quota", "quota", "timeout")) if drawn.random() < rate else "success"
        made.append(step(60.0 * number, "search", outcome, hour=hour, region=region, load=drawn.random()))
    return made


def test_a_condition_under_which_failures_are_likelier_is_found():
    found = learn(FailureModes(), searches(1, 6000, hour3=0.3))
    one = only(found, conditions=[["hour", "=", 3]])
    assert len(found) == 1
    assert one.pattern.data["rate"] == pytest.approx(0.3, abs=0.04)
    assert one.pattern.data["lift"] == pytest.approx(6, rel=0.3)
    assert next(iter(one.pattern.data["outcomes"])) == "quota"
    assert one.pattern.statement.startswith("hunter search fails ")
    assert one.pattern.statement.endswith(" times likelier between 3 and 4 h UTC")
    assert Condition("action", Operator.EQUALS, "search") in one.pattern.conditions
    counts = support(one)
    odds = 0.3 / 0.7 / (0.05 / 0.95)
    assert strength(counts.pos, counts.neg) == pytest.approx(odds / (1 + odds), abs=0.06)


def test_of_two_conditions_that_only_matter_together_the_pair_is_found():
    found = learn(FailureModes(), searches(2, 20_000, hour3_KR=0.6))
    pair = only(found, conditions=[["hour", "=", 3], ["region", "=", "KR"]])
    assert pair.pattern.data["lift"] > 5


def test_a_pair_that_adds_nothing_to_one_of_its_conditions_is_not_found():
    found = learn(FailureModes(), searches(3, 20_000, hour3=0.5))
    assert [each.pattern.signature["conditions"] for each in found.values()] == [[["hour", "=", 3]]]


def test_a_part_of_the_day_is_found_before_its_hours_have_enough():
    drawn = random.Random(11)
    read = []
    for number in range(24 * 30):
        hour, weekday = number % 24, number // 24 % 7
        failed = drawn.random() < (0.6 if hour < 6 else 0.05)
        outcome = "timeout" if failed else "success"
        read.append(step(3600.0 * number, "search", outcome, hour=hour, weekday=weekday))
    found = learn(FailureModes(), read, size=24)
    night = [["hour", ">=", 0], ["hour", "<", 6]]
    assert [each.pattern.signature["conditions"] for each in found.values()] == [night]
    assert only(found).pattern.statement.endswith("between 0 and 6 h UTC")


def test_a_measured_value_is_found_by_its_bin():
    drawn = random.Random(4)
    read = []
    for number in range(5000):
        load = drawn.uniform(0.1, 4)
        failed = drawn.random() < (0.4 if load >= 2 else 0.04)
        read.append(step(60.0 * number, "search", "timeout" if failed else "success", load=load))
    found = learn(FailureModes(), read)
    assert only(found, conditions=[["load", ">=", 2.0], ["load", "<", 5.0]])


def test_a_difference_between_days_is_not_taken_for_one_between_conditions():
    # On the bad day nearly all is KR, on the good one nearly nothing; the region itself does nothing.
    drawn = random.Random(5)
    read = []
    for number in range(4000):
        bad = number >= 2000
        region = "KR" if drawn.random() < (0.9 if bad else 0.1) else "US"
        failed = drawn.random() < (0.5 if bad else 0.02)
        read.append(step(number * 43.2, "search", "quota" if failed else "success", region=region))
    assert {each.day for each in read} == {BEGIN.date(), after(86400).date()}
    assert learn(FailureModes(), read, size=250) == {}


def test_a_statement_that_turns_false_gains_evidence_against_it():
    detector = FailureModes()
    assert len(learn(detector, searches(6, 6000, hour3=0.3))) == 1
    later = [
        Observation(
            each.agent, each.session, each.action, each.at.replace(month=12), each.outcome, each.context
        )
        for each in searches(7, 6000, hour3=0.001)
    ]
    (finding,) = findings(detector, batches(later, 500))
    counts = support(finding)
    assert counts.neg >= counts.pos


# Success paths.


def sessions(seed: int, count: int) -> list[Observation]:
    """Sessions that end well in 90 % if `check` came before `apply`, else in 50 %."""
    drawn = random.Random(seed)
    made = []
    for number in range(count):
        actions = [drawn.choice(("look", "ask")), "apply", "check"]
        drawn.shuffle(actions)
        good = 0.9 if actions.index("check") < actions.index("apply") else 0.5
        actions.append("end")
        for at, action in enumerate(actions):
            last = action == "end"
            outcome = "lost" if last and drawn.random() > good else "success"
            made.append(step(3600.0 * number + at, action, outcome, session=f"s{number}"))
    return made


def test_a_path_that_raises_success_is_found():
    found = learn(SuccessPaths(), sessions(1, 3000))
    one = only(found, path=["check", "apply"])
    assert one.pattern.type is PatternType.SUCCESS_PATH
    assert one.pattern.data["rate"] == pytest.approx(0.9, abs=0.03)
    assert one.pattern.data["base_rate"] == pytest.approx(0.5, abs=0.05)
    assert one.pattern.action == "check, then apply"
    assert one is max(found.values(), key=lambda each: each.pattern.data["lift"])
    assert all("check" in each.pattern.action or "apply" in each.pattern.action for each in found.values())
    counts = support(one)
    assert confidence(counts.pos, counts.neg) > 0.8


def rewarded(seed: int, count: int) -> list[Observation]:
    """Sessions that all end well, and bring more after `search`, if that succeeded."""
    drawn = random.Random(seed)
    made = []
    for number in range(count):
        found = drawn.random() < 0.5
        steps = [("feeds", "success", drawn.random()), ("charts", "success", drawn.random())]
        steps.insert(drawn.randrange(2), ("search", "success" if found else "network", 3.0 * found))
        steps.append(("cycle", "success", 0.0))
        for at, (action, outcome, reward) in enumerate(steps):
            at_s = 1800.0 * number + at
            made.append(step(at_s, action, outcome, session=f"s{number}", reward=reward, goal="find"))
    return made


def test_a_path_that_brings_more_than_usual_is_found():
    found = learn(SuccessPaths(), rewarded(1, 2000))
    one = only(found, path=["search"])
    assert one.pattern.signature["success"] == "reward"
    assert one.pattern.statement.startswith("the hunter's sessions for find bring more than usual ")
    assert one.pattern.data["rate"] > 0.9
    assert one.pattern.data["base_rate"] < 0.1
    assert all("search" in each.pattern.action for each in found.values())


def test_rewards_that_follow_no_path_tell_of_none():
    drawn = random.Random(8)
    made = []
    for number in range(2000):
        actions = drawn.sample(("feeds", "charts", "search", "uploads"), 3)
        for at, action in enumerate(actions):
            reward = drawn.expovariate(1.0)
            made.append(step(1800.0 * number + at, action, session=f"s{number}", reward=reward))
    assert learn(SuccessPaths(), made) == {}


def test_paths_of_a_session_keep_its_order():
    assert paths_in(("a", "b", "a")) == [
        ("a",), ("b",), ("a", "b"), ("a", "a"), ("b", "a"), ("a", "b", "a"),
    ]  # fmt: skip


# Preferences.


def test_what_an_operator_favours_and_avoids_is_found():
    drawn = random.Random(1)
    read = []
    for day in range(40):
        for number in range(60):
            category, tag = drawn.choice(("Music", "News", "Games")), drawn.choice("abcd")
            at = 86400.0 * day + number
            offered = {"category": category, "tag_1": tag, "count": 2}
            read.append(step(at, "offer", agent="offer", **offered))
            if drawn.random() < (0.3 if category == "Music" else 0.03):
                read.append(step(at, "watch", agent="operator", category=category, tag_2=tag))
            if drawn.random() < (0.3 if tag == "b" else 0.03):
                read.append(step(at, "park", agent="operator", category=category, tag_3=tag))
    found = learn(Preferences(), read)
    liked = only(found, direction="favours", conditions=[["category", "=", "Music"]])
    assert only(found, direction="avoids", conditions=[["tag", "=", "b"]])
    assert len(found) == 2
    assert liked.pattern.data["lift"] == pytest.approx(10, rel=0.35)
    assert support(liked).pos > 5 * support(liked).neg


# Error recoveries.


def outage(number: int, *steps: tuple[float, str, str], error: str = "") -> list[Observation]:
    begin = 20 * 86400.0 * number
    return [
        step(begin + at, action, outcome, session=f"s{number}", **({"error": error} if error else {}))
        for at, action, outcome in steps
    ]


def test_what_helps_after_an_error_is_ranked():
    read = []
    for number in range(40):
        refresh = [(0, "upload", "expired"), (1, "refresh", "success"), (2, "upload", "success")]
        again = [(10, "upload", "expired"), (11, "upload", "expired" if number % 4 else "success")]
        read += outage(number, *refresh, *again)
    found = learn(ErrorRecoveries(), read)
    best, at_once = only(found, recovery="refresh"), only(found, recovery="try again at once")
    assert (support(best).pos, support(best).neg) == (40, 0)
    assert support(at_once).pos == 10
    assert support(at_once).neg == 30
    assert (best.pattern.data["rank"], at_once.pattern.data["rank"]) == (1, 2)
    assert best.pattern.statement == "after hunter upload failed with expired, refresh helped nearly always"


def test_what_helps_no_more_than_anything_else_is_no_recovery():
    drawn = random.Random(1)
    # Sessions by turns, so that a failure at the end of one is not followed up in the next.
    read = [step(at - 3, "look", session="ab"[at % 2]) for at in range(3)]
    for number in range(400):
        between = drawn.choice(("feeds", "uploads", "store"))
        again = "success" if drawn.random() < 0.8 else "quota"
        read += outage(number, (0, "search", "quota"), (1, between, "success"), (2, "search", again))
    assert learn(ErrorRecoveries(), read) == {}


@pytest.mark.parametrize(
    ("waited_s", "recovery"),
    [
        (1, "try again at once"), (30, "wait seconds"), (900, "wait minutes"), (7200, "wait an hour"),
        (60_000, "wait until the next day"),
    ],
)  # fmt: skip
def test_waiting_is_a_recovery(waited_s: float, recovery: str):
    read = []
    for number in range(10):
        read += outage(number, (0, "search", "quota"), (waited_s, "search", "success"))
    (one,) = learn(ErrorRecoveries(), read).values()
    assert one.pattern.action == recovery
    assert support(one).pos == 10


def test_a_substitute_is_credited_if_the_failed_action_is_left_alone():
    read = []
    for number in range(10):
        rest = [(at, f"other{at}", "success") for at in range(2, 7)]
        read += outage(number, (0, "search", "quota"), (1, "feeds", "success"), *rest)
    assert only(learn(ErrorRecoveries(), read), recovery="feeds", action="search", outcome="quota")


def test_actions_that_fail_after_an_error_are_blamed():
    read = []
    for number in range(10):
        read += outage(
            number, (0, "search", "quota"), (1, "proxy", "refused"), (2, "search", "success"),
        )  # fmt: skip
    blamed = only(learn(ErrorRecoveries(), read), recovery="proxy", action="search")
    assert (support(blamed).pos, support(blamed).neg) == (0, 10)


def test_error_texts_count_by_their_template():
    read = []
    for number in range(10):
        read += outage(
            number, (0, "search", "failed"), (1, "search", "success"), error=f"line {number}: no",
        )  # fmt: skip
    (one,) = learn(ErrorRecoveries(), read).values()
    assert one.pattern.signature["error"] == "line #: no"


def test_sessions_by_turns_do_not_recover_each_other():
    read = []
    for number in range(0, 40, 2):
        for at, (session, action, outcome) in enumerate(
            (
                ("one", "a", "success"),
                ("two", "b", "failed"),
                ("one", "a", "success"),
                ("two", "b", "success"),
            )
        ):
            read.append(step(60.0 * number + at, action, outcome, session=session))
    (one,) = learn(ErrorRecoveries(), read[4:]).values()
    assert one.pattern.action == "try again at once"


def test_an_agent_that_works_session_by_session_recovers_in_the_next():
    read = []
    for number in range(10):
        read += [
            step(100_000.0 * number, "search", "quota", session=f"a{number}"),
            step(100_000.0 * number + 900, "search", session=f"b{number}"),
        ]
    (one,) = learn(ErrorRecoveries(), read).values()
    assert (one.pattern.action, support(one).pos) == ("wait minutes", 10)


# Tool usage.


def test_tools_are_told_of_by_their_reward_per_cost_in_each_context():
    drawn = random.Random(1)
    rates = {("slices", "US"): 0.5, ("new", "US"): 0.5, ("slices", "KR"): 0.1, ("new", "KR"): 0.8}
    read = []
    for number in range(4000):
        arm, region = drawn.choice(("slices", "new")), drawn.choice(("US", "KR"))
        found = float(drawn.random() < rates[arm, region]) * 10
        read.append(step(60.0 * number, "search", reward=found, cost=2.0, arm=arm, region=region, id=number))
    found = learn(ToolUsage(), read)
    for (arm, region), rate in rates.items():
        one = only(found, tool=arm, conditions=[["region", "=", region]])
        counts = support(one)
        assert counts.reward / counts.support == pytest.approx(5 * rate, abs=0.3)
        assert counts.pos / counts.support == pytest.approx(rate, abs=0.05)
        assert one.pattern.action == arm
    assert only(found, tool="new", conditions=[])
    assert len(found) == 6


def test_a_context_in_which_nothing_differs_is_not_told_of():
    drawn = random.Random(1)
    read = [
        step(
            60.0 * number, drawn.choice("ab"), reward=float(drawn.random() < 0.4),
            region=drawn.choice(("US", "KR")), goal="g",
        )
        for number in range(4000)
    ]  # fmt: skip
    found = learn(ToolUsage(), read)
    assert [each.pattern.signature["conditions"] for each in found.values()] == [[], []]
    assert {each.pattern.signature["task"] for each in found.values()} == {"g"}


# Optimizations.


def test_the_quicker_method_is_found_with_its_ratio():
    drawn = random.Random(1)
    read = []
    for number in range(600):
        method = drawn.choice(("bulk", "single"))
        took = drawn.lognormvariate(0, 0.5) * (1 if method == "bulk" else 2)
        read.append(step(60.0 * number, method, duration_s=took, goal="store"))
    found = learn(Optimizations(), read, size=100)
    one = only(found, better="bulk", worse="single")
    assert len(found) == 1
    assert one.pattern.data["ratio"] == pytest.approx(2, rel=0.15)
    assert one.pattern.action == "use bulk instead of single"
    counts = support(one)
    # P(single takes longer) for log-normals of this distance: Φ(ln 2 / (0.5·√2)) = 0.837.
    assert counts.pos / counts.support == pytest.approx(0.837, abs=0.04)


def test_a_method_that_often_fails_is_not_better_for_failing_quickly():
    drawn = random.Random(2)
    read = []
    for number in range(600):
        method = drawn.choice(("hasty", "calm"))
        failed = method == "hasty" and drawn.random() < 0.9
        took = 0.1 if failed else drawn.uniform(1, 2)
        read.append(step(60.0 * number, method, "failed" if failed else "success", duration_s=took, goal="g"))
    assert [each.pattern.signature["better"] for each in learn(Optimizations(), read).values()] == ["calm"]


def test_costs_are_compared_by_reward_where_there_are_no_durations():
    drawn = random.Random(3)
    read = []
    for number in range(400):
        arm = drawn.choice(("wide", "narrow"))
        reward = drawn.uniform(8, 12) if arm == "wide" else drawn.uniform(2, 3)
        read.append(step(60.0 * number, "search", reward=reward, cost=100.0, arm=arm))
    (one,) = learn(Optimizations(), read).values()
    assert "wide is cheaper than narrow" in one.pattern.statement


def test_a_method_that_wins_with_the_higher_median_is_not_said_to_be_quicker_by_a_factor():
    drawn = random.Random(3)
    read = []
    for number in range(4000):
        method = drawn.choice(("often", "rarely"))
        usual = drawn.random() < 0.6
        took = (11.0 if usual else 1.0) if method == "often" else (9.0 if usual else 20.0)
        read.append(step(60.0 * number, "search", duration_s=took, arm=method))
    (one,) = learn(Optimizations(), read, size=1000).values()
    assert one.pattern.data["ratio"] <= 1
    assert one.pattern.statement.endswith("often is quicker than rarely more often than not")


def test_the_share_of_quicker_pairs_is_that_of_scipy():
    import numpy as np

    drawn = random.Random(4)
    one, other = (np.sort([float(drawn.randrange(9)) for _ in range(size)]) for size in (17, 40))
    expected = mannwhitneyu(other, one).statistic / (len(one) * len(other))
    assert quicker_share(one, other) == pytest.approx(expected)


# Context switches.


def test_a_frequent_switch_and_its_cost_are_found():
    drawn = random.Random(1)
    topic, read, switched = "chess", [], False
    for number in range(6000):
        read.append(step(number, "work", topic=topic, duration_s=3.0 if switched else 1.0))
        others = [each for each in ("chess", "cats", "news", "music") if each != topic]
        usual = "cats" if topic == "chess" else None
        switched = drawn.random() < 0.3
        if switched:
            topic = usual if usual and drawn.random() < 0.9 else drawn.choice(others)
    found = learn(ContextSwitches(), read)
    one = only(found, **{"from": "chess", "to": "cats"})
    assert one.pattern.data["share_of_switches"] == pytest.approx(0.93, abs=0.03)
    assert one.pattern.data["share"] == pytest.approx(0.28, abs=0.03)
    assert one.pattern.data["extra_s"] == pytest.approx(1.4, abs=0.3)
    assert support(one).reward < 0


# Task sequences.


def chain(seed: int, count: int, agent: str = "hunter") -> list[Observation]:
    """After `feeds, uploads` comes `search` in 90 %; all else is drawn evenly."""
    drawn = random.Random(seed)
    actions: list[str] = []
    for _ in range(count):
        if actions[-2:] == ["feeds", "uploads"] and drawn.random() < 0.9:
            actions.append("search")
        else:
            actions.append(drawn.choice(("feeds", "uploads", "store", "plan", "rest")))
    return [
        step(number, action, session=f"s{number // 50}", agent=agent) for number, action in enumerate(actions)
    ]


def test_what_usually_follows_is_found():
    found = learn(TaskSequences(), chain(1, 8000))
    one = only(found, after=["feeds", "uploads"], then="search", gap=0)
    assert one.pattern.data["share"] == pytest.approx(0.9, abs=0.05)
    assert one.pattern.statement == "after feeds, uploads, the hunter goes on with search about 9 in 10 times"
    assert Condition("last_action", Operator.EQUALS, "uploads") in one.pattern.conditions
    assert Condition("last_action_2", Operator.EQUALS, "feeds") in one.pattern.conditions
    counts = support(one)
    assert counts.pos / counts.support == pytest.approx(one.pattern.data["share"], abs=0.02)
    assert not [each for each in found.values() if len(each.pattern.signature["after"]) == 3]


def test_what_follows_after_any_one_action_is_found():
    drawn = random.Random(2)
    read = []
    for number in range(3000):
        middle = drawn.choice("abcdefgh")
        actions = ["open", middle, "close"] if drawn.random() < 0.5 else [middle, drawn.choice("abcdefgh")]
        read += [step(10 * number + at, each) for at, each in enumerate(actions)]
    found = learn(TaskSequences(), read)
    assert only(found, after=["open"], gap=1, then="close")


def test_a_gap_that_one_action_always_fills_is_not_told_of():
    read = [step(number, "abc"[number % 3]) for number in range(600)]
    found = learn(TaskSequences(), read)
    told = [each.pattern.signature for each in found.values()]
    assert sorted((*each["after"], each["then"]) for each in told) == [("a", "b"), ("b", "c"), ("c", "a")]


def test_all_that_came_instead_counts_against_a_sequence():
    read = chain(3, 6000)
    detector = TaskSequences()
    found = learn(detector, read)
    one = only(found, after=["feeds", "uploads"], then="search", gap=0)
    came = others = 0
    for before, now, then in zip(read, read[1:], read[2:], strict=False):
        if before.session == then.session and (before.action, now.action) == ("feeds", "uploads"):
            came += then.action == "search"
            others += then.action != "search"
    assert (support(one).pos, support(one).neg) == (came, others)


# What they are built on.


def test_fishers_test_agrees_with_scipy():
    drawn = random.Random(1)
    for _ in range(200):
        a, b, c, d = (drawn.randrange(40) for _ in range(4))
        expected = fisher_exact([[a, b], [c, d]], alternative="greater").pvalue
        found = fisher_greater(a, b, c, d)
        assert found == pytest.approx(expected) if found < 1 else expected > 0.04


def test_the_sign_test_is_exact():
    assert sign_greater(8, 2) == pytest.approx(56 / 1024)
    assert sign_greater(0, 5) == 1


def test_looks_at_a_candidate_become_rarer_and_stricter():
    screen: Screen[str] = Screen(10)
    assert not screen.due("a", 9)
    assert screen.due("a", 10)
    screen.look("a", 10, 0.5)
    assert not screen.due("a", 14)
    assert screen.due("a", 15)
    for _ in range(9):
        screen.look("a", 15, 0.5)
    screen.look("a", 15, 0.0004)
    assert screen.settle() == [], "the eleventh look spends 1/132 of the level"
    screen.look("a", 15, 0.0001)
    assert screen.settle() == ["a"]
    assert screen.settle() == []


def test_many_candidates_make_each_harder_to_accept():
    screen: Screen[int] = Screen(1)
    for number in range(100):
        screen.look(number, 5, 0.9)
    screen.look(100, 5, 0.001)
    assert screen.settle() == []
    for number in range(101, 105):
        screen.look(number, 5, 0.0005)
    assert sorted(screen.settle()) == [100, 101, 102, 103, 104]


def test_blocks_give_the_terms_of_mantel_and_haenszel():
    contrasts = Contrasts(100, least_support=1)
    records = [([("x",)], True)] * 30 + [([("x",)], False)] * 10 + [([], True)] * 20 + [([], False)] * 40
    contrasts.add(("s",), 1, after(0), records)
    contrasts.end_batch()
    ((key, days),) = contrasts.take()
    assert key == (("s",), ("x",))
    (counts,) = days.values()
    assert (counts.pos, counts.neg) == (30 * 40 // 100, 10 * 20 // 100)


def test_fractions_of_evidence_are_carried_on():
    tallies: Tallies[str] = Tallies(10)
    for _ in range(10):
        tallies.add("a", 1, 0.3, 0.25, after(0))
    taken = [tallies.take(["a"])]
    for _ in range(4):
        tallies.add("a", 2, 0.25, 0.0, after(0))
        taken.append(tallies.take(["a"]))
    counts = [each["a"].values() for each in taken if each]
    assert sum(each.pos for days in counts for each in days) == 4
    assert sum(each.neg for days in counts for each in days) == 2


def test_the_least_supported_are_evicted_but_not_what_was_reported():
    tallies: Tallies[str] = Tallies(4)
    tallies.add("reported", 1, 1, 0, after(0))
    tallies.take(["reported"])
    for number, key in enumerate("abcdef"):
        tallies.add(key, 1, number + 2, 0, after(0))
    assert tallies.trim() == ["a", "b", "c"]
    assert "reported" in tallies
    assert tallies.error == 4


def test_evidence_of_many_days_waits_in_bounded_memory():
    tallies: Tallies[str] = Tallies(4)
    for day in range(1, 101):
        tallies.add("a", day, 1, 0, datetime.fromordinal(day).replace(tzinfo=BEGIN.tzinfo))
    days = tallies.take(["a"])["a"]
    assert len(days) == 8
    assert sum(each.pos for each in days.values()) == 100


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, ["x = 3"]), (3.0, ["x >= 2", "x < 5"]), (True, ["x = true"]), ("a", ["x = a"]),
        (None, ["x = null"]),
        (0.0, ["x = 0"]), (-0.3, ["x > -0.5", "x <= -0.2"]), (61, ["x >= 50", "x < 100"]),
        (1e300, ["x >= 5e+15"]), (-1e300, ["x <= -5e+15"]), (1e-12, ["x > 0", "x < 1e-09"]),
        (-1e-12, ["x > -1e-09", "x < 0"]), ("\x1f[", ["x = \x1f["]),
    ],
)  # fmt: skip
def test_attributes_are_conditions_that_hold(value: str | float | bool | None, words: list[str]):
    attribute = attribute_of("x", value)
    assert attribute is not None
    conditions = conditions_of(attribute)
    assert sorted(map(str, conditions)) == sorted(words)
    assert all(condition.holds({"x": value}) for condition in conditions)


def test_equal_values_of_different_types_are_told_apart():
    attributes = Attributes()
    assert len({attributes.one("x", value) for value in (True, 1, 1.0)}) == 3
    assert attributes.of({"x": float("nan")}) == []

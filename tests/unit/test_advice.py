"""What is suggested to people, and on what grounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maia.learning.advice import Advice, AgentCycles, Believed, advise
from maia.learning.detectors.attributes import plain
from maia.learning.patterns import Condition, Operator
from maia.learning.priors import AGENT, GOAL


def advice(
    cycles: Sequence[AgentCycles] = (), patterns: Sequence[Believed] = (), **settings: Any
) -> list[Advice]:
    return advise(cycles, patterns, **({"least_confidence": 0.7, "intervals_s": {}} | settings))


def pattern(type_: str, signature: dict[str, object], **known: Any) -> Believed:
    fields = {"statement": "it is so", "confidence": 0.9, "doubt": 0.0, "support": 40, "mean_reward": 1.0}
    return Believed(f"id of {signature}", type_, signature, **(fields | known))


def arm(name: str, mean: float, **known: Any) -> Believed:
    said = {"agent": AGENT, "task": GOAL, "field": "action", "tool": name, "conditions": []}
    return pattern("tool_usage", said, mean_reward=mean, **known)


def test_an_agent_that_mostly_idles_should_run_less_often():
    (found,) = advice([AgentCycles("hunter", 600, 100, 85, 0)], intervals_s={"tracker": 900})
    assert (found.category, found.key) == ("schedule", "advice interval hunter")
    assert found.command == "PLEIADES_AGENTS__INTERVALS_S=hunter=1200,tracker=900"
    assert found.evidence == {"patterns": [], "cycles": 100, "idle": 85, "late": 0}


def test_an_agent_that_leaves_work_over_should_run_more_often():
    (found,) = advice([AgentCycles("tracker", 600, 100, 0, 60)])
    assert found.command == "PLEIADES_AGENTS__INTERVALS_S=tracker=300"


def test_too_few_cycles_and_bounds_of_intervals_keep_it_silent():
    assert advice([AgentCycles("hunter", 600, 49, 49, 0)]) == []
    assert advice([AgentCycles("hunter", 6 * 3600, 100, 100, 0)]) == []
    assert advice([AgentCycles("tracker", 60, 100, 0, 100)]) == []


def test_failures_at_some_hours_are_told_with_their_pattern():
    at_three, of_arm = Condition("hour", Operator.EQUALS, 3), Condition("arm", Operator.EQUALS, "x")
    by_hour, by_arm, by_both = (
        pattern(
            "failure_mode",
            {"agent": "hunter", "action": "feeds", "conditions": plain(conditions)},
            statement="feeds fails 3 times likelier between 3 and 4 h UTC",
        )
        for conditions in [(at_three,), (of_arm,), (at_three, of_arm)]
    )
    (found,) = advice(patterns=[by_hour, by_arm, by_both])
    assert found.text == (
        "feeds fails 3 times likelier between 3 and 4 h UTC: schedule the hunter's feeds for other times."
    )
    assert (found.category, found.evidence["patterns"]) == ("reliability", [by_hour.id])
    assert advice(patterns=[by_hour], least_confidence=0.95) == []


def test_an_arm_that_never_pays_should_be_off_unless_it_is():
    poor = arm("search:regions", 0.0, confidence=0.0, doubt=0.9)
    arms = [arm("search:slices", 9.0), arm("uploads", 0.1), poor]
    (found,) = advice(patterns=arms, arms_off=["charts"])
    assert found.command == "PLEIADES_DISCOVERY__OFF=charts,search:regions"
    assert found.evidence["patterns"] == [poor.id]
    assert advice(patterns=arms, arms_off=["search:regions"]) == []


def test_an_arm_that_is_merely_uncertain_stays_on():
    assert advice(patterns=[arm("search:slices", 9.0), arm("search:date", 0.0, doubt=0.6)]) == []


def test_a_host_at_its_limit_every_week_is_told_of():
    busy = pattern(
        "seasonal_profile", {"series": "node-1 cpu_percent"},
        data={"highest": 97.0, "highest_hour": "Monday 03:00 UTC"},
    )  # fmt: skip
    calm = pattern("seasonal_profile", {"series": "node-2 cpu_percent"}, data={"highest": 40.0})
    (found,) = advice(patterns=[busy, calm])
    assert found.text.startswith("node-1 is regularly at its limit around Monday 03:00 UTC")


def test_a_tool_that_brings_far_more_is_preferred_in_the_same_context_only():
    def tool(name: str, mean: float, conditions: Sequence[object] = ()) -> Believed:
        said = {"agent": "bot", "task": "summary", "field": "tool", "tool": name, "conditions": conditions}
        return pattern("tool_usage", said, mean_reward=mean)

    night = plain((Condition("night", Operator.EQUALS, True),))
    (found,) = advice(patterns=[tool("b", 1.0), tool("a", 3.0), tool("c", 9.0, night)])
    assert found.text == "For the bot's summary, the tool a brings far more for its cost than b: prefer it."
    assert advice(patterns=[tool("a", 3.0), tool("b", 2.0)]) == []


def test_actions_without_a_common_goal_are_no_alternatives():
    def action(name: str, mean: float, task: str | None) -> Believed:
        said = {"agent": "tracker", "task": task, "field": "action", "tool": name, "conditions": []}
        return pattern("tool_usage", said, mean_reward=mean)

    assert advice(patterns=[action("feed_counts", 160.0, None), action("channels", 12.0, None)]) == []
    assert len(advice(patterns=[action("feeds", 160.0, "find"), action("charts", 12.0, "find")])) == 1


def test_advice_on_tools_names_its_context_and_is_not_repeated_for_each():
    def tool(name: str, mean: float, conditions: Sequence[object] = ()) -> Believed:
        said = {"agent": "imported", "task": "find", "field": "action", "tool": name}
        return pattern("tool_usage", {**said, "conditions": [*conditions]}, mean_reward=mean)

    night, day = (plain((Condition("night", Operator.EQUALS, value),)) for value in (True, False))
    everywhere = [tool("a", 3.0), tool("b", 1.0)]
    at_night = [tool("a", 3.0, night), tool("b", 1.0, night)]
    by_day = [tool("b", 9.0, day), tool("a", 1.0, day)]
    general, by_day_only = (each.text for each in advice(patterns=[*at_night, *by_day, *everywhere]))
    assert (
        general == "For the imported log's find, the action a brings far more for its cost than b: prefer it."
    )
    assert "the action b brings far more for its cost than a when night = false" in by_day_only


def test_the_text_does_not_change_with_the_counts():
    one = advice([AgentCycles("hunter", 600, 100, 85, 0)])
    other = advice([AgentCycles("hunter", 600, 400, 390, 0)])
    assert one[0].text == other[0].text
    assert one[0].evidence != other[0].evidence

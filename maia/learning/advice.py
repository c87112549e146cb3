"""Advice to people, from what patterns and the agents' own cycles say. Pure: nothing is changed here.

A text stays the same while what it says does, so that advice that somebody has closed does not come back
with every new count; the figures are in its evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from maia.learning.detectors.wording import in_words, who
from maia.learning.patterns import Condition, Operator, PatternType
from maia.learning.priors import AGENT as DISCOVERY

KEY_PREFIX: Final = "advice "
_LEAST_CYCLES: Final = 50
_IDLE_SHARE: Final = 0.8
_LATE_SHARE: Final = 0.5
_SHORTEST_S: Final = 60.0
_LONGEST_S: Final = 6 * 3600.0
_LEAST_SUPPORT: Final = 20
_WORTHLESS: Final = 0.02
"""Less than this share of what the best arm brings is not worth its part of the exploration."""
_BETTER: Final = 2.0
_MOST_OF_A_KIND: Final = 5
_TASK: Final = ("agent", "task", "field", "conditions")
"""What of a pattern of tool usage says for what and in which context tools are compared."""
_BUSY_SERIES: Final = {"cpu_percent": 90.0, "memory_percent": 90.0, "temperature_c": 85.0}


@dataclass(frozen=True, slots=True)
class Advice:
    """A suggestion: its key, for whom it is, what it says, what to run or set, and on what grounds."""

    key: str
    category: str
    text: str
    command: str | None
    evidence: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AgentCycles:
    """An agent's last cycles: how many there were, how many had nothing to do, and how many left work."""

    agent: str
    interval_s: float
    cycles: int
    idle: int
    late: int


@dataclass(frozen=True, slots=True)
class Believed:
    """A pattern as far as advice needs it. `doubt` is the confidence that it mostly proves false."""

    id: str
    type: str
    signature: Mapping[str, object]
    statement: str
    confidence: float
    doubt: float
    support: int
    mean_reward: float
    data: Mapping[str, object] = field(default_factory=dict)


def advise(
    cycles: Iterable[AgentCycles],
    patterns: Sequence[Believed],
    *,
    least_confidence: float,
    intervals_s: Mapping[str, float],
    arms_off: Sequence[str] = (),
) -> list[Advice]:
    """All the advice there is now; `intervals_s` and `arms_off` are those that the settings name."""
    sure = [each for each in patterns if each.confidence >= least_confidence]
    return [
        *_about_intervals(cycles, intervals_s),
        *_about_failures(sure),
        *_about_arms(patterns, least_confidence, arms_off),
        *_about_hosts(sure),
        *_about_tools(sure),
    ]


def _about_intervals(cycles: Iterable[AgentCycles], intervals_s: Mapping[str, float]) -> Iterable[Advice]:
    for each in cycles:
        if each.cycles < _LEAST_CYCLES:
            continue
        counts = {"cycles": each.cycles, "idle": each.idle, "late": each.late}
        if each.idle >= _IDLE_SHARE * each.cycles and each.interval_s < _LONGEST_S:
            yield _interval(
                each, min(2 * each.interval_s, _LONGEST_S), intervals_s, counts, "has mostly nothing to do"
            )
        elif each.late >= _LATE_SHARE * each.cycles and each.interval_s > _SHORTEST_S:
            yield _interval(
                each, max(each.interval_s / 2, _SHORTEST_S), intervals_s, counts, "mostly leaves work over"
            )


def _interval(
    of: AgentCycles, wanted_s: float, intervals_s: Mapping[str, float], counts: Mapping[str, int], why: str
) -> Advice:
    setting = ",".join(
        f"{name}={seconds:g}" for name, seconds in sorted({**intervals_s, of.agent: wanted_s}.items())
    )
    return Advice(
        f"{KEY_PREFIX}interval {of.agent}",
        "schedule",
        f"The {of.agent} {why}: run it every {wanted_s:g} s instead of every {of.interval_s:g} s.",
        f"PLEIADES_AGENTS__INTERVALS_S={setting}",
        {"patterns": [], **counts},
    )


def _about_failures(patterns: Iterable[Believed]) -> Iterable[Advice]:
    """Failures that are concentrated at some hours or days."""
    modes = [each for each in patterns if each.type == PatternType.FAILURE_MODE and _is_about_time(each)]
    for each in sorted(modes, key=lambda one: (-one.support, one.id))[:_MOST_OF_A_KIND]:
        agent, action = each.signature.get("agent"), each.signature.get("action")
        yield Advice(
            f"{KEY_PREFIX}failures {each.id}",
            "reliability",
            f"{each.statement}: schedule {who(str(agent))}'s {action} for other times.",
            None,
            {"patterns": [each.id], "support": each.support},
        )


def _is_about_time(pattern: Believed) -> bool:
    fields = {each.field for each in _conditions(pattern)}
    return bool(fields) and fields <= {"hour", "weekday"}


def _conditions(pattern: Believed) -> list[Condition]:
    """The conditions of a signature, which holds each as field, operator and value."""
    found: Any = pattern.signature.get("conditions") or ()
    return [Condition(field, Operator(operator), value) for field, operator, value in found]


def _about_arms(patterns: Iterable[Believed], least: float, off: Sequence[str]) -> Iterable[Advice]:
    """Arms of discovery that hardly ever bring anything, though others of their bucket do."""
    arms = [
        each
        for each in patterns
        if each.type == PatternType.TOOL_USAGE
        and each.signature.get("agent") == DISCOVERY
        and not each.signature.get("conditions")
        and each.support >= _LEAST_SUPPORT
    ]
    for each in arms:
        arm = str(each.signature.get("tool"))
        rivals = [other for other in arms if _is_search(other) == _is_search(each)]
        best = max(other.mean_reward for other in rivals)
        if arm not in off and each.doubt >= least and each.mean_reward < _WORTHLESS * best:
            yield Advice(
                f"{KEY_PREFIX}arm {arm}",
                "discovery",
                f"{arm} hardly ever finds a video that grows: switch it off, and the others get its share.",
                f"PLEIADES_DISCOVERY__OFF={','.join(sorted({*off, arm}))}",
                {"patterns": [each.id], "days": each.support},
            )


def _is_search(pattern: Believed) -> bool:
    return str(pattern.signature.get("tool")).startswith("search:")


def _about_hosts(patterns: Iterable[Believed]) -> Iterable[Advice]:
    """Hosts that are regularly too busy at some hour of the week."""
    for each in patterns:
        series = str(each.signature.get("series", ""))
        node, _, figure = series.rpartition(" ")
        highest, hour = each.data.get("highest"), each.data.get("highest_hour")
        limit = _BUSY_SERIES.get(figure)
        if (
            each.type != PatternType.SEASONAL_PROFILE
            or limit is None
            or not isinstance(highest, (int, float))
        ):
            continue
        if highest >= limit:
            yield Advice(
                f"{KEY_PREFIX}host {series}",
                "performance",
                f"{node} is regularly at its limit around {hour} ({figure} over {limit:g}): "
                "let agents run there at other times, or on another machine.",
                None,
                {"patterns": [each.id], "highest": highest},
            )


def _about_tools(patterns: Iterable[Believed]) -> Iterable[Advice]:
    """Tools that bring far more for the same task. The hunter's arms are left out: its plan sees to them.

    Actions without a common goal are no alternatives, so there is no advice about them.
    """
    tasks: defaultdict[tuple[str, ...], list[Believed]] = defaultdict(list)
    for each in patterns:
        has_task = each.signature.get("task") is not None
        of_plan = each.signature.get("agent") in (DISCOVERY, "hunter")
        if each.type == PatternType.TOOL_USAGE and has_task and not of_plan:
            tasks[tuple(str(each.signature.get(name)) for name in _TASK)].append(each)
    found: dict[tuple[object, ...], Advice] = {}
    # What holds everywhere comes first, and isn't said again of some contexts.
    for task, tools in sorted(tasks.items(), key=lambda item: (bool(_conditions(item[1][0])), item[0])):
        ranked = sorted(tools, key=lambda each: (-each.mean_reward, each.id))
        best, worst = ranked[0], ranked[-1]
        if best.mean_reward > 0 and best.mean_reward >= _BETTER * max(worst.mean_reward, 0.0):
            what = (*task[:-1], best.signature.get("tool"), worst.signature.get("tool"))
            found.setdefault(what, _tool(best, worst))
    return list(found.values())[:_MOST_OF_A_KIND]


def _tool(best: Believed, worst: Believed) -> Advice:
    agent, task, name = (best.signature.get(field) for field in ("agent", "task", "field"))
    good, poor = best.signature.get("tool"), worst.signature.get("tool")
    whom = f"{who(str(agent))}'s {task}"
    where = in_words(_conditions(best))
    return Advice(
        f"{KEY_PREFIX}tool {best.id}",
        "performance",
        f"For {whom}, the {name} {good} brings far more for its cost than {poor}"
        f"{where and f' {where}'}: prefer it.",
        None,
        {"patterns": [best.id, worst.id]},
    )

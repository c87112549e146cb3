"""Optimizations: which of two ways to the same goal is quicker or cheaper, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.grouping import goal_of, method_of
from maia.learning.detectors.significance import Screen, sign_greater
from maia.learning.detectors.tallies import Tallies, frozen, instant, micros
from maia.learning.detectors.wording import coarse, times, who
from maia.learning.observations import SUCCESS, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

Group = tuple[str, str, str, str]
"""Agent, goal, the field that names the methods (`action` if none), and what is compared."""
Key = tuple[Group, str, str]
"""A group, the better method, and the worse."""

_MOST: Final = 64
_LEAST: Final = 8
_DURATION, _COST = "duration", "cost"


@dataclass(slots=True)
class Typical:
    """A running geometric mean of medians."""

    log_sum: float = 0.0
    medians: int = 0

    def add(self, values: NDArray[np.float64]) -> None:
        finite = values[np.isfinite(values) & (values > 0)]
        if len(finite):
            self.log_sum += math.log(float(np.median(finite)))
            self.medians += 1

    @property
    def value(self) -> float | None:
        return math.exp(self.log_sum / self.medians) if self.medians else None


@dataclass(slots=True)
class Buffers:
    """The values of a group's methods that were not compared yet, and what is typical of each method."""

    last_seen: datetime
    waiting: dict[str, list[float]] = field(default_factory=dict)
    typical: dict[str, Typical] = field(default_factory=dict)


class Optimizations(ObservationDetector):
    """Compares what methods for the same goal take, by Mann–Whitney's U, up to 64 uses of each at a time.

    Methods are the actions for a goal that the context names, or else the arms, rings or sources of an
    action. What they take is the duration, or else the cost, for each unit of reward; failures take for ever.
    Of n uses of each, U/n² of n count for the quicker one. Comparisons end where batches do, so the same
    observations in other batches give somewhat other evidence.
    """

    name: ClassVar[str] = "optimizations"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.OPTIMIZATION})

    def __init__(self, capacity: int = 2000, groups: int = 1000, methods: int = 32) -> None:
        self._tallies: Tallies[Key] = Tallies(capacity)
        self._screen: Screen[Key] = Screen(_LEAST)
        self._groups = groups
        self._methods = methods
        self._buffers: dict[Group, Buffers] = {}
        self._due: dict[Key, None] = {}

    def observe(self, batch: Sequence[Observation]) -> None:
        touched: dict[Group, Buffers] = {}
        for each in batch:
            goal = goal_of(each)
            if goal is not None:
                about, method = ("action", each.action), each.action
            else:
                found = method_of(each)
                if found is None:
                    continue
                goal, about, method = each.action, found, found[1]
            taken = _taken(each)
            if taken is None:
                continue
            group = (each.agent, goal, about[0], taken[0])
            buffers = touched.get(group)
            if buffers is None:
                buffers = touched[group] = self._buffers.get(group) or Buffers(each.at)
            buffers.last_seen = max(buffers.last_seen, each.at)
            self._keep(buffers, method, taken[1])
        for group, buffers in touched.items():
            self._compare(group, buffers)
            self._buffers.pop(group, None)
            self._buffers[group] = buffers
        self._trim()

    def _keep(self, buffers: Buffers, method: str, value: float) -> None:
        waiting = buffers.waiting.get(method)
        if waiting is not None:
            waiting.append(value)
        elif len(buffers.waiting) < self._methods:
            buffers.waiting[method] = [value]
            buffers.typical[method] = Typical()

    def _compare(self, group: Group, buffers: Buffers) -> None:
        waiting = buffers.waiting
        while True:
            ready = [method for method in sorted(waiting) if len(waiting[method]) >= _LEAST]
            if len(ready) < 2:
                break
            samples = {method: np.sort(np.array(waiting[method][:_MOST])) for method in ready}
            for method, sample in samples.items():
                buffers.typical[method].add(sample)
                del waiting[method][:_MOST]
            for one, other in combinations(ready, 2):
                share = quicker_share(samples[one], samples[other])
                size = min(len(samples[one]), len(samples[other]))
                self._count((group, one, other), share * size, (1 - share) * size, buffers.last_seen)
                self._count((group, other, one), (1 - share) * size, share * size, buffers.last_seen)
        for values in waiting.values():
            del values[:-_MOST]

    def _count(self, key: Key, pos: float, neg: float, at: datetime) -> None:
        tally = self._tallies.add(key, at.toordinal(), pos, neg, at)
        if tally.pos > tally.neg and self._screen.due(key, tally.support):
            self._due[key] = None

    def _trim(self) -> None:
        evicted = self._tallies.trim()
        self._screen.forget(evicted)
        for key in evicted:
            self._due.pop(key, None)
        while len(self._buffers) > self._groups:
            del self._buffers[next(iter(self._buffers))]

    def patterns(self) -> list[Finding]:
        for key in self._due:
            tally = self._tallies.get(key)
            assert tally is not None
            self._screen.look(key, tally.support, sign_greater(tally.pos, tally.neg))
        self._due.clear()
        self._screen.settle()
        taken = self._tallies.take(self._screen.accepted)
        return [Finding(self._pattern(key), days) for key, days in taken.items()]

    def _pattern(self, key: Key) -> Pattern:
        group, better, worse = key
        agent, goal, about, measure = group
        buffers = self._buffers.get(group)
        typical = {name: each.value for name, each in buffers.typical.items()} if buffers else {}
        ours, theirs = typical.get(better), typical.get(worse)
        ratio = theirs / ours if ours and theirs else None
        figures = {"median_better": ours, "median_worse": theirs, "ratio": ratio}
        how = "quicker" if measure == _DURATION else "cheaper"
        # Whoever wins most comparisons may still have the higher median.
        by = f"by {times(ratio)}" if ratio is not None and coarse(ratio) > 1 else "more often than not"
        conditions = (
            Condition("agent", Operator.EQUALS, agent),
            Condition("goal" if about == "action" else "action", Operator.EQUALS, goal),
        )
        return Pattern(
            PatternType.OPTIMIZATION,
            {
                "agent": agent, "goal": goal, "field": about, "measure": measure,
                "better": better, "worse": worse,
            },
            f"for {who(agent)}'s {goal}, {better} is {how} than {worse} {by}",
            conditions,
            action=f"use {better} instead of {worse}",
            data={name: None if value is None else coarse(value) for name, value in figures.items()},
        )  # fmt: skip

    def state(self) -> bytes:
        buffers = [
            [group, micros(each.last_seen), list(each.waiting.items()),
             [[name, typical.log_sum, typical.medians] for name, typical in each.typical.items()]]
            for group, each in self._buffers.items()
        ]  # fmt: skip
        content = [
            self._tallies.content(), self._screen.content(), self._groups, self._methods, buffers,
            list(self._due),
        ]  # fmt: skip
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        tallies, screen, groups, methods, buffers, due = unpack(cls.name, cls.version, state)
        made = cls(groups=groups, methods=methods)
        made._tallies = Tallies.from_content(tallies)
        made._screen = Screen.from_content(screen)
        made._buffers = {frozen(row[0]): _buffers(row[1:]) for row in buffers}
        made._due = {frozen(key): None for key in due}
        return made


def quicker_share(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The share of pairs in which the first is less, equals counting half: U/(n1·n2); both sorted."""
    greater = len(other) - np.searchsorted(other, one, side="right")
    not_less = len(other) - np.searchsorted(other, one, side="left")
    return float((greater + not_less).sum()) / (2 * len(one) * len(other))


def _taken(each: Observation) -> tuple[str, float] | None:
    if each.duration_s is not None:
        measure, value = _DURATION, each.duration_s
    elif each.cost > 0:
        measure, value = _COST, each.cost
    else:
        return None
    if each.outcome != SUCCESS:
        return measure, math.inf
    return (measure, value / each.reward if each.reward > 0 else value) if value == value else None


def _buffers(row: list[Any]) -> Buffers:
    at, waiting, typical = row
    return Buffers(
        instant(at),
        dict(waiting),
        {name: Typical(log_sum, medians) for name, log_sum, medians in typical},
    )

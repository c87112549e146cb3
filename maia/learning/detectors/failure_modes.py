"""Failure modes: under which conditions an action fails more often than otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any, ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.attributes import Attributes, conditions_of, part_of_day, plain
from maia.learning.detectors.contrasts import Contrasts, Item, Key, Stratum, Table
from maia.learning.detectors.tallies import frozen
from maia.learning.detectors.wording import coarse, in_words, times, whose
from maia.learning.observations import SUCCESS, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

_OUTCOMES: Final = 8
_TOLD_OUTCOMES: Final = 3
_AFTERWARDS: Final = frozenset({"error"})
"""Fields that are only there because an action failed: as conditions they would say nothing."""


class FailureModes(ObservationDetector):
    """Compares an action's failures where a condition, or a pair of them, holds with those elsewhere."""

    name: ClassVar[str] = "failure_modes"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.FAILURE_MODE})

    def __init__(self, capacity: int = 10_000) -> None:
        self._contrasts = Contrasts(capacity)
        self._outcomes: dict[Key, dict[str, int]] = {}
        self._attributes = Attributes(_AFTERWARDS)

    def observe(self, batch: Sequence[Observation]) -> None:
        groups: dict[tuple[str, str, int], list[Observation]] = {}
        for each in batch:
            key = (each.agent, each.action, each.at.toordinal())
            if key in groups:
                groups[key].append(each)
            else:
                groups[key] = [each]
        for (agent, action, day), members in groups.items():
            self._read((agent, action), day, members)
        self._contrasts.end_batch()

    def _read(self, stratum: Stratum, day: int, members: list[Observation]) -> None:
        last_seen = members[-1].at
        watched = frozenset(self._contrasts.watched(stratum, day, last_seen))
        attributes_of = self._attributes.of
        records: list[tuple[list[Item], bool]] = []
        for each in members:
            items = attributes_of(each.context)
            items += part_of_day(each.context)
            if watched:
                found = [item for item in items if item in watched]
                if len(found) > 1:
                    items += pairs_of(found)
            failed = each.outcome != SUCCESS
            records.append((items, failed))
            if failed and self._outcomes:
                self._note_outcome(stratum, items, each.outcome)
        self._contrasts.add(stratum, day, last_seen, records)

    def _note_outcome(self, stratum: Stratum, items: list[Item], outcome: str) -> None:
        for item in items:
            known = self._outcomes.get((stratum, item))
            if known is not None and (outcome in known or len(known) < _OUTCOMES):
                known[outcome] = known.get(outcome, 0) + 1

    def patterns(self) -> list[Finding]:
        taken = self._contrasts.take()
        accepted = self._contrasts.screen.accepted
        self._outcomes = {key: self._outcomes.get(key, {}) for key in accepted}
        return [
            Finding(_pattern(key, self._contrasts.table(key), self._outcomes[key]), days)
            for key, days in taken
        ]

    def state(self) -> bytes:
        outcomes = [[key, list(counts.items())] for key, counts in self._outcomes.items()]
        return pack(self.name, self.version, [self._contrasts.content(), outcomes])

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        contrasts, outcomes = unpack(cls.name, cls.version, state)
        made = cls()
        made._contrasts = Contrasts.from_content(contrasts)
        made._outcomes = {frozen(key): dict(counts) for key, counts in outcomes}
        return made


def pairs_of(singles: list[Item]) -> list[Item]:
    """All pairs of single items, in a canonical order."""
    return [one + other if one < other else other + one for one, other in combinations(singles, 2)]


def likelier(factor: float | None) -> str:
    """How many times likelier, in words."""
    return "only" if factor is None else f"{times(factor)} likelier"


def rates_of(table: Table) -> dict[str, Any]:
    """The rates that a contrast found, with two significant digits."""
    rates = {"base_rate": table.base_rate, "rate": table.rate, "lift": table.lift}
    return {name: None if value is None else coarse(value) for name, value in rates.items()}


def _pattern(key: Key, table: Table, outcomes: dict[str, int]) -> Pattern:
    (agent, action), attributes = key
    conditions = conditions_of(attributes)
    data = rates_of(table)
    data["outcomes"] = [name for name, _ in Counter(outcomes).most_common(_TOLD_OUTCOMES)]
    return Pattern(
        PatternType.FAILURE_MODE,
        {"agent": agent, "action": action, "conditions": plain(conditions)},
        f"{whose(agent, action)} fails {likelier(table.lift)} {in_words(conditions)}",
        (
            Condition("agent", Operator.EQUALS, agent),
            Condition("action", Operator.EQUALS, action),
            *conditions,
        ),
        data=data,
    )

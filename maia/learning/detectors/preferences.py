"""Preferences: which categories, channels and tags an operator chooses, against what was on offer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.attributes import attribute_of, conditions_of, plain
from maia.learning.detectors.contrasts import Contrasts, Item, Key, Table
from maia.learning.detectors.failure_modes import rates_of
from maia.learning.detectors.wording import times
from maia.learning.observations import Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

OPERATOR: Final = "operator"
OFFER: Final = "offer"
COUNT_FIELD: Final = "count"
"""How many of such a thing were on offer. Without it the reward says so; one if that is less than one."""

FAVOURING: Final = frozenset({"seed", "watch", "pin"})
AVOIDING: Final = frozenset({"park", "unwatch", "unpin"})
_NUMBERED: Final = re.compile(r"_\d+$")
_OF_THE_EVENT: Final = frozenset({COUNT_FIELD, "total", "kind", "hour", "weekday"})
"""Fields that say something of the act or the offer, not of what was chosen."""
_FAVOURS, _AVOIDS = "favours", "avoids"


class Preferences(ObservationDetector):
    """Compares what an operator chose, or put away, with what agents of name `offer` had on offer that day.

    Fields that are numbered, such as tag_1 and tag_2, count as one field, tag.
    """

    name: ClassVar[str] = "preferences"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.USER_PREFERENCE})

    def __init__(self, capacity: int = 10_000) -> None:
        # Offers and choices come at different hours, so that only the end of the day ends a block.
        self._contrasts = Contrasts(capacity, least_records=float("inf"), least_support=5)

    def observe(self, batch: Sequence[Observation]) -> None:
        for each in batch:
            if each.agent == OFFER:
                self._read(each, (_FAVOURS, _AVOIDS), count=_count(each), chosen=False)
            elif each.agent == OPERATOR and each.succeeded:
                if each.action in FAVOURING:
                    self._read(each, (_FAVOURS,), count=1, chosen=True)
                elif each.action in AVOIDING:
                    self._read(each, (_AVOIDS,), count=1, chosen=True)
        self._contrasts.end_batch()

    def _read(self, each: Observation, directions: tuple[str, ...], count: float, chosen: bool) -> None:
        present: dict[Item, float] = dict.fromkeys(_attributes(each), count)
        day, at = each.at.toordinal(), each.at
        for direction in directions:
            sizes = (count, count if chosen else 0)
            self._contrasts.add_counts(
                (OPERATOR, direction), day, at, sizes, present, present if chosen else {}
            )

    def patterns(self) -> list[Finding]:
        taken = self._contrasts.take()
        return [Finding(_pattern(key, self._contrasts.table(key)), days) for key, days in taken]

    def state(self) -> bytes:
        return pack(self.name, self.version, self._contrasts.content())

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        made = cls()
        made._contrasts = Contrasts.from_content(unpack(cls.name, cls.version, state))
        return made


def _count(offer: Observation) -> int:
    count = offer.context.get(COUNT_FIELD, offer.reward)
    if isinstance(count, bool) or not isinstance(count, (int, float)) or not 1 <= count < float("inf"):
        return 1
    return int(count)


def _attributes(each: Observation) -> list[Item]:
    found: list[Item] = []
    for name, value in each.context.items():
        if name not in _OF_THE_EVENT:
            attribute = attribute_of(_NUMBERED.sub("", name), value)
            if attribute is not None:
                found.append(attribute)
    return found


def _pattern(key: Key, table: Table) -> Pattern:
    (operator, direction), attributes = key
    conditions = conditions_of(attributes)
    share = table.rate / table.base_rate if table.c else None
    often = "and nothing else" if share is None else f"{times(share)} as often as other offers"
    return Pattern(
        PatternType.USER_PREFERENCE,
        {"agent": operator, "direction": direction, "conditions": plain(conditions)},
        f"the {operator} {direction} what has {' and '.join(map(str, conditions))}, {often}",
        (Condition("agent", Operator.EQUALS, operator), *conditions),
        action="offer more" if direction == _FAVOURS else "offer less",
        data=rates_of(table),
    )

"""Fans changes of patterns out to the WebSockets of a process, each of which gets those that it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from atlas.adapters.changes import BriefPattern, PatternChange, order
from maia.api.listening import FeedHub, message
from maia.learning.evidence import confidence
from maia.learning.patterns import PatternType, condition_of
from maia.views.federation import count_sites
from maia.views.patterns import BelievedPattern, believe, prior_of
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.learning.evidence import Prior
    from maia.learning.observations import Scalar
    from maia.learning.patterns import Condition

MOST_WAITING: Final = 1_000
"""A client for which more messages wait is too slow."""


@dataclass(frozen=True, slots=True)
class Told:
    """A change as it is told: `place` is its order in the feed."""

    place: tuple[int, str]
    cursor: str
    kind: str
    pattern: BelievedPattern
    conditions: Sequence[Condition]
    confidence_before: float
    """Before the change; or the most that it may have been, where that isn't known."""
    text: str
    """The message, in JSON."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a client wants to know of.

    It is also told of a pattern that falls below the confidence, as it may have been told of it before; and
    of what is forgotten, whatever its confidence was.
    """

    types: frozenset[PatternType] | None = None
    min_confidence: float = 0.0
    context: Mapping[str, Scalar] | None = None
    """Only patterns of which this meets at least one condition."""

    def covers(self, told: Told) -> bool:
        if self.types is not None and told.pattern.type not in self.types:
            return False
        highest = max(told.pattern.confidence, told.confidence_before)
        if told.kind != "forgotten" and highest < self.min_confidence:
            return False
        context = self.context
        return context is None or any(each.holds(context) for each in told.conditions)


class PatternHub(FeedHub[Told]):
    """Keeps the listeners of this process up to date; a reader of the change feed."""

    def __init__(self, atlas: Atlas, confidence_before: Callable[[str], float]) -> None:
        """`confidence_before` says how firmly a pattern was believed before the changes taken last."""
        super().__init__()
        self._atlas, self._prior = atlas, prior_of(atlas)
        self._confidence_before = confidence_before
        self._is_live = False

    async def begin(self) -> None:
        """Cut everybody: what they know is void."""
        self._is_live = False
        self._void()

    async def load(self, patterns: Sequence[BriefPattern]) -> None:
        """What was there at the beginning is no news."""

    async def take(self, changes: Sequence[PatternChange], cursor: str) -> None:
        """Tell everybody."""
        if self._is_live and changes and self._listeners:
            before = [self._confidence_before(each.pattern.id) for each in changes]
            of_sites = await count_sites(self._atlas)
            news = await asyncio.to_thread(told_of, changes, self._prior, of_sites, before)
            self._tell(news, MOST_WAITING)
        self.cursor = cursor

    async def caught_up(self) -> None:
        self._is_live = True
        self.ready.set()


def told_of(
    changes: Sequence[PatternChange], prior: Prior, of_sites: int, before: Sequence[float] | None = None
) -> list[Told]:
    """Changes with what is believed now, ready to be sent; `before` are the confidences until then.

    If these aren't known, a pattern may have been believed as firmly as if all evidence against it were new.
    """
    believed = believe([each.pattern for each in changes], prior, of_sites)
    if before is None:
        before = confidence([each.pattern.pos for each in changes], [0] * len(changes), prior).tolist()
    return [
        Told(
            order(change.cursor),
            change.cursor,
            change.kind,
            pattern,
            [condition_of(each) for each in change.pattern.conditions],
            confidence_before,
            message(change.kind, change.cursor, pattern=plain(pattern)),
        )
        for change, pattern, confidence_before in zip(changes, believed, before, strict=True)
    ]

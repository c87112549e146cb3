"""The actions view: what the maintainer changed, and what it has given up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from atlas.adapters.actions import Attempt
    from atlas.composition import Atlas

MOST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLine:
    """An action that was taken: its state is running, applied, failed or unknown.

    `asked` says that a person asked for it.
    """

    at: datetime
    node: str
    kind: str
    target: str
    state: str
    plan: str
    commands: tuple[str, ...]
    result: str
    seconds: float
    asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A thing that is left to people, as `attempts` actions in a row had no lasting effect."""

    kind: str
    target: str
    node: str | None
    """The host whose thing it is; None if all hosts share it."""
    attempts: int
    last_at: datetime
    result: str
    """What came of the last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """The actions since an instant, newest first and at most as many as asked for, and what is given up."""

    since: datetime
    now: datetime
    lines: tuple[ActionLine, ...]
    given_up: tuple[GivenUp, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of the lines there are in each state."""
        return Counter(line.state for line in self.lines)


async def actions(
    atlas: Atlas, since: datetime, *, node: str | None = None, limit: int = MOST_SHOWN
) -> Actions:
    """The actions since an instant, of all hosts or of one, and what is given up there now."""
    from atlas.adapters.actions import ActionsDAO

    dao = ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    attempts = await dao.since(since, node=node, limit=limit)
    found = [each for each in await given_up(atlas) if node is None or each.node in (None, node)]
    return Actions(
        since=since, now=atlas.clock.now(), lines=tuple(map(_line, attempts)), given_up=tuple(found)
    )


async def given_up(atlas: Atlas) -> list[GivenUp]:
    """What is left to people now, latest first."""
    from atlas.adapters.actions import ActionsDAO
    from maia.maintenance.policy import Limits, fruitless

    dao = ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    settings, now = atlas.settings.maintainer, atlas.clock.now()
    limits = Limits.of(settings)
    rows = await dao.unsettled(now - timedelta(days=settings.retention.actions_days))
    counted = [(attempts[0], fruitless(attempts, limits.lasting, now)) for attempts in rows]
    found = [_given_up(latest, count) for latest, count in counted if count >= limits.give_up_after]
    return sorted(found, key=lambda each: each.last_at, reverse=True)


def _given_up(latest: Attempt, count: int) -> GivenUp:
    return GivenUp(
        kind=latest.thing.kind,
        target=latest.thing.target,
        node=latest.thing.node,
        attempts=count,
        last_at=latest.at,
        result=latest.result,
    )


def _line(attempt: Attempt) -> ActionLine:
    return ActionLine(
        at=attempt.at,
        node=attempt.node,
        kind=attempt.thing.kind,
        target=attempt.thing.target,
        state=attempt.state.value,
        plan=attempt.plan,
        commands=attempt.commands,
        result=attempt.result,
        seconds=attempt.seconds,
        asked=attempt.asked,
    )

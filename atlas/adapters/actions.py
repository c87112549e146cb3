"""The actions table: every attempt of the maintainer to change something, and the decision to begin one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from atlas.adapters.dao import DAO
from atlas.db import Executor, Row
from atlas.queries import clean_text

MOST_ATTEMPTS: Final = 100
"""How many of the last attempts at a thing a decision sees."""

_LONGEST_TARGET: Final = 300
_LONGEST_TEXT: Final = 4000


class AttemptState(StrEnum):
    """What became of an attempt."""

    RUNNING = "running"
    APPLIED = "applied"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Its process ended before it was done."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What limits apply to: a kind of action on a target, which belongs to one node or, if None, to all."""

    kind: str
    target: str
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt to change something.

    `well_since` tells since when its target has been well, without the action being needed again. It is
    `settled` once that was long enough: it had lasting effect, or the target got well otherwise.
    """

    at: datetime
    node: str
    thing: Thing
    is_restart: bool = False
    asked: bool = False
    """A person asked for it."""
    plan: str = ""
    commands: tuple[str, ...] = ()
    state: AttemptState = AttemptState.RUNNING
    result: str = ""
    seconds: float = 0.0
    finished_at: datetime | None = None
    well_since: datetime | None = None
    settled: bool = False
    id: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What a decision depends on: the last attempts at the thing, newest first, and other nodes' restarts."""

    attempts: tuple[Attempt, ...] = ()
    elsewhere: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Whether an attempt may begin now, and if not, why, and when it may (None: nobody can say).

    `settled` says that the attempt before it had lasting effect, although the action is needed again now.
    """

    permitted: bool
    reason: str = ""
    at: datetime | None = None
    settled: bool = False


Decide = Callable[[History], Permission]


@dataclass(frozen=True, slots=True)
class Counted:
    """How many attempts by actions of a kind came to a state."""

    kind: str
    state: AttemptState
    count: int


class ActionsDAO(DAO):
    """Begins attempts, one decision at a time over all processes and hosts, and records what came of them."""

    async def history(self, thing: Thing, spacing_s: float) -> History:
        """The history for a decision, with restarts elsewhere that ended within `spacing_s`; reads only."""
        return await self._history(self._executor, thing, spacing_s)

    async def begin(
        self, attempt: Attempt, decide: Decide, *, spacing_s: float, lease_s: float
    ) -> tuple[Permission, int | None]:
        """Decide whether the attempt may begin, and if so begin it, in one step that nobody can come between.

        Returns its id, None if it may not. It counts as abandoned after `lease_s`, unless `keep` is called.
        """
        async with self._atomic() as executor:
            await executor.fetchval("actions.lock")
            await executor.execute("actions.close_abandoned", self._clock.now())
            history = await self._history(executor, attempt.thing, spacing_s)
            decision = decide(history)
            if history.attempts:
                await executor.execute("actions.note_need", history.attempts[0].id, decision.settled)
            if not decision.permitted:
                return decision, None
            id_: int = await executor.fetchval("actions.begin", *_begun(attempt), lease_s)
            return decision, id_

    async def keep(self, id_: int, lease_s: float) -> bool:
        """Say that an attempt is still under way; returns whether it was not finished.

        DataRefused if it counted as abandoned for so long that another one has begun.
        """
        return await self._executor.execute("actions.keep", id_, lease_s) == 1

    async def finish(self, id_: int, state: AttemptState, result: str, seconds: float) -> bool:
        """Record what came of an attempt; returns whether that was not recorded yet."""
        now = self._clock.now()
        text = clean_text(result)[:_LONGEST_TEXT]
        return await self._executor.execute("actions.finish", id_, state.value, text, seconds, now) == 1

    async def add(self, attempt: Attempt) -> int:
        """Add an attempt that could not be recorded when it began, but has ended now."""
        id_: int = await self._executor.fetchval(
            "actions.add",
            *_begun(attempt),
            attempt.state.value,
            clean_text(attempt.result)[:_LONGEST_TEXT],
            attempt.seconds,
            attempt.finished_at,
        )
        return id_

    async def note_well(self, kind: str, targets: Collection[str], node: str | None, lasting_s: float) -> int:
        """Note that targets are well now; returns how many attempts that changed.

        Their last attempts are settled once they have been well for `lasting_s`.
        """
        cleaned = sorted({_target(target) for target in targets})
        return await self._executor.execute(
            "actions.note_well", kind, cleaned, node or "", self._clock.now(), lasting_s
        )

    async def since(self, since: datetime, *, node: str | None = None, limit: int = 100) -> list[Attempt]:
        """The last attempts since an instant, of all nodes or of one, newest first."""
        rows = await self._executor.fetch("actions.since", since, node and clean_text(node), limit)
        return [_attempt(row) for row in rows]

    async def counts(self, since: datetime, until: datetime) -> list[Counted]:
        """How many attempts began in a span of time, by kind and state."""
        rows = await self._executor.fetch("actions.counts", since, until)
        return [Counted(row["kind"], AttemptState(row["state"]), row["count"]) for row in rows]

    async def unsettled(self, since: datetime) -> list[tuple[Attempt, ...]]:
        """The last attempts at each thing that was tried since an instant, and whose last attempt is open.

        Open means that it has not settled, and that no person asked for it. Newest first.
        """
        rows = await self._executor.fetch("actions.unsettled", since, MOST_ATTEMPTS)
        found: dict[Thing, list[Attempt]] = {}
        for row in rows:
            attempt = _attempt(row)
            found.setdefault(attempt.thing, []).append(attempt)
        return [tuple(attempts) for attempts in found.values()]

    async def _history(self, executor: Executor, thing: Thing, spacing_s: float) -> History:
        scope = thing.node or ""
        attempts = await executor.fetch(
            "actions.attempts", thing.kind, _target(thing.target), scope, MOST_ATTEMPTS
        )
        ended_after = self._clock.now() - timedelta(seconds=spacing_s)
        elsewhere = await executor.fetch("actions.restarts_elsewhere", self._settings.node_id, ended_after)
        return History(tuple(map(_attempt, attempts)), tuple(map(_attempt, elsewhere)))


def _begun(attempt: Attempt) -> tuple[object, ...]:
    thing = attempt.thing
    return (
        attempt.at,
        attempt.node,
        thing.kind,
        _target(thing.target),
        thing.node or "",
        attempt.is_restart,
        attempt.asked,
        clean_text(attempt.plan)[:_LONGEST_TEXT],
        [clean_text(command)[:_LONGEST_TEXT] for command in attempt.commands],
    )


def _target(target: str) -> str:
    return clean_text(target)[:_LONGEST_TARGET]


def _attempt(row: Row) -> Attempt:
    return Attempt(
        id=row["id"],
        at=row["at"],
        node=row["node"],
        thing=Thing(row["kind"], row["target"], row["scope"] or None),
        is_restart=row["is_restart"],
        asked=row["asked"],
        state=AttemptState(row["state"]),
        plan=row["plan"],
        commands=tuple(row["commands"]),
        result=row["result"],
        seconds=row["seconds"],
        finished_at=row["finished_at"],
        well_since=row["well_since"],
        settled=row["settled"],
    )

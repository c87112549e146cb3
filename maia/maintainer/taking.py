"""Takes actions: those that are allowed, within the policy's limits, one at a time on a thing, on the record.

An attempt is recorded before it begins. While it runs, a heartbeat keeps it from counting as abandoned; if
this process is killed, it is closed as unknown soon after, and counts as an attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import stamina

from atlas.adapters.actions import ActionsDAO, Attempt, AttemptState, History, Permission, Thing
from atlas.composition import Atlas
from atlas.errors import AtlasError, CannotStore, ConfigError, DatabaseError, DatabaseUnavailable
from atlas.maintainer_settings import ACTIONS
from maia.cycle.cycle import StepRecord, within_grace
from maia.errors import MaiaError
from maia.learning.observations import SUCCESS
from maia.maintainer.actions import Action, ActionState, Plan, Taken
from maia.maintenance import policy
from maia.maintenance.policy import Limits, Request

logger = logging.getLogger(__name__)

EVENT: Final = "maintainer.action"
ALL: Final = "all"
OF_HOST: Final = frozenset({"restart", "emergency", "update", "packages"})
"""Kinds of actions on things of one host: each host has its own limits for them."""
LEASE_S: Final = 60.0
"""After so long without a heartbeat an attempt counts as abandoned."""

_BEATS_A_LEASE: Final = 4
RECORD_TIMEOUT_S: Final = 60.0
"""Longest time to try to record a result while the database does not answer."""
_FAILED: Final = "failed"
_INTERRUPTED: Final = "interrupted"
_FAILURES: Final = (AtlasError, MaiaError, OSError, TimeoutError)


class Taker:
    """Takes actions of the kinds that the settings allow, and of those in `apply`; plans all others.

    `asked` if a person asks for these very actions: then neither limits nor windows hold them back, but an
    attempt under way and another host's restart still do.
    """

    def __init__(self, atlas: Atlas, apply: Collection[str] | None = None, *, asked: bool = False) -> None:
        for kind in apply or ():
            if kind not in (*ACTIONS, ALL):
                raise ConfigError(f"there is no action {kind!r}; there are {', '.join(ACTIONS)}, and {ALL}")
        self.atlas, self.asked, self._apply = atlas, asked, frozenset(apply or ())
        self._settings = atlas.settings.maintainer
        self._dao = ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    def allows(self, kind: str) -> bool:
        """Whether actions of this kind may be taken, or are only planned."""
        return ALL in self._apply or kind in self._apply or self._settings.allows(kind)

    async def take(self, action: Action) -> Taken | None:
        """Plan the action and, if it is allowed now, take it and record the result; None: nothing to do.

        Its failure is a result too. An error of the database when it is to begin is raised: without a record
        nothing is changed, except what frees space on a full disk.
        """
        if action.kind not in ACTIONS:
            raise ConfigError(f"{action.kind!r} is no kind of action; there are {', '.join(ACTIONS)}")
        try:
            plan = await action.plan()
        except _FAILURES as error:
            plan = Plan(text=f"{action.kind} {action.target}")
            return _taken(action, ActionState.FAILED, plan, f"can't be planned: {_text(error)}")
        if plan is None:
            return None
        taking = _Taking(self, action, plan)
        return await (taking.take() if self.allows(action.kind) else taking.foresee())

    async def note_well(self, kind: str, targets: Collection[str]) -> None:
        """Note which targets need no action of this kind now, so that earlier attempts can settle."""
        if targets and self.allows(kind):
            node = self.atlas.settings.node_id if kind in OF_HOST else None
            await self._dao.note_well(kind, targets, node, self._settings.actions.lasting_s)


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of an action: a text for people, and the outcome as the learner reads it."""

    text: str
    outcome: str
    seconds: float

    @property
    def state(self) -> AttemptState:
        return AttemptState.APPLIED if self.outcome == SUCCESS else AttemptState.FAILED


class _Taking:
    """One action that is being taken."""

    def __init__(self, taker: Taker, action: Action, plan: Plan) -> None:
        self.taker, self.action, self.plan = taker, action, plan
        self.atlas, self.dao = taker.atlas, taker._dao
        settings = self.atlas.settings
        self.limits = Limits.of(settings.maintainer, action.cool_down_s)
        self.request = Request(disturbs=action.disturbs, is_restart=action.is_restart, asked=taker.asked)
        of_host = action.is_restart or action.kind in OF_HOST
        self.attempt = Attempt(
            at=self.atlas.clock.now(),
            node=settings.node_id,
            thing=Thing(action.kind, action.target, settings.node_id if of_host else None),
            is_restart=action.is_restart,
            asked=taker.asked,
            plan=plan.text,
            commands=plan.commands,
        )

    async def foresee(self) -> Taken:
        """What would become of it; nothing is changed."""
        decision = self._decide(await self.dao.history(self.attempt.thing, self._spacing_s))
        result = f"{self.action.kind} is not allowed"
        if not decision.permitted:
            result = f"{result}; it would be held back: {decision.reason}"
        return self._taken(ActionState.PLANNED, result)

    async def take(self) -> Taken:
        try:
            decision, id_ = await self.dao.begin(
                self.attempt, self._decide, spacing_s=self._spacing_s, lease_s=LEASE_S
            )
        except CannotStore:
            if self.action.kind != "emergency":
                raise
            return await self._take_unrecorded()
        if id_ is None:
            return self._held_back(decision)
        async with self._heartbeat(id_):
            return await self._apply(id_)

    async def _take_unrecorded(self) -> Taken:
        """Take what frees space although nothing can be stored, and record it when there is space again."""
        thing = self.attempt.thing
        async with self.atlas.db.only_one(f"action {thing.kind} {thing.target} {thing.node}") as is_only:
            decision = self._decide(await self.dao.history(thing, self._spacing_s))
            if not is_only:
                decision = Permission(permitted=False, reason="another process is taking it now")
            if not decision.permitted:
                return self._held_back(decision)
            return await self._apply(None)

    def _decide(self, history: History) -> Permission:
        return policy.decide(self.request, history, self.limits, self.atlas.clock.now())

    @property
    def _spacing_s(self) -> float:
        return self.limits.host_spacing.total_seconds()

    # Doing it

    async def _apply(self, id_: int | None) -> Taken:
        """Apply the action, and record what came of it, also if this process is told to end."""
        began_s = time.monotonic()
        try:
            result = _Result(await self.action.apply(self.plan), SUCCESS, time.monotonic() - began_s)
        except _FAILURES as error:
            result = _Result(_text(error), _FAILED, time.monotonic() - began_s)
        except BaseException as error:
            outcome = _INTERRUPTED if isinstance(error, asyncio.CancelledError) else _FAILED
            result = _Result(str(error) or outcome, outcome, time.monotonic() - began_s)
            await within_grace(self._record(result, id_), "recording an action")
            raise
        await self._record(result, id_)
        return self._concluded(result)

    @asynccontextmanager
    async def _heartbeat(self, id_: int) -> AsyncIterator[None]:
        """Keep the attempt from counting as abandoned."""
        beating = asyncio.create_task(self._beat(id_))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait({beating})

    async def _beat(self, id_: int) -> None:
        while True:
            await asyncio.sleep(LEASE_S / _BEATS_A_LEASE)
            try:
                await self.dao.keep(id_, LEASE_S)
            except DatabaseError as error:
                # The action may well be what keeps the database from answering.
                logger.warning(
                    "the attempt at %s is not kept: %s",
                    self.action.target,
                    error,
                    extra={"action": "attempt_not_kept"},
                )

    # Recording it

    async def _record(self, result: _Result, id_: int | None) -> None:
        """Record the result and its event, patiently: the action may have restarted the database."""
        try:
            async for attempt in stamina.retry_context(
                on=DatabaseUnavailable, attempts=None, timeout=RECORD_TIMEOUT_S, wait_initial=0.2, wait_max=5
            ):
                with attempt:
                    await self._store(result, id_)
        except DatabaseError as error:
            # What was done is done, and the next ones shall be told: an unknown result counts as an attempt.
            logger.warning(
                "the result of %s on %s is not recorded: %s",
                self.action.kind,
                self.action.target,
                error,
                extra={"action": "result_not_recorded"},
            )

    async def _store(self, result: _Result, id_: int | None) -> None:
        async with self.atlas.db.transaction() as transaction:
            dao = ActionsDAO(transaction, clock=self.atlas.clock, settings=self.atlas.settings)
            if id_ is None:
                now = self.atlas.clock.now()
                attempt = replace(self.attempt, result=result.text, seconds=result.seconds)
                await dao.add(policy.ended(attempt, result.state, now))
            elif not await dao.finish(id_, result.state, result.text, result.seconds):
                return
            await self.atlas.events.append(
                EVENT, self._event(result), agent="maintainer", executor=transaction
            )

    def _event(self, result: _Result) -> dict[str, object]:
        """The payload of the action's event, as the learner reads it."""
        step = StepRecord(
            action=f"take {self.action.kind}",
            outcome=result.outcome,
            reward=float(result.outcome == SUCCESS),
            seconds=result.seconds,
            context={"target": self.action.target, "asked": self.attempt.asked},
            error=result.text if result.outcome == _FAILED else None,
        )
        return step.as_dict(self.atlas.clock.now())

    # Telling it

    def _held_back(self, decision: Permission) -> Taken:
        return self._taken(ActionState.HELD_BACK, decision.reason)

    def _concluded(self, result: _Result) -> Taken:
        state = ActionState(result.state.value)
        logger.log(
            logging.INFO if state is ActionState.APPLIED else logging.WARNING,
            "%s %s: %s",
            self.action.kind,
            self.action.target,
            result.text,
            extra={"action": "action_taken", "state": state.value, "seconds": round(result.seconds, 3)},
        )
        return self._taken(state, result.text, result.seconds)

    def _taken(self, state: ActionState, result: str, seconds: float = 0.0) -> Taken:
        return _taken(self.action, state, self.plan, result, seconds)


def _taken(action: Action, state: ActionState, plan: Plan, result: str, seconds: float = 0.0) -> Taken:
    return Taken(
        kind=action.kind, target=action.target, state=state, plan=plan, result=result, seconds=seconds
    )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__

"""Raises and clears alerts: stores what the policy decides, and then tells people what it says to.

The new states and the claims to tell people are one transaction, and messages are sent after it. If this
process is killed in between, the claims end by themselves, and the next maintainer tells people. If the
database can't store anything, as on a full disk, people are told of that and of what is wrong all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from atlas.adapters.incidents import Claimed, Incident, IncidentsDAO
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from atlas.errors import DatabaseError
from maia.maintainer import outage
from maia.maintenance import messages
from maia.maintenance.alerting import AlertRules, Decision, decide
from maia.maintenance.findings import Component, Finding

logger = logging.getLogger(__name__)

AGENT: Final = "maintainer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What became of the incidents, by their keys.

    `problems` and `recoveries` are those that people were told of; `told` is False if a message reached
    nobody, so that the next run sends it. `failure` says why nothing could be stored.
    """

    opened: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    open: int = 0
    problems: tuple[str, ...] = ()
    recoveries: tuple[str, ...] = ()
    told: bool = True
    failure: str | None = None


async def handle(
    atlas: Atlas,
    findings: Iterable[Finding],
    judged: Collection[Component],
    *,
    now: datetime | None = None,
) -> Handled:
    """Open, renew and end incidents by what is wrong now, and tell people what they should know.

    Findings of components that are not among `judged` are ignored, and their incidents stay as they are.
    Never raises because of the database: then people are told of that, and `failure` says so.
    """
    found, now = list(findings), now or atlas.clock.now()
    try:
        decision, claimed, recovered = await _record(atlas, found, judged, now)
    except DatabaseError as error:
        logger.error("incidents can't be stored: %s", error, extra={"action": "incidents_lost"})
        told = await outage.report_outage(atlas.settings, error, findings=found, now=now)
        return Handled(told=told, failure=str(error))
    were_told = await _tell_problems(atlas, decision, claimed, now)
    were_told &= await _tell_recoveries(atlas, claimed)
    return Handled(
        opened=tuple(sorted(claimed.opened)),
        recovered=tuple(each.key for each in recovered),
        open=sum(each.status == "open" for each in (*decision.problems, *decision.others)),
        problems=_keys(claimed.problems),
        recoveries=_keys(claimed.recoveries),
        told=were_told,
    )


async def _record(
    atlas: Atlas, findings: Sequence[Finding], judged: Collection[Component], now: datetime
) -> tuple[Decision, Claimed, Sequence[Incident]]:
    """Store what the policy decides with its events, in one transaction; also returns what is newly over."""
    rules, node = AlertRules.of(atlas.settings), atlas.settings.node_id
    async for attempt in retry_conflicts():
        with attempt:
            async with atlas.db.transaction() as transaction:
                dao = IncidentsDAO(transaction, clock=atlas.clock, settings=atlas.settings)
                before = await dao.lock_unfinished()
                decision = decide(findings, before, judged=judged, now=now, rules=rules, node=node)
                claimed = await dao.store(
                    problems=decision.problems, recoveries=decision.recoveries, others=decision.others
                )
                recovered = _newly_over(decision, before)
                events = [*_opened_events(decision, claimed), *_recovered_events(recovered)]
                await atlas.events.append_many(events, agent=AGENT, executor=transaction)
    return decision, claimed, recovered


def dao_of(atlas: Atlas) -> IncidentsDAO:
    """The incidents of an Atlas."""
    return IncidentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _newly_over(decision: Decision, before: Sequence[Incident]) -> list[Incident]:
    were_open = {each.id for each in before if each.status == "open"}
    return [
        each
        for each in (*decision.recoveries, *decision.others)
        if each.id in were_open and each.status != "open"
    ]


def _opened_events(decision: Decision, claimed: Claimed) -> Iterable[tuple[str, dict[str, Any]]]:
    for each in (*decision.problems, *decision.others):
        if not each.id and each.key in claimed.opened:
            yield (
                "incident.opened",
                {"key": each.key, "severity": each.severity, "text": each.text, "cause": each.cause},
            )


def _recovered_events(recovered: Iterable[Incident]) -> Iterable[tuple[str, dict[str, Any]]]:
    for each in recovered:
        seconds = ((each.well_since or each.seen_at) - each.opened_at).total_seconds()
        yield "incident.recovered", {"key": each.key, "severity": each.severity, "seconds": seconds}


# Telling people


async def _tell_problems(atlas: Atlas, decision: Decision, claimed: Claimed, now: datetime) -> bool:
    if not claimed.problems:
        return True
    effects = [each for each in decision.others if each.status == "open"]
    message = messages.problems(claimed.problems, decision.reasons, effects, now)
    told = await atlas.notifier.deliver(message.title, message.body, level=message.level)
    dao = dao_of(atlas)
    if told:
        await _settle(partial(dao.settle_problems, claimed.problem_claim, claimed.problems, now))
    else:
        await _settle(partial(dao.release, claimed.problem_claim))
    return told


async def _tell_recoveries(atlas: Atlas, claimed: Claimed) -> bool:
    if not claimed.recoveries:
        return True
    message = messages.recoveries(claimed.recoveries)
    told = await atlas.notifier.deliver(message.title, message.body, level=message.level, is_recovery=True)
    dao = dao_of(atlas)
    await _settle(partial(dao.settle_recoveries if told else dao.release, claimed.recovery_claim))
    return told


async def _settle(settle: Callable[[], Awaitable[None]]) -> None:
    """Record that people were told; if that fails, they are told once more when the claim has ended."""
    try:
        async for attempt in retry_conflicts():
            with attempt:
                await settle()
    except DatabaseError as error:
        logger.warning("people may be told twice, as that they were could not be stored: %s", error)


def _keys(incidents: Iterable[Incident]) -> tuple[str, ...]:
    return tuple(each.key for each in incidents)

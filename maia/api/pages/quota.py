"""The page Quota and agents: the day's ledger against its pace, what waits and why, cycles and next runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from maia.agents import AGENTS, round_s
from maia.api.context import READ, service_of
from maia.api.pages.parameters import PageRoute
from maia.api.pages.rendering import Table, page
from maia.maintainer.rota import Turn, rota
from maia.maintenance.health_terms import Basis
from maia.views.health import speed_of
from maia.views.plan import Plan, plan
from maia.views.runs import AgentRuns, runs
from maia.views.status import Status, status
from maia.views.waiting import paces, waiting
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(route_class=PageRoute, dependencies=[READ])

_FRESH_S: Final = 2.0
_STALE_S: Final = 30.0
"""It counts every video; who looks at it has it made anew as often as the page asks."""


@router.get("/quota")
async def quota(request: Request) -> Response:
    """What the quota of this Pacific day is spent on, and by whom."""
    service = service_of(request)
    found, planned = await service.answers.get(
        "page quota", lambda: _look(service.atlas), fresh_s=_FRESH_S, stale_s=_STALE_S
    )
    settings = service.atlas.settings
    basis = Basis(now=found.now, limits=settings.maintainer.health, speed=speed_of(settings))
    agents = runs(found, [(each.name, each.about, round_s(settings, each.name)) for each in AGENTS], basis)
    lines = [line for line in found.ledger.ledger if line.is_in_use]
    spent = paces(lines, settings.quota, found.now)
    waits = waiting(found, spent, agents)
    turns = await service.answers.get("page quota rota", lambda: rota(service.atlas), fresh_s=_FRESH_S)
    due = _due(turns, next(each for each in agents if each.agent == "maintainer"), basis)
    return page(
        request,
        "quota.html.j2",
        status=found,
        plan=planned,
        lines=list(zip(lines, spent, strict=True)),
        waits=waits,
        due=due,
        agents=agents,
        tables={
            "ledger": Table([plain(line) | plain(pace) for line, pace in zip(lines, spent, strict=True)]),
            "waiting": Table(waits),
            "duties": Table(due),
            "keys": Table(found.ledger.keys),
            "plan": Table(planned.today),
            "zones": Table(found.tracking.zones),
            "cycles": Table([cycle for agent in agents for cycle in agent.cycles]),
        },
    )


@dataclass(frozen=True, slots=True)
class _DutyDue:
    """A duty of the maintainer on this host: when it is due next, and how it went last.

    `next_at` is None if it is off, or nothing is known to run the maintainer.
    """

    duty: str
    is_off: bool
    next_at: datetime | None
    last_at: datetime | None
    last: str | None
    summary: str | None


def _due(turns: Sequence[Turn], maintainer: AgentRuns, basis: Basis) -> list[_DutyDue]:
    late = basis.allowed(maintainer.interval_s)
    runs_here = any(
        turn.duty.of_host and turn.last is not None and basis.now - turn.last.started_at <= late
        for turn in turns
    )
    goes_on = maintainer.next_at is not None
    found = [
        _duty(turn, basis.now, goes_on=goes_on and (runs_here or not turn.duty.of_host)) for turn in turns
    ]
    return sorted(found, key=lambda each: (each.next_at is None, each.next_at or basis.now, each.duty))


def _duty(turn: Turn, now: datetime, *, goes_on: bool) -> _DutyDue:
    is_off, next_at = not turn.schedule.enabled, turn.next_at(now) if goes_on else None
    if (last := turn.last) is None:
        return _DutyDue(turn.duty.name, is_off, next_at, None, None, None)
    return _DutyDue(turn.duty.name, is_off, next_at, last.started_at, last.state, last.summary)


async def _look(atlas: Atlas) -> tuple[Status, Plan]:
    return await status(atlas, [agent.name for agent in AGENTS]), await plan(atlas)

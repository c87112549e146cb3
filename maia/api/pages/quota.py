"""The page Quota and agents: the day's ledger against its pace, what waits and why, cycles and next runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from maia.agents import AGENTS, round_s
from maia.api.context import READ, service_of
from maia.api.pages.rendering import Table, page
from maia.maintainer.rota import Turn, rota
from maia.views.plan import Plan, plan
from maia.views.runs import runs
from maia.views.status import Status, status
from maia.views.waiting import paces, waiting
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(dependencies=[READ])

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
    agents = runs(found, [(each.name, each.about, round_s(settings, each.name)) for each in AGENTS])
    lines = [line for line in found.ledger.ledger if line.is_in_use]
    spent = paces(lines, settings.quota, found.now)
    waits = waiting(found, spent, agents)
    due = await service.answers.get("page quota rota", lambda: _due(service.atlas), fresh_s=_FRESH_S)
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
    """A duty of the maintainer on this host: when it is due next, and how it went last."""

    duty: str
    next_at: datetime | None
    last_at: datetime | None
    last: str | None
    summary: str | None


async def _due(atlas: Atlas) -> list[_DutyDue]:
    now = atlas.clock.now()
    found = [_duty(turn, now) for turn in await rota(atlas)]
    return sorted(found, key=lambda each: (each.next_at is None, each.next_at or now, each.duty))


def _duty(turn: Turn, now: datetime) -> _DutyDue:
    last = turn.last
    if last is None:
        return _DutyDue(turn.duty.name, turn.next_at(now), None, None, None)
    return _DutyDue(turn.duty.name, turn.next_at(now), last.started_at, last.state, last.summary)


async def _look(atlas: Atlas) -> tuple[Status, Plan]:
    return await status(atlas, [agent.name for agent in AGENTS]), await plan(atlas)

"""The page Quota and agents: the day's ledger against its pace, what waits and why, cycles and next runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from maia.agents import AGENTS, round_s
from maia.api.context import READ, service_of
from maia.api.pages.rendering import Table, page
from maia.views.plan import Plan, plan
from maia.views.runs import runs
from maia.views.status import Status, status

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(dependencies=[READ])

_FRESH_S: Final = 2.0


@router.get("/quota")
async def quota(request: Request) -> Response:
    """What the quota of this Pacific day is spent on, and by whom."""
    service = service_of(request)
    found, planned = await service.answers.get(
        "page quota", lambda: _look(service.atlas), fresh_s=_FRESH_S, stale_s=_FRESH_S
    )
    settings = service.atlas.settings
    agents = runs(found, [(each.name, each.about, round_s(settings, each.name)) for each in AGENTS])
    lines = [line for line in found.ledger.ledger if line.is_in_use]
    return page(
        request,
        "quota.html.j2",
        status=found,
        plan=planned,
        lines=lines,
        agents=agents,
        tables={
            "ledger": Table(lines),
            "keys": Table(found.ledger.keys),
            "plan": Table(planned.today),
            "zones": Table(found.tracking.zones),
            "cycles": Table([cycle for agent in agents for cycle in agent.cycles]),
        },
    )


async def _look(atlas: Atlas) -> tuple[Status, Plan]:
    return await status(atlas, [agent.name for agent in AGENTS]), await plan(atlas)

"""The page Health: a score with reasons, incidents, suggestions with their command, a report, and the log."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from maia import acts
from maia.api.acting import RowId
from maia.api.context import READ, WRITE, service_of
from maia.api.pages.parameters import PageRoute
from maia.api.pages.rendering import Table, page
from maia.api.pages.upkeep import ACTIONS_OF
from maia.maintainer.health import look
from maia.maintenance.findings import Component
from maia.views.actions import actions
from maia.views.health import Health
from maia.views.log import log
from maia.views.upkeep import upkeep

router = APIRouter(route_class=PageRoute, dependencies=[READ])

_FRESH_S: Final = 10.0
_STALE_S: Final = 60.0
_LINES: Final = 20
_ACTIONS: Final = 5
_NOT_JUDGED: Final = {
    Component.LEDGER: "no API key is set",
    Component.PREFECT: "PREFECT_API_URL is not set",
    Component.SERVICES: "nothing to watch here",
}


@router.get("/health")
async def health(request: Request) -> Response:
    """How well everything is, as seen from this host."""
    service = service_of(request)
    found = await service.answers.get(
        "page health", lambda: look(service.atlas), fresh_s=_FRESH_S, stale_s=_STALE_S
    )
    atlas = service.atlas
    kept, lines = await upkeep(atlas), await log(atlas, "info", _LINES)
    taken = await actions(atlas, atlas.clock.now() - ACTIONS_OF, limit=_ACTIONS)
    return page(
        request,
        "health.html.j2",
        health=found,
        upkeep=kept,
        not_judged=_NOT_JUDGED,
        lines=lines,
        tail=f"/health/log?limit={_LINES}",
        actions=taken.lines,
        tables={
            "components": Table(_components(found)),
            "incidents": Table(kept.incidents),
            "suggestions": Table(kept.comments),
            "actions": Table(taken.lines),
            "log": Table(lines),
        },
    )


@router.post("/health/incidents/{id}/acknowledge", dependencies=[WRITE])
async def acknowledge(request: Request, row: RowId) -> Response:
    """Keep an incident silent until it is over or worse."""
    await acts.acknowledge(service_of(request).atlas, str(row), None)
    return RedirectResponse("/health#incidents-title", 303)


def _components(found: Health) -> list[dict[str, object]]:
    return [
        {"component": each.component.value, "score": each.score, "reasons": list(each.reasons)}
        for each in found.judgement.components
    ]

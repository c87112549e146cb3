"""The page Health: a score with its reasons, incidents, suggestions with their command, the last report."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from maia.api.context import READ, service_of
from maia.api.pages.rendering import Table, page
from maia.maintainer.health import look
from maia.maintenance.findings import Component
from maia.views.health import Health
from maia.views.upkeep import upkeep

router = APIRouter(dependencies=[READ])

_FRESH_S: Final = 10.0
_STALE_S: Final = 60.0
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
    kept = await upkeep(service.atlas)
    return page(
        request,
        "health.html.j2",
        health=found,
        upkeep=kept,
        not_judged=_NOT_JUDGED,
        tables={
            "components": Table(_components(found)),
            "incidents": Table(kept.incidents),
            "suggestions": Table(kept.comments),
        },
    )


def _components(found: Health) -> list[dict[str, object]]:
    return [
        {"component": each.component.value, "score": each.score, "reasons": list(each.reasons)}
        for each in found.judgement.components
    ]

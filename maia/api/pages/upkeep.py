"""Below the page Health: the tail of the log, and what admins may start, its plan shown first."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from maia.api.context import ADMIN, READ, caller_of, service_of
from maia.api.pages.parameters import PageRoute, form_of
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.maintainer.asked import WORKS, Work, plans, work_named
from maia.views.actions import actions
from maia.views.log import MOST, Level, log

router = APIRouter(route_class=PageRoute, dependencies=[READ], prefix="/health")

ACTIONS_OF: Final = timedelta(days=30)
MOST_ACTIONS: Final = 50
_MOST_PLANNED: Final = 40
_PATIENCE_S: Final = 2.0
_DONE: Final = {
    "done": "Done: what came of it is told below.",
    "begun": "Begun: it goes on below, also if you leave this page.",
}


@router.get("/log")
async def tail(
    request: Request,
    level: Annotated[Level, Query()] = "info",
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
) -> Response:
    """The last lines that processes of all hosts logged."""
    lines = await log(service_of(request).atlas, level, limit)
    return page(
        request, "log.html.j2", lines=lines, level=level, limit=limit, most=MOST, tables={"log": Table(lines)}
    )


@router.get("/actions")
async def listed(request: Request, done: Annotated[str | None, Query(max_length=20)] = None) -> Response:
    """What can be started here, and what was done lately, by whomever."""
    service = service_of(request)
    atlas, operating = service.atlas, service.operating
    found = await actions(atlas, atlas.clock.now() - ACTIONS_OF, limit=MOST_ACTIONS)
    return page(
        request,
        "actions.html.j2",
        works=_works(request),
        found=found,
        done=_DONE.get(done or ""),
        is_busy=operating.is_busy,
        last=None if operating.is_busy else operating.last,
        tables={"actions": Table(found.lines), "given_up": Table(found.given_up)},
    )


@router.get("/actions/{name}", dependencies=[ADMIN])
async def planned(request: Request, name: str) -> Response:
    """What a work would do now; changes nothing."""
    work = _work(request, name)
    found = await plans(service_of(request).atlas, work, _allowed(request))
    shown = found[:_MOST_PLANNED]
    return page(
        request,
        "action.html.j2",
        work=work,
        planned=shown,
        left_out=len(found) - len(shown),
        tables={"plan": Table([each.as_dict() for each in shown])},
    )


@router.post("/actions/{name}", dependencies=[ADMIN])
async def begin(request: Request, name: str) -> Response:
    """Do what was chosen of a plan."""
    work = _work(request, name)
    chosen = [(kind, target) for kind, _, target in map(_parted, await form_of(request)) if target]
    if not chosen:
        raise Problem(422, f"nothing was chosen: go back to /health/actions/{work.name}, and choose")
    operating = service_of(request).operating
    is_done = await operating.begin(work, chosen, caller_of(request).name, _PATIENCE_S)
    done = urlencode({"done": "done" if is_done else "begun"})
    return RedirectResponse(f"/health/actions?{done}", 303)


def _parted(field: str) -> tuple[str, str, str]:
    """A field of the form is named after the action: its kind, a space, and its target."""
    return field.partition(" ")


def _allowed(request: Request) -> tuple[str, ...]:
    return service_of(request).atlas.settings.api.actions


def _works(request: Request) -> list[Work]:
    """The works of which at least one kind of action is allowed."""
    return [work for work in WORKS if work.kinds & frozenset(_allowed(request))]


def _work(request: Request, name: str) -> Work:
    work = work_named(name)
    if work is None or work not in _works(request):
        known = ", ".join(each.name for each in _works(request)) or "none, by PLEIADES_API__ACTIONS"
        raise Problem(404, f"there is no such work: there are {known}")
    return work

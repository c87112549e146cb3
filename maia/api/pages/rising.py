"""The page Rising: who grows fastest, breakouts as they happen, and what was expected against what came."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maia.api.context import READ, service_of
from maia.api.pages.parameters import PageRoute
from maia.api.pages.rendering import Table, page
from maia.api.videos import BoardQuery, span_of
from maia.views.breakouts import breakouts
from maia.views.leaderboard import By, Leaderboard, leaderboard
from maia.views.settled import SettledForecasts, settled
from maia.youtube.categories import CATEGORIES, category_of

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(route_class=PageRoute, dependencies=[READ])

_BREAKOUTS_OF: Final = timedelta(days=7)
_BREAKOUTS: Final = 6
_SETTLED: Final = 8
_NOT_OF_THE_BOARD: Final = frozenset({"as", "table", "cursor", "format"})
_NARROWING: Final = (
    "category", "channel", "tag", "zone", "length", "broadcast", "region", "age_min", "age_max",
    "velocity_min",
)  # fmt: skip

ORDERS: Final[dict[By, str]] = {
    "velocity": "views per hour",
    "score": "viral score",
    "acceleration": "change of views per hour",
    "relative": "views per hour against what is usual",
    "forecast": "views expected in the next 24 h",
}
WINDOWS: Final = {"1h": "1 hour", "6h": "6 hours", "24h": "24 hours", "3d": "3 days", "7d": "7 days"}
AGES: Final = {"6h": "6 hours", "1d": "a day", "3d": "3 days", "7d": "a week", "30d": "30 days"}
LIMITS: Final = (10, 25, 50, 100, 200)
USUAL_LIMIT: Final = 25


@router.get("/")
async def rising(request: Request) -> Response:
    """The leaderboard, filtered as at /api/v1/videos, and beside it what happened lately."""
    service, query = service_of(request), _query(request)
    board, came = await service.answers.get(
        ("page rising", query.model_dump_json()), lambda: _look(service.atlas, query)
    )
    # Whoever has just heard of a breakout wants to see it.
    recent = await breakouts(service.atlas, service.atlas.clock.now() - _BREAKOUTS_OF, _BREAKOUTS)
    return page(
        request,
        "rising.html.j2",
        board=board,
        recent=recent,
        came=came,
        chosen=query,
        category=None if query.category is None else category_of(query.category).id,
        narrowed=[name for name in _NARROWING if getattr(query, name) is not None],
        orders=ORDERS,
        windows=_with(WINDOWS, query.window),
        youngest=_with(AGES, query.age_min),
        oldest=_with(AGES, query.age_max),
        limits=sorted({*LIMITS, query.limit}),
        categories={each.id: each.title for each in CATEGORIES.values() if each.assignable},
        tables={
            "videos": Table(board.videos, derived=True, api=_api(query)),
            "breakouts": Table(recent.breakouts, derived=True),
            "forecasts": Table(came.forecasts, derived=True),
        },
    )


def _query(request: Request) -> BoardQuery:
    """What the address asks for; empty fields of the form are left out."""
    given = {
        name: value
        for name, value in request.query_params.items()
        if value.strip() and name not in _NOT_OF_THE_BOARD
    }
    try:
        return BoardQuery.model_validate({"limit": USUAL_LIMIT} | given)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _api(query: BoardQuery) -> str:
    """Where programs get the same board."""
    given = query.model_dump(mode="json", exclude_none=True, exclude={"format", "cursor"})
    return f"/api/v1/videos?{urlencode(given)}"


def _with(named: dict[str, str], given: str | None) -> dict[str, str]:
    return named if given is None or given in named else named | {given: given}


async def _look(atlas: Atlas, query: BoardQuery) -> tuple[Leaderboard, SettledForecasts]:
    window = None if query.window is None else span_of(query.window)
    board = await leaderboard(atlas, query.by, query.limit, query.filters(), window)
    return board, await settled(atlas, _SETTLED)

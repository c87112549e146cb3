"""The ASGI application: its routes behind the gate, and what runs beside them as long as it is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from atlas.errors import AtlasError
from atlas.tasks import running
from maia.api import measuring
from maia.api.access import Access
from maia.api.caching import Forgetting
from maia.api.compression import Compressed
from maia.api.connections import answer_full
from maia.api.context import Service
from maia.api.engine import Engine
from maia.api.feed import Feed
from maia.api.gate import BoundedBody, BoundedWait, Conditional, Gate, HeadAnswered, SecureHeaders
from maia.api.graph_communities import RecentCommunities
from maia.api.graph_hub import GraphHub
from maia.api.hot import Shortcut, describe
from maia.api.learning import LearnerRuns
from maia.api.mcp import server as mcp
from maia.api.measuring import Measuring, Traffic
from maia.api.observing import Observing
from maia.api.operating import Operating
from maia.api.pages.readable import ProblemPages, wants_html
from maia.api.pages.rendering import make_ready
from maia.api.pattern_hub import PatternHub
from maia.api.problems import Problem, ProblemDetails, answer_problem
from maia.api.streaming import Hub
from maia.api.streams import Seats
from maia.errors import MaiaError
from maia.federation.running import Federation
from maia.log_keeping import kept_log
from maia.stack.exporter import Exporter

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from atlas.composition import Atlas

_CATCHING_UP_AT_ONCE: Final = 4
_GRAPH_WORK_AT_ONCE: Final = 2
_GRAPH_EXPORTS_AT_ONCE: Final = 4
_MAKING: Final = Lock()
_DESCRIPTION: Final = (
    "Finds videos on YouTube early, measures how fast they grow, and learns what helps. Figures that are "
    "derived, such as velocity, are Pleiades's own and not YouTube's."
)
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": description,
        "content": {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}},
    }
    for status, description in {
        400: "The body can't be read.",
        401: "No valid key.",
        403: "The key lacks the scope that this needs.",
        408: "The body did not arrive in time.",
        413: "The body is too long.",
        422: "A value is not as described here.",
        429: "More requests than the key may make in a minute.",
        503: "The database does not answer.",
    }.items()
}


def routers() -> Sequence[APIRouter]:
    """The routes, by what they are about."""
    from maia.api import (
        acting,
        discovery,
        events,
        federation,
        graph,
        graph_acts,
        graph_changes,
        graph_communities,
        graph_export,
        graph_query,
        health,
        learning,
        metrics,
        observe,
        pages,
        patterns,
        sockets,
        videos,
    )

    return (
        acting.router, discovery.router, events.router, federation.router, graph.router, graph_acts.router,
        graph_changes.router, graph_communities.router, graph_export.router, graph_query.router,
        health.router, learning.router, metrics.router, observe.router, pages.router, patterns.router,
        sockets.router, videos.router,
    )  # fmt: skip


def every_route(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """All routes, also those of routers within these, which FastAPI doesn't unfold."""
    for route in routes:
        within = getattr(route, "original_router", None)
        if within is None:
            yield route
        else:
            yield from every_route(within.routes)


@cache
def _routes() -> Sequence[BaseRoute]:
    """All routes but those of a single application; FastAPI prepares each only once in a process."""
    every = APIRouter(responses=_PROBLEMS)
    for router in routers():
        every.include_router(router)
    return tuple(every.routes)


def _described(**options: Any) -> FastAPI:
    """An application with these routes."""
    app = FastAPI(title="Pleiades", version=version("pleiades-agents"), description=_DESCRIPTION, **options)
    app.router.routes.extend(_routes())
    return app


def _document() -> bytes:
    with _MAKING:
        return _made_document()


@cache
def _made_document() -> bytes:
    """The OpenAPI document, the same of every application, as JSON; making it takes half a second."""
    app = _described()
    describe(app, routers())
    return bytes(JSONResponse(app.openapi()).body)


async def _answer_document(_: Request) -> Response:
    return Response(_document(), media_type="application/json")


def build(atlas: Atlas) -> Application:
    """The application over an open Atlas, which outlives it."""
    access, stopping, traffic = Access(atlas), asyncio.Event(), Traffic()
    assistants = mcp.OverHttp(atlas)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            engine = Engine(atlas)
            service = Service(
                atlas=atlas,
                access=access,
                engine=engine,
                learner_runs=LearnerRuns(atlas),
                pattern_hub=PatternHub(atlas, engine.confidence_before),
                graph_hub=GraphHub(atlas),
                observing=Observing(atlas),
                operating=Operating(atlas),
                hub=Hub(atlas),
                streams=Seats(atlas.settings.api.most_streams),
                traffic=traffic,
                federation=Federation(atlas),
                exporter=Exporter(atlas, measuring.FAMILIES),
                catching_up=asyncio.Semaphore(_CATCHING_UP_AT_ONCE),
                graph_work=asyncio.Semaphore(_GRAPH_WORK_AT_ONCE),
                communities=RecentCommunities(atlas),
                graph_exports=asyncio.Semaphore(_GRAPH_EXPORTS_AT_ONCE),
            )
            app.state.service = service
            # FastAPI's fields must not be made by requests meanwhile, so nothing is answered before; several
            # services of a process wait for each other here.
            await asyncio.to_thread(_document)
            await stack.enter_async_context(kept_log(atlas))
            stack.push_async_callback(service.answers.close)
            stack.push_async_callback(service.learner_runs.end)
            stack.push_async_callback(service.operating.end)
            stack.push_async_callback(service.communities.end)
            # Whoever looks first shall not wait until templates are compiled and routes prepared.
            await asyncio.to_thread(make_ready)
            _prepare_routes(app)
            await stack.enter_async_context(assistants.running())
            await stack.enter_async_context(service.observing.running())
            for work in (
                access.keep_fresh,
                service.engine.keep_paying,
                service.federation.begin,
                Feed(atlas, [service.engine, service.pattern_hub]).follow,
                service.graph_hub.follow,
                service.federation.keep_mirrors,
                service.hub.run,
                lambda: service.hub.end_with(stopping),
                lambda: service.graph_hub.end_with(stopping),
            ):
                await stack.enter_async_context(running(work()))
            yield

    app = _described(
        lifespan=lifespan,
        # FastAPI would make the document in the event loop, and its own pages load scripts from another host.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # It would lead to whatever host the request names.
        redirect_slashes=False,
    )
    app.router.routes.append(Route("/openapi.json", _answer_document, methods=["GET"]))
    app.router.routes.append(Route(mcp.PATH, assistants, methods=["POST"]))
    app.add_exception_handler(Problem, answer_problem)
    app.add_exception_handler(AtlasError, answer_problem)
    app.add_exception_handler(MaiaError, answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, answer_problem)
    app.add_exception_handler(Exception, answer_problem)
    settings = atlas.settings.api
    forgetting = Forgetting(HeadAnswered(app), lambda: app.state.service.answers)
    shortcut = Shortcut(Conditional(Compressed(forgetting)), routers(), _answer_error)
    guarded: ASGIApp = BoundedWait(Gate(BoundedBody(shortcut, settings), access, settings), settings)
    if settings.cors_origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["X-API-Key", "Content-Type", "If-None-Match", "Last-Event-ID"],
            expose_headers=["ETag", "RateLimit-Limit", "RateLimit-Remaining", "Retry-After"],
        )
    measured = Measuring(SecureHeaders(ProblemPages(guarded)), traffic, every_route(app.routes))
    return Application(measured, app, stopping, traffic, Measuring(SecureHeaders(answer_full), traffic, ()))


class Application:
    """The guarded application; its lifespan passes by whatever stands before it.

    `stopping` is set when the process begins to stop, for those whose answers would never end. `full` answers
    when there are too many connections.
    """

    def __init__(
        self, guarded: ASGIApp, app: FastAPI, stopping: asyncio.Event, traffic: Traffic, full: ASGIApp
    ) -> None:
        self._guarded, self.app, self.stopping = guarded, app, stopping
        self.traffic, self.full = traffic, full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = self.app if scope["type"] == "lifespan" else self._guarded
        if "app" not in scope:
            scope["app"] = self.app
        await target(scope, receive, send)


def _prepare_routes(app: FastAPI) -> None:
    """Let FastAPI prepare all routes, which it does as it first compares them with a path."""
    nowhere = {"type": "http", "method": "GET", "path": "/nowhere", "root_path": "", "headers": []}
    for route in app.router.routes:
        route.matches(nowhere)


async def _answer_error(request: Request, error: Exception) -> Response:
    """What the handlers above answer."""
    if isinstance(error, RequestValidationError):
        return await _answer_invalid(request, error)
    return await answer_problem(request, error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"where": ".".join(map(str, each["loc"])), "why": each["msg"].removeprefix("Value error, ")}
        for each in error.errors()[:20]
    ]
    told = "; ".join(f"{each['where']}: {each['why']}" for each in found[:3])
    if wants_html(request.headers):
        return Problem(422, told, errors=found).response()
    hint = "GET /openapi.json describes what is expected"
    if request.method != "GET" and "json" not in request.headers.get("Content-Type", ""):
        hint = f"send JSON with Content-Type: application/json; {hint}"
    return Problem(422, f"{told}: {hint}", errors=found).response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail, hint = {
        404: (f"there is nothing at {request.url.path[:200]}", ": GET /openapi.json lists what there is"),
        405: (f"{request.method[:20]} is not possible here", ": GET /openapi.json says what is"),
        400: ("the body can't be read", ": send JSON in UTF-8"),
    }.get(error.status_code, (str(error.detail), ""))
    if not wants_html(request.headers):
        detail += hint
    return Problem(error.status_code, detail, headers=error.headers).response()

"""What the routes share: the Atlas, access, and what is computed once a process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from atlas.scopes import Scope
from maia.api.access import Access, Caller
from maia.api.caching import Kept

if TYPE_CHECKING:
    import asyncio

    from atlas.composition import Atlas
    from maia.api.engine import Engine
    from maia.api.graph_communities import RecentCommunities
    from maia.api.graph_hub import GraphHub
    from maia.api.learning import LearnerRuns
    from maia.api.measuring import Traffic
    from maia.api.observing import Observing
    from maia.api.operating import Operating
    from maia.api.pattern_hub import PatternHub
    from maia.api.streaming import Hub
    from maia.api.streams import Seats
    from maia.federation.running import Federation
    from maia.stack.exporter import Exporter


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the service; it keeps nothing that the database doesn't hold."""

    atlas: Atlas
    access: Access
    engine: Engine
    learner_runs: LearnerRuns
    pattern_hub: PatternHub
    graph_hub: GraphHub
    observing: Observing
    operating: Operating
    hub: Hub
    streams: Seats
    traffic: Traffic
    exporter: Exporter
    federation: Federation
    catching_up: asyncio.Semaphore
    """Held while a client that was away reads from the database."""
    graph_work: asyncio.Semaphore
    """Held while a query of the graph runs, or a path is looked for."""
    communities: RecentCommunities
    graph_exports: asyncio.Semaphore
    """Held while a client takes an export of the graph."""
    answers: Kept = field(default_factory=Kept)


def service_of(connection: HTTPConnection) -> Service:
    """The service that answers a request."""
    return cast(Service, connection.app.state.service)


def caller_of(connection: HTTPConnection) -> Caller:
    """Whoever made a request; `Gate` has recognised them."""
    return cast(Caller, connection.state.caller)


_key_header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="key",
    description="A key of the service: `maia keys api add NAME --scope read|write|admin`.",
    auto_error=False,
)
_bearer = HTTPBearer(
    scheme_name="bearer",
    description="The same key, from programs that can only send Authorization, such as Prometheus.",
    auto_error=False,
)
_declared: Final[dict[Callable[..., Any], Scope]] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def declares(scope: Scope) -> Callable[[_Function], _Function]:
    """Say which scope an endpoint, or a dependency, requires by itself; a test looks at every route."""

    def note(function: _Function) -> _Function:
        _declared[function] = scope
        return function

    return note


def declared_scope(route: BaseRoute) -> Scope | None:
    """The scope that a route requires; None if it declares none."""
    dependant = getattr(route, "dependant", None)
    calls = [getattr(route, "endpoint", None)]
    calls += [each.call for each in dependant.dependencies] if dependant is not None else []
    found = [_declared[call] for call in calls if call in _declared]
    return max(found, key=[*Scope].index, default=None)


def needs(scope: Scope) -> Callable[..., Awaitable[None]]:
    """A dependency by which only callers with a scope reach a route."""

    # A plain function would be run in a thread, at the price of a whole small request.
    @declares(scope)
    async def check(
        connection: HTTPConnection,
        _: Annotated[str | None, Security(_key_header)] = None,
        __: Annotated[object, Security(_bearer)] = None,
    ) -> None:
        caller_of(connection).require(scope)
        connection.state.may_change = scope is not Scope.READ

    return check


READ = Depends(needs(Scope.READ))
WRITE = Depends(needs(Scope.WRITE))
ADMIN = Depends(needs(Scope.ADMIN))

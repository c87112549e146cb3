"""The knowledge graph over HTTP: atoms, what is linked with them, how they hang together, and attention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from maia.api import graph_examples as examples
from maia.api.answers import AsFormat, Body, Format, Table, as_json, documented, listed
from maia.api.context import READ, service_of
from maia.api.paging import cursor_after, values_of
from maia.api.problems import Problem, described
from maia.graphing.naming import NoSuchAtom
from maia.views import graph as views
from maia.views.graph_answers import (
    AtomDetails,
    AtomPage,
    AtomView,
    GraphStats,
    Neighbourhood,
    PathView,
    SimilarAtoms,
)

if TYPE_CHECKING:
    from maia.api.context import Service

router = APIRouter(prefix="/api/v1/graph", tags=["graph"], dependencies=[READ])

LONGEST_ATOM: Final = 2_000
"""A link names all atoms of its outgoing set."""
_LONGEST_CURSOR: Final = 4_096
_MOST_ROWS: Final = 1_000
_MOST_TYPES: Final = 20
_TYPE: Final = r"^[a-z][a-z0-9_]{0,49}$"
_SPACE: Final = r"^[a-z0-9][a-z0-9_-]{0,49}$"
_PATIENCE_S: Final = 5.0
STATS_FRESH_S: Final = 15.0
STATS_STALE_S: Final = 120.0

T = TypeVar("T")

AtomId = Annotated[
    str,
    Path(
        alias="id",
        min_length=1,
        max_length=LONGEST_ATOM,
        description="The atom: `type:name` of a node, `type(atom, atom)` of a link, or its handle, of which "
        "the first characters will do if no other begins so. Percent-encoded, also its slashes.",
        examples=["tag:music"],
    ),
]
SpaceName = Annotated[
    str,
    Query(
        alias="space",
        pattern=_SPACE,
        description="`own`, or the name of a read-only copy of a part of another site's graph.",
    ),
]
TypeName = Annotated[str, Query(pattern=_TYPE)]
LinkTypes = Annotated[
    list[Annotated[str, Query(pattern=_TYPE)]] | None,
    Query(alias="type", max_length=_MOST_TYPES, description="Only links of these types. [default: all]"),
]
Limit = Annotated[int, Query(ge=1, le=_MOST_ROWS, description="Most atoms of a page.")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=_LONGEST_CURSOR,
        description="Where the page begins: `next` of the page before, with the same filters.",
    ),
]
_End = Annotated[
    str,
    Query(
        min_length=1,
        max_length=LONGEST_ATOM,
        description="An atom, as in the other paths: `type:name`, `type(atom, atom)`, or its handle.",
    ),
]
_MOST_STEPS: Final = 6
NO_SPACE: Final = described(404, "There is no such space or type.")
NO_ATOM: Final = described(404, "There is no such atom, space or type.")


@dataclass(frozen=True, slots=True)
class Atoms:
    """Some atoms; `next` is the cursor of the page that follows, null if none does."""

    space: str
    atoms: tuple[AtomView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Attention:
    """The atoms with the highest short-term importance (sti), as it was when it was last set."""

    now: datetime
    space: str
    atoms: tuple[AtomView, ...]


_COLUMNS: Final = (
    "handle", "atom", "type", "shown", "strength", "confidence", "positive", "count", "weight", "sources",
    "seen_at", "sti", "lti", "vlti", "attended_at",
)  # fmt: skip
_ATOMS: Final = Table("atoms", _COLUMNS)
_NEIGHBOURS: Final = Table(
    "neighbours",
    (
        "neighbour.handle", "neighbour.atom", "neighbour.type", "neighbour.shown", "hops", "paths", "types",
        "weight", "closeness", "via.atom", "neighbour.strength", "neighbour.confidence", "neighbour.sti",
    ),
)  # fmt: skip
_SIMILAR: Final = Table("similar", (*(f"atom.{column}" for column in _COLUMNS), "likeness"))
_TYPES: Final = Table("types", ("type", "is_link", "what", "atoms", "positive", "count", "seen_at"))


@router.get(
    "/atoms",
    summary="Find nodes by type and name",
    description="Nodes whose names begin with `prefix`, by type and name. All spellings of a tag or topic "
    "are one; videos and channels are called by their ids.",
    response_model=Atoms,
    responses=documented(examples.ATOMS, csv=True) | NO_SPACE,
)
async def atoms(
    request: Request,
    type_: Annotated[
        str | None, Query(alias="type", pattern=_TYPE, description="Only this type. [default: all]")
    ] = None,
    prefix: Annotated[str, Query(max_length=300, description="How the name begins.")] = "",
    title: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=200,
            description="Instead of prefix: channels, then videos, whose titles have all these words.",
        ),
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    space: SpaceName = "own",
    form: AsFormat = Format.JSON,
) -> Response:
    service, scope = service_of(request), ["atoms", space, type_, prefix]
    if title is not None and (prefix or cursor):
        raise Problem(422, "title finds atoms in another order than prefix and cursor: leave these out")

    async def make() -> Body:
        number = await views.space_named(service.atlas, space)
        if title is not None:
            page = await views.find_titled(service.atlas, title, type_=type_, limit=limit, space=number)
            return _page(request, scope, space, page, form)
        after = None if cursor is None else _place_of(cursor, scope)
        page = await views.find(service.atlas, prefix, type_=type_, after=after, limit=limit, space=number)
        return _page(request, scope, space, page, form)

    return await kept(request, "atoms", make)


@router.get(
    "/atoms/{id:path}/incoming",
    summary="The links that have an atom in their outgoing set",
    description="By handle. Read an atom whose name ends like this path by its handle.",
    response_model=Atoms,
    responses=documented(examples.INCOMING, csv=True) | NO_ATOM,
)
async def incoming(
    request: Request,
    atom: AtomId,
    types: LinkTypes = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    space: SpaceName = "own",
    form: AsFormat = Format.JSON,
) -> Response:
    service, scope = service_of(request), ["incoming", space, atom, types]

    async def make() -> Body:
        number = await views.space_named(service.atlas, space)
        after = None if cursor is None else _place_of(cursor, scope)
        page = await views.incoming(service.atlas, atom, types=types, after=after, limit=limit, space=number)
        return _page(request, scope, space, page, form)

    return await kept(request, "incoming", make)


@router.get(
    "/atoms/{id:path}/neighbours",
    summary="The atoms that an atom is linked with",
    description="By links of two: those with the heaviest links first. Of atoms with very many links, some "
    "are looked at (`sampled`).",
    response_model=Neighbourhood,
    responses=documented(examples.NEIGHBOURS, csv=True) | NO_ATOM,
)
async def neighbours(
    request: Request,
    atom: AtomId,
    hops: Annotated[int, Query(ge=1, le=2, description="2: also the neighbours' neighbours.")] = 1,
    types: LinkTypes = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Most neighbours of each distance.")] = 50,
    space: SpaceName = "own",
    form: AsFormat = Format.JSON,
) -> Response:
    service = service_of(request)

    async def make() -> Body:
        number = await views.space_named(service.atlas, space)
        found = await views.neighbours(service.atlas, atom, hops=hops, types=types, limit=limit, space=number)
        return listed(found, found.neighbours, _NEIGHBOURS, form, request.url)

    return await kept(request, "neighbours", make)


@router.get(
    "/atoms/{id:path}/similar",
    summary="The atoms most like an atom",
    description="Of its type, the likest first: by links `similar`, whose weight is a cosine, or until there "
    "are any by neighbours that few others have.",
    response_model=SimilarAtoms,
    responses=documented(examples.SIMILAR, csv=True) | NO_ATOM,
)
async def similar(
    request: Request,
    atom: AtomId,
    limit: Annotated[int, Query(ge=1, le=100, description="How many atoms.")] = 10,
    space: SpaceName = "own",
    form: AsFormat = Format.JSON,
) -> Response:
    service = service_of(request)

    async def make() -> Body:
        number = await views.space_named(service.atlas, space)
        found = await views.similar(service.atlas, atom, limit=limit, space=number)
        return listed(found, found.atoms, _SIMILAR, form, request.url)

    return await kept(request, "similar", make)


@router.get(
    "/path",
    summary="A shortest path between two atoms",
    description="Over links of two. If there is none of that length, or the search gave up, `note` says so.",
    response_model=PathView,
    responses=documented(examples.PATH) | NO_ATOM,
)
async def path(
    request: Request,
    start: Annotated[_End, Query(alias="from", examples=["tag:music"])],
    goal: Annotated[_End, Query(alias="to", examples=["tag:live"])],
    types: LinkTypes = None,
    most_links: Annotated[int, Query(ge=1, le=_MOST_STEPS, description="How long it may be.")] = _MOST_STEPS,
    space: SpaceName = "own",
) -> Response:
    service = service_of(request)

    async def make() -> Body:
        number = await views.space_named(service.atlas, space)
        async with graph_work(service):
            found = await views.path(
                service.atlas, start, goal, types=types, most_links=most_links, space=number
            )
        return Body(as_json(found))

    return await kept(request, "path", make)


@router.get(
    "/atoms/{id:path}",
    summary="An atom with its truth value, attention and values",
    description="Strength is the share of the observations that say it is true, confidence how many there "
    "are; `incoming` counts the links that have it in their outgoing set.",
    response_model=AtomDetails,
    responses=documented(examples.ATOM) | NO_ATOM,
)
async def one_atom(request: Request, atom: AtomId, space: SpaceName = "own") -> Response:
    service = service_of(request)

    async def make() -> Body:
        return Body(as_json(await one(service, atom, space)))

    return await kept(request, "atom", make)


@router.get(
    "/attention",
    summary="What deserves attention",
    response_model=Attention,
    responses=documented(examples.ATTENTION, csv=True) | NO_SPACE,
)
async def attention(
    request: Request,
    type_: Annotated[
        str | None, Query(alias="type", pattern=_TYPE, description="Only this type. [default: all]")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many atoms.")] = 50,
    space: SpaceName = "own",
    form: AsFormat = Format.JSON,
) -> Response:
    service = service_of(request)

    async def make() -> Body:
        number = await views.space_named(service.atlas, space)
        found = tuple(await views.most_attended(service.atlas, type_, limit=limit, space=number))
        view = Attention(service.atlas.clock.now(), space, found)
        return listed(view, found, _ATOMS, form, request.url)

    return await kept(request, "attention", make)


@router.get(
    "/stats",
    summary="How much there is in the graph",
    description="At most two minutes old.",
    response_model=GraphStats,
    responses=documented(examples.STATS, csv=True) | NO_SPACE,
)
async def statistics(request: Request, space: SpaceName = "own", form: AsFormat = Format.JSON) -> Response:
    found = await stats(service_of(request), space)
    return listed(found, found.types, _TYPES, form, request.url).response()


async def stats(service: Service, space: str = "own") -> GraphStats:
    """How much there is in a space; counting reads every atom, so it is kept for a while."""

    async def make() -> GraphStats:
        return await views.stats(service.atlas, space=await views.space_named(service.atlas, space))

    return await service.answers.get(
        ("graph stats", space), make, fresh_s=STATS_FRESH_S, stale_s=STATS_STALE_S
    )


async def one(service: Service, atom: str, space: str = "own") -> AtomDetails:
    """An atom; NoSuchAtom if it isn't there."""
    found = await views.get(service.atlas, [atom], space=await views.space_named(service.atlas, space))
    if not found:
        raise NoSuchAtom(
            f"there is no atom {atom[:200]}: GET /api/v1/graph/atoms finds those whose names begin alike"
        )
    return found[0]


@asynccontextmanager
async def graph_work(service: Service) -> AsyncIterator[None]:
    """A turn for a query or path, which may hold a connection for long; Problem 503 if none comes soon."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await service.graph_work.acquire()
    except TimeoutError:
        raise Problem(
            503,
            "other queries of the graph are under way, and more would keep everybody waiting: try again in a "
            "few seconds",
            headers={"Retry-After": "5"},
        ) from None
    try:
        yield
    finally:
        service.graph_work.release()


async def kept(request: Request, name: str, make: Callable[[], Awaitable[Body]]) -> Response:
    """The answer for a request, shared with all who ask the same at the moment."""
    url = request.url
    body = await service_of(request).answers.get(("graph", name, url.path, url.query), make)
    return body.response()


def _place_of(cursor: str, scope: object) -> str:
    place: str = values_of(cursor, scope, str, longest=_LONGEST_CURSOR)[0]
    return place


def _page(request: Request, scope: object, space: str, page: AtomPage, form: Format) -> Body:
    following = None if page.next is None else cursor_after(scope, page.next)
    view = Atoms(space, page.atoms, following)
    return listed(view, page.atoms, _ATOMS, form, request.url, following)

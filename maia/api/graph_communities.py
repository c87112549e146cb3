"""Communities of the knowledge graph: found now and then in the background, looked into by everybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.graph import OWN
from atlas.adapters.graph_standing import GraphStandingDAO
from atlas.adapters.graph_views import GraphViewsDAO
from maia.api import graph_examples as examples
from maia.api.answers import Body, as_json, documented
from maia.api.context import READ, service_of
from maia.api.graph import LONGEST_ATOM, NO_ATOM, SpaceName, one
from maia.graphing.groups import Groups, find_groups
from maia.graphing.naming import Named, name_atoms
from maia.views import graph as views
from maia.views.graph import AtomRef, CommunityView

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.api.context import Service

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1/graph", tags=["graph"], dependencies=[READ])

FRESH: Final = timedelta(minutes=15)
_MOST_SPACES: Final = 4
_MEMBERS: Final = 5


class Communities:
    """The communities of each space that was asked for, at most so old, found by one task at a time.

    Those of this site's own graph are forgotten at once when others were derived, or the graph was restored.
    """

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._known: dict[int, Groups] = {}
        self._grouped_at: datetime | None = None
        """When those of this site's own graph that are known were derived; None if they never were."""
        self._finding: dict[int, asyncio.Task[Groups]] = {}
        self._turn = asyncio.Lock()

    async def known(self, space: int = OWN) -> Groups | None:
        """The communities as they were found last; if that was long ago or never, finding them begins."""
        if space == OWN:
            await self._forget_former()
        groups = self._known.get(space)
        if groups is None or self._atlas.clock.now() - groups.found_at > FRESH:
            self._begin(space)
        return groups

    async def found(self, space: int = OWN) -> Groups:
        """The communities, waiting for them if they never were found."""
        groups = await self.known(space)
        return groups if groups is not None else await asyncio.shield(self._begin(space))

    async def _forget_former(self) -> None:
        atlas = self._atlas
        grouped = await GraphStandingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).grouped()
        grouped_at = None if grouped is None else grouped[0]
        if grouped_at != self._grouped_at:
            self._known.pop(OWN, None)
            self._grouped_at = grouped_at

    async def end(self) -> None:
        """End what is being found."""
        tasks = [*self._finding.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, space: int) -> asyncio.Task[Groups]:
        task = self._finding.get(space)
        if task is None:
            task = self._finding[space] = asyncio.create_task(self._find(space))
            task.add_done_callback(_note_failure)
        return task

    async def _find(self, space: int) -> Groups:
        try:
            async with self._turn:
                groups = await find_groups(self._atlas, space)
            self._known.pop(space, None)
            self._known[space] = groups
            for other in [*self._known][:-_MOST_SPACES]:
                del self._known[other]
            return groups
        finally:
            del self._finding[space]


def _note_failure(task: asyncio.Task[Groups]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("the communities of the graph could not be found: %s", error)


@dataclass(frozen=True, slots=True)
class FoundCommunities:
    """Communities as they were at an instant: the largest first, or that of an atom; `total` is of all.

    `modularity` says by how much more of the links are within communities than chance would put there.
    """

    found_at: datetime
    space: str
    communities: tuple[CommunityView, ...]
    total: int
    modularity: float


@router.get(
    "/communities",
    summary="Groups of atoms that hang together",
    description="Videos, channels, tags and topics that are linked over the same tags, found by modularity "
    "(Louvain): the largest, or that of an atom (none if it has no links). They are found when links are "
    "derived, at `found_at`; before that, or of another space, the first answer waits for it.",
    response_model=FoundCommunities,
    responses=documented(examples.COMMUNITIES) | NO_ATOM,
)
async def communities(
    request: Request,
    of: Annotated[
        str | None,
        Query(min_length=1, max_length=LONGEST_ATOM, description="Only that of this atom. [default: all]"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many communities.")] = 20,
    members: Annotated[int, Query(ge=1, le=100, description="How many members of each.")] = _MEMBERS,
    space: SpaceName = "own",
) -> Response:
    service = service_of(request)
    number = await views.space_named(service.atlas, space)
    handle = None if of is None else UUID((await one(service, of, space)).handle)
    groups = await service.communities.found(number)
    found = await told(service, groups, handle, limit, members, number)
    view = FoundCommunities(groups.found_at, space, found, groups.total, groups.modularity)
    return Body(as_json(view)).response()


async def told(
    service: Service,
    groups: Groups,
    of: UUID | None = None,
    limit: int = 20,
    members: int = _MEMBERS,
    space: int = OWN,
) -> tuple[CommunityView, ...]:
    """The largest communities, or that of an atom, by what their members are called."""
    numbers = [*range(min(limit, groups.total))]
    if of is not None:
        number = groups.number_of(of)
        numbers = [] if number is None else [number]
    found = await asyncio.to_thread(lambda: [groups.community(each, members) for each in numbers])
    atlas = service.atlas
    dao = GraphViewsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    dao.space = space
    names = await name_atoms(dao, [each for one in found for each in (*one.tags, *one.members)])
    return tuple(
        CommunityView(each.size, each.by_type, _refs(each.tags, names), _refs(each.members, names))
        for each in found
    )


def _refs(handles: Sequence[UUID], names: Mapping[UUID, Named]) -> tuple[AtomRef, ...]:
    """What atoms are called, without those that are gone since."""
    known = [names[each] for each in handles if each in names]
    return tuple(AtomRef(str(each.handle), each.text, each.type, each.shown) for each in known)

"""Communities of the knowledge graph: found now and then in the background, looked into by everybody."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.graph import OWN
from atlas.adapters.graph_communities import GraphCommunitiesDAO
from maia.api import graph_examples as examples
from maia.api.answers import Body, as_json, documented
from maia.api.context import READ, service_of
from maia.api.graph import LONGEST_ATOM, NO_ATOM, SpaceName, one
from maia.graphing.communities import Communities, find_communities
from maia.views import graph as views
from maia.views.graph_answers import CommunitiesView

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1/graph", tags=["graph"], dependencies=[READ])

FRESH: Final = timedelta(minutes=15)
_MOST_SPACES: Final = 4
_MEMBERS: Final = 5


class RecentCommunities:
    """The communities of each space that was asked for, looked for by one task at a time, now and then.

    Those of this site's own graph are forgotten at once when others were derived, or the graph was restored.
    """

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._known: dict[int, tuple[datetime, Communities]] = {}
        """With when they were looked for; kept ones may have been found long before."""
        self._grouped_at: datetime | None = None
        """When those of this site's own graph that are known were derived; None if they never were."""
        self._finding: dict[int, asyncio.Task[Communities]] = {}
        self._turn = asyncio.Lock()

    async def known(self, space: int = OWN) -> Communities | None:
        """The communities as they were last looked for; if that was long ago or never, it begins again."""
        if space == OWN:
            await self._forget_former()
        at, found = self._known.get(space, (None, None))
        if at is None or self._atlas.clock.now() - at > FRESH:
            self._begin(space)
        return found

    async def found(self, space: int = OWN) -> Communities:
        """The communities, waiting for them if they never were found."""
        found = await self.known(space)
        return found if found is not None else await asyncio.shield(self._begin(space))

    async def _forget_former(self) -> None:
        atlas = self._atlas
        grouped = await GraphCommunitiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).grouped()
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

    def _begin(self, space: int) -> asyncio.Task[Communities]:
        task = self._finding.get(space)
        if task is None:
            task = self._finding[space] = asyncio.create_task(self._find(space))
            task.add_done_callback(_note_failure)
        return task

    async def _find(self, space: int) -> Communities:
        try:
            async with self._turn:
                now = self._atlas.clock.now()
                found = await find_communities(self._atlas, space=space)
            self._known.pop(space, None)
            self._known[space] = now, found
            for other in [*self._known][:-_MOST_SPACES]:
                del self._known[other]
            return found
        finally:
            del self._finding[space]


def _note_failure(task: asyncio.Task[Communities]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("the communities of the graph could not be found: %s", error)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCommunities(CommunitiesView):
    """Communities of a space as they were at an instant: the largest first, or that of an atom.

    `modularity` says by how much more of the links are within communities than chance would put there;
    `total` is of all communities.
    """

    space: str


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
    found = await views.show_communities(
        service.atlas, await service.communities.found(number), of=handle, limit=limit, members=members,
        space=number,
    )  # fmt: skip
    view = FoundCommunities(found.communities, found.total, found.modularity, found.found_at, space=space)
    return Body(as_json(view)).response()

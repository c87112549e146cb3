"""The page Topics: the search queue with what each search brought, and what people may change in it."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from atlas.adapters.queue import TopicStatus
from maia import acts
from maia.api.context import READ, WRITE, service_of
from maia.api.discovery import COUNTS, COUNTS_FRESH_S, COUNTS_STALE_S
from maia.api.pages.parameters import PageRoute, form_of
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.views.clusters import MOST_VIDEOS, clusters, together
from maia.views.queue import counts, queue

router = APIRouter(route_class=PageRoute, dependencies=[READ])

TopicId = Annotated[int, Path(ge=1, le=2**63 - 1)]

_MOST_SEEDS: Final = 20
_CLUSTERS_FRESH_S: Final = 60.0
_CLUSTERS_STALE_S: Final = 900.0
_DONE: Final = {
    "seeded": "Added, to be searched before all others.",
    "known": "In the queue already, and now to be searched before all others.",
    "parked": "Parked: not searched any more until you retry it.",
    "retried": "Put back into the queue.",
    "missing": "There is no such topic in the queue any more.",
}


@router.get("/topics")
async def topics(
    request: Request,
    status: Annotated[TopicStatus | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
    done: Annotated[str | None, Query(max_length=20)] = None,
) -> Response:
    """The topics in the order in which they will be searched."""
    service = service_of(request)
    tags = await service.answers.get(
        "tags together", lambda: together(service.atlas), fresh_s=_CLUSTERS_FRESH_S, stale_s=_CLUSTERS_STALE_S
    )
    groups = await clusters(service.atlas, tags)
    # Counting reads the whole queue, a page of it does not.
    known = await service.answers.get(
        COUNTS, lambda: counts(service.atlas), fresh_s=COUNTS_FRESH_S, stale_s=COUNTS_STALE_S
    )
    found = await queue(service.atlas, status and status.value, limit, known)
    return page(
        request,
        "topics.html.j2",
        queue=found,
        status=status and status.value,
        limit=limit,
        done=_DONE.get(done or ""),
        clusters=groups,
        looked_at=MOST_VIDEOS,
        tables={"topics": Table(found.topics), "clusters": Table(groups, derived=True)},
    )


@router.post("/topics/seed", dependencies=[WRITE])
async def seed(request: Request) -> Response:
    """Add topics, one a line, ahead of all others."""
    added = await acts.seed(service_of(request).atlas, await _topics_of(request))
    return _back("seeded" if added else "known")


@router.post("/topics/park", dependencies=[WRITE])
async def park_named(request: Request) -> Response:
    """Take topics out of the queue, given by their words, one a line."""
    count = await acts.park(service_of(request).atlas, await _topics_of(request), "parked by hand")
    return _back("parked" if count else "missing")


@router.post("/topics/{topic_id}/park", dependencies=[WRITE])
async def park(request: Request, topic_id: TopicId) -> Response:
    """Take a topic out of the queue."""
    count = await acts.park(service_of(request).atlas, [topic_id], "parked by hand")
    return _back("parked" if count else "missing")


@router.post("/topics/{topic_id}/retry", dependencies=[WRITE])
async def retry(request: Request, topic_id: TopicId) -> Response:
    """Put a parked topic back into the queue."""
    count = await acts.retry(service_of(request).atlas, [topic_id])
    return _back("retried" if count else "missing")


async def _topics_of(request: Request) -> list[str]:
    """The topics of a form, one a line."""
    fields = await form_of(request)
    queries = [line.strip() for line in fields.get("topics", "").splitlines() if line.strip()]
    if not queries or len(queries) > _MOST_SEEDS:
        raise Problem(422, f"give 1 to {_MOST_SEEDS} topics, one a line, not {len(queries)}")
    return queries


def _back(done: str) -> Response:
    return RedirectResponse(f"/topics?done={done}", 303)

"""Discovery: the queue of topics, breakouts, quota, incidents, and search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.incidents import Incident, IncidentsDAO
from atlas.adapters.queue import QueueCounts, QueueDAO
from atlas.config import RingName
from maia.api import examples
from maia.api.answers import AsFormat, Body, Format, Table, documented, listed
from maia.api.context import READ, service_of
from maia.api.paging import Cursor, cursor_after, values_of
from maia.views import breakouts as breakouts_view
from maia.views import queue as queue_view
from maia.views.breakouts import BreakoutRow
from maia.views.ledger import KeyInUse, RingQuota, ledger
from maia.views.queue import TopicPlace, TopicRow
from maia.views.search import Field, Found, nearest, search
from maia.views.words import ATTRIBUTION

if TYPE_CHECKING:
    from maia.api.context import Service

router = APIRouter(prefix="/api/v1", tags=["discovery"], dependencies=[READ])

TopicState = Literal["active", "cooling", "parked"]
Limit = Annotated[int, Query(ge=1, le=500, description="Most rows of a page.")]

COUNTS: Final = "counts"
COUNTS_FRESH_S: Final = 10.0
COUNTS_STALE_S: Final = 60.0
_YIELDS: Final = f"which topics' videos grow: {ATTRIBUTION}"


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics in the order of their priority, with what searching for them brought.

    A question that joins n topics counts as 1/n for each. `new_per_ask` is how many unknown videos it
    brought, `growing_per_ask` how many of those found early have grown; null before the first question.
    `counts` are of the whole queue, at most a minute old.
    """

    now: datetime
    attribution: str
    counts: QueueCounts
    topics: tuple[TopicRow, ...]
    next: str | None


_TOPICS: Final = Table("topics", tuple(TopicRow.__slots__))


@router.get(
    "/topics",
    summary="The queue of searches, with their yield",
    response_model=Topics,
    responses=documented(examples.TOPICS, csv=True),
)
async def topics(
    request: Request,
    status: Annotated[TopicState | None, Query(description="Only topics of this status.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    form: AsFormat = Format.JSON,
) -> Response:
    service, scope = service_of(request), ["topics", status]
    after = None if cursor is None else TopicPlace(*values_of(cursor, scope, float, int))
    atlas = service.atlas
    dao = QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    async def make() -> Body:
        page = await queue_view.page(atlas, status, limit, after)
        # Counting reads the whole queue, a page does not.
        counts = await service.answers.get(
            COUNTS, dao.queue_counts, fresh_s=COUNTS_FRESH_S, stale_s=COUNTS_STALE_S
        )
        following = None if page.last is None else cursor_after(scope, page.last.priority, page.last.id)
        view = Topics(page.now, _YIELDS, counts, page.topics, following)
        return listed(view, page.topics, _TOPICS, form, request.url, following)

    return (await service.answers.get(("topics", str(request.url.query)), make)).response()


@dataclass(frozen=True, slots=True)
class Breakouts:
    """Breakouts, newest first; `since_cursor` continues with newer ones in GET /api/v1/events?after=."""

    now: datetime
    attribution: str
    since_cursor: int
    breakouts: tuple[BreakoutRow, ...]
    next: str | None


_BREAKOUTS: Final = Table("breakouts", tuple(BreakoutRow.__slots__))


@router.get(
    "/breakouts",
    summary="Videos that grew far more than expected",
    response_model=Breakouts,
    responses=documented(examples.BREAKOUTS, csv=True),
)
async def breakouts(
    request: Request, limit: Limit = 50, cursor: Cursor = None, form: AsFormat = Format.JSON
) -> Response:
    service, scope = service_of(request), ["breakouts"]
    before = None if cursor is None else values_of(cursor, scope, int)[0]
    page = await breakouts_view.page(service.atlas, limit, before)
    following = None if page.older is None else cursor_after(scope, page.older)
    view = Breakouts(page.now, page.attribution, page.cursor, page.breakouts, following)
    return listed(view, page.breakouts, _BREAKOUTS, form, request.url, following).response()


@dataclass(frozen=True, slots=True)
class Quota:
    """The ledger of this Pacific day, in units.

    `allowed` is how much of a ring's share the pace permits by now, `used` and `reserved` what is gone of it,
    `free_now` what is left of it now, and `left` what can still be spent today. Keys are shown by their
    fingerprints. Both lists are empty if no key is configured.
    """

    now: datetime
    attribution: str
    ledger: tuple[RingQuota, ...]
    keys: tuple[KeyInUse, ...]


_QUOTA: Final = Table(
    "quota",
    (
        "ring", "bucket", "project", "limit", "ring_limit", "allowed", "used", "reserved", "free_now", "left",
        "project_spent", "loan", "spent_by_others", "closed_until", "reason",
    ),
)  # fmt: skip


@router.get(
    "/quota",
    summary="Today's quota against the pace",
    response_model=Quota,
    responses=documented(examples.QUOTA, csv=True),
)
async def quota(
    request: Request,
    ring: Annotated[RingName | None, Query(description="Only this ring.")] = None,
    form: AsFormat = Format.JSON,
) -> Response:
    service = service_of(request)
    found = await ledger(service.atlas)
    rows = tuple(row for row in found.ledger if ring in (None, row.ring) and (ring or row.is_in_use))
    keys = tuple(key for key in found.keys if ring is None or ring in key.rings)
    view = Quota(found.now, f"the pace is {ATTRIBUTION}", rows, keys)
    return listed(view, rows, _QUOTA, form, request.url).response()


@dataclass(frozen=True, slots=True)
class Incidents:
    """What is or was wrong, that which began last first."""

    now: datetime
    incidents: tuple[Incident, ...]


_INCIDENTS: Final = Table(
    "incidents",
    (
        "id", "key", "component", "node", "status", "severity", "text", "value", "limit_value", "command",
        "cause", "opened_at", "seen_at", "well_since", "recovered_at", "announced_at", "acknowledged_at",
        "note",
    ),
)  # fmt: skip


@router.get(
    "/incidents",
    summary="What is wrong, and what was",
    response_model=Incidents,
    responses=documented(examples.INCIDENTS, csv=True),
)
async def incidents(
    request: Request,
    closed: Annotated[bool, Query(description="Also those that are over.")] = False,
    limit: Limit = 100,
    form: AsFormat = Format.JSON,
) -> Response:
    atlas = service_of(request).atlas
    dao = IncidentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    found = tuple(await dao.incidents(closed=closed, limit=limit))
    return listed(Incidents(atlas.clock.now(), found), found, _INCIDENTS, form, request.url).response()


_MATCHES: Final = Table(
    "search",
    (
        "kind", "matched", "id", "title", "channel_id", "channel_title", "published_at", "views", "velocity",
        "subscribers", "url",
    ),
)  # fmt: skip


@router.get(
    "/search",
    summary="Videos by title or tag, and channels by title",
    description="Finds what contains all words of `q` in its title, in any case and order, and videos that "
    "have `q` as a tag. Where no word has three letters, one must begin a word of the title. Channels come "
    "first, then the videos that grow fastest. Where nothing matches, `nearest` is true: the matches are "
    "what is spelt most alike, words of fewer than four letters aside.",
    response_model=Found,
    responses=documented(examples.SEARCH, csv=True),
)
async def find(
    request: Request,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Words, or a whole tag.")],
    only: Annotated[Field | None, Query(alias="in", description="Only search these.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Most matches of a page.")] = 20,
    offset: Annotated[int, Query(ge=0, le=4_000, description="How many matches to skip.")] = 0,
    form: AsFormat = Format.JSON,
) -> Response:
    service = service_of(request)
    key = ("search", q, only, limit, offset, form)
    body = await service.answers.get(key, lambda: _found(service, request, q, only, limit, offset, form))
    return body.response()


async def _found(
    service: Service, request: Request, q: str, only: Field | None, limit: int, offset: int, form: Format
) -> Body:
    found = await search(service.atlas, q, limit, offset, only)
    if not found.total:
        found = await nearest(service.atlas, q, limit, only)
    return listed(found, found.matches, _MATCHES, form, request.url)

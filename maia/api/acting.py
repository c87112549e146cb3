"""What callers may change: topics, watches, and incidents. Each is recorded as an operator's act."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request

from atlas.adapters.incidents import LONGEST_NOTE
from atlas.adapters.queue import QueueDAO
from atlas.adapters.watches import Watch, WatchesDAO, WatchKind
from atlas.queries import LONGEST_QUERY, DurationClass, EventType, SearchParameters
from maia import acts
from maia.api.context import WRITE, service_of
from maia.api.problems import Problem, described
from maia.views.words import ZoneName

router = APIRouter(prefix="/api/v1", tags=["acts"], dependencies=[WRITE])

_FORMS: Final = {
    WatchKind.VIDEO: re.compile(r"[A-Za-z0-9_-]{11}"),
    WatchKind.CHANNEL: re.compile(r"UC[A-Za-z0-9_-]{22}"),
}

RowId = Annotated[int, Path(alias="id", ge=1, le=2**63 - 1, description="Its id in the list.")]
_Lax = Field(strict=False)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Seed(_Strict):
    """Topics to search for before all others, with the options that narrow their searches."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queries": ["lofi hip hop"], "region": "DE", "duration": "medium"}]}
    )

    queries: list[Annotated[str, Field(min_length=1, max_length=LONGEST_QUERY)]] = Field(
        min_length=1, max_length=1_000, description="What to search for, in this order."
    )
    published_after: Annotated[AwareDatetime, _Lax] | None = Field(
        default=None, description="Only videos published from then on."
    )
    published_before: Annotated[AwareDatetime, _Lax] | None = Field(
        default=None, description="Only videos published before."
    )
    region: str | None = Field(default=None, max_length=60, description="Only videos available there: DE, …")
    language: str | None = Field(default=None, max_length=60, description="Prefer this language: de, …")
    duration: DurationClass | None = Field(
        default=None, description="short (under 4 min), medium, or long (over 20 min)."
    )
    category: int | None = Field(default=None, ge=1, le=999, description="Only this category of YouTube.")
    event_type: EventType | None = Field(default=None, description="Only broadcasts of this state.")

    def parameters(self) -> SearchParameters:
        return SearchParameters(**self.model_dump(exclude={"queries"}))


class Seeded(BaseModel):
    """How many topics were given, and how many of them are new or active again."""

    given: int = Field(examples=[1])
    added: int = Field(examples=[1])


class Parking(_Strict):
    """Why a topic is taken out of the queue."""

    reason: str = Field(
        default="parked by hand", min_length=1, max_length=500, examples=["brings nothing that grows"]
    )


class TopicsChanged(BaseModel):
    """How many topics it changed: 0 if there was nothing to change."""

    topics: int = Field(examples=[1])


class NewWatch(_Strict):
    """A video or channel to sample even if no search finds it; pinned to a zone if one is given."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "video", "id": "dQw4w9WgXcQ", "zone": "hot"}]}
    )

    kind: Annotated[WatchKind, _Lax] = Field(description="What it is.")
    id: str = Field(min_length=1, max_length=64, description="YouTube's id.")
    zone: ZoneName | None = Field(
        default=None,
        description="hot: every hour, warm: every 6 hours, cold: once a day; if not given, by its age.",
    )


class WatchAnswer(BaseModel):
    """How many watches it changed, and how many videos' zones."""

    watches: int = Field(examples=[1])
    videos_pinned: int = Field(examples=[0])


class Acknowledgement(_Strict):
    """What is known of an incident, for others to read."""

    note: str | None = Field(
        default=None, max_length=LONGEST_NOTE, examples=["a larger disk comes on Friday"]
    )


class Acknowledged(BaseModel):
    """The incident that is silent from now on, until it is over or becomes more severe."""

    id: int = Field(examples=[7])
    key: str = Field(examples=["host.disk:node-1"])
    severity: str = Field(examples=["warning"])
    acknowledged_at: datetime | None = Field(examples=["2026-11-02T12:00:00Z"])
    note: str | None = Field(examples=["a larger disk comes on Friday"])


_NO_TOPIC = described(404, "There is no such topic.")


@router.post("/topics", summary="Put topics at the front of the queue", status_code=201)
async def seed(request: Request, body: Seed) -> Seeded:
    service = service_of(request)
    added = await acts.seed(service.atlas, body.queries, body.parameters() or None)
    return Seeded(given=len(body.queries), added=added)


@router.post("/topics/{id}/park", summary="Take a topic out of the queue", responses=_NO_TOPIC)
async def park(request: Request, row: RowId, body: Parking | None = None) -> TopicsChanged:
    await _check_topic(request, row)
    service = service_of(request)
    count = await acts.park(service.atlas, [row], (body or Parking()).reason)
    return TopicsChanged(topics=count)


@router.post("/topics/{id}/retry", summary="Put a parked or failed topic back", responses=_NO_TOPIC)
async def retry(request: Request, row: RowId) -> TopicsChanged:
    await _check_topic(request, row)
    service = service_of(request)
    count = await acts.retry(service.atlas, [row])
    return TopicsChanged(topics=count)


async def _check_topic(request: Request, id_: int) -> None:
    atlas = service_of(request).atlas
    if not await QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).topic_queries([id_]):
        raise Problem(404, "no topic has this id: GET /api/v1/topics lists them")


@router.post("/watches", summary="Watch a video or a channel, or pin it to a zone", status_code=201)
async def watch(request: Request, body: NewWatch) -> WatchAnswer:
    service = service_of(request)
    atlas = service.atlas
    stored = await WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).kinds_of([body.id])
    if stored.get(body.id) is not body.kind and _FORMS[body.kind].fullmatch(body.id) is None:
        raise Problem(
            422,
            f"this is no id of a {body.kind}: a video's has 11 characters, a channel's UC and 22 more",
        )
    changed = await acts.watch(atlas, [Watch(body.kind, body.id)], body.zone)
    return WatchAnswer(watches=changed.watches, videos_pinned=changed.videos_pinned)


@router.delete(
    "/watches/{kind}/{id}",
    summary="Stop watching a video or a channel",
    responses=described(404, "It is not watched."),
)
async def unwatch(
    request: Request, kind: WatchKind, watched: Annotated[str, Path(alias="id", min_length=1, max_length=64)]
) -> WatchAnswer:
    service = service_of(request)
    changed = await acts.unwatch(service.atlas, [Watch(kind, watched)])
    if not changed.watches:
        raise Problem(404, f"this {kind} is not watched: nothing was changed")
    return WatchAnswer(watches=changed.watches, videos_pinned=changed.videos_pinned)


@router.post(
    "/incidents/{id}/acknowledge",
    summary="Keep an incident silent until it is over or worse",
    responses=described(404, "No such incident is open."),
)
async def acknowledge(request: Request, row: RowId, body: Acknowledgement | None = None) -> Acknowledged:
    found = await acts.acknowledge(service_of(request).atlas, str(row), None if body is None else body.note)
    if found is None:
        raise Problem(404, "no open incident has this id: GET /api/v1/incidents lists those that are open")
    return Acknowledged(
        id=found.id,
        key=found.key,
        severity=found.severity,
        acknowledged_at=found.acknowledged_at,
        note=found.note,
    )

"""The page Patterns: what was learnt, how firmly it is believed, and on what evidence.

Programs read patterns at /patterns; people at /learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.patterns import PatternsDAO
from maia.api.context import READ, service_of
from maia.api.pages.parameters import PageRoute
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.learning.patterns import PatternType
from maia.views.changed import changed
from maia.views.patterns import BelievedPattern, pattern, patterns

if TYPE_CHECKING:
    from atlas.composition import Atlas

router = APIRouter(route_class=PageRoute, dependencies=[READ])

_FRESH_S: Final = 5.0
_SHOWN: Final = 50
_CHANGED: Final = 20
_DAYS: Final = 60
_EVIDENCE: Final = 100


@router.get("/learnt")
async def listed(
    request: Request,
    type: Annotated[PatternType | None, Query()] = None,  # noqa: A002 - the name in the URL
    min_confidence: Annotated[float, Query(ge=0, le=1)] = 0.0,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Patterns, the most firmly believed first."""
    service = service_of(request)

    async def read() -> list[BelievedPattern]:
        return await patterns(service.atlas, None if type is None else [type], min_confidence)

    found = await service.answers.get(("page patterns", type, min_confidence), read, fresh_s=_FRESH_S)
    shown = found[offset : offset + _SHOWN]
    effects = await service.answers.get(
        "page patterns changed", lambda: changed(service.atlas, _CHANGED), fresh_s=_FRESH_S
    )
    return page(
        request,
        "patterns.html.j2",
        patterns=shown,
        total=len(found),
        offset=offset,
        step=_SHOWN,
        type=type and type.value,
        types=[each.value for each in PatternType],
        min_confidence=min_confidence,
        effects=effects,
        tables={"patterns": Table(shown), "changed": Table(effects)},
    )


@router.get("/learnt/{pattern_id}")
async def one(request: Request, pattern_id: str) -> Response:
    """A pattern, with its evidence by day and the confidence after each."""
    atlas = service_of(request).atlas
    details = await pattern(atlas, await _whole(atlas, pattern_id[:100]))
    if details is None:
        raise Problem(
            404, f"no pattern has the id {pattern_id[:100]}: it may be forgotten; /learnt lists what is known"
        )
    effects = await changed(atlas, _CHANGED, details.pattern.id)
    evidence = details.evidence[: -_EVIDENCE - 1 : -1]
    return page(
        request,
        "pattern.html.j2",
        pattern=details.pattern,
        details=details,
        evidence=evidence,
        by_day=list(details.confidence_by_day.items())[-_DAYS:],
        threshold=atlas.settings.learner.confidence_threshold,
        effects=effects,
        tables={
            "evidence": Table(evidence),
            "sites": Table(details.sites),
            "changed": Table(effects),
        },
    )


async def _whole(atlas: Atlas, id_: str) -> str:
    """The id that begins so, if there is just one: plans name patterns by the first characters."""
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    found = await dao.beginning_with(id_, 2)
    return found[0] if len(found) == 1 else id_

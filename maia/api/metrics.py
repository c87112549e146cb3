"""What Prometheus reads of the service: the figures of the database, and of the process that is asked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from maia.api.context import READ, service_of

router = APIRouter(tags=["operation"], dependencies=[READ])


class Part(StrEnum):
    """Which metrics are asked for."""

    ALL = "all"
    SERVICE = "service"


_EXAMPLE: Final = """\
# HELP pleiades_http_requests_total Answered requests.
# TYPE pleiades_http_requests_total counter
pleiades_http_requests_total{method="GET",route="/metrics",status="200"} 3.0
"""
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The metrics in the text format of Prometheus.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}


@router.get("/metrics", response_class=PlainTextResponse, responses=_ANSWERS)
async def metrics(
    request: Request,
    part: Annotated[
        Part,
        Query(description="all, or only what this process measures of itself; one process should give all."),
    ] = Part.ALL,
) -> Response:
    """Metrics for Prometheus, which sends the key as Authorization: Bearer."""
    service = service_of(request)
    own = service.traffic.samples()
    exporter = service.exporter
    body = exporter.of_process(own) if part is Part.SERVICE else await exporter.exposition(own)
    return Response(body, media_type=CONTENT_TYPE_PLAIN_1_0_0)

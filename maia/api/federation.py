"""What sites exchange, and how it goes."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from maia.api.context import ADMIN, READ, Service, service_of
from maia.api.gate import DIGESTS_PATH, EXCHANGE_PATH, MIRROR_PATH
from maia.api.problems import Problem, described
from maia.federation.messages import MEDIA_TYPE, MOST_BYTES, REFUSED_HEADER
from maia.federation.refusals import Reason, Refused
from maia.views import federation as views
from maia.views.federation import FederationStatus

router = APIRouter(tags=["federation"])

TOKEN: Final = Depends(
    HTTPBearer(
        scheme_name="token",
        description="The secret that all sites of a cluster share (PLEIADES_FEDERATION__TOKEN).",
        auto_error=False,
    )
)
_LONGEST_WAIT_S: Final = 60.0
_SITES: Final = "other sites"
"""As whom those that copy this graph take seats of live streams."""
_STATUS: Final = {
    Reason.TOO_LARGE: 413,
    Reason.PROTOCOL: 409,
    Reason.CLUSTER: 403,
    Reason.OUR_NAME: 409,
    Reason.ISOLATED: 429,
    Reason.QUOTA: 429,
}
_MESSAGE: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary", "maxLength": MOST_BYTES}}},
    },
}
_BINARY: Final = {"type": "string", "format": "binary"}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "A message.", "content": {MEDIA_TYPE: {"schema": _BINARY}}},
    **described(409, "The sites don't fit together: a newer protocol, or the same name."),
}


class Sync(BaseModel):
    """How to exchange."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"compare": True}]}
    )

    compare: bool | None = Field(
        default=None, description="Whether to compare everything, too; if not given, at every tenth exchange."
    )


class Exchange(BaseModel):
    """What was exchanged with a peer; `failed` says why not, if so."""

    place: str = Field(description="Host and port where it is called.", examples=["b.example:443"])
    node: str | None = Field(description="Its name in evidence.", examples=["8f3c2a91d04b7e65"])
    messages: int = Field(description="How often it was called.", examples=[2])
    sent: int = Field(
        description="Records that it got: texts of patterns, rows of evidence, and claims about atoms."
    )
    received: int = Field(description="Records that it sent.")
    changed: int = Field(description="How many of those told anything new.")
    bytes_sent: int
    bytes_received: int
    compared: bool = Field(description="Whether everything was compared with it.")
    differing: int = Field(description="Buckets of records that differed, and were exchanged whole.")
    refused: dict[str, str] = Field(description="Kinds of records that one of both did not take, and why.")
    failed: str | None = Field(description="Why it ended early.")


class Synced(BaseModel):
    """What was exchanged with each peer that the settings name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "exchanged": [
                        {
                            "place": "b.example:443", "node": "8f3c2a91d04b7e65", "messages": 2, "sent": 41,
                            "received": 7, "changed": 7, "bytes_sent": 3120, "bytes_received": 890,
                            "compared": False, "differing": 0, "refused": {}, "failed": None,
                        }
                    ]
                }
            ]
        }
    )  # fmt: skip

    exchanged: list[Exchange]


@router.get(
    "/federation/status", summary="This site, the others, and what was exchanged", dependencies=[READ]
)
async def status(request: Request) -> FederationStatus:
    return await views.status(service_of(request).atlas)


@router.post(
    "/federation/sync",
    summary="Exchange now with all peers that the settings name",
    dependencies=[ADMIN],
    responses=described(409, "An exchange is under way, or this site has no token."),
)
async def sync(request: Request, body: Sync | None = None) -> Synced:
    service = service_of(request)
    if service.atlas.settings.federation.token is None:
        raise Problem(409, "this site exchanges with no other: set PLEIADES_FEDERATION__TOKEN")
    if service.federation.is_syncing:
        raise Problem(409, "an exchange is under way: GET /federation/status says what it did")
    done = await service.federation.sync(compare=None if body is None else body.compare)
    return Synced(exchanged=[Exchange(**asdict(each)) for each in done])


@router.post(
    EXCHANGE_PATH,
    summary="Exchange with another site what changed (for sites, by the cluster's token)",
    responses=_ANSWERS,
    response_class=Response,
    openapi_extra=_MESSAGE,
    dependencies=[TOKEN],
)
async def exchange(request: Request) -> Response:
    service = service_of(request)
    return await _answer(request, service, service.federation.answering.exchange)


@router.post(
    DIGESTS_PATH,
    summary="Compare with another site what both know (for sites, by the cluster's token)",
    responses=_ANSWERS,
    response_class=Response,
    openapi_extra=_MESSAGE,
    dependencies=[TOKEN],
)
async def digests(request: Request) -> Response:
    service = service_of(request)
    return await _answer(request, service, service.federation.answering.compare)


@router.post(
    MIRROR_PATH,
    summary="Tell another site of a part of the graph that it copies (for sites, by the cluster's token)",
    responses=_ANSWERS,
    response_class=Response,
    openapi_extra=_MESSAGE,
    dependencies=[TOKEN],
)
async def mirror(
    request: Request,
    wait_s: Annotated[
        float, Query(ge=0, le=_LONGEST_WAIT_S, description="How long to wait for a change if there is none.")
    ] = 0,
) -> Response:
    service = service_of(request)
    is_same = False

    async def answer(body: bytes) -> bytes:
        nonlocal is_same
        told, is_same = await service.federation.mirror_answering.answer(body)
        return told

    async with service.graph_hub.waiting() as changed:
        answered = await _answer(request, service, answer)
        if is_same and wait_s:
            # Without a turn, which others need meanwhile.
            with service.streams.taken_by_one(_SITES):
                await changed(wait_s)
            answered = await _answer(request, service, answer)
        return answered


async def _answer(
    request: Request, service: Service, answer: Callable[[bytes], Awaitable[bytes]]
) -> Response:
    await _check_token(request, service)
    try:
        async with service.federation.turns:
            body = await answer(await request.body())
    except Refused as refused:
        headers = {REFUSED_HEADER: refused.reason.value}
        raise Problem(_STATUS.get(refused.reason, 422), str(refused), headers=headers) from None
    return Response(body, media_type=MEDIA_TYPE)


async def _check_token(request: Request, service: Service) -> None:
    """Problem 401 unless the request has the cluster's token; before its body is read."""
    token = service.atlas.settings.federation.token
    if token is None:
        raise Problem(403, "this site exchanges with no other: it has no PLEIADES_FEDERATION__TOKEN")
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(presented.encode(), token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not is_right:
        await service.federation.note_stranger()
        raise Problem(
            401,
            "this is not the cluster's token: PLEIADES_FEDERATION__TOKEN must be the same at both sites",
            headers={"WWW-Authenticate": 'Bearer realm="pleiades federation"'},
        )

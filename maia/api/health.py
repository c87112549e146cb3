"""Whether the service answers, whether all of Pleiades is well, and what this host is doing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from maia.api import examples
from maia.api.answers import Body, as_json, documented
from maia.api.context import READ, service_of
from maia.api.problems import Problem
from maia.maintainer.health import look

logger = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

_ALIVE_S: Final = 1.0
_HEALTH_FRESH_S: Final = 5.0
_HEALTH_STALE_S: Final = 60.0
_CPU_SPAN_S: Final = 0.1


@router.get("/healthz", include_in_schema=False)
async def alive(request: Request) -> Response:
    """200 if this process and its database answer; for load balancers, without a key and without details."""
    service = service_of(request)
    # Whoever asks without a key must not keep the database busy.
    answers = await service.answers.get("alive", service.atlas.ping, fresh_s=_ALIVE_S, stale_s=_ALIVE_S)
    if answers["database"] != "ok":
        raise Problem(503, "the database does not answer", headers={"Retry-After": "5"})
    return Response(b"ok\n", media_type="text/plain")


# How well everything is


class ComponentScore(BaseModel):
    """A component's score from 0 to 1, null if it is not judged, and why it isn't 1."""

    score: float | None = Field(examples=[0.8])
    reasons: list[str] = Field(examples=[["the disk of node-1 is 91 % full"]])


class FindingText(BaseModel):
    """Something that is wrong, and what to run about it."""

    key: str = Field(examples=["host.disk:node-1"])
    severity: str = Field(examples=["warning"])
    text: str = Field(examples=["the disk of node-1 is 91 % full"])
    value: float | None = Field(examples=[91.0])
    limit: float | None = Field(examples=[90.0])
    command: str | None = Field(examples=["maia system cleanup"])


class HealthAnswer(BaseModel):
    """The health of everything, as this process sees it, at most a minute ago."""

    at: datetime = Field(examples=["2026-11-02T12:00:00Z"])
    node: str = Field(examples=["node-1"])
    score: float = Field(examples=[0.95], description="From 0 to 1; that of the worst weighs most.")
    healthy: bool = Field(examples=[True], description="Whether nothing is an error.")
    components: dict[str, ComponentScore]
    findings: list[FindingText]


@router.get(
    "/api/v1/health",
    summary="How well everything is, and why",
    dependencies=[READ],
    response_model=HealthAnswer,
    responses=documented(examples.HEALTH),
)
async def health(request: Request) -> Response:
    service = service_of(request)

    async def make() -> Body:
        told = (await look(service.atlas)).as_dict()
        return Body(as_json({name: told[name] for name in HealthAnswer.model_fields}))

    body = await service.answers.get("health", make, fresh_s=_HEALTH_FRESH_S, stale_s=_HEALTH_STALE_S)
    return body.response()


# What this host is doing


@dataclass(frozen=True, slots=True)
class Cpu:
    """Use of all processors in percent, how many there are, and the mean load of 1, 5 and 15 minutes."""

    percent: float
    cores: int
    load_avg: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes."""

    total: int
    available: int
    percent: float
    used: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the data folder, in bytes."""

    total: int
    used: int
    free: int
    percent: float


@dataclass(frozen=True, slots=True)
class Network:
    """All interfaces since the host started."""

    bytes_sent: int
    bytes_recv: int
    packets_sent: int
    packets_recv: int


@dataclass(frozen=True, slots=True)
class HostMetrics:
    """What the host of the process that answers is doing; a part that it doesn't show is null."""

    cpu: Cpu | None
    memory: Memory | None
    disk: Disk | None
    network: Network | None
    timestamp: datetime
    node: str


@router.get(
    "/api/v1/metrics",
    summary="What the host that answers is doing",
    dependencies=[READ],
    response_model=HostMetrics,
    responses=documented(examples.METRICS),
)
async def metrics(request: Request) -> Response:
    service = service_of(request)
    settings = service.atlas.settings

    async def make() -> Body:
        return Body(as_json(await asyncio.to_thread(_measured, settings.data_folder, settings.node_id)))

    return (await service.answers.get("metrics", make, fresh_s=1, stale_s=1)).response()


def _measured(folder: Path, node: str) -> HostMetrics:
    return HostMetrics(
        cpu=_attempt(_cpu),
        memory=_attempt(_memory),
        disk=_attempt(lambda: _disk(folder)),
        network=_attempt(_network),
        timestamp=datetime.fromtimestamp(time.time(), UTC),
        node=node,
    )


def _attempt(measure: Any) -> Any:
    """What a reading tells, or None where the host doesn't show it, as in some containers."""
    try:
        return measure()
    except (psutil.Error, OSError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        logger.debug("the host does not show something: %s", error)
        return None


def _cpu() -> Cpu:
    return Cpu(psutil.cpu_percent(_CPU_SPAN_S), psutil.cpu_count() or 1, os.getloadavg())


def _memory() -> Memory:
    found = psutil.virtual_memory()
    return Memory(found.total, found.available, found.percent, found.used)


def _disk(folder: Path) -> Disk:
    # The data folder is made when something is first stored in it.
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    found = psutil.disk_usage(str(existing))
    return Disk(found.total, found.used, found.free, found.percent)


def _network() -> Network:
    found = psutil.net_io_counters()
    return Network(found.bytes_sent, found.bytes_recv, found.packets_sent, found.packets_recv)

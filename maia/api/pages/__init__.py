"""The dashboard: pages for people, rendered here, that need no other host and hardly any script."""

from __future__ import annotations

from fastapi import APIRouter

from maia.api.pages import (
    assets,
    channel,
    graph,
    health,
    login,
    patterns,
    quota,
    rising,
    search,
    topics,
    upkeep,
    video,
)

router = APIRouter(include_in_schema=False)
for _each in (assets, channel, graph, health, login, patterns, quota, rising, search, topics, upkeep, video):
    router.include_router(_each.router)

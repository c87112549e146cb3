"""What a run leaves in Prefect's UI: its statistics, links to the leading videos, and the quota ledger."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.exceptions import PrefectException

from atlas.adapters.board import BoardDAO, Lead
from atlas.adapters.maia import MaiaDAO
from atlas.composition import Atlas
from atlas.config import RingName
from atlas.errors import AtlasError
from atlas.keyring import KeyRing, LedgerLine

logger = logging.getLogger(__name__)

VIDEOS = 10

_WATCH = "https://www.youtube.com/watch?v="
_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+|~!-])")


async def leave(atlas: Atlas, agent: str, ring: RingName, statistics: Mapping[str, Any]) -> None:
    """Leave what a run of `agent` did and found; where that fails the run has succeeded all the same."""
    try:
        await acreate_table_artifact(_told(statistics), f"{agent}-statistics", f"What the {agent} did")
        if videos := await _videos(atlas, agent):
            await acreate_markdown_artifact(
                "\n".join(videos), f"{agent}-videos", f"Leading videos after a run of the {agent}"
            )
        lines = await KeyRing(ring, atlas=atlas).ledger()
        await acreate_table_artifact(
            _ledger(lines), f"quota-{ring}", f"Quota of the ring {ring} on this Pacific day"
        )
    except (AtlasError, PrefectException, httpx.HTTPError) as error:
        logger.warning("the run leaves no artifacts: %s", error, extra={"action": "no_artifacts"})


def _told(statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a number; those of counts by name are a line each."""
    lines: list[dict[str, Any]] = []
    for name, value in statistics.items():
        counts = value.items() if isinstance(value, Mapping) else [(None, value)]
        lines += [{"what": f"{name}: {key}" if key else name, "value": count} for key, count in counts]
    return lines


async def _videos(atlas: Atlas, agent: str) -> list[str]:
    if agent == "tracker":
        board = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        leaders = await board.top(Lead.VELOCITY, VIDEOS)
        told = ((lead.id, lead.title, f"{lead.velocity or 0:,.0f} views/h*") for lead in leaders)
    else:
        dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        found = await dao.top_videos(VIDEOS)
        told = ((video.id, video.title, f"{video.view_count:,} views") for video in found)
    lines = list(_links(told))
    return [*lines, "", "\\* computed by Pleiades, not by YouTube"] if lines and agent == "tracker" else lines


def _links(videos: Iterable[tuple[str, str | None, str]]) -> Iterable[str]:
    for video_id, title, merit in videos:
        name = _MARKUP.sub(r"\\\1", " ".join((title or video_id).split()))
        yield f"1. [{name}]({_WATCH}{video_id}): {merit}"


def _ledger(lines: Iterable[LedgerLine]) -> list[dict[str, Any]]:
    return [
        {
            "project": line.project,
            "bucket": line.bucket,
            "used": line.used,
            "reserved": line.reserved,
            "allowed now": line.allowed,
            "left today": line.left,
            "closed until": line.closed_until.isoformat() if line.closed_until else None,
        }
        for line in lines
        if line.ring_limit or line.used or line.reserved
    ]

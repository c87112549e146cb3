"""Creates a run's artifacts in Prefect's UI: statistics, links to the leading videos, the quota ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.exceptions import PrefectException

from atlas import foreign
from atlas.composition import Atlas
from atlas.errors import AtlasError
from atlas.keyring import KeyRing, LedgerLine
from maia.agents import AgentRecord
from maia.cycle.agent import Highlight

logger = logging.getLogger(__name__)

VIDEOS = 10

_WATCH = "https://www.youtube.com/watch?v="


def description_of(agent: AgentRecord) -> str:
    """What an agent does, with links to its latest artifacts, as Markdown for its page in Prefect's UI."""
    links = " · ".join(f"[{what}](/artifacts/key/{key})" for what, key in _keys(agent).items())
    return f"{agent.about}\n\nArtifacts of its latest runs: {links}"


def _keys(agent: AgentRecord) -> dict[str, str]:
    """The artifacts of an agent's runs, by name, with their keys."""
    keys = {"statistics": f"{agent.name}-statistics", "leading videos": f"{agent.name}-videos"}
    keys |= {name: f"{agent.name}-{name}" for name in agent.tables}
    return keys | ({"quota": f"quota-{agent.ring}"} if agent.ring else {})


async def create(atlas: Atlas, agent: AgentRecord, statistics: Mapping[str, Any]) -> None:
    """Create the artifacts of a run. If that fails, it is only logged, as the run has done its work."""
    name, ring, keys = agent.name, agent.ring, _keys(agent)
    try:
        await acreate_table_artifact(_lines(statistics), keys["statistics"], f"What the {name} did")
        if videos := _links(await agent.load().highlights(atlas, VIDEOS)):
            await acreate_markdown_artifact(
                "\n".join(videos), keys["leading videos"], f"Leading videos after a run of the {name}"
            )
        for table in agent.tables:
            lines = [dict(line) for line in await agent.load().table(atlas, table)]
            await acreate_table_artifact(lines, keys[table], f"The {name}'s {table} of this Pacific day")
        if ring is not None:
            await acreate_table_artifact(
                _ledger(await KeyRing(ring, atlas=atlas).ledger()),
                keys["quota"],
                f"Quota of the ring {ring} on this Pacific day",
            )
    except (AtlasError, PrefectException, httpx.HTTPError) as error:
        logger.warning("could not create the run's artifacts: %s", error, extra={"action": "no_artifacts"})


def _lines(statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line per number, also for each entry of counts by name."""
    lines: list[dict[str, Any]] = []
    for name, value in statistics.items():
        counts = value.items() if isinstance(value, Mapping) else [(None, value)]
        lines += [{"what": f"{name}: {key}" if key else name, "value": count} for key, count in counts]
    return [{name: _harmless(value) for name, value in line.items()} for line in lines]


def _harmless(value: Any) -> Any:
    # Table cells are not Markdown, but Prefect's page turns text that looks like a URL into a link.
    return foreign.chat(foreign.one_line(value)) if isinstance(value, str) else value


def _links(videos: Sequence[Highlight]) -> list[str]:
    lines = []
    for video in videos:
        name, merit = foreign.markdown(video.title or video.id), video.merit
        computed = "\\*" if video.computed else ""
        lines.append(f"1. [{name}]({_WATCH}{quote(video.id, safe='')}): {merit}{computed}")
    if any(video.computed for video in videos):
        lines += ["", "\\* computed by Pleiades, not by YouTube"]
    return lines


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

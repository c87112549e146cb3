"""The duty `health`: judges everything, tells the alerting what is wrong, and repairs what it can."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import AtlasError
from atlas.wording import counted
from maia.agents import AGENTS, round_s
from maia.errors import MaiaError
from maia.maintainer.actions import ActionState, Taken
from maia.maintainer.alerting import handle
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintainer.repairs import repair_of
from maia.maintainer.restarts import note_well, service_states
from maia.maintainer.rota import Turn, rota
from maia.maintainer.updates import finish_update
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health import PROBE, Watched
from maia.views.health import Health, Wanted, health

logger = logging.getLogger(__name__)

OWN_NAME: Final = "maintainer"
OWN_DUTY: Final = "health"


async def watch_health(context: DutyContext) -> DutyReport:
    """Judge everything, tell people what is wrong and what is over, and repair what is allowed."""
    # An update that restarted its own process is judged by the next one.
    await finish_update(context)
    context.progress("measuring", 0, 3)
    found = await look(context.atlas, besides=(OWN_NAME,))
    context.progress("alerting", 1, 3)
    troubles = {"alerting": await _alert(context.atlas, found)}
    context.progress("repairing", 2, 3)
    # What was given up is tried again once it has been well.
    await note_well(context, found.services)
    troubles["repairing"] = await repair(context, found.judgement.findings)
    context.progress("done", 3, 3)
    failed = {what: why for what, why in troubles.items() if why is not None}
    return DutyReport(
        summary=_summary(found, context.taken, failed), details=found.as_dict() | failed, failed=bool(failed)
    )


async def look(atlas: Atlas, *, besides: Collection[str] = ()) -> Health:
    """The health of everything, as seen from this host; agents named in `besides` are not waited for."""
    return await health(
        atlas,
        Wanted(
            agents=expected_agents(atlas.settings, besides),
            prefect_url=os.environ.get("PREFECT_API_URL") or None,
            services=partial(service_states, atlas),
            duties=_duties_of(atlas, besides=(OWN_DUTY,) if OWN_NAME in besides else ()),
        ),
    )


def expected_agents(settings: Settings, besides: Collection[str] = ()) -> dict[str, float]:
    """The agents that should be at work, with the seconds between their runs.

    Those that the settings leave out, or whose ring has no key, are not expected.
    """
    chosen = settings.prefect.agents or tuple(agent.name for agent in AGENTS)
    return {
        agent.name: round_s(settings, agent.name)
        for agent in AGENTS
        if agent.name in chosen
        and agent.name not in besides
        and (agent.ring is None or settings.key_pool[agent.ring])
    }


# What other parts of the maintainer know


def _duties_of(atlas: Atlas, besides: Collection[str]) -> Callable[[], Awaitable[list[Watched]]]:
    """When each duty was last done, by the rota."""

    async def read() -> list[Watched]:
        now = atlas.clock.now()
        return [
            _watched(turn, now)
            for turn in await rota(atlas)
            if turn.schedule.enabled and turn.duty.name not in besides
        ]

    return read


def _watched(turn: Turn, now: datetime) -> Watched:
    last, next_at = turn.last, turn.schedule.next_after(now)
    return Watched(
        name=turn.duty.name,
        period_s=(next_at - turn.schedule.last_until(next_at - timedelta(microseconds=1))).total_seconds(),
        good_at=None if last is None else last.done_at,
        since=None if last is None else last.started_at,
        last=last.summary or "no reason given" if last is not None and last.state == "failed" else None,
    )


# Alerts and repairs


async def _alert(atlas: Atlas, found: Health) -> str | None:
    """Hand the findings to the alerting; returns why that failed, which must not prevent repairs."""
    judged = judged_for_alerts(found)
    try:
        handled = await handle(atlas, found.judgement.findings, judged=judged, now=found.now)
    except (AtlasError, MaiaError, OSError) as error:
        logger.error("the alerting failed: %s", error, extra={"action": "alerting_failed"})
        return str(error) or type(error).__name__
    return handled.failure


def judged_for_alerts(found: Health) -> frozenset[Component]:
    """The components whose incidents may begin and end by this judgement.

    Where something is down, or could not be measured, that is told of even if not everything is known.
    """
    pressing = {
        finding.component
        for finding in found.judgement.findings
        if finding.severity is Severity.ERROR or finding.check == PROBE
    }
    return found.judgement.settled | pressing


async def repair(context: DutyContext, findings: Iterable[Finding]) -> str | None:
    """Take what mends findings, each action once and as far as it is allowed; returns why some failed."""
    failed, seen = [], set()
    for finding in findings:
        try:
            action = await repair_of(context.atlas, finding)
            if action is None or (action.kind, action.target) in seen:
                continue
            seen.add((action.kind, action.target))
            await context.take(action)
        except (AtlasError, MaiaError, OSError) as error:
            logger.error("%s is not mended: %s", finding.key, error, extra={"action": "repair_failed"})
            failed.append(f"{finding.key}: {error}")
    return "; ".join(failed) or None


def _summary(found: Health, taken: Sequence[Taken], failed: Mapping[str, str]) -> str:
    findings = found.judgement.findings
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    text = f"score {found.score:.2f}, {counted(errors, 'error')}, {counted(warnings, 'warning')}"
    if findings:
        text += f"; {findings[0].text.rstrip('.')}"
    if mended := sum(each.state is ActionState.APPLIED for each in taken):
        text += f"; {counted(mended, 'repair')} made"
    return "; ".join([text, *(f"{what} failed: {why}" for what, why in failed.items())])

"""Turns what is known into suggestions for people, and withdraws those that no longer hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from atlas.adapters.patterns import PatternsDAO, StoredPattern
from atlas.composition import Atlas
from atlas.config import LearnerSettings
from maia.agents import AGENTS, intervals_s
from maia.cycle.adapting import TURN
from maia.learning.advice import KEY_PREFIX, Advice, AgentCycles, Believed, advise
from maia.learning.evidence import Prior, confidence
from maia.learning.patterns import PatternType

_CYCLES: Final = 500
_LOOK_BACK: Final = timedelta(days=7)
_TYPES: Final = (PatternType.TOOL_USAGE, PatternType.FAILURE_MODE, PatternType.SEASONAL_PROFILE)


async def make_suggestions(atlas: Atlas) -> int:
    """Make or renew the suggestions that hold now, and withdraw the learner's others; returns how many hold.

    If the settings want none, none holds.
    """
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    settings = atlas.settings
    found = await _advice(atlas, dao) if settings.learner.suggestions else []
    async with dao.transaction() as joined:
        for each in found:
            await joined.suggest(
                each.key, each.category, each.text, command=each.command, evidence=each.evidence
            )
        held = {each.key for each in found}
        for old in await joined.suggestions():
            if old.key.startswith(KEY_PREFIX) and old.key not in held:
                await joined.withdraw_suggestion(old.key)
    return len(found)


async def _advice(atlas: Atlas, dao: PatternsDAO) -> list[Advice]:
    settings = atlas.settings
    known = [_believed(each, settings.learner) for each in await dao.known(_TYPES)]
    return advise(
        [await _cycles(atlas, agent.name) for agent in AGENTS],
        known,
        least_confidence=settings.learner.confidence_threshold,
        intervals_s=settings.agents.intervals_s,
        arms_off=settings.discovery.off,
    )


async def _cycles(atlas: Atlas, agent: str) -> AgentCycles:
    """What the agent's cycles of the last days were like."""
    since = atlas.clock.now() - _LOOK_BACK
    events = await atlas.events.latest(_CYCLES, kinds=[f"{agent}.cycle"])
    payloads = [event.payload for event in events if event.at >= since]
    worked = [each for each in payloads if TURN not in each.get("adapted", {})]
    counts = Counter(_state(each) for each in worked)
    interval_s = intervals_s(atlas.settings.agents.intervals_s)[agent]
    return AgentCycles(agent, interval_s, len(worked), counts["idle"], counts["late"])


def _state(cycle: Mapping[str, Any]) -> str:
    """Whether a cycle had nothing to do, or left due work that the quota would have paid for."""
    if cycle.get("outcome") == "idle":
        return "idle"
    due = cycle.get("due")
    waiting = sum(due.values()) if isinstance(due, Mapping) else 0
    is_late = (
        cycle.get("outcome") == "done" and not cycle.get("degraded") and waiting > cycle.get("videos", 0)
    )
    return "late" if is_late else "other"


def _believed(stored: StoredPattern, settings: LearnerSettings) -> Believed:
    prior = Prior(settings.prior_alpha, settings.prior_beta)
    against = Prior(settings.prior_beta, settings.prior_alpha)
    return Believed(
        stored.id,
        stored.type,
        stored.signature,
        stored.statement,
        float(confidence(stored.pos, stored.neg, prior)),
        float(confidence(stored.neg, stored.pos, against)),
        stored.support,
        stored.sum_reward / stored.support if stored.support else 0.0,
        stored.data,
    )

"""Analyses of everything that is stored, for `maia learner --full`: what detectors can't see page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from atlas.adapters.patterns import PatternsDAO, StoredEvidence
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from maia.learner import observing
from maia.learner.knowledge import to_store
from maia.learning.episodes import Episodes, episode_sequences
from maia.learning.privacy import Pseudonyms

_EVENTS_AT_ONCE: Final = 5_000


async def analyse_episodes(
    atlas: Atlas, pseudonyms: Pseudonyms, on_read: Callable[[int, int], None] | None = None
) -> dict[str, bool]:
    """Find what usually comes in the course of an episode, in all events of agents and operators.

    Counts are of the whole days, and are merged by maximum: to analyse the same events again changes nothing.
    Returns the patterns that were changed, and whether each is new. `on_read` is told how many events were
    read and about how many there are.
    """
    episodes, observer = Episodes(), observing.Observer(pseudonyms)
    end = await atlas.events.cursor()
    position = read = 0
    while events := await atlas.events.since(position, kinds=observing.KINDS, limit=_EVENTS_AT_ONCE):
        episodes.add(observer.observations(events))
        position, read = events[-1].id, read + len(events)
        if on_read is not None:
            on_read(read, round(read * end / position))
    # It takes long where there is much: meanwhile, whoever wants the process to stop is heard.
    found = await asyncio.to_thread(episode_sequences, episodes.complete(atlas.clock.now()))
    patterns, evidence = to_store(found)
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    node = (await dao.site()).node
    rows = [
        StoredEvidence(each.pattern_id, node, each.day, each.pos, each.neg, each.reward, each.last_seen, 1)
        for each in evidence
    ]
    changed: dict[str, bool] = {}
    async for trial in retry_conflicts():
        with trial:
            async with dao.transaction() as ours:
                changed = await ours.store(patterns)
                await ours.merge_evidence(rows)
    return changed

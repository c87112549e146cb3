"""Stores what was learnt of a page together with how far was read, all of it or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from atlas.adapters.patterns import Model, PatternsDAO
from atlas.conflicts import retry_conflicts
from maia.learner.knowledge import Learnt, alarms_to_store, to_store


@dataclass(frozen=True, slots=True)
class Stored:
    """How many patterns are new and how many changed, and which ones proved true."""

    new: int
    changed: int
    proven: frozenset[str]


async def store_learnt(
    dao: PatternsDAO,
    source: str,
    start: str,
    end: str,
    learnt: Learnt,
    models: Sequence[Model],
    beside: Callable[[PatternsDAO], Awaitable[None]] | None = None,
) -> Stored:
    """Store findings, alarms and models, and move the source's cursor, in one transaction.

    `beside` does something else in the same transaction, perhaps several times, of which one counts.
    LeaseLost if the cursor isn't at `start` any more: then another learner has learnt that page.
    """
    patterns, evidence = to_store(learnt.findings)
    changed: dict[str, bool] = {}
    async for trial in retry_conflicts():
        with trial:
            async with dao.transaction() as ours:
                await ours.move_cursor(source, start, end)
                changed = await ours.store(patterns)
                await ours.count(evidence)
                if learnt.alarms:
                    await ours.add_alarms(alarms_to_store(learnt.alarms))
                if models:
                    await ours.save_models(models)
                if beside is not None:
                    await beside(ours)
    new = sum(changed.values())
    return Stored(new, len(changed) - new, frozenset(row.pattern_id for row in evidence if row.pos))

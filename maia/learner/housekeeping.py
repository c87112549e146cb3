"""Keeps what is known within its limits: pays for usefulness, charges rent, expires and forgets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from atlas.adapters.patterns import PatternsDAO, StoredImportance
from atlas.config import LearnerSettings
from maia.learning.importance import Importance, Use, forget, paid


@dataclass(frozen=True, slots=True)
class Kept:
    """How many patterns were forgotten, and how many are known now."""

    forgotten: int
    known: int


async def keep_within_limits(
    dao: PatternsDAO, settings: LearnerSettings, now: datetime, proven: Collection[str] = ()
) -> Kept:
    """Expire evidence that is too old, pay the patterns that proved true, and forget the least important.

    What an operator has pinned stays.
    """
    forgotten = await dao.expire(now - timedelta(days=settings.max_retention_days))
    await pay(dao, proven, Use.PROVEN, now)
    known = await dao.count_known()
    if known > settings.max_patterns:
        stored = await dao.importances()
        pinned = [each.id for each in stored if each.pinned]
        importances = {each.id: _importance_of(each) for each in stored}
        excess = await dao.forget(forget(importances, settings.max_patterns, now, pinned), "learner")
        forgotten, known = forgotten + excess, known - excess
    return Kept(forgotten, known)


async def pay(dao: PatternsDAO, ids: Collection[str], use: Use, now: datetime) -> None:
    """Raise the importance of patterns for having been useful once; those that are forgotten get nothing."""
    await pay_for(dao, {(id_, use): 1 for id_ in ids}, now)


async def pay_for(dao: PatternsDAO, uses: Mapping[tuple[str, Use], int], now: datetime) -> None:
    """The same for having been useful so many times in each way."""
    if not uses:
        return
    by_id: defaultdict[str, dict[Use, int]] = defaultdict(dict)
    for (id_, use), times in uses.items():
        by_id[id_][use] = times
    known = await dao.importances(by_id)
    raised = {each.id: paid(_importance_of(each), by_id[each.id], now) for each in known}
    await dao.attend({id_: (each.sti, each.lti) for id_, each in raised.items()}, now)


def _importance_of(stored: StoredImportance) -> Importance:
    return Importance(stored.sti, stored.lti, stored.attended_at)

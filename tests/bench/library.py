"""Many patterns with evidence, stored in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from rich.console import Console

from atlas.adapters.patterns import NewEvidence, PatternContent, PatternsDAO
from atlas.clock import SystemClock
from tests.bench.bench_patterns import NOW, made_patterns
from tests.bench.servers import migrated

_PATTERNS_AT_ONCE: Final = 1_000
_TOLD_EVERY_S: Final = 5.0


async def store_patterns(url: str, count: int, progress: Console) -> list[str]:
    """Store so many patterns with conditions, and evidence of today; returns their ids."""
    tell = _teller(progress, "patterns", count)
    now = datetime.now(UTC)
    made = made_patterns(count)
    async with migrated(url) as (database, settings):
        dao = PatternsDAO(database, clock=SystemClock(), settings=settings)
        for first in range(0, count, _PATTERNS_AT_ONCE):
            some = made[first : first + _PATTERNS_AT_ONCE]
            await dao.store(
                [
                    PatternContent(
                        each.id, each.pattern.type.value, each.pattern.signature, each.pattern.statement,
                        [condition.as_dict() for condition in each.pattern.conditions], each.pattern.action,
                        each.pattern.data,
                    )
                    for each in some
                ]
            )  # fmt: skip
            await dao.count(
                [
                    NewEvidence(each.id, now.date(), each.counts.pos, each.counts.neg, each.counts.reward,
                                now - (NOW - (each.last_seen or NOW)))
                    for each in some
                ]
            )  # fmt: skip
            tell(first + len(some))
    return [each.id for each in made]


def _teller(progress: Console, what: str, whole: int) -> Callable[[int], None]:
    """Tells from time to time how many there are, and at the end how long it took."""
    began_s = told_s = time.monotonic()
    progress.print(f"  storing {whole:,} {what} …")

    def tell(count: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if count >= whole or now_s - told_s >= _TOLD_EVERY_S:
            told_s = now_s
            progress.print(f"  {count:,} of {whole:,} {what} after {now_s - began_s:,.0f} s")

    return tell

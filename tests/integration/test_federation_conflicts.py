"""Whose evidence counts where sites differ: the same at all sites, in whatever order it came."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.adapters.federation import Conflicts, FederationDAO
from atlas.adapters.patterns import PatternsDAO, StoredEvidence, StoredPattern
from atlas.clock import FixedClock
from atlas.composition import Atlas
from tests.federated import pattern

pytestmark = pytest.mark.integration

PATTERN = pattern("shared")
NOON = datetime.fromisoformat("2026-11-02T12:00:00Z")


class _Undone(Exception):
    """Ends a transaction without a trace."""


def _row(node: str, day: int, version: int, seed: int) -> StoredEvidence:
    """A state of a site's row; a later version of it has no lower counts."""
    chance = random.Random(f"{node} {day} {seed}")
    return StoredEvidence(
        PATTERN.id,
        node,
        date(2026, 11, 2) - timedelta(days=day),
        chance.randrange(5) * version,
        chance.randrange(5) * version,
        float(version * chance.randrange(9)),
        NOON - timedelta(days=day) + timedelta(seconds=version),
        version,
    )


histories = st.lists(
    st.builds(
        _row,
        st.sampled_from(["a", "a.17", "b", "c"]),
        st.integers(0, 2),
        st.integers(1, 3),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
)


def _consistent(rows: list[StoredEvidence]) -> list[StoredEvidence]:
    """The rows as far as they are states of the same history."""
    seeds: dict[tuple[str, date], StoredEvidence] = {}
    kept = []
    for row in rows:
        first = seeds.setdefault((row.node, row.day), row)
        if (
            row.pos * first.version == first.pos * row.version
            and row.neg * first.version == first.neg * row.version
        ):
            kept.append(row)
    return kept


@pytest.mark.parametrize("conflicts", ["merge", "latest", "confident"])
async def test_order_and_repetition_make_no_difference(
    atlas: Atlas, clock: FixedClock, conflicts: Conflicts
) -> None:
    patterns = PatternsDAO(atlas.db, clock=clock, settings=atlas.settings)
    await patterns.store([PATTERN])

    async def known(rows: list[StoredEvidence]) -> tuple[Any, ...]:
        result: list[StoredPattern] = []
        try:
            async with patterns.transaction() as dao:
                await FederationDAO.joining(
                    FederationDAO(atlas.db, clock=clock, settings=atlas.settings), dao
                ).prefer(conflicts)
                for row in rows:
                    await dao.merge_evidence([row])
                result = await dao.known()
                raise _Undone
        except _Undone:
            [found] = result
        return found.pos, found.neg, found.sum_reward, found.last_seen, found.sites, found.days

    for rows, order in _examples():
        together = await known(rows)
        assert together == await known(order)
        assert together == await known([*order, *rows, *order])
        assert together[:2] == _expected(rows, conflicts)


def _examples() -> list[tuple[list[StoredEvidence], list[StoredEvidence]]]:
    """Histories, each also in another order; the same ones at each run."""
    found: list[tuple[list[StoredEvidence], list[StoredEvidence]]] = []

    @settings(max_examples=25, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(histories, st.randoms(use_true_random=False))
    def collect(rows: list[StoredEvidence], chance: random.Random) -> None:
        kept = _consistent(rows)
        found.append((kept, chance.sample(kept, len(kept))))

    collect()
    return found


def _expected(rows: list[StoredEvidence], conflicts: Conflicts) -> tuple[int, int]:
    """The counts by the definition of the strategy."""
    merged: dict[tuple[str, date], StoredEvidence] = {}
    for row in sorted(rows, key=lambda each: each.version):
        merged[row.node, row.day] = row
    by_site: dict[str, list[StoredEvidence]] = {}
    for row in merged.values():
        by_site.setdefault(row.node.partition(".")[0], []).append(row)
    sums = {
        site: (sum(row.pos for row in each), sum(row.neg for row in each)) for site, each in by_site.items()
    }
    if conflicts == "merge":
        return sum(pos for pos, _ in sums.values()), sum(neg for _, neg in sums.values())
    if conflicts == "latest":
        return sums[max(by_site, key=lambda site: (max(row.last_seen for row in by_site[site]), site))]
    return sums[max(sums, key=lambda site: (_floor(*sums[site]), sum(sums[site]), site))]


def _floor(pos: int, neg: int) -> float:
    """The lower bound of Wilson's interval, by the formula in Wikipedia."""
    n, z = pos + neg, 1.6448536
    if not n:
        return 0.0
    share = pos / n
    centre, spread = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return round((centre - spread) / (1 + z * z / n), 4)


async def test_another_strategy_is_noticed_by_those_that_keep_sums(atlas: Atlas, clock: FixedClock) -> None:
    from atlas.adapters.changes import ChangesDAO

    patterns = PatternsDAO(atlas.db, clock=clock, settings=atlas.settings)
    await patterns.store([PATTERN])
    await patterns.merge_evidence([_row("a", 0, 3, 1), _row("b", 1, 3, 2)])
    changes = ChangesDAO(atlas.db, clock=clock, settings=atlas.settings)
    await changes.settle()
    cursor = await changes.cursor()
    federation = FederationDAO(atlas.db, clock=clock, settings=atlas.settings)
    assert not await federation.prefer("merge")
    assert (await changes.patterns_since(cursor, 10)).items == []
    assert await federation.prefer("latest")
    [change] = (await changes.patterns_since(cursor, 10)).items
    assert (change.pattern.pos, change.pattern.neg) == (_row("a", 0, 3, 1).pos, _row("a", 0, 3, 1).neg)
    assert change.pattern.sites == 2

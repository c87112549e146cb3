"""Thousands of things that happen to a graph of four sites: once all is heard, all hold the same.

ROUNDS and SEED in the environment ask for more histories, or for others.
"""

from __future__ import annotations

import os
import random

import pytest

from atlas.clock import FixedClock
from atlas.testing import SettingsFactory, ThrowAwayServer
from tests.graph_histories import History
from tests.graph_sites import graph_sites

pytestmark = pytest.mark.timeout(3_600)

ROUNDS = int(os.environ.get("ROUNDS", "40"))
SEED = int(os.environ.get("SEED", "20261130"))


@pytest.mark.parametrize("conflicts", ["merge", "latest", "confident"])
async def test_all_end_equal(
    conflicts: str,
    postgres: ThrowAwayServer,
    template: str,
    settings_factory: SettingsFactory,
    clock: FixedClock,
) -> None:
    async with graph_sites(postgres, template, settings_factory, clock, 4) as sites:
        for nth in range(ROUNDS):
            history = History(sites, clock, random.Random(f"{SEED} {conflicts} {nth}"))
            await history.begin(conflicts)
            for _ in range(history.drawn.randrange(5, 120)):
                await history.step()
            await history.settle()

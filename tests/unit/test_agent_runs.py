"""Whether an agent is run again and again, as far as its cycles tell."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from atlas.maintainer_settings import HealthSettings
from atlas.testing import NOON
from maia.maintenance.health_terms import Basis
from maia.views.runs import runs

MINUTE = timedelta(minutes=1)
BASIS = Basis(now=NOON, limits=HealthSettings(missed_runs=2, grace_s=900))


def next_after(*cycles: tuple[float, str]) -> datetime | None:
    """When the next run is due, after cycles given by how many minutes ago they began, and their nodes."""
    found: Any = SimpleNamespace(
        cycles={"hunter": [{"at": NOON - ago * MINUTE, "node": n} for ago, n in cycles]}
    )
    [agent] = runs(found, [("hunter", "Finds videos.", 600)], BASIS)
    return agent.next_at


@pytest.mark.parametrize(
    "cycles",
    [
        [(4, "a"), (14, "a")],
        [(34, "a"), (44, "a")],
        [(4, "a"), (6, "b")],
        [(-1, "a"), (9, "a")],
        [(4, "a"), (4.1, "a"), (14, "a")],
    ],
    ids=["in turns", "a little late", "on two hosts", "by a clock ahead", "after one by hand"],
)
def test_cycles_in_turns_have_a_next_one(cycles: list[tuple[float, str]]) -> None:
    assert next_after(*cycles) == NOON + (10 - cycles[0][0]) * MINUTE


@pytest.mark.parametrize(
    "cycles",
    [
        [],
        [(4, "a")],
        [(4, "a"), (4.5, "a"), (5, "a")],
        [(36, "a"), (46, "a")],
        [(4, "a"), (1440, "a")],
        [(-30_000, "a"), (-29_990, "a")],
    ],
    ids=["never", "once", "one after the other", "no more", "now and then", "on the clock of a demo"],
)
def test_others_have_none(cycles: list[tuple[float, str]]) -> None:
    assert next_after(*cycles) is None

"""`maia plan` in processes of its own: before, during and after a day, with and without a plan."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from maia.emulator.catalogue import Catalogue

pytestmark = pytest.mark.acceptance

PORTFOLIO = {
    "PLEIADES_HUNTER__STRATEGY": "portfolio",
    "PLEIADES_QUOTA__SHARES__HUNTING__GENERAL": "0.4",
    "PLEIADES_FEEDS__REQUESTS_PER_S": "50",
}


async def test_it_shows_what_is_planned_used_and_found_and_why(stage_of: Any, synthetic: Catalogue) -> None:
    now = synthetic.span[0] + timedelta(days=9)
    stage = await stage_of(synthetic, now=now, settings=PORTFOLIO, search=100, general=1000)
    before = await stage.maia("plan")
    assert (before.status, "the first run of maia hunter makes it" in before.stdout) == (0, True)

    await stage.maia("seed", "cats")
    hunted = await stage.maia("hunter", "--direct", "--json")
    assert hunted.status == 0
    shown, told = await stage.maia("plan"), (await stage.maia("plan", "--json")).json
    assert shown.status == 0
    for word in ("search:slices", "uploads", "charts", "nothing judged yet", "Plan of 2026-02-10"):
        assert word in shown.stdout
    lines = {line["arm"]: line for line in told["today"]}
    arms = hunted.json["arms"]
    assert {arm: line["used"] for arm, line in lines.items() if line["asks"]} == {
        arm: counts["units"] for arm, counts in arms.items()
    }
    assert sum(line["share"] for line in lines.values() if line["bucket"] == "search") == pytest.approx(1)
    assert sum(line["planned"] for line in lines.values() if line["bucket"] == "search") == pytest.approx(
        100, abs=4
    )
    assert told["yesterday"] == []

    stage.set_clock(now + timedelta(days=1))
    await stage.maia("tracker", "--direct", "--batch-size", "5000")
    await stage.maia("hunter", "--direct")
    shown, told = await stage.maia("plan"), (await stage.maia("plan", "--json")).json
    assert "What came of the day before" in shown.stdout
    assert {line["arm"] for line in told["yesterday"]} == set(arms)


async def test_the_original_order_has_no_plan_and_says_what_it_used(
    stage_of: Any, synthetic: Catalogue
) -> None:
    stage = await stage_of(synthetic)
    assert "needs no plan" in (await stage.maia("plan")).stdout
    await stage.maia("seed", "cats")
    await stage.maia("hunter", "--direct")
    (line,) = (await stage.maia("plan", "--json")).json["today"]
    assert (line["arm"], line["share"], line["used"]) == ("search:specification", None, 1)

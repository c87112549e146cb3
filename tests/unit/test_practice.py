from __future__ import annotations

import json

from maia.agents import AGENTS, intervals_s
from maia.commands.practice import _SETTINGS, SPEED


def test_every_agent_is_seen_at_work_within_minutes() -> None:
    paces = intervals_s(json.loads(_SETTINGS["PLEIADES_AGENTS__INTERVALS_S"]))
    assert set(paces) == {agent.name for agent in AGENTS}
    assert max(paces.values()) * SPEED <= 86_400


def test_the_demo_looks_for_no_updates_of_its_machine() -> None:
    assert _SETTINGS["PLEIADES_MAINTAINER__OFF"] == "updates,upgrade"

"""What operators did, as events: what is known of the things, how many, and that a loss is no failure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from atlas.adapters.watches import Watch, WatchKind
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import SettingsFactory
from maia import acts
from maia.learner.observing import observations
from maia.views.status import status
from tests.growth import store_video

pytestmark = pytest.mark.integration


@pytest.fixture
async def atlas(settings_factory: SettingsFactory, clock: FixedClock) -> AsyncIterator[Atlas]:
    async with Atlas.open(settings_factory(), clock=clock) as opened:
        yield opened


async def recorded(sql: Any) -> list[dict[str, Any]]:
    rows = await sql.fetch("SELECT payload FROM events WHERE kind = 'operator.act' ORDER BY id")
    return [json.loads(row["payload"]) for row in rows]


async def test_an_act_tells_what_is_known_of_the_thing(atlas: Atlas, sql: Any) -> None:
    tags = [f"tag {n}" for n in range(9)]
    await store_video(sql, "short000000", channel="UC-one", clock_zone=1, duration_s=30, tags=tags)
    await store_video(sql, "unsorted000", category_id=None, tags=[])
    watches = [
        Watch(WatchKind.VIDEO, "short000000"),
        Watch(WatchKind.VIDEO, "unsorted000"),
        Watch(WatchKind.VIDEO, "nobodyknows"),
        Watch(WatchKind.CHANNEL, "UC-one"),
    ]
    await acts.record(atlas, "watch", await acts.watched_things(atlas, watches))
    told = await recorded(sql)
    assert {act["action"] for act in told} == {"watch"}
    assert [act["context"] for act in told] == [
        {
            "kind": "video", "category_id": 10, "channel_id": "UC-one", "length": "short", "zone": "warm",
            **{f"tag_{n}": f"tag {n - 1}" for n in range(1, 6)},
        },
        {"kind": "video", "channel_id": "UC-one", "zone": "hot"},
        {"kind": "video"},
        {"kind": "channel", "channel_id": "UC-one"},
    ]  # fmt: skip


async def test_acts_become_observations_of_one_session(atlas: Atlas, sql: Any) -> None:
    class Nothing:
        def context(self, value: Any) -> Any:
            return value

        def text(self, text: str) -> str:
            return text

    await acts.record(atlas, "park", [acts.topics(2), acts.topics(1)])
    await acts.record(atlas, "retry", [acts.topics(2)])
    first, second, third = observations(await atlas.events.since(0), Nothing())
    assert (first.agent, first.action, first.context["count"]) == ("operator", "park", 2)
    assert first.session == second.session != third.session


async def test_a_command_records_a_bounded_number_of_acts(atlas: Atlas, sql: Any) -> None:
    watches = [Watch(WatchKind.CHANNEL, f"UC{n}") for n in range(60)]
    await acts.record(atlas, "watch", await acts.watched_things(atlas, watches))
    channels = [act["context"]["channel_id"] for act in await recorded(sql)]
    assert channels == [f"UC{n}" for n in range(acts.MOST_ACTS)]


async def test_topics_are_named_by_their_numbers(atlas: Atlas, sql: Any) -> None:
    await acts.seed(atlas, ["Lo Fi", "chess"])
    ids = {row["key"]: row["id"] for row in await sql.fetch("SELECT id, key FROM search_queue")}
    await acts.park(atlas, [ids["chess"], "LO FI", "nothing like it"], "enough")
    await acts.retry(atlas, None)
    told = await recorded(sql)
    assert [(act["action"], act.get("topics")) for act in told] == [
        ("seed", sorted(ids.values())),
        ("park", sorted(ids.values())),
        ("retry", None),
    ]


async def test_an_act_that_cannot_be_recorded_is_a_warning(
    atlas: Atlas, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await sql.execute("ALTER TABLE events ADD CONSTRAINT silent CHECK (kind <> 'operator.act')")
    await acts.record(atlas, "park", [acts.topics(1)])
    assert "what you did is not recorded" in caplog.text


async def test_no_act_or_offer_shows_in_the_status(atlas: Atlas, sql: Any) -> None:
    before = await status(atlas, ["hunter"])
    await acts.record(atlas, "park", [acts.topics(1)])
    await atlas.events.append("hunter.offer", {"total": 1}, agent="hunter")
    assert (await status(atlas, ["hunter"])) == before

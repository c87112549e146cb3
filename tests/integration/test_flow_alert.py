"""The flow that tells people of failed runs, and what runs leave in Prefect's UI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest_asyncio
from prefect import flow
from prefect.client.orchestration import get_client

from atlas.composition import Atlas
from atlas.testing import RecordingNotifier, SettingsFactory
from flows import artifacts
from flows.alert import alert
from maia.agents import agent_named
from maia.hunter.cycle import Hunter
from maia.youtube.reading import Reader, parse_videos
from tests import flow_runs

pytestmark = flow_runs.MARKS


@pytest_asyncio.fixture
async def opened(
    settings_factory: SettingsFactory, recording_notifier: RecordingNotifier, prefect: str
) -> AsyncIterator[Atlas]:
    settings = settings_factory(
        notifier={"urls": [recording_notifier.url]}, youtube_api_key_pool_json='["lab-key"]'
    )
    async with Atlas.open(settings) as atlas:
        yield atlas


async def told(state: str = "Crashed", **details: str | None) -> Any:
    run: dict[str, Any] = {"run_name": "calm-owl", "run_id": str(uuid4()), "message": None} | details
    return await alert(flow_name="hunter", state=state, **run)


async def test_a_crashed_run_is_told_of_with_what_prefect_knows(
    opened: Atlas, recording_notifier: RecordingNotifier
) -> None:
    assert await told(message="No sign of life for 540 s.", run_id="run-1")
    [sent] = recording_notifier.alerts
    assert (sent["title"], sent["type"]) == ("hunter: a run crashed", "failure")
    assert sent["message"] == "Run calm-owl (run-1): No sign of life for 540 s."


async def test_what_the_runs_own_event_says_goes_first(
    opened: Atlas, recording_notifier: RecordingNotifier
) -> None:
    verdict = {"outcome": "failed", "detail": "the disk is full"}
    await opened.events.append("hunter.cycle", verdict, agent="hunter", session="run-2")
    await told("Failed", run_id="run-2", message="Flow run encountered an exception")
    [sent] = recording_notifier.alerts
    assert sent["message"] == "Run calm-owl (run-2): the disk is full"


async def test_a_429_is_no_alarm(opened: Atlas, recording_notifier: RecordingNotifier) -> None:
    verdict = {"outcome": "rate_limited", "detail": "429"}
    await opened.events.append("hunter.cycle", verdict, agent="hunter", session="run-3")
    assert not await told(run_id="run-3")
    assert recording_notifier.alerts == []
    assert await told(run_id="run-4", message="killed")


async def test_the_same_is_told_once_in_its_cool_down(
    opened: Atlas, recording_notifier: RecordingNotifier
) -> None:
    assert await told(message="first")
    assert not await told(message="second")
    assert await told("Failed", message="of another kind")
    assert len(recording_notifier.alerts) == 2


async def test_titles_cannot_break_out_of_their_links(opened: Atlas) -> None:
    video = {
        "id": "abc--------",
        "snippet": {"channelId": "UC" + "c" * 22, "title": "[x](http://evil) <b>|*\n#1"},
        "statistics": {"viewCount": "5"},
    }
    async with Hunter.open(opened) as hunter:
        await hunter.dao.ingest_video_metadata(
            parse_videos({"items": [video]}, Reader(opened.clock.now())),
            fetched_at=opened.clock.now(),
            discovered_by=None,
        )

    @flow
    async def leaves() -> None:
        await artifacts.create(opened, agent_named("hunter"), {"outcome": "done", "skipped": {"network": 2}})

    await leaves()
    async with get_client() as client:
        found = {artifact.key: artifact for artifact in await client.read_artifacts()}
    [line] = str(found["hunter-videos"].data).splitlines()
    assert line == (
        r"1. [\[x\]\(http\:\/\/evil\) \<b\>\|\* \#1](https://www.youtube.com/watch?v=abc--------): 5 views"
    )
    statistics = str(found["hunter-statistics"].data)
    assert '{"what": "skipped: network", "value": 2}' in statistics
    assert '"bucket": "search"' in str(found["quota-hunting"].data)

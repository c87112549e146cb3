"""The hunter as a Prefect flow: maia's own cycle, each of its four steps shown as a task."""

from __future__ import annotations

from typing import Any

from prefect import flow

from atlas.adapters.maia import Topic
from atlas.config import Settings
from flows import artifacts
from flows.steps import Count, StepTask, invoked, invoking
from maia.hunter import Batch, EnrichedPage, FoundPage, OnProgress, Steps, StoredPage
from maia.hunter import run as hunt

fetch_batch = StepTask("fetch_batch", "Claim the topics to search for.")
search = StepTask("search", "Ask for a topic's next page of results.")
enrich = StepTask("enrich", "Ask for the tags, counts and durations of a page's videos.")
ingest = StepTask("ingest", "Store a page's videos, its tags and the topic's new state.")


class _Tasks:
    """The steps of a hunter, each run as a task."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def fetch_batch(self, batch_size: int) -> Batch:
        return await fetch_batch(batch_size, lambda: self._steps.fetch_batch(batch_size))

    async def search(self, topic: Topic) -> FoundPage:
        return await search(topic.query, lambda: self._steps.search(topic))

    async def enrich(self, page: FoundPage) -> EnrichedPage:
        return await enrich(page.topic.query, lambda: self._steps.enrich(page))

    async def ingest(self, page: EnrichedPage) -> StoredPage:
        return await ingest(page.found.topic.query, lambda: self._steps.ingest(page))


@flow(name="hunter", persist_result=False, retries=0)
async def hunter(batch_size: Count | None = None, cycles: Count = 1) -> dict[str, Any]:
    """Search for topics of the queue, store what they bring and queue its tags; returns the statistics.

    A 429 ends the run as Crashed, by SystemExit(75).
    """
    async with invoked() as (atlas, on_progress):
        statistics = await hunt(
            atlas, batch_size=batch_size, cycles=cycles, on_progress=on_progress, wrap=_Tasks
        )
        await artifacts.leave(atlas, "hunter", "hunting", statistics)
        return statistics


async def run(
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run the flow in this process with `settings`; for `asyncio.run` in the main thread.

    Returns and raises what `maia.hunter.run_direct` does, and Prefect's own errors if its server fails.
    """
    async with invoking(settings, on_progress):
        return await hunter(batch_size=batch_size, cycles=cycles)

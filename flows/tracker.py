"""The tracker as a Prefect flow: maia's own cycle, each of its steps shown as a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow

from atlas.adapters.tracking import ChannelTarget, Target
from atlas.config import Settings
from flows import artifacts
from flows.steps import Count, StepTask, invoked, invoking
from maia.tracker import Batch, OnProgress, Sampled, Steps
from maia.tracker import run as track

fetch_targets = StepTask("fetch_targets", "Claim the videos and channels that are due.")
update_stats = StepTask("update_stats", "Ask for the counts of some videos, and store what they tell.")
update_channels = StepTask("update_channels", "Ask for the counts of some channels, and store them.")


class _Tasks:
    """The steps of a tracker, each run as a task."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def fetch_targets(self, batch_size: int) -> Batch:
        return await fetch_targets(batch_size, lambda: self._steps.fetch_targets(batch_size))

    async def update_stats(self, targets: Sequence[Target]) -> Sampled:
        return await update_stats(_about(targets, "videos"), lambda: self._steps.update_stats(targets))

    async def update_channels(self, channels: Sequence[ChannelTarget]) -> Sampled:
        return await update_channels(
            _about(channels, "channels"), lambda: self._steps.update_channels(channels)
        )


def _about(targets: Sequence[Target] | Sequence[ChannelTarget], noun: str) -> str:
    return f"{len(targets)} {noun} from {targets[0].id}"


@flow(name="tracker", persist_result=False, retries=0)
async def tracker(batch_size: Count | None = None, cycles: Count = 1) -> dict[str, Any]:
    """Sample the videos that are due and compute how fast they grow; returns the statistics.

    A 429 ends the run as Crashed, by SystemExit(75).
    """
    async with invoked() as (atlas, on_progress):
        statistics = await track(
            atlas, batch_size=batch_size, cycles=cycles, on_progress=on_progress, wrap=_Tasks
        )
        await artifacts.leave(atlas, "tracker", "tracking", statistics)
        return statistics


async def run(
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run the flow in this process with `settings`; for `asyncio.run` in the main thread.

    Returns and raises what `maia.tracker.run_direct` does, and Prefect's own errors if its server fails.
    """
    async with invoking(settings, on_progress):
        return await tracker(batch_size=batch_size, cycles=cycles)

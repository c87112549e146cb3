"""From three seeds, the hunter reaches every video of recorded data that the search can lead to."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from zlib import crc32

import pytest

from atlas.config import HunterSettings
from atlas.queries import topic_key
from maia.emulator.catalogue import Catalogue
from maia.hunter.tags import TagRules
from tests.acceptance.conftest import Stage, StageFactory
from tests.fork_server import Finished

SHARED = Path(os.environ.get("PLEIADES_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "youtube"
RECORDED = [
    SHARED / "kaggle_USvideos_2017-11-14_28.csv.gz",
    SHARED / "trending_daily_KR_JP_US_2025-11_samples.csv.gz",
    SHARED / "trending_daily_KR_JP_US_2025-11_videos.csv.gz",
]
SHARE = float(os.environ.get("PLEIADES_SHARE_OF_RECORDED", "0.15"))
"""Of the recorded videos, what is hunted; 1 takes minutes."""
ALL_TAGS = {"PLEIADES_HUNTER__TAGS_PER_VIDEO": "100", "PLEIADES_HUNTER__COOLING_S": "864000"}

pytestmark = pytest.mark.acceptance


def reachable(catalogue: Catalogue, seeds: Iterable[str], at: datetime) -> tuple[set[str], set[str]]:
    """The videos and topics that snowballing from `seeds` leads to, found without client, server or queue."""
    rules = TagRules.of(HunterSettings())
    topics, videos = set(seeds), set[str]()
    waiting = deque(topics)
    while waiting:
        for video_id in catalogue.search_ids(waiting.popleft(), at, order="date"):
            if video_id not in videos:
                videos.add(video_id)
                number = catalogue.number(video_id)
                assert number is not None
                fresh = set(rules.topics(catalogue.video(number).tags)) - topics
                topics |= fresh
                waiting.extend(fresh)
    return videos, topics


async def hunt_until_idle(stage: Stage, processes: int) -> None:
    """Several hunters side by side, until nothing is left to search."""

    async def hunt() -> Finished:
        return await stage.hunt("--batch-size", "50", "--cycles", "100000")

    for finished in await asyncio.gather(*(hunt() for _ in range(processes))):
        assert finished.status == 0, finished.stderr
    last = await stage.hunt("--cycles", "100000")
    assert (last.status, last.json["outcome"]) == (0, "idle"), last.stderr


async def assert_all_was_found(stage: Stage, catalogue: Catalogue, seeds: list[str], at: datetime) -> None:
    videos, topics = reachable(catalogue, seeds, at)
    assert videos
    stored = await stage.rows("SELECT id, view_count, like_count, comment_count, title, tags FROM videos")
    assert {row[0] for row in stored} == videos
    assert len(stored) == len(videos)
    for video_id, *counts, title, tags in stored:
        number = catalogue.number(video_id)
        assert number is not None
        truth = catalogue.video(number)
        assert tuple(counts) == catalogue.counts_of(video_id, at), video_id
        assert title == truth.title.replace("\0", "")
        assert tags == list(truth.tags), video_id
    queue = await stage.rows("SELECT query, status, lease_token, attempts FROM search_queue")
    # Which spelling of a tag is the commonest so far depends on the order in which pages came.
    assert {topic_key(row[0]) for row in queue} == {topic_key(topic) for topic in topics}
    assert len(queue) == len({topic_key(row[0]) for row in queue})
    assert {row[1:] for row in queue} == {("cooling", None, 0)}


@pytest.mark.timeout(900)
async def test_recorded_videos_are_all_found_once(stage_of: StageFactory, tmp_path: Path) -> None:
    missing = [path.name for path in RECORDED if not path.exists()]
    if missing:
        pytest.skip(
            f"the recorded data is not here: {', '.join(missing)} (set PLEIADES_SHARED to its folder)"
        )
    path = tmp_path / "recorded.catalogue"
    seeds = ["music", "trump", "iphone"]
    importing = await asyncio.to_thread(_import, path, tmp_path)
    assert importing == 20_789 if SHARE == 1 else 20_000 * SHARE < importing < 22_000 * SHARE
    with Catalogue.open(path) as catalogue:
        at = catalogue.span[1]
        stage: Stage = await stage_of(catalogue, settings=ALL_TAGS)
        assert (await stage.maia("seed", *seeds)).status == 0
        await hunt_until_idle(stage, processes=2)
        await assert_all_was_found(stage, catalogue, seeds, at)
        spent = await stage.rows("SELECT bucket, used, reserved FROM quota_ledger")
        assert {bucket: used for bucket, used, _ in spent} == {
            bucket: stage.emulator.used("lab", bucket) for bucket in ("search", "general")
        }
        assert {reserved for *_, reserved in spent} == {0}


def _import(path: Path, folder: Path) -> int:
    from maia.emulator.importing import import_recordings
    from maia.emulator.recordings import ReadOptions

    files = RECORDED if SHARE == 1 else [_part_of(file, folder) for file in RECORDED]
    return import_recordings(path, files, ReadOptions({})).videos


def _part_of(file: Path, folder: Path) -> Path:
    """A file with the rows of a share of the videos, always the same ones."""
    import pandas as pd

    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    kept = [crc32(video_id.encode()) < SHARE * 2**32 for video_id in rows["video_id"]]
    part = folder / file.name
    rows[kept].to_csv(part, index=False)
    return part


def popular_tags(catalogue: Catalogue, count: int) -> list[str]:
    """The topics that most videos of a catalogue are tagged with."""
    rules = TagRules.of(HunterSettings())
    uses: dict[str, int] = {}
    for number in range(len(catalogue)):
        for topic in rules.topics(catalogue.video(number).tags):
            uses[topic] = uses.get(topic, 0) + 1
    return sorted(uses, key=lambda topic: (-uses[topic], topic))[:count]

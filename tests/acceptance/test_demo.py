"""`maia demo` finds videos and leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import pytest_asyncio

from maia.emulator.catalogue import Catalogue
from tests.fork_server import FORKS

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

MARK = "DEMO_UNDER_TEST"
PATIENCE_S = 20


@dataclass
class Demo:
    """A demo under way, whose processes and files can all be found."""

    process: asyncio.subprocess.Process
    folder: Path
    mark: str

    def processes(self) -> list[str]:
        """Every process of the demo that is there, by its command."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def files(self) -> list[Path]:
        return [*self.folder.iterdir()]

    async def until(self, words: str) -> None:
        assert self.process.stderr is not None
        while words not in (line := (await self.process.stderr.readline()).decode()):
            assert line, f"it never said {words!r}"

    async def until_alone(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while left := self.processes():
            assert time.monotonic() < deadline_s, left
            await asyncio.sleep(0.1)


class DemoFactory:
    """Starts demos in a temporary folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[Demo]()

    async def __call__(self, *arguments: str, **environment: str) -> Demo:
        mark = uuid4().hex
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "maia", "demo", *arguments),
            env=os.environ | {"TMPDIR": str(self.folder), MARK: mark} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        demo = Demo(process, self.folder, mark)
        self.started.append(demo)
        return demo


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pleiades-demo-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest_asyncio.fixture
async def demo(folder: Path) -> AsyncIterator[DemoFactory]:
    start = DemoFactory(folder)
    yield start
    for started in start.started:
        if started.process.returncode is None:
            started.process.kill()
        await started.process.communicate()


async def test_finds_videos_and_leaves_nothing(demo: DemoFactory) -> None:
    # Whatever the user has configured stays out of it.
    hunting = await demo(
        DATABASE_URL="postgresql://maia@127.0.0.1:1/precious",
        YOUTUBE_API_KEY_POOL_JSON='["a-key-that-costs-money"]',
        PREFECT_API_URL="http://127.0.0.1:1/api",
        PLEIADES_HUNTER__BATCH_SIZE="1",
    )
    stdout, stderr = (stream.decode() for stream in await hunting.process.communicate())

    assert hunting.process.returncode == 0, stderr
    for words in (
        "Most frequent topics", "Quota of the last day", "left today", "Latest breakouts",
        "What each source found, and what it cost", "search:slices", "feeds", "charts",
    ):  # fmt: skip
        assert words in stdout
    board = stdout.index("Leading by views per hour now")
    assert board < stdout.index("Velocity and figures derived from it: computed by Pleiades, not by YouTube")
    assert "cycle 5 of 5" in stderr
    assert "day 3 of 3" in stderr
    assert "Traceback" not in stderr
    assert "Error logging" not in stderr
    assert (hunting.processes(), hunting.files()) == ([], [])


async def test_hunts_a_catalogue_of_ones_own_and_keeps_its_data_where_it_is_told_to(
    demo: DemoFactory, synthetic: Catalogue, folder: Path
) -> None:
    kept = folder / "kept"
    options = ("--catalogue", str(synthetic.path), "--keep", str(kept), "--topic", "animation", "--json")
    hunting = await demo(*options, "--cycles", "2", "--days", "1")
    stdout, stderr = (stream.decode() for stream in await hunting.process.communicate())

    assert hunting.process.returncode == 0, stderr
    assert f"export PLEIADES_DATA_DIR={kept}" in stderr
    harvest = json.loads(stdout)
    assert (harvest["statistics"]["cycles"], harvest["statistics"]["outcome"]) == (2, "done")
    assert harvest["discoveries"]["videos"] == harvest["statistics"]["new"] + harvest["tracking"]["found"] > 0
    tracking = harvest["tracking"]
    assert tracking["samples"] - tracking["feed_samples"] == tracking["videos"] - tracking["missing"] > 0
    sources = {source["arm"]: source for source in harvest["sources"]}
    assert sum(source["new"] for source in sources.values()) == harvest["discoveries"]["videos"]
    assert {"search:slices", "feeds", "charts"} <= sources.keys()
    assert sum(source["growing"] for source in sources.values()) > 0
    speeds = [video["velocity"] for video in harvest["leaderboard"]["videos"]]
    assert speeds == sorted(speeds, reverse=True) != []
    assert harvest["videos"] == sorted(harvest["videos"], key=lambda video: -video["view_count"])
    assert all(synthetic.number(video["id"]) is not None for video in harvest["videos"])
    assert (hunting.processes(), hunting.files()) == ([], [kept])
    assert synthetic.path.exists()

    again = await demo(*options)
    _, told = await again.process.communicate()
    assert again.process.returncode == 2
    assert b"new or empty" in told
    finding = ("graph", "find", "--type", "video", "--json")
    found = await FORKS.run(*finding, environment=os.environ | {"PLEIADES_DATA_DIR": str(kept)})
    assert found.json["atoms"], found.stderr


@pytest.mark.parametrize(
    ("words", "how", "status"),
    [
        ("are starting", signal.SIGINT, 130),
        ("cycle 1 of", signal.SIGINT, 130),
        ("day 1 of", signal.SIGTERM, 143),
    ],
)
async def test_leaves_nothing_when_it_is_told_to_end(
    demo: DemoFactory, synthetic: Catalogue, words: str, how: signal.Signals, status: int
) -> None:
    cycles = "1" if words.startswith("day") else "100"
    hunting = await demo("--catalogue", str(synthetic.path), "--cycles", cycles, "--days", "100")
    await hunting.until(words)
    assert any(
        " emulator " in command and "--realism realistic" in command for command in hunting.processes()
    )
    assert hunting.files() != []
    hunting.process.send_signal(how)
    _, stderr = await hunting.process.communicate()

    assert hunting.process.returncode == status, stderr.decode()
    assert b"Traceback" not in stderr, stderr.decode()
    assert hunting.files() == []
    # A server that had only just been started ends by itself, once it has loaded and finds its starter gone.
    await hunting.until_alone()


async def test_a_killed_demo_takes_its_emulator_along(demo: DemoFactory, synthetic: Catalogue) -> None:
    killed = await demo("--catalogue", str(synthetic.path))
    await killed.until("The emulator serves")
    assert any(" emulator " in command for command in killed.processes())
    killed.process.kill()
    deadline_s = time.monotonic() + PATIENCE_S
    while any(" emulator " in command for command in killed.processes()):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)

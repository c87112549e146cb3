"""`maia demo --sites` shows how sites come to agree, and leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    # Started by root, the embedded server runs as another user, who must reach its folder.
    with TemporaryDirectory(prefix="pleiades-demo-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def start(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    # Whatever the user has configured stays out of it.
    theirs = {"DATABASE_URL": "postgresql://maia@127.0.0.1:1/precious", "REDIS_URL": "redis://127.0.0.1:1"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "demo", "--sites", *arguments,
        env=os.environ | theirs | {"TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def until_alone(folder: Path) -> None:
    async with asyncio.timeout(20):
        while any(str(folder) in " ".join(each.info["cmdline"] or ()) for each in _processes()):
            await asyncio.sleep(0.1)


def _processes() -> Iterator[psutil.Process]:
    return psutil.process_iter(["cmdline"])


async def test_sites_learn_apart_and_then_agree(folder: Path) -> None:
    process = await start(folder, "3", "--json")
    stdout, stderr = await process.communicate()
    assert (process.returncode, b"Traceback" in stderr) == (0, False), stderr.decode()
    story = json.loads(stdout)
    assert story["agree"] is True
    apart, divided, back, forgotten = story["steps"]
    assert "'restart worker' and 'split batch' are\nthose for a timeout." in apart["about"]

    def beliefs(step: dict, remedy: str) -> list[tuple[int, int] | None]:
        found = (state["beliefs"].get(remedy) for state in step["states"])
        return [each and (each["helped"], each["tried"]) for each in found]

    assert beliefs(apart, "slow down") == [(6, 6)] * 3
    assert beliefs(apart, "use proxy") == [(30, 32), None, None]
    assert [state["advice"] for state in apart["states"]] == ["split batch", "restart worker", "split batch"]
    assert beliefs(divided, "slow down") == [(12, 12), (12, 12), (6, 6)]
    assert [bool(each["failed"]) for each in divided["exchanges"]] == [False, True]
    assert beliefs(back, "slow down") == [(18, 18)] * 3
    assert beliefs(back, "use proxy") == [(30, 32)] * 3
    assert back["states"][0]["beliefs"]["slow down"]["confidence"] > 0.7
    assert [state["advice"] for state in back["states"]] == ["split batch"] * 3
    assert [state["patterns"] for state in forgotten["states"]] == [back["states"][0]["patterns"] - 1] * 3
    assert beliefs(back, "clear cache") == [(18, 108)] * 3
    assert beliefs(forgotten, "clear cache") == [None] * 3
    assert [*folder.iterdir()] == []
    await until_alone(folder)


async def test_ctrl_c_leaves_nothing(folder: Path) -> None:
    process = await start(folder, "3")
    assert process.stdout is not None
    assert process.stderr is not None
    while not (line := await process.stdout.readline()).startswith(b"1. "):
        assert line, (await process.stderr.read()).decode()
    process.send_signal(signal.SIGINT)
    _, stderr = await process.communicate()
    assert (process.returncode, b"Traceback" in stderr) == (130, False), stderr.decode()
    assert [*folder.iterdir()] == []
    await until_alone(folder)

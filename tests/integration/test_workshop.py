"""Demos' folders: thrown away at the end, or by the next demo."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from maia.commands.workshop import PREFIX, clear_abandoned, workshop

pytestmark = pytest.mark.integration

DEMO = """
import asyncio, os
from pathlib import Path
from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer
from maia.commands.workshop import workshop

async def serve(folder):
    async with EmbeddedServer.open(folder / "data", DatabaseSettings(), durable=False) as server:
        print(folder, server.pid, flush=True)
        await asyncio.Event().wait()

with workshop() as folder:
    asyncio.run(serve(folder))
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that the server's user can reach."""
    with tempfile.TemporaryDirectory(prefix="pleiades-workshop-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


@contextmanager
def demo() -> Iterator[tuple[subprocess.Popen[str], Path, psutil.Process]]:
    """A demo under way: its process, its folder, its server."""
    with subprocess.Popen([sys.executable, "-c", DEMO], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        try:
            yield process, Path(folder), psutil.Process(int(pid))
        finally:
            process.kill()


def test_the_next_demo_clears_up_after_one_that_was_killed(temporary: Path) -> None:
    with demo() as (process, folder, server):
        clear_abandoned()
        assert folder.exists(), "a demo under way was cleared away"
        process.kill()
        process.wait()
        assert (folder / "data" / "postgres").exists()

    with workshop() as next_folder:
        assert list(temporary.glob(f"{PREFIX}*")) == [next_folder]
        # Its parent is gone, and not every container has an init that collects orphans.
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_what_is_not_a_demo_s_is_left_alone(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "in-use.lock").touch()
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    (temporary / f"{PREFIX}strange").mkdir()
    clear_abandoned()
    assert {path.name for path in temporary.iterdir()} == {"elsewhere", f"{PREFIX}link", f"{PREFIX}strange"}
    assert (elsewhere / "in-use.lock").exists()

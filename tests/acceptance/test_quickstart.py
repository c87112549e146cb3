"""The lines of docs/quickstart.md, run by a shell as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quickstart.md"
PATIENCE_S = 90


@pytest.fixture
def place() -> Iterator[Path]:
    """A working directory that the embedded server's unprivileged user may pass, too."""
    with tempfile.TemporaryDirectory(prefix="pleiades-quickstart-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def blocks(title: str) -> list[str]:
    """The shell lines of a section, by block."""
    if not PAGE.exists():
        pytest.skip("docs/ is not part of what is installed")
    section = PAGE.read_text("utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def surroundings(environment: dict[str, str]) -> dict[str, str]:
    """A newcomer's environment: `maia` is on the path, and nothing is set."""
    theirs = {name: value for name, value in environment.items() if not name.startswith("PLEIADES_")}
    theirs.pop("DATABASE_URL")
    return theirs | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.timeout(300)
def test_practising_ends_with_videos_that_grow(environment: dict[str, str], place: Path) -> None:
    first, second = blocks("Practise with the emulator")
    assert second.splitlines()[-1] == "maia top"
    shell, theirs = shutil.which("sh") or "/bin/sh", surroundings(environment)
    with (place / "emulator.log").open("wb") as log:
        emulator = subprocess.Popen(
            [shell, "-e", "-c", first], cwd=place, env=theirs, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(place / "practice.env", emulator)
        practised = subprocess.run(
            [shell, "-e", "-c", second], cwd=place, env=theirs, capture_output=True, text=True, timeout=240
        )
        assert practised.returncode == 0, practised.stdout + practised.stderr
        assert "Traceback" not in practised.stderr
        top = subprocess.run(
            [shell, "-e", "-c", f"{second.partition('maia seed')[0]}maia top --json"],
            cwd=place, env=theirs, capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        assert len(growing(top)) == 10, practised.stdout + top
    finally:
        os.killpg(emulator.pid, signal.SIGTERM)
        emulator.wait(20)


def growing(top: str) -> list[str]:
    """The videos of the leaderboard that have a velocity."""
    return [video["id"] for video in json.loads(top)["videos"] if (video["velocity"] or 0) > 0]


def wait_for(file: Path, emulator: subprocess.Popen[bytes]) -> None:
    """Until the settings are written and the emulator, which writes them when it listens, still runs."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (file.exists() and file.stat().st_size):
        assert emulator.poll() is None, (file.parent / "emulator.log").read_text()
        assert time.monotonic() < deadline_s, "the emulator is not ready"
        time.sleep(0.1)

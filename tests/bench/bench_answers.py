"""Deleting a day of raw answers from the vault: the clean-up, against `rm -r` of the same files.

Both start from their own folder of small files with random names, written a moment before. Where the disk is
told of each freed file (ext4 mounted with `discard`) or is far away (NFS), nearly all of the time is waiting.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.maintainer.cleanup import clean_up
from maia.maintainer.duties import DutyContext
from tests.aged import PlainTaker
from tests.bench.figures import Figure
from tests.bench.servers import bed, settings_of
from tests.bench.stage import temporary_folder

PEER = "s, rm -r"
BODY = b"{" + b" " * 1500 + b"}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--answers", type=int, default=50_000, help="how many raw answers are deleted")


def options_of(parsed: argparse.Namespace) -> int:
    answers: int = parsed.answers
    return answers


def fill(folder: Path, answers: int) -> None:
    folder.mkdir(parents=True)
    for _ in range(answers):
        (folder / f"{secrets.token_urlsafe(8)}.json").write_bytes(BODY)
    os.sync()


async def figures(answers: int) -> AsyncIterator[Figure]:
    with temporary_folder() as folder:
        fill(folder / "theirs", answers)
        began_s = time.perf_counter()
        subprocess.run(["rm", "-r", str(folder / "theirs")], check=True)
        theirs_s = time.perf_counter() - began_s
        took_s, cpu_s = await clean(folder, answers)
    yield Figure(f"{answers:,} raw answers of one day", took_s, "s", theirs_s, PEER)
    yield Figure("  processor time of it", cpu_s, "s")


async def clean(data: Path, answers: int) -> tuple[float, float]:
    """Seconds that a clean-up takes, and those of its process's processor time."""
    async with bed() as place:
        url = await place.new_database()
        settings = settings_of(url, data_dir=data, maintainer={"retention": {"run_s": 3600}})
        async with Atlas.open(settings, clock=FixedClock(NOON)) as atlas:
            day = NOON.date() - timedelta(days=settings.maintainer.retention.metadata_days + 2)
            fill(settings.data_folder / f"vault/metadata/{day}", answers)
            context = DutyContext(atlas, PlainTaker(("cleanup",)))
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await clean_up(context, ("raw answers",))
            took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
            assert context.taken[0].plan.details["rows"] == answers
            assert await atlas.vault.list() == []
    return took_s, cpu_s

"""What the benches of agents stand on: a durable server, an emulator of its own process, and children."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from atlas.adapters.maia import MaiaDAO
from atlas.clock import SystemClock
from maia.emulator.synthesis import synthesize
from tests.bench.servers import Bed, bed, migrated

UNITS = 10_000_000
_WITHOUT_LIMITS = {
    "PLEIADES_QUOTA__SHARES__HUNTING__SEARCH": "1",
    "PLEIADES_QUOTA__SHARES__ARCHEOLOGY__SEARCH": "0",
    "PLEIADES_QUOTA__RESERVE": "0",
    "PLEIADES_QUOTA__PACING": "false",
    # Another program must not change what is measured.
    "PLEIADES_LEARNER__ADAPT_TO_HOST": "false",
}
_OURS = ("PLEIADES_", "PREFECT_", "DATABASE_URL", "YOUTUBE_", "VAULT_", "HF_", "REDIS_URL", "NODE_ID")


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that the server's unprivileged user may pass."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="pleiades-bench-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds in user and in system mode."""

    user_s: float
    system_s: float

    @classmethod
    def of(cls, pid: int) -> Cpu:
        """What a process and all its children, past and present, have spent so far."""
        process, times = psutil.Process(pid), []
        for each in (*process.children(recursive=True), process):
            # A child that has ended since is among its parent's past ones.
            with suppress(psutil.NoSuchProcess):
                times.append(each.cpu_times())
        return cls(
            sum(each.user + each.children_user for each in times),
            sum(each.system + each.children_system for each in times),
        )

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s


@dataclass(frozen=True, slots=True)
class Stage:
    """A running server and a running emulator, and the environment in which agents meet them."""

    bed: Bed
    catalogue: Path
    emulator_pid: int
    environment: Mapping[str, str]

    @property
    def server_pid(self) -> int:
        pid = self.bed.server.pid
        assert pid is not None, "the bench's server is gone"
        return pid

    async def seeded_database(self, seeds: Sequence[str]) -> str:
        """The URL of a fresh database of Pleiades with these topics in its queue."""
        url = await self.bed.new_database()
        async with migrated(url) as (database, settings):
            await MaiaDAO(database, clock=SystemClock(), settings=settings).seed(seeds)
        return url

    @property
    def emulator_url(self) -> str:
        return self.environment["PLEIADES_YOUTUBE__BASE_URL"]

    async def strike_with(self, *faults: str) -> None:
        """Let the emulator do wrong as `maia emulator --fault` says, from now on."""
        control = f"{self.emulator_url}/_emulator"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(control, json={"faults": [fault for fault in faults if fault]})

    async def run(self, module: str, side: str, settings: Mapping[str, str], job: Mapping[str, Any]) -> Run:
        """Let a child work, and account for it."""
        others = {"server": self.server_pid, "emulator": self.emulator_pid}
        environment = {**self.environment, **settings}
        measured = await child(module, side, environment=environment, job={**job, "others": others})
        spent = (Cpu(*measured["others"][name]) for name in others)
        return Run(measured, Cpu(measured["user_s"], measured["system_s"]), *spent)


@dataclass(frozen=True, slots=True)
class Run:
    """What a child measured, and the CPU of all three processes."""

    measured: dict[str, Any]
    client: Cpu
    server: Cpu
    emulator: Cpu

    @property
    def seconds(self) -> float:
        return float(self.measured["seconds"])

    @property
    def cpu_s(self) -> float:
        return (self.client + self.server + self.emulator).total_s

    def split(self, pages: float) -> str:
        """Milliseconds of CPU a page, in user and in system mode."""
        parts = (("client", self.client), ("server", self.server), ("emulator", self.emulator))
        return ", ".join(
            f"{name} {cpu.user_s / pages * 1000:.1f}+{cpu.system_s / pages * 1000:.1f}" for name, cpu in parts
        )


@asynccontextmanager
async def staged(videos: int, clock: datetime | None = None) -> AsyncIterator[Stage]:
    """A durable server, and an emulator over a synthesized catalogue whose quota nobody can spend.

    It is the time of `clock` there, by default the catalogue's end.
    """
    with temporary_folder() as folder:
        catalogue = folder / "catalogue"
        synthesize(catalogue, videos=videos, channels=videos // 10, days=60, seed=1)
        options = ["--project", f"lab:search={UNITS},stats={UNITS},general={UNITS}"]
        if clock is not None:
            options += ["--clock", clock.isoformat()]
        async with bed() as server, emulator(catalogue, *options) as (pid, environment):
            yield Stage(server, catalogue, pid, plain_environment() | environment | _WITHOUT_LIMITS)


@asynccontextmanager
async def emulator(catalogue: Path, *options: str) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """A running `maia emulator` with these options: its process, and the settings by which agents use it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "emulator",
        "--catalogue", str(catalogue), "--port", "0", "--json", *options,
        env=plain_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator ended with status {await process.wait()}")
        yield process.pid, json.loads(line)["environment"]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def plain_environment() -> dict[str, str]:
    """This process's environment without the settings of Pleiades and Prefect."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


async def child(module: str, *arguments: str, environment: Mapping[str, str], job: Mapping[str, Any]) -> Any:
    """Run a module of the bench in a process of its own, with a job as JSON; its result."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        env=dict(environment), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate(json.dumps(job).encode())
    if process.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with status {process.returncode}")
    return json.loads(output)

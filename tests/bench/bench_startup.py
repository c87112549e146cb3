"""How long commands take that do next to nothing: help, an idle cycle, a leaderboard, all of `maia up`.

Rounds alternate, and each command's best counts, as neighbours disturb them all.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer
from tests.bench.figures import Figure
from tests.bench.stage import plain_environment, temporary_folder

ROUNDS = 5
SLOW_ROUNDS = 3
FRESH_ROUNDS = 2
HELP_GOAL_S = 0.5
IDLE_GOAL_S = 1.5
QUICK_GOAL_S = 0.45
UP_GOAL_S = 25
_PREFECT_START_S = 120


@dataclass(frozen=True, slots=True)
class Command:
    """A Python process to time, and whether an idle hunter is expected to tell of itself."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    async def seconds(self) -> float:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, *self.arguments, env=dict(self.environment),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, complaints = await process.communicate()
        took_s = time.perf_counter() - began
        if process.returncode:
            told = complaints.decode(errors="replace")
            raise RuntimeError(f"{self.name} ended with status {process.returncode}: {told}")
        if "hunter" in self.arguments and json.loads(output)["outcome"] != "idle":
            raise RuntimeError(f"{self.name} was not idle: {output.decode()}")
        return took_s


async def figures() -> AsyncIterator[Figure]:
    with temporary_folder() as folder:
        environment = _environment(folder)
        python = Command("python -c pass", ("-c", "pass"), environment)
        prefect = Command("import prefect", ("-c", "import prefect"), environment)
        help_ = Command("maia --help", ("-m", "maia", "--help"), environment)
        direct = _hunter("idle maia hunter --direct", environment, "--direct")
        await direct.seconds()  # creates the server's cluster
        took = await _in_turns((python, help_, direct), ROUNDS)
        yield _figure(help_, took, python, HELP_GOAL_S)
        yield _figure(direct, took, python, IDLE_GOAL_S, "starts and stops the embedded server")
        async with EmbeddedServer.open(folder / "data", DatabaseSettings()):
            for figure in await _with_server(environment, python, prefect, folder):
                yield figure
        for figure in await _up(environment, prefect):
            yield figure


async def _with_server(
    environment: Mapping[str, str], python: Command, prefect: Command, folder: Path
) -> list[Figure]:
    """What an idle cycle takes while PostgreSQL runs: directly, and as a flow."""
    libraries = Command("import asyncpg, aiohttp", ("-c", "import asyncpg, aiohttp"), environment)
    direct = _hunter("idle maia hunter --direct, PostgreSQL running", environment, "--direct")
    tracker = Command(
        "idle maia tracker --direct, PostgreSQL running", ("-m", "maia", "tracker", "--direct"), environment
    )
    top = Command("maia top, PostgreSQL running", ("-m", "maia", "top"), environment)
    ephemeral = _hunter("idle maia hunter, Prefect server for the while, its home migrated", environment)
    fresh = [
        _hunter(
            "idle maia hunter, Prefect server for the while, its home new",
            {**environment, "PREFECT_HOME": home},
        )
        for home in (str(folder / f"home-{nth}") for nth in range(FRESH_ROUNDS))
    ]
    await ephemeral.seconds()  # migrates Prefect's own database
    async with _prefect_server(environment) as url:
        flow = _hunter("idle maia hunter, Prefect server running", {**environment, "PREFECT_API_URL": url})
        took = await _in_turns((python, prefect, flow), SLOW_ROUNDS)
    took |= await _in_turns((libraries, direct, tracker, top), ROUNDS)
    took |= await _in_turns((ephemeral,), SLOW_ROUNDS)
    took[fresh[0].name] = [await one.seconds() for one in fresh]
    return [
        *(_figure(quick, took, libraries, QUICK_GOAL_S) for quick in (direct, tracker, top)),
        _figure(flow, took, prefect),
        _figure(ephemeral, took, prefect),
        _figure(fresh[0], took, prefect),
    ]


async def _up(environment: Mapping[str, str], prefect: Command) -> list[Figure]:
    """From its start until `maia up` is ready, for the first time and later."""
    names = ("maia up until it is ready, the first time", "maia up until it is ready, the second time")
    took = {name: [await _seconds_until_up(environment)] for name in names}
    took[prefect.name] = [await prefect.seconds()]
    commands = [Command(name, (), environment) for name in names]
    return [
        _figure(commands[0], took, prefect, note="migrates Prefect's database"),
        _figure(commands[1], took, prefect, UP_GOAL_S),
    ]


async def _seconds_until_up(environment: Mapping[str, str]) -> float:
    names = ("PORT", "PLEIADES_PREFECT__PORT", "PLEIADES_METRICS__PORT")
    ports = {name: str(_free_port()) for name in names}
    began_s = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "up", "--json", env={**environment, **ports},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if json.loads(line)["event"] == "up":
                return time.perf_counter() - began_s
        raise RuntimeError("maia up ended before it was ready")
    finally:
        process.terminate()
        await process.communicate()


def _environment(folder: Path) -> dict[str, str]:
    """Only in the original order has a hunter nothing to ask without topics."""
    return plain_environment() | {
        "PLEIADES_HUNTER__STRATEGY": "specification",
        "PLEIADES_DATA_DIR": str(folder / "data"),
        "YOUTUBE_API_KEY_POOL_JSON": '["bench-key"]',
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def _hunter(name: str, environment: Mapping[str, str], *options: str) -> Command:
    return Command(name, ("-m", "maia", "hunter", "--json", *options), environment)


async def _in_turns(commands: Sequence[Command], rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {command.name: [] for command in commands}
    for _ in range(rounds):
        for command in commands:
            took[command.name].append(await command.seconds())
    return took


def _figure(
    command: Command,
    took: Mapping[str, list[float]],
    peer: Command,
    goal_s: float | None = None,
    note: str = "",
) -> Figure:
    """Seconds of the best round; beside it in words, as the goal is not relative, what the peer took."""
    ours, theirs = took[command.name], took[peer.name]
    beside = f"median {median(ours):.2f} s; {peer.name}: {min(theirs):.2f} s"
    return Figure(
        command.name,
        min(ours),
        "s",
        goal=goal_s,
        at_most=True,
        note=f"{note}; {beside}" if note else beside,
    )


@asynccontextmanager
async def _prefect_server(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """A Prefect server that answers; yields the URL of its API."""
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui",
        env=dict(environment), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PREFECT_START_S):
            while not await _listens(port):
                await asyncio.sleep(0.2)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True

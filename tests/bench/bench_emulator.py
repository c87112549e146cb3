"""How fast the emulator answers: it must not be what a bench of others measures.

It runs as a process of its own over a synthesized catalogue of 20,000 videos; the load comes from this one,
over raw sockets. Answers are counted by the server's CPU seconds, as one core of its own would give them.
The floor is a bare aiohttp server that sends the same bytes from memory.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlsplit

from maia.emulator.catalogue import Catalogue
from maia.emulator.realism import PRESETS
from maia.emulator.synthesis import synthesize
from maia.emulator.world import World
from tests.bench.figures import Figure
from tests.bench.servers import cpu_s
from tests.bench.stage import plain_environment, temporary_folder

VIDEOS = 20_000
WORLD_VIDEOS, WORLD_GOAL_S = 200_000, 60
IN_PROCESS_GOAL_MS = 3
ANSWERS_GOAL = 1_000
SEARCH_GOAL_MS = 10
ROUNDS, ROUND_S, CONNECTIONS = 3, 2.0, 8
GZIP = {"Accept-Encoding": "gzip", "User-Agent": "bench (gzip)"}
SNIPPET = "snippet(publishedAt,channelId,title,channelTitle,tags,categoryId)"
FIELDS = f"items(id,{SNIPPET},statistics,contentDetails/duration)"


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own."""

    host: str
    port: int
    pid: int

    async def answers_per_cpu_s(self, paths: Sequence[str], headers: dict[str, str]) -> float:
        """Answers in a while of load on several connections, by the server's CPU seconds."""
        before, until = cpu_s(self.pid), time.perf_counter() + ROUND_S
        shares = [paths[number::CONNECTIONS] for number in range(CONNECTIONS)]
        answered = await asyncio.gather(*(self._ask(share, headers, until) for share in shares))
        return sum(answered) / (cpu_s(self.pid) - before)

    async def _ask(self, paths: Sequence[str], headers: dict[str, str], until: float) -> int:
        answered = 0
        async with self.connection() as (reader, writer):
            while time.perf_counter() < until:
                await ask(reader, writer, paths[answered % len(paths)], headers)
                answered += 1
        return answered

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: dict[str, str]
) -> bytes:
    """One answer's body over an open connection."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nX-Goog-Api-Key: demo-1\r\n{lines}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200 "):
        raise RuntimeError(f"{path[:80]} was answered by {head[:80]!r}")
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[Server]:
    """A server whose first line of output is JSON with its url."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, env=plain_environment(), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"{arguments[0]} did not start")
        address = urlsplit(json.loads(line)["url"])
        assert address.hostname is not None
        assert address.port is not None
        yield Server(address.hostname, address.port, process.pid)
    finally:
        process.terminate()
        await process.wait()


async def figures() -> AsyncIterator[Figure]:
    with temporary_folder() as folder:
        path = folder / "bench.catalogue"
        began = time.process_time()
        synthesize(path, videos=VIDEOS, channels=1000, days=30, seed=1)
        yield Figure("synthesize 20,000 videos", time.process_time() - began, "CPU s")
        with Catalogue.open(path) as catalogue:
            ids = list(catalogue.ids)
            tags = sorted({tag for n in range(0, VIDEOS, 50) for tag in catalogue.video(n).tags})
        limits = "demo:search=1000000000,stats=1000000000,general=1000000000"
        emulator = (
            "maia",
            "emulator",
            "--catalogue",
            str(path),
            "--port",
            "0",
            "--project",
            limits,
            "--json",
        )
        async with started(*emulator) as server:
            async for figure in _videos(server, ids):
                yield figure
            yield await _search(server, tags)
        for figure in _world(folder):
            yield figure


def _world(folder: Path) -> Iterator[Figure]:
    """What a simulation waits for: making a mixed world, and asking it in its own process."""
    path = folder / "mixed.catalogue"
    began = time.process_time()
    synthesize(path, videos=WORLD_VIDEOS, channels=50_000, days=14, seed=1, world="mixed")
    spent = time.process_time() - began
    yield Figure(
        f"synthesize {WORLD_VIDEOS:,} videos, mixed", spent, "CPU s", goal=WORLD_GOAL_S, at_most=True
    )
    began = time.process_time()
    with Catalogue.open(path) as catalogue:
        yield Figure("open them", time.process_time() - began, "CPU s")
        end = catalogue.span[1].timestamp()
        for name, realism in PRESETS.items():
            world, taken = World(catalogue, realism), list[float]()
            for minute in range(100):
                at = end - 60 * minute
                began = time.perf_counter()
                world.search(at, order="viewCount", published_after=at - 86400)
                taken.append((time.perf_counter() - began) * 1000)
            what = f"search of a day's 13,000 videos by views, {name}"
            yield Figure(what, median(taken), "ms", goal=IN_PROCESS_GOAL_MS, at_most=True)


async def _videos(server: Server, ids: Sequence[str]) -> AsyncIterator[Figure]:
    chosen = random.Random(1)
    batches = [",".join(chosen.sample(ids, 50)) for _ in range(800)]
    whole = [f"/youtube/v3/videos?part=snippet,statistics,contentDetails&id={batch}" for batch in batches]
    masked = [f"{path}&fields={FIELDS}" for path in whole]
    async with server.connection() as (reader, writer):
        sizes = [len(await ask(reader, writer, path, {})) for path in whole[:20]]
    size = round(median(sizes))
    async with started("tests.bench.bench_emulator", str(size)) as floor:
        floors = [await floor.answers_per_cpu_s(whole, {}) for _ in range(ROUNDS)]
    cases: tuple[tuple[str, Sequence[str], dict[str, str]], ...] = (
        ("videos.list of 50 ids", whole, {}),
        ("the same, gzipped", whole, GZIP),
        ("with fields", masked, {}),
    )
    for what, paths, headers in cases:
        await server.answers_per_cpu_s(paths, headers)
        rounds = [await server.answers_per_cpu_s(paths, headers) for _ in range(ROUNDS)]
        yield Figure(what, max(rounds), "answers/CPU s", goal=ANSWERS_GOAL)
        if paths is whole and not headers:
            note = f"the floor sends the same {size / 1024:.0f} KiB from memory"
            yield Figure(
                "the same against a bare server", max(rounds), "answers/CPU s", max(floors), note=note
            )


async def _search(server: Server, tags: Sequence[str]) -> Figure:
    """The median over distinct queries, each asked for the first time, one after another."""
    taken: list[float] = []
    async with server.connection() as (reader, writer):
        for tag in random.Random(2).sample(tags, min(300, len(tags))):
            path = f"/youtube/v3/search?part=snippet&type=video&maxResults=50&q={quote(tag)}"
            began = time.perf_counter()
            await ask(reader, writer, path, {})
            taken.append((time.perf_counter() - began) * 1000)
    return Figure("search over 20,000 videos, median", median(taken), "ms", goal=SEARCH_GOAL_MS, at_most=True)


async def _serve_floor(size: int) -> None:
    """Answer everything with the same bytes, as bare as aiohttp can."""
    from aiohttp import web

    body = b"x" * size

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_floor(int(sys.argv[1])))

"""Files of the graph: saving and loading 250,000 nodes and 1.2 million links, beside JSON; the cache.

Each job runs in a process of its own, which maps the arrays of the graph from a cache and says what CPU time,
time and memory it took. The speed is that of the arrays, uncompressed. All loading verifies. JSON is the form
for people, a line for each atom, written and read by orjson. As that has to make and take apart an object for
each atom, what orjson alone takes is told too: for objects that are already there, or that nobody looks at.
Graphs are made by a seed; each node has two numbers as values, and every third a text.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from maia.graph import files
from maia.graph.arrays import GraphArrays
from maia.graph.files import GraphSnapshot
from maia.graph.merging import NUMBERS, difference, update
from maia.graph.values import Values
from maia.graphing.cache import ColumnCache
from maia.graphing.disk import load, write_file
from tests.bench.figures import Figure
from tests.bench.stage import temporary_folder
from tests.sized_graphs import made_graph, made_values

NODES, LINKS = 250_000, 1_200_000
CHANGED = 0.01
ROUNDS = 3
GOAL = 10.0
NOW: Final = datetime(2026, 11, 30, tzinfo=UTC)
_AT_ONCE: Final = 20_000
_FORGET_THE_PEAK: Final = "5"


@dataclass(frozen=True, slots=True)
class Took:
    """What a job took."""

    cpu_s: float
    wall_s: float
    more_mb: float
    """Memory at the peak, beyond what was taken before."""


async def figures() -> AsyncIterator[Figure]:
    graph = made_graph(NODES, LINKS)
    mb = (_bytes_of(graph) + _bytes_of_values(made_values(graph))) / 1e6
    with temporary_folder() as folder:
        await _cache(folder).store(graph, "", NOW)
        jobs = {name: await _best(name, folder) for name in _JOBS}
        size, as_json = ((folder / name).stat().st_size / 1e6 for name in ("g.plgraph", "g.jsonl"))
        increment = (folder / "i.plgraph").stat().st_size / 1e6
        yield Figure("file", size, "MB", as_json, "JSON", at_most=True, note=f"the arrays have {mb:,.0f} MB")
        for what in ("save", "load"):
            ours, peer, alone = jobs[what], jobs[f"{what} JSON"], jobs[f"{what} JSON alone"]
            yield Figure(
                f"{what}: speed by CPU time", mb / ours.cpu_s, "MB/s", mb / peer.cpu_s, "JSON", goal=GOAL,
                note=f"orjson alone {mb / alone.cpu_s:,.0f} MB/s",
            )  # fmt: skip
            note = "with fsync" if what == "save" else "verified"
            yield Figure(
                f"{what}: speed by the clock", mb / ours.wall_s, "MB/s", mb / peer.wall_s, "JSON", note=note
            )
            yield Figure(
                f"{what}: memory at the peak, beyond that before", ours.more_mb, "MB", peer.more_mb, "JSON",
                at_most=True, note=f"the arrays, which become mapped or are made, are {mb:,.0f} MB of it",
            )  # fmt: skip
        yield Figure(
            "increment of 1 % of the atoms", increment, "MB", size, "whole", at_most=True,
            note=f"in {jobs['increment'].cpu_s:,.2f} s",
        )  # fmt: skip
        yield Figure("bring arrays up to date, 1 % of the atoms", jobs["update"].cpu_s, "s of CPU")
        yield Figure("map the arrays from the cache", jobs["map"].cpu_s * 1e3, "ms of CPU")
        yield Figure("map the arrays and verify them", mb / jobs["map, verified"].cpu_s, "MB/s")


def _bytes_of(graph: GraphArrays) -> int:
    columns = [
        getattr(graph, name) for name in ("handles", "type_of", "outgoing", "outgoing_starts", *NUMBERS)
    ]
    return sum(each.nbytes for each in (*columns, graph.names.starts, graph.names.data))


def _bytes_of_values(values: Values) -> int:
    columns = (values.handles, values.starts, values.key_of, values.kind_of, values.data_starts, values.data)
    return sum(each.nbytes for each in columns)


def _cache(folder: Path) -> ColumnCache:
    return ColumnCache(folder / "cache", 1 << 40)


async def _best(name: str, folder: Path) -> Took:
    """What the quickest of some rounds took; JSON has only one, because it takes long."""
    rounds = []
    for _ in range(1 if "JSON" in name else ROUNDS):
        command = (sys.executable, "-m", __name__, name, str(folder))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the job {name!r} failed")
        rounds.append(Took(**json.loads(output)))
    return min(rounds, key=lambda took: took.cpu_s)


# In a process for each job


async def _graph(folder: Path) -> GraphArrays:
    cached = await _cache(folder).load()
    assert cached is not None
    return cached.graph


def _changed(graph: GraphArrays) -> GraphArrays:
    """The same graph with other numbers of some atoms."""
    is_changed = np.random.default_rng(2).random(len(graph)) < CHANGED
    return replace(graph, sti=np.where(is_changed, graph.sti + np.float32(1), graph.sti))


async def _save(folder: Path, name: str) -> Callable[[], Awaitable[object]]:
    graph = await _graph(folder)
    snapshot = GraphSnapshot(graph, NOW, NOW, values=made_values(graph))
    return partial(write_file, folder / name, snapshot)


async def _load(folder: Path, name: str) -> Callable[[], Awaitable[object]]:
    return partial(load, folder / name)


async def _dump_alone(folder: Path) -> Callable[[], Awaitable[object]]:
    """The objects of some atoms, again and again, until there were as many as there are atoms."""
    with (folder / "g.jsonl").open("rb") as lines:
        objects = [orjson.loads(line) for line in islice(lines, 1, _AT_ONCE)]

    async def dump() -> None:
        for _ in range((NODES + LINKS) // len(objects)):
            for each in objects:
                orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE)

    return dump


async def _parse_alone(folder: Path) -> Callable[[], Awaitable[object]]:
    async def parse() -> None:
        with (folder / "g.jsonl").open("rb") as lines:
            for line in lines:
                orjson.loads(line)

    return parse


async def _increment(folder: Path) -> Callable[[], Awaitable[object]]:
    base, now = await _graph(folder), _changed(await _graph(folder))
    values = made_values(base)

    async def take() -> None:
        snapshots = (GraphSnapshot(each, NOW, NOW, values=values) for each in (base, now))
        await write_file(folder / "i.plgraph", files.difference(next(snapshots), "0" * 64, next(snapshots)))

    return take


async def _update(folder: Path) -> Callable[[], Awaitable[object]]:
    base = await _graph(folder)
    changed, removed = difference(base, _changed(base))

    async def bring_up_to_date() -> None:
        update(base, changed, removed)

    return bring_up_to_date


async def _map(folder: Path, *, verify: bool = False) -> Callable[[], Awaitable[object]]:
    return partial(_cache(folder).load, verify=verify)


_JOBS: Final[dict[str, Callable[[Path], Awaitable[Callable[[], Awaitable[object]]]]]] = {
    "save": partial(_save, name="g.plgraph"),
    "load": partial(_load, name="g.plgraph"),
    "save JSON": partial(_save, name="g.jsonl"),
    "load JSON": partial(_load, name="g.jsonl"),
    "save JSON alone": _dump_alone,
    "load JSON alone": _parse_alone,
    "increment": _increment,
    "update": _update,
    "map": _map,
    "map, verified": partial(_map, verify=True),
}


def _peak_mb() -> float:
    """Of this program: what `getrusage` has is at first that of the one that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


async def _told(name: str, folder: Path) -> dict[str, Any]:
    work = await _JOBS[name](folder)
    Path("/proc/self/clear_refs").write_text(_FORGET_THE_PEAK)
    before_mb, cpu_s, wall_s = _peak_mb(), time.process_time(), time.perf_counter()
    await work()
    took = {"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - wall_s}
    return took | {"more_mb": _peak_mb() - before_mb}


if __name__ == "__main__":
    json.dump(asyncio.run(_told(sys.argv[1], Path(sys.argv[2]))), sys.stdout)

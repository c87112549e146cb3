"""Files of the graph on this machine: whole or not there, whatever kills the process or fills the disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from maia.graph.files import GraphSnapshot
from maia.graphing.cache import ColumnCache
from maia.graphing.disk import GraphNotLoaded, GraphNotSaved, load, load_whole, save, saved_in, write_file
from tests.graph_arrays import contents, graph_of
from tests.sized_graphs import made_graph

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
GRAPH = made_graph(400, 1600)
OTHER = replace(GRAPH, sti=GRAPH.sti + np.float32(1))
FULL = GraphSnapshot(GRAPH, NOW, NOW)
KILLS = 5
SAVER = """
import asyncio, os, random, signal, sys, time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from maia.graph.files import GraphSnapshot
from maia.graphing.disk import load_whole, save, saved_in
from tests.graph_arrays import contents
from tests.sized_graphs import made_graph

folder, kills, choose = Path(sys.argv[1]), int(sys.argv[2]), random.Random(7)
start = datetime(2026, 11, 29, tzinfo=UTC)
snapshot = GraphSnapshot(made_graph(4_000, 16_000), start, start)
expected = contents(snapshot.graph)

async def keep_saving(now, told):
    while True:
        now += timedelta(seconds=1)
        await save(folder, replace(snapshot, saved_at=now), kept=2, as_json=choose.random() < 0.1)
        os.write(told, b".")

last = start
began = time.monotonic()
asyncio.run(save(folder, snapshot, kept=2))
usual_s = time.monotonic() - began
for _ in range(kills):
    hears, tells = os.pipe()
    if not (child := os.fork()):
        asyncio.run(keep_saving(last, tells))
    os.close(tells)
    os.read(hears, 1)
    time.sleep(choose.uniform(0, 1.5) * usual_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    path, found = asyncio.run(load_whole(folder))
    assert contents(found.graph) == expected
    assert path == saved_in(folder)[-1], "one is damaged"
    assert found.saved_at > last, "what was told is not there"
    last = found.saved_at
print(sum(path.name.startswith(".") for path in folder.iterdir()), "were being written")
"""


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_snapshots_are_saved_loaded_and_rotated(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "graphs"
    with pytest.raises(GraphNotLoaded, match="cannot be read: No such file"):
        await load_whole(folder)
    with pytest.raises(GraphNotLoaded, match="there is no snapshot of the graph in"):
        await load_whole(tmp_path)
    for hours in range(4):
        at = NOW + timedelta(hours=hours)
        saved = await save(folder, replace(FULL, saved_at=at), kept=2, as_json=hours != 2)
        assert saved.path.stat().st_size == saved.bytes
    assert saved.deleted == 2
    last = "graph-20261129T150000.000000Z"
    assert names(folder) == ["graph-20261129T140000.000000Z.plgraph", f"{last}.jsonl", f"{last}.plgraph"]
    (folder / "notes.txt").write_text("mine")
    abandoned, recent = (folder / f".{last}.plgraph.incoming-{digit * 32}" for digit in "ab")
    for path in (abandoned, recent):
        path.touch()
    os.utime(abandoned, (0, 0))
    await save(folder, replace(FULL, saved_at=NOW + timedelta(hours=9)), kept=1)
    assert names(folder) == [recent.name, "graph-20261129T210000.000000Z.plgraph", "notes.txt"]
    # What is saved after a clock was ahead isn't taken for an old one.
    saved = await save(folder, replace(FULL, saved_at=NOW), kept=1)
    assert saved.path.name == "graph-20261129T210000.000001Z.plgraph"
    path, found = await load_whole(folder)
    assert path == saved.path == saved_in(folder)[-1]
    assert contents(found.graph) == contents(GRAPH)
    as_json = tmp_path / "export.jsonl"
    await write_file(as_json, FULL)
    assert contents((await load(as_json)).graph) == contents(GRAPH)


async def test_a_damaged_snapshot_is_named_and_the_one_before_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = (await save(tmp_path, FULL, kept=9)).path
    second = (await save(tmp_path, replace(FULL, saved_at=NOW + timedelta(hours=1)), kept=9)).path
    body = second.read_bytes()
    second.write_bytes(body[:-40])
    assert (await load_whole(tmp_path))[0] == first
    assert f"{second} cannot be loaded: the snapshot is cut off in its block attended_us/0" in caplog.text
    first.write_bytes(b"")
    with pytest.raises(GraphNotLoaded, match=r"attended_us/0; .*this is no snapshot of a graph"):
        await load_whole(tmp_path)
    with pytest.raises(GraphNotLoaded, match=r"cannot be read: No such file"):
        await load(tmp_path / "gone.plgraph")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"positive": np.nan}, "less than no evidence, or more"),
        ({"positive": np.inf, "count": np.inf}, "less than no evidence, or more"),
        ({"positive": 1e9}, "less than no evidence, or more"),
        ({"neg": -1}, "less than no evidence"),
        ({"weight": -np.inf}, "a weight is infinite"),
        ({"sources": 0}, "nobody, or an unknown source"),
        ({"sources": 16}, "nobody, or an unknown source"),
        ({"seen_us": 2**62}, "at no time of the calendar"),
        ({"attended_us": 2**62}, "at no time of the calendar"),
    ],
)
async def test_numbers_that_nobody_could_read_are_not_loaded(
    changes: dict[str, float], told: str, tmp_path: Path
) -> None:
    graph, path = made_graph(20, 20), tmp_path / "graph.plgraph"
    for name, value in changes.items():
        column = getattr(graph, name).copy()
        column[7] = value
        graph = replace(graph, **{name: column})
    await write_file(path, GraphSnapshot(graph, NOW, NOW))
    with pytest.raises(GraphNotLoaded, match=told):
        await load_whole(path)


async def test_a_full_disk_leaves_the_last_snapshot_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "graph.plgraph"
    await write_file(path, FULL)
    before = path.read_bytes()
    with files_of_at_most(len(before) // 2), pytest.raises(GraphNotSaved, match="free some space, or save"):
        await write_file(path, replace(FULL, graph=OTHER))
    assert (names(tmp_path), path.read_bytes()) == ([path.name], before)
    with pytest.raises(GraphNotSaved, match="there is no folder"):
        await write_file(tmp_path / "gone" / "graph.plgraph", FULL)
    with pytest.raises(GraphNotSaved, match="cannot be made: File exists"):
        await save(path, FULL, kept=1)
    odd = replace(FULL, graph=replace(GRAPH, sti=GRAPH.sti + np.float32(np.inf)))
    with pytest.raises(GraphNotSaved, match="the column sti holds what JSON cannot"):
        await write_file(tmp_path / "graph.jsonl", odd)
    assert names(tmp_path) == [path.name]


def test_killed_while_saving_the_last_snapshot_is_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SAVER, str(tmp_path), str(KILLS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The copy of the arrays


async def test_the_copy_is_mapped_replaced_and_bounded(tmp_path: Path) -> None:
    cache = ColumnCache(tmp_path / "cache", 1 << 30)
    assert await cache.load() is None
    assert await cache.store(GRAPH, "db 7", NOW)
    cached = await cache.load(verify=True)
    assert cached is not None
    assert (cached.cursor, cached.at, contents(cached.graph)) == ("db 7", NOW, contents(GRAPH))
    assert isinstance(cached.graph.handles.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cached.graph.sti[0] = 1
    assert await cache.store(OTHER, "db 8", NOW)
    assert len(names(cache.folder)) == 2
    # What was mapped stays readable.
    assert contents(cached.graph) == contents(GRAPH)
    assert not await replace(cache, most_bytes=100).store(GRAPH, "db 9", NOW)
    assert await cache.load() is None
    assert names(cache.folder) == []
    assert await cache.store(graph_of({}), "db 9", NOW)
    empty = await cache.load(verify=True)
    assert empty is not None
    assert contents(empty.graph) == contents(graph_of({}))
    abandoned = cache.folder / f"columns-{'0' * 32}"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    await cache.clear()
    assert names(cache.folder) == []


async def test_a_damaged_copy_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ColumnCache(tmp_path, 1 << 30)
    await cache.store(GRAPH, "db 7", NOW)
    [column] = tmp_path.glob("columns-*/positive.npy")
    manifest = tmp_path / "manifest.json"
    whole, told = column.read_bytes(), manifest.read_bytes()
    damages = {
        "cut off, or too long": (column, whole[:-1]),
        "positive is damaged": (column, whole[:-1] + b"\1"),
        "another type or length": (column, whole.replace(b"<f8", b"<i8")),
        "manifest is damaged": (manifest, told.replace(b"db 7", b"db 8")),
        "magic string is not correct": (column, b""),
    }
    for words, (path, body) in damages.items():
        path.write_bytes(body)
        assert await cache.load(verify=True) is None
        assert words in caplog.text or words.startswith("magic")
        column.write_bytes(whole)
        manifest.write_bytes(told)
    assert await cache.load(verify=True) is not None
    column.unlink()
    assert await cache.load() is None
    assert "its columns are not there" in caplog.text


async def test_a_copy_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    cache = ColumnCache(tmp_path, 1 << 30)
    await cache.store(GRAPH, "db 7", NOW)
    before = names(tmp_path)
    with files_of_at_most(10_000), pytest.raises(OSError, match="File too large"):
        await cache.store(OTHER, "db 8", NOW)
    cached = await cache.load(verify=True)
    assert cached is not None
    assert (names(tmp_path), cached.cursor) == (before, "db 7")

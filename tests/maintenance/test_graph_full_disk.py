"""A disk that is full while the graph is saved: the last snapshot stays, and people are told what to do.

It mounts a small file system in memory, which takes root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from maia.graph.files import GraphSnapshot
from maia.graphing.cache import ColumnCache
from maia.graphing.disk import GraphNotSaved, load_whole, save, saved_in
from tests.graph_arrays import contents
from tests.sized_graphs import made_graph

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root"),
]

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    options = ["-t", "tmpfs", "-o", "size=4m"]
    subprocess.run(["mount", *options, "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def test_saving_until_the_disk_is_full(small_disk: Path) -> None:
    snapshot = GraphSnapshot(made_graph(5_000, 20_000), NOW, NOW)
    saved = 0
    with pytest.raises(GraphNotSaved, match="No space left on device: free some space, or save to another"):
        for hours in range(100):
            await save(small_disk, replace(snapshot, saved_at=NOW + timedelta(hours=hours)), kept=100)
            saved += 1
    assert saved > 1
    paths = saved_in(small_disk)
    assert sorted(small_disk.iterdir()) == paths
    path, found = await load_whole(small_disk)
    assert path == paths[-1]
    assert contents(found.graph) == contents(snapshot.graph)

    cache = ColumnCache(small_disk / "cache", 1 << 30)
    with pytest.raises(OSError, match="No space left"):
        await cache.store(snapshot.graph, "db 7", NOW)
    assert not [*cache.folder.iterdir()]
    for path in paths:
        path.unlink()
    await save(small_disk, replace(snapshot, saved_at=NOW + timedelta(days=9)), kept=1, as_json=False)
    assert len(saved_in(small_disk)) == 1

"""The knowledge graph beside rustworkx, NetworkX and AtomSpace: 250,000 nodes and 1.2 million links.

In memory, each library has a process of its own, which reads the same links and says what CPU time and memory
each job took. Triangles are those of a graph of links at random, as videos and their tags have none. What
AtomSpace does in a second, in memory, was published in the diary of github.com/opencog/benchmark for 6
November 2018; ours goes to PostgreSQL, which keeps it. Its floor is a COPY of the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from atlas.adapters.graph import AT_ONCE, GraphDAO, Link, Node
from atlas.composition import Atlas
from maia.graph.adjacency import Adjacency, Weighting, adjacency
from maia.graph.arrays import GraphArrays
from maia.graph.attention import conductance, propagate_attention
from maia.graph.clustering import cluster
from maia.graph.embedding import build_embeddings
from maia.graph.structure import hops, pagerank, triangles
from maia.graphing.reading import read_arrays
from tests.bench import graphs
from tests.bench.figures import Figure
from tests.bench.servers import bed, migrated
from tests.bench.stage import temporary_folder

ADD_NODE, ADD_LINK, INCOMING_SET = 361_000, 76_000, 2_530_000
"""Published for AtomSpace: operations a second."""
PUBLISHED: Final = "AtomSpace in memory"
PEERS: Final = ("rustworkx", "networkx")
_ASKED, _FAR_ASKED, _ADDED = 10_000, 300, 20_000


@dataclass(frozen=True, slots=True)
class Options:
    """How large the graph is, as a part of the standard one, and whether peers find communities, too."""

    scale: float = 1.0
    communities: bool = False


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graph-scale", type=float, default=1.0, help="part of the standard size")
    parser.add_argument(
        "--graph-communities", action="store_true", help="let NetworkX find communities; takes many minutes"
    )


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.graph_scale, parsed.graph_communities)


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    arrays = graphs.make(graphs.STANDARD.scaled(options.scale))
    with temporary_folder() as folder:
        _write(folder, arrays)
        ours = await _apart("ours", folder, options)
        peers = {name: await _apart(name, folder, options) for name in PEERS}
    for job, took in ours.items():
        named = {name: found[job] for name, found in peers.items() if job in found}
        unit = "MB" if job == _MEMORY else "ms of CPU"
        if not named:
            yield Figure(job, took, unit)
        for name, peer in named.items():
            yield Figure(job, took, unit, peer, name, at_most=True)
    async for figure in _stored(arrays):
        yield figure


# In memory

_Job: TypeAlias = Callable[[Path, float, str], dict[str, float]]
_MEMORY: Final = "memory of the loaded graph"
_INCOMING: Final = f"neighbours of {_ASKED:,} atoms"
_FAR: Final = f"2 hops from {_FAR_ASKED:,} atoms"


def _write(folder: Path, arrays: GraphArrays) -> None:
    links = np.flatnonzero(np.diff(arrays.outgoing_starts) == 2)
    begins = arrays.outgoing_starts[links]
    pairs = np.stack([arrays.outgoing[begins], arrays.outgoing[begins + 1]], axis=1)
    used, flat = np.unique(pairs, return_inverse=True)
    np.save(folder / "pairs.npy", flat.reshape(-1, 2))
    draw = np.random.default_rng(1)
    np.save(folder / "random.npy", draw.integers(0, len(used), (len(pairs), 2)))
    np.save(folder / "asked.npy", draw.choice(len(used), min(_ASKED, len(used)), replace=False))


async def _apart(name: str, folder: Path, options: Options) -> dict[str, float]:
    command = (
        sys.executable,
        "-m",
        __name__,
        name,
        str(folder),
        str(options.scale),
        str(options.communities),
    )
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process of {name} failed")
    found: dict[str, float] = json.loads(output)
    return found


class _Watch:
    """Notes the CPU milliseconds of each job."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    @contextmanager
    def __call__(self, job: str) -> Iterator[None]:
        before = time.process_time()
        yield
        self.took[job] = (time.process_time() - before) * 1e3

    @contextmanager
    def loading(self) -> Iterator[None]:
        before = _peak_mb()
        with self("load, links from arrays"):
            yield
        self.took[_MEMORY] = _peak_mb() - before


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ours(folder: Path, scale: float, _: str) -> dict[str, float]:
    watch = _Watch()
    arrays = graphs.make(graphs.STANDARD.scaled(scale))
    with watch.loading():
        graph = adjacency(arrays, weighting=Weighting.ONE)
    asked = np.load(folder / "asked.npy") % len(graph)
    with watch(_INCOMING):
        for row in asked.tolist():
            graph.neighbours(row)
    with watch(_FAR):
        for row in asked[:_FAR_ASKED].tolist():
            hops(graph, [row], 2)
    with watch("PageRank"):
        pagerank(graph)
    conducting = conductance(arrays)
    stimulus = np.ones((len(arrays), 1), np.float32)
    with watch("one step of spreading"):
        conducting.T @ stimulus
    with watch("spreading until it rests"):
        propagate_attention(conducting, stimulus)
    with watch("embeddings"):
        build_embeddings(arrays)
    with watch("communities"):
        cluster(graph)
    random = _random_graph(arrays, np.load(folder / "random.npy"))
    with watch("triangles"):
        triangles(random)
    return watch.took


def _random_graph(arrays: GraphArrays, pairs: NDArray[np.int64]) -> Adjacency:
    """A graph of as many links, between any of its vertices."""
    like = adjacency(arrays)
    ones = np.ones(len(pairs), np.float32)
    size = len(like)
    both = sparse.coo_array((ones, (pairs[:, 0] % size, pairs[:, 1] % size)), shape=(size, size)).tocsr()
    matrix = sparse.csr_array(both + both.T)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return Adjacency(matrix, like.places, directed=False)


def _rustworkx(folder: Path, *_: float | str) -> dict[str, float]:
    import rustworkx

    watch, pairs, asked = _Watch(), np.load(folder / "pairs.npy"), np.load(folder / "asked.npy")
    graph = rustworkx.PyGraph(multigraph=False)
    with watch.loading():
        graph.add_nodes_from(range(int(pairs.max()) + 1))
        graph.add_edges_from_no_data([*map(tuple, pairs.tolist())])
    with watch(_INCOMING):
        for node in asked.tolist():
            graph.neighbors(node)
    with watch(_FAR):
        for node in asked[:_FAR_ASKED].tolist():
            near = graph.neighbors(node)
            {far for each in near for far in graph.neighbors(each)}
    directed = graph.to_directed()
    with watch("PageRank"):
        rustworkx.pagerank(directed, tol=1e-6)
    random = rustworkx.PyGraph(multigraph=False)
    random.add_nodes_from(range(int(pairs.max()) + 1))
    random.add_edges_from_no_data([tuple(pair) for pair in np.load(folder / "random.npy").tolist()])
    with watch("triangles"):
        rustworkx.transitivity(random)
    return watch.took


def _networkx(folder: Path, _: float, communities: str) -> dict[str, float]:
    import networkx as nx

    watch, pairs, asked = _Watch(), np.load(folder / "pairs.npy"), np.load(folder / "asked.npy")
    graph = nx.Graph()
    with watch.loading():
        graph.add_nodes_from(range(int(pairs.max()) + 1))
        graph.add_edges_from(pairs.tolist())
    with watch(_INCOMING):
        for node in asked.tolist():
            list(graph.neighbors(node))
    with watch(_FAR):
        for node in asked[:_FAR_ASKED].tolist():
            {far for each in graph.neighbors(node) for far in graph.neighbors(each)}
    with watch("PageRank"):
        nx.pagerank(graph, tol=1e-6)
    if communities == str(True):
        with watch("communities"):
            nx.community.louvain_communities(graph, seed=0)
    random = nx.Graph()
    random.add_nodes_from(range(int(pairs.max()) + 1))
    random.add_edges_from(np.load(folder / "random.npy").tolist())
    with watch("triangles"):
        nx.triangles(random)
    return watch.took


# In PostgreSQL


async def _stored(arrays: GraphArrays) -> AsyncIterator[Figure]:
    async with bed() as server:
        url = await server.new_database()
        async with migrated(url) as (_, settings), Atlas.open(settings) as atlas:
            async with _timed() as loading:
                await graphs.load(atlas, arrays)
            yield Figure("stored: load by COPY", len(arrays) / loading.seconds, "atoms/s")
            async with _timed() as reading:
                await read_arrays(atlas)
            yield Figure("stored: read all into arrays", len(arrays) / reading.seconds, "atoms/s")
            async for figure in _one_by_one(atlas, arrays):
                yield figure


async def _one_by_one(atlas: Atlas, arrays: GraphArrays) -> AsyncIterator[Figure]:
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    draw = np.random.default_rng(2)
    videos, tags = (draw.choice(arrays.of_type(each), _ADDED) for each in ("video", "tag"))
    names = [Node("concept", f"new {nth}") for nth in range(_ADDED)]
    links = [
        Link("related_to", (arrays.handle(video), arrays.handle(tag)))
        for video, tag in zip(videos.tolist(), tags.tolist(), strict=True)
    ]
    for what, atoms, published in (("nodes", names, ADD_NODE), ("links", links, ADD_LINK)):
        async with _timed() as adding:
            await dao.add(atoms)
        yield Figure(
            f"stored: add {what}, {AT_ONCE:,} a statement", _ADDED / adding.seconds, "a second", published,
            PUBLISHED,
        )  # fmt: skip
    handles = [arrays.handle(place) for place in videos[:AT_ONCE].tolist()]
    async with _timed() as getting:
        found = await dao.get(handles)
    yield Figure(f"stored: get {AT_ONCE:,} atoms", len(found) / getting.seconds, "atoms/s")
    async with _timed() as asking:
        for handle in handles[:_FAR_ASKED]:
            await dao.incoming(handle)
    rate = _FAR_ASKED / asking.seconds
    yield Figure("stored: incoming set of one atom", rate, "a second", INCOMING_SET, PUBLISHED)
    async with _timed() as walking:
        for handle in handles[:_FAR_ASKED]:
            near = await dao.neighbours([handle])
            await dao.neighbours([each.handle for each in near])
    yield Figure("stored: 2 hops from one atom", walking.seconds / _FAR_ASKED * 1e3, "ms")


@dataclass(slots=True)
class _Timed:
    seconds: float = 0.0


@asynccontextmanager
async def _timed() -> AsyncIterator[_Timed]:
    timed, before = _Timed(), time.perf_counter()
    yield timed
    timed.seconds = time.perf_counter() - before


_JOBS: Final[dict[str, _Job]] = {
    "ours": _ours,
    "rustworkx": _rustworkx,
    "networkx": _networkx,
}

if __name__ == "__main__":
    print(json.dumps(_JOBS[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])))

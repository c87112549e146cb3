"""The knowledge graph beside rustworkx, NetworkX and AtomSpace: 250,000 nodes and 1.2 million links.

In memory, each library has a process of its own with one thread, which reads the same links and says what
CPU time and memory each job took, and what it found, which must be the same. Triangles are those of a graph
of links at random, as videos and their tags have none. Peers save their graph, which has only numbers, by
pickle; ours has names, truth values and attention, too. What AtomSpace does in a second, in memory, was
published in the diary of github.com/opencog/benchmark for 6 November 2018; ours goes to PostgreSQL, which
keeps it. Its floor is a COPY or INSERT of the same rows into tables with the same indexes. Its rates are by
the CPU time of client and server together.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import pickle
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from atlas.adapters.graph import AT_ONCE, GraphDAO, Link, Node, Sources
from atlas.composition import Atlas
from maia.graph.adjacency import Adjacency, Weighting, adjacency
from maia.graph.arrays import GraphArrays
from maia.graph.attention import conductance, propagate_attention
from maia.graph.clustering import cluster
from maia.graph.embedding import build_embeddings
from maia.graph.files import GraphSnapshot
from maia.graph.structure import hops, pagerank, triangles
from maia.graphing.disk import load, write_file
from maia.graphing.reading import read_arrays
from tests.bench import graphs
from tests.bench.figures import Figure
from tests.bench.servers import bed, settings_of
from tests.bench.stage import Cpu, temporary_folder

ADD_NODE, ADD_LINK, INCOMING_SET = 361_000, 76_000, 2_530_000
"""Published for AtomSpace: operations a second."""
PUBLISHED: Final = "AtomSpace in memory"
PEERS: Final = ("rustworkx", "networkx")
_ASKED, _FAR_ASKED, _ADDED = 10_000, 300, 20_000
_TABLES: Final = ("atoms", "incoming")
_RATE, _ATOMS_RATE = "a second of CPU", "atoms a second of CPU"


@dataclass(frozen=True, slots=True)
class Options:
    """How large a part of the standard graph it is, and whether peers find communities, too."""

    scale: float = 1.0
    communities: bool = False
    part: str = "both"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graph-scale", type=float, default=1.0, help="part of the standard size")
    parser.add_argument(
        "--graph-communities", action="store_true", help="let NetworkX find communities; takes many minutes"
    )
    parser.add_argument(
        "--graph-part", choices=("memory", "stored", "both"), default="both", help="what is measured"
    )


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.graph_scale, parsed.graph_communities, parsed.graph_part)


async def figures(options: Options = Options()) -> AsyncIterator[Figure]:
    arrays = graphs.make(graphs.STANDARD.scaled(options.scale))
    with temporary_folder() as folder:
        if options.part != "stored":
            async for figure in _in_memory(arrays, folder, options):
                yield figure
        if options.part != "memory":
            async for figure in _stored(arrays, folder):
                yield figure


async def _in_memory(arrays: GraphArrays, folder: Path, options: Options) -> AsyncIterator[Figure]:
    _write(folder, arrays)
    ours = await _apart("ours", folder, options)
    peers = {name: await _apart(name, folder, options) for name in PEERS}
    for name, peer in peers.items():
        _check_equal(name, ours, peer)
    for job, took in ours["took"].items():
        named = {name: found["took"][job] for name, found in peers.items() if job in found["took"]}
        unit = "MB" if job in (_MEMORY, _PEAK) else "ms of CPU"
        if not named:
            yield Figure(job, took, unit)
        for name, took_by_peer in named.items():
            yield Figure(job, took, unit, took_by_peer, name, at_most=True)


def _check_equal(name: str, ours: _Told, peer: _Told) -> None:
    for what, found in peer["found"].items():
        if not np.isclose(found, ours["found"][what], rtol=_ALIKE):
            raise RuntimeError(f"{what}: {name} found {found}, ours {ours['found'][what]}")


# In memory

_Told: TypeAlias = dict[str, dict[str, float]]
_Job: TypeAlias = Callable[[Path, float, str], _Told]
_LOAD: Final = "load, links from arrays"
_MEMORY: Final = "memory of the loaded graph"
_PEAK: Final = "memory at the peak of loading"
_INCOMING: Final = f"neighbours of {_ASKED:,} atoms"
_FAR: Final = f"2 hops from {_FAR_ASKED:,} atoms"
_TOLERANCE: Final = 1e-6
_ALIKE: Final = 1e-4
"""PageRanks are only as equal as the tolerance makes them."""
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
_FORGET_THE_PEAK: Final = "5"


def _write(folder: Path, arrays: GraphArrays) -> None:
    arity = np.diff(arrays.outgoing_starts)
    begins = arrays.outgoing_starts[np.flatnonzero(arity == 2)]
    pairs = np.stack([arrays.outgoing[begins], arrays.outgoing[begins + 1]], axis=1)
    nodes = np.flatnonzero(arity == 0)
    np.save(folder / "pairs.npy", np.searchsorted(nodes, pairs))
    draw = np.random.default_rng(1)
    random = draw.integers(0, len(nodes), (len(pairs), 2))
    np.save(folder / "random.npy", random[random[:, 0] != random[:, 1]])
    np.save(folder / "asked.npy", draw.choice(len(nodes), min(_ASKED, len(nodes)), replace=False))
    np.save(folder / "size.npy", np.array(len(nodes)))


async def _apart(name: str, folder: Path, options: Options) -> _Told:
    arguments = (name, str(folder), str(options.scale), str(options.communities))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, *arguments, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **_ONE_THREAD},
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process of {name} failed")
    told: _Told = json.loads(output)
    return told


class _Watch:
    """Notes the CPU milliseconds of each job, and what it found."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}
        self.found: dict[str, float] = {}

    @contextmanager
    def __call__(self, job: str) -> Iterator[None]:
        before = time.process_time()
        yield
        self.took[job] = (time.process_time() - before) * 1e3

    @contextmanager
    def loading(self) -> Iterator[None]:
        before = _memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text(_FORGET_THE_PEAK)
        with self(_LOAD):
            yield
        self.took[_PEAK] = _memory_mb("VmHWM") - before
        self.took[_MEMORY] = _memory_mb("VmRSS") - before

    def told(self) -> _Told:
        return {"took": self.took, "found": self.found}


def _memory_mb(of: str) -> float:
    gc.collect()
    if of == "VmRSS":
        # What was freed goes back to the system.
        ctypes.CDLL(None).malloc_trim(0)
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if of in line]
    return int(line.split()[1]) / 1024


def _ours(folder: Path, scale: float, _: str) -> _Told:
    watch = _Watch()
    arrays = graphs.make(graphs.STANDARD.scaled(scale))
    with watch.loading():
        graph = adjacency(arrays, weighting=Weighting.ONE)
    asked = np.load(folder / "asked.npy").tolist()
    with watch(_INCOMING):
        watch.found[_INCOMING] = sum(len(graph.neighbours(row)) for row in asked)
    with watch(_FAR):
        watch.found[_FAR] = sum(int((hops(graph, [row], 2) >= 0).sum()) for row in asked[:_FAR_ASKED])
    with watch("PageRank"):
        watch.found["PageRank"] = float(pagerank(graph, tolerance=_TOLERANCE).max())
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
    random = _random_graph(graph, np.load(folder / "random.npy"))
    with watch("triangles"):
        closed = triangles(random)
    watch.found["triangles"] = _transitivity(closed, np.diff(random.matrix.indptr).astype(np.int64))
    snapshot, path = GraphSnapshot(arrays, graphs.AT, graphs.AT), folder / "ours.plgraph"
    with watch("save to a file"):
        asyncio.run(write_file(path, snapshot))
    with watch("load from a file"):
        asyncio.run(load(path))
    return watch.told()


def _random_graph(like: Adjacency, pairs: NDArray[np.int64]) -> Adjacency:
    """A graph of as many links, between any of its vertices."""
    ones, shape = np.ones(len(pairs), np.float32), like.matrix.shape
    both = sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=shape).tocsr()
    matrix = sparse.csr_array(both + both.T)
    return Adjacency(matrix, like.places, directed=False)


def _transitivity(triangles_of: NDArray[Any], degrees: NDArray[Any]) -> float:
    """The share of pairs of neighbours that are linked themselves."""
    return float(triangles_of.sum() / (degrees * (degrees - 1) / 2).sum())


def _rustworkx(folder: Path, *_: float | str) -> _Told:
    import rustworkx

    watch, asked = _Watch(), np.load(folder / "asked.npy").tolist()
    pairs, size = np.load(folder / "pairs.npy"), int(np.load(folder / "size.npy"))
    with watch.loading():
        graph = rustworkx.PyGraph(multigraph=False)
        graph.add_nodes_from(range(size))
        graph.add_edges_from_no_data([*map(tuple, pairs.tolist())])
    with watch(_INCOMING):
        watch.found[_INCOMING] = sum(len(graph.neighbors(node)) for node in asked)
    with watch(_FAR):
        watch.found[_FAR] = sum(len(_within_two(node, graph.neighbors)) for node in asked[:_FAR_ASKED])
    directed = graph.to_directed()
    with watch("PageRank"):
        ranks = rustworkx.pagerank(directed, tol=_TOLERANCE / size, max_iter=200)
    watch.found["PageRank"] = max(ranks.values())
    del directed
    random = rustworkx.PyGraph(multigraph=False)
    random.add_nodes_from(range(size))
    random.add_edges_from_no_data([tuple(pair) for pair in np.load(folder / "random.npy").tolist()])
    with watch("triangles"):
        watch.found["triangles"] = rustworkx.transitivity(random)
    _pickle(watch, graph, folder / "rustworkx")
    return watch.told()


def _networkx(folder: Path, _: float, communities: str) -> _Told:
    import networkx as nx

    watch, asked = _Watch(), np.load(folder / "asked.npy").tolist()
    pairs, size = np.load(folder / "pairs.npy"), int(np.load(folder / "size.npy"))
    with watch.loading():
        graph = nx.Graph()
        graph.add_nodes_from(range(size))
        graph.add_edges_from(pairs.tolist())
    with watch(_INCOMING):
        watch.found[_INCOMING] = sum(len(list(graph.neighbors(node))) for node in asked)
    with watch(_FAR):
        watch.found[_FAR] = sum(len(_within_two(node, graph.neighbors)) for node in asked[:_FAR_ASKED])
    with watch("PageRank"):
        ranks = nx.pagerank(graph, tol=_TOLERANCE / size, max_iter=200)
    watch.found["PageRank"] = max(ranks.values())
    degrees = dict(graph.degree)
    with watch("one step of spreading"):
        {node: sum(1 / degrees[each] for each in near) for node, near in graph.adjacency()}
    if communities == str(True):
        with watch("communities"):
            nx.community.louvain_communities(graph, seed=0)
    random = nx.Graph()
    random.add_nodes_from(range(size))
    random.add_edges_from(np.load(folder / "random.npy").tolist())
    with watch("triangles"):
        closed = nx.triangles(random)
    each = np.array([*closed.values()]), np.array([degree for _, degree in random.degree])
    watch.found["triangles"] = _transitivity(*each)
    _pickle(watch, graph, folder / "networkx")
    return watch.told()


def _within_two(node: int, neighbours: Callable[[int], Iterable[int]]) -> set[int]:
    near = {node, *neighbours(node)}
    return near.union(*(neighbours(each) for each in near))


def _pickle(watch: _Watch, graph: object, path: Path) -> None:
    with watch("save to a file"), path.open("wb") as file:
        pickle.dump(graph, file)
    with watch("load from a file"), path.open("rb") as file:
        pickle.load(file)


# In PostgreSQL


async def _stored(arrays: GraphArrays, folder: Path) -> AsyncIterator[Figure]:
    async with bed() as server:
        url, pid = await server.new_database(), server.server.pid
        assert pid is not None
        async with Atlas.open(settings_of(url)) as atlas, server.connection(url) as sql:
            with _spending(pid) as loading:
                await graphs.load(atlas, arrays)
            with _spending(pid) as unloading:
                for table in _TABLES:
                    output = str(folder / table)
                    await sql.copy_from_query(f"SELECT * FROM {table}", output=output, format="binary")
            with _spending(pid) as copying:
                for table in _TABLES:
                    await sql.execute(f"CREATE TABLE {table}_again (LIKE {table} INCLUDING ALL)")
                    await sql.copy_to_table(f"{table}_again", source=str(folder / table), format="binary")
            await sql.execute("VACUUM ANALYZE")
            with _spending(pid) as reading:
                await read_arrays(atlas)
            for what, took, floor in (
                ("load", loading, copying),
                ("read all into arrays", reading, unloading),
            ):
                rate, least = len(arrays) / took.cpu_s, len(arrays) / floor.cpu_s
                note = f"{took.seconds:,.0f} s by the clock"
                yield Figure(f"stored: {what}", rate, _ATOMS_RATE, least, "COPY", note=note)
            async for figure in _one_by_one(atlas, arrays, sql, pid):
                yield figure


async def _one_by_one(atlas: Atlas, arrays: GraphArrays, sql: Any, pid: int) -> AsyncIterator[Figure]:
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    draw = np.random.default_rng(2)
    videos, tags = (draw.choice(arrays.of_type(each), _ADDED) for each in ("video", "tag"))
    names = [Node("concept", f"new {nth}") for nth in range(_ADDED)]
    links = [
        Link("related_to", (arrays.handle(video), arrays.handle(tag)))
        for video, tag in zip(videos.tolist(), tags.tolist(), strict=True)
    ]
    for what, atoms, type_, published in (
        ("nodes", names, "concept", ADD_NODE), ("links", links, "related_to", ADD_LINK),
    ):  # fmt: skip
        job = f"stored: add {what}, {AT_ONCE:,} a statement"
        with _spending(pid) as adding:
            await dao.add(atoms, Sources.FACTS)
        for table in _TABLES:
            rows = f"SELECT * FROM {table} WHERE type = '{type_}'"
            await sql.execute(f"CREATE TEMP TABLE {table}_{type_} AS {rows}")
        with _spending(pid) as inserting:
            for table in _TABLES:
                await sql.execute(f"INSERT INTO {table}_again SELECT * FROM {table}_{type_}")
        rate, least = _ADDED / adding.cpu_s, _ADDED / inserting.cpu_s
        yield Figure(job, rate, _RATE, least, "INSERT", note=f"{_ADDED / adding.seconds:,.0f} by the clock")
        yield Figure(job, rate, _RATE, published, PUBLISHED)
    named = [Node("concept", f"said {nth}") for nth in range(_ADDED)]
    with _spending(pid) as saying:
        await dao.add(named, Sources.PEOPLE)
    note = "what people say, other sites are told of"
    yield Figure("stored: add nodes as said by people", _ADDED / saying.cpu_s, _RATE, note=note)
    handles = [arrays.handle(place) for place in videos.tolist()]
    with _spending(pid) as getting:
        found = [await dao.get(handles[begin : begin + AT_ONCE]) for begin in range(0, _ADDED, AT_ONCE)]
    yield Figure(f"stored: get {AT_ONCE:,} atoms", sum(map(len, found)) / getting.cpu_s, _ATOMS_RATE)
    asked = handles[:AT_ONCE]
    with _spending(pid) as asking:
        for handle in asked:
            await dao.incoming(handle)
    bare = await sql.prepare("SELECT link FROM incoming WHERE space = 0 AND target = $1")
    with _spending(pid) as reading:
        for handle in asked:
            await bare.fetch(handle)
    rate, least = len(asked) / asking.cpu_s, len(asked) / reading.cpu_s
    yield Figure("stored: incoming set of one atom", rate, _RATE, least, "SELECT of handles")
    yield Figure("stored: incoming set of one atom", rate, _RATE, INCOMING_SET, PUBLISHED)
    with _spending(pid) as walking:
        for handle in handles[:_FAR_ASKED]:
            near = await dao.neighbours([handle])
            await dao.neighbours([each.handle for each in near])
    yield Figure("stored: 2 hops from one atom", walking.cpu_s / _FAR_ASKED * 1e3, "ms of CPU")


@dataclass(slots=True)
class _Spent:
    """What something took by the clock, and of the CPU of this process and of the server."""

    seconds: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def _spending(server: int) -> Iterator[_Spent]:
    spent, began_s = _Spent(), time.perf_counter()
    before_s = time.process_time() + Cpu.of(server).total_s
    yield spent
    spent.seconds = time.perf_counter() - began_s
    # The clock of the server's processes ticks a hundred times a second.
    spent.cpu_s = max(time.process_time() + Cpu.of(server).total_s - before_s, 0.01)


_JOBS: Final[dict[str, _Job]] = {
    "ours": _ours,
    "rustworkx": _rustworkx,
    "networkx": _networkx,
}

if __name__ == "__main__":
    print(json.dumps(_JOBS[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])))

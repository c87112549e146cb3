"""What is alike, of made-up graphs of 20,000 and 100,000 videos: how much is found, and what that takes.

Recall is the share of the ten nearest by exact comparison that are found, where others of the same cosine are
as good. The vectors are stored as deriving does it. Where the server has pgvector, its HNSW index over the
same vectors of videos is measured, too, as it comes (m 16, ef_construction 64, ef_search 40).

CPU is that of all threads of this process and the server's. Queries are timed by the clock of the wall, one
after another.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import numpy as np

from atlas.adapters.graph_views import GraphViewsDAO
from atlas.composition import Atlas
from maia.graph.arrays import Float32s, GraphArrays, Int64s
from maia.graph.embedded_nodes import LEAST_COSINE, EmbeddedNodes, learn_embedding, likenesses
from maia.graph.embedding import DIMENSIONS
from maia.graph.nearest import all_nearest_in_cells, cells_for, learn_centres, nearest
from maia.graphing.deriving import derive
from maia.graphing.similar import nearest_atoms
from maia.graphing.vectors import embed
from tests.bench.bench_graph_feeding import Meter, opened
from tests.bench.figures import Figure
from tests.bench.graphs import Size, load, make
from tests.bench.servers import Bed, bed

SIZES: Final = (20_000, 100_000)
ASKED: Final = 1_000
TIMED: Final = 100
NEAREST: Final = 10
GOAL: Final = 0.97
_SAME: Final = 1e-3
"""Cosines of vectors of 16 bits that differ by less are equal."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--neighbour-videos", type=int, nargs="+", default=list(SIZES))


def options_of(parsed: argparse.Namespace) -> Sequence[int]:
    return parsed.neighbour_videos  # type: ignore[no-any-return]


async def figures(options: Sequence[int] | None = None) -> AsyncIterator[Figure]:
    async with bed() as server:
        for videos in options or SIZES:
            async for figure in _measured(server, videos):
                yield figure


async def _measured(server: Bed, videos: int) -> AsyncIterator[Figure]:
    facts = make(Size().scaled(videos / Size().videos))
    begun = time.process_time()
    nodes = learn_embedding(facts)
    yield Figure(f"{videos:,} videos: CPU to learn and embed all nodes", time.process_time() - begun, "s")
    begun = time.process_time()
    links = len(likenesses(facts, nodes, most=NEAREST, linked=videos))
    yield Figure(f"{videos:,} videos: CPU to find all links `similar`", time.process_time() - begun, "s")
    yield Figure(f"{videos:,} videos: links `similar`", links, "")
    rows = nodes.of_type(facts, "video")
    asked = np.sort(np.random.default_rng(0).permutation(len(rows))[:ASKED])
    begun = time.process_time()
    exact = nearest(nodes.vectors[rows], nodes.vectors[rows[asked]], NEAREST, but=asked)
    exact_s = (time.process_time() - begun) * len(rows) / len(asked)
    for figure in _in_memory(videos, nodes, rows, asked, exact.cosines, exact_s):
        yield figure
    url = await server.new_database()
    async with opened(url) as atlas, server.connection(url) as sql:
        await load(atlas, facts)
        async for figure in _stored(atlas, sql, facts, nodes, rows[asked], exact.cosines):
            yield figure
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Figure(f"{videos:,} videos: peak memory of this process", peak, "MiB")


def _in_memory(
    videos: int, nodes: EmbeddedNodes, rows: Int64s, asked: Int64s, exact: Float32s, exact_s: float
) -> list[Figure]:
    begun = time.process_time()
    vectors = nodes.vectors[rows]
    centres = learn_centres(vectors, cells_for(len(rows)))
    learnt_s = time.process_time() - begun
    begun = time.process_time()
    found = all_nearest_in_cells(vectors, nodes.cells[rows], nodes.centres["video"], NEAREST)
    spent = time.process_time() - begun
    recall = _recall(found.cosines[asked], exact)
    return [
        Figure(f"{videos:,} videos: CPU to learn {len(centres)} cells", learnt_s, "s"),
        Figure(f"{videos:,} videos: CPU for the nearest of all", spent, "s", exact_s, "exact, from 1,000"),
        Figure(f"{videos:,} videos: recall of these", recall, "", goal=GOAL),
    ]


def _recall(found: Float32s, exact: Float32s) -> float:
    """Of those that there are; both have the largest cosines first."""
    least = np.where(exact > 0, exact, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    return float((found >= least - _SAME).sum() / (exact > 0).sum())


async def _stored(
    atlas: Atlas, sql: Any, facts: GraphArrays, nodes: EmbeddedNodes, asked: Int64s, exact: Float32s
) -> AsyncIterator[Figure]:
    meter, of = Meter(sql), f"{len(facts.of_type('video')):,} videos"
    for what in ("learn, embed and store all nodes", "embed all again, nothing changed"):
        begun = time.perf_counter()
        spent = await meter.cpu_s(lambda: embed(atlas, facts))
        yield Figure(
            f"{of}: CPU to {what}", spent, "s", note=f"{time.perf_counter() - begun:.0f} s by the wall"
        )
    await sql.execute("VACUUM ANALYZE atom_embeddings, embedding_features, embedding_cells")
    count, size, basis = await sql.fetchrow(
        "SELECT (SELECT count(*) FROM atom_embeddings), pg_total_relation_size('atom_embeddings'), "
        "pg_total_relation_size('embedding_features')"
    )
    yield Figure(f"{of}: {count:,} vectors, with indexes", size / 2**20, "MiB")
    yield Figure(f"{of}: the basis", basis / 2**20, "MiB")
    dao = GraphViewsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    handles = [facts.handle(int(nodes.places[row])) for row in asked[:TIMED].tolist()]
    atoms = {each.handle: each for each in await dao.get(handles)}

    async def ask(handle: UUID) -> list[float]:
        return [cosine for _, cosine in await nearest_atoms(dao, atoms[handle], NEAREST)]

    await ask(handles[0])
    spent = await meter.cpu_s(lambda: _asked(ask, handles))
    yield Figure(f"{of}: CPU of a query", spent * 1e3 / len(handles), "ms")
    found, ms = await _asked(ask, handles)
    yield Figure(f"{of}: a query, p50", ms[len(ms) // 2], "ms")
    yield Figure(f"{of}: a query, p95", ms[len(ms) * 95 // 100], "ms")
    near = np.where(exact[:TIMED] >= LEAST_COSINE, exact[:TIMED], 0)
    yield Figure(f"{of}: recall of queries", _recall(found, near), "", goal=GOAL)
    begun = time.perf_counter()
    spent = await meter.cpu_s(lambda: derive(atlas))
    note = f"{time.perf_counter() - begun:.0f} s by the wall"
    yield Figure(f"{of}: CPU to derive all, on that basis", spent, "s", note=note)
    begun = time.perf_counter()
    spent = await meter.cpu_s(lambda: derive(atlas))
    note = f"{time.perf_counter() - begun:.0f} s by the wall"
    yield Figure(f"{of}: CPU to derive all, nothing changed", spent, "s", note=note)
    async for figure in _pgvector(sql, meter, of, handles, near):
        yield figure


async def _asked(
    ask: Callable[[UUID], Awaitable[list[float]]], handles: Sequence[UUID]
) -> tuple[Float32s, list[float]]:
    """The cosines of the nearest of each, and in ascending order how many milliseconds the answers took."""
    found, ms = np.zeros((len(handles), NEAREST), np.float32), []
    for nth, handle in enumerate(handles):
        begun = time.perf_counter()
        cosines = await ask(handle)
        ms.append((time.perf_counter() - begun) * 1e3)
        found[nth, : len(cosines)] = cosines
    return found, sorted(ms)


async def _pgvector(
    sql: Any, meter: Meter, of: str, handles: Sequence[UUID], near: Float32s
) -> AsyncIterator[Figure]:
    try:
        await sql.execute("CREATE EXTENSION vector")
    except asyncpg.PostgresError:
        return
    rows = await sql.fetch("SELECT handle, vector FROM atom_embeddings WHERE type = 'video'")
    await sql.execute(f"CREATE TABLE likes (handle uuid PRIMARY KEY, vector halfvec({DIMENSIONS}))")
    for begin in range(0, len(rows), 2_000):
        some = rows[begin : begin + 2_000]
        texts = [str(np.frombuffer(row["vector"], "<f2").astype(float).tolist()) for row in some]
        await sql.execute(
            "INSERT INTO likes SELECT n.handle, n.vector::halfvec "
            "FROM unnest($1::uuid[], $2::text[]) AS n (handle, vector)",
            [row["handle"] for row in some],
            texts,
        )
    await sql.execute("SET maintenance_work_mem = '512MB'")
    index = "CREATE INDEX likes_near ON likes USING hnsw (vector halfvec_cosine_ops)"
    begun = time.perf_counter()
    spent = await meter.cpu_s(lambda: sql.execute(index))
    wall = time.perf_counter() - begun
    yield Figure(f"{of}: CPU of pgvector's index", spent, "s", note=f"{wall:.0f} s by the wall")
    size = await sql.fetchval("SELECT pg_relation_size('likes_near')")
    yield Figure(f"{of}: pgvector's index", size / 2**20, "MiB")

    async def ask(handle: UUID) -> list[float]:
        found = await sql.fetch(
            "SELECT handle, 1 - (vector <=> $2) AS cosine FROM likes ORDER BY vector <=> $2 LIMIT $1",
            NEAREST + 1,
            asked[handle],
        )
        return [row["cosine"] for row in found if row["handle"] != handle][:NEAREST]

    await sql.set_type_codec("halfvec", encoder=str, decoder=str)
    asked = {row["handle"]: row["vector"] for row in await sql.fetch(
        "SELECT handle, vector FROM likes WHERE handle = ANY ($1::uuid[])", handles
    )}  # fmt: skip
    found, ms = await _asked(ask, handles)
    yield Figure(f"{of}: a query of pgvector, p50", ms[len(ms) // 2], "ms")
    yield Figure(f"{of}: recall of pgvector", _recall(found, near), "")

"""Similar videos and communities, on recorded videos with tags (CC0).

Of videos that the embedding has not seen, how many of the ten nearest are of the same channel, and of the
same category? Compared with tag Jaccard, TF-IDF cosine of tags, and the ten most viewed, which all see the
tags of the same videos. A video of several rows is one video, with all its tags. Held-out videos that have no
tag are not asked for, as no method could tell; they are counted.

What a variant sees: all see the tags of all videos. "ours" is also given who uploaded the videos that it
chooses from, but never who uploaded the video asked for; "tags alone" is given no channel at all. No variant
is ever given a category. What the product does, where the channel of a new video is known, is told apart.

Two splits, both by video. `later`: of the videos of November half are held out, and the others and those of
September can be chosen; `mixed`: a quarter of all videos is held out. Settings were compared on splits of the
videos of September alone.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import sparse

from atlas.queries import topic_key
from maia.graph.adjacency import Adjacency, adjacency
from maia.graph.arrays import Int32s
from maia.graph.clustering import adjusted_rand, cluster, modularity, mutual_information, telling
from maia.graph.embedding import RECIPE, Recipe, build_embeddings, project
from maia.graph.nearest import nearest
from tests.bench.figures import Figure
from tests.graph_arrays import NamedGraph, named_graph

TRIED = 314
"""Configurations compared with this one on September's videos: of weighting, smoothing, words and rank; then
of what could be done about the nearest: fusion with tags, words, titles and channels as they are, expansion
of what is asked, diffusion, hubs, the spread within channels, and parts of words. None of the latter brought
a third of a per cent more of both shares on both splits. With five configurations, the splits `later` and
`mixed` were looked at on the way, but none was chosen by them."""
NEIGHBOURS = 10
SEPTEMBER, NOVEMBER = "kaggle_USvideos_2017-09-13_10-22", "kaggle_USvideos_2017-11-14_28"
GOAL = 1.1

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Options:
    """Where the recordings are, how many seeded splits of each kind to measure, and seeds of communities."""

    folder: Path
    splits: int = 5
    seeds: int = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("graph_similar")
    group.add_argument(
        "--recordings", type=Path, default=_folder(), help="folder of kaggle_USvideos_*.csv.gz"
    )
    group.add_argument("--similar-splits", type=int, default=5, help="seeded splits of each kind")
    group.add_argument("--community-seeds", type=int, default=10, help="seeds for communities")


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(parsed.recordings, parsed.similar_splits, parsed.community_seeds)


def _folder() -> Path:
    shared = os.environ.get("PLEIADES_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[3] / "shared"
    return root / "data" / "youtube"


@dataclass(frozen=True)
class Video:
    """A recorded video; views are the most that were recorded."""

    id: str
    channel: str
    category: str
    tags: frozenset[str]
    views: int


def recorded(path: Path) -> dict[str, Video]:
    """The videos of a file, rows of the same video merged."""
    videos: dict[str, Video] = {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            text = row["tags"].strip()
            tags = frozenset(topic_key(tag.strip('" ')) for tag in text.split("|") if text != "[none]") - {""}
            before = videos.get(row["video_id"])
            videos[row["video_id"]] = Video(
                row["video_id"], row["channel_title"], row["category_id"],
                tags | before.tags if before else tags,
                max(int(row["views"]), before.views if before else 0),
            )  # fmt: skip
    return videos


@dataclass(frozen=True)
class Split:
    """Videos that can be chosen, and videos that are asked for and have tags."""

    known: Sequence[Video]
    asked: Sequence[Video]
    without_tags: int

    @classmethod
    def of(cls, videos: dict[str, Video], held: Collection[str]) -> Split:
        ordered = sorted(videos.values(), key=lambda video: video.id)
        asked = [video for video in ordered if video.id in held]
        tagged = [video for video in asked if video.tags]
        return cls([v for v in ordered if v.id not in held], tagged, len(asked) - len(tagged))


def splits(kind: str, september: dict[str, Video], november: dict[str, Video], seeds: int) -> Iterator[Split]:
    """The seeded splits of one kind."""
    both = _merged(september, november)
    pool, share = (sorted(november), 0.5) if kind == "later" else (sorted(both), 0.25)
    for seed in range(seeds):
        chosen = np.random.default_rng(seed).permutation(len(pool))[: int(len(pool) * share)]
        yield Split.of(both, {pool[nth] for nth in chosen})


def _merged(one: dict[str, Video], other: dict[str, Video]) -> dict[str, Video]:
    merged = {**one}
    for video in other.values():
        before = merged.get(video.id, video)
        views = max(video.views, before.views)
        merged[video.id] = replace(video, tags=video.tags | before.tags, views=views)
    return merged


# Methods: each chooses for every video that is asked for ten of the known ones, by their number.


def popularity(split: Split) -> Rows:
    most = np.argsort([-video.views for video in split.known], kind="stable")[:NEIGHBOURS]
    return np.tile(most.astype(np.int32), (len(split.asked), 1))


def jaccard(split: Split) -> Rows:
    known, asked = _carried(split)
    shared = (asked @ known.T).toarray()
    sizes = np.diff(asked.indptr)[:, None] + np.diff(known.indptr)[None, :]
    return _first(shared / np.maximum(sizes - shared, 1))


def tf_idf(split: Split) -> Rows:
    known, asked = _carried(split)
    frequency = np.bincount(known.indices, minlength=known.shape[1])
    rarity = sparse.diags_array(np.log((1 + known.shape[0]) / (1 + frequency)) + 1)
    return _first((_unit(asked @ rarity) @ _unit(known @ rarity).T).toarray())


def ours(split: Split, *, recipe: Recipe = RECIPE, channels: bool = True, told: bool = False) -> Rows:
    """Our embedding; `told` says who uploaded the videos that are asked for, too."""
    before = graph_of(split.known, channels=channels)
    learnt = build_embeddings(before.arrays, recipe)
    after = graph_of(split.known, split.asked, channels=channels, told=told)
    asked = project(after.arrays, learnt.basis, after.places(("video", each.id) for each in split.asked))
    known = project(before.arrays, learnt.basis, before.places(("video", each.id) for each in split.known))
    return nearest(known, asked, NEIGHBOURS, least=-1.0).rows


def graph_of(
    known: Sequence[Video], asked: Sequence[Video] = (), *, channels: bool = True, told: bool = False
) -> NamedGraph:
    """The graph of these videos, without categories."""
    every = [*known, *asked]
    uploads = [*(known if channels else ()), *(asked if told else ())]
    nodes = [
        *(("video", video.id) for video in every),
        *(("tag", tag) for video in every for tag in sorted(video.tags)),
        *(("channel", video.channel) for video in uploads),
    ]
    links = [
        *(("tagged", ("video", video.id), ("tag", tag)) for video in every for tag in sorted(video.tags)),
        *(("uploaded_by", ("video", video.id), ("channel", video.channel)) for video in uploads),
    ]
    return named_graph(nodes, links)


METHODS: dict[str, Callable[[Split], Rows]] = {
    "popularity": popularity,
    "tag Jaccard": jaccard,
    "TF-IDF cosine": tf_idf,
    "ours": ours,
    "ours, tags alone": lambda split: ours(split, channels=False),
    "ours, 128 dimensions": lambda split: ours(split, recipe=Recipe(dimensions=128)),
    "product, channel told": lambda split: ours(split, told=True),
}
PEERS = ("tag Jaccard", "TF-IDF cosine", "popularity")


def shares(split: Split, chosen: Rows) -> tuple[float, float]:
    """The share of the chosen that are of the same channel, and of the same category."""
    same = [
        (split.known[row].channel == video.channel, split.known[row].category == video.category)
        for video, rows in zip(split.asked, chosen.tolist(), strict=True)
        for row in rows
    ]
    channel, category = np.mean(same, axis=0)
    return float(channel), float(category)


def _most_possible(split: Split) -> float:
    """The share of the same channel that the best of all choices would have."""
    channels = [video.channel for video in split.known]
    return float(np.mean([min(NEIGHBOURS, channels.count(v.channel)) / NEIGHBOURS for v in split.asked]))


def _carried(split: Split) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Which videos carry which tags, for the known ones and those asked for."""
    number = {
        tag: nth for nth, tag in enumerate(sorted({t for v in [*split.known, *split.asked] for t in v.tags}))
    }

    def rows(videos: Sequence[Video]) -> sparse.csr_array:
        cells = [(row, number[tag]) for row, video in enumerate(videos) for tag in sorted(video.tags)]
        ends = np.array(cells, np.int64).reshape(-1, 2).T
        return sparse.csr_array((np.ones(len(cells)), (ends[0], ends[1])), shape=(len(videos), len(number)))

    return rows(split.known), rows(split.asked)


def _unit(matrix: sparse.csr_array) -> sparse.csr_array:
    length = np.sqrt(np.asarray((matrix * matrix).sum(axis=1)).reshape(-1))
    return sparse.diags_array(1 / np.where(length > 0, length, 1)) @ matrix


def _first(scores: NDArray[Any]) -> Rows:
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS].astype(np.int32)


async def figures(options: Options | None = None) -> AsyncIterator[Figure]:
    """The shares for each kind of split, then communities."""
    options = options or Options(_folder())
    console = Console(stderr=True, emoji=False)
    paths = [options.folder / f"{name}.csv.gz" for name in (SEPTEMBER, NOVEMBER)]
    if missing := [str(path) for path in paths if not path.is_file()]:
        console.print(
            f"Skipped: no {', '.join(missing)}. Name the folder by --recordings or PLEIADES_SHARED."
        )
        return
    september, november = (recorded(path) for path in paths)
    console.print(f"{TRIED} configurations were compared on videos of September alone.")
    for kind in ("later", "mixed"):
        for figure in similar_figures(kind, list(splits(kind, september, november, options.splits)), console):
            yield figure
    for figure in community_figures(list(_merged(september, november).values()), options.seeds, console):
        yield figure


def similar_figures(kind: str, of_kind: Sequence[Split], console: Console) -> Iterator[Figure]:
    """Every method on every split of a kind."""
    reached, spent = {}, {}
    for name, method in METHODS.items():
        begun = time.process_time()
        reached[name] = np.array([shares(split, method(split)) for split in of_kind])
        spent[name] = (time.process_time() - begun) / len(of_kind)
    possible = float(np.mean([_most_possible(split) for split in of_kind]))
    first = of_kind[0]
    console.print(
        f"{kind}: {len(of_kind)} splits; {len(first.known)} videos to choose from,"
        f" {len(first.asked)} asked for and {first.without_tags} more without tags;"
        f" at most {possible:.3f} could be of the same channel."
    )
    for name in METHODS:
        channel, category = reached[name].mean(axis=0)
        console.print(f"  {name:24} channel {channel:.4f}  category {category:.4f}  {spent[name]:6.1f} CPU s")
    for column, what in enumerate(("channel", "category")):
        for peer in PEERS:
            ratios = reached["ours"][:, column] / np.maximum(reached[peer][:, column], 1e-9)
            yield Figure(
                f"{kind}: same {what} among the ten nearest", float(reached["ours"][:, column].mean()), "",
                peer=float(reached[peer][:, column].mean()), peer_name=peer, goal=GOAL,
                note=f"{len(of_kind)} splits, ratio in each {ratios.min():.2f} to {ratios.max():.2f}",
            )  # fmt: skip


def community_figures(videos: Sequence[Video], seeds: int, console: Console) -> Iterator[Figure]:
    """Communities of videos, their tags and channels: modularity and stability, beside NetworkX's Louvain."""
    made = graph_of(sorted(videos, key=lambda video: video.id))
    graph = adjacency(made.arrays)
    begun = time.process_time()
    found = [cluster(graph, seed=seed) for seed in range(seeds)]
    halfway = time.process_time()
    theirs = [_louvain(graph, seed) for seed in range(seeds)]
    spent, peer_spent = halfway - begun, time.process_time() - halfway
    tags = graph.rows(made.arrays.of_type("tag"))
    for number, rows in enumerate(telling(graph, found[0], tags)[:8]):
        names = ", ".join(made.arrays.names[int(graph.places[row])] for row in rows)
        console.print(f"  {int((found[0].labels == number).sum()):5} vertices: {names}")
    yield Figure(
        "communities: modularity", float(np.mean([each.modularity for each in found])), "",
        peer=float(np.mean([modularity(graph, each) for each in theirs])), peer_name="NetworkX Louvain",
        goal=0.99,
        note=f"{len(graph)} vertices, {seeds} seeds, {len(found[0])} communities",
    )  # fmt: skip
    ours_, peers_ = [each.labels for each in found], theirs
    yield Figure(
        "communities: adjusted Rand index between seeds", _agreement(ours_, adjusted_rand), "",
        peer=_agreement(peers_, adjusted_rand), peer_name="NetworkX Louvain",
        note=f"mutual information {_agreement(ours_, mutual_information):.3f},"
        f" NetworkX {_agreement(peers_, mutual_information):.3f}",
    )  # fmt: skip
    yield Figure(
        "communities: CPU time", spent / seeds, "s", peer=peer_spent / seeds, peer_name="NetworkX Louvain",
        goal=1.0, at_most=True,
    )  # fmt: skip


def _louvain(graph: Adjacency, seed: int) -> Int32s:
    groups = nx.community.louvain_communities(nx.from_scipy_sparse_array(graph.matrix), seed=seed)
    labels = np.zeros(len(graph), np.int32)
    for number, members in enumerate(groups):
        labels[list(members)] = number
    return labels


def _agreement(groupings: Sequence[Int32s], measure: Callable[[Int32s, Int32s], float]) -> float:
    pairs = [(a, b) for nth, a in enumerate(groupings) for b in groupings[nth + 1 :]]
    return float(np.mean([measure(a, b) for a, b in pairs])) if pairs else 1.0

"""Graphs of any size that look like real ones: videos, tags and channels, and links between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atlas.adapters.graph import link_handle, node_handle
from maia.graph.arrays import GraphArrays, Int16s, Int64s, Texts, UInt64s
from maia.graph.merging import in_order
from maia.graph.values import Kind, Values, joined_kinds, packed_texts, starts_of

TYPES = ("channel", "co_occurs", "tag", "tagged", "uploaded_by", "video")
CHANNEL, CO_OCCURS, TAG, TAGGED, UPLOADED_BY, VIDEO = range(len(TYPES))

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789_-", np.uint8)
_MONTH_US = 30 * 86_400 * 1_000_000
_BEGIN_US = 1_793_000_000_000_000


def made_graph(nodes: int, links: int, seed: int = 1) -> GraphArrays:
    """Four fifths of the nodes are videos, a sixth are tags, of which few are frequent, the rest channels.

    Five sixths of the links are tags of videos, each video has a channel as far as links suffice, and the
    rest connect tags and have a weight; in small graphs there are fewer links, because each is there once. A
    tenth of the atoms has attention.
    """
    random = np.random.default_rng(seed)
    tags, channels = max(nodes // 6, 1), max(nodes // 30, 1)
    videos = nodes - tags - channels
    of_channel = min(videos, links // 6)
    of_tags = links * 5 // 6
    weighted = links - of_channel - of_tags
    of_videos = np.stack([np.arange(of_channel), videos + tags + random.integers(0, channels, of_channel)], 1)
    tagged = _distinct(
        random,
        of_tags,
        lambda many: (random.integers(0, videos, many), videos + _frequent(random, tags, many)),
    )
    together = _distinct(random, weighted, lambda many: tuple(videos + random.integers(0, tags, (2, many))))
    ends = np.concatenate([of_videos, tagged, together])
    kinds = [(VIDEO, videos), (TAG, tags), (CHANNEL, channels)]
    kinds += [(UPLOADED_BY, of_channel), (TAGGED, len(tagged)), (CO_OCCURS, len(together))]
    weighted, size = len(together), nodes + len(ends)
    lengths = np.zeros(size, np.int64)
    lengths[:videos] = 11
    lengths[videos:nodes] = random.integers(6, 25, nodes - videos)
    names = Texts(_starts(lengths), _LETTERS[random.integers(0, len(_LETTERS), int(lengths.sum()))])
    type_of = np.repeat([code for code, _ in kinds], [many for _, many in kinds]).astype(np.int16)
    weight = np.full(size, np.nan, np.float32)
    weight[size - weighted :] = random.normal(3, 1, weighted)
    count = random.geometric(0.7, size).astype(np.float64)
    attended = random.random(size) < 0.1
    unordered = GraphArrays(
        handles=_handles(type_of, names, ends),
        types=TYPES,
        type_of=type_of,
        names=names,
        outgoing_starts=_starts(np.where(np.arange(size) < nodes, 0, 2)),
        outgoing=ends.reshape(-1).astype(np.int32),
        positive=count,
        count=count,
        pos=count.astype(np.int64),
        neg=np.zeros(size, np.int64),
        sources=np.ones(size, np.uint8),
        weight=weight,
        seen_us=_BEGIN_US + random.integers(0, _MONTH_US, size),
        sti=np.where(attended, random.exponential(5, size), 0).astype(np.float32),
        lti=np.where(attended, random.exponential(1, size), 0).astype(np.float32),
        vlti=np.zeros(size, np.uint8),
        attended_us=np.where(attended, _BEGIN_US + _MONTH_US, 0),
    )
    return in_order(unordered)


def made_values(graph: GraphArrays, seed: int = 1) -> Values:
    """Of each node a community and a PageRank, and of every third a text; by made-up keys."""
    random = np.random.default_rng(seed)
    nodes = np.flatnonzero(np.diff(graph.outgoing_starts) == 0)
    ranks, communities = random.exponential(1, len(nodes)), random.integers(0, 300, len(nodes))
    numbers = np.stack([communities.astype(np.float64), ranks], axis=1)
    counts = np.where(np.arange(len(nodes)) % 3 == 0, 3, 2)
    starts = starts_of(counts)
    key_of = (np.arange(starts[-1]) - np.repeat(starts[:-1], counts)).astype(np.int32)
    text = packed_texts(["Shown so"])
    data_starts = starts_of(np.where(key_of == 2, len(text), 8))
    kind_of = np.where(key_of == 2, Kind.TEXTS, Kind.FLOATS).astype(np.uint8)
    of_kinds = {
        Kind.FLOATS: numbers.reshape(-1).view(np.uint8),
        Kind.TEXTS: np.tile(np.frombuffer(text, np.uint8), int((counts == 3).sum())),
    }
    data = joined_kinds(kind_of, data_starts, of_kinds)
    keys = ("community", "pagerank", "shown")
    return Values(graph.handles[nodes], starts, keys, key_of, kind_of, data_starts, data)


def _distinct(random: np.random.Generator, count: int, draw: Callable[[int], tuple[Int64s, ...]]) -> Int64s:
    """So many pairs, or fewer, each of which is there once."""
    pairs = np.unique(np.sort(np.stack(draw(count + count // 4), 1), axis=1), axis=0)
    chosen: Int64s = random.permutation(pairs[pairs[:, 0] != pairs[:, 1]])[:count]
    return chosen


def _handles(type_of: Int16s, names: Texts, ends: Int64s) -> UInt64s:
    """The handles of nodes, and then of links of two nodes."""
    first = len(type_of) - len(ends)
    codes = type_of.tolist()
    handles = [node_handle(TYPES[codes[place]], names[place]) for place in range(first)]
    links = zip(codes[first:], ends.tolist(), strict=True)
    handles += [link_handle(TYPES[code], [handles[end] for end in pair]) for code, pair in links]
    packed = b"".join([each.bytes for each in handles])
    return np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)


def _frequent(random: np.random.Generator, tags: int, count: int) -> Int64s:
    """Places of tags, some of which are far more frequent than others."""
    places: Int64s = (tags * random.random(count) ** 3).astype(np.int64)
    return places


def _starts(lengths: Int64s) -> Int64s:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts

"""Graphs of any size for benches: deterministic, with popular and rare tags, and communities to be found.

Videos belong to channels, and channels to communities. Each community has tags of its own, and all share some
that are on many videos. How often tags and channels are drawn falls with their rank as a power law.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph import OWN, Sources, node_handle
from atlas.adapters.graph_loading import GraphLoadingDAO
from atlas.composition import Atlas
from maia.graph.arrays import GraphArrays, UInt64s
from maia.graph.building import LooseAtoms, arrays_of
from maia.graphing.reading import columns_of

AT: Final = datetime(2026, 11, 1, tzinfo=UTC)
_LOW: Final = (1 << 64) - 1
_SHARED: Final = 0.3
"""So large a share of a video's tags are those that all communities have."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many nodes of each type there are, and how many tags a video has on average."""

    videos: int = 150_000
    channels: int = 15_000
    tags: int = 81_000
    topics: int = 4_000
    communities: int = 300
    tags_a_video: float = 5.5

    def scaled(self, factor: float) -> Size:
        """The same, but smaller or larger."""
        counts = {
            name: max(int(getattr(self, name) * factor), 2)
            for name in ("videos", "channels", "tags", "topics")
        }
        return Size(
            **counts, communities=max(int(self.communities * factor**0.5), 2), tags_a_video=self.tags_a_video
        )


STANDARD: Final = Size()
"""Some 250,000 nodes and 1.2 million links."""


def make(size: Size = STANDARD, seed: int = 0) -> GraphArrays:
    """A graph of videos, channels, tags, topics and categories with the links of facts between them."""
    draw = np.random.default_rng(seed)
    community_of_channel = draw.integers(size.communities, size=size.channels)
    channel_of_video = _ranks(draw, size.channels, size.videos, 0.8)
    community = community_of_channel[channel_of_video]
    tagged = _tagged(draw, size, community)
    nodes = {
        "video": [f"{nth:011x}" for nth in range(size.videos)],
        "channel": [f"UC{nth:022x}" for nth in range(size.channels)],
        "tag": [f"tag {nth}" for nth in range(size.tags)],
        "topic": [f"topic {nth}" for nth in range(size.topics)],
        "category": [str(nth) for nth in range(1, 16)],
    }
    every = np.arange(size.videos)
    found = draw.choice(size.videos, size.videos // 2, replace=False)
    few = max(size.topics // size.communities, 1)
    topic = (community[found] * few + draw.integers(few, size=len(found))) % size.topics
    links = {
        "tagged": ("video", "tag", tagged),
        "uploaded_by": ("video", "channel", np.stack([every, channel_of_video], axis=1)),
        "inherits": ("video", "category", np.stack([every, community % 15], axis=1)),
        "found_by": ("video", "topic", np.stack([found, topic], axis=1)),
    }
    return arrays_of(_loose(nodes, links))


async def load(atlas: Atlas, arrays: GraphArrays, space: int = OWN) -> None:
    """Fill a space with a graph by binary COPY."""
    dao = GraphLoadingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.load(space, await asyncio.to_thread(columns_of, arrays))


def _ranks(draw: np.random.Generator, kinds: int, amount: int, exponent: float) -> NDArray[np.int64]:
    """Numbers below `kinds`, of which the n-th is drawn in proportion to 1 / n^exponent."""
    weights = np.arange(1, kinds + 1, dtype=float) ** -exponent
    return np.searchsorted(np.cumsum(weights) / weights.sum(), draw.random(amount)).clip(0, kinds - 1)


def _tagged(draw: np.random.Generator, size: Size, community: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of video and tag, each once."""
    amounts = draw.poisson(size.tags_a_video * 1.08, size.videos)
    video = np.repeat(np.arange(size.videos), amounts)
    shared = max(size.tags // 20, 1)
    own = max((size.tags - shared) // size.communities, 1)
    of_all = _ranks(draw, shared, len(video), 0.9)
    of_community = shared + community[video] * own + _ranks(draw, own, len(video), 0.7)
    tag = np.where(draw.random(len(video)) < _SHARED, of_all, of_community)
    return np.unique(np.stack([video, tag], axis=1), axis=0)


def _loose(nodes: dict[str, list[str]], links: dict[str, tuple[str, str, NDArray[np.int64]]]) -> LooseAtoms:
    handles_of = {type_: _node_handles(type_, names) for type_, names in nodes.items()}
    ends = {
        type_: np.stack([handles_of[first][pairs[:, 0]], handles_of[second][pairs[:, 1]]], axis=1)
        for type_, (first, second, pairs) in links.items()
    }
    handles = [*handles_of.values(), *(_link_handles(type_, each) for type_, each in ends.items())]
    types = (*nodes, *links)
    amounts = [len(each) for each in handles]
    total, names = sum(amounts), [name for each in nodes.values() for name in each]
    observed = np.concatenate([np.zeros(len(names)), np.ones(total - len(names))])
    return LooseAtoms(
        handles=np.concatenate(handles),
        types=types,
        type_of=np.repeat(np.arange(len(types)), amounts).astype(np.int16),
        linked=np.arange(len(names), total),
        ends=np.concatenate(list(ends.values())),
        wide=(),
        named=list(enumerate(names)),
        positive=observed,
        count=observed,
        pos=observed.astype(np.int64),
        neg=np.zeros(total, np.int64),
        sources=np.full(total, int(Sources.FACTS), np.uint8),
        weight=np.full(total, np.nan, np.float32),
        seen_us=np.full(total, int(AT.timestamp() * 1_000_000), np.int64),
    )


def _node_handles(type_: str, names: Sequence[str]) -> UInt64s:
    numbers = [node_handle(type_, name).int for name in names]
    return np.array([(each >> 64, each & _LOW) for each in numbers], np.uint64)


def _link_handles(type_: str, ends: UInt64s) -> UInt64s:
    """As `link_handle` says; shapes (n, 2, 2) and (n, 2)."""
    prefix = b"l" + type_.encode() + b"\0"
    body = ends.astype(">u8").tobytes()
    rows = (body[begin : begin + 32] for begin in range(0, len(body), 32))
    digests = b"".join([sha256(prefix + row).digest()[:16] for row in rows])
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)

"""Nodes with what they lead to by the thousand, as columns: an object of each link would cost more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, compress, repeat
from typing import Final, Self, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph import handle_of
from atlas.adapters.graph_feeding import LinkColumns, LinkRow, NodeRow, VideoFacts
from atlas.tags import spellings
from maia.graph.arrays import Int64s, UInt64s
from maia.graphing.facts import PATTERN_LINKS, TOPIC_LINKS, VIDEO_LINKS, Links, ends_of

Named: TypeAlias = tuple[str, str]
"""The type and the name of a node."""

SUBJECTS: Final = ("pattern", "topic", "video")
LINKS: Final = tuple(sorted({*VIDEO_LINKS, *TOPIC_LINKS, *PATTERN_LINKS}))
_TAGGED: Final = LINKS.index("tagged")
_MOST_REMEMBERED: Final = 200_000


class _Remembered(dict[str, bytes]):
    """The handles of nodes of one type by their names, hashed when they are first asked for."""

    def __init__(self, type_: str) -> None:
        self._prefix = b"n" + type_.encode() + b"\0"

    def __missing__(self, name: str) -> bytes:
        handle = self[name] = sha256(self._prefix + name.encode()).digest()[:16]
        return handle


class Hashes:
    """Handles of nodes as bytes. Those of what many lead to are remembered."""

    def __init__(self) -> None:
        self._of_types: dict[str, _Remembered] = {}

    def nodes(self, type_: str, names: Iterable[str]) -> list[bytes]:
        """The handles of nodes of one type."""
        known = self._of_types.setdefault(type_, _Remembered(type_))
        handles = list(map(known.__getitem__, names))
        if type_ in SUBJECTS or len(known) > _MOST_REMEMBERED:
            known.clear()
        return handles


@dataclass(frozen=True, slots=True)
class Hashed:
    """Subjects of one type, and their links: handles are rows of their high and low 64 bits.

    `types` are places in LINKS, and `firsts` those of the subjects where links begin.
    """

    heads: UInt64s
    types: NDArray[np.int8]
    firsts: Int64s
    links: UInt64s
    ends: UInt64s

    @classmethod
    def of(cls, type_: str, names: Sequence[str], links: Iterable[Links], hashes: Hashes) -> Self:
        heads = hashes.nodes(type_, names)
        types, firsts, digests, ends = [np.zeros(0, np.int8)], [np.zeros(0, np.int64)], [b""], list[bytes]()
        for link, end_type, its in links:
            counts = np.fromiter(map(len, its), np.int64, len(its))
            met = hashes.nodes(end_type, chain.from_iterable(its))
            prefix = b"l" + link.encode() + b"\0"
            begins = map(repeat, [prefix + head for head in heads], counts.tolist())
            digests += [
                sha256(begin + end).digest()
                for begin, end in zip(chain.from_iterable(begins), met, strict=True)
            ]
            types.append(np.full(len(met), LINKS.index(link), np.int8))
            firsts.append(np.repeat(np.arange(len(heads)), counts))
            ends += met
        hashed = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 4)[:, :2].astype(np.uint64)
        return cls(pairs(heads), np.concatenate(types), np.concatenate(firsts), hashed, pairs(ends))

    def only(self, which: NDArray[np.bool_]) -> Hashed:
        """Some of the subjects."""
        its = which[self.firsts]
        firsts = (np.cumsum(which) - 1)[self.firsts[its]]
        return Hashed(self.heads[which], self.types[its], firsts, self.links[its], self.ends[its])


@dataclass(frozen=True, slots=True)
class HashedVideos:
    """Videos with what they lead to: their tags by keys, as each spells them, and all nodes by handles."""

    carried: Sequence[dict[str, str]]
    nodes: dict[bytes, Named]
    hashed: Hashed

    @classmethod
    def of(cls, videos: Sequence[VideoFacts], hashes: Hashes) -> HashedVideos:
        carried = [spellings(each.tags) for each in videos]
        ids, links = [each.id for each in videos], ends_of(videos, carried)
        nodes = dict[bytes, Named]()
        for _, type_, its in [("", "video", [ids]), *links]:
            names = {*chain.from_iterable(its)}
            nodes.update(zip(hashes.nodes(type_, names), zip(repeat(type_), names), strict=True))
        return cls(carried, nodes, Hashed.of("video", ids, links, hashes))

    def only(self, which: NDArray[np.bool_]) -> HashedVideos:
        """Some of the videos."""
        if which.all():
            return self
        hashed = self.hashed.only(which)
        nodes = {raw: self.nodes[raw] for raw in chain(raw_of(hashed.heads), raw_of(hashed.ends))}
        return HashedVideos(list(compress(self.carried, which.tolist())), nodes, hashed)

    def heads(self) -> list[UUID]:
        """The handles of the videos."""
        return [handle_of(raw) for raw in raw_of(self.hashed.heads)]

    def tags(self) -> dict[str, UUID]:
        """The handles of all carried tags by their keys."""
        return {name: handle_of(raw) for raw, (type_, name) in self.nodes.items() if type_ == "tag"}

    def links(self) -> list[LinkRow]:
        """The links as rows."""
        hashed, heads = self.hashed, self.heads()
        handles, ends = ([handle_of(raw) for raw in raw_of(some)] for some in (hashed.links, hashed.ends))
        return [
            LinkRow(handle, LINKS[type_], heads[first], end)
            for handle, type_, first, end in zip(
                handles, hashed.types.tolist(), hashed.firsts.tolist(), ends, strict=True
            )
        ]

    def link_columns(self) -> LinkColumns:
        """The links as columns."""
        hashed = self.hashed
        return LinkColumns(LINKS, hashed.types, hashed.links, hashed.heads[hashed.firsts], hashed.ends)

    def spelled_by_video(self) -> dict[UUID, dict[str, str]]:
        """The tags that each video carries, by its handle."""
        return dict(zip(self.heads(), self.carried, strict=True))

    def spelled(self) -> tuple[list[str], list[str], UInt64s]:
        """All carried tags, how they are spelled, and the high halves of the handles of their links."""
        keys = list(chain.from_iterable(self.carried))
        values = list(chain.from_iterable(each.values() for each in self.carried))
        return keys, values, self.hashed.links[self.hashed.types == _TAGGED, 0]


def nodes_of(named: Iterable[tuple[bytes, Named]]) -> list[NodeRow]:
    """Nodes with their handles as rows."""
    return [NodeRow(handle_of(raw), type_, name) for raw, (type_, name) in named]


def pairs(handles: Sequence[bytes]) -> UInt64s:
    """Handles with their high and low 64 bits as columns."""
    return np.frombuffer(b"".join(handles), ">u8").reshape(-1, 2).astype(np.uint64)


def raw_of(handles: UInt64s) -> list[bytes]:
    """The same handles as bytes again."""
    raw = handles.astype(">u8").tobytes()
    return [raw[begin : begin + 16] for begin in range(0, len(raw), 16)]

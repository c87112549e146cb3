"""Nodes with what they lead to by the thousand, as handles in bytes: a UUID of each would cost more. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, compress
from typing import Final, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph import handle_of
from atlas.adapters.graph_feeding import LinkColumns, LinkRow, NodeRow, VideoFacts
from atlas.tags import spellings
from maia.graph.arrays import Int64s, UInt64s
from maia.graphing.facts import PATTERN_LINKS, TOPIC_LINKS, VIDEO_LINKS, ends_of

Named: TypeAlias = tuple[str, str]
"""The type and the name of a node."""
Subject: TypeAlias = tuple[Named, Sequence[tuple[str, Named]]]
"""A node, and its links: their types, and the nodes at their ends."""

SUBJECTS: Final = ("pattern", "topic", "video")
LINKS: Final = tuple(sorted({*VIDEO_LINKS, *TOPIC_LINKS, *PATTERN_LINKS}))
_OF_LINK: Final = {type_: b"l" + type_.encode() + b"\0" for type_ in LINKS}
_MOST_REMEMBERED: Final = 200_000


class Hashes:
    """Handles of nodes as bytes. Those of what many lead to are remembered."""

    def __init__(self) -> None:
        self._known: dict[Named, bytes] = {}

    def node(self, named: Named) -> bytes:
        """The handle of a node."""
        found = self._known.get(named)
        if found is None:
            type_, name = named
            found = sha256(b"n" + type_.encode() + b"\0" + name.encode()).digest()[:16]
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            if type_ not in SUBJECTS:
                self._known[named] = found
        return found


@dataclass(frozen=True, slots=True)
class Hashed:
    """The handles of subjects, and of their links with their types and ends, one subject's after the other's.

    `counts` says how many links each subject has.
    """

    heads: Sequence[bytes]
    types: Sequence[str]
    links: Sequence[bytes]
    ends: Sequence[bytes]
    counts: Int64s

    @classmethod
    def of(cls, subjects: Sequence[Subject], hashes: Hashes) -> Hashed:
        node, prefixes = hashes.node, _OF_LINK
        heads = [node(subject) for subject, _ in subjects]
        types, links, ends = list[str](), list[bytes](), list[bytes]()
        for head, (_, its) in zip(heads, subjects, strict=True):
            for type_, named in its:
                end = node(named)
                types.append(type_)
                ends.append(end)
                links.append(sha256(prefixes[type_] + head + end).digest()[:16])
        return cls(heads, types, links, ends, np.array([len(its) for _, its in subjects], np.int64))

    def only(self, which: NDArray[np.bool_]) -> Hashed:
        """Some of the subjects."""
        of_links = np.repeat(which, self.counts).tolist()
        return Hashed(
            list(compress(self.heads, which.tolist())),
            list(compress(self.types, of_links)),
            list(compress(self.links, of_links)),
            list(compress(self.ends, of_links)),
            self.counts[which],
        )


@dataclass(frozen=True, slots=True)
class HashedVideos:
    """Videos with what they lead to, and their tags by their keys, as each spells them."""

    subjects: Sequence[Subject]
    carried: Sequence[dict[str, str]]
    hashed: Hashed

    @classmethod
    def of(cls, videos: Sequence[VideoFacts], hashes: Hashes) -> HashedVideos:
        carried = [spellings(each.tags) for each in videos]
        subjects = [
            (("video", video.id), [(link, (type_, name)) for link, type_, name in ends_of(video, tags)])
            for video, tags in zip(videos, carried, strict=True)
        ]
        return cls(subjects, carried, Hashed.of(subjects, hashes))

    def only(self, which: NDArray[np.bool_]) -> HashedVideos:
        """Some of the videos."""
        some = which.tolist()
        subjects, carried = list(compress(self.subjects, some)), list(compress(self.carried, some))
        return HashedVideos(subjects, carried, self.hashed.only(which))

    def named(self) -> dict[bytes, Named]:
        """All nodes by their handles."""
        ends = (named for _, its in self.subjects for _, named in its)
        heads = (subject for subject, _ in self.subjects)
        hashed = self.hashed
        return dict(chain(zip(hashed.heads, heads, strict=True), zip(hashed.ends, ends, strict=True)))

    def links(self) -> list[LinkRow]:
        """The links as rows."""
        heads = chain.from_iterable(
            [head] * count for head, count in zip(self.hashed.heads, self.hashed.counts.tolist(), strict=True)
        )
        columns = zip(self.hashed.links, self.hashed.types, heads, self.hashed.ends, strict=True)
        return [
            LinkRow(handle_of(link), type_, handle_of(head), handle_of(end))
            for link, type_, head, end in columns
        ]

    def link_columns(self) -> LinkColumns:
        """The links as columns."""
        hashed = self.hashed
        heads = np.repeat(pairs(hashed.heads), hashed.counts, axis=0)
        return LinkColumns(hashed.types, pairs(hashed.links), heads, pairs(hashed.ends))

    def spelled_by_video(self) -> dict[UUID, dict[str, str]]:
        """The tags that each video carries, by its handle."""
        return {handle_of(head): tags for head, tags in zip(self.hashed.heads, self.carried, strict=True)}

    def spelled(self) -> tuple[list[str], list[str], UInt64s]:
        """All carried tags, how they are spelled, and the high halves of the handles of their links."""
        tagged = np.array([type_ == "tagged" for type_ in self.hashed.types], bool)
        keys = list(chain.from_iterable(self.carried))
        values = list(chain.from_iterable(each.values() for each in self.carried))
        return keys, values, pairs(self.hashed.links)[tagged, 0]


def nodes_of(named: Mapping[bytes, Named]) -> list[NodeRow]:
    """Nodes by their handles as rows."""
    return [NodeRow(handle_of(raw), type_, name) for raw, (type_, name) in named.items()]


def pairs(handles: Sequence[bytes]) -> UInt64s:
    """Handles with their high and low 64 bits as columns."""
    return np.frombuffer(b"".join(handles), ">u8").reshape(-1, 2).astype(np.uint64)

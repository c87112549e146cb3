"""The knowledge graph as arrays: one column for each property of its atoms.

An atom is a node, which has a name, or a link, whose outgoing set names other atoms. Atoms are in the order
of their handles, and within the arrays they are called by their place in that order. The columns may be
memory-mapped files: nothing here writes to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int16s = NDArray[np.int16]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
UInt8s = NDArray[np.uint8]
UInt64s = NDArray[np.uint64]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

NO_ATOM: Final = -1
"""The place of an atom that isn't there."""

_LOW: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as UTF-8: `data[starts[n]:starts[n + 1]]` is the n-th. Shapes (n + 1,) and (bytes,)."""

    starts: Int64s
    data: UInt8s

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        encoded = [text.encode() for text in texts]
        return cls(starts_of([len(each) for each in encoded]), np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place: int) -> str:
        return self.data[self.starts[place] : self.starts[place + 1]].tobytes().decode()


@dataclass(frozen=True, slots=True)
class GraphArrays:
    """All atoms of a graph, n of them, in ascending order of their handles.

    `handles` has two columns, the high and the low 64 bits. `type_of` numbers `types`, which are in
    alphabetical order. The outgoing set of the n-th atom is `outgoing[outgoing_starts[n]:
    outgoing_starts[n + 1]]`, places of atoms; it is empty for nodes. Names of links are empty. `positive` of
    `count` observations, both of all sites together, say that the atom is true; `pos` and `neg` are what this
    site alone observed for and against it, and `sources` the bits of who says that it is there. `weight` is
    NaN where there is none. `seen_us` are microseconds since 1970. Attention: `sti` and `lti` as they were at
    `attended_us`, when they were last set, and `vlti`, above 0 for atoms that are never forgotten. All four
    are 0 for atoms that have none.
    """

    handles: UInt64s
    types: tuple[str, ...]
    type_of: Int16s
    names: Texts
    outgoing_starts: Int64s
    outgoing: Int32s
    positive: Float64s
    count: Float64s
    pos: Int64s
    neg: Int64s
    sources: UInt8s
    weight: Float32s
    seen_us: Int64s
    sti: Float32s
    lti: Float32s
    vlti: UInt8s
    attended_us: Int64s

    def __len__(self) -> int:
        return len(self.handles)

    def places(self, handles: Sequence[UUID]) -> Int64s:
        """Where atoms are, NO_ATOM for those that aren't there."""
        return places_of(self.handles, pairs_of(handles))

    def handle(self, place: int) -> UUID:
        """The handle of the atom at a place."""
        return uuid_of(self.handles[place])

    def of_type(self, *types: str) -> Int64s:
        """The places of all atoms of some types; types that no atom has are none."""
        codes = [self.types.index(each) for each in types if each in self.types]
        return np.flatnonzero(np.isin(self.type_of, codes))


def starts_of(lengths: ArrayLike) -> Int64s:
    """Where each of some parts that follow each other begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def pairs_of(handles: Iterable[UUID]) -> UInt64s:
    """Handles as arrays have them."""
    return np.array([(each.int >> 64, each.int & _LOW) for each in handles], np.uint64).reshape(-1, 2)


def uuid_of(pair: UInt64s) -> UUID:
    """A handle from its two columns."""
    high, low = pair.tolist()
    return UUID(int=high << 64 | low)


def places_of(handles: UInt64s, wanted: UInt64s) -> Int64s:
    """Where the rows of `wanted` are among ascending handles; NO_ATOM for those that aren't there."""
    if not len(handles):
        return np.full(len(wanted), NO_ATOM, np.int64)
    keys = keys_of(handles)
    found = np.searchsorted(keys, keys_of(wanted))
    within = np.minimum(found, len(handles) - 1)
    same = (handles[within] == wanted).all(axis=1)
    return np.where(same, within, NO_ATOM)


def keys_of(handles: UInt64s) -> NDArray[Any]:
    """Each handle as one value, ordered as the pair of its columns is; shape (n,)."""
    return np.ascontiguousarray(handles.astype(">u8")).view("S16").reshape(-1)

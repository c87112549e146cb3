"""The values of atoms as columns: under each key a vector of numbers, of texts, or of atoms.

The elements of a value are bytes, so that values are compared, cut and joined without looking into them:
numbers as floats of 64 bits, the lower byte first; atoms as the high and the low 64 bits of their handles,
each with the lower byte first; and texts as UTF-8, each after its length as a whole number of 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from struct import Struct
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import NO_ATOM, Int32s, Int64s, UInt8s, UInt64s, places_of
from maia.graph.merging import flat_places, places_merged

LONGEST_KEY: Final = 100

_LENGTH: Final = Struct("<I")
_FLOAT: Final = np.dtype("<f8")
_HALF: Final = np.dtype("<u8")
_HANDLE_BYTES: Final = 16
_LOW: Final = (1 << 64) - 1


class Kind(IntEnum):
    """What the elements of a value are."""

    FLOATS = 0
    TEXTS = 1
    HANDLES = 2


@dataclass(frozen=True, slots=True)
class Elements:
    """A value: its elements are numbers, texts or handles, as its kind says."""

    kind: Kind
    elements: Sequence[Any]


ValuesOf: TypeAlias = Mapping[str, Elements]
"""The values of an atom by their keys."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """The values of some atoms, of which there are m in all.

    The n-th atom, by ascending `handles`, has the values from `starts[n]` to `starts[n + 1]`, in the order of
    their keys. `key_of` numbers `keys`, which are in alphabetical order, `kind_of` are kinds, and the bytes
    of the n-th value are `data[data_starts[n]:data_starts[n + 1]]`.
    """

    handles: UInt64s
    starts: Int64s
    keys: tuple[str, ...]
    key_of: Int32s
    kind_of: UInt8s
    data_starts: Int64s
    data: UInt8s

    def __len__(self) -> int:
        return len(self.key_of)

    @classmethod
    def of(cls, atoms: Iterable[tuple[UUID, ValuesOf]]) -> Values:
        """The columns of values of atoms in any order, each of which comes once."""
        ordered = sorted(atoms, key=lambda each: each[0].int)
        found = [values for _, values in ordered]
        keys = tuple(sorted({key for values in found for key in values}))
        code_of = {key: code for code, key in enumerate(keys)}
        rows = [(code_of[key], values[key]) for values in found for key in sorted(values)]
        data = [_packed(each) for _, each in rows]
        return cls(
            handles=np.array([divmod(each.int, 1 << 64) for each, _ in ordered], np.uint64).reshape(-1, 2),
            starts=starts_of([len(values) for values in found]),
            keys=keys,
            key_of=np.array([code for code, _ in rows], np.int32),
            kind_of=np.array([each.kind for _, each in rows], np.uint8),
            data_starts=starts_of([len(each) for each in data]),
            data=np.frombuffer(b"".join(data), np.uint8),
        )

    def by_atom(self) -> Iterator[tuple[UUID, dict[str, Elements]]]:
        """The values of each atom, by ascending handles."""
        keys, kinds = self.key_of.tolist(), self.kind_of.tolist()
        data, places = self.data.tobytes(), self.data_starts.tolist()
        for (high, low), (begin, end) in zip(
            self.handles.tolist(), pairwise(self.starts.tolist()), strict=True
        ):
            yield (
                UUID(int=high << 64 | low),
                {
                    self.keys[keys[nth]]: _elements(Kind(kinds[nth]), data[places[nth] : places[nth + 1]])
                    for nth in range(begin, end)
                },
            )

    def of_kind(self, kind: Kind) -> UInt8s:
        """The bytes of all values of a kind, one after the other."""
        return self.data[flat_places(self.data_starts, np.flatnonzero(self.kind_of == kind))]

    def each_of(self, kind: Kind) -> Iterator[bytes]:
        """The bytes of each value of a kind."""
        data, places = self.data.tobytes(), np.flatnonzero(self.kind_of == kind)
        begins, ends = self.data_starts[places].tolist(), self.data_starts[places + 1].tolist()
        return (data[begin:end] for begin, end in zip(begins, ends, strict=True))


def starts_of(lengths: Any) -> Int64s:
    """Where rows of some lengths begin, and where the last one ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:], dtype=np.int64)
    return starts


def joined_kinds(kind_of: UInt8s, data_starts: Int64s, of_kinds: Mapping[Kind, UInt8s]) -> UInt8s:
    """The bytes of all values in their order, from those of each kind; ValueError if they don't fit."""
    data = np.empty(int(data_starts[-1]), np.uint8)
    for kind, column in of_kinds.items():
        places = flat_places(data_starts, np.flatnonzero(kind_of == kind))
        if len(places) != len(column):
            raise ValueError(f"the {kind.name.lower()} of values have another length than these")
        data[places] = column
    return data


def packed_texts(texts: Iterable[str]) -> bytes:
    """Texts as a value has them."""
    encoded = [each.encode() for each in texts]
    return b"".join([_LENGTH.pack(len(each)) + each for each in encoded])


def check_values(values: Values) -> None:
    """Raise ValueError unless all columns fit each other, and each value can be what its kind says."""
    if not _ascends(values.handles):
        raise ValueError("the atoms with values are not in ascending order, each once")
    if values.starts[0] != 0 or (np.diff(values.starts) < 0).any() or values.starts[-1] != len(values):
        raise ValueError("the numbers of values don't fit")
    _check_keys(values)
    if (values.kind_of > max(Kind)).any():
        raise ValueError("a value is of a kind that is not there")
    sizes = np.diff(values.data_starts)
    if len(sizes) != len(values) or values.data_starts[0] != 0 or (sizes < 0).any():
        raise ValueError("the lengths of the values don't fit")
    for kind, size in ((Kind.FLOATS, _FLOAT.itemsize), (Kind.HANDLES, _HANDLE_BYTES)):
        if (sizes[values.kind_of == kind] % size).any():
            raise ValueError(f"{kind.name.lower()} of a value are cut off")
    for each in values.each_of(Kind.TEXTS):
        if any("\0" in text for text in unpacked_texts(each)):
            raise ValueError("a text of a value has a character that can't be stored")


def check_atoms(values: Values, handles: UInt64s) -> None:
    """Raise ValueError unless all atoms with values are among ascending handles, and have any."""
    if (places_of(handles, values.handles) == NO_ATOM).any():
        raise ValueError("an atom that is not there has values")
    if (np.diff(values.starts) == 0).any():
        raise ValueError("an atom without values is among those that have some")


def values_of(values: Values, handles: UInt64s) -> Values:
    """The values of those atoms that are among ascending handles, and have any."""
    there = places_of(handles, values.handles) != NO_ATOM
    return taken(values, np.flatnonzero(there & (np.diff(values.starts) > 0)))


def difference(base: Values, now: Values, handles: UInt64s) -> Values:
    """All present values of those atoms, among those with these ascending handles, of which any differs.

    An atom that lost its last value is there without any.
    """
    now_at, base_at = places_of(now.handles, base.handles), places_of(base.handles, now.handles)
    known = np.flatnonzero(base_at != NO_ATOM)
    differs = base_at == NO_ATOM
    differs[known] = _differ(base, base_at[known], now, known)
    lost = base.handles[(now_at == NO_ATOM) & (places_of(handles, base.handles) != NO_ATOM)]
    none = replace(NO_VALUES, handles=lost, starts=np.zeros(len(lost) + 1, np.int64))
    return merged(taken(now, np.flatnonzero(differs)), none)


def update(base: Values, changed: Values, handles: UInt64s) -> Values:
    """The values after some atoms have others, of those atoms that are among ascending handles."""
    stays = places_of(changed.handles, base.handles) == NO_ATOM
    return values_of(merged(taken(base, np.flatnonzero(stays)), changed), handles)


def taken(values: Values, atoms: Int64s) -> Values:
    """The values of the atoms at some ascending places."""
    if len(atoms) == len(values.handles):
        return values
    rows = flat_places(values.starts, atoms)
    used, key_of = np.unique(values.key_of[rows], return_inverse=True)
    return Values(
        handles=values.handles[atoms],
        starts=starts_of(np.diff(values.starts)[atoms]),
        keys=tuple(values.keys[code] for code in used.tolist()),
        key_of=key_of.astype(np.int32),
        kind_of=values.kind_of[rows],
        data_starts=starts_of(np.diff(values.data_starts)[rows]),
        data=values.data[flat_places(values.data_starts, rows)],
    )


def merged(first: Values, second: Values) -> Values:
    """The values of both, which have no atom in common."""
    keys = tuple(sorted({*first.keys, *second.keys}))
    code_of = {key: code for code, key in enumerate(keys)}
    atoms = places_merged(first.handles, second.handles)
    handles, counts = np.empty((sum(map(len, atoms)), 2), np.uint64), np.empty(sum(map(len, atoms)), np.int64)
    for places, part in zip(atoms, (first, second), strict=True):
        handles[places], counts[places] = part.handles, np.diff(part.starts)
    starts = starts_of(counts)
    rows = [flat_places(starts, places) for places in atoms]
    key_of, kind_of = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.uint8)
    sizes = np.empty(starts[-1], np.int64)
    for places, part in zip(rows, (first, second), strict=True):
        codes = np.array([code_of[key] for key in part.keys], np.int32)
        key_of[places] = codes[part.key_of]
        kind_of[places], sizes[places] = part.kind_of, np.diff(part.data_starts)
    data_starts = starts_of(sizes)
    data = np.empty(data_starts[-1], np.uint8)
    for places, part in zip(rows, (first, second), strict=True):
        data[flat_places(data_starts, places)] = part.data
    return Values(handles, starts, keys, key_of, kind_of, data_starts, data)


def _differ(base: Values, base_atoms: Int64s, now: Values, now_atoms: Int64s) -> NDArray[np.bool_]:
    """Whether the values of atoms differ, each at a place of its own in either."""
    counts = np.diff(now.starts)[now_atoms]
    differs: NDArray[np.bool_] = np.diff(base.starts)[base_atoms] != counts
    same = np.flatnonzero(~differs)
    old, new = flat_places(base.starts, base_atoms[same]), flat_places(now.starts, now_atoms[same])
    atom = np.repeat(same, counts[same])
    code_of = {key: code for code, key in enumerate(now.keys)}
    codes = np.array([code_of.get(key, NO_ATOM) for key in base.keys], np.int32)
    sizes = np.diff(now.data_starts)[new]
    odd = (codes[base.key_of[old]] != now.key_of[new]) | (base.kind_of[old] != now.kind_of[new])
    odd |= np.diff(base.data_starts)[old] != sizes
    differs[atom[odd]] = True
    old, new, atom, sizes = old[~odd], new[~odd], atom[~odd], sizes[~odd]
    bytes_differ = (
        base.data[flat_places(base.data_starts, old)] != now.data[flat_places(now.data_starts, new)]
    )
    differs[np.repeat(atom, sizes)[bytes_differ]] = True
    return differs


def _check_keys(values: Values) -> None:
    codes = values.key_of
    if any(first >= second for first, second in pairwise(values.keys)):
        raise ValueError("the keys of values are not in alphabetical order, each once")
    if not all(1 <= len(key) <= LONGEST_KEY and "\0" not in key for key in values.keys):
        raise ValueError(f"a key of a value is no text of 1 to {LONGEST_KEY} characters")
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(values.keys):
        raise ValueError("a value has a key that is not there")
    rises = np.ones(len(codes) + 1, bool)
    rises[1:-1] = codes[1:] > codes[:-1]
    rises[values.starts] = True
    if not rises.all():
        raise ValueError("the values of an atom are not in the order of their keys, each once")


def _ascends(handles: UInt64s) -> bool:
    high, low = handles[:, 0], handles[:, 1]
    return bool(((high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))).all())


def _packed(value: Elements) -> bytes:
    if value.kind is Kind.FLOATS:
        return np.array(value.elements, _FLOAT).tobytes()
    if value.kind is Kind.HANDLES:
        halves = [(each.int >> 64, each.int & _LOW) for each in value.elements]
        return np.array(halves, _HALF).tobytes()
    return packed_texts(value.elements)


def _elements(kind: Kind, data: bytes) -> Elements:
    if kind is Kind.FLOATS:
        return Elements(kind, np.frombuffer(data, _FLOAT).tolist())
    if kind is Kind.HANDLES:
        halves = np.frombuffer(data, _HALF).reshape(-1, 2).tolist()
        return Elements(kind, [UUID(int=high << 64 | low) for high, low in halves])
    return Elements(kind, unpacked_texts(data))


def unpacked_texts(data: bytes) -> list[str]:
    """The texts of a value; ValueError if the bytes don't say where each ends."""
    found, at = [], 0
    while at < len(data):
        begin = at + _LENGTH.size
        if begin > len(data):
            raise ValueError("a text of a value is cut off")
        at = begin + _LENGTH.unpack_from(data, begin - _LENGTH.size)[0]
        if at > len(data):
            raise ValueError("a text of a value is cut off")
        found.append(data[begin:at].decode())
    return found


NO_VALUES: Final = Values.of(())

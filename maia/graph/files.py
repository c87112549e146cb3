"""Snapshots of the graph as compact files, whole or as increments on an earlier one.

The container is that of maia.learning.column_file. The header has the counts, when the graph was like this
(created) and when it was saved, the names of the types, the base's id, and what columns there are, so that a
later version can add some. Most columns are as long as the graph; the names and the outgoing sets follow one
another, with columns that say how long each is, and so do values, of those atoms that have any.
maia.graph.json_lines writes the same as JSON.

| version | what came with it |
|---|---|
| 1 | atoms and their attention |
| 2 | values, and when attention was set, which of older files is taken to be when the graph was like this |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from maia.graph import merging, values
from maia.graph.arrays import NO_ATOM, GraphArrays, Int64s, Texts, UInt8s, UInt64s, places_of
from maia.graph.checking import check
from maia.graph.merging import NUMBERS
from maia.graph.values import NO_VALUES, Kind, Values, check_atoms, check_values, joined_kinds, starts_of
from maia.learning.column_file import (
    ID_DIGITS,
    ColumnFile,
    FileKind,
    SnapshotError,
    blocks_of,
    forms_of,
    making_sense,
)
from maia.learning.column_file import write as pieces_of

KIND: Final = FileKind(
    magic=b"\x89PLGRA\r\n", version=2, what="snapshot of a graph", most_bytes=1 << 34, level=1
)

_FIRST_FORMS: Final[Mapping[str, str]] = {
    "handles_high": "u8", "handles_low": "u8", "type_of": "i2", "name_bytes": "u4", "names": "u1",
    "arity": "u4", "outgoing": "i4", "positive": "f8", "count": "f8", "pos": "i8", "neg": "i8",
    "sources": "u1", "weight": "f4", "seen_us": "i8", "sti": "f4", "lti": "f4", "vlti": "u1",
    "removed_high": "u8", "removed_low": "u8",
}  # fmt: skip
_FORMS: Final[Mapping[int, Mapping[str, str]]] = {
    1: _FIRST_FORMS,
    2: {
        **_FIRST_FORMS, "attended_us": "i8", "valued_high": "u8", "valued_low": "u8", "values": "u4",
        "key_bytes": "u4", "keys": "u1", "key_of": "i4", "kind_of": "u1", "value_bytes": "u4",
        "value_floats": "f8", "value_texts": "u1", "value_handles": "u8",
    },
}  # fmt: skip
"""The columns of each version, and the types of their numbers."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def none_removed() -> UInt64s:
    """No handles."""
    return np.zeros((0, 2), np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class GraphSnapshot:
    """The graph as it was at `created_at`, saved at `saved_at`.

    An increment names its base, and its graph has only atoms that are new or changed since, with all that
    their outgoing sets name; `removed` are the handles of those that are gone, shape (n, 2). Its values are
    all of those atoms of which one is new, changed or gone, also of atoms that are not in its graph.
    """

    graph: GraphArrays
    created_at: datetime
    saved_at: datetime
    base: str | None = None
    removed: UInt64s = field(default_factory=none_removed)
    values: Values = NO_VALUES


def write(snapshot: GraphSnapshot) -> Iterator[bytes]:
    """The pieces of the file in their order. Equal content makes equal bytes."""
    columns = _columns_of(snapshot)
    links = int(np.count_nonzero(columns["arity"]))
    header = {
        "base": snapshot.base,
        "columns": forms_of(columns),
        "created_at_us": _microseconds(snapshot.created_at),
        "links": links,
        "nodes": len(snapshot.graph) - links,
        "saved_at_us": _microseconds(snapshot.saved_at),
        "types": snapshot.graph.types,
        "values": len(snapshot.values),
    }
    return pieces_of(KIND, header, blocks_of(columns))


def read(file: BinaryIO) -> tuple[str, GraphSnapshot]:
    """The id and the content of a file that can seek.

    SnapshotError says what is damaged, and in which block, before anything is returned.
    """
    with making_sense(KIND):
        opened = ColumnFile(file, KIND)
        snapshot = _snapshot(opened.header, opened.columns(), opened.version)
        check_all(snapshot)
        return opened.id, snapshot


def check_all(snapshot: GraphSnapshot) -> None:
    """Raise ValueError unless all columns fit each other, and all that is named is there."""
    check(snapshot.graph)
    check_values(snapshot.values)
    if snapshot.base is None:
        check_atoms(snapshot.values, snapshot.graph.handles)


def difference(base: GraphSnapshot, base_id: str, now: GraphSnapshot) -> GraphSnapshot:
    """The increment that turns the base into the present: what is new, changed or removed."""
    changed, removed = merging.difference(base.graph, now.graph)
    valued = values.difference(base.values, now.values, now.graph.handles)
    return replace(now, graph=changed, base=base_id, removed=removed, values=valued)


def apply(base: GraphSnapshot, base_id: str, increment: GraphSnapshot) -> GraphSnapshot:
    """The state that the increment was made of; SnapshotError if it belongs to another base."""
    if increment.base != base_id:
        raise SnapshotError(f"the increment is for the base {increment.base}, not for {base_id}")
    with making_sense(KIND):
        graph = merging.update(base.graph, increment.graph, increment.removed)
        if (places_of(graph.handles, increment.values.handles) == NO_ATOM).any():
            raise ValueError("an atom that is not there has values")
        valued = values.update(base.values, increment.values, graph.handles)
    return replace(increment, graph=graph, base=base.base, removed=base.removed, values=valued)


def restored(files: Iterable[BinaryIO]) -> tuple[str, GraphSnapshot]:
    """The state of a full snapshot and the increments after it, all verified, and the id of the last one."""
    chain = iter(files)
    first = next(chain, None)
    if first is None:
        raise SnapshotError("there is no snapshot to restore")
    id_, state = read(first)
    if state.base is not None:
        raise SnapshotError(f"the first snapshot is an increment; its base {state.base} must come before it")
    for each in chain:
        next_id, increment = read(each)
        id_, state = next_id, apply(state, id_, increment)
    return id_, state


def base_of(header: Mapping[str, Any]) -> str | None:
    """The base that a header names; ValueError if it can't be the id of a file."""
    base = header["base"]
    if base is None or (isinstance(base, str) and len(base) == ID_DIGITS):
        return base
    raise ValueError(f"{base!r} cannot be the id of its base")


def _columns_of(snapshot: GraphSnapshot) -> dict[str, NDArray[Any]]:
    graph = snapshot.graph
    columns: dict[str, NDArray[Any]] = {
        "handles_high": graph.handles[:, 0],
        "handles_low": graph.handles[:, 1],
        "type_of": graph.type_of,
        "name_bytes": _lengths(graph.names.starts),
        "names": graph.names.data,
        "arity": _lengths(graph.outgoing_starts),
        "outgoing": graph.outgoing,
        **{name: getattr(graph, name) for name in NUMBERS},
        "removed_high": snapshot.removed[:, 0],
        "removed_low": snapshot.removed[:, 1],
        **_columns_of_values(snapshot.values),
    }
    _check_forms(columns, KIND.version)
    return columns


def _columns_of_values(found: Values) -> dict[str, NDArray[Any]]:
    keys = Texts.of(found.keys)
    return {
        "valued_high": found.handles[:, 0],
        "valued_low": found.handles[:, 1],
        "values": _lengths(found.starts),
        "key_bytes": _lengths(keys.starts),
        "keys": keys.data,
        "key_of": found.key_of,
        "kind_of": found.kind_of,
        "value_bytes": _lengths(found.data_starts),
        "value_floats": found.of_kind(Kind.FLOATS).view("<f8"),
        "value_texts": found.of_kind(Kind.TEXTS),
        "value_handles": found.of_kind(Kind.HANDLES).view("<u8"),
    }


def _snapshot(header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], version: int) -> GraphSnapshot:
    _check_forms(columns, version)
    arity = columns["arity"]
    links = int(np.count_nonzero(arity))
    if (header["nodes"], header["links"]) != (len(arity) - links, links):
        raise ValueError("it has another number of atoms than its header says")
    created_at = _instant(header["created_at_us"])
    if version == 1:
        columns = {**columns, "attended_us": attended_at(columns, created_at)}
    graph = GraphArrays(
        handles=_pairs(columns["handles_high"], columns["handles_low"]),
        types=tuple(header["types"]),
        type_of=columns["type_of"],
        names=Texts(starts_of(columns["name_bytes"]), columns["names"]),
        outgoing_starts=starts_of(arity),
        outgoing=columns["outgoing"],
        **{name: columns[name] for name in NUMBERS},
    )
    return GraphSnapshot(
        graph,
        created_at,
        _instant(header["saved_at_us"]),
        base_of(header),
        _pairs(columns["removed_high"], columns["removed_low"]),
        NO_VALUES if version == 1 else _values(header, columns),
    )


def attended_at(columns: Mapping[str, NDArray[Any]], instant: datetime) -> Int64s:
    """The column `attended_us` of atoms all of whose attention was set at one instant."""
    has_any = (columns["sti"] != 0) | (columns["lti"] != 0) | (columns["vlti"] != 0)
    return np.where(has_any, _microseconds(instant), 0)


def _values(header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> Values:
    kind_of, data_starts = columns["kind_of"], starts_of(columns["value_bytes"])
    if not len(columns["key_of"]) == len(kind_of) == len(data_starts) - 1 == header["values"]:
        raise ValueError("it has another number of values than its header says")
    keys = Texts(starts_of(columns["key_bytes"]), columns["keys"])
    of_kinds: dict[Kind, UInt8s] = {
        Kind.FLOATS: columns["value_floats"].view(np.uint8),
        Kind.TEXTS: columns["value_texts"],
        Kind.HANDLES: columns["value_handles"].view(np.uint8),
    }
    if sum(map(len, of_kinds.values())) != data_starts[-1]:
        raise ValueError("the values have other lengths than they say")
    return Values(
        handles=_pairs(columns["valued_high"], columns["valued_low"]),
        starts=starts_of(columns["values"]),
        keys=tuple(keys[nth] for nth in range(len(keys))),
        key_of=columns["key_of"],
        kind_of=kind_of,
        data_starts=data_starts,
        data=joined_kinds(kind_of, data_starts, of_kinds),
    )


def _check_forms(columns: Mapping[str, NDArray[Any]], version: int) -> None:
    forms = {name: column.dtype.str[1:] for name, column in columns.items()}
    if forms != _FORMS[version]:
        wrong = sorted({*forms.items()} ^ {*_FORMS[version].items()})
        raise ValueError(f"its columns are not those of version {version}: {wrong[0]}")


def _lengths(starts: Int64s) -> NDArray[np.uint32]:
    return np.diff(starts).astype(np.uint32)


def _pairs(high: NDArray[Any], low: NDArray[Any]) -> UInt64s:
    pairs = np.empty((len(high), 2), np.uint64)
    pairs[:, 0], pairs[:, 1] = high, low
    return pairs


def _microseconds(instant: datetime) -> int:
    if instant.tzinfo is None:
        raise ValueError(f"{instant} must say its time zone")
    return (instant - _EPOCH) // _MICROSECOND


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)

"""Snapshots of the graph as compact files, whole or as increments on an earlier one.

The container is that of maia.learning.column_file. The header has the counts, when the graph was like this
(created) and when it was saved, the names of the types, the base's id, and what columns there are, so that a
later version can add some. Most columns are as long as the graph; the names and the outgoing sets follow one
another, with columns that say how long each is. maia.graph.json_lines writes the same as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from maia.graph.arrays import GraphArrays, Int64s, Texts, UInt64s
from maia.graph.checking import check
from maia.graph.merging import NUMBERS, update
from maia.graph.merging import difference as graph_difference
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
    magic=b"\x89PLGRA\r\n", version=1, what="snapshot of a graph", most_bytes=1 << 34, level=1
)

_FORMS: Final[Mapping[str, str]] = {
    "handles_high": "u8", "handles_low": "u8", "type_of": "i2", "name_bytes": "u4", "names": "u1",
    "arity": "u4", "outgoing": "i4", "positive": "f8", "count": "f8", "pos": "i8", "neg": "i8",
    "sources": "u1", "weight": "f4", "seen_us": "i8", "sti": "f4", "lti": "f4", "vlti": "u1",
    "removed_high": "u8", "removed_low": "u8",
}  # fmt: skip
"""The columns of the present version, and the types of their numbers."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def none_removed() -> UInt64s:
    """No handles."""
    return np.zeros((0, 2), np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class GraphSnapshot:
    """The graph as it was at `created_at`, saved at `saved_at`.

    An increment names its base, and its graph has only atoms that are new or changed since, with all that
    their outgoing sets name; `removed` are the handles of those that are gone, shape (n, 2).
    """

    graph: GraphArrays
    created_at: datetime
    saved_at: datetime
    base: str | None = None
    removed: UInt64s = field(default_factory=none_removed)


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
    }
    return pieces_of(KIND, header, blocks_of(columns))


def read(file: BinaryIO) -> tuple[str, GraphSnapshot]:
    """The id and the content of a file that can seek.

    SnapshotError says what is damaged, and in which block, before anything is returned.
    """
    with making_sense(KIND):
        opened = ColumnFile(file, KIND)
        snapshot = _snapshot(opened.header, opened.columns())
        check(snapshot.graph)
        return opened.id, snapshot


def difference(base: GraphSnapshot, base_id: str, now: GraphSnapshot) -> GraphSnapshot:
    """The increment that turns the base into the present: what is new, changed or removed."""
    changed, removed = graph_difference(base.graph, now.graph)
    return replace(now, graph=changed, base=base_id, removed=removed)


def apply(base: GraphSnapshot, base_id: str, increment: GraphSnapshot) -> GraphSnapshot:
    """The state that the increment was made of; SnapshotError if it belongs to another base."""
    if increment.base != base_id:
        raise SnapshotError(f"the increment is for the base {increment.base}, not for {base_id}")
    with making_sense(KIND):
        graph = update(base.graph, increment.graph, increment.removed)
    return replace(increment, graph=graph, base=base.base, removed=base.removed)


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
    }
    _check_forms(columns)
    return columns


def _snapshot(header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> GraphSnapshot:
    _check_forms(columns)
    arity = columns["arity"]
    links = int(np.count_nonzero(arity))
    if (header["nodes"], header["links"]) != (len(arity) - links, links):
        raise ValueError("it has another number of atoms than its header says")
    graph = GraphArrays(
        handles=_pairs(columns["handles_high"], columns["handles_low"]),
        types=tuple(header["types"]),
        type_of=columns["type_of"],
        names=Texts(_starts(columns["name_bytes"]), columns["names"]),
        outgoing_starts=_starts(arity),
        outgoing=columns["outgoing"],
        **{name: columns[name] for name in NUMBERS},
    )
    removed = _pairs(columns["removed_high"], columns["removed_low"])
    return GraphSnapshot(
        graph,
        _instant(header["created_at_us"]),
        _instant(header["saved_at_us"]),
        base_of(header),
        removed,
    )


def _check_forms(columns: Mapping[str, NDArray[Any]]) -> None:
    forms = {name: column.dtype.str[1:] for name, column in columns.items()}
    if forms != _FORMS:
        wrong = sorted({*forms.items()} ^ {*_FORMS.items()})
        raise ValueError(f"its columns are not those of version {KIND.version}: {wrong[0]}")


def _lengths(starts: Int64s) -> NDArray[np.uint32]:
    return np.diff(starts).astype(np.uint32)


def _starts(lengths: NDArray[Any]) -> Int64s:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:], dtype=np.int64)
    return starts


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

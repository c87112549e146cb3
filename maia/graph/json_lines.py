"""Snapshots of the graph as lines of JSON, for people and other programs: the same content as a file has.

The first line says what it is: counts, when the graph was like this and when it was saved, and the base of an
increment. Then comes a line for each atom in the order of the handles, with its values; in an increment, one
for each atom of which only values have changed; and one for each removed handle. The last line has the
BLAKE2b of all lines before it; whoever edits the file deletes that line. maia.graph.files says what each
version has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import reduce
from hashlib import blake2b
from itertools import chain, islice
from math import isfinite
from typing import Any, Final
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray

from maia.graph.arrays import NO_ATOM, GraphArrays, Int64s, Texts, UInt64s, places_of
from maia.graph.checking import check_handles
from maia.graph.files import KIND, GraphSnapshot, attended_at, base_of, check_all
from maia.graph.merging import NUMBERS, in_order
from maia.graph.values import NO_VALUES, Elements, Kind, Values, ValuesOf, merged, starts_of, taken
from maia.learning.column_file import SnapshotError, making_sense

VERSION: Final = 2

_FORMAT: Final = "pleiades graph"
START: Final = b'{"format":"pleiades graph"'
"""How a file begins."""
_AT_ONCE: Final = 20_000
"""Atoms that are turned into objects at once."""
_SUM_BYTES: Final = 32
_UUID_TEXT: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_DIGIT_PLACES: Final = [place for place in range(_UUID_TEXT) if place not in _DASHES]
_INSTANT: Final = re.compile(r"-?\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_NEVER: Final = "1970-01-01T00:00:00.000000Z"
_KINDS: Final = {Kind.FLOATS: "floats", Kind.TEXTS: "texts", Kind.HANDLES: "handles"}
_KIND_OF: Final = {name: kind for kind, name in _KINDS.items()}
_DIGITS: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_TYPES: Final = {
    "positive": "f8", "count": "f8", "pos": "i8", "neg": "i8", "sources": "u1", "weight": "f4",
    "seen_us": "i8", "sti": "f4", "lti": "f4", "vlti": "u1", "attended_us": "i8",
}  # fmt: skip


# Writing


def write(snapshot: GraphSnapshot) -> Iterator[bytes]:
    """The lines, many in one piece; ValueError if a figure is infinite or NaN."""
    graph = snapshot.graph
    for name in ("positive", "count", "sti", "lti"):
        if not np.isfinite(getattr(graph, name)).all():
            raise ValueError(f"the column {name} holds what JSON cannot")
    if np.isinf(graph.weight).any():
        raise ValueError("the column weight holds what JSON cannot")
    places = places_of(graph.handles, snapshot.values.handles)
    others = taken(snapshot.values, np.flatnonzero(places == NO_ATOM))
    total = blake2b(digest_size=_SUM_BYTES)
    for piece in chain(
        [_line(_header(snapshot, len(others.handles)))],
        _atoms(graph, taken(snapshot.values, np.flatnonzero(places != NO_ATOM))),
        _pieces({"handle": handle, "values": found} for handle, found in _values(others)),
        _pieces({"removed": each} for each in _texts(snapshot.removed)),
    ):
        total.update(piece)
        yield piece
    yield _line({"blake2b": total.hexdigest()})


def _header(snapshot: GraphSnapshot, others: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": VERSION,
        "atoms": len(snapshot.graph),
        "valued": others,
        "removed": len(snapshot.removed),
        "created_at": snapshot.created_at,
        "saved_at": snapshot.saved_at,
        "base": snapshot.base,
    }


def _values(values: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    """The handles of atoms, with their values as JSON has them."""
    for handle, found in values.by_atom():
        yield str(handle), {key: {_KINDS[each.kind]: _told(each)} for key, each in found.items()}


def _told(value: Elements) -> Sequence[Any]:
    if value.kind is Kind.HANDLES:
        return [*map(str, value.elements)]
    if value.kind is Kind.FLOATS and not all(map(isfinite, value.elements)):
        raise ValueError("a value holds what JSON cannot")
    return value.elements


def _atoms(graph: GraphArrays, values: Values) -> Iterator[bytes]:
    is_valued = np.zeros(len(graph), bool)
    is_valued[places_of(graph.handles, values.handles)] = True
    left = _values(values)
    for begin in range(0, len(graph), _AT_ONCE):
        end = min(begin + _AT_ONCE, len(graph))
        objects = zip(_objects(graph, begin, end), is_valued[begin:end].tolist(), strict=True)
        yield b"".join(_line({**each, "values": next(left)[1]} if has else each) for each, has in objects)


def _pieces(lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    left = iter(lines)
    while some := b"".join(map(_line, islice(left, _AT_ONCE))):
        yield some


def _objects(graph: GraphArrays, begin: int, end: int) -> Iterator[dict[str, Any]]:
    """The atoms from one place to another, as JSON has them."""
    part = slice(begin, end)
    starts = graph.outgoing_starts[begin : end + 1].tolist()
    outgoing = _texts(graph.handles[graph.outgoing[starts[0] : starts[-1]]])
    seen, attended = _instants_of(graph.seen_us[part]), _instants_of(graph.attended_us[part])
    rows = zip(
        _texts(graph.handles[part]),
        graph.type_of[part].tolist(),
        *(getattr(graph, name)[part].tolist() for name in NUMBERS),
        strict=True,
    )
    for nth, (handle, code, positive, count, pos, neg, sources, weight, _, sti, lti, vlti, _) in enumerate(
        rows
    ):
        atom: dict[str, Any] = {"handle": handle, "type": graph.types[code]}
        if starts[nth] == starts[nth + 1]:
            atom["name"] = graph.names[begin + nth]
        else:
            atom["outgoing"] = outgoing[starts[nth] - starts[0] : starts[nth + 1] - starts[0]]
        atom |= {"positive": positive, "count": count, "pos": pos, "neg": neg, "sources": sources}
        if weight == weight:
            atom["weight"] = weight
        atom |= {"seen_at": seen[nth], "sti": sti, "lti": lti, "vlti": vlti}
        if attended[nth] != _NEVER:
            atom["attended_at"] = attended[nth]
        yield atom


def _instants_of(microseconds: Int64s) -> list[str]:
    texts: list[str] = np.datetime_as_string(microseconds.astype("M8[us]"), timezone="UTC").tolist()
    return texts


def _line(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


def _texts(handles: UInt64s) -> list[str]:
    """The usual texts of handles, such as 00000000-0000-0000-0000-000000000000."""
    packed = np.ascontiguousarray(handles.astype(">u8")).view(np.uint8).reshape(-1, 16)
    texts = np.full((len(packed), _UUID_TEXT), ord("-"), np.uint8)
    texts[:, _DIGIT_PLACES[::2]] = _DIGITS[packed >> 4]
    texts[:, _DIGIT_PLACES[1::2]] = _DIGITS[packed & 15]
    joined = texts.tobytes().decode()
    return [joined[at : at + _UUID_TEXT] for at in range(0, len(joined), _UUID_TEXT)]


# Reading


def read(lines: Iterable[bytes]) -> GraphSnapshot:
    """The snapshot in these lines; SnapshotError says what is wrong, before anything is returned."""
    with making_sense(KIND):
        found = _Lines(lines)
        snapshot = _snapshot(found.header, list(found.chunks()))
        check_all(snapshot)
        # People may have edited it.
        check_handles(snapshot.graph)
        return snapshot


class _Lines:
    """The objects in the lines, with the checks that all of them are there."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        first = next(self._lines, b"")
        self._total = blake2b(first, digest_size=_SUM_BYTES)
        self.header: dict[str, Any] = _parsed(first, 1)
        if self.header.get("format") != _FORMAT:
            raise SnapshotError(
                "the first line does not say that this is a graph: maia graph import reads what was exported"
            )
        if self.header["version"] > VERSION:
            raise SnapshotError(
                f"the lines have format version {self.header['version']}; this version reads up to "
                f"{VERSION}: upgrade first"
            )
        if self.header["version"] == 1:
            self.header["valued"] = 0

    def chunks(self) -> Iterator[_Chunk]:
        """The atoms, values and removed handles, many at once."""
        left = sum(self.header[name] for name in ("atoms", "valued", "removed"))
        number = 1
        while left:
            lines = [*islice(self._lines, min(left, _AT_ONCE))]
            if not lines:
                raise SnapshotError(f"the lines end after line {number}; {left:,} are missing")
            for line in lines:
                self._total.update(line)
            yield _Chunk([_parsed(line, number + nth) for nth, line in enumerate(lines, start=1)])
            number, left = number + len(lines), left - len(lines)
        self._check_end([*islice(self._lines, 2)], number + 1)

    def _check_end(self, rest: Sequence[bytes], number: int) -> None:
        if not rest:
            return
        if len(rest) > 1 or _parsed(rest[0], number).get("blake2b") is None:
            raise SnapshotError(f"line {number} is more than the first line says")
        if _parsed(rest[0], number)["blake2b"] != self._total.hexdigest():
            raise SnapshotError(
                f"the checksum in line {number} is wrong: if you have edited the lines, delete that one"
            )


class _Chunk:
    """Some lines as columns: a thousand objects of Python would take a hundred times as much memory."""

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        atoms = [each for each in lines if "type" in each]
        self.values = Values.of(
            (UUID(each["handle"]), _valued(each["values"])) for each in lines if "values" in each
        )
        self.removed = _handles([each["removed"] for each in lines if "removed" in each])
        self.handles = _handles([each["handle"] for each in atoms])
        self.types = [each["type"] for each in atoms]
        self.names = Texts.of([each.get("name", "") for each in atoms])
        outgoing = [each.get("outgoing", ()) for each in atoms]
        self.arity = np.array([len(each) for each in outgoing], np.int64)
        self.ends = _handles(list(chain.from_iterable(outgoing)))
        self.numbers = {name: _column(atoms, name, form) for name, form in _TYPES.items()}


def _parsed(line: bytes, number: int) -> dict[str, Any]:
    try:
        content = orjson.loads(line)
    except ValueError as error:
        raise SnapshotError(f"line {number} is cut off or damaged: {error}") from error
    if not isinstance(content, dict):
        raise SnapshotError(f"line {number} is no object")
    return content


def _column(atoms: Sequence[dict[str, Any]], name: str, form: str) -> NDArray[Any]:
    if name == "weight":
        return _numbers([each.get(name, np.nan) for each in atoms], form)
    if name == "seen_us":
        return _instants([each["seen_at"] for each in atoms])
    if name == "attended_us":
        return _instants([each.get("attended_at", _NEVER) for each in atoms])
    return _numbers([each[name] for each in atoms], form)


def _valued(values: Mapping[str, Any]) -> ValuesOf:
    return {key: _value(value) for key, value in values.items()}


def _value(value: Mapping[str, Sequence[Any]]) -> Elements:
    [(name, elements)] = value.items()
    kind = _KIND_OF[name]
    if not isinstance(elements, list):
        raise ValueError("a value is no list")
    if kind is Kind.FLOATS:
        return Elements(kind, _numbers(elements, "f8").tolist())
    if kind is Kind.TEXTS and not all(isinstance(each, str) for each in elements):
        raise ValueError("a text of a value is none")
    return Elements(kind, elements if kind is Kind.TEXTS else [*map(UUID, elements)])


def _instants(texts: Sequence[str]) -> Int64s:
    if not all(map(_INSTANT.fullmatch, texts)):
        raise ValueError("an instant is not as 2026-11-02T08:00:00.000000Z")
    return np.array([each[:-1] for each in texts], "M8[us]").astype(np.int64)


def _numbers(values: Sequence[float], form: str) -> NDArray[Any]:
    """NumPy alone would round, wrap and read numbers in quotes."""
    found = np.array(values) if values else np.zeros(0, form)
    if found.dtype.kind not in ("iuf" if form.startswith("f") else "iu"):
        raise ValueError("a number is not of the kind that belongs there")
    with np.errstate(over="ignore"):
        column = found.astype(form)
    if np.isinf(column).any() if form.startswith("f") else (column != found).any():
        raise ValueError("a number is too large")
    return column


def _handles(texts: Sequence[str]) -> UInt64s:
    if any(len(each) != _UUID_TEXT for each in texts):
        raise ValueError("a handle is no UUID")
    packed = bytes.fromhex("".join(texts).replace("-", ""))
    return np.frombuffer(packed, ">u8").astype(np.uint64).reshape(len(texts), 2)


def _snapshot(header: dict[str, Any], chunks: Sequence[_Chunk]) -> GraphSnapshot:
    graph, created_at = _graph([*chunks, _Chunk(())]), _instant(header["created_at"])
    removed = np.concatenate([_Chunk(()).removed, *(each.removed for each in chunks)])
    values = reduce(merged, [each.values for each in chunks], NO_VALUES)
    others = np.count_nonzero(places_of(graph.handles, values.handles) == NO_ATOM)
    if (len(graph), others, len(removed)) != tuple(header[name] for name in ("atoms", "valued", "removed")):
        raise ValueError("it has another number of atoms than its first line says")
    if header["version"] == 1:
        columns = {name: getattr(graph, name) for name in NUMBERS}
        graph = replace(graph, attended_us=attended_at(columns, created_at))
    return GraphSnapshot(graph, created_at, _instant(header["saved_at"]), base_of(header), removed, values)


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text} does not say its time zone")
    return instant


def _graph(chunks: Sequence[_Chunk]) -> GraphArrays:
    handles = np.concatenate([each.handles for each in chunks])
    types = sorted({name for each in chunks for name in each.types})
    code_of = {name: code for code, name in enumerate(types)}
    arity = np.concatenate([each.arity for each in chunks])
    data = [each.names.data for each in chunks]
    lengths = np.concatenate([np.diff(each.names.starts) for each in chunks])
    unordered = GraphArrays(
        handles=handles,
        types=tuple(types),
        type_of=np.array([code_of[name] for each in chunks for name in each.types], np.int16),
        names=Texts(starts_of(lengths), np.concatenate(data)),
        outgoing_starts=starts_of(arity),
        outgoing=np.zeros(int(arity.sum()), np.int32),
        **{name: np.concatenate([each.numbers[name] for each in chunks]) for name in NUMBERS},
    )
    return _linked(unordered, np.concatenate([each.ends for each in chunks]))


def _linked(unordered: GraphArrays, ends: UInt64s) -> GraphArrays:
    """The graph in order, with the outgoing sets that these handles make one after the other."""
    order = np.lexsort((unordered.handles[:, 1], unordered.handles[:, 0]))
    found = places_of(unordered.handles[order], ends)
    if (found == NO_ATOM).any():
        raise ValueError("an outgoing set names an atom that is not there")
    return in_order(replace(unordered, outgoing=order[found].astype(np.int32)))

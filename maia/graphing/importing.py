"""Import atoms from lines of JSON or GraphML, as this site's people say them.

The whole file is read and checked before anything is stored, so that a line that makes no sense leaves the
graph as it was. Then the atoms are stored in batches; importing a file again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite, nan
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeGuard
from uuid import UUID
from xml.parsers import expat

import orjson

from atlas.adapters.graph import (
    AT_ONCE,
    HEAVIEST,
    LONGEST_KEY,
    LONGEST_NAME,
    MOST_OBSERVED,
    MOST_OUTGOING,
    OWN,
    Added,
    AtomType,
    Evidence,
    GraphDAO,
    Link,
    NewAtom,
    Sources,
    Value,
    link_handle,
    node_handle,
)
from atlas.composition import Atlas
from atlas.queries import clean_text
from maia.errors import MaiaError
from maia.graphing.disk import is_snapshot
from maia.graphing.exporting import Format, OnProgress
from maia.graphing.forms import Form, FormError, HandleForm, LinkForm, NodeForm, parse_form
from maia.graphing.naming import NoSuchAtom, new_atom

_PIECE: Final = 1 << 16
_START_BYTES: Final = 100
_LONGEST_LINE: Final = 1 << 20
_MOST_DIGITS: Final = 30
_KNOWN_ENCODINGS: Final = ("utf-8", "utf-16", "us-ascii", "iso-8859-1")
_NO_WEIGHT: Final = "weight is no number from -3e38 to 3e38"
_OTHERS_NODE, _OTHERS_EDGE = "concept", "related_to"
"""What nodes and edges of other programs become, which have no types of ours."""


class ImportRefused(MaiaError):
    """What is to be imported makes no sense; nothing was stored."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(f"line {line:,}: {reason}; nothing was imported")


@dataclass(frozen=True, slots=True)
class Imported:
    """How many atoms a file had, and how many of them were new or changed."""

    atoms: int
    added: int
    changed: int


@dataclass(frozen=True, slots=True)
class _Item:
    """An atom of a file, with its values by key, and the line on which it is."""

    line: int
    atom: NewAtom
    has_evidence: bool
    values: Mapping[str, Any]


async def import_file(
    atlas: Atlas, path: Path, format_: Format, on_progress: OnProgress | None = None
) -> Imported:
    """Store the atoms of a file; ImportRefused names the line that makes no sense, with nothing stored."""
    if await asyncio.to_thread(_holds_snapshot, path):
        raise ImportRefused(1, "this is a snapshot, which maia graph load puts in place of the graph")
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of(OWN)
    types = await dao.types()
    total = await asyncio.to_thread(_count, path, format_, types)
    added, stored = Added(), 0
    with path.open("rb") as file:
        items = _items(file, format_, types)
        while batch := await asyncio.to_thread(lambda: list(islice(items, AT_ONCE))):
            async with dao.transaction() as inside:
                for told in (True, False):
                    atoms = [each.atom for each in batch if each.has_evidence == told]
                    # Evidence that isn't told stays as it is.
                    added += await inside.add(atoms, Sources.PEOPLE, counting=not told)
                await inside.set_values([value for each in batch for value in _values(each, types)])
            stored += len(batch)
            if on_progress is not None:
                on_progress(stored)
    return Imported(total, added.added, added.changed)


def _holds_snapshot(path: Path) -> bool:
    with path.open("rb") as file:
        return is_snapshot(file.read(_START_BYTES))


def _count(path: Path, format_: Format, types: Mapping[str, AtomType]) -> int:
    """How many atoms a file has, all of which make sense."""
    with path.open("rb") as file:
        return sum(1 for _ in _items(file, format_, types))


def _items(file: BinaryIO, format_: Format, types: Mapping[str, AtomType]) -> Iterator[_Item]:
    return _of_lines(file, types) if format_ is Format.JSON else _of_graphml(file, types)


# Lines of JSON


def _of_lines(file: BinaryIO, types: Mapping[str, AtomType]) -> Iterator[_Item]:
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise ImportRefused(number, "it is longer than 1 MiB")
        if line.strip():
            yield _of_line(number, line, types)


def _of_line(number: int, line: bytes, types: Mapping[str, AtomType]) -> _Item:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ImportRefused(number, f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ImportRefused(number, "an atom is an object with type and name, or type and outgoing")
    weight, values = found.get("weight"), _checked_values(number, found.get("values", {}))
    if weight is not None and not _is_weight(weight):
        raise ImportRefused(number, _NO_WEIGHT)
    evidence = Evidence(_tally(number, found, "pos"), _tally(number, found, "neg"))
    atom = _made(number, _form_of(number, found), types, evidence, weight)
    return _Item(number, atom, bool({"pos", "neg"} & found.keys()), values)


def _checked_values(number: int, values: object) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(_is_value(each) for each in values.values()):
        raise ImportRefused(number, "values are lists of numbers or texts, or objects with a list of atoms")
    if not all(1 <= len(clean_text(key)) <= LONGEST_KEY for key in values):
        raise ImportRefused(number, f"the key of a value has 1 to {LONGEST_KEY} characters")
    return values


def _form_of(number: int, found: Mapping[str, Any]) -> Form:
    type_, name, outgoing = found.get("type"), found.get("name"), found.get("outgoing")
    if not isinstance(type_, str) or (name is None) == (outgoing is None):
        raise ImportRefused(number, "an atom has a type and either a name or an outgoing set")
    if outgoing is None:
        cleaned = clean_text(name) if isinstance(name, str) else ""
        if not 1 <= len(cleaned) <= LONGEST_NAME:
            raise ImportRefused(number, f"a name is a text of 1 to {LONGEST_NAME} characters")
        return NodeForm(type_, cleaned)
    if (
        not isinstance(outgoing, list)
        or not 1 <= len(outgoing) <= MOST_OUTGOING
        or not all(isinstance(each, str) for each in outgoing)
    ):
        raise ImportRefused(
            number, f"outgoing is a list of 1 to {MOST_OUTGOING} atoms in text, such as tag:music"
        )
    return LinkForm(type_, tuple(_parsed(number, each, 1) for each in outgoing))


def _tally(number: int, found: Mapping[str, Any], key: str) -> int:
    value = found.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_OBSERVED:
        raise ImportRefused(number, f"{key} is no whole number from 0 to 2^53")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_weight(value: object) -> bool:
    return _is_number(value) and abs(value) <= HEAVIEST


def _is_value(value: object) -> bool:
    if isinstance(value, dict):
        atoms = value.get("atoms")
        return isinstance(atoms, list) and all(_is_handle(each) for each in atoms)
    return isinstance(value, list) and (
        all(map(_is_number, value)) or all(isinstance(each, str) for each in value)
    )


def _is_handle(value: object) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True


def _parsed(number: int, text: str, depth: int = 0) -> Form:
    try:
        return parse_form(text, depth)
    except FormError as error:
        raise ImportRefused(number, str(error)) from error


def _made(
    number: int,
    form: Form,
    types: Mapping[str, AtomType],
    evidence: Evidence,
    weight: float | None,
) -> NewAtom:
    if _has_handle(form):
        raise ImportRefused(number, "a handle says nothing about what an atom is: write its type and name")
    try:
        return new_atom(form, types, evidence, weight)
    except NoSuchAtom as error:
        raise ImportRefused(number, str(error)) from error


def _has_handle(form: Form) -> bool:
    return isinstance(form, HandleForm) or (
        isinstance(form, LinkForm) and any(map(_has_handle, form.outgoing))
    )


def _values(item: _Item, types: Mapping[str, AtomType]) -> Iterable[Value]:
    handle = _handle(item.atom, types) if item.values else None
    for key, value in item.values.items():
        assert handle is not None
        if isinstance(value, dict):
            yield Value(handle, key, handles=[UUID(each) for each in value["atoms"]])
        elif value and isinstance(value[0], str):
            yield Value(handle, key, texts=[clean_text(each) for each in value])
        else:
            yield Value(handle, key, floats=[float(each) for each in value])


def _handle(atom: NewAtom | UUID, types: Mapping[str, AtomType]) -> UUID:
    if isinstance(atom, UUID):
        return atom
    if isinstance(atom, Link):
        ends = [_handle(each, types) for each in atom.outgoing]
        return link_handle(atom.type, sorted(ends) if types[atom.type].is_symmetric else ends)
    return node_handle(atom.type, atom.name)


# GraphML


def _of_graphml(file: BinaryIO, types: Mapping[str, AtomType]) -> Iterator[_Item]:
    reader = _GraphMlReader(types)
    while piece := file.read(_PIECE):
        yield from reader.feed(piece)
    yield from reader.feed(b"", is_last=True)


class _GraphMlReader:
    """Reads nodes and edges; those with `atom` are as we export them, others become concepts and their links.

    Documents with a type are refused, because that can define entities without end. Edges of other programs
    must come after their nodes.
    """

    def __init__(self, types: Mapping[str, AtomType]) -> None:
        self._types = types
        self._items: list[_Item] = []
        self._others: dict[str, NodeForm] = {}
        self._is_graphml = False
        self._keys: dict[str, str] = {}
        self._path: list[str] = []
        self._open: list[_Element] = []
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.XmlDeclHandler = self._check_encoding
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse_type

    def feed(self, piece: bytes, *, is_last: bool = False) -> Sequence[_Item]:
        try:
            self._parser.Parse(piece, is_last)
        except expat.ExpatError as error:
            raise ImportRefused(error.lineno, f"it is no XML: {expat.ErrorString(error.code)}") from error
        if is_last and not self._is_graphml:
            raise ImportRefused(1, "it is no GraphML: there is no element graphml")
        found, self._items = self._items, []
        return found

    def _refuse_type(self, *_: Any) -> None:
        raise ImportRefused(self._parser.CurrentLineNumber, "GraphML has no document type")

    def _check_encoding(self, version: str, encoding: str | None, is_standalone: int) -> None:
        if encoding is not None and not _is_readable(encoding):
            raise ImportRefused(
                self._parser.CurrentLineNumber, f"the encoding {encoding[:50]!r} can't be read: use UTF-8"
            )

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        name = qualified.rpartition(" ")[2]
        self._path.append(name)
        match name:
            case "graphml":
                self._is_graphml = True
            case "key":
                self._keys[attributes.get("id", "")] = attributes.get("attr.name", "")
            case "node" | "edge":
                self._open.append(_Element(self._parser.CurrentLineNumber, attributes))
            case "data" if self._path[-2:-1] in (["node"], ["edge"]):
                key = attributes.get("key", "")
                self._open[-1].begin(self._keys.get(key, key))
            case "hyperedge" | "port":
                raise ImportRefused(self._parser.CurrentLineNumber, f"{name} of GraphML is not read")

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].add(text)

    def _end(self, qualified: str) -> None:
        name = self._path.pop()
        if name == "data" and self._open:
            self._open[-1].key = None
        elif name == "node":
            element = self._open.pop()
            self._add(element, self._node(element))
        elif name == "edge":
            element = self._open.pop()
            if "position" not in element.data:
                self._add(element, self._edge(element))

    def _add(self, element: _Element, form: Form) -> None:
        evidence = Evidence(element.tally("pos"), element.tally("neg"))
        weight = element.weight() if isinstance(form, LinkForm) else None
        atom = _made(element.line, form, self._types, evidence, weight)
        self._items.append(
            _Item(element.line, atom, bool({"pos", "neg"} & element.data.keys()), element.values())
        )

    def _node(self, element: _Element) -> Form:
        if "atom" in element.data:
            return _parsed(element.line, element.data["atom"])
        id_ = element.attributes.get("id", "")
        name = clean_text(element.data.get("label") or id_).strip()
        if not id_ or not 1 <= len(name) <= LONGEST_NAME:
            raise ImportRefused(
                element.line, f"a node has an id, and a name of 1 to {LONGEST_NAME} characters"
            )
        type_ = self._type(element, _OTHERS_NODE, is_link=False)
        form = self._others[id_] = NodeForm(type_, name)
        return form

    def _edge(self, element: _Element) -> Form:
        if "atom" in element.data:
            return _parsed(element.line, element.data["atom"])
        ends = [self._others.get(element.attributes.get(end, "")) for end in ("source", "target")]
        known = tuple(each for each in ends if each is not None)
        if len(known) < len(ends):
            raise ImportRefused(element.line, "an edge is between two nodes that come before it")
        return LinkForm(self._type(element, _OTHERS_EDGE, is_link=True), known)

    def _type(self, element: _Element, other: str, *, is_link: bool) -> str:
        """The type that it says it has, if that is one of ours."""
        type_ = self._types.get(element.data.get("type", ""))
        return other if type_ is None or type_.is_link != is_link else type_.name


@dataclass(slots=True)
class _Element:
    """A node or edge that is being read, with its data by key; `key` is that of the data that is open."""

    line: int
    attributes: Mapping[str, str]
    data: dict[str, str] = field(default_factory=dict)
    key: str | None = None

    def begin(self, key: str) -> None:
        self.key = key
        self.data[key] = ""

    def add(self, text: str) -> None:
        if self.key is not None:
            self.data[self.key] += text

    def tally(self, key: str) -> int:
        text = self.data.get(key, "0").strip()
        # A long text of digits takes long to read.
        if not (
            text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) <= MOST_OBSERVED
        ):
            raise ImportRefused(self.line, f"{key} is no whole number from 0 to 2^53")
        return int(text)

    def values(self) -> dict[str, Any]:
        # A number or text that another program calls so is none of ours.
        if "atom" not in self.data:
            return {}
        try:
            values = orjson.loads(self.data.get("values", "{}"))
        except orjson.JSONDecodeError as error:
            raise ImportRefused(self.line, f"values are no JSON: {error}") from error
        return _checked_values(self.line, values)

    def weight(self) -> float | None:
        text = self.data.get("weight")
        if text is None:
            return None
        try:
            weight = float(text)
        except ValueError:
            weight = nan
        if not _is_weight(weight):
            raise ImportRefused(self.line, _NO_WEIGHT)
        return weight


def _is_readable(encoding: str) -> bool:
    """Whether the parser can read it: it knows few encodings, and those in which each byte is a character."""
    if encoding.lower() in _KNOWN_ENCODINGS:
        return True
    try:
        return len(bytes(range(256)).decode(encoding, "replace")) == 256
    except (LookupError, UnicodeError):
        return False

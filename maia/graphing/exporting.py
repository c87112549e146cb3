"""Export the knowledge graph, whole or in part, as lines of JSON, GraphML or Parquet.

Memory stays constant however much is exported: atoms are read page by page, nodes first, and written as they
come. An export is therefore not a snapshot: what changes while it runs may be in it or not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID
from xml.sax.saxutils import escape, quoteattr

import orjson

from atlas.adapters.graph import FIRST, OWN, Atom, Sources, Value
from atlas.adapters.graph_exports import GraphExportsDAO
from atlas.composition import Atlas
from atlas.errors import ConfigError
from atlas.exports import CountingFile
from atlas.extras import how_to_install
from maia.graphing.forms import NodeForm
from maia.graphing.naming import Named, NoSuchAtom, check_type, handle_of, name_atoms
from maia.learning.truth import TruthValue

if TYPE_CHECKING:
    from atlas.stores import Destination

FAR: Final = 100_000
"""A part around an atom has at most so many atoms."""
_AT_ONCE: Final = 2_000
_SOURCES: Final = {
    Sources.FACTS: "facts",
    Sources.DERIVED: "derived",
    Sources.PEOPLE: "people",
    Sources.SITES: "sites",
}

OnProgress = Callable[[int], None]


class Format(StrEnum):
    """How a graph is written."""

    JSON = "json"
    GRAPHML = "graphml"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to export: all of a space, or only some types, or what is near an atom, or both.

    Types of nodes leave out other nodes, and links with other ends; types of links leave out other links, and
    without any type of nodes, also nodes that have none of these. `around` is a text form, of an atom from
    which nodes are at most `hops` links of two away.
    """

    types: tuple[str, ...] = ()
    around: str | None = None
    hops: int = 1
    space: int = OWN


@dataclass(frozen=True, slots=True)
class Exported:
    """How many atoms were written, and how many bytes."""

    nodes: int
    links: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ExportedAtom:
    """An atom with its text form and those of its ends, its values, and whether a link has it as an end."""

    atom: Atom
    text: str
    ends: tuple[str, ...]
    values: tuple[Value, ...]
    is_used: bool

    @property
    def is_edge(self) -> bool:
        """Whether it is what other programs call an edge: a link of two that no other link is about."""
        return len(self.ends) == 2 and not self.is_used


async def export(
    atlas: Atlas,
    selection: Selection,
    format_: Format,
    targets: Sequence[tuple[Destination, str]],
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write a selection to a file, or as Parquet to one for nodes and one for links, in this order.

    NoSuchAtom if a type or the atom in the middle isn't there. If it fails, no file appears.
    """
    dao = GraphExportsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of(selection.space)
    pages = await _pages(dao, selection)
    if format_ is Format.PARQUET and find_spec("pyarrow") is None:
        raise ConfigError(
            f"Parquet needs pyarrow; install it: {how_to_install('parquet')}, or choose another format"
        )
    done = {False: 0, True: 0}
    async with AsyncExitStack() as stack:
        files = [
            CountingFile(await stack.enter_async_context(target.writing(name))) for target, name in targets
        ]
        writer = await asyncio.to_thread(_WRITERS[format_], files)
        try:
            async for page in pages:
                atoms = await _described(dao, page)
                await asyncio.to_thread(writer.write, atoms)
                for each in page:
                    done[each.is_link] += 1
                if on_progress is not None:
                    on_progress(sum(done.values()))
            await asyncio.to_thread(writer.close)
        except BaseException:
            for file in files:
                file.discard_writes()
            raise
    return Exported(done[False], done[True], sum(file.bytes for file in files))


async def streamed(atlas: Atlas, selection: Selection, format_: Format) -> AsyncGenerator[bytes, None]:
    """A selection as it is written, for who takes it bit by bit; not as Parquet, which needs two files.

    NoSuchAtom at once if a type or the atom in the middle isn't there. No more than a page is in memory, and
    nothing is held in the database while nobody takes the next one.
    """
    dao = GraphExportsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of(selection.space)
    return _written(dao, await _pages(dao, selection), format_)


async def _written(
    dao: GraphExportsDAO, pages: AsyncIterator[list[Atom]], format_: Format
) -> AsyncGenerator[bytes, None]:
    body = BytesIO()
    writer = _WRITERS[format_]([CountingFile(body)])
    async for page in pages:
        atoms = await _described(dao, page)
        await asyncio.to_thread(writer.write, atoms)
        yield _taken(body)
    writer.close()
    yield _taken(body)


def _taken(body: BytesIO) -> bytes:
    taken = body.getvalue()
    body.seek(0)
    body.truncate()
    return taken


# What to write, page by page


async def _pages(dao: GraphExportsDAO, selection: Selection) -> AsyncIterator[list[Atom]]:
    types = await dao.types()
    checked = [check_type(each, types) for each in selection.types]
    nodes = [each.name for each in checked if not each.is_link] or None
    links = [each.name for each in checked if each.is_link] or None
    if selection.around is None:
        return _pages_of_all(dao, nodes, links)
    handle = await handle_of(dao, selection.around)
    if not await dao.get([handle]):
        raise NoSuchAtom(
            f"there is no atom {selection.around}: maia graph find lists those whose names begin alike"
        )
    return _pages_around(dao, handle, selection.hops, nodes, links)


async def _pages_of_all(
    dao: GraphExportsDAO, nodes: list[str] | None, links: list[str] | None
) -> AsyncIterator[list[Atom]]:
    in_links = None if nodes else links
    for read in (partial(dao.nodes, nodes, in_links), partial(dao.links, links, nodes)):
        after = FIRST
        while page := await read(after=after, limit=_AT_ONCE):
            yield page
            after = page[-1].handle


async def _pages_around(
    dao: GraphExportsDAO, handle: UUID, hops: int, nodes: list[str] | None, links: list[str] | None
) -> AsyncIterator[list[Atom]]:
    reached = {handle: None}
    rim = [handle]
    for _ in range(hops):
        near = await dao.expand(rim, links, limit=len(reached) + FAR)
        rim = [each for each in near if each not in reached]
        reached |= dict.fromkeys(rim)
        if len(reached) > FAR:
            raise NoSuchAtom(
                f"more than {FAR:,} atoms are within {hops} links of it: name types of links, or fewer hops"
            )
    kept: set[UUID] = set()
    nested: list[Atom] = []
    for batch in _batches(list(reached)):
        atoms = [each for each in await dao.get(batch) if nodes is None or each.is_link or each.type in nodes]
        kept |= {each.handle for each in atoms}
        nested += [each for each in atoms if each.is_link]
        yield [each for each in atoms if not each.is_link]
    told = {each.handle for each in nested}
    yield nested
    for batch in _batches(sorted(kept)):
        found = [link for link, _, other in await dao.links_from(batch) if other is None or other in kept]
        for part in _batches([each for each in found if each not in told]):
            atoms = [each for each in await dao.get(part) if links is None or each.type in links]
            yield [each for each in atoms if kept.issuperset(each.outgoing or ())]


def _batches(handles: list[UUID]) -> Iterable[list[UUID]]:
    return (handles[start : start + _AT_ONCE] for start in range(0, len(handles), _AT_ONCE))


async def _described(dao: GraphExportsDAO, atoms: Sequence[Atom]) -> list[ExportedAtom]:
    handles = [each.handle for each in atoms]
    links = [each.handle for each in atoms if each.is_link]
    names = await name_atoms(dao, links)
    used = await dao.used(links) if links else set()
    values: dict[UUID, list[Value]] = {}
    for each in await dao.values(handles):
        values.setdefault(each.handle, []).append(each)
    return [
        ExportedAtom(
            each,
            _text(each, names),
            tuple(names[end].text for end in each.outgoing or () if end in names),
            tuple(values.get(each.handle, ())),
            each.handle in used,
        )
        for each in atoms
        if not each.is_link or each.handle in names
    ]


def _text(atom: Atom, names: dict[UUID, Named]) -> str:
    return names[atom.handle].text if atom.name is None else str(NodeForm(atom.type, atom.name))


def _source_names(atom: Atom) -> list[str]:
    return [name for source, name in _SOURCES.items() if source in atom.sources]


# Writing, in a thread


class _Writer(Protocol):
    def write(self, atoms: Sequence[ExportedAtom]) -> None: ...

    def close(self) -> None: ...


class _JsonLines:
    """An object for each atom, a line each; links name their ends, so that each line can be read alone."""

    def __init__(self, files: Sequence[CountingFile]) -> None:
        [self._file] = files

    def write(self, atoms: Sequence[ExportedAtom]) -> None:
        lines = [
            orjson.dumps(_object(each), option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE) for each in atoms
        ]
        self._file.write(b"".join(lines))

    def close(self) -> None:
        """There is nothing after the last line."""


def _object(exported: ExportedAtom) -> dict[str, Any]:
    atom = exported.atom
    what = {"name": atom.name} if atom.name is not None else {"outgoing": exported.ends}
    found: dict[str, Any] = {
        "type": atom.type, **what, "pos": atom.pos, "neg": atom.neg, "positive": atom.positive,
        "count": atom.count, "weight": atom.weight, "sources": _source_names(atom), "seen_at": atom.seen_at,
        "sti": atom.sti, "lti": atom.lti, "vlti": atom.vlti,
    }  # fmt: skip
    if exported.values:
        found["values"] = _shown_values(exported)
    return {key: value for key, value in found.items() if value is not None}


def _shown_values(exported: ExportedAtom) -> dict[str, Any]:
    return {each.key: _shown_value(each) for each in exported.values}


def _values_text(exported: ExportedAtom) -> str | None:
    """The values as JSON; None if there are none."""
    return orjson.dumps(_shown_values(exported)).decode() if exported.values else None


def _shown_value(value: Value) -> Any:
    if value.handles is not None:
        return {"atoms": [str(each) for each in value.handles]}
    return value.floats if value.floats is not None else value.texts


_GRAPHML: Final = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""
_KEYS: Final = {
    "atom": "string", "type": "string", "label": "string", "pos": "long", "neg": "long", "strength": "double",
    "confidence": "double", "count": "double", "weight": "double", "sources": "string", "seen_at": "string",
    "sti": "double", "lti": "double", "position": "int", "values": "string",
}  # fmt: skip
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _GraphMl:
    """Nodes are nodes and links of two are edges; other links, and links in links, are nodes with an edge to
    each end. `atom` has the text form, from which everything is read back.
    """

    def __init__(self, files: Sequence[CountingFile]) -> None:
        [self._file] = files
        keys = "".join(
            f'  <key id="{name}" for="all" attr.name="{name}" attr.type="{kind}"/>\n'
            for name, kind in _KEYS.items()
        )
        self._file.write(f'{_GRAPHML}{keys}  <graph id="G" edgedefault="directed">\n'.encode())

    def write(self, atoms: Sequence[ExportedAtom]) -> None:
        self._file.write("".join(map(_element, atoms)).encode())

    def close(self) -> None:
        self._file.write(b"  </graph>\n</graphml>\n")


def _element(exported: ExportedAtom) -> str:
    atom = exported.atom
    data = _data(_figures(exported))
    if exported.is_edge:
        source, target = atom.outgoing or ()
        return f'    <edge id="{atom.handle}" source="{source}" target="{target}">{data}</edge>\n'
    edges = "".join(
        f'    <edge source="{atom.handle}" target="{end}">{_data({"position": place})}</edge>\n'
        for place, end in enumerate(atom.outgoing or (), 1)
    )
    return f'    <node id="{atom.handle}">{data}</node>\n{edges}'


def _figures(exported: ExportedAtom) -> dict[str, Any]:
    atom = exported.atom
    truth = TruthValue.of_counts(atom.positive, atom.count - atom.positive)
    # In a text form, such characters are only in quotes, as in JSON.
    text, values = (
        each and _NOT_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", each)
        for each in (exported.text, _values_text(exported))
    )
    return {
        "atom": text, "type": atom.type, "label": atom.name or atom.type, "pos": atom.pos,
        "neg": atom.neg, "strength": truth.strength, "confidence": truth.confidence, "count": atom.count,
        "weight": atom.weight, "sources": " ".join(_source_names(atom)),
        "seen_at": atom.seen_at.isoformat(), "sti": atom.sti, "lti": atom.lti, "values": values,
    }  # fmt: skip


def _data(figures: dict[str, Any]) -> str:
    return "".join(
        f"<data key={quoteattr(key)}>{escape(_NOT_XML.sub('�', str(value)))}</data>"
        for key, value in figures.items()
        if value is not None
    )


class _Parquet:
    """One file for nodes and one for links, a row group for each page."""

    def __init__(self, files: Sequence[CountingFile]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        common = [
            ("handle", pa.string()), ("atom", pa.string()), ("type", pa.string()), ("pos", pa.int64()),
            ("neg", pa.int64()), ("strength", pa.float64()), ("confidence", pa.float64()),
            ("count", pa.float64()), ("weight", pa.float32()), ("sources", pa.list_(pa.string())),
            ("seen_at", pa.timestamp("us", "UTC")), ("sti", pa.float32()), ("lti", pa.float32()),
            ("values", pa.string()),
        ]  # fmt: skip
        handles, texts = pa.list_(pa.string()), pa.list_(pa.string())
        self._schemas = (
            pa.schema([*common, ("name", pa.string())]),
            pa.schema([*common, ("outgoing", handles), ("ends", texts)]),
        )
        self._writers = [
            parquet.ParquetWriter(pa.PythonFile(file, "w"), schema, compression="zstd")
            for file, schema in zip(files, self._schemas, strict=True)
        ]

    def write(self, atoms: Sequence[ExportedAtom]) -> None:
        import pyarrow as pa

        for are_links, writer, schema in zip((False, True), self._writers, self._schemas, strict=True):
            rows = [_row(each) for each in atoms if each.atom.is_link == are_links]
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def _row(exported: ExportedAtom) -> dict[str, Any]:
    atom = exported.atom
    truth = TruthValue.of_counts(atom.positive, atom.count - atom.positive)
    return {
        "handle": str(atom.handle), "atom": exported.text, "type": atom.type, "pos": atom.pos,
        "neg": atom.neg, "strength": truth.strength, "confidence": truth.confidence, "count": atom.count,
        "weight": atom.weight, "sources": _source_names(atom), "seen_at": atom.seen_at, "sti": atom.sti,
        "lti": atom.lti, "name": atom.name, "outgoing": [str(each) for each in atom.outgoing or ()],
        "ends": list(exported.ends), "values": _values_text(exported),
    }  # fmt: skip


_WRITERS: Final[dict[Format, Callable[[Sequence[CountingFile]], _Writer]]] = {
    Format.JSON: _JsonLines,
    Format.GRAPHML: _GraphMl,
    Format.PARQUET: _Parquet,
}

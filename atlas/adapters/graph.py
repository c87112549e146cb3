"""The knowledge graph: atoms, which are nodes and links, with evidence, attention and values.

The words are AtomSpace's. A node has a type and a name; a link has a type and an outgoing set, a sequence of
atoms that may be links themselves. Both are unique, and are called by their handle. The incoming set of an
atom is the links that have it in their outgoing set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Self, TypeAlias
from uuid import UUID

# The class of handles that come from the database, too. It is made eight times as fast as its parent.
from asyncpg.pgproto import pgproto

from atlas.adapters.dao import DAO, json_text
from atlas.errors import DataRefused
from atlas.queries import clean_text

OWN: Final = 0
"""The space of this site's graph; the others are read-only copies of parts of other sites' graphs."""

AT_ONCE: Final = 1_000
"""So many atoms are stored by one statement."""
LONGEST_NAME: Final = 300
LONGEST_KEY: Final = 100
MOST_OUTGOING: Final = 100
MOST_OBSERVED: Final = 1 << 53
"""So many observations are told at once at most: larger numbers aren't exact everywhere."""
HEAVIEST: Final = 3e38
"""The weight of a link is no further from zero, so that it fits into 32 bits."""
FIRST: Final = UUID(int=0)
"""The place before all handles."""
DEEPEST: Final = 10
"""Links are nested at most so deep, as `deepest_nesting` in SQL says: their texts must be readable."""


class Sources(IntFlag):
    """Who says that an atom is there."""

    FACTS = 1
    """The tables of videos, channels, topics and patterns."""
    DERIVED = 2
    """What is computed from the facts."""
    PEOPLE = 4
    SITES = 8
    """Other sites."""


OURS: Final = int(Sources.FACTS | Sources.DERIVED | Sources.PEOPLE)
"""The sources that are not other sites."""


@lru_cache(50_000)
def node_handle(type: str, name: str) -> UUID:  # noqa: A002 - AtomSpace's word
    """The handle of a node, the same in every database, as the function of this name in SQL says."""
    return pgproto.UUID(sha256(b"n" + type.encode() + b"\0" + name.encode()).digest()[:16])


def link_handle(type: str, outgoing: Sequence[UUID]) -> UUID:  # noqa: A002 - AtomSpace's word
    """The handle of a link whose outgoing set is in its final order, as SQL's function of this name says."""
    ends = b"".join([each.bytes for each in outgoing])
    return pgproto.UUID(sha256(b"l" + type.encode() + b"\0" + ends).digest()[:16])


def handle_of(raw: bytes) -> UUID:
    """The handle with these 16 bytes."""
    return pgproto.UUID(raw)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Observations that an atom is true, and that it isn't."""

    pos: int = 0
    neg: int = 0


NONE: Final = Evidence()


@dataclass(frozen=True, slots=True)
class Node:
    """A node to store."""

    type: str
    name: str
    evidence: Evidence = NONE

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"


@dataclass(frozen=True, slots=True)
class Link:
    """A link to store. Atoms of its outgoing set that are given by their handles must be there already."""

    type: str
    outgoing: tuple[Node | Link | UUID, ...]
    evidence: Evidence = NONE
    weight: float | None = None

    def __str__(self) -> str:
        return f"{self.type}({', '.join(map(str, self.outgoing))})"


NewAtom: TypeAlias = Node | Link


@dataclass(frozen=True, slots=True)
class AtomType:
    """A type of atoms; the outgoing set of a symmetric link has no order."""

    name: str
    is_link: bool
    is_symmetric: bool
    what: str


@dataclass(frozen=True, slots=True)
class BareAtom:
    """A stored atom without its attention.

    Of `count` observations by all sites together, `positive` say that it is true; `pos` and `neg` are this
    site's.
    """

    handle: UUID
    type: str
    name: str | None
    outgoing: Sequence[UUID] | None
    pos: int
    neg: int
    positive: float
    count: float
    weight: float | None
    sources: Sources
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Atom(BareAtom):
    """A stored atom; its attention is as of `attended_at`, None if it never had any."""

    sti: float
    lti: float
    vlti: int
    attended_at: datetime | None

    @property
    def is_link(self) -> bool:
        return self.outgoing is not None


@dataclass(frozen=True, slots=True)
class Value:
    """A value attached to an atom under a key: one of a vector of numbers, of texts, or of handles."""

    handle: UUID
    key: str
    floats: Sequence[float] | None = None
    texts: Sequence[str] | None = None
    handles: Sequence[UUID] | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An atom at the other end of links of two, how many they are, and of which types."""

    handle: UUID
    links: int
    types: Sequence[str]


@dataclass(frozen=True, slots=True)
class Attention:
    """Short-term, long-term and very-long-term importance."""

    sti: float
    lti: float
    vlti: int = 0


@dataclass(frozen=True, slots=True)
class Added:
    """How many atoms were new, and how many that were there changed."""

    added: int = 0
    changed: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(self.added + other.added, self.changed + other.changed)


@dataclass(frozen=True, slots=True)
class Space:
    """A graph of its own."""

    id: int
    name: str


@dataclass(slots=True)
class _Row:
    """An atom on its way into the database; `is_implied` if only an outgoing set names it."""

    handle: UUID
    type: str
    name: str | None
    outgoing: tuple[UUID, ...]
    evidence: Evidence
    weight: float | None
    depth: int
    is_implied: bool


class GraphDAO(DAO):
    """Stores and reads the atoms of one space, a thousand a statement."""

    space: int = OWN
    _types: Mapping[str, AtomType] | None = None

    def of(self, space: int) -> Self:
        """The same for another space."""
        other = self._on(self._executor)
        other.space = space
        return other

    def _check_own(self) -> None:
        """DataRefused unless it is this site's own graph: what it copies from others, it doesn't change."""
        if self.space != OWN:
            raise DataRefused(
                f"the space {self.space} is a copy of another site's graph, which only copying changes: "
                "change this site's own graph"
            )

    async def spaces(self) -> list[Space]:
        """All spaces, this site's own first."""
        return [Space(*row) for row in await self._executor.fetch("graph.spaces")]

    # Types

    async def types(self) -> Mapping[str, AtomType]:
        """The types of atoms by name."""
        if self._types is None:
            rows = await self._executor.fetch("graph.types")
            self._types = {row["name"]: AtomType(*row) for row in rows}
        return self._types

    async def add_type(self, type_: AtomType) -> None:
        """Add a type, which stays for ever; DataRefused if there is another one of that name."""
        known = await self._executor.fetchval(
            "graph.add_type", type_.name, type_.is_link, type_.is_symmetric, type_.what
        )
        if not known:
            raise DataRefused(f"there is another type {type_.name}: give yours another name")
        self._types = None

    # Storing

    async def add(
        self, atoms: Iterable[NewAtom], sources: Sources = Sources.PEOPLE, *, counting: bool = False
    ) -> Added:
        """Store atoms with the atoms in their outgoing sets; what is so already is left alone.

        Their evidence takes the place of what this site had, or is added to it if `counting`. An atom that
        is only named in an outgoing set keeps its evidence. DataRefused, with nothing stored, if a type is
        unknown, a name is too long, or a handle in an outgoing set isn't there.
        """
        self._check_own()
        rows = _Collector(await self.types())
        rows.add(atoms)
        total = Added()
        async with self._atomic() as executor:
            await executor.execute("graph.lock", False)
            dao = self._on(executor)
            rows.check_nesting(await dao._nesting(rows.given))
            for batch, is_implied in rows.batches():
                total += await dao._add(batch, sources, counting=counting or is_implied)
        return total

    async def _nesting(self, handles: Sequence[UUID]) -> dict[UUID, int]:
        """How deep links are nested in atoms; DataRefused if one of them isn't there."""
        found: dict[UUID, int] = {}
        for start in range(0, len(handles), AT_ONCE):
            for row in await self._executor.fetch(
                "graph.nesting", self.space, handles[start : start + AT_ONCE]
            ):
                if row["depth"] is None:
                    raise DataRefused(f"there is no atom {row['handle']}: add it before links to it")
                found[row["handle"]] = row["depth"]
        return found

    async def _add(self, rows: Sequence[_Row], sources: Sources, *, counting: bool) -> Added:
        found = await self._executor.fetchrow(
            "graph.add",
            self.space,
            int(sources),
            self._clock.now(),
            [row.handle for row in rows],
            [row.type for row in rows],
            [row.name for row in rows],
            *flattened(row.outgoing for row in rows),
            [row.weight for row in rows],
            [row.evidence.pos for row in rows],
            [row.evidence.neg for row in rows],
            counting,
        )
        assert found is not None
        return Added(found["added"], found["changed"])

    async def remove(self, handles: Sequence[UUID], sources: Sources = Sources.PEOPLE) -> list[UUID]:
        """Take back from some sources that atoms are there.

        Atoms of which nobody else says so are gone then, with all links to them; returns their handles.
        In a transaction, this must come before atoms are added.
        """
        self._check_own()
        rows = await self._executor.fetch(
            "graph.remove", self.space, list(handles), int(sources), self._clock.now()
        )
        return [row[0] for row in rows]

    # Reading

    async def get(self, handles: Sequence[UUID]) -> list[Atom]:
        """Those of the atoms that are there, in the order of their handles."""
        return atoms_of(await self._executor.fetch("graph.get", self.space, list(handles)))

    async def incoming(
        self, handle: UUID, types: Sequence[str] | None = None, *, after: UUID = FIRST, limit: int = 100
    ) -> list[Atom]:
        """The links that have an atom in their outgoing set, after a handle, by their handles."""
        rows = await self._executor.fetch("graph.incoming", self.space, handle, _list(types), after, limit)
        return atoms_of(rows)

    async def neighbours(
        self, handles: Sequence[UUID], types: Sequence[str] | None = None, *, limit: int = 100
    ) -> list[Neighbour]:
        """The atoms at the other ends of some atoms' links of two, those with most links first."""
        rows = await self._executor.fetch("graph.neighbours", self.space, list(handles), _list(types), limit)
        return [Neighbour(*row) for row in rows]

    async def count_by_type(self) -> dict[str, int]:
        """How many atoms of each type there are."""
        rows = await self._executor.fetch("graph.count_by_type", self.space)
        return {row["type"]: row["atoms"] for row in rows}

    # Values and attention

    async def values(self, handles: Sequence[UUID]) -> list[Value]:
        """The values of atoms, by handle and key."""
        rows = await self._executor.fetch("graph.values", self.space, list(handles))
        return [Value(*row) for row in rows]

    async def set_values(self, values: Sequence[Value]) -> int:
        """Attach values to atoms, in place of those under the same keys; returns how many changed."""
        self._check_own()
        changed = 0
        for start in range(0, len(values), AT_ONCE):
            batch = values[start : start + AT_ONCE]
            columns = [each.handle for each in batch], [clean_text(each.key) for each in batch]
            changed += await self._executor.fetchval(
                "graph.set_values", self.space, *columns, [_value_json(each) for each in batch]
            )
        return changed

    async def drop_values(self, keys: Sequence[tuple[UUID, str]]) -> int:
        """Remove values from atoms by their keys; returns how many there were."""
        self._check_own()
        handles, names = [each[0] for each in keys], [each[1] for each in keys]
        return await self._executor.execute("graph.drop_values", self.space, handles, names)

    async def attend(self, attention: Mapping[UUID, Attention], at: datetime) -> None:
        """Set what attention atoms have at an instant; atoms that aren't there are passed over."""
        self._check_own()
        items = sorted(attention.items())
        for start in range(0, len(items), 10 * AT_ONCE):
            batch = items[start : start + 10 * AT_ONCE]
            await self._executor.execute(
                "graph.attend",
                self.space,
                at,
                [handle for handle, _ in batch],
                [each.sti for _, each in batch],
                [each.lti for _, each in batch],
                [each.vlti for _, each in batch],
            )

    async def most_attended(self, type_: str | None = None, *, limit: int = 100) -> list[Atom]:
        """The atoms with the highest short-term importance, as it was when it was last set."""
        return atoms_of(await self._executor.fetch("graph.most_attended", self.space, type_, limit))


_TOO_DEEP: Final = f"links are nested more than {DEEPEST} deep, which could not be read or written any more"


class _Collector:
    """Brings atoms into rows, each once, with the atoms in their outgoing sets before them."""

    def __init__(self, types: Mapping[str, AtomType]) -> None:
        self._types = types
        self._rows: dict[UUID, _Row] = {}
        self._given: set[UUID] = set()

    @property
    def given(self) -> list[UUID]:
        """The atoms that are only named by their handles, which must be there already."""
        return sorted(self._given - self._rows.keys())

    def add(self, atoms: Iterable[NewAtom]) -> None:
        """Collect atoms; of one that comes twice, the evidence is added up and the last weight counts."""
        for atom in atoms:
            row = self._row(atom, 0)
            known = self._rows.get(row.handle)
            if known is None or known.is_implied:
                row.is_implied = False
                self._rows[row.handle] = row
            else:
                known.evidence = Evidence(
                    known.evidence.pos + row.evidence.pos, known.evidence.neg + row.evidence.neg
                )
                _check_evidence(atom, known.evidence)
                known.weight = known.weight if row.weight is None else row.weight

    def check_nesting(self, given: Mapping[UUID, int]) -> None:
        """DataRefused if links are nested too deep, with the atoms that are given by their handles."""
        if not self._given:
            return
        depths, left = dict(given), list(self._rows.values())
        for _ in range(DEEPEST + 1):
            later = []
            for row in left:
                if all(each in depths for each in row.outgoing):
                    depths[row.handle] = 1 + max((depths[each] for each in row.outgoing), default=-1)
                else:
                    later.append(row)
            left = later
        if left or max(depths.values()) > DEEPEST:
            raise DataRefused(_TOO_DEEP)

    def batches(self) -> Iterable[tuple[list[_Row], bool]]:
        """Rows to store together, and whether they are implied; what links need comes before them."""
        groups: dict[tuple[int, bool], list[_Row]] = {}
        for row in self._rows.values():
            groups.setdefault((row.depth, row.is_implied), []).append(row)
        for (_, is_implied), rows in sorted(groups.items(), key=lambda item: item[0]):
            for start in range(0, len(rows), AT_ONCE):
                yield rows[start : start + AT_ONCE], is_implied

    def _row(self, atom: NewAtom, depth: int) -> _Row:
        if depth > DEEPEST:
            raise DataRefused(_TOO_DEEP)
        _check_evidence(atom, atom.evidence)
        if isinstance(atom, Node):
            self._check_type(atom.type, is_link=False)
            name = _checked_name(atom.name)
            handle = node_handle(atom.type, name)
            return _Row(handle, atom.type, name, (), atom.evidence, None, 0, is_implied=True)
        return self._link(atom, depth)

    def _link(self, link: Link, depth: int) -> _Row:
        type_ = self._check_type(link.type, is_link=True)
        if link.weight is not None and not abs(link.weight) <= HEAVIEST:
            raise DataRefused(f"the weight {link.weight} is none: use a number from -3e38 to 3e38")
        if not 1 <= len(link.outgoing) <= MOST_OUTGOING:
            raise DataRefused(f"a link {link.type} needs an outgoing set of 1 to {MOST_OUTGOING} atoms")
        ends, height = [], 0
        for each in link.outgoing:
            if isinstance(each, UUID):
                self._given.add(each)
                ends.append(each)
                continue
            row = self._row(each, depth + 1)
            self._rows.setdefault(row.handle, row)
            height = max(height, row.depth)
            ends.append(row.handle)
        outgoing = tuple(sorted(ends) if type_.is_symmetric else ends)
        handle = link_handle(link.type, outgoing)
        return _Row(
            handle, link.type, None, outgoing, link.evidence, link.weight, height + 1, is_implied=True
        )

    def _check_type(self, name: str, *, is_link: bool) -> AtomType:
        type_ = self._types.get(name)
        if type_ is None or type_.is_link != is_link:
            noun = "links" if is_link else "nodes"
            known = ", ".join(each.name for each in self._types.values() if each.is_link == is_link)
            raise DataRefused(f"{name[:50]!r} is no type of {noun}; there are {known}")
        return type_


def _check_evidence(atom: NewAtom, evidence: Evidence) -> None:
    if min(evidence.pos, evidence.neg) < 0:
        raise DataRefused(f"{str(atom)[:100]} has less than no evidence")
    if max(evidence.pos, evidence.neg) > MOST_OBSERVED:
        raise DataRefused(f"{str(atom)[:100]} has more than 2^53 observations: use fewer")


def _checked_name(name: str) -> str:
    cleaned = clean_text(name)
    if not 1 <= len(cleaned) <= LONGEST_NAME:
        raise DataRefused(f"the name {cleaned[:40]!r} has {len(cleaned)} characters: use 1 to {LONGEST_NAME}")
    return cleaned


def flattened(outgoing: Iterable[Sequence[UUID]]) -> tuple[list[int], list[int], list[UUID]]:
    """Where each of some outgoing sets begins and ends among all their atoms, counted from 1; and these."""
    begins, ends, flat = [], [], list[UUID]()
    for each in outgoing:
        begins.append(len(flat) + 1)
        flat += each
        ends.append(len(flat))
    return begins, ends, flat


def atoms_of(rows: Iterable[Any]) -> list[Atom]:
    return [_atom(*row) for row in rows]


def _atom(*columns: Any) -> Atom:
    values = list(columns)
    values[9] = Sources(values[9])
    return Atom(*values)


def _value_json(value: Value) -> str:
    if not 1 <= len(clean_text(value.key)) <= LONGEST_KEY:
        raise DataRefused(f"the key {value.key[:50]!r} is none: use 1 to {LONGEST_KEY} characters")
    shape = {"floats": value.floats, "texts": value.texts, "handles": value.handles}
    given = {key: list(each) for key, each in shape.items() if each is not None}
    if len(given) != 1:
        raise DataRefused(f"the value {value.key[:50]!r} must be one of floats, texts and handles")
    if value.handles is not None:
        given["handles"] = [str(each) for each in value.handles]
    return json_text(given)


def _list(types: Sequence[str] | None) -> list[str] | None:
    return None if types is None else list(types)

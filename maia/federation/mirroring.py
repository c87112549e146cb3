"""Mirrors of parts of peers' graphs: asking for them, and answering those who ask.

The site that copies says what it wants and up to where it has read; the peer answers with the handles of all
atoms that belong to it and of those that changed since. What is new or changed is fetched by handle, and put
into place all at once. A peer that is asked to wait answers as soon as its graph changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4

from pydantic import Field, TypeAdapter, ValidationError

from atlas.adapters.graph import LONGEST_NAME, MOST_OUTGOING, AtomType, link_handle, node_handle
from atlas.adapters.mirrors import MOST_ATOMS, MOST_HOPS, GraphFilter, Mirror, MirroredAtom, MirrorsDAO
from maia.federation.atoms import TypeName, TypeRow
from maia.federation.exchange import PeerFailed
from maia.federation.messages import MOST_RECORD_BYTES, Instant, Message, Section, instant, microseconds
from maia.federation.refusals import Reason, Refused

if TYPE_CHECKING:
    from maia.federation.site import Site

KIND: Final = "mirror"
VERSION: Final = 1
FETCHED_AT_ONCE: Final = 2_000
"""So many atoms are asked for by one message."""

_HANDLE_BYTES: Final = 16
_HANDLES_A_RECORD: Final = 4_096
_MOST_HANDLES: Final = MOST_RECORD_BYTES // _HANDLE_BYTES - 1

Handles = Annotated[bytes, Field(max_length=_HANDLE_BYTES * _MOST_HANDLES)]
Number = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
FilterRow = tuple[
    Annotated[list[TypeName], Field(max_length=30)] | None, Annotated[str, Field(max_length=LONGEST_NAME)],
    Annotated[bytes, Field(min_length=_HANDLE_BYTES, max_length=_HANDLE_BYTES)] | None,
    Annotated[int, Field(ge=1, le=MOST_HOPS)], Annotated[float, Field(ge=0, le=1)], Number,
]  # fmt: skip
AtomRow = tuple[
    Annotated[bytes, Field(min_length=_HANDLE_BYTES, max_length=_HANDLE_BYTES)], TypeName,
    Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None,
    Annotated[bytes, Field(min_length=_HANDLE_BYTES, max_length=_HANDLE_BYTES * MOST_OUTGOING)] | None,
    Number, Number, Annotated[float, Field(ge=-3e38, le=3e38, allow_inf_nan=False)] | None, Instant,
]  # fmt: skip
_FILTERS: Final[TypeAdapter[list[FilterRow]]] = TypeAdapter(list[FilterRow])
_HANDLES: Final[TypeAdapter[list[tuple[Handles]]]] = TypeAdapter(list[tuple[Handles]])
_ATOMS: Final[TypeAdapter[list[AtomRow]]] = TypeAdapter(list[AtomRow])
_TYPES: Final[TypeAdapter[list[TypeRow]]] = TypeAdapter(list[TypeRow])
Checked = TypeVar("Checked")


class MirrorTransport(Protocol):
    """Carries questions for a mirror to a peer; PeerFailed if that is not possible."""

    place: str

    async def mirror(self, message: bytes, wait_s: float) -> bytes:
        """The peer's answer, which it may hold back so long while nothing changes."""


class MirrorAnswering:
    """Answers peers that copy a part of this site's graph."""

    def __init__(self, site: Site) -> None:
        self._site, self._dao = site, mirrors_of(site)

    async def answer(self, raw: bytes) -> tuple[bytes, bool]:
        """The answer to a question, and whether it is that nothing changed; Refused if anything is wrong."""
        message = await self._site.hear(raw)
        section = _only(message)
        if self._site.settings.graph == "off":
            raise Refused(Reason.RECORDS, "this site lets nobody copy its graph (PLEIADES_FEDERATION__GRAPH)")
        tables = message.tables.get(KIND, {})
        if "fetch" in tables:
            wanted = _handles(_checked(_HANDLES, tables["fetch"]))
            return await self._reply(message, await self._fetched(wanted)), False
        filters = _checked(_FILTERS, tables.get("filter", ()))
        if len(filters) != 1:
            raise Refused(Reason.RECORDS, "a question for a mirror has one filter")
        return await self._listed(message, section, _filter(filters[0]))

    async def _listed(self, message: Message, section: Section, wanted: GraphFilter) -> tuple[bytes, bool]:
        database, horizon = await self._site.dao.horizon()
        cursor, since = f"{database}-{horizon:x}", _since(section.after, database, horizon)
        if since and not await self._dao.has_changed(since):
            return await self._reply(message, {"same": [[True]]}, cursor), True
        members = await self._dao.members(wanted, since)
        if members is None:
            raise Refused(
                Reason.TOO_LARGE, f"more than {MOST_ATOMS:,} atoms would be copied: narrow the filter"
            )
        changed = members.changed if since else ()
        tables = {"members": _packed_handles(members.handles), "changed": _packed_handles(changed)}
        return await self._reply(message, tables, cursor), False

    async def _fetched(self, handles: Sequence[UUID]) -> dict[str, list[Any]]:
        if len(handles) > FETCHED_AT_ONCE:
            raise Refused(Reason.TOO_LARGE, f"ask for at most {FETCHED_AT_ONCE:,} atoms at once")
        atoms, types = await self._dao.atoms(handles)
        return {
            "types": [(each.name, each.is_link, each.is_symmetric, each.what) for each in types],
            "atoms": [_packed(each) for each in atoms],
        }

    async def _reply(self, message: Message, tables: dict[str, list[Any]], cursor: str = "") -> bytes:
        section = Section(kind=KIND, version=VERSION, cursor=cursor)
        answer = await self._site.write([section], {KIND: tables})
        await self._site.dao.sent(message.envelope.node, sum(map(len, tables.values())), len(answer))
        return answer


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What refreshing a mirror did; `is_same` if there was nothing new. `failed` says why not."""

    name: str
    fetched: int = 0
    dropped: int = 0
    atoms: int = 0
    is_same: bool = False
    failed: str | None = None


class MirrorRefresh:
    """Brings one mirror up to date."""

    def __init__(self, site: Site, transport: MirrorTransport, mirror: Mirror) -> None:
        self._site, self._transport, self._mirror = site, transport, mirror
        self._dao, self._id = mirrors_of(site), uuid4()

    async def run(self, wait_s: float = 0) -> Refreshed:
        """Copy what changed; the peer may wait so long for anything to change.

        PeerFailed if the peer can't be reached, or answers what makes no sense: then all is as before.
        """
        try:
            return await self._run(wait_s)
        except PeerFailed as error:
            await self._dao.note_failure(self._mirror, str(error))
            raise
        except Refused as refused:
            told = f"the answer of {self._transport.place} was {refused}"
            await self._dao.note_failure(self._mirror, told)
            raise PeerFailed(told) from refused

    async def _run(self, wait_s: float) -> Refreshed:
        wanted, name = [_packed_filter(self._mirror.filter)], self._mirror.name
        answer = await self._ask({"filter": wanted}, self._mirror.cursor or "", wait_s)
        section, tables = _only(answer), answer.tables.get(KIND, {})
        if "same" in tables:
            await self._dao.note_refreshed(self._mirror, section.cursor)
            return Refreshed(name, atoms=self._mirror.atoms, is_same=True)
        members = _handles(_checked(_HANDLES, tables.get("members", ())))
        changed = {*_handles(_checked(_HANDLES, tables.get("changed", ())))}
        if len(members) > MOST_ATOMS:
            raise PeerFailed(f"{self._transport.place} answers with more than {MOST_ATOMS:,} atoms")
        held = await self._dao.held(self._mirror)
        lacking = sorted({*members} - held | changed & {*members})
        for start in range(0, len(lacking), FETCHED_AT_ONCE):
            await self._fetch(lacking[start : start + FETCHED_AT_ONCE])
        atoms = await self._dao.apply(self._mirror, self._id, members, section.cursor)
        if atoms is None:
            return Refreshed(name, atoms=self._mirror.atoms, is_same=True)
        return Refreshed(name, len(lacking), len(held - {*members}), atoms)

    async def _fetch(self, handles: Sequence[UUID]) -> None:
        answer = await self._ask({"fetch": _packed_handles(handles)})
        tables = answer.tables.get(KIND, {})
        types = [AtomType(*row) for row in _checked(_TYPES, tables.get("types", ()))]
        atoms = [_atom(row) for row in _checked(_ATOMS, tables.get("atoms", ()))]
        wanted = {*handles}
        for atom in atoms:
            if atom.handle not in wanted or not _is_sound(atom):
                raise PeerFailed(f"{self._transport.place} sends an atom {atom.handle} that makes no sense")
        await self._site.dao.claims().add_types(types)
        await self._dao.stage(self._mirror, self._id, atoms)

    async def _ask(self, tables: dict[str, Any], after: str = "", wait_s: float = 0) -> Message:
        question = await self._site.write([Section(kind=KIND, version=VERSION, after=after)], {KIND: tables})
        answer = await self._transport.mirror(question, wait_s)
        return await self._site.hear(answer, self._transport.place)


def mirrors_of(site: Site) -> MirrorsDAO:
    """The DAO of a site's mirrors."""
    return MirrorsDAO(site.atlas.db, clock=site.atlas.clock, settings=site.atlas.settings)


def _only(message: Message) -> Section:
    sections = message.envelope.sections
    if len(sections) != 1 or sections[0].kind != KIND:
        raise Refused(Reason.MALFORMED, "this is no question for a mirror, nor an answer to one")
    if sections[0].version > VERSION:
        raise Refused(Reason.RECORD_VERSION, "mirrors have a newer version there: upgrade this site")
    return sections[0]


def _since(after: str, database: str, horizon: int) -> int:
    """The transaction from which on changes are wanted; 0 if the place isn't of this database: all are."""
    prefix, _, number = after.partition("-")
    try:
        since = int(number, 16) if prefix == database else 0
    except ValueError:
        return 0
    return since if 0 < since <= horizon else 0


def _checked(form: TypeAdapter[list[Checked]], rows: Iterable[Iterable[Any]]) -> list[Checked]:
    try:
        return form.validate_python([tuple(row) for row in rows], strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise Refused(Reason.RECORDS, f"record {first['loc'][0]}: {first['msg'][:200]}") from None


def _packed_filter(wanted: GraphFilter) -> list[Any]:
    return [
        None if wanted.types is None else [*wanted.types], wanted.prefix,
        None if wanted.around is None else wanted.around.bytes, wanted.hops, float(wanted.min_strength),
        float(wanted.min_count),
    ]  # fmt: skip


def _filter(row: FilterRow) -> GraphFilter:
    types, prefix, around, hops, strength, count = row
    return GraphFilter(
        None if types is None else tuple(types),
        prefix.replace("\0", ""),
        None if around is None else UUID(bytes=around),
        hops,
        strength,
        count,
    )


def _packed_handles(handles: Sequence[UUID]) -> list[tuple[bytes]]:
    return [
        (b"".join([each.bytes for each in handles[at : at + _HANDLES_A_RECORD]]),)
        for at in range(0, len(handles), _HANDLES_A_RECORD)
    ]


def _handles(rows: Iterable[tuple[bytes]]) -> list[UUID]:
    return [each for (row,) in rows for each in _split(row)]


def _split(packed: bytes) -> Iterator[UUID]:
    for at in range(0, len(packed) - len(packed) % _HANDLE_BYTES, _HANDLE_BYTES):
        yield UUID(bytes=packed[at : at + _HANDLE_BYTES])


def _packed(atom: MirroredAtom) -> tuple[Any, ...]:
    outgoing = atom.outgoing
    return (
        atom.handle.bytes, atom.type, atom.name,
        None if outgoing is None else b"".join([each.bytes for each in outgoing]),
        atom.positive, atom.count, atom.weight, microseconds(atom.seen_at),
    )  # fmt: skip


def _atom(row: AtomRow) -> MirroredAtom:
    handle, type_, name, ends, positive, count, weight, seen = row
    outgoing = None if ends is None else tuple(_split(ends))
    return MirroredAtom(UUID(bytes=handle), type_, name, outgoing, positive, count, weight, instant(seen))


def _is_sound(atom: MirroredAtom) -> bool:
    """Whether an atom is what its handle says, and can be stored."""
    if (atom.name is None) == (atom.outgoing is None) or atom.positive > atom.count:
        return False
    if atom.name is not None:
        return "\0" not in atom.name and node_handle(atom.type, atom.name) == atom.handle
    return link_handle(atom.type, atom.outgoing or ()) == atom.handle

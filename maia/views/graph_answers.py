"""The knowledge graph for people, as data: what `maia.views.graph` answers, and how atoms become that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

from atlas.adapters.graph import Atom, Sources, Value
from maia.graphing.naming import Named
from maia.learning.truth import TruthValue

if TYPE_CHECKING:
    from atlas.adapters.graph_views import NearAtom

SourceName: TypeAlias = Literal["facts", "derived", "people", "sites"]


@dataclass(frozen=True, slots=True)
class AtomRef:
    """An atom by its handle, its text form, and what people call it, None if that is the same."""

    handle: str
    atom: str
    type: str
    shown: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomView(AtomRef):
    """An atom with its truth value and attention.

    Of `count` observations by all sites, `positive` say that it is true; strength and confidence follow from
    these. `outgoing` is None for nodes. Attention is as of `attended_at`, None if it never had any.
    """

    outgoing: tuple[AtomRef, ...] | None
    strength: float
    confidence: float
    positive: float
    count: float
    weight: float | None
    sources: tuple[SourceName, ...]
    seen_at: datetime
    sti: float
    lti: float
    vlti: int
    attended_at: datetime | None


ShownValue: TypeAlias = tuple[float, ...] | tuple[str, ...] | tuple[AtomRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomDetails(AtomView):
    """An atom with its values by key, and how many links of each type have it in their outgoing set.

    `own_pos` and `own_neg` are this site's observations. A value is a vector of numbers, of texts, or of
    atoms.
    """

    own_pos: int
    own_neg: int
    values: Mapping[str, ShownValue]
    incoming: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AtomPage:
    """Some atoms; `next` is where the next ones begin, None if there are no more."""

    atoms: tuple[AtomView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class NeighbourView:
    """An atom one or two links away.

    `paths` is how many links, or pairs of links, lead there. One link away, `types` are those of the links,
    `weight` that of the heaviest, and `link` the one with most evidence. Two links away, `via` is the atom
    between that has the fewest links, and `closeness` is the sum of 1 / ln(1 + links) over all atoms between.
    """

    neighbour: AtomView
    hops: Literal[1, 2]
    paths: int
    types: tuple[str, ...]
    weight: float | None
    link: AtomView | None
    via: AtomRef | None
    closeness: float | None


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """An atom's neighbours: one link away first.

    `sampled` says that an atom on the way has more links than are looked at, so that some may be missing.
    """

    of: AtomRef
    neighbours: tuple[NeighbourView, ...]
    sampled: bool


@dataclass(frozen=True, slots=True)
class PathView:
    """The atoms of a shortest path, and the link between each and the next, one less.

    Both are empty if there is no path of that length; `note` says so, or that the search gave up.
    """

    atoms: tuple[AtomRef, ...]
    links: tuple[AtomView, ...]
    visited: int
    note: str | None


@dataclass(frozen=True, slots=True)
class SimilarAtom:
    """An atom with its likeness: a cosine, or else the closeness of Adamic and Adar."""

    atom: AtomView
    likeness: float


@dataclass(frozen=True, slots=True)
class SimilarAtoms:
    """The atoms most like another, of its type, and how that was told.

    `links` are derived beforehand. Atoms without any are compared by their `vectors`, which even those have
    that came a minute ago. Before that is learnt, atoms are alike that share `neighbours` which few others
    have.
    """

    of: AtomRef
    by: Literal["links", "vectors", "neighbours"]
    atoms: tuple[SimilarAtom, ...]


@dataclass(frozen=True, slots=True)
class CommunityView:
    """How many atoms of each type a community has, the tags that tell most of it, and some members."""

    size: int
    by_type: Mapping[str, int]
    tags: tuple[AtomRef, ...]
    members: tuple[AtomRef, ...]


@dataclass(frozen=True, slots=True)
class CommunitiesView:
    """Communities, the largest first, or that of an atom; `total` is how many there are in all.

    `modularity` is by how much more of the links are within communities than chance would give them. They are
    as they were at `found_at`.
    """

    communities: tuple[CommunityView, ...]
    total: int
    modularity: float
    found_at: datetime


@dataclass(frozen=True, slots=True)
class QueryRow:
    """An atom for each variable, and how often they were found, if that was asked for."""

    atoms: tuple[AtomView, ...]
    tally: int | None


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """What a query found.

    `total` is given if it was only to count, `plan` and `sql` if it was only to explain. `cost` is in
    PostgreSQL's units. `more` says that there are more rows; `missing` are atoms of the query that aren't
    there, without which nothing can be found.
    """

    query: str
    variables: tuple[str, ...]
    rows: tuple[QueryRow, ...]
    total: int | None
    more: bool
    cost: float
    missing: tuple[str, ...]
    plan: tuple[str, ...] | None = None
    sql: str | None = None


@dataclass(frozen=True, slots=True)
class TypeFigures:
    """How many atoms of a type there are, by who says so; one may count for several sources."""

    type: str
    is_link: bool
    what: str
    atoms: int
    by_source: Mapping[SourceName, int]
    positive: float
    count: float
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class GraphStats:
    """How much there is in a space.

    `sti` and `lti` are sums over the `attended` atoms, `kept` of which are never forgotten. `bytes` is what
    each table takes on disk with its indexes, of all spaces together. `gone` counts tombstones.
    """

    now: datetime
    space: str
    nodes: int
    links: int
    types: tuple[TypeFigures, ...]
    positive: float
    count: float
    attended: int
    kept: int
    sti: float
    lti: float
    attended_at: datetime | None
    seen_at: datetime | None
    gone: int
    bytes: Mapping[str, int]


def ref_of(named: Named) -> AtomRef:
    """What an atom is called."""
    return AtomRef(str(named.handle), named.text, named.type, named.shown)


def view_of(atom: Atom, names: Mapping[UUID, Named]) -> AtomView:
    """An atom as it is shown; `names` has those of its outgoing set, too."""
    return AtomView(**_columns(atom, names))


def details_of(
    atom: Atom, names: Mapping[UUID, Named], values: Sequence[Value], incoming: Mapping[str, int]
) -> AtomDetails:
    """An atom with its values, and how many links of each type it is in."""
    return AtomDetails(
        **_columns(atom, names),
        own_pos=atom.pos,
        own_neg=atom.neg,
        values={each.key: _shown_value(each, names) for each in values},
        incoming=incoming,
    )


def _columns(atom: Atom, names: Mapping[UUID, Named]) -> dict[str, Any]:
    named = names.get(atom.handle) or Named(atom.handle, atom.type, str(atom.handle), None, None)
    truth = TruthValue.of_counts(atom.positive, atom.count - atom.positive)
    ends = None if atom.outgoing is None else tuple(ref_of(names[each]) for each in named.outgoing or ())
    return {
        "handle": str(atom.handle),
        "atom": named.text,
        "type": atom.type,
        "shown": named.shown,
        "outgoing": ends,
        "strength": truth.strength,
        "confidence": truth.confidence,
        "positive": atom.positive,
        "count": atom.count,
        "weight": atom.weight,
        "sources": source_names(atom.sources),
        "seen_at": atom.seen_at,
        "sti": atom.sti,
        "lti": atom.lti,
        "vlti": atom.vlti,
        "attended_at": atom.attended_at,
    }


def _shown_value(value: Value, names: Mapping[UUID, Named]) -> ShownValue:
    if value.handles is not None:
        return tuple(ref_of(names[each]) for each in value.handles if each in names)
    return tuple(value.texts) if value.texts is not None else tuple(value.floats or ())


def neighbour_of(near: NearAtom, atoms: Mapping[UUID, Atom], names: Mapping[UUID, Named]) -> NeighbourView:
    """An atom that is near; `atoms` has it and the link, if there is one."""
    link = atoms.get(near.link) if near.link else None
    via = names.get(near.via) if near.via else None
    return NeighbourView(
        neighbour=view_of(atoms[near.handle], names),
        hops=1 if near.hops == 1 else 2,
        paths=near.paths,
        types=tuple(near.types),
        weight=near.weight,
        link=None if link is None else view_of(link, names),
        via=None if via is None else ref_of(via),
        closeness=near.closeness,
    )


def source_names(sources: Sources) -> tuple[SourceName, ...]:
    """Who says that an atom is there."""
    named: Iterable[tuple[Sources, SourceName]] = (
        (Sources.FACTS, "facts"),
        (Sources.DERIVED, "derived"),
        (Sources.PEOPLE, "people"),
        (Sources.SITES, "sites"),
    )
    return tuple(name for source, name in named if source in sources)

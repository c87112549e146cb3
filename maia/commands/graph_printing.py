"""How the commands of `maia graph` print what they found, as tables and sentences."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from atlas.wording import counted
from maia.commands.graph_arguments import of_types
from maia.commands.tables import Column, print_table
from maia.commands.terminal import print_text

if TYPE_CHECKING:
    from atlas.adapters.graph_queries import Order
    from maia.views.graph_answers import (
        AtomDetails,
        AtomPage,
        AtomRef,
        AtomView,
        CommunitiesView,
        GraphStats,
        Neighbourhood,
        PathView,
        QueryAnswer,
        SimilarAtoms,
    )

_ATOM: Final = Column("atom", 24, wraps=True)
_CALLED: Final = Column("called", 12, wraps=True, rank=2)
_WEIGHED_IN: Final = {"co_occurs": " nats", "follows": " nats"}
_VALUED_IN: Final = {"pagerank": " times the mean"}


def print_page(page: AtomPage, none: str) -> None:
    """Some atoms, or the sentence for when there are none."""
    if not page.atoms:
        print_text(none)
        return
    _print_known(
        (
            _ATOM, _CALLED, Column("weight", rank=4), Column("strength", rank=3),
            Column("confidence", rank=3), Column("for", rank=5), Column("against", rank=6),
            Column("said by", rank=7), Column("sti", rank=4),
        ),
        [
            (each.atom, each.shown, each.weight, *_truth(each), ", ".join(each.sources), each.sti or None)
            for each in page.atoms
        ],
    )  # fmt: skip
    if page.next is not None:
        print_text(f"There are more: -n shows more, and --after {shlex.quote(page.next)} goes on here.")


def _print_known(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """Print a table without the columns in which nothing is known."""
    kept = [nth for nth in range(len(columns)) if any(row[nth] is not None for row in rows)]
    print_table([columns[nth] for nth in kept], [[row[nth] for nth in kept] for row in rows], title=title)


def _truth(atom: AtomView) -> tuple[object, ...]:
    """Strength, confidence, and observations for and against an atom; nothing if there are none."""
    if not atom.count:
        return None, None, None, None
    against = atom.count - atom.positive
    return f"{atom.strength:.2f}", f"{atom.confidence:.3f}", round(atom.positive), round(against)


def called(atom: AtomRef) -> str:
    """An atom by its text form, and by what people call it."""
    return atom.atom if atom.shown is None else f"{atom.atom} ({atom.shown})"


def print_details(atoms: Sequence[AtomDetails]) -> None:
    """Atoms with all that is known of them."""
    for nth, each in enumerate(atoms):
        if nth:
            print_text()
        _print_one(each)


def _print_one(atom: AtomDetails) -> None:
    print_text(called(atom))
    rows: list[tuple[str, object]] = [("handle", atom.handle), ("type", atom.type)]
    rows += [(f"end {nth}", called(each)) for nth, each in enumerate(atom.outgoing or (), 1)]
    own = f" ({atom.own_pos:,} and {atom.own_neg:,} at this site)" if atom.count else ""
    truth = f"strength {atom.strength:.2f}, confidence {atom.confidence:.3f}"
    seen = f"{atom.positive:,.0f} for, {atom.count - atom.positive:,.0f} against{own}"
    rows += [("truth value", truth), ("observations", seen if atom.count else "none")]
    if atom.weight is not None:
        rows.append(("weight", f"{atom.weight:.4g}{_WEIGHED_IN.get(atom.type, '')}"))
    rows += [("said by", ", ".join(atom.sources)), ("last seen", atom.seen_at)]
    if atom.attended_at is not None:
        rows.append(("attention", f"sti {atom.sti:.2f}, lti {atom.lti:.2f}, vlti {atom.vlti}"))
        rows.append(("as of", atom.attended_at))
    rows += [(f"value {key}", _value(each) + _VALUED_IN.get(key, "")) for key, each in atom.values.items()]
    rows += [(f"in {type_}", counted(links, "link")) for type_, links in atom.incoming.items()]
    print_table(("", Column("", 30, wraps=True)), rows)


def _value(value: Sequence[Any]) -> str:
    shown = [
        f"{each:.4g}" if isinstance(each, float) else str(getattr(each, "atom", each)) for each in value[:8]
    ]
    return ", ".join(shown) + (f" … ({len(value)} in all)" if len(value) > len(shown) else "")


def print_neighbours(found: Neighbourhood, hops: int, types: Sequence[str] | None) -> None:
    near = [each for each in found.neighbours if each.hops == 1]
    far = [each for each in found.neighbours if each.hops == 2]
    if not near:
        print_text(f"No link of two{of_types(types)} connects {called(found.of)} with anything.")
        return
    _print_known(
        (
            _ATOM, _CALLED, Column("by", 10, wraps=True, rank=3), Column("weight", rank=4),
            Column("seen", rank=4), Column("links", rank=5),
        ),
        [
            (
                each.neighbour.atom, each.neighbour.shown, ", ".join(each.types), each.weight,
                None if each.link is None or not each.link.count else round(each.link.positive), each.paths,
            )
            for each in near
        ],
        title=f"Linked with {called(found.of)}",
    )  # fmt: skip
    if hops > 1 and not far:
        print_text("Nothing else is two links away.")
    elif hops > 1:
        _print_known(
            (
                _ATOM,
                _CALLED,
                Column("closeness", rank=1),
                Column("paths", rank=4),
                Column("one leads over", 10, wraps=True, rank=3),
            ),
            [
                (
                    each.neighbour.atom,
                    each.neighbour.shown,
                    each.closeness,
                    each.paths,
                    each.via and each.via.atom,
                )
                for each in far
            ],
            title="Two links away",
        )
    if found.sampled:
        print_text("It has more links than are looked at, so some may be missing: --type narrows them.")


def print_path(found: PathView) -> None:
    if found.note is not None:
        print_text(found.note)
        return
    rows: list[tuple[object, ...]] = []
    for nth, atom in enumerate(found.atoms):
        rows.append((nth or None, atom.atom, atom.shown, found.links[nth - 1].type if nth else None))
    _print_known((Column("", right=True), _ATOM, _CALLED, Column("by", rank=1)), rows)
    print_text(f"{counted(len(found.links), 'link')}; {counted(found.visited, 'atom')} looked at.")


def print_similar(found: SimilarAtoms) -> None:
    if not found.atoms:
        print_text(f"Nothing is known to be like {called(found.of)}.")
        return
    _print_known(
        (Column("likeness", right=True), _ATOM, _CALLED),
        [(f"{each.likeness:.3f}", each.atom.atom, each.atom.shown) for each in found.atoms],
    )
    print_text(
        "Likeness is the cosine of their vectors: 1 for the same, 0 for nothing in common."
        if found.by != "neighbours"
        else "It has no vector yet, so likeness is closeness over shared neighbours: it may exceed 1."
    )


def print_communities(found: CommunitiesView) -> None:
    if not found.communities:
        print_text("There is nothing that links of these types would group.")
        return
    print_table(
        (
            Column("atoms", right=True), Column("videos", rank=3, right=True),
            Column("tags that tell of it", 24, wraps=True),
            Column("such as", 20, wraps=True, rank=1),
        ),
        [
            (
                each.size, each.by_type.get("video"), ", ".join(map(_spoken, each.tags)),
                ", ".join(map(_spoken, each.members)),
            )
            for each in found.communities
        ],
    )  # fmt: skip
    print_text(
        f"{counted(found.total, 'community', 'communities')} in all; modularity {found.modularity:.2f}; "
        f"as of {found.found_at:%Y-%m-%d %H:%M} UTC."
    )


def _latest(atoms: Sequence[AtomView]) -> str:
    """When attention of one of them was last brought up to date."""
    latest = max(each.attended_at for each in atoms if each.attended_at is not None)
    return f"{latest:%Y-%m-%d %H:%M}"


def _spoken(atom: AtomRef) -> str:
    """What people call an atom, without its type."""
    return atom.shown or atom.atom.partition(":")[2] or atom.atom


def print_answer(answer: QueryAnswer, order: Sequence[Order] = ()) -> None:
    """What a query found, with the figures that it is in the order of."""
    if answer.plan is not None:
        from atlas.adapters.graph_matching import MAX_COST

        print_text(f"{answer.sql}\n\n" + "\n".join(answer.plan))
        print_text(
            f"\nIt would cost {answer.cost:,.0f}, as PostgreSQL estimates in units of its own; "
            f"plans up to --max-cost run, by default {MAX_COST:,.0f}."
        )
        return
    if answer.missing:
        print_text(f"Nothing matches: there is no {' and no '.join(answer.missing)}.")
        return
    if answer.total is not None:
        print_text(counted(answer.total, "match", "matches"))
        return
    if not answer.rows:
        print_text("Nothing matches.")
        return
    tallied = answer.rows[0].tally is not None
    figures = [
        (answer.variables.index(variable), each.property)
        for each in order
        if (variable := str(each.variable)) in answer.variables and each.property != "name"
    ]
    print_table(
        (
            *([Column("times", right=True)] if tallied else []),
            *(Column(each, 16, wraps=True) for each in answer.variables),
            *(Column(f"{answer.variables[nth]}.{name}", right=True) for nth, name in figures),
        ),
        [
            (
                *([row.tally] if tallied else []),
                *map(called, row.atoms),
                *(getattr(row.atoms[nth], name) for nth, name in figures),
            )
            for row in answer.rows
        ],
    )
    if answer.more:
        print_text("There are more matches: -n shows more, --count counts them all.")


def print_stats(found: GraphStats, most: Sequence[AtomView]) -> None:
    where = "" if found.space == "own" else f" in the mirror {found.space}"
    print_text(
        f"{counted(found.nodes, 'node')} and {counted(found.links, 'link')}{where}, "
        f"{sum(found.bytes.values()) / 2**20:,.1f} MiB on disk."
    )
    if not found.types:
        print_text("It is empty: maia graph update fills it from the videos, topics and patterns.")
        return
    print_text()
    _print_known(
        (
            Column("type"), Column("", rank=3), Column("atoms"), Column("facts", rank=4),
            Column("derived", rank=4), Column("people", rank=4), Column("sites", rank=4),
            Column("count", rank=2), Column("last seen", rank=1),
        ),
        [
            (
                each.type, "links" if each.is_link else "nodes", each.atoms, each.by_source.get("facts"),
                each.by_source.get("derived"), each.by_source.get("people"), each.by_source.get("sites"),
                round(each.count), each.seen_at,
            )
            for each in found.types
        ],
    )  # fmt: skip
    if found.gone:
        print_text(f"{counted(found.gone, 'tombstone')} of atoms that are gone.")
    if most and found.attended:
        print_table(
            (_ATOM, _CALLED, "sti", Column("lti", rank=1)),
            [(each.atom, each.shown, each.sti, each.lti) for each in most],
            title=f"{counted(found.attended, 'atom')} with attention; the most, as of {_latest(most)}:",
        )

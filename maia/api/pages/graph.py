"""The pages of the knowledge graph: what there is in it, and what lies around an atom, drawn and in words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Path
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from maia.api.context import READ, service_of
from maia.api.graph import LONGEST_ATOM, one, stats
from maia.api.pages.parameters import PageRoute, Text, TypeName
from maia.api.pages.rendering import Table, page
from maia.api.problems import Problem
from maia.graph.layout import Frame
from maia.graphing.forms import FormError, NodeForm, parse_form
from maia.graphing.naming import NoSuchAtom
from maia.views import graph as views
from maia.views.drawing import Dot, Line, drawn, symbol
from maia.views.graph_answers import AtomDetails, AtomRef, AtomView, CommunityView
from maia.views.surroundings import SurroundingAtom, Surroundings, surroundings

if TYPE_CHECKING:
    from maia.api.context import Service

router = APIRouter(route_class=PageRoute, dependencies=[READ])

_WIDE: Final = Frame(960, 600)
_NARROW: Final = Frame(360, 460, gap=4)
_MOST_NARROW: Final = 15
_MOST_FOUND: Final = 100
_MOST_ATTENDED: Final = 20
_MOST_ALIKE: Final = 10
_MOST_COMMUNITIES: Final = 12
_MOST_MEMBERS: Final = 8
_FEW_MEMBERS: Final = 5
_FRESH_S: Final = 10.0
_STALE_S: Final = 60.0
_PAGES: Final[Mapping[str, str]] = {
    "video": "/videos/{}", "channel": "/channels/{}", "tag": "/?tag={}", "category": "/?category={}",
    "pattern": "/learnt/{}",
}  # fmt: skip
_NODE_TYPES: Final = ("topic", "tag", "video", "channel", "category", "pattern", "agent", "concept")


@router.get("/graph")
async def overview(
    request: Request,
    q: Text = None,
    type: TypeName = None,  # noqa: A002 - the name in the URL
) -> Response:
    """How much there is in the graph, what deserves attention, and atoms by the beginning of their name."""
    service = service_of(request)
    found = await stats(service)
    attended = await service.answers.get(
        "page graph attended", lambda: _attended(service), fresh_s=_FRESH_S, stale_s=_STALE_S
    )
    communities = await _communities(service) if found.nodes else ()
    is_asked = q is not None or type is not None
    atoms = await _found(service, q or "", type) if is_asked else ()
    return page(
        request,
        "graph.html.j2",
        stats=found,
        nodes=[each for each in found.types if not each.is_link],
        links=[each for each in found.types if each.is_link],
        attended=attended,
        communities=communities,
        atoms=atoms,
        is_asked=is_asked,
        q=q or "",
        type=type,
        types=_NODE_TYPES,
        symbol=symbol,
        address=address_of,
        tables={
            "types": Table(found.types),
            "attended": Table(attended),
            "communities": Table(communities or ()),
            "atoms": Table(atoms),
        },
    )


@router.get("/graph/{atom:path}")
async def around(
    request: Request, atom: Annotated[str, Path(min_length=1, max_length=LONGEST_ATOM)]
) -> Response:
    """An atom with its surroundings."""
    service = service_of(request)
    try:
        handle = (await one(service, atom)).handle
        details, drawing, wide, narrow = await service.answers.get(
            ("page graph", handle), lambda: _around(service, handle), fresh_s=_FRESH_S, stale_s=_STALE_S
        )
    except FormError as error:
        raise Problem(404, f"this names no atom; /graph finds them: {error}") from error
    except NoSuchAtom as error:
        form = parse_form(atom)
        if not isinstance(form, NodeForm) or form.type not in _NODE_TYPES:
            raise Problem(404, f"{error}; /graph finds what there is") from error
        # Pages of videos, channels and topics lead here, also before the graph knows them.
        return page(request, "atom_missing.html.j2", form=form)
    alike = await service.answers.get(
        ("page graph alike", details.handle),
        lambda: views.similar(service.atlas, details.handle, limit=_MOST_ALIKE),
        fresh_s=_FRESH_S, stale_s=_STALE_S,
    )  # fmt: skip
    community = await _community(service, UUID(details.handle))
    links = _told_links(drawing)
    return page(
        request,
        "atom.html.j2",
        details=details,
        name=drawing.atoms[0].shown,
        own_page=own_page(details),
        drawing=drawing,
        wide=wide,
        narrow=narrow,
        most_narrow=_MOST_NARROW,
        near=_near(drawing),
        alike=alike,
        community=community,
        links=links,
        legend=sorted({each.type for each in drawing.atoms}),
        symbol=symbol,
        address=address_of,
        tables={"links": Table(links, derived=True), "alike": Table(alike.atoms, derived=True)},
    )


def address_of(atom: AtomRef | SurroundingAtom) -> str:
    """The page of an atom's surroundings."""
    return f"/graph/{quote(atom.atom, safe='')}" if len(atom.atom) < 200 else f"/graph/{atom.handle}"


def own_page(atom: AtomRef) -> str | None:
    """The page about what a node stands for, if there is one."""
    if atom.type not in _PAGES:
        return None
    form = parse_form(atom.atom)
    assert isinstance(form, NodeForm)
    name = atom.shown if form.type == "tag" and atom.shown else form.name
    return _PAGES[form.type].format(quote(name, safe=""))


async def _community(service: Service, handle: UUID) -> CommunityView | None:
    """That of an atom, if it has one and communities are known already; they take too long to wait for."""
    found = await service.communities.known()
    if found is None:
        return None
    own = await views.show_communities(service.atlas, found, of=handle, members=_MOST_MEMBERS)
    return own.communities[0] if own.communities else None


async def _communities(service: Service) -> Sequence[CommunityView] | None:
    found = await service.communities.known()
    if found is None:
        return None
    shown = await service.answers.get(
        ("page graph communities", found.found_at),
        lambda: views.show_communities(service.atlas, found, limit=_MOST_COMMUNITIES, members=_FEW_MEMBERS),
        fresh_s=_STALE_S, stale_s=_STALE_S,
    )  # fmt: skip
    return shown.communities


async def _attended(service: Service) -> Sequence[AtomView]:
    found = await views.most_attended(service.atlas, limit=_MOST_ATTENDED)
    return [each for each in found if each.sti > 0]


async def _found(service: Service, text: str, type_: str | None) -> Sequence[AtomView]:
    """Nodes whose names begin so, and those whose titles have these words."""
    try:
        found = [*(await views.find(service.atlas, text, type_=type_, limit=_MOST_FOUND)).atoms]
        if text.strip() and type_ in (None, "video", "channel"):
            found += (await views.find_titled(service.atlas, text, type_=type_, limit=_MOST_FOUND)).atoms
    except NoSuchAtom as error:
        raise Problem(404, str(error)) from error
    return [*{each.handle: each for each in found}.values()][:_MOST_FOUND]


# The drawing


async def _around(service: Service, handle: str) -> tuple[AtomDetails, Surroundings, Markup, Markup]:
    """An atom with what lies around it, drawn for wide and for narrow windows: all of one age."""
    details = await one(service, handle)
    found = await surroundings(service.atlas, handle)
    wide, narrow = await asyncio.to_thread(_drawn_twice, found)
    return details, found, wide, narrow


def _drawn_twice(found: Surroundings) -> tuple[Markup, Markup]:
    return _drawn("wide-graph", found, _WIDE), _drawn("narrow-graph", found.nearest(_MOST_NARROW), _NARROW)


def _drawn(id_: str, found: Surroundings, frame: Frame) -> Markup:
    atoms = found.atoms
    most = max((each.links for each in atoms[1:]), default=1)
    dots = [
        Dot(each.type, each.shown, address_of(each), (each.links / max(most, 1)) ** 0.5, _told(each))
        for each in atoms
    ]
    lines = [
        Line(each.first, each.second, each.share, _told_link(found, each.first, each.second, each.type))
        for each in found.links
    ]
    told = f"{len(atoms) - 1} atoms and {len(lines)} links; the tables below say the same in words"
    return drawn(id_, f"What lies around {atoms[0].type} {atoms[0].shown}", told, dots, lines, frame)


def _told(atom: SurroundingAtom) -> str:
    return f"{atom.type}: {atom.shown}"


def _told_link(found: Surroundings, first: int, second: int, type_: str) -> str:
    words = type_.replace("_", " ")
    return f"{_told(found.atoms[first])} – {words} – {_told(found.atoms[second])}"


def _near(found: Surroundings) -> list[dict[str, Any]]:
    """Each atom around the middle with what connects the two, for a table: alike ones together."""
    ties: dict[int, list[tuple[str, float | None]]] = {}
    for each in found.links:
        if 0 in (each.first, each.second):
            ties.setdefault(max(each.first, each.second), []).append((each.type, each.weight))
    rows = [
        {"atom": atom, "ties": sorted(ties.get(nth, []), key=lambda tie: tie[0])}
        for nth, atom in enumerate(found.atoms)
        if nth
    ]
    return sorted(rows, key=_order)


def _order(row: Mapping[str, Any]) -> tuple[bool, str, float, str]:
    ties = row["ties"]
    type_, weight = ties[0] if ties else ("", None)
    return not ties, type_, -(weight or 0.0), row["atom"].atom


def _told_links(found: Surroundings) -> list[dict[str, object]]:
    """The links of the drawing, for a table: those of the middle first."""
    ordered = sorted(found.links, key=lambda each: (0 not in (each.first, each.second), each.type))
    return [
        {
            "first": found.atoms[each.first].atom, "first_shown": found.atoms[each.first].shown,
            "type": each.type,
            "second": found.atoms[each.second].atom, "second_shown": found.atoms[each.second].shown,
            "weight": each.weight, "count": each.count,
        }
        for each in ordered
    ]  # fmt: skip

"""From what people write to atoms' handles, and from handles to what people read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from atlas.adapters.graph import (
    AT_ONCE,
    DEEPEST,
    NONE,
    AtomType,
    Evidence,
    Link,
    NewAtom,
    Node,
    link_handle,
    node_handle,
)
from atlas.adapters.graph_views import CalledAtom, GraphViewsDAO
from maia.errors import MaiaError
from maia.graphing.forms import (
    Form,
    HandleForm,
    LinkForm,
    NodeForm,
    canonical,
    category_title,
    parse_form,
)

LONGEST_TEXT: Final = 10_000
"""In longer texts, handles stand for links within a link: each level could be a hundred times longer."""
_MOST_SHOWN: Final = 5
"""So many atoms of a link are named where people read it."""


class NoSuchAtom(MaiaError):
    """The graph doesn't have what was asked for."""


@dataclass(frozen=True, slots=True)
class Named:
    """An atom by its text form, and by what people call it, None if that is the same."""

    handle: UUID
    type: str
    text: str
    shown: str | None
    outgoing: tuple[UUID, ...] | None


async def handle_of(dao: GraphViewsDAO, text: str) -> UUID:
    """The handle of the atom that a text names, there or not; FormError and NoSuchAtom say what is wrong."""
    [handle] = await resolve(dao, [parse_form(text)])
    return handle


async def resolve(dao: GraphViewsDAO, forms: Sequence[Form]) -> list[UUID]:
    """The handles of atoms, in the same order, whether they are there or not.

    NoSuchAtom names a type that there isn't, and a handle's first characters that none or several have.
    """
    types, prefixes = await dao.types(), await expanded(dao, forms)
    return [_handle(form, types, prefixes) for form in forms]


async def expanded(dao: GraphViewsDAO, forms: Iterable[Form]) -> dict[str, UUID]:
    """The atoms to which the first digits of handles in forms belong."""
    prefixes: dict[str, UUID] = {}
    for form in _handles_in(forms):
        if not form.is_whole and form.digits not in prefixes:
            prefixes[form.digits] = await _expanded(dao, form)
    return prefixes


def new_atom(
    form: Form,
    types: Mapping[str, AtomType],
    evidence: Evidence = NONE,
    weight: float | None = None,
    handles: Mapping[str, UUID] | None = None,
) -> NewAtom:
    """An atom to store, as a text form names it; NoSuchAtom names a type that there isn't.

    `handles` are the atoms to which the first digits of handles in it belong.
    """
    match form:
        case NodeForm():
            node = canonical(form)
            check_type(node.type, types, is_link=False)
            if weight is not None:
                raise NoSuchAtom(f"{form} is a node: only links have a weight")
            return Node(node.type, node.name, evidence)
        case LinkForm():
            check_type(form.type, types, is_link=True)
            ends = tuple(
                _given(each, handles or {})
                if isinstance(each, HandleForm)
                else new_atom(each, types, handles=handles)
                for each in form.outgoing
            )
            return Link(form.type, ends, evidence, weight)
    raise NoSuchAtom(f"{form} is a handle: write what the atom is")


def _given(form: HandleForm, handles: Mapping[str, UUID]) -> UUID:
    return form.first if form.is_whole else handles[form.digits]


def check_type(name: str, types: Mapping[str, AtomType], *, is_link: bool | None = None) -> AtomType:
    """The type of that name; NoSuchAtom lists the types that there are."""
    found = types.get(name)
    if found is None or (is_link is not None and found.is_link != is_link):
        noun = {None: "atoms", True: "links", False: "nodes"}[is_link]
        known = ", ".join(each.name for each in types.values() if is_link in (None, each.is_link))
        raise NoSuchAtom(f"{name} is no type of {noun}; there are {known}")
    return found


async def name_atoms(dao: GraphViewsDAO, handles: Iterable[UUID]) -> dict[UUID, Named]:
    """What those of the atoms that are there are called, and all atoms in their outgoing sets."""
    known: dict[UUID, CalledAtom] = {}
    wanted = set(handles)
    for _ in range(2 * DEEPEST):
        missing = sorted(wanted - known.keys())
        if not missing:
            break
        found: dict[UUID, CalledAtom] = {}
        for start in range(0, len(missing), AT_ONCE):
            found |= await dao.called(missing[start : start + AT_ONCE])
        known |= found
        wanted = {end for each in found.values() for end in each.outgoing or ()}
    return _named(known)


def _handles_in(forms: Iterable[Form]) -> Iterable[HandleForm]:
    for form in forms:
        if isinstance(form, HandleForm):
            yield form
        elif isinstance(form, LinkForm):
            yield from _handles_in(form.outgoing)


async def _expanded(dao: GraphViewsDAO, form: HandleForm) -> UUID:
    found = await dao.by_prefix(form.first, form.last)
    if not found:
        raise NoSuchAtom(f"no atom's handle begins with {form.digits}")
    if len(found) > 1:
        raise NoSuchAtom(
            f"several handles begin with {form.digits}, such as {found[0]} and {found[1]}: "
            "give more characters"
        )
    return found[0]


def _handle(form: Form, types: Mapping[str, AtomType], prefixes: Mapping[str, UUID]) -> UUID:
    match form:
        case NodeForm():
            node = canonical(form)
            check_type(node.type, types, is_link=False)
            return node_handle(node.type, node.name)
        case LinkForm():
            type_ = check_type(form.type, types, is_link=True)
            outgoing = [_handle(each, types, prefixes) for each in form.outgoing]
            return link_handle(form.type, sorted(outgoing) if type_.is_symmetric else outgoing)
        case HandleForm():
            return form.first if form.is_whole else prefixes[form.digits]


def _named(known: Mapping[UUID, CalledAtom]) -> dict[UUID, Named]:
    named: dict[UUID, Named] = {}

    def name(handle: UUID) -> Named:
        if (done := named.get(handle)) is not None:
            return done
        atom = known.get(handle)
        if atom is None:
            # It was removed between two reads.
            return Named(handle, "", str(handle), None, None)
        if atom.outgoing is None:
            made = _named_node(atom)
        else:
            ends = [name(each) for each in atom.outgoing]
            made = Named(handle, atom.type, _text(atom.type, ends), _shown_link(ends), tuple(atom.outgoing))
        named[handle] = made
        return made

    for handle in known:
        name(handle)
    return named


def _named_node(atom: CalledAtom) -> Named:
    name = atom.name or ""
    shown = atom.shown or (category_title(name) if atom.type == "category" else None)
    return Named(
        atom.handle, atom.type, str(NodeForm(atom.type, name)), None if shown == name else shown, None
    )


def _text(type_: str, ends: Sequence[Named]) -> str:
    texts = [each.text for each in ends]
    if sum(map(len, texts)) > LONGEST_TEXT:
        texts = [each.text if each.outgoing is None else str(each.handle) for each in ends]
    return f"{type_}({', '.join(texts)})"


def _shown_link(ends: Sequence[Named]) -> str | None:
    """What a link connects in the words of people; None if the text form says the same, or it is too long."""
    if all(each.shown is None for each in ends):
        return None
    shown = [each.shown or each.text for each in ends[:_MOST_SHOWN]]
    more = ["…"] if len(ends) > _MOST_SHOWN else []
    joined = " – ".join([*shown, *more])
    return joined if len(joined) <= LONGEST_TEXT else None

"""What callers may change in the knowledge graph: what people say is there, beside facts and other sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from atlas.adapters.graph import Evidence, Link, Node, Sources
from atlas.adapters.graph_views import GraphViewsDAO
from maia.api.context import WRITE, service_of
from maia.api.graph import LONGEST_ATOM, AtomId, one
from maia.api.problems import Problem, described
from maia.graphing.forms import Form, HandleForm, LinkForm, NodeForm, canonical, parse_form
from maia.graphing.naming import resolve

router = APIRouter(prefix="/api/v1/graph", tags=["graph"], dependencies=[WRITE])

_MOST_ATOMS: Final = 1_000
_MOST_OBSERVED: Final = 10**12


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class NewAtom(_Strict):
    """A node or link that is to be there, with all atoms in its outgoing set."""

    atom: str = Field(
        min_length=1,
        max_length=LONGEST_ATOM,
        description="`type:name`, or `type(atom, atom)`, which may be nested. Handles name atoms that are "
        "there already.",
        examples=["related_to(tag:lofi, concept:calm)"],
    )
    pos: int = Field(default=0, ge=0, le=_MOST_OBSERVED, description="Observations that it is true.")
    neg: int = Field(default=0, ge=0, le=_MOST_OBSERVED, description="Observations that it is not.")
    weight: float | None = Field(
        default=None, ge=-1e30, le=1e30, description="Of a link; null leaves the one it has."
    )


class NewAtoms(_Strict):
    """Atoms to add. What is so already is left alone, so sending them again changes nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"atoms": [{"atom": "related_to(tag:lofi, concept:calm)", "pos": 3, "neg": 1, "weight": 0.8}]}
            ]
        }
    )

    atoms: list[NewAtom] = Field(min_length=1, max_length=_MOST_ATOMS, description="Nodes and links.")
    counting: bool = Field(
        default=False,
        description="Add the observations to those of this site, instead of taking their place. Sending them "
        "again counts them again then.",
    )


class AtomsAdded(BaseModel):
    """How many atoms are new, with those in outgoing sets, how many changed, and the handles of all."""

    added: int = Field(examples=[3])
    changed: int = Field(examples=[0])
    handles: list[str] = Field(examples=[["8c2d7e7b-7d3f-5cf4-55d6-6a9b4b6a1f0e"]])


class AtomTakenBack(BaseModel):
    """What became of it: `still` are those who also say that it is there, `gone` counts it and its links."""

    handle: str = Field(examples=["8c2d7e7b-7d3f-5cf4-55d6-6a9b4b6a1f0e"])
    still: list[str] = Field(examples=[[]])
    gone: int = Field(examples=[1])


@router.post(
    "/atoms",
    summary="Add nodes and links",
    status_code=201,
    responses=described(404, "A handle's first characters name no atom."),
)
async def add(request: Request, body: NewAtoms) -> AtomsAdded:
    dao = _dao(request)
    forms = [parse_form(each.atom) for each in body.atoms]
    named = sorted({each for form in forms for each in _handles_in(form)}, key=str)
    known = dict(zip(named, await resolve(dao, named), strict=True))
    new = [_new(form, each, known) for form, each in zip(forms, body.atoms, strict=True)]
    done = await dao.add(new, Sources.PEOPLE, counting=body.counting)
    handles = await resolve(dao, forms)
    return AtomsAdded(added=done.added, changed=done.changed, handles=[str(each) for each in handles])


@router.delete(
    "/atoms/{id:path}",
    summary="Take back what people added",
    description="An atom that facts, or other sites, say is there stays, and so do its links.",
    responses=described(404, "There is no such atom.") | described(409, "People did not add it."),
)
async def take_back(request: Request, atom: AtomId) -> AtomTakenBack:
    found = await one(service_of(request), atom)
    if "people" not in found.sources:
        raise Problem(
            409,
            f"not people but {' and '.join(found.sources)} say that {found.atom[:200]} is there: nothing was "
            "changed; it goes when they no longer say so",
        )
    gone = await _dao(request).remove([UUID(found.handle)], Sources.PEOPLE)
    still: list[str] = [each for each in found.sources if each != "people"]
    return AtomTakenBack(handle=found.handle, still=still, gone=len(gone))


def _new(form: Form, wanted: NewAtom, known: Mapping[HandleForm, UUID]) -> Node | Link:
    evidence = Evidence(wanted.pos, wanted.neg)
    match form:
        case LinkForm():
            return Link(form.type, _ends(form, known), evidence, wanted.weight)
        case NodeForm() if wanted.weight is None:
            node = canonical(form)
            return Node(node.type, node.name, evidence)
        case NodeForm():
            raise Problem(422, f"{form} is a node, and only links have a weight: leave it out")
        case HandleForm():
            raise Problem(
                422, f"{form} is a handle, which does not say what to add: give a type and a name, or a link"
            )


def _ends(link: LinkForm, known: Mapping[HandleForm, UUID]) -> tuple[Node | Link | UUID, ...]:
    ends: list[Node | Link | UUID] = []
    for form in link.outgoing:
        match form:
            case LinkForm():
                ends.append(Link(form.type, _ends(form, known)))
            case NodeForm():
                node = canonical(form)
                ends.append(Node(node.type, node.name))
            case HandleForm():
                ends.append(known[form])
    return tuple(ends)


def _handles_in(form: Form) -> Iterator[HandleForm]:
    if isinstance(form, HandleForm):
        yield form
    elif isinstance(form, LinkForm):
        for each in form.outgoing:
            yield from _handles_in(each)


def _dao(request: Request) -> GraphViewsDAO:
    atlas = service_of(request).atlas
    return GraphViewsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

"""Queries of the knowledge graph over HTTP: a template of links with variables, as text or as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from atlas.adapters.graph_matching import MAX_COST, TIMEOUT_S
from atlas.adapters.graph_queries import (
    MOST_CLAUSES,
    MOST_CONDITIONS,
    MOST_VARIABLES,
    Comparison,
    Mode,
    Property,
)
from atlas.errors import StatementTimeout
from maia.api import graph_examples as examples
from maia.api.answers import Body, as_json, documented
from maia.api.context import READ, service_of
from maia.api.graph import LONGEST_ATOM, graph_work
from maia.api.problems import Problem, described
from maia.graphing.forms import parse_form
from maia.graphing.templates import (
    MOST_CHARACTERS,
    BoundForm,
    ClauseForm,
    DifferenceForm,
    ItemForm,
    QueryForm,
    TermForm,
    VariableBoundForm,
    VariableForm,
)
from maia.views import graph as views
from maia.views.graph_answers import QueryAnswer

router = APIRouter(prefix="/api/v1/graph", tags=["graph"], dependencies=[READ])

_USUAL_TIMEOUT_S: Final = 5.0
_DEEPEST: Final = 10
_VARIABLE: Final = r"^\?[A-Za-z_][A-Za-z0-9_]{0,49}$"
_TYPE: Final = r"^[a-z][a-z0-9_]{0,49}$"

_TYPED: Final = re.compile(
    r"\?(?P<name>[A-Za-z_][A-Za-z0-9_]{0,49})"
    r"(?::(?P<types>[a-z][a-z0-9_]{0,49}(?:\|[a-z][a-z0-9_]{0,49})*))?"
)

VariableName = Annotated[str, Field(pattern=_VARIABLE, examples=["?video"])]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Bound(_Strict):
    """A property is at least, at most, above or below a number."""

    property: Property
    comparison: Comparison
    value: float = Field(ge=-1e30, le=1e30)

    def form(self) -> BoundForm:
        return BoundForm(self.property, self.comparison, self.value)


class VariableBound(Bound):
    """A bound of a variable's atom."""

    variable: VariableName


class QueryLink(_Strict):
    """A link that there must be."""

    type: str = Field(pattern=_TYPE, examples=["tagged"])
    outgoing: list[Annotated[str, Field(min_length=1, max_length=LONGEST_ATOM)] | QueryLink] = Field(
        min_length=1,
        max_length=100,
        description="Its outgoing set: variables (`?video`, or `?video:video|channel` of some types), atoms "
        "(`tag:music`, a handle), or links within it.",
        examples=[["?video:video", "tag:music"]],
    )
    name: VariableName | None = Field(default=None, description="A variable for the link itself.")
    bounds: list[Bound] = Field(default=[], max_length=6, description="Bounds of the link's properties.")
    absent: bool = Field(default=False, description="There must be no such link.")

    def form(self, depth: int = 0) -> ClauseForm:
        if depth >= _DEEPEST:
            raise Problem(422, f"the links of a query are nested more than {_DEEPEST} deep")
        return ClauseForm(
            self.type,
            tuple(_term(each, depth) for each in self.outgoing),
            self.name and self.name[1:],
            tuple(each.form() for each in self.bounds),
            self.absent,
        )


class Unequal(_Strict):
    """A variable is not the same atom as another variable, or as an atom."""

    variable: VariableName
    other: str = Field(min_length=1, max_length=LONGEST_ATOM, examples=["?other", "tag:music"])


class GraphQuery(_Strict):
    """What to find: `query` as text, or `links` with their conditions. All variables together are a row."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "tagged(?video, tag:music), uploaded_by(?video, ?channel)", "limit": 10},
                {
                    "links": [
                        {"type": "tagged", "outgoing": ["?video", "tag:music"]},
                        {
                            "type": "co_occurs", "outgoing": ["tag:music", "?tag"],
                            "bounds": [{"property": "weight", "comparison": ">=", "value": 0.5}],
                        },
                        {"type": "tagged", "outgoing": ["?video", "?tag"], "absent": True},
                    ],
                    "show": ["?video", "?tag"], "mode": "distinct",
                },
            ]
        }
    )  # fmt: skip

    query: str | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_CHARACTERS,
        description="Links with variables, and conditions, between commas, such as "
        "`tagged(?v, tag:music)[confidence > 0.1], ?v.sti > 0, ?a != ?b, not tagged(?v, tag:live)`.",
    )
    links: list[QueryLink] = Field(default=[], max_length=MOST_CLAUSES)
    where: list[VariableBound] = Field(default=[], max_length=MOST_CONDITIONS)
    different: list[Unequal] = Field(default=[], max_length=MOST_CONDITIONS)
    show: list[VariableName] = Field(
        default=[], max_length=MOST_VARIABLES, description="The variables of a row. [default: all]"
    )
    mode: Mode = Field(
        default="rows",
        description="rows; distinct ones; distinct ones with how often each was found (tally); or only how "
        "many there are (count, count_distinct).",
    )
    order: list[Annotated[str, Field(min_length=2, max_length=100)]] = Field(
        default=[],
        max_length=5,
        description="Sort by properties: `?video.sti` the highest first, `?video.sti asc` the lowest first.",
    )
    limit: int = Field(default=100, ge=1, le=1_000, description="How many rows to answer at most.")
    explain: bool = Field(default=False, description="Only say how it would be run, and at what cost.")
    max_cost: float = Field(
        default=MAX_COST, ge=1, le=MAX_COST, description="Refuse a query whose plan costs more."
    )
    timeout_s: float = Field(
        default=_USUAL_TIMEOUT_S, ge=0.01, le=TIMEOUT_S, description="End a query that takes longer."
    )
    space: str = Field(default="own", pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$", description="Which graph.")

    def text(self) -> str:
        """The query as text; Problem 422 unless it is given in just one of the two ways."""
        items = tuple(self._items())
        if (self.query is None) == (not items):
            raise Problem(422, "send the query either as the text `query`, or as `links` with conditions")
        return str(QueryForm(items)) if self.query is None else self.query

    def _items(self) -> Iterator[ItemForm]:
        for link in self.links:
            yield link.form()
        for bound in self.where:
            yield VariableBoundForm(bound.variable[1:], bound.form())
        for each in self.different:
            other = _variable(each.other) if each.other.startswith("?") else parse_form(each.other)
            yield DifferenceForm(each.variable[1:], other)


@router.post(
    "/query",
    summary="Match a template of links with variables",
    description="Each row has an atom for each variable, so that all links are there. A query that would "
    "cost too much is refused before it runs, and one that takes too long is ended: the answer says what "
    "to do.",
    response_model=QueryAnswer,
    responses=documented(examples.QUERY) | described(404, "There is no such space, type or atom."),
)
async def query(request: Request, body: GraphQuery) -> Response:
    service = service_of(request)
    text = body.text()
    space = await views.space_named(service.atlas, body.space)
    async with graph_work(service):
        try:
            found = await views.query(
                service.atlas, text, show=body.show, mode=body.mode, order=body.order, limit=body.limit,
                explain=body.explain, max_cost=body.max_cost, timeout_s=body.timeout_s, space=space,
            )  # fmt: skip
        except StatementTimeout as error:
            raise Problem(503, str(error), headers={"Retry-After": "5"}) from error
    return Body(as_json(found)).response()


def _term(term: str | QueryLink, depth: int) -> TermForm:
    if isinstance(term, QueryLink):
        return term.form(depth + 1)
    return _variable(term) if term.startswith("?") else parse_form(term)


def _variable(text: str) -> VariableForm:
    found = _TYPED.fullmatch(text)
    if found is None:
        raise Problem(422, f"{text[:80]} is no variable: write ?name, or ?name:type|type of some types")
    return VariableForm(found["name"], tuple(filter(None, (found["types"] or "").split("|"))))

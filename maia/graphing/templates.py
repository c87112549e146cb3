"""How queries of the knowledge graph are written: links with variables, and conditions, between commas.

`tagged(?video, tag:music), uploaded_by(?video, ?channel)` finds videos tagged music with their channels.

- A variable is `?name`, and `?name:video` or `?name:video|channel` if it must be of a type.
- Links may be nested: `evidence_for(?pattern, tagged(?video, ?tag))`.
- `?link = tagged(?video, ?tag)` binds the link itself to a variable.
- `co_occurs(tag:music, ?tag)[weight >= 2, count > 10]` bounds the link before the brackets; `?video.sti > 0`
  bounds any variable. There are strength, confidence, count, weight, sti and lti.
- `?a != ?b` means that two variables are not the same atom.
- `not tagged(?video, tag:live)` means that there is no such link. A variable that is only there stands for
  any atom.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from atlas.adapters.graph import AtomType
from atlas.adapters.graph_queries import (
    BOUNDABLE,
    COMPARISONS,
    MOST_CLAUSES,
    MOST_CONDITIONS,
    PROPERTIES,
    Bounded,
    Clause,
    Comparison,
    Different,
    Order,
    Property,
    Template,
    Term,
    Typed,
    Variable,
)
from atlas.adapters.graph_views import GraphViewsDAO
from maia.graphing.forms import Form, FormError, HandleForm, LinkForm, NodeForm, Reader
from maia.graphing.naming import resolve

MOST_CHARACTERS: Final = 4_000

_VARIABLE: Final = re.compile(r"\?[A-Za-z_][A-Za-z0-9_]{0,49}")
_TYPES: Final = re.compile(r"[a-z][a-z0-9_]{0,49}(?:\s*\|\s*[a-z][a-z0-9_]{0,49})*")
_LINK: Final = re.compile(r"[a-z][a-z0-9_]{0,49}(?=\s*\()")
_NOT: Final = re.compile(r"not(?=\s)")
_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_WORD: Final = re.compile(r"[a-z_]+")
_COMPARISON: Final = re.compile("|".join(sorted(COMPARISONS, key=len, reverse=True)))


@dataclass(frozen=True, slots=True)
class VariableForm:
    """A variable, and of which types it must be; none: of any."""

    name: str
    types: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"?{self.name}" + (f":{'|'.join(self.types)}" if self.types else "")


@dataclass(frozen=True, slots=True)
class BoundForm:
    """A bound of a property; of a variable, or of the link that has it in brackets."""

    property: Property
    comparison: Comparison
    value: float

    def __str__(self) -> str:
        return f"{self.property} {self.comparison} {self.value!r}"


@dataclass(frozen=True, slots=True)
class ClauseForm:
    """A link with variables in it, perhaps itself bound to one. `at` is where it begins in the text."""

    type: str
    outgoing: tuple[TermForm, ...]
    name: str | None = None
    bounds: tuple[BoundForm, ...] = ()
    is_absent: bool = False
    at: int = field(default=0, compare=False)

    def __str__(self) -> str:
        prefix = ("not " if self.is_absent else "") + (f"?{self.name} = " if self.name else "")
        bounds = f"[{', '.join(map(str, self.bounds))}]" if self.bounds else ""
        return f"{prefix}{self.type}({', '.join(map(str, self.outgoing))}){bounds}"


@dataclass(frozen=True, slots=True)
class VariableBoundForm:
    """A bound of a variable's property."""

    variable: str
    bound: BoundForm

    def __str__(self) -> str:
        return f"?{self.variable}.{self.bound}"


@dataclass(frozen=True, slots=True)
class DifferenceForm:
    """A variable isn't the same atom as another variable, or as a constant."""

    variable: str
    other: VariableForm | Form

    def __str__(self) -> str:
        return f"?{self.variable} != {self.other}"


TermForm: TypeAlias = VariableForm | ClauseForm | Form
ItemForm: TypeAlias = ClauseForm | VariableForm | VariableBoundForm | DifferenceForm


@dataclass(frozen=True, slots=True)
class QueryForm:
    """A query as it is written."""

    items: tuple[ItemForm, ...]
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return ", ".join(map(str, self.items))


def parse_query(text: str) -> QueryForm:
    """The query that a text has; FormError points at what is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise FormError(text, MOST_CHARACTERS, f"a query has at most {MOST_CHARACTERS:,} characters")
    reader = _QueryReader(text)
    items = [reader.item()]
    while reader.take(","):
        if len(items) >= MOST_CLAUSES + MOST_CONDITIONS:
            raise reader.refuse("a query has no more parts than this")
        items.append(reader.item())
    reader.end_of_query()
    return QueryForm(tuple(items), reader.text)


class _QueryReader(Reader):
    """Reads the parts of a query."""

    def item(self) -> ItemForm:
        """A clause, a typed variable, a bound, or a difference."""
        self.peek()
        begin = self.at
        if self.match(_NOT) is not None:
            return self._clause(is_absent=True, at=begin)
        if self.peek() != "?":
            return self._clause(at=begin)
        name = self.variable()
        if self.take("="):
            self.peek()
            return self._clause(name=name, at=self.at)
        if self.take("."):
            return VariableBoundForm(name, self._bound())
        if self.take("!="):
            return DifferenceForm(name, self._other())
        if self.take(":"):
            return VariableForm(name, self._types())
        raise self.refuse(
            f"?{name} alone says nothing: it needs a type (?{name}:video), a link (?{name} = tagged(…)), "
            f"a bound (?{name}.count > 1) or a difference (?{name} != ?other)"
        )

    def end_of_query(self) -> None:
        if self.peek():
            raise self.refuse(
                "there must be a comma between two parts of a query, and no more after the last"
            )

    def _clause(
        self, *, name: str | None = None, is_absent: bool = False, at: int, depth: int = 0
    ) -> ClauseForm:
        type_ = self.match(_LINK)
        if type_ is None:
            raise self.refuse("a link is expected here, such as tagged(?video, tag:music)")
        self.expect("(", "the type")
        outgoing = self.items(type_, depth, self._term)
        bounds = []
        if self.take("["):
            if is_absent:
                raise self.refuse("a link that must not be there has no bounds", self.at - 1)
            bounds = [self._bound()]
            while self.take(","):
                bounds.append(self._bound())
            self.expect("]", "the bounds of a link")
        return ClauseForm(type_, outgoing, name, tuple(bounds), is_absent, at)

    def _term(self, depth: int) -> TermForm:
        self.peek()
        begin = self.at
        if self.text.startswith("?", begin):
            name = self.variable()
            if self.take("="):
                self.peek()
                return self._clause(name=name, at=self.at, depth=depth)
            return VariableForm(name, self._types() if self.take(":") else ())
        if _LINK.match(self.text, begin):
            return self._clause(at=begin, depth=depth)
        return self.form(depth)

    def _other(self) -> VariableForm | Form:
        return VariableForm(self.variable()) if self.peek() == "?" else self.form()

    def variable(self) -> str:
        found = self.match(_VARIABLE)
        if found is None:
            raise self.refuse("a variable is a question mark and a name of letters, such as ?video")
        return found[1:]

    def _types(self) -> tuple[str, ...]:
        found = self.match(_TYPES)
        if found is None:
            raise self.refuse("after the colon there must be a type, or several with | between them")
        return tuple(each.strip() for each in found.split("|"))

    def _bound(self) -> BoundForm:
        self.peek()
        begin = self.at
        property_ = _one_of(BOUNDABLE, self.match(_WORD))
        if property_ is None:
            raise self.refuse(f"a bound is of one of {', '.join(BOUNDABLE)}", begin)
        comparison = _one_of(COMPARISONS, self.match(_COMPARISON))
        if comparison is None:
            raise self.refuse(f"after {property_} there must be one of {' '.join(COMPARISONS)}")
        number = self.match(_NUMBER)
        if number is None:
            raise self.refuse("a number is expected here")
        return BoundForm(property_, comparison, float(number))


_T = TypeVar("_T", bound=str)


def _one_of(known: Sequence[_T], found: str | None) -> _T | None:
    return next((each for each in known if each == found), None)


def parse_order(text: str) -> Order:
    """By what to sort: `?link.weight`, the greatest first; `?video.name`, by name; or with asc or desc."""
    reader = _QueryReader(text)
    name = reader.variable()
    reader.expect(".", "the variable")
    reader.peek()
    begin = reader.at
    property_ = _one_of(PROPERTIES, reader.match(_WORD))
    if property_ is None:
        raise reader.refuse(f"rows are sorted by one of {', '.join(PROPERTIES)}", begin)
    reader.peek()
    begin, direction = reader.at, reader.match(_WORD)
    if direction not in (None, "asc", "desc"):
        raise reader.refuse("the direction is asc or desc", begin)
    reader.end()
    return Order(
        Variable(name), property_, (direction or ("asc" if property_ == "name" else "desc")) == "desc"
    )


def parse_variable(text: str) -> Variable:
    """A variable, with its question mark or without."""
    reader = _QueryReader(text if text.lstrip().startswith("?") else f"?{text}")
    name = reader.variable()
    reader.end()
    return Variable(name)


# From what is written to what is matched


async def template_of(dao: GraphViewsDAO, query: QueryForm) -> Template:
    """The template that a query means; constants are found, links in links become clauses of their own."""
    constants = constants_of(query)
    handles = dict(zip(constants, await resolve(dao, constants), strict=True))
    return _Binder(query, await dao.types(), handles).template()


def shown_variables(query: QueryForm, template: Template) -> tuple[Variable, ...]:
    """The variables that have a name and are bound, in the order in which they come in the text."""
    bound = set(template.variables)
    named = dict.fromkeys(map(Variable, _names(query.items)))
    return tuple(each for each in named if each in bound)


def _names(items: Iterable[ItemForm | TermForm]) -> Iterable[str]:
    for item in items:
        match item:
            case ClauseForm():
                yield from [item.name] if item.name else []
                yield from _names(item.outgoing)
            case VariableForm():
                yield item.name


def constants_of(query: QueryForm) -> list[Form]:
    """The constants of a query, and of links that are constants also their ends."""
    return list(dict.fromkeys(_constants(query.items)))


def _constants(items: Iterable[Any]) -> Iterable[Form]:
    """The constants within parts of a query, also those of links with variables."""
    for item in items:
        match item:
            case ClauseForm():
                if (constant := _constant(item)) is not None:
                    yield constant
                yield from _constants(item.outgoing)
            case DifferenceForm():
                yield from _constants([item.other])
            case NodeForm() | LinkForm() | HandleForm():
                yield item


def _constant(term: TermForm) -> Form | None:
    """A term as a constant; None if there is a variable in it, or it must be a clause for its bounds."""
    match term:
        case VariableForm():
            return None
        case ClauseForm():
            ends = [_constant(each) for each in term.outgoing]
            if term.name or term.bounds or term.is_absent or None in ends:
                return None
            return LinkForm(term.type, tuple(each for each in ends if each is not None))
    return term


class _Binder:
    """Makes clauses of links, giving variables to those that are within others."""

    def __init__(self, query: QueryForm, types: Mapping[str, AtomType], handles: Mapping[Form, UUID]) -> None:
        self._query, self._types, self._handles = query, types, handles
        self._clauses: list[Clause] = []
        self._absent: list[Clause] = []
        self._typed: list[Typed] = []
        self._different: list[Different] = []
        self._bounded: list[Bounded] = []
        self._implied = 0

    def template(self) -> Template:
        for item in self._query.items:
            match item:
                case ClauseForm(is_absent=True):
                    before, self._typed = self._typed, []
                    clause = self._clause(item, self._variable_of(item))
                    self._absent.append(replace(clause, typed=tuple(self._typed)))
                    self._typed = before
                case ClauseForm():
                    self._add(item)
                case VariableForm():
                    self._term(item)
                case VariableBoundForm():
                    self._bounded.append(_bounded(Variable(item.variable), item.bound))
                case DifferenceForm():
                    self._different.append(Different(Variable(item.variable), self._term(item.other)))
        return Template(
            tuple(self._clauses), tuple(self._absent), tuple(self._typed), tuple(self._different),
            tuple(self._bounded),
        )  # fmt: skip

    def _add(self, form: ClauseForm) -> Variable:
        """Add a link's clause, after those of the links within it; returns the link's variable."""
        link = self._variable_of(form)
        self._clauses.append(self._clause(form, link))
        self._bounded += [_bounded(link, each) for each in form.bounds]
        return link

    def _clause(self, form: ClauseForm, link: Variable) -> Clause:
        type_ = self._types.get(form.type)
        if type_ is None or not type_.is_link:
            known = ", ".join(each.name for each in self._types.values() if each.is_link)
            raise FormError(self._query.text, form.at, f"{form.type} is no type of links; there are {known}")
        if form.is_absent and any(
            isinstance(each, ClauseForm) and not _constant(each) for each in form.outgoing
        ):
            raise FormError(
                self._query.text, form.at, "a link that must not be there can't have links with variables"
            )
        return Clause(link, form.type, tuple(self._term(each) for each in form.outgoing))

    def _variable_of(self, form: ClauseForm) -> Variable:
        if form.name is not None:
            return Variable(form.name)
        self._implied += 1
        return Variable(f"_{self._implied}", is_implied=True)

    def _term(self, form: TermForm) -> Term:
        if isinstance(form, VariableForm):
            variable = Variable(form.name)
            if form.types:
                self._typed.append(Typed(variable, form.types))
            return variable
        constant = _constant(form)
        if constant is not None:
            return self._handles[constant]
        assert isinstance(form, ClauseForm)
        return self._add(form)


def _bounded(variable: Variable, bound: BoundForm) -> Bounded:
    return Bounded(variable, bound.property, bound.comparison, bound.value)

"""How atoms are written by people: nodes as `type:name`, links as `type(a, b)`, or an atom by its handle.

Links may be nested. A name goes in double quotes, as in JSON, if it has quotes, commas, parentheses, brackets
or control characters, or spaces at its ends: `tag:lo fi` but `tag:"rock, live"`. Where a node stands alone, a
name that doesn't begin with a quote may have everything. A handle is a UUID or the first characters of one,
at least four, if no other atom has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

from atlas import foreign
from atlas.adapters.graph import DEEPEST, LONGEST_NAME, MOST_OUTGOING
from atlas.queries import clean_text, topic_key
from maia.errors import MaiaError
from maia.youtube.categories import CATEGORIES

FEWEST_DIGITS: Final = 4
"""So many characters of a handle are needed at least."""

_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,49}(?=\s*[:(])")
_BARE: Final = re.compile(r'[^",()\[\]]+')
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_DIGITS: Final = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]*(?![\w:])")
_SPACE: Final = re.compile(r"\s*")
_SHOWN_AROUND: Final = 30
T = TypeVar("T")


class FormError(MaiaError):
    """What is written is no atom or query; the message points at the place."""

    def __init__(self, text: str, at: int, reason: str) -> None:
        self.text, self.at, self.reason = text, at, reason
        super().__init__(f"{reason}, at character {at + 1}:\n{pointed_at(text, at)}")


def pointed_at(text: str, at: int) -> str:
    """The part of a text around a place, and below it a mark at that place."""
    begin, end = max(at - _SHOWN_AROUND, 0), at + _SHOWN_AROUND
    before, after = foreign.one_line(text[begin:at]), foreign.one_line(text[at:end])
    left, right = "…" if begin else "", "…" if end < len(text) else ""
    return f"  {left}{before}{after}{right}\n  {' ' * len(left + before)}^"


@dataclass(frozen=True, slots=True)
class NodeForm:
    """A node by its type and name."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}:{quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class LinkForm:
    """A link by its type and outgoing set."""

    type: str
    outgoing: tuple[Form, ...]

    def __str__(self) -> str:
        return f"{self.type}({', '.join(map(str, self.outgoing))})"


@dataclass(frozen=True, slots=True)
class HandleForm:
    """An atom by its handle: all 32 hexadecimal digits of it, or the first ones."""

    digits: str

    def __str__(self) -> str:
        return str(UUID(self.digits)) if self.is_whole else self.digits

    @property
    def is_whole(self) -> bool:
        return len(self.digits) == 32

    @property
    def first(self) -> UUID:
        return UUID(self.digits.ljust(32, "0"))

    @property
    def last(self) -> UUID:
        return UUID(self.digits.ljust(32, "f"))


Form: TypeAlias = NodeForm | LinkForm | HandleForm


def parse_form(text: str, depth: int = 0) -> Form:
    """The atom that a text names, which so many links are around; FormError points at what is wrong."""
    reader = Reader(text)
    form = reader.lone_node() or reader.form(depth)
    reader.end()
    return form


def quoted(name: str) -> str:
    """A name as it is written in a text form: as it is if that can be read back, or else in quotes."""
    plain = name.isprintable() and name == name.strip() and _BARE.fullmatch(name)
    return name if plain else json.dumps(name, ensure_ascii=False)


class Reader:
    """Reads forms from a text, one after the other."""

    def __init__(self, text: str) -> None:
        self.text, self.at = clean_text(text), 0

    def refuse(self, reason: str, at: int | None = None) -> FormError:
        """The error to raise for what is at a place, or here."""
        return FormError(self.text, self.at if at is None else at, reason)

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        self._skip_space()
        return self.text[self.at : self.at + 1]

    def take(self, token: str) -> bool:
        """Whether a token comes next, which is read then."""
        self._skip_space()
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str, after: str) -> None:
        if not self.take(token):
            raise self.refuse(f"there must be {token!r} after {after}")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """What comes next if it has the pattern, which is read then."""
        self._skip_space()
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def end(self) -> None:
        if self.peek():
            raise self.refuse("this is one too many")

    def lone_node(self) -> NodeForm | None:
        """The whole text as a node whose name isn't in quotes."""
        begin = self.at
        type_ = self.match(_TYPE)
        if type_ is not None and self.take(":") and self.peek() != '"':
            name = self.text[self.at :].strip()
            if name and len(name) <= LONGEST_NAME:
                self.at = len(self.text)
                return NodeForm(type_, name)
        self.at = begin
        return None

    def form(self, depth: int = 0) -> Form:
        """A node, link or handle."""
        begin = self.at
        if (type_ := self.match(_TYPE)) is not None:
            if self.take(":"):
                return NodeForm(type_, self.name())
            self.expect("(", "the type")
            return LinkForm(type_, self.items(type_, depth, self.form))
        if (digits := self.match(_DIGITS)) is not None:
            return self._handle(digits, begin)
        raise self.refuse(
            "an atom is expected here: a node such as tag:music, a link such as "
            "tagged(video:ID, tag:music), or a handle"
        )

    def name(self) -> str:
        """A node's name, in quotes or not."""
        self._skip_space()
        begin = self.at
        if self.peek() == '"':
            found = self.match(_QUOTED)
            if found is None:
                raise self.refuse("the quotes that begin here have no end")
            try:
                name = clean_text(json.loads(found, strict=False))
            except ValueError:
                raise self.refuse('after \\ there must be one of " \\ / b f n r t u', begin) from None
        else:
            name = (self.match(_BARE) or "").rstrip()
        if not 1 <= len(name) <= LONGEST_NAME:
            raise self.refuse(f"a name has 1 to {LONGEST_NAME} characters, this one has {len(name)}", begin)
        return name

    def items(self, type_: str, depth: int, read: Callable[[int], T]) -> tuple[T, ...]:
        """What an outgoing set has, after the parenthesis that opens it; `read` gets the depth of each."""
        if depth >= DEEPEST:
            raise self.refuse(f"links are nested more than {DEEPEST} deep here")
        found: list[T] = []
        while len(found) < MOST_OUTGOING:
            found.append(read(depth + 1))
            if self.take(")"):
                return tuple(found)
            if not self.take(","):
                raise self.refuse(
                    f"there must be a comma, or the closing parenthesis of {type_}( (names with quotes, "
                    "commas, parentheses or brackets go in double quotes)"
                )
        raise self.refuse(f"an outgoing set has at most {MOST_OUTGOING} atoms")

    def _handle(self, text: str, begin: int) -> HandleForm:
        digits = text.replace("-", "").lower()
        if not FEWEST_DIGITS <= len(digits) <= 32:
            raise self.refuse(f"a handle has {FEWEST_DIGITS} to 32 hexadecimal digits", begin)
        return HandleForm(digits)

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()


def canonical(form: NodeForm) -> NodeForm:
    """A node as it is stored: all spellings of a tag or topic share a key; categories are numbers."""
    match form.type:
        case "tag" | "topic":
            return NodeForm(form.type, topic_key(form.name) or form.name)
        case "category":
            wanted = form.name.casefold()
            for number, category in CATEGORIES.items():
                if category.title.casefold() == wanted:
                    return NodeForm(form.type, str(number))
    return form


def category_title(name: str) -> str | None:
    """What YouTube calls the category with this number."""
    found = CATEGORIES.get(int(name)) if name.isascii() and name.isdigit() else None
    return None if found is None else found.title

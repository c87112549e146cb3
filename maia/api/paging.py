"""Cursors of lists: opaque texts that say after which element of which list a page begins."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from hashlib import blake2b
from typing import Annotated, Any, Final

import orjson
from fastapi import Query

from maia.api.problems import Problem

LONGEST_CURSOR: Final = 512
_LONGEST_TEXT: Final = 100

Cursor = Annotated[
    str | None,
    Query(
        max_length=LONGEST_CURSOR,
        description="Where the page begins: `next` of the page before, with the same filters.",
    ),
]


def cursor_after(listed: object, *values: object) -> str:
    """A cursor after the element with these values, in the list that `listed` describes."""
    text = urlsafe_b64encode(orjson.dumps([_digest(listed), *values]))
    return text.decode().rstrip("=")


def values_of(cursor: str, listed: object, *kinds: type, longest: int = _LONGEST_TEXT) -> list[Any]:
    """The values in a cursor, of these types; Problem 422 if it isn't of the same list.

    Texts in it are at most `longest` characters long.
    """
    try:
        found = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (NotBase64, ValueError):
        raise _unknown() from None
    if not isinstance(found, list) or len(found) != len(kinds) + 1 or found[0] != _digest(listed):
        raise _unknown()
    values: list[Any] = found[1:]
    if not all(_fits(value, kind, longest) for value, kind in zip(values, kinds, strict=True)):
        raise _unknown()
    return values


def _fits(value: object, kind: type, longest: int) -> bool:
    if type(value) is not kind:
        return False
    if isinstance(value, int):
        return abs(value) < 2**63
    return not isinstance(value, str) or len(value) <= longest


def _unknown() -> Problem:
    return Problem(422, "this cursor is not of this list: leave it out, or send the filters it was given for")


def _digest(listed: object) -> str:
    return blake2b(orjson.dumps(listed), digest_size=6).hexdigest()

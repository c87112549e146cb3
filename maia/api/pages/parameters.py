"""Parameters of pages: an empty field of a form is one that was not given."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs, unquote_plus

from fastapi import Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from maia.api.problems import Problem

T = TypeVar("T")

_SPAN: Final = re.compile(r"(\d{1,4})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_MOST_FIELDS: Final = 50

LONGEST_TEXT: Final = 200


class PageRoute(APIRoute):
    """The route of a page: an empty field of a form in its address is one that was not given."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = scope["query_string"].split(b"&")
        scope["query_string"] = b"&".join(each for each in fields if _is_filled_in(each))
        await super().handle(scope, receive, send)


def _is_filled_in(field: bytes) -> bool:
    return bool(unquote_plus(field.partition(b"=")[2].decode("latin-1")).strip())


Text = Annotated[str | None, Query(max_length=LONGEST_TEXT)]
Span = Annotated[str | None, Query(pattern=r"^\d{1,4}[mhd]$")]
TypeName = Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9_]{0,49}$")]


def span_of(text: str | None) -> timedelta | None:
    """A span such as 90m, 24h or 7d; None without one, or for one of no length."""
    match = None if text is None else _SPAN.fullmatch(text)
    if match is None:
        return None
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) or None


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a posted form, each by its last value."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Problem(415, "send the form of the page itself (application/x-www-form-urlencoded)")
    try:
        fields = parse_qs(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS
        )
    except ValueError as error:
        raise Problem(422, "the form can't be read: send the form of the page itself") from error
    return {name: values[-1] for name, values in fields.items()}

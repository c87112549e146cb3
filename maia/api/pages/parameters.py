"""Parameters of pages: an empty field of a form is one that was not given."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs

from fastapi import Query
from pydantic import BeforeValidator, StringConstraints
from starlette.requests import Request

from maia.api.problems import Problem

T = TypeVar("T")

_SPAN: Final = re.compile(r"(\d{1,4})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_MOST_FIELDS: Final = 50

LONGEST_TEXT: Final = 200


def blank_as_none(value: object) -> object:
    """None for the empty text that a form sends for an empty field."""
    return None if isinstance(value, str) and not value.strip() else value


Blank = BeforeValidator(blank_as_none)
Text = Annotated[Annotated[str, StringConstraints(max_length=LONGEST_TEXT)] | None, Blank, Query()]
Span = Annotated[Annotated[str, StringConstraints(pattern=r"^\d{1,4}[mhd]$")] | None, Blank, Query()]


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

"""Answers as bodies: a view as JSON, and the rows of a list as CSV too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import quote

import orjson
from fastapi import Query
from starlette.datastructures import URL
from starlette.responses import Response

from atlas import csvform

JSON: Final = "application/json"
CSV: Final = "text/csv; charset=utf-8"


class Format(StrEnum):
    """How a list is written."""

    JSON = "json"
    CSV = "csv"


AsFormat = Annotated[
    Format,
    Query(
        alias="format",
        description="`csv` has one line for each row; texts are guarded against being run as formulas, and "
        "the header `Link` leads to the next page.",
    ),
]


@dataclass(frozen=True, slots=True)
class Body:
    """What is answered, ready to be sent any number of times."""

    content: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, status: int = 200) -> Response:
        return Response(self.content, status, self.headers, self.media_type)


@dataclass(frozen=True, slots=True)
class Table:
    """A list as CSV: its file's name, and its columns, which are names of fields, or paths to nested ones."""

    name: str
    columns: Sequence[str]

    def csv(self, rows: Iterable[object]) -> bytes:
        header = [column.replace(".", "_") for column in self.columns]
        lines = [[_at(row, column) for column in self.columns] for row in rows]
        return csvform.document(header, lines, csvform.CsvForm.GUARDED)


def as_json(view: object) -> bytes:
    """A view as JSON: instants in UTC as RFC 3339, NaN and infinity as null."""
    return orjson.dumps(view, option=orjson.OPT_UTC_Z)


def listed(
    view: object, rows: Iterable[object], table: Table, form: Format, url: URL, following: str | None = None
) -> Body:
    """A list in the format that was asked for, with a link to the page that follows."""
    headers: dict[str, str] = {}
    if following is not None:
        target = url.include_query_params(cursor=following)
        headers["Link"] = f'<{quote(target.path)}?{target.query}>; rel="next"'
    if form is Format.JSON:
        return Body(as_json(view), JSON, headers)
    headers["Content-Disposition"] = f'attachment; filename="{table.name}.csv"'
    return Body(table.csv(rows), CSV, headers)


def documented(example: object, *, csv: bool = False) -> dict[int | str, dict[str, Any]]:
    """The documentation of a successful answer: an example, and that it can be had as CSV."""
    content: dict[str, Any] = {JSON: {"example": example}}
    if csv:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {200: {"description": "Successful Response", "content": content}}


def _at(row: object, path: str) -> object:
    found: Any = row
    for name in path.split("."):
        if found is None:
            return None
        found = getattr(found, name)
    return found

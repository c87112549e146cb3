"""Write CSV the same way everywhere in the product: UTF-8, RFC 3339 instants, empty cells for nulls.

Any CSV may be opened in a spreadsheet, so texts are guarded against being read as formulas, unless the caller
asks for raw ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from atlas import foreign

BYTE_ORDER_MARK: Final = "\ufeff"


class CsvForm(StrEnum):
    """Who will read the CSV: anyone (GUARDED), Excel by double click, or a program that needs exact texts."""

    GUARDED = "guarded"
    EXCEL = "excel"
    RAW = "raw"


def document(columns: Sequence[str], rows: Iterable[Sequence[object]], form: CsvForm) -> bytes:
    """The CSV of a whole table, with a header line."""
    text = io.StringIO(newline="")
    if form is CsvForm.EXCEL:
        text.write(BYTE_ORDER_MARK)
    writer = csv.writer(text, lineterminator="\n")
    # Columns may be named by foreign texts, too: fields of patterns.
    writer.writerow([cell(column, form) for column in columns])
    writer.writerows([cell(value, form) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def cell(value: object, form: CsvForm) -> object:
    """Prepare a value for `csv.writer`."""
    match value:
        case str():
            return value if form is CsvForm.RAW else foreign.cell(value)
        case bool():
            return str(value).lower()
        case datetime():
            return rfc3339(value)
        case list() | tuple() if all(isinstance(each, str) for each in value):
            return cell(", ".join(value), form)
    return value


def rfc3339(instant: datetime) -> str:
    """Format an instant in UTC, such as 2026-11-02T08:00:00Z."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")

"""Tables that fit the terminal: columns shrink first, then the less important ones are left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from maia.commands.terminal import as_text, console

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_GAP: Final = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    With `least`, it may shrink to that many cells: long text ends in an ellipsis, or with `wraps` continues
    on the next line. If shrinking is not enough, columns with a `rank` are left out, the highest rank first.
    Numbers are right-aligned, and so is text with `right`.
    """

    name: str
    least: int | None = None
    wraps: bool = False
    rank: int = 0
    right: bool = False


@dataclass(frozen=True, slots=True)
class _SizedColumn:
    """A column with its cells, its natural width and its minimum width."""

    column: Column
    cells: tuple[str, ...]
    right: bool
    instants: bool
    natural: int
    least: int

    @property
    def is_empty(self) -> bool:
        return all(cell in ("", as_text(None)) for cell in self.cells)


def print_table(
    columns: Sequence[str | Column], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """Print rows in columns, within the width of the terminal; None is shown as a dash."""
    out = console()
    out.print(as_renderable(columns, rows, out.width, title=title))
    out.print()


def as_renderable(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[object]],
    width: int,
    *,
    title: str | None = None,
) -> Group:
    """What `print_table` prints, for a display that is drawn anew."""
    from rich.console import Group
    from rich.text import Text

    values = [tuple(row) for row in rows]
    every = [
        _measure(column if isinstance(column, Column) else Column(column), [row[place] for row in values])
        for place, column in enumerate(columns)
    ]
    kept = _columns_that_fit(every, width)
    # Not the table's own title, which would wrap at the table's width.
    parts: list[Text | Table] = [] if title is None else [Text(title, style="bold")]
    parts.append(_table(kept, _widths(kept, width)))
    notes = ["Times are UTC."] if any(each.instants for each in kept) else []
    if left_out := [each.column.name for each in every if each not in kept and not each.is_empty]:
        notes.append(f"Columns left out: {', '.join(left_out)} (--json shows all).")
    if notes:
        parts.append(Text(" ".join(notes), style="dim"))
    return Group(*parts)


def _measure(column: Column, values: Sequence[object]) -> _SizedColumn:
    from rich.cells import cell_len

    cells = tuple(_cell(value) for value in values)
    longest_word = max(map(cell_len, column.name.split()), default=0)
    needed = max((cell_len(cell) for cell in cells), default=0)
    natural = max(longest_word, needed)
    if natural < cell_len(column.name) <= natural + natural // 2 and column.least is None:
        # Keep the heading on one line if that costs little width.
        natural = cell_len(column.name)
    least = natural if column.least is None else min(natural, max(column.least, longest_word))
    if column.wraps:
        words = (word for cell in cells for word in cell.split())
        least = min(natural, max(least, min(max(map(cell_len, words), default=0), 3 * least)))
    numeric = bool(values) and all(isinstance(value, (int, float, type(None))) for value in values)
    instants = any(isinstance(value, datetime) for value in values)
    return _SizedColumn(column, cells, numeric or column.right, instants, natural, least)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    return as_text(value)


def _columns_that_fit(every: Sequence[_SizedColumn], width: int) -> list[_SizedColumn]:
    """The columns that fit; empty ones are dropped first."""
    kept = list(every)
    optional = sorted(
        (each for each in every if each.column.rank),
        key=lambda each: (each.is_empty, each.column.rank),
        reverse=True,
    )
    for each in optional:
        if sum(one.least for one in kept) + _GAP * (len(kept) - 1) <= width:
            break
        kept.remove(each)
    return kept


def _widths(kept: Sequence[_SizedColumn], width: int) -> list[int]:
    """The width of each column: its minimum, and an even share of the rest if it needs it."""
    from rich.cells import cell_len

    widths = [each.least for each in kept]
    if sum(widths) + _GAP * (len(kept) - 1) > width:
        # There is no room even for the longest words, so break them.
        widths = [min(cells, each.column.least or cells) for cells, each in zip(widths, kept, strict=True)]
    spare = width - sum(widths) - _GAP * (len(kept) - 1)
    wanting = [place for place, each in enumerate(kept) if each.natural > widths[place]]
    while spare > 0 and wanting:
        for place in wanting[: spare if spare < len(wanting) else None]:
            widths[place] += 1
            spare -= 1
        wanting = [place for place in wanting if kept[place].natural > widths[place]]
    for place, each in enumerate(kept):
        # Use the room that is left to keep headings on one line.
        missing = cell_len(each.column.name) - widths[place]
        if 0 < missing <= spare:
            widths[place] += missing
            spare -= missing
    return widths


def _table(kept: Sequence[_SizedColumn], widths: Sequence[int]) -> Table:
    from textwrap import fill

    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        show_header=any(each.column.name for each in kept),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for each, cells in zip(kept, widths, strict=True):
        table.add_column(
            Text(fill(each.column.name, max(cells, 1), break_long_words=False)),
            width=cells,
            no_wrap=not each.column.wraps,
            overflow="fold" if each.column.wraps else "ellipsis",
            justify="right" if each.right else "left",
        )
    for row in zip(*(each.cells for each in kept), strict=True):
        table.add_row(*map(Text, row))
    return table

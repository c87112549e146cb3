"""Event logs: read what others recorded (JSONL, CSV or XES) as events, and report what can't be read.

The parsers take lines or chunks and yield one `LoggedEvent` or `Malformed` after the other, in bounded
memory; none of them raises for what a file holds. Which column means what is guessed from its name, by the
names of the XES standard (IEEE 1849) and by plain ones, unless a mapping says so. A guessed outcome is one
only where it says in a usual word that something succeeded or failed: `status` may be that of an order.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from xml.parsers import expat

import orjson

Scalar: TypeAlias = str | int | float | bool

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "session": (
        "case:concept:name", "session", "session_id", "case", "case_id", "caseid", "case id", "trace",
        "trace_id",
    ),
    "action": ("concept:name", "action", "activity", "activity_name", "event", "event_name", "task"),
    "at": (
        "time:timestamp", "at", "timestamp", "time", "completetimestamp", "complete timestamp", "created_at",
        "datetime", "date",
    ),
    "resource": ("org:resource", "resource", "agent", "user", "operator"),
    "outcome": ("outcome", "result", "status"),
    "reward": ("reward", "cost:reward"),
    "cost": ("cost", "cost:total"),
    "duration_s": ("duration_s", "duration", "seconds"),
}  # fmt: skip
"""For each field of an event the names that it goes by, likeliest first."""
SUCCESSES: Final = frozenset(
    {"success", "succeeded", "successful", "ok", "true", "yes", "1", "done", "complete", "completed"}
)
"""What says that something succeeded, in lower case."""
DENIALS: Final = frozenset({"false", "no", "0"})
"""What says that something failed, without a word for how."""
_FAILURES: Final = DENIALS | {
    "fail", "failed", "failure", "error", "exception", "timeout", "timed out", "abort", "aborted", "crashed",
    "cancelled", "canceled",
}  # fmt: skip
_REQUIRED: Final = ("session", "action")
_SEPARATOR: Final = re.compile(r"(?i:sep)=([^\"\r\n])\s*")
_NUMBERS: Final = ("reward", "cost", "duration_s")
_QUOTED_LINES: Final = 100
_QUOTED_CHARACTERS: Final = 1 << 20
"""A quoted CSV value of more lines or characters is taken for a quote that was never closed."""
_LONGEST_TAG_BYTES: Final = 1 << 22
_DEEPEST_TAG: Final = 100
_LARGEST_EVENT: Final = 1 << 22
_LARGEST_TRACE: Final = 1 << 24
"""Characters of a trace's events that are kept until its end, as attributes of the trace may still come."""
_SHOWN: Final = 200
_DEEPEST: Final = 4


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event: in which session what was done, and when (UTC), by whom and with what result if known."""

    session: str
    action: str
    at: datetime | None = None
    resource: str | None = None
    outcome: str | None = None
    reward: float | None = None
    cost: float | None = None
    duration_s: float | None = None
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    line: int = 0
    """The line of the file where the event begins, from 1."""
    log: str | None = None
    """What the log calls itself, if it does."""

    @property
    def has_unclear_outcome(self) -> bool:
        """Whether what may be an outcome, by its name, says neither that it succeeded nor that it failed."""
        return self.outcome is None and any(_folded(name) in FIELDS["outcome"] for name in self.attributes)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that is no event, and why."""

    line: int
    problem: str
    text: str = ""
    """The beginning of the row."""


Parsed: TypeAlias = LoggedEvent | Malformed


class _UnreadableError(Exception):
    """Why a row is no event."""


def parse_jsonl(lines: Iterable[bytes | str], columns: Mapping[str, str] | None = None) -> Iterator[Parsed]:
    """One event for each line that holds a JSON object; empty lines are skipped.

    Nested objects become attributes with dotted names. `columns` says for a field what it's called here.
    """
    for number, line in enumerate(lines, 1):
        text = ""
        try:
            text = _text(line, first=number == 1).strip()
            if not text:
                continue
            row = orjson.loads(text)
            if not isinstance(row, dict):
                raise _UnreadableError("not a JSON object")
            yield _event(row, guess_columns(list(row), columns), number, columns or {})
        except (_UnreadableError, orjson.JSONDecodeError) as error:
            yield Malformed(number, str(error), (text or repr(line))[:_SHOWN])


def parse_csv(lines: Iterable[bytes | str], columns: Mapping[str, str] | None = None) -> Iterator[Parsed]:
    """One event for each row below the header; separated by comma, semicolon, tab or bar, as the header is.

    A first line such as `sep=;`, which spreadsheets write, says it too.

    Without a column for session or action there is one `Malformed` for the header, and nothing else.
    """
    header: list[str] = []
    guessed: Mapping[str, str] = {}
    separator = ""
    for number, text, problem in _csv_records(lines):
        try:
            if problem:
                raise _UnreadableError(problem)
            if not text.strip():
                continue
            if not header:
                if said := _SEPARATOR.fullmatch(text):
                    separator = said[1]
                    continue
                separator = separator or max(",;\t|", key=text.count)
                header = _cells(text, separator)
                guessed = guess_columns(header, columns)
                _require(guessed)
                continue
            cells = _cells(text, separator)
            if len(cells) != len(header):
                raise _UnreadableError(f"it has {len(cells)} in place of the header's {len(header)} values")
            yield _event(dict(zip(header, cells, strict=True)), guessed, number, columns or {})
        except _UnreadableError as error:
            yield Malformed(number, str(error), text[:_SHOWN])
            if not guessed.keys() >= set(_REQUIRED):
                return


def parse_xes(chunks: Iterable[bytes | str], columns: Mapping[str, str] | None = None) -> Iterator[Parsed]:
    """The events of an XES log (IEEE 1849), as chunks of the file come; a session is a trace.

    Attributes of the trace are added to each of its events as `case:…`. Session, action and instant are where
    the standard has them; `columns` can name the attributes for the other fields. Document type and entity
    declarations are refused, so that nothing can be expanded or fetched. What follows a syntax error is lost.
    """
    reader = _XesReader(columns or {})
    try:
        for chunk in chunks:
            reader.feed(chunk)
            yield from reader.taken()
        reader.close()
    except (expat.ExpatError, _UnreadableError, LookupError, ValueError) as error:
        # The latter two are for encodings that are unknown or not supported.
        yield from reader.taken()
        yield from reader.unfinished()
        yield Malformed(reader.line, str(error))
        return
    yield from reader.taken()


def guess_columns(names: Sequence[str], columns: Mapping[str, str] | None = None) -> dict[str, str]:
    """For each field of an event the column that holds it, if there is one; `columns` comes before guesses.

    Raises ValueError if `columns` names a field that events don't have.
    """
    chosen = dict(columns or {})
    if unknown := chosen.keys() - FIELDS.keys():
        raise ValueError(f"no such field: {', '.join(sorted(unknown))}; there are {', '.join(FIELDS)}")
    by_folded = {_folded(name): name for name in reversed(names)}
    taken = set(chosen.values())
    found = {name: column for name, column in chosen.items() if column in names}
    for name, aliases in FIELDS.items():
        if name in chosen:
            continue
        for alias in aliases:
            column = by_folded.get(alias)
            if column is not None and column not in taken:
                found[name] = column
                taken.add(column)
                break
    return found


def _folded(name: str) -> str:
    return name.strip().casefold()


def parse_instant(value: object) -> datetime:
    """An instant from ISO 8601 (UTC if it has no zone) or a number of s, ms, µs or ns since 1970.

    Raises ValueError if it is neither, or lies outside of the years 1 to 9999.
    """
    try:
        if isinstance(value, str) and not _is_number(value):
            at = datetime.fromisoformat(value.strip())
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("neither text nor a number")
        seconds = float(value)
        if not math.isfinite(seconds):
            raise ValueError("not finite")
        while abs(seconds) >= 1e11:
            seconds /= 1000.0
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not an instant: {str(value)[:40]!r}") from error


def _is_number(text: str) -> bool:
    """Whether it is a number and not a compact date, which has 8 digits."""
    stripped = text.strip()
    try:
        float(stripped)
    except ValueError:
        return False
    return len(stripped) != 8 or not stripped.isdecimal()


def _event(
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    line: int,
    chosen: Collection[str],
    log: str | None = None,
) -> LoggedEvent:
    """The event of a row; raises _UnreadableError if a session, an action or a readable value is missing.

    Those fields are `chosen` whose columns aren't guessed.
    """
    if "outcome" not in chosen and not _tells_outcome(row.get(columns.get("outcome", ""))):
        columns = {name: column for name, column in columns.items() if name != "outcome"}
    values = {name: row.get(column) for name, column in columns.items()}
    _require(columns)
    for name in _REQUIRED:
        if not _filled(values[name]) or isinstance(values[name], dict | list):
            raise _UnreadableError(f"no {name} in {columns[name]!r}")
    try:
        at = parse_instant(values["at"]) if _filled(values.get("at")) else None
    except ValueError as error:
        raise _UnreadableError(str(error)) from error
    used = set(columns.values())
    return LoggedEvent(
        session=str(values["session"]),
        action=str(values["action"]),
        at=at,
        resource=_optional_text(values.get("resource")),
        outcome=_optional_text(values.get("outcome")),
        **{name: _number(name, values.get(name)) for name in _NUMBERS},
        attributes=dict(_scalars({name: value for name, value in row.items() if name not in used})),
        line=line,
        log=log,
    )


def _tells_outcome(value: object) -> bool:
    word = _folded(str(value))
    return word in SUCCESSES or word in _FAILURES


def _require(columns: Mapping[str, str]) -> None:
    for name in _REQUIRED:
        if name not in columns:
            raise _UnreadableError(f"no column for the {name}: say which one it is")


def _filled(value: object) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _optional_text(value: object) -> str | None:
    return str(value) if _filled(value) else None


def _number(name: str, value: object) -> float | None:
    if not _filled(value):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # what float can't take is a TypeError
    except (TypeError, ValueError, OverflowError) as error:
        raise _UnreadableError(f"{name} is no number: {str(value)[:40]!r}") from error
    if not math.isfinite(number):
        raise _UnreadableError(f"{name} is not finite")
    return number


def _scalars(row: Mapping[str, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Scalar]]:
    """The values that are set, with those of nested objects under dotted names and lists as JSON."""
    for name, value in row.items():
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _scalars(value, f"{prefix}{name}.", depth + 1)
        elif isinstance(value, dict | list):
            try:
                yield f"{prefix}{name}", orjson.dumps(value).decode()
            except orjson.JSONEncodeError as error:
                raise _UnreadableError(f"{f'{prefix}{name}'[:40]!r} is nested too deeply") from error
        elif _filled(value):
            yield f"{prefix}{name}", value


def _text(line: bytes | str, *, first: bool) -> str:
    if isinstance(line, bytes):
        try:
            line = line.decode()
        except UnicodeDecodeError as error:
            raise _UnreadableError(f"not UTF-8 at byte {error.start + 1}") from error
    return line.removeprefix("\ufeff") if first else line


def _csv_records(lines: Iterable[bytes | str]) -> Iterator[tuple[int, str, str]]:
    """(line number, text, problem) of each record; one may span lines if a quoted value does."""
    pending: list[tuple[int, str]] = []
    quotes = length = 0
    for number, line in enumerate(lines, 1):
        try:
            text = _text(line, first=number == 1)
        except _UnreadableError as error:
            yield number, repr(line), str(error)
            continue
        pending.append((number, text if text.endswith("\n") else f"{text}\n"))
        quotes += text.count('"')
        length += len(text)
        if len(pending) > 1 and (len(pending) > _QUOTED_LINES or length > _QUOTED_CHARACTERS):
            yield from _without_open_quote(pending)
        elif quotes % 2 == 0:
            yield pending[0][0], "".join(each for _, each in pending), ""
        else:
            continue
        pending, quotes, length = [], 0, 0
    yield from _without_open_quote(pending)


def _without_open_quote(pending: list[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """The lines after a quote that is never closed, each for itself, so that only bad ones are lost."""
    for number, text in pending:
        yield number, text, "a quote is never closed" if text.count('"') % 2 else ""


def _cells(text: str, separator: str) -> list[str]:
    try:
        rows = list(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error as error:
        raise _UnreadableError(str(error)) from error
    if len(rows) != 1:
        raise _UnreadableError("a line break outside of quotes")
    return rows[0]


class _XesReader:
    """Turns the tags of an XES log into events, a trace at a time."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = {**columns, **_XES_COLUMNS}
        self._log: str | None = None
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._path: list[str] = []
        self._trace: dict[str, Scalar] = {}
        self._event: dict[str, Scalar] = {}
        self._events: list[tuple[int, dict[str, Scalar]]] = []
        self._taken: list[Parsed] = []
        self._event_line = self._traces = self._fed = self._kept = self._event_size = 0

    @property
    def line(self) -> int:
        return self._parser.CurrentLineNumber

    def feed(self, chunk: bytes | str) -> None:
        self._fed += len(chunk)
        self._parser.Parse(chunk, False)
        # Where the parser is: what is after it, it keeps until the tag is complete.
        if self._fed - self._parser.CurrentByteIndex > _LONGEST_TAG_BYTES:
            raise _UnreadableError(f"a tag or text of more than {_LONGEST_TAG_BYTES >> 20} MiB")

    def close(self) -> None:
        self._parser.Parse(b"", True)

    def taken(self) -> list[Parsed]:
        """What has been read since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def unfinished(self) -> list[Parsed]:
        """The events of a trace whose end was not found."""
        self._take_events()
        return self.taken()

    def _refuse(self, *declaration: object) -> None:
        raise _UnreadableError("document type and entity declarations are refused")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if len(self._path) > _DEEPEST_TAG:
            raise _UnreadableError(f"tags are nested more than {_DEEPEST_TAG} deep")
        if name == "trace" and parent == "log":
            self._traces += 1
            self._trace, self._events, self._event_size = {}, [], 0
        elif name == "event" and parent in ("trace", "log"):
            self._event, self._event_line, self._event_size = {}, self.line, 0
        elif "key" in attributes and "value" in attributes:
            self._read_attribute(parent, name, attributes["key"], attributes["value"])

    def _read_attribute(self, parent: str, kind: str, key: str, value: str) -> None:
        if parent == "trace":
            self._trace[key] = _xes_value(kind, value)
        elif parent == "event":
            self._event[key] = _xes_value(kind, value)
        elif parent == "log" and key == _XES_COLUMNS["action"]:
            self._log = value.strip() or None
        if parent in ("trace", "event"):
            self._event_size += len(key) + len(value)
            if self._event_size > _LARGEST_EVENT:
                raise _UnreadableError(f"an event or trace with more than {_LARGEST_EVENT:,} characters")

    def _end(self, tag: str) -> None:
        name = self._path.pop()
        parent = self._path[-1] if self._path else ""
        if name == "event" and parent == "trace":
            self._events.append((self._event_line, self._event))
            self._kept += self._event_size
            self._event_size = 0
            if self._kept > _LARGEST_TRACE:
                self._take_events()
        elif name == "event" and parent == "log":
            self._take(self._event, self._event_line)
        elif name == "trace" and parent == "log":
            self._take_events()

    def _take_events(self) -> None:
        case = {f"case:{name}": value for name, value in self._trace.items()}
        case.setdefault("case:concept:name", f"trace {self._traces}")
        for line, event in self._events:
            self._take({**case, **event}, line)
        self._events, self._kept = [], 0

    def _take(self, row: dict[str, Scalar], line: int) -> None:
        try:
            columns = guess_columns(list(row), self._columns)
            self._taken.append(_event(row, columns, line, self._columns, self._log))
        except _UnreadableError as error:
            self._taken.append(Malformed(line, str(error), str(row)[:_SHOWN]))


_XES_COLUMNS: Final = {"session": "case:concept:name", "action": "concept:name", "at": "time:timestamp"}


def _xes_value(kind: str, value: str) -> Scalar:
    """An attribute's value by its type; text if it isn't what it says."""
    try:
        if kind == "int":
            return int(value)
        if kind == "float":
            return float(value)
    except ValueError:
        return value
    return value.strip() == "true" if kind == "boolean" else value

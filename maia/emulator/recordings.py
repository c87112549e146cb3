"""Reads recorded YouTube data from CSV files, in any of the layouts in common use.

Columns are recognised by their usual names (`ALIASES`) or by the user's mapping. A row that cannot be read is
reported as a `BadRow` and skipped. After a quote that is never closed, reading resumes at the next line that
is a complete row on its own, so only the broken row is lost.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import IO, NamedTuple

from atlas.documents import DocumentError, bounded_lines, check_text_encoding
from atlas.wording import counted
from maia.emulator.catalogue import CatalogueError
from maia.emulator.curves import HIDDEN, Sample
from maia.youtube.categories import CATEGORIES

ALIASES: Mapping[str, tuple[str, ...]] = {
    "video_id": ("video_id", "videoid", "id", "yt_video_id", "youtube_id"),
    "captured_at": (
        "captured_at", "committed_at", "trending_date", "video_trending_date", "snapshot_date", "fetched_at",
        "collected_at", "recorded_at", "sampled_at", "timestamp", "date", "time",
    ),
    "views": ("views", "view_count", "viewcount", "video_view_count"),
    "likes": ("likes", "like_count", "likecount", "video_like_count"),
    "comments": (
        "comments", "comment_count", "comment_total", "commentcount", "comments_count", "video_comment_count",
    ),
    "title": ("title", "video_title"),
    "description": ("description", "video_description"),
    "published_at": (
        "published_at", "publishedat", "publish_time", "publish_date", "publishtime", "published",
        "video_published_at", "upload_date",
    ),
    "channel_id": ("channel_id", "channelid"),
    "channel_title": ("channel_title", "channeltitle", "channel_name", "channel"),
    "subscribers": ("subscribers", "subscriber_count", "channel_subscriber_count"),
    "category": ("category_id", "categoryid", "video_category_id", "category", "category_name"),
    "tags": ("tags", "video_tags"),
    "duration": ("duration", "duration_s", "video_duration", "length"),
    "language": ("language", "default_language", "defaultlanguage", "default_audio_language", "langauge"),
    "comments_disabled": ("comments_disabled",),
    "likes_hidden": ("ratings_disabled", "likes_hidden"),
    "removed": ("video_error_or_removed", "removed"),
}  # fmt: skip
COUNTERS = ("views", "likes", "comments")
DESCRIBING = (
    "title",
    "published_at",
    "channel_id",
    "channel_title",
    "tags",
    "description",
    "category",
    "duration",
)
_MISSING = frozenset({"", "nan", "none", "null", "n/a", "na", "nat"})
_LEAST_VIEWS_TO_TRUST_ZERO = 1000
# A description has at most 5,000 characters, so a file with much longer lines is not a CSV of videos.
_MOST_IN_A_LINE = 1 << 20
_CATEGORY_NUMBERS = {c.title.casefold(): c.id for c in reversed(CATEGORIES.values())}
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CHANNEL_ID = re.compile(r"UC[A-Za-z0-9_-]{22}")
_UNDECODED = re.compile("[\udc80-\udcff]")
_YEAR_IN_NAME = re.compile(r"(?<!\d)(20\d\d)(?!\d)")


class BadRow(NamedTuple):
    """A row that was skipped: its first line, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedRow:
    """The facts in one row; None if the row does not have them. `tags` () means the video has no tags."""

    line: int
    video_id: str
    captured_at: int | None = None
    sample: Sample | None = None
    title: str | None = None
    description: str | None = None
    published_at: int | None = None
    channel_id: str | None = None
    channel_title: str | None = None
    subscribers: int | None = None
    category_id: int | None = None
    tags: tuple[str, ...] | None = None
    duration_s: int | None = None
    language: str | None = None
    removed: bool | None = None


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read files: their column names by ours, and values for what the files leave out."""

    columns: Mapping[str, str]
    year: int | None = None
    captured_at: datetime | None = None
    encoding: str | None = None
    keep_zeros: bool = False


class Recording:
    """An open CSV file; iterating yields its rows, good and bad."""

    def __init__(self, path: Path, lines: Iterator[str], reading: ReadOptions) -> None:
        self.path, self._reading = path, reading
        self._year = reading.year or _year_in(path.name)
        header = next(lines, "")
        if not header.strip():
            raise CatalogueError(f"{path} is empty: its first line must name the columns")
        delimiter = max(",;\t", key=header.count)
        try:
            names = next(csv.reader([header], delimiter=delimiter))
        except csv.Error as error:
            raise CatalogueError(f"{path} is not a CSV file with lines that end in \\n: {error}") from error
        self.names = tuple(names)
        self.columns = _columns(names, reading.columns)
        self.unused = tuple(name for place, name in enumerate(names) if place not in self.columns.values())
        self._check_columns(names)
        self._records = _Records(lines, delimiter, len(names), self.columns["video_id"])

    def _check_columns(self, names: Sequence[str]) -> None:
        """Raise a CatalogueError that names a missing column, and says how to map one to it."""
        if "video_id" not in self.columns:
            raise CatalogueError(_missing_column(self.path, "video_id", names))
        counters = [name for name in COUNTERS if name in self.columns]
        if counters and "captured_at" not in self.columns and self._reading.captured_at is None:
            advice = _missing_column(self.path, "captured_at", names)
            raise CatalogueError(
                f"{advice}, or use --captured-at TIME if all {', '.join(counters)} were read at one time"
            )
        if not counters and not any(name in self.columns for name in DESCRIBING):
            raise CatalogueError(_missing_column(self.path, "views", names))

    def __iter__(self) -> Iterator[RecordedRow | BadRow]:
        for line, cells in self._records:
            if isinstance(cells, str):
                yield BadRow(line, cells)
                continue
            try:
                yield self._row(line, cells)
            except ValueError as error:
                yield BadRow(line, str(error))

    def _row(self, line: int, cells: Sequence[str]) -> RecordedRow:
        """Parse a row; ValueError gives the reason to skip it."""
        texts = {
            name: text for name, place in self.columns.items() if (text := _said(cells[place])) is not None
        }
        video_id = texts.get("video_id", "")
        if not _VIDEO_ID.fullmatch(video_id):
            raise ValueError(f"video_id {video_id!r} is not 11 of A-Z, a-z, 0-9, - and _")
        channel_id = texts.get("channel_id")
        if channel_id is not None and not _CHANNEL_ID.fullmatch(channel_id):
            raise ValueError(f"channel_id {channel_id!r} is not UC and 22 of A-Z, a-z, 0-9, - and _")
        captured_at = self._captured_at(texts)
        removed = _flag("removed", texts)
        return RecordedRow(
            line,
            video_id,
            captured_at,
            self._sample(captured_at, texts),
            _one_line(texts.get("title")),
            _unescaped(texts.get("description")),
            _instant("published_at", texts["published_at"], self._year) if "published_at" in texts else None,
            channel_id,
            _one_line(texts.get("channel_title")),
            _count("subscribers", texts),
            _category(texts.get("category")),
            parse_tags(texts["tags"]) if "tags" in texts else None,
            parse_duration(texts["duration"]) if "duration" in texts else None,
            texts.get("language"),
            removed,
        )

    def _captured_at(self, texts: Mapping[str, str]) -> int | None:
        if "captured_at" in texts:
            return _instant("captured_at", texts["captured_at"], self._year)
        if self._reading.captured_at is not None:
            return int(self._reading.captured_at.timestamp())
        return None

    def _sample(self, captured_at: int | None, texts: Mapping[str, str]) -> Sample | None:
        views, likes, comments = (_count(name, texts) for name in COUNTERS)
        if views is None and likes is None and comments is None:
            return None
        if captured_at is None:
            raise ValueError("the row has counts, but captured_at is empty")
        likes_hidden, comments_hidden = _flag("likes_hidden", texts), _flag("comments_disabled", texts)
        return Sample(
            captured_at,
            views,
            self._shown(likes, views, likes_hidden),
            self._shown(comments, views, comments_hidden),
        )

    def _shown(self, count: int | None, views: int | None, hidden: bool | None) -> int | None:
        """The count, or HIDDEN if the row says so or has 0 for a video with many views."""
        if hidden:
            return HIDDEN
        doubtful = count == 0 and hidden is None and (views or 0) >= _LEAST_VIEWS_TO_TRUST_ZERO
        return HIDDEN if doubtful and not self._reading.keep_zeros else count


class _Records:
    """The records of a CSV file with their line numbers; for a broken one, the reason instead of cells."""

    def __init__(self, lines: Iterator[str], delimiter: str, width: int, id_place: int) -> None:
        self._lines = enumerate(lines, 2)
        self._delimiter, self._width, self._id_place = delimiter, width, id_place
        self._again: deque[tuple[int, str]] = deque()
        self._taken: list[tuple[int, str]] = []

    def _feed(self) -> Iterator[str]:
        while (line := self._again.popleft() if self._again else next(self._lines, None)) is not None:
            self._taken.append(line)
            yield line[1]

    def __iter__(self) -> Iterator[tuple[int, list[str] | str]]:
        reader = csv.reader(self._feed(), delimiter=self._delimiter)
        while True:
            self._taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield self._torn(f"{error}; is a quote never closed?")
            else:
                reason = self._why_torn(cells) if cells else None
                if reason is None:
                    if cells:
                        yield self._taken[0][0], cells
                    continue
                yield self._torn(reason)
            reader = csv.reader(self._feed(), delimiter=self._delimiter)

    def _why_torn(self, cells: Sequence[str]) -> str | None:
        """Why a record is broken, or None. An open quote may swallow the rows up to the next quote."""
        if len(cells) != self._width:
            return f"the row has {counted(len(cells), 'field')}, but the header has {self._width}"
        if any(self._is_row(text) for _, text in self._taken[1:]):
            return "a quote is never closed: there is another row inside it"
        if any(_UNDECODED.search(text) for _, text in self._taken):
            return "the text is not in the file's encoding: name the right one with --encoding"
        return None

    def _torn(self, reason: str) -> tuple[int, str]:
        """Rewind to the first of the record's other lines that is a complete row on its own."""
        first, *further = self._taken
        for place, (_, text) in enumerate(further):
            if self._is_row(text):
                self._again.extendleft(reversed(further[place:]))
                further = further[:place]
                break
        lines = f" (lines {first[0]} to {further[-1][0]})" if further else ""
        return first[0], reason + lines

    def _is_row(self, text: str) -> bool:
        try:
            cells = next(csv.reader([text], delimiter=self._delimiter, strict=False), [])
        except csv.Error:
            return False
        return len(cells) == self._width and bool(_VIDEO_ID.fullmatch(cells[self._id_place].strip()))


@contextmanager
def open_recording(path: Path, reading: ReadOptions) -> Iterator[tuple[Recording, IO[bytes]]]:
    """Open a CSV file, plain or gzipped. Also yields the raw file, whose position shows the progress."""
    if reading.encoding:
        _check_encoding(reading.encoding)
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if gzipped else file
            encoding = reading.encoding or _encoding_by_mark(content.peek(4)[:4])
            # Only "\n" ends a line: quoted fields may contain a lone "\r", and editors count lines this way.
            text = io.TextIOWrapper(content, encoding=encoding, errors="surrogateescape", newline="\n")
            yield Recording(path, bounded_lines(text, _MOST_IN_A_LINE, str(path)), reading), file
    except FileNotFoundError as error:
        raise CatalogueError(f"there is no file {path}") from error
    except DocumentError as error:
        raise CatalogueError(str(error)) from error
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise CatalogueError(f"cannot read {path}: {error}") from error


def _check_encoding(name: str) -> None:
    try:
        check_text_encoding(name)
    except DocumentError as error:
        raise CatalogueError(f"--encoding: {error}") from error


def _encoding_by_mark(start: bytes) -> str:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig" if start.startswith(b"\xef\xbb\xbf") else "utf-8"


def normal_name(name: str) -> str:
    """A column's name as in `ALIASES`: lower case, with underscores between letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")


def _columns(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, int]:
    """The positions of our columns: as mapped, or else at the first alias in the file."""
    places: dict[str, int] = {}
    normal = [normal_name(name) for name in names]
    for ours, aliases in ALIASES.items():
        wanted = (normal_name(mapping[ours]),) if ours in mapping else ()
        for alias in (*wanted, *aliases):
            if alias in normal and normal.index(alias) not in places.values():
                places[ours] = normal.index(alias)
                break
    return places


def _missing_column(path: Path, ours: str, names: Sequence[str]) -> str:
    return (
        f"{path} has no column {ours} (nor {', '.join(ALIASES[ours][1:4])} …); it has {', '.join(names)}. "
        f"Name the right one with --columns {ours}=NAME"
    )


def _year_in(name: str) -> int | None:
    match = _YEAR_IN_NAME.search(name)
    return int(match[1]) if match else None


def _said(cell: str) -> str | None:
    text = cell.strip().replace("\0", "")
    return None if text.casefold() in _MISSING else text


def _one_line(text: str | None) -> str | None:
    if text is None or not ("\n" in text or "\r" in text):
        return text
    return re.sub(r"\s*[\r\n]+\s*", " ", text)


def _unescaped(text: str | None) -> str | None:
    """Restore line breaks: Kaggle's data sets write them in descriptions as backslash and n."""
    return None if text is None else text.replace("\\n", "\n")


def _count(name: str, texts: Mapping[str, str]) -> int | None:
    text = texts.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    digits = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    if not re.fullmatch(r"\d{1,18}(\.0+)?", digits):
        raise ValueError(f"{name} {text!r} is not a whole number of 0 or more")
    return int(digits.partition(".")[0])


def _flag(name: str, texts: Mapping[str, str]) -> bool | None:
    text = texts.get(name)
    if text is None:
        return None
    if text.casefold() in ("true", "1", "yes", "t"):
        return True
    if text.casefold() in ("false", "0", "no", "f"):
        return False
    raise ValueError(f"{name} {text!r} is neither True nor False")


def _category(text: str | None) -> int | None:
    if text is None:
        return None
    number = int(text) if text.isdecimal() else _CATEGORY_NUMBERS.get(text.casefold())
    if number is None or number > 9999:
        raise ValueError(f"category {text!r} is neither a number nor a category's name")
    return number


def _instant(name: str, text: str, year: int | None) -> int:
    try:
        return int(parse_instant(text, year).timestamp())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} {text!r} is not a date or time: {error}") from error


def parse_instant(text: str, year: int | None = None) -> datetime:
    """Parse ISO 8601, yy.dd.mm, dd.mm of `year` or seconds since 1970; by default UTC and midnight."""
    if len(text) > 10 and text[4] == "-":
        return _aware(datetime.fromisoformat(text.removesuffix(" UTC")))
    if match := re.fullmatch(r"(\d\d)\.(\d\d)\.(\d\d)", text):
        return _midnight(2000 + int(match[1]), int(match[3]), int(match[2]))
    if match := re.fullmatch(r"(\d\d)\.(\d\d)", text):
        if year is None:
            raise ValueError("dd.mm needs a year: give --year, or put it in the file's name")
        return _midnight(year, int(match[2]), int(match[1]))
    if re.fullmatch(r"\d{9,10}(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    iso = re.sub(r"^(\d{4})[./](\d\d)[./](\d\d)", r"\1-\2-\3", text.removesuffix(" UTC"))
    return _aware(datetime.fromisoformat(iso))


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _midnight(year: int, month: int, day: int) -> datetime:
    return datetime.combine(date(year, month, day), time(), UTC)


def parse_duration(text: str) -> int:
    """The seconds in `26:03`, `1:02:03`, `PT26M3S` or plain seconds; ValueError otherwise."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return int(float(text))
    if match := re.fullmatch(r"(?:(\d+):)?(\d{1,2}):(\d\d)", text):
        return int(match[1] or 0) * 3600 + int(match[2]) * 60 + int(match[3])
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d+)?S)?)?", text.upper())
    if match and any(match.groups()):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    raise ValueError(f"duration {text!r} is not in the form 26:03, PT26M3S or seconds")


def parse_tags(text: str) -> tuple[str, ...]:
    """Parse tags such as `a|"b"|c`, `a|b`, `['a', 'b']` or `a, b`; duplicates go, `[none]` is ()."""
    if text.casefold() == "[none]":
        return ()
    if (listed := _listed_tags(text)) is not None:
        tags = listed
    elif "|" in text or text.startswith('"'):
        # A quote ends a tag only before a bar: tags may contain quotes and, inside quotes, bars.
        tags = [
            quoted or bare
            for quoted, bare in re.findall(r'"((?:[^"]|"(?!\s*(?:\||$)))*)"(?=\s*(?:\||$))|([^|]+)', text)
        ]
    else:
        tags = text.split(",")
    return tuple(dict.fromkeys(stripped for tag in tags if (stripped := " ".join(tag.split()).strip('"'))))


def _listed_tags(text: str) -> list[str] | None:
    """The strings in a list written as JSON or Python; None if the text is not such a list."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(tag, str) for tag in value) else None

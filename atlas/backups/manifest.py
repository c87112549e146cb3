"""The manifest of a backup: what it holds, of which parts it consists, and the digests that protect them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Final, Literal, Self

import orjson
from pydantic import TypeAdapter, ValidationError

from atlas.errors import BackupDamaged, BackupError

FORMAT: Final = 1
"""Of manifest and parts; raised whenever older versions could not read a backup any more."""
FILE_NAME: Final = "manifest.json"
VERIFICATION_NAME: Final = "verification.json"
CHECKSUM: Final = "sum of hash_record_extended"
"""How the tables' checksums are made. PostgreSQL's hashes are the same in every version from 15 on, on all
little-endian machines."""

CLOCK_TOLERANCE: Final = timedelta(minutes=10)
"""How far the clocks of machines that share backups may be apart."""

NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-f]{6}", re.ASCII)
_PART_NAME: Final = re.compile(r"part-\d{5,}\.zst(\.age)?", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Method = Literal["pg_dump", "copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's rows, and a checksum of them that does not depend on their order."""

    name: str
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An object of the store that holds a part of the backup."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What was dumped. A copy is sealed into the dump itself, so that neither can be exchanged alone.

    `dump_bytes` is the size before compression, `database_bytes` that on the server, and `tool_version` the
    major version of pg_dump, or of the server if it was not used.
    """

    name: str
    created_at: datetime
    pleiades_version: str
    method: Method
    tool_version: int
    server_version: str
    schema: str
    migration: int
    database_bytes: int
    dump_bytes: int
    checksum: str
    tables: tuple[Table, ...]

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def as_json(self) -> bytes:
        """In the form whose bytes are compared."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """ValueError, KeyError or TypeError if they are not well-formed."""
        created_at = datetime.fromisoformat(value["created_at"])
        tables = tuple(Table(**table) for table in value["tables"])
        return cls(**{**value, "created_at": created_at, "tables": tables})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is known of a complete backup; `sha256` is that of all parts joined."""

    contents: Contents
    parts: tuple[Part, ...]
    sha256: str
    level: int
    recipient_fingerprint: str | None
    seconds: float
    node: str

    @property
    def name(self) -> str:
        return self.contents.name

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    def dumps(self) -> bytes:
        """The manifest's file."""
        value = {"format": FORMAT, **asdict(self), "contents": orjson.loads(self.contents.as_json())}
        value["digest"] = _digest(value)
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def loads(cls, body: bytes, name: str) -> Self:
        """Read the manifest of the backup `name`.

        BackupDamaged if it is not what was written, BackupError if only a later version can read it.
        """
        value = _checked(body, name)
        try:
            _well_formed().validate_json(orjson.dumps(value), strict=True)
            given = {each.name: value[each.name] for each in fields(cls)}
            given["contents"] = Contents.of(given["contents"])
            given["parts"] = tuple(Part(**part) for part in given["parts"])
            manifest = cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise BackupDamaged(f"the manifest of backup {name} is not well-formed: {_told(error)}") from None
        manifest._check(name)
        return manifest

    def _check(self, name: str) -> None:
        if self.name != name:
            raise BackupDamaged(f"the manifest of backup {name} is that of another one, {self.name}")
        for part in self.parts:
            if not (
                _PART_NAME.fullmatch(part.name) and _DIGEST.fullmatch(part.sha256) and part.size_bytes > 0
            ):
                raise BackupDamaged(f"the manifest of backup {name} has a malformed part {part.name!r}")
        if not self.parts:
            raise BackupDamaged(f"the manifest of backup {name} has no parts")


def _told(error: Exception) -> str:
    """What is wrong with a value, on one line."""
    if not isinstance(error, ValidationError):
        return repr(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


@cache
def _well_formed() -> TypeAdapter[Manifest]:
    """What tells a manifest whose values are of the wrong types, by a ValueError."""
    return TypeAdapter(Manifest)


def _checked(body: bytes, name: str) -> dict[str, Any]:
    """The manifest's JSON, if its format is known and its digest right."""
    try:
        value = orjson.loads(body)
        found = value["format"]
    except (ValueError, TypeError, KeyError):
        raise BackupDamaged(f"the manifest of backup {name} is torn: it is no JSON object") from None
    if not isinstance(found, int) or found > FORMAT:
        raise BackupError(
            f"backup {name} has format {found}, but this version reads none beyond {FORMAT}: install the "
            "version that made it, or a later one"
        )
    digest = value.pop("digest", None)
    if digest != _digest(value):
        raise BackupDamaged(f"the manifest of backup {name} was changed: its digest does not match")
    return dict(value)


def _digest(value: Mapping[str, Any]) -> str:
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def new_name(at: datetime) -> str:
    """A name for a backup that begins now; it sorts by time, and tells when it began."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}-{secrets.token_hex(3)}"


def begun_at(name: str) -> datetime:
    """When the backup of that name began."""
    return datetime.strptime(name[:20], "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC)


def is_from_future(begun: datetime, now: datetime) -> bool:
    """Whether a backup's time is yet to come: a clock was ahead when it was made, or is behind now."""
    return begun > now + CLOCK_TOLERANCE


def newest_first(names: Iterable[str], now: datetime) -> list[str]:
    """Names of backups by time, but behind all others those from the future, whose order tells nothing."""
    return sorted(names, key=lambda name: (not is_from_future(begun_at(name), now), name), reverse=True)


def is_name(name: str) -> bool:
    """Whether a backup can have this name, which tells a time."""
    try:
        return NAME.fullmatch(name) is not None and begun_at(name) is not None
    except ValueError:
        return False


def is_file_name(file: str) -> bool:
    """Whether a file in a backup's folder is one of it; others are left alone."""
    return file in {FILE_NAME, VERIFICATION_NAME} or _PART_NAME.fullmatch(file) is not None


def part_name(number: int, *, encrypted: bool) -> str:
    return f"part-{number:05}.zst{'.age' if encrypted else ''}"


def fingerprint(recipient: str) -> str:
    """What names a recipient without being its key."""
    return sha256(recipient.encode()).hexdigest()[:16]

"""What travels between sites: an envelope with sections, each of records of one kind.

    zstd frame of
        4 bytes  length, little-endian, and a header in msgpack: `Envelope`
        4 bytes  length, and a record in msgpack: a flat list; repeated, in the order of the header's counts

Whatever arrives is decoded within bounds of memory and checked completely before it is used. What a record
says is the affair of its kind: nothing here knows about patterns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgpack
import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maia.federation.refusals import Reason, Refused

PROTOCOL: Final = 1
"""Raised whenever an older site could misunderstand a message."""

MEDIA_TYPE: Final = "application/octet-stream"
REFUSED_HEADER: Final = "Pleiades-Refused"
"""Why a message was refused, in the answer over HTTP: a `Reason`."""
MOST_BYTES: Final = 8 * 2**20
"""The longest message, as it travels."""
MOST_PLAIN_BYTES: Final = 16 * 2**20
MOST_HEADER_BYTES: Final = 2**20
MOST_RECORD_BYTES: Final = 2**20
MOST_RECORDS: Final = 20_000
MOST_SITES: Final = 256
MOST_WANTED: Final = 500
MOST_PREFIXES: Final = 64
MOST_DIGESTS: Final = MOST_PREFIXES * 256
LARGEST_CLOCK_DIFFERENCE: Final = timedelta(days=1)

_LENGTH: Final = struct.Struct("<I")
_LEVEL: Final = 6
_LARGEST_WINDOW: Final = 2**25
_MOST_COLUMNS: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

NODE: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}$"
"""Names of sites: they stand in tables and logs, and must not pass for anything else."""

is_node: Final = re.compile(NODE, re.ASCII).fullmatch

Instant = Annotated[int, Field(ge=0, le=2**53)]
"""Microseconds since 1970."""
Node = Annotated[str, Field(pattern=NODE)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
Prefix = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Position = Annotated[str, Field(max_length=300)]
Count = Annotated[int, Field(ge=0, le=MOST_RECORDS)]
# msgpack has lists alone, for which a tuple is not strict.
BucketDigest = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**53)], Annotated[int, Field(ge=0, lt=2**64)]], Field(strict=False)
]
Sighting = Annotated[tuple[Instant, Instant], Field(strict=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Section(_Strict):
    """Records of one kind, and where they stand.

    In an exchange, the records lie between the places `after` and `cursor` of the sender's feed, those that
    were `wanted` aside; an empty `after` is the beginning. `have` is up to where the sender has read the
    receiver's feed. In a comparison, `digests` are of the buckets of keys that begin with `prefixes`, or the
    records are those of keys in these buckets behind `start` up to `end`, without what is older than `since`.
    """

    kind: str = Field(min_length=1, max_length=50)
    version: int = Field(ge=1, le=2**31)
    counts: dict[Annotated[str, Field(max_length=50)], Count] = Field(default_factory=dict, max_length=16)
    """How many records there are of each table; they follow the header in this order."""
    after: Position = ""
    cursor: Position = ""
    more: bool = False
    have: Position | None = None
    wanted: list[Key] = Field(default_factory=list, max_length=MOST_WANTED)
    prefixes: list[Prefix] = Field(default_factory=list, max_length=MOST_PREFIXES)
    digests: dict[Prefix, BucketDigest] | None = Field(default=None, max_length=MOST_DIGESTS)
    since: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """A day, counted from 1970."""
    start: Prefix | None = None
    end: Prefix | None = None


class Envelope(_Strict):
    """Who sends, and what."""

    protocol: Literal[1] = PROTOCOL
    cluster: str = Field(min_length=1, max_length=63)
    node: Node
    role: Literal["learner", "coordinator"]
    clock: Instant
    leaving: bool = False
    sites: dict[Node, Sighting] = Field(default_factory=dict, max_length=MOST_SITES)
    """When each site that the sender knows of was last seen, and when it left (0: it did not)."""
    refused: dict[str, Annotated[str, Field(max_length=500)]] = Field(default_factory=dict, max_length=16)
    """The kinds whose records the sender did not take, and why."""
    sections: list[Section] = Field(default_factory=list, max_length=16)


Tables = Mapping[str, Sequence[Sequence[Any]]]
"""Records by the name of their table; each is a flat list of values that msgpack knows."""


@dataclass(frozen=True, slots=True)
class Message:
    """An envelope and the records of its sections, by kind."""

    envelope: Envelope
    tables: Mapping[str, Tables] = field(default_factory=dict)
    size: int = 0
    """Bytes, as it travelled."""

    @property
    def records(self) -> int:
        return sum(len(rows) for tables in self.tables.values() for rows in tables.values())


def counts_of(tables: Tables) -> dict[str, int]:
    """What a section says of its records."""
    return {name: len(rows) for name, rows in tables.items() if rows}


def encode(envelope: Envelope, tables: Mapping[str, Tables] | None = None) -> bytes:
    """The message as it travels. `tables` has the records of the sections, by kind."""
    header = envelope.model_dump(exclude_defaults=True) | {"protocol": envelope.protocol}
    parts = [msgpack.packb(header)]
    for section in envelope.sections:
        for name in section.counts:
            parts += [msgpack.packb(row) for row in (tables or {})[section.kind][name]]
    plain = b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))
    return zstandard.ZstdCompressor(level=_LEVEL).compress(plain)


def decode(message: bytes) -> Message:
    """The message in these bytes; Refused if it is none, is too large, or is of a newer protocol."""
    parts = _parts(_plain(message))
    envelope = _envelope(next(parts, b""))
    wanted = sum(n for section in envelope.sections for n in section.counts.values())
    if wanted > MOST_RECORDS:
        raise Refused(Reason.TOO_LARGE, f"it has more than {MOST_RECORDS:,} records: send several messages")
    if len({section.kind for section in envelope.sections}) < len(envelope.sections):
        raise Refused(Reason.MALFORMED, "two sections are of one kind")
    tables = {
        section.kind: {name: [_record(parts) for _ in range(n)] for name, n in section.counts.items()}
        for section in envelope.sections
    }
    if next(parts, None) is not None:
        raise Refused(Reason.MALFORMED, "it goes on after its last record")
    return Message(envelope, tables, len(message))


def _plain(message: bytes) -> bytes:
    if len(message) > MOST_BYTES:
        raise Refused(Reason.TOO_LARGE, f"it has more than {MOST_BYTES:,} bytes: send several messages")
    try:
        size = zstandard.get_frame_parameters(message).content_size
        if not 0 < size <= MOST_PLAIN_BYTES:
            raise Refused(Reason.TOO_LARGE, f"it would have more than {MOST_PLAIN_BYTES:,} bytes unpacked")
        return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompress(
            message, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Refused(Reason.MALFORMED, "it is not compressed with zstd") from error


def _parts(plain: bytes) -> Iterator[bytes]:
    at, most = 0, MOST_HEADER_BYTES
    while at < len(plain):
        begin = at + _LENGTH.size
        end = begin + (_LENGTH.unpack_from(plain, at)[0] if begin <= len(plain) else 0)
        if not begin < end <= len(plain) or end - begin > most:
            raise Refused(Reason.MALFORMED, "its records are cut off or too long")
        yield plain[begin:end]
        at, most = end, MOST_RECORD_BYTES


def _envelope(header: bytes) -> Envelope:
    found = _unpacked(header, most=MOST_DIGESTS)
    protocol = found.get("protocol") if isinstance(found, dict) else None
    if isinstance(protocol, int) and protocol > PROTOCOL:
        raise Refused(
            Reason.PROTOCOL,
            f"it speaks version {protocol:g} of the protocol, this site {PROTOCOL}: upgrade this site",
        )
    try:
        return Envelope.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(each)[:50] for each in first["loc"][:4])
        raise Refused(Reason.MALFORMED, f"{where or 'its header'}: {first['msg'][:200]}") from None


def _record(parts: Iterator[bytes]) -> list[Any]:
    record = _unpacked(next(parts, b""), most=_MOST_COLUMNS)
    if not isinstance(record, list):
        raise Refused(Reason.MALFORMED, "a record is no list, or is missing")
    return record


def _unpacked(part: bytes, most: int) -> Any:
    try:
        return msgpack.unpackb(part, use_list=True, max_array_len=most, max_map_len=most, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Refused(Reason.MALFORMED, "it holds what is not msgpack, or is nested too deeply") from error


def microseconds(instant: datetime) -> int:
    """An instant as it travels."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(microseconds: int) -> datetime:
    """The instant that this was."""
    return _EPOCH + timedelta(microseconds=microseconds)

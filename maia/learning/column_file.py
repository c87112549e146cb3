"""A file of compressed columns, each block of which has a checksum: the container of all kinds of snapshots.

    8 bytes   magic
    2 bytes   format version
    4 bytes   length of the header
    header    msgpack: what its kind says, and of each block its name, lengths and BLAKE2b digest
    16 bytes  BLAKE2b of everything so far
    blocks    compressed with zstd, one after the other
    32 bytes  BLAKE2b of everything so far

Numbers are little-endian. Columns of numbers are stored byte plane by byte plane, as Blosc's shuffle filter
does, because neighbouring values mostly share their high bytes. Equal content makes equal bytes with one
version of zstd.

Both ways go block by block: writing holds what is compressed, because the header comes first, and reading
holds one block beside the columns that it fills.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from io import SEEK_END
from struct import Struct
from typing import Any, BinaryIO, Final, NamedTuple

import msgpack
import numpy as np
import zstandard
from numpy.typing import NDArray

ID_DIGITS: Final = 64
"""Hexadecimal digits of a file's total checksum, by which others name it."""

_START: Final = Struct("<8sHI")
_HEADER_SUM, _TOTAL_SUM, _BLOCK_SUM = 16, 32, 16
_MAX_HEADER: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 22
"""Bytes of a block of a long column, before it is compressed."""
_TYPES: Final = frozenset({"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"})


class SnapshotError(ValueError):
    """The bytes are no snapshot, are damaged, come from a newer version, or don't fit their base."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of files: how they begin and what errors call them.

    `most_bytes` bounds all blocks of a file together, decompressed, so that no small file fills the memory.
    `level` is zstd's.
    """

    magic: bytes
    version: int
    what: str
    most_bytes: int
    level: int


class Block(NamedTuple):
    """A verified block."""

    name: str
    raw: bytes


class _Entry(NamedTuple):
    """What the header says of a block."""

    name: str
    length: int
    raw_length: int
    digest: bytes


# Writing


def write(kind: FileKind, header: Mapping[str, Any], blocks: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The pieces of the file in their order; the last one is its checksum. Blocks are taken one by one."""
    compressor = zstandard.ZstdCompressor(level=kind.level, write_checksum=False, write_content_size=True)
    entries, bodies = [], []
    for name, raw in blocks:
        body = compressor.compress(raw)
        entries.append(_Entry(name, len(body), len(raw), blake2b(body, digest_size=_BLOCK_SUM).digest()))
        bodies.append(body)
    packed: bytes = msgpack.packb(dict(sorted({**header, "blocks": entries}.items())), use_bin_type=True)
    if len(packed) > _MAX_HEADER:
        raise ValueError(f"a {kind.what} cannot have so many blocks: {len(entries)}")
    start = _START.pack(kind.magic, kind.version, len(packed)) + packed
    start += blake2b(start, digest_size=_HEADER_SUM).digest()
    total = blake2b(digest_size=_TOTAL_SUM)
    for piece in (start, *bodies):
        total.update(piece)
        yield piece
    yield total.digest()


def id_of(end: bytes) -> str:
    """What others call the file that ends so: its total checksum in hexadecimal digits."""
    return end[-_TOTAL_SUM:].hex()


def planes(column: NDArray[Any]) -> bytes:
    """A column of numbers as bytes: first the lowest byte of each, then the second lowest, and so on."""
    little = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(little), little.itemsize).T.tobytes()


def blocks_of(columns: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, bytes]]:
    """The blocks of columns of numbers, as few as their size allows, each made when it is taken."""
    for name, column in columns.items():
        rows = _BLOCK_BYTES // column.itemsize
        for nth, begin in enumerate(range(0, len(column), rows)):
            yield f"{name}/{nth}", planes(column[begin : begin + rows])


def forms_of(columns: Mapping[str, NDArray[Any]]) -> list[tuple[str, str, int]]:
    """The name, type and length of each column: what a header must say as `columns`."""
    return [(name, column.dtype.str[1:], len(column)) for name, column in columns.items()]


# Reading


@contextmanager
def making_sense(kind: FileKind) -> Iterator[None]:
    """Raise SnapshotError for whatever goes wrong with content whose checksums are right."""
    try:
        yield
    except SnapshotError:
        raise
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        msgpack.UnpackException,
    ) as error:
        raise SnapshotError(f"the {kind.what} is whole but makes no sense: {error!r}") from error


class ColumnFile:
    """Reads a file that can seek. Its header is verified as it is opened.

    `id` is what others call the file; it is known, and all is verified, once all blocks were read.
    """

    id: str = ""

    def __init__(self, file: BinaryIO, kind: FileKind) -> None:
        self._file, self._kind = file, kind
        self._blocks_end = file.seek(0, SEEK_END) - _TOTAL_SUM
        self._total = blake2b(digest_size=_TOTAL_SUM)
        file.seek(0)
        self.header, self.version = self._opened()
        self._directory = _directory(self.header["blocks"])
        self._raw_bytes = sum(each.raw_length for each in self._directory)
        if self._raw_bytes > kind.most_bytes:
            raise SnapshotError(f"the snapshot would need more than {kind.most_bytes >> 30} GiB of memory")

    def blocks(self) -> Iterator[Block]:
        """The blocks, each verified. Only when there are no more is it sure that nothing is missing."""
        at = self._file.tell()
        decompressor = zstandard.ZstdDecompressor()
        for entry in self._directory:
            at += entry.length
            if at > self._blocks_end:
                raise SnapshotError(f"the snapshot is cut off in its block {entry.name}")
            body = self._read(entry.length)
            if blake2b(body, digest_size=_BLOCK_SUM).digest() != entry.digest:
                raise SnapshotError(f"the snapshot's block {entry.name} is damaged")
            yield Block(entry.name, _decompressed(decompressor, entry, body))
        if at != self._blocks_end:
            raise SnapshotError("the snapshot has bytes after its last block, or is cut off there")
        if self._file.read(_TOTAL_SUM) != self._total.digest():
            raise SnapshotError("the snapshot's total checksum is wrong")
        self.id = self._total.hexdigest()

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of numbers that the header tells of as `columns`, once all of the file is verified."""
        forms = [(name, _form(name, form), length) for name, form, length in self.header["columns"]]
        if sum(form.itemsize * length for _, form, length in forms) != self._raw_bytes:
            raise ValueError("its columns have another size than its blocks")
        # Each page is only taken when a block fills it.
        columns = {name: _Filling(name, np.zeros(length, form)) for name, form, length in forms}
        for block in self.blocks():
            columns[block.name.rpartition("/")[0]].take(block)
        return {name: each.done() for name, each in columns.items()}

    def _opened(self) -> tuple[dict[str, Any], int]:
        kind = self._kind
        start = self._read(_START.size)
        if len(start) < _START.size or start[: len(kind.magic)] != kind.magic:
            raise SnapshotError(f"this is no {kind.what}, or its first bytes are damaged")
        _, version, length = _START.unpack(start)
        if version > kind.version:
            raise SnapshotError(
                f"the snapshot has format version {version}; this version reads up to {kind.version}: "
                "upgrade first"
            )
        if length > _MAX_HEADER or _START.size + length + _HEADER_SUM > self._blocks_end + _TOTAL_SUM:
            raise SnapshotError("the snapshot's header is cut off or damaged")
        packed = self._read(length)
        if blake2b(start + packed, digest_size=_HEADER_SUM).digest() != self._read(_HEADER_SUM):
            raise SnapshotError("the snapshot's header is damaged")
        if version < 1:
            raise SnapshotError(f"the snapshot has the impossible format version {version}")
        return msgpack.unpackb(packed, raw=False), version

    def _read(self, length: int) -> bytes:
        piece = self._file.read(length)
        self._total.update(piece)
        return piece


@dataclass(slots=True)
class _Filling:
    """A column that is being filled, block by block."""

    name: str
    column: NDArray[Any]
    rows: int = 0
    blocks: int = 0

    def take(self, block: Block) -> None:
        if block.name != f"{self.name}/{self.blocks}":
            raise ValueError(f"the block {block.name} is out of order")
        found = planes_in(block.raw, self.column.dtype)
        rows = self.column[self.rows : self.rows + found.shape[1]]
        rows.view(np.uint8).reshape(len(rows), -1)[...] = found.T
        self.rows, self.blocks = self.rows + len(rows), self.blocks + 1

    def done(self) -> NDArray[Any]:
        if self.rows != len(self.column):
            raise ValueError(f"the column {self.name} has fewer numbers than its header says")
        return self.column


def _form(name: str, form: str) -> np.dtype[Any]:
    if form not in _TYPES:
        raise ValueError(f"the column {name} has numbers of the unknown type {form!r}")
    return np.dtype(form).newbyteorder("<")


def planes_in(raw: bytes, form: np.dtype[Any]) -> NDArray[np.uint8]:
    """The byte planes of numbers; shape (bytes of each number, numbers)."""
    return np.frombuffer(raw, np.uint8).reshape(form.itemsize, -1)


def _directory(entries: Sequence[Sequence[Any]]) -> list[_Entry]:
    directory = []
    for name, length, raw_length, digest in entries:
        if not isinstance(name, str) or length < 0 or raw_length < 0:
            raise ValueError(f"its block {name!r} is impossible")
        directory.append(_Entry(name, length, raw_length, digest))
    return directory


def _decompressed(decompressor: zstandard.ZstdDecompressor, entry: _Entry, body: bytes) -> bytes:
    try:
        if zstandard.frame_content_size(body) != entry.raw_length:
            raise SnapshotError(f"the snapshot's block {entry.name} has another length than the header says")
        return decompressor.decompress(body)
    except zstandard.ZstdError as error:
        raise SnapshotError(f"the snapshot's block {entry.name} cannot be decompressed: {error}") from error

"""A copy of the graph's arrays on this machine, whose columns are memory-mapped.

    manifest.json           which folder is the present one, when it was stored, where it is in the changes of
                            the database, and of each column its type, shape and BLAKE2b digest
    columns-<hex digits>/   a .npy file for each column

A folder is written aside under its own name, and then the manifest is replaced, so that a reader sees the old
copy or the new one. What was mapped stays readable though its files are deleted. A copy that is damaged or
not there is no loss: the database has it all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

import numpy as np
import orjson
from numpy.typing import NDArray

from maia.graph.arrays import GraphArrays, Texts

logger = logging.getLogger(__name__)

_VERSION: Final = 2
_MANIFEST: Final = "manifest.json"
_FOLDER: Final = re.compile(r"columns-[0-9a-f]{32}")
_MOST_MANIFEST_BYTES: Final = 1 << 20
_SUM_BYTES: Final = 16
_READ_BYTES: Final = 1 << 20
_TRIES: Final = 5
"""A reader may find the manifest of a folder that has just been replaced, but not again and again."""
_ABANDONED_AFTER_S: Final = 3600


@dataclass(frozen=True, slots=True)
class CachedGraph:
    """The arrays, the place in the changes of the database from which on they don't have them, and when they
    were stored.
    """

    graph: GraphArrays
    cursor: str
    at: datetime


class _Useless(ValueError):
    """The copy is of another version or damaged."""


@dataclass(frozen=True, slots=True)
class ColumnCache:
    """The copy in a folder of its own, of at most so many bytes."""

    folder: Path
    most_bytes: int

    async def store(self, graph: GraphArrays, cursor: str, at: datetime) -> bool:
        """Replace the copy; returns False, with no copy left, if it would be too large.

        OSError if it can't be written; the old copy is there then.
        """
        return await asyncio.to_thread(self._store, CachedGraph(graph, cursor, at))

    async def load(self, *, verify: bool = False) -> CachedGraph | None:
        """The copy, mapped; None if there is none that is whole. Checksums are only compared on demand."""
        return await asyncio.to_thread(self._load, verify)

    async def clear(self) -> None:
        """Delete the copy."""
        await asyncio.to_thread(self._clear)

    def _store(self, cached: CachedGraph) -> bool:
        columns = _columns_of(cached.graph)
        if sum(each.nbytes for each in columns.values()) > self.most_bytes:
            self._clear()
            return False
        replaced, name = self._present(), f"columns-{uuid4().hex}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            manifest = {
                "version": _VERSION,
                "folder": name,
                "cursor": cached.cursor,
                "at": cached.at,
                "types": cached.graph.types,
                "columns": _write_columns(self.folder / name, columns),
            }
            _replace(self.folder / _MANIFEST, orjson.dumps(manifest))
        except BaseException:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            raise
        self._sweep(replaced)
        return True

    def _load(self, verify: bool) -> CachedGraph | None:
        for _ in range(_TRIES):
            try:
                manifest = _manifest(self.folder / _MANIFEST)
            except FileNotFoundError:
                return None
            except (ValueError, KeyError, TypeError, OSError) as error:
                self._warn(error)
                return None
            try:
                return _mapped(self.folder / manifest["folder"], manifest, verify=verify)
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                self._warn(error)
                return None
        self._warn("its columns are not there")
        return None

    def _warn(self, why: object) -> None:
        logger.warning(
            "the copy of the graph in %s is no good, and is read anew from the database: %s",
            self.folder,
            why,
            extra={"action": "graph_cache_damaged"},
        )

    def _present(self) -> str | None:
        with suppress(ValueError, KeyError, TypeError, OSError):
            return str(_manifest(self.folder / _MANIFEST)["folder"])
        return None

    def _clear(self) -> None:
        present = self._present()
        (self.folder / _MANIFEST).unlink(missing_ok=True)
        self._sweep(present)

    def _sweep(self, replaced: str | None) -> None:
        """Delete the folder that was replaced, and those that killed processes left long ago."""
        present = self._present()
        with suppress(FileNotFoundError):
            for entry in list(os.scandir(self.folder)):
                is_ours = entry.name != present and _FOLDER.fullmatch(entry.name)
                if is_ours and (entry.name == replaced or _is_abandoned(entry)):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_AFTER_S
    return False


def _columns_of(graph: GraphArrays) -> dict[str, NDArray[Any]]:
    columns = {each.name: getattr(graph, each.name) for each in fields(GraphArrays)}
    del columns["types"]
    names = columns.pop("names")
    return {**columns, "names_starts": names.starts, "names_data": names.data}


def _write_columns(folder: Path, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    folder.mkdir()
    told = {}
    for name, column in columns.items():
        plain = np.ascontiguousarray(column)
        with (folder / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
            # NumPy's own way to write doesn't say why it failed.
            file.write(plain.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        told[name] = {"form": plain.dtype.str, "shape": plain.shape, "blake2b": _digest(plain)}
    _sync(folder)
    return told


def _replace(path: Path, body: bytes) -> None:
    staged = path.with_name(f".{path.name}.incoming-{uuid4().hex}")
    try:
        with staged.open("wb") as file:
            file.write(body + blake2b(body, digest_size=_SUM_BYTES).hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        whole = file.read(_MOST_MANIFEST_BYTES)
    body, digest = whole[: -2 * _SUM_BYTES], whole[-2 * _SUM_BYTES :]
    if blake2b(body, digest_size=_SUM_BYTES).hexdigest().encode() != digest:
        raise _Useless("its manifest is damaged")
    manifest: dict[str, Any] = orjson.loads(body)
    if manifest["version"] != _VERSION:
        raise _Useless(f"it is of version {manifest['version']}")
    return manifest


def _mapped(folder: Path, manifest: Mapping[str, Any], *, verify: bool) -> CachedGraph:
    columns = {
        name: _column(folder / f"{name}.npy", told, verify=verify)
        for name, told in manifest["columns"].items()
    }
    names = Texts(columns.pop("names_starts"), columns.pop("names_data"))
    graph = GraphArrays(types=tuple(manifest["types"]), names=names, **columns)
    return CachedGraph(graph, manifest["cursor"], datetime.fromisoformat(manifest["at"]))


def _column(path: Path, told: Mapping[str, Any], *, verify: bool) -> NDArray[Any]:
    with path.open("rb") as file:
        shape, form, offset = _shape_of(file)
        size = os.fstat(file.fileno()).st_size
    if [form.str, list(shape)] != [told["form"], told["shape"]]:
        raise _Useless(f"the column {path.stem} has another type or length than the manifest says")
    count = int(np.prod(shape))
    if size != offset + count * form.itemsize:
        raise _Useless(f"the column {path.stem} is cut off, or too long")
    # Nothing can't be mapped.
    column = np.memmap(path, form, "r", offset, shape) if count else np.zeros(shape, form)
    if verify and _digest(column) != told["blake2b"]:
        raise _Useless(f"the column {path.stem} is damaged")
    return column.view(np.ndarray)


def _shape_of(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and where the numbers begin, by the head of a .npy file."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise _Useless("a column is of another version of .npy")
    shape, in_columns, form = np.lib.format.read_array_header_1_0(file)
    if in_columns and len(shape) > 1:
        raise _Useless("a column is turned")
    return shape, form, file.tell()


def _digest(column: NDArray[Any]) -> str:
    hashed = blake2b(digest_size=_SUM_BYTES)
    raw = column.reshape(-1).view(np.uint8)
    for begin in range(0, len(raw), _READ_BYTES):
        hashed.update(raw[begin : begin + _READ_BYTES].data)
    return hashed.hexdigest()

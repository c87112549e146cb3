"""Snapshots of the graph as files in a folder of this machine: written aside, renamed, and rotated.

A file's name says when it was saved: `graph-20261129T120000.000000Z.plgraph`, or `….jsonl` for JSON of the
same content beside it. A file is whole or not there, whatever ends the process or fills the disk.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from atlas.errors import VaultError
from atlas.local import LocalFile
from maia.errors import MaiaError
from maia.graph import files, json_lines
from maia.graph.checking import check_handles, check_numbers
from maia.graph.files import GraphSnapshot
from maia.learning.column_file import SnapshotError

logger = logging.getLogger(__name__)

BINARY: Final = ".plgraph"
JSON: Final = ".jsonl"

_INSTANT: Final = "%Y%m%dT%H%M%S.%fZ"
_STEM: Final = r"graph-\d{8}T\d{6}\.\d{6}Z"
_NAME: Final = re.compile(rf"({_STEM})(\.plgraph|\.jsonl)")
_STAGED: Final = re.compile(rf"\.{_STEM}(\.plgraph|\.jsonl)\.incoming-[0-9a-f]{{32}}")
_ABANDONED_AFTER_S: Final = 3600
_BUFFER_BYTES: Final = 1 << 20
_START_BYTES: Final = 100
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class GraphNotSaved(MaiaError):
    """The graph could not be saved to a file; what was there before is untouched."""


class GraphNotLoaded(MaiaError):
    """No graph could be loaded: the file is damaged, or there is none."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Files that were written now, and how many older ones were deleted then."""

    path: Path
    bytes: int
    deleted: int


async def write_file(path: Path, snapshot: GraphSnapshot) -> int:
    """Write a snapshot in place of what is at a path, as JSON if it ends in `.jsonl`; returns its bytes.

    GraphNotSaved says what to do, and leaves what was there.
    """
    pieces = json_lines.write(snapshot) if path.suffix == JSON else files.write(snapshot)
    try:
        async with LocalFile(str(path)).writing(str(path)) as file:
            return await asyncio.to_thread(_write, file, pieces)
    except ValueError as error:
        raise GraphNotSaved(f"{path} cannot be written: {error}") from error
    except VaultError as error:
        raise GraphNotSaved(f"{error}: {_advice(error.__cause__)}; nothing else has changed") from error


async def save(folder: Path, snapshot: GraphSnapshot, *, kept: int, as_json: bool = False) -> Saved:
    """Save a snapshot in a folder, with JSON beside it if wanted, and delete all but the last few."""
    await asyncio.to_thread(_make, folder)
    at = await asyncio.to_thread(_next_instant, folder, snapshot.saved_at.astimezone(UTC))
    stem = folder / f"graph-{at:{_INSTANT}}"
    path = stem.with_name(stem.name + BINARY)
    size = await write_file(path, snapshot)
    if as_json:
        await write_file(stem.with_name(stem.name + JSON), snapshot)
    return Saved(path, size, await asyncio.to_thread(_rotate, folder, kept))


async def load(path: Path) -> GraphSnapshot:
    """The snapshot in a file, binary or JSON, once it is verified; GraphNotLoaded says what is wrong."""
    try:
        return await asyncio.to_thread(_load, path)
    except SnapshotError as error:
        raise GraphNotLoaded(f"{path} cannot be loaded: {error}") from error
    except OSError as error:
        raise GraphNotLoaded(f"{path} cannot be read: {error.strerror or error}") from error


async def load_whole(place: Path) -> tuple[Path, GraphSnapshot]:
    """The graph in a file that holds all of it, each handle verified, or in the last such file of a folder.

    GraphNotLoaded says what is wrong; that files of a folder are, the log says, too.
    """
    if not await asyncio.to_thread(place.is_dir):
        return place, await _load_whole(place)
    errors = []
    for path in reversed(await asyncio.to_thread(saved_in, place)):
        try:
            return path, await _load_whole(path)
        except GraphNotLoaded as error:
            logger.warning("an earlier snapshot is tried: %s", error, extra={"action": "snapshot_damaged"})
            errors.append(str(error))
    raise GraphNotLoaded("; ".join(errors) or f"there is no snapshot of the graph in {place}")


async def _load_whole(path: Path) -> GraphSnapshot:
    snapshot = await load(path)
    if snapshot.base is not None:
        raise GraphNotLoaded(f"{path} holds only what had changed since the snapshot {snapshot.base}")
    try:
        check_numbers(snapshot.graph)
        await asyncio.to_thread(check_handles, snapshot.graph)
    except ValueError as error:
        raise GraphNotLoaded(f"{path} cannot be loaded: {error}") from error
    return snapshot


def saved_in(folder: Path) -> list[Path]:
    """The binary snapshots in a folder, oldest first; none if there is no such folder."""
    with suppress(FileNotFoundError):
        return sorted(each for each in folder.iterdir() if _is_ours(each) and each.suffix == BINARY)
    return []


def _next_instant(folder: Path, at: datetime) -> datetime:
    """An instant, or one behind the last snapshot if a clock was ahead: names say what came last."""
    for path in reversed(saved_in(folder)):
        with suppress(ValueError, OverflowError):
            last = datetime.strptime(path.stem, f"graph-{_INSTANT}").replace(tzinfo=UTC)
            return max(at, last + timedelta(microseconds=1))
    return at


def _is_ours(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None


def _write(file: BinaryIO, pieces: Iterable[bytes]) -> int:
    return sum(file.write(piece) for piece in pieces)


def _load(path: Path) -> GraphSnapshot:
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        start = file.read(_START_BYTES)
        file.seek(0)
        if _is_export(start):
            raise SnapshotError("it is an export, not a snapshot: maia graph import adds its atoms")
        return json_lines.read(file) if start.startswith(b"{") else files.read(file)[1]


def is_snapshot(start: bytes) -> bool:
    """Whether a file that begins so is a snapshot, binary or JSON; about a hundred bytes will do."""
    return start.startswith((files.KIND.magic, json_lines.START))


def _is_export(start: bytes) -> bool:
    return start.startswith(b'{"type"') or start.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"<")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise GraphNotSaved(f"the folder {folder} cannot be made: {reason}: {_advice(error)}") from error


def _rotate(folder: Path, kept: int) -> int:
    """Delete all but the last snapshots, with the JSON beside them, and what killed processes left."""
    last = {path.stem for path in saved_in(folder)[-kept:]}
    old = [path for path in folder.iterdir() if _is_ours(path) and path.stem not in last]
    for path in old:
        path.unlink(missing_ok=True)
    for path in folder.iterdir():
        # It may be another process's that has just renamed it.
        with suppress(FileNotFoundError):
            age_s = time.time() - path.lstat().st_mtime
            if _STAGED.fullmatch(path.name) and age_s > _ABANDONED_AFTER_S:
                path.unlink()
    return len(old)


def _advice(error: BaseException | None) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in _NO_SPACE:
        return "free some space, or save to another disk"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow this user to write there, or save elsewhere"
    return "save elsewhere"

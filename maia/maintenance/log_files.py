"""Log files of our own: rotated by size into compressed copies, which are deleted by age.

The one log is the embedded server's; others in the data folder belong to whoever put them there. Its writer
has it open for appending and knows nothing of this, so the file is copied and then cut to nothing, as
logrotate's `copytruncate` does; a line that is written in between is lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

import zstandard

_FOLDER: Final = "postgres"
_LOG: Final = "server.log"
_ROTATED: Final = re.compile(r"server\.log(\.1|-\d{8}T\d{6}Z\.zst)")
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_BUFFER_BYTES: Final = 1 << 20
_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log, or an older part of one that nobody writes any more."""

    path: Path
    bytes: int
    modified_at: datetime

    @property
    def is_rotated(self) -> bool:
        return _ROTATED.fullmatch(self.path.name) is not None

    @property
    def is_compressed(self) -> bool:
        return self.path.suffix == ".zst"


def find(data: Path) -> list[LogFile]:
    """Every log in the data folder, by name."""
    return sorted(_files(data), key=lambda log: log.path)


def _files(data: Path) -> Iterator[LogFile]:
    with suppress(OSError):
        for entry in list(os.scandir(data / _FOLDER)):
            is_ours = entry.name == _LOG or _ROTATED.fullmatch(entry.name)
            if is_ours and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield LogFile(Path(entry.path), status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def too_large(logs: list[LogFile], largest_bytes: int) -> list[LogFile]:
    """Those to be rotated, and older parts that are not compressed yet."""
    return [
        log
        for log in logs
        if (log.is_rotated and not log.is_compressed) or (not log.is_rotated and log.bytes >= largest_bytes)
    ]


def too_old(logs: list[LogFile], now: datetime, days: float) -> list[LogFile]:
    """Older parts that are no longer kept."""
    return [log for log in logs if log.is_rotated and log.modified_at < now - timedelta(days=days)]


def rotate(log: LogFile, now: datetime) -> Path:
    """Compress a log into a file beside it, and cut it to nothing, or delete it if it is an older part."""
    name = log.path.name.removesuffix(".1")
    packed = _free_name(log.path.with_name(name), now)
    staged = log.path.with_name(f".{name}.incoming-{uuid4().hex}")
    # Never through a link: the folder may belong to the server's user, and we may be root.
    source = os.open(log.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _compress(source, staged)
        staged.replace(packed)
        if log.is_rotated:
            log.path.unlink()
        else:
            os.ftruncate(source, 0)
    finally:
        os.close(source)
        staged.unlink(missing_ok=True)
    return packed


def _free_name(log: Path, now: datetime) -> Path:
    """A name of now, or of a second after: the log and its older part may be rotated in the same one."""
    packed = log.with_name(f"{log.name}-{now.astimezone(UTC):{_STAMP}}.zst")
    return _free_name(log, now + timedelta(seconds=1)) if os.path.lexists(packed) else packed


def cut(log: LogFile) -> None:
    """Empty a log without keeping a copy, for which there may be no space."""
    source = os.open(log.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.ftruncate(source, 0)
    finally:
        os.close(source)


def _compress(source: int, staged: Path) -> None:
    status = os.fstat(source)
    target = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(target, "wb") as file:
        if os.geteuid() == 0:
            os.fchown(target, status.st_uid, status.st_gid)
        with zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False) as packing:
            while block := os.read(source, _BUFFER_BYTES):
                packing.write(block)
        file.flush()
        os.fsync(target)

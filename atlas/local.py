"""Export destinations on this machine: a file named by the user, and standard output.

A regular file is replaced atomically and keeps its mode and owner. What can't be replaced, such as a pipe, a
device or another user's file, is written in place. Links are followed. Folders are never created.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from atlas import paths
from atlas.errors import ConfigError, ReaderLeft, VaultError

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 1 << 20
_ABANDONED_AFTER_S = 3600
_READER_POLL_S = 0.1
_LOG_WAIT_AFTER_S = 2
_EXISTING = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class StandardOutput:
    """Writes the export to standard output."""

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        with _wrapped_errors("standard output"):
            sys.stdout.flush()
            file = os.fdopen(os.dup(1), "wb", _BUFFER_BYTES)
            try:
                yield file
                await asyncio.to_thread(file.flush)
            finally:
                await asyncio.to_thread(_close, file)


class LocalFile:
    """A local file, by its path; ConfigError if the path can't be a file's."""

    def __init__(self, path: str) -> None:
        try:
            self.path = Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise ConfigError(f"{path}: there is no home folder: write the full path") from error
        if paths.is_folder(self.path) or not path.strip() or path.endswith("/"):
            raise ConfigError(f"{path!r} is a folder: name a file in it")

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        with _wrapped_errors(name):
            if await asyncio.to_thread(self._must_write_in_place):
                async with self._in_place() as file:
                    yield file
            else:
                async with self._replacing() as file:
                    yield file

    def _must_write_in_place(self) -> bool:
        """Whether it can't be replaced: it isn't a regular file, or a new one would have another owner."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        return not stat.S_ISREG(found.st_mode) or os.geteuid() not in (0, found.st_uid)

    @asynccontextmanager
    async def _in_place(self) -> AsyncIterator[BinaryIO]:
        file = os.fdopen(await self._open_existing(), "wb", _BUFFER_BYTES)
        try:
            yield file
            await asyncio.to_thread(file.flush)
        finally:
            await asyncio.to_thread(_close, file)

    async def _open_existing(self) -> int:
        """Open the file, waiting until a pipe has a reader.

        It polls, because a thread blocked in open() could not be cancelled.
        """
        began_s, logged = time.monotonic(), False
        while True:
            try:
                descriptor = os.open(self.path, _EXISTING)
            except OSError as error:
                if error.errno != errno.ENXIO or not self.path.is_fifo():
                    raise
            else:
                os.set_blocking(descriptor, True)
                return descriptor
            if not logged and time.monotonic() - began_s > _LOG_WAIT_AFTER_S:
                logged = True
                logger.info("Waiting until a process reads %s", self.path)
            await asyncio.sleep(_READER_POLL_S)

    @asynccontextmanager
    async def _replacing(self) -> AsyncIterator[BinaryIO]:
        staged = await asyncio.to_thread(_Staged, self.path)
        try:
            yield staged.file
            await asyncio.to_thread(staged.publish)
        finally:
            await asyncio.to_thread(staged.discard)


class _Staged:
    """A new file beside the one that it will replace."""

    def __init__(self, path: Path) -> None:
        self._target = Path(os.path.realpath(path))
        if self._target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        folder = self._target.parent
        if not paths.is_folder(folder):
            raise OSError(errno.ENOENT, f"there is no folder {folder}: create it first")
        _sweep(self._target)
        self._path = folder / f"{_prefix(self._target)}{uuid4().hex}"
        self.file = os.fdopen(os.open(self._path, _NEW, 0o666), "wb", _BUFFER_BYTES)
        try:
            self._keep_mode_and_owner()
        except OSError:
            self.discard()
            raise

    def _keep_mode_and_owner(self) -> None:
        try:
            old = self._target.stat()
        except FileNotFoundError:
            return
        if not os.access(self._target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        new = os.fstat(self.file.fileno())
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            os.chown(self.file.fileno(), old.st_uid, old.st_gid)
        os.fchmod(self.file.fileno(), stat.S_IMODE(old.st_mode))

    def publish(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self._path.replace(self._target)
        descriptor = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        """Close the file, and remove it if it wasn't published."""
        _close(self.file)
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}.incoming-"


def _sweep(target: Path) -> None:
    """Remove staged files that killed exports to the same file left an hour ago or earlier."""
    # A file that can't be removed only takes up space.
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            if entry.name.startswith(_prefix(target)):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - _ABANDONED_AFTER_S:
                        Path(entry.path).unlink()


def _close(file: BinaryIO) -> None:
    # On a full disk or a pipe without a reader, closing fails again with the error of the last write.
    with suppress(OSError):
        file.close()


@contextmanager
def _wrapped_errors(where: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderLeft(f"the reader of {where} is gone") from error
    except OSError as error:
        raise VaultError(f"cannot write {where}: {error.strerror or error}") from error

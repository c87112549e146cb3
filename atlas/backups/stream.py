"""Threads that turn a dump into a backup's stream, and a backup's stream into a dump again.

Each step is a thread of its own, joined to the next by a `Conduit`. What they do most of the time, such as
compressing, releases the interpreter's lock, so that they run at once. Memory is bounded: a conduit holds
CONDUIT_BYTES, or one chunk if that is larger.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar, cast

import zstandard

from atlas.errors import BackupDamaged, BackupError

if TYPE_CHECKING:
    from typing_extensions import Buffer

CONDUIT_BYTES: Final = 16 * 2**20
NICE: Final = 10
"""By how much the priority of a backup's threads and programs is lower than that of the agents."""

_CHUNK_BYTES: Final = 2**20
_PIECE_BYTES: Final = 2**18
_SKIPPABLE_MAGIC: Final = 0x184D2A50
_LARGEST_TRAILER: Final = 2**20
_LARGEST_WINDOW: Final = 2**27
_PIPE_BYTES: Final = 2**20

_T = TypeVar("_T")


class Abandoned(BackupError):
    """The next or the previous step has failed, which is the error to report."""


class ProgramFailed(BackupError):
    """A program of PostgreSQL's has failed."""


class Conduit:
    """Passes bytes from one thread to another, which both can stop. Either end is a binary file too."""

    def __init__(self, limit: int = CONDUIT_BYTES) -> None:
        self._limit, self._held = limit, 0
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = self._abandoned = False
        self._rest = memoryview(b"")

    def put(self, chunk: bytes) -> None:
        """Pass a chunk on; waits while the conduit is full. Abandoned if nobody takes any more."""
        if not chunk:
            return
        with self._changed:
            while self._held and self._held + len(chunk) > self._limit and not self._abandoned:
                self._changed.wait()
            self.raise_if_abandoned()
            self._chunks.append(chunk)
            self._held += len(chunk)
            self._changed.notify_all()

    def take(self) -> bytes:
        """The next chunk; empty at the end. Abandoned if the end will never come."""
        with self._changed:
            while not (self._chunks or self._ended or self._abandoned):
                self._changed.wait()
            self.raise_if_abandoned()
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            self._held -= len(chunk)
            self._changed.notify_all()
            return chunk

    def end(self) -> None:
        """Say that everything was put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Let both ends fail, now and later."""
        with self._changed:
            self._abandoned = True
            self._chunks.clear()
            self._changed.notify_all()

    def raise_if_abandoned(self) -> None:
        """Libraries turn what this file raises into errors of their own: ask for the cause."""
        if self._abandoned:
            raise Abandoned

    # As a file, for libraries that read or write one

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, and fewer only at the end of a chunk."""
        if not self._rest:
            self._rest = memoryview(self.take())
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def write(self, data: Buffer) -> int:
        chunk = bytes(data)
        self.put(chunk)
        return len(chunk)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Leaves that to `end` and `abandon`: libraries close files after errors too."""


def new_pipe() -> tuple[int, int]:
    """The ends of a pipe for large amounts."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def background_threads(count: int) -> ThreadPoolExecutor:
    """Threads of low priority."""
    return ThreadPoolExecutor(count, "backup", initializer=_be_nice)


def _be_nice() -> None:
    with contextlib.suppress(OSError, AttributeError):
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + NICE))


def abandon(*conduits: Conduit) -> None:
    """Let every step that uses one of these fail."""
    for conduit in conduits:
        conduit.abandon()


async def in_thread(threads: Executor, function: Callable[..., _T], *args: Any) -> _T:
    """Run a function in a thread; if cancelled, still wait for the thread, which uses files till then."""
    work = asyncio.get_running_loop().run_in_executor(threads, function, *args)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()
        raise


def owning(descriptor: int, step: Awaitable[_T]) -> asyncio.Future[_T]:
    """Begin a step that uses one end of a pipe, which is closed once the step has ended, or never began."""
    task = asyncio.ensure_future(step)
    task.add_done_callback(lambda _: os.close(descriptor))
    return task


async def all_of(
    steps: Sequence[Awaitable[Any]], on_failure: Callable[[], object] = lambda: None
) -> list[Any]:
    """Run steps at once and return their results; if one fails, end all others and raise what caused it."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        if any(not task.done() or task.cancelled() or task.exception() for task in tasks):
            on_failure()
            for task in tasks:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise min(errors, key=_distance)
    return results


def _distance(error: BaseException) -> int:
    """How far an error is from its cause: when a step fails, programs' pipes break and neighbours give up."""
    if isinstance(error, (Abandoned, asyncio.CancelledError)):
        return 2
    return int(isinstance(error, ProgramFailed))


@contextmanager
def _abandoning(*conduits: Conduit) -> Iterator[None]:
    """Let the neighbours of a step that fails fail too."""
    try:
        yield
    except BaseException:
        abandon(*conduits)
        raise


def compress(
    dump: int,
    packed: Conduit,
    trailer: Future[Callable[[int], bytes]],
    *,
    level: int,
    on_bytes: Callable[[int], None],
) -> int:
    """Compress what a pipe gives, and seal a trailer behind it; returns how many bytes the pipe gave.

    The trailer is computed from that number. It comes only once the dump is known to be complete.
    """
    compressor = zstandard.ZstdCompressor(compression_params=_parameters(level)).compressobj()
    total = 0
    with _abandoning(packed):
        for chunk in _pieces(dump):
            total += len(chunk)
            packed.put(compressor.compress(chunk))
            on_bytes(total)
        sealed = trailer.result()(total)
        packed.put(compressor.flush())
        packed.put(_framed(sealed))
        packed.end()
    return total


def _pieces(pipe: int) -> Iterator[memoryview]:
    """What a pipe gives, in pieces of _PIECE_BYTES; each is valid until the next, which takes its place.

    pg_dump writes some kilobytes at a time. To allocate and pass on each of them takes half again the CPU.
    """
    buffer = memoryview(bytearray(_PIECE_BYTES))
    filled = 0
    while count := os.readv(pipe, [buffer[filled:]]):
        filled += count
        if filled == len(buffer):
            yield buffer
            filled = 0
    if filled:
        yield buffer[:filled]


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    # Tables that stay in the processor's cache take a seventh less CPU for a dump, and compress it no worse.
    small: dict[str, int] = {"window_log": 17, "hash_log": 13} if level == 1 else {}
    return zstandard.ZstdCompressionParameters.from_level(
        level, threads=_workers(level, os.cpu_count() or 1), write_checksum=True, **small
    )


def _workers(level: int, processors: int) -> int:
    """How many threads zstandard starts of its own; 0 to compress in ours.

    At low levels ours alone is twice as fast as pg_dump, and handing the data on costs a sixth more.
    """
    return 0 if level <= 2 or processors <= 2 else min(4, processors // 2)


def _framed(sealed: bytes) -> bytes:
    """A skippable frame, which ends in its length, for who has only the end of the stream."""
    body = sealed + struct.pack("<I", len(sealed))
    return struct.pack("<II", _SKIPPABLE_MAGIC, len(body)) + body


def encrypt(packed: Conduit, sealed: Conduit, recipient: str) -> None:
    """Encrypt a stream with age for a recipient's public key (age1…)."""
    import pyrage

    with _abandoning(packed, sealed):
        try:
            owner = pyrage.x25519.Recipient.from_str(recipient)
            pyrage.encrypt_io(cast(IO[bytes], packed), cast(IO[bytes], sealed), [owner])
        except (pyrage.RecipientError, pyrage.EncryptError, OSError, ValueError) as error:
            for conduit in (packed, sealed):
                conduit.raise_if_abandoned()
            raise BackupError(
                f"age cannot encrypt for PLEIADES_MAINTAINER__BACKUPS__RECIPIENT: {error}"
            ) from None
        sealed.end()


class Slicer:
    """Cuts a stream into parts, and computes the digests of each and of the whole."""

    def __init__(self, stream: Conduit, part_bytes: int) -> None:
        self._stream, self._part_bytes = stream, part_bytes
        self._whole = sha256()
        self._next = b""

    def has_more(self) -> bool:
        """Whether there is another part; waits until that is known."""
        self._next = self._next or self._stream.take()
        return bool(self._next)

    def write_part(self, file: Any) -> tuple[int, str]:
        """Write the next part; returns its size and digest."""
        digest, size = sha256(), 0
        with _abandoning(self._stream):
            while size < self._part_bytes and self.has_more():
                piece = self._next[: self._part_bytes - size]
                self._next = self._next[len(piece) :]
                file.write(piece)
                digest.update(piece)
                self._whole.update(piece)
                size += len(piece)
        return size, digest.hexdigest()

    def hexdigest(self) -> str:
        """The digest of the whole stream."""
        return self._whole.hexdigest()


def decrypt(sealed: Conduit, packed: Conduit, identities: list[Any]) -> None:
    """Decrypt a stream with age; BackupError if no identity fits, BackupDamaged if it was changed."""
    import pyrage

    with _abandoning(sealed, packed):
        try:
            pyrage.decrypt_io(cast(IO[bytes], sealed), cast(IO[bytes], packed), identities)
        except (pyrage.DecryptError, OSError, ValueError) as error:
            for conduit in (packed, sealed):
                conduit.raise_if_abandoned()
            if "No matching keys" in str(error):
                raise BackupError(
                    "this identity is not the one that the backup is encrypted for: give its secret key "
                    "(--identity FILE)"
                ) from None
            raise BackupDamaged(f"the encrypted stream was changed or cut off: {error}") from None
        packed.end()


class _Tail:
    """Reads a conduit, and remembers the end of what went through it."""

    def __init__(self, stream: Conduit) -> None:
        self._stream = stream
        self._end = b""

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(min(size, _CHUNK_BYTES) if size > 0 else _CHUNK_BYTES)
        self._end = (self._end + piece)[-_LARGEST_TRAILER:] if len(piece) < _LARGEST_TRAILER else piece
        return piece

    def trailer(self) -> bytes:
        """What was sealed behind the dump; BackupDamaged if it isn't there."""
        while self.read():
            pass
        length = struct.unpack("<I", self._end[-4:])[0] if len(self._end) >= 12 else _LARGEST_TRAILER
        frame = self._end[-(length + 12) :]
        if len(frame) < length + 12 or struct.unpack("<II", frame[:8]) != (_SKIPPABLE_MAGIC, length + 4):
            raise BackupDamaged("the end of the stream is missing: its trailer is not there")
        return frame[8:-4]


def decompress(packed: Conduit, dump: int, check: Callable[[bytes, int], None]) -> int:
    """Write the dump into a pipe; returns the dump's size.

    `check` gets the trailer and the size, and raises if they are wrong. Until then the last bytes are held
    back, so that who reads the pipe can't have finished.
    """
    tail = _Tail(packed)
    held, total = b"", 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    with _abandoning(packed):
        reader = decompressor.stream_reader(
            cast(IO[bytes], tail), read_size=_CHUNK_BYTES // 8, read_across_frames=False
        )
        while chunk := _read(reader):
            write_all(dump, held)
            held = chunk
            total += len(chunk)
        check(tail.trailer(), total)
        write_all(dump, held)
    return total


def _read(reader: zstandard.ZstdDecompressionReader) -> bytes:
    try:
        return reader.read(_CHUNK_BYTES)
    except zstandard.ZstdError as error:
        raise BackupDamaged(f"the compressed stream was changed: {error}") from None


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything into a pipe; Abandoned if nobody reads it any more."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BrokenPipeError:
        raise Abandoned from None

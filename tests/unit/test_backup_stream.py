"""The steps of a backup's stream: everything comes back, nothing damaged passes, and memory stays bounded."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256

import pyrage
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.backups import stream
from atlas.backups.stream import (
    Abandoned,
    Conduit,
    ProgramFailed,
    Slicer,
    all_of,
    compress,
    decompress,
    decrypt,
    encrypt,
    in_thread,
    new_pipe,
)
from atlas.errors import BackupDamaged, BackupError

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


def packed(data: bytes, trailer: bytes = b"{}", recipient: str | None = None) -> bytes:
    """A backup's stream, as it is stored."""
    reading, writing = new_pipe()
    compressed, encrypted = Conduit(), Conduit()
    sealed: Future[Callable[[int], bytes]] = Future()
    sealed.set_result(lambda size: trailer.replace(b"SIZE", str(size).encode()))
    slicer = Slicer(encrypted if recipient else compressed, 2**40)
    with ThreadPoolExecutor() as threads:
        feeding = threads.submit(_feed, writing, data)
        compressing = threads.submit(compress, reading, compressed, sealed, level=1, on_bytes=lambda _: None)
        if recipient:
            threads.submit(encrypt, compressed, encrypted, recipient)
        file = io.BytesIO()
        assert slicer.has_more()
        size, digest = slicer.write_part(file)
        assert compressing.result() == len(data)
        feeding.result()
        os.close(reading)
    assert not slicer.has_more()
    assert (size, digest, slicer.hexdigest()) == (
        len(file.getvalue()), sha256(file.getvalue()).hexdigest(), digest,
    )  # fmt: skip
    return file.getvalue()


def _feed(pipe: int, data: bytes) -> None:
    stream.write_all(pipe, data)
    os.close(pipe)


def test_a_pipe_of_small_writes_is_read_in_large_pieces() -> None:
    size = 2 * stream._PIECE_BYTES + 100
    reading, writing = new_pipe()
    totals: list[int] = []
    sealed: Future[Callable[[int], bytes]] = Future()
    sealed.set_result(lambda _: b"{}")

    def write() -> None:
        for begin in range(0, size, 1000):
            os.write(writing, b"x" * min(1000, size - begin))
        os.close(writing)

    with ThreadPoolExecutor() as threads:
        threads.submit(write)
        compressing = threads.submit(compress, reading, Conduit(), sealed, level=1, on_bytes=totals.append)
        assert compressing.result() == size
    os.close(reading)
    assert totals == [stream._PIECE_BYTES, 2 * stream._PIECE_BYTES, size]


def unpacked(stored: bytes, identity: pyrage.x25519.Identity | None = None) -> tuple[bytes, bytes]:
    """The dump and the trailer of a stream."""
    received, compressed = Conduit(), Conduit()
    reading, writing = new_pipe()
    trailers: list[bytes] = []
    with ThreadPoolExecutor() as threads, os.fdopen(reading, "rb") as pipe:
        collecting = threads.submit(pipe.read)
        steps = [threads.submit(_put, received, stored)]
        if identity is not None:
            steps.append(threads.submit(decrypt, received, compressed, [identity]))
        source = compressed if identity is not None else received
        steps.append(threads.submit(_unpack, source, writing, lambda found, _: trailers.append(found)))
        errors = [error for step in steps if (error := step.exception()) is not None]
        data = collecting.result()
    if errors:
        raise min(errors, key=stream._distance)
    return data, trailers[0]


def _unpack(source: Conduit, pipe: int, check: Callable[[bytes, int], None]) -> int:
    try:
        return decompress(source, pipe, check)
    finally:
        os.close(pipe)


def _put(conduit: Conduit, data: bytes) -> None:
    for start in range(0, len(data), 7919):
        conduit.put(data[start : start + 7919])
    conduit.end()


DATA = b"".join(f"{number}\trow {number % 97}\n".encode() for number in range(20_000))


@settings(deadline=None, max_examples=25)
@given(st.binary(max_size=5000), st.integers(0, 3), st.booleans())
def test_everything_comes_back(data: bytes, repeats: int, encrypted: bool) -> None:
    data *= 10**repeats
    stored = packed(data, b'{"bytes": SIZE}', RECIPIENT if encrypted else None)
    found = unpacked(stored, IDENTITY if encrypted else None)
    assert found == (data, b'{"bytes": %d}' % len(data))


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.booleans())
def test_no_changed_or_missing_byte_passes(where: float, cut: bool, encrypted: bool) -> None:
    stored = ENCRYPTED if encrypted else PLAIN
    place = int(where * len(stored))
    changed = bytes([stored[place] ^ 1]) + stored[place + 1 :]
    try:
        data, trailer = unpacked(stored[:place] + (b"" if cut else changed), IDENTITY if encrypted else None)
    except BackupError:
        return
    # Without encryption the trailer itself is protected only by its being compared with the manifest.
    assert not encrypted
    assert data == DATA
    assert trailer != TRAILER


TRAILER = b'{"checked": true}'
PLAIN, ENCRYPTED = packed(DATA, TRAILER), packed(DATA, TRAILER, RECIPIENT)


def test_the_stream_is_what_age_and_zstandard_make_of_it() -> None:
    compressed = pyrage.decrypt(ENCRYPTED, [IDENTITY])
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(compressed), read_across_frames=True)
    assert reader.read() == DATA


def test_the_wrong_identity_is_refused() -> None:
    with pytest.raises(BackupError, match="not the one that the backup is encrypted for"):
        unpacked(ENCRYPTED, pyrage.x25519.Identity.generate())


def test_a_stream_without_its_end_is_refused() -> None:
    with pytest.raises(BackupDamaged, match="its trailer is not there"):
        unpacked(zstandard.ZstdCompressor().compress(DATA))


def test_the_end_of_a_dump_is_held_back_until_the_trailer_is_checked() -> None:
    received = Conduit()
    _put(received, PLAIN)
    reading, writing = new_pipe()

    def refuse(trailer: bytes, size: int) -> None:
        assert size == len(DATA)
        raise BackupDamaged(trailer.decode())

    with ThreadPoolExecutor() as threads, os.fdopen(reading, "rb") as pipe:
        collecting = threads.submit(pipe.read)
        with pytest.raises(BackupDamaged, match="checked"):
            _unpack(received, writing, refuse)
        assert len(collecting.result()) < len(DATA)


def test_a_bomb_does_not_fill_the_memory() -> None:
    """A few kilobytes that decompress to much more arrive in pieces of bounded size."""
    received = Conduit()
    received.put(packed(bytes(200 * 2**20)))
    received.end()
    reading, writing = new_pipe()
    most = 0
    with ThreadPoolExecutor() as threads:
        working = threads.submit(_unpack, received, writing, lambda *_: None)
        total = 0
        while piece := os.read(reading, 2**24):
            most = max(most, len(piece))
            total += len(piece)
        os.close(reading)
        assert working.result() == total == 200 * 2**20
    assert most <= 2**20


def test_threads_are_added_only_where_one_is_too_slow() -> None:
    found = [stream._workers(level, processors) for level, processors in ((1, 64), (3, 2), (3, 4), (19, 64))]
    assert found == [0, 0, 2, 4]


def test_slices_are_of_the_size_that_is_asked_for() -> None:
    conduit = Conduit()
    _put(conduit, DATA)
    slicer, parts = Slicer(conduit, 10_000), []
    while slicer.has_more():
        file = io.BytesIO()
        size, digest = slicer.write_part(file)
        assert (size, digest) == (len(file.getvalue()), sha256(file.getvalue()).hexdigest())
        parts.append(file.getvalue())
    assert b"".join(parts) == DATA
    assert {len(part) for part in parts[:-1]} == {10_000}
    assert slicer.hexdigest() == sha256(DATA).hexdigest()


def test_a_full_conduit_waits_and_an_abandoned_one_fails() -> None:
    conduit = Conduit(limit=10)
    conduit.put(b"12345678")
    failures: list[BaseException] = []

    def put() -> None:
        try:
            conduit.put(b"abcdef")
        except Abandoned as error:
            failures.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    time.sleep(0.02)
    assert thread.is_alive()
    conduit.abandon()
    thread.join()
    assert len(failures) == 1
    with pytest.raises(Abandoned):
        conduit.take()


def test_a_chunk_larger_than_a_conduit_passes_alone() -> None:
    conduit = Conduit(limit=10)
    conduit.put(bytes(100))
    assert len(conduit.take()) == 100


def test_a_reader_that_left_is_told_as_such() -> None:
    reading, writing = new_pipe()
    os.close(reading)
    with pytest.raises(Abandoned):
        stream.write_all(writing, b"x")
    os.close(writing)


async def test_the_cause_is_raised_and_not_its_consequences() -> None:
    async def fail(error: Exception, after_s: float) -> None:
        await asyncio.sleep(after_s)
        raise error

    with pytest.raises(BackupDamaged):
        await all_of(
            [fail(ProgramFailed("pipe"), 0.01), fail(Abandoned(), 0), _last_words(BackupDamaged("part 2"))]
        )


async def _last_words(error: Exception) -> None:
    """Like a store that still tidies up while its neighbours have failed already."""
    try:
        await asyncio.sleep(10)
    finally:
        raise error


async def test_a_cancelled_step_waits_for_its_thread() -> None:
    done = threading.Event()
    with ThreadPoolExecutor() as threads:
        step = asyncio.create_task(in_thread(threads, lambda: (time.sleep(0.05), done.set())))
        await asyncio.sleep(0.01)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert done.is_set()


def test_threads_of_a_backup_are_nice() -> None:
    with stream.background_threads(1) as threads:
        found = threads.submit(
            lambda: subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout
        )
        assert int(found.result()) >= stream.NICE

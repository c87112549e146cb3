"""Callers of the HTTP service, in a process of their own: `python -m tests.bench.calling`, a job on stdin.

They spend as little CPU as Python can: requests are made beforehand, and of an answer only its status and
length are read.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from typing import Any, Final, cast

import numpy as np
import orjson
import uvloop

from tests.bench.bench_observe import doings
from tests.bench.bench_patterns import made_contexts

_MADE: Final = 20_000
_WARM_UP_S: Final = 1.0
_LISTS: Final = (
    "", "category=10", "category=20", "length=short", "length=long", "age_max=2d", "by=score", "by=relative",
    "by=acceleration", "by=forecast", "window=24h", "tag=lofi",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked, where, and how: by so many callers at once, or so often a second."""

    host: str
    port: int
    key: str
    operation: str
    callers: int
    seconds: float
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """What came of it; refused requests are not among those that were timed."""

    requests: int
    in_all: int
    """With those before the time was taken."""
    seconds: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    bytes: int
    cpu_s: float
    refused: Mapping[str, int]


def _posts(path: str, bodies: Callable[[], Iterator[object]]) -> Callable[[], Iterator[tuple[str, bytes]]]:
    return lambda: ((f"POST {path}", orjson.dumps(body)) for body in bodies())


def _contexts(**options: object) -> Callable[[], Iterator[object]]:
    return lambda: ({"context": each, **options} for each in cycle(made_contexts(1_000)))


def _lists() -> Iterator[tuple[str, bytes]]:
    return ((f"GET /api/v1/videos?{query}".rstrip("?"), b"") for query in cycle(_LISTS))


def _new_lists() -> Iterator[tuple[str, bytes]]:
    """Lists that nobody has asked for before."""
    began = time.time_ns() % 10**9
    return ((f"GET /api/v1/videos?velocity_min={n / 1e10}", b"") for n in count(began))


OPERATIONS: Final[Mapping[str, Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "observe": _posts("/observe", doings),
    "match": _posts("/match", _contexts(limit=5)),
    "recommend": _posts("/recommend", _contexts(limit=5)),
    "leaderboard": _lists,
    "a new leaderboard": _new_lists,
    "floor": _posts("/floor", _contexts()),
}


def requests_of(job: Job) -> Sequence[bytes]:
    """Whole requests as they are sent, in their order."""
    made = []
    for line, body in islice(OPERATIONS[job.operation](), _MADE):
        head = f"{line} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\nX-API-Key: {job.key}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        made.append(head.encode() + b"\r\n" + body)
    return made


class _Connection(asyncio.Protocol):
    """Sends one request at a time, and waits for its whole answer."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._length = 0
        self._answered: asyncio.Future[bytes] | None = None
        self.is_open = False
        self.bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it.
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(b"cut off")

    async def ask(self, request: bytes) -> bytes:
        """The status of the answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._length:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(received[:end]).lower()
            _, _, after = head.partition(b"\r\ncontent-length:")
            if not after:
                raise RuntimeError(f"an answer without length: {head!r}")
            self._length = end + 4 + int(after.partition(b"\r\n")[0])
            # nginx closes a connection after a thousand requests, and says so before.
            self.is_open = b"\r\nconnection: close" not in head
        if len(received) >= self._length:
            status = bytes(received[9:12])
            self.bytes += len(received)
            received.clear()
            self._length = 0
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(status)

    def close(self) -> None:
        self._transport.close()


class _Calls:
    """One run of a job."""

    def __init__(self, job: Job, requests: Sequence[bytes]) -> None:
        self._job, self._requests = job, cycle(requests)
        self.waits_ms: list[float] = []
        self.refused: Counter[str] = Counter()
        self.bytes = 0

    async def run(self, seconds: float) -> float:
        """Call for so long; returns how long it took."""
        began_s = time.perf_counter()
        due = self._due(began_s, seconds)
        await asyncio.gather(*(self._call(due) for _ in range(self._job.callers)))
        return time.perf_counter() - began_s

    def _due(self, began_s: float, seconds: float) -> Iterator[float]:
        """When each request is due: at its time, or as soon as a caller is free."""
        rate = self._job.rate
        if rate is not None:
            yield from (began_s + n / rate for n in range(int(rate * seconds)))
            return
        while (now_s := time.perf_counter()) < began_s + seconds:
            yield now_s

    async def _call(self, due: Iterator[float]) -> None:
        connection: _Connection | None = None
        loop = asyncio.get_running_loop()
        for due_s in due:
            if connection is None or not connection.is_open:
                if connection is not None:
                    connection.close()
                _, connection = await loop.create_connection(_Connection, self._job.host, self._job.port)
            if (ahead_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(ahead_s)
            status = await connection.ask(next(self._requests))
            # Whoever is late has waited since they were due.
            waited_ms = (time.perf_counter() - due_s) * 1e3
            if status == b"200":
                self.waits_ms.append(waited_ms)
            else:
                self.refused[status.decode()] += 1
        if connection is not None:
            self.bytes += connection.bytes
            connection.close()


async def called(job: Job) -> Called:
    """Run a job, after a moment in which connections are made and caches filled."""
    requests = requests_of(job)
    warm_up = _Calls(job, requests)
    await warm_up.run(_WARM_UP_S)
    calls, cpu_s = _Calls(job, requests), _cpu_s()
    seconds = await calls.run(job.seconds)
    p50, p99, most = np.percentile(calls.waits_ms or [float("nan")], [50, 99, 100]).tolist()
    return Called(
        requests=len(calls.waits_ms),
        in_all=len(calls.waits_ms) + len(warm_up.waits_ms),
        seconds=seconds,
        p50_ms=p50,
        p99_ms=p99,
        most_ms=most,
        bytes=calls.bytes,
        cpu_s=_cpu_s() - cpu_s,
        refused=warm_up.refused + calls.refused,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    json.dump(asdict(uvloop.run(called(Job(**given)))), sys.stdout)


if __name__ == "__main__":
    main()

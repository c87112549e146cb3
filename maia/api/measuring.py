"""Measures every request by the template of its route, never by its path: callers can't make up labels."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from starlette.routing import BaseRoute, Mount

from maia.stack.families import Distribution, Family, LabelledValue, Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FAMILIES: Final = (
    Family("pleiades_http_requests_total", "counter", ("route", "method", "status"), "Answered requests."),
    Family(
        "pleiades_http_request_seconds",
        "histogram",
        ("route", "method"),
        "Time from a request's head to the end of its answer; live streams are left out.",
    ),
    Family("pleiades_http_request_bytes", "histogram", ("route", "method"), "Sizes of requests' bodies."),
    Family("pleiades_http_response_bytes", "histogram", ("route", "method"), "Sizes of answers' bodies."),
    Family("pleiades_http_requests_in_progress", "gauge", (), "Requests that are being answered now."),
    Family("pleiades_http_streams", "gauge", ("kind",), "Live streams that are open: sse, websocket."),
    Family("pleiades_http_rate_limited_total", "counter", (), "Requests beyond the rate of their key."),
    Family(
        "pleiades_http_refused_total",
        "counter",
        ("reason",),
        "Requests refused by key, scope or origin, size, slowness, form, or as their connection was one too "
        "many: unauthenticated, forbidden, too_large, too_slow, malformed, too_many_connections.",
    ),
)
"""What a process of the service measures of itself."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BYTES: Final = (256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0)
"""Upper bounds of the histograms."""

NO_ROUTE: Final = "none"
"""The label of requests that were refused before their route was known, or that no route answers."""
ABORTED: Final = "aborted"
"""The status of a request whose caller left before its answer began."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REASONS: Final = {"401": "unauthenticated", "403": "forbidden", "408": "too_slow", "413": "too_large"}
_BEFORE_ANY_ROUTE: Final = ("malformed", "too_many_connections")
_SWITCHED: Final = 101
_EVENT_STREAM: Final = b"text/event-stream"


class Histogram:
    """Counts values by upper bounds."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def distribution(self) -> Distribution:
        *below, count = accumulate(self._counts)
        return Distribution(
            dict(zip(self._bounds, map(float, below), strict=True)), float(count), self._total
        )


class _Answers:
    """The answers of one method of a route."""

    __slots__ = ("received_bytes", "seconds", "sent_bytes", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.seconds, self.received_bytes, self.sent_bytes = (
            Histogram(SECONDS),
            Histogram(BYTES),
            Histogram(BYTES),
        )


class Traffic:
    """What one process has answered since it started. Only its event loop changes it, so it needs no lock."""

    def __init__(self) -> None:
        self.in_progress = 0
        self.streams: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._answers: dict[tuple[str, str], _Answers] = {}

    def count(self, route: str, method: str, status: int) -> _Answers:
        """Count an answer, and return the figures of which it is one; status 0: it never began."""
        answers = self._answers.get((route, method))
        if answers is None:
            answers = self._answers[route, method] = _Answers()
        answers.statuses[status] = answers.statuses.get(status, 0) + 1
        return answers

    def refuse(self, reason: str, status: int | None = None) -> None:
        """Count a connection that was ended before there was a request, with an answer or without one."""
        self._refused[reason] += 1
        if status is not None:
            self.count(NO_ROUTE, "other", status)

    @property
    def requests(self) -> Counter[tuple[str, str, str]]:
        """Requests by the template of their route, method and status."""
        return Counter(
            {
                (route, method, str(status or ABORTED)): count
                for (route, method), answers in self._answers.items()
                for status, count in answers.statuses.items()
            }
        )

    def samples(self) -> Samples:
        """The values of `FAMILIES`."""
        requests = self.requests
        by_status: Counter[str] = Counter()
        for (_, _, status), count in requests.items():
            by_status[status] += count
        refused = Counter({reason: by_status[status] for status, reason in _REASONS.items()})
        refused.update(dict.fromkeys(_BEFORE_ANY_ROUTE, 0) | self._refused)
        return {
            "pleiades_http_requests_total": [(labels, float(count)) for labels, count in requests.items()],
            "pleiades_http_request_seconds": self._distributions("seconds"),
            "pleiades_http_request_bytes": self._distributions("received_bytes"),
            "pleiades_http_response_bytes": self._distributions("sent_bytes"),
            "pleiades_http_requests_in_progress": [((), float(self.in_progress))],
            "pleiades_http_streams": [((kind,), float(self.streams[kind])) for kind in ("sse", "websocket")],
            "pleiades_http_rate_limited_total": [((), float(by_status["429"]))],
            "pleiades_http_refused_total": [((reason,), float(count)) for reason, count in refused.items()],
        }

    def _distributions(self, figure: str) -> list[LabelledValue]:
        found = {labels: getattr(answers, figure).distribution() for labels, answers in self._answers.items()}
        # Live streams have neither.
        return [(labels, distribution) for labels, distribution in found.items() if distribution.count]


class Measuring:
    """Counts every request; it stands before everything else, so that what is refused counts too."""

    def __init__(self, app: ASGIApp, traffic: Traffic, routes: Iterable[BaseRoute]) -> None:
        self._app, self._traffic, self._templates = app, traffic, dict(_templates(routes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self._traffic, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.end(scope, self._templates.get(id(scope.get("endpoint")), NO_ROUTE))


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_began_s", "_receive", "_received", "_send", "_sent", "_status", "_stream", "_traffic")

    def __init__(self, traffic: Traffic, receive: Receive, send: Send) -> None:
        self._traffic, self._receive, self._send = traffic, receive, send
        self._began_s = time.perf_counter()
        self._received = self._sent = self._status = 0
        self._stream: str | None = None
        traffic.in_progress += 1

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.body", "websocket.http.response.body"):
            self._sent += len(message.get("body", b""))
        elif kind in ("http.response.start", "websocket.http.response.start"):
            self._status = message["status"]
            if _is_event_stream(message):
                self._begin_stream("sse")
        elif kind == "websocket.accept":
            self._status = _SWITCHED
            self._begin_stream("websocket")
        elif kind == "websocket.close" and not self._status:
            # The server answers 403 to a WebSocket that is closed before it was accepted.
            self._status = 403
        await self._send(message)

    def _begin_stream(self, kind: str) -> None:
        self._stream = kind
        self._traffic.in_progress -= 1
        self._traffic.streams[kind] += 1

    def end(self, scope: Scope, route: str) -> None:
        traffic, method = self._traffic, scope.get("method", "GET")
        answers = traffic.count(route, method if method in _METHODS else "other", self._status)
        if self._stream is not None:
            traffic.streams[self._stream] -= 1
            return
        traffic.in_progress -= 1
        answers.seconds.add(time.perf_counter() - self._began_s)
        answers.received_bytes.add(self._received)
        answers.sent_bytes.add(self._sent)


def _templates(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[int, str]]:
    """The template of each endpoint, such as /patterns/{id}, by the endpoint's identity.

    A request's scope names its endpoint, but not always its route; and not every endpoint can be hashed.
    """
    for route in routes:
        if isinstance(route, Mount):
            yield id(route.app), prefix + route.path
            yield from _templates(route.routes, prefix + route.path)
        elif (endpoint := getattr(route, "endpoint", None)) is not None:
            yield id(endpoint), prefix + str(getattr(route, "path_format", NO_ROUTE))


def _is_event_stream(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(_EVENT_STREAM)
        for name, value in start.get("headers", ())
    )

"""Injects faults into the emulator's responses: error responses, delays and broken connections.

Faults hit the API's methods, and the channels' feeds only if they name `feed` as the method.

Whether a fault hits depends on the seed, the fault, the request and how often that request came before. It
does not depend on the order in which requests arrive, so runs with several connections are repeatable.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Literal, NamedTuple, Self

from maia.emulator import refusals
from maia.emulator.facts import METHODS, EmulatedMethod
from maia.emulator.quota import Project
from maia.emulator.refusals import ErrorResponse

Mishap = Literal["reset", "reset-midway", "truncated", "empty-body", "html", "empty-page", "repeat-page"]


class Circumstances(NamedTuple):
    """The request that a fault hits: its project, method and time."""

    project: Project
    method: EmulatedMethod
    now: datetime


Refuser = Callable[[Circumstances], ErrorResponse]


def _blocked(reason: str, message: str) -> Refuser:
    return lambda _: refusals.key_blocked(reason, message)


def _backend(code: int) -> Refuser:
    return lambda _: refusals.backend_error(code)


def _whole_day(at: Circumstances) -> ErrorResponse:
    bucket = at.method.bucket
    return refusals.day_exhausted(at.project.name, bucket, at.project.limit(bucket), at.now)


def _minute(retry_after_s: int | None) -> Refuser:
    return lambda at: refusals.minute_exhausted(
        at.project.name, at.project.per_minute or 1800, retry_after_s=retry_after_s
    )


REFUSALS: Mapping[str, tuple[str, Refuser]] = {
    "500": ("internal error", _backend(500)),
    "502": ("bad gateway", _backend(502)),
    "503": ("service unavailable", _backend(503)),
    "504": ("gateway timeout", _backend(504)),
    "501": ("method not implemented", lambda _: refusals.not_implemented()),
    "404-method": ("method not found", lambda _: refusals.method_not_found()),
    "429-day": ("the bucket's daily quota is exhausted, as 429", _whole_day),
    "429-minute": ("queries per minute exceeded", _minute(None)),
    "429-retry-after": ("the same with Retry-After: 30", _minute(30)),
    "429-bare": ("a bare rateLimitExceeded", lambda _: refusals.bare_rate_limit()),
    "403-quota": ("quotaExceeded, as 403", lambda _: refusals.quota_exceeded()),
    "403-daily": ("legacy dailyLimitExceeded", lambda _: refusals.daily_limit_exceeded()),
    "403-user-rate": ("userRateLimitExceeded", lambda _: refusals.user_rate_limit_exceeded()),
    "key-invalid": ("API_KEY_INVALID", lambda _: refusals.key_invalid()),
    "key-invalid-legacy": ("legacy keyInvalid", lambda _: refusals.legacy_key_refused("keyInvalid")),
    "key-expired": ("the key has expired", lambda _: refusals.key_expired()),
    "key-expired-legacy": ("legacy keyExpired", lambda _: refusals.legacy_key_refused("keyExpired")),
    "not-configured": ("the API is not enabled", lambda at: refusals.not_configured(at.project.name)),
    "referrer-blocked": (
        "API_KEY_HTTP_REFERRER_BLOCKED",
        _blocked("API_KEY_HTTP_REFERRER_BLOCKED", "Requests from referer <empty> are blocked."),
    ),
    "ip-blocked": (
        "API_KEY_IP_ADDRESS_BLOCKED",
        _blocked(
            "API_KEY_IP_ADDRESS_BLOCKED",
            "The provided API key has an IP address restriction. The originating IP address of the call "
            "(192.0.2.1) violates this restriction.",
        ),
    ),
    "service-blocked": (
        "API_KEY_SERVICE_BLOCKED",
        _blocked("API_KEY_SERVICE_BLOCKED", "Requests to this API youtube method are blocked."),
    ),
    "invalid-page-token": ("invalidPageToken", lambda _: refusals.invalid_page_token()),
    "invalid-region": ("invalidRegionCode", lambda _: refusals.invalid_region("regionCode")),
    "403-delegation": ("a 403 that blames no parameter", lambda _: refusals.delegation_forbidden()),
    "invalid-parameter": (
        "invalidParameter",
        lambda _: refusals.invalid_parameter("order", "Invalid value 'views'."),
    ),
    "invalid-query": ("invalidParameter", lambda _: refusals.invalid_parameter("q", "Invalid value of q.")),
    "playlist-not-found": ("playlistNotFound", lambda _: refusals.playlist_not_found()),
    "video-not-found": ("videoNotFound", lambda _: refusals.video_not_found()),
    "comments-disabled": ("commentsDisabled", lambda _: refusals.comments_disabled()),
}  # fmt: skip
MISHAPS: Mapping[Mishap, str] = {
    "reset": "the connection is reset before the response",
    "reset-midway": "the connection is reset in the middle of the response",
    "truncated": "the response's JSON is cut off",
    "empty-body": "200 without a body",
    "html": "200 with an HTML page",
    "empty-page": "a page without items, but with a next page",
    "repeat-page": "the previous page again",
}
FEED = "feed"
"""The method that a fault names to hit the feeds."""


class FeedRefusal(NamedTuple):
    """An error response of the feeds, which is no JSON."""

    status: int
    reason: str
    retry_after_s: int | None = None


FEED_REFUSALS: Mapping[str, FeedRefusal] = {
    "404": FeedRefusal(404, "not found, although the channel exists"),
    "403": FeedRefusal(403, "forbidden"),
    "429": FeedRefusal(429, "too many requests"),
    "429-retry-after": FeedRefusal(429, "the same with Retry-After: 30", 30),
    "500": FeedRefusal(500, "internal error"),
    "502": FeedRefusal(502, "bad gateway"),
    "503": FeedRefusal(503, "service unavailable"),
    "504": FeedRefusal(504, "gateway timeout"),
}
_FEED_MISHAPS = tuple(kind for kind in MISHAPS if kind not in ("empty-page", "repeat-page"))

LATENCY_HELP = "the response is 1 s late in real time; or latency-10s, latency-250ms …"
_LATENCY = re.compile(r"latency(?:-(\d+(?:\.\d+)?)(ms|s))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault, the share of requests it hits, and the method (None: all of the API)."""

    kind: str
    rate: float
    method: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `KIND:RATE` or `KIND:RATE:METHOD`; ValueError says what is wrong."""
        kind, _, rest = text.partition(":")
        rate, _, method = rest.partition(":")
        latency = _LATENCY.fullmatch(kind)
        kinds = [*_FEED_MISHAPS, *FEED_REFUSALS] if method == FEED else [*MISHAPS, *REFUSALS]
        if kind not in kinds and not latency:
            whose = " of the feeds" if method == FEED else ""
            raise ValueError(f"{kind!r} is not a fault: the faults{whose} are latency, {', '.join(kinds)}")
        try:
            share = float(rate)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ValueError(f"{text!r}: a fault's rate is a number from 0 to 1, as in {kind}:0.05")
        names = [*(known.name for known in METHODS.values()), FEED]
        if method and method not in names:
            raise ValueError(f"{text!r}: {method!r} is not a method: the methods are {', '.join(names)}")
        return cls(kind, share, method or None)

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate:g}" + (f":{self.method}" if self.method else "")

    @property
    def delay_s(self) -> float:
        """How long the fault delays the response; 0 unless it is a latency."""
        match = _LATENCY.fullmatch(self.kind)
        if match is None:
            return 0.0
        if match[1] is None:
            return 1.0
        return float(match[1]) / (1000 if match[2] == "ms" else 1)


class Strikes(NamedTuple):
    """The faults that hit one request."""

    delay_s: float = 0.0
    refuser: Refuser | None = None
    mishap: Mishap | None = None
    feed_refusal: FeedRefusal | None = None


class FaultPlan:
    """Decides which faults hit a request: all latencies drawn, and the first refusal or mishap drawn.

    From `until` on nothing is hit any more.
    """

    def __init__(self, faults: Iterable[Fault], seed: int, until: datetime | None = None) -> None:
        self.faults, self.seed, self.until = tuple(faults), seed, until
        self.struck: Counter[str] = Counter()
        self._occurrences: Counter[str] = Counter()

    def draw(
        self, method: EmulatedMethod, pairs: Iterable[tuple[str, str]], now: datetime | None = None
    ) -> Strikes:
        """Draw the faults for a request with these parameters, whichever key sent it."""
        hits = self._hits(method.name, pairs, now, everywhere=True)
        refuser, mishap = None, None
        for fault in hits:
            if fault.kind in REFUSALS:
                refuser = REFUSALS[fault.kind][1]
            elif not fault.delay_s:
                mishap = _mishap(fault)
        return Strikes(sum(fault.delay_s for fault in hits), refuser, mishap)

    def draw_feed(self, pairs: Iterable[tuple[str, str]], now: datetime) -> Strikes:
        """Draw the faults for a request for a feed."""
        hits = self._hits(FEED, pairs, now, everywhere=False)
        refusal, mishap = None, None
        for fault in hits:
            if fault.kind in FEED_REFUSALS:
                refusal = FEED_REFUSALS[fault.kind]
            elif not fault.delay_s:
                mishap = _mishap(fault)
        return Strikes(sum(fault.delay_s for fault in hits), None, mishap, refusal)

    def _hits(
        self, method: str, pairs: Iterable[tuple[str, str]], now: datetime | None, *, everywhere: bool
    ) -> list[Fault]:
        """The faults that hit a request: all its latencies, and at most one of the others."""
        if not self.faults or (self.until is not None and now is not None and now >= self.until):
            return []
        request = f"{method}?{sorted(pair for pair in pairs if pair[0] != 'key')}"
        occurrence = self._occurrences[request]
        self._occurrences[request] += 1
        hits: list[Fault] = []
        for position, fault in enumerate(self.faults):
            if fault.method != method and not (everywhere and fault.method is None):
                continue
            if self._uniform(f"{position}|{fault.kind}|{request}|{occurrence}") >= fault.rate:
                continue
            if fault.delay_s or all(hit.delay_s for hit in hits):
                hits.append(fault)
                self.struck[fault.kind] += 1
        return hits

    def _uniform(self, text: str) -> float:
        digest = blake2b(f"{self.seed}|{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64


def _mishap(fault: Fault) -> Mishap:
    return next(name for name in MISHAPS if name == fault.kind)

"""Faults on demand: what can go wrong, how often, and a draw that a seed repeats.

A draw depends on the seed, the fault, the request and how often that request came before, not on the
order in which requests arrive: a run with several connections is repeated as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Literal, NamedTuple, Self

from maia.youtube.emulator import refusals
from maia.youtube.emulator.facts import METHODS, Method
from maia.youtube.emulator.quota import Project
from maia.youtube.emulator.refusals import Refusal

Mishap = Literal["reset", "reset-midway", "truncated", "empty-body", "html", "empty-page", "repeat-page"]


class Circumstances(NamedTuple):
    """Whose request meets the fault, and when."""

    project: Project
    method: Method
    now: datetime


Refuser = Callable[[Circumstances], Refusal]


def _blocked(reason: str, message: str) -> Refuser:
    return lambda _: refusals.key_blocked(reason, message)


def _backend(code: int) -> Refuser:
    return lambda _: refusals.backend_error(code)


def _whole_day(at: Circumstances) -> Refusal:
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
    "504": ("timed out behind the API", _backend(504)),
    "501": ("method not implemented", lambda _: refusals.not_implemented()),
    "404-method": ("method not found", lambda _: refusals.method_not_found()),
    "429-day": ("the bucket's day is exhausted, as 429", _whole_day),
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
    "invalid-parameter": (
        "invalidParameter",
        lambda _: refusals.invalid_parameter("order", "Invalid value 'views'."),
    ),
    "playlist-not-found": ("playlistNotFound", lambda _: refusals.playlist_not_found()),
    "video-not-found": ("videoNotFound", lambda _: refusals.video_not_found()),
    "comments-disabled": ("commentsDisabled", lambda _: refusals.comments_disabled()),
}  # fmt: skip
MISHAPS: Mapping[Mishap, str] = {
    "reset": "the connection is reset before an answer",
    "reset-midway": "the connection is reset within the answer",
    "truncated": "an answer whose JSON ends too early",
    "empty-body": "200 without a body",
    "html": "200 with a page of HTML",
    "empty-page": "a page without items that has a next one",
    "repeat-page": "the page before comes again",
}
LATENCY_HELP = "the answer comes 1 s later in real time; or latency-10s, latency-250ms …"
_LATENCY = re.compile(r"latency(?:-(\d+(?:\.\d+)?)(ms|s))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault that strikes at a rate, of one method or of all."""

    kind: str
    rate: float
    method: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KIND:RATE` or `KIND:RATE:METHOD`; ValueError says what is wrong."""
        kind, _, rest = text.partition(":")
        rate, _, method = rest.partition(":")
        if kind not in REFUSALS and kind not in MISHAPS and not _LATENCY.fullmatch(kind):
            raise ValueError(f"{kind!r} is no fault: there are latency, {', '.join([*MISHAPS, *REFUSALS])}")
        try:
            share = float(rate)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ValueError(f"{text!r}: the rate of a fault is a number from 0 to 1, as in {kind}:0.05")
        names = [known.name for known in METHODS.values()]
        if method and method not in names:
            raise ValueError(f"{text!r}: {method!r} is no method: there are {', '.join(names)}")
        return cls(kind, share, method or None)

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate:g}" + (f":{self.method}" if self.method else "")

    @property
    def delay_s(self) -> float:
        """How much later a latency makes the answer; 0 for any other kind."""
        match = _LATENCY.fullmatch(self.kind)
        if match is None:
            return 0.0
        if match[1] is None:
            return 1.0
        return float(match[1]) / (1000 if match[2] == "ms" else 1)


class Strikes(NamedTuple):
    """What befalls one request."""

    delay_s: float = 0.0
    refuser: Refuser | None = None
    mishap: Mishap | None = None


class FaultPlan:
    """Decides which requests are struck; the first refusal or mishap drawn is the one."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.faults, self.seed = tuple(faults), seed
        self.struck: Counter[str] = Counter()
        self._occurrences: Counter[str] = Counter()

    def draw(self, method: Method, pairs: Iterable[tuple[str, str]]) -> Strikes:
        """What befalls a request with these parameters; by which key it is sent is of no account."""
        if not self.faults:
            return Strikes()
        request = f"{method.name}?{sorted(pair for pair in pairs if pair[0] != 'key')}"
        occurrence = self._occurrences[request]
        self._occurrences[request] += 1
        delay_s, refuser, mishap = 0.0, None, None
        for position, fault in enumerate(self.faults):
            if fault.method not in (None, method.name):
                continue
            if self._uniform(f"{position}|{fault.kind}|{request}|{occurrence}") >= fault.rate:
                continue
            if fault.delay_s:
                delay_s += fault.delay_s
            elif refuser or mishap:
                continue
            elif fault.kind in REFUSALS:
                refuser = REFUSALS[fault.kind][1]
            else:
                mishap = next(name for name in MISHAPS if name == fault.kind)
            self.struck[fault.kind] += 1
        return Strikes(delay_s, refuser, mishap)

    def _uniform(self, text: str) -> float:
        digest = blake2b(f"{self.seed}|{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

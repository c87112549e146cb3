"""The errors that the YouTube client raises, and the rules that classify YouTube's error responses.

MaiaError
└── YouTubeError         a call failed
    ├── RateLimited      any 429, already recorded in the ledger; ends the process
    ├── QuotaExhausted   403 for the day's quota, and no other permitted project has any left
    ├── KeyRejected      every key was refused, and is now disabled
    ├── BadRequest       the request itself is wrong; `parameter` names the part at fault
    ├── Gone             the requested resource no longer exists: mark it and carry on
    └── Transient        no response, an incomplete one or a server error, after all retries

`atlas.errors.RingClosed` passes through the client unchanged: no call was made.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import orjson

from maia.errors import MaiaError


class Disposition(StrEnum):
    """What to do about an error response."""

    DAY_QUOTA = "day_quota"
    SHORT_RATE = "short_rate"
    KEY_DEAD = "key_dead"
    CONFIG = "config"
    BAD_REQUEST = "bad_request"
    GONE = "gone"
    TRANSIENT = "transient"


_DISPOSITIONS: Mapping[str, Disposition] = {
    "quotaExceeded": Disposition.DAY_QUOTA,
    "dailyLimitExceeded": Disposition.DAY_QUOTA,
    "userRateLimitExceeded": Disposition.SHORT_RATE,
    "concurrentLimitExceeded": Disposition.SHORT_RATE,
    "servingLimitExceeded": Disposition.SHORT_RATE,
    "API_KEY_INVALID": Disposition.KEY_DEAD,
    "API_KEY_EXPIRED": Disposition.KEY_DEAD,
    "keyInvalid": Disposition.KEY_DEAD,
    "keyExpired": Disposition.KEY_DEAD,
    "accessNotConfigured": Disposition.CONFIG,
    "SERVICE_DISABLED": Disposition.CONFIG,
    "BILLING_DISABLED": Disposition.CONFIG,
    "CONSUMER_INVALID": Disposition.CONFIG,
    "CONSUMER_SUSPENDED": Disposition.CONFIG,
    "CREDENTIALS_MISSING": Disposition.CONFIG,
    "ipRefererBlocked": Disposition.CONFIG,
    "insufficientPermissions": Disposition.CONFIG,
    "authError": Disposition.CONFIG,
    "authorizationRequired": Disposition.CONFIG,
    "dailyLimitExceededUnreg": Disposition.CONFIG,
    "rateLimitExceededUnreg": Disposition.CONFIG,
    "userRateLimitExceededUnreg": Disposition.CONFIG,
    "invalidParameter": Disposition.BAD_REQUEST,
    "invalidPageToken": Disposition.BAD_REQUEST,
    "missingRequiredParameter": Disposition.BAD_REQUEST,
    "unknownPart": Disposition.BAD_REQUEST,
    "playlistItemsNotAccessible": Disposition.BAD_REQUEST,
    "commentsDisabled": Disposition.GONE,
    "channelClosed": Disposition.GONE,
    "channelSuspended": Disposition.GONE,
    "backendError": Disposition.TRANSIENT,
    "internalError": Disposition.TRANSIENT,
}
# YouTube uses these reasons for daily limits as well as for limits per minute.
_OF_EITHER_LENGTH = frozenset({"rateLimitExceeded", "RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"})
_KEY_RESTRICTED = re.compile(r"API_KEY_\w+_BLOCKED|ACCESS_TOKEN_\w+")
_NOT_FOUND = re.compile(r"\w*[nN]otFound")
# The requested resource is closed to us: neither the key nor the request is at fault.
_CLOSED = re.compile(r"(?:channel|comment|commentThread|playlist|playlistItem|subscription|video)s?Forbidden")

_DAY = re.compile(r"per[ _-]?day\b|PerDay|\bdaily\b", re.IGNORECASE)
_SHORT = re.compile(r"per[ _-]?(?:\d+ ?)?(?:second|minute|hour|user)", re.IGNORECASE)
_KEY_REFUSED = re.compile(r"API key (?:not valid|not found|expired)", re.IGNORECASE)
_CALLER_BLOCKED = re.compile(
    r"Requests (?:from|to) .{1,200} are blocked|unregistered callers|"
    r"has not been used in project|Consumer .{1,100} has been suspended",
    re.IGNORECASE,
)
_SECRET = re.compile(r"AIza[\w-]{20,}|(?<=api_key:)[^\s'\"]+")
_TAG = re.compile(r"</?(?:a|b|br|code|em|i|p|strong)\b[^>]*>")
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s?")
_LONGEST_DELAY_S = 86_400.0
_LONGEST_MESSAGE, _LONGEST_READ = 300, 10_000

PARAMETERS = (
    "channelId", "chart", "eventType", "fields", "forHandle", "forUsername", "id", "maxResults", "order",
    "pageToken", "part", "playlistId", "publishedAfter", "publishedBefore", "q", "regionCode",
    "relevanceLanguage", "type", "videoCategoryId", "videoDuration",
)  # fmt: skip
"""Every parameter that the client sends."""
_SPELLINGS = {name.lower(): name for name in PARAMETERS}
_REASON = re.compile(r"[\w.-]{1,100}", re.ASCII)
_NAME = re.compile(r"\w{1,40}", re.ASCII)
_BLAMED = re.compile(
    r"(?:Invalid value at|Required parameter:?|value (?:for|of)(?: the)?)(?: parameter)? ['\"]?(\w{1,40})"
    r"|\b(\w{1,40})['\"]? parameter\b"
    r"|\bparameter ['\"]?(\w{1,40})"
    r"|\b([a-z]+(?:Code|Token|Id|Language|Type|After|Before|Duration|Results))\b",
    re.ASCII,
)

_UNKNOWN_KEY = (
    "YouTube does not know this key: it was mistyped, deleted or has expired. "
    "Create one in the Google Cloud console and put it in the pool."
)
_NOT_ENABLED = (
    "The key's project has not enabled the YouTube Data API v3. "
    "Enable it in the Google Cloud console, wait some minutes, then enable the key again."
)
_PLAIN_WORDS: Mapping[str, str] = {
    "API_KEY_INVALID": _UNKNOWN_KEY,
    "API_KEY_EXPIRED": _UNKNOWN_KEY,
    "keyInvalid": _UNKNOWN_KEY,
    "keyExpired": _UNKNOWN_KEY,
    "SERVICE_DISABLED": _NOT_ENABLED,
    "accessNotConfigured": _NOT_ENABLED,
    "API_KEY_HTTP_REFERRER_BLOCKED": "The key is restricted to web sites, and an agent is not one. "
    "Lift the key's application restriction.",
    "API_KEY_IP_ADDRESS_BLOCKED": "The key is restricted to other IP addresses than this machine's. "
    "Add this one to the key's restrictions, or lift them.",
    "API_KEY_SERVICE_BLOCKED": "The key is restricted to other APIs. Allow it the YouTube Data API v3.",
    "API_KEY_ANDROID_APP_BLOCKED": "The key is restricted to Android apps. Lift that restriction.",
    "API_KEY_IOS_APP_BLOCKED": "The key is restricted to iOS apps. Lift that restriction.",
    "ipRefererBlocked": "The key is restricted to other IP addresses or web sites. Lift that restriction.",
    "BILLING_DISABLED": "Billing is disabled for the key's project. Enable it in the Google Cloud console.",
    "CONSUMER_SUSPENDED": "Google has suspended the key's project. Its owner must appeal.",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error response means. `reason` is the API's own word; `status` is 0 without a response.

    `parameter` is the request parameter that the response blames, such as "regionCode".
    """

    disposition: Disposition
    reason: str
    message: str
    retry_after_s: float | None = None
    status: int = 0
    parameter: str | None = None

    def __str__(self) -> str:
        head = " ".join(filter(None, (f"HTTP {self.status}" if self.status else "", self.reason)))
        return ": ".join(filter(None, (head, self.message)))

    @property
    def plain_words(self) -> str:
        """What happened and what the key's owner should do, for alerts."""
        advice = _PLAIN_WORDS.get(self.reason)
        return f"{advice} ({self})" if advice else f"YouTube refuses this key: {self}"


class NoResponse(Exception):
    """There was no complete response; `sent` is False if there was no connection."""

    def __init__(self, reason: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        self.verdict = Verdict(Disposition.TRANSIENT, reason, message)


class YouTubeError(MaiaError):
    """A call to YouTube failed."""

    def __init__(self, call: str, verdict: Verdict) -> None:
        self.call, self.verdict = call, verdict
        super().__init__(f"{call}: {verdict}")

    @property
    def reason(self) -> str:
        """The API's own word for it, such as "invalidPageToken"."""
        return self.verdict.reason


def is_unreachable(error: Exception) -> bool:
    """Whether there was no response at all, after all attempts."""
    return isinstance(error, Transient) and not error.verdict.status


class RateLimited(YouTubeError):
    """YouTube responded 429. `until` is when the ledger reopens; None if it could not record that."""

    def __init__(self, call: str, verdict: Verdict, until: datetime | None = None) -> None:
        super().__init__(call, verdict)
        self.until = until


class QuotaExhausted(YouTubeError):
    """The day's quota of every permitted project is spent; `reopens_at` says when it refills."""

    def __init__(self, call: str, verdict: Verdict, reopens_at: datetime | None, closed: str = "") -> None:
        super().__init__(call, verdict)
        self.reopens_at, self.closed = reopens_at, closed
        until = (
            f"until {reopens_at:%Y-%m-%d %H:%M:%S} UTC" if reopens_at else "until the next Pacific midnight"
        )
        self.args = (f"{call}: the day's quota is spent {until} ({verdict})",)


class KeyRejected(YouTubeError):
    """YouTube refused every key of the ring; all are disabled."""

    def __init__(self, call: str, verdict: Verdict) -> None:
        super().__init__(call, verdict)
        self.args = (f"{call}: no key is left. {verdict.plain_words}",)


class BadRequest(YouTubeError):
    """The request is wrong; another key or a retry would not help."""

    @property
    def parameter(self) -> str | None:
        """The parameter at fault, spelled as it was sent; None if YouTube named none.

        `q`, `id` and `pageToken` belong to the item. `regionCode`, `order` and the like come from settings,
        so YouTube would refuse every other item too.
        """
        return self.verdict.parameter


class Gone(YouTubeError):
    """The requested resource does not exist, or is not public."""


class Transient(YouTubeError):
    """A temporary failure: a 5xx, a timeout, a broken connection or an incomplete response."""


def classify(
    status: int, body: object, headers: Mapping[str, str] | None = None, *, now: datetime | None = None
) -> Verdict:
    """Classify an error response: by its body, then by its status.

    `body` is the raw response or its parsed JSON, of any shape. `now` is only needed for a Retry-After date
    in a response without a Date header.
    """
    error = _error_of(body)
    infos = [d for d in _mappings(error.get("details")) if str(d.get("@type", "")).endswith("ErrorInfo")]
    errors = list(_mappings(error.get("errors")))
    message = _message_of(error, errors)
    parameter = parameter_named(error, message)
    disposition, reason = _decide(status, infos, errors, message, parameter)
    if disposition is Disposition.CONFIG and not error:
        # A bare 401 comes from a gateway, so it must not disable the key.
        disposition = Disposition.BAD_REQUEST
    if status == 429 and disposition not in _CAN_BE_429:
        disposition = Disposition.SHORT_RATE
    return Verdict(
        disposition,
        reason or _reason(error.get("status")),
        message or _without_message(status),
        _retry_after_s(headers or {}, error, now),
        status,
        parameter,
    )


_CAN_BE_429 = frozenset(
    {Disposition.DAY_QUOTA, Disposition.SHORT_RATE, Disposition.KEY_DEAD, Disposition.CONFIG}
)


def _decide(
    status: int,
    infos: list[Mapping[str, Any]],
    errors: list[Mapping[str, Any]],
    message: str,
    parameter: str | None,
) -> tuple[Disposition, str]:
    """The disposition, and the reason that decided it, or else the first reason given."""
    reasons = [*_reasons(infos), *_reasons(errors)]
    reason = next(_reasons([*errors, *infos]), "")
    by_limit = _by_limit(infos)
    if by_limit:
        return by_limit, reason
    for candidate in reasons:
        known = _by_reason(candidate)
        if known:
            return known, candidate
    ambiguous = not _OF_EITHER_LENGTH.isdisjoint(reasons)
    return _by_message(status, ambiguous, message) or _by_status(status, ambiguous, parameter), reason


def _by_limit(infos: list[Mapping[str, Any]]) -> Disposition | None:
    for info in infos:
        metadata = info.get("metadata")
        if not isinstance(metadata, Mapping):
            continue
        unit, limit = _text(metadata.get("quota_unit")), _text(metadata.get("quota_limit"))
        if unit.count("/") >= 1:
            return Disposition.DAY_QUOTA if unit.split("/")[1] == "d" else Disposition.SHORT_RATE
        if _DAY.search(limit):
            return Disposition.DAY_QUOTA
        if _SHORT.search(limit):
            return Disposition.SHORT_RATE
    return None


def _by_reason(reason: str) -> Disposition | None:
    known = _DISPOSITIONS.get(reason)
    if known:
        return known
    if _KEY_RESTRICTED.fullmatch(reason):
        return Disposition.CONFIG
    if _CLOSED.fullmatch(reason):
        return Disposition.BAD_REQUEST
    return Disposition.GONE if _NOT_FOUND.fullmatch(reason) else None


def _by_message(status: int, ambiguous: bool, message: str) -> Disposition | None:
    # Messages with other statuses quote the caller's own words, which may contain anything.
    if ambiguous or status in (403, 429):
        if _DAY.search(message):
            return Disposition.DAY_QUOTA
        if _SHORT.search(message):
            return Disposition.SHORT_RATE
    if status in (400, 401, 403):
        if _KEY_REFUSED.search(message):
            return Disposition.KEY_DEAD
        if _CALLER_BLOCKED.search(message):
            return Disposition.CONFIG
    return None


def _by_status(status: int, ambiguous: bool, parameter: str | None) -> Disposition:
    if ambiguous or status == 429:
        return Disposition.SHORT_RATE
    if status == 401:
        return Disposition.CONFIG
    if status == 410:
        return Disposition.GONE
    if status == 403 and parameter is None:
        # It blames nothing in the request, so the fault is on YouTube's side.
        return Disposition.TRANSIENT
    if 400 <= status < 500 and status != 408:
        return Disposition.BAD_REQUEST
    return Disposition.TRANSIENT


def _error_of(body: object) -> Mapping[str, Any]:
    """The API's error object, or as much of one as the body holds."""
    if isinstance(body, (bytes, bytearray, memoryview, str)):
        try:
            body = orjson.loads(body)
        except orjson.JSONDecodeError:
            return {}
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        return error
    return {"message": error} if isinstance(error, str) else {}


def _message_of(error: Mapping[str, Any], errors: list[Mapping[str, Any]]) -> str:
    """The message as a line of plain text, without markup, control characters or keys."""
    message = _text(error.get("message")) or next(_strings(errors, "message"), "")
    message = html.unescape(_TAG.sub("", message[:_LONGEST_READ]))
    message = "".join(character if character.isprintable() else " " for character in message)
    message = _SECRET.sub("[key]", " ".join(message.split()))
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 1]}…"


def parameter_named(error: Mapping[str, Any], message: str) -> str | None:
    """The parameter that an error blames, found in its location, field violations, reason or message."""
    for entry in _mappings(error.get("errors")):
        location = _text(entry.get("location"))
        if location and _text(entry.get("locationType")) in ("parameter", "") and _NAME.fullmatch(location):
            return _spelled(location) or location
    for detail in _mappings(error.get("details")):
        for violation in _mappings(detail.get("fieldViolations")):
            if name := _spelled(_text(violation.get("field"))):
                return name
    for reason in _reasons(_mappings(error.get("errors"))):
        if reason.startswith("invalid") and (name := _spelled(reason.removeprefix("invalid"))):
            return name
    blamed = (_spelled(name) for found in _BLAMED.finditer(message) for name in found.groups() if name)
    return next(filter(None, blamed), None)


def _spelled(name: str) -> str | None:
    """Our spelling of a parameter, from any spelling such as region_code; None if we never send it."""
    return _SPELLINGS.get(name.replace("_", "").lower())


def _without_message(status: int) -> str:
    if 300 <= status < 400:
        return "a redirect, which the API never sends: check the base URL and any proxy"
    if status < 300:
        return "the response is incomplete, or not what was requested"
    return "the response does not say why"


def _retry_after_s(
    headers: Mapping[str, str], error: Mapping[str, Any], now: datetime | None
) -> float | None:
    """The pause that the Retry-After header or google.rpc.RetryInfo asks for, at most a day."""
    named = {name.lower(): value for name, value in headers.items()}
    value = named.get("retry-after") or next(_strings(_mappings(error.get("details")), "retryDelay"), "")
    delay = _DELAY.fullmatch(value.strip())
    seconds = float(delay[1]) if delay else _seconds_until(value, named.get("date"), now)
    return None if seconds is None else min(seconds, _LONGEST_DELAY_S)


def _seconds_until(value: str, date: str | None, now: datetime | None) -> float | None:
    try:
        then = parsedate_to_datetime(value)
        since = parsedate_to_datetime(date) if date else now
        seconds = (then - since).total_seconds() if since else math.nan
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return seconds if seconds >= 0 else None


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, Mapping))


def _strings(entries: Any, name: str) -> Iterator[str]:
    for entry in entries:
        text = _text(entry.get(name))
        if text:
            yield text


def _reasons(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return filter(None, (_reason(entry.get("reason")) for entry in entries))


def _reason(value: object) -> str:
    """The value if it is a single word, as the API's reasons are; otherwise an empty string."""
    return value if isinstance(value, str) and _REASON.fullmatch(value) else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

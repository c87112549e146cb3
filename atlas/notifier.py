"""Send alerts to people through Apprise, each only once even if several processes raise it.

A failure to send is logged and never disturbs the caller. Quoted text, such as a video's title, can't mention
anyone in the chat that receives it. All URLs are sent to at the same time, so that a slow one delays no
other, and one that keeps failing is left out for a while.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias
from uuid import UUID, uuid4

from atlas import foreign
from atlas.config import NotifierSettings
from atlas.db import Database
from atlas.errors import ConfigError, DatabaseError
from atlas.recovery import Backoff, CircuitBreaker, Permit, TokenBucket

logger = logging.getLogger(__name__)

Level: TypeAlias = Literal["info", "warning", "error"]

_LOG_LEVELS: dict[Level, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_APPRISE_TYPES: dict[Level, str] = {"info": "INFO", "warning": "WARNING", "error": "FAILURE"}
_LONGEST_KEY = 200
_CLAIM_S = 60
_DATABASE_TIMEOUT_S = 3
_URL_TIMEOUT_S = 60
_FAILURES_TO_OPEN = 3
_PAUSES = Backoff(first_s=60, longest_s=1800, jitter="equal")
# About what Discord accepts from a web hook: 5 messages in 2 s.
_RATE_PER_S, _BURST = 2.5, 20
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_CAUSES = (
    ("ProxyError", "the proxy can't be used: check PLEIADES_NETWORK__PROXY or HTTPS_PROXY"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted: set SSL_CERT_FILE if your company signs it",
    ),
    ("NameResolutionError|getaddrinfo", "its host name can't be resolved: check it, and the network's DNS"),
    ("[Tt]imed out|TimeoutError", "it did not answer in time: check the network and any firewall"),
    ("refused", "the connection was refused: check its host and port"),
)
"""What the text of an error of a connection shows about its cause; the text itself may contain a URL."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A message to people; alerts with the same key count as the same alert."""

    title: str
    body: str
    level: Level
    key: str
    is_recovery: bool = False


@dataclass(frozen=True, slots=True)
class UrlTest:
    """Whether a message reached the URL at this position, counted from 1; `reason` says why it did not."""

    number: int
    service: str | None
    reached: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Claim:
    # None if the database could not be reached.
    token: UUID | None
    held_back: int


class _Url:
    """A URL's circuit and pace, in this process."""

    def __init__(self) -> None:
        self.circuit = CircuitBreaker(failures=_FAILURES_TO_OPEN, pauses=_PAUSES, probe_s=2 * _URL_TIMEOUT_S)
        self.pace = TokenBucket(rate_per_s=_RATE_PER_S, burst=_BURST)


class Notifier:
    """Sends alerts to the configured URLs, the same alert only once per cool-down across all processes.

    While the database can't be reached, or without one, only this object remembers what it has sent.
    """

    def __init__(self, db: Database | None, settings: NotifierSettings) -> None:
        self._db, self._settings = db, settings
        self._cooling_since: dict[str, float] = {}
        self._urls = [_Url() for _ in settings.urls]

    async def notify(
        self, title: str, body: str, *, level: Level = "warning", key: str | None = None
    ) -> bool:
        """Log and send an alert, unless one with the same `key` (by default the title) is in its cool-down.

        Title and body may contain foreign text, which is escaped here. Returns whether the alert reached at
        least one URL. Failures are logged, never raised.
        """
        try:
            return await self._notify(Alert(title, body, level, _short(key or title)))
        except Exception as error:  # noqa: BLE001 - the work goes on whatever happens to an alert
            logger.error("Alert %r could not be sent: %s", title, self._redacted(repr(error)))
            return False

    async def deliver(self, title: str, body: str, *, level: Level, is_recovery: bool = False) -> bool:
        """Log and send a message without a cool-down: its caller sees to it that it is not repeated.

        Returns False if it was to be sent and reached no URL, so that it should be delivered later. With
        `is_recovery`, `level` is that of what is over.
        """
        try:
            alert = Alert(title, body, level, "", is_recovery)
            self._log(alert, body)
            return not self._wants(alert) or await self._send(alert, body)
        except Exception as error:  # noqa: BLE001 - the work goes on whatever happens to an alert
            logger.error("Alert %r could not be sent: %s", title, self._redacted(repr(error)))
            return False

    async def test(self, title: str, body: str) -> list[UrlTest]:
        """Send a message to every URL, whatever its level and its circuit, and tell which accepted it."""
        alert = Alert(title, body, "info", "")
        return await asyncio.gather(*(self._test_url(nth, alert) for nth in range(len(self._urls))))

    async def check(self) -> None:
        """Raise ConfigError if Apprise can't use a URL; the message gives its position, never the URL."""
        plugins = await asyncio.to_thread(
            lambda: [self._plugin(nth) for nth in range(len(self._settings.urls))]
        )
        wrong = [str(nth) for nth, plugin in enumerate(plugins, 1) if plugin is None]
        if wrong:
            raise ConfigError(
                f"PLEIADES_NOTIFIER__URLS: Apprise does not understand number {', '.join(wrong)} of "
                f"{len(plugins)}: see https://appriseit.com/services/"
            )

    async def _notify(self, alert: Alert) -> bool:
        claim = await self._claim(alert)
        if claim is None:
            return False
        body = (
            f"{alert.body}\n(Held back since the last one: {claim.held_back}.)"
            if claim.held_back
            else alert.body
        )
        self._log(alert, body)
        wanted = self._wants(alert)
        reached = wanted and await self._send(alert, body)
        await self._settle(alert, claim, self._settings.cool_down_s if reached or not wanted else 0)
        return reached

    def _log(self, alert: Alert, body: str) -> None:
        level = logging.INFO if alert.is_recovery else _LOG_LEVELS[alert.level]
        logger.log(level, "%s: %s", alert.title, body)

    def _wants(self, alert: Alert) -> bool:
        """Whether alerts of its level are sent, rather than only logged."""
        return bool(self._urls) and _LOG_LEVELS[alert.level] >= _LOG_LEVELS[self._settings.level]

    async def _claim(self, alert: Alert) -> _Claim | None:
        """Ask for the right to send this alert now; None during its cool-down."""
        token = uuid4()
        if self._db is None:
            return self._claim_here(alert)
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT_S):
                row = await self._db.fetchrow(
                    "notifier.claim", alert.key, alert.title, token, min(_CLAIM_S, self._settings.cool_down_s)
                )
        except (DatabaseError, TimeoutError) as error:
            logger.warning("Alerts are deduplicated only within this process: %r", error)
            return self._claim_here(alert)
        assert row is not None
        return _Claim(token, row["held_back"]) if row["granted"] else None

    def _claim_here(self, alert: Alert) -> _Claim | None:
        cooling_since = self._cooling_since.get(alert.key, -math.inf)
        free = time.monotonic() - cooling_since >= self._settings.cool_down_s
        return _Claim(None, 0) if free else None

    async def _settle(self, alert: Alert, claim: _Claim, cool_down_s: float) -> None:
        """Start the cool-down; 0 lets the next alert be sent at once."""
        if cool_down_s:
            self._cooling_since[alert.key] = time.monotonic()
        if claim.token is None or self._db is None:
            return
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT_S):
                await self._db.execute("notifier.settle", alert.key, claim.token, cool_down_s)
        except (DatabaseError, TimeoutError) as error:
            logger.warning("Only this process knows the cool-down of alert %r: %r", alert.title, error)

    async def _send(self, alert: Alert, body: str) -> bool:
        """Send to every URL whose circuit permits it; True if at least one accepted it.

        An error that reached nobody so is sent to the others too: late is better than never.
        """
        permits = [(nth, url.circuit.admit()) for nth, url in enumerate(self._urls)]
        admitted = [(nth, permit) for nth, permit in permits if permit is not None]
        reached = await asyncio.gather(*(self._send_to(nth, alert, body, permit) for nth, permit in admitted))
        if any(reached):
            return True
        rest = [nth for nth, permit in permits if permit is None]
        if rest and alert.level != "error":
            which = ", ".join(str(nth + 1) for nth in rest)
            logger.warning("Alert %r was not sent to URL %s, which fails all the time", alert.title, which)
            return False
        return any(await asyncio.gather(*(self._send_to(nth, alert, body) for nth in rest)))

    async def _send_to(self, nth: int, alert: Alert, body: str, permit: Permit | None = None) -> bool:
        """Send to one URL at its pace, and log why that failed; `permit` learns how it went."""
        try:
            await self._urls[nth].pace.acquire()
            refusal = await self._refusal_of(nth, alert, body)
        except BaseException:
            if permit is not None:
                permit.release()
            raise
        if refusal is None:
            if permit is not None:
                permit.succeed()
            return True
        if permit is not None:
            permit.fail()
        logger.error("Alert %r did not reach URL %d of the notifier: %s", alert.title, nth + 1, refusal)
        return False

    async def _test_url(self, nth: int, alert: Alert) -> UrlTest:
        refusal = await self._refusal_of(nth, alert, alert.body)
        plugin = self._plugin(nth)
        service = None if plugin is None else str(plugin.service_name)
        return UrlTest(nth + 1, service, refusal is None, refusal)

    async def _refusal_of(self, nth: int, alert: Alert, body: str) -> str | None:
        """Send to one URL; None if it accepted the alert, or else why not, without any part of the URL."""
        try:
            async with asyncio.timeout(_URL_TIMEOUT_S):
                return await asyncio.to_thread(self._post_or_say_why, nth, alert, body)
        except TimeoutError:
            return f"no answer within {_URL_TIMEOUT_S} s"

    def _post_or_say_why(self, nth: int, alert: Alert, body: str) -> str | None:
        with _apprise_log.collected() as reasons:
            try:
                reached = self._post(nth, alert, body)
            except Exception as error:  # noqa: BLE001 - any of a hundred services; the other URLs still get theirs
                reached = False
                reasons.append(repr(error))
        why = "; ".join(each.rstrip(". ") for each in reasons)
        return None if reached else self._redacted(why) or "no reason given"

    def _post(self, nth: int, alert: Alert, body: str) -> bool:
        plugin = self._plugin(nth)
        if plugin is None:
            return False
        apprise = _apprise()
        service = apprise.Apprise()
        service.add(plugin)
        name = "SUCCESS" if alert.is_recovery else _APPRISE_TYPES[alert.level]
        kind = getattr(apprise.NotifyType, name)
        return bool(
            service.notify(
                title=foreign.chat(foreign.one_line(alert.title)),
                body=foreign.chat(body),
                notify_type=kind,
                body_format=apprise.NotifyFormat.TEXT,
            )
        )

    def _plugin(self, nth: int) -> Any:
        """Apprise's plugin for a URL; None if there is none."""
        return _apprise().Apprise.instantiate(self._settings.urls[nth].get_secret_value())

    def _redacted(self, text: str) -> str:
        for url in self._settings.urls:
            text = text.replace(url.get_secret_value(), "***")
            for part in re.split(r"[/:@?&=,]+", url.get_secret_value())[1:]:
                text = text.replace(part, "***") if len(part) > 3 else text
        return _URL.sub("***", text)


class _AppriseLog(logging.Filter):
    """Collects what Apprise logs in the sending thread, but keeps it out of our log: it may quote a URL.

    Its warnings say that there was no connection, and only its debugging messages why.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        reasons: list[str] = getattr(self._thread, "reasons", [])
        if record.levelno >= logging.WARNING:
            reasons.append(record.getMessage())
        elif str(record.msg).startswith("Socket Exception") and (cause := _cause_in(record.getMessage())):
            reasons.append(cause)
        return False

    @contextmanager
    def collected(self) -> Iterator[list[str]]:
        reasons: list[str] = []
        self._thread.reasons = reasons
        try:
            yield reasons
        finally:
            del self._thread.reasons


_apprise_log = _AppriseLog()


def _cause_in(text: str) -> str | None:
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, text)), None)


def _apprise() -> Any:
    """Import Apprise on first use, and keep it from logging a URL."""
    log = logging.getLogger("apprise")
    log.addFilter(_apprise_log)
    log.setLevel(logging.DEBUG)
    # At DEBUG urllib3 logs the path of every request, which for many services is the secret.
    transport = logging.getLogger("urllib3")
    transport.setLevel(max(transport.getEffectiveLevel(), logging.INFO))
    import apprise

    return apprise


def _short(key: str) -> str:
    return key if len(key) <= _LONGEST_KEY else blake2b(key.encode(), digest_size=16).hexdigest()


async def notify(title: str, body: str, *, level: Level = "warning", key: str | None = None) -> bool:
    """`Notifier.notify` of the current Atlas."""
    from atlas.composition import current

    return await current().notifier.notify(title, body, level=level, key=key)

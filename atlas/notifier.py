"""Send alerts to people through Apprise, each only once even if several processes raise it.

A failure to send is logged and never disturbs the caller. Quoted text, such as a video's title, can't mention
anyone in the chat that receives it.
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

logger = logging.getLogger(__name__)

Level: TypeAlias = Literal["info", "warning", "error"]

_LOG_LEVELS: dict[Level, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_APPRISE_TYPES: dict[Level, str] = {"info": "INFO", "warning": "WARNING", "error": "FAILURE"}
_LONGEST_KEY = 200
_CLAIM_S = 60
_DATABASE_TIMEOUT_S = 3
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Alert:
    """A message to people; alerts with the same key count as the same alert."""

    title: str
    body: str
    level: Level
    key: str


@dataclass(frozen=True, slots=True)
class _Permit:
    # None if the database could not be reached.
    token: UUID | None
    held_back: int


class Notifier:
    """Sends alerts to the configured URLs, the same alert only once per cool-down across all processes.

    While the database can't be reached, only this object remembers what it has sent.
    """

    def __init__(self, db: Database, settings: NotifierSettings) -> None:
        self._db, self._settings = db, settings
        self._cooling_since: dict[str, float] = {}

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
        logger.log(_LOG_LEVELS[alert.level], "%s: %s", alert.title, body)
        wanted = _LOG_LEVELS[alert.level] >= _LOG_LEVELS[self._settings.level] and bool(self._settings.urls)
        reached = wanted and await asyncio.to_thread(self._send, alert, body)
        await self._settle(alert, claim, self._settings.cool_down_s if reached or not wanted else 0)
        return reached

    async def _claim(self, alert: Alert) -> _Permit | None:
        """Ask for the right to send this alert now; None during its cool-down."""
        token = uuid4()
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT_S):
                row = await self._db.fetchrow(
                    "notifier.claim", alert.key, alert.title, token, min(_CLAIM_S, self._settings.cool_down_s)
                )
        except (DatabaseError, TimeoutError) as error:
            logger.warning("Alerts are deduplicated only within this process: %r", error)
            cooling_since = self._cooling_since.get(alert.key, -math.inf)
            free = time.monotonic() - cooling_since >= self._settings.cool_down_s
            return _Permit(None, 0) if free else None
        assert row is not None
        return _Permit(token, row["held_back"]) if row["granted"] else None

    async def _settle(self, alert: Alert, claim: _Permit, cool_down_s: float) -> None:
        """Start the cool-down; 0 lets the next alert be sent at once."""
        if cool_down_s:
            self._cooling_since[alert.key] = time.monotonic()
        if claim.token is None:
            return
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT_S):
                await self._db.execute("notifier.settle", alert.key, claim.token, cool_down_s)
        except (DatabaseError, TimeoutError) as error:
            logger.warning("Only this process knows the cool-down of alert %r: %r", alert.title, error)

    def _send(self, alert: Alert, body: str) -> bool:
        """Send to every URL; True if at least one accepted it."""
        reached = [self._send_to(nth, alert, body) for nth in range(len(self._settings.urls))]
        return any(reached)

    def _send_to(self, nth: int, alert: Alert, body: str) -> bool:
        with _apprise_log.collected() as reasons:
            try:
                reached = self._post(nth, alert, body)
            except Exception as error:  # noqa: BLE001 - any of a hundred services; the other URLs still get theirs
                reached = False
                reasons.append(repr(error))
        if not reached:
            reason = self._redacted("; ".join(reasons)) or "no reason given"
            logger.error("Alert %r did not reach URL %d of the notifier: %s", alert.title, nth + 1, reason)
        return reached

    def _post(self, nth: int, alert: Alert, body: str) -> bool:
        plugin = self._plugin(nth)
        if plugin is None:
            return False
        apprise = _apprise()
        service = apprise.Apprise()
        service.add(plugin)
        kind = getattr(apprise.NotifyType, _APPRISE_TYPES[alert.level])
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
    """Collects what Apprise logs in the sending thread, but keeps it out of our log: it may quote a URL."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            getattr(self._thread, "reasons", []).append(record.getMessage())
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


def _apprise() -> Any:
    """Import Apprise on first use, and keep it from logging a URL."""
    logging.getLogger("apprise").addFilter(_apprise_log)
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

"""Alerts to people, over Apprise: de-duplicated among all processes, and never in the caller's way."""

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

from atlas.config import NotifierSettings
from atlas.db import Database
from atlas.errors import ConfigError, DatabaseError

logger = logging.getLogger(__name__)

Level: TypeAlias = Literal["info", "warning", "error"]

_LOG_LEVELS: dict[Level, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_APPRISE_TYPES: dict[Level, str] = {"info": "INFO", "warning": "WARNING", "error": "FAILURE"}
_LONGEST_KEY = 200
_CLAIM_S = 60
_DATABASE_PATIENCE_S = 3
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Alert:
    """What somebody is told; alerts of one key are the same alert."""

    title: str
    body: str
    level: Level
    key: str


@dataclass(frozen=True, slots=True)
class _Claim:
    # None where the database was away.
    token: UUID | None
    held_back: int


class Notifier:
    """Sends alerts to the URLs of the settings; the same alert once in a cool-down, by whatever process.

    While the database is away, this object alone remembers what it sent.
    """

    def __init__(self, db: Database, settings: NotifierSettings) -> None:
        self._db, self._settings = db, settings
        self._settled_at: dict[str, float] = {}

    async def notify(
        self, title: str, body: str, *, level: Level = "warning", key: str | None = None
    ) -> bool:
        """Log and send an alert, unless one of the same `key` (by default its title) just went out.

        Returns whether it reached at least one URL. Failures are logged, never raised.
        """
        try:
            return await self._notify(Alert(title, body, level, _short(key or title)))
        except Exception as error:  # noqa: BLE001 - whatever an alert meets, the work goes on
            logger.error("alert %r could not be sent: %s", title, self._redacted(repr(error)))
            return False

    async def check(self) -> None:
        """ConfigError if Apprise does not understand a URL; it is named by its place only."""
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

    async def _claim(self, alert: Alert) -> _Claim | None:
        """The right to tell of this alert now; None within its cool-down."""
        token = uuid4()
        try:
            async with asyncio.timeout(_DATABASE_PATIENCE_S):
                row = await self._db.fetchrow(
                    "notifier.claim", alert.key, alert.title, token, min(_CLAIM_S, self._settings.cool_down_s)
                )
        except (DatabaseError, TimeoutError) as error:
            logger.warning("alerts are de-duplicated in this process only: %r", error)
            settled_at = self._settled_at.get(alert.key, -math.inf)
            free = time.monotonic() - settled_at >= self._settings.cool_down_s
            return _Claim(None, 0) if free else None
        assert row is not None
        return _Claim(token, row["held_back"]) if row["granted"] else None

    async def _settle(self, alert: Alert, claim: _Claim, cool_down_s: float) -> None:
        """Begin the cool-down; one of 0 lets the next alert try at once."""
        if cool_down_s:
            self._settled_at[alert.key] = time.monotonic()
        if claim.token is None:
            return
        try:
            async with asyncio.timeout(_DATABASE_PATIENCE_S):
                await self._db.execute("notifier.settle", alert.key, claim.token, cool_down_s)
        except (DatabaseError, TimeoutError) as error:
            logger.warning("the cool-down of alert %r is known to this process only: %r", alert.title, error)

    def _send(self, alert: Alert, body: str) -> bool:
        """Send to every URL; whether one of them took it."""
        reached = [self._send_to(nth, alert, body) for nth in range(len(self._settings.urls))]
        return any(reached)

    def _send_to(self, nth: int, alert: Alert, body: str) -> bool:
        with _apprise_log.heard() as reasons:
            try:
                reached = self._post(nth, alert, body)
            except Exception as error:  # noqa: BLE001 - a hundred services, and the others are still to be told
                reached = False
                reasons.append(repr(error))
        if not reached:
            reason = self._redacted("; ".join(reasons)) or "no reason given"
            logger.error("alert %r did not reach URL %d of the notifier: %s", alert.title, nth + 1, reason)
        return reached

    def _post(self, nth: int, alert: Alert, body: str) -> bool:
        plugin = self._plugin(nth)
        if plugin is None:
            return False
        apprise = _apprise()
        service = apprise.Apprise()
        service.add(plugin)
        kind = getattr(apprise.NotifyType, _APPRISE_TYPES[alert.level])
        text = apprise.NotifyFormat.TEXT
        return bool(service.notify(title=alert.title, body=body, notify_type=kind, body_format=text))

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
    """Keeps what Apprise says in a thread while that thread sends, and from the log, as it may hold a URL."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            getattr(self._thread, "reasons", []).append(record.getMessage())
        return False

    @contextmanager
    def heard(self) -> Iterator[list[str]]:
        reasons: list[str] = []
        self._thread.reasons = reasons
        try:
            yield reasons
        finally:
            del self._thread.reasons


_apprise_log = _AppriseLog()


def _apprise() -> Any:
    """Apprise, imported at its first use, with every way shut by which it would log a URL."""
    logging.getLogger("apprise").addFilter(_apprise_log)
    # At DEBUG it logs the path of every request, which for many services is the secret.
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

"""Tells systemd that `maia up` starts, is ready, stops; and is alive, for as long as it really works.

The protocol is sd_notify(3): datagrams to the socket in NOTIFY_SOCKET. Without one, nothing happens.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final

logger = logging.getLogger(__name__)

SIGNS_PER_LIMIT: Final = 4
"""How many signs of life are due within the time after which systemd believes the process dead."""

_LEAST_PAUSE_S: Final = 0.1


class ServiceManager:
    """What started this process and wants to hear how it is; it waits `limit_s` for a sign of life."""

    def __init__(self, address: str | None = None, limit_s: float | None = None) -> None:
        self._address, self.limit_s = address, limit_s

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that the environment names; removes its variables, which are not for child processes."""
        address = environment.pop("NOTIFY_SOCKET", None)
        limit_us, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = limit_us.isdecimal() and int(limit_us) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(limit_us) / 1e6 if meant else None)

    def tell(self, **fields: str | int) -> None:
        """Send fields such as READY=1; a failure is only logged, as systemd will act on the silence."""
        if not self._address:
            return
        # A leading @ stands for an address without a file.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(1)
                connection.sendto(message.encode(), address)
        except OSError as error:
            logger.warning("systemd can't be told %s: %s", message, error)

    def say(self, text: str) -> None:
        """What `systemctl status` shows."""
        self.tell(STATUS=text.replace("\n", " "))


Sign = Callable[[], str | None]
"""Says why something does not work; None if it does."""


async def keep_alive(manager: ServiceManager, signs: Iterable[Sign]) -> None:
    """Tell systemd that this process is alive for as long as every sign says so; never returns.

    If one does not, or the loop hangs, systemd ends and restarts the process once the limit has passed. Then
    the stack of each thread goes to stderr.
    """
    if manager.limit_s is None:
        await asyncio.Event().wait()
        return
    faulthandler.enable()
    signs, silent = tuple(signs), False
    while True:
        reasons = [reason for sign in signs if (reason := sign()) is not None]
        if not reasons:
            manager.tell(WATCHDOG=1)
        elif not silent:
            logger.error("the watchdog hears nothing more from here, as %s", "; ".join(reasons))
        silent = bool(reasons)
        await asyncio.sleep(max(manager.limit_s / SIGNS_PER_LIMIT, _LEAST_PAUSE_S))


class Pulse:
    """Notes that something goes on; `wrong` says so once it has not for `limit_s`."""

    def __init__(self, what: str, limit_s: float) -> None:
        self._what, self._limit_s = what, limit_s
        self._last_s = time.monotonic()

    def beat(self) -> None:
        self._last_s = time.monotonic()

    def wrong(self) -> str | None:
        silent_s = time.monotonic() - self._last_s
        return None if silent_s <= self._limit_s else f"{self._what} stands still for {silent_s:.0f} s"


class Questions:
    """Notes how something answers that is asked again and again.

    It may take up to `answer_limit_s` for an answer, as a database that recovers from a crash does. With
    `failure_limit_s` it must also not fail for longer than that; without, a failure is an answer too.
    """

    def __init__(self, what: str, answer_limit_s: float, failure_limit_s: float | None) -> None:
        self._what, self._answer_limit_s, self._failure_limit_s = what, answer_limit_s, failure_limit_s
        self._asked_s: float | None = None
        self._failing_since_s: float | None = None

    @contextmanager
    def question(self) -> Iterator[None]:
        """A block that asks, and raises if the answer is a failure."""
        self._asked_s = time.monotonic()
        try:
            yield
        except Exception:
            if self._failing_since_s is None:
                self._failing_since_s = self._asked_s
            raise
        else:
            self._failing_since_s = None
        finally:
            self._asked_s = None

    def wrong(self) -> str | None:
        now_s = time.monotonic()
        if self._asked_s is not None and (waited_s := now_s - self._asked_s) > self._answer_limit_s:
            return f"{self._what} has not answered for {waited_s:.0f} s"
        if self._failure_limit_s is None or self._failing_since_s is None:
            return None
        failed_s = now_s - self._failing_since_s
        return f"{self._what} has failed for {failed_s:.0f} s" if failed_s > self._failure_limit_s else None

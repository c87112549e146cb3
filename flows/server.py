"""The Prefect server that flows report to: the one the settings name, or one for the while."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)

from maia.errors import MaiaError

_POLL_S = 0.1
_GRACE_S = 10
_REMEDY = "or hunt without Prefect: maia hunter --direct"


class PrefectServerError(MaiaError):
    """Prefect's server cannot be used."""


@contextmanager
def reachable() -> Iterator[str]:
    """Yield the URL of PREFECT_API_URL or, where it is unset, of a server that ends with the block.

    Prefect would start one by itself, but then Ctrl-C ends it before the flow has told of its own end.
    """
    known = PREFECT_API_URL.value()
    if known:
        _check(known)
        yield known
        return
    with tempfile.TemporaryFile() as log, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        process = _start(listener, log)
        try:
            _wait_for(url, process, log)
            with temporary_settings({PREFECT_API_URL: url}):
                try:
                    yield url
                finally:
                    _deliver()
        finally:
            _stop(process)


def required_url() -> str:
    """PREFECT_API_URL; PrefectServerError says what to do where it is unset."""
    url: str | None = PREFECT_API_URL.value()
    if not url:
        raise PrefectServerError(
            "PREFECT_API_URL is not set: set it to your Prefect server, such as http://127.0.0.1:4200/api, "
            "or let maia up start one"
        )
    return url


async def wait_until_answering(url: str, limit_s: float) -> None:
    """Wait for a server that may be starting; PrefectServerError when it takes longer than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not await answers(url):
        if time.monotonic() > deadline:
            raise PrefectServerError(
                f"PREFECT_API_URL: {url} did not answer in {limit_s:g} s: start that server "
                "(maia up, or prefect server start)"
            )
        await asyncio.sleep(_POLL_S)


async def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        async with httpx.AsyncClient(timeout=_GRACE_S) as client:
            return (await client.get(f"{url}/health")).is_success
    except httpx.TransportError:
        return False


def _check(url: str) -> None:
    try:
        httpx.get(f"{url}/health", timeout=_GRACE_S)
    except httpx.HTTPError as error:
        raise PrefectServerError(
            f"PREFECT_API_URL: {url} does not answer ({error}): start that server (prefect server start), "
            f"unset the variable to use one for the while, {_REMEDY}"
        ) from error


def _start(listener: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Serve Prefect's API on a bound socket, deaf to the terminal's Ctrl-C."""
    program = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--lifespan", "on"]
    surroundings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *program, "--log-level", "error", "--fd", str(listener.fileno())],
        env={
            **os.environ,
            **surroundings,
            **get_current_settings().to_environment_variables(exclude_unset=True),
        },
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(listener.fileno(),),
        start_new_session=True,
    )


def _wait_for(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    limit_s = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + limit_s
    while not _answers(url):
        if process.poll() is not None:
            raise PrefectServerError(f"Prefect's server did not start: {_reason(log)}: mend that, {_REMEDY}")
        if time.monotonic() > deadline:
            raise PrefectServerError(
                f"Prefect's server did not start in {limit_s} s: raise "
                f"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, {_REMEDY}"
            )
        time.sleep(_POLL_S)


def _reason(log: IO[bytes]) -> str:
    """The line of a server's log that says why it ended: the last exception, or else the last line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (exceptions or lines or ["it said nothing"])[-1]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=_GRACE_S).is_success
    except httpx.TransportError:
        return False


def _deliver() -> None:
    """Hand over what Prefect still holds back: logs and events go in batches."""
    APILogHandler().flush()
    EventsWorker.drain_all(timeout=_GRACE_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""A temporary Prefect server, for a flow on a machine without one.

Importing Prefect takes a second or two, both here and in the server's process. So the server's process starts
before we import Prefect, but begins to serve only once we know that there is no other server to use.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO, TYPE_CHECKING

from flows import environment
from maia.cycle.termination import TERMINATED_STATUS

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp

_POLL_S = 0.05
_GRACE_S = 10


@contextmanager
def reachable() -> Iterator[str]:
    """Yield PREFECT_API_URL or, if it is unset, the URL of a temporary server that ends with the block.

    Prefect would start one itself, but Ctrl-C would stop that before the flow has reported its final state.
    """
    with tempfile.TemporaryFile() as log, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        early = None if os.environ.get("PREFECT_API_URL") else _start(listener, log)
        try:
            from flows import server

            if known := server.answering():
                _discard(early)
                early = None
                with _exiting_on_sigterm():
                    yield known
                return
            early = early or _start(listener, log)
            with _serving(early, listener, log) as url, _exiting_on_sigterm():
                yield url
        finally:
            _stop(early)


@contextmanager
def _exiting_on_sigterm() -> Iterator[None]:
    """Exit as commands do on SIGTERM also where Prefect handles it: before and after the cycles of a flow."""
    from prefect.exceptions import TerminationSignal

    try:
        yield
    except TerminationSignal:
        raise SystemExit(TERMINATED_STATUS) from None


@contextmanager
def _serving(process: subprocess.Popen[bytes], listener: socket.socket, log: IO[bytes]) -> Iterator[str]:
    """Let the server start serving, and make Prefect use it until the block ends."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    _begin(process)
    # While the server starts, load what the block will run.
    import_module("flows.agents")
    _wait_for(url, process, log)
    with temporary_settings({PREFECT_API_URL: url}):
        try:
            yield url
        finally:
            _deliver()


def create_app() -> ASGIApp:
    """Build the server's application, for uvicorn's --factory, once the parent process asks for it.

    This process ends when its parent does, for whatever reason, as that closes the pipe between them.
    """
    from flows import guarded

    if not sys.stdin.readline():
        raise SystemExit(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return guarded.create_app()


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _start(listener: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Serve Prefect's API on a bound socket, in a process that ignores the terminal's Ctrl-C."""
    temporary = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    command = environment.server_command("flows.temporary:create_app")
    return subprocess.Popen(
        [sys.executable, "-m", *command, "--fd", str(listener.fileno())],
        env={**os.environ, **temporary},
        stdin=subprocess.PIPE,
        # Otherwise closing the pipe of a process that has ended would fail, with what is still buffered.
        bufsize=0,
        stdout=log,
        stderr=log,
        pass_fds=(listener.fileno(),),
        start_new_session=True,
    )


def _begin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
    except BrokenPipeError:
        # The server has ended already; `_wait_for` finds out why.
        return


def _wait_for(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    import httpx
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    from flows.server import REMEDY, PrefectServerError

    limit_s = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + limit_s
    with httpx.Client(timeout=_GRACE_S) as client:
        while not _answers(client, url):
            if process.poll() is not None:
                raise PrefectServerError(
                    f"Prefect's server did not start: {_reason(log)}: fix that, {REMEDY}"
                )
            if time.monotonic() > deadline:
                raise PrefectServerError(
                    f"Prefect's server did not start in {limit_s} s: raise "
                    f"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, {REMEDY}"
                )
            time.sleep(_POLL_S)


def _answers(client: httpx.Client, url: str) -> bool:
    import httpx

    try:
        return client.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def _reason(log: IO[bytes]) -> str:
    """The line of the server's log that says why it ended: the last exception, or else the last line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (exceptions or lines or ["it printed nothing"])[-1]


def _deliver() -> None:
    """Send the logs and events that Prefect has buffered, as it sends them in batches."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=_GRACE_S)


def _discard(process: subprocess.Popen[bytes] | None) -> None:
    """End a server that has not begun to serve, at once, as it has nothing to lose."""
    if process is not None:
        process.kill()
        _stop(process)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    assert process.stdin is not None
    # Until it begins to serve, it waits for a line, and uvicorn's signal handlers don't interrupt that.
    process.stdin.close()
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""Runs a command in a process of its own, forked from one that has loaded what commands need.

Loading takes most of the time of a short command. A command gets the environment and the folder that it would
have been started with, and streams that nobody else has. It may be killed.
What tests stop or starve they start anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVING = r"""
import gc, json, os, signal, socket, sys
import aiohttp, asyncpg, numpy, pydantic_settings, rich.markdown, rich.table, typer.rich_utils
import atlas.composition, maia.cycle.agent, maia.logs, maia.youtube.client
import maia.hunter.cycle, maia.learner.cycle, maia.tracker.cycle
from maia import cli

def content_of(file):
    size = os.lseek(file, 0, os.SEEK_END)
    return os.pread(file, size, 0).decode("latin-1")

def run(asked, files, terminals):
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, file in files.items():
        os.dup2(file, stream)
    for terminal in terminals:
        os.dup2(terminal, 0)
        os.dup2(terminal, 1)
        os.close(terminal)
        # Those of this process remember that they can seek.
        sys.stdin = sys.__stdin__ = open(0, closefd=False)
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
    sys.argv = ["maia", *asked["arguments"]]
    cli.main()

def serve(connection):
    asking, terminals, _, _ = socket.recv_fds(connection, 65536, 1)
    while not asking.endswith(b"\n"):
        asking += connection.recv(65536)
    files = {stream: os.memfd_create("captured") for stream in (1, 2)}
    if process := os.fork():
        # Whoever reads from the terminal learns that nobody writes to it any more.
        for terminal in terminals:
            os.close(terminal)
        connection.sendall(b"%d\n" % process)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told = [status, *(content_of(file) for file in files.values())]
        connection.sendall(json.dumps(told).encode())
        connection.close()
        os._exit(0)
    connection.close()
    return json.loads(asking), files, terminals

listener = socket.socket(fileno=int(sys.argv[1]))
for name in cli.COMMANDS:
    cli.load_command(name)
# Otherwise each fork copies most of the memory when it collects garbage.
gc.freeze()
# Who waits for a command is itself waited for by nobody.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    connection, _ = listener.accept()
    if os.fork():
        connection.close()
        continue
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    run(*serve(connection))
    break
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def completed(self) -> subprocess.CompletedProcess[str]:
        """The same as subprocess.run returns it."""
        return subprocess.CompletedProcess("maia", self.status, self.stdout, self.stderr)


class Running:
    """A command under way, with what tests use of asyncio's Process."""

    def __init__(self, pid: int, ended: asyncio.Task[Finished]) -> None:
        self.pid, self._ended = pid, ended

    @property
    def returncode(self) -> int | None:
        return self._ended.result().status if self._ended.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        # It may have ended, but not told so yet.
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def communicate(self) -> tuple[bytes, bytes]:
        finished = await self._ended
        return finished.stdout.encode(), finished.stderr.encode()


class ForkServer:
    """Where commands are run, from the first one on; whoever connects says what, and is told how it ended."""

    def __init__(self) -> None:
        self._serving: subprocess.Popen[bytes] | None = None
        self._path = ""

    async def run(self, *arguments: str, environment: Mapping[str, str]) -> Finished:
        """Run `maia` with these arguments to its end."""
        return await (await self.start(*arguments, environment=environment))._ended

    async def start(self, *arguments: str, environment: Mapping[str, str]) -> Running:
        """Start it, as what may be killed."""
        self._start()
        reader, writer = await asyncio.open_unix_connection(self._path)
        writer.write(_asked(arguments, environment, Path.cwd()))
        pid = int(await reader.readline())

        async def ended() -> Finished:
            try:
                return _finished(await reader.read())
            finally:
                writer.close()

        return Running(pid, asyncio.create_task(ended()))

    def run_and_wait(
        self, *arguments: str, environment: Mapping[str, str], folder: Path | None = None
    ) -> Finished:
        """Run it outside of an event loop."""
        with self._asking(_asked(arguments, environment, folder or Path.cwd())) as connection:
            return _told(connection)

    def on_a_terminal(
        self, *arguments: str, environment: Mapping[str, str], columns: int
    ) -> tuple[Finished, str]:
        """Run it where it reads from a coloured terminal and writes to it: how it ended, and its output."""
        ours, theirs = pty.openpty()
        coloured = {name: value for name, value in environment.items() if name != "NO_COLOR"}
        coloured |= {"COLUMNS": str(columns), "TERM": "xterm-256color"}
        asked = _asked(arguments, coloured, Path.cwd())
        with os.fdopen(ours, "rb", buffering=0) as reader, self._asking(asked, [theirs]) as connection:
            os.close(theirs)
            written = b""
            # That nobody writes to a terminal any more is an error to its reader.
            with suppress(OSError):
                while chunk := reader.read(65536):
                    written += chunk
            return _told(connection), written.decode()

    @contextmanager
    def _asking(self, asked: bytes, terminals: Sequence[int] = ()) -> Iterator[socket.socket]:
        self._start()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            connection.sendall(asked[socket.send_fds(connection, [asked], terminals) :])
            yield connection

    def _start(self) -> None:
        if self._serving is not None:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="pleiades-forks-")
        self._path = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._path)
            listener.listen(64)
            self._serving = subprocess.Popen(
                [sys.executable, "-c", _SERVING, str(listener.fileno())],
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def end(self) -> None:
        """End it, with the commands that still run."""
        if self._serving is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._serving.pid, signal.SIGKILL)
        self._serving.wait()
        self._folder.cleanup()
        self._serving = None


FORKS = ForkServer()
"""That of this process; a fixture ends it."""


def _told(connection: socket.socket) -> Finished:
    with connection.makefile("rb") as told:
        told.readline()
        return _finished(told.read())


def _finished(told: bytes) -> Finished:
    status, *texts = json.loads(told)
    return Finished(status, *(text.encode("latin-1").decode() for text in texts))


def _asked(arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> bytes:
    asked = {"arguments": arguments, "environment": {**environment}, "folder": str(folder)}
    return json.dumps(asked).encode() + b"\n"

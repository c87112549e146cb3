"""Runs a command in a process of its own, forked from one that has loaded what commands need.

Loading takes most of the time of a short command. A command gets the environment and the folder that it would
have been started with, and streams that nobody else has. What tests kill, stop or starve they start anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVING = """
import gc, json, os, signal, socket, sys
import aiohttp, asyncpg, numpy, pydantic_settings, rich.markdown, rich.table, typer.rich_utils
import atlas.composition, maia.cycle.agent, maia.logs, maia.youtube.client
import maia.hunter.cycle, maia.learner.cycle, maia.tracker.cycle
from maia import cli

def content_of(file):
    size = os.lseek(file, 0, os.SEEK_END)
    return os.pread(file, size, 0).decode("latin-1")

def run(asked, files):
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, file in files.items():
        os.dup2(file, stream)
    sys.argv = ["maia", *asked["arguments"]]
    cli.main()

def serve(connection):
    with connection.makefile("r") as asking:
        asked = json.loads(asking.readline())
    files = {stream: os.memfd_create("captured") for stream in (1, 2)}
    if process := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told = [status, *(content_of(file) for file in files.values())]
        connection.sendall(json.dumps(told).encode())
        connection.close()
        os._exit(0)
    connection.close()
    return asked, files

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


class ForkServer:
    """Where commands are run, from the first one on; whoever connects says what, and is told how it ended."""

    def __init__(self) -> None:
        self._serving: subprocess.Popen[bytes] | None = None
        self._path = ""

    async def run(self, *arguments: str, environment: Mapping[str, str]) -> Finished:
        """Run `maia` with these arguments to its end."""
        self._start()
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(_asked(arguments, environment, Path.cwd()))
            await writer.drain()
            return _finished(await reader.read())
        finally:
            writer.close()

    def run_and_wait(
        self, *arguments: str, environment: Mapping[str, str], folder: Path | None = None
    ) -> Finished:
        """The same outside of an event loop."""
        self._start()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            connection.sendall(_asked(arguments, environment, folder or Path.cwd()))
            with connection.makefile("rb") as told:
                return _finished(told.read())

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


def _finished(told: bytes) -> Finished:
    status, *texts = json.loads(told)
    return Finished(status, *(text.encode("latin-1").decode() for text in texts))


def _asked(arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> bytes:
    asked = {"arguments": arguments, "environment": {**environment}, "folder": str(folder)}
    return json.dumps(asked).encode() + b"\n"

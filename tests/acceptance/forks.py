"""Runs many commands, each in a process of its own.

They are forks of one Python that has loaded every command, since loading takes most of the time of one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STDOUT, STDERR = 1, 2
_FORKING = """
import fcntl, gc, json, os, sys
# What most commands load only when they run.
import atlas.composition, maia.cycle.agent, maia.logs, rich.markdown, rich.table, typer.rich_utils
from maia import cli

def captured():
    # The first free descriptors may be those of closed streams, which are to stay closed.
    return fcntl.fcntl(os.memfd_create("captured"), fcntl.F_DUPFD_CLOEXEC, 10)

def content_of(file):
    size = os.lseek(file, 0, os.SEEK_END)
    return os.pread(file, size, 0).decode("latin-1")

def fork(arguments):
    files = {stream: captured() for stream in streams}
    if process := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        ended.append([status, *(content_of(files[s]) if s in files else "" for s in (1, 2))])
        for file in files.values():
            os.close(file)
        return False
    for stream, file in files.items():
        os.dup2(file, stream)
    return True

report, streams, commands = map(json.loads, sys.argv[1:])
for name in cli.COMMANDS:
    cli.load_command(name)
# Otherwise each fork copies most of the memory when it collects garbage.
gc.freeze()
ended = []
for arguments in commands:
    if fork(arguments):
        cli.main(arguments)
with open(report, "w") as file:
    json.dump(ended, file)
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ended, and what it wrote to the streams that were captured."""

    status: int
    stdout: bytes
    stderr: bytes


def run_each(
    environment: Mapping[str, str],
    commands: Iterable[Sequence[str]],
    *,
    captured: Sequence[int] = (STDOUT, STDERR),
    launcher: Sequence[str] = (),
    cwd: Path | str | None = None,
    timeout_s: float = 100,
    **streams: Any,
) -> dict[str, Ended]:
    """How each command ended, by its words.

    `streams` are Popen's options for the streams that aren't captured; `launcher` runs the words after it.
    """
    wanted = [[*command] for command in commands]
    with tempfile.TemporaryFile() as report:
        given = report.fileno(), [*captured], wanted
        forking = subprocess.Popen(
            [*launcher, sys.executable, "-c", _FORKING, *map(json.dumps, given)],
            env={**environment}, cwd=cwd, pass_fds=[report.fileno()], start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": None} | streams,
        )  # fmt: skip
        try:
            assert forking.wait(timeout_s) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(forking.pid, signal.SIGKILL)
            forking.wait()
        report.seek(0)
        told = json.load(report)
    return {
        " ".join(command): Ended(status, *(text.encode("latin-1") for text in texts))
        for command, (status, *texts) in zip(wanted, told, strict=True)
    }

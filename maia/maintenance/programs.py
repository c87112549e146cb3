"""Runs a program by its arguments until its end, with a time-out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from maia.errors import MaiaError

if TYPE_CHECKING:
    from atlas.cluster import SystemUser

_OURS: Final = ("PLEIADES_", "DATABASE_URL", "YOUTUBE_API_KEY", "HF_TOKEN", "REDIS_URL")
_PYTHONS: Final = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
_POLL_S: Final = 0.1
_MOST_BYTES: Final = 1 << 24
_SHOWN_LINES: Final = 10
_SHOWN_CHARACTERS: Final = 1_000
_LINES_OF_REASON: Final = 3


class ProgramFailed(MaiaError):
    """A program can't be started, ended with an error, or took too long."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended, and what it wrote."""

    status: int
    out: str
    err: str
    program: str = "the program"

    def check(self) -> Finished:
        """The same; ProgramFailed if it ended with an error."""
        if self.status:
            how = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
            raise ProgramFailed(f"{self.program} ended with {how}: {self.last_words}")
        return self

    @property
    def last_words(self) -> str:
        """The last lines that it wrote, its errors last: they usually say what is wrong."""
        out = [] if self.err.count("\n") >= _SHOWN_LINES else self.out.splitlines()
        lines = [line for line in [*out, *self.err.splitlines()] if line.strip()]
        return "\n".join(lines[-_SHOWN_LINES:])[-_SHOWN_CHARACTERS:] or "it wrote nothing"

    @property
    def reason(self) -> str:
        """The last of them on one line."""
        lines = [line for line in (*self.out.splitlines(), *self.err.splitlines()) if line.strip()]
        return " / ".join(lines[-_LINES_OF_REASON:]) or f"status {self.status}"


def plain_environment(*, with_settings: bool = False) -> dict[str, str]:
    """This process's environment for another program: in plain English, and for another Python.

    Our settings, which contain secrets, are only in it if they are asked for.
    """
    hidden = _PYTHONS if with_settings else (*_PYTHONS, *_OURS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    kept = {name: value for name, value in kept.items() if name != "LANGUAGE" and not name.startswith("LC_")}
    # Python reads and writes UTF-8 under C too.
    return kept | {"LANG": "C", "LC_ALL": "C"}


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    text: str = "",
    pass_fds: Sequence[int] = (),
    folder: str | None = None,
    account: SystemUser | None = None,
    ends_all: bool = True,
) -> Finished:
    """Run a program with `text` as its input; ProgramFailed if it can't start or takes too long.

    It is killed at the time-out and if we are cancelled. With `ends_all` it leads a session of its own, of
    which nothing is left when it has ended; other programs may leave something behind, such as a container.
    With `account`, root runs it as that user.
    """
    become: dict[str, Any] = (
        {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
    )
    with _memory_file() as given, _memory_file() as out, _memory_file() as err:
        given.write(text.encode())
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=given,
                stdout=out,
                stderr=err,
                env=dict(plain_environment() if environment is None else environment),
                start_new_session=ends_all,
                pass_fds=tuple(pass_fds),
                cwd=folder,
                **become,
            )
        except OSError as error:
            raise ProgramFailed(f"{argv[0]} can't be started: {error.strerror}") from error
        status = await _end_of(process, argv, timeout_s, ends_all=ends_all)
        return Finished(status, _written(out), _written(err), argv[0])


async def _end_of(
    process: asyncio.subprocess.Process, argv: Sequence[str], timeout_s: float, *, ends_all: bool
) -> int:
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    except TimeoutError as error:
        raise ProgramFailed(f"{argv[0]} took more than {timeout_s:g} s") from error
    finally:
        with suppress(ProcessLookupError, PermissionError):
            if ends_all:
                os.killpg(process.pid, signal.SIGKILL)
            elif process.returncode is None:
                process.kill()
        await process.wait()


async def run_to_its_end(
    argv: Sequence[str], *, timeout_s: float, environment: Mapping[str, str]
) -> Finished:
    """Run a program that must not be killed half-way: after the time-out, or if we end, it goes on alone.

    So it is no subprocess of asyncio, which kills those that it forgets, and it writes to files, not pipes.
    """
    with _memory_file() as out, _memory_file() as err:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
        ]
        try:
            pid = os.posix_spawnp(  # noqa: ASYNC221 - it only starts it
                argv[0], tuple(argv), environment, file_actions=actions, setsid=True
            )
        except OSError as error:
            raise ProgramFailed(f"{argv[0]} can't be started: {error.strerror}") from error
        deadline_s = time.monotonic() + timeout_s
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:  # noqa: ASYNC222 - it does not block
            if time.monotonic() > deadline_s:
                raise ProgramFailed(f"{argv[0]} took more than {timeout_s:g} s, and goes on by itself")
            await asyncio.sleep(_POLL_S)
        status = os.waitstatus_to_exitcode(ended[1])
        return Finished(status, _written(out), _written(err), argv[0])


def _memory_file() -> IO[bytes]:
    """A file in memory, as programs must also run while no disk has any room: they may be what makes some."""
    return os.fdopen(os.memfd_create("pleiades-program"), "w+b")


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST_BYTES).decode(errors="replace")

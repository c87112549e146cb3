#!/usr/bin/python3 -IS
"""Runs, as root, a verb that root allows: `pleiades-privileged VERB`, started by the unit of that name.

It stands alone, as root must not run what others may write: `maia daemon install --system` copies this file
to /usr/local/libexec. Which verbs there are, and their commands, is in a file that only root may write.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ALLOWED = Path("/etc/pleiades/privileged")
VERB = re.compile(r"[a-z][a-z0-9.@_-]{0,100}")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
}

REFUSED, CONFIGURATION = 77, 78


class Refused(Exception):
    """The verb is not carried out."""

    status = REFUSED


class Unsafe(Refused):
    """A file that decides what root does could be written by others."""

    status = CONFIGURATION


class Malformed(Refused):
    """The list of verbs can't be read."""

    status = CONFIGURATION


def main(arguments: Sequence[str], allowed: Path = ALLOWED, owner: int = 0) -> int:
    """Run the verb's commands in order until one fails; returns the exit status."""
    try:
        [verb] = arguments
        commands = commands_of(verb, allowed, owner)
    except ValueError:
        print("pleiades-privileged: give one verb", file=sys.stderr)  # noqa: T201
        return 2
    except Refused as refused:
        print(f"pleiades-privileged: {refused}", file=sys.stderr)  # noqa: T201
        return refused.status
    for command in commands:
        print(f"pleiades-privileged: {' '.join(command)}", file=sys.stderr)  # noqa: T201
        status = subprocess.run(
            command, cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False
        ).returncode
        if status:
            return status if status > 0 else 128 - status
    return 0


def commands_of(verb: str, allowed: Path = ALLOWED, owner: int = 0) -> list[list[str]]:
    """The commands of a verb; Refused if it has none, or if anybody but the owner could have written them."""
    if not VERB.fullmatch(verb):
        raise Refused(f"{verb!r} is no verb")
    found = [command for named, command in _lines(_safe_text(allowed, owner), allowed) if named == verb]
    if not found:
        raise Refused(f"{verb} is not among the verbs of {allowed}")
    for command in found:
        check_ownership(Path(command[0]), owner)
    return found


def _lines(text: str, allowed: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        verb, *command = words
        if not VERB.fullmatch(verb) or not command or not command[0].startswith("/"):
            raise Malformed(f"{allowed}, line {number}: write a verb, and the full path of a program")
        yield verb, command


def _safe_text(path: Path, owner: int) -> str:
    check_ownership(path, owner)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"{path} can't be read: {error}") from None


def check_ownership(path: Path, owner: int = 0) -> None:
    """Raise Unsafe if somebody besides the owner could change the file, or put another in its place."""
    try:
        real = path.resolve(strict=True)
        if not real.is_file():
            raise Unsafe(f"{path} is no file")
        # A link's own folder counts too: who writes there decides where it leads.
        for each in (real, *real.parents, *path.parents):
            status = each.stat()
            others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            # In a folder such as /tmp, others can't replace what is not theirs.
            shared = each != real and status.st_mode & stat.S_ISVTX
            if status.st_uid not in (0, owner) or (others_write and not shared):
                raise Unsafe(f"{each} must belong to root, and nobody else may write it (chmod go-w {each})")
    except OSError as error:
        raise Unsafe(f"{path} can't be found: {error.strerror}") from None


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))

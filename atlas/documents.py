"""Read files from outside within size limits, so that none can exhaust the memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO


class DocumentError(ValueError):
    """A file can't be read; the message says where and why, and never quotes its content."""


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a whole file; DocumentError if it can't be read or is larger than `max_bytes`."""
    try:
        with path.open("rb") as file:
            return read_bounded(file, max_bytes, str(path))
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror or error}") from error


def read_bounded(file: BinaryIO, max_bytes: int, name: str) -> bytes:
    """Read the rest of an open file, which may be a pipe or an endless device."""
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DocumentError(f"{name} is larger than {max_bytes:,} bytes, the limit")
    return content


def decode(content: bytes, name: str) -> str:
    """Decode UTF-8 text, with or without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"{name} is not UTF-8 text: line {line}") from error


def bounded_lines(text: TextIO, max_characters: int, name: str) -> Iterator[str]:
    """Yield the lines of a text; DocumentError at one longer than `max_characters`."""
    number = 0
    while line := text.readline(max_characters):
        number += 1
        if len(line) == max_characters and not line.endswith("\n"):
            raise DocumentError(f"{name} has more than {max_characters:,} characters in line {number}")
        yield line


def check_text_encoding(name: str) -> None:
    """Raise DocumentError unless the name is a text encoding's."""
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError) as error:
        raise DocumentError(
            f"there is no encoding {name!r}: use for example utf-8, cp1252 or shift_jis"
        ) from error
    # Python's own test: codecs such as rot13 and base64 do not turn bytes into text.
    if not getattr(codec, "_is_text_encoding", True):
        raise DocumentError(f"{name!r} is not a text encoding: use for example utf-8, cp1252 or shift_jis")

"""Makes stdout and stderr safe to print to, even if they are closed, full, or lack a character."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from typing import Any, Final, TextIO

_STDOUT, _STDERR = 1, 2
_STAND_INS: Final = "maia.stand_ins"
# One character for one character, so that columns stay aligned.
_ASCII: Final = str.maketrans(
    {
        "–": "-", "—": "-", "−": "-", "…": ".", "‘": "'", "’": "'", "“": '"', "”": '"',
        "·": ".", "×": "x", "½": "?", "≤": "<", "≥": ">", "→": ">", "✓": "+", "✗": "x", "▲": "^",
        "│": "|", "┤": "|", "└": "+", "┬": "+", "─": "-", "━": "-", "╸": "-", "╺": "-",
        "▁": "_", "▂": ".", "▃": ":", "▄": "-", "▅": "=", "▆": "+", "▇": "*", "█": "#",
    }
    | {chr(dots): "*" for dots in range(0x2801, 0x2900)}
    | {"\u2800": " "}
)  # fmt: skip


class _Output(io.TextIOWrapper):
    """Standard output: exits quietly if its reader has gone, and with a message if it is full."""

    has_text = False

    def write(self, text: str) -> int:
        self.has_text = True
        try:
            return super().write(text)
        except OSError as error:
            raise _ending(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _ending(error) from None


class _ErrorOutput(io.TextIOWrapper):
    """Standard error: if it can't be written to, messages are dropped and the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            _discard_from_now_on(_STDERR)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _discard_from_now_on(_STDERR)


def prepare() -> None:
    """Make this process's stdout and stderr safe to print to; replaced streams stay as they are."""
    _open_closed_streams()
    codecs.register_error(_STAND_INS, _stand_in)
    sys.stdout = _wrap(sys.stdout, _STDOUT, _Output)
    sys.stderr = _wrap(sys.stderr, _STDERR, _ErrorOutput)


def has_printed() -> bool:
    """Whether text went to standard output, as far as that is known."""
    return getattr(sys.stdout, "has_text", False)


def write_bytes(data: bytes) -> None:
    """Write data to standard output as it is, whatever the stream's encoding."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(data.decode())
        return
    try:
        buffer.write(data)
        buffer.flush()
    except OSError as error:
        raise _ending(error) from None


def flush() -> None:
    """Write out what standard output has buffered, while an error can still be reported."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _open_closed_streams() -> None:
    """Open closed descriptors on /dev/null; otherwise the next file or socket would become stdout."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - all three stay open
    if sys.stdout is None:
        sys.stdout = _Output(open(_STDOUT, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = _ErrorOutput(open(_STDERR, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115


def _wrap(stream: TextIO, descriptor: int, kind: type[io.TextIOWrapper]) -> Any:
    if type(stream) is not io.TextIOWrapper or stream.fileno() != descriptor:
        return stream
    return kind(
        stream.buffer,
        encoding=stream.encoding,
        errors=_STAND_INS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _ending(error: OSError) -> SystemExit:
    """How to exit when stdout can't be written to: with success if its reader has gone, as `head` does."""
    _discard_from_now_on(_STDOUT)
    if error.errno == errno.EPIPE:
        return SystemExit(0)
    return SystemExit(f"cannot write to standard output: {error.strerror or error}")


def _discard_from_now_on(descriptor: int) -> None:
    """Send everything to /dev/null, also what is buffered, of which Python would complain at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_ascii_for, text)), error.end


def _ascii_for(character: str) -> str:
    if (stand_in := character.translate(_ASCII)) != character:
        return stand_in
    if unicodedata.combining(character):
        return ""
    return "??" if unicodedata.east_asian_width(character) in "WF" else "?"

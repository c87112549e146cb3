"""Words for sizes, time spans and foreign texts, the same in every message of the maintainer."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

_MOST_SHOWN: Final = 300
"""Characters of a foreign text that a message repeats."""
_SIZES: Final = ("B", "KiB", "MiB", "GiB")
_SPANS: Final = ((72 * 3600, 86_400, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"))


def size_text(size_bytes: float) -> str:
    """A size in the unit that makes it readable, such as 1.5 KiB or 64 MiB."""
    for unit in _SIZES:
        if size_bytes < 1024:
            return f"{_short(size_bytes)} {unit}"
        size_bytes /= 1024
    return f"{_short(size_bytes)} TiB"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")


def span_text(length: timedelta | float) -> str:
    """A time span, given as such or in seconds, in the unit that makes it readable, such as 90 s or 71 h."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    for least_s, unit_s, unit in _SPANS:
        if seconds >= least_s:
            return f"{seconds / unit_s:,.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def quoted(text: str) -> str:
    """A foreign name in quotes."""
    return f"{shortened(text, 60)!r}"


def shortened(text: str, most: int = _MOST_SHOWN) -> str:
    """A foreign text in one line, of limited length."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"

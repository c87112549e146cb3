"""Words for counts, the same in every page, answer, message and line of the log."""

from __future__ import annotations


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """A number with its noun, and what agrees with it: "1 row", "2 rows", "1 row waits", "2 rows wait"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,.10g}"
    return f"{shown} {singular if number == 1 else plural or f'{singular}s'}"

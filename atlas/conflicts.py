"""Transactions that conflict with others are tried again.

Single statements, which are transactions too, `Database` repeats by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from atlas.errors import TransactionConflict

if TYPE_CHECKING:
    import stamina

_TRIES: Final = 4


def retry_conflicts() -> AsyncIterator[stamina.Attempt]:
    """Attempts at a transaction; each is a context manager, and conflicts end all but the last quietly."""
    import stamina

    return stamina.retry_context(
        on=TransactionConflict, attempts=_TRIES, wait_initial=0.05, wait_max=0.5
    ).__aiter__()

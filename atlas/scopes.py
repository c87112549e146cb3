"""What the keys of the HTTP service permit; apart from their storage, so that help needs no database."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a key permits; each scope permits what the ones before it do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def permits(self, wanted: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(wanted)

"""Atlas: the storage and services that Pleiades' agents share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas import events, notifier, vault
    from atlas.composition import Atlas, current

__all__ = ["Atlas", "current", "events", "notifier", "vault"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a process loads only what it needs."""
    from importlib import import_module

    if name in {"Atlas", "current"}:
        return getattr(import_module("atlas.composition"), name)
    if name in {"events", "notifier", "vault"}:
        return import_module(f"atlas.{name}")
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")

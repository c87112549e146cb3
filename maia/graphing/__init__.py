"""Keeping the knowledge graph: feeding it, what is derived of it, attention, and copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maia.graphing.graph import Graph, GraphAtom

__all__ = ["Graph", "GraphAtom"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a process loads only what it needs."""
    if name in __all__:
        from maia.graphing import graph

        return getattr(graph, name)
    raise AttributeError(f"module 'maia.graphing' has no attribute {name!r}")

"""The knowledge graph's settings."""

from __future__ import annotations

from pydantic import Field

from atlas.setting_types import Group


class GraphSettings(Group):
    """The knowledge graph: its copies and size, and whether attention steers the hunter."""

    snapshot_interval_h: float = Field(
        default=24,
        ge=0,
        le=8760,
        description="Hours between snapshots of the graph to the vault; 0 for none.",
    )
    snapshots_kept: int = Field(
        default=7,
        ge=1,
        le=1000,
        description="How many of the latest snapshots to keep: files in a folder, and full ones with their "
        "increments in the vault.",
    )
    cache_mb: int = Field(
        default=4096,
        ge=0,
        le=1_048_576,
        description="Largest copy of the graph's arrays in the data folder, in MB; 0 for none.",
    )
    steer: bool = Field(
        default=False,
        description="Whether topics that get attention in the graph move up in the hunter's choice.",
    )
    max_atoms: int = Field(
        default=2_000_000,
        ge=1_000,
        le=2_000_000_000,
        description="Most atoms to keep; above it, rare tags and topics that got the least attention leave "
        "first.",
    )

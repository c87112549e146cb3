"""The knowledge graph's settings."""

from __future__ import annotations

from pydantic import Field

from atlas.setting_types import Group


class GraphSettings(Group):
    """The knowledge graph: what it takes over and derives, its copies and size, and what it steers."""

    enabled: bool = Field(default=True, description="Let the learner feed the graph.")
    derive_interval_h: float = Field(
        default=6,
        ge=0,
        le=8760,
        description="Least hours between two times that links are derived; four times as many if less than "
        "a hundredth of the graph has changed.",
    )
    derive_after: int = Field(
        default=100, ge=1, description="Facts that must have changed before links are derived again."
    )
    links_per_atom: int = Field(
        default=20, ge=1, le=1000, description="Most derived links of a type that an atom begins."
    )
    similar_per_atom: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Most links to the atoms of its type that are most like an atom.",
    )
    similar_atoms: int = Field(
        default=50_000,
        ge=0,
        le=10_000_000,
        description="Most atoms of a type, those with the most links, that begin links to what is most like "
        "them. Of all others it is told all the same, but no query finds it.",
    )
    learn_embeddings_days: float = Field(
        default=7,
        ge=0,
        le=365,
        description="Days after which it is learnt anew what makes atoms alike; earlier if there are half as "
        "many videos more.",
    )
    outbox_days: float = Field(
        default=30,
        ge=1,
        le=3650,
        description="Days after which changes that nobody took over are dropped: then the graph is rebuilt.",
    )
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

"""The federation view: this site, the others, what was exchanged with each, and what was refused why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from maia.federation.http import place_of, urls_of
from maia.federation.site import SEEN_WITHIN, THROUGH_REDIS

if TYPE_CHECKING:
    from atlas.adapters.federation import FederationDAO, Peer
    from atlas.composition import Atlas


@dataclass(frozen=True, slots=True)
class RefusalsOf:
    """How many messages were refused for a reason, and what was told about the last one."""

    reason: str
    count: int
    last_at: datetime
    last_told: str


@dataclass(frozen=True, slots=True)
class FailedExchange:
    """Why the last exchange that this site began at a place failed."""

    place: str
    failed_at: datetime
    told: str


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Another site. `place` is where it is called, null if it calls or is only told of by others.

    `heard_at` is when it last sent a message that was accepted, `seen_at` when anybody last heard it, and
    `lag_s` how many seconds ago it was heard. `changed` of the `records_in` told anything new.
    """

    node: str
    role: str
    place: str | None
    seen_at: datetime
    heard_at: datetime | None
    lag_s: float | None
    left_at: datetime | None
    compared_at: datetime | None
    messages_in: int
    messages_out: int
    records_in: int
    records_out: int
    changed: int
    bytes_in: int
    bytes_out: int
    isolated_until: datetime | None
    positions: Mapping[str, str]
    """How far its feeds and streams were read, and how far it has read ours: by name, as opaque texts."""
    refused: tuple[RefusalsOf, ...]
    failed: tuple[FailedExchange, ...]
    """Empty as soon as one succeeds."""


@dataclass(frozen=True, slots=True)
class FederationStatus:
    """This site and its cluster. `sites` counts this one, and those that anybody saw within 30 days."""

    site: str
    cluster: str
    role: str
    enabled: bool
    has_token: bool
    conflicts: str
    sync_interval_s: float
    sites: int
    calls: tuple[str, ...]
    """Hosts and ports of the peers that the settings name."""
    peers: tuple[PeerStatus, ...]
    refused: tuple[RefusalsOf, ...]
    """Messages whose sender is not known, such as those without the token."""
    failed: tuple[FailedExchange, ...]
    """Exchanges at places where no site has ever answered."""


async def status(atlas: Atlas) -> FederationStatus:
    """What this site exchanges, with whom, and how that goes."""
    dao, settings = _dao(atlas), atlas.settings.federation
    peers, calls = await dao.peers(), tuple(place_of(url) for url in urls_of(settings))
    refused: defaultdict[str, list[RefusalsOf]] = defaultdict(list)
    for each in await dao.refusals():
        refused[each.node].append(RefusalsOf(each.reason, each.count, each.last_at, each.last_told))
    failed: defaultdict[str, list[FailedExchange]] = defaultdict(list)
    for failure in await dao.failures():
        # Others were called before the settings changed.
        if failure.place in calls or (atlas.settings.redis_url and failure.place.startswith(THROUGH_REDIS)):
            node = failure.node if any(peer.node == failure.node for peer in peers) else ""
            failed[node].append(FailedExchange(failure.place, failure.failed_at, failure.told))
    positions = {peer.node: await dao.positions(peer.node) for peer in peers}
    return FederationStatus(
        site=await dao.own_node(),
        cluster=settings.cluster_name,
        role=settings.node_type,
        enabled=settings.enabled,
        has_token=settings.token is not None,
        conflicts=settings.conflicts,
        sync_interval_s=settings.sync_interval_s,
        sites=await count_sites(atlas),
        calls=calls,
        peers=tuple(
            _peer(peer, atlas.clock.now(), positions[peer.node], refused[peer.node], failed[peer.node])
            for peer in peers
        ),
        refused=tuple(refused[""]),
        failed=tuple(failed[""]),
    )


async def count_sites(atlas: Atlas) -> int:
    """How many sites there are, this one included: those that anybody saw within 30 days."""
    return await _dao(atlas).count_sites(atlas.clock.now() - SEEN_WITHIN)


def _peer(
    peer: Peer,
    now: datetime,
    positions: Mapping[str, str],
    refused: Sequence[RefusalsOf],
    failed: Sequence[FailedExchange],
) -> PeerStatus:
    return PeerStatus(
        node=peer.node,
        role=peer.role,
        place=peer.place,
        seen_at=peer.seen_at,
        heard_at=peer.heard_at,
        lag_s=None if peer.heard_at is None else max(0.0, (now - peer.heard_at).total_seconds()),
        left_at=peer.left_at if peer.left_at is not None and peer.left_at >= peer.seen_at else None,
        compared_at=peer.compared_at,
        messages_in=peer.messages_in,
        messages_out=peer.messages_out,
        records_in=peer.records_in,
        records_out=peer.records_out,
        changed=peer.changed,
        bytes_in=peer.bytes_in,
        bytes_out=peer.bytes_out,
        isolated_until=(
            peer.isolated_until if peer.isolated_until is not None and peer.isolated_until > now else None
        ),
        positions=positions,
        refused=tuple(refused),
        failed=tuple(failed),
    )


def _dao(atlas: Atlas) -> FederationDAO:
    from atlas.adapters.federation import FederationDAO

    return FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

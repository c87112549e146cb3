"""Checks before anything is started: keys, ports, disk space and the clock."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from atlas import paths
from atlas.errors import ConfigError
from maia.errors import MaiaError

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.config import RingName, Settings

TOO_LITTLE_DISK_BYTES = 200 * 1024**2
LARGEST_CLOCK_SKEW = timedelta(minutes=2)
"""How far the machine's clock may be from the database's."""


class PortInUse(MaiaError):
    """Another program listens on a port that we need."""


class DiskFull(MaiaError):
    """There is too little disk space to start."""


def check_keys(settings: Settings, rings: Iterable[RingName]) -> None:
    """ConfigError if one of these rings has no key, as its agent would fail in every run."""
    keyless = sorted(ring for ring in set(rings) if not settings.key_pool[ring])
    if keyless:
        raise ConfigError(
            f"there is no API key for {' and '.join(keyless)}: set YOUTUBE_API_KEY_POOL_JSON to your key, "
            "or try everything without one: maia up --demo"
        )


def check_federation(settings: Settings) -> None:
    """ConfigError if this site could not exchange with any other."""
    federation = settings.federation
    if federation.token is None:
        raise ConfigError(
            "there is no token for the exchange with other sites: set PLEIADES_FEDERATION__TOKEN, 16 or more "
            "characters, to the same at each site, or leave --federate out"
        )
    calls_somebody = federation.coordinator_url or federation.peers or settings.redis_url
    if not calls_somebody and federation.node_type == "learner":
        raise ConfigError(
            "this site has nobody to exchange with: set PLEIADES_FEDERATION__COORDINATOR_URL or __PEERS, or "
            "PLEIADES_FEDERATION__NODE_TYPE=coordinator if the others call this one"
        )


def check_ports(settings: Settings) -> None:
    """PortInUse if the service, Prefect's server or the metrics could not listen."""
    ports = {
        "PORT": settings.port,
        "PLEIADES_PREFECT__PORT": settings.prefect.port,
        "PLEIADES_METRICS__PORT": settings.metrics.port,
    }
    for port in set(ports.values()) - {0}:
        names = [name for name, each in ports.items() if each == port]
        if len(names) > 1:
            raise PortInUse(f"{' and '.join(names)} are the same, {port}: set one to another port")
    unusable = [
        f"{settings.host}:{port} ({name}): {reason}"
        for name, port in ports.items()
        if (reason := _why_unusable(settings.host, port))
    ]
    if unusable:
        raise PortInUse(f"{'; '.join(unusable)}: stop the program that listens there, or set another port")


def check_disk(settings: Settings) -> None:
    """DiskFull if there is too little space for the embedded server; other servers have other disks."""
    if settings.database_url is not None:
        return
    folder, free = free_space(settings)
    if free < TOO_LITTLE_DISK_BYTES:
        raise DiskFull(
            f"only {free // 1024**2} MiB are free in {folder}: free some space, or set PLEIADES_DATA_DIR to "
            "a folder with more"
        )


def free_space(settings: Settings) -> tuple[Path, int]:
    """The data folder, and the free bytes of its file system; OSError if they can't be read."""
    folder = settings.data_folder
    return folder, shutil.disk_usage(paths.nearest(folder)).free


def _why_unusable(host: str, port: int) -> str | None:
    """Why we can't listen there now; None if we can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None

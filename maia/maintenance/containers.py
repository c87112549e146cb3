"""The limits of the container that this process runs in, and what it uses of them (cgroup v2 and v1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ENGINES: Final = re.compile(r"docker|kubepods|containerd|libpod|lxc|garden")
_MARKS: Final = (".dockerenv", "run/.containerenv")
_UNLIMITED_BYTES: Final = 1 << 60
"""Version 1 writes "no limit" as a number near the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUse:
    """What a container may use and does use; None where there is no limit, or no figure.

    The memory used leaves out cached files, which the kernel drops before it runs out. `cpu_s` is the
    processor time used so far.
    """

    memory_limit_bytes: int | None = None
    memory_used_bytes: int | None = None
    cpus: float | None = None
    cpu_s: float | None = None


def is_container(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether this process runs in a container."""
    if environment.get("container") or "KUBERNETES_SERVICE_HOST" in environment:
        return True
    if any(_exists(root / mark) for mark in _MARKS):
        return True
    return bool(_ENGINES.search(_text(root / "proc/self/cgroup") or ""))


def container_use(root: Path = Path("/")) -> ContainerUse:
    """The limits that apply to this process, of its group and those around it, and what that group uses."""
    mounted = root / "sys/fs/cgroup"
    paths = _paths(root / "proc/self/cgroup")
    if _exists(mounted / "cgroup.controllers"):
        return _version_2(mounted, paths.get("", "/"))
    return _version_1(mounted, paths)


def _version_2(mounted: Path, path: str) -> ContainerUse:
    limits = [
        (limit, folder)
        for folder in _upwards(mounted, path)
        if (limit := _number(folder / "memory.max")) is not None
    ]
    limit, holder = min(limits, default=(None, None), key=lambda each: each[0])
    quotas = [cpus for folder in _upwards(mounted, path) if (cpus := _quota_2(folder)) is not None]
    used = None if holder is None else _less_cache(holder, "memory.current", "inactive_file")
    busy_us = _statistic(_group(mounted, path) / "cpu.stat", "usage_usec") if quotas else None
    return ContainerUse(
        memory_limit_bytes=limit,
        memory_used_bytes=used,
        cpus=min(quotas, default=None),
        cpu_s=None if busy_us is None else busy_us / 1e6,
    )


def _version_1(mounted: Path, paths: Mapping[str, str]) -> ContainerUse:
    memory = _group(mounted / "memory", paths.get("memory", "/"))
    cpu = _group(mounted / "cpu", paths.get("cpu", "/"))
    limit = _number(memory / "memory.limit_in_bytes")
    if limit is not None and limit >= _UNLIMITED_BYTES:
        limit = None
    quota_us, period_us = _number(cpu / "cpu.cfs_quota_us"), _number(cpu / "cpu.cfs_period_us")
    cpus = quota_us / period_us if quota_us is not None and period_us and quota_us > 0 else None
    busy = _group(mounted / "cpuacct", paths.get("cpuacct", "/")) / "cpuacct.usage"
    busy_ns = None if cpus is None else _number(busy)
    return ContainerUse(
        memory_limit_bytes=limit,
        memory_used_bytes=None
        if limit is None
        else _less_cache(memory, "memory.usage_in_bytes", "total_inactive_file"),
        cpus=cpus,
        cpu_s=None if busy_ns is None else busy_ns / 1e9,
    )


def _paths(file: Path) -> dict[str, str]:
    """The path of this process's group by controller; version 2 has one path, by the empty name."""
    paths: dict[str, str] = {}
    for line in (_text(file) or "").splitlines():
        _, _, named = line.partition(":")
        controllers, separator, path = named.partition(":")
        if separator:
            paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _group(mounted: Path, path: str) -> Path:
    """The folder of a group; without a namespace of its own, a container sees itself at the root instead."""
    folder = mounted / path.lstrip("/")
    return folder if _exists(folder) and ".." not in folder.parts else mounted


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of those around it."""
    folder = _group(mounted, path)
    yield folder
    while folder != mounted:
        folder = folder.parent
        yield folder


def _quota_2(folder: Path) -> float | None:
    quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
    if not (quota.isdecimal() and period.strip().isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


def _less_cache(folder: Path, total: str, cached: str) -> int | None:
    used = _number(folder / total)
    return None if used is None else max(used - (_statistic(folder / "memory.stat", cached) or 0), 0)


def _statistic(file: Path, name: str) -> int | None:
    """A figure of a file with a name and a number in each line."""
    for line in (_text(file) or "").splitlines():
        found, _, value = line.partition(" ")
        if found == name and value.strip().isdecimal():
            return int(value)
    return None


def _number(file: Path) -> int | None:
    text = (_text(file) or "").strip()
    return int(text) if text.removeprefix("-").isdecimal() else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text("ascii", errors="replace")
    except OSError:
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False

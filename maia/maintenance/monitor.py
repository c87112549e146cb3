"""The monitor: samples what this host is doing, and judges whether it is under pressure.

A program is known by its name alone: no arguments, no paths, no users.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil

from atlas.adapters.telemetry import HostSample, ProcessLoad, TelemetryDAO
from atlas.clock import Clock
from atlas.composition import Atlas
from atlas.errors import AtlasError, DatabaseError
from atlas.usage import attempt
from maia.maintenance.containers import ContainerUse, container_use, is_container

__all__ = [
    "HostPressure", "HostSample", "Monitor", "PressureLimits", "keep_sampling", "monitored_cycle", "pressure",
]  # fmt: skip

logger = logging.getLogger(__name__)

BUSIEST: Final = 5
"""How many programs a sample names."""

STORE_TIMEOUT_S: Final = 2.0
"""Longest time that a cycle waits for its sample to be stored."""

_LONGEST_NAME: Final = 15
_LOOPBACK: Final = frozenset({"lo", "lo0"})
_NOT_TOLD: Final = (
    psutil.Error, OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError,
)  # fmt: skip
"""What psutil raises where /proc is hidden, or is not as it expects."""
_LEAST_CPU_PERCENT: Final = 0.5
_LEAST_SPAN_S: Final = 0.05
"""Counters move in ticks of 10 ms, so that rates over less would be noise."""

T = TypeVar("T")


# Counters, and the rates between two readings of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What only ever grows, read at one moment of a steady clock; None where the host has no such counter."""

    at_s: float
    cpu_busy_s: float | None = None
    cpus: float = 1.0
    received_bytes: int | None = None
    sent_bytes: int | None = None
    received_packets: int | None = None
    sent_packets: int | None = None
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    programs: Mapping[int, Program] | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A process: its name, when it began, the processor time that it used, and its resident memory."""

    name: str
    began_s: float
    cpu_s: float
    rss_bytes: int


def rates(before: Counters | None, after: Counters) -> dict[str, Any]:
    """The figures of a sample that are means over the time between two readings; none without that time."""
    if before is None or (span_s := after.at_s - before.at_s) < _LEAST_SPAN_S:
        return {}

    def rate(name: str) -> float | None:
        began, ended = getattr(before, name), getattr(after, name)
        # A counter that went back has begun anew, as after a network card was replaced.
        return None if began is None or ended is None or ended < began else (ended - began) / span_s

    busy = rate("cpu_busy_s")
    return {
        "cpu_percent": None if busy is None else min(100 * busy / max(after.cpus, 1e-3), 100.0),
        "received_bytes_per_s": rate("received_bytes"),
        "sent_bytes_per_s": rate("sent_bytes"),
        "received_packets_per_s": rate("received_packets"),
        "sent_packets_per_s": rate("sent_packets"),
        "disk_read_bytes_per_s": rate("disk_read_bytes"),
        "disk_written_bytes_per_s": rate("disk_written_bytes"),
        "processes": busiest(before.programs, after.programs, span_s),
    }


def busiest(
    before: Mapping[int, Program] | None, after: Mapping[int, Program] | None, span_s: float
) -> tuple[ProcessLoad, ...] | None:
    """The programs that used most processor time between two readings, with all processes of a name together.

    Their `cpu_percent` is of one processor. A process that has ended is not seen.
    """
    if before is None or after is None:
        return None
    cpu_s: dict[str, float] = defaultdict(float)
    rss_bytes: dict[str, int] = defaultdict(int)
    for pid, program in after.items():
        known = before.get(pid)
        # The id may belong to another process by now.
        used_before_s = known.cpu_s if known and known.began_s == program.began_s else 0.0
        cpu_s[program.name] += max(program.cpu_s - used_before_s, 0.0)
        rss_bytes[program.name] += program.rss_bytes
    loads = (
        ProcessLoad(name=name, cpu_percent=round(100 * used_s / span_s, 1), rss_bytes=rss_bytes[name])
        for name, used_s in cpu_s.items()
    )
    worth = [load for load in loads if load.cpu_percent >= _LEAST_CPU_PERCENT]
    return tuple(sorted(worth, key=lambda load: (-load.cpu_percent, load.name))[:BUSIEST])


# The host


class Monitor:
    """Samples this host. Each sample's rates are means since the sample, or the `begin`, before it."""

    def __init__(
        self, *, node: str, clock: Clock, folder: Path, processes: bool | None = None, root: Path = Path("/")
    ) -> None:
        """`folder` is on the disk to watch. `processes` None: name programs everywhere but in containers."""
        self._node, self._clock, self._folder, self._root = node, clock, folder, root
        self._names_programs = not is_container(os.environ, root) if processes is None else processes
        # psutil warns of what a container hides. Not for a block: that would change other threads' filters.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="psutil")
        self._before: Counters | None = None

    @classmethod
    def of(cls, atlas: Atlas, processes: bool | None) -> Monitor:
        """A monitor of the node, and of the disk of the data folder, that an Atlas's settings name."""
        settings = atlas.settings
        return cls(node=settings.node_id, clock=atlas.clock, folder=settings.data_folder, processes=processes)

    def begin(self) -> None:
        """Read the counters, so that the first sample has rates too."""
        self._before = self._counters(container_use(self._root))

    def sample(self) -> HostSample:
        """What the host is doing now; it never raises for a figure that can't be had."""
        use = container_use(self._root)
        counters = self._counters(use)
        before, self._before = self._before, counters
        figures = {
            "cpus": counters.cpus,
            **_load(),
            **_memory(use),
            **_disk(self._folder),
            **_battery(),
            **rates(before, counters),
        }
        return HostSample(
            at=self._clock.now(),
            node=self._node,
            temperature_c=_hottest_c(),
            own_rss_bytes=_known(_own_rss_bytes),
            **figures,
        )

    def _counters(self, use: ContainerUse) -> Counters:
        of_host = _known(_cpus) or 1.0
        limited = use.cpus is not None and use.cpu_s is not None and use.cpus < of_host
        network, disk = _known(_network) or {}, _known(psutil.disk_io_counters)
        return Counters(
            at_s=time.monotonic(),
            cpus=use.cpus if limited and use.cpus is not None else of_host,
            cpu_busy_s=use.cpu_s if limited else _known(_busy_s),
            received_bytes=network.get("bytes_recv"),
            sent_bytes=network.get("bytes_sent"),
            received_packets=network.get("packets_recv"),
            sent_packets=network.get("packets_sent"),
            disk_read_bytes=disk and disk.read_bytes,
            disk_written_bytes=disk and disk.write_bytes,
            programs=_known(lambda: dict(_programs())) if self._names_programs else None,
        )


def _known(read: Callable[[], T]) -> T | None:
    """What psutil says; None if this host does not tell it."""
    try:
        return read()
    except _NOT_TOLD:
        return None


def _cpus() -> float:
    return float(psutil.cpu_count() or 1)


def _busy_s() -> float:
    """Seconds in which processors worked, of all of them together."""
    times = psutil.cpu_times()
    # What guests used is part of user already, and stolen time is not ours.
    idle = {"idle", "iowait", "guest", "guest_nice", "steal"}
    return sum(float(seconds) for name, seconds in times._asdict().items() if name not in idle)


def _network() -> Mapping[str, int]:
    """What went over all network cards, without what this machine said to itself."""
    total: Counter[str] = Counter()
    for name, card in psutil.net_io_counters(pernic=True).items():
        if name not in _LOOPBACK:
            total.update(card._asdict())
    return total


def _load() -> dict[str, float | None]:
    load = _known(psutil.getloadavg) or (None, None, None)
    return dict(zip(("load_1", "load_5", "load_15"), load, strict=True))


def _memory(use: ContainerUse) -> dict[str, Any]:
    memory, swap = _known(psutil.virtual_memory), _known(psutil.swap_memory)
    limit = None if memory is None else memory.total
    used = None if memory is None else memory.total - memory.available
    if (
        use.memory_limit_bytes
        and use.memory_used_bytes is not None
        and use.memory_limit_bytes < (limit or 2**63)
    ):
        limit, used = use.memory_limit_bytes, use.memory_used_bytes
    return {
        "memory_limit_bytes": limit,
        "memory_used_bytes": used,
        "memory_percent": 100 * used / limit if limit and used is not None else None,
        "swap_used_bytes": swap and swap.used,
        "swap_percent": swap.percent if swap and swap.total else None,
    }


def _disk(folder: Path) -> dict[str, Any]:
    """The disk of a folder, or of the one above it if it does not exist yet."""
    for place in (folder, *folder.parents):
        if (usage := _known(lambda place=place: shutil.disk_usage(place))) is not None:  # type: ignore[misc]
            # Root's reserve counts as used, as only others' writes matter here.
            return {
                "disk_free_bytes": usage.free,
                "disk_percent": 100 * (1 - usage.free / usage.total) if usage.total else None,
            }
    return {}


def _function_of_psutil(name: str) -> Callable[[], Any]:
    """A function that psutil has on some systems only; elsewhere one that returns None."""
    found: Callable[[], Any] = getattr(psutil, name, lambda: None)
    return found


def _hottest_c() -> float | None:
    """The highest temperature of any sensor."""
    sensors = _known(_function_of_psutil("sensors_temperatures")) or {}
    # Sensors that are not connected say 0, or something absurd.
    known = [each.current for sensor in sensors.values() for each in sensor if 0 < (each.current or 0) < 150]
    return max(known, default=None)


def _battery() -> dict[str, Any]:
    battery: Any = _known(_function_of_psutil("sensors_battery"))
    if battery is None:
        return {}
    plugged = battery.power_plugged
    return {"battery_percent": battery.percent, "on_battery": None if plugged is None else not plugged}


def _own_rss_bytes() -> int:
    own = psutil.Process()
    total = int(own.memory_info().rss)
    for child in own.children(recursive=True):
        with suppress(psutil.Error):
            total += child.memory_info().rss
    return total


def _programs() -> Iterator[tuple[int, Program]]:
    """Every process that this user may look at."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError), process.oneshot():
            used = process.cpu_times()
            memory = process.memory_info()
            # What is longer comes from the arguments, which are nobody's business.
            name = process.name()[:_LONGEST_NAME]
            yield process.pid, Program(name, process.create_time(), used.user + used.system, memory.rss)


# Pressure


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureLimits:
    """From which figures on a host counts as hot or busy."""

    temperature_c: float = 85.0
    cpu_percent: float = 90.0
    load_per_cpu: float = 1.5
    memory_percent: float = 90.0
    swap_percent: float = 50.0
    disk_percent: float = 95.0


@dataclass(frozen=True, slots=True)
class HostPressure:
    """Whether a host is hot, busy or on battery, and why."""

    hot: bool = False
    busy: bool = False
    on_battery: bool = False
    reasons: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.hot or self.busy or self.on_battery


def pressure(sample: HostSample, limits: PressureLimits = PressureLimits()) -> HostPressure:
    """Judge a sample; a figure that the host doesn't have speaks for neither."""
    hot = _over("temperature", sample.temperature_c, limits.temperature_c, "°C")
    load = None if sample.load_5 is None or not sample.cpus else sample.load_5 / sample.cpus
    busy = [
        _over("processors", sample.cpu_percent, limits.cpu_percent, "%"),
        _over("load per processor", load, limits.load_per_cpu, ""),
        _over("memory", sample.memory_percent, limits.memory_percent, "%"),
        _over("swap", sample.swap_percent, limits.swap_percent, "%"),
        _over("disk", sample.disk_percent, limits.disk_percent, "%"),
    ]
    battery = f"on battery, {sample.battery_percent or 0:.0f} % left" if sample.on_battery else None
    return HostPressure(
        hot=hot is not None,
        busy=any(busy),
        on_battery=bool(sample.on_battery),
        reasons=tuple(reason for reason in (hot, *busy, battery) if reason),
    )


def _over(what: str, value: float | None, limit: float, unit: str) -> str | None:
    if value is None or value < limit:
        return None
    shown = f" {unit}" if unit else ""
    return f"{what} at {value:.3g}{shown} (limit {limit:g}{shown})"


# Storing samples


@asynccontextmanager
async def monitored_cycle(atlas: Atlas) -> AsyncIterator[None]:
    """Store one sample over the time of the block, and the counts of what it used; failures are only logged.

    Nothing is stored where the settings say so, if the block is cancelled, or if the database fails it.
    """
    settings = atlas.settings.monitoring
    monitor: Monitor | None = None
    if settings.enabled and settings.after_cycles:
        # Looking at every process takes too long for a short cycle, unless it is wanted.
        monitor = Monitor.of(atlas, settings.processes or False)
        await asyncio.to_thread(monitor.begin)
    try:
        yield
    except DatabaseError:
        raise
    except Exception:
        await _end_of_cycle(atlas, monitor)
        raise
    await _end_of_cycle(atlas, monitor)


async def _end_of_cycle(atlas: Atlas, monitor: Monitor | None) -> None:
    await atlas.write_usage()
    if monitor is None:
        return
    if (error := await attempt(store(atlas, monitor), STORE_TIMEOUT_S)) is not None:
        _lost(error)


async def store(atlas: Atlas, monitor: Monitor) -> HostSample:
    """Take a sample and store it."""
    sample = await asyncio.to_thread(monitor.sample)
    dao = TelemetryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.store([sample])
    return sample


async def keep_sampling(atlas: Atlas) -> None:
    """Store a sample at regular intervals until cancelled; one that fails is only logged."""
    settings = atlas.settings.monitoring
    monitor = Monitor.of(atlas, settings.processes)
    await asyncio.to_thread(monitor.begin)
    while True:
        await asyncio.sleep(settings.interval_s)
        try:
            await store(atlas, monitor)
        except AtlasError as error:
            _lost(error)


def _lost(error: Exception) -> None:
    logger.warning("the host's sample is not stored: %s", error, extra={"action": "sample_lost"})

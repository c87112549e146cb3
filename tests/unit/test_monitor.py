"""The monitor: rates from counters, the figures of this very host, and what counts as pressure."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.telemetry import HostSample, ProcessLoad
from atlas.clock import FixedClock
from atlas.testing import NOON
from maia.maintenance.monitor import Counters, Monitor, PressureLimits, Program, busiest, pressure, rates

BEFORE = Counters(
    at_s=100.0, cpu_busy_s=50.0, cpus=4.0, received_bytes=1000, sent_bytes=500, received_packets=10,
    sent_packets=5, disk_read_bytes=0, disk_written_bytes=4096,
)  # fmt: skip


def spin() -> None:
    """Use the processor for a while."""
    until_s = psutil.Process().cpu_times().user + 0.3
    while psutil.Process().cpu_times().user < until_s:
        sum(range(10_000))


class TestRates:
    def test_are_means_over_the_time_between_two_readings(self) -> None:
        after = Counters(
            at_s=110.0, cpu_busy_s=70.0, cpus=4.0, received_bytes=3000, sent_bytes=500, received_packets=30,
            sent_packets=10, disk_read_bytes=10_240, disk_written_bytes=4096,
        )  # fmt: skip
        assert rates(BEFORE, after) == {
            "cpu_percent": 50.0,
            "received_bytes_per_s": 200.0,
            "sent_bytes_per_s": 0.0,
            "received_packets_per_s": 2.0,
            "sent_packets_per_s": 0.5,
            "disk_read_bytes_per_s": 1024.0,
            "disk_written_bytes_per_s": 0.0,
            "processes": None,
        }

    def test_the_first_reading_and_one_at_the_same_time_have_none(self) -> None:
        assert rates(None, BEFORE) == {}
        assert rates(BEFORE, replace(BEFORE, received_bytes=9999)) == {}

    def test_a_counter_that_began_anew_or_is_missing_has_none(self) -> None:
        found = rates(BEFORE, replace(BEFORE, at_s=101.0, received_bytes=3, sent_bytes=None))
        assert (found["received_bytes_per_s"], found["sent_bytes_per_s"]) == (None, None)
        assert found["sent_packets_per_s"] == 0

    @given(
        st.floats(0, 1e9),
        st.floats(0.1, 1e6),
        st.floats(0, 1e9),
        st.integers(0, 2**60),
        st.integers(0, 2**60),
    )
    def test_are_finite_and_never_negative(
        self, at_s: float, span_s: float, busy_s: float, one: int, other: int
    ) -> None:
        before = Counters(at_s=at_s, cpu_busy_s=0.0, received_bytes=one)
        found = rates(before, Counters(at_s=at_s + span_s, cpu_busy_s=busy_s, received_bytes=other))
        values = [value for value in found.values() if value is not None]
        assert all(math.isfinite(value) and value >= 0 for value in values)
        assert found.get("cpu_percent", 0.0) <= 100


class TestBusiest:
    def test_processes_of_a_name_count_together_and_idle_ones_not(self) -> None:
        before = {1: Program("postgres", 0.0, 10.0, 100), 2: Program("python", 0.0, 1.0, 50)}
        after = {
            1: Program("postgres", 0.0, 12.0, 100),
            2: Program("python", 0.0, 1.001, 50),
            3: Program("postgres", 105.0, 1.0, 30),
        }
        assert busiest(before, after, 10.0) == (
            ProcessLoad(name="postgres", cpu_percent=30.0, rss_bytes=130),
        )

    def test_a_process_that_got_the_id_of_another_counts_from_its_beginning(self) -> None:
        before = {1: Program("a", 0.0, 500.0, 1)}
        after = {1: Program("b", 101.0, 5.0, 2)}
        assert busiest(before, after, 10.0) == (ProcessLoad(name="b", cpu_percent=50.0, rss_bytes=2),)

    def test_are_five_at_most_the_busiest_first(self) -> None:
        after = {number: Program(f"p{number}", 0.0, float(number), 1) for number in range(1, 9)}
        assert [load.name for load in busiest({}, after, 10.0) or ()] == ["p8", "p7", "p6", "p5", "p4"]


class TestThisHost:
    def test_a_sample_agrees_with_the_machine(self, tmp_path: Path) -> None:
        clock = FixedClock(NOON)
        monitor = Monitor(node="here", clock=clock, folder=tmp_path / "not" / "made", processes=True)
        first = monitor.sample()
        assert (first.node, first.at, first.cpu_percent, first.processes) == ("here", NOON, None, None)
        assert first.memory_limit_bytes is not None
        assert 0 < first.memory_limit_bytes <= psutil.virtual_memory().total
        assert 0 < (first.memory_percent or 0) <= 100
        assert 0 < (first.cpus or 0) <= os.cpu_count()  # type: ignore[operator]
        assert (first.disk_free_bytes or 0) > 0
        assert (first.own_rss_bytes or 0) >= psutil.Process().memory_info().rss // 2

        spin()
        second = monitor.sample()
        assert second.cpu_percent is not None
        assert 0 < second.cpu_percent <= 100
        assert second.processes
        for field in fields(HostSample):
            value = getattr(second, field.name)
            assert not isinstance(value, float) or math.isfinite(value), field.name

    def test_programs_are_known_by_name_alone(self, tmp_path: Path) -> None:
        spinning = "import sys\nwhile True: pass"
        secret = "--token=of-somebody"
        with subprocess.Popen([sys.executable, "-c", spinning, secret], cwd=tmp_path) as process:
            try:
                monitor = Monitor(node="here", clock=FixedClock(NOON), folder=tmp_path, processes=True)
                monitor.begin()
                used_s = psutil.Process(process.pid).cpu_times().user + 0.3
                while psutil.Process(process.pid).cpu_times().user < used_s:
                    pass
                programs = monitor.sample().processes
            finally:
                process.kill()
        assert programs
        name = psutil.Process().name()[:15]
        assert name in {load.name for load in programs}
        assert secret not in repr(programs)
        assert all(len(load.name) <= 15 for load in programs)

    def test_in_containers_programs_are_named_only_if_asked_for(self, tmp_path: Path) -> None:
        (tmp_path / ".dockerenv").touch()
        for asked, named in ((None, False), (False, False), (True, True)):
            monitor = Monitor(
                node="here", clock=FixedClock(NOON), folder=tmp_path, processes=asked, root=tmp_path
            )
            monitor.begin()
            spin()
            assert (monitor.sample().processes is not None) is named

    def test_memory_is_of_the_containers_limit(self, tmp_path: Path) -> None:
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        for name, text in {
            "cgroup.controllers": "memory",
            "memory.max": "1000000",
            "memory.current": "250000",
            "memory.stat": "",
        }.items():
            (group / name).write_text(text)
        monitor = Monitor(node="here", clock=FixedClock(NOON), folder=tmp_path, root=tmp_path)
        sample = monitor.sample()
        assert (sample.memory_limit_bytes, sample.memory_used_bytes) == (1_000_000, 250_000)
        assert sample.memory_percent == 25


class TestPressure:
    def sample(self, **figures: float | bool) -> HostSample:
        return HostSample(at=NOON, node="here", **figures)  # type: ignore[arg-type]

    def test_a_host_at_ease_and_one_that_tells_nothing_have_none(self) -> None:
        assert not pressure(self.sample())
        easy = self.sample(cpus=4.0, cpu_percent=20.0, load_5=1.0, memory_percent=40.0, on_battery=False)
        assert not pressure(easy)
        assert pressure(easy).reasons == ()

    @pytest.mark.parametrize(
        ("figures", "reason"),
        [
            ({"cpu_percent": 97.0}, "processors at 97 % (limit 90 %)"),
            ({"cpus": 4.0, "load_5": 8.0}, "load per processor at 2 (limit 1.5)"),
            ({"memory_percent": 95.5}, "memory at 95.5 % (limit 90 %)"),
            ({"swap_percent": 50.0}, "swap at 50 % (limit 50 %)"),
            ({"disk_percent": 99.0}, "disk at 99 % (limit 95 %)"),
        ],
    )
    def test_is_busy_for_a_reason(self, figures: dict[str, float], reason: str) -> None:
        found = pressure(self.sample(**figures))
        assert (found.busy, found.hot, found.on_battery) == (True, False, False)
        assert found.reasons == (reason,)

    def test_heat_and_battery_are_told_apart(self) -> None:
        found = pressure(self.sample(temperature_c=91.0, on_battery=True, battery_percent=33.0))
        assert (found.hot, found.busy, found.on_battery) == (True, False, True)
        assert found.reasons == ("temperature at 91 °C (limit 85 °C)", "on battery, 33 % left")

    def test_the_limits_can_be_others(self) -> None:
        limits = PressureLimits(cpu_percent=10.0)
        assert pressure(self.sample(cpu_percent=11.0), limits).busy
        assert not pressure(self.sample(cpu_percent=9.0), limits).busy

    @given(st.floats(0, 200), st.floats(0, 200))
    def test_more_load_is_never_less_pressure(self, one: float, other: float) -> None:
        less, more = sorted((one, other))
        assert pressure(self.sample(cpu_percent=less)).busy <= pressure(self.sample(cpu_percent=more)).busy

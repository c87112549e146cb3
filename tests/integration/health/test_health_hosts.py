"""Health of hosts: by the samples that each of them stores."""

from __future__ import annotations

import pytest

from atlas.adapters.health import HealthDAO
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.views.health import Wanted, health
from tests.health_facts import HOUR, MINUTE, keys_of, store, with_limits

pytestmark = pytest.mark.integration


class TestHosts:
    async def test_other_hosts_are_judged_by_their_samples(self, atlas: Atlas, clock: FixedClock) -> None:
        clock.advance(2 * HOUR)
        await store(atlas, "busy", range(60, 121), cpu_percent=95.0)
        await store(atlas, "gone", range(61), cpu_percent=99.0)
        await store(atlas, "container", range(30, 35), cpu_percent=1.0)
        health_now = await health(atlas, Wanted())
        assert keys_of(health_now) == {"host.cpu:busy", "host.silent:gone"}

    async def test_this_host_is_looked_at_even_if_nothing_is_stored(self, atlas: Atlas) -> None:
        limits = atlas.settings.maintainer.health.model_copy(
            update={"disk_percent": 1e-6, "emergency_disk_percent": 1e-6}
        )
        health_now = await health(with_limits(atlas, limits), Wanted())
        assert "host.disk_emergency:test" in keys_of(health_now)

    async def test_samples_are_bounded(self, atlas: Atlas, clock: FixedClock) -> None:
        await store(atlas, "a", range(30), cpu_percent=5.0)
        dao = HealthDAO(atlas.db, clock=clock, settings=atlas.settings)
        loads = await dao.loads(["a", "none"], NOON, 10)
        assert [load.at for load in loads["a"]] == [NOON + minute * MINUTE for minute in range(20, 30)]
        assert loads["none"] == []

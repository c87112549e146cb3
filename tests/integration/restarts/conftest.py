"""What restarts need: programs that play systemd and engines, and a supervisor."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from atlas.config import Settings
from atlas.testing import SettingsFactory
from maia.maintainer import restarts
from maia.maintenance import children
from maia.stack.supervisor import Policy, Supervisor
from tests.service_programs import SYSTEMCTL, Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "programs"
    folder.mkdir()
    # Neither systemd nor an engine of this machine is asked.
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(restarts, "SETTLE_S", 0.0)
    return Programs(folder)


@pytest.fixture
def systemctl(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs.add("systemctl", SYSTEMCTL)
    monkeypatch.setattr(restarts, "check_systemd", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return programs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def settings(settings_factory: SettingsFactory, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Other tests' processes belong to other installations.
    monkeypatch.setenv("PLEIADES_DATA_DIR", str(folder))
    monkeypatch.delenv(children.MARK, raising=False)
    monkeypatch.setattr(restarts, "SETTLE_S", 0.0)
    return settings_factory(
        up={"start_timeout_s": 0.01, "stop_timeout_s": 0.3}, maintainer={"actions": {"timeout_s": 20}}
    )


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    policy = Policy(max_restarts=5, restart_s=0.01, start_timeout_s=30, stop_timeout_s=1)
    async with Supervisor.open(policy, _silent) as opened:
        yield opened


def _silent(kind: str, details: Mapping[str, Any]) -> None:
    pass

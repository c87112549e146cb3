"""The duty that tidies a host, on real files."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atlas.composition import Atlas
from maia.maintainer.actions import ActionState
from maia.maintainer.duties import DutyContext
from maia.maintainer.tidy import tidy_host
from tests.aged import PlainTaker

pytestmark = pytest.mark.integration

LOG_MB = 64


@pytest.fixture
def untidy(atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A leftover of two days ago, a log that is too large, and one that is too old."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    data = atlas.settings.data_folder
    (data / "postgres").mkdir(parents=True, exist_ok=True)
    paths = {
        "leftover": tmp_path / "tmp/pleiades-abandone",
        "large": data / "postgres/server.log",
        "old": data / "postgres/server.log-20261001T000000Z.zst",
    }
    for path, days in zip(paths.values(), (2, 0, 15), strict=True):
        path.touch()
        at = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (at, at))
    os.truncate(paths["large"], LOG_MB * 2**20)
    return paths


async def test_a_look_changes_nothing(atlas: Atlas, untidy: dict[str, Path]) -> None:
    context = DutyContext(atlas, PlainTaker())
    await tidy_host(context)
    assert [taken.state for taken in context.taken] == [ActionState.PLANNED] * 2
    assert all(path.exists() for path in untidy.values())
    assert untidy["large"].stat().st_size == LOG_MB * 2**20


async def test_it_tidies_once(atlas: Atlas, untidy: dict[str, Path]) -> None:
    report = await tidy_host(DutyContext(atlas, PlainTaker(("cleanup",))))
    assert "rotated 1 and deleted 1" in report.summary
    assert not untidy["leftover"].exists()
    assert not untidy["old"].exists()
    assert untidy["large"].stat().st_size == 0
    assert len([*untidy["large"].parent.glob("server.log-*.zst")]) == 1
    again = await tidy_host(DutyContext(atlas, PlainTaker(("cleanup",))))
    assert again.summary == "nothing was left to tidy."

"""What `maia breakouts --follow` prints of a breakout."""

from __future__ import annotations

import pytest

from atlas.testing import NOON
from maia.commands.breakouts import _print_one
from maia.views.breakouts import BreakoutRow


def test_a_followed_breakout_is_one_line_whatever_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    row = BreakoutRow(
        cursor=1, at=NOON, video_id="linesAAAAAA", title="one\r\n2026-11-02 12:00  forgedAAAAA",
        channel_id=None, channel_title=None, age_h=None, views=None, views_per_hour=100.0,
        times_expected=None, viral_score=None, url="https://www.youtube.com/watch?v=linesAAAAAA",
    )  # fmt: skip
    _print_one(row, as_json=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("2026-11-02 12:00  linesAAAAAA")
    assert line.endswith("one 2026-11-02 12:00  forgedAAAAA")

from __future__ import annotations

from maia.learner.forecasting import _Columns, _growing


def test_a_week_brings_no_fewer_views_than_a_day() -> None:
    day = _Columns([90.0, None, 5.0], [100.0, 100.0, 10.0], [110.0, None, 20.0], [0.1, None, 0.2])
    week = _Columns([80.0, 70.0, None], [99.0, 120.0, 11.0], [105.0, 150.0, None], [0.3, 0.4, None])
    grown = _growing({168.0: week, 24.0: day})
    assert grown[24.0] == day
    assert grown[168.0] == _Columns(
        [90.0, 70.0, None], [100.0, 120.0, 11.0], [110.0, 150.0, None], [0.3, 0.4, None]
    )

"""The state of another site, as `maia federation` shows it."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from atlas.testing import NOON
from maia.commands import federation, tables
from maia.federation.exchange import Exchanged
from maia.views.federation import FederationStatus


def test_what_an_exchange_came_to_is_told_in_a_few_words() -> None:
    told = {
        "failed": Exchanged("a:1", failed="a:1 can't be reached: no connection"),
        "it is this site itself": Exchanged("a:1", refused={"all": "it is this site itself"}),
        "without texts: newer": Exchanged("a:1", refused={"texts": "newer"}),
        "well": Exchanged("a:1"),
    }
    assert {federation._result(done) for done in told.values()} == set(told)


@pytest.mark.parametrize(
    ("peer", "state"),
    [
        ({"lag_s": None}, "told of"),
        ({"lag_s": 3_599.0}, "well"),
        ({"lag_s": 3_601.0}, "silent"),
        ({"lag_s": 9.0, "isolated_until": NOON}, "isolated until 12:00"),
        ({"lag_s": 9.0, "left_at": NOON}, "left"),
        ({"lag_s": 9.0, "failed": (Mock(),)}, "failing"),
        ({"lag_s": None, "failed": (Mock(),)}, "failing"),
    ],
)
def test_a_site_that_is_not_heard_is_not_well(peer: dict[str, Any], state: str) -> None:
    told = {"isolated_until": None, "left_at": None, "failed": ()}
    assert federation._state(Mock(**(told | peer)), 300) == state
    assert federation._state(Mock(**(told | {"lag_s": 3_601.0})), 1_800) == "well"


def own(**changes: Any) -> FederationStatus:
    told: dict[str, Any] = {
        "site": "8f3c2a91d04b7e65", "cluster": "tubes", "role": "coordinator", "enabled": False,
        "has_token": True, "conflicts": "merge", "sync_interval_s": 300.0, "sites": 2, "calls": (),
        "peers": (), "refused": (), "failed": (),
    }  # fmt: skip
    return FederationStatus(**(told | changes))


def test_a_site_that_only_answers_is_told_what_must_run_for_that(capsys: pytest.CaptureFixture[str]) -> None:
    federation._print_site(own())
    said = capsys.readouterr().out
    assert "answers those that call while maia up or maia api runs" in said
    assert "For that" not in said
    federation._print_site(own(calls=("a:1",)))
    assert "For that, maia up --federate or" in capsys.readouterr().out
    federation._print_site(own(enabled=True))
    assert "--federate" not in capsys.readouterr().out


def test_names_of_sites_are_whole_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "console", lambda: Console(width=80))
    told: dict[str, Any] = {
        "node": "4ec6e7390dd3405d", "role": "coordinator", "place": "a.example.org:8080", "heard_at": NOON,
        "records_in": 120_345, "records_out": 24, "changed": 24, "bytes_in": 3e6, "bytes_out": 2e6,
        "left_at": None, "isolated_until": NOON,
    }  # fmt: skip
    federation._print_peers(own(peers=(Mock(**told),)))
    said = capsys.readouterr().out
    assert "4ec6e7390dd3405d" in said
    assert "isolated" in said
    assert "until" in said
    assert max(map(len, said.splitlines())) <= 80

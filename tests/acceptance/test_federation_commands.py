"""`maia federation` in processes of its own, and at 80 columns."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.fork_server import FORKS

pytestmark = pytest.mark.acceptance

TOKEN = "the cluster's secret token"


def test_the_commands(environment: dict[str, str], tmp_path: Path) -> None:
    ours = environment | {"COLUMNS": "80", "PLEIADES_FEDERATION__PEERS": "http://127.0.0.1:9"}

    def maia(*arguments: str, status: int = 0, token: str = TOKEN) -> str:
        secret = {"PLEIADES_FEDERATION__TOKEN": token} if token else {}
        environment = os.environ | ours | secret
        finished = FORKS.run_and_wait("federation", *arguments, environment=environment, folder=tmp_path)
        assert finished.status == status, finished.stdout + finished.stderr
        assert "Traceback" not in finished.stderr
        assert TOKEN not in finished.stdout + finished.stderr
        return finished.stdout

    refused = json.loads(maia("sync", "--json", status=78, token=""))
    assert "PLEIADES_FEDERATION__TOKEN" in refused["error"]
    [done] = json.loads(maia("sync", "--json", status=1))
    assert done["failed"].startswith("127.0.0.1:9 can't be reached: no connection; check that")
    assert maia("sync", status=1).endswith(f"\n\n{done['failed']}\n")
    plain = maia("status")
    assert "Its cluster pleiades has 1 site." in plain
    assert "It calls 127.0.0.1:9 every 300 s." in plain
    assert "maia federation run must be running." in plain
    about, _, failures = plain.partition("Failed exchanges")
    assert max(map(len, about.splitlines())) <= 80
    assert done["failed"] in failures
    [failure] = json.loads(maia("status", "--json"))["failed"]
    assert (failure["place"], failure["told"]) == ("127.0.0.1:9", done["failed"])
    assert maia("peers") == "No other site is known yet.\n"
    assert maia("leave", "--yes").splitlines()[0] == done["failed"]
    told = json.loads(maia("leave", "--yes", "--json"))["told"]
    assert told == {"127.0.0.1:9": done["failed"]}
    assert json.loads(maia("status", "--json"))["failed"] == []
    assert json.loads(maia("leave", "--yes", "--json", token=""))["told"] == {}
    assert "--yes" in json.loads(maia("leave", "--json", status=2))["error"]
    assert re.fullmatch(r"\w+\.\d{16}", json.loads(maia("rename", "--json"))["site"])

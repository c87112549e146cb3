"""`maia graph mirror` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from maia.commands.graph_mirrors import app

pytestmark = pytest.mark.integration

Run = Callable[..., Result]


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs a command for a site whose settings name a peer that nobody serves."""
    peers = {
        "PLEIADES_FEDERATION__TOKEN": "a secret token for tests",
        "PLEIADES_FEDERATION__PEERS": "http://127.0.0.1:9",
        "COLUMNS": "100",
    }
    runner = CliRunner(env=environment | peers)
    return lambda *arguments: runner.invoke(app, [*arguments])


def test_mirrors_are_added_listed_and_removed(run: Run) -> None:
    assert "There are no mirrors" in run("list").output
    for wrong, told in (
        (("add", "Tags", "127.0.0.1:9"), "is no name"),
        (("add", "tags", "elsewhere:443"), "name no peer"),
        (("add", "tags", "127.0.0.1:9", "--around", "music"), "TYPE:NAME"),
        (("add", "tags", "127.0.0.1:9", "--hops", "9"), "equal to 4"),
    ):
        result = run(*wrong)
        assert result.exit_code == 2, result.output
        assert told in " ".join(result.output.split()), result.output
    added = run("add", "tags", "127.0.0.1:9", "--type", "tag", "--min-count", "3")
    assert added.exit_code == 1
    assert "can't be reached" in " ".join(added.output.split())
    [mirror] = json.loads(run("list", "--json").stdout)
    assert (mirror["name"], mirror["place"], mirror["atoms"]) == ("tags", "127.0.0.1:9", 0)
    assert mirror["filter"]["types"] == ["tag"]
    assert "count ≥ 3" in run("list").output
    refreshed = run("refresh", "--json")
    assert refreshed.exit_code == 1
    assert "can't be reached" in json.loads(refreshed.stdout)[0]["failed"]
    assert json.loads(run("remove", "tags", "--json").stdout) == {"removed": "tags"}
    assert json.loads(run("list", "--json").stdout) == []

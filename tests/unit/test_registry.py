"""The flows that are served, and their description for servers with workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas.errors import ConfigError
from atlas.testing import IsolatedSettings
from flows.registry import ALERT, ANCHOR, chosen, served
from maia import agents

AGENTS = [served(agent) for agent in agents.AGENTS]
FILE = Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    if not FILE.exists():
        pytest.skip("deployments/ is not part of what is installed")
    return dict(yaml.safe_load(FILE.read_text("utf-8")))


def test_prefect_yaml_and_the_registry_say_the_same(described: dict[str, Any]) -> None:
    told = {
        entry["entrypoint"]: (
            entry["name"],
            entry["description"],
            entry["tags"],
            entry["schedules"],
            entry["parameters"],
        )
        for entry in described["deployments"]
    }
    assert told == {
        flow.entrypoint: (
            "default",
            flow.about,
            list(flow.tags),
            [{"interval": flow.interval_s, "anchor_date": ANCHOR.isoformat()}] if flow.interval_s else [],
            dict(flow.parameters),
        )
        for flow in (*AGENTS, ALERT)
    }


def test_nothing_is_fetched_and_parameters_are_checked(described: dict[str, Any]) -> None:
    # An empty list, where null would let Prefect make one up.
    assert described["pull"] == []
    assert not described["build"]
    assert not described["push"]
    assert all(entry["enforce_parameter_schema"] is True for entry in described["deployments"])
    pools = described["definitions"]["work_pools"]
    assert {name: pool["name"] for name, pool in pools.items()} == {
        "process": "process", "docker": "docker", "kubernetes": "kubernetes",
    }  # fmt: skip
    assert {entry["work_pool"]["name"] for entry in described["deployments"]} <= set(pools)


@pytest.mark.parametrize("one", [*AGENTS, ALERT], ids=lambda one: one.name)
def test_each_is_a_flow_by_its_own_name_without_retries(one: Any) -> None:
    flow = one.load()
    assert flow.name == one.name
    assert flow.retries == 0
    assert one.entrypoint == f"{flow.fn.__module__}.{flow.fn.__name__}"


def test_agents_are_chosen_by_name_and_run_as_often_as_asked() -> None:
    [tracker] = chosen(("tracker",), {"tracker": 30})
    assert (tracker.name, tracker.interval_s) == ("tracker", 30)
    assert chosen((), {}) == AGENTS


@pytest.mark.parametrize(
    ("names", "intervals_s", "setting"),
    [(("nobody",), {}, "PREFECT__AGENTS"), ((), {"nobody": 5.0}, "AGENTS__INTERVALS_S")],
)
def test_an_unknown_agent_is_named(
    names: tuple[str, ...], intervals_s: dict[str, float], setting: str
) -> None:
    with pytest.raises(ConfigError, match=f"PLEIADES_{setting}: there is no agent nobody; .*hunter"):
        chosen(names, intervals_s)


def test_an_agents_round_is_its_interval_by_the_clock_it_lives_by() -> None:
    anchor = "2026-11-01T00:00:00Z"
    virtual = {"start": "2026-02-01T00:00:00Z", "anchor": anchor, "speed": 360}
    own = {"intervals_s": {"tracker": 10}}
    assert agents.round_s(IsolatedSettings(), "tracker") == agents.agent_named("tracker").interval_s
    assert agents.round_s(IsolatedSettings(agents=own), "tracker") == 10
    assert agents.round_s(IsolatedSettings(agents=own, clock=virtual), "tracker") == 3600
    assert agents.round_s(IsolatedSettings(agents=own, clock=virtual), "hunter") == 600 * 360

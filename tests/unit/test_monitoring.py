"""Rules and dashboards speak of metrics that there are, with the labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from maia.api import measuring
from maia.stack import families

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deployments/prometheus/rules/pleiades.yml"
DASHBOARDS = sorted((ROOT / "deployments/grafana/dashboards").glob("*.json"))

dashboards = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)

FAMILIES = (*families.FAMILIES, *measuring.FAMILIES)
LABELS = {family.name: set(family.labels) for family in FAMILIES}
for family in FAMILIES:
    if family.kind == "histogram":
        LABELS |= {f"{family.name}_{part}": {*family.labels, "le"} for part in ("bucket", "sum", "count")}
# Of Prometheus itself, and of the exporter's process.
OTHERS = {"up", "ALERTS", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def dashboard(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def expressions(path: Path) -> list[str]:
    panels = dashboard(path)["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def assert_understood(expression: str) -> None:
    """That every metric in it exists, and has the labels by which it is chosen."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    metrics = re.findall(
        r"\b((?:pleiades|pattern_engine|process)_\w+|up|ALERTS|\w+:[\w:]+)\b(?:\{([^}]*)\})?", expression
    )
    assert metrics, expression
    for name, chosen in metrics:
        assert name in LABELS.keys() | recorded | OTHERS, f"{name} in {expression}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", chosen))
        if name in LABELS:
            assert labels <= LABELS[name] | {"job"}, f"{labels} of {name} in {expression}"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_speak_of_metrics_that_there_are(rule: dict[str, Any]) -> None:
    assert_understood(rule["expr"])


@dashboards
def test_dashboards_speak_of_metrics_that_there_are(path: Path) -> None:
    for expression in expressions(path):
        assert_understood(expression)


def test_every_metric_is_shown_somewhere() -> None:
    shown = " ".join(expression for path in DASHBOARDS for expression in expressions(path))
    shown += " ".join(rule["expr"] for rule in rules())
    assert [family.name for family in FAMILIES if family.name not in shown] == []


def test_every_alert_says_how_bad_it_is_and_what_to_do_and_is_tested() -> None:
    tested = (ROOT / "deployments/prometheus/tests/pleiades.yml").read_text("utf-8")
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 15
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}, alert
        assert {"summary", "description"} == set(alert["annotations"]), alert
        assert alert["alert"] in tested


@dashboards
def test_dashboards_are_whole(path: Path) -> None:
    described = dashboard(path)
    assert described["uid"] == f"pleiades-{path.stem}"
    identities = [panel["id"] for panel in described["panels"]]
    assert len(set(identities)) == len(identities)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in described["panels"]}
    assert len(places) == len(identities)
    for panel in described["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_the_dashboards_have_names_of_their_own() -> None:
    assert {path.stem for path in DASHBOARDS} == {"agents", "quota", "discovery", "velocity", "service"}
    assert len({dashboard(path)["title"] for path in DASHBOARDS}) == len(DASHBOARDS)


def test_grafana_finds_the_dashboards_and_prometheus_where_compose_mounts_them() -> None:
    grafana = yaml.safe_load((ROOT / "docker/compose.yaml").read_text("utf-8"))["services"]["grafana"]
    provisioning = ROOT / "deployments/grafana/provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards/pleiades.yaml").read_text())["providers"]
    assert f"../deployments/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"].removeprefix("$") in grafana["environment"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert Path(home).name in {path.name for path in DASHBOARDS}

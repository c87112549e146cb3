"""Every rule and every panel, run by a real Prometheus on what a real exporter tells."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import asyncpg
import pytest
import yaml
from pydantic import SecretStr

from atlas.adapters.discovery import ArmYield, DiscoveryDAO, PlannedArm
from atlas.adapters.graph import GraphDAO, Node
from atlas.adapters.maia import MaiaDAO
from atlas.clock import pacific_day
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import NOON, SettingsFactory
from maia.stack.metrics import serve_metrics
from tests.served import served

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parent.parent.parent
PROMETHEUS = ROOT / "deployments/prometheus"
DASHBOARDS = sorted((ROOT / "deployments/grafana/dashboards").glob("*.json"))
KEYS = SecretStr(json.dumps([{"key": "lab-key", "project": "lab"}]))
VARIABLES = {"$__rate_interval": "1m", "$agent": ".*", "$project": ".*"}

# Alerts that rightly find nothing wrong, and so are empty.
QUIET = re.compile(r"^ALERTS\b")

Ask = Callable[[str], Awaitable[list[Any]]]


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(youtube_api_key_pool_json=KEYS, hunter={"lease_s": 0.001})


async def work(atlas: Atlas) -> None:
    """What agents leave behind: cycles of every outcome, breakouts, a graph, a plan and what came of it."""
    cycle = {"seconds": 2.0, "skipped": {"network": 1}, "units": {"search": 1, "stats": 2, "general": 1}}
    cycle |= {"new": 3, "samples": 40, "taken_over": 1, "observations": 5}
    outcomes = ("done", "idle", "closed", "unavailable", "rate_limited", "keys_rejected", "failed")
    for agent in ("hunter", "tracker"):
        told = [(f"{agent}.cycle", cycle | {"outcome": outcome}) for outcome in outcomes]
        await atlas.events.append_many(told, agent=agent)
    await GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).add([Node("tag", "music")])
    await atlas.events.append("tracker.breakout", {"id": "video"}, agent="tracker")
    judged = {"duty": "health", "details": {"score": 0.9}}
    await atlas.events.append("maintainer.duty", judged, agent="maintainer")
    dao, day = (
        DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings),
        pacific_day(atlas.clock.now()),
    )
    await dao.make_plan(day, [PlannedArm("search:date", "search", 1.0, 0.1, 0.5, 0.1, 1.0, "by its prior")])
    await dao.add_yield(day, ArmYield("search:date", asks=1, units=2, found=50, new=3, early=2))
    connection = await asyncpg.connect(atlas.db.url_of())
    await connection.execute("UPDATE discovery_yields SET judged = judged + 2, growing = growing + 1")
    await connection.close()


async def videos_of_every_zone(atlas: Atlas) -> None:
    """Videos of every zone, and a claim whose holder died."""
    dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.seed(["a topic"])
    await dao.claim_topics(1)
    fields: dict[str, Any] = {
        "channel_id": "UC-one", "channel_title": "One", "title": "A title", "description": "",
        "category_id": 22, "tags": (), "duration_s": 90, "live_broadcast_content": "none",
        "default_language": None, "view_count": 100, "like_count": 10, "comment_count": 1, "etag": "e",
        "scheduled_start_at": None, "actual_start_at": None, "actual_end_at": None,
    }  # fmt: skip
    found = [
        SimpleNamespace(id=f"video-{days}", published_at=NOON - timedelta(days=days), **fields)
        for days in (0, 3, 300)
    ]
    await dao.ingest_video_metadata(found, fetched_at=NOON - timedelta(days=2))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def answer(session: aiohttp.ClientSession, url: str, **parameters: str) -> Any:
    async with session.get(url, params=parameters) as response:
        told = await response.json()
        assert told["status"] == "success", f"{parameters}: {told}"
        return told["data"]


async def until(what: str, happens: Callable[[], Awaitable[object]], limit_s: float = 120) -> None:
    deadline = asyncio.get_running_loop().time() + limit_s
    while not await happens():
        assert asyncio.get_running_loop().time() < deadline, f"{what} within {limit_s:g} s"
        await asyncio.sleep(0.5)


@pytest.fixture
async def url(atlas: Atlas, tmp_path: Path) -> AsyncIterator[str]:
    """A Prometheus with the shipped rules that reads an exporter every second, while agents work."""
    if shutil.which("prometheus") is None:
        pytest.fail("this needs Prometheus; on Debian: apt-get install prometheus")
    await videos_of_every_zone(atlas)
    await work(atlas)
    async with serve_metrics(atlas, "127.0.0.1", 0) as metrics, served(atlas) as service:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
        target = metrics.removeprefix("http://").removesuffix("/metrics")
        port = free_port()
        for job in config["scrape_configs"]:
            job["static_configs"] = [
                {"targets": [target if job["job_name"] == "pleiades" else f"127.0.0.1:{port}"]}
            ]
        # As docs/service.md says, without the key that this machine needs none of.
        service_job = {"job_name": "pleiades-api", "params": {"part": ["service"]}}
        service_job["static_configs"] = [{"targets": [service.url.removeprefix("http://")]}]
        config["scrape_configs"].append(service_job)
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
            env=os.environ | {"TZ": "UTC"},
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
async def ask(atlas: Atlas, url: str) -> AsyncIterator[Ask]:
    """Asks once the counters have moved between two scrapes."""
    async with aiohttp.ClientSession() as session:

        async def scraped(expression: str) -> bool:
            with suppress(aiohttp.ClientConnectionError):
                return bool((await answer(session, f"{url}/api/v1/query", query=expression))["result"])
            return False

        await until("a scrape", lambda: scraped("pleiades_up == 1"))
        await work(atlas)
        await until("counters that moved", lambda: scraped("rate(pleiades_breakouts_total[1m]) > 0"))
        measured = "rate(pleiades_http_request_seconds_count[1m]) > 0"
        await until("measured requests", lambda: scraped(measured))
        await until("recorded figures", lambda: scraped("zone:pleiades_tracker_starving:ratio"))

        async def ask(expression: str) -> list[Any]:
            result: list[Any] = (await answer(session, f"{url}/api/v1/query", query=expression))["result"]
            return result

        yield ask


def filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


async def test_every_panel_shows_something(ask: Ask) -> None:
    empty, shown = [], 0
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                shown += 1
                if not await ask(filled_in(target["expr"])):
                    empty.append(f"{path.stem}: {panel['title']}: {target['expr']}")
    assert empty == []
    assert shown >= 50


async def test_every_variable_and_annotation_can_be_asked_for(ask: Ask) -> None:
    for path in DASHBOARDS:
        described = json.loads(path.read_text("utf-8"))
        for variable in described["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
                assert all(label in series["metric"] for series in await ask(metric))
        for annotation in described["annotations"]["list"]:
            if "expr" in annotation:
                assert QUIET.match(annotation["expr"])
                await ask(annotation["expr"])


async def test_every_rule_is_evaluated_without_an_error(ask: Ask, url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def evaluated() -> bool:
            return all(rule["health"] != "unknown" for rule in await rules())

        async def rules() -> list[Any]:
            groups = (await answer(session, f"{url}/api/v1/rules"))["groups"]
            return [rule for group in groups for rule in group["rules"]]

        await until("an evaluation", evaluated)
        found = await rules()
        assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
        written = yaml.safe_load((PROMETHEUS / "rules/pleiades.yml").read_text("utf-8"))["groups"]
        assert len(found) == sum(len(group["rules"]) for group in written)


async def test_what_is_wrong_here_is_noticed(ask: Ask) -> None:
    async def noticed() -> set[str]:
        return {alert["metric"]["alertname"] for alert in await ask("ALERTS")}

    wrong = {"PleiadesKeysRejected", "PleiadesHotVideosLate", "PleiadesVideosStarve"}

    async def all_of_it() -> bool:
        return wrong <= await noticed()

    await until("alerts that are pending", all_of_it)
    right = {"PleiadesUnobserved", "PleiadesDatabaseUnreachable", "PleiadesQuotaOverspent"}
    assert not right & await noticed()

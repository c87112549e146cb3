"""What the service tells Prometheus of the database, and of its own process."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from atlas.scopes import Scope
from maia.api import measuring
from maia.stack.families import FAMILIES, OTHER_NAMES
from tests.served import Served

pytestmark = pytest.mark.integration

Told = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def told_by(service: Served, **options: object) -> Told:
    answer = await service.get("/metrics", **options)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def value(told: Told, name: str, **labels: str) -> float | None:
    return told.get((name, tuple(sorted(labels.items()))))


async def test_it_tells_what_the_database_knows_and_what_it_did_itself(service: Served) -> None:
    await service.get("/openapi.json")
    told = await told_by(service)
    assert value(told, "pleiades_up") == 1
    assert value(told, "pleiades_queue_leased") == 0
    assert value(told, "opencog_operations_total") == 0
    assert value(told, "pattern_engine_federation_messages") == 0
    assert (value(told, "process_resident_memory_bytes") or 0) > 1_000_000
    asked = {"route": "/openapi.json", "method": "GET"}
    assert value(told, "pleiades_http_requests_total", **asked, status="200") == 1
    assert value(told, "pleiades_http_request_seconds_count", **asked) == 1
    assert value(told, "pleiades_http_request_bytes_sum", **asked) == 0
    assert (value(told, "pleiades_http_response_bytes_sum", **asked) or 0) > 1_000
    # The one that asks for them is under way.
    assert value(told, "pleiades_http_requests_in_progress") == 1


async def test_one_part_leaves_the_database_alone(service: Served) -> None:
    told = await told_by(service, params={"part": "service"})
    ours = {family.name for family in measuring.FAMILIES}
    of_others = {family.name for family in (*FAMILIES, *OTHER_NAMES)}
    names = {name for name, _ in told}
    assert "process_cpu_seconds_total" in names
    assert not names & of_others
    assert {"pleiades_http_requests_in_progress", "pleiades_http_streams"} <= names & ours
    assert (await service.get("/metrics", params={"part": "everything"})).status == 422


async def test_callers_cannot_make_up_labels(service: Served) -> None:
    for path in ("/a", "/b/c", "/d?e=f", "/openapi.json/..%2f", "/%00"):
        await service.get(path)
    await service.ask("PROPFIND", "/nothing")
    told = await told_by(service)
    routes = {dict(labels)["route"] for name, labels in told if name == "pleiades_http_requests_total"}
    methods = {dict(labels)["method"] for name, labels in told if name == "pleiades_http_requests_total"}
    assert routes == {measuring.NO_ROUTE}
    assert methods == {"GET", "other"}


async def test_what_is_refused_counts_by_why(service: Served) -> None:
    key = await service.add_key("slow", Scope.READ, requests_per_minute=2)
    for _ in range(100):
        if (await service.get("/openapi.json")).status == 401:
            break
        await asyncio.sleep(0.05)
    await service.get("/openapi.json", headers={"X-API-Key": "pk_wrong"})
    await service.ask("POST", "/openapi.json", headers=key)
    answers = [await service.get("/openapi.json", headers=key) for _ in range(3)]
    prometheus = await service.add_key("prometheus", Scope.READ)
    bearer = {"Authorization": f"Bearer {prometheus['X-API-Key']}"}
    told = await _told_once_known(service, bearer)
    assert (value(told, "pleiades_http_refused_total", reason="unauthenticated") or 0) >= 2
    refused = [answer.status for answer in answers].count(429)
    assert refused >= 1
    assert value(told, "pleiades_http_rate_limited_total") == refused


async def test_a_bearer_that_is_no_key_of_ours_is_not_taken_for_one(service: Served) -> None:
    """Another token, such as a site's, is for its own route; a wrong key is wrong however it is sent."""
    assert (await service.get("/metrics", headers={"Authorization": "Bearer other-token"})).status == 200
    wrong = {"Authorization": f"Bearer pk_000000000000_{'A' * 43}"}
    assert (await service.get("/metrics", headers=wrong)).status == 401


async def _told_once_known(service: Served, headers: dict[str, str]) -> Told:
    for _ in range(100):
        if (await service.get("/metrics", headers=headers)).status == 200:
            break
        await asyncio.sleep(0.05)
    return await told_by(service, headers=headers)

"""The pattern engine over HTTP: what it lists, imports, forgets, matches and advises, and how fresh it is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import SecretStr

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.testing import SettingsFactory, ThrowAwayServer
from maia.api import access
from maia.learning.matching import Merging
from tests.served import Answer, Served, served

pytestmark = pytest.mark.integration

HUNTER = {"field": "agent", "operator": "=", "value": "hunter"}
NIGHT = {"field": "hour", "operator": "<", "value": 6}


@pytest.fixture
def dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def feeds(**changes: Any) -> dict[str, Any]:
    return {
        "type": "tool_usage",
        "statement": "Feeds find videos early at night.",
        "conditions": [HUNTER, NIGHT],
        "action": "feeds",
        "evidence": [{"pos": 90, "neg": 5, "reward": 300.0}],
    } | changes


async def imported(service: Served, **changes: Any) -> str:
    answer = await service.post("/patterns", feeds(**changes))
    assert answer.status == 201, answer.json
    return str(answer.json["pattern"]["id"])


async def becomes(service: Served, total: int, path: str = "/patterns") -> Answer:
    """The list, once it has so many patterns."""
    return await service.until(path, lambda found: found["total"] == total)


async def test_what_is_imported_is_listed_explained_matched_and_recommended(service: Served) -> None:
    id_ = await imported(service)
    listed = await becomes(service, 1)
    [pattern] = listed.json["patterns"]
    assert (pattern["id"], pattern["pos"], pattern["conditions"]) == (id_, 90, ["agent = hunter", "hour < 6"])

    explained = await service.get(f"/patterns/{id_[:8]}")
    assert explained.json["pattern"] == pattern
    [day] = explained.json["evidence"]
    assert (day["day"], day["pos"], day["neg"]) == ("2026-11-02", 90, 5)

    matched = await service.post("/match", {"context": {"agent": "hunter", "hour": 9}})
    [match] = matched.json["patterns"]
    assert (match["met"], match["missed"]) == (["agent = hunter"], ["hour < 6"])

    advised = await service.post("/recommend", {"context": {"agent": "hunter", "hour": 3}})
    [action] = advised.json["actions"]
    assert (action["action"], action["pos"], action["because"][0]["id"]) == ("feeds", 90, id_)


async def test_so_many_patterns_are_named_for_an_action_as_are_asked_for(service: Served) -> None:
    for n in range(7):
        await imported(service, statement=f"Feeds find {n} videos.", signature={"n": n})
    await becomes(service, 7)
    asked = {"context": {"agent": "hunter", "hour": 3}}
    for wanted, number in (({}, 5), ({"because": 1}, 1), ({"because": 32}, 7)):
        [action] = (await service.post("/recommend", asked | wanted)).json["actions"]
        assert len(action["because"]) == number
    for wrong in (0, 33, "5", None):
        assert (await service.post("/recommend", asked | {"because": wrong})).status == 422


async def test_a_list_made_while_a_pattern_is_taken_is_made_anew(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, may_end = threading.Event(), threading.Event()
    build = Merging.build

    def slowly(self: Merging) -> None:
        building.set()
        assert may_end.wait(30)
        build(self)

    await becomes(service, 0)
    monkeypatch.setattr(Merging, "build", slowly)
    await imported(service)
    assert await asyncio.to_thread(building.wait, 30)
    await becomes(service, 0)
    may_end.set()
    await becomes(service, 1)


async def test_the_unknown_is_answered_with_a_reason(service: Served) -> None:
    for path in ("/match", "/recommend"):
        answer = await service.post(path, {"context": {"agent": "nobody"}})
        assert answer.json["reason"] == "Nothing has been learnt yet."
    await imported(service)
    await becomes(service, 1)
    matched = await service.post("/match", {"context": {"planet": "Mars"}})
    assert "The fields that conditions are about: agent, hour." in matched.json["reason"]


async def test_exploring_is_repeatable_with_a_seed(service: Served) -> None:
    await imported(service)
    await imported(service, action="search", evidence=[{"pos": 60, "neg": 2, "reward": 190.0}])
    await becomes(service, 2)
    wanted = {"context": {"agent": "hunter", "hour": 3}, "explore": True, "seed": 7}
    first, second = [(await service.post("/recommend", wanted)).json for _ in range(2)]
    assert first == second
    assert all(each["drawn"] is not None for each in first["actions"])
    assert (await service.post("/recommend", wanted | {"explore": False})).status == 422


async def test_sending_a_pattern_again_counts_nothing_twice(service: Served) -> None:
    id_ = await imported(service)
    again = await service.post("/patterns", feeds(statement="Feeds find most videos at night."))
    assert (again.status, again.json["pattern"]["id"]) == (200, id_)
    assert again.json["pattern"]["statement"] == "Feeds find most videos at night."
    assert again.json["pattern"]["pos"] == 90
    raised = await service.post("/patterns", feeds(evidence=[{"pos": 100, "neg": 5}]))
    assert raised.json["pattern"]["pos"] == 100


REFUSED: list[dict[str, Any]] = [
    {"type": "hunch"},
    {"statement": ""},
    {"statement": "  "},
    {"statement": "nul \0"},
    {"conditions": [NIGHT | {"value": "six"}]},
    {"conditions": [NIGHT | {"value": 10**30}]},
    {"conditions": [NIGHT] * 101},
    {"signature": {"deep": [[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]}},
    {"signature": {"who": "mail to somebody@example.org"}},
    {"evidence": [{"pos": -1, "neg": 0}]},
    {"evidence": [{"pos": 10**15, "neg": 0}]},
    {"evidence": [{"pos": 1.5, "neg": 0}]},
    {"evidence": [{"pos": True, "neg": 0}]},
    {"evidence": [{"pos": 1, "neg": 0}] * 2},
    {"evidence": [{"pos": 1, "neg": 0, "day": "2036-01-01"}]},
    {"evidence": [{"pos": 1, "neg": 0, "day": "1936-01-01"}]},
    {"evidence": [{"pos": 1, "neg": 0, "last_seen": "2026-11-01T12:00:00"}]},
    {"data": {"x": "somebody@example.org"}},
    {"surprise": 1},
]


async def test_what_must_not_be_stored_is_refused(service: Served, dao: PatternsDAO) -> None:
    for changes in REFUSED:
        answer = await service.post("/patterns", feeds(**changes))
        assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json"), changes
        assert answer.json["detail"]
    assert await dao.known() == []


async def test_hot_routes_refuse_what_is_no_question(service: Served) -> None:
    bodies = [
        b"", b"{", b"[]", b"null", b'{"context": 1}', b'{"context": {"x": [1]}}', b'{"context": {"x": NaN}}',
        b'{"context": {"x": 1}, "limit": 0}', b'{"context": {"x": 1}, "limit": "5"}', b"\xff",
        b'{"context": {"x": 1}, "surprise": 1}', b'{"context": {"": 1}}', b"[" * 100_000,
    ]  # fmt: skip
    for path in ("/match", "/recommend"):
        for body in bodies:
            answer = await service.ask("POST", path, data=body)
            assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json")


async def test_a_forgotten_pattern_stays_forgotten(service: Served) -> None:
    id_ = await imported(service)
    await becomes(service, 1)
    deleted = await service.ask("DELETE", f"/patterns/{id_[:6]}")
    assert deleted.json == {"id": id_, "changed": True}
    assert (await service.get("/patterns")).json["total"] == 0
    await becomes(service, 0)
    assert (await service.get(f"/patterns/{id_}")).status == 404
    again = await service.post("/patterns", feeds())
    assert (again.status, "maia patterns remember" in again.json["detail"]) == (409, True)


async def test_pinning_is_shown(service: Served) -> None:
    id_ = await imported(service)
    for act, is_pinned in (("pin", True), ("unpin", False)):
        answer = await service.post(f"/patterns/{id_}/{act}")
        assert answer.json == {"id": id_, "changed": True}
        assert (await service.post(f"/patterns/{id_}/{act}")).json["changed"] is False
        assert (await service.get(f"/patterns/{id_}")).json["pattern"]["pinned"] is is_pinned


async def test_ids_that_nothing_has(service: Served) -> None:
    for id_ in ("0", "x", "%00", "é" * 10, "f" * 33, "..%5c"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pin"), ("POST", "/unpin")):
            assert (await service.ask(method, f"/patterns/{id_}{path}")).status in (404, 405, 422)


async def test_beginnings_that_several_ids_have(service: Served) -> None:
    firsts = [(await imported(service, signature={"n": n}))[0] for n in range(17)]
    first = next(each for each in firsts if firsts.count(each) > 1)
    answer = await service.get(f"/patterns/{first}")
    assert (answer.status, "several" in answer.json["detail"]) == (409, True)


async def test_pages_and_kinds(service: Served) -> None:
    for n in range(5):
        await imported(service, signature={"n": n}, evidence=[{"pos": 10 * n, "neg": 1}])
    await imported(service, type="failure_mode", signature={"n": 9}, action=None, evidence=[])
    listed = (await becomes(service, 6)).json["patterns"]
    assert [each["confidence"] for each in listed] == sorted(
        (each["confidence"] for each in listed), reverse=True
    )
    page = (await service.get("/patterns?limit=2&offset=1")).json
    assert (page["patterns"], page["total"]) == (listed[1:3], 6)
    assert (await service.get("/patterns?type=failure_mode")).json["total"] == 1
    assert (await service.get("/patterns?type=failure_mode&type=tool_usage")).json["total"] == 6
    firm = (await service.get("/patterns?min_confidence=0.8")).json
    assert firm["total"] == sum(each["confidence"] >= 0.8 for each in listed) > 0
    assert (await service.get("/patterns?limit=0")).status == 422


async def test_what_another_process_learns_is_matched_here(atlas: Atlas) -> None:
    async with served(atlas) as one, served(atlas) as other:
        await becomes(other, 0)
        await imported(one)
        await becomes(other, 1)
        [found] = (await other.post("/match", {"context": {"agent": "hunter"}})).json["patterns"]
        assert found["support"] == 95
        await one.post("/patterns", feeds(evidence=[{"pos": 200, "neg": 5}]))
        async with asyncio.timeout(20):
            while found["support"] != 205:
                [found] = (await other.post("/match", {"context": {"agent": "hunter"}})).json["patterns"]


async def test_useful_patterns_are_paid_for_before_it_stops(atlas: Atlas, dao: PatternsDAO) -> None:
    async with served(atlas) as service:
        id_ = await imported(service)
        await becomes(service, 1)
        for _ in range(3):
            await service.post("/match", {"context": {"agent": "hunter"}})
        await service.post("/recommend", {"context": {"agent": "hunter", "hour": 1}})
    [found] = await dao.importances([id_])
    assert found.sti == pytest.approx(3 * 10 + 20)


async def test_statistics(service: Served) -> None:
    await imported(service)
    await becomes(service, 1)
    await service.post("/match", {"context": {"agent": "hunter"}})
    found = (await service.get("/statistics")).json
    assert (found["patterns"], found["by_type"]) == (1, {"tool_usage": 1})
    assert (found["evidence_for"], found["evidence_against"], found["confident"]) == (90, 5, 1)
    assert sum(found["confidence_histogram"]) == 1
    assert found["process"]["matches"] == 1


async def test_hot_routes_are_described(service: Served) -> None:
    document = (await service.get("/openapi.json")).json
    for path, schema in (("/match", "MatchRequest"), ("/recommend", "RecommendRequest")):
        operation = document["paths"][path]["post"]
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert reference == f"#/components/schemas/{schema}"
        assert {"200", "401", "413", "422", "429"} <= set(operation["responses"])
    assert "$defs" not in str(document["components"]["schemas"]["Matches"])


async def test_documented_examples_work(service: Served) -> None:
    schemas = (await service.get("/openapi.json")).json["components"]["schemas"]
    for name, path in (
        ("NewPattern", "/patterns"), ("MatchRequest", "/match"), ("RecommendRequest", "/recommend"),
    ):  # fmt: skip
        for example in schemas[name]["examples"]:
            assert (await service.post(path, example)).status in (200, 201)


async def test_after_an_outage_it_goes_on_where_it_was(
    own_postgres: ThrowAwayServer, settings_factory: SettingsFactory
) -> None:
    url = own_postgres.dsn_of(own_postgres.create_database(own_postgres.migrated_template()))
    settings = settings_factory(database_url=SecretStr(url), api={"connect_timeout_s": 2})
    async with Atlas.open(settings) as atlas, served(atlas) as service:
        await imported(service)
        await becomes(service, 1)
        await asyncio.to_thread(own_postgres.stop)
        matched = await service.session.post(f"{service.url}/match", json={"context": {"agent": "hunter"}})
        assert matched.status in (200, 503)
        await asyncio.to_thread(own_postgres.start)
        async with asyncio.timeout(60):
            while (await service.post("/patterns", feeds(action="search"))).status != 201:
                await asyncio.sleep(0.05)
            while (answer := await service.get("/patterns")).status != 200 or answer.json["total"] != 2:
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("keys_kept_s", [30.0, 0.0])
async def test_during_an_outage_all_are_answered_soon(
    own_postgres: ThrowAwayServer,
    settings_factory: SettingsFactory,
    monkeypatch: pytest.MonkeyPatch,
    keys_kept_s: float,
) -> None:
    monkeypatch.setattr(access, "_KEPT_S", keys_kept_s)
    url = own_postgres.dsn_of(own_postgres.create_database(own_postgres.migrated_template()))
    settings = settings_factory(
        database_url=SecretStr(url), api={"connect_timeout_s": 1, "requests_per_minute": 1_000_000}
    )
    observed = {"agent": "deployer", "session": "1", "action": "build"}
    async with Atlas.open(settings) as atlas, served(atlas) as service:
        # A lease of requests lets some through to their routes.
        assert (await service.post("/observe", observed)).status == 200
        await asyncio.to_thread(own_postgres.stop)
        try:
            async with asyncio.timeout(4):
                answers = await asyncio.gather(
                    *(service.post("/observe", observed) for _ in range(20)),
                    *(service.get(path) for path in ("/healthz", "/patterns", "/api/v1/videos") * 5),
                )
            assert {answer.status for answer in answers} == {503}
        finally:
            await asyncio.to_thread(own_postgres.start)

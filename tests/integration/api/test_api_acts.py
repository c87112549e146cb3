"""What callers may change over HTTP, and that each act is recorded as the command line records it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atlas.scopes import Scope
from atlas.testing import NOON
from tests.growth import store_video
from tests.served import Served

pytestmark = pytest.mark.integration


async def recorded(sql: Any) -> list[tuple[str, dict[str, Any]]]:
    rows = await sql.fetch("SELECT payload FROM events WHERE kind = 'operator.act' ORDER BY id")
    acts = [json.loads(row["payload"]) for row in rows]
    return [(act["action"], act["context"]) for act in acts]


async def test_topics_are_seeded_parked_and_put_back(service: Served, sql: Any) -> None:
    seeded = await service.post("/api/v1/topics", {"queries": ["lofi", "Lofi", "jazz"], "region": "de"})
    assert (seeded.status, seeded.json) == (201, {"given": 3, "added": 2})
    [topic, _] = (await service.get("/api/v1/topics")).json["topics"]
    assert (topic["query"], topic["only"]) == ("lofi", "region DE")
    path = f"/api/v1/topics/{topic['id']}"
    assert (await service.post(f"{path}/park", {"reason": "dull"})).json == {"topics": 1}
    assert (await service.post(f"{path}/park")).json == {"topics": 0}
    [parked] = (await service.get("/api/v1/topics?status=parked")).json["topics"]
    assert (parked["id"], parked["last_error"]) == (topic["id"], "dull")
    assert (await service.post(f"{path}/retry")).json == {"topics": 1}
    [again, _] = (await service.get("/api/v1/topics?status=active")).json["topics"]
    assert (again["id"], again["last_error"]) == (topic["id"], None)
    assert await recorded(sql) == [
        ("seed", {"kind": "topic", "count": 3, "region": "DE"}),
        ("park", {"kind": "topic", "count": 1}),
        ("retry", {"kind": "topic", "count": 1}),
    ]


async def test_videos_and_channels_are_watched_and_pinned(service: Served, sql: Any) -> None:
    await store_video(sql, "stored00000", clock_zone=2)
    for body in (
        {"kind": "video", "id": "stored00000", "zone": "hot"},
        {"kind": "channel", "id": "UC-one"},
        {"kind": "video", "id": "-unknown_00"},
    ):
        assert (await service.post("/api/v1/watches", body)).status == 201
    found = (await service.get("/api/v1/videos/stored00000")).json
    assert (found["watched"], found["pinned_zone"]) == (True, "hot")
    assert (await service.ask("DELETE", "/api/v1/watches/channel/UC-one")).json["watches"] == 1
    again = await service.ask("DELETE", "/api/v1/watches/channel/UC-one")
    assert (again.status, "not watched" in again.json["detail"]) == (404, True)
    assert [action for action, _ in await recorded(sql)] == ["pin", "watch", "watch", "unwatch"]


async def test_an_incident_is_acknowledged_once_known(service: Served, sql: Any) -> None:
    id_ = await sql.fetchval(
        "INSERT INTO incidents (key, component, node, severity, text, opened_at, seen_at) "
        "VALUES ('host.disk:n', 'host', 'n', 'warning', 'full', $1, $1) RETURNING id",
        NOON,
    )
    answer = await service.post(f"/api/v1/incidents/{id_}/acknowledge", {"note": "on Friday"})
    assert (answer.json["key"], answer.json["note"]) == ("host.disk:n", "on Friday")
    [incident] = (await service.get("/api/v1/incidents")).json["incidents"]
    assert (incident["id"], incident["note"]) == (id_, "on Friday")
    assert await sql.fetchval("SELECT count(*) FROM events WHERE kind = 'incident.acknowledged'") == 1


async def test_what_cannot_be_done_is_refused_and_changes_nothing(service: Served, sql: Any) -> None:
    for path, body, status in (
        ("topics", {"queries": []}, 422), ("topics", {"queries": ["x" * 201]}, 422),
        ("topics", {"queries": [" "]}, 422), ("topics", {"queries": "lofi"}, 422),
        ("topics", {"queries": ["a"], "region": "Atlantis"}, 422),
        ("topics", {"queries": ["a"], "x": 1}, 422),
        ("topics", {"queries": ["a"], "published_after": "2999-01-01T00:00:00Z"}, 422),
        ("topics", {"queries": ["a"], "published_after": "2026-01-01T00:00:00"}, 422),
        ("topics", {"queries": ["a"], "category": "10"}, 422), ("topics/0/park", None, 422),
        ("topics/99/park", None, 404), ("topics/99/retry", None, 404),
        ("topics/9223372036854775808/park", {}, 422),
        ("watches", {"kind": "video", "id": "UC-one"}, 422),
        ("watches", {"kind": "channel", "id": "../x"}, 422),
        ("watches", {"kind": "playlist", "id": "x"}, 422), ("incidents/1/acknowledge", {}, 404),
    ):  # fmt: skip
        answer = await service.post(f"/api/v1/{path}", body)
        assert (path, body, answer.status) == (path, body, status)
        assert len(answer.json["detail"]) > 20
    assert await recorded(sql) == []
    assert await sql.fetchval("SELECT count(*) FROM search_queue") == 0
    assert (
        await service.post("/api/v1/topics", {"queries": ["a"], "published_after": "2026-01-01T00:00:00Z"})
    ).status == 201


async def test_a_key_that_may_only_read_changes_nothing(service: Served, sql: Any) -> None:
    await service.add_key("writer", Scope.WRITE)
    reader = await service.add_key("reader", Scope.READ)
    for method, path in (
        ("POST", "topics"), ("POST", "topics/1/park"), ("POST", "topics/1/retry"), ("POST", "watches"),
        ("DELETE", "watches/video/stored00000"), ("POST", "incidents/1/acknowledge"),
    ):  # fmt: skip
        answer = await service.ask(method, f"/api/v1/{path}", headers=reader, json={"queries": ["a"]})
        assert (path, answer.status) == (path, 403)
    assert (await service.get("/api/v1/topics", headers=reader)).json["topics"] == []

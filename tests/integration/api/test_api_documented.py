"""Answers have the form that the OpenAPI document says, and so have its examples."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from atlas.composition import Atlas
from atlas.testing import NOON
from maia.api import discovery, health, videos
from tests.growth import HOUR, store_samples, store_video
from tests.served import served

pytestmark = pytest.mark.integration

ROUTES = [
    route
    for module in (discovery, health, videos)
    for route in module.router.routes
    if isinstance(route, APIRoute) and route.include_in_schema and route.methods == {"GET"}
]
_ASKED = {"/api/v1/search": "?q=video"}


def is_of_form(route: APIRoute, answer: Any) -> bool:
    """Whether an answer validates, and has no other names than documented at its top."""
    adapter: TypeAdapter[Any] = TypeAdapter(route.response_model)
    adapter.validate_python(answer)
    schema = adapter.json_schema()
    return set(answer) == set(schema["properties"])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_each_example_has_the_documented_form(route: APIRoute) -> None:
    assert is_of_form(route, route.responses[200]["content"]["application/json"]["example"])


async def test_each_answer_has_the_documented_form(atlas: Atlas, sql: Any) -> None:
    for number in range(4):
        await store_video(
            sql, f"video{number}", clock_velocity=1.0, duration_s=100, view_count=5,
            published_at=NOON - 300 * HOUR,
        )  # fmt: skip
    await store_samples(sql, "video0", [(NOON - 2 * HOUR, 1), (NOON, 5)])
    await sql.execute("INSERT INTO channel_norms VALUES ('UC-one', 0, 3, 1.5, 0.5)")
    await sql.execute("INSERT INTO channel_stats_log VALUES ('UC-one', $1, 1, 2, 3)", NOON)
    await sql.execute(
        "INSERT INTO video_forecasts (video_id, made_at, views, day, week) VALUES ('video0', $1, 5, 8, 9)",
        NOON,
    )
    await sql.execute(
        "INSERT INTO incidents (key, component, node, severity, text, opened_at, seen_at) "
        "VALUES ('k', 'host', 'n', 'warning', 'full', $1, $1)",
        NOON,
    )
    await atlas.events.append("tracker.breakout", {"video_id": "video0", "views": 3, "age_h": 1.5})
    async with served(atlas) as service:
        await service.post("/api/v1/topics", {"queries": ["lofi"]})
        for route in ROUTES:
            id_ = "UC-one" if "channels" in route.path else "video0"
            path = route.path.replace("{id}", id_) + _ASKED.get(route.path, "")
            answer = await service.get(path)
            assert (path, answer.status) == (path, 200)
            assert is_of_form(route, answer.json), path


async def test_the_examples_of_bodies_are_accepted(atlas: Atlas) -> None:
    async with served(atlas) as service:
        document = (await service.get("/openapi.json")).json
        schemas = document["components"]["schemas"]
        for path, name in (("topics", "Seed"), ("watches", "NewWatch")):
            for example in schemas[name]["examples"]:
                assert (await service.post(f"/api/v1/{path}", example)).status == 201
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                assert {"200", "201"} & set(operation["responses"]), (path, method)
                assert operation["summary"], (path, method)

"""Videos, channels, topics, breakouts, quota, search and health, as the service answers them."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest

from atlas.adapters.queue import QueueDAO
from atlas.composition import Atlas
from atlas.queries import SearchParameters
from atlas.testing import NOON
from tests.growth import HOUR, store_samples, store_video
from tests.served import Answer, Served

pytestmark = pytest.mark.integration


def rows_of(answer: Answer) -> list[dict[str, str]]:
    assert answer.headers["Content-Type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.body.decode())))


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [each["id"] for each in answer.json["videos"]]


class TestLeaderboard:
    @pytest.fixture(autouse=True)
    async def videos(self, sql: Any, atlas: Atlas) -> None:
        await QueueDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(
            ["jazz"], SearchParameters(region="DE")
        )
        topic = await sql.fetchval("SELECT id FROM search_queue")
        for number in range(5):
            await store_video(
                sql, f"video-{number}", channel=f"UC-{number % 2}", title=f"=HYPERLINK({number})",
                category_id=10 + number, tags=["Lofi", f"tag {number}"], duration_s=60 * (number + 1),
                discovered_by=topic if number == 3 else None, published_at=NOON - (number + 1) * HOUR,
                clock_velocity=100.0 if number < 3 else 10.0 * number,
                clock_last_sampled_at=NOON,
            )  # fmt: skip

    async def test_pages_follow_each_other_without_gaps(self, service: Served) -> None:
        whole = await service.get("/api/v1/videos")
        assert ids(whole) == ["video-0", "video-1", "video-2", "video-4", "video-3"]
        assert (whole.json["next"], whole.json["attribution"]) == (
            None, "velocity and figures derived from it: computed by Pleiades, not by YouTube",
        )  # fmt: skip
        found, ranks = [], []
        cursor: str | None = ""
        while cursor is not None:
            page = await service.get(f"/api/v1/videos?limit=2{cursor and f'&cursor={cursor}'}")
            found += ids(page)
            ranks += [each["rank"] for each in page.json["videos"]]
            cursor = page.json["next"]
        assert (found, ranks) == (ids(whole), [1, 2, 3, 4, 5])

    async def test_filters(self, service: Served) -> None:
        for query, expected in (
            ("category=10", "0"), ("channel=UC-1", "13"), ("channel=channel%20uc-1", "13"),
            ("tag=TAG%202", "2"), ("region=de", "3"), ("length=long", "43"), ("age_max=2h", "01"),
            ("age_min=4h", "43"),
            ("velocity_min=50", "012"), ("tag=lofi&length=short&velocity_min=50&age_min=2h", "12"),
            ("channel=nobody", ""), ("zone=warm", ""), ("by=score", ""), ("region=FR", ""),
        ):  # fmt: skip
            found = ids(await service.get(f"/api/v1/videos?{query}"))
            assert (query, "".join(each[-1] for each in found)) == (query, expected)

    async def test_a_window_ranks_by_what_was_gained_in_it_and_pages_end_where_the_first_did(
        self, service: Served, sql: Any, clock: Any
    ) -> None:
        for number in (0, 1, 2):
            counts = [(NOON - 5 * HOUR, 100), (NOON - HOUR, 100 + 400 * number)]
            await store_samples(sql, f"video-{number}", counts)
        first = await service.get("/api/v1/videos?window=6h&limit=2")
        assert [(each["id"], each["leads_by"]) for each in first.json["videos"]] == [
            ("video-2", 200.0), ("video-1", 100.0),
        ]  # fmt: skip
        clock.advance(timedelta(hours=3))
        second = await service.get(f"/api/v1/videos?window=6h&limit=2&cursor={first.json['next']}")
        assert ids(second) == ["video-0"]
        assert ids(await service.get("/api/v1/videos?window=6h&velocity_min=150")) == []

    async def test_csv_has_the_same_rows_and_no_formulas(self, service: Served) -> None:
        answer = await service.get("/api/v1/videos?limit=2&format=csv")
        rows = rows_of(answer)
        assert [row["id"] for row in rows] == ["video-0", "video-1"]
        assert rows[0]["title"] == "'=HYPERLINK(0)"
        target = answer.headers["Link"].removeprefix("<").partition(">")[0]
        assert [row["id"] for row in rows_of(await service.get(target))] == ["video-2", "video-4"]

    async def test_what_is_wrong_is_said(self, service: Served) -> None:
        for query in (
            "cursor=nonsense", "cursor=W10", "cursor=e30", "cursor=%C3%A9", "limit=0", "limit=201",
            "window=32d", "window=0h", "category=nothing", "region=nowhere", "by=chance",
            "age_min=2d&age_max=1d",
            "velocity_min=nan", "unknown=1",
        ):  # fmt: skip
            answer = await service.get(f"/api/v1/videos?{query}")
            assert (query, answer.status) == (query, 422)
            assert len(answer.json["detail"]) > 20

    async def test_a_cursor_of_another_list_is_refused(self, service: Served) -> None:
        cursor = (await service.get("/api/v1/videos?limit=1")).json["next"]
        assert (await service.get(f"/api/v1/videos?limit=3&cursor={cursor}")).status == 200
        assert (await service.get(f"/api/v1/videos?tag=lofi&cursor={cursor}")).status == 422
        assert (await service.get(f"/api/v1/topics?cursor={cursor}")).status == 422


class TestVideo:
    async def test_all_that_is_known_with_samples_for_a_plot(self, service: Served, sql: Any) -> None:
        await store_video(sql, "known000000", tags=["Lofi", "Jazz"], duration_s=100)
        await store_video(sql, "near0000000", tags=["lofi", "JAZZ"])
        await store_video(sql, "far00000000", tags=["lofi", "other", "more"])
        counts = [
            (NOON - n * HOUR / 4, 10_000 - n * 10 + (500 if n == 333 else 0)) for n in range(900, 0, -1)
        ]
        await store_samples(sql, "known000000", counts)
        await sql.execute(
            "INSERT INTO events (at, kind, node, payload) VALUES ($1, 'tracker.breakout', 'test', $2)", NOON,
            '{"video_id": "known000000", "views": 5, "times_expected": 7.5}',
        )  # fmt: skip
        found = (await service.get("/api/v1/videos/known000000")).json
        assert (found["views"], found["length"], found["samples_in_window"]) == (9990, "short", 900)
        assert 200 < len(found["samples"]) <= 500
        velocities = [each["velocity"] for each in found["samples"]]
        assert max(each for each in velocities if each is not None) == pytest.approx(2040)
        assert min(each for each in velocities if each is not None) == pytest.approx(-1960)
        assert [(each["id"], each["share"], each["shared_tags"]) for each in found["similar"]] == [
            ("near0000000", 1.0, ["jazz", "lofi"]), ("far00000000", 0.25, ["lofi"]),
        ]  # fmt: skip
        assert found["breakouts"][0]["times_expected"] == 7.5
        assert "not by YouTube" in found["attribution"]
        assert (await service.get("/api/v1/videos/known000000?window=1h")).json["samples_in_window"] == 4

    async def test_one_that_is_not_stored(self, service: Served) -> None:
        for path in ("videos/unknown", "videos/%00", "videos/..%2f..", "channels/unknown"):
            assert (await service.get(f"/api/v1/{path}")).status == 404

    async def test_a_channel_compares_shorts_with_shorts(self, service: Served, sql: Any) -> None:
        for number in range(8):
            await store_video(
                sql, f"v{number}", channel="UC-one", published_at=NOON - (10 + number) * 24 * HOUR,
                duration_s=30 if number % 2 else 600, view_count=(number + 1) * (1 if number % 2 else 1_000),
            )  # fmt: skip
        answer = await service.get("/api/v1/channels/UC-one?uploads=8")
        multiples = {each["id"]: each["multiple"] for each in answer.json["uploads"]}
        assert (multiples["v0"], multiples["v1"]) == (pytest.approx(1 / 4), pytest.approx(2 / 5))
        assert {each["length"]: each["views"] for each in answer.json["medians"]} == {
            "short": 5,
            "long": 4000,
        }
        rows = rows_of(await service.get("/api/v1/channels/UC-one?uploads=8&format=csv"))
        assert {row["id"]: float(row["multiple"]) for row in rows} == multiples


class TestTopics:
    async def test_pages_with_yield(self, service: Served, sql: Any) -> None:
        dao = QueueDAO(service.atlas.db, clock=service.atlas.clock, settings=service.atlas.settings)
        await dao.seed([f"topic {n}" for n in range(5)])
        await dao.park_topics(["topic 3"], "=SUM(1)")
        await sql.execute(
            "UPDATE search_queue SET asks_total = 4, new_videos_total = 10, early_growing_total = 2 "
            "WHERE query = 'topic 1'"
        )
        found: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await service.get(f"/api/v1/topics?limit=2{cursor and f'&cursor={cursor}'}")).json
            found += page["topics"]
            cursor = page["next"]
        assert [each["query"] for each in found] == [f"topic {n}" for n in range(5)]
        assert [(each["new_per_ask"], each["growing_per_ask"]) for each in found[:2]] == [
            (None, None), (2.5, 0.5),
        ]  # fmt: skip
        [parked] = rows_of(await service.get("/api/v1/topics?status=parked&format=csv"))
        assert (parked["query"], parked["last_error"]) == ("topic 3", "'=SUM(1)")


class TestBreakouts:
    async def test_pages_go_back_in_time(self, service: Served, sql: Any) -> None:
        await store_video(sql, "v1", title="First")
        for number in range(5):
            await service.atlas.events.append(
                "tracker.breakout", {"video_id": "v1" if number == 4 else "gone", "views": number}
            )
        first = (await service.get("/api/v1/breakouts?limit=3")).json
        assert [each["views"] for each in first["breakouts"]] == [4, 3, 2]
        assert (first["breakouts"][0]["title"], first["breakouts"][1]["title"]) == ("First", None)
        second = (await service.get(f"/api/v1/breakouts?limit=3&cursor={first['next']}")).json
        assert ([each["views"] for each in second["breakouts"]], second["next"]) == ([1, 0], None)


class TestSearch:
    @pytest.fixture(autouse=True)
    async def stored(self, sql: Any) -> None:
        await store_video(sql, "slow", title="Lofi beats to study", tags=[], clock_velocity=1.0)
        await store_video(sql, "fast", title="Study with LOFI", tags=[], clock_velocity=9.0)
        await store_video(sql, "tagged", title="100%_\\", tags=["LoFi Study"])
        await sql.execute("UPDATE channels SET title = 'Lofi Study Girl'")

    async def test_finds_all_words_in_any_order_and_whole_tags(self, service: Served) -> None:
        for query, expected in (
            ("q=lofi%20study", ["UC-one", "fast", "slow", "tagged"]), ("q=study&in=title", ["fast", "slow"]),
            ("q=lofi%20%20study&in=tag", ["tagged"]), ("q=girl&in=channel", ["UC-one"]),
            ("q=100%25_%5C", ["tagged"]), ("q=%25%25", []), ("q=_&in=title", []), ("q=%20", []),
            ("q=%00", []), ("q=lofi%20study&limit=2&offset=1", ["fast", "slow"]), ("q=lofi&offset=9", []),
            ("q=to", ["slow"]), ("q=li", []), ("q=st%20wi", ["fast"]), ("q=lo&in=channel", ["UC-one"]),
        ):  # fmt: skip
            answer = await service.get(f"/api/v1/search?{query}")
            assert (query, [each["id"] for each in answer.json["matches"]]) == (query, expected)

    async def test_without_trigrams_it_works_and_says_that_it_is_slow(
        self, service: Served, sql: Any
    ) -> None:
        if await sql.fetchval("SELECT to_regclass('videos_by_title') IS NOT NULL"):
            assert (await service.get("/api/v1/search?q=study")).json["indexed"] is True
            await sql.execute("DROP EXTENSION pg_trgm CASCADE")
        found = (await service.get("/api/v1/search?q=beats")).json
        assert (found["indexed"], [each["id"] for each in found["matches"]]) == (False, ["slow"])
        assert "pg_trgm" in found["note"]


class TestState:
    async def test_quota_without_keys_is_empty(self, service: Served) -> None:
        found = (await service.get("/api/v1/quota")).json
        assert (found["ledger"], found["keys"]) == ([], [])
        assert rows_of(await service.get("/api/v1/quota?format=csv&ring=hunting")) == []

    async def test_health_says_why(self, service: Served) -> None:
        found = (await service.get("/api/v1/health")).json
        assert 0 <= found["score"] <= 1
        assert found["components"]["database"]["score"] is not None

    async def test_the_host(self, service: Served) -> None:
        found = (await service.get("/api/v1/metrics")).json
        assert found["disk"]["total"] >= found["disk"]["used"] > 0
        assert len(found["cpu"]["load_avg"]) == 3
        assert found["timestamp"].endswith("Z")

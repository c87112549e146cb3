"""Leaderboards and videos as a real PostgreSQL tells them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atlas.adapters import board
from atlas.adapters.board import BoardDAO, Filters, Lead
from atlas.clock import FixedClock
from atlas.db import Database, sql_of
from atlas.testing import NOON, SettingsFactory
from tests.growth import HOUR, store_samples, store_video

pytestmark = pytest.mark.integration


@pytest.fixture
def dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> BoardDAO:
    return BoardDAO(database, clock=clock, settings=settings_factory())


async def ids(dao: BoardDAO, by: Lead = Lead.VELOCITY, most: int = 10, **filters: Any) -> list[str]:
    window = filters.pop("window", None)
    return [leader.id for leader in await dao.top(by, most, Filters(**filters), window)]


class TestTop:
    @pytest.fixture(autouse=True)
    async def videos(self, sql: Any) -> None:
        figures = {
            "a": (100.0, 1.0, 0.5, 0.9), "b": (300.0, -5.0, 2.0, 0.2), "c": (200.0, 9.0, 1.0, 0.5),
            "d": (None, None, None, None),
        }  # fmt: skip
        for number, (name, (velocity, acceleration, relative, score)) in enumerate(figures.items()):
            await store_video(
                sql, name, channel=f"UC-{number % 2}", category_id=10 + number, tags=["Lofi", f"tag {name}"],
                clock_velocity=velocity, clock_acceleration=acceleration, clock_zone=number % 3,
                clock_relative_velocity=relative, clock_viral_score=score,
                clock_last_sampled_at=NOON - number * HOUR,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("by", "order"),
        [(Lead.VELOCITY, "bca"), (Lead.ACCELERATION, "cab"), (Lead.RELATIVE, "bca"), (Lead.SCORE, "acb")],
    )
    async def test_leads_by_what_is_asked(self, dao: BoardDAO, by: Lead, order: str) -> None:
        leaders = await dao.top(by, 10)
        assert "".join(leader.id for leader in leaders) == order
        values = [leader.leads_by for leader in leaders]
        assert values == sorted(values, reverse=True)
        assert (await dao.top(by, 1))[0] == leaders[0]

    async def test_tells_what_is_known(self, dao: BoardDAO) -> None:
        [first, *_] = await dao.top(Lead.VELOCITY, 1)
        assert (first.title, first.channel_id, first.channel_title) == ("Video b", "UC-1", "Channel UC-1")
        assert (first.category_id, first.zone, first.published_at) == (11, 1, NOON - 24 * HOUR)
        assert (first.velocity, first.acceleration, first.relative_velocity) == (300, -5, 2)

    async def test_filters(self, dao: BoardDAO) -> None:
        assert await ids(dao, channel="UC-0") == ["c", "a"]
        assert await ids(dao, channel="channel uc-1") == ["b"]
        assert await ids(dao, channel="nobody's") == []
        assert await ids(dao, category_id=12) == ["c"]
        assert await ids(dao, zone=1) == ["b"]
        assert await ids(dao, tag="LOFI") == ["b", "c", "a"]
        assert await ids(dao, tag="tag a") == ["a"]
        assert await ids(dao, tag="tag") == []
        assert await ids(dao, tag="lofi", zone=0, channel="UC-0", category_id=10) == ["a"]

    async def test_filters_by_length_and_broadcast(self, dao: BoardDAO, sql: Any) -> None:
        told = {"a": (180, "none"), "b": (181, None), "c": (0, "upcoming")}
        for id_, (duration_s, broadcast) in told.items():
            await sql.execute(
                "UPDATE videos SET duration_s = $2, live_broadcast_content = $3 WHERE id = $1",
                id_, duration_s, broadcast,
            )  # fmt: skip
            await sql.execute(
                "UPDATE video_clock SET broadcast = broadcast_of($2) WHERE video_id = $1", id_, broadcast
            )
        for window in (None, 24 * HOUR):
            for id_ in told:
                await store_samples(sql, id_, [(NOON - 2 * HOUR, 10), (NOON - HOUR, 20)]) if window else None
            assert await ids(dao, length="short", window=window) == ["a"]
            assert await ids(dao, length="long", window=window) == ["b"]
            assert await ids(dao, broadcast="upcoming", window=window) == ["c"]
            assert sorted(await ids(dao, broadcast="none", window=window)) == ["a", "b"]
            assert await ids(dao, length="short", tag="lofi", window=window) == ["a"]
            assert await ids(dao, length="short", broadcast="upcoming", window=window) == []

    async def test_a_window_leaves_out_what_was_not_sampled_in_it(self, dao: BoardDAO) -> None:
        assert await ids(dao, Lead.SCORE, window=90 * timedelta(minutes=1)) == ["a", "b"]
        assert await ids(dao, Lead.SCORE, window=30 * timedelta(minutes=1)) == ["a"]

    async def test_gone_videos_do_not_lead(self, dao: BoardDAO, sql: Any) -> None:
        await sql.execute("UPDATE video_clock SET status = 'gone', gone_at = now() WHERE video_id = 'b'")
        assert await ids(dao) == ["c", "a"]

    async def test_equals_are_in_the_order_of_their_ids(self, dao: BoardDAO, sql: Any) -> None:
        await sql.execute("UPDATE video_clock SET velocity = 7")
        assert await ids(dao) == ["a", "b", "c", "d"]
        assert await ids(dao, most=2) == ["a", "b"]


async def store_forecast(sql: Any, video_id: str, made_at: datetime, views: int, day: float) -> None:
    """A forecast of a video."""
    await sql.execute(
        "INSERT INTO video_forecasts (video_id, made_at, views, day, week) VALUES ($1, $2, $3, $4, $4)",
        video_id,
        made_at,
        views,
        day,
    )


class TestExpected:
    @pytest.fixture(autouse=True)
    async def videos(self, sql: Any) -> None:
        gains = {"a": 100.0, "b": 300.0, "c": 200.0, "d": 900.0, "e": 950.0}
        for number, (name, gain) in enumerate(gains.items()):
            await store_video(
                sql, name, channel=f"UC-{number % 2}", category_id=10 + number, tags=[f"tag {name}"],
                clock_velocity=None if name == "a" else 1.0, clock_zone=number % 3, duration_s=100 * number,
                clock_status="gone" if name == "e" else "live",
            )  # fmt: skip
            made_at = NOON - (50 * HOUR if name == "d" else number * HOUR)
            await store_forecast(sql, name, made_at, 10_000 * number, 10_000 * number + gain)
        await store_video(sql, "unknown", clock_velocity=1e6)

    async def test_leads_by_the_views_to_be_gained(self, dao: BoardDAO) -> None:
        leaders = await dao.top(Lead.FORECAST, 10)
        assert [(leader.id, leader.leads_by) for leader in leaders] == [("b", 300), ("c", 200), ("a", 100)]
        assert await ids(dao, Lead.FORECAST, 1) == ["b"]

    async def test_filters(self, dao: BoardDAO) -> None:
        for filters, kept in (
            ({"channel": "UC-0"}, "ca"), ({"category_id": 11}, "b"), ({"zone": 2}, "c"),
            ({"tag": "TAG a"}, "a"),
            ({"length": "long"}, "c"), ({"length": "short"}, "b"), ({"broadcast": "live"}, ""),
            ({"window": HOUR}, "ba"), ({"window": 90 * HOUR}, "bca"),
        ):  # fmt: skip
            assert "".join(await ids(dao, Lead.FORECAST, **filters)) == kept, filters


class TestGrownWithin:
    async def test_goes_by_the_mean_between_first_and_last_count(self, dao: BoardDAO, sql: Any) -> None:
        for name in "abc":
            await store_video(sql, name, clock_velocity=1.0)
        # Faster before the window; bursting within; taken back at the end.
        await store_samples(sql, "a", [(NOON - 30 * HOUR, 0), (NOON - 20 * HOUR, 9_000), (NOON, 10_000)])
        await store_samples(
            sql, "b", [(NOON - 10 * HOUR, 100), (NOON - 5 * HOUR, None), (NOON - HOUR, 1_000)]
        )
        await store_samples(sql, "c", [(NOON - 10 * HOUR, 500), (NOON - 5 * HOUR, 900), (NOON, 400)])

        led = {leader.id: leader.leads_by for leader in await dao.top(Lead.VELOCITY, 10, window=24 * HOUR)}
        assert led == {"b": pytest.approx(100), "a": pytest.approx(50), "c": pytest.approx(-10)}
        assert list(led) == ["b", "a", "c"]

    async def test_does_not_believe_a_doubted_count(self, dao: BoardDAO, sql: Any) -> None:
        await store_video(sql, "a")
        counts = [(NOON - 3 * HOUR, 0), (NOON - 2 * HOUR, 81_000), (NOON - HOUR, 81_010)]
        await store_samples(sql, "a", counts)
        await sql.execute("UPDATE video_stats_log SET doubted = true WHERE views = 0")
        [leader] = await dao.top(Lead.VELOCITY, 10, window=24 * HOUR)
        assert leader.leads_by == pytest.approx(10)

    async def test_needs_two_counts_within(self, dao: BoardDAO, sql: Any) -> None:
        await store_video(sql, "a")
        await store_samples(sql, "a", [(NOON - 30 * HOUR, 10), (NOON - HOUR, 20), (NOON - HOUR / 2, None)])
        assert await ids(dao, window=24 * HOUR) == []
        assert await ids(dao, window=48 * HOUR) == ["a"]

    async def test_does_not_look_across_the_epoch(
        self, sql: Any, database: Database, settings_factory: Any
    ) -> None:
        epoch = datetime(2026, 8, 27, tzinfo=UTC)
        await store_video(sql, "a")
        await store_samples(sql, "a", [(epoch - 2 * HOUR, 0), (epoch - HOUR, 10)], methodology=1)
        await store_samples(sql, "a", [(epoch + HOUR, 5000), (epoch + 2 * HOUR, 5020)])

        for now, rate in ((epoch - HOUR, 10), (epoch + 3 * HOUR, 20)):
            dao = BoardDAO(database, clock=FixedClock(now), settings=settings_factory())
            [leader] = await dao.top(Lead.VELOCITY, 10, window=12 * HOUR)
            assert leader.leads_by == pytest.approx(rate)

    async def test_filters_too(self, dao: BoardDAO, sql: Any) -> None:
        for number, name in enumerate("abc"):
            await store_video(
                sql, name, channel=f"UC-{name}", category_id=number, tags=[name], clock_zone=number
            )
            await store_samples(sql, name, [(NOON - 2 * HOUR, 0), (NOON, number + 1)])
        day = {"window": 24 * HOUR}
        assert await ids(dao, **day) == ["c", "b", "a"]
        assert await ids(dao, **day, most=1) == ["c"]
        assert await ids(dao, **day, channel="UC-a") == ["a"]
        assert await ids(dao, **day, category_id=1) == ["b"]
        assert await ids(dao, **day, zone=0) == ["a"]
        assert await ids(dao, **day, tag="B") == ["b"]
        await sql.execute("UPDATE video_clock SET status = 'gone', gone_at = now() WHERE video_id = 'c'")
        assert await ids(dao, **day) == ["b", "a"]


class TestVideo:
    async def test_tells_everything(self, dao: BoardDAO, sql: Any) -> None:
        await store_video(sql, "a", duration_s=90, view_count=7, clock_velocity=5.5, clock_pinned_zone=0)
        await store_samples(sql, "a", [(NOON - 2 * HOUR, 10), (NOON - HOUR, None), (NOON, 30)])
        found = await dao.video("a")
        assert found is not None
        assert (found.title, found.channel_title, found.tags) == (
            "Video a",
            "Channel UC-one",
            ["lofi", "Jazz"],
        )
        assert (found.status, found.zone, found.pinned_zone, found.watched) == ("live", 0, 0, False)
        assert (found.velocity, found.last_views, found.last_at) == (5.5, 30, NOON)
        assert (found.leased, found.discovered_by) == (False, None)

        samples = await dao.samples(["a", "other"], NOON - HOUR, NOON)
        assert [(s.sampled_at, s.views, s.velocity) for s in samples["a"]] == [
            (NOON - HOUR, None, None),
            (NOON, 30, 10.0),
        ]
        assert samples["other"] == []

    async def test_of_an_unknown_id_there_is_none(self, dao: BoardDAO) -> None:
        assert await dao.video("a") is None
        assert await dao.video("a\0'; DROP TABLE videos; --") is None

    @pytest.mark.parametrize(("kind", "id_"), [("video", "a"), ("channel", "UC-one")])
    async def test_is_watched_itself_or_by_its_channel(
        self, dao: BoardDAO, sql: Any, kind: str, id_: str
    ) -> None:
        await store_video(sql, "a")
        await store_video(sql, "b", channel="UC-two")
        await sql.execute("INSERT INTO watches VALUES ($1, $2, NULL, now())", kind, id_)
        found = [await dao.video(name) for name in "ab"]
        assert [video.watched for video in found if video] == [True, False]

    async def test_its_breakouts_come_from_the_event_log(self, dao: BoardDAO, sql: Any) -> None:
        for number, (kind, video) in enumerate(
            [
                ("tracker.breakout", "a"),
                ("tracker.breakout", "b"),
                ("tracker.cycle", "a"),
                ("tracker.breakout", "a"),
            ]
        ):
            await sql.execute(
                "INSERT INTO events (at, kind, node, payload) VALUES ($1, $2, 'n', $3::jsonb)",
                NOON + number * HOUR,
                kind,
                json.dumps({"video_id": video, "times_expected": number}),
            )
        assert [(line.at, line.payload["times_expected"]) for line in await dao.breakouts("a")] == [
            (NOON + 3 * HOUR, 3),
            (NOON, 0),
        ]


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


class TestMedians:
    async def test_medians_are_of_the_newest(
        self, dao: BoardDAO, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(6):
            await store_video(
                sql, f"m{n}", channel="UC-m", duration_s=600, published_at=NOON - timedelta(days=n + 1),
                clock_last_views=10**n,
            )  # fmt: skip
        for most, videos, views in ((1000, 5, 1000), (3, 3, 100)):
            monkeypatch.setattr(board, "_MOST_IN_MEDIANS", most)
            [median] = await dao.channel_medians("UC-m", NOON - timedelta(days=2), 180)
            assert (median.is_short, median.videos, median.views) == (False, videos, views)


class TestPlans:
    """What each look reads, so that none becomes dearer unnoticed."""

    @pytest.fixture(autouse=True)
    async def many(self, sql: Any) -> None:
        await sql.execute("INSERT INTO channels VALUES ('UC-one', 'One', now(), now())")
        await sql.execute(
            "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at, tags) "
            "SELECT 'v' || n, 'UC-one', now(), now(), ARRAY['tag', 'tag ' || n % 200] "
            "FROM generate_series(1, 20000) AS n"
        )
        await sql.execute(
            "INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, "
            "metadata_at, velocity, category_id) SELECT id, channel_id, 0, 1, now(), now(), now(), random(), "
            "10 + length(id) FROM videos"
        )
        await sql.execute(
            "SELECT ensure_sample_days(ARRAY['2026-10-30', '2026-10-31', '2026-11-01']::date[])"
        )
        await sql.execute(
            "INSERT INTO video_stats_log "
            "(video_id, sampled_at, views, likes, comments, velocity, methodology) "
            "SELECT 'v' || n, day + n * interval '1 second', n, n, n, 1, 2 "
            "FROM generate_series(1, 20000) AS n, "
            "generate_series('2026-10-30'::timestamptz, '2026-11-01', '1 day') AS day"
        )
        await sql.execute("VACUUM ANALYZE videos, video_clock, channels, video_stats_log")

    async def plan(self, sql: Any, statement: str, *arguments: str) -> list[Mapping[str, Any]]:
        async with sql.transaction():
            await sql.execute(sql_of("board.plan_for_values"))
            await sql.execute(f"PREPARE looked AS {sql_of(statement)}")
            told = await sql.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE looked ({', '.join(arguments)})")
        await sql.execute("DEALLOCATE looked")
        return list(nodes(json.loads(told)[0]["Plan"]))

    @staticmethod
    def fitting(tag: str = "NULL", category: str = "NULL") -> list[str]:
        return ["NULL", category, "NULL", tag, "NULL", "180", *["NULL"] * 5]

    async def test_a_leaderboard_walks_down_its_index_and_reads_no_row(self, sql: Any) -> None:
        for category in ("NULL", "16"):
            arguments = ["'velocity'", "10", "NULL", *self.fitting(category=category), *["NULL"] * 3]
            plan = await self.plan(sql, "board.top", *arguments)
            assert [node["Node Type"] for node in plan] == ["Limit", "Index Only Scan"]
            assert plan[1]["Index Name"] == "video_clock_by_velocity"
        await sql.execute("UPDATE video_clock SET viral_score = velocity, acceleration = 20 * velocity")
        await sql.execute("VACUUM ANALYZE video_clock")
        for by, least in (("score", "0.95"), ("acceleration", "11")):
            plan = await self.plan(sql, "board.top", f"'{by}'", *arguments[1:-1], least)
            assert plan[1]["Index Name"] == f"video_clock_top_{by}s"

    @pytest.mark.parametrize("by", ["top", "top_expected"])
    async def test_a_tag_is_checked_on_the_way_or_leads_to_its_videos(self, sql: Any, by: str) -> None:
        await sql.execute(
            "INSERT INTO video_forecasts (video_id, made_at, views, day, week) "
            "SELECT id, '2026-11-01', 1, 2 + random(), 3 FROM videos"
        )
        await sql.execute("VACUUM ANALYZE video_forecasts")
        before = ["'velocity'", "10", "NULL"] if by == "top" else ["10", "'2026-10-31'"]
        after = ["NULL"] * (3 if by == "top" else 2)
        index = {"top": "video_clock_by_velocity", "top_expected": "video_forecasts_by_gain"}[by]
        of_all = await self.plan(sql, f"board.{by}", *before, *self.fitting("'TAG'"), *after)
        assert index in {node.get("Index Name") for node in of_all}
        rare = await self.plan(sql, f"board.{by}", *before, *self.fitting("'rare'"), *after)
        assert "videos_by_tag" in {node.get("Index Name") for node in rare}
        assert "Seq Scan" not in {node["Node Type"] for node in (*of_all, *rare)}

    async def test_a_window_reads_only_its_days_and_the_steep_steps_of_them(self, sql: Any) -> None:
        arguments = ["10", "'2026-11-01 00:30Z'", "'2026-11-01 12:00Z'", "2", *self.fitting()[:9], "NULL"]
        grown = ["15", "NULL", "NULL", "false"]
        for statement, further in (("top_grown", grown), ("growth_of_fastest", [])):
            plan = await self.plan(sql, f"board.{statement}", *arguments, *further)
            read = {node["Relation Name"] for node in plan if "_log" in node.get("Relation Name", "")}
            assert read == {"video_stats_log_20261101"}
            indexes = {node.get("Index Name") for node in plan}
            assert ("video_stats_log_20261101_velocity_video_id_sampled_at_idx" in indexes) == bool(further)

    async def test_what_grew_among_few_is_looked_for_from_the_few(self, sql: Any) -> None:
        arguments = [
            "10",
            "'2026-11-01 00:30Z'",
            "'2026-11-01 12:00Z'",
            "2",
            *self.fitting("'rare'")[:9],
            "NULL",
        ]
        plan = await self.plan(sql, "board.top_grown", *arguments, "15", "NULL", "NULL", "true")
        assert "videos_by_tag" in {node.get("Index Name") for node in plan}

    @pytest.mark.parametrize(
        ("statement", "arguments"),
        [
            ("board.channel", ("'UC-1'",)),
            ("board.uploads", ("'UC-1'", "20")),
            ("board.channel_medians", ("'UC-1'", "'2026-11-01Z'", "180", "1000")),
        ],
    )
    async def test_a_channels_videos_are_found_by_their_channel(
        self, sql: Any, statement: str, arguments: tuple[str, ...]
    ) -> None:
        await sql.execute(
            "INSERT INTO channels SELECT 'UC-' || n, 'x', now(), now() FROM generate_series(1, 200) AS n"
        )
        await sql.execute("UPDATE videos SET channel_id = 'UC-' || (1 + abs(hashtext(id)) % 200)")
        await sql.execute("ANALYZE videos, channels")
        await sql.execute("SET plan_cache_mode = force_generic_plan")
        plan = await self.plan(sql, statement, *arguments)
        assert "videos_by_channel" in {node.get("Index Name") for node in plan}
        assert ("Seq Scan", "videos") not in {(node["Node Type"], node.get("Relation Name")) for node in plan}

    async def test_samples_of_some_videos_are_found_by_their_key(self, sql: Any) -> None:
        plan = await self.plan(sql, "board.samples", "ARRAY['v7', 'v8']", "'2026-10-31Z'", "'2026-11-02Z'")
        read = {
            (node["Node Type"], node["Relation Name"])
            for node in plan
            if "video_stats_log" in node.get("Relation Name", "")
        }
        assert {relation for _, relation in read} == {"video_stats_log_20261031", "video_stats_log_20261101"}
        assert {kind for kind, _ in read} <= {"Index Scan", "Bitmap Heap Scan"}

"""The hunter by its plan: forms of search, charts, yields, judging and health, against the emulator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from atlas.adapters.discovery import ArmYield, DiscoveryDAO, NewQuestion, PlannedArm
from atlas.adapters.graph import Attention, Evidence, GraphDAO, Link, Node, Sources, node_handle
from atlas.adapters.graph_communities import GraphCommunitiesDAO
from atlas.adapters.patterns import Model, PatternsDAO
from atlas.adapters.queue import SEED_WEIGHT
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import DiscoverySettings
from atlas.errors import ConfigError, LeaseLost
from atlas.queries import SearchParameters
from atlas.testing import NOON, SettingsFactory
from maia.cycle.expectations import SUCCESS_MODEL
from maia.discovery import judging
from maia.discovery.forms import FORMS, REGIONS_EVERY
from maia.discovery.history import History
from maia.discovery.search import TOKEN_LIFETIME
from maia.discovery.source import WATCH
from maia.emulator import Emulator
from maia.emulator.catalogue import Catalogue, CatalogueChannel, CatalogueVideo, new_catalogue
from maia.emulator.curves import Sample
from maia.hunter.cycle import Hunter
from maia.learning.success import Outcome, SuccessPredictor, known_before
from maia.learning.topics import TopicRecord, choose
from maia.views.video import video
from tests.interference import Interferer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_waits")]

HOUR = timedelta(hours=1)
DAY = date(2026, 11, 2)
KEYS = json.dumps([{"key": "demo-one", "project": "demo"}])
SUBJECTS = ("cats", "gardens", "trains", "city walks")
PER_HOUR, HOURS = 6, 96
OF_A_DAY, GROWING = 37, 13
"""Videos of cats of the last 24 hours, and those of them that grow."""
Hunting = Callable[..., AbstractAsyncContextManager[Hunter]]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Six videos an hour for four days around noon; one in six gets 1,000 views an hour, the others 10."""
    path = tmp_path_factory.mktemp("catalogue") / "mixed.sqlite"
    first = int((NOON - timedelta(hours=HOURS - 24)).timestamp())
    with new_catalogue(path, {"made_by": "test"}) as writer:
        writer.add_channels(CatalogueChannel(f"UC{n:022d}", f"Channel {n}") for n in range(8))
        for n in range(HOURS * PER_HOUR):
            hour, of_hour = divmod(n, PER_HOUR)
            subject = SUBJECTS[n % len(SUBJECTS)]
            at = first + hour * 3600 + of_hour * 600
            rate = 1000 if of_hour == 0 else 10
            video = CatalogueVideo(
                f"video{n:06d}", f"UC{n % 8:022d}", f"{subject} number {n}", at, category_id=10 + 5 * (n % 3),
                tags=(subject, f"breed {n % 7}", f"mood {n}"),
            )  # fmt: skip
            samples = [Sample(at + 60, 0, 0, 0)]
            samples += [Sample(at + h * 3600, rate * h, h, 0) for h in (1, 6, 24, 48)]
            writer.add(video, f"Channel {n % 8}", samples)
    with Catalogue.open(path) as opened:
        yield opened


@pytest.fixture
def hunting(settings_factory: SettingsFactory, emulator: Emulator, clock: FixedClock) -> Hunting:
    @asynccontextmanager
    async def open_hunter(*seeds: str, only: str | None = None, **groups: Any) -> AsyncIterator[Hunter]:
        """A hunter without feeds and uploads; with `only`, all searches are of this arm."""
        youtube = {"base_url": emulator.url} | groups.pop("youtube", {})
        quota = {"pacing": False} | groups.pop("quota", {})
        discovery = {"off": ("feeds", "uploads", "charts")} | groups.pop("discovery", {})
        if only:
            arms = tuple(form.arm for form in FORMS if form.arm != only)
            discovery = discovery | {"off": (*discovery["off"], *arms)}
        settings = settings_factory(
            youtube_api_key_pool_json=KEYS, youtube=youtube, quota=quota, discovery=discovery, **groups
        )
        async with Atlas.open(settings, clock=clock) as atlas, Hunter.open(atlas) as hunter:
            if seeds:
                await hunter.dao.seed(seeds)
            yield hunter

    return open_hunter


def searches(emulator: Emulator) -> list[dict[str, str]]:
    return [dict(call.parameters) for call in emulator.calls if call.method == "search.list"]


STEPS = "SELECT payload FROM events WHERE kind = 'hunter.step' ORDER BY payload->'context'->>'category'"


async def add_graph_of_cats(atlas: Atlas) -> None:
    """Cats are mostly pets, and their tag is in the community of kittens."""
    categories = [
        Link("inherits", (Node("topic", "cats"), Node("category", number)), Evidence(1), share)
        for number, share in (("10", 0.3), ("15", 0.7))
    ]
    graph = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await graph.add([*categories, Node("tag", "cats")], Sources.FACTS)
    standing = GraphCommunitiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await standing.set_numbers("community", [node_handle("tag", "cats")], [3.0])
    await standing.group({3: [node_handle("tag", "kittens"), node_handle("tag", "cats")]}, 0.5)


async def expect_failures_of(atlas: Atlas, *, category: str) -> None:
    """Let the learner know that questions about this category fail, and no others."""
    predictor = SuccessPredictor()
    contexts = [known_before("hunter", "search:date", {"category": each}, NOON) for each in (category, None)]
    predictor.learn_many(
        [Outcome(contexts[n % 2], n % 2 == 1, None if n % 2 else "service") for n in range(600)]
    )
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.save_models([Model(SUCCESS_MODEL, 1, predictor.state(), 600)])


async def claims(sql: Any) -> int:
    """How many topics and questions are under lease."""
    held: int = await sql.fetchval(
        "SELECT (SELECT count(*) FROM search_queue WHERE lease_token IS NOT NULL)"
        " + (SELECT count(*) FROM discovery_asks WHERE lease_token IS NOT NULL)"
    )
    return held


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


class TestPlan:
    async def test_the_first_hunter_makes_it_and_all_follow_it(
        self, hunting: Hunting, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting("cats") as one, hunting() as other:
            await asyncio.gather(one.cycle(), other.cycle(), one.cycle())
            plan = await one.discovery.plan(DAY)
        assert {arm.arm for arm in plan} == {form.arm for form in FORMS}
        assert sum(arm.share for arm in plan) == pytest.approx(1)
        assert all(arm.share >= arm.least_share > 0 for arm in plan)
        assert {arm.reason for arm in plan} == {"nothing judged yet: by its prior"}
        events = await sql.fetch("SELECT payload FROM events WHERE kind = 'hunter.plan'")
        assert len(events) == 1
        told = json.loads(events[0]["payload"])
        assert (told["pacific_day"], len(told["arms"])) == ("2026-11-02", len(FORMS))

    async def test_every_day_has_its_own(self, hunting: Hunting, clock: FixedClock) -> None:
        async with hunting("cats") as hunter:
            await hunter.cycle(2)
            clock.advance(timedelta(days=1))
            await hunter.cycle(2)
            assert len(await hunter.discovery.plan(DAY)) == len(FORMS)
            assert len(await hunter.discovery.plan(DAY + timedelta(days=1))) == len(FORMS)

    async def test_pins_are_kept_and_what_is_off_is_never_asked(
        self, hunting: Hunting, emulator: Emulator
    ) -> None:
        discovery = {"pins": {"search:slices": 0.5, "search:date": 0.25}, "off": ("feeds", "search:any")}
        async with hunting("cats", discovery=discovery) as hunter:
            await hunter.cycle(20)
            plan = {arm.arm: arm for arm in await hunter.discovery.plan(DAY)}
        assert (plan["search:slices"].share, plan["search:date"].share) == (0.5, 0.25)
        assert plan["search:slices"].reason == "pinned by a setting"
        assert "search:any" not in plan
        assert not any(
            "|" in search.get("q", "") and search["order"] == "viewCount" for search in searches(emulator)
        )

    @pytest.mark.parametrize(
        ("discovery", "message"),
        [
            ({"pins": {"search:nothing": 0.5}}, "PINS names 'search:nothing'"),
            ({"off": ("chart",)}, "OFF names 'chart', which is none of charts"),
            ({"pins": {"feeds": 0.5}}, "PINS names 'feeds'"),
            ({"pins": {"search:slices": 0.7, "search:date": 0.7}}, "PINS can't be kept: .* up to 1.4"),
            ({"off": ("search", "feeds", "uploads", "charts")}, "OFF switches every source off"),
        ],
    )
    async def test_unknown_arms_in_settings_are_a_clear_error(
        self, hunting: Hunting, discovery: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            async with hunting(discovery=discovery):
                pass

    async def test_the_original_order_needs_search(self, hunting: Hunting) -> None:
        with pytest.raises(ConfigError, match="STRATEGY=specification does nothing else"):
            async with hunting(hunter={"strategy": "specification"}, discovery={"off": ("search",)}):
                pass

    async def test_without_search_nobody_is_told_to_seed_topics(self, hunting: Hunting) -> None:
        async with hunting(discovery={"off": ("search", "uploads", "charts")}) as hunter:
            statistics = await hunter.cycle()
        assert (statistics.outcome, statistics.detail) == ("idle", "there is nothing to ask now: wait")

    async def test_what_was_refused_is_not_asked_in_the_turn_of_others(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        """YouTube counts a refused call, so its unit stays taken; what was never asked gives it back."""
        emulator.set_faults(["invalid-parameter:1:search.list"])
        async with hunting("cats", "dogs") as hunter:
            await hunter.cycle(8)
        rows = await sql.fetch("SELECT arm, claimed FROM discovery_plan WHERE bucket = 'search'")
        assert sum(row["claimed"] for row in rows) == len(searches(emulator)) > 0

    async def test_every_unit_of_an_answer_counts_as_taken(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        """A first visit that finds nothing asks once more."""
        async with hunting("nothing like this", only="search:views") as hunter:
            await hunter.cycle(1)
        assert len(searches(emulator)) == 2
        assert await sql.fetchval("SELECT claimed FROM discovery_plan WHERE arm = 'search:views'") == 2

    async def test_units_are_taken_as_the_shares_say_at_any_time_of_the_day(self, atlas: Atlas) -> None:
        dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        shares = {"search:a": 0.5, "search:b": 0.3, "search:c": 0.15, "search:d": 0.05}
        await dao.make_plan(DAY, [planned(arm, share) for arm, share in shares.items()])
        taken: Counter[str] = Counter()
        for n in (1, 2, 3, 4, 10, 30, 50):
            taken.update(await dao.take_units(DAY, "search", n, shares))
            total = taken.total()
            assert all(abs(taken[arm] - share * total) <= 1 for arm, share in shares.items())
        assert taken == {"search:a": 50, "search:b": 30, "search:c": 15, "search:d": 5}

    async def test_units_taken_side_by_side_follow_the_shares_too(self, atlas: Atlas) -> None:
        dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        shares = {"search:a": 0.5, "search:b": 0.3, "search:c": 0.2}
        await dao.make_plan(DAY, [planned(arm, share) for arm, share in shares.items()])
        taken: Counter[str] = Counter()
        for each in await asyncio.gather(*(dao.take_units(DAY, "search", 2, shares) for _ in range(50))):
            taken.update(each)
        assert taken == {"search:a": 50, "search:b": 30, "search:c": 20}
        assert {arm.arm: arm.claimed for arm in await dao.plan(DAY)} == taken

    async def test_an_arm_that_is_switched_on_joins_the_days_plan(
        self, hunting: Hunting, emulator: Emulator
    ) -> None:
        async with hunting("cats", only="search:views") as hunter:
            await hunter.cycle()
            assert [arm.arm for arm in await hunter.discovery.plan(DAY)] == ["search:views"]
        async with hunting("gardens", only="search:date") as hunter:
            assert (await hunter.cycle(1)).pages == 1
            assert len(await hunter.discovery.plan(DAY)) == 2
        assert [search["order"] for search in searches(emulator)] == ["viewCount", "date"]

    async def test_arms_that_have_nothing_to_ask_leave_their_units_to_the_others(
        self, hunting: Hunting
    ) -> None:
        """There is no topic, so slices, regions and categories get all."""
        async with hunting() as hunter:
            statistics = await hunter.cycle(20)
            plan = {arm.arm: arm for arm in await hunter.discovery.plan(DAY)}
        assert set(statistics.arms) == {"search:slices", "search:regions", "search:categories"}
        assert statistics.pages == statistics.asks == sum(arm.claimed for arm in plan.values())
        assert all(plan[arm].claimed == counts["asks"] for arm, counts in statistics.arms.items())

    async def test_a_lost_plan_lock_makes_no_second_plan(self, atlas: Atlas) -> None:
        dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        arms = [planned("search:a", 1.0)]
        assert sorted(await asyncio.gather(*(dao.make_plan(DAY, arms) for _ in range(8)))) == [False] * 7 + [
            True
        ]


def planned(arm: str, share: float) -> PlannedArm:
    return PlannedArm(arm, "search", share, min(share, 0.01), 1.0, 0.5, 2.0, "a test")


class TestForms:
    async def test_one_topic_is_bounded_by_the_window_and_rests_afterwards(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting("cats", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            statistics = await hunter.cycle()
        (search,) = searches(emulator)
        assert (search["q"], search["order"]) == ("cats", "viewCount")
        assert instant(search["publishedAfter"]) == NOON - 24 * HOUR
        topic = await sql.fetchrow("SELECT * FROM search_queue")
        assert (topic["status"], topic["page_token"], topic["pages_total"]) == ("cooling", None, 1)
        assert (topic["asks_total"], topic["early_total"]) == (1, statistics.early)
        assert topic["asked_at"] == NOON
        assert statistics.new == statistics.early == OF_A_DAY

    async def test_a_first_visit_that_finds_nothing_asks_once_without_the_window(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        # "mood 10" was published 70 hours ago.
        async with hunting("mood 10", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            statistics = await hunter.cycle()
            clock.advance(timedelta(days=2))
            again = await hunter.cycle()
            units = {day.units for day in await hunter.discovery.yields_since(DAY)}
        bounded, without, later = searches(emulator)
        assert "publishedAfter" in bounded
        assert "publishedAfter" not in without
        assert "publishedAfter" in later
        assert (statistics.found, statistics.new, statistics.early) == (1, 1, 0)
        assert statistics.units == {"search": 2, "general": 1}
        assert (again.found, again.units) == (0, {"search": 1})
        assert units == {2, 1}

    async def test_a_next_page_is_asked_while_half_of_the_last_was_new_and_looks_growing(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        await sql.execute("UPDATE discovery_state SET growing_views_per_hour = 100")
        rules = {"tags_per_video": 0, "results_per_page": 4}
        async with hunting("cats", only="search:views", hunter=rules) as hunter:
            pages = []
            for _ in range(4):
                clock.advance(timedelta(minutes=1))
                pages.append(await hunter.cycle())
        # Every other hour a video of cats grows, the last one too lately to show it.
        asked = searches(emulator)
        growing = await sql.fetchval("SELECT count(*) FROM videos WHERE view_count >= 900")
        assert growing == 11
        assert [page.pages for page in pages] == [1, 1, 1, 1]
        assert ["pageToken" in search for search in asked] == [False, True, True, True]
        assert len({json.dumps({**search, "pageToken": ""}, sort_keys=True) for search in asked}) == 1
        assert (await sql.fetchval("SELECT status FROM search_queue")) == "cooling"

    async def test_a_page_token_of_a_form_that_is_too_old_is_dropped(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        await sql.execute("UPDATE discovery_state SET growing_views_per_hour = 100")
        rules = {"tags_per_video": 0, "results_per_page": 4}
        async with hunting("cats", only="search:views", hunter=rules) as hunter:
            await hunter.cycle()
            clock.advance(TOKEN_LIFETIME)
            await hunter.cycle()
        first, second = searches(emulator)
        assert "pageToken" not in second
        assert instant(second["publishedAfter"]) - instant(first["publishedAfter"]) == TOKEN_LIFETIME

    async def test_several_topics_are_joined_and_each_is_credited_by_what_carries_it(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        async with hunting(*SUBJECTS, only="search:any", hunter={"tags_per_video": 0}) as hunter:
            statistics = await hunter.cycle(1)
            other = await hunter.cycle(1)
        (search,) = searches(emulator)
        assert sorted(search["q"].split("|")) == ['"city walks"', "cats", "gardens", "trains"]
        assert (statistics.asks, statistics.topics, other.outcome) == (1, 4, "idle")
        topics = {row["query"]: row for row in await sql.fetch("SELECT * FROM search_queue")}
        assert {row["status"] for row in topics.values()} == {"cooling"}
        assert {row["asks_total"] for row in topics.values()} == {0.25}
        credited = {query: row["early_total"] for query, row in topics.items()}
        stored = await sql.fetch("SELECT tags[1] AS subject, count(*) AS n FROM videos GROUP BY 1")
        assert credited == {row["subject"]: row["n"] for row in stored}
        assert sum(credited.values()) == statistics.new == 50

    @pytest.mark.parametrize("is_killed", [False, True])
    async def test_a_joined_question_taken_up_again_credits_its_topics(
        self, hunting: Hunting, sql: Any, is_killed: bool
    ) -> None:
        """Be it for its second page, or because the hunter that asked it was killed."""
        rules = {"tags_per_video": 0, "results_per_page": 10}
        async with hunting(*SUBJECTS, only="search:any", hunter=rules) as hunter:
            if is_killed:
                await hunter.fetch_batch(1)
                await sql.execute("UPDATE discovery_asks SET lease_until = '-infinity'")
            else:
                assert (await hunter.cycle(1)).pages == 1
            assert (await hunter.cycle(1)).new == 10
        met = await sql.fetch(
            "SELECT v.tags[1] AS subject, q.query AS topic FROM video_sources AS m "
            "JOIN videos AS v ON v.id = m.video_id LEFT JOIN search_queue AS q ON q.id = ANY (m.topics)"
        )
        assert [row["topic"] for row in met] == [row["subject"] for row in met]
        assert len(met) == (10 if is_killed else 20)
        topics = await sql.fetch("SELECT query, asks_total, early_total FROM search_queue")
        assert {row["asks_total"] for row in topics} == {0.25 if is_killed else 0.5}
        early = Counter(row["subject"] for row in met)
        assert {row["query"]: row["early_total"] for row in topics} == {
            subject: early[subject] for subject in SUBJECTS
        }

    async def test_a_topic_with_parameters_or_operators_of_its_own_is_never_joined(
        self, hunting: Hunting, emulator: Emulator
    ) -> None:
        async with hunting("cats", only="search:any") as hunter:
            await hunter.dao.seed(["gardens"], SearchParameters(region="JP"))
            await hunter.dao.seed(["boating|sailing -fishing"])
            await hunter.cycle()
        assert [search["q"] for search in searches(emulator)] == ["cats"]

    async def test_slices_go_on_where_the_last_one_ended(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting(only="search:slices", hunter={"tags_per_video": 0}) as hunter:
            for _ in range(3):
                await hunter.cycle(4)
                clock.advance(4 * HOUR)
        spans = sorted(
            (instant(search["publishedAfter"]), instant(search["publishedBefore"]))
            for search in searches(emulator)
        )
        assert all(search["order"] == "viewCount" and "q" not in search for search in searches(emulator))
        assert all(one[1] == other[0] for one, other in pairwise(spans))
        assert spans[-1][1] == NOON + 8 * HOUR - DiscoverySettings().slice_lag_h * HOUR
        # From six hours before the first ones' end to the last one's, both ends included.
        assert await sql.fetchval("SELECT count(*) FROM videos") == PER_HOUR * 14 + 1

    async def test_a_region_is_asked_again_only_after_its_time(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock
    ) -> None:
        regions = {"off": ("feeds", "uploads", "charts"), "regions": ("GB", "JP")}
        async with hunting(only="search:regions", discovery=regions) as hunter:
            first = await hunter.cycle()
            assert (await hunter.cycle()).outcome == "idle"
            clock.advance(REGIONS_EVERY)
            await hunter.cycle()
        assert first.asks == 2
        assert [search["regionCode"] for search in searches(emulator)] == ["GB", "JP", "GB", "JP"]

    async def test_what_is_stored_and_fresh_costs_no_unit_again_and_is_met(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting("cats", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            await hunter.cycle()
        async with hunting("cats", only="search:relevance", hunter={"tags_per_video": 0}) as hunter:
            await sql.execute("UPDATE search_queue SET status = 'active', cool_until = NULL")
            again = await hunter.cycle()
            first = await sql.fetchval("SELECT id FROM videos ORDER BY id LIMIT 1")
            view = await video(hunter.atlas, first)
        assert view is not None
        assert [(each.arm, each.is_first) for each in view.sources] == [
            ("search:views", True), ("search:relevance", False),
        ]  # fmt: skip
        assert (again.found, again.new, again.updated, again.units) == (OF_A_DAY, 0, 0, {"search": 1})
        rows = await sql.fetch(
            "SELECT arm, is_first, count(*) AS n FROM video_sources GROUP BY 1, 2 ORDER BY 1"
        )
        assert [tuple(row) for row in rows] == [
            ("search:relevance", False, OF_A_DAY),
            ("search:views", True, OF_A_DAY),
        ]

    async def test_several_searches_share_their_enrichment(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        topics = [f"mood {n}" for n in range(300, 320)]
        rules = {"tags_per_video": 0, "batch_size": 9}
        async with hunting(*topics, only="search:views", hunter=rules) as hunter:
            statistics = await hunter.cycle()
            (day,) = await hunter.discovery.yields_since(DAY)
        # The first goes alone, the others four by four.
        assert (statistics.new, statistics.units) == (9, {"search": 9, "general": 3})
        assert day.enrichments == pytest.approx(3)

    async def test_new_seeds_come_before_all_tags(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        async with hunting(only="search:date") as hunter:
            await hunter.dao.add_to_search_queue([f"mood {n}" for n in range(100)])
            await hunter.dao.seed(["cats", "gardens"])
            await hunter.cycle(2)
        assert {search["q"] for search in searches(emulator)} == {"cats", "gardens"}

    @pytest.mark.parametrize("steer", [True, False])
    async def test_the_category_reaches_the_choice_and_attention_if_it_steers(
        self, hunting: Hunting, monkeypatch: pytest.MonkeyPatch, steer: bool
    ) -> None:
        seen: dict[str, tuple[float, int | None]] = {}

        def choosing(topics: Sequence[TopicRecord], *args: Any, **options: Any) -> tuple[TopicRecord, ...]:
            seen.update({topic.query: (topic.attention, topic.category) for topic in topics})
            return choose(topics, *args, **options)

        monkeypatch.setattr("maia.discovery.search.choose", choosing)
        async with hunting(only="search:date", graph={"steer": steer}) as hunter:
            await hunter.dao.add_to_search_queue(["Cats", "gardens"])
            graph = GraphDAO(hunter.atlas.db, clock=hunter.atlas.clock, settings=hunter.atlas.settings)
            await graph.add(
                [Link("inherits", (Node("topic", "cats"), Node("category", "15")), Evidence(1), 0.7)]
            )
            await graph.attend({node_handle("topic", "cats"): Attention(3, 0)}, hunter.atlas.clock.now())
            await hunter.cycle(1)
        assert seen == {"Cats": (3.0 if steer else 0.0, 15), "gardens": (0.0, None)}

    async def test_contexts_of_asks_have_what_the_graph_knows_of_topics(
        self, hunting: Hunting, sql: Any
    ) -> None:
        async with hunting(only="search:date", graph={"enabled": False}) as hunter:
            await hunter.dao.seed(["Cats", "gardens"])
            await add_graph_of_cats(hunter.atlas)
            without = await hunter.search.claim({"search:date": 4})
            await hunter.release(without)
            assert not any(ask.known for ask in without)
        async with hunting(only="search:date") as hunter:
            await expect_failures_of(hunter.atlas, category="Pets & Animals")
            await hunter.cycle(2)
        steps = [json.loads(row["payload"]) for row in await sql.fetch(STEPS)]
        known = {"category": "Pets & Animals", "community": node_handle("tag", "kittens").hex[:2]}
        cats, gardens = (step["context"] for step in steps)
        assert cats == gardens | known
        assert known.keys().isdisjoint(gardens), "of gardens the graph knows nothing"
        success_of_cats, success_of_gardens = (step["expected"]["success"] for step in steps)
        assert success_of_cats < 0.3 < 0.5 < success_of_gardens

    async def test_topics_never_asked_get_their_part_and_none_is_asked_for_ever(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting(only="search:date", hunter={"tags_per_video": 0}) as hunter:
            await hunter.dao.add_to_search_queue([f"mood {n}" for n in range(60)])
            for _ in range(48):
                await hunter.cycle(1)
                clock.advance(26 * HOUR)
        asked = Counter(search["q"] for search in searches(emulator))
        # A third of the questions, four of the first.
        assert 12 <= len(asked) <= 40


class TestCharts:
    async def test_each_is_asked_by_one_hunter_and_again_only_after_its_time(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        discovery = {"off": ("feeds", "uploads", "search"), "regions": ("GB", "JP")}
        async with hunting(discovery=discovery) as one, hunting(discovery=discovery) as other:
            both = await asyncio.gather(one.cycle(), other.cycle())
            assert (await one.cycle()).outcome == "idle"
            clock.advance(timedelta(hours=6))
            again = await one.cycle()
        charts = [dict(call.parameters) for call in emulator.calls if call.method == "videos.list"]
        assert sum(cycle.asks for cycle in both) == again.asks == 6
        assert {(chart["regionCode"], chart["videoCategoryId"]) for chart in charts[:6]} == {
            (region, category) for region in ("GB", "JP") for category in ("10", "20", "1")
        }
        assert len(charts) == 12
        # Charts come whole: no unit is spent on metadata.
        assert sum(cycle.units.get("general", 0) for cycle in both) == 6
        assert {row["arm"] for row in await sql.fetch("SELECT arm FROM video_sources")} == {"charts"}


class TestSafety:
    async def test_three_hunters_never_ask_the_same_and_overspend_nothing(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        quota = {"limits": {"search": 40, "stats": 0, "general": 1000}}
        async with (
            hunting(*SUBJECTS, quota=quota) as one,
            hunting(quota=quota) as two,
            hunting(quota=quota) as three,
        ):
            for _ in range(4):
                await asyncio.gather(*(hunter.cycle(6) for hunter in (one, two, three)))
            ledger = {line.bucket: line for line in await one.keys.ledger()}
            claimed = sum(arm.claimed for arm in await one.discovery.plan(DAY))
        asked = [json.dumps(search, sort_keys=True) for search in searches(emulator)]
        assert len(asked) == len(set(asked))
        assert ledger["search"].used == len(asked) <= 39
        assert (ledger["search"].reserved, ledger["general"].reserved) == (0, 0)
        # Searches without the window, after one that found nothing, come on top of what was claimed.
        without = sum("publishedAfter" not in search for search in searches(emulator))
        assert claimed == len(asked) - without
        assert await claims(sql) == 0

    async def test_a_question_of_a_hunter_that_vanished_is_asked_again(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        async with hunting(only="search:slices", hunter={"tags_per_video": 0}) as hunter:
            batch = await hunter.fetch_batch(2)
            assert (await hunter.fetch_batch(2)).asks == ()
            await sql.execute("UPDATE discovery_asks SET lease_until = clock_timestamp() - interval '1 s'")
            again = await hunter.fetch_batch(2)
            assert {ask.key for ask in again.asks} == {ask.key for ask in batch.asks}
            (page,) = await hunter.enrich([await hunter.put(batch.asks[0])])
            with pytest.raises(LeaseLost):
                await hunter.ingest(page)
        assert await sql.fetchval("SELECT count(*) FROM videos") == 0
        assert await sql.fetchval("SELECT count(*) FROM discovery_yields") == 0

    async def test_what_was_not_begun_is_given_back_with_its_units(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        emulator.set_faults(["latency-15s:1"])
        async with hunting(*SUBJECTS, youtube={"timeout_s": 100, "total_timeout_s": 200}) as hunter:
            cycle = asyncio.create_task(hunter.cycle(20))
            while not searches(emulator):
                await asyncio.sleep(0.01)
            cycle.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cycle
            claimed = {arm.arm: arm.claimed for arm in await hunter.discovery.plan(DAY)}
        assert set(claimed.values()) == {0}
        rows = await sql.fetch("SELECT attempts, lease_token FROM search_queue")
        assert {tuple(row) for row in rows} == {(0, None)}
        assert await claims(sql) == 0

    async def test_a_429_releases_everything_and_ends_the_process(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        emulator.set_faults(["429-day:1:search.list"])
        async with hunting(*SUBJECTS) as hunter:
            with pytest.raises(SystemExit) as ended:
                await hunter.cycle(20)
            assert (await hunter.cycle()).outcome == "closed"
        assert ended.value.code == 75
        assert await claims(sql) == 0

    async def test_a_429_of_a_feed_ends_the_process_once_all_that_was_paid_for_is_stored(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        discovery = {"off": ("uploads", "charts")}
        async with hunting("cats", "dogs", only="search:views") as hunter:
            await hunter.cycle(1)
        emulator.set_faults(["429:1:feed"])
        before = len(searches(emulator))
        async with hunting("birds", "fish", discovery=discovery) as hunter:
            with pytest.raises(SystemExit, match="75"):
                await hunter.cycle(10)
        asked = len(searches(emulator)) - before
        assert asked > 2
        stored = await sql.fetchval("SELECT sum(units) FROM discovery_yields WHERE arm LIKE 'search:%'")
        assert stored == before + asked
        assert await claims(sql) == 0
        assert await sql.fetchval("SELECT looks FROM feed_pace") == 1

    async def test_a_page_that_cannot_be_stored_leaves_no_yield_and_is_asked_again(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        async with hunting(only="search:slices", hunter={"tags_per_video": 0, "batch_size": 2}) as hunter:
            await sql.execute("ALTER TABLE videos ADD CONSTRAINT picky CHECK (title NOT LIKE '%number 419')")
            refused = await hunter.cycle()
            await sql.execute("ALTER TABLE videos DROP CONSTRAINT picky")
            mended = await hunter.cycle()
            (day,) = await hunter.discovery.yields_since(DAY)
        assert (refused.pages, refused.skipped) == (1, {"database": 1})
        assert (mended.pages, day.asks, day.new) == (1, 2, refused.new + mended.new)


PROGRAM = """
import asyncio
from atlas.config import Settings
from maia.cycle.agent import run_directly
from maia.hunter.cycle import Hunter
asyncio.run(run_directly(Hunter, Settings(), 6, 1000))
"""


async def test_hunters_killed_again_and_again_store_each_answer_once(
    hunting: Hunting, emulator: Emulator, environment: dict[str, str], sql: Any, tmp_path: Path
) -> None:
    async with hunting(*SUBJECTS) as hunter:
        await hunter.planner.today({"search": 98})
    ours = {
        "PLEIADES_YOUTUBE__BASE_URL": emulator.url, "PLEIADES_QUOTA__PACING": "false",
        "PLEIADES_HUNTER__LEASE_S": "2", "PLEIADES_DISCOVERY__OFF": "feeds,uploads,charts",
        "YOUTUBE_API_KEY_POOL_JSON": KEYS, "PYTHONPATH": str(Path.cwd()),
        "PLEIADES_CLOCK__START": NOON.isoformat(), "PLEIADES_CLOCK__ANCHOR": datetime.now(UTC).isoformat(),
    }  # fmt: skip

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, env=environment | ours, cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    for _ in range(3):
        processes = [await start() for _ in range(3)]
        seen = len(emulator.calls)
        while len(emulator.calls) < seen + 6 and any(p.returncode is None for p in processes):
            await asyncio.sleep(0.02)
        for process in processes:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in processes))
    asked, stored = len(searches(emulator)), await sql.fetchval("SELECT sum(asks) FROM discovery_yields")
    used = await sql.fetchval("SELECT sum(used + reserved) FROM quota_ledger WHERE bucket = 'search'")
    assert 0 < stored <= asked <= used <= 98
    counted = await sql.fetchrow(
        "SELECT sum(new)::int AS new, sum(early)::int AS early FROM discovery_yields"
    )
    assert counted["new"] == await sql.fetchval("SELECT count(*) FROM videos")
    assert counted["new"] == await sql.fetchval("SELECT count(*) FROM video_sources WHERE is_first")
    assert counted["early"] == await sql.fetchval("SELECT count(*) FROM video_sources WHERE is_early")


class TestJudging:
    async def test_the_arm_and_the_topics_that_found_a_growing_video_first_get_the_credit(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting(only="search:views", hunter={"tags_per_video": 5}) as hunter:
            await hunter.dao.add_to_search_queue(["cats"])
            await hunter.cycle()
            before = dict(await sql.fetch("SELECT query, priority FROM search_queue"))
            clock.advance(25 * HOUR)
            await sample_all(hunter, sql)
            await judging.judge(hunter.atlas)
            (day,) = await hunter.discovery.yields_since(DAY)
            threshold = await hunter.discovery.growing_views_per_hour()
        assert (day.early, day.judged, day.growing) == (OF_A_DAY, OF_A_DAY, GROWING)
        assert threshold == 100
        topic = await sql.fetchrow("SELECT * FROM search_queue WHERE query = 'cats'")
        assert (topic["judged_total"], topic["early_growing_total"]) == (OF_A_DAY, GROWING)
        rows = await sql.fetch(
            "SELECT growing, views_per_hour FROM video_sources WHERE judged_at IS NOT NULL"
        )
        assert Counter((row["growing"], round(row["views_per_hour"])) for row in rows) == {
            (True, 1000): GROWING,
            (False, 10): OF_A_DAY - GROWING,
        }
        carried = await sql.fetchrow("SELECT * FROM search_queue WHERE query = 'breed 4'")
        growing = await sql.fetchval(
            "SELECT count(*) FROM videos JOIN video_sources ON video_id = id AND growing"
            " WHERE 'breed 4' = ANY (tags)"
        )
        assert carried["growing_mentions"] == growing > 0
        # Being a tag of growing videos is context; having found them raises the priority.
        assert carried["priority"] == before["breed 4"]
        assert topic["priority"] > before["cats"] + 2

    async def test_it_is_done_at_most_once_an_hour_by_whichever_hunter_comes(
        self, hunting: Hunting, clock: FixedClock
    ) -> None:
        async with hunting() as hunter:
            results = await asyncio.gather(*(judging.judge(hunter.atlas) for _ in range(5)))
            assert sum(result is not None for result in results) == 1
            clock.advance(timedelta(minutes=59))
            assert await judging.judge(hunter.atlas) is None
            clock.advance(timedelta(minutes=1))
            assert await judging.judge(hunter.atlas) is not None

    async def test_videos_without_a_count_after_a_day_wait_and_are_given_up_in_the_end(
        self, hunting: Hunting, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting("cats", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            await hunter.cycle()
            clock.advance(30 * HOUR)
            waiting = await judging.judge(hunter.atlas)
            clock.advance(90 * HOUR)
            given_up = await judging.judge(hunter.atlas)
            (day,) = await hunter.discovery.yields_since(DAY)
        assert waiting is not None
        assert given_up is not None
        # Those that were found just before 24 hours are known by that count, whether they grow or not.
        known = await sql.fetch(
            "SELECT age_h, growing, views_per_hour FROM video_sources WHERE growing IS NOT NULL"
        )
        late = await sql.fetchval("SELECT count(*) FROM video_sources WHERE age_h BETWEEN 18 AND 24")
        assert (waiting.videos, given_up.videos) == (late, 0)
        assert len(known) == late
        assert {row["growing"] for row in known} == {True, False}
        assert all(row["age_h"] >= 18 and row["views_per_hour"] is not None for row in known)
        topic = await sql.fetchrow("SELECT * FROM search_queue WHERE query = 'cats'")
        grown = sum(row["growing"] for row in known)
        assert (day.early, day.judged, day.growing) == (OF_A_DAY, late, grown)
        assert (topic["early_total"], topic["judged_total"], topic["early_growing_total"]) == (
            OF_A_DAY,
            late,
            grown,
        )
        # Of the others nobody will ever know, however many views the growing ones had when they were found.
        assert (
            await sql.fetchval("SELECT count(*) FROM video_sources WHERE judged_at IS NOT NULL") == OF_A_DAY
        )

    async def test_what_a_watch_found_is_judged_but_is_nobodys_yield(
        self, hunting: Hunting, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting("cats", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            await hunter.cycle()
            history = History(hunter.atlas, hunter.youtube, f"UC{1:022d}")
            async for _ in history.steps(await history.begin()):
                pass
            clock.advance(25 * HOUR)
            await sample_all(hunter, sql)
            await judging.judge(hunter.atlas)
            days = await hunter.discovery.yields_since(DAY)
        early = "SELECT arm, count(*) FROM video_sources WHERE is_early AND growing IS NOT NULL GROUP BY arm"
        met = dict(await sql.fetch(early))
        assert met[WATCH] > 10
        assert {each.arm: (each.early, each.judged) for each in days} == {
            "search:views": (met["search:views"], met["search:views"])
        }

    async def test_a_judgement_that_is_killed_midway_is_finished_by_the_next(
        self, hunting: Hunting, clock: FixedClock, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(judging, "_BATCH", 10)
        async with hunting("cats", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            await hunter.cycle()
            clock.advance(25 * HOUR)
            await sample_all(hunter, sql)
            await sql.execute(
                "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " IF (SELECT count(*) FROM video_sources WHERE judged_at IS NOT NULL) >= 20"
                " THEN RAISE EXCEPTION 'killed'; END IF; RETURN NEW; END $$"
            )
            await sql.execute(
                "CREATE TRIGGER stop BEFORE UPDATE ON video_sources"
                " FOR EACH STATEMENT EXECUTE FUNCTION stop()"
            )
            with pytest.raises(Exception, match="killed"):
                await judging.judge(hunter.atlas)
            await sql.execute("DROP TRIGGER stop ON video_sources")
            clock.advance(HOUR)
            rest = await judging.judge(hunter.atlas)
            (day,) = await hunter.discovery.yields_since(DAY)
        assert rest is not None
        assert (rest.videos, day.judged, day.growing) == (OF_A_DAY - 20, OF_A_DAY, GROWING)

    async def test_yesterdays_yield_moves_todays_shares(self, hunting: Hunting, clock: FixedClock) -> None:
        async with hunting("cats") as hunter:
            await hunter.cycle(1)
            before = {arm.arm: arm.share for arm in await hunter.discovery.plan(DAY)}
            good, poor = "search:date", "search:slices"
            await hunter.discovery.add_yield(DAY, ArmYield(good, asks=30, units=30, early=600))
            await hunter.discovery.add_yield(DAY, ArmYield(poor, asks=30, units=30, early=600))
            await hunter.atlas.db.execute(
                "discovery.add_verdicts", [DAY, DAY], [good, poor], [600, 600], [300, 3]
            )
            clock.advance(timedelta(days=1))
            await hunter.cycle(1)
            after = {arm.arm: arm for arm in await hunter.discovery.plan(DAY + timedelta(days=1))}
        assert after[good].share > 2 * before[good]
        assert after[poor].share < before[poor] / 2
        assert "units" in after[good].reason


async def sample_all(hunter: Hunter, sql: Any) -> None:
    """Give every video a sample at the age of a day, with the views that the catalogue says."""
    days = [DAY + timedelta(days=n) for n in range(-3, 3)]
    await hunter.dao.ensure_partitions(days)
    await sql.execute(
        "INSERT INTO video_stats_log (video_id, sampled_at, views, methodology) "
        "SELECT v.id, v.published_at + interval '24 hours 1 second', "
        "CASE WHEN right(v.id, 6)::int % 6 = 0 THEN 24000 ELSE 240 END, 1 FROM videos AS v"
    )


class TestHealth:
    async def test_a_form_that_stops_answering_as_asked_is_told_once_and_loses_its_share(
        self, hunting: Hunting, clock: FixedClock, sql: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with hunting("cats") as hunter:
            await hunter.cycle(1)
            plan = {arm.arm: arm for arm in await hunter.discovery.plan(DAY)}
            for asks in range(1, 12):
                await hunter.planner.notice("search:slices", "order ignored", asks, asks)
            today = {arm.arm: arm for arm in await hunter.discovery.plan(DAY)}
            taken: Counter[str] = Counter()
            for _ in range(60):
                taken.update(await hunter.planner.take("search", 1))
            await hunter.discovery.add_yield(DAY, ArmYield("search:slices", asks=12, units=12, odd=12))
            clock.advance(timedelta(days=1))
            await hunter.cycle(1)
            tomorrow = {arm.arm: arm for arm in await hunter.discovery.plan(DAY + timedelta(days=1))}
        assert today["search:slices"].unwell == "order ignored"
        assert taken["search:slices"] <= 60 * 2 * plan["search:slices"].least_share + 1
        events = await sql.fetch("SELECT payload FROM events WHERE kind = 'hunter.unwell'")
        assert len(events) == 1
        assert caplog.text.count("search:slices no longer answers as asked") == 1
        assert tomorrow["search:slices"].share == pytest.approx(tomorrow["search:slices"].least_share)
        assert "only tried now and then" in tomorrow["search:slices"].reason

    async def test_an_order_that_youtube_refuses_is_the_forms_fault_and_no_topics(
        self, hunting: Hunting, emulator: Emulator, sql: Any
    ) -> None:
        emulator.set_faults(["invalid-parameter:1:search.list"])
        rules = {"retry_after_s": 0, "max_attempts": 2}
        async with hunting("cats", "gardens", only="search:views", hunter=rules) as hunter:
            for _ in range(6):
                await sql.execute("UPDATE search_queue SET lease_until = NULL")
                refused = await hunter.cycle()
            (arm,) = await hunter.discovery.plan(DAY)
            emulator.set_faults([])
            await sql.execute("UPDATE search_queue SET lease_until = NULL")
            mended = await hunter.cycle()
        assert (refused.pages, refused.skipped) == (0, {"bad_request": 2})
        assert (arm.asks, arm.odd) == (12, 12)
        assert "invalidParameter" in str(arm.unwell)
        assert (mended.pages, mended.parked) == (2, 0)

    @pytest.mark.parametrize("arm", ["any", "anyrelevant", "views", "relevance", "date"])
    async def test_a_form_that_finds_nothing_at_all_is_unwell(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any, arm: str
    ) -> None:
        emulator.set_faults(["empty-page:1:search.list"])
        async with hunting(*(f"topic {n}" for n in range(60)), only=f"search:{arm}") as hunter:
            while (await hunter.cycle(4)).asks:
                (today,) = await hunter.discovery.plan(DAY)
                if today.unwell:
                    break
        assert today.unwell == "empty"
        assert today.asks <= 20

    async def test_single_topics_without_a_new_video_are_nothing_odd(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        topics = [f"nothing {n}" if n % 3 else f"{SUBJECTS[n % 4]} breed {n % 7}" for n in range(40)]
        async with hunting(*topics, only="search:views", hunter={"tags_per_video": 0}) as hunter:
            while (await hunter.cycle(4)).asks:
                pass
            (today,) = await hunter.discovery.plan(DAY)
        assert today.asks >= 40
        assert today.unwell is None
        assert today.odd < today.asks / 4

    async def test_an_order_that_search_ignores_is_noticed(
        self, hunting: Hunting, emulator: Emulator, clock: FixedClock, sql: Any
    ) -> None:
        async with hunting("cats", only="search:views", hunter={"tags_per_video": 0}) as hunter:
            (ask,) = (await hunter.fetch_batch(1)).asks
            (page,) = await hunter.enrich([await hunter.put(ask)])
            shuffled = replace(page.finding, ids=tuple(sorted(page.finding.ids, key=lambda id_: id_[::-1])))
            await hunter.ingest(replace(page, finding=shuffled))
            (day,) = await hunter.discovery.yields_since(DAY)
        assert day.odd == 1


async def test_keys_of_questions_are_claimed_once(atlas: Atlas) -> None:
    dao = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    new = [NewQuestion("slices@1", {"order": "viewCount"})]
    claims = await asyncio.gather(*(dao.add_questions("search:slices", new) for _ in range(6)))
    assert sorted(map(len, claims)) == [0] * 5 + [1]


async def test_a_tag_keeps_its_mentions_when_it_wakes_and_a_seed_its_place_among_them(
    atlas: Atlas, clock: FixedClock, sql: Any
) -> None:
    from atlas.adapters.maia import MaiaDAO
    from atlas.adapters.queue import Mention, TopicStatus

    dao = MaiaDAO(atlas.db, clock=clock, settings=atlas.settings)
    await dao.add_to_search_queue([Mention("often", 100), Mention("once", 1)])
    topics = await dao.fetch_hunter_batch(2)
    for topic in topics:
        await dao.update_search_state(topic.id, None, 0, TopicStatus.COOLING, lease_token=topic.lease_token)
    clock.advance(timedelta(days=1, seconds=1))
    await dao.wake_topics()
    assert [topic.query for topic in await dao.fetch_hunter_batch(2)] == ["often", "once"]
    rows = await sql.fetch("SELECT priority FROM search_queue ORDER BY priority")
    # 100 mentions a day ago against one, with a half-life of two days and one mention's worth for waking.
    assert rows[1]["priority"] - rows[0]["priority"] > 4
    assert rows[1]["priority"] < SEED_WEIGHT


async def test_interfering_between_steps_shows_them_by_their_sources(hunting: Hunting) -> None:
    seen: list[Any] = []

    async def note(about: Any) -> None:
        seen.append(about)

    async with hunting("cats", only="search:views") as hunter:
        await Interferer(hunter, search=note, enrich=note, ingest=note).cycle()
    assert seen == ["cats", "cats", "cats"]

"""The forms in which search asks: windows, slices, joined topics, and when a next page is worth a unit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.queue import Topic
from atlas.config import DiscoverySettings, HunterSettings
from atlas.queries import SearchParameters
from maia.discovery import forms
from maia.discovery.forms import FORMS, Form, Request
from maia.emulator.search_index import parse_query

NOW = datetime(2026, 11, 2, 12, 0, 30, 500, tzinfo=UTC)
HOUR = timedelta(hours=1)
LAG = 2 * HOUR
HUNTER, DISCOVERY = HunterSettings(), DiscoverySettings()


def form(name: str) -> Form:
    return next(each for each in FORMS if each.name == name)


def topic(query: str = "cats", *, published_after: datetime | None = None, **parameters: Any) -> Topic:
    return Topic(
        id=1, query=query, origin="seed", priority=0.0, lease_token=uuid4(), claimed_at=NOW, attempts=1,
        page_token=None, page_params=None, page_issued_at=None, published_after=published_after,
        searched_at=None, pages=0, results=0, new_videos=0, restarts=0, refusals=0, last_page_digest=None,
        last_error=None, parameters=SearchParameters(**parameters),
    )  # fmt: skip


def with_parameters(asked: Topic, parameters: SearchParameters) -> Topic:
    return replace(asked, parameters=parameters)


def ask(name: str, asked: Topic, **settings: Any) -> Request:
    return forms.topic_request(form(name), asked, NOW, HunterSettings(**settings), DISCOVERY)


class TestOneTopic:
    @pytest.mark.parametrize(
        ("name", "order"), [("views", "viewCount"), ("date", "date"), ("relevance", "relevance")]
    )
    def test_each_form_has_its_order_and_is_bounded_by_the_window(self, name: str, order: str) -> None:
        request = ask(name, topic())
        assert (request.q, request.order) == ("cats", order)
        assert request.published_after == NOW.replace(microsecond=0) - 24 * HOUR
        assert request.published_before is None

    def test_newest_first_asks_for_what_is_newer_than_the_last_search(self) -> None:
        searched = topic(published_after=NOW - 3 * HOUR)
        assert ask("date", searched).published_after == NOW - 3 * HOUR
        assert ask("views", searched).published_after == NOW.replace(microsecond=0) - 24 * HOUR

    def test_a_seeds_own_parameters_win_over_the_settings(self) -> None:
        own = topic(region="JP", language="ja", duration="short", category=15, event_type="completed")
        request = ask("views", own, region_code="GB", relevance_language="en", results_per_page=5)
        assert (request.region_code, request.relevance_language, request.max_results) == ("JP", "ja", 5)
        assert (request.video_duration, request.video_category_id) == ("short", 15)
        assert request.event_type == "completed"
        other = ask("views", topic(), region_code="GB", relevance_language="en")
        assert (other.region_code, other.relevance_language) == ("GB", "en")

    def test_a_seeds_own_start_narrows_the_window_but_never_widens_it(self) -> None:
        late, early = NOW.replace(microsecond=0) - HOUR, NOW.replace(microsecond=0) - 100 * HOUR
        window = NOW.replace(microsecond=0) - 24 * HOUR
        for own, expected in ((late, late), (early, window)):
            narrowed = with_parameters(topic(), SearchParameters(published_after=own))
            assert ask("views", narrowed).published_after == expected

    def test_a_span_in_the_past_is_asked_without_the_window(self) -> None:
        begins, ends = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)
        span = SearchParameters(published_after=begins, published_before=ends)
        request = ask("views", with_parameters(topic(), span))
        assert (request.published_after, request.published_before) == (begins, ends)

    def test_the_original_order_asks_for_everything_since_the_last_search(self) -> None:
        first = forms.original_request(topic(), HUNTER)
        assert (first.order, first.published_after) == ("relevance", None)
        later = forms.original_request(topic(published_after=NOW - 50 * HOUR), HUNTER)
        assert later.published_after == NOW - 50 * HOUR


class TestSeveralTopics:
    def test_words_are_joined_and_phrases_quoted(self) -> None:
        assert forms.joined(["cats", "city gardens", "-not", 'a "b" c', "x|y"]) == (
            'cats|"city gardens"|"-not"|"a b c"|"x y"'
        )

    @pytest.mark.parametrize(
        ("query", "is_joinable"),
        [
            ("city gardens", True),
            ('"farm equipment"', True),
            ("rock-paper-scissors - final", True),
            ("boating|sailing -fishing", False),
            ("boating -fishing", False),
            ('"farm equipment" new', False),
        ],
    )
    def test_a_topic_with_operators_of_its_own_is_not_joined(self, query: str, is_joinable: bool) -> None:
        assert forms.is_joinable(query) == is_joinable

    def test_what_would_be_too_long_is_left_out_and_shorter_ones_still_fit(self) -> None:
        assert forms.joined(["aaaa", "bbbbbbbbbb", "cc"], longest=8) == "aaaa|cc"

    @given(
        st.lists(st.text('ab c"|-', min_size=1, max_size=12).filter(lambda q: q.strip(' "|-')), min_size=1)
    )
    def test_every_alternative_is_one_to_whoever_parses_it(self, queries: list[str]) -> None:
        query = forms.joined(queries)
        assert 0 < len(query) <= forms.LONGEST_OR_QUERY
        parsed = parse_query(query)
        assert (len(parsed.clauses), parsed.excluded) == (1, ())


class TestSlices:
    def test_they_are_contiguous_and_end_the_lag_ago(self) -> None:
        covered = NOW.replace(microsecond=0) - 6 * HOUR
        spans = forms.slices(covered, NOW, 4, LAG)
        assert [span.end - span.start for span in spans] == [HOUR] * 4
        assert spans[0].start == covered
        assert spans[-1].end == NOW.replace(microsecond=0) - LAG
        assert all(one.end == other.start for one, other in pairwise(spans))

    def test_the_fewer_questions_the_wider_they_are(self) -> None:
        (only,) = forms.slices(NOW - 6 * HOUR, NOW, 1, LAG)
        assert only.end - only.start == timedelta(hours=4, microseconds=-500)

    def test_nothing_is_asked_while_there_is_too_little(self) -> None:
        assert forms.slices(NOW - LAG - timedelta(minutes=29), NOW, 5, LAG) == ()
        assert forms.slices(NOW - 6 * HOUR, NOW, 0, LAG) == ()
        assert forms.slices(NOW, NOW, 5, LAG) == ()

    def test_none_is_narrower_than_the_narrowest(self) -> None:
        spans = forms.slices(NOW.replace(microsecond=0) - 4 * HOUR, NOW, 50, LAG)
        assert len(spans) == 4

    def test_after_a_pause_what_is_too_old_is_left_out(self) -> None:
        spans = forms.slices(NOW - 200 * HOUR, NOW, 10, LAG)
        assert spans[0].start == NOW.replace(microsecond=0) - forms.LATEST_SLICE

    @given(
        covered_h=st.one_of(st.none(), st.floats(-5, 500)),
        n=st.integers(0, 60),
        lag_h=st.floats(0, 10),
    )
    def test_they_never_overlap_nor_repeat_what_is_covered(
        self, covered_h: float | None, n: int, lag_h: float
    ) -> None:
        covered = None if covered_h is None else NOW - covered_h * HOUR
        spans = forms.slices(covered, NOW, n, lag_h * HOUR)
        assert len(spans) <= n
        edges = [instant for span in spans for instant in (span.start, span.end)]
        assert edges == sorted(edges)
        assert all(span.start < span.end <= NOW - lag_h * HOUR for span in spans)
        assert len({span.key for span in spans}) == len(spans)
        if spans and covered:
            assert spans[0].start >= covered


class TestSubjects:
    def test_those_never_asked_come_first_then_the_longest_ago(self) -> None:
        asked = {"a": NOW - HOUR, "b": NOW - 9 * HOUR, "c": NOW - 7 * HOUR}
        assert forms.due(["a", "b", "c", "d", "e"], asked, NOW, 6 * HOUR, 9) == ("d", "e", "b", "c")
        assert forms.due(["a", "b", "c", "d"], asked, NOW, 6 * HOUR, 2) == ("d", "b")
        assert forms.due(["a"], asked, NOW, 6 * HOUR, 2) == ()


class TestPages:
    @pytest.mark.parametrize(
        ("found", "promising", "worth"), [(50, 25, True), (50, 24, False), (1, 1, True), (0, 0, False)]
    )
    def test_a_next_page_is_worth_it_while_half_is_new_and_looks_growing(
        self, found: int, promising: int, worth: bool
    ) -> None:
        assert forms.is_worth_another_page(found, promising) is worth

    @pytest.mark.parametrize(
        ("found", "new", "hours"), [(50, 0, 24), (50, 25, 12), (50, 50, 3), (0, 0, 24), (50, 49, 3)]
    )
    def test_a_topic_rests_less_the_more_was_new(self, found: int, new: int, hours: int) -> None:
        assert forms.rest(24 * HOUR, found, new) == hours * HOUR

    @given(
        st.builds(
            Request,
            q=st.one_of(st.none(), st.just("cats")),
            order=st.sampled_from(["date", "viewCount", "relevance"]),
            published_after=st.one_of(st.none(), st.just(NOW)),
            region_code=st.one_of(st.none(), st.just("GB")),
            video_category_id=st.one_of(st.none(), st.integers(1, 99)),
            max_results=st.integers(1, 50),
        )
    )
    def test_the_parameters_that_a_token_belongs_to_can_be_stored(self, asked: Request) -> None:
        assert Request.of_json(asked.as_json() | {"form": "views"}) == asked


def test_no_default_rests_on_one_order() -> None:
    assert len({each.order for each in FORMS}) == 3
    assert {each.combines for each in FORMS} == {"topic", "any", "slices", "regions", "categories"}
    assert len({each.arm for each in FORMS}) == len(FORMS)

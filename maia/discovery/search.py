"""Search as a source: claims topics and slices of time, and asks for a page in the form that the arm says.

Under the strategy `specification` there is one arm instead, the original order: one topic after the other by
priority, and all pages to the end.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from random import Random
from typing import Final
from uuid import uuid4

from atlas.adapters.discovery import DiscoveryDAO, KnownVideo, NewQuestion, Question
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.queue import Candidate, Claim, Topic, TopicOutcome, TopicStatus
from atlas.composition import Atlas
from atlas.config import Bucket
from atlas.errors import DatabaseError, RingClosed
from atlas.keyring import Grant, KeyRing
from atlas.queries import topic_key
from maia.cycle.reasons import SettingRefused
from maia.discovery import forms
from maia.discovery.forms import FORMS, SPECIFICATION, Form, Request
from maia.discovery.source import Ask, Finding, Source, Stored
from maia.graphing.steering import attention_of_topics
from maia.graphing.topics import NOTHING_KNOWN, known_topics
from maia.learning import conduct, growth
from maia.learning.observations import Scalar
from maia.learning.topics import TopicRecord, choose, choose_groups
from maia.youtube.client import YouTube
from maia.youtube.errors import BadRequest
from maia.youtube.resources import Video

logger = logging.getLogger(__name__)

MOST_RESULTS = 500
"""Results after which a search is exhausted: the API returns no more."""

TOKEN_LIFETIME = timedelta(hours=12)
"""Age at which a page token is dropped and the search starts over."""

MOST_RESTARTS = 3
"""How often a search may start over because YouTube rejects its page token, before the topic rests."""

QUESTIONS_KEPT = timedelta(days=7)

SPENT_BUCKETS: tuple[Bucket, ...] = ("search", "general")
"""A page costs one unit of each of these buckets."""

FRESH_SHARE: Final = 1 / 3
"""The part of the questions about one topic that goes to topics never asked about."""

_CANDIDATES, _HEAD = 500, 5000
"""Topics to choose from, and how far down the queue topics are sought that were never asked about."""

_SETTINGS: Final = {
    "order": "PLEIADES_HUNTER__ORDER",
    "regionCode": "PLEIADES_HUNTER__REGION_CODE",
    "relevanceLanguage": "PLEIADES_HUNTER__RELEVANCE_LANGUAGE",
    "maxResults": "PLEIADES_HUNTER__RESULTS_PER_PAGE",
}
"""The parameters of search.list that come from settings."""

_FIELDS: Final = {
    "order": "order",
    "regionCode": "region_code",
    "relevanceLanguage": "relevance_language",
    "maxResults": "max_results",
}
"""The same, as fields of `Request`."""

_OF_FORMS: Final = ("order", "publishedAfter", "publishedBefore")
"""The parameters of search.list that a form sets for a topic."""

_NARROWING: Final = {
    "published_after": "publishedAfter",
    "published_before": "publishedBefore",
    "region": "regionCode",
    "language": "relevanceLanguage",
    "duration": "videoDuration",
    "category": "videoCategoryId",
    "event_type": "eventType",
}
"""The parameters of search.list that a topic may have of its own, by field of SearchParameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAsk(Ask):
    """A page to ask for: the first of a request, or with `page_token` a later one.

    `form` is None in the original order. `claimed` are the topics under lease, and `question` the claimed
    row of a question that no single topic asks. Of a question that is taken up again no topic is under lease.
    """

    form: Form | None
    request: Request | None
    """None until it is put, for a topic, whose window ends then."""
    page_token: str | None = None
    claimed: tuple[Topic, ...] = ()
    question: Question | None = None
    queries: Mapping[int, str] = field(default_factory=dict)
    """What the topics search for, if it asks about several."""
    known: Mapping[str, Scalar] = field(default_factory=dict)
    """What the knowledge graph knows of the topics, for the context in which the learner sees the ask."""

    @property
    def topic_keys(self) -> tuple[str, ...]:
        """The keys of the topics that it asks about."""
        queries = self.queries or {topic.id: topic.query for topic in self.claimed}
        return tuple(topic_key(queries[id_]) for id_ in self.topics if id_ in queries)

    @property
    def topic(self) -> Topic | None:
        """The topic, if it asks about exactly one."""
        return self.claimed[0] if self.claimed and self.question is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFinding(Finding):
    """A page of search results: only the ids, as videos.list returns everything else."""

    ask: SearchAsk
    request: Request
    begins: bool
    next_token: str | None

    @property
    def digest(self) -> str:
        return blake2b(",".join(self.ids).encode(), digest_size=16).hexdigest()

    @property
    def is_last(self) -> bool:
        """Whether this is the search's last page. The API's estimated total is too rough to tell."""
        earlier: Topic | Question | None = None if self.begins else self.ask.topic or self.ask.question
        return (
            self.next_token is None
            or not self.ids
            or (earlier is not None and self.digest == earlier.last_page_digest)
            or (earlier.results if earlier else 0) + len(self.ids) >= MOST_RESULTS
        )


class Search(Source[SearchAsk, SearchFinding]):
    """Pages of search.list, one unit of the search bucket each."""

    name = "search"

    def __init__(self, atlas: Atlas, youtube: YouTube, keys: KeyRing) -> None:
        self.atlas, self.youtube, self.keys = atlas, youtube, keys
        self.settings, self.discovery = atlas.settings.hunter, atlas.settings.discovery
        self.dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.questions = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self.parked = 0
        self.next_wake_at: datetime | None = None
        self._threshold: float | None = None
        self._attention: Mapping[str, float] = {}
        """What attention topics have in the knowledge graph, by their keys, if it steers."""
        self._known = NOTHING_KNOWN
        """What else the graph knows of the topics to choose from."""
        self._last_answers: defaultdict[str, conduct.LastAnswers] = defaultdict(conduct.LastAnswers)
        self._has_warned = False

    @property
    def is_original(self) -> bool:
        """Whether topics are asked in the original order."""
        return self.settings.strategy == "specification"

    @property
    def arms(self) -> Mapping[str, Bucket]:
        if self.is_original:
            return {SPECIFICATION: "search"}
        return {form.arm: "search" for form in FORMS if not self.discovery.is_off(form.arm)}

    # Claims

    async def claim(self, wanted: Mapping[str, int]) -> list[SearchAsk]:
        asks: list[SearchAsk] = []
        by_kind = {form: wanted[form.arm] for form in FORMS if wanted.get(form.arm)}
        try:
            if count := wanted.get(SPECIFICATION):
                asks += await self._claim_by_priority(count)
            for form, count in by_kind.items():
                if form.combines in ("slices", "regions", "categories"):
                    asks += await self._claim_questions(form, count)
            about_topics = {f: n for f, n in by_kind.items() if f.combines in ("topic", "any")}
            if about_topics:
                asks += await self._claim_topics(about_topics)
            return await self._with_contexts(asks)
        except BaseException:
            await self._release_quietly(asks)
            raise

    async def _with_contexts(self, asks: Sequence[SearchAsk]) -> list[SearchAsk]:
        """The asks with what the graph knows of their topics, also of those that were no candidates."""
        known = self._known
        others = {key for ask in asks for key in ask.topic_keys} - known.read
        if others:
            known = known.joined(await known_topics(self.atlas, others))
        return [replace(ask, known=known.context(ask.topic_keys)) for ask in asks]

    async def _claim_by_priority(self, count: int) -> list[SearchAsk]:
        claim = await self.dao.claim_topics(count)
        self.parked += len(claim.parked)
        self.next_wake_at = None if claim.topics else await self.dao.next_wake_at()
        return [self._about_one(SPECIFICATION, None, topic) for topic in claim.topics]

    def _about_one(self, arm: str, form: Form | None, topic: Topic) -> SearchAsk:
        return SearchAsk(
            arm=arm, key=topic.id, about=topic.query, topics=(topic.id,), form=form, request=None,
            claimed=(topic,),
        )  # fmt: skip

    async def _claim_questions(self, form: Form, count: int) -> list[SearchAsk]:
        """Claim questions without a topic: those left open first, then new ones."""
        now = self.atlas.clock.now()
        async with self.questions.transaction() as dao:
            await dao.lock_questions(form.arm)
            claimed = await dao.claim_open_questions(form.arm, count, now - TOKEN_LIFETIME)
            if (more := count - len(claimed)) > 0:
                claimed += await dao.add_questions(form.arm, await self._new_questions(dao, form, more, now))
        return [self._of_question(form, question) for question in claimed]

    async def _new_questions(
        self, dao: DiscoveryDAO, form: Form, count: int, now: datetime
    ) -> list[NewQuestion]:
        if form.combines == "slices":
            lag = timedelta(hours=self.discovery.slice_lag_h)
            spans = forms.slices(await dao.covered_until(form.arm), now, count, lag)
            return [
                NewQuestion(
                    span.key,
                    forms.slice_request(form, span, self.settings).as_json(),
                    covers_until=span.end,
                )
                for span in spans
            ]
        is_region = form.combines == "regions"
        every = forms.REGIONS_EVERY if is_region else forms.CATEGORIES_EVERY
        values: Sequence[str | int] = self.discovery.regions if is_region else forms.CATEGORIES
        subjects = {f"{form.combines} {value}": value for value in values}
        asked = await dao.last_asked(form.arm, now - every)
        requests = {
            subject: (
                forms.region_request(form, str(value), now, self.settings, self.discovery)
                if is_region
                else forms.category_request(form, int(value), now, self.settings, self.discovery)
            )
            for subject, value in subjects.items()
        }
        chosen = forms.due([*subjects], asked, now, every, count)
        return [
            NewQuestion(f"{subject}@{now:%Y-%m-%dT%H:%M:%SZ}", requests[subject].as_json())
            for subject in chosen
        ]

    def _of_question(
        self,
        form: Form,
        question: Question,
        claimed: Sequence[Topic] = (),
        about: str | None = None,
        queries: Mapping[int, str] | None = None,
    ) -> SearchAsk:
        request = Request.of_json(question.question)
        page = f", page {question.pages + 1}" if question.page_token else ""
        return SearchAsk(
            arm=form.arm,
            key=question.key,
            about=(about or _described(form, request)) + page,
            topics=question.topics,
            form=form,
            request=request,
            page_token=question.page_token,
            claimed=tuple(claimed),
            question=question,
            queries=queries or {},
        )

    async def _claim_topics(self, wanted: Mapping[Form, int]) -> list[SearchAsk]:
        """Claim topics for the forms that ask about some, each topic once."""
        await self.dao.wake_topics()
        self._threshold = await self.questions.growing_views_per_hour()
        free = {topic.id: topic for topic in await self.dao.candidates(_CANDIDATES, _HEAD)}
        keys = [topic.key for topic in free.values()]
        self._known = await known_topics(self.atlas, keys)
        if self.atlas.settings.graph.steer:
            self._attention = await attention_of_topics(self.atlas, keys)
        self.next_wake_at = None if free else await self.dao.next_wake_at()
        asks: list[SearchAsk] = []
        for form, count in wanted.items():
            if form.combines == "any":
                asks += await self._claim_groups(form, count, free)
            else:
                asks += await self._claim_single(form, count, free)
        return asks

    async def _claim_single(self, form: Form, count: int, free: dict[int, Candidate]) -> list[SearchAsk]:
        now = self.atlas.clock.now()
        begun = [topic.id for topic in free.values() if self._goes_on(topic, form, now)]
        fresh = [topic for topic in free.values() if not self._has_page(topic, now)]
        seeds = [topic.id for topic in fresh if topic.is_untried_seed]
        records = [self._record(topic, now) for topic in fresh if not topic.is_untried_seed]
        chosen = (begun + seeds)[:count]
        chosen += _chosen(records, count - len(chosen), _seed(now, form.name))
        claim = await self._take(chosen, free)
        return [self._about_one(form.arm, form, topic) for topic in claim.topics]

    def _record(self, topic: Candidate, now: datetime) -> TopicRecord:
        attention, category = self._attention.get(topic.key, 0.0), self._known.category(topic.key)
        return _record(topic, now, attention, category)

    def _has_page(self, topic: Candidate, now: datetime) -> bool:
        return (
            topic.has_page
            and topic.page_issued_at is not None
            and now - topic.page_issued_at < TOKEN_LIFETIME
        )

    def _goes_on(self, topic: Candidate, form: Form, now: datetime) -> bool:
        """Whether the topic has a page of this form that is worth asking for."""
        return self._has_page(topic, now) and (topic.page_params or {}).get("form") == form.name

    async def _claim_groups(self, form: Form, count: int, free: dict[int, Candidate]) -> list[SearchAsk]:
        now = self.atlas.clock.now()
        opened = await self.questions.claim_open_questions(form.arm, count, now - TOKEN_LIFETIME)
        queries: dict[int, str] = {}
        if opened:
            queries = await self.dao.topic_queries({id_ for question in opened for id_ in question.topics})
        asks = [self._of_question(form, question, queries=queries) for question in opened]
        records = [
            self._record(topic, now)
            for topic in free.values()
            if not topic.parameters and forms.is_joinable(topic.query) and not self._has_page(topic, now)
        ]
        groups = choose_groups(
            records,
            count - len(asks),
            self.discovery.topics_per_query,
            seed=_seed(now, form.name),
            longest_query=forms.LONGEST_OR_QUERY,
            separator='"|"',
        )
        for group in groups:
            claim = await self._take([topic.id for topic in group], free)
            if claim.topics:
                asks.append(await self._about_several(form, claim.topics, now))
        return asks

    async def _about_several(self, form: Form, topics: Sequence[Topic], now: datetime) -> SearchAsk:
        query = forms.joined(topic.query for topic in topics)
        request = forms.any_request(form, query, now, self.settings, self.discovery)
        new = NewQuestion(f"any@{uuid4()}", request.as_json(), tuple(topic.id for topic in topics))
        (question,) = await self.questions.add_questions(form.arm, [new])
        queries = {topic.id: topic.query for topic in topics}
        return self._of_question(form, question, topics, _named(topics), queries)

    async def _take(self, ids: Sequence[int], free: dict[int, Candidate]) -> Claim:
        """Claim topics in one statement; whatever comes of it, they are not to be chosen again."""
        for id_ in ids:
            del free[id_]
        if not ids:
            return Claim((), (), 0)
        claim = await self.dao.claim_chosen_topics(ids)
        self.parked += len(claim.parked)
        return claim

    # Asking

    async def put(self, ask: SearchAsk) -> SearchFinding:
        """Request a page; the first if the token is too old or belongs to another request."""
        asked_at = self.atlas.clock.now()
        request, token = self._request_of(ask, asked_at)
        finding = await self._found(ask, request, token, asked_at)
        if finding.begins and ask.topic is not None:
            self._last_answers[ask.arm].note(ask.topic.id, is_empty=not finding.ids)
        return finding

    async def _found(
        self, ask: SearchAsk, request: Request, token: str | None, asked_at: datetime
    ) -> SearchFinding:
        finding = await self._page(ask, request, token, asked_at)
        if not finding.ids and self._is_bounded_first_visit(ask, request, token):
            # What the window holds is nothing: once without it, so that a topic is not given up for that.
            try:
                later = await self._page(ask, replace(request, published_after=None), None, asked_at)
            except RingClosed:
                return finding
            return replace(later, units=2)
        return finding

    def _request_of(self, ask: SearchAsk, now: datetime) -> tuple[Request, str | None]:
        topic = ask.topic
        if topic is None:
            assert ask.request is not None, "only a single topic's request waits for the instant of asking"
            return ask.request, ask.page_token
        if ask.form is None:
            request = forms.original_request(topic, self.settings)
            return request, self._token(topic, request, now)
        stored, issued_at = topic.page_params or {}, topic.page_issued_at
        is_current = issued_at is not None and now - issued_at < TOKEN_LIFETIME
        if topic.page_token and is_current and stored.get("form") == ask.form.name:
            return Request.of_json(stored), topic.page_token
        return forms.topic_request(ask.form, topic, now, self.settings, self.discovery), None

    def _is_bounded_first_visit(self, ask: SearchAsk, request: Request, token: str | None) -> bool:
        topic = ask.topic
        return (
            ask.form is not None
            and topic is not None
            and token is None
            and request.published_after is not None
            and topic.parameters.published_after is None
            and topic.searched_at is None
            and topic.published_after is None
        )

    async def _page(
        self, ask: SearchAsk, request: Request, token: str | None, asked_at: datetime
    ) -> SearchFinding:
        searching, enriching = await self.keys.acquire_each(SPENT_BUCKETS)
        try:
            page = await self.youtube.search(
                **request.arguments(), page_token=token, ids_only=True, grant=searching
            )
        except Exception as error:
            await self._give_back(enriching)
            if isinstance(error, BadRequest) and not self.is_at_fault(ask, error):
                self._raise_if_a_setting_is_refused(ask, error, request)
            raise
        ids = tuple(dict.fromkeys(hit.video_id for hit in page.items))
        if not ids:
            await self._give_back(enriching)
        return SearchFinding(
            ask=ask, asked_at=asked_at, ids=ids, grant=enriching if ids else None, request=request,
            begins=token is None, next_token=page.next_page_token,
        )  # fmt: skip

    async def _give_back(self, grant: Grant) -> None:
        """Cancel a grant that is no longer needed; if the database is away, its unit stays counted."""
        try:
            await self.keys.cancel(grant)
        except DatabaseError as error:
            logger.warning("an unspent unit stays reserved: %s", error)

    def _token(self, topic: Topic, request: Request, now: datetime) -> str | None:
        if topic.page_token is None or topic.page_issued_at is None:
            return None
        if topic.page_params != request.as_json():
            self._warn_of_other_settings(topic, request)
            return None
        age = now - topic.page_issued_at
        return topic.page_token if age < TOKEN_LIFETIME else None

    def _warn_of_other_settings(self, topic: Topic, request: Request) -> None:
        """Warn once that another hunter uses other settings: the two discard each other's page tokens."""
        before, now = topic.page_params or {}, request.as_json()
        own = _supplied_by(topic)
        differing = [
            setting
            for parameter, setting in _SETTINGS.items()
            if parameter not in own and before.get(_FIELDS[parameter]) != now.get(_FIELDS[parameter])
        ]
        if differing and "max_results" in before and "form" not in before and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the search for %r starts over, because its page token belongs to another value of %s: "
                "give every hunter on this database the same settings",
                topic.query,
                ", ".join(differing),
                extra={"action": "page_token_discarded"},
            )

    def _raise_if_a_setting_is_refused(self, ask: SearchAsk, error: BadRequest, request: Request) -> None:
        parameter = error.verdict.parameter or ""
        # The order is the form's, and regions may be: only the original order takes both from settings.
        is_forms = ask.form is not None and (parameter == "order" or ask.form.combines == "regions")
        if (setting := _SETTINGS.get(parameter)) and not is_forms:
            value = getattr(request, _FIELDS[parameter])
            raise SettingRefused(f"YouTube refuses {value!r}, the value of {setting}: {error}") from error

    # Outcomes

    def topics_of(self, finding: SearchFinding, video: Video) -> tuple[int, ...]:
        ask = finding.ask
        if len(ask.topics) < 2:
            return ask.topics
        text = f" {topic_key(' '.join([video.title or '', *video.tags, video.description or '']))} "
        return tuple(
            id_ for id_ in ask.topics if (query := ask.queries.get(id_)) and topic_key(query) in text
        )

    def oddity(self, finding: SearchFinding, stored: Stored) -> str | None:
        form = finding.ask.form
        if form is None:
            return None
        whole: dict[str, Video | KnownVideo] = dict(stored.known)
        whole |= {video.id: video for video in stored.videos}
        dated = [
            (video.published_at.timestamp(), video.view_count)
            for video in map(whole.get, finding.ids)
            if video is not None and video.published_at is not None
        ]
        after, before = finding.request.published_after, finding.request.published_before
        page = conduct.AskedPage(
            published_s=[published_s for published_s, _ in dated],
            views=[views for _, views in dated],
            order=form.order if form.order in ("date", "viewCount") else None,
            after_s=after.timestamp() if after else None,
            before_s=before.timestamp() if before else None,
            must_find=finding.begins
            and (form.combines != "topic" or self._last_answers[form.arm].are_nearly_all_empty),
        )
        return ", ".join(sorted(conduct.judge(page))) or None

    async def complete(self, dao: MaiaDAO, finding: SearchFinding, stored: Stored) -> None:
        question = finding.ask.question
        if question is not None:
            await self.questions.joining(dao.queue).complete_question(
                question,
                next_token=finding.next_token if self._goes_on_after(finding, stored) else None,
                issued_at=finding.asked_at,
                results=len(finding.ids),
                digest=finding.digest,
            )

    async def complete_topics(self, dao: MaiaDAO, finding: SearchFinding, stored: Stored) -> None:
        ask, goes_on = finding.ask, self._goes_on_after(finding, stored)
        outcomes = [self._outcome(topic, finding, stored, goes_on) for topic in ask.claimed]
        if outcomes:
            await dao.update_search_states(outcomes)
        elif ask.topics:
            await dao.count_asks(ask.topics, 1 / len(ask.topics), stored.early_by_topic)

    def _goes_on_after(self, finding: SearchFinding, stored: Stored) -> bool:
        """Whether the next page is worth asking for."""
        return not finding.is_last and (
            finding.ask.form is None
            or forms.is_worth_another_page(len(finding.ids), self._promising(stored, finding))
        )

    def _promising(self, stored: Stored, finding: SearchFinding) -> int:
        """How many of the videos are new and look growing."""
        new = [video for video in stored.videos if video.id in stored.new_ids and video.published_at]
        if not new:
            return 0
        ages_h = [
            max((finding.asked_at - (v.actual_start_at or v.published_at)).total_seconds() / 3600, 0.02)
            for v in new
            if v.published_at
        ]
        views = [float("nan") if video.view_count is None else video.view_count for video in new]
        threshold = self._threshold or growth.DEFAULTS.first_threshold
        return int((growth.looks_growing(ages_h, views, threshold) >= 0.5).sum())

    def _outcome(self, topic: Topic, finding: SearchFinding, stored: Stored, goes_on: bool) -> TopicOutcome:
        is_alone, form = finding.ask.question is None, finding.ask.form
        params = finding.request.as_json() | ({"form": form.name} if form else {})
        usual = timedelta(seconds=self.settings.cooling_s)
        rest = forms.rest(usual, len(finding.ids), len(stored.new_ids)) if form else usual
        return TopicOutcome(
            topic.id,
            finding.next_token if goes_on and is_alone else None,
            len(finding.ids) if is_alone else 0,
            TopicStatus.ACTIVE if goes_on and is_alone else TopicStatus.COOLING,
            topic.lease_token,
            params=params,
            issued_at=finding.asked_at,
            new=len(stored.new_ids) if is_alone else 0,
            pages=1 if is_alone else 0,
            page_digest=finding.digest if is_alone else None,
            restarted=finding.begins,
            cool_until=self.atlas.clock.now() + rest,
            asks=1 / len(finding.ask.claimed),
            early=stored.early_by_topic.get(topic.id, 0),
        )

    async def release(
        self, asks: Sequence[SearchAsk], error: str | None = None, *, count_attempt: bool = False
    ) -> None:
        topics = [topic for ask in asks for topic in ask.claimed]
        if topics:
            pause_s = self.settings.retry_after_s if error is not None else 0
            released = await self.dao.release_topics(
                topics, error=error, retry_after_s=pause_s, count_attempt=count_attempt
            )
            if count_attempt and all(topic.attempts >= self.settings.max_attempts for topic in topics):
                self.parked += released
        # A question about several topics is asked anew with others, as its topics are free again.
        grouped = [ask.question for ask in asks if ask.question and ask.claimed]
        alone = [ask.question for ask in asks if ask.question and not ask.claimed]
        if grouped:
            await self.questions.release_questions(grouped, error=error, close=True)
        if alone:
            await self.questions.release_questions(alone, error=error, count_attempt=count_attempt)

    async def start_over(self, ask: SearchAsk, error: str) -> None:
        """Let a topic's search begin again, or rest if that has not helped before; end a question."""
        if ask.question is not None:
            await self.release([replace(ask, claimed=ask.claimed, question=None)], error)
            await self.questions.release_questions([ask.question], error=error, close=True)
        elif ask.topic is not None:
            await self.dao.update_search_states([_forgotten(ask.topic, ask.form, error)])

    async def _release_quietly(self, asks: Sequence[SearchAsk]) -> None:
        try:
            await self.release(asks)
        except DatabaseError as error:
            logger.warning("claims could not be released, and end when their lease expires: %s", error)

    def is_at_fault(self, ask: SearchAsk, error: Exception) -> bool:
        topic = ask.topic
        return (
            topic is not None
            and isinstance(error, BadRequest)
            and error.verdict.parameter in _supplied_by(topic)
        )

    def is_arm_at_fault(self, ask: SearchAsk, error: Exception) -> bool:
        if ask.form is None or not isinstance(error, BadRequest) or self.is_at_fault(ask, error):
            return False
        # Where no topic of its own is asked about, the question is all the form's.
        return ask.form.combines != "topic" or error.verdict.parameter in _OF_FORMS

    def times_refused(self, ask: SearchAsk) -> int:
        return min((topic.refusals for topic in ask.claimed), default=0)

    async def tidy(self) -> None:
        """Forget questions that nobody will go on with."""
        await self.questions.forget_questions(self.atlas.clock.now() - QUESTIONS_KEPT)


def _supplied_by(topic: Topic) -> set[str]:
    """The parameters of search.list that come from the topic, not from settings."""
    return {"q", *(_NARROWING[name] for name in topic.parameters.as_json())}


def _forgotten(topic: Topic, form: Form | None, error: str) -> TopicOutcome:
    again = form is None and topic.restarts < MOST_RESTARTS
    return TopicOutcome(
        topic.id,
        None,
        0,
        TopicStatus.ACTIVE if again else TopicStatus.COOLING,
        topic.lease_token,
        pages=0,
        restarted=again,
        error=error,
    )


def _record(topic: Candidate, now: datetime, attention: float, category: int | None) -> TopicRecord:
    """What is known of a topic's yield, for `maia.learning.topics`."""
    judged = topic.judged_total / topic.early_total if topic.early_total else 1.0
    asked_h = (now - topic.asked_at).total_seconds() / 3600 if topic.asked_at else None
    return TopicRecord(
        topic.id,
        topic.query,
        asks=topic.asks_total * min(judged, 1.0),
        early_growing=topic.early_growing_total,
        pending=topic.asks_total * max(0.0, 1 - judged),
        mentions=topic.mention_count,
        videos=topic.mention_count,
        judged=topic.mention_count,
        growing=min(topic.growing_mentions, topic.mention_count),
        category=category,
        attention=attention,
        asked_h=asked_h,
    )


def _chosen(records: Sequence[TopicRecord], count: int, seed: int) -> list[int]:
    """The topics to ask about: a third of them never asked before, on average also where few are chosen."""
    if count < 1:
        return []
    fresh = int(count * FRESH_SHARE + Random(seed).random())  # noqa: S311 - the same seed, the same choice
    return [topic.id for topic in choose(records, count, seed=seed, fresh_share=fresh / count)]


def _seed(now: datetime, form: str) -> int:
    """Differs between claims, and is the same where the clock and the form are."""
    return int.from_bytes(blake2b(f"{now.isoformat()} {form}".encode(), digest_size=6).digest())


def _described(form: Form, request: Request) -> str:
    match form.combines:
        case "slices" if request.published_after and request.published_before:
            return f"{request.published_after:%d %b %H:%M} to {request.published_before:%H:%M} UTC"
        case "regions":
            return f"region {request.region_code}"
        case "categories":
            return f"category {request.video_category_id}"
    return request.q or form.about


def _named(topics: Sequence[Topic]) -> str:
    others = len(topics) - 1
    return topics[0].query + (
        f" and {others} other topics" if others > 1 else f" or {topics[1].query}" if others else ""
    )

"""The strategies that the discovery bench compares: the original hunters, and the portfolio."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from atlas.config import DiscoverySettings, HunterSettings
from maia.discovery import forms
from maia.discovery.forms import FORMS, Form, Request
from maia.learning import conduct
from maia.learning.allocation import DEFAULTS as ALLOCATION
from maia.learning.allocation import AllocationSettings, ArmRecord, DayYield, allocate, largest_deficit
from maia.learning.growth import looks_growing
from maia.learning.topics import DEFAULTS as TOPICS
from maia.learning.topics import TopicRecord, TopicSettings, choose_groups
from maia.learning.velocity import Booleans, Integers
from maia.youtube.methods import Order
from tests.bench.discovery.scene import DAY, HOUR
from tests.bench.discovery.simulation import TICKS_A_DAY, Desk
from tests.bench.discovery.watching import Watch

HUNTER, DISCOVERY = HunterSettings(), DiscoverySettings()
_MOST_RESULTS = 500
_CANDIDATES = 600
_GROUPS_AT_ONCE = 4
_HEALTH_DAYS = 3


class Former:
    """A hunter that takes one topic by priority and asks page after page.

    The specification's stays with a topic to its end, by relevance; the one after it orders by date and takes
    the topic of the highest priority for each page, which is mostly the same one.
    """

    def __init__(self, name: str, order: Order, *, stays: bool) -> None:
        self.name, self.order, self.stays = name, order, stays
        self.current: int | None = None
        self.start: dict[int, int] = {}
        self.after_s: dict[int, float] = {}
        self.begun_s: dict[int, float] = {}
        self.cool_s: dict[int, float] = {}
        self.run: dict[int, tuple[int, int]] = {}
        """Pages and new videos of each topic's current run."""

    def tick(self, desk: Desk, searches: int) -> None:
        for _ in range(searches):
            topic = self._next(desk)
            if topic is not None:
                self._page(desk, topic)

    def _next(self, desk: Desk) -> int | None:
        scores = desk.topics.score
        if not self.after_s and not self.start:
            scores[desk.seeds] = 1e9
        if self.stays and self.current is not None:
            return self.current
        self._wake(desk)
        claimable = scores.copy()
        claimable[list(self.cool_s)] = 0
        best = int(claimable.argmax())
        return best if claimable[best] > 0 else None

    def _wake(self, desk: Desk) -> None:
        """A topic that has cooled comes back by what a page of its last run found, without its mentions."""
        for topic in [topic for topic, until in self.cool_s.items() if until <= desk.now]:
            del self.cool_s[topic]
            pages, new = self.run.pop(topic)
            desk.topics.score[topic] = (1 + new / max(1, pages)) * desk.weight

    def _page(self, desk: Desk, topic: int) -> None:
        start = self.start.get(topic, 0)
        if not start:
            self.begun_s[topic] = desk.now
        after_s = self.after_s.get(topic)
        after = None if after_s is None else instant(after_s)
        request = Request(
            q=desk.scene.queries[topic], order=self.order, published_after=after, max_results=50
        )
        numbers, more = desk.search("search", request, start=start)
        new = desk.store("search", numbers)
        pages, before = self.run.get(topic, (0, 0))
        self.run[topic] = pages + 1, before + len(new)
        if more and len(numbers) and start + 50 < _MOST_RESULTS:
            self.start[topic], self.current = start + 50, topic
            return
        self.start[topic], self.current = 0, None
        self.after_s[topic] = self.begun_s[topic]
        self.cool_s[topic] = desk.now + DAY


@dataclass(frozen=True)
class Question:
    """A page of search to ask for: a request, where its page begins, and the topics that it is about."""

    form: Form
    request: Request
    topics: Integers
    start: int = 0


@dataclass
class Portfolio:
    """Search in several forms, feeds and uploads of channels, shared out by what each brings."""

    name: str
    forms: Sequence[Form] = FORMS
    feeds: bool = True
    counts: float = 0.0
    """General units a day for the numbers of videos of channels, also of those whose feeds work."""
    pages: float = 1500.0
    """General units a day for pages of uploads."""
    charts: bool = True
    searches_a_day: int = 100
    """How many of the searches are asked; a few are needed to meet channels at all."""
    learning: bool = True
    mix: Mapping[str, float] | None = None
    """Fixed shares instead of the allocation's."""
    discovery: DiscoverySettings = DISCOVERY
    allocation: AllocationSettings = ALLOCATION
    topic_settings: TopicSettings = TOPICS
    priors: Mapping[str, float] = field(default_factory=dict)
    """Arms' prior yields, where they are not the forms' own."""
    watch: Watch | None = None
    shares: dict[str, float] = field(default_factory=dict)
    plans: list[dict[str, float]] = field(default_factory=list)
    asked: list[tuple[Integers, float]] = field(default_factory=list)
    """The topics of each question, and when it was asked."""
    _day: int = -1
    _tick: int = 0
    _debt: int = 0
    _credited: int = 0
    _claimed: Counter[str] = field(default_factory=Counter)
    _asks: Counter[tuple[int, str]] = field(default_factory=Counter)
    _odd: Counter[tuple[int, str]] = field(default_factory=Counter)
    _last_answers: defaultdict[str, conduct.LastAnswers] = field(
        default_factory=lambda: defaultdict(conduct.LastAnswers)
    )
    _open: dict[str, list[Question]] = field(default_factory=dict)
    _groups: dict[str, list[tuple[TopicRecord, ...]]] = field(default_factory=dict)
    _covered: dict[str, datetime] = field(default_factory=dict)
    _last_asked: dict[str, dict[str, datetime]] = field(default_factory=dict)
    _question_of: dict[int, int] = field(default_factory=dict)

    def tick(self, desk: Desk, searches: int) -> None:
        if self.watch is None:
            self.watch = Watch(desk)
            desk.topics.mentions[desk.seeds] += 1
        self._tick += 1
        if desk.day != self._day:
            self._new_day(desk)
        if self._tick % 10 == 1:
            self._judge(desk)
        room = self.searches_a_day - sum(self._claimed.values())
        for _ in range(min(searches, room)):
            if self._debt:
                self._debt -= 1
            else:
                self._search(desk)
        self._look(desk)

    # The plan

    def _new_day(self, desk: Desk) -> None:
        self._day, self._claimed = desk.day, Counter()
        if self.mix is not None:
            self.shares = dict(self.mix)
        else:
            allocated = allocate(
                self._records(desk),
                seed=desk.scene.seed * 1000 + desk.day,
                explore=self.discovery.exploration,
                cap=self.discovery.cap,
                units={"search": desk.quota.search},
                settings=self.allocation,
            )
            self.shares = {share.arm: share.share for share in allocated["search"]}
        self.plans.append(self.shares)
        if self.charts:
            for category in (None, 10, 20, 30):
                desk.store("charts", desk.chart("charts", "US", category))

    def _records(self, desk: Desk) -> list[ArmRecord]:
        records = []
        for form in self.forms:
            days, health = [], 1.0
            for day in range(desk.day) if self.learning else ():
                judged, growing, early = desk.found_day.get((day, form.arm), (0.0, 0.0, 0.0))
                units = desk.ledger.spent[day, "search", form.arm]
                days.append(DayYield(desk.day - day, units, growing, judged / early if early else 1.0))
            if self.learning:
                health = self._health(desk.day, form.arm)
            records.append(
                ArmRecord(form.arm, "search", self.priors.get(form.arm, form.prior_yield), days, health)
            )
        return records

    def _health(self, today: int, arm: str) -> float:
        days = range(today - _HEALTH_DAYS, today)
        asks, odd = (sum(counts[day, arm] for day in days) for counts in (self._asks, self._odd))
        pages = [frozenset({conduct.Oddity.ORDER_IGNORED})] * odd + [frozenset()] * (asks - odd)
        return conduct.standing(pages).health

    # Search

    def _search(self, desk: Desk) -> None:
        """Ask in the form that is furthest behind its share, and can ask something now."""
        (first,) = largest_deficit(self.shares, self._claimed, 1)
        total = sum(self._claimed.values()) + 1
        behind = sorted(self.shares, key=lambda arm: self._claimed[arm] - self.shares[arm] * total)
        for arm in dict.fromkeys((first, *behind)):
            form = next(form for form in self.forms if form.arm == arm)
            if self.shares[arm] > 0 and (question := self._question(desk, form)) is not None:
                self._claimed[arm] += 1
                self._ask(desk, question)
                return

    def _question(self, desk: Desk, form: Form) -> Question | None:
        if opened := self._open.get(form.arm):
            return opened.pop(0)
        ask: Mapping[str, Callable[[Desk, Form], Question | None]] = {
            "topic": self._about_topic,
            "any": self._about_several,
            "slices": self._about_slice,
            "regions": self._about_place,
            "categories": self._about_place,
        }
        return ask[form.combines](desk, form)

    def _about_topic(self, desk: Desk, form: Form) -> Question | None:
        group = self._group(desk, form, 1)
        if not group:
            return None
        after_s = desk.now - self.discovery.window_h * HOUR
        if form.only_newer:
            after_s = max(after_s, float(desk.topics.asked_s[group[0].id]))
        request = Request(
            q=group[0].query, order=form.order, published_after=instant(after_s), max_results=50
        )
        return Question(form, request, np.array([group[0].id], np.int64))

    def _about_several(self, desk: Desk, form: Form) -> Question | None:
        group = self._group(desk, form, self.discovery.topics_per_query)
        if not group:
            return None
        query = forms.joined(topic.query for topic in group)
        request = forms.any_request(form, query, instant(desk.now), HUNTER, self.discovery)
        return Question(form, request, np.array([topic.id for topic in group], np.int64))

    def _about_slice(self, desk: Desk, form: Form) -> Question | None:
        lag = timedelta(hours=self.discovery.slice_lag_h)
        spans = forms.slices(self._covered.get(form.arm), instant(desk.now), 1, lag)
        if not spans:
            return None
        self._covered[form.arm] = spans[0].end
        return Question(form, forms.slice_request(form, spans[0], HUNTER), np.zeros(0, np.int64))

    def _about_place(self, desk: Desk, form: Form) -> Question | None:
        by_region = form.combines == "regions"
        every = forms.REGIONS_EVERY if by_region else forms.CATEGORIES_EVERY
        subjects = [*map(str, self.discovery.regions if by_region else forms.CATEGORIES)]
        last, now = self._last_asked.setdefault(form.arm, {}), instant(desk.now)
        due = forms.due(subjects, last, now, every, 1)
        if not due:
            return None
        last[due[0]] = now
        if by_region:
            request = forms.region_request(form, due[0], now, HUNTER, self.discovery)
        else:
            request = forms.category_request(form, int(due[0]), now, HUNTER, self.discovery)
        return Question(form, request, np.zeros(0, np.int64))

    def _ask(self, desk: Desk, question: Question) -> None:
        form, request = question.form, question.request
        numbers, more = desk.search(form.arm, request, start=question.start)
        if (
            not len(numbers)
            and form.combines == "topic"
            and np.isinf(desk.topics.asked_s[question.topics]).all()
        ):
            # What the window holds of a topic is nothing: once without it.
            self._debt += 1
            numbers, more = desk.search(form.arm, Request(q=request.q, order=form.order, max_results=50))
        self._watch_conduct(desk, question, numbers)
        new = desk.store(form.arm, np.unique(numbers))
        self._question_of.update(dict.fromkeys(new.tolist(), len(self.asked)))
        self.asked.append((question.topics, desk.now))
        self._rest(desk, question, len(numbers), len(new))
        if more and forms.is_worth_another_page(len(numbers), self._promising(desk, new)):
            later = Question(form, request, question.topics, question.start + 50)
            self._open.setdefault(form.arm, []).append(later)

    def _watch_conduct(self, desk: Desk, question: Question, numbers: Integers) -> None:
        request, order, arm = question.request, question.form.order, question.form.arm
        if question.start == 0 and question.form.combines == "topic":
            self._last_answers[arm].note(int(question.topics[0]), is_empty=not len(numbers))
        page = conduct.AskedPage(
            desk.scene.published[numbers].tolist(),
            desk.scene.catalogue.views_at(numbers, desk.now).tolist(),
            order if order in ("date", "viewCount") else None,
            request.published_after.timestamp() if request.published_after else None,
            request.published_before.timestamp() if request.published_before else None,
            must_find=question.start == 0
            and (question.form.combines != "topic" or self._last_answers[arm].are_nearly_all_empty),
        )
        self._asks[desk.day, question.form.arm] += 1
        self._odd[desk.day, question.form.arm] += bool(conduct.judge(page))

    def _promising(self, desk: Desk, new: Integers) -> int:
        """How many new videos look growing."""
        ages_h = np.maximum((desk.now - desk.scene.published[new]) / HOUR, 0.02)
        views = desk.scene.catalogue.views_at(new, desk.now)
        return int((looks_growing(ages_h, views, desk.threshold) >= 0.5).sum())

    def _rest(self, desk: Desk, question: Question, found: int, new: int) -> None:
        table, topics = desk.topics, question.topics
        rest = forms.rest(timedelta(seconds=HUNTER.cooling_s), found, new)
        table.asked_s[topics] = desk.now
        table.rests_until_s[topics] = desk.now + rest.total_seconds()
        table.pending[topics] += 1 / max(1, len(topics))

    # Topics

    def _group(self, desk: Desk, form: Form, size: int) -> tuple[TopicRecord, ...]:
        queue = self._groups.setdefault(form.arm, [])
        if not queue:
            queue += choose_groups(
                self._candidates(desk), _GROUPS_AT_ONCE, size, seed=self._tick * 1009 + desk.scene.seed,
                longest_query=forms.LONGEST_OR_QUERY, separator='"|"', settings=self.topic_settings,
            )  # fmt: skip
        return queue.pop(0) if queue else ()

    def _candidates(self, desk: Desk) -> list[TopicRecord]:
        return [self._record(desk, k) for k in self._pool(desk).tolist()]

    def _pool(self, desk: Desk) -> Integers:
        """Topics that don't rest: the best tried ones, the most mentioned untried ones, and some others."""
        table = desk.topics
        known = np.flatnonzero((table.mentions > 0) & (table.rests_until_s <= desk.now))
        if len(known) > _CANDIDATES:
            part = _CANDIDATES // 3
            tried, untried = known[table.asks[known] > 0], known[table.asks[known] == 0]
            best = tried[np.argsort(-table.early_growing[tried] / table.asks[tried], kind="stable")][:part]
            often = untried[np.argsort(-table.mentions[untried], kind="stable")][:part]
            others = desk.random.choice(known, part, replace=False)
            known = np.unique(np.concatenate((best, often, others)))
        return known

    def _record(self, desk: Desk, k: int) -> TopicRecord:
        table = desk.topics
        learns = self.learning
        asked = float(desk.now - table.asked_s[k]) / HOUR
        return TopicRecord(
            k,
            desk.scene.queries[k],
            asks=float(table.asks[k]) if learns else 0.0,
            early_growing=float(table.early_growing[k]) if learns else 0.0,
            pending=float(table.pending[k]),
            mentions=int(table.mentions[k]),
            videos=int(table.videos[k]),
            channels=int(table.channels[k]),
            judged=int(table.judged[k]) if learns else 0,
            growing=int(table.growing[k]) if learns else 0,
            asked_h=None if np.isinf(asked) else asked,
        )

    # Learning

    def _judge(self, desk: Desk) -> tuple[Integers, Booleans]:
        numbers, grows = desk.judge()
        assert self.watch is not None
        self.watch.judged(numbers, grows)
        for n in numbers[grows].tolist():
            if n in self._question_of:
                topics, _ = desk.scene.topics_of(np.array([n]))
                credited = np.intersect1d(topics, self.asked[self._question_of[n]][0])
                desk.topics.early_growing[credited] += 1 / max(1, len(credited))
        while self._credited < len(self.asked) and desk.now - self.asked[self._credited][1] > 25 * HOUR:
            topics = self.asked[self._credited][0]
            desk.topics.asks[topics] += 1 / max(1, len(topics))
            desk.topics.pending[topics] -= 1 / max(1, len(topics))
            self._credited += 1
        return numbers, grows

    # Channels

    def _look(self, desk: Desk) -> None:
        watch = self.watch
        assert watch is not None
        feeds = desk.quota.feeds / TICKS_A_DAY if self.feeds else 0.0
        counts = 50 * self.counts / TICKS_A_DAY
        per_h = TICKS_A_DAY / 24
        watch.plan(feeds * per_h, counts * per_h)
        pages = int(self.pages / TICKS_A_DAY)
        left = int(feeds)
        if counts:
            moved = watch.count(watch.due(watch.count_due_s, int(counts)))
            best = moved[np.argsort(-watch.promising(moved), kind="stable")]
            missing = watch.look_at_feeds(best[:left])
            watch.look_at_pages(np.concatenate((missing, best[left:]))[:pages])
            pages -= min(pages, len(missing) + max(0, len(best) - left))
            left -= min(left, len(best))
        if left:
            missing = watch.look_at_feeds(watch.due(watch.feed_due_s, left))
            watch.look_at_pages(missing[:pages])


def instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)

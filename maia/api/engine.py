"""The pattern engine of a process: all patterns in memory, matched and ranked without asking the database."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import orjson
import psutil

from atlas.adapters.changes import BriefPattern
from atlas.adapters.observations import ObservationsDAO
from atlas.adapters.patterns import PatternsDAO
from atlas.errors import AtlasError
from maia.api.problems import Problem
from maia.learner.cycle import pseudonyms_of
from maia.learner.housekeeping import pay_for
from maia.learner.knowledge import MODELS_OF_DETECTORS
from maia.learning.evidence import Counts
from maia.learning.importance import Use
from maia.learning.known_patterns import KnownPattern, known
from maia.learning.matching import Matcher
from maia.learning.patterns import Pattern, PatternType, condition_of
from maia.learning.recommending import Adviser
from maia.views.engine import EngineStatistics, PatternPage, Ranking, UseOfProcess
from maia.views.federation import count_sites
from maia.views.pattern_answers import PatternAnswers
from maia.views.patterns import believe, no_matches, prior_of

if TYPE_CHECKING:
    from atlas.adapters.changes import PatternChange
    from atlas.composition import Atlas
    from maia.learning.observations import Scalar
    from maia.learning.patterns import Condition
    from maia.learning.privacy import Pseudonyms

logger = logging.getLogger(__name__)

_PAID_EVERY_S: Final = 15.0
_MOST_UNPAID: Final = 100_000
_MANY: Final = 10_000
_MOST_CONDITIONS: Final = 1_000_000
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_PATIENCE_S: Final = 10.0
"""How long a request waits for the patterns to be read after the process has started."""


class Engine:
    """Matches contexts with patterns, and advises; a reader of the change feed."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas, self._prior = atlas, prior_of(atlas)
        self._dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._log = ObservationsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._pseudonyms: Pseudonyms | None = None
        self._matcher, self._adviser = self._knowing(Matcher())
        self._loading: dict[str, KnownPattern] | None = {}
        self._is_ready = asyncio.Event()
        self._uses: Counter[tuple[str, Use]] = Counter()
        self._answered: Counter[Use] = Counter()
        self._started_s = time.monotonic()
        self._version = 0
        self._before: dict[str, float] = {}
        self._conditions, self._answers = _Conditions(), PatternAnswers()
        self._ranked: tuple[int, Ranking] | None = None
        self._ranking_lock, self._changing = asyncio.Lock(), asyncio.Lock()

    def _knowing(self, matcher: Matcher) -> tuple[Matcher, Adviser]:
        threshold = self._atlas.settings.learner.confidence_threshold
        return matcher, Adviser(matcher, confidence_threshold=threshold, prior=self._prior)

    # The feed

    async def begin(self) -> None:
        """Read everything anew; until that is done, what was known goes on to be matched."""
        self._loading = {}

    async def load(self, patterns: Sequence[BriefPattern]) -> None:
        """Know some patterns more."""
        learnt = await asyncio.to_thread(self._known, patterns)
        if self._loading is not None:
            self._loading.update((each.id, each) for each in learnt)
            if len(self._loading) >= _MANY:
                # They stay: collecting garbage among so many would hold up requests again and again.
                gc.freeze()

    async def take(self, changes: Sequence[PatternChange], _cursor: str) -> None:
        """Know what changed."""
        gone = [each.pattern.id for each in changes if each.kind == "forgotten"]
        if not changes:
            return
        living = [BriefPattern.of(each.pattern) for each in changes if each.kind != "forgotten"]
        learnt = await asyncio.to_thread(self._known, living)
        if self._loading is not None:
            for id_ in gone:
                self._loading.pop(id_, None)
            self._loading.update({each.id: each for each in learnt})
            return
        self._before = {
            each.pattern.id: known.confidence
            for each in changes
            if (known := self._matcher.find(each.pattern.id)) is not None
        }
        async with self._changing:
            self._matcher.remove(*gone)
            try:
                if fresh := self._matcher.update(*learnt):
                    await self._merge(self._matcher, fresh)
            finally:
                # Only now: a ranking that is made meanwhile lacks what is merged.
                self._version += 1

    async def forget(self, id_: str) -> None:
        """Know a pattern no more that was forgotten just now: whoever did that shall not meet it again."""
        async with self._changing:
            self._matcher.remove(id_)
            self._version += 1

    def confidence_before(self, id_: str) -> float:
        """How firmly a pattern was believed before the changes that were taken last; 0 if it was unknown."""
        return self._before.get(id_, 0.0)

    async def caught_up(self) -> None:
        """Match what was read."""
        loaded, self._loading = self._loading, None
        if loaded is not None:
            matcher = Matcher()
            await self._merge(matcher, loaded.values())
            self._matcher, self._adviser = self._knowing(matcher)
            self._pseudonyms, self._version = None, self._version + 1
            if len(matcher) >= _MANY:
                gc.freeze()
        self._is_ready.set()

    def _known(self, patterns: Sequence[BriefPattern]) -> list[KnownPattern]:
        """What is believed of patterns; they hold no more than matching and advising needs."""
        stated = [(_pattern(each, self._conditions), _counts(each)) for each in patterns]
        pinned = [each.id for each in patterns if each.pinned]
        return known(stated, self._prior, pinned, [each.id for each in patterns])

    @staticmethod
    async def _merge(matcher: Matcher, fresh: Collection[KnownPattern]) -> None:
        merging = matcher.merging(fresh)
        await asyncio.to_thread(merging.build)
        matcher.finish(merging)

    # Requests

    async def match(self, context: Mapping[str, Scalar], limit: int, min_confidence: float) -> bytes:
        """The patterns of which a context meets at least one condition, best first: `Matches` as JSON."""
        cleaned = await self._cleaned(context)
        found = self._matcher.match(cleaned, self._atlas.clock.now(), limit, min_confidence)
        self._note(Use.MATCHED, {each.known.id for each in found})
        if found:
            return self._answers.matches(found)
        return orjson.dumps(no_matches(self._matcher, min_confidence))

    async def recommend(
        self, context: Mapping[str, Scalar], limit: int, because: int, *, explore: bool, seed: int
    ) -> bytes:
        """What to do in a context, best first: `Advice` as JSON."""
        cleaned, now = await self._cleaned(context), self._atlas.clock.now()
        found = self._adviser.recommend(cleaned, now, limit, explore=explore, seed=seed, because=because)
        self._note(Use.RECOMMENDED, {each.known.id for action in found.actions for each in action.because})
        return self._answers.advice(found)

    async def page(
        self, types: Collection[PatternType] | None, min_confidence: float, limit: int, offset: int
    ) -> PatternPage:
        """Some of the patterns, the most firmly believed first."""
        ids, total = (await self._ranking()).page(types, min_confidence, limit, offset)
        stored = {each.id: each for each in await self._dao.known(ids=ids)} if ids else {}
        # One may have been forgotten meanwhile.
        found = [stored[each] for each in ids if each in stored]
        believed = believe(found, self._prior, await count_sites(self._atlas)) if found else []
        return PatternPage(tuple(believed), total, offset, limit)

    async def statistics(self, taken: int) -> EngineStatistics:
        """What is known in all, and what this process has answered; it has taken so many observations."""
        ranking = await self._ranking()
        seconds = time.monotonic() - self._started_s
        matches, advised = self._answered[Use.MATCHED], self._answered[Use.RECOMMENDED]
        process = UseOfProcess(
            matches,
            advised,
            taken,
            matches / seconds,
            advised / seconds,
            taken / seconds,
            seconds,
            psutil.Process().memory_info().rss,
        )
        threshold = self._atlas.settings.learner.confidence_threshold
        by_detector = await self._dao.observations(MODELS_OF_DETECTORS)
        return ranking.statistics(threshold, by_detector, await self._log.learnt(), process)

    async def _ranking(self) -> Ranking:
        """The patterns in order; it is made anew only after something has changed, and once for all."""
        await self._ready()
        async with self._ranking_lock:
            if self._ranked is None or self._ranked[0] != self._version:
                version, patterns = self._version, list(self._matcher)
                self._ranked = version, await asyncio.to_thread(Ranking, patterns)
            return self._ranked[1]

    async def pseudonyms(self) -> Pseudonyms:
        """What stands for personal data, as in the patterns."""
        if self._pseudonyms is None:
            self._pseudonyms = await pseudonyms_of(self._atlas)
        return self._pseudonyms

    async def _cleaned(self, context: Mapping[str, Scalar]) -> dict[str, Scalar]:
        await self._ready()
        return dict((await self.pseudonyms()).context(context))

    async def _ready(self) -> None:
        """Problem 503 if the patterns have not been read yet."""
        if self._is_ready.is_set():
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._is_ready.wait()
        except TimeoutError:
            raise Problem(
                503,
                "the patterns are still being read: try again in a few seconds",
                headers={"Retry-After": "5"},
            ) from None

    # Importance

    def _note(self, use: Use, ids: Collection[str]) -> None:
        self._answered[use] += 1
        if len(self._uses) < _MOST_UNPAID:
            self._uses.update((each, use) for each in ids)

    async def keep_paying(self) -> None:
        """Pay patterns for having been useful, now and then, and at the end."""
        try:
            while True:
                await asyncio.sleep(_PAID_EVERY_S)
                await self._pay()
        finally:
            await self._pay()

    async def _pay(self) -> None:
        if not self._uses:
            return
        uses, self._uses = self._uses, Counter()
        try:
            await pay_for(self._dao, uses, self._atlas.clock.now())
        except AtlasError as error:
            logger.warning("patterns were not paid for %s uses: %s", uses.total(), error)


class _Conditions:
    """Makes conditions, equal ones only once: many patterns share some."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, object, type, object], Condition] = {}

    def of(self, plain: Mapping[str, object]) -> Condition:
        value = plain.get("value")
        key = plain.get("field"), plain.get("operator"), type(value), value
        made = self._made.get(key)
        if made is None:
            if len(self._made) > _MOST_CONDITIONS:
                self._made.clear()
            made = self._made[key] = condition_of(plain)
        return made


def _pattern(brief: BriefPattern, conditions: _Conditions) -> Pattern:
    return Pattern(
        PatternType(brief.type),
        _NOTHING,
        brief.statement,
        tuple(map(conditions.of, brief.conditions)),
        brief.action,
        _NOTHING if brief.cost is None else {"cost": brief.cost},
    )


def _counts(brief: BriefPattern) -> Counts:
    return Counts(brief.pos, brief.neg, brief.sum_reward, brief.last_seen)

"""A process's part in learning what the service is sent: appending it, leading, and hearing what was learnt.

Every process appends what it is sent to one log, many requests with one statement. One process, the leader,
learns all of it, and tells the others what changed. If it dies, another one takes over within seconds, and
goes on from what was stored last.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import orjson

from atlas.adapters.observations import CHANNEL, MOST_NOTICE_BYTES, Appended, ObservationsDAO
from atlas.connections import connected_within
from atlas.errors import AtlasError, DatabaseUnavailable, DataRefused, LeaseLost
from atlas.tasks import running
from maia.api.problems import Problem
from maia.learner.continual import LOCK, ContinualLearner, Lesson
from maia.learner.cycle import pseudonyms_of
from maia.learner.observing import Remembered

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.learning.observations import Observation
    from maia.learning.privacy import Pseudonyms
    from maia.views.patterns import BelievedPattern

logger = logging.getLogger(__name__)

MOST_PATTERNS: Final = 1_000
"""Patterns in one answer."""
_MOST_APPENDED: Final = 5_000
"""Observations that one statement appends."""
_LESSONS_KEPT: Final = 500
_PATTERNS_KEPT: Final = 10_000
_ELECTION_S: Final = 1.0
_AFTER_ERROR_S: Final = 5.0
_UNSETTLED_S: Final = 0.05
_IDLE_S: Final = 5.0
_STOP_S: Final = 3.0
_RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of what was sent: the patterns that changed, as JSON by id, unless that is `pending`."""

    patterns: Mapping[str, bytes]
    pending: bool
    repeated: int = 0
    """Observations that were known by their keys."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What was learnt of a range of the log; `is_whole` unless more is told of it."""

    after: int
    up_to: int
    patterns: Mapping[str, bytes]
    is_whole: bool = True


class Lessons:
    """What was learnt last, of what this process was sent; and those who wait for it."""

    def __init__(self) -> None:
        self.learnt_up_to = 0
        self._told: deque[_Told] = deque()
        self._patterns = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def add(self, told: _Told) -> None:
        """Note what was learnt, and wake those that waited for it."""
        self._told.append(told)
        self._patterns += len(told.patterns)
        while len(self._told) > _LESSONS_KEPT or (self._patterns > _PATTERNS_KEPT and len(self._told) > 1):
            self._patterns -= len(self._told.popleft().patterns)
        if told.is_whole:
            self.learnt_up_to = max(self.learnt_up_to, told.up_to)
        while self._waiting and self._waiting[0][0] <= self.learnt_up_to:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    async def of(self, first: int, last: int, wait_s: float) -> Outcome:
        """What was learnt of the observations with these ids, once it is; pending if that takes longer."""
        if last > self.learnt_up_to:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (last, next(self._numbers), future))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await future
        patterns: dict[str, bytes] = {}
        for told in reversed(self._told):
            if told.up_to < first:
                break
            if told.after < last:
                # Of what changed more than once, the latest counts.
                patterns = {**told.patterns, **patterns}
        return Outcome(dict(itertools.islice(patterns.items(), MOST_PATTERNS)), last > self.learnt_up_to)


@dataclass(slots=True)
class _Request:
    observations: Sequence[Observation]
    keys: Sequence[bytes | None]
    appended: asyncio.Future[list[Appended] | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Observing:
    """Takes observations in this process, and learns them if it is the leader."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas, self._settings = atlas, atlas.settings.api
        self._dao = ObservationsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._writer = f"{atlas.settings.node_id[:80]} {secrets.token_hex(6)}"
        self._lessons = Lessons()
        self._requests: deque[_Request] = deque()
        self._has_requests, self._has_news = asyncio.Event(), asyncio.Event()
        self._cleaning: tuple[Pseudonyms, Remembered] | None = None
        self._learner: ContinualLearner | None = None
        self._is_over = False
        self.taken = 0
        """Observations that this process has stored."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Append, listen and stand for leader until the block ends; what was learnt is then stored."""
        async with AsyncExitStack() as stack:
            stack.callback(self._refuse_all)
            # Stopped in the reverse order: whoever appends, until the end.
            for work in (self._append_forever, self._listen_forever, self._lead_whenever_possible):
                await stack.enter_async_context(running(work()))
            yield

    async def cleaning(self) -> tuple[Pseudonyms, Remembered]:
        """What replaces personal data before anything is stored, as the learner does."""
        if self._cleaning is None:
            pseudonyms = await pseudonyms_of(self._atlas)
            self._cleaning = pseudonyms, Remembered(pseudonyms)
        return self._cleaning

    async def observe(
        self, observations: Sequence[Observation], keys: Sequence[bytes | None] | None = None
    ) -> Outcome:
        """Append observations durably, and wait a moment for what is learnt of them.

        One whose key is known already is not appended. Problem 503 if too many wait to be learnt already;
        then none of them is stored.
        """
        if not observations:
            return Outcome({}, pending=False)
        if self._is_over:
            raise _stopping()
        if sum(len(each.observations) for each in self._requests) >= self._settings.most_unlearnt:
            raise _too_far_behind()
        request = _Request(observations, keys or [None] * len(observations))
        self._requests.append(request)
        self._has_requests.set()
        appended = await request.appended
        if appended is None:
            raise _too_far_behind()
        repeated = sum(not each.is_new for each in appended)
        new = [each.id for each in appended if each.id is not None and each.is_new]
        ids = new or [each.id for each in appended if each.id is not None]
        if not ids:
            return Outcome({}, pending=True, repeated=repeated)
        outcome = await self._lessons.of(min(ids), max(ids), self._settings.observe_wait_s)
        return replace(outcome, repeated=repeated)

    # Appending

    def _refuse_all(self) -> None:
        """Answer those that nobody will append any more."""
        self._is_over = True
        for each in self._requests:
            if not each.appended.done():
                each.appended.set_exception(_stopping())
        self._requests.clear()

    async def _append_forever(self) -> None:
        while True:
            await self._has_requests.wait()
            requests: list[_Request] = []
            rows = 0
            while self._requests and (not requests or rows < _MOST_APPENDED):
                requests.append(self._requests.popleft())
                rows += len(requests[-1].observations)
            if not self._requests:
                self._has_requests.clear()
            try:
                with connected_within(self._settings.connect_timeout_s):
                    await self._append(requests)
            except BaseException as error:
                if isinstance(error, DatabaseUnavailable):
                    # Whoever asked meanwhile has waited for the same.
                    requests += self._requests
                    self._requests.clear()
                    self._has_requests.clear()
                for each in requests:
                    if not each.appended.done():
                        each.appended.set_exception(error if isinstance(error, Exception) else _stopping())
                if not isinstance(error, Exception):
                    raise

    async def _append(self, requests: Sequence[_Request]) -> None:
        """Append what was asked for in the meantime, all of it or nothing."""
        together = [each for request in requests for each in request.observations]
        learner = self._learner
        try:
            appended = await self._dao.append(
                together,
                [key for request in requests for key in request.keys],
                writer=self._writer,
                most_waiting=self._settings.most_unlearnt,
                wake=learner is None,
            )
        except DataRefused:
            if len(requests) == 1:
                raise
            # What one of them sent must not keep the others from being stored.
            for each in requests:
                try:
                    await self._append([each])
                except DataRefused as error:
                    if not each.appended.done():
                        each.appended.set_exception(error)
            return
        if appended is not None:
            self.taken += sum(each.is_new for each in appended)
            if learner is not None:
                learner.hand(appended, together, self._writer)
        self._has_news.set()
        begin = 0
        for request in requests:
            end = begin + len(request.observations)
            if not request.appended.done():
                request.appended.set_result(None if appended is None else appended[begin:end])
            begin = end

    # Hearing of others

    async def _listen_forever(self) -> None:
        unheard = "what other processes learn is not heard for now"
        await self._atlas.db.keep_listening(CHANNEL, self._hear, unheard)

    def _hear(self, notice: str) -> None:
        if not notice:
            self._has_news.set()
            return
        try:
            told = read_notice(notice, self._writer)
        except (ValueError, KeyError, TypeError):
            logger.exception("a notice on the channel %s is none of ours", CHANNEL)
            # It may stand for what was meant for us.
            self._has_news.set()
            return
        if told is not None:
            self._lessons.add(told)

    # Leading

    async def _lead_whenever_possible(self) -> None:
        while True:
            wait_s = _ELECTION_S
            try:
                if not await self._dao.has_leader(LOCK):
                    async with self._atlas.db.only_one(LOCK) as is_only:
                        if is_only:
                            await self._lead()
            except LeaseLost as error:
                logger.info("another process leads now: %s", error)
            except AtlasError as error:
                logger.warning("what is observed waits to be learnt: %s", error)
            except Exception:
                logger.exception("learning what is observed failed; it begins anew in a moment")
                wait_s = _AFTER_ERROR_S
            finally:
                self._learner = None
            await asyncio.sleep(wait_s)

    async def _lead(self) -> None:
        learner = await ContinualLearner.restore(self._atlas, self._has_news.set)
        self._learner = learner
        logger.info("this process learns what is observed", extra={"action": "leading"})
        try:
            while True:
                self._has_news.clear()
                lesson, is_unsettled = await learner.learn()
                if lesson is not None:
                    await self._publish(lesson)
                await learner.keep()
                if lesson is None or not is_unsettled:
                    await self._wait(min(learner.wait_s, _UNSETTLED_S if is_unsettled else _IDLE_S))
        except asyncio.CancelledError:
            # Nothing would be lost, but the next leader need not learn it again.
            with suppress(AtlasError, TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await learner.flush()
            raise
        finally:
            await learner.close()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_news.wait()

    async def _publish(self, lesson: Lesson) -> None:
        """Tell those who sent it what was learnt: this process at once, others by notices."""
        ours = lesson.patterns if self._writer in lesson.writers else ()
        patterns = {each.id: orjson.dumps(each) for each in ours}
        self._lessons.add(_Told(lesson.after, lesson.up_to, patterns))
        if others := sorted(lesson.writers - {self._writer}):
            await self._dao.tell(notices_of(lesson, others))


def notices_of(lesson: Lesson, writers: Sequence[str]) -> list[str]:
    """What was learnt, as notices for the processes that sent it, each short enough for PostgreSQL."""
    head = {"after": lesson.after, "up_to": lesson.up_to, "for": [*writers]}
    # Far more processes than anybody runs would leave no room for patterns.
    room = MOST_NOTICE_BYTES - len(orjson.dumps(head)) - 40
    pages: list[list[BelievedPattern]] = [[]]
    used = 0
    for each in itertools.islice(lesson.patterns, MOST_PATTERNS):
        told, size = each, len(orjson.dumps(each))
        if size > room:
            told = replace(each, data={})
            size = len(orjson.dumps(told))
        if size > room:
            continue
        if used + size + 1 > room:
            pages.append([])
            used = 0
        pages[-1].append(told)
        used += size + 1
    return [
        orjson.dumps({**head, "patterns": page, "more": number < len(pages)}).decode()
        for number, page in enumerate(pages, 1)
    ]


def read_notice(notice: str, writer: str) -> _Told | None:
    """What a notice tells; None if it tells this process nothing."""
    told = orjson.loads(notice)
    if writer not in told["for"]:
        return None
    patterns = {each["id"]: orjson.dumps(each) for each in told["patterns"]}
    return _Told(told["after"], told["up_to"], patterns, not told["more"])


def _stopping() -> Problem:
    return Problem(
        503,
        "the service is being stopped: send it again",
        headers={"Retry-After": f"{_RETRY_AFTER_S}"},
    )


def _too_far_behind() -> Problem:
    return Problem(
        503,
        "as many observations wait to be learnt as may wait, so none of these was stored: send them again "
        "in a few seconds",
        headers={"Retry-After": f"{_RETRY_AFTER_S}"},
    )

"""Learns observations as they are sent to the service, rather than in cycles.

They are read from a log in an order that never skips one, and taught at once to detectors in memory, which
are other ones than the learner agent's. What this process itself has just appended next is learnt without
reading it again. Every two seconds, what the detectors found is stored together with how far was read, while
the next ones are learnt. The detectors' states are large, and are stored more seldom; in between it is only
noted where each batch ended. Whoever goes on after a crash takes the states, learns again the same batches,
of which what is found is stored already, and then what the log holds beyond.

To make large states takes long, and nothing could be learnt meanwhile. So that is left to a process that does
what that successor would do: see `maia.learner.successor`.

Should two processes learn at once, as one doesn't know yet that it lost the lock, the first to store moves
the cursor, and the other one has to begin anew from there.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

from atlas.adapters.observations import Appended, ObservationsDAO
from atlas.adapters.patterns import Model, PatternsDAO, StoredPattern
from atlas.composition import Atlas
from atlas.errors import AtlasError
from maia.learner.collection import without_collection
from maia.learner.housekeeping import keep_within_limits
from maia.learner.knowledge import Knowledge, Learnt, content_of
from maia.learner.replay import MODELS, MOST_AT_ONCE, SOURCE, Batches, observation_of, repeat, stored_states
from maia.learner.storing import Stored, store_learnt
from maia.learner.successor import StatesFailed, states_after
from maia.learning.evidence import Counts
from maia.learning.observations import Observation, as_logged
from maia.learning.patterns import Finding
from maia.views.patterns import BelievedPattern, believe, prior_of

__all__ = ["LOCK", "MODELS", "SOURCE", "ContinualLearner", "Lesson"]

logger = logging.getLogger(__name__)

LOCK: Final = "pattern engine"
"""The lock of the one process that learns what the service is sent."""

_MOST_HANDED: Final = 5_000
"""Observations that are kept to be learnt without reading them; beyond that, they are read from the log."""
_FLUSH_S: Final = 2.0
_STATES_S: Final = 60.0
_STATES_SHARE: Final = 0.005
"""The most of the time that is spent on making states, unless too long ago they were stored."""
_QUICK_S: Final = 0.02
"""States that are made so quickly are made in this process."""
_MOST_REPEATED: Final = 50_000
"""Observations that whoever goes on may have to learn again, before states are made at once."""
_BELIEVED_S: Final = 10.0
"""How long what is stored of patterns counts as unchanged by others."""
_JUDGE_S: Final = 60.0
_SPARED_EVERY: Final = 2_500


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learnt of the observations with ids after `after` and up to `up_to`."""

    after: int
    up_to: int
    writers: frozenset[str]
    """The processes that were sent them."""
    patterns: Sequence[BelievedPattern]
    """The patterns that changed, as they are believed now."""


@dataclass(frozen=True, slots=True)
class _Handed:
    """An observation that this process has appended itself."""

    id: int
    writer: str
    observation: Observation


class ContinualLearner:
    """The detectors that learn what the service is sent, and what is not stored yet of what they found.

    Only one process may use one, by `LOCK`. After any error, it has to be restored anew.
    """

    def __init__(
        self, atlas: Atlas, knowledge: Knowledge, position: int, wake: Callable[[], None] = lambda: None
    ) -> None:
        """`wake` is called when something was stored, so that `keep` has to be called."""
        self._atlas, self._knowledge, self._wake = atlas, knowledge, wake
        self._log = ObservationsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._position = self._stored_position = self._states_position = position
        self._handed: deque[_Handed] = deque()
        self._is_unsettled = False
        self._learnt = self._unspared = 0
        """Observations that were learnt since the last ones were stored."""
        self._ends: list[int] = []
        """Where the batches ended that were learnt since the states were stored."""
        self._waiting: dict[str, Finding] = {}
        """Evidence that isn't stored yet, by pattern."""
        self._storing: dict[str, Finding] = {}
        """Evidence that is just being stored."""
        self._current: dict[str, StoredPattern | None] = {}
        """Patterns that changed, with all evidence; None for those that an operator forgot."""
        self._proven: set[str] = set()
        self._is_torn = False
        self._flushing: asyncio.Task[Stored] | None = None
        self._judging: asyncio.Task[None] | None = None
        self._making: asyncio.Task[list[Model]] | None = None
        self._made_position = position
        now_s = time.monotonic()
        self._flush_at, self._states_at, self._judge_at = now_s + _FLUSH_S, now_s, now_s + _JUDGE_S
        self._believed_until, self._states_took_s = now_s + _BELIEVED_S, 0.0

    @classmethod
    async def restore(cls, atlas: Atlas, wake: Callable[[], None] = lambda: None) -> Self:
        """As it was when it was last stored. ConfigError if a newer version of Pleiades stored it."""
        dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        position = await dao.cursor(SOURCE, "0")
        knowledge, batches = await stored_states(dao, atlas.settings)
        if await dao.cursor(SOURCE, "0") != position:
            # Somebody who doesn't lead any more has just stored: now nobody else will.
            return await cls.restore(atlas, wake)
        batches = batches or Batches(int(position), [])
        learner = cls(atlas, knowledge, batches.begin, wake)
        await repeat(learner._log, knowledge, batches.begin, batches.ends)
        learner._ends = [*batches.ends]
        learner._spare(knowledge.observations)
        learner._position = learner._stored_position = int(position)
        return learner

    @property
    def wait_s(self) -> float:
        """In how many seconds there is something to store, though nothing new is sent."""
        if self._flushing is not None or self._position == self._stored_position:
            return _FLUSH_S
        return max(0.0, self._flush_at - time.monotonic())

    # Learning

    def hand(self, appended: Sequence[Appended], observations: Sequence[Observation], writer: str) -> None:
        """Take what this process has just appended, so that it need not be read if it comes next."""
        if len(self._handed) + len(observations) > _MOST_HANDED:
            self._handed.clear()
            return
        for entry, each in zip(appended, observations, strict=True):
            if entry.is_new and entry.id is not None:
                self._handed.append(_Handed(entry.id, writer, each))

    async def learn(self) -> tuple[Lesson | None, bool]:
        """Learn what comes next; None if nothing does. Also returns whether there is more, perhaps soon."""
        after = self._position
        if handed := self._next_handed():
            # As every id is there, nobody else can have one in between.
            end, writers = handed[-1].id, frozenset(each.writer for each in handed)
            changed = await self._teach([as_logged(each.observation) for each in handed], end)
            more = bool(self._handed) or self._is_unsettled
            return Lesson(after, end, writers, await self._believed(changed)), more
        watermark = await self._log.watermark()
        rows = await self._log.since(after, watermark, MOST_AT_ONCE)
        is_full = len(rows) == MOST_AT_ONCE
        end = rows[-1].id if is_full else max(watermark.readable, after)
        self._is_unsettled = watermark.readable < watermark.taken
        more = is_full or self._is_unsettled
        if not rows:
            self._position = end
            return None, more
        changed = await self._teach([observation_of(row) for row in rows], end)
        lesson = Lesson(after, end, frozenset(row.writer for row in rows), await self._believed(changed))
        return lesson, more

    def _next_handed(self) -> list[_Handed]:
        """Observations that were handed and follow one upon the other, from the next one on."""
        handed, following = self._handed, list[_Handed]()
        while handed and handed[0].id <= self._position:
            handed.popleft()
        end = self._position
        while handed and len(following) < MOST_AT_ONCE and handed[0].id == end + 1:
            following.append(handed.popleft())
            end += 1
        return following

    def _spare(self, observations: int) -> None:
        """Now and then, spare what detectors remember a search for garbage, which would take 100 ms and more.

        They hold it for long, and without cycles. What is garbage already is collected before.
        """
        self._unspared += observations
        if self._unspared >= _SPARED_EVERY:
            self._unspared = 0
            gc.collect(1)
            gc.freeze()

    async def _teach(self, observations: Sequence[Observation], end: int) -> dict[str, Finding]:
        """Teach a batch that ends there; returns what was found in it, by pattern."""
        # If this is cancelled, some detectors have learnt what others haven't.
        self._is_torn = True
        learnt = await self._knowledge.learn(observations, SOURCE)
        changed = {finding.pattern.id: finding for finding in learnt.findings}
        for id_, finding in changed.items():
            known = self._waiting.get(id_)
            self._waiting[id_] = known.followed_by(finding) if known else finding
        self._position, self._is_torn = end, False
        self._learnt += len(observations)
        self._spare(len(observations))
        self._ends.append(end)
        return changed

    async def _believed(self, changed: Mapping[str, Finding]) -> list[BelievedPattern]:
        """What is believed of patterns now that this was found."""
        unknown = [id_ for id_ in changed if id_ not in self._current]
        for id_, finding in changed.items():
            if (current := self._current.get(id_)) is not None:
                self._current[id_] = _with(current, finding)
        if unknown:
            await self._read(unknown)
        current_ones = [current for id_ in changed if (current := self._current[id_]) is not None]
        return believe(current_ones, prior_of(self._atlas)) if current_ones else []

    async def _read(self, ids: Sequence[str]) -> None:
        """Read patterns, and add what isn't stored yet."""
        if self._flushing is not None and any(id_ in self._storing for id_ in ids):
            # Of what is just being stored, nobody knows whether it would be read.
            await asyncio.wait([self._flushing])
            self._storing = {}
        known = {each.id: each for each in await self._dao.known(ids=ids)}
        new = [id_ for id_ in ids if id_ not in known]
        buried = frozenset(await self._dao.forgotten_by_operator(new) if new else ())
        for id_ in ids:
            stored = known.get(id_) or self._new(id_)
            self._current[id_] = None if id_ in buried else _with(stored, self._waiting[id_])

    def _new(self, id_: str) -> StoredPattern:
        now = self._atlas.clock.now()
        content = content_of(self._waiting[id_].pattern, id_)
        return StoredPattern(
            **{each.name: getattr(content, each.name) for each in fields(content)},
            created_at=now, updated_at=now, attended_at=now, version=1, pinned=False, sti=0, lti=0,
            pos=0, neg=0, sum_reward=0, last_seen=None, sites=1, days=0,
        )  # fmt: skip

    # Storing

    async def keep(self) -> None:
        """Begin to store what is due to be stored, and to forget what is too old or too unimportant.

        Raises what kept something from being stored since the last call; then this one must learn no more.
        """
        if self._flushing is not None and self._flushing.done():
            self._settle()
        now_s = time.monotonic()
        if self._flushing is None and now_s >= self._flush_at:
            self._make_states_beside()
            await self._begin_flush(states=self._states_are_due and self._making is None)
        if now_s >= self._judge_at and self._judging is None and self._proven:
            self._judging = asyncio.create_task(self._judge())

    async def flush(self, *, states: bool = True) -> None:
        """Store what was learnt and how far was read, and with `states` those of the detectors.

        LeaseLost if another process has learnt since; then this one must learn no more.
        """
        await self._await_flush()
        if self._making is not None:
            await _ended(self._making)
            self._making = None
        await self._begin_flush(states=states)
        await self._await_flush()

    async def close(self) -> None:
        """End what is still being done; what is being stored may be stored or not."""
        for task in (self._making, self._judging, self._flushing):
            if task is not None:
                await _ended(task)

    async def _begin_flush(self, *, states: bool) -> None:
        """Begin to store; the states only if that is quick, or else in a process of its own."""
        has_states = states and self._states_position != self._position
        made = self._making if self._making is not None and self._making.done() else None
        if self._is_torn or not (has_states or made or self._position != self._stored_position):
            return
        models: list[Model] = []
        if has_states:
            began_s = time.monotonic()
            models = await self._states()
            self._states_took_s = time.monotonic() - began_s
            self._made(self._position)
        elif made is not None:
            self._making = None
            models = self._given_by(made)
        models.append(Batches(self._states_position, self._ends).model())
        self._storing, self._waiting = self._waiting, {}
        learnt, self._learnt = self._learnt, 0
        self._flushing = asyncio.create_task(self._store(models, self._position, learnt))
        self._flushing.add_done_callback(lambda _: self._wake())

    async def _store(self, models: Sequence[Model], end: int, learnt: int) -> Stored:
        async def count(ours: PatternsDAO) -> None:
            await self._log.joining(ours).count_learnt(learnt)

        findings = Learnt(list(self._storing.values()))
        start = str(self._stored_position)
        stored = await store_learnt(self._dao, SOURCE, start, str(end), findings, models, count)
        self._stored_position = end
        return stored

    async def _await_flush(self) -> None:
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
            self._settle()

    def _settle(self) -> None:
        """Note that what was being stored is; raises the error if it isn't."""
        assert self._flushing is not None
        flushing, self._flushing = self._flushing, None
        self._proven |= flushing.result().proven
        self._storing = {}
        now_s = time.monotonic()
        if now_s >= self._believed_until:
            # Others change patterns too.
            self._current.clear()
            self._believed_until = now_s + _BELIEVED_S
        self._flush_at = now_s + _FLUSH_S

    # States

    @property
    def _states_are_due(self) -> bool:
        return time.monotonic() >= self._states_at or self._position - self._states_position >= _MOST_REPEATED

    def _make_states_beside(self) -> None:
        """Begin to make states in another process if they are due, and it would take long here."""
        if self._making is None and self._states_took_s > _QUICK_S and self._states_are_due:
            self._made_position = self._position
            settings, ends = self._atlas.settings, [*self._ends]
            self._making = asyncio.create_task(states_after(settings, self._states_position, ends))

    async def _states(self) -> list[Model]:
        # Half of the time would go to a search for cycles, of which there are none.
        with without_collection():
            return await asyncio.to_thread(self._knowledge.models, SOURCE)

    def _given_by(self, made: asyncio.Task[list[Model]]) -> list[Model]:
        """What another process has made of the states; nothing if it failed."""
        try:
            models = made.result()
        except (StatesFailed, OSError) as error:
            logger.warning("%s: they are made here next time", error)
            self._states_took_s = 0.0
            return []
        self._made(self._made_position)
        return [*models]

    def _made(self, position: int) -> None:
        """Note that there are states as of a position, which will be stored."""
        self._states_position = position
        self._ends = [end for end in self._ends if end > position]
        pause_s = min(max(_FLUSH_S, self._states_took_s / _STATES_SHARE), _STATES_S)
        self._states_at = time.monotonic() + pause_s

    async def _judge(self) -> None:
        proven, self._proven = self._proven, set()
        try:
            await keep_within_limits(self._dao, self._atlas.settings.learner, self._atlas.clock.now(), proven)
        except AtlasError as error:
            logger.warning("patterns are paid for what they proved next time: %s", error)
            self._proven |= proven
        finally:
            self._judge_at, self._judging = time.monotonic() + _JUDGE_S, None


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait for its end; an error of it is of no interest any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


def _with(stored: StoredPattern, finding: Finding) -> StoredPattern:
    """A pattern as it will be once this is stored; of its days only as many are counted as are sure."""
    counts = sum(finding.evidence.values(), start=Counts())
    content = content_of(finding.pattern, stored.id)
    last_seen = max(filter(None, (stored.last_seen, counts.last_seen)), default=None)
    return replace(
        stored,
        statement=content.statement,
        conditions=content.conditions,
        action=content.action,
        data=content.data,
        pos=stored.pos + counts.pos,
        neg=stored.neg + counts.neg,
        sum_reward=stored.sum_reward + counts.reward,
        last_seen=last_seen,
        days=max(stored.days, len(finding.evidence)),
        sites=max(stored.sites, 1),
    )

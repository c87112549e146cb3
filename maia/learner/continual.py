"""Learns observations as they are sent to the service, rather than in cycles.

They are read from a log in an order that never skips one, and taught at once to detectors in memory, which
are other ones than the learner agent's. Every two seconds, what the detectors found is stored together with
how far was read. Their states are large, and are stored more seldom; in between it is only noted where each
batch ended. Whoever goes on after a crash takes the states, learns again the same batches, of which what is
found is stored already, and then what the log holds beyond.

Should two processes learn at once, as one doesn't know yet that it lost the lock, the first to store moves
the cursor, and the other one has to begin anew from there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Self

from atlas.adapters.observations import LoggedObservation, ObservationsDAO, Watermark
from atlas.adapters.patterns import Model, PatternsDAO, StoredPattern
from atlas.composition import Atlas
from atlas.errors import ConfigError, TransactionConflict
from maia.learner.collection import without_collection
from maia.learner.housekeeping import keep_within_limits
from maia.learner.knowledge import Knowledge, Learnt, content_of, detector_classes
from maia.learner.storing import store_learnt
from maia.learning.evidence import Counts
from maia.learning.observations import Observation
from maia.learning.patterns import Finding
from maia.learning.states import NewerState, StateError, pack, unpack
from maia.views.patterns import BelievedPattern, believe, prior_of

logger = logging.getLogger(__name__)

LOCK: Final = "pattern engine"
"""The lock of the one process that learns what the service is sent."""
SOURCE: Final = "observations"
MODELS: Final = "api."
"""Begins the names under which the states of these detectors are stored."""

_MOST_AT_ONCE: Final = 250
"""Observations that are taught at once: some 10 ms, in which the process does nothing else."""
_FLUSH_S: Final = 2.0
_STATES_S: Final = 60.0
_STATES_SHARE: Final = 0.005
"""The most of the time that is spent on storing states, unless too much was learnt since, or too long ago."""
_MOST_REPEATED: Final = 50_000
"""Observations that whoever goes on may have to learn again."""
_BATCHES: Final = f"{MODELS}batches"
_BATCHES_VERSION: Final = 1
_JUDGE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learnt of the observations with ids after `after` and up to `up_to`."""

    after: int
    up_to: int
    writers: frozenset[str]
    """The processes that were sent them."""
    patterns: Sequence[BelievedPattern]
    """The patterns that changed, as they are believed now."""


class ContinualLearner:
    """The detectors that learn what the service is sent, and what is not stored yet of what they found.

    Only one process may use one, by `LOCK`. After any error, it has to be restored anew.
    """

    def __init__(self, atlas: Atlas, knowledge: Knowledge, position: int) -> None:
        self._atlas, self._knowledge = atlas, knowledge
        self._log = ObservationsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._position = self._stored_position = self._states_position = position
        self._ends: list[int] = []
        """Where the batches ended that were learnt since the states were stored."""
        self._waiting: dict[str, Finding] = {}
        """Evidence that isn't stored yet, by pattern."""
        self._stored: dict[str, StoredPattern | None] = {}
        """Those patterns without that evidence; None for those that an operator forgot."""
        self._proven: set[str] = set()
        self._is_torn = False
        now_s = time.monotonic()
        self._flush_at, self._states_at, self._judge_at = now_s + _FLUSH_S, now_s, now_s + _JUDGE_S

    @classmethod
    async def restore(cls, atlas: Atlas) -> Self:
        """As it was when it was last stored. ConfigError if a newer version of Pleiades stored it."""
        dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        classes = [each for each in detector_classes(atlas.settings.learner.off) if each.reads == SOURCE]
        position = await dao.cursor(SOURCE, "0")
        models = await dao.models([*Knowledge.model_names(classes, MODELS), _BATCHES])
        if await dao.cursor(SOURCE, "0") != position:
            # Somebody who doesn't lead any more has just stored: now nobody else will.
            return await cls.restore(atlas)
        with without_collection():
            knowledge = await asyncio.to_thread(Knowledge.restore, classes, models, MODELS)
        begin, *ends = _batches_of(models.get(_BATCHES)) or [int(position)]
        learner = cls(atlas, knowledge, begin)
        await learner._repeat(ends)
        learner._position = learner._stored_position = int(position)
        return learner

    async def _repeat(self, ends: Sequence[int]) -> None:
        """Learn again the same batches, without what was found: that is stored."""
        for end in ends:
            rows = await self._log.since(self._position, Watermark(end, end), _MOST_AT_ONCE)
            await self._knowledge.learn([_observation(row) for row in rows], SOURCE)
            self._position = end
        self._ends = [*ends]

    @property
    def wait_s(self) -> float:
        """In how many seconds there is something to store, though nothing new is sent."""
        if self._position == self._stored_position:
            return _FLUSH_S
        return max(0.0, self._flush_at - time.monotonic())

    async def learn(self) -> tuple[Lesson | None, bool]:
        """Learn what comes next; None if nothing does. Also returns whether there is more, perhaps soon."""
        watermark = await self._log.watermark()
        rows = await self._log.since(self._position, watermark, _MOST_AT_ONCE)
        more = len(rows) == _MOST_AT_ONCE
        end = rows[-1].id if more else max(watermark.readable, self._position)
        if not rows:
            self._position = end
            return None, watermark.readable < watermark.taken
        after = self._position
        changed = await self._teach([_observation(row) for row in rows], end)
        lesson = Lesson(after, end, frozenset(row.writer for row in rows), await self._believed(changed))
        return lesson, more or watermark.readable < watermark.taken

    async def _teach(self, observations: Sequence[Observation], end: int) -> list[str]:
        """Teach a batch that ends there; returns the ids of the patterns that changed."""
        # If this is cancelled, some detectors have learnt what others haven't.
        self._is_torn = True
        learnt = await self._knowledge.learn(observations, SOURCE)
        changed = {finding.pattern.id: finding for finding in learnt.findings}
        for id_, finding in changed.items():
            known = self._waiting.get(id_)
            self._waiting[id_] = known.followed_by(finding) if known else finding
        self._position, self._is_torn = end, False
        self._ends.append(end)
        return [*changed]

    async def _believed(self, ids: Collection[str]) -> list[BelievedPattern]:
        """What is believed of patterns, evidence included that isn't stored yet."""
        if unknown := [id_ for id_ in ids if id_ not in self._stored]:
            known = {each.id: each for each in await self._dao.known(ids=unknown)}
            buried = await self._dao.forgotten_by_operator([id_ for id_ in unknown if id_ not in known])
            self._stored |= {id_: known.get(id_) or self._new(id_) for id_ in unknown} | dict.fromkeys(buried)
        with_new = [
            _with(stored, self._waiting[id_]) for id_ in ids if (stored := self._stored[id_]) is not None
        ]
        return believe(with_new, prior_of(self._atlas)) if with_new else []

    def _new(self, id_: str) -> StoredPattern:
        now = self._atlas.clock.now()
        content = content_of(self._waiting[id_].pattern, id_)
        return StoredPattern(
            **{each.name: getattr(content, each.name) for each in fields(content)},
            created_at=now, updated_at=now, attended_at=now, version=1, pinned=False, sti=0, lti=0,
            pos=0, neg=0, sum_reward=0, last_seen=None, sites=1, days=0,
        )  # fmt: skip

    async def keep(self) -> None:
        """Store what is due to be stored, and forget what is too old or too unimportant."""
        now_s = time.monotonic()
        if now_s >= self._flush_at:
            repeated = self._position - self._states_position
            await self.flush(states=now_s >= self._states_at or repeated >= _MOST_REPEATED)
        if now_s >= self._judge_at and self._proven:
            await self._judge()

    async def flush(self, *, states: bool = True) -> None:
        """Store what was learnt and how far was read, and with `states` those of the detectors.

        LeaseLost if another process has learnt since; then this one must learn no more.
        """
        has_states = states and self._states_position != self._position
        if self._is_torn or not (has_states or self._position != self._stored_position):
            return
        began_s = time.monotonic()
        models = await self._states() if has_states else []
        batches = [self._position] if has_states else [self._states_position, *self._ends]
        # Where the batches begin is told apart, so that retention keeps all that has to be learnt again.
        packed = pack(_BATCHES, _BATCHES_VERSION, batches)
        models.append(Model(_BATCHES, _BATCHES_VERSION, packed, batches[0]))
        start, end = str(self._stored_position), str(self._position)
        findings = Learnt(list(self._waiting.values()))
        stored = await store_learnt(self._dao, SOURCE, start, end, findings, models)
        self._stored_position = self._position
        self._waiting.clear()
        # Others change patterns too: what is believed is read anew.
        self._stored.clear()
        self._proven |= stored.proven
        now_s = time.monotonic()
        self._flush_at = now_s + _FLUSH_S
        if has_states:
            self._states_position, self._ends = self._position, []
            self._states_at = now_s + min(max(_FLUSH_S, (now_s - began_s) / _STATES_SHARE), _STATES_S)

    async def _states(self) -> list[Model]:
        # Half of the time would go to a search for cycles, of which there are none.
        with without_collection():
            return await asyncio.to_thread(self._knowledge.models, SOURCE)

    async def _judge(self) -> None:
        self._judge_at = time.monotonic() + _JUDGE_S
        proven, self._proven = self._proven, set()
        try:
            await keep_within_limits(self._dao, self._atlas.settings.learner, self._atlas.clock.now(), proven)
        except TransactionConflict as error:
            logger.info("patterns are paid for what they proved next time: %s", error)
            self._proven |= proven


def _batches_of(model: Model | None) -> list[int]:
    """How far the states were learnt, and where the batches after it ended; nothing if that isn't known."""
    if model is None:
        return []
    try:
        found: list[int] = unpack(_BATCHES, _BATCHES_VERSION, model.state)
    except NewerState as error:
        raise ConfigError(f"{error}: update Pleiades here too") from error
    except StateError as error:
        logger.error("%s; what was learnt since is missing in them", error, extra={"action": "state_damaged"})
        return []
    return found


def _observation(row: LoggedObservation) -> Observation:
    return Observation(
        row.agent, row.session, row.action, row.at, row.outcome, row.context, row.reward, row.cost,
        row.duration_s,
    )  # fmt: skip


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

"""The learner reads what happened since it last did, and stores what it learnt together with how far it read.

Only one learner works at a time, by a lock. Each page of a source is learnt in one transaction: patterns,
their evidence, the detectors' states, and the cursor, which moves only from where the page began. So a crash
at any point leaves nothing learnt twice and nothing out, and memory is bounded by a page. At the end copies
are kept: a commit in Git and a snapshot in the vault, if the settings want them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.errors import VaultError
from atlas.gitstore import GitError
from atlas.wording import counted
from maia.cycle.agent import Agent
from maia.cycle.cycle import Cycle, OnProgress
from maia.cycle.outcome import CycleStatistics, Progress
from maia.cycle.steps import StepRunner, plain
from maia.graphing import saving
from maia.graphing.deriving import derive, is_due
from maia.graphing.feeding import feed
from maia.graphing.present import present_graph
from maia.graphing.spreading import forget_atoms, spread_attention
from maia.learner import archive
from maia.learner.advising import make_suggestions
from maia.learner.analysing import analyse_episodes
from maia.learner.collection import without_collection
from maia.learner.exporting import commit_patterns
from maia.learner.forecasting import Forecasting
from maia.learner.housekeeping import keep_within_limits
from maia.learner.knowledge import DetectorClass, Knowledge, Learnt, detector_classes
from maia.learner.outcomes import MODELS, TEMPLATES, classify_new_templates
from maia.learner.sequences import NEXT_ACTIONS
from maia.learner.sources import Acts, Curves, Figures, HostMetrics, Page, Source, Yields
from maia.learner.storing import store_learnt
from maia.learning.detector import Reads
from maia.learning.privacy import Pseudonyms

logger = logging.getLogger(__name__)

LOCK: Final = "learner"
ANOTHER: Final = "another learner is at work"
"""The detail of a cycle that did nothing for that reason."""
FULL: Final = "full"
"""The option that asks for the analyses of all stored data."""
_PAGES_BETWEEN_JUDGEMENTS: Final = 20
_COPIES: Final = {
    "commit": "commit of the patterns",
    "snapshot": "snapshot of the patterns",
    "graph_snapshot": "snapshot of the graph",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerStatistics(CycleStatistics):
    """Counts for one or more cycles: what was read, and what came of it."""

    observations: int = 0
    measurements: int = 0
    curves: int = 0
    new_patterns: int = 0
    changed_patterns: int = 0
    forgotten_patterns: int = 0
    patterns: int = 0
    """How many are known after the last cycle."""
    alarms: int = 0
    """Series that were odd, too high, or shifted."""
    forecasts: int = 0
    checked_forecasts: int = 0
    """Earlier forecasts that were compared with what came."""
    commits: int = 0
    snapshots: int = 0
    failed_copies: int = 0
    """Commits and snapshots that failed; the next cycle tries again."""
    suggestions: int = 0
    """How many suggestions hold after the last cycle."""
    graph_changes: int = 0
    """Atoms that the graph gained or lost by facts."""
    derived_links: int = 0
    """Links that were derived, or held no longer."""

    def then(self, later: LearnerStatistics) -> LearnerStatistics:
        """Counts are added up, but patterns and suggestions are those after the later cycle."""
        both = CycleStatistics.then(self, later)
        return replace(both, patterns=later.patterns, suggestions=later.suggestions)


class Learner(Agent[LearnerStatistics]):
    """The learner, with its detectors."""

    name = "learner"
    statistics = LearnerStatistics

    def __init__(
        self,
        atlas: Atlas,
        detectors: Sequence[DetectorClass],
        pseudonyms: Pseudonyms,
        step: StepRunner = plain,
    ) -> None:
        super().__init__(atlas, step)
        self.detectors, self.pseudonyms = detectors, pseudonyms
        self.settings = atlas.settings.learner
        self.dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    @classmethod
    @asynccontextmanager
    async def open(cls, atlas: Atlas, step: StepRunner = plain) -> AsyncIterator[Learner]:
        """Open a learner; ConfigError if the settings name an unknown detector."""
        detectors = detector_classes(atlas.settings.learner.off)
        yield cls(atlas, detectors, await pseudonyms_of(atlas), step)

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def new_cycle(self, number: int, on_progress: OnProgress | None) -> LearnerCycle:
        return LearnerCycle(self, number, on_progress)

    @staticmethod
    def headline(statistics: Mapping[str, Any]) -> str:
        return counted(statistics["new_patterns"], "new pattern")

    @staticmethod
    def summary(statistics: Mapping[str, Any]) -> str:
        read = ", ".join(
            counted(statistics[f"{noun}s"], noun) for noun in ("observation", "measurement", "curve")
        )
        text = (
            f"learnt from {read} in {statistics['seconds']:.1f} s: "
            f"{counted(statistics['new_patterns'], 'new pattern')}, "
            f"{statistics['changed_patterns']:,} changed, {statistics['forgotten_patterns']:,} forgotten; "
            f"{counted(statistics['patterns'], 'is', 'are')} known; "
            f"{counted(statistics['forecasts'], 'forecast')}, "
            f"{counted(statistics['checked_forecasts'], 'earlier one')} checked"
        )
        if changes := statistics["graph_changes"] + statistics["derived_links"]:
            text += f"; {counted(changes, 'change')} of the graph"
        if failed := statistics["failed_copies"]:
            text += (
                f"; {counted(failed, 'commit or snapshot', 'commits or snapshots')} failed (the log says why)"
            )
        return f"{text}\n{statistics['detail']}" if statistics["detail"] else text


async def pseudonyms_of(atlas: Atlas) -> Pseudonyms:
    """What makes pseudonyms, with the key of the settings or else the database's own."""
    privacy = atlas.settings.privacy
    if privacy.key is not None:
        key = privacy.key.get_secret_value().encode()
    else:
        dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        key = (await dao.site()).privacy_key
    return Pseudonyms(key, ips=privacy.anonymize_ips, uuids=privacy.anonymize_uuids)


class LearnerCycle(Cycle[LearnerStatistics]):
    """A learner's cycle: the detectors with what they know, and the counts so far."""

    agent: Learner
    idle = "there is nothing new to learn"

    def __init__(self, learner: Learner, number: int = 1, on_progress: OnProgress | None = None) -> None:
        super().__init__(learner, number, on_progress)
        self.learner, self.dao = learner, learner.dao
        self.read: Counter[Reads] = Counter()
        self.new = self.changed = self.forgotten = self.known = self.alarms = 0
        self.forecasts = self.checked = self.suggestions = 0
        self.graph_changes = self.derived_links = 0
        self.commits = self.snapshots = self.failed_copies = 0
        self._copies: list[tuple[str, Mapping[str, Any]]] = []
        """The events about copies."""
        self._proven: set[str] = set()
        """The patterns that proved true since importance was last paid for."""

    async def _work(self, batch_size: int) -> None:
        self.known = await self.dao.count_known()
        async with self.atlas.db.only_one(LOCK) as is_only:
            if not is_only:
                self.idle = ANOTHER
                return
            await self.dao.begin_run(self.agent.session)
            await self._learn_all(batch_size)
            # Also where nothing is new: a cycle that was cut off may have left some unclassified.
            await self.step("classify", "failures", lambda: classify_new_templates(self.atlas))
            if FULL in self.agent.options:
                await self.step("analyse", "events", self._analyse)
            has_learnt = bool(self.claimed or self.agent.options)
            if has_learnt:
                await self.step("judge", "patterns", self._judge)
                await self.step("forecast", "views", self._forecast)
                # Also where none are wanted: those that were made before are withdrawn.
                await self.step("advise", "suggestions", self._advise)
                self.claimed = max(self.claimed, 1)
            if self.atlas.settings.graph.enabled:
                await self.step("feed", "graph", self._feed_graph)
            keeping = await self._to_keep(has_learnt=has_learnt)
            for what, keep in keeping.items():
                await self.step("keep", what, partial(self._keep, what, keep))

    async def _learn_all(self, batch_size: int) -> None:
        names = [*Knowledge.model_names(self.learner.detectors), TEMPLATES, *MODELS, *NEXT_ACTIONS]
        models = await self.dao.models(names)
        sources: list[Source] = [
            Acts(self.atlas, self.learner.pseudonyms, models),
            Figures(self.atlas),
            HostMetrics(self.atlas),
            Curves(self.atlas),
            Yields(self.atlas),
        ]
        knowledge = Knowledge.restore(self.learner.detectors, models)
        for source in sources:
            position = await self.dao.cursor(source.name, source.start)
            learn = partial(self._learn, knowledge, source, position, batch_size)
            await self.step("learn", source.name, learn)

    async def _learn(self, knowledge: Knowledge, source: Source, position: str, batch_size: int) -> None:
        pages = 0
        while True:
            with without_collection():
                page = await self._learn_page(knowledge, source, position, batch_size)
            if page.end == position:
                return
            position = page.end
            self._report(source)
            pages += 1
            if page.is_last:
                return
            if pages % _PAGES_BETWEEN_JUDGEMENTS == 0:
                await self._judge()

    async def _learn_page(self, knowledge: Knowledge, source: Source, position: str, batch_size: int) -> Page:
        """Read, learn and store what comes after a position; returns the page without its inputs."""
        page = await source.read(position, batch_size)
        if page.end != position:
            learnt = await knowledge.learn(page.inputs, source.reads) if page.inputs else Learnt()
            await self._store(knowledge, source, position, page, learnt)
            self.claimed += page.read
            self.read[source.reads] += len(page.inputs)
        return replace(page, inputs=())

    async def _store(
        self, knowledge: Knowledge, source: Source, position: str, page: Page, learnt: Learnt
    ) -> None:
        models = [*knowledge.models(source.reads), *source.models()] if page.inputs else []
        stored = await store_learnt(self.dao, source.name, position, page.end, learnt, models)
        self.alarms += len(learnt.alarms)
        self._proven |= stored.proven
        self.new += stored.new
        self.changed += stored.changed
        self.known += stored.new

    async def _analyse(self) -> None:
        changed = await analyse_episodes(self.atlas, self.learner.pseudonyms, self._report_analysis)
        new = sum(changed.values())
        self.new += new
        self.changed += len(changed) - new
        self.known += new

    async def _judge(self) -> None:
        """Forget what is too old or too unimportant to keep."""
        now = self.atlas.clock.now()
        kept = await keep_within_limits(self.dao, self.learner.settings, now, self._proven)
        self._proven.clear()
        self.forgotten += kept.forgotten
        self.known = kept.known

    async def _forecast(self) -> None:
        forecasted = await Forecasting(self.atlas).run(anew=FULL in self.agent.options)
        self.forecasts, self.checked = forecasted.videos, forecasted.checked

    async def _advise(self) -> None:
        self.suggestions = await make_suggestions(self.atlas)

    async def _feed_graph(self) -> None:
        """Take over what changed, derive from it now and then, pay for attention, and forget."""
        fed = await feed(self.atlas, partial(self._report_progress, "the graph"))
        self.graph_changes += fed.changed
        if await is_due(self.atlas):
            derived = await derive(self.atlas, self._report_progress)
            self.derived_links += derived.written + derived.removed
        await spread_attention(self.atlas)
        if fed.changed:
            self.graph_changes += await forget_atoms(self.atlas)

    async def _to_keep(self, *, has_learnt: bool) -> dict[str, Callable[[], Awaitable[None]]]:
        """The copies of the patterns and of the graph that are to be made now, by what they are."""
        wanted: dict[str, Callable[[], Awaitable[None]]] = {}
        if has_learnt and self.learner.settings.git.enabled:
            wanted["commit"] = self._commit
        if await archive.is_due(self.atlas):
            wanted["snapshot"] = self._take_snapshot
        if await saving.is_due(self.atlas):
            wanted["graph_snapshot"] = self._take_graph_snapshot
        return wanted

    async def _keep(self, what: str, keep: Callable[[], Awaitable[None]]) -> None:
        """Make a copy. If Git or the vault fails, what was learnt is safe in the database all the same."""
        try:
            await keep()
        except (GitError, VaultError, OSError, ValueError) as error:
            self.failed_copies += 1
            logger.warning(
                "the %s failed, and the next cycle tries again: %s",
                _COPIES[what],
                error,
                extra={"action": f"{what}_failed"},
            )
            self._copies.append(("learner.copy_failed", {"what": what, "error": str(error)}))

    async def _commit(self) -> None:
        made = await commit_patterns(self.atlas)
        if made.created:
            self.commits += 1
            figures = {"new": made.new, "changed": made.changed, "gone": made.gone}
            self._copies.append(("learner.committed", {"commit": made.commit, **figures}))

    async def _take_snapshot(self) -> None:
        taken = await archive.take(self.atlas)
        self.snapshots += 1
        figures = {"bytes": taken.bytes, "patterns": taken.patterns, "deleted": taken.deleted}
        self._copies.append(("learner.snapshot", {"name": taken.snapshot.name, **figures}))

    async def _take_graph_snapshot(self) -> None:
        taken = await saving.take(self.atlas, partial(present_graph, self.atlas))
        self.snapshots += 1
        figures = {"bytes": taken.bytes, "atoms": taken.atoms, "deleted": taken.deleted}
        self._copies.append(("learner.graph_snapshot", {"name": taken.snapshot.name, **figures}))

    def _noted(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [*super()._noted(), *self._copies]

    def _report(self, source: Source) -> None:
        self._report_progress(source.name, self.claimed, self.claimed + source.left)

    def _report_analysis(self, read: int, stored: int) -> None:
        self._report_progress("all events", read, stored)

    def _report_progress(self, what: str, done: int, claimed: int) -> None:
        if self.on_progress is not None:
            text = f"cycle {self.number}: {what}"
            self.on_progress(Progress(cycle=self.number, text=text, done=done, claimed=claimed))

    def _counted(self) -> LearnerStatistics:
        return LearnerStatistics(
            observations=self.read["observations"],
            measurements=self.read["measurements"],
            curves=self.read["curves"],
            new_patterns=self.new,
            changed_patterns=self.changed,
            forgotten_patterns=self.forgotten,
            patterns=self.known,
            alarms=self.alarms,
            forecasts=self.forecasts,
            checked_forecasts=self.checked,
            commits=self.commits,
            snapshots=self.snapshots,
            failed_copies=self.failed_copies,
            suggestions=self.suggestions,
            graph_changes=self.graph_changes,
            derived_links=self.derived_links,
        )

    def _summary(self, statistics: LearnerStatistics) -> str:
        return (
            f"learnt from {counted(statistics.observations, 'observation')} and "
            f"{counted(statistics.curves, 'curve')}: {counted(statistics.new_patterns, 'new pattern')}"
        )

"""The stored states of the detectors that learn what the service is sent, and how they get up to date.

Beside the states stands, as the model `api.batches`, after which observation they were made, and where the
batches ended that were learnt since. Detectors that are taught the same batches again are in the same state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from atlas.adapters.observations import LoggedObservation, ObservationsDAO, Watermark
from atlas.adapters.patterns import Model, PatternsDAO
from atlas.config import Settings
from atlas.errors import ConfigError
from maia.learner.collection import without_collection
from maia.learner.knowledge import Knowledge, detector_classes
from maia.learning.observations import Observation
from maia.learning.states import NewerState, StateError, pack, unpack

logger = logging.getLogger(__name__)

SOURCE: Final = "observations"
MODELS: Final = "api."
"""Begins the names under which the states of these detectors are stored."""
MOST_AT_ONCE: Final = 250
"""Observations that are taught at once: some 10 ms, in which the process does nothing else."""
_BATCHES: Final = f"{MODELS}batches"
_BATCHES_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Batches:
    """After which observation states were made, and where the batches ended that were learnt since."""

    begin: int
    ends: Sequence[int]

    def model(self) -> Model:
        """It as a model; retention keeps all observations after the number in it."""
        packed = pack(_BATCHES, _BATCHES_VERSION, [self.begin, *self.ends])
        return Model(_BATCHES, _BATCHES_VERSION, packed, self.begin)


async def stored_states(dao: PatternsDAO, settings: Settings) -> tuple[Knowledge, Batches | None]:
    """The detectors as they were last stored, and what has to be repeated; None if that isn't known.

    ConfigError if a newer version of Pleiades stored them.
    """
    classes = [each for each in detector_classes(settings.learner.off) if each.reads == SOURCE]
    models = await dao.models([*Knowledge.model_names(classes, MODELS), _BATCHES])
    with without_collection():
        knowledge = await asyncio.to_thread(Knowledge.restore, classes, models, MODELS)
    return knowledge, _batches_of(models.get(_BATCHES))


async def repeat(log: ObservationsDAO, knowledge: Knowledge, begin: int, ends: Sequence[int]) -> None:
    """Teach batches that were learnt before; what is found in them is stored already."""
    for after, end in zip([begin, *ends], ends, strict=False):
        rows = await log.since(after, Watermark(end, end), MOST_AT_ONCE)
        await knowledge.learn([observation_of(row) for row in rows], SOURCE)


def observation_of(row: LoggedObservation) -> Observation:
    return Observation(
        row.agent, row.session, row.action, row.at, row.outcome, row.context, row.reward, row.cost,
        row.duration_s,
    )  # fmt: skip


def _batches_of(model: Model | None) -> Batches | None:
    if model is None:
        return None
    try:
        begin, *ends = unpack(_BATCHES, _BATCHES_VERSION, model.state)
    except NewerState as error:
        raise ConfigError(f"{error}: update Pleiades here too") from error
    except StateError as error:
        logger.error("%s; what was learnt since is missing in them", error, extra={"action": "state_damaged"})
        return None
    return Batches(begin, ends)

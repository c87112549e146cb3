"""What a cycle expects of its calls, as the learner says: how likely each succeeds, and how it would fail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.errors import DatabaseError
from maia.learning.observations import Scalar
from maia.learning.states import StateError

if TYPE_CHECKING:
    from maia.learning.success import SuccessPredictor

logger = logging.getLogger(__name__)

SUCCESS_MODEL: Final = "success"
"""The name under which the learner stores the predictor."""

PROBED: Final = 10
"""One in so many calls that would wait is made after all, so that the world can prove the learner wrong."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The probability that a call succeeds, and the likeliest class of its failure, if any was ever seen."""

    success: float
    failure_class: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the step's event keeps, to be compared with the outcome."""
        return {"success": round(self.success, 4), "failure_class": self.failure_class}


class Expectations:
    """Predicts the calls of an agent; without a predictor, it expects nothing."""

    def __init__(self, agent: str, predictor: SuccessPredictor | None = None) -> None:
        self._agent, self._predictor = agent, predictor

    @classmethod
    async def load(cls, atlas: Atlas, agent: str) -> Expectations:
        """Read what the learner knows. If that can't be read, nothing is expected, and the cycle goes on."""
        dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        try:
            model = (await dao.models([SUCCESS_MODEL])).get(SUCCESS_MODEL)
            predictor = _restored(model.state) if model else None
        except (DatabaseError, StateError) as error:
            logger.warning(
                "nothing is expected of calls in this cycle: %s", error, extra={"action": "no_expectations"}
            )
            return cls(agent)
        return cls(agent, predictor)

    def of(self, action: str, context: Mapping[str, Scalar], at: datetime) -> Expected | None:
        """What to expect of a call that is about to be made."""
        if self._predictor is None:
            return None
        from maia.learning.success import known_before

        predicted = self._predictor.predict(known_before(self._agent, action, context, at))
        logger.debug(
            "%s: success is expected with %.0f %%, otherwise %s",
            action,
            100 * predicted.success,
            predicted.failure_class,
            extra={"action": "expected"},
        )
        return Expected(predicted.success, predicted.failure_class)


def _restored(state: bytes) -> SuccessPredictor:
    # Only where there is one: it takes NumPy, for which a cycle with nothing to do has no use.
    from maia.learning.success import SuccessPredictor

    return SuccessPredictor.from_state(state)


def shall_wait(expected: Expected | None, below: float, key: object, at: datetime) -> bool:
    """Whether a call is too unlikely to succeed to be made now.

    One in ten is a probe, chosen by its key and the minute, so that each gets its turn.
    """
    if expected is None or expected.success >= below:
        return False
    return crc32(f"{key} {at:%Y-%m-%d %H:%M}".encode()) % PROBED != 0

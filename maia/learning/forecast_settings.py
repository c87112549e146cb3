"""How fast forecasts learn and forget, and how careful their intervals are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """How fast to learn and to forget. Outcomes are counted for each age class."""

    half_life: float = 20_000.0
    """After how many more outcomes one counts half in the regressions."""
    errors_half_life: float = 3_000.0
    """The same for the distributions of errors and of views gained, and for the mixing proportion."""
    shrinkage: float = 3.0
    """How strongly a class's regression is held at that of all ages, and its constant at 0, in outcomes."""
    common_shrinkage: float = 3.0
    """How strongly the regression of all ages is held at zero."""
    prior_spread: float = 1.2
    """The size of errors before anything is learnt, on the log scale."""
    prior_errors: float = 20.0
    """How many outcomes the errors of all ages are worth beside those of a class, and the normal distribution
    beside those of all ages."""
    interval_step: float = 0.005
    """By how much one interval that did not hold changes the share left out."""
    interval_outcomes: float = 200.0
    """A batch with more outcomes than this changes it by no more than this many would."""
    interval_warm_up: float = 100.0
    """After so many outcomes it changes half as fast as in the end: first errors are not like later ones."""
    interval_caution: float = 30.0
    """After so many outcomes an interval leaves out half of the share: the first outcomes are of one day and
    alike, so they tell less than their number."""

    def __post_init__(self) -> None:
        if min(getattr(self, field.name) for field in fields(self)) <= 0:
            raise ValueError("forecast settings must be positive")


DEFAULTS: Final = ForecastSettings()

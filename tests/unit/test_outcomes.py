"""The learner learns from steps whether the next will succeed, and how they fail."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from atlas.testing import NOON
from maia.learner.outcomes import CLASSES, CLASSIFIER, Outcomes
from maia.learning.failure_classes import BY_REASON
from maia.learning.observations import Observation
from maia.learning.templates import FailureClass

LOST = "wombat flux decayed"


def step(outcome: str = "success", error: str | None = None, **kwargs: Any) -> Observation:
    context = {"arm": "slices"} if error is None else {"arm": "slices", "error": error}
    told = {"agent": "hunter", "session": "s", "action": "search", "at": NOON} | kwargs
    return Observation(**told, outcome=outcome, context=context)


def counts(outcomes: Outcomes) -> dict[str, int]:
    return {model.name: model.observations for model in outcomes.models()}


def test_only_steps_of_agents_that_were_not_cut_off_are_learnt() -> None:
    outcomes = Outcomes({})
    outcomes.learn(
        [
            step(), step("network", "HTTP 503"), step("interrupted"), step(action="cycle"),
            step(agent="operator", action="seed"), step(agent="offer", action="offer"),
        ]
    )  # fmt: skip
    assert outcomes.predictor.predict({}).support == 2
    assert counts(outcomes) == {"success": 2, CLASSIFIER: 1, CLASSES: 1}


def test_what_has_not_changed_is_not_stored_again() -> None:
    outcomes = Outcomes({})
    outcomes.learn([step()])
    again = Outcomes({model.name: model for model in outcomes.models()})
    assert counts(again) == {}
    again.learn([step(at=NOON + timedelta(hours=1))])
    assert counts(again) == {"success": 2}


def test_texts_whose_reason_tells_teach_the_class_of_those_whose_reason_does_not() -> None:
    outcomes = Outcomes({})
    outcomes.learn([step("vault", f"{LOST} at {place}") for place in ("dawn", "noon", "dusk")])
    outcomes.learn([step(), step("strange", f"{LOST} somewhere")])
    assert outcomes.predictor.class_probabilities({}).keys() == {"vault"}
    assert outcomes.classes.of(f"{LOST} at noon") == (FailureClass.VAULT, BY_REASON)
    assert outcomes.classes.of(f"{LOST} somewhere") is None


def test_what_a_back_end_said_of_a_template_goes_before_its_words() -> None:
    outcomes = Outcomes({})
    outcomes.classes.tell("no space left on device", FailureClass.CONFLICT, "llama.cpp")
    outcomes.learn([step("strange", "no space left on device")])
    assert outcomes.predictor.class_probabilities({}).keys() == {"conflict"}

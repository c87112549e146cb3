"""Learns from what came of agents' steps whether the next ones will succeed, and how they fail if not.

The class of a failure follows from its reason where that tells it; else from what a back end said of the
template of its text, or else from the words of the text, which the classifier learns from the failures whose
reason told. Steps that were only cut off say nothing, and are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from atlas.adapters.patterns import Model, PatternsDAO
from atlas.composition import Atlas
from maia.agents import AGENTS
from maia.cycle.expectations import SUCCESS_MODEL
from maia.learner.knowledge import restored_model
from maia.learner.llama import LlamaError, LlamaFailures, StatisticalFailures, failure_backend
from maia.learning.failure_classes import BY_REASON, FailureClasses
from maia.learning.observations import CYCLE, SUCCESS, Observation
from maia.learning.success import Outcome, SuccessPredictor, known_before
from maia.learning.templates import FailureClass, FailureClassifier, FailureTemplates, class_of_reason

logger = logging.getLogger(__name__)

CLASSIFIER: Final = "failure_classifier"
CLASSES: Final = "failure_classes"
TEMPLATES: Final = "failure_templates"
MODELS: Final = (SUCCESS_MODEL, CLASSIFIER, CLASSES)

MOST_CLASSIFIED: Final = 20
"""How many new templates a cycle classifies."""
_EXAMPLES: Final = 16
_VERSION: Final = 1
_AGENTS: Final = frozenset(agent.name for agent in AGENTS)


class Outcomes:
    """The predictor, the classifier of failure texts, and the classes of templates, with what they learnt."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.predictor = restored_model(SuccessPredictor, models.get(SUCCESS_MODEL))
        self.classifier = restored_model(FailureClassifier, models.get(CLASSIFIER))
        self.classes = restored_model(FailureClasses, models.get(CLASSES))
        self._learnt = {name: models[name].observations if name in models else 0 for name in MODELS}
        self._new = dict.fromkeys(MODELS, 0)

    def learn(self, observations: Iterable[Observation]) -> None:
        """Learn from the steps among the observations, in their order."""
        outcomes: list[Outcome] = []
        told: dict[tuple[str, FailureClass], None] = {}
        for each in observations:
            if each.agent not in _AGENTS or each.action == CYCLE:
                continue
            failure_class = None
            if each.outcome != SUCCESS:
                failure_class = class_of_reason(each.outcome)
                if failure_class is FailureClass.INTERRUPTED:
                    continue
                text = str(each.context.get("error") or "")
                if failure_class is FailureClass.UNKNOWN:
                    failure_class = self._class_of(text)
                elif failure_class is not None and text:
                    told[text, failure_class] = None
            known = known_before(each.agent, each.action, each.context, each.at)
            outcomes.append(Outcome(known, failure_class is None, failure_class))
        self.predictor.learn_many(outcomes)
        self._new[SUCCESS_MODEL] += len(outcomes)
        self._tell(told)

    def _class_of(self, text: str) -> FailureClass:
        said = self.classes.of(text)
        return said.failure_class if said is not None else self.classifier.classify(text).failure_class

    def _tell(self, told: Iterable[tuple[str, FailureClass]]) -> None:
        """Learn texts whose class is known, each once a page, so that frequent ones don't drown others."""
        for text, failure_class in told:
            self.classifier.learn(text, failure_class)
            self.classes.tell(text, failure_class, BY_REASON)
            self._new[CLASSIFIER] += 1
            self._new[CLASSES] += 1

    def models(self) -> list[Model]:
        """What has changed since it was restored, to be stored with the cursor."""
        states = {
            SUCCESS_MODEL: self.predictor.state,
            CLASSIFIER: self.classifier.state,
            CLASSES: self.classes.state,
        }
        return [
            Model(name, _VERSION, states[name](), self._learnt[name] + count)
            for name, count in self._new.items()
            if count
        ]


async def classify_new_templates(atlas: Atlas) -> int:
    """Classify the failure templates of which nobody said the class yet; returns how many now have one.

    Of many, the latest used come first. A model that doesn't answer in time is not asked again in this cycle.
    """
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    models = await dao.models([TEMPLATES, *MODELS])
    if TEMPLATES not in models:
        return 0
    outcomes = Outcomes(models)
    templates = restored_model(FailureTemplates, models[TEMPLATES]).templates()
    new = [each.text for each in templates if outcomes.classes.of(each.text) is None][-MOST_CLASSIFIED:]
    if not new:
        return 0
    settings = atlas.settings.learner
    backend = await failure_backend(
        settings.llama_model,
        threads=settings.llama_threads,
        timeout_s=settings.llama_timeout_s,
        classifier=outcomes.classifier,
    )
    try:
        classified = await _classify(backend, new, outcomes.classes)
    finally:
        if isinstance(backend, LlamaFailures):
            await backend.close()
    if classified:
        seen = models[CLASSES].observations if CLASSES in models else 0
        state = outcomes.classes.state()
        await dao.save_models([Model(CLASSES, _VERSION, state, seen + classified)])
    return classified


async def _classify(
    backend: StatisticalFailures | LlamaFailures, texts: Iterable[str], classes: FailureClasses
) -> int:
    examples, classified = classes.examples(_EXAMPLES), 0
    for text in texts:
        try:
            found = await backend.classify(text, examples)
        except LlamaError as error:
            logger.warning(
                "new failures are classified in the next cycle: %s", error, extra={"action": "llama_failed"}
            )
            break
        classes.tell(text, found.failure_class, backend.why)
        classified += 1
    return classified

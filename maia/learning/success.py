"""Predicts, before a search or batch, whether it succeeds, and how it most likely fails if it doesn't.

Each value of each field of the context keeps two running success rates, a slow and a quick one; so do pairs
of values of the fields that weigh most, and the whole. Their log-odds, as far as they differ from the
whole's, are weighed by a logistic regression that learns online (AdaGrad: Duchi, Hazan and Singer, 2011), as
context mixing does in data compression (Mahoney, "Adaptive weighing of context models", 2005). Bursts of
failures show in the quick rates, lasting differences in the slow ones, and the weights say which to believe
for which field. A last step corrects the probability by what came of predictions like it.

The class of a failure is predicted likewise, from the classes of the failures that each value had.

Many outcomes are learnt at once by `learn_many`: the rates as if one by one, but the weights by what would
have been predicted before the batch. That is quicker, and what is asked of them: whoever predicts has learnt
nothing yet of what happens meanwhile, so that the quick rates deserve less trust than one step ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from maia.learning.adagrad import Weight, move_all, sums_of
from maia.learning.context_terms import Batch, batch_of, keys_of
from maia.learning.log_odds import log_odds, log_odds_of, probabilities_of, probability
from maia.learning.recalibration import Recalibration
from maia.learning.states import pack, unpack
from maia.learning.success_rates import Rates, columns_of, learn_many
from maia.learning.velocity import Floats

if TYPE_CHECKING:
    from datetime import datetime

    from maia.learning.observations import Scalar

_NAME: Final = "success"
_VERSION: Final = 1
_LEAST_BATCH, _MOST_BATCH = 8, 8192
_SHARE_OF_BATCH: Final = 8
"""A batch has at most this fraction of the outcomes learnt before: early on, weights change quickly."""
_CLASSES_OF_BATCH: Final = 48
"""Failures of a batch from which the classes are learnt; of more, evenly many throughout the batch."""
_AFTERWARDS: Final = "error"
"""The field of an observation's context that is known only afterwards."""


def known_before(agent: str, action: str, context: Mapping[str, Scalar], at: datetime) -> dict[str, Scalar]:
    """What is known before an action: its context without an error, who does what, and when (UTC)."""
    known = {**context, "agent": agent, "action": action, "hour": at.hour, "weekday": at.weekday()}
    known.pop(_AFTERWARDS, None)
    return known


class Outcome(NamedTuple):
    """What came of a search or batch; `failure_class` is left out of a success."""

    context: Mapping[str, Scalar]
    succeeded: bool
    failure_class: str | None = None


@dataclass(frozen=True, slots=True)
class SuccessSettings:
    """How the predictor learns."""

    quick: float = 0.15
    """Weight of the last outcome in a quick rate."""
    slow: float = 0.005
    """Least weight of the last outcome in a slow rate, which is the mean of the first outcomes."""
    back_off: float = 4.0
    """A value's rate is shrunk to the whole's by this many outcomes."""
    learning_rate: float = 0.08
    initial_weight: float = 0.2
    pair_fields: int = 6
    """How many fields, by their weight, are looked at in pairs."""
    class_decay: float = 0.9
    """What earlier failures of a value count when another comes."""
    correction: float = 0.02
    """Least weight of the last outcome in the correction."""
    max_values: int = 20_000
    max_fields: int = 40
    max_groups: int = 2_000
    """Fields and pairs of fields that have weights of their own."""
    max_classes: int = 32

    def __post_init__(self) -> None:
        shares = (self.quick, self.slow, self.class_decay, self.correction)
        if not all(0 < share <= 1 for share in shares) or min(self.back_off, self.learning_rate) <= 0:
            raise ValueError("rates are above 0 and at most 1, and back_off and learning_rate positive")
        if (
            min(self.max_values, self.max_fields, self.max_classes, self.max_groups) < 1
            or self.pair_fields < 0
        ):
            raise ValueError(
                "max_values, max_fields, max_groups and max_classes are at least 1, and pair_fields 0"
            )


class Reason(NamedTuple):
    """What a field of the context adds to the log-odds of success; negative makes a failure likelier."""

    field: str
    value: Scalar
    log_odds: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of a search or batch."""

    success: float
    """The probability that it succeeds."""
    failure_class: str | None
    """The likeliest class if it fails; None if no failure was ever seen."""
    class_probability: float
    """The probability of that class if it fails."""
    reasons: tuple[Reason, ...]
    """The three fields that weigh most, the heaviest first."""
    support: int
    """How many outcomes it is learnt from."""


class _Group:
    """The weights of a field, or of a pair of fields."""

    __slots__ = ("classes", "fields", "quick", "slow")

    def __init__(self, fields: tuple[str, ...], weight: float) -> None:
        self.fields = fields
        self.slow, self.quick, self.classes = Weight(weight), Weight(weight), Weight(weight)

    def saved(self) -> list[Any]:
        weights = (self.slow, self.quick, self.classes)
        return [list(self.fields), *([weight.value, weight.square] for weight in weights)]

    @classmethod
    def loaded(cls, saved: list[Any]) -> Self:
        group = cls(tuple(saved[0]), 0.0)
        group.slow, group.quick, group.classes = (Weight(*weight) for weight in saved[1:])
        return group


class _Term(NamedTuple):
    """What a value of the context says: how far its rates, in log-odds, differ from the whole's."""

    key: str
    group: _Group
    value: Rates | None
    slow: float
    quick: float

    @property
    def log_odds(self) -> float:
        return self.group.slow.value * self.slow + self.group.quick.value * self.quick


class SuccessPredictor:
    """Predicts success from a context, and learns from every outcome; bounded in memory.

    The values that were learnt longest ago are forgotten first.
    """

    def __init__(self, settings: SuccessSettings | None = None) -> None:
        self.settings = settings or SuccessSettings()
        self._values: dict[str, Rates] = {}
        self._groups: dict[str, _Group] = {}
        self._whole = Rates(0.5)
        self._whole_group = _Group((), self.settings.initial_weight)
        self._whole_group.slow.value = self._whole_group.classes.value = 1.0
        self._classes: list[str] = []
        self._recalibration = Recalibration(self.settings.correction)

    def predict(self, context: Mapping[str, Scalar]) -> Prediction:
        """What to expect in this context; learns nothing."""
        terms = self._terms(context)
        classes = self._class_probabilities(terms)
        best = max(range(len(classes)), key=classes.__getitem__, default=None)
        return Prediction(
            self._recalibration.corrected(self._log_odds(terms)),
            None if best is None else self._classes[best],
            0.0 if best is None else classes[best],
            _reasons(context, terms),
            self._whole.count,
        )

    def class_probabilities(self, context: Mapping[str, Scalar]) -> dict[str, float]:
        """The probability of each class of failure that was ever seen, if it fails."""
        return dict(zip(self._classes, self._class_probabilities(self._terms(context)), strict=True))

    def learn(self, context: Mapping[str, Scalar], succeeded: bool, failure_class: str | None = None) -> None:
        """Learn what came of a search or batch; `failure_class` is left out of a success."""
        terms, outcome = self._terms(context), float(succeeded)
        raw = self._log_odds(terms)
        self._recalibration.learn(raw, outcome)
        self._learn_weights(terms, outcome - probability(raw))
        for term in terms:
            self._values.pop(term.key, None)
        values = [term.value or Rates(self._whole.slow) for term in terms]
        for term, value in zip(terms, values, strict=True):
            value.learn(outcome, self.settings.slow, self.settings.quick)
            self._values[term.key] = value
        self._whole.learn(outcome, self.settings.slow, self.settings.quick)
        if not succeeded and failure_class is not None:
            self._learn_class([term.group for term in terms], values, failure_class)
        self._forget_values()

    def learn_many(self, outcomes: Sequence[Outcome]) -> None:
        """Learn what came of many searches and batches, in their order; much quicker than one by one.

        The classes of failures are learnt from every second, third, … failure of a batch that has many, which
        leaves their shares unbiased.
        """
        begun = 0
        while begun < len(outcomes):
            size = min(max(self._whole.count // _SHARE_OF_BATCH, _LEAST_BATCH), _MOST_BATCH)
            self._learn_batch(outcomes[begun : begun + size])
            begun += size
            self._forget_values()

    def _forget_values(self) -> None:
        while len(self._values) > self.settings.max_values:
            del self._values[next(iter(self._values))]

    # The regression

    def _terms(self, context: Mapping[str, Scalar]) -> list[_Term]:
        """What each value of a context says, and each pair of values of the fields that weigh most."""
        whole, groups = log_odds(self._whole.slow), self._groups_of(context)
        keys = keys_of(context, [group.fields for group in groups])
        return [self._term(key, group, whole) for key, group in zip(keys, groups, strict=True)]

    def _groups_of(self, names: Iterable[str]) -> list[_Group]:
        """The groups of these fields, and of the pairs of those that weigh most."""
        singles = [self._group((name,)) for name in sorted(names)[: self.settings.max_fields]]
        heaviest = sorted(singles, key=lambda group: -abs(group.slow.value))[: self.settings.pair_fields]
        paired = sorted(group.fields[0] for group in heaviest)
        return singles + [self._group(pair) for pair in combinations(paired, 2)]

    def _group(self, fields: tuple[str, ...]) -> _Group:
        name = "&".join(fields)
        group = self._groups.get(name)
        if group is None:
            group = _Group(fields, self.settings.initial_weight)
            if len(self._groups) < self.settings.max_groups:
                self._groups[name] = group
        return group

    def _term(self, key: str, group: _Group, whole: float) -> _Term:
        value = self._values.get(key)
        if value is None:
            return _Term(key, group, None, 0.0, 0.0)
        trust, rate = value.count / (value.count + self.settings.back_off), self._whole.slow
        slow = log_odds(rate + trust * (value.slow - rate))
        quick = log_odds(rate + trust * (value.quick - rate))
        return _Term(key, group, value, slow - whole, quick - slow)

    def _log_odds(self, terms: list[_Term]) -> float:
        whole = log_odds(self._whole.slow)
        group, quick = self._whole_group, log_odds(self._whole.quick) - whole
        return group.slow.value * whole + group.quick.value * quick + sum(term.log_odds for term in terms)

    def _learn_weights(self, terms: list[_Term], error: float) -> None:
        rate, whole = self.settings.learning_rate, log_odds(self._whole.slow)
        self._whole_group.slow.move(error * whole, rate)
        self._whole_group.quick.move(error * (log_odds(self._whole.quick) - whole), rate)
        for term in terms:
            if term.value is not None:
                term.group.slow.move(error * term.slow, rate)
                term.group.quick.move(error * term.quick, rate)

    # The class of a failure

    def _number(self, failure_class: str) -> int | None:
        if failure_class in self._classes:
            return self._classes.index(failure_class)
        if len(self._classes) == self.settings.max_classes:
            return None
        self._classes.append(failure_class)
        return len(self._classes) - 1

    def _class_sizes(self, groups: Sequence[_Group], values: Sequence[Rates | None]) -> _ClassSizes:
        """The logarithm of each class's share among the failures of the whole, and what values add to it."""
        number = len(self._classes)
        known = [
            (group, value.classes)
            for group, value in zip(groups, values, strict=True)
            if value is not None and value.classes
        ]
        counts = np.zeros((len(known) + 1, number))
        for row, classes in enumerate([self._whole.classes, *(classes for _, classes in known)]):
            counts[row, list(classes)] = list(classes.values())
        back_off = self.settings.back_off
        whole = (counts[0] + 1 / number) / (counts[0].sum() + 1)
        shares = (counts[1:] + back_off * whole) / (counts[1:].sum(axis=1, keepdims=True) + back_off)
        base = np.log(whole)
        weights = [self._whole_group.classes, *(group.classes for group, _ in known)]
        return _ClassSizes(weights, np.vstack((base, np.log(shares) - base)))

    def _class_probabilities(self, terms: Sequence[_Term]) -> list[float]:
        if not self._classes:
            return []
        sizes = self._class_sizes([term.group for term in terms], [term.value for term in terms])
        probabilities: list[float] = sizes.probabilities().tolist()
        return probabilities

    def _learn_class(self, groups: Sequence[_Group], values: Sequence[Rates], failure_class: str) -> None:
        """Learn the class of a failure that had these values."""
        number = self._number(failure_class)
        if number is None:
            return
        weights, sizes = known = self._class_sizes(groups, values)
        gradients = sizes[:, number] - sizes @ known.probabilities()
        for weight, gradient in zip(weights, gradients.tolist(), strict=True):
            weight.move(gradient, self.settings.learning_rate)
        for value in (*values, self._whole):
            value.learn_class(number, self.settings.class_decay)

    # Many outcomes at once

    def _learn_batch(self, outcomes: Sequence[Outcome]) -> None:
        batch = batch_of(
            [each.context for each in outcomes],
            lambda names: [group.fields for group in self._groups_of(names)],
        )
        groups = [self._group(fields) for fields in batch.groups]
        succeeded = np.array([float(each.succeeded) for each in outcomes])
        # What is new starts with the whole's rate before the batch.
        values = [self._values.get(key) or Rates(self._whole.slow) for key in batch.keys]
        columns = columns_of(values)
        raw = self._learn_weights_of(batch, groups, columns, succeeded)
        self._recalibration.learn_many(raw, succeeded)
        self._learn_values(batch, values, columns, succeeded)
        zeros = np.zeros(len(outcomes), dtype=np.intp)
        steps = (self.settings.slow, self.settings.quick)
        learn_many([self._whole], columns_of([self._whole]), zeros, succeeded, steps)
        self._learn_classes(batch, groups, values, outcomes)

    def _learn_weights_of(
        self, batch: Batch, groups: Sequence[_Group], rates: Floats, succeeded: Floats
    ) -> Floats:
        """Learn the weights from errors of predictions before the batch; returns their log-odds."""
        whole, own, rate = self._whole, self._whole_group, self.settings.learning_rate
        base = log_odds(whole.slow)
        quick_base = log_odds(whole.quick) - base
        slow, quick = (sizes[batch.value] for sizes in self._sizes(rates, base))
        weights = [(group.slow.value, group.quick.value) for group in groups]
        of_group = np.array(weights).reshape(-1, 2)[batch.group]
        of_terms = of_group[:, 0] * slow + of_group[:, 1] * quick
        raw: Floats = sums_of(batch.row, of_terms, len(succeeded))
        raw += own.slow.value * base + own.quick.value * quick_base
        error = succeeded - probabilities_of(raw)
        zeros = np.zeros(len(error), dtype=np.intp)
        move_all([own.slow], zeros, error * base, rate)
        move_all([own.quick], zeros, error * quick_base, rate)
        of_terms = error[batch.row]
        move_all([group.slow for group in groups], batch.group, of_terms * slow, rate)
        move_all([group.quick for group in groups], batch.group, of_terms * quick, rate)
        return raw

    def _sizes(self, rates: Floats, base: float) -> tuple[Floats, Floats]:
        """What the rates of each value say, in log-odds: the slow one, and how the quick one differs."""
        rate, (slow, quick, counts) = self._whole.slow, rates
        trust = counts / (counts + self.settings.back_off)
        slow = log_odds_of(rate + trust * (slow - rate))
        return slow - base, log_odds_of(rate + trust * (quick - rate)) - slow

    def _learn_values(
        self, batch: Batch, values: Sequence[Rates], columns: Floats, succeeded: Floats
    ) -> None:
        """Learn the outcomes into the rates of their values, as if one after the other."""
        steps = (self.settings.slow, self.settings.quick)
        learn_many(values, columns, batch.value, succeeded[batch.row], steps)
        for key, each in zip(batch.keys, values, strict=True):
            self._values.pop(key, None)
            self._values[key] = each

    def _learn_classes(
        self, batch: Batch, groups: Sequence[_Group], values: Sequence[Rates], outcomes: Sequence[Outcome]
    ) -> None:
        failed = [
            row for row, each in enumerate(outcomes) if not each.succeeded and each.failure_class is not None
        ]
        step = -(-len(failed) // _CLASSES_OF_BATCH) or 1
        for row in failed[::step]:
            terms = batch.terms_of(row)
            groups_of_row = [groups[number] for number in batch.group[terms].tolist()]
            values_of_row = [values[number] for number in batch.value[terms].tolist()]
            self._learn_class(groups_of_row, values_of_row, outcomes[row].failure_class or "")

    # The state

    def state(self) -> bytes:
        """Everything needed to go on elsewhere, with a version."""
        content = {
            "settings": list(astuple(self.settings)),
            "whole": self._whole.saved(),
            "values": {key: value.saved() for key, value in self._values.items()},
            "whole_group": self._whole_group.saved(),
            "groups": {name: group.saved() for name, group in self._groups.items()},
            "classes": self._classes,
            "bins": self._recalibration.bins,
        }
        return pack(_NAME, _VERSION, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """A predictor that goes on as the one that wrote the state; StateError if it can't."""
        saved = unpack(_NAME, _VERSION, state)
        predictor = cls(SuccessSettings(*saved["settings"]))
        predictor._whole = Rates.loaded(saved["whole"])
        predictor._values = {key: Rates.loaded(value) for key, value in saved["values"].items()}
        predictor._whole_group = _Group.loaded(saved["whole_group"])
        predictor._groups = {name: _Group.loaded(group) for name, group in saved["groups"].items()}
        predictor._classes = saved["classes"]
        predictor._recalibration = Recalibration(predictor.settings.correction, saved["bins"])
        return predictor


class _ClassSizes(NamedTuple):
    """What the whole and each value with failures say of the classes, one row each, and their weights."""

    weights: list[Weight]
    sizes: Floats

    def probabilities(self) -> Floats:
        scores = np.array([weight.value for weight in self.weights]) @ self.sizes
        shares = np.exp(scores - scores.max())
        probabilities: Floats = shares / shares.sum()
        return probabilities


def _reasons(context: Mapping[str, Scalar], terms: list[_Term]) -> tuple[Reason, ...]:
    """The three fields that weigh most; what a pair says is halved between its fields."""
    shares: dict[str, float] = {}
    for term in terms:
        for field in term.group.fields:
            shares[field] = shares.get(field, 0.0) + term.log_odds / len(term.group.fields)
    heaviest = sorted(shares, key=lambda field: (-abs(shares[field]), field))[:3]
    return tuple(Reason(field, context[field], shares[field]) for field in heaviest if shares[field])

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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from maia.learning.running import Sequences, mean_after
from maia.learning.states import pack, unpack
from maia.learning.velocity import Floats, Integers

if TYPE_CHECKING:
    from datetime import datetime

    from maia.learning.observations import Scalar

_NAME: Final = "success"
_VERSION: Final = 1
_EDGE: Final = 1e-4
"""Probabilities stay this far from 0 and 1."""
_LONGEST_VALUE: Final = 80
_BINS: Final = 21
"""Of the correction: log-odds from -5 to 5, half a unit each."""
_TINY: Final = 1e-3
_LEAST_BATCH, _MOST_BATCH = 8, 4096
_SHARE_OF_BATCH: Final = 8
"""A batch has at most this fraction of the outcomes learnt before: early on, weights change quickly."""
_CODE_BITS: Final = 24
"""A batch has fewer values of single fields than this many bits can number."""
_CLASSES_OF_BATCH: Final = 48
"""Failures of a batch from which the classes are learnt; of more, evenly many throughout the batch."""
_AFTERWARDS: Final = frozenset({"error"})
"""Fields of an observation's context that are known only afterwards."""


def known_before(agent: str, action: str, context: Mapping[str, Scalar], at: datetime) -> dict[str, Scalar]:
    """What is known before an action: its context without an error, who does what, and when (UTC)."""
    known = {name: value for name, value in context.items() if name not in _AFTERWARDS}
    return known | {"agent": agent, "action": action, "hour": at.hour, "weekday": at.weekday()}


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


class _Value:
    """What is known of a value of a field: rates of success, and the classes of its failures."""

    __slots__ = ("classes", "count", "quick", "slow")

    def __init__(self, rate: float) -> None:
        self.count = 0
        self.slow = self.quick = rate
        self.classes: dict[int, float] = {}

    def learn(self, outcome: float, settings: SuccessSettings) -> None:
        self.count += 1
        self.slow += max(1 / (self.count + 1), settings.slow) * (outcome - self.slow)
        self.quick += settings.quick * (outcome - self.quick)

    def learn_class(self, failure_class: int, decay: float) -> None:
        self.classes = {
            each: weight * decay for each, weight in self.classes.items() if weight * decay > _TINY
        }
        self.classes[failure_class] = self.classes.get(failure_class, 0.0) + 1


class _Weight:
    """A weight of a regression, with AdaGrad's sum of squared gradients."""

    __slots__ = ("square", "value")

    def __init__(self, value: float, square: float = 1.0) -> None:
        self.value, self.square = value, square

    def move(self, gradient: float, rate: float, square: float | None = None) -> None:
        """Go along a gradient; of a sum of gradients, `square` is the sum of their squares."""
        self.square += gradient * gradient if square is None else square
        self.value += rate * gradient / math.sqrt(self.square)


class _Group:
    """The weights of a field, or of a pair of fields."""

    __slots__ = ("classes", "fields", "quick", "slow")

    def __init__(self, fields: tuple[str, ...], weight: float) -> None:
        self.fields = fields
        self.slow, self.quick, self.classes = _Weight(weight), _Weight(weight), _Weight(weight)


class _Term(NamedTuple):
    """What a value of the context says: how far its rates, in log-odds, differ from the whole's."""

    key: str
    group: _Group
    value: _Value | None
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
        self._values: dict[str, _Value] = {}
        self._groups: dict[str, _Group] = {}
        self._whole = _Value(0.5)
        self._whole_group = _Group((), self.settings.initial_weight)
        self._whole_group.slow.value = self._whole_group.classes.value = 1.0
        self._classes: list[str] = []
        self._bins = [[_from_log_odds(_centre(place)), 0.0] for place in range(_BINS)]

    def predict(self, context: Mapping[str, Scalar]) -> Prediction:
        """What to expect in this context; learns nothing."""
        terms = self._terms(context)
        classes = self._class_probabilities(terms)
        best = max(range(len(classes)), key=classes.__getitem__, default=None)
        return Prediction(
            self._corrected(self._log_odds(terms)),
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
        self._learn_correction(raw, outcome)
        self._learn_weights(terms, outcome - _from_log_odds(raw))
        for term in terms:
            self._values.pop(term.key, None)
        values = [term.value or _Value(self._whole.slow) for term in terms]
        for term, value in zip(terms, values, strict=True):
            value.learn(outcome, self.settings)
            self._values[term.key] = value
        self._whole.learn(outcome, self.settings)
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
        whole, groups = _log_odds(self._whole.slow), self._groups_of(context)
        singles = {name: f"{name}={_bin(context[name])}" for name in context}
        return [
            self._term("&".join(singles[name] for name in group.fields), group, whole) for group in groups
        ]

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
        slow = _log_odds(rate + trust * (value.slow - rate))
        quick = _log_odds(rate + trust * (value.quick - rate))
        return _Term(key, group, value, slow - whole, quick - slow)

    def _log_odds(self, terms: list[_Term]) -> float:
        whole = _log_odds(self._whole.slow)
        group, quick = self._whole_group, _log_odds(self._whole.quick) - whole
        return group.slow.value * whole + group.quick.value * quick + sum(term.log_odds for term in terms)

    def _learn_weights(self, terms: list[_Term], error: float) -> None:
        rate, whole = self.settings.learning_rate, _log_odds(self._whole.slow)
        self._whole_group.slow.move(error * whole, rate)
        self._whole_group.quick.move(error * (_log_odds(self._whole.quick) - whole), rate)
        for term in terms:
            if term.value is not None:
                term.group.slow.move(error * term.slow, rate)
                term.group.quick.move(error * term.quick, rate)

    # The correction

    def _corrected(self, raw: float) -> float:
        plain = _from_log_odds(raw)
        low, share = _place(raw)
        learnt = (1 - share) * self._bins[low][0] + share * self._bins[low + 1][0]
        return min(max((plain + learnt) / 2, _EDGE), 1 - _EDGE)

    def _learn_correction(self, raw: float, outcome: float) -> None:
        low, share = _place(raw)
        for place, weight in ((low, 1 - share), (low + 1, share)):
            bin_ = self._bins[place]
            bin_[1] += weight
            rate = max(1 / (bin_[1] + 10), self.settings.correction)
            bin_[0] += weight * rate * (outcome - bin_[0])

    # The class of a failure

    def _number(self, failure_class: str) -> int | None:
        if failure_class in self._classes:
            return self._classes.index(failure_class)
        if len(self._classes) == self.settings.max_classes:
            return None
        self._classes.append(failure_class)
        return len(self._classes) - 1

    def _class_sizes(self, groups: Sequence[_Group], values: Sequence[_Value | None]) -> _ClassSizes:
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

    def _learn_class(self, groups: Sequence[_Group], values: Sequence[_Value], failure_class: str) -> None:
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
        batch = self._batch(outcomes)
        succeeded = np.array([float(each.succeeded) for each in outcomes])
        known = [self._values.get(key) for key in batch.keys]
        raw = self._learn_weights_of(batch, known, succeeded)
        self._correct_many(raw, succeeded)
        values = self._learn_values(batch, known, succeeded)
        self._learn_whole(succeeded)
        self._learn_classes(batch, values, outcomes)

    def _batch(self, outcomes: Sequence[Outcome]) -> _Batch:
        """The values and groups of a batch."""
        shapes: dict[tuple[str, ...], _Shape] = {}
        for row, (context, _, _) in enumerate(outcomes):
            names = tuple(context)
            shape = shapes.get(names)
            if shape is None:
                shape = shapes[names] = _Shape.of(self._groups_of(names))
            shape.rows.append(row)
            shape.contexts.append(context)
        return _batch_of(list(shapes.values()))

    def _learn_weights_of(self, batch: _Batch, known: Sequence[_Value | None], succeeded: Floats) -> Floats:
        """Learn the weights from errors of predictions before the batch; returns their log-odds."""
        whole, own, rate = self._whole, self._whole_group, self.settings.learning_rate
        base = _log_odds(whole.slow)
        quick_base = _log_odds(whole.quick) - base
        slow, quick = (sizes[batch.value] for sizes in self._sizes(known, base))
        weights = [(group.slow.value, group.quick.value) for group in batch.groups]
        of_group = np.array(weights).reshape(-1, 2)[batch.group]
        of_terms = of_group[:, 0] * slow + of_group[:, 1] * quick
        raw: Floats = _sums(batch.row, of_terms, len(succeeded))
        raw += own.slow.value * base + own.quick.value * quick_base
        error = succeeded - 1 / (1 + np.exp(-np.clip(raw, -30, 30)))
        zeros = np.zeros(len(error), dtype=np.intp)
        _move_all([own.slow], zeros, error * base, rate)
        _move_all([own.quick], zeros, error * quick_base, rate)
        of_terms = error[batch.row]
        _move_all([group.slow for group in batch.groups], batch.group, of_terms * slow, rate)
        _move_all([group.quick for group in batch.groups], batch.group, of_terms * quick, rate)
        return raw

    def _sizes(self, known: Sequence[_Value | None], base: float) -> tuple[Floats, Floats]:
        """What the rates of each value say, in log-odds: the slow one, and how the quick one differs."""
        rate, back_off = self._whole.slow, self.settings.back_off
        rates = np.array(
            [(rate, rate, 0) if each is None else (each.slow, each.quick, each.count) for each in known]
        )
        slow, quick, counts = rates.reshape(-1, 3).T
        trust = counts / (counts + back_off)
        slow = _log_odds_of(rate + trust * (slow - rate))
        return slow - base, _log_odds_of(rate + trust * (quick - rate)) - slow

    def _learn_values(self, batch: _Batch, known: Sequence[_Value | None], succeeded: Floats) -> list[_Value]:
        """Learn the outcomes into the rates of their values, as if one after the other.

        A new value starts with the whole's rate before the batch.
        """
        sequences = Sequences.by(batch.value, len(known))
        values = [each or _Value(self._whole.slow) for each in known]
        rates = np.array([(each.slow, each.quick, each.count) for each in values]).reshape(-1, 3).T
        outcome = succeeded[batch.row[sequences.order]]
        slow, quick = self._rates_after(sequences, rates, outcome)
        counts = rates[2] + sequences.lengths
        for key, each, *learnt in zip(
            batch.keys, values, counts.astype(int).tolist(), slow.tolist(), quick.tolist(), strict=True
        ):
            each.count, each.slow, each.quick = learnt
            self._values.pop(key, None)
            self._values[key] = each
        return values

    def _learn_whole(self, succeeded: Floats) -> None:
        whole = self._whole
        sequences = Sequences.by(np.zeros(len(succeeded), dtype=np.intp), 1)
        start = np.array([[whole.slow], [whole.quick], [whole.count]])
        slow, quick = self._rates_after(sequences, start, succeeded)
        whole.slow, whole.quick = float(slow[0]), float(quick[0])
        whole.count += len(succeeded)

    def _rates_after(self, sequences: Sequences, before: Floats, outcome: Floats) -> tuple[Floats, Floats]:
        """Slow and quick rates after some outcomes more; before them there were slow, quick and counts."""
        slow, quick, counts = before
        learnt = counts[sequences.of] + sequences.place
        slow_rate = np.maximum(1 / (learnt + 2), self.settings.slow)
        quick_rate = np.full(len(learnt), self.settings.quick)
        return (
            mean_after(sequences, slow, slow_rate, outcome),
            mean_after(sequences, quick, quick_rate, outcome),
        )

    def _correct_many(self, raw: Floats, succeeded: Floats) -> None:
        """Learn the correction of many predictions, one after the other."""
        position = np.clip(raw * 2 + _BINS // 2, 0.0, _BINS - 1.0)
        low = np.minimum(position.astype(np.intp), _BINS - 2)
        share = position - low
        sequences = Sequences.by(np.stack((low, low + 1), axis=1).ravel(), _BINS)
        order = sequences.order
        weight = np.stack((1 - share, share), axis=1).ravel()[order]
        means, totals = np.array(self._bins).T
        before = np.cumsum(sequences.lengths) - sequences.lengths
        seen = np.concatenate(([0.0], np.cumsum(weight)))
        counted = seen[1:] + (totals - seen[before])[sequences.of]
        rate = weight * np.maximum(1 / (counted + 10), self.settings.correction)
        means = mean_after(sequences, means, rate, succeeded[order // 2])
        totals = totals + seen[before + sequences.lengths] - seen[before]
        self._bins = np.stack((means, totals), axis=1).tolist()

    def _learn_classes(self, batch: _Batch, values: Sequence[_Value], outcomes: Sequence[Outcome]) -> None:
        failed = [
            row for row, each in enumerate(outcomes) if not each.succeeded and each.failure_class is not None
        ]
        step = -(-len(failed) // _CLASSES_OF_BATCH) or 1
        for row in failed[::step]:
            terms = batch.terms_of(row)
            groups = [batch.groups[number] for number in batch.group[terms].tolist()]
            of_row = [values[number] for number in batch.value[terms].tolist()]
            self._learn_class(groups, of_row, outcomes[row].failure_class or "")

    # The state

    def state(self) -> bytes:
        """Everything needed to go on elsewhere, with a version."""
        content = {
            "settings": list(astuple(self.settings)),
            "whole": _saved(self._whole),
            "values": {key: _saved(value) for key, value in self._values.items()},
            "whole_group": _saved_group(self._whole_group),
            "groups": {name: _saved_group(group) for name, group in self._groups.items()},
            "classes": self._classes,
            "bins": self._bins,
        }
        return pack(_NAME, _VERSION, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """A predictor that goes on as the one that wrote the state; StateError if it can't."""
        saved = unpack(_NAME, _VERSION, state)
        predictor = cls(SuccessSettings(*saved["settings"]))
        predictor._whole = _loaded(saved["whole"])
        predictor._values = {key: _loaded(value) for key, value in saved["values"].items()}
        predictor._whole_group = _loaded_group(saved["whole_group"])
        predictor._groups = {name: _loaded_group(group) for name, group in saved["groups"].items()}
        predictor._classes, predictor._bins = saved["classes"], saved["bins"]
        return predictor


class _ClassSizes(NamedTuple):
    """What the whole and each value with failures say of the classes, one row each, and their weights."""

    weights: list[_Weight]
    sizes: Floats

    def probabilities(self) -> Floats:
        scores = np.array([weight.value for weight in self.weights]) @ self.sizes
        shares = np.exp(scores - scores.max())
        probabilities: Floats = shares / shares.sum()
        return probabilities


class _Batch(NamedTuple):
    """The terms of one outcome after the other, by the numbers of their values and groups."""

    keys: list[str]
    """Of the values."""
    groups: list[_Group]
    row: Integers
    """The outcome of each term, ascending."""
    value: Integers
    group: Integers

    def terms_of(self, row: int) -> slice:
        """Where the terms of an outcome are."""
        begin, end = np.searchsorted(self.row, (row, row + 1)).tolist()
        return slice(begin, end)


class _Shape(NamedTuple):
    """The outcomes of a batch whose contexts have the same fields, and the groups of these, singles first."""

    singles: list[_Group]
    pairs: list[_Group]
    rows: list[int]
    contexts: list[Mapping[str, Scalar]]

    @classmethod
    def of(cls, groups: Sequence[_Group]) -> _Shape:
        """A shape of these groups without outcomes."""
        singles = [group for group in groups if len(group.fields) == 1]
        return cls(singles, list(groups[len(singles) :]), [], [])

    def pairs_of(self, values: Integers) -> Integers:
        """The two values of each pair in one number, a row for each row of the values of single fields."""
        place = {group.fields[0]: column for column, group in enumerate(self.singles)}
        fields = [[place[name] for name in group.fields] for group in self.pairs]
        first, second = np.array(fields, dtype=np.intp).reshape(-1, 2).T
        return values[:, first] << _CODE_BITS | values[:, second]


class _Numbers:
    """Numbers the values of single fields in the order in which they are met."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self._of_field: dict[str, dict[Scalar | tuple[type, Scalar], int]] = {}

    def column(self, field: str, contexts: Sequence[Mapping[str, Scalar]]) -> list[int]:
        """The number of each context's value of a field."""
        known = self._of_field.setdefault(field, {})
        values = [context[field] for context in contexts]
        # The type belongs to a value, because 1 and True are equal.
        typed = [value if type(value) is str else (type(value), value) for value in values]
        for new in [each for each in dict.fromkeys(typed) if each not in known]:
            key = f"{field}={_bin(new[1] if isinstance(new, tuple) else new)}"
            known[new] = self.keys.setdefault(key, len(self.keys))
        return [known[each] for each in typed]


def _batch_of(shapes: Sequence[_Shape]) -> _Batch:
    """All terms of some outcomes, of which there is at least one."""
    numbers = _Numbers()
    singles = [
        np.array([numbers.column(group.fields[0], shape.contexts) for group in shape.singles], dtype=np.intp)
        .reshape(len(shape.singles), len(shape.rows))
        .T
        for shape in shapes
    ]
    codes = [shape.pairs_of(values) for shape, values in zip(shapes, singles, strict=True)]
    pairs, of_pairs = np.unique(np.concatenate([each.ravel() for each in codes]), return_inverse=True)
    ends = np.cumsum([each.size for each in codes])[:-1]
    keys, low = list(numbers.keys), (1 << _CODE_BITS) - 1
    keys += [f"{keys[code >> _CODE_BITS]}&{keys[code & low]}" for code in pairs.tolist()]
    groups: dict[tuple[str, ...], _Group] = {}
    of_group: dict[tuple[str, ...], int] = {}
    rows, values, group_numbers = [], [], []
    for shape, own, paired in zip(shapes, singles, np.split(of_pairs, ends), strict=True):
        members = [*shape.singles, *shape.pairs]
        groups |= {group.fields: group for group in members}
        numbered = [of_group.setdefault(group.fields, len(of_group)) for group in members]
        rows.append(np.repeat(shape.rows, len(members)))
        pair_values = paired.reshape(len(shape.rows), len(shape.pairs)) + len(numbers.keys)
        values.append(np.hstack((own, pair_values)).ravel())
        group_numbers.append(np.tile(np.array(numbered, dtype=np.intp), len(shape.rows)))
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return _Batch(
        keys, list(groups.values()), row[order],
        np.concatenate(values)[order], np.concatenate(group_numbers)[order],
    )  # fmt: skip


def _move_all(weights: Sequence[_Weight], of: Integers, gradients: Floats, rate: float) -> None:
    """Move each weight along the sum of its gradients, as AdaGrad does for a batch."""
    sums = _sums(of, gradients, len(weights)).tolist()
    sums_of_squares = _sums(of, gradients**2, len(weights)).tolist()
    for weight, gradient, square in zip(weights, sums, sums_of_squares, strict=True):
        weight.move(gradient, rate, max(square, gradient * gradient))


def _sums(of: Integers, values: Floats, number: int) -> Floats:
    """The sum of the values of each of a number of things."""
    return np.bincount(of, values, number).astype(np.float64)


def _log_odds_of(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, _EDGE, 1 - _EDGE)
    log_odds: Floats = np.log(inside / (1 - inside))
    return log_odds


def _reasons(context: Mapping[str, Scalar], terms: list[_Term]) -> tuple[Reason, ...]:
    """The three fields that weigh most; what a pair says is halved between its fields."""
    shares: dict[str, float] = {}
    for term in terms:
        for field in term.group.fields:
            shares[field] = shares.get(field, 0.0) + term.log_odds / len(term.group.fields)
    heaviest = sorted(shares, key=lambda field: (-abs(shares[field]), field))[:3]
    return tuple(Reason(field, context[field], shares[field]) for field in heaviest if shares[field])


def _bin(value: Scalar) -> str:
    """A value as text; numbers that are no small integers by their order of magnitude."""
    if value is None or isinstance(value, (bool, str)):
        return str(value)[:_LONGEST_VALUE]
    if isinstance(value, int) and abs(value) < 32:
        return str(value)
    if not math.isfinite(value):
        return "nan"
    if abs(value) <= 1:
        return f"{round(value, 1) + 0.0:g}"
    return f"{'-' if value < 0 else ''}2^{round(math.log2(abs(value)))}"


def _log_odds(probability: float) -> float:
    inside = min(max(probability, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))


def _from_log_odds(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -30.0), 30.0)))


def _centre(place: int) -> float:
    return (place - _BINS // 2) / 2


def _place(raw: float) -> tuple[int, float]:
    """The bin below, and how far it is to the one above, from 0 to 1."""
    position = min(max(raw * 2 + _BINS // 2, 0.0), _BINS - 1.0)
    low = min(int(position), _BINS - 2)
    return low, position - low


def _saved_group(group: _Group) -> list[Any]:
    weights = (group.slow, group.quick, group.classes)
    return [list(group.fields), *([weight.value, weight.square] for weight in weights)]


def _loaded_group(saved: list[Any]) -> _Group:
    group = _Group(tuple(saved[0]), 0.0)
    group.slow, group.quick, group.classes = (_Weight(*weight) for weight in saved[1:])
    return group


def _saved(value: _Value) -> list[Any]:
    return [value.count, value.slow, value.quick, value.classes]


def _loaded(saved: list[Any]) -> _Value:
    value = _Value(0.5)
    value.count, value.slow, value.quick, value.classes = saved
    return value

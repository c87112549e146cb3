"""Predicts, before a search or batch, whether it succeeds, and how it most likely fails if it doesn't.

Each value of each field of the context keeps two running success rates, a slow and a quick one; so do pairs
of values of the fields that weigh most, and the whole. Their log-odds, as far as they differ from the
whole's, are weighed by a logistic regression that learns online (AdaGrad: Duchi, Hazan and Singer, 2011), as
context mixing does in data compression (Mahoney, "Adaptive weighing of context models", 2005). Bursts of
failures show in the quick rates, lasting differences in the slow ones, and the weights say which to believe
for which field. A last step corrects the probability by what came of predictions like it.

The class of a failure is predicted likewise, from the classes of the failures that each value had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from maia.learning.states import pack, unpack

if TYPE_CHECKING:
    from maia.learning.observations import Scalar

_NAME: Final = "success"
_VERSION: Final = 1
_EDGE: Final = 1e-4
"""Probabilities stay this far from 0 and 1."""
_LONGEST_VALUE: Final = 80
_BINS: Final = 21
"""Of the correction: log-odds from -5 to 5, half a unit each."""
_TINY: Final = 1e-3


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
    max_values: int = 50_000
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

    def learn(self, outcome: float, failure_class: int | None, settings: SuccessSettings) -> None:
        self.count += 1
        self.slow += max(1 / (self.count + 1), settings.slow) * (outcome - self.slow)
        self.quick += settings.quick * (outcome - self.quick)
        if failure_class is not None:
            self.classes = {
                each: weight * settings.class_decay
                for each, weight in self.classes.items()
                if weight * settings.class_decay > _TINY
            }
            self.classes[failure_class] = self.classes.get(failure_class, 0.0) + 1


class _Weight:
    """A weight of a regression, with AdaGrad's sum of squared gradients."""

    __slots__ = ("square", "value")

    def __init__(self, value: float, square: float = 1.0) -> None:
        self.value, self.square = value, square

    def move(self, gradient: float, rate: float) -> None:
        self.square += gradient * gradient
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
        number = None if succeeded or failure_class is None else self._number(failure_class)
        if number is not None:
            self._learn_class(terms, number)
        for term in terms:
            value = self._values.pop(term.key, None) or _Value(self._whole.slow)
            value.learn(outcome, number, self.settings)
            self._values[term.key] = value
        self._whole.learn(outcome, number, self.settings)
        while len(self._values) > self.settings.max_values:
            del self._values[next(iter(self._values))]

    # The regression

    def _terms(self, context: Mapping[str, Scalar]) -> list[_Term]:
        """What each value of a context says, and each pair of values of the fields that weigh most."""
        whole = _log_odds(self._whole.slow)
        fields = sorted(context)[: self.settings.max_fields]
        singles = [self._term(f"{name}={_bin(context[name])}", name, (name,), whole) for name in fields]
        paired = sorted(singles, key=lambda term: -abs(term.group.slow.value))[: self.settings.pair_fields]
        pairs = [
            self._term(f"{one.key}&{other.key}", f"{first}&{second}", (first, second), whole)
            for one, other in combinations(paired, 2)
            for (first,), (second,) in [sorted((one.group.fields, other.group.fields))]
        ]
        return singles + pairs

    def _term(self, key: str, name: str, fields: tuple[str, ...], whole: float) -> _Term:
        group = self._groups.get(name)
        if group is None:
            group = _Group(fields, self.settings.initial_weight)
            if len(self._groups) < self.settings.max_groups:
                self._groups[name] = group
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

    def _class_sizes(self, terms: list[_Term]) -> Iterator[tuple[_Weight, list[float]]]:
        """The logarithm of each class's share among the failures of the whole, and what values add to it."""
        number = len(self._classes)
        whole = _shares(self._whole.classes, [1 / number] * number, 1.0)
        base = [math.log(share) for share in whole]
        yield self._whole_group.classes, base
        for term in terms:
            if term.value is not None and term.value.classes:
                shares = _shares(term.value.classes, whole, self.settings.back_off)
                sizes = [math.log(share) - usual for share, usual in zip(shares, base, strict=True)]
                yield term.group.classes, sizes

    def _class_probabilities(self, terms: list[_Term]) -> list[float]:
        scores = [0.0] * len(self._classes)
        if not scores:
            return []
        for weight, sizes in self._class_sizes(terms):
            scores = [score + weight.value * size for score, size in zip(scores, sizes, strict=True)]
        top = max(scores)
        shares = [math.exp(score - top) for score in scores]
        total = sum(shares)
        return [share / total for share in shares]

    def _learn_class(self, terms: list[_Term], number: int) -> None:
        probabilities = self._class_probabilities(terms)
        for weight, sizes in self._class_sizes(terms):
            expected = sum(p * size for p, size in zip(probabilities, sizes, strict=True))
            weight.move(sizes[number] - expected, self.settings.learning_rate)

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


def _shares(classes: Mapping[int, float], prior: list[float], weight: float) -> list[float]:
    total = sum(classes.values()) + weight
    return [(classes.get(number, 0.0) + weight * share) / total for number, share in enumerate(prior)]


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

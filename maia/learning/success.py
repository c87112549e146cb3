"""Predicts, before a search or batch, whether it succeeds, and how it most likely fails if it doesn't.

Each value of each field of the context, and each pair of values, keeps two running success rates, a slow and
a quick one; so does the whole. Their log-odds, as far as they differ from the whole's, are weighed by a
logistic regression that learns online (AdaGrad: Duchi, Hazan and Singer, 2011), as context mixing does in
data compression (Mahoney, "Adaptive weighing of context models", 2005). Bursts of failures show in the quick
rates, lasting differences in the slow ones, and the weights say which to believe for which field. A last
step corrects the probability by what came of predictions like it.

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
_WHOLE: Final = ""
"""The field of the rates over everything."""
_LONGEST_VALUE: Final = 80
_BINS: Final = 21
"""Of the correction: log-odds from -5 to 5, half a unit each."""
_TINY: Final = 1e-3


@dataclass(frozen=True, slots=True)
class SuccessSettings:
    """How the predictor learns."""

    quick: float = 0.25
    """Weight of the last outcome in a quick rate."""
    slow: float = 0.01
    """Least weight of the last outcome in a slow rate, which is the mean of the first outcomes."""
    back_off: float = 2.0
    """A value's rate is shrunk to the whole's by this many outcomes."""
    learning_rate: float = 0.05
    initial_weight: float = 0.2
    pair_fields: int = 6
    """How many fields, by their weight, are looked at in pairs."""
    class_decay: float = 0.9
    """What earlier failures of a value count when another comes."""
    correction: float = 0.02
    """Least weight of the last outcome in the correction."""
    max_values: int = 50_000
    max_fields: int = 40
    max_classes: int = 32

    def __post_init__(self) -> None:
        shares = (self.quick, self.slow, self.class_decay, self.correction)
        if not all(0 < share <= 1 for share in shares) or min(self.back_off, self.learning_rate) <= 0:
            raise ValueError("rates are above 0 and at most 1, and back_off and learning_rate positive")
        if min(self.max_values, self.max_fields, self.max_classes) < 1 or self.pair_fields < 0:
            raise ValueError("max_values, max_fields and max_classes are at least 1, and pair_fields 0")


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

    def learn(self, succeeded: bool, failure_class: int | None, settings: SuccessSettings) -> None:
        outcome = float(succeeded)
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


class _Weights:
    """Weights of a regression by name, with AdaGrad's sums of squared gradients."""

    def __init__(self, initial: float, rate: float) -> None:
        self.initial, self.rate = initial, rate
        self.values: dict[str, list[float]] = {}

    def of(self, name: str) -> float:
        known = self.values.get(name)
        return known[0] if known else self._initially(name)

    def move(self, name: str, gradient: float) -> None:
        known = self.values.setdefault(name, [self._initially(name), 1.0])
        known[1] += gradient * gradient
        known[0] += self.rate * gradient / math.sqrt(known[1]) * 4

    def _initially(self, name: str) -> float:
        return 1.0 if name == f"slow {_WHOLE}" else self.initial


class _Input(NamedTuple):
    """One input of the regression: its weight's name, the fields it is about, and its size."""

    name: str
    fields: tuple[str, ...]
    size: float


class SuccessPredictor:
    """Predicts success from a context, and learns from every outcome; bounded in memory.

    The values that were learnt longest ago are forgotten first.
    """

    def __init__(self, settings: SuccessSettings | None = None) -> None:
        self.settings = settings or SuccessSettings()
        self._values: dict[str, _Value] = {}
        self._whole = _Value(0.5)
        self._weights = _Weights(self.settings.initial_weight, self.settings.learning_rate)
        self._class_weights = _Weights(self.settings.initial_weight, self.settings.learning_rate)
        self._classes: list[str] = []
        self._bins = [[_from_log_odds(_centre(place)), 0.0] for place in range(_BINS)]

    def predict(self, context: Mapping[str, Scalar]) -> Prediction:
        """What to expect in this context; learns nothing."""
        keys = self._keys(context)
        inputs = self._inputs(keys)
        raw = self._log_odds(inputs)
        classes = self._class_probabilities(keys)
        best = max(range(len(classes)), key=classes.__getitem__, default=None)
        return Prediction(
            self._corrected(raw),
            None if best is None else self._classes[best],
            0.0 if best is None else classes[best],
            self._reasons(context, inputs),
            self._whole.count,
        )

    def class_probabilities(self, context: Mapping[str, Scalar]) -> dict[str, float]:
        """The probability of each class of failure that was ever seen, if it fails."""
        return dict(zip(self._classes, self._class_probabilities(self._keys(context)), strict=True))

    def learn(self, context: Mapping[str, Scalar], succeeded: bool, failure_class: str | None = None) -> None:
        """Learn what came of a search or batch; `failure_class` is left out of a success."""
        keys = self._keys(context)
        inputs = self._inputs(keys)
        raw = self._log_odds(inputs)
        self._learn_correction(raw, succeeded)
        error = float(succeeded) - _from_log_odds(raw)
        for each in inputs:
            self._weights.move(each.name, error * each.size)
        number = None if succeeded or failure_class is None else self._number(failure_class)
        if number is not None:
            self._learn_class(keys, number)
        for key, _ in keys:
            value = self._values.pop(key, None) or _Value(self._whole.slow)
            value.learn(succeeded, number, self.settings)
            self._values[key] = value
        self._whole.learn(succeeded, number, self.settings)
        while len(self._values) > self.settings.max_values:
            del self._values[next(iter(self._values))]

    # The regression

    def _keys(self, context: Mapping[str, Scalar]) -> list[tuple[str, tuple[str, ...]]]:
        """The values of a context and their pairs, each with the fields that it is about."""
        names = sorted(context)[: self.settings.max_fields]
        of_field = {name: f"{name}={_bin(context[name])}" for name in names}
        keys = [(key, (name,)) for name, key in of_field.items()]
        paired = sorted(names, key=lambda name: -abs(self._weights.of(f"slow {name}")))
        for one, other in combinations(sorted(paired[: self.settings.pair_fields]), 2):
            keys.append((f"{of_field[one]}&{of_field[other]}", (one, other)))
        return keys

    def _inputs(self, keys: list[tuple[str, tuple[str, ...]]]) -> list[_Input]:
        whole_slow, whole_quick = _log_odds(self._whole.slow), _log_odds(self._whole.quick)
        inputs = [
            _Input("bias", (), 0.3),
            _Input(f"slow {_WHOLE}", (), whole_slow),
            _Input(f"quick {_WHOLE}", (), whole_quick - whole_slow),
        ]
        for key, fields in keys:
            value = self._values.get(key)
            if value is None:
                continue
            trust = value.count / (value.count + self.settings.back_off)
            name = "&".join(fields)
            slow = _log_odds(self._whole.slow + trust * (value.slow - self._whole.slow))
            quick = _log_odds(self._whole.slow + trust * (value.quick - self._whole.slow))
            inputs.append(_Input(f"slow {name}", fields, slow - whole_slow))
            inputs.append(_Input(f"quick {name}", fields, quick - slow))
        return inputs

    def _log_odds(self, inputs: list[_Input]) -> float:
        return sum(self._weights.of(each.name) * each.size for each in inputs)

    def _reasons(self, context: Mapping[str, Scalar], inputs: list[_Input]) -> tuple[Reason, ...]:
        shares: dict[str, float] = {}
        for each in inputs:
            for field in each.fields:
                part = self._weights.of(each.name) * each.size / len(each.fields)
                shares[field] = shares.get(field, 0.0) + part
        heaviest = sorted(shares, key=lambda field: (-abs(shares[field]), field))[:3]
        return tuple(Reason(field, context[field], shares[field]) for field in heaviest)

    # The correction

    def _corrected(self, raw: float) -> float:
        plain = _from_log_odds(raw)
        (low, share), high = _place(raw), min(_place(raw)[0] + 1, _BINS - 1)
        learnt = (1 - share) * self._bins[low][0] + share * self._bins[high][0]
        return min(max((plain + learnt) / 2, _EDGE), 1 - _EDGE)

    def _learn_correction(self, raw: float, succeeded: bool) -> None:
        low, share = _place(raw)
        for place, weight in ((low, 1 - share), (min(low + 1, _BINS - 1), share)):
            bin_ = self._bins[place]
            bin_[1] += weight
            rate = max(1 / (bin_[1] + 10), self.settings.correction)
            bin_[0] += weight * rate * (float(succeeded) - bin_[0])

    # The class of a failure

    def _number(self, failure_class: str) -> int | None:
        if failure_class in self._classes:
            return self._classes.index(failure_class)
        if len(self._classes) == self.settings.max_classes:
            return None
        self._classes.append(failure_class)
        return len(self._classes) - 1

    def _class_inputs(self, keys: list[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, list[float]]]:
        """By weight's name, the logarithm of each class's share among a value's failures."""
        whole = _shares(self._whole.classes, [1 / len(self._classes)] * len(self._classes), 1.0)
        base = [math.log(share) for share in whole]
        yield f"slow {_WHOLE}", base
        for key, fields in keys:
            value = self._values.get(key)
            if value is not None and value.classes:
                shares = _shares(value.classes, whole, self.settings.back_off)
                yield "&".join(fields), [math.log(share) - b for share, b in zip(shares, base, strict=True)]

    def _class_probabilities(self, keys: list[tuple[str, tuple[str, ...]]]) -> list[float]:
        scores = [0.0] * len(self._classes)
        if not scores:
            return []
        for name, sizes in self._class_inputs(keys):
            weight = self._class_weights.of(name)
            scores = [score + weight * size for score, size in zip(scores, sizes, strict=True)]
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        return [weight / sum(weights) for weight in weights]

    def _learn_class(self, keys: list[tuple[str, tuple[str, ...]]], number: int) -> None:
        probabilities = self._class_probabilities(keys)
        for name, sizes in list(self._class_inputs(keys)):
            expected = sum(p * size for p, size in zip(probabilities, sizes, strict=True))
            self._class_weights.move(name, sizes[number] - expected)

    # The state

    def state(self) -> bytes:
        """Everything needed to go on elsewhere, with a version."""
        content = {
            "settings": list(astuple(self.settings)),
            "whole": _saved(self._whole),
            "values": {key: _saved(value) for key, value in self._values.items()},
            "weights": self._weights.values,
            "class_weights": self._class_weights.values,
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
        predictor._weights.values, predictor._class_weights.values = saved["weights"], saved["class_weights"]
        predictor._classes, predictor._bins = saved["classes"], saved["bins"]
        return predictor


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


def _saved(value: _Value) -> list[Any]:
    return [value.count, value.slow, value.quick, value.classes]


def _loaded(saved: list[Any]) -> _Value:
    value = _Value(0.5)
    value.count, value.slow, value.quick, value.classes = saved
    return value

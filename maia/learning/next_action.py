"""Next action: which action follows in a session, given its last five and what is known about them.

The model counts followers in many contexts: the last one to five actions (a variable-order Markov model),
pairs with a gap, each recent action at its distance (skips) or anywhere among the recent ones (a bag), and
the caller's attributes such as the resource. An action's score is the logarithm of its overall frequency
plus, for each context, a weight times the logarithm of how much likelier the action is there. Counts are
smoothed by absolute discounting (Ney and others, 1994). Skips are averaged before they count as one piece
of evidence, because one by one they are too sparse. Short contexts also keep counts that fade, so that the
model follows a process that changes.

The weights are learnt online: before an event is counted, it is predicted, and the weights take a step down
the gradient of the log loss, as in the mixing of PAQ (Mahoney, 2005), with the step sizes of AdaGrad.
They depend on the kind of context, on how often it was seen, and on the longest context known.
Memory is bounded: rare contexts and followers are forgotten first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt
from typing import Any, Final, Self, TypeAlias

import msgpack  # type: ignore[import-untyped, unused-ignore]
import zstandard

Scalar: TypeAlias = str | int | float | bool
Key: TypeAlias = tuple[int | str, ...]
"""What identifies a context: its kind, then its actions from the last one backwards."""

END: Final = "<end>"
"""What follows the last action of a session that has ended."""
_START: Final = "<start>"
_VERSION: Final = 1

WINDOW: Final = 5
"""How many actions are looked back at."""
_DISCOUNT: Final = 0.6
_PRIOR_COUNT: Final = 0.5
_CANDIDATES: Final = 20
"""No more contexts add candidates when there are so many."""
_TOP: Final = 8
"""How many of its most frequent followers a context offers as candidates."""
_RATE: Final = 0.04
_FIRST_SQUARE: Final = 0.01
_HIGHEST_BUCKET: Final = 8
_FADING: Final = 1.0 / (1.0 - 1.0 / 50.0)
"""By so much an event counts more than the one before, so that about the last 50 of a context matter."""
_LARGEST_GAIN: Final = 1e30
_MOST_FOLLOWERS: Final = 256
_MOST_FADING: Final = 64
_MOST_SESSIONS: Final = 10_000
_MOST_ATTRIBUTES: Final = 8
_MOST_NAMES: Final = 64

_SKIP, _PAIR, _BAG, _ATTRIBUTE, _FADED, _REPEAT = 10, 20, 30, 40, 50, 60
"""Kinds of contexts and of evidence; below 10 it's the number of the last actions."""
_PAIRS: Final = ((0, 2), (1, 2), (0, 3))
_FIRST_WEIGHTS: Final = {_SKIP: 0.6, _BAG: 0.6, _FADED: 0.1, _ATTRIBUTE: 0.075, _PAIR: 0.075, _REPEAT: 0.0}
_SUFFIX_WEIGHT: Final = 0.15


@dataclass(frozen=True, slots=True)
class Prediction:
    """An action that may follow, and how likely it is."""

    action: str
    probability: float


@dataclass(slots=True)
class _Context:
    """The followers of one context: how often each came, and the same with old events fading."""

    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    top: list[str] = field(default_factory=list)
    fading: dict[str, float] = field(default_factory=dict)
    """Counts as multiples of `gain`, which grows instead of the counts' shrinking."""
    gain: float = 1.0

    def add(self, action: str, most: int) -> None:
        self.total += 1
        count = self.counts[action] = self.counts.get(action, 0) + 1
        self._promote(action, count)
        if len(self.counts) > most:
            kept = sorted(self.counts.items(), key=lambda each: -each[1])[: max(_TOP, most // 2)]
            self.counts = dict(kept)
            self.top = [each for each in self.top if each in self.counts]

    def _promote(self, action: str, count: int) -> None:
        """Keep `top` in order after one count has risen."""
        top, counts = self.top, self.counts
        if action in top:
            at = top.index(action)
        elif len(top) < _TOP:
            top.append(action)
            at = len(top) - 1
        elif count >= counts[top[-1]]:
            at = len(top) - 1
            top[at] = action
        else:
            return
        while at and counts[top[at - 1]] <= count:
            top[at], top[at - 1] = top[at - 1], action
            at -= 1

    def fade(self, action: str) -> None:
        """Count an event among the fading ones."""
        self.gain *= _FADING
        self.fading[action] = self.fading.get(action, 0.0) + self.gain
        if self.gain > _LARGEST_GAIN or len(self.fading) > _MOST_FADING:
            latest = sorted(self.fading.items(), key=lambda each: -each[1])[: _MOST_FADING // 2]
            self.fading = {each: weight / self.gain for each, weight in latest}
            self.gain = 1.0

    def packed(self) -> list[Any]:
        return [self.total, self.counts, self.top, self.fading, self.gain]


@dataclass(slots=True)
class _Scored:
    """The candidates' scores, and the evidence that each weight was multiplied with."""

    scores: dict[str, float]
    evidence: list[tuple[Key, dict[str, float]]]
    unlisted: float
    """The overall frequency of all actions that are no candidates."""

    def probabilities(self) -> dict[str, float]:
        highest = max(self.scores.values())
        shares = {action: exp(score - highest) for action, score in self.scores.items()}
        total = sum(shares.values()) + self.unlisted * exp(min(-highest, 700.0))
        return {action: share / total for action, share in shares.items()}


@dataclass(slots=True)
class _Session:
    """What a session's next action is predicted from."""

    recent: list[str] = field(default_factory=list)
    attributes: dict[str, Scalar] = field(default_factory=dict)


class NextAction:
    """Learns sequences of actions online and predicts what follows; equal input gives an equal model."""

    def __init__(self, max_contexts: int = 500_000, max_actions: int = 50_000) -> None:
        if max_contexts < 1 or max_actions < 1:
            raise ValueError("max_contexts and max_actions must be at least 1")
        self.max_contexts = max_contexts
        self.max_actions = max_actions
        self._all = _Context()
        self._contexts: dict[Key, _Context] = {}
        self._weights: dict[Key, float] = {}
        self._squares: dict[Key, float] = {}
        self._names: dict[str, None] = {}
        self._sessions: dict[str, _Session] = {}

    @property
    def contexts(self) -> int:
        """How many contexts are kept."""
        return len(self._contexts)

    @property
    def observed(self) -> int:
        """How many actions were learnt from, ends included."""
        return self._all.total

    def update(self, session: str, action: str, attributes: Mapping[str, Scalar] | None = None) -> None:
        """Learn a session's next action; `attributes` are this event's and help to predict the next."""
        known = self._sessions.pop(session, None) or _Session()
        self._learn(known.recent, action, known.attributes)
        recent = [*known.recent, action][-WINDOW:]
        self._sessions[session] = _Session(recent, dict(attributes or {}))
        if len(self._sessions) > _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def end(self, session: str) -> None:
        """Learn that a session has ended, and forget it; nothing happens if it is unknown."""
        known = self._sessions.pop(session, None)
        if known is not None:
            self._learn(known.recent, END, known.attributes)

    def learn(
        self,
        sequence: Iterable[str],
        attributes: Iterable[Mapping[str, Scalar]] | None = None,
        *,
        ended: bool = False,
    ) -> None:
        """Learn a whole session; `attributes` has one mapping for each action, `ended` if it's complete."""
        recent: list[str] = []
        known: Mapping[str, Scalar] = {}
        following = iter(attributes or ())
        for action in sequence:
            self._learn(recent, action, known)
            recent = [*recent, action][-WINDOW:]
            known = next(following, {})
        if ended and recent:
            self._learn(recent, END, known)

    def predict(
        self, history: Sequence[str], k: int = 5, attributes: Mapping[str, Scalar] | None = None
    ) -> list[Prediction]:
        """The `k` likeliest next actions, END among them; nothing if nothing was learnt.

        `history` ends with the last action; no more than the last five are used. `attributes` are what is
        known now, such as those of the last event.
        """
        if not self._all.total:
            return []
        probabilities = self._score(history, attributes or {})[1].probabilities()
        ranked = sorted(probabilities.items(), key=lambda each: -each[1])[:k]
        return [Prediction(action, probability) for action, probability in ranked]

    def predict_session(self, session: str, k: int = 5) -> list[Prediction]:
        """The `k` likeliest next actions of a session that `update` has been told of."""
        known = self._sessions.get(session) or _Session()
        return self.predict(known.recent, k, known.attributes)

    def state(self) -> bytes:
        """Everything as versioned, compressed bytes."""
        return zstandard.ZstdCompressor(level=3).compress(
            msgpack.packb(
                [
                    _VERSION,
                    [self.max_contexts, self.max_actions, list(self._names)],
                    self._all.packed(),
                    [[list(key), *context.packed()] for key, context in self._contexts.items()],
                    [[list(key), weight, self._squares[key]] for key, weight in self._weights.items()],
                    [[name, each.recent, each.attributes] for name, each in self._sessions.items()],
                ]
            )
        )

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The model that `state` returned; raises ValueError if it is damaged or of another version."""
        try:
            plain = zstandard.ZstdDecompressor().decompressobj().decompress(state)
            version, (max_contexts, max_actions, names), all_, contexts, weights, sessions = msgpack.unpackb(
                plain
            )
        except (zstandard.ZstdError, ValueError, TypeError) as error:
            raise ValueError("not a state of NextAction") from error
        if version != _VERSION:
            raise ValueError(f"state of version {version}, expected {_VERSION}")
        model = cls(max_contexts, max_actions)
        model._names = dict.fromkeys(names)
        model._all = _Context(*all_)
        model._contexts = {tuple(key): _Context(*packed) for key, *packed in contexts}
        model._weights = {tuple(key): weight for key, weight, _ in weights}
        model._squares = {tuple(key): square for key, _, square in weights}
        model._sessions = {name: _Session(recent, known) for name, recent, known in sessions}
        return model

    def _learn(self, history: Sequence[str], action: str, attributes: Mapping[str, Scalar]) -> None:
        for name in sorted(attributes):
            if len(self._names) < _MOST_NAMES:
                self._names.setdefault(name)
        if self._all.total:
            keys, scored = self._score(history, attributes)
            self._descend(scored, action)
        else:
            keys = list(self._keys(history, attributes))
        for key in keys:
            context = self._contexts.get(key)
            if context is None:
                context = self._contexts[key] = _Context()
            context.add(action, _MOST_FOLLOWERS)
            if key[0] in (1, 2):
                context.fade(action)
        self._all.add(action, self.max_actions)
        if len(self._contexts) > self.max_contexts:
            self._forget_contexts()

    def _keys(self, history: Sequence[str], attributes: Mapping[str, Scalar]) -> Iterator[Key]:
        """The contexts of a history, shorter ones first."""
        recent = list(history[-WINDOW:])[::-1]
        padded = [*recent, _START]
        for order in range(1, min(WINDOW, len(padded)) + 1):
            yield (order, *padded[:order])
        for distance in range(1, len(recent)):
            yield (_SKIP, distance, recent[distance])
        for near, far in _PAIRS:
            if far < len(recent):
                yield (_PAIR, near, far, recent[near], recent[far])
        for action in dict.fromkeys(recent):
            yield (_BAG, action)
        known = [name for name in sorted(attributes) if name in self._names]
        for name in known[:_MOST_ATTRIBUTES]:
            value = str(attributes[name])
            yield (_ATTRIBUTE, name, value)
            yield (_ATTRIBUTE, name, value, padded[0])

    def _score(self, history: Sequence[str], attributes: Mapping[str, Scalar]) -> tuple[list[Key], _Scored]:
        """All contexts of a history, and the candidates' scores by those that are known."""
        keys = list(self._keys(history, attributes))
        get = self._contexts.get
        known = [(key, context) for key in keys if (context := get(key)) is not None]
        lifts = self._lifts(known)
        scored = _Scored(
            {action: -log(lift) for action, lift in lifts.items()},
            [],
            max(1e-6, 1.0 - sum(1.0 / lift for lift in lifts.values())),
        )
        order = max((len(key) - 1 for key, _ in known if key[0] == len(key) - 1), default=0)
        skips: dict[str, float] = {}
        bag: dict[str, float] = {}
        for key, context in known:
            kind = key[0]
            if kind in (1, _SKIP):
                _add_shares(skips, context, lifts)
            elif kind == _BAG:
                _add_shares(bag, context, lifts)
            if kind not in (_SKIP, _BAG):
                self._add_counts(scored, key, context, lifts, order)
        for kind, shares in ((_SKIP, skips), (_BAG, bag)):
            found = {action: log(1.0 + share * lifts[action]) for action, share in shares.items()}
            self._add(scored, (kind, order), found, _FIRST_WEIGHTS[kind])
        for distance, action in enumerate(reversed(history[-WINDOW:])):
            if action in lifts:
                self._add(scored, (_REPEAT, distance), {action: 1.0}, 0.0)
        return keys, scored

    def _lifts(self, known: Sequence[tuple[Key, _Context]]) -> dict[str, float]:
        """The candidates, each with the inverse of its overall frequency."""
        counts = self._all.counts
        candidates: dict[str, None] = {}
        for _, context in known:
            for action in context.top:
                candidates[action] = None
            if len(candidates) >= _CANDIDATES:
                break
        for action in self._all.top[:4]:
            candidates[action] = None
        whole = self._all.total + _PRIOR_COUNT * len(counts) + 1.0
        return {action: whole / (counts.get(action, 0) + _PRIOR_COUNT) for action in candidates}

    def _add_counts(
        self, scored: _Scored, key: Key, context: _Context, lifts: Mapping[str, float], order: int
    ) -> None:
        """Add what a context's counts say, and what its fading counts say."""
        kind = key[0]
        bucket = min(context.total.bit_length(), _HIGHEST_BUCKET)
        unit = 1.0 / (_DISCOUNT * len(context.counts))
        found = _evidence(context.counts, _DISCOUNT, unit, lifts)
        if kind == _ATTRIBUTE:
            self._add(scored, (kind, key[1], len(key), bucket), found, _FIRST_WEIGHTS[_ATTRIBUTE])
        elif kind == _PAIR:
            self._add(scored, (kind, key[1], key[2], bucket), found, _FIRST_WEIGHTS[_PAIR])
        else:
            self._add(scored, (kind, bucket, order), found, _SUFFIX_WEIGHT)
        if context.fading:
            faded = _evidence(context.fading, 0.0, 1.0 / context.gain, lifts)
            self._add(scored, (_FADED, kind, bucket), faded, _FIRST_WEIGHTS[_FADED])

    def _add(self, scored: _Scored, key: Key, found: dict[str, float], first_weight: float) -> None:
        """Add a piece of evidence to the scores."""
        weight = self._weights.get(key, first_weight)
        scores = scored.scores
        for action, value in found.items():
            scores[action] += weight * value
        scored.evidence.append((key, found))

    def _descend(self, scored: _Scored, action: str) -> None:
        """Move the weights so that the action that came would have been likelier."""
        probabilities = scored.probabilities()
        weights, squares = self._weights, self._squares
        for key, found in scored.evidence:
            gradient = found.get(action, 0.0)
            for candidate, value in found.items():
                gradient -= probabilities[candidate] * value
            square = squares[key] = squares.get(key, _FIRST_SQUARE) + gradient * gradient
            weights[key] = weights.get(key, _first_weight(key)) + _RATE * gradient / sqrt(square)

    def _forget_contexts(self) -> None:
        """Drop a quarter of the contexts: those seen least, and among equals the oldest."""
        newest_first = list(self._contexts.items())[::-1]
        by_total = sorted(newest_first, key=lambda each: -each[1].total)
        kept = {key for key, _ in by_total[: max(1, self.max_contexts * 3 // 4)]}
        self._contexts = {key: context for key, context in self._contexts.items() if key in kept}


def _first_weight(key: Key) -> float:
    """The weight of a piece of evidence that nothing has been learnt about."""
    kind = key[0]
    assert isinstance(kind, int)
    return _FIRST_WEIGHTS.get(kind, _SUFFIX_WEIGHT)


def _evidence(
    counts: Mapping[str, float], discount: float, unit: float, lifts: Mapping[str, float]
) -> dict[str, float]:
    """For each candidate among the followers the log of how much likelier it is here than overall."""
    if len(counts) < len(lifts):
        return {
            action: log(1.0 + (count - discount) * unit * lifts[action])
            for action, count in counts.items()
            if action in lifts
        }
    return {
        action: log(1.0 + (counts[action] - discount) * unit * lift)
        for action, lift in lifts.items()
        if action in counts
    }


def _add_shares(shares: dict[str, float], context: _Context, lifts: Mapping[str, float]) -> None:
    """Add the discounted share that each candidate has of a context's followers."""
    counts, unit = context.counts, 1.0 / context.total
    if len(counts) < len(lifts):
        for action, count in counts.items():
            if action in lifts:
                shares[action] = shares.get(action, 0.0) + (count - _DISCOUNT) * unit
        return
    get = counts.get
    for action in lifts:
        if frequent := get(action):
            shares[action] = shares.get(action, 0.0) + (frequent - _DISCOUNT) * unit

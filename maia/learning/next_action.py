"""Next action: which action follows in a session, given its last five and what is known about them.

The model counts followers in many contexts: the last one to five actions (a variable-order Markov model),
each recent action at its distance (skips) or anywhere among the recent ones (a bag), and the caller's
attributes such as the resource. Counts are smoothed by absolute discounting (Ney and others, 1994).

A prediction takes two steps. The candidates are the actions that have the largest shares of the followers,
summed over the contexts. Among these few, an action's score is the logarithm of its overall frequency plus,
for each context, a weight times the logarithm of how much likelier the action is there. Skips are averaged
before they count as one piece of evidence, because one by one they are too sparse. Short contexts also keep
counts that fade, so that the model follows a process that changes.

The weights are learnt online: before an event is counted, it is predicted, and if it is a candidate, the
weights take a step down the gradient of the log loss among the candidates, as in the mixing of PAQ
(Mahoney, 2005), with the step sizes of AdaGrad. They depend on the kind of context, on how often it was seen,
on the length of the history and on the longest context known. Memory is bounded: rare contexts and followers
are forgotten first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt
from operator import itemgetter, mul
from typing import Any, Final, Self, TypeAlias

import msgpack  # type: ignore[import-untyped, unused-ignore]
import zstandard

Scalar: TypeAlias = str | int | float | bool
Key: TypeAlias = tuple[int | str, ...]
"""What identifies a context: its kind, then its actions from the last one backwards."""

END: Final = "<end>"
"""What follows the last action of a session that has ended."""
_START: Final = "<start>"
STATE_VERSION: Final = 2

WINDOW: Final = 5
"""How many actions are looked back at."""
_DISCOUNT: Final = 0.6
_PRIOR_COUNT: Final = 0.5
_CANDIDATES: Final = 8
"""How many actions are scored: those with the largest sum of shares in the contexts."""
_TOP: Final = 8
"""How many of its most frequent followers a context offers as candidates."""
_RATE: Final = 0.04
_FIRST_SQUARE: Final = 0.01
_HIGHEST_BUCKET: Final = 8
_FADING: Final = 1.0 / (1.0 - 1.0 / 50.0)
"""By so much an event counts more than the one before, so that about the last 50 of a context matter."""
_LARGEST_GAIN: Final = 1e30
_LISTED_EVENTS: Final = 1_000
"""Over so many of the last events it is averaged how often a candidate came."""
_MOST_FOLLOWERS: Final = 256
_MOST_FADING: Final = 64
_MOST_SESSIONS: Final = 10_000
_MOST_ATTRIBUTES: Final = 8
_MOST_NAMES: Final = 64

_SKIP, _BAG, _ATTRIBUTE, _FADED, _REPEAT = 10, 20, 30, 40, 50
"""Kinds of contexts and of evidence; below 10 it's the number of the last actions."""
_FIRST_WEIGHTS: Final[Mapping[int | str, float]] = {
    _SKIP: 0.6,
    _BAG: 0.6,
    _ATTRIBUTE: 0.075,
    _FADED: 0.1,
    _REPEAT: 0.0,
}
_SUFFIX_WEIGHT: Final = 0.15
_FADES: Final = (1, 2)
"""The contexts whose counts also fade."""


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
    top: dict[str, int] = field(default_factory=dict)
    """The highest counts; empty while all of them would be in it."""
    fading: dict[str, float] = field(default_factory=dict)
    """Counts as multiples of `gain`, which grows instead of the counts' shrinking; empty if none fade."""
    gain: float = 1.0
    lowest: int = 0
    """No count in `top` is lower; what isn't in it enters by a higher one."""

    @classmethod
    def after(cls, action: str, *, fades: bool) -> Self:
        """The context that has been followed once."""
        return cls(1, {action: 1}, {}, {action: 1.0} if fades else {})

    def add(self, action: str, most: int) -> None:
        self.total += 1
        counts = self.counts
        count = counts[action] = counts.get(action, 0) + 1
        if action in self.top:
            self.top[action] = count
        elif count > self.lowest and len(counts) > _TOP:
            self._promote(action, count)
        if len(counts) > most:
            self._forget_followers(most)
        if self.fading:
            self._fade(action)

    def _promote(self, action: str, count: int) -> None:
        """Take an action into `top` if its count is higher than the lowest there."""
        if not self.top:
            self.top = dict(sorted(self.counts.items(), key=lambda each: -each[1])[:_TOP])
        last = min(self.top, key=self.top.__getitem__)
        if count > self.top[last]:
            del self.top[last]
            self.top[action] = count
        self.lowest = min(self.top.values())

    def _forget_followers(self, most: int) -> None:
        kept = sorted(self.counts.items(), key=lambda each: -each[1])[: max(_TOP, most // 2)]
        self.counts = dict(kept)
        self.top = dict(kept[:_TOP])

    def _fade(self, action: str) -> None:
        """Count an event among the fading ones."""
        self.gain *= _FADING
        self.fading[action] = self.fading.get(action, 0.0) + self.gain
        if self.gain > _LARGEST_GAIN or len(self.fading) > _MOST_FADING:
            latest = sorted(self.fading.items(), key=lambda each: -each[1])[: _MOST_FADING // 2]
            self.fading = {each: weight / self.gain for each, weight in latest}
            self.gain = 1.0

    def packed(self) -> list[Any]:
        return [self.total, self.counts, self.top, self.fading, self.gain]


_Found: TypeAlias = _Context | str
"""A context, or the only follower of one that has been seen once, as most have."""


@dataclass(slots=True)
class _Weight:
    """What a kind of evidence counts for, and the sum of its squared gradients."""

    value: float
    square: float = _FIRST_SQUARE


class _Scored:
    """The candidates, and the pieces of evidence about them, each with its weight."""

    __slots__ = ("actions", "evidence", "keys", "lifts", "weights")

    def __init__(self, actions: list[str], lifts: list[float]) -> None:
        self.actions = actions
        self.lifts = lifts
        """The inverse of each candidate's overall frequency."""
        self.keys: list[Key] = []
        self.weights: list[_Weight] = []
        self.evidence: list[list[float]] = []
        """For each weight what it is multiplied with in each candidate's score."""

    def of_counts(self, counts: Mapping[str, float], discount: float, unit: float) -> list[float]:
        """For each candidate the log of how much likelier it is here than overall, 0 if it never followed."""
        return [
            log(1.0 + (count - discount) * unit * lift) if count else 0.0
            for count, lift in zip(map(counts.get, self.actions), self.lifts, strict=True)
        ]

    def of_shares(self, shares: list[float]) -> list[float]:
        """The same from each candidate's share of the followers."""
        return [log(1.0 + share * lift) for share, lift in zip(shares, self.lifts, strict=True)]

    def of_one(self, action: str, share: float) -> list[float]:
        """The same if only one action ever followed."""
        evidence = [0.0] * len(self.actions)
        if action in self.actions:
            at = self.actions.index(action)
            evidence[at] = log(1.0 + share * self.lifts[at])
        return evidence

    def probabilities(self) -> list[float]:
        """How likely each candidate is, given that it is one of them that comes."""
        values = [weight.value for weight in self.weights]
        scores = [
            sum(map(mul, values, column)) - log(lift)
            for lift, column in zip(self.lifts, zip(*self.evidence, strict=True), strict=True)
        ]
        highest = max(scores)
        shares = [exp(score - highest) for score in scores]
        total = sum(shares)
        return [share / total for share in shares]


@dataclass(slots=True)
class _Session:
    """What a session's next action is predicted from."""

    recent: tuple[str, ...] = ()
    """Its last actions, the last one first."""
    attributes: dict[str, Scalar] = field(default_factory=dict)


class NextAction:
    """Learns sequences of actions online and predicts what follows; equal input gives an equal model."""

    def __init__(self, max_contexts: int = 500_000, max_actions: int = 50_000) -> None:
        if max_contexts < 1 or max_actions < 1:
            raise ValueError("max_contexts and max_actions must be at least 1")
        self.max_contexts = max_contexts
        self.max_actions = max_actions
        self._all = _Context()
        self._contexts: dict[Key, _Found] = {}
        self._weights: dict[Key, _Weight] = {}
        self._listed = 1.0
        """How often one of the candidates came lately."""
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

    @property
    def open_sessions(self) -> tuple[str, ...]:
        """The sessions that `update` has been told of and that haven't ended, the quietest first."""
        return tuple(self._sessions)

    def count(self, action: str) -> int:
        """How often an action was learnt; 0 also for a rare one that is forgotten."""
        return self._all.counts.get(action, 0)

    def update(self, session: str, action: str, attributes: Mapping[str, Scalar] | None = None) -> None:
        """Learn a session's next action; `attributes` are this event's and help to predict the next.

        Of too many open sessions, the one that was quiet longest is taken to have ended.
        """
        known = self._sessions.pop(session, None) or _Session()
        self._learn(known.recent, action, known.attributes)
        self._sessions[session] = _Session((action, *known.recent[: WINDOW - 1]), dict(attributes or {}))
        if len(self._sessions) > _MOST_SESSIONS:
            self.end(next(iter(self._sessions)))

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
        recent: tuple[str, ...] = ()
        known: Mapping[str, Scalar] = {}
        following = iter(attributes or ())
        for action in sequence:
            self._learn(recent, action, known)
            recent = (action, *recent[: WINDOW - 1])
            known = next(following, {})
        if ended and recent:
            self._learn(recent, END, known)

    def predict(
        self,
        history: Sequence[str],
        k: int = 5,
        attributes: Mapping[str, Scalar] | None = None,
        *,
        from_start: bool = True,
    ) -> list[Prediction]:
        """The `k` likeliest next actions, eight at most, END among them; nothing if nothing was learnt.

        `history` ends with the last action; no more than the last five are used. `attributes` are what is
        known now, such as those of the last event. Without `from_start`, nothing is known of what came before
        the history; otherwise a short one is a session's beginning.
        """
        recent = tuple(history[: -WINDOW - 1 : -1])
        return self._likeliest(recent, k, attributes or {}, from_start=from_start)

    def predict_session(self, session: str, k: int = 5) -> list[Prediction]:
        """The `k` likeliest next actions of a session that `update` has been told of."""
        known = self._sessions.get(session) or _Session()
        return self._likeliest(known.recent, k, known.attributes)

    def state(self) -> bytes:
        """Everything as versioned, compressed bytes."""
        return zstandard.ZstdCompressor(level=3).compress(
            msgpack.packb(
                [
                    STATE_VERSION,
                    [self.max_contexts, self.max_actions, list(self._names), self._listed],
                    self._all.packed(),
                    [
                        [list(key), context if isinstance(context, str) else context.packed()]
                        for key, context in self._contexts.items()
                    ],
                    [[list(key), weight.value, weight.square] for key, weight in self._weights.items()],
                    [[name, each.recent, each.attributes] for name, each in self._sessions.items()],
                ]
            )
        )

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The model that `state` returned; raises ValueError if it is damaged or of another version."""
        try:
            plain = zstandard.ZstdDecompressor().decompressobj().decompress(state)
            version, *parts = msgpack.unpackb(plain)
        except (zstandard.ZstdError, ValueError, TypeError) as error:
            raise ValueError("not a state of NextAction") from error
        if version != STATE_VERSION:
            raise ValueError(f"state of version {version}, expected {STATE_VERSION}")
        (max_contexts, max_actions, names, listed), all_, contexts, weights, sessions = parts
        model = cls(max_contexts, max_actions)
        model._names = dict.fromkeys(names)
        model._listed = listed
        model._all = _Context(*all_)
        model._contexts = {
            tuple(key): packed if isinstance(packed, str) else _Context(*packed) for key, packed in contexts
        }
        model._weights = {tuple(key): _Weight(value, square) for key, value, square in weights}
        model._sessions = {name: _Session(tuple(recent), known) for name, recent, known in sessions}
        return model

    def _likeliest(
        self, recent: tuple[str, ...], k: int, attributes: Mapping[str, Scalar], *, from_start: bool = True
    ) -> list[Prediction]:
        if not self._all.total:
            return []
        keys = self._keys(recent, attributes)
        if not from_start:
            keys = [key for key in keys if _START not in key]
        scored = self._score(recent, keys, map(self._contexts.get, keys))
        pairs = zip(scored.probabilities(), scored.actions, strict=True)
        ranked = sorted(pairs, key=itemgetter(0), reverse=True)[:k]
        return [Prediction(action, probability * self._listed) for probability, action in ranked]

    def _learn(self, recent: tuple[str, ...], action: str, attributes: Mapping[str, Scalar]) -> None:
        for name in sorted(attributes):
            if len(self._names) < _MOST_NAMES:
                self._names.setdefault(name)
        contexts = self._contexts
        keys = self._keys(recent, attributes)
        found = list(map(contexts.get, keys))
        if self._all.total:
            self._descend(self._score(recent, keys, found), action)
        for key, known in zip(keys, found, strict=True):
            if known is None:
                contexts[key] = action
            elif isinstance(known, str):
                context = contexts[key] = _Context.after(known, fades=key[0] in _FADES)
                context.add(action, _MOST_FOLLOWERS)
            else:
                known.add(action, _MOST_FOLLOWERS)
        self._all.add(action, self.max_actions)
        if len(contexts) > self.max_contexts:
            self._forget_contexts()

    def _keys(self, recent: tuple[str, ...], attributes: Mapping[str, Scalar]) -> list[Key]:
        """The contexts of the last actions, given the last one first; shorter contexts come first."""
        padded = (*recent, _START)
        length = len(recent)
        keys: list[Key] = [(order, *padded[:order]) for order in range(1, min(WINDOW, length + 1) + 1)]
        keys += [(_SKIP, distance, recent[distance]) for distance in range(1, length)]
        keys += [(_BAG, action) for action in dict.fromkeys(recent)]
        if attributes:
            known = [name for name in sorted(attributes) if name in self._names]
            for name in known[:_MOST_ATTRIBUTES]:
                value = str(attributes[name])
                keys += [(_ATTRIBUTE, name, value), (_ATTRIBUTE, name, value, padded[0])]
        return keys

    def _score(self, recent: tuple[str, ...], keys: list[Key], found: Iterable[_Found | None]) -> _Scored:
        """The candidates, and what the contexts that are known say about them."""
        order = 0
        bags: list[_Found] = []
        counted: list[tuple[Key, _Found]] = []
        near: dict[str, float] = {}
        longer: dict[str, float] = {}
        for key, context in zip(keys, found, strict=True):
            if context is None:
                continue
            kind = key[0]
            if kind == _BAG:
                bags.append(context)
            elif kind == _SKIP:
                _add_top(near, context)
            else:
                counted.append((key, context))
                _add_top(near if kind == 1 else longer, context)
                if kind != _ATTRIBUTE:
                    order = len(key) - 1
        scored = self._candidates(near, longer)
        depth = len(recent) * 10 + order
        for key, context in counted:
            self._add_counts(scored, key, context, depth)
        self._add(scored, (_SKIP, depth), scored.of_shares([near.get(each, 0.0) for each in scored.actions]))
        self._add(scored, (_BAG, depth), scored.of_shares(_shares(bags, scored.actions)))
        self._add_repeats(scored, recent)
        return scored

    def _candidates(self, near: Mapping[str, float], longer: dict[str, float]) -> _Scored:
        """The actions with the largest sums of shares, which end up in `longer`, or the most frequent."""
        get = longer.get
        for action, share in near.items():
            longer[action] = get(action, 0.0) + share
        actions = sorted(longer, key=longer.__getitem__, reverse=True)[:_CANDIDATES]
        counts = self._all.counts
        if len(actions) < _CANDIDATES:
            actions = list(dict.fromkeys([*actions, *(self._all.top or counts)]))[:_CANDIDATES]
        whole = self._all.total + _PRIOR_COUNT * len(counts) + 1.0
        return _Scored(actions, [whole / (counts.get(action, 0) + _PRIOR_COUNT) for action in actions])

    def _add_counts(self, scored: _Scored, key: Key, context: _Found, depth: int) -> None:
        """Add what a context's counts say, and what its fading counts say."""
        kind = key[0]
        if isinstance(context, str):
            if context not in scored.actions:
                return
            bucket = 1
            evidence = scored.of_one(context, (1.0 - _DISCOUNT) / _DISCOUNT)
            faded = scored.of_one(context, 1.0) if kind in _FADES else None
        else:
            bucket = min(context.total.bit_length(), _HIGHEST_BUCKET)
            unit = 1.0 / (_DISCOUNT * len(context.counts))
            evidence = scored.of_counts(context.counts, _DISCOUNT, unit)
            faded = scored.of_counts(context.fading, 0.0, 1.0 / context.gain) if context.fading else None
        if kind == _ATTRIBUTE:
            self._add(scored, (kind, key[1], len(key), bucket), evidence)
        else:
            self._add(scored, (kind, bucket, depth), evidence)
        if faded:
            self._add(scored, (_FADED, kind, bucket), faded)

    def _add_repeats(self, scored: _Scored, recent: tuple[str, ...]) -> None:
        """Add that a candidate has just come, for each of the last actions."""
        actions = scored.actions
        for distance, action in enumerate(recent):
            if action in actions:
                repeated = [1.0 if each == action else 0.0 for each in actions]
                self._add(scored, (_REPEAT, distance), repeated)

    def _add(self, scored: _Scored, key: Key, evidence: list[float]) -> None:
        """Add a piece of evidence with its weight."""
        weight = self._weights.get(key)
        if weight is None:
            weight = _Weight(_FIRST_WEIGHTS.get(key[0], _SUFFIX_WEIGHT))
        scored.keys.append(key)
        scored.weights.append(weight)
        scored.evidence.append(evidence)

    def _descend(self, scored: _Scored, action: str) -> None:
        """Move the weights so that the action that came would have been likelier."""
        came = action in scored.actions
        self._listed += (came - self._listed) / min(self._all.total + 1, _LISTED_EVENTS)
        if not came:
            return
        at = scored.actions.index(action)
        probabilities = scored.probabilities()
        weights = self._weights
        for key, weight, evidence in zip(scored.keys, scored.weights, scored.evidence, strict=True):
            gradient = evidence[at] - sum(map(mul, probabilities, evidence))
            weight.square += gradient * gradient
            weight.value += _RATE * gradient / sqrt(weight.square)
            weights[key] = weight

    def _forget_contexts(self) -> None:
        """Drop a quarter of the contexts: those seen least, and among equals the oldest."""
        newest_first = list(self._contexts.items())[::-1]
        by_total = sorted(newest_first, key=lambda each: -_total(each[1]))
        kept = {key for key, _ in by_total[: max(1, self.max_contexts * 3 // 4)]}
        self._contexts = {key: context for key, context in self._contexts.items() if key in kept}


def _total(context: _Found) -> int:
    return 1 if isinstance(context, str) else context.total


def _add_top(shares: dict[str, float], context: _Found) -> None:
    """Add the discounted share of each of a context's most frequent followers."""
    get = shares.get
    if isinstance(context, str):
        shares[context] = get(context, 0.0) + (1.0 - _DISCOUNT)
        return
    unit = 1.0 / context.total
    for action, count in (context.top or context.counts).items():
        shares[action] = get(action, 0.0) + (count - _DISCOUNT) * unit


def _shares(contexts: Iterable[_Found], actions: list[str]) -> list[float]:
    """The sum of the discounted shares that each action has of the contexts' followers."""
    shares = [0.0] * len(actions)
    for context in contexts:
        if isinstance(context, str):
            if context in actions:
                shares[actions.index(context)] += 1.0 - _DISCOUNT
            continue
        unit = 1.0 / context.total
        shares = [
            share + (count - _DISCOUNT) * unit if count else share
            for share, count in zip(shares, map(context.counts.get, actions), strict=True)
        ]
    return shares

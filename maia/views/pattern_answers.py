"""Matches and advice as JSON: the same as of the dataclasses of `maia.views.patterns`, but sooner.

Of a pattern that is matched again and again, all but the score stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from maia.learning.known_patterns import KnownPattern
from maia.learning.matching import Match
from maia.learning.recommending import Recommendation, Recommendations

_MOST_KEPT: Final = 20_000
_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class _Form:
    """The parts of a pattern's JSON that stay the same as long as it is the same object."""

    known: KnownPattern
    head: bytes
    conditions: dict[int, bytes]
    """By the identity of the condition: 1 equals True, but not in words."""
    whole: bytes
    """All its conditions, as met ones."""
    tail: bytes


class PatternAnswers:
    """Makes answers of patterns that were found."""

    def __init__(self) -> None:
        self._forms: dict[str, _Form] = {}

    def matches(self, found: Sequence[Match]) -> bytes:
        """What `Matches` would be of these, of which there is at least one."""
        return b'{"patterns":[%b],"reason":null}' % b",".join(map(self._matched, found))

    def advice(self, found: Recommendations) -> bytes:
        """What `Advice` would be."""
        actions = [self._recommended(each) for each in found.actions]
        return orjson.dumps({"actions": actions, "reason": found.reason}, option=_OPTIONS)

    def _recommended(self, found: Recommendation) -> dict[str, Any]:
        because = b"[%b]" % b",".join(map(self._matched, found.because))
        return {
            "action": found.action,
            "reward": found.reward,
            "interval_80": found.interval_80,
            "interval_90": found.interval_90,
            "confidence": found.confidence,
            "pos": found.counts.pos,
            "neg": found.counts.neg,
            "why": found.why,
            "because": orjson.Fragment(because),
            "drawn": found.drawn,
        }

    def _matched(self, match: Match) -> bytes:
        form = self._form_of(match.known)
        if match.missed:
            texts = form.conditions
            met = b",".join([texts[id(each)] for each in match.met])
            missed = b",".join([texts[id(each)] for each in match.missed])
        else:
            met, missed = form.whole, b""
        return b'%b"met":[%b],"missed":[%b],"score":%b%b' % (
            form.head, met, missed, orjson.dumps(match.score), form.tail,
        )  # fmt: skip

    def _form_of(self, known: KnownPattern) -> _Form:
        form = self._forms.get(known.id)
        if form is None or form.known is not known:
            if len(self._forms) >= _MOST_KEPT:
                self._forms.clear()
            form = self._forms[known.id] = _made(known)
        return form


def _made(known: KnownPattern) -> _Form:
    pattern = known.pattern
    head = {
        "id": known.id,
        "type": pattern.type,
        "statement": pattern.statement,
        "action": pattern.action,
    }
    tail = {
        "strength": known.strength,
        "confidence": known.confidence,
        "high": known.ceiling,
        "support": known.support,
        "last_seen": known.last_seen,
    }
    texts = {id(each): orjson.dumps(str(each)) for each in pattern.conditions}
    return _Form(
        known,
        orjson.dumps(head, option=_OPTIONS)[:-1] + b",",
        texts,
        b",".join([texts[id(each)] for each in pattern.conditions]),
        b"," + orjson.dumps(tail, option=_OPTIONS)[1:],
    )

"""Turns events into observations: what agents and operators did, and which videos there were to choose from.

| event | agent | action | reward | cost |
|---|---|---|---|---|
| `<agent>.step` | the agent | what the step did | what it is done for | units |
| `<agent>.cycle` | the agent | `cycle` | new videos and samples | units |
| `maintainer.action` | `maintainer` | `take restart`, … | 1 if it was done | 0 |
| `operator.act` | `operator` | `seed`, `watch`, … | 0 | 0 |
| `hunter.offer` | `offer` | `offer`, once for each category and channel | 0 | 0 |

Every context also has the `hour` (UTC) and the `weekday` (0 is Monday), and perhaps an `error`: the template
of the error's text. A `count` says for how many things an observation stands, if not for one. Personal data
is replaced by pseudonyms here, before any detector sees it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, Protocol

from atlas.events import Event
from maia.agents import AGENTS
from maia.learning.observations import CYCLE, SUCCESS, Observation, Scalar
from maia.youtube.categories import CATEGORIES

ACT: Final = "operator.act"
TAKEN: Final = "maintainer.action"
OFFER: Final = "hunter.offer"
KINDS: Final = (
    *(f"{agent.name}.{what}" for agent in AGENTS if agent.name != "learner" for what in ("step", "cycle")),
    TAKEN,
    ACT,
    OFFER,
)
"""The kinds of events that are observed. The learner's own are not: each would be news to learn from."""

_DONE: Final = "done"
UNTRIED: Final = frozenset({"idle", "closed", "interrupted", "ring_closed", "late", "unpromising"})
"""Outcomes of what was not carried out, or not to its end: neither a success nor a failure to learn from."""

_MOST_FIELDS: Final = 37
"""Fields of a payload's context; with the hour, the weekday and the error they are 40."""
_LONGEST_NAME: Final = 80
_LONGEST_TEXT: Final = 200
_MOST_REMEMBERED: Final = 5_000
_SOME_NUMBER: Final = 123_456
_MOST_EXACT: Final = 2.0**53

Template = Callable[[str], str]
_Reader = Callable[[Event], Iterable[Observation]]


class Pseudonymizing(Protocol):
    """Replaces personal data; `maia.learning.privacy` implements it."""

    def context(self, value: Mapping[str, Any], /) -> Mapping[str, Any]: ...
    def text(self, text: str, /) -> str: ...


class Malformed(ValueError):
    """A payload is not what its kind of event has."""


class Remembered:
    """Cleans contexts as its pseudonyms do, and remembers what they made of each name and text.

    That is worth it, as most contexts have the same few names and texts.
    """

    def __init__(self, pseudonyms: Pseudonymizing) -> None:
        self._pseudonyms = pseudonyms
        self._fields: dict[tuple[str, str | None], tuple[str, Scalar]] = {}

    def context(self, context: Mapping[str, Any]) -> dict[str, Scalar]:
        """The context without personal data, with bounded names, texts and number of fields.

        Malformed if a value is no scalar.
        """
        if len(context) > _MOST_FIELDS:
            context = {name: context[name] for name in sorted(context)[:_MOST_FIELDS]}
        cleaned: dict[str, Scalar] = {}
        fields = self._fields
        for name, value in context.items():
            kind = type(value)
            if kind is str:
                known = fields.get((name, value)) or self._remember(name, value)
                cleaned[known[0]] = known[1]
            else:
                if kind is not int and value is not None and not _is_finite(value):
                    raise Malformed(f"context.{name} must be a text, a finite number, a boolean or null")
                known = fields.get((name, None)) or self._remember_number(name)
                cleaned[known[0]] = value if known[1] is None else self._without_secret(name, value)
        return cleaned

    def _remember_number(self, name: str) -> tuple[str, Scalar]:
        """The field's name, and whether its numbers are secrets: None if not."""
        [(kept, clean)] = self._pseudonyms.context({name: _SOME_NUMBER}).items()
        known = str(kept)[:_LONGEST_NAME], None if clean == _SOME_NUMBER else str(clean)
        return self._keep(name, None, known)

    def _without_secret(self, name: str, value: Scalar) -> Scalar:
        [clean] = self._pseudonyms.context({name: value}).values()
        found: Scalar = clean
        return found

    def _remember(self, name: str, value: str) -> tuple[str, Scalar]:
        [(kept, clean)] = self._pseudonyms.context({name: value}).items()
        known = str(kept)[:_LONGEST_NAME], str(clean)[:_LONGEST_TEXT]
        return self._keep(name, value, known)

    def _keep(self, name: str, value: str | None, known: tuple[str, Scalar]) -> tuple[str, Scalar]:
        if len(self._fields) >= _MOST_REMEMBERED:
            self._fields.clear()
        self._fields[name, value] = known
        return known


class Observer:
    """Makes observations of events, and counts the malformed ones, which it leaves out.

    `template` makes of an error's text what is equal for all errors of that sort.
    """

    def __init__(self, pseudonyms: Pseudonymizing, template: Template = str) -> None:
        self.malformed: Counter[str] = Counter()
        """How many events of each kind were malformed."""
        self._pseudonyms, self._template = pseudonyms, template
        self._without_personal_data = Remembered(pseudonyms).context
        self._readers: dict[str, _Reader | None] = {
            ACT: self._act,
            OFFER: self._offer,
            TAKEN: self._step,
        }

    def observations(self, events: Iterable[Event]) -> list[Observation]:
        """What the events tell, in their order; other kinds of events are passed over."""
        found: list[Observation] = []
        for event in events:
            reader = self._reader_of(event.kind)
            if reader is not None:
                try:
                    found.extend(reader(event))
                except Malformed:
                    self.malformed[event.kind] += 1
        return found

    def _reader_of(self, kind: str) -> _Reader | None:
        if kind not in self._readers:
            by_ending: dict[str, _Reader] = {"step": self._step, "cycle": self._cycle}
            self._readers[kind] = by_ending.get(kind.rpartition(".")[2])
        return self._readers[kind]

    # Kinds of events

    def _step(self, event: Event) -> tuple[Observation, ...]:
        payload = event.payload
        outcome = _text(payload, "outcome")
        if outcome in UNTRIED:
            return ()
        at = _instant(payload["at"]) if "at" in payload else _utc(event.at)
        given = payload.get("context", {})
        if type(given) is not dict and not isinstance(given, Mapping):
            raise Malformed("context")
        context = self._without_personal_data(given)
        _add_time(context, at)
        if (error := payload.get("error")) is not None:
            context["error"] = self._error(error)
        return (
            Observation(
                _agent(event),
                _session(event),
                _text(payload, "action"),
                at,
                outcome,
                context,
                _number(payload, "reward"),
                _amount(payload, "cost"),
                _amount(payload, "seconds"),
            ),
        )

    def _cycle(self, event: Event) -> tuple[Observation, ...]:
        payload, at = event.payload, _utc(event.at)
        outcome = _text(payload, "outcome")
        if outcome in UNTRIED:
            return ()
        context: dict[str, Scalar] = {}
        _add_time(context, at)
        if outcome != _DONE and payload.get("detail") is not None:
            context["error"] = self._error(payload["detail"])
        return (
            Observation(
                _agent(event),
                _session(event),
                CYCLE,
                at,
                SUCCESS if outcome == _DONE else outcome,
                context,
                _number(payload, "new") + _number(payload, "samples"),
                sum(_counts(payload, "units").values()),
                _amount(payload, "seconds"),
            ),
        )

    def _act(self, event: Event) -> tuple[Observation]:
        payload, at = event.payload, _utc(event.at)
        given = payload.get("context", {})
        if type(given) is not dict and not isinstance(given, Mapping):
            raise Malformed("context")
        context = self._without_personal_data(given)
        if (category := context.pop("category_id", None)) is not None:
            context["category"] = _category(category)
        _add_time(context, at)
        return (Observation("operator", _session(event), _text(payload, "action"), at, SUCCESS, context),)

    def _offer(self, event: Event) -> list[Observation]:
        payload = event.payload
        total = _amount(payload, "total")
        offered = [("category", _category(id_), n) for id_, n in _counts(payload, "by_category").items()]
        offered += [("channel_id", id_, n) for id_, n in _counts(payload, "by_channel").items()]
        return list(self._offered(event, offered, total))

    def _offered(
        self, event: Event, offered: Iterable[tuple[str, str, float]], total: float
    ) -> Iterator[Observation]:
        session, at = _session(event), _utc(event.at)
        for attribute, value, count in offered:
            context = self._without_personal_data({attribute: value})
            context |= {"kind": "video", "count": count, "total": total}
            _add_time(context, at)
            yield Observation("offer", session, "offer", at, SUCCESS, context)

    def _error(self, error: object) -> str:
        if not isinstance(error, str):
            raise Malformed("error")
        return self._template(self._pseudonyms.text(error))[:_LONGEST_TEXT]


def observations(
    events: Iterable[Event], pseudonyms: Pseudonymizing, template: Template = str
) -> list[Observation]:
    """What the events tell, in their order, without personal data; malformed ones are left out."""
    return Observer(pseudonyms, template).observations(events)


def _add_time(context: dict[str, Scalar], at: datetime) -> None:
    context["hour"], context["weekday"] = at.hour, at.weekday()


def _agent(event: Event) -> str:
    return event.agent or event.kind.partition(".")[0]


def _session(event: Event) -> str:
    """The session by a short hash; an event of no session is one of its own."""
    return hashed(event.session or f"event {event.id}")


@lru_cache(maxsize=4096)
def hashed(session: str) -> str:
    """A short hash that stands for a session: nobody needs to know which run it was."""
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _utc(at: datetime) -> datetime:
    if at.tzinfo is UTC:
        return at
    if at.tzinfo is None:
        raise Malformed("at")
    return at.astimezone(UTC)


def _instant(text: object) -> datetime:
    if not isinstance(text, str):
        raise Malformed("at")
    try:
        return _utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise Malformed("at") from error


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name)
    if type(value) is not str or not value.strip():
        raise Malformed(name)
    return value[:_LONGEST_NAME]


def _is_finite(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _number(payload: Mapping[str, Any], name: str) -> float:
    """A finite number; 0 if there is none."""
    value = payload.get(name, 0)
    kind = type(value)
    if (kind is float or kind is int) and -_MOST_EXACT < value < _MOST_EXACT:
        return float(value)
    if isinstance(value, bool) or not _is_finite(value):
        raise Malformed(name)
    try:
        return float(value)
    except OverflowError as error:
        raise Malformed(name) from error


def _amount(payload: Mapping[str, Any], name: str) -> float:
    value = _number(payload, name)
    if value < 0:
        raise Malformed(name)
    return value


def _counts(payload: Mapping[str, Any], name: str) -> dict[str, float]:
    """Amounts by name; none if there are none."""
    counts = payload.get(name, {})
    if not isinstance(counts, Mapping):
        raise Malformed(name)
    return {str(key)[:_LONGEST_NAME]: _amount(counts, key) for key in counts}


def _category(id_: object) -> str:
    """The name of a category, or its number if it has no name."""
    try:
        known = CATEGORIES.get(int(str(id_)))
    except ValueError:
        known = None
    return known.title if known else str(id_)[:_LONGEST_NAME]

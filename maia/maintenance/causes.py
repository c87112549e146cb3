"""Causes: which incidents explain which others, so that people get one alert for one root cause."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

_SUBJECT: Final = "{subject}"
_SILENT_HOST: Final = "host.silent:"


@dataclass(frozen=True, slots=True)
class Explains:
    """Incidents whose key matches `cause` explain those whose key matches one of `effects`.

    Both are shell patterns over keys such as "host.disk:node-1". "{subject}" in an effect stands for the
    cause's own subject, so that a host explains only what is on that host. It stands between a colon and the
    end or a slash, and in all effects of a rule or in none.
    """

    cause: str
    effects: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Whether a cause explains only what has its own subject."""
        return any(_SUBJECT in pattern for pattern in self.effects)

    def reaches(self, effect: str, subject: str) -> bool:
        """Whether an incident with the key `effect` is explained by a cause with that subject."""
        literal = _literally(subject)
        return any(fnmatchcase(effect, pattern.replace(_SUBJECT, literal)) for pattern in self.effects)


CAUSES: Final = (
    Explains("database.unreachable", ("*",)),
    Explains(
        "database.cannot_store", ("agents.*", "queues.*", "vault.waiting*", "maintenance.*", "prefect.*")
    ),
    # What keeps dead rows alive keeps vacuum from removing them.
    Explains("database.long_transaction*", ("database.held_rows*", "database.dead_rows*")),
    Explains("database.held_rows*", ("database.dead_rows*",)),
    # Its disk may be the database's or the vault's, whatever the host.
    Explains("host.disk*", ("database.cannot_store*", "database.growth*", "vault.*", "maintenance.*:backup")),
    # What is not heard of any more says nothing about itself, nor do the processes on it.
    Explains("host.silent:*", ("host.*:{subject}", "services.*:{subject}/*")),
    Explains("host.memory:*", ("services.*:{subject}/*",)),
    Explains("prefect.unreachable*", ("agents.*", "prefect.*", "maintenance.probe:prefect")),
    Explains("services.*/*prefect*", ("prefect.*",)),
    Explains(
        "vault.unreachable*",
        ("vault.*", "maintenance.*:backup", "maintenance.*:report", "maintenance.probe:vault"),
    ),
    # Without a key no agent that needs one gets anywhere.
    Explains("ledger.key:*", ("agents.silent:hunter", "agents.silent:tracker", "queues.lag*")),
    Explains("ledger.closed*", ("queues.lag*", "ledger.burn*")),
    Explains("agents.silent:hunter*", ("queues.parked*",)),
    Explains("agents.silent:tracker*", ("queues.lag*",)),
    Explains("agents.silent:*", ("queues.expired_leases:{subject}",)),
)
"""What explains what; a cause also explains what its effects explain. There must be no circles."""


def causes_of(
    severities: Mapping[str, int], hosts: Mapping[str, Collection[str]] = {}
) -> dict[str, str | None]:
    """The root cause of each open incident, given with their ranks; None for those that are one themselves.

    `hosts` are, for incidents of what several hosts do, those that did it: if all of them are silent, that
    explains the incident. What is more severe than its cause is not explained by it: it would be hidden by a
    lesser alert.
    """
    ranked = sorted((CAUSES.index(rules[0]), key) for key in severities if (rules := _rules_of(key)))
    found = {
        severity: _Causes([key for _, key in ranked if severities[key] >= severity], hosts)
        for severity in set(severities.values())
    }
    return {key: found[severity].root_of(key) for key, severity in severities.items()}


class _Causes:
    """Causes that are severe enough, the most far-reaching ones first, by their rules and subjects.

    An incident is compared only with those of the rules that reach it, so that thousands take no time.
    """

    def __init__(self, causes: Sequence[str], hosts: Mapping[str, Collection[str]]) -> None:
        self._hosts = hosts
        self._place = {cause: place for place, cause in enumerate(causes)}
        self._of_all: dict[Explains, list[str]] = {}
        self._of_subject: dict[tuple[Explains, str], list[str]] = {}
        for cause in causes:
            for rule in _rules_of(cause):
                if rule.is_local:
                    self._of_subject.setdefault((rule, _subject_of(cause)), []).append(cause)
                else:
                    self._of_all.setdefault(rule, []).append(cause)

    def root_of(self, key: str) -> str | None:
        root, passed = key, {key}
        while found := [cause for causes in self._explaining(root) if (cause := _first(causes, passed))]:
            # In the order of the table, so that the most far-reaching cause is named.
            root = min(found, key=self._place.__getitem__)
            passed.add(root)
        return None if root == key else root

    def _explaining(self, effect: str) -> Iterator[Sequence[str]]:
        """The causes that explain an incident, in lists that are each in the order of the table."""
        for rule, causes in self._of_all.items():
            if rule.reaches(effect, ""):
                yield causes
        for subject in _possible_subjects(effect):
            for rule in _LOCAL:
                causes = self._of_subject.get((rule, subject), [])
                if causes and rule.reaches(effect, subject):
                    yield causes
        silent = [f"{_SILENT_HOST}{host}" for host in self._hosts.get(effect, ())]
        if all(each in self._place for each in silent):
            yield sorted(silent)


_LOCAL: Final = tuple(rule for rule in CAUSES if rule.is_local)


def _first(causes: Sequence[str], passed: Collection[str]) -> str | None:
    return next((cause for cause in causes if cause not in passed), None)


def _rules_of(cause: str) -> list[Explains]:
    return [rule for rule in CAUSES if fnmatchcase(cause, rule.cause)]


def _subject_of(key: str) -> str:
    return key.partition(":")[2]


def _possible_subjects(key: str) -> set[str]:
    """What a cause's subject may be that a rule looks for in this key."""
    starts = [place + 1 for place, letter in enumerate(key) if letter == ":"]
    ends = [*(place for place, letter in enumerate(key) if letter == "/"), len(key)]
    return {key[start:end] for start in starts for end in ends if start <= end}


def _literally(subject: str) -> str:
    """A subject within a shell pattern, where it stands for itself."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in subject)

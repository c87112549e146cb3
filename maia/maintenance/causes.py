"""Causes: which incidents explain which others, so that people get one alert for one root cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final


@dataclass(frozen=True, slots=True)
class Explains:
    """Incidents whose key matches `cause` explain those whose key matches one of `effects`.

    Both are shell patterns over keys such as "host.disk:node-1". "{subject}" in an effect stands for the
    cause's own subject, so that a host explains only what is on that host.
    """

    cause: str
    effects: tuple[str, ...]

    def applies(self, cause: str, effect: str) -> bool:
        """Whether an incident with the key `cause` explains one with the key `effect`."""
        if cause == effect or not fnmatchcase(cause, self.cause):
            return False
        subject = cause.partition(":")[2]
        return any(
            fnmatchcase(effect, pattern.replace("{subject}", _literally(subject))) for pattern in self.effects
        )


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


def causes_of(severities: Mapping[str, int]) -> dict[str, str | None]:
    """The root cause of each open incident, given with their ranks; None for those that are one themselves.

    What is more severe than its cause is not explained by it: it would be hidden by a lesser alert.
    """
    # Most incidents can explain nothing, so that few are left to compare with each.
    rules = {key: [rule for rule in CAUSES if fnmatchcase(key, rule.cause)] for key in severities}
    possible = {key: found for key, found in rules.items() if found}
    return {key: _root_of(key, severities, possible) for key in severities}


def _root_of(
    key: str, severities: Mapping[str, int], possible: Mapping[str, Sequence[Explains]]
) -> str | None:
    root, passed = key, {key}
    while found := [
        cause
        for cause, rules in possible.items()
        if cause not in passed
        and severities[cause] >= severities[key]
        and any(rule.applies(cause, root) for rule in rules)
    ]:
        # In the order of the table, so that the most far-reaching cause is named.
        root = min(found, key=lambda cause: (CAUSES.index(possible[cause][0]), cause))
        passed.add(root)
    return None if root == key else root


def _literally(subject: str) -> str:
    """A subject within a shell pattern, where it stands for itself."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in subject)

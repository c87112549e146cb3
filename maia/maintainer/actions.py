"""Actions: what the maintainer may change, each planned first, and taken within limits.

An action is an object with argv or a named statement, never a shell string. Its kind must be one of
`atlas.maintainer_settings.ACTIONS`, which the settings or `--apply` allow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from maia.errors import MaiaError


class ActionFailed(MaiaError):
    """An action could not be taken, or had no effect; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an action would do, in plain words, with the commands or statements as people would type them."""

    text: str
    commands: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class Action(ABC):
    """Something that the maintainer may change. `target` names the thing: a unit, a table, a backup."""

    kind: ClassVar[str]
    about: ClassVar[str]
    disturbs: ClassVar[bool] = False
    """Whether it disturbs the agents, so that it is only taken in a maintenance window."""
    is_restart: ClassVar[bool] = False
    """Whether it stops something on this host: never on two hosts at once."""
    cool_down_s: ClassVar[float | None] = None
    """Pause before it is taken on the same target again; None: as the settings say."""

    target: str

    @abstractmethod
    async def plan(self) -> Plan | None:
        """What it would do now; None if there is nothing to do. Changes nothing."""

    @abstractmethod
    async def apply(self, plan: Plan) -> str:
        """Do it; returns what came of it, in plain words. ActionFailed if it could not be done."""


class ActionState(StrEnum):
    """What became of an action."""

    PLANNED = "planned"
    """It would be taken, but nobody allowed it."""
    APPLIED = "applied"
    FAILED = "failed"
    HELD_BACK = "held_back"
    """Allowed, but not now: cool-down, hourly limit, window, another host, or given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of an action: its plan, and its result or the reason why it was not taken."""

    kind: str
    target: str
    state: ActionState
    plan: Plan
    result: str
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the plan's details."""
        return {
            "kind": self.kind,
            "target": self.target,
            "state": self.state.value,
            "plan": self.plan.text,
            "commands": list(self.plan.commands),
            "result": self.result,
            "seconds": round(self.seconds, 3),
        }


class Takes(Protocol):
    """Takes actions within limits, or only plans them."""

    async def take(self, action: Action) -> Taken | None:
        """Plan the action and, if it is allowed now, take it and record the result; None: nothing to do."""
        ...

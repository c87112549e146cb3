"""Repairs: which action mends which finding. To add one, add its function to `REPAIRS`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from atlas.composition import Atlas
from maia.maintainer.actions import Action
from maia.maintainer.emergency import emergency_action
from maia.maintainer.restarts import restart_for
from maia.maintainer.tables import table_actions
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health_terms import EMERGENCY, PASSING

Repair = Callable[[Atlas, Finding], Awaitable[Action | None]]


async def repair_of(atlas: Atlas, finding: Finding) -> Action | None:
    """The action that mends a finding; None if there is none."""
    repair = REPAIRS.get((finding.component, finding.check))
    # What is only worth knowing mends itself.
    if repair is None or finding.severity is Severity.INFO:
        return None
    return await repair(atlas, finding)


async def _restart(atlas: Atlas, finding: Finding) -> Action | None:
    """Restart a unit, a container or a process that failed. A host looks at its own alone."""
    return restart_for(atlas, finding)


async def _free_space(atlas: Atlas, finding: Finding) -> Action | None:
    """Free space at once, if the disk is this host's; the action itself looks whether it is full."""
    is_ours = finding.subject in (atlas.settings.node_id, PASSING)
    return emergency_action(atlas) if is_ours else None


def _table_action(kind: str) -> Repair:
    """What brings tables in order again: an action of that kind on what the finding is about."""

    async def repair(atlas: Atlas, finding: Finding) -> Action | None:
        of_kind = [action for action in await table_actions(atlas) if action.kind == kind]
        if kind == "partitions":
            return next(iter(of_kind), None)
        return next((each for each in of_kind if each.target == finding.subject), None)

    return repair


REPAIRS: Final[Mapping[tuple[Component, str], Repair]] = {
    (Component.SERVICES, "failed"): _restart,
    (Component.SERVICES, "unhealthy"): _restart,
    (Component.HOST, EMERGENCY): _free_space,
    (Component.DATABASE, "missing_partition"): _table_action("partitions"),
    (Component.DATABASE, "dead_rows"): _table_action("vacuum"),
    (Component.DATABASE, "invalid_index"): _table_action("reindex"),
}
"""What mends a finding, by its component and check."""

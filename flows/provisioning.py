"""Sets up a Prefect server: work pools, deployments and two automations. Repeating it is safe."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from flows.registry import ALERT
from flows.schedules import pauses_kept
from flows.server import PrefectServerError
from maia import agents

logger = logging.getLogger(__name__)

POOLS = ("process", "docker", "kubernetes")
"""The work pools; each has the type that it is named after."""

ZOMBIES = "pleiades: silent runs have crashed"
FAILURES = "pleiades: tell of failed runs"

_BEGINNING = {f"prefect.flow-run.{state}" for state in ("Pending", "Running")}
_TERMINAL = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}


@dataclass(frozen=True, slots=True)
class Provision:
    """An object on the server, and whether it was created, changed or already right."""

    kind: str
    name: str
    change: str


async def provide_pools(types: Sequence[str] = POOLS) -> list[Provision]:
    """Create the missing work pools; existing ones keep their operators' configuration."""
    provided = []
    async with get_client() as client:
        for kind in types:
            try:
                await client.read_work_pool(kind)
                provided.append(Provision("work pool", kind, "unchanged"))
            except ObjectNotFound:
                template = await get_default_base_job_template_for_infrastructure_type(kind)
                pool = WorkPoolCreate(name=kind, type=kind, base_job_template=template or {})
                await client.create_work_pool(pool)
                provided.append(Provision("work pool", kind, "created"))
    return provided


async def deploy(file: Path) -> list[Provision]:
    """Deploy everything in a prefect.yaml, as `prefect deploy --all` does; what was paused stays paused."""
    arguments = ("--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    async with pauses_kept():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prefect", *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise PrefectServerError(
            f"{file} could not be deployed: {_last_lines(output.decode(errors='replace'))}"
        )
    return [Provision("deployments", str(file), "deployed")]


def _last_lines(output: str) -> str:
    lines = [line.strip(" │╭╰─╮╯") for line in output.splitlines()]
    return " ".join([line for line in lines if line][-5:]) or "it printed nothing"


async def automate(zombie_after_s: float) -> list[Provision]:
    """Create or update the automations: mark silent runs as crashed, and alert people to failed runs.

    The second needs the alert flow's deployment; without it only the first is created.
    """
    async with get_client() as client:
        wanted = [_zombies(zombie_after_s)]
        try:
            alert = await client.read_deployment_by_name(ALERT.deployment)
            wanted.append(_failures(alert.id))
        except ObjectNotFound:
            logger.warning(
                "there are no alerts for failed runs yet: the server has no deployment %s; deploy it, then "
                "run maia provision",
                ALERT.deployment,
            )
        return [await _ensure(client, automation) for automation in wanted]


def _zombies(after_s: float) -> AutomationCore:
    """The automation that marks silent runs as Crashed; a run whose process is gone would stay Running.

    Only state changes count, which Prefect's server emits itself and in order; flows/liveness.py says why
    client heartbeats do not. The server holds an event back for up to 15 minutes if the event before it never
    comes, as for runs that start within five minutes of being scheduled. With a shorter limit the automation
    could fire after it has seen such a run's start and before it sees its end; hence the setting's default.
    """
    return AutomationCore(
        name=ZOMBIES,
        description="Marks a run as crashed if it stops giving signs of life; the next run does its work.",
        trigger=EventTrigger(
            after=_BEGINNING,
            expect=_BEGINNING | _TERMINAL,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name=None, message=f"No sign of life for {after_s:g} s.", force=False
            )
        ],
    )


def _failures(alert_id: UUID) -> AutomationCore:
    """The automation that alerts people to failed runs of agents, but not of the alert flow itself."""
    fields = {
        "flow_name": "flow.name",
        "run_name": "flow_run.name",
        "run_id": "flow_run.id",
        "state": "flow_run.state.name",
        "message": "flow_run.state.message",
    }
    # Prefect would parse a bare "{{ … }}" as JSON, but ids are not JSON.
    parameters = {
        name: {"__prefect_kind": "jinja", "template": f"{{{{ {value} }}}}"} for name, value in fields.items()
    }
    return AutomationCore(
        name=FAILURES,
        description="Sends an alert to PLEIADES_NOTIFIER__URLS when a run has failed or crashed.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {
                    "prefect.resource.role": "flow",
                    "prefect.resource.name": [agent.name for agent in agents.AGENTS],
                }
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(
                source="selected", deployment_id=alert_id, parameters=parameters, job_variables=None
            )
        ],
    )


async def _ensure(client: PrefectClient, wanted: AutomationCore) -> Provision:
    known = await client.read_automations_by_name(wanted.name)
    for extra in known[1:]:
        await client.delete_automation(extra.id)
    if not known:
        await client.create_automation(wanted)
        return Provision("automation", wanted.name, "created")
    if _definition(known[0]) == _definition(wanted):
        return Provision("automation", wanted.name, "unchanged")
    await client.update_automation(known[0].id, wanted)
    return Provision("automation", wanted.name, "changed")


def _definition(automation: AutomationCore) -> dict[str, Any]:
    """The parts of an automation that define it, without those that the server adds."""
    dumped = automation.model_dump(mode="json", include=set(AutomationCore.model_fields))
    dumped["trigger"].pop("id", None)
    # These are sets, and come in any order.
    for name in ("after", "expect", "for_each"):
        dumped["trigger"][name] = sorted(dumped["trigger"][name])
    return dumped

"""What a Prefect server needs besides flows: work pools and two automations; repeatable."""

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

from flows.registry import AGENTS, ALERT
from flows.server import PrefectServerError

logger = logging.getLogger(__name__)

POOLS = ("process", "docker", "kubernetes")
"""Work pools, each of the type that it is named for."""

ZOMBIES = "pleiades: silent runs have crashed"
FAILURES = "pleiades: tell of failed runs"

_BEGINNING = {f"prefect.flow-run.{state}" for state in ("Pending", "Running")}
_TERMINAL = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}
_HEARTBEAT = "prefect.flow-run.heartbeat"


@dataclass(frozen=True, slots=True)
class Provision:
    """Something that the server has, and whether it was made, changed or as it should be."""

    kind: str
    name: str
    change: str


async def provide_pools(types: Sequence[str] = POOLS) -> list[Provision]:
    """Make the work pools that are missing; those that exist are left as their operators have them."""
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
    """Deploy all that a prefect.yaml describes, as `prefect deploy --all` does."""
    arguments = ("--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prefect", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise PrefectServerError(
            f"{file} could not be deployed: {_last_words(output.decode(errors='replace'))}"
        )
    return [Provision("deployments", str(file), "deployed")]


def _last_words(output: str) -> str:
    lines = [line.strip(" │╭╰─╮╯") for line in output.splitlines()]
    return " ".join([line for line in lines if line][-5:]) or "it said nothing"


async def automate(zombie_after_s: float) -> list[Provision]:
    """Make the automations, or bring them up to date: silent runs crash, and failed runs are told of.

    The latter needs the deployment of the flow that tells; without it only the former is made.
    """
    async with get_client() as client:
        wanted = [_zombies(zombie_after_s)]
        try:
            teller = await client.read_deployment_by_name(ALERT.deployment)
            wanted.append(_failures(teller.id))
        except ObjectNotFound:
            logger.warning(
                "nobody is told of failed runs yet: the server has no deployment %s; deploy it, then run "
                "maia provision",
                ALERT.deployment,
            )
        return [await _ensure(client, automation) for automation in wanted]


def _zombies(after_s: float) -> AutomationCore:
    """A run whose process is gone without a word stays Running for ever, unless somebody notices.

    Heartbeats are the process's own and may be lost with it, the first one too; what the server says of
    the run's state begins the watch as well.
    """
    return AutomationCore(
        name=ZOMBIES,
        description="A run that gives no sign of life any more is Crashed; the next one does its work.",
        trigger=EventTrigger(
            after={_HEARTBEAT, *_BEGINNING},
            expect={_HEARTBEAT, *_BEGINNING, *_TERMINAL},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name=None, message=f"It was silent for {after_s:g} s.", force=False
            )
        ],
    )


def _failures(teller: UUID) -> AutomationCore:
    """Only the agents' own runs: a failed alert must not ask for another."""
    told = {
        "flow_name": "flow.name",
        "run_name": "flow_run.name",
        "run_id": "flow_run.id",
        "state": "flow_run.state.name",
        "message": "flow_run.state.message",
    }
    # A bare "{{ … }}" would be rendered as JSON, which ids are not.
    parameters = {
        name: {"__prefect_kind": "jinja", "template": f"{{{{ {value} }}}}"} for name, value in told.items()
    }
    return AutomationCore(
        name=FAILURES,
        description="Runs that failed or crashed are told to whom PLEIADES_NOTIFIER__URLS names.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": [flow.name for flow in AGENTS]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(source="selected", deployment_id=teller, parameters=parameters, job_variables=None)
        ],
    )


async def _ensure(client: PrefectClient, wanted: AutomationCore) -> Provision:
    known = await client.read_automations_by_name(wanted.name)
    for extra in known[1:]:
        await client.delete_automation(extra.id)
    if not known:
        await client.create_automation(wanted)
        return Provision("automation", wanted.name, "created")
    if _essence(known[0]) == _essence(wanted):
        return Provision("automation", wanted.name, "unchanged")
    await client.update_automation(known[0].id, wanted)
    return Provision("automation", wanted.name, "changed")


def _essence(automation: AutomationCore) -> dict[str, Any]:
    """What makes an automation do what it does, without what the server adds."""
    told = automation.model_dump(mode="json", include=set(AutomationCore.model_fields))
    told["trigger"].pop("id", None)
    # Sets, in whatever order.
    for name in ("after", "expect", "for_each"):
        told["trigger"][name] = sorted(told["trigger"][name])
    return told

"""What tests against a Prefect server share: their marks, and what the server knows of a flow run.

Tasks and logs arrive at the server a little after the run has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, Log, TaskRun
from prefect.client.schemas.sorting import FlowRunSort

MARKS = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    # Prefect leaves the sockets of its background services to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(socket|ssl|_Selector|asyncio):pytest.PytestUnraisableExceptionWarning"
    ),
]


async def last_run(client: PrefectClient) -> FlowRun:
    """The run that started last."""
    [run] = await client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return run


async def task_runs(client: PrefectClient, flow_run: FlowRun, count: int) -> list[TaskRun]:
    """The run's tasks, once the server has recorded how all of them ended."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    while True:
        tasks = await client.read_task_runs(flow_run_filter=of_run)
        if len(tasks) >= count and all(task.state is not None and task.state.is_final() for task in tasks):
            return tasks
        await asyncio.sleep(0.1)


async def logs_of(client: PrefectClient, flow_run: FlowRun, wanted: Callable[[Log], bool]) -> list[Log]:
    """The run's logs, once one that is wanted has arrived."""
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id]))
    while True:
        logs = await client.read_logs(of_run)
        if any(map(wanted, logs)):
            return logs
        await asyncio.sleep(0.1)

"""Tells people of a run that failed or crashed: an automation of Prefect's runs this flow for each."""

from __future__ import annotations

from prefect import flow

from flows.steps import invoked

RATE_LIMITED = "SystemExit(75)"
"""How a run's state tells that a 429 ended it: planned for, and known to the ledger."""


@flow(name="alert", persist_result=False, retries=0)
async def alert(flow_name: str, run_name: str, run_id: str, state: str, message: str | None = None) -> bool:
    """Alert by the notifier, once in its cool-down for each flow and state; returns whether it was sent."""
    async with invoked() as (atlas, _):
        expected = RATE_LIMITED in (message or "")
        return await atlas.notifier.notify(
            f"{flow_name}: a run {'was rate limited' if expected else f'is {state.lower()}'}",
            f"Run {run_name} ({run_id}): {message or 'no reason is known'}",
            level="info" if expected else "error",
            key=f"flow {flow_name} {'rate limited' if expected else state.lower()}",
        )

"""Tells people of a run that failed or crashed: an automation of Prefect's runs this flow for each."""

from __future__ import annotations

from prefect import flow

from flows.steps import invoked

_EVENTS_LOOKED_AT = 100


@flow(name="alert", persist_result=False, retries=0)
async def alert(flow_name: str, run_name: str, run_id: str, state: str, message: str | None = None) -> bool:
    """Alert by the notifier, once in its cool-down for each flow and state; returns whether it was sent.

    What the run's own event tells goes before Prefect's message: that one doesn't know a 429, which is
    planned for and only worth a line of information.
    """
    async with invoked() as (atlas, _):
        events = await atlas.events.latest(_EVENTS_LOOKED_AT, kinds=[f"{flow_name}.cycle"])
        verdict = next((event.payload for event in events if event.session == run_id), {})
        outcome, reason = verdict.get("outcome"), verdict.get("detail") or message or "no reason is known"
        rate_limited = outcome == "rate_limited"
        what = "was rate limited" if rate_limited else f"is {state.lower()}"
        return await atlas.notifier.notify(
            f"{flow_name}: a run {what}",
            f"Run {run_name} ({run_id}): {reason}",
            level="info" if rate_limited else "error",
            key=f"flow {flow_name} {what}",
        )

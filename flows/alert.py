"""A flow that alerts people to a failed or crashed run. A Prefect automation starts it for each such run."""

from __future__ import annotations

from prefect import flow

from flows.context import flow_context

_EVENTS_LOOKED_AT = 100


@flow(name="alert", persist_result=False, retries=0)
async def alert(flow_name: str, run_name: str, run_id: str, state: str, message: str | None = None) -> bool:
    """Send an alert, at most one per flow and state within the cool-down; return whether it was sent.

    The alert gives the reason in the run's own event, if there is one, and not Prefect's message. For Prefect
    a run that met a 429 has crashed, but that is expected and only worth an informational alert.
    """
    async with flow_context() as (atlas, _):
        events = await atlas.events.latest(_EVENTS_LOOKED_AT, kinds=[f"{flow_name}.cycle"])
        ended = next((event.payload for event in events if event.session == run_id), {})
        outcome, reason = ended.get("outcome"), ended.get("detail") or message or "no reason is known"
        rate_limited = outcome == "rate_limited"
        what = "was rate limited" if rate_limited else state.lower()
        return await atlas.notifier.notify(
            f"{flow_name}: a run {what}",
            f"Run {run_name} ({run_id}): {reason}",
            level="info" if rate_limited else "error",
            key=f"flow {flow_name} {what}",
        )

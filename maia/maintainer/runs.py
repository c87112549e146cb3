"""Deletes the history of our flows' runs from Prefect's server, by its API: only flows may import Prefect."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import aiohttp

from atlas import network
from atlas.clock import SystemClock
from atlas.composition import Atlas
from atlas.wording import counted
from maia.agents import AGENTS
from maia.maintainer.actions import Action, ActionFailed, Plan

_AT_ONCE: Final = 50
_TIMEOUT_S: Final = 30
_ENDED: Final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
_OTHER_FLOWS: Final = ("alert",)


class DeleteRuns(Action):
    """Deletes runs of our flows that ended long ago; other flows of a shared server are left alone.

    `environment` holds PREFECT_API_URL and, if the server asks for them, PREFECT_API_KEY or
    PREFECT_API_AUTH_STRING. Runs are aged by real time, since Prefect knows no other.
    """

    kind = "cleanup"
    about = "Delete the history of runs in Prefect."
    cool_down_s: ClassVar[float | None] = 0.0
    target = "runs in Prefect"

    def __init__(
        self, atlas: Atlas, environment: Mapping[str, str], days: float, is_time_up: Callable[[], bool]
    ) -> None:
        self._atlas, self._days, self._is_time_up = atlas, days, is_time_up
        self._url = environment.get("PREFECT_API_URL", "").rstrip("/")
        self._headers = _credentials(environment)

    async def plan(self) -> Plan | None:
        if not self._url:
            return None
        before = await self._before()
        async with self._session() as session:
            runs: int = await self._post(session, "/flow_runs/count", self._filter(before))
        if not runs:
            return None
        return Plan(
            text=f"Delete {counted(runs, 'run')} of our flows that ended before {before:%Y-%m-%d %H:%M} UTC",
            details={
                "table": "Prefect: flow runs", "what": self.target, "rows": runs,
                "older_than": before.isoformat(), "how": "delete in batches",
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        chosen, deleted = self._filter(datetime.fromisoformat(plan.details["older_than"])), 0
        async with self._session() as session:
            while not self._is_time_up():
                found = await self._post(session, "/flow_runs/filter", chosen | {"limit": _AT_ONCE})
                if not found:
                    return f"deleted {counted(deleted, 'run')}"
                ids = {"flow_runs": {"id": {"any_": [run["id"] for run in found]}}, "limit": _AT_ONCE}
                gone = (await self._post(session, "/flow_runs/bulk_delete", ids))["deleted"]
                if not gone:
                    raise ActionFailed("Prefect's server deletes none of the runs that it lists: see its log")
                deleted += len(gone)
        return f"deleted {counted(deleted, 'run')}; the time is up, and the next clean-up continues"

    async def _before(self) -> datetime:
        by_database: datetime = await self._atlas.db.fetchval("health.now")
        now = min(SystemClock().now(), by_database)
        return now - timedelta(days=self._days)

    def _filter(self, before: datetime) -> dict[str, Any]:
        names = [*(agent.name for agent in AGENTS), *_OTHER_FLOWS]
        return {
            "flows": {"name": {"any_": names}},
            "flow_runs": {
                "state": {"type": {"any_": [*_ENDED]}},
                "end_time": {"before_": before.isoformat()},
            },
        }

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> Any:
        """The server's answer; ActionFailed if there is none. Neither names a credential."""
        url = f"{self._url}{path}"
        try:
            async with session.post(url, json=body, proxy=network.proxy_for(url)) as answer:
                if answer.status >= 400:
                    raise ActionFailed(f"Prefect's server answers {path} with HTTP {answer.status}")
                return await answer.json()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise ActionFailed(
                f"Prefect's server (PREFECT_API_URL) gives no usable answer: {type(error).__name__}"
            ) from error


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The header that the server asks for."""
    if key := environment.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if word := environment.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {b64encode(word.encode()).decode()}"}
    return {}

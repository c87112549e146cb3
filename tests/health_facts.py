"""What the tests of health share: facts to bring about, and ways to look at what is found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from aiohttp import web
from pydantic import SecretStr

from atlas.adapters.telemetry import HostSample, TelemetryDAO
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.maintainer.actions import Action, ActionState, Plan, Taken
from maia.maintenance.findings import Finding
from maia.views.health import Health, Wanted

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEYS = SecretStr('[{"key": "AIzaSyTest-0123456789-0123456789-01234", "project": "p"}]')
ANY_DISK: dict[str, Any] = {"health": {"disk_percent": 100, "emergency_disk_percent": 100}}
"""However full the disk of the machine that runs the tests may be."""
SAMPLE = "INSERT INTO video_stats_log (video_id, methodology, sampled_at) VALUES ('v', 2, $1)"
AGENTS = Wanted(agents={"hunter": 600.0, "tracker": 600.0})


def found(health: Health, key: str) -> Finding | None:
    return next((each for each in health.judgement.findings if each.key == key), None)


def keys_of(health: Health) -> set[str]:
    return {each.key for each in health.judgement.findings}


async def record(atlas: Atlas, health: Health) -> None:
    """Store a judgement as the maintainer's cycle does."""
    await atlas.events.append("maintainer.duty", {"duty": "health", "details": health.as_dict()})


def statement(name: str, *arguments: object) -> str:
    """A named statement with its arguments written into it."""
    from atlas.db import sql_of

    text = sql_of(name)
    for place, argument in enumerate(arguments, 1):
        text = text.replace(f"${place}", f"'{argument}'" if isinstance(argument, str) else str(argument))
    return text


async def fill_clock(sql: Any, count: int, due: Any = NOON) -> None:
    """Hot videos that are due at an instant."""
    await sql.execute(
        "INSERT INTO channels (id, discovered_at, refreshed_at) VALUES ('UC1', $1, $1)",
        NOON,
    )
    await sql.execute(
        "INSERT INTO videos (id, channel_id, discovered_at, refreshed_at) SELECT 'v' || i, 'UC1', $2, $2"
        " FROM generate_series(1, $1::int) AS i",
        count,
        NOON,
    )
    await sql.execute(
        "INSERT INTO video_clock (video_id, channel_id, zone, interval_h, born_at, next_due_at, metadata_at)"
        " SELECT 'v' || i, 'UC1', 0, 1, $2, $3, $2 FROM generate_series(1, $1::int) AS i",
        count,
        NOON,
        due,
    )


async def store(atlas: Atlas, node: str, minutes: range, **figures: Any) -> None:
    dao = TelemetryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await dao.store([HostSample(at=NOON + minute * MINUTE, node=node, **figures) for minute in minutes])


def with_limits(atlas: Atlas, limits: Any) -> Atlas:
    from dataclasses import replace

    maintainer = atlas.settings.maintainer.model_copy(update={"health": limits})
    return replace(atlas, settings=atlas.settings.model_copy(update={"maintainer": maintainer}))


@asynccontextmanager
async def idle_in_transaction(url: str) -> AsyncIterator[int]:
    connection = await asyncpg.connect(url, server_settings={"application_name": "forgetful"})
    try:
        await connection.execute("BEGIN")
        yield await connection.fetchval("SELECT pg_backend_pid()")
    finally:
        await connection.close()


@asynccontextmanager
async def serving(status: int) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(status < 400, status=status)

    app = web.Application()
    app.router.add_get("/api/health", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api"
    finally:
        await runner.cleanup()


class Recorder:
    """Takes every action, and remembers it."""

    def __init__(self) -> None:
        self.actions: list[Action] = []

    async def take(self, action: Action) -> Taken | None:
        self.actions.append(action)
        plan = await action.plan() or Plan(text="nothing")
        return Taken(
            kind=action.kind, target=action.target, state=ActionState.APPLIED, plan=plan, result="done"
        )


class Mend(Action):
    kind = "reindex"
    about = "Mend."

    def __init__(self, target: str) -> None:
        self.target = target

    async def plan(self) -> Plan | None:
        return Plan(text=f"mend {self.target}")

    async def apply(self, plan: Plan) -> str:
        return "mended"

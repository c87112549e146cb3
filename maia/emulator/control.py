"""The control page `/_emulator`: shows the emulator's state, and changes its clock, faults and counters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from atlas.clock import Clock, VirtualClock
from atlas.wording import counted
from maia.emulator.faults import Fault
from maia.origin import refusal

if TYPE_CHECKING:
    from maia.emulator.server import Emulator

_POSTED = {"clock", "speed", "faults", "faults_for_s", "seed", "reset"}
_CLOCK = {"now", "speed", "advance_s"}


def clock_state(clock: Clock) -> dict[str, Any]:
    """The current instant, and the start, anchor and speed that let another process share the clock."""
    now = clock.now()
    if isinstance(clock, VirtualClock):
        start, anchor, speed = clock.start, clock.anchor, clock.speed
    else:
        start, anchor, speed = now, datetime.now(UTC), 0.0
    return {"now": _iso(now), "start": _iso(start), "anchor": _iso(anchor), "speed": speed}


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


class ControlPage:
    """GET returns the state; POST changes it first. Requests from other sites' pages are refused."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def state(self) -> dict[str, Any]:
        emulator, realism = self._emulator, self._emulator.world.realism
        return {
            "url": emulator.url,
            "clock": clock_state(emulator.clock),
            "catalogue": {"path": str(emulator.catalogue.path), "videos": len(emulator.catalogue)},
            "quota": emulator.quota.state(emulator.clock.now()),
            "faults": [str(fault) for fault in emulator.faults.faults],
            "faults_until": None if (until := emulator.faults.until) is None else _iso(until),
            "seed": emulator.faults.seed,
            "realism": {"name": realism.name, **realism.parameters()},
            "struck": dict(emulator.faults.struck),
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        headers = request.headers
        if reason := refusal(headers.get("Host"), headers.get("Origin"), [self._emulator.host]):
            body = orjson.dumps({"error": reason})
            return web.Response(status=403, body=body, content_type="application/json")
        if request.method == "POST":
            try:
                self._change(orjson.loads(await request.read()))
            except (ValueError, TypeError, OverflowError) as error:
                body = orjson.dumps({"error": f"nothing was changed: {error}"})
                return web.Response(status=400, body=body, content_type="application/json")
        elif request.method != "GET":
            return web.Response(status=405, headers={"Allow": "GET, POST"})
        if "text/html" in request.headers.get("Accept", ""):
            return web.Response(text=_page(self.state()), content_type="text/html")
        body = orjson.dumps(self.state(), option=orjson.OPT_INDENT_2)
        return web.Response(body=body, content_type="application/json")

    def _change(self, wanted: Any) -> None:
        """Apply every posted change, or raise ValueError before applying any."""
        if not isinstance(wanted, dict) or (unknown := wanted.keys() - _POSTED):
            names = ", ".join(sorted(unknown)) if isinstance(wanted, dict) else "no object"
            raise ValueError(f"got {names}; post an object with some of {', '.join(sorted(_POSTED))}")
        emulator = self._emulator
        clock = self._wanted_clock(wanted)
        seed = wanted.get("seed")
        if seed is not None and not isinstance(seed, int):
            raise ValueError("seed must be a whole number")
        faults = self._wanted_faults(wanted, seed)
        if clock:
            emulator.set_clock(*clock)
        if faults is not None:
            emulator.set_faults(faults, seed, wanted.get("faults_for_s"))
        if wanted.get("reset"):
            emulator.reset()

    def _wanted_faults(self, wanted: Mapping[str, Any], seed: int | None) -> list[Fault] | None:
        """The requested faults, or the present ones for another seed; None to leave everything as it is."""
        for_s = wanted.get("faults_for_s")
        if for_s is not None and ("faults" not in wanted or not _is_duration(for_s)):
            raise ValueError("faults_for_s is for how many seconds the posted faults last")
        if "faults" in wanted:
            return [Fault.parse(fault) for fault in _listed_faults(wanted["faults"])]
        return None if seed is None else list(self._emulator.faults.faults)

    def _wanted_clock(self, wanted: Mapping[str, Any]) -> tuple[datetime, float] | None:
        """The requested instant and speed. `clock` is an instant or an object; `speed` may come alone."""
        clock = wanted.get("clock", {})
        if isinstance(clock, str):
            clock = {"now": clock}
        if not isinstance(clock, dict) or clock.keys() - _CLOCK:
            raise ValueError(f"clock is an instant or an object with some of {', '.join(sorted(_CLOCK))}")
        if "speed" in wanted:
            clock = {"speed": wanted["speed"], **clock}
        if not clock:
            return None
        state = clock_state(self._emulator.clock)
        now = datetime.fromisoformat(clock.get("now", state["now"]))
        if now.tzinfo is None:
            raise ValueError("now needs a time zone, such as 2026-11-02T08:00:00Z")
        speed = float(clock.get("speed", state["speed"]))
        if not 0 <= speed < float("inf"):
            raise ValueError("the clock does not run backwards: speed is 0 or more")
        return now + timedelta(seconds=float(clock.get("advance_s", 0))), speed


def _listed_faults(faults: Any) -> list[str]:
    """Faults as `KIND:RATE`, from a list of them or from an object of rates by kind."""
    if isinstance(faults, dict):
        faults = [f"{kind}:{rate}" for kind, rate in faults.items()]
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        raise ValueError('faults is a list of "KIND:RATE", or an object of rates by kind')
    return faults


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _page(state: Mapping[str, Any]) -> str:
    """The state as an HTML page."""
    clock, quota = state["clock"], state["quota"]
    buckets = "".join(
        f"<tr><td>{escape(project)}<td>{bucket}<td>{line['used']}<td>{line['left']}<td>{line['refused']}"
        for project, lines in quota["projects"].items()
        for bucket, line in lines.items()
    )
    calls = "".join(
        f"<tr><td>{escape(line['project'])}<td>{escape(line['method'])}<td>{line['status']}<td>{line['calls']}"
        for line in quota["calls"]
    )
    faults = ", ".join(map(escape, state["faults"])) or "none"
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>YouTube emulator</title>
<style>body {{ font: 1rem/1.5 system-ui; margin: 2rem auto; max-width: 60rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ padding: .2rem 1rem .2rem 0; text-align: left }}
th {{ border-bottom: 1px solid #999 }}</style>
<h1>YouTube emulator</h1>
<p>It is <b>{clock["now"]}</b> and time runs {clock["speed"]:g} times as fast. The day of quota is
{quota["pacific_day"]} in Los Angeles and ends at {quota["resets_at"]}.
{counted(state["catalogue"]["videos"], "video")} from {escape(state["catalogue"]["path"])}. Faults: {faults}.
Realism: {state["realism"]["name"]}.</p>
<table><tr><th>project<th>bucket<th>used<th>left<th>refused{buckets}</table>
<table><tr><th>project<th>method<th>status<th>calls{calls}</table>
<p>POST JSON here to change it, any of: {{"clock": "2026-11-02T08:00:00Z" or {{"advance_s": 3600}},
"speed": 60, "faults": ["500:0.1", "429:1:feed"], "faults_for_s": 3600, "seed": 1, "reset": true}}.</p></html>
"""

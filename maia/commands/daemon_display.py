"""What `maia daemon` prints: installations, the states of units, lines of the journal, and the health."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from maia.commands.tables import Column, print_table
from maia.commands.terminal import console, print_text, run, span_between
from maia.maintenance.unit_files import FileState, difference
from maia.maintenance.wording import size_text

if TYPE_CHECKING:
    from maia.maintenance.service import Installation, Service
    from maia.maintenance.systemctl import LogLine, UnitState

HEALTH_TIMEOUT_S: Final = 30.0

_DOES: Final = {FileState.MISSING: ("write", "wrote"), FileState.OUTDATED: ("update", "updated")}


def print_installation(
    service: Service, plan: Installation, commands: Sequence[str], *, force: bool, dry_run: bool, now: bool
) -> None:
    written = {file.path for file in plan.to_write(force=force)}
    for file, state in plan.files:
        if file.path in written:
            would, did = _DOES.get(state, ("overwrite", "overwrote"))
            print_text(f"{would if dry_run else did} {file.path}")
        elif state is FileState.CHANGED:
            print_text(f"kept {file.path}, as somebody has changed it")
    if not written and not plan.changed:
        print_text(f"all {len(plan.files)} files are up to date")
    for command in commands:
        print_text(f"ran {command}")
    for file in plan.changed if not force else []:
        print_text(f"\n{difference(file)}")
    if plan.changed and not force:
        print_text("\nSomebody changed the files above. They stay; --force overwrites them.", stderr=True)
    if dry_run:
        print_text(f"Nothing was changed. It would start at boot: {', '.join(plan.units)}.")
        return
    print_text(f"Starts at boot: {', '.join(plan.units)}; runs {plan.program}.")
    _print_next_steps(service, plan, now=now)


def _print_next_steps(service: Service, plan: Installation, *, now: bool) -> None:
    for path in service.missing_secrets(plan.units):
        print_text(f"Missing: {path}. Write it: install -D -m 600 /dev/stdin {path}")
    if not now:
        print_text("To start it, or to let a running one use the change: maia daemon restart")
    for advice in service.advice():
        print_text(advice)


def installation_as_dict(
    plan: Installation, commands: Sequence[str], *, force: bool, applied: bool
) -> dict[str, Any]:
    written = {file.path for file in plan.to_write(force=force)}
    return {
        "applied": applied,
        "scope": plan.layout.scope,
        "program": plan.program,
        "units": plan.units,
        "files": [
            {"path": file.path, "state": state, "written": applied and file.path in written}
            for file, state in plan.files
        ],
        "commands": commands,
    }


def print_states(states: Sequence[UnitState]) -> None:
    now = datetime.now(UTC)
    columns = (
        Column("unit", 16), Column("state", 8), Column("since", right=True),
        Column("memory", rank=2, right=True), Column("restarts", rank=3), Column("next", rank=1),
        Column("at boot", rank=4), Column("it says", 16, wraps=True, rank=5),
    )  # fmt: skip
    print_table(columns, [_row(state, now) for state in states])


def _row(state: UnitState, now: datetime) -> tuple[object, ...]:

    memory = None if state.memory_bytes is None else size_text(state.memory_bytes)
    reason = f" ({state.result})" if state.active == "failed" else ""
    # What it said last stays there after its end.
    says = state.says if state.pid else None
    return (
        state.name, f"{state.active}{reason}", span_between(state.since, now), memory,
        state.restarts or None, state.next_at, state.starts_at_boot, says or None,
    )  # fmt: skip


def print_log_line(line: LogLine, *, stderr: bool = False) -> None:
    name = line.unit.removesuffix(".service")
    text = f"{line.at:%m-%d %H:%M:%S} {name}: {line.message}"
    if stderr or not console().is_terminal:
        print_text(text, stderr=stderr)
        return
    from rich.text import Text

    grave = line.priority in {"emergency", "alert", "critical", "error"}
    style = "red" if grave else "yellow" if line.priority == "warning" else ""
    console().print(Text(text, style=style))


# Health


def health_of(service: Service, states: Sequence[UnitState]) -> dict[str, Any] | None:
    """What `maia system health` says with the services' settings; None if nothing runs, or it fails.

    It is another process, as settings are read once, and as a service that hangs must not hang this.
    """
    from maia.maintenance import programs

    environment, account = service.environment(), service.account()
    unknown = account is not None and account.uid < 0
    if environment is None or unknown or not any(state.active == "active" for state in states):
        return None
    command = [sys.executable, "-P", "-m", "maia", "system", "health", "--json"]
    try:
        answer = run(
            programs.run(
                command, timeout_s=HEALTH_TIMEOUT_S, environment={**os.environ, **environment}, folder="/",
                account=account,
            )
        )  # fmt: skip
    except programs.ProgramFailed as error:
        return {"error": str(error)}
    return health_told(answer.out) or {"error": answer.reason}


def health_told(text: str) -> dict[str, Any] | None:
    import orjson

    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    is_told = isinstance(told, dict) and (isinstance(told.get("score"), (int, float)) or "error" in told)
    return told if is_told else None


def print_health(health: dict[str, Any] | None) -> None:
    if health is None:
        return
    if "error" in health:
        print_text(f"health: unknown: {health['error']}")
        return
    print_text(f"health: {health['score']:.2f} of 1 (maia daemon run system health says why)")

"""What Prefect reads from the environment when it is imported, with defaults that fit disposable machines."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

DEFAULTS = {
    # Servers, workers and the runs they start log as our own commands do.
    "PREFECT_LOGGING_SETTINGS_PATH": str(Path(__file__).with_name("logging.yml")),
    # Its own default of 20 s is missed on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is not set yet; call it before anything imports Prefect."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    if "PREFECT_HOME" not in environment and not _can_hold_files(Path.home() / ".prefect"):
        environment["PREFECT_HOME"] = str(_home_of_last_resort())


def for_server(surroundings: Mapping[str, str]) -> dict[str, str]:
    """What a Prefect server needs besides that: its UI, wherever it is reached, from files it can unpack."""
    chosen = dict(surroundings)
    # It would ask that server instead of being one.
    chosen.pop("PREFECT_API_URL", None)
    chosen.setdefault("PREFECT_UI_ENABLED", "1")
    chosen.setdefault("PREFECT_UI_API_URL", "/api")
    package = importlib.util.find_spec("prefect")
    if package is not None and package.origin and not _can_hold_files(Path(package.origin).parent / "server"):
        home = chosen.get("PREFECT_HOME", str(Path.home() / ".prefect"))
        chosen.setdefault("PREFECT_UI_STATIC_DIRECTORY", str(Path(home) / "ui"))
    return chosen


def _can_hold_files(folder: Path) -> bool:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _home_of_last_resort() -> Path:
    """A folder of this user alone: the name is known, so somebody else may have made it first."""
    folder = Path(tempfile.gettempdir()) / f"pleiades-prefect-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        return Path(tempfile.mkdtemp(prefix="pleiades-prefect-"))
    return folder

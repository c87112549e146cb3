"""Prepares the environment that Prefect reads on import, with defaults for short-lived machines."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from atlas import network, paths

DEFAULTS = {
    # Make servers, workers and the runs they start log as our own commands do.
    "PREFECT_LOGGING_SETTINGS_PATH": str(Path(__file__).with_name("logging.yml")),
    # Prefect's default of 20 s is too short on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # By default the pages of every site may read the server's answers; no site is called "none".
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that are not set yet; call it before anything imports Prefect."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    network.bypass_proxy_for_loopback(environment)
    home = _home()
    if home is None:
        # Prefect looks up the home folder on import, even if PREFECT_HOME is set.
        environment["HOME"] = str(_fallback_home())
    if "PREFECT_HOME" not in environment and not (home and _is_writable(home / ".prefect")):
        environment["PREFECT_HOME"] = str(_fallback_home())


def server_command(factory: str = "flows.guarded:create_app") -> tuple[str, ...]:
    """The module and arguments that serve Prefect's API, without the address."""
    return ("uvicorn", "--factory", factory, "--lifespan", "on", "--log-level", "error")


def for_server(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with which to run a Prefect server with its UI, in a folder where it can unpack files."""
    chosen = dict(variables)
    # With this variable, it would use that server instead of being one.
    chosen.pop("PREFECT_API_URL", None)
    chosen.setdefault("PREFECT_UI_ENABLED", "1")
    # Relative, so that the UI works at any address.
    chosen.setdefault("PREFECT_UI_API_URL", "/api")
    package = importlib.util.find_spec("prefect")
    if package is not None and package.origin and not _is_writable(Path(package.origin).parent / "server"):
        home = chosen.get("PREFECT_HOME") or Path.home() / ".prefect"
        chosen.setdefault("PREFECT_UI_STATIC_DIRECTORY", str(Path(home) / "ui"))
    return chosen


def _home() -> Path | None:
    """The user's home folder; None if neither HOME nor the user database has one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _is_writable(folder: Path) -> bool:
    """Whether we can write files into a folder, or create it."""
    existing = paths.nearest(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _fallback_home() -> Path:
    """A temporary folder of this user. Its name is predictable, so somebody else may have created it."""
    folder = Path(tempfile.gettempdir()) / f"pleiades-prefect-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        return Path(tempfile.mkdtemp(prefix="pleiades-prefect-"))
    return folder


def wrong_setting(error: Exception) -> str | None:
    """What is wrong with Prefect's settings, if that raised the error; its own text names no variable.

    Prefect reads its settings as soon as it is imported.
    """
    if type(error).__name__ != "ValidationError" or not _is_raised_in(error, "prefect.settings"):
        return None
    given = sorted(name for name in os.environ if name.startswith("PREFECT_") and name not in DEFAULTS)
    lines = []
    for fault in error.errors(include_url=False):  # type: ignore[attr-defined]
        ending = "_".join(map(str, fault["loc"])).upper()
        names = [name for name in given if ending and name.endswith(ending)] or given
        where = " or ".join(names) or "prefect.toml or Prefect's active profile"
        lines.append(f"{where}: Prefect refuses its value: {fault['msg']}: correct it or unset it")
    return "\n".join(lines)


def _is_raised_in(error: Exception, package: str) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith(package) for frame, _ in frames)

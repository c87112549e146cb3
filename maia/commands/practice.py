"""What `maia up --demo` adds to `maia up`: an emulator in fast virtual time, and temporary data."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from maia.commands.demo import starting_point
from maia.commands.terminal import console, load_settings
from maia.commands.workshop import workshop

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.stack.supervisor import Supervisor

VIDEOS, CHANNELS, DAYS, SEED = 5_000, 300, 30, 7
BEGINS = timedelta(days=6)
"""How far into the catalogue the demo begins: a fifth of the videos are out, the others still to come."""

SPEED = 360
"""A virtual day takes four minutes, an hour ten seconds."""

INTERVAL_S = 10
LEARNER_INTERVAL_S = 60
"""A quarter of a virtual day: often enough for forecasts and first patterns within minutes."""
MAINTAINER_INTERVAL_S = 60
UNITS_A_DAY = 2_000

_SETTINGS = {
    "PLEIADES_AGENTS__INTERVALS_S": json.dumps(
        {
            "hunter": INTERVAL_S,
            "tracker": INTERVAL_S,
            "learner": LEARNER_INTERVAL_S,
            "maintainer": MAINTAINER_INTERVAL_S,
        }
    ),
    "PLEIADES_QUOTA__LIMITS__SEARCH": str(UNITS_A_DAY),
    # The updates of this machine are none of a demonstration's business.
    "PLEIADES_MAINTAINER__OFF": "updates,upgrade",
    # What lasts is told of again after hours of the demo's time, which are seconds.
    "PLEIADES_MAINTAINER__ALERTS__RESEND_S": str(7 * 86_400),
}
_KEPT = ("HOST", "PORT", "PLEIADES_PREFECT__PORT", "PLEIADES_METRICS__PORT", "PLEIADES_LOG__JSON_LINES")
"""The user's settings that apply to the demo too: where it listens, and how it logs."""

_EXPORTED = ("DATABASE_URL", "NODE_ID", "PLEIADES_", "PREFECT_API_URL", "YOUTUBE_API_KEY_POOL_JSON")


class Practice:
    """The demo's folder and catalogue, and its emulator once that is started."""

    def __init__(self, folder: Path, catalogue: Path, topics: list[str], begin: datetime) -> None:
        self._catalogue, self._topics, self._begin = catalogue, topics, begin
        self.environment_file = folder / "demo.env"

    async def serve(self, supervisor: Supervisor) -> Settings:
        """Start the emulator, and return settings that use it and its virtual time."""
        from maia.stack.supervisor import Child

        command = (sys.executable, "-m", "maia", "emulator", "--realism", "realistic", "--json")
        options = ("--catalogue", str(self._catalogue), "--clock", self._begin.isoformat())
        speed = ("--speed", str(SPEED), "--port", str(_free_port()))
        quota = ("--project", f"demo:search={UNITS_A_DAY}")
        # A restarted emulator would begin at the start of its virtual time, behind everybody else's.
        await supervisor.start(
            Child("emulator", (*command, *options, *speed, *quota), dict(os.environ), restarts=False)
        )
        os.environ.update(json.loads(supervisor.announcement("emulator"))["environment"])
        return load_settings()

    async def prepare(self, atlas: Atlas, api_url: str) -> None:
        """Run the hunter once, so that there are videos to track, and write the environment file."""
        from atlas.adapters.maia import MaiaDAO
        from maia.cycle.agent import run
        from maia.hunter.cycle import Hunter

        await MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(self._topics)
        await run(Hunter, atlas)
        known = dict(os.environ) | {"DATABASE_URL": atlas.db.url_of(), "PREFECT_API_URL": api_url}
        lines = [
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted(known.items())
            if name.startswith(_EXPORTED)
        ]
        self.environment_file.touch(mode=0o600)
        self.environment_file.write_text("".join(lines), encoding="utf-8")

    def advice(self) -> list[str]:
        """The commands with which to look at the demo in another terminal."""
        # Not the way in which this process was started, which may be relative to another folder.
        program = Path(sys.executable).with_name("maia")
        maia = shlex.quote(str(program)) if program.exists() else f"{shlex.quote(sys.executable)} -m maia"
        return [f". {shlex.quote(str(self.environment_file))}", f"{maia} top"]


@contextmanager
def open_practice(greet: Callable[[], None]) -> Iterator[Practice]:
    """Make up a catalogue in a temporary folder, with settings for the demo alone until the block ends.

    Calls `greet` under these settings, before anything that takes time.
    """
    from maia.emulator.catalogue import Catalogue
    from maia.emulator.synthesis import synthesize

    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with workshop() as folder:
        os.environ.update(_SETTINGS | kept)
        os.environ["PLEIADES_LOG__LEVEL"] = os.environ.get("PLEIADES_LOG__LEVEL", "WARNING")
        greet()
        path = folder / "synthetic.catalogue"
        synthesize(path, videos=VIDEOS, channels=CHANNELS, days=DAYS, seed=SEED)
        console(stderr=True).print(
            f"Synthesized {VIDEOS:,} videos of {CHANNELS:,} channels from seed {SEED}; a virtual day takes "
            f"{86400 / SPEED:.0f} s. PostgreSQL and Prefect are starting …"
        )
        topics, _ = starting_point(path, None)
        with Catalogue.open(path) as opened:
            begin = opened.busy_span[0] + BEGINS
        yield Practice(folder, path, topics, begin)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

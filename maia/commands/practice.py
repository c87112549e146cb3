"""What `maia up --demo` practises on: an emulator in fast virtual time, and data that is thrown away."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from maia.commands.demo import prospects, workshop
from maia.terminal import console, load_settings

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.supervisor import Supervisor

VIDEOS, CHANNELS, DAYS, SEED = 5_000, 300, 30, 7
BEGINS = timedelta(days=6)
"""How far into the catalogue it begins: enough to find at once, and four fifths of its life to come."""

SPEED = 360
"""A virtual day lasts four minutes, an hour ten seconds."""

INTERVAL_S = 10
UNITS_A_DAY = 2_000

_SETTINGS = {
    "PLEIADES_PREFECT__INTERVALS_S": json.dumps({"hunter": INTERVAL_S, "tracker": INTERVAL_S}),
    "PLEIADES_PREFECT__POLL_S": "2",
    "PLEIADES_TRACKER__ROUND_S": str(INTERVAL_S * SPEED),
    "PLEIADES_QUOTA__LIMITS__SEARCH": str(UNITS_A_DAY),
}
_KEPT = ("HOST", "PLEIADES_PREFECT__PORT", "PLEIADES_METRICS__PORT", "PLEIADES_LOG__JSON_LINES")
"""What a user may say about the demo too: where it listens, and how it logs."""

_EXPORTED = ("DATABASE_URL", "NODE_ID", "PLEIADES_", "PREFECT_API_URL", "YOUTUBE_API_KEY_POOL_JSON")


class Practice:
    """A folder, a catalogue in it, and from the emulator's start on the settings to reach both."""

    def __init__(self, folder: Path, catalogue: Path, topics: list[str], begin: datetime) -> None:
        self._catalogue, self._topics, self._begin = catalogue, topics, begin
        self.environment_file = folder / "demo.env"

    async def serve(self, supervisor: Supervisor) -> Settings:
        """Start the emulator and live in its time; returns the settings of that."""
        from maia.supervisor import Child

        command = (sys.executable, "-m", "maia", "emulator", "--json")
        options = ("--catalogue", str(self._catalogue), "--clock", self._begin.isoformat())
        pace = ("--speed", str(SPEED), "--port", str(_free_port()))
        quota = ("--project", f"demo:search={UNITS_A_DAY}")
        # A second life would begin at the first one's beginning, while everybody else's time went on.
        await supervisor.start(
            Child("emulator", (*command, *options, *pace, *quota), dict(os.environ), restarts=False)
        )
        os.environ.update(json.loads(supervisor.announcement("emulator"))["environment"])
        return load_settings()

    async def prepare(self, atlas: Atlas, api_url: str) -> None:
        """Hunt the first topics, to have something to track at once; tell in a file how to reach it all."""
        from atlas.adapters.maia import MaiaDAO
        from maia import hunter

        await MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(self._topics)
        await hunter.run(atlas)
        known = dict(os.environ) | {"DATABASE_URL": atlas.db.url_of(), "PREFECT_API_URL": api_url}
        lines = [
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted(known.items())
            if name.startswith(_EXPORTED)
        ]
        self.environment_file.touch(mode=0o600)
        self.environment_file.write_text("".join(lines), encoding="utf-8")

    def advice(self) -> list[str]:
        """What to type elsewhere to look at it."""
        program = Path(sys.argv[0])
        maia = shlex.quote(str(program.resolve())) if program.name == "maia" else f"{sys.executable} -m maia"
        return [f". {shlex.quote(str(self.environment_file))}", f"{maia} top"]


@contextmanager
def practising() -> Iterator[Practice]:
    """Synthesize a catalogue into a folder that goes with the block, in an environment for it alone."""
    from maia.youtube.catalogue import Catalogue
    from maia.youtube.synthesis import synthesize

    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with workshop() as folder:
        os.environ.update(_SETTINGS | kept)
        os.environ["PLEIADES_LOG__LEVEL"] = os.environ.get("PLEIADES_LOG__LEVEL", "WARNING")
        path = folder / "synthetic.catalogue"
        synthesize(path, videos=VIDEOS, channels=CHANNELS, days=DAYS, seed=SEED)
        console(stderr=True).print(
            f"Synthesized {VIDEOS:,} videos of {CHANNELS:,} channels from seed {SEED}; a virtual day lasts "
            f"{86400 / SPEED:.0f} s. PostgreSQL and Prefect are starting …"
        )
        topics, _ = prospects(path, None)
        with Catalogue.open(path) as opened:
            begin = opened.span[0] + BEGINS
        yield Practice(folder, path, topics, begin)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""A process that makes the states of detectors: it does what whoever goes on after a crash would do.

It takes the states that are stored, learns the same batches again, and gives back the states as they are
then. So the process that leads can go on learning meanwhile.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Sequence

from atlas import network
from atlas.adapters.observations import ObservationsDAO
from atlas.adapters.patterns import Model, PatternsDAO
from atlas.clock import SystemClock
from atlas.config import Settings
from atlas.db import Database
from atlas.leash import leashed
from maia.errors import MaiaError
from maia.learner.collection import without_collection
from maia.learner.replay import SOURCE, repeat, stored_states

_NICE = 5


class StatesFailed(MaiaError):
    """The process that was to make the states failed."""


async def states_after(settings: Settings, begin: int, ends: Sequence[int]) -> list[Model]:
    """The states after these batches, made from those that are stored, which were made after `begin`."""
    process = await asyncio.create_subprocess_exec(
        *leashed([sys.executable, "-m", "maia.learner.successor"], nice=_NICE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        # Both ends of the pipe are ours.
        output, _ = await process.communicate(pickle.dumps((settings, begin, [*ends])))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise StatesFailed(f"the process that makes the detectors' states ended with {process.returncode}")
    states: list[Model] = await asyncio.to_thread(pickle.loads, output)
    return states


async def _states(settings: Settings, begin: int, ends: Sequence[int]) -> list[Model]:
    network.prepare(settings.network)
    clock = SystemClock()
    async with Database.open(settings) as database:
        dao = PatternsDAO(database, clock=clock, settings=settings)
        log = ObservationsDAO(database, clock=clock, settings=settings)
        with without_collection():
            knowledge, stored = await stored_states(dao, settings)
            if (stored.begin if stored else begin) != begin:
                raise StatesFailed(f"other states are stored than those of after {begin}")
            await repeat(log, knowledge, begin, ends)
            return knowledge.models(SOURCE)


def main() -> None:
    settings, begin, ends = pickle.load(sys.stdin.buffer)  # noqa: S301
    states = asyncio.run(_states(settings, begin, ends))
    pickle.dump(states, sys.stdout.buffer)


if __name__ == "__main__":
    main()

"""`python -m tests.federating` federates a site until it is killed; it prints `ready`."""

from __future__ import annotations

import asyncio

from atlas import config
from atlas.composition import Atlas
from atlas.recovery import Backoff
from maia.federation import peers
from maia.federation.running import keep_syncing


async def main() -> None:
    # A test can't wait an hour for a peer that was away for some seconds.
    peers.PAUSES = Backoff(first_s=0.5, longest_s=5)  # type: ignore[misc]
    async with Atlas.open(config.load()) as atlas:
        await keep_syncing(atlas, ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())

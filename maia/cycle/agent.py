"""The base class of agents, and running an agent's cycles in sequence, in a Prefect flow or directly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import AtlasError, CannotStore, ConfigError, DatabaseUnavailable, EmbeddedServerError
from maia.cycle import adapting, sessions
from maia.cycle.cycle import Cycle, OnProgress, Stats
from maia.cycle.outcome import Outcome
from maia.cycle.signals import cancelled_by_sigterm
from maia.cycle.steps import StepRunner, plain

T = TypeVar("T")
_LOOK_BACK: Final = 20
"""Among so many of an agent's last cycles, this node's last one is looked for."""


@dataclass(frozen=True, slots=True)
class Highlight:
    """A video worth a look after a run; `merit` says why. `computed` if Pleiades computed that figure."""

    id: str
    title: str | None
    merit: str
    computed: bool = False


class Agent(ABC, Generic[Stats]):
    """An agent at work. It has no state that must survive the process."""

    name: ClassVar[str]
    statistics: type[Stats]
    adapts_to_host: ClassVar[bool] = True
    """Whether it does less while the host is hot, busy or on battery."""

    def __init__(self, atlas: Atlas, step: StepRunner = plain) -> None:
        self.atlas, self.step = atlas, step
        self.session = sessions.id_of_run()
        self.options: frozenset[str] = frozenset()
        """What this run was asked to do differently, of `AgentRecord.options`."""
        self.is_free = False
        """Whether the size of the present cycle's batch may follow what the host and the quota allow."""

    @classmethod
    @abstractmethod
    def open(cls, atlas: Atlas, step: StepRunner = plain) -> AbstractAsyncContextManager[Self]:
        """Open an agent with what its cycles need; ConfigError if the settings don't allow it."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """How many items a cycle takes on by default."""

    @abstractmethod
    def new_cycle(self, number: int, on_progress: OnProgress | None) -> Cycle[Stats]:
        """Create a cycle without starting it."""

    @staticmethod
    @abstractmethod
    def headline(statistics: Mapping[str, Any]) -> str:
        """The most telling figure of the cycles, such as "187 samples"."""

    @staticmethod
    @abstractmethod
    def summary(statistics: Mapping[str, Any]) -> str:
        """What the cycles did, in a sentence or two."""

    def configure(self, options: Collection[str]) -> None:
        """Take in what this run is asked to do differently; ConfigError if a value makes no sense."""
        self.options = frozenset(options)

    @classmethod
    async def report_outage(cls, settings: Settings, error: AtlasError) -> None:
        """Tell people that the database could not be reached; most agents leave that to the maintainer."""

    @classmethod
    async def highlights(cls, atlas: Atlas, limit: int) -> Sequence[Highlight]:
        """The videos to show people after a run; none by default."""
        return ()

    @classmethod
    async def table(cls, atlas: Atlas, name: str) -> Sequence[Mapping[str, Any]]:
        """The lines of a further table to show after a run, one of `AgentRecord.tables`."""
        raise KeyError(name)

    async def cycle(
        self, batch_size: int | None = None, *, number: int = 1, on_progress: OnProgress | None = None
    ) -> Stats:
        """Run one cycle and record its outcome as an event. A batch size that is given is kept.

        If an error ends the cycle early, its claims are released first (unless the database is away) and the
        error is raised: SystemExit(75) after a 429, KeyRejected if no key is left, DatabaseError, VaultError
        or ConfigError.
        """
        cycle = self.new_cycle(number, on_progress)
        self.is_free = batch_size is None
        if batch_size is None and self.adapts_to_host:
            found = await adapting.host_pressure(self.atlas)
            batch_size = adapting.sized_for_host(self.batch_size, found, cycle.adaptation)
        return await cycle.run(self.batch_size if batch_size is None else batch_size)

    async def sit_out(self) -> Stats | None:
        """Sit out a turn of the schedule if the host is hot or on battery, unless the last one was sat out.

        So the interval doubles. Returns None if the agent should work.
        """
        if not self.adapts_to_host:
            return None
        found = await adapting.host_pressure(self.atlas)
        if not (found.hot or found.on_battery) or await self._sat_out():
            return None
        cycle = self.new_cycle(1, None)
        why = ", ".join(found.reasons)
        cycle.adaptation.note(adapting.TURN, f"every second turn is sat out: {why}")
        return await cycle.sit_out()

    async def _sat_out(self) -> bool:
        """Whether this node's last cycle sat its turn out."""
        last = await self.atlas.events.latest(_LOOK_BACK, kinds=[f"{self.name}.cycle"])
        ours = next((event for event in last if event.node == self.atlas.settings.node_id), None)
        return ours is not None and adapting.TURN in ours.payload.get("adapted", {})


async def run(
    agent: type[Agent[Any]],
    atlas: Atlas,
    *,
    batch_size: int | None = None,
    cycles: int = 1,
    options: Collection[str] = (),
    on_progress: OnProgress | None = None,
    step: StepRunner = plain,
    scheduled: bool = False,
) -> dict[str, Any]:
    """Run up to `cycles` cycles, fewer if the ring closes or nothing is left; return their statistics.

    A `scheduled` run may sit its turn out for the host's sake; one that a person asked for never does.
    Raises what `Agent.cycle` raises, and ConfigError for counts below 1.
    """
    if cycles < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigError(f"batch_size ({batch_size}) and cycles ({cycles}) must be at least 1")
    async with agent.open(atlas, step) as opened:
        opened.configure(options)
        if scheduled and (sat_out := await opened.sit_out()) is not None:
            nothing: dict[str, Any] = sat_out.as_dict()
            return nothing
        total = opened.statistics()
        for number in range(1, cycles + 1):
            total = total.then(await opened.cycle(batch_size, number=number, on_progress=on_progress))
            if total.outcome is not Outcome.DONE:
                break
        statistics: dict[str, Any] = total.as_dict()
        return statistics


async def run_directly(
    agent: type[Agent[Any]],
    settings: Settings,
    batch_size: int | None = None,
    cycles: int = 1,
    on_progress: OnProgress | None = None,
    options: Collection[str] = (),
    around: Callable[[Atlas], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
) -> dict[str, Any]:
    """Run cycles without Prefect, within `around`, and return their statistics.

    Raises what `run` and `directly` raise.
    """

    async def work(atlas: Atlas) -> dict[str, Any]:
        async with around(atlas):
            return await run(
                agent, atlas, batch_size=batch_size, cycles=cycles, options=options, on_progress=on_progress
            )

    async with outages_reported(lambda: agent, settings):
        return await directly(settings, work)


@asynccontextmanager
async def outages_reported(load: Callable[[], type[Agent[Any]]], settings: Settings) -> AsyncIterator[None]:
    """Let the agent report that the database could not be reached; the error is raised all the same."""
    try:
        yield
    except (DatabaseUnavailable, CannotStore, EmbeddedServerError) as error:
        await load().report_outage(settings, error)
        raise


async def directly(settings: Settings, work: Callable[[Atlas], Awaitable[T]]) -> T:
    """Open an Atlas and do the work without Prefect; for `asyncio.run` in the main thread.

    Raises SystemExit(75) after a 429, SystemExit(143) after SIGTERM and KeyboardInterrupt after Ctrl-C, each
    after the claims are released. Other failures are an AtlasError or MaiaError that says what to do.
    """
    with cancelled_by_sigterm():
        async with Atlas.open(settings) as atlas:
            return await work(atlas)

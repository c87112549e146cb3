"""What every source of videos offers the hunter: claim asks, put them, complete or release them.

An *arm* is a source, or for search a source with a form, such as `search:slices`; the day's units are divided
among arms. An *ask* is one question of an arm: a page of search results, a group of feeds, a page of uploads
or of a chart. The hunter's cycle takes each ask through these steps:

1. `claim` reserves asks for this process, so that no other hunter asks the same.
2. `put` asks YouTube. It raises what the client raises; `maia.cycle.reasons` says what that means.
3. The cycle requests the metadata of the videos found, 50 to a unit, and leaves out those that it has.
4. `complete` and `complete_topics` run in the transaction that stores the videos. They are fenced: they raise
   LeaseLost if the claim was lost, and then nothing is stored.
5. `release` gives back the asks that came to nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Generic, TypeVar

from atlas.adapters.discovery import KnownVideo
from atlas.adapters.maia import MaiaDAO
from atlas.config import Bucket
from atlas.keyring import Grant
from maia.youtube.resources import Video

FEEDS = "feeds"
UPLOADS = "uploads"
CHARTS = "charts"
WATCH = "watch"
"""The arm of videos that somebody asked for by id or channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question of an arm, claimed for this process. Sources add what they need to put it."""

    arm: str
    key: Hashable
    """Identifies the ask among all that are claimed now."""
    about: str
    """What it asks for, in a few words for people: a topic, a slice of time, a number of feeds."""
    topics: tuple[int, ...] = ()
    """The topics that it asks about."""
    units: int = 1
    """Units of the arm's bucket that putting it costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer to an ask. Sources add what `complete` needs."""

    ask: Ask
    asked_at: datetime
    ids: tuple[str, ...] = ()
    """The ids of the videos found, without duplicates, in the order of the answer."""
    videos: tuple[Video, ...] = ()
    """Those of them that came with their metadata, and need not be enriched."""
    units: int = 1
    """Units of the arm's bucket that the answer cost; 0 for a feed."""
    grant: Grant | None = None
    """Pays for the first 50 ids' metadata, if the source reserved that unit together with its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the transaction has stored of a finding, for `complete`."""

    videos: tuple[Video, ...] = ()
    """The videos whose metadata were fetched now; deleted and private ones are missing."""
    new_ids: frozenset[str] = frozenset()
    """Those of them that were not stored before."""
    updated: int = 0
    known: Mapping[str, KnownVideo] = field(default_factory=dict)
    """The other videos found, which were stored recently and not fetched again."""
    early: int = 0
    """How many of the new ones were found within 24 hours of publication."""
    early_by_topic: Mapping[int, int] = field(default_factory=dict)

    @property
    def new_videos(self) -> list[Video]:
        return [video for video in self.videos if video.id in self.new_ids]


AskT = TypeVar("AskT", bound=Ask)
FindingT = TypeVar("FindingT", bound=Finding)


class Source(ABC, Generic[AskT, FindingT]):
    """A source of videos."""

    name: ClassVar[str]
    is_free: ClassVar[bool] = False
    """Whether asking costs no units: such a source is not in the plan, and is asked whenever it has asks."""

    parked: int = 0
    """How many items its claims and releases have taken out so far, as their attempts were used up."""
    next_wake_at: datetime | None = None
    """When there will be more to ask, if the last claim found nothing and that is known."""

    @property
    @abstractmethod
    def arms(self) -> Mapping[str, Bucket]:
        """The source's arms, and the bucket that each spends."""

    @abstractmethod
    async def claim(self, wanted: Mapping[str, int]) -> Sequence[AskT]:
        """Claim up to so many asks of each arm; fewer where there is nothing more to ask now."""

    @abstractmethod
    async def put(self, ask: AskT) -> FindingT:
        """Ask YouTube; raises the client's errors."""

    @abstractmethod
    async def complete(self, dao: MaiaDAO, finding: FindingT, stored: Stored) -> None:
        """Record the outcome, in the transaction of `dao`; LeaseLost if the claim was lost.

        It comes before the snowball lock, so it must lock no row of the queue (see `atlas.adapters.maia`).
        """

    async def complete_topics(self, dao: MaiaDAO, finding: FindingT, stored: Stored) -> None:
        """Likewise record what came of the topics asked about, once new videos' tags are in the queue."""

    @abstractmethod
    async def release(
        self, asks: Sequence[AskT], error: str | None = None, *, count_attempt: bool = False
    ) -> None:
        """Give back claims without an outcome, because of `error` if there was one.

        With `count_attempt` the asks are at fault: they rest longer each time, and are given up in the end.
        """

    async def start_over(self, ask: AskT, error: str) -> None:
        """Give back a claim whose page token YouTube rejects, so that it is asked from the first page."""
        await self.release([ask], error)

    def topics_of(self, finding: FindingT, video: Video) -> tuple[int, ...]:
        """The topics to credit for a video: those asked about, if the video carries them."""
        return finding.ask.topics

    def oddity(self, finding: FindingT, stored: Stored) -> str | None:
        """How the answer differs from what was asked, such as an order that was ignored; None if it fits.

        An arm whose answers are mostly odd loses its share of the units.
        """
        return None

    def is_at_fault(self, ask: AskT, error: Exception) -> bool:
        """Whether the error itself blames the ask, such as a parameter that only this ask has."""
        return False

    def is_arm_at_fault(self, ask: AskT, error: Exception) -> bool:
        """Whether the error blames the way in which the arm asks, not what this ask is about."""
        return False

    def times_refused(self, ask: AskT) -> int:
        """How often in a row the ask failed without being charged for it."""
        return 0

    async def tidy(self) -> None:
        """Remove what the source no longer needs; called now and then."""

"""Evidence between sites within seconds, through Redis.

Each site publishes what changed in messages that form a chain: every message says how many came before it.
All others merge what they read. If a message is missing, for whatever reason, its chain shows the gap at the
next one, which comes within seconds even if nothing changes. Whoever finds a gap asks that site, by a letter
through Redis, for all that changed since they last exchanged, just as it would by HTTP. So a lost message
costs a question, and no evidence. Without Redis, everything goes on by HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, Self

import msgpack

from atlas.bus import BEGINNING, Bus, order
from atlas.errors import AtlasError, UnknownCursor
from atlas.recovery import Backoff
from maia.errors import MaiaError
from maia.federation.sealing import Letter, SealBroken, Sealer

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 10.0
"""A site publishes at least so often: its last message may have been lost."""
GATHER_S: Final = 0.05
"""So long after a first change others are gathered, which then travel together."""

_WAITING_POLL_S: Final = 0.2
_AT_ONCE: Final = 16
_WAIT_S: Final = 20.0
_ANSWER_S: Final = 30.0
"""How long an answer is waited for, and kept."""
_CANCEL_AGAIN_S: Final = 0.5
_PAUSES: Final = Backoff(first_s=0.5, longest_s=30, jitter="equal")
_QUESTION_PAUSES: Final = Backoff(first_s=1, longest_s=300, jitter="equal")
_MOST_QUESTIONS: Final = 12
"""So often in a row a site is asked that does not answer, until it publishes again."""
_REFUSED: Final = "refused"
_PUBLISHING, _FOLLOWING = "publishing what changed", "following other sites"
_ASKING, _ANSWERING = "asking other sites", "answering other sites"


class NoAnswer(MaiaError):
    """The site did not answer a letter: it doesn't run, or doesn't use this Redis."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a site has to publish, None if nothing; `cursor` is where to read on, at once if there is `more`.

    `waiting` says that changes are there which can be read as soon as other transactions have ended.
    """

    message: bytes | None
    cursor: str
    more: bool = False
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where the messages of a site were read: in the stream, and in that site's chain."""

    position: str
    chain: str
    number: int


Ask = Callable[[str, bytes], Awaitable[bytes]]
"""Asks another site about something, with a message; returns its answer."""


class Desk(Protocol):
    """What a site does with messages, whatever carries them."""

    async def node(self) -> str:
        """The name under which this site counts now."""

    async def changes(self, cursor: str | None) -> Changes:
        """What changed here after a cursor; None stands for now. UnknownCursor in another database."""

    async def merge(self, message: bytes) -> bool:
        """Merge what another site published; whether it lacks nothing. MaiaError refuses it."""

    async def answer(self, about: str, message: bytes) -> bytes:
        """Answer another site's question; MaiaError refuses it."""

    async def catch_up(self, sender: str, ask: Ask) -> None:
        """Exchange with another site all that either lacks, by asking questions."""

    async def places(self) -> Mapping[str, Place]:
        """The places by site, as they were last kept."""

    async def keep(self, places: Mapping[str, Place]) -> None:
        """Keep places."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """What this site has published: in which chain, how many messages, up to which cursor of its changes."""

    id: str
    number: int
    cursor: str | None

    @classmethod
    def new(cls) -> Self:
        """Nothing published yet; readers will find that they lack what was before."""
        return cls(secrets.token_hex(8), 0, None)

    def then(self, cursor: str) -> Self:
        return replace(self, number=self.number + 1, cursor=cursor)

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb((self.id, self.number, self.cursor))
        return packed

    @classmethod
    def unpack(cls, memo: bytes | None) -> Self:
        """The chain that was packed; a new one if it is gone, or somebody else wrote there."""
        try:
            id_, number, cursor = msgpack.unpackb(memo or b"")
        except (ValueError, TypeError, msgpack.UnpackException):
            return cls.new()
        if type(id_) is not str or type(number) is not int or type(cursor) is not str or number < 0:
            return cls.new()
        return cls(id_, number, cursor)


@dataclass(slots=True)
class StreamCounts:
    """What passed through Redis since this process started."""

    published: int = 0
    merged: int = 0
    gaps: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By what was refused: the seal, the content of changes, or a question."""
    faults: dict[str, str] = field(default_factory=dict)
    """What doesn't work at the moment, and why."""


class _Questions:
    """When each site is to be asked, by the monotonic clock: at every interval, and at once after a gap."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due_s: dict[str, float] = {}
        self._gaps: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self.came = asyncio.Event()

    def found(self, sender: str) -> None:
        """Something of a site is missing."""
        self._gaps[sender] += 1
        if not self._failures[sender]:
            self._due_s[sender] = time.monotonic()
            self.came.set()

    def know(self, sender: str) -> None:
        """Ask a site from now on."""
        self._due_s.setdefault(sender, time.monotonic() + self._interval_s * random.random())  # noqa: S311

    def gaps(self, sender: str) -> int:
        """How many gaps of a site are not repaired."""
        return self._gaps[sender]

    def due(self) -> list[str]:
        return [sender for sender, due_s in self._due_s.items() if due_s <= time.monotonic()]

    @property
    def wait_s(self) -> float:
        return max(min(self._due_s.values(), default=time.monotonic() + _WAIT_S) - time.monotonic(), 0)

    def answered(self, sender: str, gaps: int) -> bool:
        """A site answered, when there were so many gaps; whether nothing of it is missing any more."""
        del self._failures[sender]
        if self._gaps[sender] != gaps:
            self._due_s[sender] = time.monotonic()
            return False
        del self._gaps[sender]
        jitter = 1 + random.uniform(-0.1, 0.1)  # noqa: S311
        self._due_s[sender] = time.monotonic() + self._interval_s * jitter
        return True

    def failed(self, sender: str) -> bool:
        """A site did not answer; whether to ask it again."""
        self._due_s[sender] = time.monotonic() + _QUESTION_PAUSES.pause_s(self._failures[sender])
        self._failures[sender] += 1
        if self._failures[sender] < _MOST_QUESTIONS:
            return True
        del self._due_s[sender], self._gaps[sender], self._failures[sender]
        return False


class Streams:
    """A site's part in the traffic through Redis; one process of a site runs it."""

    def __init__(
        self,
        bus: Bus,
        sealer: Sealer,
        desk: Desk,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        interval_s: float = 300,
    ) -> None:
        """Every other site is asked at each interval whether anything is missing that no chain shows."""
        self._bus, self._sealer, self._desk, self._heartbeat_s = bus, sealer, desk, heartbeat_s
        self._changed = asyncio.Event()
        self._places: dict[str, Place] = {}
        self._questions = _Questions(interval_s)
        self.counts = StreamCounts()

    def wake(self) -> None:
        """Something changed here."""
        self._changed.set()

    async def run(self) -> None:
        """Publish, follow, ask and answer until cancelled, however often Redis or the database is away."""
        works = {
            _PUBLISHING: self._publish,
            _FOLLOWING: self._follow,
            _ASKING: self._ask_others,
            _ANSWERING: self._answer,
        }
        tasks = {asyncio.create_task(self._persist(name, work)) for name, work in works.items()}
        try:
            # None of them ends by itself, unless by a fault of ours.
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            while tasks:
                for task in tasks:
                    task.cancel()
                # Before Python 3.12, asyncio.wait_for, which redis-py uses, may swallow a cancellation.
                _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)

    async def _persist(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            began_s = time.monotonic()
            try:
                await work()
            except (AtlasError, MaiaError) as error:
                if time.monotonic() - began_s > _PAUSES.longest_s:
                    failures = 0
                if name not in self.counts.faults:
                    logger.warning("%s through Redis does not work for now: %s", name, error)
                self.counts.faults[name] = str(error)
                await asyncio.sleep(_PAUSES.pause_s(failures))
                failures += 1

    def _works(self, name: str) -> None:
        if self.counts.faults.pop(name, None) is not None:
            logger.warning("%s through Redis works again", name)

    # Publishing

    async def _publish(self) -> None:
        node = await self._desk.node()
        chain, published_s = _Chain.unpack(await self._bus.memo(node)), -self._heartbeat_s
        while True:
            self._changed.clear()
            try:
                changes = await self._desk.changes(chain.cursor)
            except UnknownCursor:
                # The database was restored.
                node, chain = await self._desk.node(), _Chain.new()
                continue
            due_s = published_s + self._heartbeat_s - time.monotonic()
            if changes.message is not None or due_s <= 0:
                chain = chain.then(changes.cursor)
                letter = Letter("changes", node, chain.id, changes.message or b"", chain.number)
                await self._bus.publish(self._sealer.seal(letter), node, chain.pack())
                self.counts.published += 1
                self._works(_PUBLISHING)
                published_s, due_s = time.monotonic(), self._heartbeat_s
            else:
                # Whoever reads the memo reads again what is not ours to publish.
                chain = replace(chain, cursor=changes.cursor)
            if not changes.more:
                await self._until_changed(min(due_s, _WAITING_POLL_S) if changes.waiting else due_s)

    async def _until_changed(self, longest_s: float) -> None:
        try:
            async with asyncio.timeout(longest_s):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(GATHER_S)

    # Following

    async def _follow(self) -> None:
        self._places = dict(await self._desk.places())
        for sender in self._places:
            self._questions.know(sender)
        position = await self._begin()
        while True:
            self._works(_FOLLOWING)
            entries = await self._bus.read(position, _AT_ONCE, _WAIT_S)
            node = await self._desk.node()
            touched: set[str] = set()
            for entry in entries:
                letter = self._opened(entry.message)
                if letter is not None and letter.purpose == "changes" and letter.sender != node:
                    await self._merge(letter)
                    touched |= self._note(letter, entry.position)
                position = entry.position
            # A place beyond a gap is not kept before it is repaired: after a restart it must show again.
            kept = {each: self._places[each] for each in touched if not self._questions.gaps(each)}
            if kept:
                await self._desk.keep(kept)

    async def _begin(self) -> str:
        """Where to read on: after the last message that was merged, unless Redis lost it and began anew."""
        known = max((place.position for place in self._places.values()), key=order, default=BEGINNING)
        return known if order(known) <= order(await self._bus.last()) else BEGINNING

    def _opened(self, sealed: bytes) -> Letter | None:
        try:
            return self._sealer.open(sealed)
        except SealBroken as broken:
            if not self.counts.refused["seal"]:
                logger.warning("a message in Redis is refused: %s", broken)
            self.counts.refused["seal"] += 1
            return None

    async def _merge(self, letter: Letter) -> None:
        if not letter.message:
            return
        try:
            if not await self._desk.merge(letter.message):
                self._questions.found(letter.sender)
            self.counts.merged += 1
        except MaiaError as refusal:
            logger.warning("what the site %s published is refused: %s", letter.sender, refusal)
            self.counts.refused["content"] += 1

    def _note(self, letter: Letter, position: str) -> set[str]:
        """Note how far a site's chain was read, and whether there is a gap; returns whose place changed."""
        sender, place = letter.sender, self._places.get(letter.sender)
        if place is not None and place.chain == letter.reference and letter.number <= place.number:
            return set()
        if place is None or (place.chain, place.number + 1) != (letter.reference, letter.number):
            self.counts.gaps += 1
            self._questions.found(sender)
        self._places[sender] = Place(position, letter.reference, letter.number)
        return {sender}

    # Asking and answering

    async def _ask_others(self) -> None:
        while True:
            self._questions.came.clear()
            for sender in self._questions.due():
                await self._ask(sender)
                self._works(_ASKING)
            try:
                async with asyncio.timeout(self._questions.wait_s):
                    await self._questions.came.wait()
            except TimeoutError:
                continue

    async def _ask(self, sender: str) -> None:
        gaps = self._questions.gaps(sender)
        try:
            await self._desk.catch_up(sender, lambda about, message: self.question(sender, about, message))
        except MaiaError as refusal:
            logger.info("what is missing of the site %s is asked for again later: %s", sender, refusal)
            if not self._questions.failed(sender):
                # Its next message is then found to be beyond a gap again.
                self._places.pop(sender, None)
            return
        if self._questions.answered(sender, gaps) and sender in self._places:
            await self._desk.keep({sender: self._places[sender]})

    async def question(self, receiver: str, about: str, message: bytes) -> bytes:
        """Ask a site by letter; NoAnswer if none comes, or it refuses to answer."""
        node, reference = await self._desk.node(), secrets.token_hex(16)
        letter = Letter("question", node, reference, message, receiver=receiver, about=about)
        await self._bus.put(receiver, self._sealer.seal(letter), _ANSWER_S)
        until_s = time.monotonic() + _ANSWER_S
        while (left_s := until_s - time.monotonic()) > 0:
            sealed = await self._bus.take(reference, left_s)
            answer = None if sealed is None else self._opened(sealed)
            if answer is None or not self._is_answer(answer, receiver, node, reference):
                continue
            if answer.about == _REFUSED:
                raise NoAnswer(f"the site {receiver} answers: {answer.message.decode(errors='replace')}")
            return answer.message
        raise NoAnswer(f"the site {receiver} did not answer within {_ANSWER_S:g} s through Redis")

    @staticmethod
    def _is_answer(letter: Letter, sender: str, receiver: str, reference: str) -> bool:
        told = (letter.purpose, letter.sender, letter.receiver, letter.reference)
        return told == ("answer", sender, receiver, reference)

    async def _answer(self) -> None:
        await self._bus.ping()
        while True:
            self._works(_ANSWERING)
            node = await self._desk.node()
            sealed = await self._bus.take(node, _WAIT_S)
            letter = None if sealed is None else self._opened(sealed)
            if letter is None or (letter.purpose, letter.receiver) != ("question", node):
                continue
            answer = Letter("answer", node, letter.reference, b"", receiver=letter.sender)
            try:
                answer = replace(answer, message=await self._desk.answer(letter.about, letter.message))
                self.counts.answered += 1
            except MaiaError as refusal:
                logger.warning("a question of the site %s is refused: %s", letter.sender, refusal)
                self.counts.refused["question"] += 1
                answer = replace(answer, message=str(refusal)[:500].encode(), about=_REFUSED)
            await self._bus.put(letter.reference, self._sealer.seal(answer), _ANSWER_S)

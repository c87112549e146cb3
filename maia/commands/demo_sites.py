"""`maia demo --sites N`: sites learn apart from made-up logs, then agree, step by step."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from atlas.wording import counted
from maia.commands.tables import Column, print_table
from maia.commands.terminal import ExitStatus, console, load_settings, print_json, print_text
from maia.commands.workshop import workshop

if TYPE_CHECKING:
    from atlas.adapters.patterns import PatternsDAO
    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.federation.running import Federation
    from maia.learning.evidence import Evidence

AGENT: Final = "crawler"
STUCK: Final = {"agent": AGENT, "action": "upload", "outcome": "timed out"}
"""A context in which sites are asked for advice."""


# What happens at the sites


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failure of an action, and what agents tried then: how often each helped, and how often it didn't."""

    action: str
    outcome: str
    tried: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Office:
    """A site, and the troubles that its agents meet."""

    name: str
    troubles: tuple[Trouble, ...]


_QUOTA = Trouble("search", "quota exceeded", {"switch key": (36, 4), "clear cache": (6, 30)})
_CAPTCHA = Trouble("fetch page", "captcha", {"slow down": (6, 0), "change agent": (1, 11)})
_BLOCKED = Trouble("stream", "region blocked", {"use proxy": (30, 2), "wait": (2, 14)})


def _timeouts(restart: tuple[int, int], split: tuple[int, int]) -> Trouble:
    return Trouble("upload", "timed out", {"restart worker": restart, "split batch": split})


OFFICES: Final = (
    Office("Berlin", (_QUOTA, _CAPTCHA, _timeouts((3, 14), (25, 2)), _BLOCKED)),
    Office("Lima", (_QUOTA, _CAPTCHA, _timeouts((14, 1), (3, 6)))),
    Office("Osaka", (_QUOTA, _CAPTCHA, _timeouts((2, 15), (24, 2)))),
    Office("Nairobi", (_QUOTA, _CAPTCHA, _timeouts((3, 12), (19, 1)))),
    Office("Oslo", (_QUOTA, _CAPTCHA, _timeouts((4, 13), (22, 3)))),
)
FORGOTTEN: Final = "clear cache"
SHOWN: Final = ("switch key", "slow down", "use proxy", "restart worker", "split batch", FORGOTTEN)
"""Remedies of which the beliefs are shown: all know the first; of the second, none alone is sure; the third
has been seen at one site only; of the next two, one site believes the contrary of the others; and the last
helps nowhere, and is deleted in the end."""


def write_log(path: Path, office: Office, now: datetime) -> int:
    """Write what the agents of a site did during the last day, as JSON lines; returns how many."""
    drawn = random.Random(office.name)  # noqa: S311
    cases = [
        (trouble, remedy, helped)
        for trouble in office.troubles
        for remedy, (well, badly) in trouble.tried.items()
        for helped in [True] * well + [False] * badly
    ]
    drawn.shuffle(cases)
    at, lines = now - timedelta(hours=20), list[str]()
    for number in range(0, len(cases), 2):
        # Two sessions by turns, as agents work.
        sessions = [_steps(drawn, *case) for case in cases[number : number + 2]]
        for steps in zip_longest(*sessions):
            for nth, step in enumerate(steps):
                if step is not None:
                    at += timedelta(seconds=drawn.uniform(1, 20))
                    said = {"session": f"{office.name} {number + nth}", "at": at.isoformat()}
                    lines.append(json.dumps(said | {"action": step[0], "outcome": step[1]}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return len(lines)


def _steps(drawn: random.Random, trouble: Trouble, remedy: str, helped: bool) -> Iterator[tuple[str, str]]:
    yield "plan", "success"
    yield trouble.action, trouble.outcome
    yield remedy, "success"
    yield trouble.action, "success" if helped else trouble.outcome
    for action in drawn.sample(["rank", "store", "report"], 2):
        yield action, "success"


# The sites


@dataclass(slots=True)
class DemoSite:
    """A site with its own database and its own HTTP service, which is reachable while it is served."""

    office: Office
    atlas: Atlas
    listener: Any
    federation: Federation

    @property
    def name(self) -> str:
        return self.office.name

    @property
    def place(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"{host}:{port}"


@asynccontextmanager
async def _served(sites: Sequence[DemoSite]) -> AsyncIterator[None]:
    """Let other sites reach these during the block."""
    from maia.api import serving

    ready = [asyncio.Event() for _ in sites]
    tasks = [
        asyncio.create_task(serving.serve(site.atlas, site.listener, event.set))
        for site, event in zip(sites, ready, strict=True)
    ]
    waiting = asyncio.create_task(_all_of(ready))
    try:
        ended, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for each in ended:
            await each
        yield
    finally:
        # All at once: after SIGTERM a process has ten seconds to end.
        for each in (waiting, *tasks):
            each.cancel()
        await asyncio.wait([waiting, *tasks])


async def _all_of(events: Sequence[asyncio.Event]) -> None:
    for each in events:
        await each.wait()


@asynccontextmanager
async def _opened(offices: Sequence[Office]) -> AsyncIterator[list[DemoSite]]:
    """Sites with a database each on one embedded server, each of which calls all others."""
    from pydantic import SecretStr

    from atlas import prefect_database
    from atlas.composition import Atlas
    from atlas.embedded import EmbeddedServer
    from maia.api import serving
    from maia.federation.running import Federation

    settings, token = load_settings(), SecretStr(secrets.token_urlsafe(32))
    async with AsyncExitStack() as stack:
        # Nothing of it is kept, so nothing has to be safe on disk.
        server = await stack.enter_async_context(
            EmbeddedServer.open(settings.data_folder, settings.database, durable=False)
        )
        settings = settings.model_copy(update={"database_url": SecretStr(server.dsn)})
        first = await stack.enter_async_context(Atlas.open(settings))
        listeners = []
        for _ in offices:
            listener = serving.listen("127.0.0.1", 0)
            stack.callback(listener.close)
            listeners.append(listener)
        urls = [SecretStr(serving.url_of(each, settings.api)) for each in listeners]
        sites = []
        for office, listener, own in zip(offices, listeners, urls, strict=True):
            database = await prefect_database.ensure(first.db, f"site_{office.name.lower()}")
            atlas = await stack.enter_async_context(
                Atlas.open(_settings(settings, database, token, [url for url in urls if url is not own]))
            )
            sites.append(DemoSite(office, atlas, listener, Federation(atlas)))
        yield sites


def _settings(settings: Settings, database: str, token: Any, peers: Sequence[Any]) -> Settings:
    from pydantic import SecretStr

    federation = settings.federation.model_copy(
        update={"cluster_name": "demo", "token": token, "peers": tuple(peers)}
    )
    api = settings.api.model_copy(update={"stop_timeout_s": 1.0})
    return settings.model_copy(
        update={"database_url": SecretStr(database), "federation": federation, "api": api}
    )


# What is shown


@dataclass(frozen=True, slots=True)
class Belief:
    """What a site believes of a remedy: how often it helped of how many times, and how sure that makes it."""

    helped: int
    tried: int
    confidence: float
    sites: int
    """How many sites counted it, of how many."""
    of_sites: int

    def __str__(self) -> str:
        return f"{self.confidence:.2f} ({self.helped}/{self.tried})"


@dataclass(frozen=True, slots=True)
class SiteState:
    """What a site knows at a step."""

    site: str
    patterns: int
    rows: int
    beliefs: Mapping[str, Belief]
    advice: str | None
    """What it would do about an upload that timed out."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the demo, and what came of it."""

    title: str
    about: str
    states: Sequence[SiteState]
    exchanges: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """All steps, and whether all sites ended at what one count of everything gives."""

    steps: Sequence[Step]
    rows_in_all: int
    agree: bool


class _Teller:
    """Takes the sites through the steps, and tells of each as it is done."""

    def __init__(self, sites: Sequence[DemoSite], folder: Path, *, quiet: bool) -> None:
        self._sites, self._folder, self._quiet = sites, folder, quiet
        self._threshold = sites[0].atlas.settings.learner.confidence_threshold
        self.steps: list[Step] = []

    async def tell(self) -> Story:
        from maia.learning.evidence import merge

        *others, last = self._sites
        names = " and ".join([", ".join(each.name for each in others[:-1]), others[-1].name])
        async with AsyncExitStack() as stack:
            await self._learn()
            everything = merge(*[await _rows(site) for site in self._sites])
            await stack.enter_async_context(_served(others))
            done = await self._sync(others[0])
            await self._step(
                f"{names} exchange what they counted; {last.name} is cut off",
                "They send each other what they counted, never conclusions: each judges the sum.\n"
                "A record is a pattern's text, or what one site counted of it on one day.",
                done,
            )
            await stack.enter_async_context(_served([last]))
            await self._step(
                f"{last.name} is back",
                "What one site brings goes on to the next, and what arrives twice counts once.",
                [*await self._sync(last), *await self._sync(others[0])],
            )
            await _forget(self._sites[1])
            spread = [each for site in self._sites for each in await self._sync(site)]
            await self._step(
                f"Somebody at {self._sites[1].name} deletes {FORGOTTEN!r} (maia patterns forget)",
                "What people delete is deleted at all sites, with all that was counted of it.\n"
                "What a site drops by itself, when it has too many patterns, stays at the others.",
                spread,
            )
            return await self._end(everything)

    async def _learn(self) -> None:
        from maia.learner.teaching import Log, teach

        lines = []
        for site in self._sites:
            path = self._folder / f"{site.name}.jsonl"
            count = await asyncio.to_thread(write_log, path, site.office, site.atlas.clock.now())
            await teach(site.atlas, Log.of(path, None, {"outcome": "outcome"}, AGENT))
            lines.append(f"{count:,} at {site.name}")
        await self._step(
            "Each site learns by itself",
            "A site is a Pleiades with its own database. Each reads what its own agents did,\n"
            "and learns which remedies help when an action fails. Steps in the logs:\n"
            f"{', '.join(lines)}.\n"
            "0.79 (36/40): it helped 36 of 40 times, so it does at least 79 % of the time,\n"
            f"with 95 % certainty. A site advises the surest, unless that is below {self._threshold:g}.\n"
            "Remedies are for different failures: 'restart worker' and 'split batch' are\n"
            "those for a timeout.",
        )

    async def _step(self, title: str, about: str, done: Sequence[Mapping[str, Any]] = ()) -> None:
        states = [await _state(site) for site in self._sites]
        step = Step(title, about, states, done)
        self.steps.append(step)
        if not self._quiet:
            _print_step(len(self.steps), step)

    async def _sync(self, site: DemoSite) -> list[dict[str, Any]]:
        names = {each.place: each.name for each in self._sites}
        return [
            {
                "caller": site.name, "called": names[each.place], "messages": each.messages,
                "sent": each.sent, "received": each.received,
                "bytes": each.bytes_sent + each.bytes_received, "failed": each.failed,
            }
            for each in await site.federation.sync()
        ]  # fmt: skip

    async def _end(self, everything: Evidence) -> Story:
        """Whether every site holds all that was counted apart, but of what was forgotten."""
        held = [await _rows(site) for site in self._sites]
        copies = _patterns(self._sites[0]).all_patterns()
        forgotten = {each.id async for each in copies if each.forgotten_by == "operator"}
        truth = {key: row for key, row in everything.items() if key.pattern_id not in forgotten}
        story = Story(self.steps, len(truth), all(rows == truth for rows in held))
        if not self._quiet:
            agree = "All sites agree: each holds" if story.agree else "The sites do NOT agree: not each holds"
            print_text(
                f"{agree} exactly the {story.rows_in_all} rows of evidence\n"
                "that were counted anywhere and not deleted, whoever called whom, and when."
            )
        return story


async def _state(site: DemoSite) -> SiteState:
    from maia.learning.patterns import PatternType
    from maia.views import patterns as views

    found = await views.patterns(site.atlas)
    beliefs = {
        each.action: Belief(each.pos, each.support, round(each.confidence, 3), each.sites, each.of_sites)
        for each in found
        if each.type is PatternType.ERROR_RECOVERY and each.action in SHOWN
    }
    advice = await views.advice(site.atlas, STUCK)
    return SiteState(
        site.name,
        len(found),
        len(await _rows(site)),
        beliefs,
        advice.actions[0].action if advice.actions else None,
    )


async def _forget(site: DemoSite) -> None:
    dao = _patterns(site)
    ids = [each.id for each in await dao.known() if each.action == FORGOTTEN]
    await dao.forget(ids, "operator")


async def _rows(site: DemoSite) -> Evidence:
    from maia.learning.evidence import EvidenceKey, EvidenceRow

    return {
        EvidenceKey(row.pattern_id, row.node, row.day): EvidenceRow(
            row.pos, row.neg, row.sum_reward, row.last_seen, row.version
        )
        async for row in _patterns(site).all_evidence()
    }


def _patterns(site: DemoSite) -> PatternsDAO:
    from atlas.adapters.patterns import PatternsDAO

    return PatternsDAO(site.atlas.db, clock=site.atlas.clock, settings=site.atlas.settings)


def _print_step(number: int, step: Step) -> None:
    print_text(f"{number}. {step.title}\n{step.about}")
    for each in step.exchanges:
        print_text(_told(each))
    print_text("")
    rows: list[tuple[object, ...]] = [
        (remedy, *(state.beliefs.get(remedy) for state in step.states), _seen_at(step, remedy))
        for remedy in SHOWN
    ]
    rows += [
        ("advice after a timeout", *(state.advice or "no advice" for state in step.states), ""),
        ("patterns, evidence rows", *(f"{state.patterns}, {state.rows}" for state in step.states), ""),
    ]
    names = [Column(state.site, 8) for state in step.states]
    print_table((Column("remedy", 18), *names, Column("seen at", 6, rank=1)), rows)


def _seen_at(step: Step, remedy: str) -> str:
    belief = step.states[0].beliefs.get(remedy)
    return "" if belief is None else f"{belief.sites} of {belief.of_sites}"


def _told(exchange: Mapping[str, Any]) -> str:
    calls = f"  {exchange['caller']} calls {exchange['called']}"
    if exchange["failed"]:
        return f"{calls}, but can't reach it"
    return (
        f"{calls}, sends {counted(exchange['sent'], 'record')} and gets {exchange['received']} "
        f"({counted(exchange['bytes'], 'byte')})"
    )


def show(count: int, *, as_json: bool) -> None:
    """Run the demo of so many sites."""
    from maia.views.words import plain

    say = console(stderr=True).print
    # A site that is cut off is part of the story, and no warning.
    os.environ.setdefault("PLEIADES_LOG__LEVEL", "ERROR")
    with workshop() as folder:
        say(f"PostgreSQL is starting, with a database for each of {count} sites …")
        story = asyncio.run(_tell(folder, count, quiet=as_json))
    if as_json:
        print_json(plain(story))
    if not story.agree:
        raise typer.Exit(ExitStatus.FAILED)


async def _tell(folder: Path, count: int, *, quiet: bool) -> Story:
    from maia.cycle.signals import cancelled_by_sigterm

    with cancelled_by_sigterm():
        async with _opened(OFFICES[:count]) as sites:
            return await _Teller(sites, folder, quiet=quiet).tell()

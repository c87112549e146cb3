"""KeyRing: API keys, granted call by call out of a quota ledger that every process shares.

YouTube counts quota by project, bucket and Pacific day. A ring may spend its share of a bucket less a
reserve, at the pace of the day. A call's units are reserved before it is sent and used once it ends; those of
a process that dies in between stay reserved, for the API may have counted them. Each key has a circuit
breaker: failures in a row open it, and after a rest one call at a time probes whether the key works again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

from pydantic import SecretStr

from atlas.clock import pacific_day, pacific_midnight
from atlas.config import BUCKETS, RINGS, Bucket, RingName
from atlas.errors import ConfigError, DatabaseError, RingClosed
from atlas.pacing import Allowance

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.db import Executor, Row

logger = logging.getLogger(__name__)

_random = random.SystemRandom()

_LONGEST_REST_S = 3600.0
_LONGEST_COOL_DOWN_S = 24 * 3600.0
_LONGEST_REASON = 500
_TRIES = 10
_SETTLING_GRACE_S = 1.0
_DAWN = timedelta(minutes=10)


class KeyState(StrEnum):
    """A key's circuit: closed, open, open with a probe under way; or the key is out of use."""

    ACTIVE = "active"
    OPEN = "open"
    HALF_OPEN = "half-open"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Grant:
    """Leave to make one call with `key`, paid for in the ledger of `day`.

    `probe` is set on the call that tests an open circuit, and tells it from later ones.
    """

    ring: RingName
    bucket: Bucket
    units: int
    project: str
    key: SecretStr
    fingerprint: str
    day: date
    granted_at: datetime
    probe: datetime | None = None


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a call would be granted now; if not, why, and from when on (None: not by itself)."""

    open: bool
    reopens_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How one key stands. `calls`: answered on this Pacific day; `retry_at`: when it may be tried again."""

    fingerprint: str
    project: str
    state: KeyState
    reason: str | None
    failures: int
    calls: int
    retry_at: datetime | None


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A ring's account of one project's bucket on this Pacific day, in units.

    `limit` is the project's, `ring_limit` the most the ring may spend in the day, `allowed` what pace admits
    of that by now, `left` what it can still spend today; `project_spent` is what all rings used or reserved.
    """

    ring: RingName
    bucket: Bucket
    project: str
    limit: int
    ring_limit: int
    allowed: int
    used: int
    reserved: int
    left: int
    project_spent: int
    closed_until: datetime | None
    reason: str | None
    keys: tuple[KeyStatus, ...]


class KeyRing:
    """The keys of one ring, and its part of the quota."""

    def __init__(self, name: RingName, *, atlas: Atlas | None = None) -> None:
        """Take the keys of ring `name` from the settings; EmptyKeyRing if there is none.

        Without `atlas` the current one is used.
        """
        if atlas is None:
            from atlas.composition import current

            atlas = current()
        if name not in RINGS:
            raise ConfigError(f"there is no ring {name!r}; the rings are {', '.join(RINGS)}")
        self.name: RingName = name
        self._db, self._clock, self._notifier = atlas.db, atlas.clock, atlas.notifier
        self._quota, self._probe_s = atlas.settings.quota, atlas.settings.youtube.total_timeout_s
        self._keys = {key.fingerprint: key for key in atlas.settings.ring_keys(name)}
        self._key_columns = [list(self._keys), [key.project for key in self._keys.values()]]
        self._projects = sorted(set(self._key_columns[1]))
        self._allowances = {
            (project, bucket): Allowance.of(self._quota, project, name, bucket)
            for project in self._projects
            for bucket in BUCKETS
        }
        self._registered = False
        self._ended: WeakSet[Grant] = WeakSet()
        self._gather_s = 0.0
        self._answered: list[Grant] = []
        self._gathered = asyncio.Event()
        self._settler: asyncio.Task[None] | None = None
        self._waiting: dict[tuple[Bucket, ...], _Waiting] = {}
        self._buyers: dict[tuple[Bucket, ...], asyncio.Task[None]] = {}
        if len(self._projects) > 1:
            logger.warning(
                "ring %r spends the quota of several projects (%s), which are separate, permitted clients "
                "by PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED",
                name,
                ", ".join(self._projects),
                extra={"action": "several_projects"},
            )

    def __repr__(self) -> str:
        return f"<KeyRing {self.name} of {', '.join(self._keys)}>"

    async def acquire(self, bucket: Bucket, units: int = 1) -> Grant:
        """Reserve `units` for one call and choose its key; RingClosed says why not, and until when.

        Prefers the project with most room, in it a key due for its probe, then the key that failed least and
        served least.
        """
        if units < 1:
            raise ValueError(f"a call costs at least 1 unit, not {units}")
        if self._gather_s and units == 1:
            return (await self._acquire_together((bucket,)))[0]
        return await self._acquire_alone(bucket, units)

    async def _acquire_alone(self, bucket: Bucket, units: int) -> Grant:
        for _ in range(_TRIES):
            if grants := await self._reserve([bucket], units):
                return grants[0]
            # Open after all: another process took the place seen free, or has just left one.
            verdict = await self.availability(bucket, units)
            if not verdict.open:
                raise RingClosed(self.name, bucket, verdict.reopens_at, verdict.reason)
        soon = self._clock.now() + timedelta(seconds=1)
        raise RingClosed(self.name, bucket, soon, "other processes take every unit as it comes free")

    async def acquire_each(self, buckets: Sequence[Bucket]) -> list[Grant]:
        """Reserve a unit of each bucket for calls of which one leads to the next, all or none, at once."""
        if self._gather_s:
            return await self._acquire_together(tuple(buckets))
        return await self._acquire_bundle(tuple(buckets))

    async def _acquire_bundle(self, buckets: tuple[Bucket, ...]) -> list[Grant]:
        if len(buckets) > 1 and (grants := await self._reserve(buckets, 1)):
            return grants
        grants = []
        try:
            for bucket in buckets:
                grants.append(await self._acquire_alone(bucket, 1))
        except RingClosed:
            await self._cancel_all(grants)
            raise
        return grants

    async def _acquire_together(self, buckets: tuple[Bucket, ...]) -> list[Grant]:
        """Wait for a grant of each bucket out of the next statement that reserves for all who wait."""
        waiting = self._waiting.setdefault(buckets, deque())
        granted: asyncio.Future[list[Grant]] = asyncio.get_running_loop().create_future()
        waiting.append(granted)
        if buckets not in self._buyers:
            self._buyers[buckets] = asyncio.create_task(self._buy(buckets, waiting))
        return await granted

    async def _buy(self, buckets: tuple[Bucket, ...], waiting: _Waiting) -> None:
        """Reserve for those who wait, until nobody does; what refuses one refuses all who wait just now."""
        try:
            while waiting:
                bundles = await self._acquire_some(buckets, len(waiting))
                for granted in _drained(waiting, len(bundles)):
                    granted.set_result(bundles.pop())
                # Of calls that were cancelled meanwhile.
                await self._cancel_all(grant for bundle in bundles for grant in bundle)
        except Exception as error:  # noqa: BLE001 - it is handed to those who asked
            for granted in _drained(waiting, len(waiting)):
                granted.set_exception(error)
        finally:
            # At once, lest somebody wait for a buyer that is through.
            del self._buyers[buckets]

    async def _acquire_some(self, buckets: tuple[Bucket, ...], most: int) -> list[list[Grant]]:
        """Grants of a unit each by one statement; those of one call where there is no room for all."""
        if most > 1 and (reserved := await self._reserve(buckets, most)):
            bundles = [[replace(grant, units=1) for grant in reserved] for _ in range(most)]
            if reserved[0].probe is None:
                return bundles
            # One call at a time tests an open circuit.
            await self._cancel_all(replace(grant, probe=None) for bundle in bundles[1:] for grant in bundle)
            return bundles[:1]
        return [await self._acquire_bundle(buckets)]

    async def settle(self, grant: Grant, units: int | None = None) -> None:
        """The call was answered: it used `units`, by default those granted, and its key works.

        Of all that may end a grant, only the first moves its units.
        """
        gathers = self._gather_s and units is None and grant.probe is None
        if not gathers or grant.day != pacific_day(self._clock.now()):
            await self._settle(self._db, grant, units, answered=True)
        elif self._end(grant):
            self._answered.append(grant)
            if self._settler is None or self._settler.done():
                self._settler = asyncio.create_task(self._settle_gathered())

    @asynccontextmanager
    async def settling_together(self, within_s: float) -> AsyncIterator[None]:
        """Within it, answered calls are gathered for `within_s` and settled by one statement, and calls that
        ask for a unit at the same time are granted by one.

        Their units stay reserved meanwhile, and for good if the process dies, which errs on the safe side.
        """
        self._gather_s = within_s
        self._gathered.clear()
        try:
            yield
        finally:
            self._gather_s = 0.0
            self._gathered.set()
            if self._settler is not None:
                await asyncio.wait({self._settler}, timeout=_SETTLING_GRACE_S)
                self._settler.cancel()

    async def cancel(self, grant: Grant) -> None:
        """The call was never sent: give its units back."""
        if units := self._end(grant):
            account = (grant.ring, grant.project, grant.bucket, grant.day, units)
            await self._db.execute("keyring.cancel", *account, grant.fingerprint, grant.probe)

    async def fail(self, grant: Grant, reason: str) -> None:
        """The call was sent and failed for now: it counts as used, and against its key."""
        reason = _plain(grant, reason)
        async with self._db.transaction() as transaction:
            key = await transaction.fetchrow("keyring.count_failure", grant.fingerprint, reason)
            retry_at = self._rest(grant, key) if key else None
            if retry_at:
                await transaction.execute("keyring.open_circuit", grant.fingerprint, retry_at)
            await self._settle(transaction, grant, answered=False)
        if retry_at:
            what = (grant.fingerprint, _spoken(retry_at), reason)
            logger.warning("%s rests until %s: %s", *what, extra={"action": "circuit_opened"})

    async def close_day(self, grant: Grant, reason: str) -> datetime:
        """The project's quota of that day is spent: close the bucket until the day ends; returns when.

        A bucket closed all through yesterday and refused again at dawn waits for a reset that is late, or for
        clocks that differ: it opens once more after ten minutes, lest the new day be lost.
        """
        dawn = pacific_midnight(grant.day)
        until = pacific_midnight(grant.day + timedelta(days=1))
        async with self._db.transaction() as transaction:
            await self._settle(transaction, grant, answered=True)
            if grant.granted_at < dawn + _DAWN:
                yesterday = (grant.project, grant.bucket, grant.day - timedelta(days=1))
                if await transaction.fetchval("keyring.closed_until", *yesterday) == dawn:
                    until = dawn + _DAWN
            return await self._close(transaction, grant, grant.day, until, reason, cool_down_s=0)

    async def cool_down(self, grant: Grant, retry_after_s: float | None, reason: str) -> datetime:
        """Calls come too fast: close the project's bucket for a while, and return until when.

        Without `retry_after_s` that is the settings' cool-down with jitter, doubled if the last did not help.
        """
        now = self._clock.now()
        async with self._db.transaction() as transaction:
            today = (await self._settle(transaction, grant, answered=True))[-1]
            cool_down_s = retry_after_s
            if cool_down_s is None:
                cool_down_s = self._back_off_s(now, today["closed_until"], today["cool_down_s"])
            cool_down_s = min(max(1.0, cool_down_s), _LONGEST_COOL_DOWN_S)
            jitter = _random.uniform(1, 1.25) if retry_after_s is None else 1
            until = now + timedelta(seconds=cool_down_s * jitter)
            return await self._close(transaction, grant, pacific_day(now), until, reason, cool_down_s)

    async def disable_key(self, grant: Grant, reason: str) -> None:
        """The key is dead or misconfigured: alert its operator, and use it in no ring until `enable_key`."""
        reason = _plain(grant, reason)
        async with self._db.transaction() as transaction:
            await transaction.execute("keyring.disable_key", grant.fingerprint, reason)
            await self._settle(transaction, grant, answered=False)
        await self._notifier.notify(
            f"API key {grant.fingerprint} is disabled",
            f"Project {grant.project!r}, ring {self.name!r}: {reason}. It stays out of use until you mend "
            f"the cause and run `maia keys --enable {grant.fingerprint}`, or replace the key.",
            level="error",
            key=grant.fingerprint,
        )

    async def enable_key(self, fingerprint: str) -> None:
        """Put a key back into use, its cause being mended; ConfigError if nobody knows it."""
        if not await self._db.execute("keyring.enable_key", fingerprint):
            raise ConfigError(f"no key has the fingerprint {fingerprint!r}; `maia keys` lists them")
        logger.info("%s is enabled", fingerprint, extra={"action": "key_enabled"})

    async def availability(self, bucket: Bucket, units: int = 1) -> Availability:
        """Whether `acquire` would grant now, without reserving anything."""
        return self.verdict(await self._lines([bucket], self._clock.now()), bucket, units)

    def verdict(self, ledger: Sequence[LedgerLine], bucket: Bucket, units: int = 1) -> Availability:
        """What `availability` says of a bucket, by a reading of the `ledger`."""
        now = self._clock.now()
        verdicts = [self._judge(line, units, now) for line in ledger if line.bucket == bucket]
        return min(verdicts, key=lambda verdict: (verdict.reopens_at is None, verdict.reopens_at or now))

    async def ledger(self) -> list[LedgerLine]:
        """This ring's account today, by bucket and project, with the keys of each."""
        return await self._lines(BUCKETS, self._clock.now())

    # Reserving and settling

    async def _register(self) -> None:
        if not self._registered:
            await self._db.execute("keyring.register_keys", *self._key_columns)
            self._registered = True

    async def _reserve(self, buckets: Sequence[Bucket], units: int) -> list[Grant]:
        """Grants of one key in the order of the buckets; none if one of them has no room."""
        await self._register()
        now = self._clock.now()
        day = pacific_day(now)
        terms = [(p, b, self._allowance(p, b)) for p in self._projects for b in buckets]
        columns = zip(*((p, b, a.limit, a.at(now)) for p, b, a in terms), strict=True)
        offer = (*columns, *self._key_columns, self._probe_s)
        rows = await self._db.fetch("keyring.reserve", self.name, day, now, units, *offer)
        grants = [self._granted(row, units, day, now) for row in rows]
        if len(grants) < len(buckets):
            await self._cancel_all(grants)
            return []
        grants.sort(key=lambda grant: buckets.index(grant.bucket))
        # The first call is the probe of an open circuit; the others are made once it was answered.
        return grants[:1] + [replace(grant, probe=None) for grant in grants[1:]]

    def _granted(self, row: Row, units: int, day: date, now: datetime) -> Grant:
        key = self._keys[row["fingerprint"]]
        return Grant(
            self.name, row["bucket"], units, key.project, key.key, key.fingerprint, day, now, row["probe"]
        )

    async def _cancel_all(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            await self.cancel(grant)

    async def _settle(
        self, executor: Executor, grant: Grant, units: int | None = None, *, answered: bool
    ) -> list[Row]:
        granted = self._end(grant)
        used = granted if units is None or not granted else units
        days = sorted({grant.day, max(grant.day, pacific_day(self._clock.now()))})
        harmless = executor is self._db and len(days) == 1
        account = (grant.ring, grant.project, grant.bucket, days, granted, used)
        return await executor.fetch("keyring.settle", *account, answered, grant.fingerprint, harmless, 1)

    async def _settle_gathered(self) -> None:
        """Settle what is gathered, until nothing is."""
        while self._answered:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gathered.wait(), self._gather_s)
            accounts: dict[tuple[str, Bucket, date, str], list[int]] = {}
            for grant in self._answered:
                account = (grant.project, grant.bucket, grant.day, grant.fingerprint)
                accounts.setdefault(account, []).append(grant.units)
            self._answered.clear()
            for (project, bucket, day, fingerprint), units in accounts.items():
                spent = (self.name, project, bucket, [day], sum(units), sum(units))
                try:
                    await self._db.fetch("keyring.settle", *spent, True, fingerprint, True, len(units))
                except DatabaseError as error:
                    message = "%d units stay reserved, as the ledger could not be told of their use: %s"
                    logger.warning(message, sum(units), error, extra={"action": "settling_failed"})

    def _end(self, grant: Grant) -> int:
        """The units that the grant still holds: all of them the first time, then none."""
        if grant in self._ended:
            return 0
        self._ended.add(grant)
        return grant.units

    # Closings and circuits

    async def _close(
        self, transaction: Executor, grant: Grant, day: date, until: datetime, reason: str, cool_down_s: float
    ) -> datetime:
        last = pacific_day(until - timedelta(microseconds=1))
        days = [day + timedelta(days=n) for n in range((last - day).days + 1)]
        closing = (grant.project, grant.bucket, days, until, _plain(grant, reason), cool_down_s)
        rows = await transaction.fetch("keyring.close", *closing)
        holds: datetime = max(row["closed_until"] for row in rows)
        what = (grant.bucket, grant.project, _spoken(holds), closing[4])
        message = "bucket %r of project %r is closed until %s: %s"
        logger.warning(message, *what, extra={"action": "bucket_closed"})
        return holds

    def _back_off_s(self, now: datetime, closed_until: datetime | None, last_s: float) -> float:
        """The settings' cool-down, or twice the last one if that ended less than its own length ago."""
        first_s = self._quota.cool_down_s
        if closed_until is None or now - closed_until > timedelta(seconds=last_s):
            return first_s
        if now < closed_until:
            return max(first_s, last_s)
        return max(first_s, min(2 * last_s, _LONGEST_REST_S))

    def _rest(self, grant: Grant, key: Row) -> datetime | None:
        """Until when a key that failed must rest; None if it need not, or does already."""
        worn = key["state"] == KeyState.ACTIVE and key["failures"] >= self._quota.failures_to_open
        probed = grant.probe is not None and key["probe_until"] == grant.probe
        if not (worn or probed):
            return None
        first_s = self._quota.open_s
        rest_s = first_s * 2 ** min(key["openings"], 30)
        return self._clock.now() + timedelta(seconds=min(rest_s, max(first_s, _LONGEST_REST_S)))

    # Reading

    def _allowance(self, project: str, bucket: Bucket) -> Allowance:
        return self._allowances[project, bucket]

    async def _lines(self, buckets: Sequence[Bucket], now: datetime) -> list[LedgerLine]:
        rows = await self._db.fetch(
            "keyring.standing", self.name, list(buckets), pacific_day(now), *self._key_columns
        )
        accounts: dict[tuple[Bucket, str], list[Row]] = {}
        for row in rows:
            accounts.setdefault((row["bucket"], row["project"]), []).append(row)
        return [self._line(bucket, project, of_keys, now) for (bucket, project), of_keys in accounts.items()]

    def _line(self, bucket: Bucket, project: str, rows: Sequence[Row], now: datetime) -> LedgerLine:
        row, allowance = rows[0], self._allowance(project, bucket)
        spent = row["used"] + row["reserved"]
        closed = row["closed_until"] is not None and row["closed_until"] > now
        return LedgerLine(
            ring=self.name,
            bucket=bucket,
            project=project,
            limit=allowance.limit,
            ring_limit=allowance.ring_limit,
            allowed=allowance.at(now),
            used=row["used"],
            reserved=row["reserved"],
            left=max(0, min(allowance.ring_limit - spent, allowance.limit - row["project_spent"])),
            project_spent=row["project_spent"],
            closed_until=row["closed_until"] if closed else None,
            reason=row["reason"] if closed else None,
            keys=tuple(_key_status(row, now) for row in rows),
        )

    def _judge(self, line: LedgerLine, units: int, now: datetime) -> Availability:
        """Open, or closed by whichever obstacle lasts longest."""
        keys_at = _first_usable(line.keys, now)
        if keys_at is None:
            return Availability(False, None, _no_key(line.keys))
        opens = partial(
            self._allowance(line.project, line.bucket).opens,
            units,
            spent=line.used + line.reserved,
            left=line.left,
            today=pacific_day(now),
        )
        room_at = opens(ready=now)
        if room_at is None:
            return Availability(False, None, _no_room(line, units))
        obstacles = [
            (line.closed_until or now, f"project {line.project!r}: {line.reason}"),
            (keys_at, _no_key(line.keys)),
            (room_at, _no_room(line, units)),
        ]
        latest, reason = max(obstacles, key=lambda obstacle: obstacle[0])
        if latest <= now:
            return Availability(True, now, "open")
        return Availability(False, opens(ready=latest), reason)


def _key_status(row: Row, now: datetime) -> KeyStatus:
    retry_at = row["retry_at"]
    if row["key_state"] == KeyState.HALF_OPEN:
        retry_at = max(retry_at, now + timedelta(seconds=row["probe_left_s"]))
    return KeyStatus(
        fingerprint=row["fingerprint"],
        project=row["project"],
        state=KeyState(row["key_state"]),
        reason=row["key_reason"],
        failures=row["failures"],
        calls=row["calls"],
        retry_at=retry_at,
    )


_Waiting: TypeAlias = deque[asyncio.Future[list[Grant]]]


def _drained(waiting: _Waiting, most: int) -> Iterator[asyncio.Future[list[Grant]]]:
    """The first of those who wait, out of the queue, without those who wait no more."""
    while waiting and most:
        granted = waiting.popleft()
        if not granted.done():
            most -= 1
            yield granted


def _first_usable(keys: Iterable[KeyStatus], now: datetime) -> datetime | None:
    usable = [max(now, key.retry_at or now) for key in keys if key.state != KeyState.DISABLED]
    return min(usable, default=None)


def _no_key(keys: Iterable[KeyStatus]) -> str:
    return "no key may call: " + "; ".join(f"{key.fingerprint} is {key.state} ({key.reason})" for key in keys)


def _no_room(line: LedgerLine, units: int) -> str:
    spent = line.used + line.reserved
    if not line.ring_limit:
        group = f"{line.ring}__{line.bucket}".upper()
        return (
            f"the settings leave it none of the {line.limit} units a day of project {line.project!r} "
            f"(PLEIADES_QUOTA__SHARES__{group}, less PLEIADES_QUOTA__RESERVE)"
        )
    if units > line.ring_limit:
        return f"{units} units at once are more than its {line.ring_limit} a day"
    if line.project_spent + units > line.limit:
        return f"the {line.limit} units a day of project {line.project!r} are spent or reserved"
    if spent + units > line.ring_limit:
        return f"its {line.ring_limit} units of the day are spent or reserved"
    return f"it keeps pace with the day: {spent} of its {line.ring_limit} units are spent or reserved"


def _plain(grant: Grant, reason: str) -> str:
    """A reason as the ledger and logs may hold it: without the key, and text that PostgreSQL takes."""
    text = reason.replace(grant.key.get_secret_value(), grant.fingerprint).replace("\0", "").strip()
    return text.encode("utf-8", "replace").decode()[:_LONGEST_REASON] or "no reason given"


def _spoken(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"

"""KeyRing: grant API keys call by call, within a quota ledger that all processes share.

YouTube counts quota by project, bucket and Pacific day. A ring may spend its share of a bucket, less a
reserve, spread over the day. The share of archeology, a ring that need not have an agent, is lent to the
other rings in proportion to their shares. When archeology asks for a unit, it gets back what is unspent of
its share, for that day and the next.

A call's units are reserved before it is sent, and turned into used ones when it ends. If the process dies in
between, they stay reserved, because the API may have counted them. Each key has a circuit breaker:
consecutive failures open it, and after a rest one call at a time probes whether the key works again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from pydantic import SecretStr

from atlas.clock import pacific_day, pacific_midnight
from atlas.config import BUCKETS, RINGS, Bucket, QuotaSettings, RingName
from atlas.errors import ConfigError, RingClosed
from atlas.pacing import LENDER, Allowance, loan
from atlas.recovery import Backoff
from atlas.wording import counted

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.db import Executor, Row

logger = logging.getLogger(__name__)

_random = random.SystemRandom()

_LONGEST_REST_S = 3600.0
_LONGEST_COOL_DOWN_S = 24 * 3600.0
_LONGEST_REASON = 500
_ATTEMPTS = 10
_LATE_RESET = timedelta(minutes=10)
_BORROWERS: tuple[RingName, ...] = ("hunting", "tracking")


class KeyState(StrEnum):
    """The state of a key's circuit: closed, open, open with a probe in progress; or the key is disabled."""

    ACTIVE = "active"
    OPEN = "open"
    HALF_OPEN = "half-open"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Grant:
    """Permission to make one call with `key`, whose units are reserved in the ledger of `day`.

    `probe` is set if the call probes an open circuit, and identifies that probe.
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
    """Whether a call would be granted now; if not, why, and when it will be (None: not until you act)."""

    open: bool
    reopens_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key's state. `calls` were answered on this Pacific day; `retry_at` is when it may be tried again."""

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

    `limit` is the project's limit, `ring_limit` the most that the ring may spend in the day, `allowed` what
    pacing allows of that by now, and `left` what it can still spend today. `project_spent` is what all rings
    used or reserved. `loan` is the part of `ring_limit` that archeology lends; for archeology itself it is
    negative, and `spent_by_others` is what the other rings have spent of its share.
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
    loan: int = 0
    spent_by_others: int = 0

    @property
    def free_now(self) -> int:
        """The units that the ring may spend by now."""
        return max(0, min(self.allowed - self.used - self.reserved, self.left))


class KeyRing:
    """The keys of one ring, and its part of the quota."""

    def __init__(self, name: RingName, *, atlas: Atlas | None = None) -> None:
        """Read the keys of ring `name` from the settings; EmptyKeyRing if there are none.

        `atlas` defaults to the current one.
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
        self._accounts = {
            (project, bucket): _RingAccount.of(self._quota, project, name, bucket)
            for project in self._projects
            for bucket in BUCKETS
        }
        self._registered = False
        self._ended: WeakSet[Grant] = WeakSet()
        if len(self._projects) > 1:
            logger.warning(
                "Ring %r spends the quota of several projects (%s), which are separate, permitted clients "
                "according to PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED",
                name,
                ", ".join(self._projects),
                extra={"action": "several_projects"},
            )

    def __repr__(self) -> str:
        return f"<KeyRing {self.name} of {', '.join(self._keys)}>"

    async def acquire(self, bucket: Bucket, units: int = 1) -> Grant:
        """Reserve `units` for one call and choose its key; RingClosed says why not, and until when.

        It prefers the project with the most room, and in it a key due for a probe, then the key with the
        fewest failures and the fewest calls.
        """
        if units < 1:
            raise ValueError(f"a call costs at least 1 unit, not {units}")
        for _ in range(_ATTEMPTS):
            if grants := await self._reserve([bucket], units):
                return grants[0]
            # If it is open after all, another process took the free units, or has just released some.
            availability = await self.availability(bucket, units)
            if not availability.open:
                raise RingClosed(self.name, bucket, availability.reopens_at, availability.reason)
        soon = self._clock.now() + timedelta(seconds=1)
        raise RingClosed(self.name, bucket, soon, "other processes use every unit as soon as it is free")

    async def acquire_each(self, buckets: Sequence[Bucket]) -> list[Grant]:
        """Reserve one unit of each bucket, or none: for calls that are only useful together."""
        if len(buckets) > 1 and (grants := await self._reserve(buckets, 1)):
            return grants
        # No single project has room in all of them, but several may; if not, the refusal names the bucket.
        grants = []
        try:
            for bucket in buckets:
                grants.append(await self.acquire(bucket))
        except RingClosed:
            await self._cancel_all(grants)
            raise
        return grants

    async def settle(self, grant: Grant) -> None:
        """The call was answered: count its units as used, and its key as working.

        Several methods end a grant; only the first one called moves its units.
        """
        await self._settle(self._db, grant, answered=True)

    async def cancel(self, grant: Grant) -> None:
        """The call was never sent: release its units."""
        if units := self._end(grant):
            account = (grant.ring, grant.project, grant.bucket, grant.day, units)
            await self._db.execute("keyring.cancel", *account, grant.fingerprint, grant.probe)

    async def fail(self, grant: Grant, reason: str) -> None:
        """The call was sent and failed transiently: count its units as used, and a failure of its key."""
        reason = _safe(grant, reason)
        async with self._db.transaction() as transaction:
            key = await transaction.fetchrow("keyring.count_failure", grant.fingerprint, reason)
            retry_at = self._rest(grant, key) if key else None
            if retry_at:
                await transaction.execute("keyring.open_circuit", grant.fingerprint, retry_at)
            await self._settle(transaction, grant, answered=False)
        if retry_at:
            what = (grant.fingerprint, _formatted(retry_at), reason)
            logger.warning("%s rests until %s: %s", *what, extra={"action": "circuit_opened"})

    async def close_day(self, grant: Grant, reason: str) -> datetime:
        """The project's quota for the day is spent: close the bucket until the day ends; returns when.

        If the bucket was closed until the day began and is refused again at once, YouTube's reset is late or
        its clock differs. Then it is closed for only ten minutes, so that the new day isn't lost.
        """
        day_start = pacific_midnight(grant.day)
        until = pacific_midnight(grant.day + timedelta(days=1))
        async with self._db.transaction() as transaction:
            await self._settle(transaction, grant, answered=True)
            if grant.granted_at < day_start + _LATE_RESET:
                yesterday = (grant.project, grant.bucket, grant.day - timedelta(days=1))
                if await transaction.fetchval("keyring.closed_until", *yesterday) == day_start:
                    until = day_start + _LATE_RESET
            return await self._close(transaction, grant, grant.day, until, reason, cool_down_s=0)

    async def cool_down(self, grant: Grant, retry_after_s: float | None, reason: str) -> datetime:
        """Calls come too fast: close the project's bucket for a while; returns until when.

        Without `retry_after_s` it uses the configured cool-down with jitter, doubled if the last one did not
        help.
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
        """The key is invalid or misconfigured: alert the operator, and don't use it until `enable_key`."""
        reason = _safe(grant, reason)
        async with self._db.transaction() as transaction:
            await transaction.execute("keyring.disable_key", grant.fingerprint, reason)
            await self._settle(transaction, grant, answered=False)
        await self._notifier.notify(
            f"API key {grant.fingerprint} is disabled",
            f"Project {grant.project!r}, ring {self.name!r}: {reason}. It is not used until you fix the "
            f"cause and run `maia keys --enable {grant.fingerprint}`, or replace the key.",
            level="error",
            key=grant.fingerprint,
        )

    async def enable_key(self, fingerprint: str) -> None:
        """Use a disabled key again, once its cause is fixed; ConfigError if there is no such key."""
        if not await self._db.execute("keyring.enable_key", fingerprint):
            raise ConfigError(f"no key has the fingerprint {fingerprint!r}; `maia keys` lists them")
        logger.info("%s is enabled", fingerprint, extra={"action": "key_enabled"})

    async def availability(self, bucket: Bucket, units: int = 1) -> Availability:
        """Whether `acquire` would grant now, without reserving anything."""
        return self.availability_in(await self._read_ledger([bucket], self._clock.now()), bucket, units)

    def availability_in(self, ledger: Sequence[LedgerLine], bucket: Bucket, units: int = 1) -> Availability:
        """The availability of a bucket according to `ledger`, which was read before."""
        now = self._clock.now()
        candidates = [self._availability_of(line, units, now) for line in ledger if line.bucket == bucket]
        return min(candidates, key=lambda each: (each.reopens_at is None, each.reopens_at or now))

    async def ledger(self) -> list[LedgerLine]:
        """This ring's accounts today, by bucket and project, with the keys of each."""
        return await self._read_ledger(BUCKETS, self._clock.now())

    # Reserving and settling

    async def _register(self) -> None:
        if not self._registered:
            await self._db.execute("keyring.register_keys", *self._key_columns)
            self._registered = True

    async def _reserve(self, buckets: Sequence[Bucket], units: int) -> list[Grant]:
        """Grants for one key, in the order of the buckets; empty if any bucket has no room."""
        await self._register()
        now = self._clock.now()
        day = pacific_day(now)
        accounts = [(project, bucket) for project in self._projects for bucket in buckets]
        columns = zip(*((*each, *self._accounts[each].terms(now)) for each in accounts), strict=True)
        offer = (*columns, *self._key_columns, self._probe_s)
        rows = await self._db.fetch("keyring.reserve", self.name, day, now, units, *offer)
        grants = [self._grant_of(row, units, day, now) for row in rows]
        if len(grants) < len(buckets):
            await self._cancel_all(grants)
            return []
        grants.sort(key=lambda grant: buckets.index(grant.bucket))
        # The first call probes an open circuit; the others are made after it was answered.
        return grants[:1] + [replace(grant, probe=None) for grant in grants[1:]]

    def _grant_of(self, row: Row, units: int, day: date, now: datetime) -> Grant:
        key = self._keys[row["fingerprint"]]
        return Grant(
            self.name, row["bucket"], units, key.project, key.key, key.fingerprint, day, now, row["probe"]
        )

    async def _cancel_all(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            await self.cancel(grant)

    async def _settle(self, executor: Executor, grant: Grant, *, answered: bool) -> list[Row]:
        units = self._end(grant)
        days = sorted({grant.day, max(grant.day, pacific_day(self._clock.now()))})
        may_be_lost = executor is self._db and len(days) == 1
        account = (grant.ring, grant.project, grant.bucket, days, units)
        return await executor.fetch("keyring.settle", *account, answered, grant.fingerprint, may_be_lost)

    def _end(self, grant: Grant) -> int:
        """Mark the grant as ended; returns its units the first time, then 0."""
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
        closing = (grant.project, grant.bucket, days, until, _safe(grant, reason), cool_down_s)
        rows = await transaction.fetch("keyring.close", *closing)
        holds: datetime = max(row["closed_until"] for row in rows)
        what = (grant.bucket, grant.project, _formatted(holds), closing[4])
        message = "bucket %r of project %r is closed until %s: %s"
        logger.warning(message, *what, extra={"action": "bucket_closed"})
        return holds

    def _back_off_s(self, now: datetime, closed_until: datetime | None, last_s: float) -> float:
        """The configured cool-down, or twice the last one if that ended less than its own duration ago."""
        first_s = self._quota.cool_down_s
        if closed_until is None or now - closed_until > timedelta(seconds=last_s):
            return first_s
        if now < closed_until:
            return max(first_s, last_s)
        return Backoff(first_s=first_s, longest_s=max(first_s, _LONGEST_REST_S)).following_s(last_s)

    def _rest(self, grant: Grant, key: Row) -> datetime | None:
        """Until when a key that failed must rest; None if it need not, or is resting already."""
        failed_too_often = key["state"] == KeyState.ACTIVE and key["failures"] >= self._quota.failures_to_open
        probe_failed = grant.probe is not None and key["probe_until"] == grant.probe
        if not (failed_too_often or probe_failed):
            return None
        first_s = self._quota.open_s
        rests = Backoff(first_s=first_s, longest_s=max(first_s, _LONGEST_REST_S))
        return self._clock.now() + timedelta(seconds=rests.pause_s(key["openings"]))

    # Reading

    async def _read_ledger(self, buckets: Sequence[Bucket], now: datetime) -> list[LedgerLine]:
        rows = await self._db.fetch(
            "keyring.standing", self.name, list(buckets), pacific_day(now), *self._key_columns
        )
        accounts: dict[tuple[Bucket, str], list[Row]] = {}
        for row in rows:
            accounts.setdefault((row["bucket"], row["project"]), []).append(row)
        return [self._line(bucket, project, of_keys, now) for (bucket, project), of_keys in accounts.items()]

    def _line(self, bucket: Bucket, project: str, rows: Sequence[Row], now: datetime) -> LedgerLine:
        row, account = rows[0], self._accounts[project, bucket]
        lending = not row["archeology_asked"]
        allowance, spent_by_others = account.allowance(lending=lending), account.spent_by_others(row)
        left = allowance.ring_limit - row["used"] - row["reserved"] - spent_by_others
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
            left=max(0, min(left, allowance.limit - row["project_spent"])),
            project_spent=row["project_spent"],
            closed_until=row["closed_until"] if closed else None,
            reason=row["reason"] if closed else None,
            keys=tuple(_key_status(row, now) for row in rows),
            loan=account.loan if lending else 0,
            spent_by_others=spent_by_others,
        )

    def _availability_of(self, line: LedgerLine, units: int, now: datetime) -> Availability:
        """Open, or closed for the reason that lasts longest."""
        keys_at = _usable_at(line.keys, now)
        if keys_at is None:
            return Availability(False, None, _no_key(line.keys))
        opens_at = partial(
            self._accounts[line.project, line.bucket].allowance(lending=line.loan > 0).opens_at,
            units,
            spent=line.used + line.reserved + line.spent_by_others,
            left=line.left,
            today=pacific_day(now),
        )
        room_at = opens_at(ready=now)
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
        return Availability(False, opens_at(ready=latest), reason)


@dataclass(frozen=True, slots=True)
class _RingAccount:
    """What a ring may spend of a project's bucket: its own share, and a loan (negative for the lender).

    `limits` are the units per day that hunting and tracking have of their own; what they spend beyond them
    comes from the lender's share.
    """

    own: Allowance
    loan: int
    limits: tuple[int, ...]
    lends: bool

    @classmethod
    def of(cls, quota: QuotaSettings, project: str, ring: RingName, bucket: Bucket) -> _RingAccount:
        limits = tuple(Allowance.of(quota, project, name, bucket).ring_limit for name in _BORROWERS)
        own, lent = Allowance.of(quota, project, ring, bucket), loan(quota, project, ring, bucket)
        return cls(own, lent, limits, ring == LENDER)

    def allowance(self, *, lending: bool) -> Allowance:
        return self.own.with_loan(self.loan) if lending and self.loan > 0 else self.own

    def terms(self, now: datetime) -> tuple[int, ...]:
        """The account as arguments of the statement `keyring.reserve`."""
        return self.own.limit, self.own.at(now), self.allowance(lending=True).at(now), *self.limits

    def spent_by_others(self, row: Row) -> int:
        """What the other rings have spent of this ring's share, if it is the lender."""
        spent = zip(_BORROWERS, self.limits, strict=True)
        return sum(max(0, row[f"{name}_spent"] - limit) for name, limit in spent) if self.lends else 0


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


def _usable_at(keys: Iterable[KeyStatus], now: datetime) -> datetime | None:
    usable = [max(now, key.retry_at or now) for key in keys if key.state != KeyState.DISABLED]
    return min(usable, default=None)


def _no_key(keys: Iterable[KeyStatus]) -> str:
    return "no key is usable: " + "; ".join(
        f"{key.fingerprint} is {key.state} ({key.reason})" for key in keys
    )


def _no_room(line: LedgerLine, units: int) -> str:
    spent = line.used + line.reserved + line.spent_by_others
    if not line.ring_limit:
        group = f"{line.ring}__{line.bucket}".upper()
        return (
            f"the settings give it none of the {counted(line.limit, 'unit')} a day of project "
            f"{line.project!r} (PLEIADES_QUOTA__SHARES__{group}, less "
            f"PLEIADES_QUOTA__RESERVE__{line.bucket.upper()})"
        )
    if units > line.ring_limit:
        at_once = counted(units, "unit at once is", "units at once are")
        return f"{at_once} more than its {line.ring_limit} a day"
    if line.project_spent + units > line.limit:
        of = f"a day of project {line.project!r}"
        return f"the {counted(line.limit, f'unit {of} is', f'units {of} are')} spent or reserved"
    if spent + units > line.ring_limit:
        of_ring = counted(line.ring_limit, "unit for the day is", "units for the day are")
        return f"its {of_ring} spent or reserved"
    of_ring = counted(line.ring_limit, "unit is", "units are")
    return f"pacing allows no more by now: {spent} of its {of_ring} spent or reserved"


def _safe(grant: Grant, reason: str) -> str:
    """A reason that is safe for the ledger and logs: without the key, and storable in PostgreSQL."""
    text = reason.replace(grant.key.get_secret_value(), grant.fingerprint).replace("\0", "").strip()
    return text.encode("utf-8", "replace").decode()[:_LONGEST_REASON] or "no reason given"


def _formatted(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"

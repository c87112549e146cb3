"""The exceptions that Atlas raises.

AtlasError
├── BackupError              a backup cannot be made, read or restored
│   ├── BackupDamaged        it is torn, tampered with or incomplete
│   └── BackupRunning        another process is making one
├── BusUnavailable           Redis cannot be reached, or refuses what it is asked
├── ConfigError              settings are missing, malformed or contradict each other
│   ├── ClockSkew            this machine's clock and the database's disagree
│   └── EmptyKeyRing         a ring has no key to call with
├── DatabaseError            PostgreSQL refused or failed a statement
│   ├── CannotStore          PostgreSQL has no space or is read-only: nothing can be stored now
│   ├── DatabaseUnavailable  no connection can be opened, or it broke
│   ├── DataRefused          a value violates a type, CHECK, key or NOT NULL
│   ├── EmbeddedServerError  the embedded server cannot be installed, started or reached
│   ├── MigrationError       the schema cannot be brought to this version
│   ├── QueryTooCostly       a query of the knowledge graph would read more than is allowed
│   ├── StatementTimeout     a statement, or its wait for a lock, took longer than the settings allow
│   ├── TransactionConflict  a deadlock or a serialization failure: run the transaction again
│   └── UnknownCursor        a place in the change feed of another database, or of before a restoration
├── LeaseLost                a claim expired, and another process may hold it now
├── RingClosed               the ledger grants no call now; says when it will
├── VaultError               object storage refused or failed
│   ├── InvalidObjectName    a name that no object may have
│   ├── ObjectNotFound       no object has that name
│   ├── ReaderLeft           the pipe being written has no reader any more
│   ├── VaultBroken          the settings require the vault, but it cannot store
│   └── VaultUnavailable     it cannot store at the moment; may say when to retry
└── NoCurrentAtlas           an Atlas service was used outside `Atlas.open`
"""

from __future__ import annotations

from datetime import datetime


class AtlasError(Exception):
    """Atlas could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])


class BackupError(AtlasError):
    """The backup cannot be made, read or restored."""


class BackupDamaged(BackupError):
    """The backup is not what was written."""


class BackupRunning(BackupError):
    """Another process is making a backup: wait until it is done."""


class BusUnavailable(AtlasError):
    """Redis cannot be used now."""


class ConfigError(AtlasError):
    """The settings are not usable."""


class ClockSkew(ConfigError):
    """This machine's clock and the database's disagree."""


class EmptyKeyRing(ConfigError):
    """No API key is configured."""


class DatabaseError(AtlasError):
    """PostgreSQL failed a statement."""


class CannotStore(DatabaseError):
    """PostgreSQL cannot store anything now: no space, no memory, or it is read-only."""


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL cannot be reached; `transient` is False if only a change of configuration can help."""

    def __init__(self, message: str | None = None, *, transient: bool = True) -> None:
        self.transient = transient
        super().__init__(message)


class DataRefused(DatabaseError):
    """PostgreSQL refused a value."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL server cannot be used."""


class MigrationError(DatabaseError):
    """The schema cannot be migrated."""


class QueryTooCostly(DatabaseError):
    """The query would cost more than is allowed."""


class StatementTimeout(DatabaseError):
    """A statement took too long."""


class TransactionConflict(DatabaseError):
    """The transaction conflicted with another one: run it again."""


class UnknownCursor(DatabaseError):
    """The cursor is of another database, or of before this one was restored: start without a cursor."""


class LeaseLost(AtlasError):
    """The lease on a claimed row expired before the work was stored."""


class RingClosed(AtlasError):
    """The ledger grants this ring no call until `reopens_at` (aware, UTC; None until an operator acts)."""

    def __init__(self, ring: str, bucket: str, reopens_at: datetime | None, reason: str) -> None:
        self.ring, self.bucket, self.reopens_at, self.reason = ring, bucket, reopens_at, reason
        until = f"until {reopens_at:%Y-%m-%d %H:%M:%S} UTC" if reopens_at else "until you act"
        super().__init__(f"ring {ring!r} is closed for bucket {bucket!r} {until}: {reason}")


class VaultError(AtlasError):
    """The vault failed."""


class InvalidObjectName(VaultError):
    """No object may have this name."""


class ObjectNotFound(VaultError):
    """The vault has no such object."""


class ReaderLeft(VaultError):
    """The pipe has no reader any more."""


class VaultBroken(VaultError):
    """The settings require the vault, but it cannot store."""


class VaultUnavailable(VaultError):
    """The vault can't be reached or can't store now; `retry_after_s` is None if it did not say."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class NoCurrentAtlas(AtlasError):
    """No Atlas is open here: use `async with Atlas.open(settings)`, or pass one."""

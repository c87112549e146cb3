"""Copies of what was learnt: read whole from the database, and merged into it without counting twice.

A copy is a `Snapshot`, whether it comes from the vault, from a file that was exported, or from a folder like
those in Git. Merging one only ever adds: counters go up to the copy's if those are higher, what it only has
sums of goes up to the sums, and the texts of a pattern change only if the copy's are newer. What an operator
forgot, here or in the copy, stays forgotten, unless an operator let it be learnt again later. In whatever
order copies are merged, the same comes of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from atlas.adapters.patterns import PatternCopy, PatternsDAO, StoredEvidence, StoredPattern
from atlas.config import LearnerSettings
from atlas.conflicts import retry_conflicts
from maia.errors import MaiaError
from maia.learner.observing import Pseudonymizing
from maia.learning import forms, snapshots
from maia.learning.admission import FOREIGN_COUNT, LONGEST, fault_of
from maia.learning.column_file import SnapshotError
from maia.learning.evidence import Evidence, EvidenceKey, EvidenceRow
from maia.learning.forms import FormError
from maia.learning.importance import Importance
from maia.learning.patterns import Pattern
from maia.learning.snapshots import Remembered, Snapshot, Tombstone
from maia.views.patterns import columns_of, pattern_of

logger = logging.getLogger(__name__)

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SITE: Final = re.compile(r"(?:import-)?[0-9a-f]{16}")
"""What we call sites ourselves."""
_LONGEST_JSON: Final = 200_000
_CLOCKS_DIFFER: Final = timedelta(days=1)


class CopyRefused(MaiaError):
    """The copy is damaged, is no copy of patterns, or holds what must not be stored."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What merging a copy did."""

    patterns: int
    """Patterns in the copy that are not forgotten there."""
    evidence: int
    """Rows of evidence in the copy."""
    changed_patterns: int
    """Patterns that are new here, were revived, or have a newer text now."""
    changed_evidence: int
    """Rows that are new here or were raised."""
    kept_forgotten: int
    """Patterns that stay forgotten because an operator forgot them."""
    too_old: int
    """Rows of days that are beyond the retention."""


async def present(dao: PatternsDAO, settings: LearnerSettings, now: datetime) -> Snapshot:
    """Everything that is known now, forgotten patterns included, as a copy."""
    patterns = {each.id: _remembered(each) async for each in dao.all_patterns()}
    for id_ in [id_ for id_, each in patterns.items() if each.pattern.id != id_]:
        # It would make the whole copy unreadable.
        logger.error("pattern %s is not that of its signature, and left out of copies", id_)
        del patterns[id_]
    evidence = {_key(row): _row(row) async for row in dao.all_evidence()}
    first_day = _oldest(settings, now).date()
    return Snapshot(
        now,
        patterns,
        {key: row for key, row in evidence.items() if key.day >= first_day and key.pattern_id in patterns},
        first_day=first_day,
    )


async def merge(dao: PatternsDAO, settings: LearnerSettings, copy: Snapshot, now: datetime) -> Merged:
    """Merge a copy into the database, all of it or nothing; CopyRefused if it holds what can't be stored."""
    if fault := fault_of(copy):
        raise CopyRefused(fault)
    oldest = _oldest(settings, now).date()
    copies = [
        _copy(id_, each, now)
        for id_, each in sorted(copy.patterns.items())
        if each.forgotten is None or each.forgotten.by == "operator"
    ]
    rows = [
        StoredEvidence(*key, row.pos, row.neg, row.sum_reward, row.last_seen, row.version)
        for key, row in sorted(copy.evidence.items())
    ]
    living = [each.id for each in copies if each.forgotten_at is None]
    changed: list[str] = []
    kept: list[str] = []
    raised = 0
    async for trial in retry_conflicts():
        with trial:
            async with dao.transaction() as ours:
                new = [*_not_known(rows, await ours.known())] if copy.counted_in_all else rows
                changed = await ours.merge_patterns(copies)
                raised = await ours.merge_evidence(new, oldest)
                kept = await ours.forgotten_by_operator(living)
    too_old = sum(row.day < oldest for row in rows)
    return Merged(len(living), len(rows), len(changed), raised, len(kept), too_old)


def _not_known(sums: Iterable[StoredEvidence], known: Iterable[StoredPattern]) -> Iterator[StoredEvidence]:
    """By how much sums exceed what is known: that may be in them, as in one's own or earlier copies."""
    here = {each.id: each for each in known}
    for row in sums:
        ours = here.get(row.pattern_id)
        if ours is None:
            yield row
        elif row.pos > ours.pos or row.neg > ours.neg:
            yield replace(
                row,
                pos=max(row.pos - ours.pos, 0),
                neg=max(row.neg - ours.neg, 0),
                sum_reward=row.sum_reward - ours.sum_reward,
            )


def copy_of(body: bytes, name: str) -> Snapshot:
    """The copy in a file: a snapshot, or a JSON document; CopyRefused says what is wrong with it."""
    try:
        if snapshots.is_snapshot(body):
            return snapshots.restored([body])
        return _of_export(forms.from_export(body, name))
    except (SnapshotError, FormError) as error:
        raise CopyRefused(f"{name}: {error}" if isinstance(error, SnapshotError) else str(error)) from error


def copy_of_files(bodies: Mapping[str, bytes], name: str) -> Snapshot:
    """The copy in a folder of one file a pattern, as Git has them."""
    try:
        return _of_export(forms.counted_elsewhere(forms.from_files(bodies)))
    except FormError as error:
        raise CopyRefused(f"{name}: {error}") from error


def checked(copy: Snapshot, pseudonyms: Pseudonymizing, now: datetime) -> Snapshot:
    """A copy from outside, ready to merge; CopyRefused if it holds what must not be stored.

    That is what no copy may hold, personal data for which this site would have pseudonyms, texts that are too
    long, and evidence from the future, which would never expire.
    """
    if fault := fault_of(copy, FOREIGN_COUNT):
        raise CopyRefused(fault)
    patterns = {}
    latest = now + _CLOCKS_DIFFER
    for id_, each in copy.patterns.items():
        if odd := _fault(each.pattern, pseudonyms):
            raise CopyRefused(f"the pattern {id_} can't be stored here: {odd}")
        statement = pseudonyms.text(each.pattern.statement)[: LONGEST["statement"]]
        importance = each.importance
        if importance is not None and importance.at > latest:
            # It would never pay rent.
            importance = replace(importance, at=now)
        patterns[id_] = replace(
            each, pattern=replace(each.pattern, statement=statement), importance=importance
        )
    for key, row in copy.evidence.items():
        if not _SITE.fullmatch(key.node) and pseudonyms.text(key.node) != key.node:
            raise CopyRefused(
                f"the site {key.node[:40]!r} is named after an address, a key or other personal data"
            )
        if key.day > latest.date() or row.last_seen > latest:
            raise CopyRefused(
                f"the evidence of the pattern {key.pattern_id} is from {key.day}, which is yet to come: "
                "check the clock of the site that counted it"
            )
    return replace(copy, patterns=patterns)


def _fault(pattern: Pattern, pseudonyms: Pseudonymizing) -> str | None:
    said = {
        "signature": pattern.signature,
        "conditions": [{condition.field: condition.value} for condition in pattern.conditions],
        "action": pattern.action,
        "data": pattern.data,
    }
    for name, value in said.items():
        if len(forms.compact(value)) > _LONGEST_JSON:
            return f"its {name} is longer than {_LONGEST_JSON:,} characters"
    cleaned = pseudonyms.context(said)
    for name, value in said.items():
        if cleaned.get(name) != value:
            return (
                f"its {name} holds an address, a key or other personal data; export it from a site that "
                "replaces those by pseudonyms"
            )
    return None


def _of_export(export: forms.Export) -> Snapshot:
    latest = max((row.last_seen for row in export.evidence.values()), default=None)
    patterns = {
        each.id: Remembered(each.pattern, each.pinned, created_at=latest, updated_at=latest)
        for each in export.patterns
    }
    return Snapshot(latest or _NEVER, patterns, export.evidence, counted_in_all=export.counted_in_all)


def _oldest(settings: LearnerSettings, now: datetime) -> datetime:
    return now - timedelta(days=settings.max_retention_days)


def _remembered(stored: PatternCopy) -> Remembered:
    tombstone = None
    if stored.forgotten_at is not None:
        assert stored.forgotten_by is not None
        tombstone = Tombstone(stored.forgotten_at, stored.forgotten_by)
    importance = Importance(stored.sti, stored.lti, stored.attended_at)
    return Remembered(
        pattern_of(stored),
        stored.pinned,
        importance,
        stored.version,
        stored.created_at,
        stored.updated_at,
        tombstone,
        stored.remembered_at,
    )


def _copy(id_: str, each: Remembered, now: datetime) -> PatternCopy:
    importance = each.importance or Importance(0.0, 0.0, now)
    return PatternCopy(
        **columns_of(each.pattern, id_),
        created_at=each.created_at or now,
        updated_at=each.updated_at or now,
        version=each.version,
        pinned=each.pinned,
        sti=importance.sti,
        lti=importance.lti,
        attended_at=importance.at,
        forgotten_at=None if each.forgotten is None else each.forgotten.at,
        forgotten_by=None if each.forgotten is None else "operator",
        remembered_at=each.remembered_at,
    )


def evidence_of(rows: Iterable[StoredEvidence]) -> Evidence:
    """Stored rows of evidence in the terms of `maia.learning`."""
    return {_key(row): _row(row) for row in rows}


def _key(row: StoredEvidence) -> EvidenceKey:
    return EvidenceKey(row.pattern_id, row.node, row.day)


def _row(row: StoredEvidence) -> EvidenceRow:
    return EvidenceRow(row.pos, row.neg, row.sum_reward, row.last_seen, row.version)

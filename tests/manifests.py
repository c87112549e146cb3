"""A manifest of a backup that is well-formed."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

from atlas.backups import manifest as manifests
from atlas.backups.manifest import Contents, Manifest, Part, Table

AT = datetime(2026, 11, 29, 1, 30, tzinfo=UTC)
NAME = "2026-11-29T01-30-00Z-0a1b2c"
CONTENTS = Contents(
    name=NAME, created_at=AT, pleiades_version="1.0", method="pg_dump", tool_version=18,
    server_version="18.6", schema="public", migration=21, database_bytes=10**9, dump_bytes=6 * 10**8,
    checksum=manifests.CHECKSUM,
    tables=(Table(name="events", rows=3, checksum="-12345"), Table(name="videos", rows=2, checksum="9")),
)  # fmt: skip
MANIFEST = Manifest(
    contents=CONTENTS,
    parts=(
        Part(name="part-00001.zst", size_bytes=64, sha256=sha256(b"1").hexdigest()),
        Part(name="part-00002.zst", size_bytes=3, sha256=sha256(b"2").hexdigest()),
    ),
    sha256=sha256(b"12").hexdigest(),
    level=1,
    recipient_fingerprint=None,
    seconds=1.5,
    node="node-1",
)

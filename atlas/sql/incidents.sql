-- name: lock
-- Take the lock under which incidents are opened and ended, so that what is read next is all there is.
SELECT pg_advisory_xact_lock(hashtextextended('maia.incidents', 0));

-- name: lock_unfinished
-- Every incident that is open or of whose end people may still have to be told, locked in order, and whether somebody is
-- telling people of it right now.
SELECT id, key, component, node, status, severity, text, value, limit_value, command, cause, opened_at, seen_at, well_since,
    recovered_at, announced_at, announced_severity, announcements, acknowledged_at, acknowledged_severity, note, attempts,
    coalesce(claim_until > clock_timestamp(), false) AS is_claimed
FROM incidents
WHERE status <> 'closed'
ORDER BY id
FOR NO KEY UPDATE;

-- name: open
-- Open the incidents of the JSON array $1, unless one with the same key is open already. Where `claims` says so, this claims
-- the right to announce it under token $2, for $3 seconds. Returns the ids and keys of those opened.
INSERT INTO incidents AS i (
    key, component, node, severity, text, value, limit_value, command, cause, opened_at, seen_at, well_since, note, claim,
    claim_until, attempts
)
SELECT key, component, node, severity, text, value, limit_value, command, cause, opened_at, seen_at, well_since, note,
    CASE WHEN claims = 'problem' THEN $2::uuid END,
    CASE WHEN claims = 'problem' THEN clock_timestamp() + make_interval(secs => $3::double precision) END,
    (claims IS NOT NULL)::int
FROM jsonb_to_recordset($1::text::jsonb) AS new (
    key text, component text, node text, severity text, text text, value double precision, limit_value double precision,
    command text, cause text, opened_at timestamptz, seen_at timestamptz, well_since timestamptz, note text, claims text
)
ORDER BY key
ON CONFLICT (key) WHERE status = 'open' DO NOTHING
RETURNING id, key;

-- name: open_past
-- Open an incident of which people were told elsewhere: key $1, component $2, node $3, severity $4, text $5, command $6, from
-- $7 until $8, note $9. If it is open already, it has ended again only at $8. Returns whether it is new.
INSERT INTO incidents AS i (
    key, component, node, severity, text, command, opened_at, seen_at, well_since, note
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)
ON CONFLICT (key) WHERE status = 'open' DO UPDATE SET seen_at = EXCLUDED.seen_at, well_since = EXCLUDED.well_since
RETURNING xmax = 0 AS is_new;

-- name: renew
-- Store the new state of the locked incidents in the JSON array $1. Where `claims` names one, this claims the right to tell
-- people of it under token $2 (that it is open) or $3 (that it is over), for $4 seconds, doubled for each claim before whose
-- end nobody knows.
UPDATE incidents AS i
SET node = new.node, status = new.status, severity = new.severity, text = new.text, value = new.value,
    limit_value = new.limit_value, command = new.command, cause = new.cause, seen_at = new.seen_at,
    well_since = new.well_since, recovered_at = new.recovered_at, acknowledged_at = new.acknowledged_at,
    acknowledged_severity = new.acknowledged_severity,
    claim = CASE
        WHEN new.claims = 'problem' THEN $2::uuid
        WHEN new.claims = 'recovery' THEN $3::uuid
        WHEN new.status <> 'closed' THEN i.claim
    END,
    claim_until = CASE
        WHEN new.claims IS NOT NULL
            THEN clock_timestamp() + make_interval(secs => $4::double precision * power(2, least(i.attempts, 6)))
        WHEN new.status <> 'closed' THEN i.claim_until
    END,
    attempts = CASE WHEN new.claims IS NULL THEN i.attempts ELSE least(i.attempts + 1, 1000) END
FROM jsonb_to_recordset($1::text::jsonb) AS new (
    id bigint, node text, status text, severity text, text text, value double precision, limit_value double precision,
    command text, cause text, seen_at timestamptz, well_since timestamptz, recovered_at timestamptz,
    acknowledged_at timestamptz, acknowledged_severity text, claims text
)
WHERE i.id = new.id;

-- name: settle_problems
-- People were told at $2 of the incidents claimed under token $1, whose severities were $4 (of the ids $3). Like the two
-- statements after it, it locks them in the order in which lock_unfinished does, so that no two deadlock.
WITH held AS MATERIALIZED (
    SELECT id FROM incidents WHERE claim = $1 AND status <> 'closed' ORDER BY id FOR NO KEY UPDATE
)
UPDATE incidents AS i
SET announced_at = $2, announced_severity = told.severity, announcements = least(i.announcements + 1, 32767),
    claim = NULL, claim_until = NULL, attempts = 0
FROM held JOIN unnest($3::bigint[], $4::text[]) AS told (id, severity) USING (id)
WHERE i.id = held.id AND i.claim = $1;

-- name: settle_recoveries
-- People were told that the incidents claimed under token $1 are over.
WITH held AS MATERIALIZED (
    SELECT id FROM incidents WHERE claim = $1 AND status = 'recovered' ORDER BY id FOR NO KEY UPDATE
)
UPDATE incidents AS i SET status = 'closed', claim = NULL, claim_until = NULL, attempts = 0
FROM held
WHERE i.id = held.id AND i.claim = $1 AND i.status = 'recovered';

-- name: release
-- Nobody could be told of the incidents claimed under token $1: let the next maintainer try again at once.
WITH held AS MATERIALIZED (
    SELECT id FROM incidents WHERE claim = $1 AND status <> 'closed' ORDER BY id FOR NO KEY UPDATE
)
UPDATE incidents AS i SET claim = NULL, claim_until = NULL, attempts = greatest(i.attempts - 1, 0)
FROM held
WHERE i.id = held.id AND i.claim = $1;

-- name: acknowledge
-- Acknowledge at $2 the open incident with the id or key $1 as it is now, with the note $3 if there is one.
UPDATE incidents
SET acknowledged_at = $2, acknowledged_severity = severity, note = coalesce($3::text, note)
WHERE status = 'open' AND (key = $1::text OR id::text = $1)
RETURNING *, false AS is_claimed;

-- name: incidents
-- The open incidents, and with $1 all others too; at most $2, those opened last first.
SELECT id, key, component, node, status, severity, text, value, limit_value, command, cause, opened_at, seen_at, well_since,
    recovered_at, announced_at, announced_severity, announcements, acknowledged_at, acknowledged_severity, note, attempts,
    coalesce(claim_until > clock_timestamp(), false) AS is_claimed
FROM incidents
WHERE $1::boolean OR status = 'open'
ORDER BY opened_at DESC, id DESC
LIMIT $2;

-- name: between
-- The incidents that were open at some time from $1 to $2, oldest first; at most $3.
SELECT id, key, component, node, status, severity, text, value, limit_value, command, cause, opened_at, seen_at, well_since,
    recovered_at, announced_at, announced_severity, announcements, acknowledged_at, acknowledged_severity, note, attempts,
    coalesce(claim_until > clock_timestamp(), false) AS is_claimed
FROM incidents
WHERE opened_at < $2 AND (recovered_at IS NULL OR recovered_at >= $1)
ORDER BY opened_at, id
LIMIT $3;

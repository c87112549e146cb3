-- name: lock
-- Let one process at a time decide on an action, until its transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('maia.actions', 0));

-- name: close_abandoned
-- Close attempts whose process is gone, as of $1.
UPDATE actions SET state = 'unknown', finished_at = $1, result = 'whoever began it ended before it was done'
WHERE state = 'running' AND expires_at <= clock_timestamp();

-- name: attempts
-- The last $4 attempts at the target $2 by actions of the kind $1 in the scope $3, newest first. An abandoned one counts
-- as unknown, also before it is closed.
SELECT id, at, node, kind, target, scope, is_restart, asked,
    CASE WHEN state = 'running' AND expires_at <= clock_timestamp() THEN 'unknown' ELSE state END AS state,
    plan, commands, result, seconds, finished_at, well_since, settled
FROM actions
WHERE kind = $1 AND target = $2 AND scope = $3
ORDER BY at DESC, id DESC
LIMIT $4;

-- name: restarts_elsewhere
-- Restarts on other nodes than $1 that are under way, or have ended after $2.
SELECT id, at, node, kind, target, scope, is_restart, asked, state, plan, commands, result, seconds, finished_at,
    well_since, settled
FROM actions
WHERE is_restart AND node <> $1 AND ((state = 'running' AND expires_at > clock_timestamp()) OR finished_at > $2)
ORDER BY at DESC, id DESC
LIMIT 100;

-- name: note_need
-- The action of the attempt $1 is needed again: the attempt had lasting effect ($2), or its target was not well for long.
UPDATE actions SET settled = settled OR $2, well_since = CASE WHEN $2 THEN well_since END
WHERE id = $1 AND (settled, well_since) IS DISTINCT FROM (settled OR $2, CASE WHEN $2 THEN well_since END);

-- name: begin
-- Begin an attempt; it counts as abandoned after $10 seconds.
INSERT INTO actions (at, node, kind, target, scope, is_restart, asked, state, plan, commands, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', $8, $9, clock_timestamp() + make_interval(secs => $10))
RETURNING id;

-- name: keep
-- Say that the attempt $1 is still under way, for $2 seconds more, also if it has been closed as abandoned meanwhile.
UPDATE actions SET state = 'running', finished_at = NULL, result = '', expires_at = clock_timestamp() + make_interval(secs => $2)
WHERE id = $1 AND state IN ('running', 'unknown');

-- name: finish
-- Record what came of the attempt $1, also if it has been closed as abandoned meanwhile.
UPDATE actions SET state = $2, result = $3, seconds = $4, finished_at = $5,
    well_since = CASE WHEN $2 = 'applied' THEN $5::timestamptz END
WHERE id = $1 AND state IN ('running', 'unknown');

-- name: add
-- Add an attempt that has ended.
INSERT INTO actions (
    at, node, kind, target, scope, is_restart, asked, state, plan, commands, result, seconds, expires_at, finished_at,
    well_since
)
VALUES (
    $1, $2, $3, $4, $5, $6, $7, $10, $8, $9, $11, $12, clock_timestamp(), $13,
    CASE WHEN $10 = 'applied' THEN $13::timestamptz END
)
RETURNING id;

-- name: note_well
-- The targets $2 of actions of the kind $1 in the scope $3 are well at $4: note since when, in their last attempts, and
-- that those have settled whose targets have been well for $5 seconds.
UPDATE actions AS a
SET well_since = coalesce(a.well_since, $4::timestamptz),
    settled = a.settled OR coalesce(a.well_since, $4) <= $4::timestamptz - make_interval(secs => $5)
FROM unnest($2::text[]) AS wanted (target)
    CROSS JOIN LATERAL (
        SELECT id FROM actions
        WHERE kind = $1 AND target = wanted.target AND scope = $3
        ORDER BY at DESC, id DESC
        LIMIT 1
    ) AS newest
WHERE a.id = newest.id AND a.state <> 'running' AND NOT a.settled
    AND (a.well_since IS NULL OR a.well_since <= $4::timestamptz - make_interval(secs => $5));

-- name: since
-- The last $3 attempts since $1, of all nodes or of the node $2, newest first.
SELECT id, at, node, kind, target, scope, is_restart, asked,
    CASE WHEN state = 'running' AND expires_at <= clock_timestamp() THEN 'unknown' ELSE state END AS state,
    plan, commands, result, seconds, finished_at, well_since, settled
FROM actions
WHERE at >= $1 AND ($2::text IS NULL OR node = $2)
ORDER BY at DESC, id DESC
LIMIT $3;

-- name: counts
-- How many attempts there were from $1 until $2, by kind and state.
SELECT kind, CASE WHEN state = 'running' AND expires_at <= clock_timestamp() THEN 'unknown' ELSE state END AS state,
    count(*)::int AS count
FROM actions
WHERE at >= $1 AND at < $2
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: unsettled
-- The last $2 attempts at each thing whose last attempt is none that settled and began after $1, newest first.
SELECT a.id, a.at, a.node, a.kind, a.target, a.scope, a.is_restart, a.asked,
    CASE WHEN a.state = 'running' AND a.expires_at <= clock_timestamp() THEN 'unknown' ELSE a.state END AS state,
    a.plan, a.commands, a.result, a.seconds, a.finished_at, a.well_since, a.settled
FROM (
    SELECT DISTINCT ON (kind, target, scope) kind, target, scope, settled OR asked AS is_over
    FROM actions WHERE at >= $1
    ORDER BY kind, target, scope, at DESC, id DESC
) AS newest
    CROSS JOIN LATERAL (
        SELECT * FROM actions
        WHERE kind = newest.kind AND target = newest.target AND scope = newest.scope
        ORDER BY at DESC, id DESC
        LIMIT $2
    ) AS a
WHERE NOT newest.is_over
ORDER BY a.kind, a.target, a.scope, a.at DESC, a.id DESC;

-- name: schedules
-- The schedules that were changed at run time.
SELECT duty, cron, time_zone, enabled FROM duty_schedules ORDER BY duty;

-- name: set_schedule
-- Set the schedule of duty $1: cron $2 in time zone $3, enabled or not ($4), changed at $5.
INSERT INTO duty_schedules (duty, cron, time_zone, enabled, changed_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (duty) DO UPDATE
SET cron = excluded.cron, time_zone = excluded.time_zone, enabled = excluded.enabled, changed_at = excluded.changed_at;

-- name: reset_schedule
-- Let the files decide again when duty $1 runs.
DELETE FROM duty_schedules WHERE duty = $1;

-- name: runs
-- The last run of every duty: for all hosts, and on node $1. The duties $2 run under the advisory locks with the keys $3, one at
-- a time: a run whose lock nobody holds, or after which another one began under that lock, ended with its process.
WITH locks AS (
    SELECT given.duty, given.key, EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (classid::bigint << 32) | objid::bigint = given.key
    ) AS held
    FROM unnest($2::text[], $3::bigint[]) AS given (duty, key)
)
SELECT
    run.duty, run.node, run.turn, run.attempts,
    CASE
        WHEN run.state <> 'running' OR lock.duty IS NULL THEN run.state
        WHEN NOT lock.held THEN 'interrupted'
        WHEN EXISTS (
            SELECT FROM duty_runs AS later JOIN locks AS its ON its.duty = later.duty
            WHERE its.key = lock.key AND later.started_at > run.started_at
        ) THEN 'interrupted'
        ELSE 'running'
    END AS state,
    run.started_at, run.finished_at, run.done_at, run.summary, run.details
FROM duty_runs AS run
LEFT JOIN locks AS lock ON lock.duty = run.duty
WHERE run.node IN ('', $1)
ORDER BY run.duty, run.node;

-- name: last_done
-- When duty $1 was last done on any host.
SELECT max(done_at) FROM duty_runs WHERE duty = $1;

-- name: begin
-- Under the duty's lock: begin its run on node $2 for the turn $3 at $4, unless it was done for that turn meanwhile, or $5 runs
-- for it have begun already. A person's wish ($6) always begins one.
INSERT INTO duty_runs (duty, node, turn, attempts, state, started_at)
VALUES ($1, $2, $3, 1, 'running', $4)
ON CONFLICT (duty, node) DO UPDATE
SET turn = excluded.turn, state = 'running', started_at = excluded.started_at, finished_at = NULL,
    attempts = CASE WHEN duty_runs.turn = excluded.turn AND NOT $6 THEN duty_runs.attempts + 1 ELSE 1 END
WHERE $6 OR duty_runs.turn <> excluded.turn OR (duty_runs.state <> 'done' AND duty_runs.attempts < $5)
RETURNING attempts;

-- name: finish
-- Note how the run of duty $1 on node $2 that began at $3 ended at $4: as state $5, with summary $6 and details $7.
UPDATE duty_runs
SET state = $5, finished_at = $4, done_at = CASE $5 WHEN 'done' THEN $4 ELSE done_at END, summary = $6, details = $7::text::jsonb
WHERE duty = $1 AND node = $2 AND started_at = $3 AND state = 'running';

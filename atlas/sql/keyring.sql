-- Durability: a reservation is flushed to disk before its call is made, whatever the server's default, so that no crash can
-- lose a call that was made. Ending a grant within its day does not wait for the disk: if a crash loses that statement, the
-- units stay reserved, which errs on the safe side. Other statements (closings, circuits, calls that ran past midnight)
-- commit by the server's default.
-- Locks: rows are locked in the order api_keys, quota_ledger (by bucket, day), so that no two statements deadlock.

-- name: register_keys
-- Store the keys $1 of the projects $2, if they are not stored yet.
INSERT INTO api_keys AS k (fingerprint, project)
SELECT fingerprint, project
FROM unnest($1::text[], $2::text[]) AS configured (fingerprint, project)
WHERE NOT EXISTS (
    SELECT FROM api_keys AS known
    WHERE (known.fingerprint, known.project) = (configured.fingerprint, configured.project)
)
ORDER BY fingerprint
ON CONFLICT (fingerprint) DO UPDATE SET project = EXCLUDED.project WHERE k.project <> EXCLUDED.project;

-- name: reserve
-- Reserve $4 units for ring $1 on Pacific day $2 at instant $3, in each bucket of the project with the most room and a
-- usable key. Returns no row if refused, else one row per bucket reserved, which may be fewer if other processes were faster.
-- One array element per project $5 and bucket $6: $7 the project's limit, $8 what pacing allows of the ring's share so far,
-- $9 the same including its loan from archeology, $10 and $11 hunting's and tracking's own limits for the day. $12 are the
-- keys, $13 their projects. A key due for its probe is preferred, and reserved for this probe for $14 seconds.
-- By asking, even if refused, archeology takes back the share it lends; this is recorded in the rows that other rings check.
WITH durable AS MATERIALIZED (
    SELECT CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'local', true)
        ELSE current_setting('synchronous_commit')
    END
),
term AS MATERIALIZED (
    SELECT t.project, t.bucket, t.project_limit, t.allowance, loan.with_loan, t.hunting_limit, t.tracking_limit,
        CASE
            WHEN l.closed_until > $3::timestamptz THEN 0
            ELSE ring_room(
                l, $1::text, t.project_limit, t.allowance, loan.with_loan, t.hunting_limit, t.tracking_limit
            )
        END AS room
    FROM unnest($5::text[], $6::text[], $7::integer[], $8::integer[], $9::integer[], $10::integer[], $11::integer[])
        AS t (project, bucket, project_limit, allowance, with_loan, hunting_limit, tracking_limit)
    LEFT JOIN quota_ledger AS l ON (l.project, l.bucket, l.pacific_day) = (t.project, t.bucket, $2::date)
    LEFT JOIN quota_ledger AS yesterday
        ON (yesterday.project, yesterday.bucket, yesterday.pacific_day) = (t.project, t.bucket, $2 - 1)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN yesterday.archeology_asked THEN t.allowance ELSE t.with_loan END
    ) AS loan (with_loan)
),
offer AS (
    SELECT project, min(room) AS room
    FROM term
    GROUP BY project
),
pool AS (
    SELECT p.fingerprint, o.*
    FROM unnest($12::text[], $13::text[]) AS p (fingerprint, project)
    JOIN offer AS o USING (project)
    WHERE o.room >= $4::integer
),
probe AS (
    SELECT k.fingerprint
    FROM pool
    JOIN api_keys AS k USING (fingerprint)
    WHERE k.state IN ('open', 'half-open') AND k.retry_at <= $3
        AND (k.probe_until IS NULL OR k.probe_until < clock_timestamp())
    ORDER BY pool.room DESC, k.retry_at
    LIMIT 1
    FOR NO KEY UPDATE OF k SKIP LOCKED
),
choice AS (
    SELECT pool.*, probe.fingerprint IS NOT NULL AS probes
    FROM pool
    LEFT JOIN probe USING (fingerprint)
    LEFT JOIN api_keys AS k USING (fingerprint)
    WHERE probe.fingerprint IS NOT NULL OR k.state IS NULL OR k.state = 'active'
    ORDER BY pool.room DESC, probes DESC, k.failures NULLS FIRST,
        CASE WHEN k.calls_day = $2 THEN k.calls ELSE 0 END, random()
    LIMIT 1
),
reserved AS (
    INSERT INTO quota_ledger AS l
        (project, bucket, pacific_day, hunting_reserved, tracking_reserved, archeology_reserved, archeology_asked)
    SELECT project, bucket, $2,
        $4 * ($1 = 'hunting')::integer, $4 * ($1 = 'tracking')::integer, $4 * ($1 = 'archeology')::integer,
        $1 = 'archeology'
    FROM durable, choice JOIN term USING (project)
    ORDER BY bucket
    ON CONFLICT (project, bucket, pacific_day) DO UPDATE SET
        hunting_reserved = l.hunting_reserved + EXCLUDED.hunting_reserved,
        tracking_reserved = l.tracking_reserved + EXCLUDED.tracking_reserved,
        archeology_reserved = l.archeology_reserved + EXCLUDED.archeology_reserved,
        archeology_asked = l.archeology_asked OR EXCLUDED.archeology_asked
    WHERE (l.closed_until IS NULL OR l.closed_until <= $3) AND EXISTS (
        SELECT FROM term AS t
        WHERE (t.project, t.bucket) = (l.project, l.bucket)
            AND $4 <= ring_room(
                l, $1, t.project_limit, t.allowance, t.with_loan, t.hunting_limit, t.tracking_limit
            )
    )
    RETURNING l.bucket
),
asked AS (
    INSERT INTO quota_ledger AS l (project, bucket, pacific_day, archeology_asked)
    SELECT project, bucket, $2, true
    FROM durable, term
    WHERE $1 = 'archeology' AND NOT EXISTS (SELECT FROM reserved)
    ORDER BY bucket, project
    ON CONFLICT (project, bucket, pacific_day) DO UPDATE SET archeology_asked = true
    WHERE NOT l.archeology_asked
),
probing AS (
    UPDATE api_keys AS k
    SET state = 'half-open', probe_until = clock_timestamp() + make_interval(secs => $14::double precision)
    FROM choice
    WHERE choice.probes AND k.fingerprint = choice.fingerprint AND EXISTS (SELECT FROM reserved)
    RETURNING k.probe_until
)
SELECT reserved.bucket, choice.fingerprint, (SELECT probe_until FROM probing) AS probe
FROM choice, reserved;

-- name: settle
-- A call was sent: turn ring $1's $5 reserved units of project $2, bucket $3 and day $4[1] into used ones. A call that ran
-- past midnight counts as used on each day of $4, because the API may count it on either. If it was answered ($6), key $7
-- works and its circuit closes. $8: this statement may be lost in a crash. Returns until when the bucket is closed, by day.
WITH durability AS MATERIALIZED (
    SELECT CASE WHEN $8::boolean THEN set_config('synchronous_commit', 'off', true) END
),
proven AS (
    UPDATE api_keys AS k
    SET state = CASE k.state WHEN 'disabled' THEN k.state ELSE 'active' END,
        reason = CASE k.state WHEN 'disabled' THEN k.reason END,
        failures = 0,
        openings = 0,
        retry_at = NULL,
        probe_until = NULL,
        calls = 1 + CASE WHEN k.calls_day = ($4::date[])[1] THEN k.calls ELSE 0 END,
        calls_day = $4[1]
    WHERE k.fingerprint = $7::text AND $6::boolean
    RETURNING k.fingerprint
),
keys_locked AS MATERIALIZED (
    SELECT count(*) FROM proven
)
INSERT INTO quota_ledger AS l (project, bucket, pacific_day, hunting_used, tracking_used, archeology_used)
SELECT $2::text, $3::text, day,
    $5::integer * ($1::text = 'hunting')::integer,
    $5 * ($1 = 'tracking')::integer,
    $5 * ($1 = 'archeology')::integer
FROM durability, keys_locked, unnest($4) AS day
ORDER BY day
ON CONFLICT (project, bucket, pacific_day) DO UPDATE SET
    hunting_used = l.hunting_used + EXCLUDED.hunting_used,
    tracking_used = l.tracking_used + EXCLUDED.tracking_used,
    archeology_used = l.archeology_used + EXCLUDED.archeology_used,
    hunting_reserved = l.hunting_reserved - $5 * ($1 = 'hunting' AND l.pacific_day = $4[1])::integer,
    tracking_reserved = l.tracking_reserved - $5 * ($1 = 'tracking' AND l.pacific_day = $4[1])::integer,
    archeology_reserved = l.archeology_reserved - $5 * ($1 = 'archeology' AND l.pacific_day = $4[1])::integer
RETURNING l.pacific_day, l.closed_until, l.cool_down_s;

-- name: cancel
-- A call was never sent: release ring $1's $5 units of project $2, bucket $3 and day $4, and if it was the probe of key $6
-- that is reserved until $7, the probe too.
WITH durability AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
),
given_back AS (
    UPDATE api_keys
    SET state = 'open', probe_until = NULL
    WHERE fingerprint = $6 AND probe_until = $7
    RETURNING fingerprint
),
keys_locked AS MATERIALIZED (
    SELECT count(*) FROM given_back
)
UPDATE quota_ledger AS l
SET hunting_reserved = l.hunting_reserved - $5::integer * ($1::text = 'hunting')::integer,
    tracking_reserved = l.tracking_reserved - $5 * ($1 = 'tracking')::integer,
    archeology_reserved = l.archeology_reserved - $5 * ($1 = 'archeology')::integer
FROM durability, keys_locked
WHERE (l.project, l.bucket, l.pacific_day) = ($2, $3, $4);

-- name: close
-- Close project $1's bucket $2 for all rings on the days $3 until $4, for reason $5, with a cool-down of $6 seconds. A
-- closing that lasts longer stays. Returns the end of the closing in effect, one row per day.
INSERT INTO quota_ledger AS l (project, bucket, pacific_day, closed_until, reason, cool_down_s)
SELECT $1, $2, day, $4, $5, $6
FROM unnest($3::date[]) AS day
ORDER BY day
ON CONFLICT (project, bucket, pacific_day) DO UPDATE SET
    closed_until = greatest(l.closed_until, EXCLUDED.closed_until),
    reason = CASE WHEN l.closed_until >= EXCLUDED.closed_until THEN l.reason ELSE EXCLUDED.reason END,
    cool_down_s = EXCLUDED.cool_down_s
RETURNING l.closed_until;

-- name: closed_until
-- Until when project $1's bucket $2 was closed on day $3.
SELECT closed_until
FROM quota_ledger
WHERE (project, bucket, pacific_day) = ($1, $2, $3);

-- name: count_failure
-- Count another consecutive failure of key $1, with reason $2.
UPDATE api_keys
SET failures = failures + 1, reason = $2
WHERE fingerprint = $1 AND state <> 'disabled'
RETURNING state, failures, openings, probe_until;

-- name: open_circuit
-- Open the circuit of key $1 until $2.
UPDATE api_keys
SET state = 'open', retry_at = $2, probe_until = NULL, openings = openings + 1
WHERE fingerprint = $1;

-- name: disable_key
-- Disable key $1 for reason $2, until an operator enables it.
UPDATE api_keys
SET state = 'disabled', reason = $2, retry_at = NULL, probe_until = NULL
WHERE fingerprint = $1;

-- name: enable_key
-- Enable key $1, as if it had never failed.
UPDATE api_keys
SET state = 'active', reason = NULL, failures = 0, openings = 0, retry_at = NULL, probe_until = NULL
WHERE fingerprint = $1;

-- name: standing
-- What ring $1 has spent of the buckets $2 on day $3, and the state of its keys $4 of projects $5: one row per bucket and key.
SELECT b.bucket, p.project, p.fingerprint,
    coalesce(l.used + l.reserved, 0) AS project_spent,
    coalesce(CASE $1::text
        WHEN 'hunting' THEN l.hunting_used
        WHEN 'tracking' THEN l.tracking_used
        WHEN 'archeology' THEN l.archeology_used
    END, 0) AS used,
    coalesce(CASE $1
        WHEN 'hunting' THEN l.hunting_reserved
        WHEN 'tracking' THEN l.tracking_reserved
        WHEN 'archeology' THEN l.archeology_reserved
    END, 0) AS reserved,
    coalesce(l.hunting_used + l.hunting_reserved, 0) AS hunting_spent,
    coalesce(l.tracking_used + l.tracking_reserved, 0) AS tracking_spent,
    coalesce(l.archeology_asked, false) OR coalesce(yesterday.archeology_asked, false) AS archeology_asked,
    l.closed_until, l.reason,
    coalesce(k.state, 'active') AS key_state,
    k.reason AS key_reason,
    coalesce(k.failures, 0) AS failures,
    k.retry_at,
    coalesce(CASE WHEN k.calls_day = $3::date THEN k.calls END, 0) AS calls,
    coalesce(extract(epoch FROM k.probe_until - clock_timestamp())::double precision, 0) AS probe_left_s
FROM unnest($2::text[]) WITH ORDINALITY AS b (bucket, nth)
CROSS JOIN unnest($4::text[], $5::text[]) WITH ORDINALITY AS p (fingerprint, project, nth)
LEFT JOIN quota_ledger AS l ON (l.project, l.bucket, l.pacific_day) = (p.project, b.bucket, $3)
LEFT JOIN quota_ledger AS yesterday
    ON (yesterday.project, yesterday.bucket, yesterday.pacific_day) = (p.project, b.bucket, $3 - 1)
LEFT JOIN api_keys AS k ON k.fingerprint = p.fingerprint
ORDER BY b.nth, p.nth;

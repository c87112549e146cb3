-- Durability. A reservation is flushed before its call is made, so that no crash makes the ledger forget a call, even
-- where the server's default is otherwise. The statement that ends a grant within its day may be lost with the server's
-- last half second: the units then stay reserved, which errs on the safe side, so it does not wait for the disk. The
-- rest (closings, circuits, calls that ran past midnight) commits as the server is set.
-- Locks. Rows are taken in the order api_keys, quota_ledger (by bucket, day), so that no two statements deadlock.

-- name: register_keys
-- Make the keys $1 of projects $2 known.
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
-- Reserve $4 units for ring $1 on Pacific day $2 at instant $3 in each bucket of the project with most room and with a key
-- that may call; no row if refused, else one for each bucket reserved, which may be fewer if others were faster. $5:
-- projects and $6: their buckets, for which $7: the project's limits, $8: the ring's allowances so far; $9: keys, $10:
-- their projects. A key whose circuit is due for its probe goes first, and is kept from others for $11 seconds.
WITH durable AS MATERIALIZED (
    SELECT CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'local', true)
        ELSE current_setting('synchronous_commit')
    END
),
term AS MATERIALIZED (
    SELECT t.project, t.bucket, t.project_limit, t.allowance,
        CASE WHEN l.closed_until > $3::timestamptz THEN 0 ELSE least(
            t.project_limit - coalesce(l.used + l.reserved, 0),
            t.allowance - coalesce(CASE $1::text
                WHEN 'hunting' THEN l.hunting_used + l.hunting_reserved
                WHEN 'tracking' THEN l.tracking_used + l.tracking_reserved
                WHEN 'archeology' THEN l.archeology_used + l.archeology_reserved
            END, 0)
        ) END AS room
    FROM unnest($5::text[], $6::text[], $7::integer[], $8::integer[]) AS t (project, bucket, project_limit, allowance)
    LEFT JOIN quota_ledger AS l ON (l.project, l.bucket, l.pacific_day) = (t.project, t.bucket, $2::date)
),
offer AS (
    SELECT project, min(room) AS room
    FROM term
    GROUP BY project
),
pool AS (
    SELECT p.fingerprint, o.*
    FROM unnest($9::text[], $10::text[]) AS p (fingerprint, project)
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
        (project, bucket, pacific_day, hunting_reserved, tracking_reserved, archeology_reserved)
    SELECT project, bucket, $2,
        $4 * ($1 = 'hunting')::integer, $4 * ($1 = 'tracking')::integer, $4 * ($1 = 'archeology')::integer
    FROM durable, choice JOIN term USING (project)
    ORDER BY bucket
    ON CONFLICT (project, bucket, pacific_day) DO UPDATE SET
        hunting_reserved = l.hunting_reserved + EXCLUDED.hunting_reserved,
        tracking_reserved = l.tracking_reserved + EXCLUDED.tracking_reserved,
        archeology_reserved = l.archeology_reserved + EXCLUDED.archeology_reserved
    WHERE (l.closed_until IS NULL OR l.closed_until <= $3) AND EXISTS (
        SELECT FROM term AS t
        WHERE (t.project, t.bucket) = (l.project, l.bucket)
            AND l.used + l.reserved + $4 <= t.project_limit
            AND $4 + CASE $1
                WHEN 'hunting' THEN l.hunting_used + l.hunting_reserved
                WHEN 'tracking' THEN l.tracking_used + l.tracking_reserved
                WHEN 'archeology' THEN l.archeology_used + l.archeology_reserved
            END <= t.allowance
    )
    RETURNING l.bucket
),
probing AS (
    UPDATE api_keys AS k
    SET state = 'half-open', probe_until = clock_timestamp() + make_interval(secs => $11::double precision)
    FROM choice
    WHERE choice.probes AND k.fingerprint = choice.fingerprint AND EXISTS (SELECT FROM reserved)
    RETURNING k.probe_until
)
SELECT reserved.bucket, choice.fingerprint, (SELECT probe_until FROM probing) AS probe
FROM choice, reserved;

-- name: settle
-- $10 calls were sent: ring $1's $5 reserved units of project $2, bucket $3 and day $4[1] become $6 used ones. A call that
-- ran past midnight is used on each day of $4, as the API may count it on either. An answer ($7) proves key $8, whose
-- circuit closes. $9: the loss of this statement would do no harm. Returns the closings of those days.
WITH durability AS MATERIALIZED (
    SELECT CASE WHEN $9::boolean THEN set_config('synchronous_commit', 'off', true) END
),
proven AS (
    UPDATE api_keys AS k
    SET state = CASE k.state WHEN 'disabled' THEN k.state ELSE 'active' END,
        reason = CASE k.state WHEN 'disabled' THEN k.reason END,
        failures = 0,
        openings = 0,
        retry_at = NULL,
        probe_until = NULL,
        calls = $10::integer + CASE WHEN k.calls_day = ($4::date[])[1] THEN k.calls ELSE 0 END,
        calls_day = $4[1]
    WHERE k.fingerprint = $8::text AND $7::boolean
    RETURNING k.fingerprint
),
key_first AS MATERIALIZED (
    SELECT count(*) FROM proven
)
INSERT INTO quota_ledger AS l (project, bucket, pacific_day, hunting_used, tracking_used, archeology_used)
SELECT $2::text, $3::text, day,
    $6::integer * ($1::text = 'hunting')::integer,
    $6 * ($1 = 'tracking')::integer,
    $6 * ($1 = 'archeology')::integer
FROM durability, key_first, unnest($4) AS day
ORDER BY day
ON CONFLICT (project, bucket, pacific_day) DO UPDATE SET
    hunting_used = l.hunting_used + EXCLUDED.hunting_used,
    tracking_used = l.tracking_used + EXCLUDED.tracking_used,
    archeology_used = l.archeology_used + EXCLUDED.archeology_used,
    hunting_reserved = l.hunting_reserved - $5::integer * ($1 = 'hunting' AND l.pacific_day = $4[1])::integer,
    tracking_reserved = l.tracking_reserved - $5 * ($1 = 'tracking' AND l.pacific_day = $4[1])::integer,
    archeology_reserved = l.archeology_reserved - $5 * ($1 = 'archeology' AND l.pacific_day = $4[1])::integer
RETURNING l.pacific_day, l.closed_until, l.cool_down_s;

-- name: cancel
-- A call was never sent: give ring $1's $5 units of project $2, bucket $3 and day $4 back, and the probe of key $6 that
-- ended at $7, if it was one.
WITH durability AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
),
given_back AS (
    UPDATE api_keys
    SET state = 'open', probe_until = NULL
    WHERE fingerprint = $6 AND probe_until = $7
    RETURNING fingerprint
),
key_first AS MATERIALIZED (
    SELECT count(*) FROM given_back
)
UPDATE quota_ledger AS l
SET hunting_reserved = l.hunting_reserved - $5::integer * ($1::text = 'hunting')::integer,
    tracking_reserved = l.tracking_reserved - $5 * ($1 = 'tracking')::integer,
    archeology_reserved = l.archeology_reserved - $5 * ($1 = 'archeology')::integer
FROM durability, key_first
WHERE (l.project, l.bucket, l.pacific_day) = ($2, $3, $4);

-- name: close
-- Close project $1's bucket $2 to every ring on days $3 until $4 for reason $5 after a cool-down of $6 seconds; a closing
-- that lasts longer stands. Returns the end of the one that holds, a row a day.
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
-- One more call in a row with key $1 failed, for reason $2.
UPDATE api_keys
SET failures = failures + 1, reason = $2
WHERE fingerprint = $1 AND state <> 'disabled'
RETURNING state, failures, openings, probe_until;

-- name: open_circuit
-- Let key $1 rest until $2.
UPDATE api_keys
SET state = 'open', retry_at = $2, probe_until = NULL, openings = openings + 1
WHERE fingerprint = $1;

-- name: disable_key
-- Take key $1 out of use for reason $2 until an operator puts it back.
UPDATE api_keys
SET state = 'disabled', reason = $2, retry_at = NULL, probe_until = NULL
WHERE fingerprint = $1;

-- name: enable_key
-- Put key $1 back into use, as if it had never failed.
UPDATE api_keys
SET state = 'active', reason = NULL, failures = 0, openings = 0, retry_at = NULL, probe_until = NULL
WHERE fingerprint = $1;

-- name: standing
-- What ring $1 has spent of buckets $2 on day $3 and how its keys $4 of projects $5 stand, a row a bucket and key.
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
LEFT JOIN api_keys AS k ON k.fingerprint = p.fingerprint
ORDER BY b.nth, p.nth;

-- Keys of the HTTP service, and the rate at which they are used.

-- name: add
-- Add key $1 named $2 with the digest $3, scope $4 and rate $5, as of $6; no row if a valid key has that name.
INSERT INTO access_keys (id, name, digest, scope, requests_per_minute, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING;

-- name: all
-- All keys, revoked ones too if $1, oldest first.
SELECT id, name, digest, scope, requests_per_minute, created_at, last_used_on, revoked_at
FROM access_keys
WHERE $1::boolean OR revoked_at IS NULL
ORDER BY created_at, id;

-- name: revoke
-- Revoke the valid key whose id or name is $1, as of $2.
UPDATE access_keys SET revoked_at = $2 WHERE revoked_at IS NULL AND (id = $1 OR name = $1) RETURNING id;

-- name: touch
-- Note that the keys $1 were used on day $2.
UPDATE access_keys SET last_used_on = $2 WHERE id = ANY ($1::text[]) AND (last_used_on IS NULL OR last_used_on < $2);

-- name: spend
-- Let caller $1 make up to $2 requests, if it may make $3 in a minute. Of the minute before, as large a part counts as is
-- less than a minute ago. A row may be of the next minute already; one of a later minute is of before the clock was set back.
-- Returns how many are granted, those of both minutes, and how much of this minute is over.
WITH spent AS (
    INSERT INTO request_rates AS r (caller, minute, used, used_before, granted)
    SELECT $1, floor(extract(epoch FROM clock_timestamp()) / 60)::bigint, least($2::integer, $3::integer), 0,
        least($2::integer, $3::integer)
    ON CONFLICT (caller) DO UPDATE
    SET (minute, used, used_before, granted) = (
        SELECT w.minute, w.used + g.granted, w.used_before, g.granted
        FROM (
            SELECT CASE WHEN r.minute = excluded.minute + 1 THEN r.minute ELSE excluded.minute END AS minute,
                CASE WHEN r.minute - excluded.minute IN (0, 1) THEN r.used ELSE 0 END AS used,
                CASE
                    WHEN r.minute - excluded.minute IN (0, 1) THEN r.used_before
                    WHEN r.minute = excluded.minute - 1 THEN r.used
                    ELSE 0
                END AS used_before
        ) AS w
        CROSS JOIN LATERAL (
            SELECT greatest(0, least($2::integer, $3::integer - w.used - ceil(w.used_before * (
                1 - least(1, greatest(0, extract(epoch FROM clock_timestamp()) / 60 - w.minute))
            ))))::integer AS granted
        ) AS g
    )
    RETURNING granted, used, used_before, minute
)
SELECT granted, used, used_before,
    least(1, greatest(0, extract(epoch FROM clock_timestamp()) / 60 - minute))::float8 AS part
FROM spent;

-- name: forget_rates
-- Forget callers that have not called for an hour.
DELETE FROM request_rates WHERE minute < floor(extract(epoch FROM clock_timestamp()) / 60)::bigint - 60;

-- name: waiting
-- Those of the objects $1 that wait for the vault, with their bodies (NULL: to be deleted).
SELECT name, body FROM vault_refused WHERE name = ANY($1::text[]);

-- name: waiting_names
-- The names of waiting objects that begin with $1, and whether they are to be deleted.
SELECT name, body IS NULL AS deleted FROM vault_refused WHERE starts_with(name, $1);

-- name: waiting_days
-- The days, as text, whose metadata wait for the vault.
SELECT DISTINCT split_part(name, '/', 2) AS day FROM vault_refused WHERE starts_with(name, 'metadata/') AND body IS NOT NULL;

-- name: count_waiting
-- The number of objects that wait for the vault.
SELECT count(*) FROM vault_refused;

-- name: any_waiting
-- Whether any object waits for the vault.
SELECT EXISTS (SELECT FROM vault_refused);

-- name: supersede
-- Give waiting objects newer bodies (NULL: delete them) before these go to the vault. Also revoke their leases, so that a
-- process that is storing an older body does not count it as done.
UPDATE vault_refused AS waiting
SET body = newer.body, lease_owner = NULL, lease_token = NULL
FROM unnest($1::text[], $2::bytea[]) AS newer (name, body)
WHERE waiting.name = newer.name
  AND waiting.name = ANY(ARRAY(SELECT name FROM vault_refused WHERE name = ANY($1) ORDER BY name FOR UPDATE));

-- name: refuse
-- Let objects wait for the vault, to be retried in $5 seconds.
INSERT INTO vault_refused (name, body, last_error, refused_at, retry_at)
SELECT object.name, object.body, $3, $4, clock_timestamp() + make_interval(secs => $5)
FROM unnest($1::text[], $2::bytea[]) AS object (name, body)
ORDER BY object.name
ON CONFLICT (name) DO UPDATE SET
    body = EXCLUDED.body, last_error = EXCLUDED.last_error, refused_at = EXCLUDED.refused_at,
    retry_at = EXCLUDED.retry_at, lease_owner = NULL, lease_token = NULL;

-- name: claim_refused
-- Lease at most $4 waiting objects that are due to one process for $3 seconds, skipping those that another is leasing.
UPDATE vault_refused
SET lease_owner = $1, lease_token = $2, attempts = attempts + 1,
    retry_at = clock_timestamp() + make_interval(secs => $3)
WHERE name = ANY(ARRAY(
    SELECT name FROM vault_refused WHERE retry_at <= (SELECT clock_timestamp())
    ORDER BY retry_at LIMIT $4 FOR UPDATE SKIP LOCKED
))
RETURNING name, body;

-- name: complete_refused
-- Delete waiting objects that are now stored, unless a newer body has replaced them meanwhile.
DELETE FROM vault_refused WHERE name = ANY($1::text[]) AND lease_token = $2;

-- name: postpone_refused
-- Release leased objects, to be retried after $4 seconds plus a random time of up to ten times $5. The spread separates
-- objects that are themselves the cause of a refusal from those that only shared a commit with them.
UPDATE vault_refused
SET lease_owner = NULL, lease_token = NULL, last_error = $3,
    retry_at = clock_timestamp() + make_interval(secs => $4 + $5 * random() * least(attempts, 10))
WHERE name = ANY($1::text[]) AND lease_token = $2;

-- name: grant_commit
-- Grant a commit to repository $1 if fewer than $2 were granted in the last hour; no row if not.
INSERT INTO vault_commits AS budget (repository, granted) VALUES ($1, ARRAY[clock_timestamp()])
ON CONFLICT (repository) DO UPDATE SET granted = ARRAY(
    SELECT instant FROM unnest(budget.granted) AS instant
    WHERE instant > clock_timestamp() - interval '1 hour' ORDER BY instant
) || clock_timestamp()
WHERE (
    SELECT count(*) FROM unnest(budget.granted) AS instant WHERE instant > clock_timestamp() - interval '1 hour'
) < $2
RETURNING true;

-- name: commits_reopen
-- Seconds until repository $1 is granted its next commit.
SELECT greatest(0, extract(epoch FROM instant + interval '1 hour' - clock_timestamp()))::float8
FROM vault_commits CROSS JOIN unnest(granted) AS instant
WHERE repository = $1 ORDER BY instant DESC OFFSET $2 - 1 LIMIT 1;

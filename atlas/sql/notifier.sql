-- name: claim
-- Take the right to send an alert by this key now, if its cool-down is over; count it as held back if not. The claim
-- lasts only some seconds, so that a sender that dies leaves no silence.
WITH forgotten AS (
    DELETE FROM alerts WHERE quiet_until < statement_timestamp() - interval '30 days' AND key <> $1
)
INSERT INTO alerts AS alert (key, title, quiet_until, claim)
VALUES ($1, $2, statement_timestamp() + make_interval(secs => $4), $3)
ON CONFLICT (key) DO UPDATE SET
    title = EXCLUDED.title,
    claim = CASE WHEN alert.quiet_until <= statement_timestamp() THEN $3 ELSE alert.claim END,
    held_back = CASE WHEN alert.quiet_until <= statement_timestamp() THEN alert.suppressed ELSE alert.held_back END,
    suppressed = CASE WHEN alert.quiet_until <= statement_timestamp() THEN 0 ELSE alert.suppressed + 1 END,
    quiet_until = CASE WHEN alert.quiet_until <= statement_timestamp() THEN EXCLUDED.quiet_until ELSE alert.quiet_until END
RETURNING claim = $3 AS granted, held_back;

-- name: settle
-- Start the cool-down of an alert that went out; a cool-down of 0 gives the claim back.
UPDATE alerts SET quiet_until = statement_timestamp() + make_interval(secs => $3) WHERE key = $1 AND claim = $2;

-- name: claim
-- Claim the right to send the alert with key $1 if its cool-down is over; otherwise count it as held back. The claim lasts
-- only seconds ($4), so that a sender that dies does not silence the alert.
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
-- Start the cool-down of $3 seconds after an alert was sent; 0 releases the claim.
UPDATE alerts SET quiet_until = statement_timestamp() + make_interval(secs => $3) WHERE key = $1 AND claim = $2;

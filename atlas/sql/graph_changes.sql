-- The change feed of this site's graph.

-- name: horizon
-- Which database this is, the first transaction that may not have ended, and whether changes in later ones are there already.
SELECT database_identity() AS identity, now.horizon::text::bigint AS horizon,
    coalesce((SELECT changed FROM atoms WHERE space = 0 ORDER BY changed DESC LIMIT 1) >= now.horizon, false) AS is_waiting
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())) AS now (horizon);

-- name: since
-- The atoms that changed after transaction $1 and handle $2, and before transaction $3, gone ones too; at most $4, in the order of the
-- transactions that changed them last.
SELECT changed::text::bigint AS xid, handle, type, name, outgoing, pos, neg, positive, count, weight, sources, seen_at, gone_at
FROM atoms
WHERE space = 0 AND (changed, handle) > ($1::bigint::text::xid8, $2::uuid) AND changed < $3::bigint::text::xid8
ORDER BY changed, handle LIMIT $4;

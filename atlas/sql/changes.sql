-- The change feed of patterns.

-- name: horizon
-- Which database this is, whether its numbers of transactions were made here, the first transaction that may not have ended,
-- the first that has not begun, and whether changes of any in between are there already.
SELECT here.identity, here.identity IS NOT DISTINCT FROM site.identity AS is_ours, now.horizon::text::bigint AS horizon,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS frontier,
    coalesce(
        greatest(
            (SELECT changed FROM patterns ORDER BY changed DESC LIMIT 1),
            (SELECT changed FROM pattern_evidence ORDER BY changed DESC LIMIT 1)
        ) >= now.horizon, false
    ) AS is_waiting
FROM site
CROSS JOIN database_identity() AS here (identity)
CROSS JOIN LATERAL (SELECT pg_snapshot_xmin(pg_current_snapshot())) AS now (horizon);

-- name: since
-- The patterns that changed after transaction $1 and id $2, and before transaction $3, with the sums of their evidence; at most
-- $4 places are read. A place is left out if its pattern also changed later, which is read there. A text is new if it changed
-- since, or in transaction $5 or later if that is another one. The last place that was read is in every row, if any was.
WITH places AS MATERIALIZED (
    SELECT changed, id FROM (
        (
            SELECT changed, id FROM patterns
            WHERE (changed, id) > ($1::bigint::text::xid8, $2::text) AND changed < $3::bigint::text::xid8
            ORDER BY changed, id LIMIT $4
        ) UNION (
            SELECT DISTINCT changed, pattern_id FROM pattern_evidence
            WHERE (changed, pattern_id) > ($1::bigint::text::xid8, $2::text) AND changed < $3::bigint::text::xid8
            ORDER BY changed, pattern_id LIMIT $4
        )
    ) AS either
    ORDER BY changed, id LIMIT $4
), last AS (
    SELECT changed, id, count(*) OVER () AS read FROM places ORDER BY changed DESC, id DESC LIMIT 1
), latest AS (
    SELECT places.changed AS place, p.*, e.*
    FROM places
    JOIN patterns AS p USING (id)
    CROSS JOIN LATERAL (
        SELECT least(coalesce(sum(pos) FILTER (WHERE counts), 0), 9007199254740992)::bigint AS pos,
            least(coalesce(sum(neg) FILTER (WHERE counts), 0), 9007199254740992)::bigint AS neg,
            coalesce(sum(sum_reward) FILTER (WHERE counts), 0) AS sum_reward,
            max(last_seen) FILTER (WHERE counts) AS last_seen, count(DISTINCT site_of(node))::integer AS sites,
            count(DISTINCT day) FILTER (WHERE counts)::integer AS days,
            coalesce(bool_or(changed > places.changed AND changed < $3::bigint::text::xid8), false) AS has_later
        FROM weighed_evidence WHERE pattern_id = places.id
    ) AS e
    WHERE NOT (p.changed > places.changed AND p.changed < $3::bigint::text::xid8) AND NOT e.has_later
)
SELECT last.changed::text::bigint AS last_xid, last.id AS last_id, last.read, latest.place::text::bigint AS place,
    CASE
        WHEN $5::bigint = $1::bigint THEN (latest.changed, latest.id) > ($1::bigint::text::xid8, $2::text)
        ELSE latest.changed >= $5::bigint::text::xid8
    END AS has_new_text,
    latest.id, latest.type, latest.signature, latest.statement, latest.conditions, latest.action, latest.data,
    latest.created_at, latest.updated_at, latest.version, latest.pinned, latest.sti, latest.lti, latest.attended_at,
    latest.forgotten_at, latest.pos, latest.neg, latest.sum_reward, latest.last_seen, latest.sites, latest.days
FROM last LEFT JOIN latest ON true
ORDER BY latest.place, latest.id;

-- name: page
-- At most $2 patterns that are not forgotten, after id $1, with the sums of their evidence, without what only describes them.
SELECT p.id, p.type, p.statement, p.conditions, p.action, p.data -> 'cost' AS cost, p.pinned, e.pos, e.neg, e.sum_reward,
    e.last_seen
FROM (SELECT * FROM patterns WHERE id > $1 AND forgotten_at IS NULL ORDER BY id LIMIT $2) AS p
CROSS JOIN LATERAL (
    SELECT least(coalesce(sum(pos) FILTER (WHERE counts), 0), 9007199254740992)::bigint AS pos,
        least(coalesce(sum(neg) FILTER (WHERE counts), 0), 9007199254740992)::bigint AS neg,
        coalesce(sum(sum_reward) FILTER (WHERE counts), 0) AS sum_reward, max(last_seen) FILTER (WHERE counts) AS last_seen
    FROM weighed_evidence WHERE pattern_id = p.id
) AS e
ORDER BY p.id;

-- name: mark
-- Let the $2 patterns after id $1, and their evidence, count as changed now; returns the last id.
WITH batch AS MATERIALIZED (
    SELECT id FROM patterns WHERE id > $1 ORDER BY id LIMIT $2 FOR NO KEY UPDATE
), marked AS (
    UPDATE patterns AS p SET changed = pg_current_xact_id() FROM batch WHERE p.id = batch.id
), marked_evidence AS (
    UPDATE pattern_evidence AS e SET changed = pg_current_xact_id() FROM batch WHERE e.pattern_id = batch.id
)
SELECT max(id) FROM batch;

-- name: settle
-- Note that all numbers of transactions are this database's, and wake those who follow.
WITH settled AS (UPDATE site SET identity = $1 RETURNING 1)
SELECT pg_notify('patterns', '') FROM settled;

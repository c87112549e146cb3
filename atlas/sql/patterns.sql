-- name: site
-- The site's name in evidence, and its key for pseudonyms.
SELECT own_node() AS node, privacy_key FROM site;

-- name: begin_run
-- Note that run $1 of the learner has begun.
UPDATE site SET learner_run = $1;

-- name: run_under_way
-- The run of the learner that began last, if somebody holds the advisory lock $1.
SELECT coalesce(learner_run, 'unknown') FROM site
WHERE EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32 | objid::bigint) = $1::bigint
);

-- name: store
-- Store patterns with ids $1, types $2, signatures $3, statements $4, conditions $5, actions $6 and data $7, as of $8. The
-- texts of known ones are updated; returns which are new or changed. What the learner forgot comes back; what an operator forgot stays forgotten.
INSERT INTO patterns AS p (id, type, signature, statement, conditions, action, data, created_at, updated_at, attended_at)
SELECT id, type, signature::jsonb, statement, conditions::jsonb, action, data::jsonb, $8, $8, $8
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS new (id, type, signature, statement, conditions, action, data)
ORDER BY id COLLATE "C"
ON CONFLICT (id) DO UPDATE
SET statement = excluded.statement, conditions = excluded.conditions, action = excluded.action, data = excluded.data,
    updated_at = excluded.updated_at, version = p.version + 1, forgotten_at = NULL, forgotten_by = NULL
WHERE p.forgotten_by IS DISTINCT FROM 'operator'
    AND (
        p.forgotten_at IS NOT NULL OR p.statement <> excluded.statement OR p.conditions <> excluded.conditions
        OR p.action IS DISTINCT FROM excluded.action OR p.data <> excluded.data
    )
RETURNING id, version = 1 AS is_new;

-- name: count
-- Add what this site counted: for patterns $1 on days $2, $3 for and $4 against, rewards $5, last seen at $6. Patterns that
-- are forgotten, or are deleted meanwhile, get nothing.
INSERT INTO pattern_evidence AS e (pattern_id, node, day, pos, neg, sum_reward, last_seen, version)
SELECT new.pattern_id, own.node, new.day, new.pos, new.neg, new.reward, new.last_seen, 1
FROM unnest($1::text[], $2::date[], $3::bigint[], $4::bigint[], $5::float8[], $6::timestamptz[])
    AS new (pattern_id, day, pos, neg, reward, last_seen)
CROSS JOIN own_node() AS own (node)
JOIN patterns AS p ON p.id = new.pattern_id AND p.forgotten_at IS NULL
ORDER BY new.pattern_id COLLATE "C", new.day
FOR KEY SHARE OF p
ON CONFLICT (pattern_id, node, day) DO UPDATE
SET pos = e.pos + excluded.pos, neg = e.neg + excluded.neg, sum_reward = e.sum_reward + excluded.sum_reward,
    last_seen = greatest(e.last_seen, excluded.last_seen), version = e.version + 1;

-- name: merge_evidence
-- Merge rows of other sites: of patterns $1, nodes $2, days $3, with counts $4 and $5, rewards $6, last seen at $7, versions $8.
-- Rows of patterns that are not stored, or are forgotten, and of days before $9 are left out. All are from site $10 (NULL: no site
-- sent them). Returns how many rows changed.
WITH merged AS (
    INSERT INTO pattern_evidence AS e (pattern_id, node, day, pos, neg, sum_reward, last_seen, version, brought_by)
    SELECT new.pattern_id, new.node, new.day, new.pos, new.neg, new.reward, new.last_seen, new.version, $10::text
    FROM unnest($1::text[], $2::text[], $3::date[], $4::bigint[], $5::bigint[], $6::float8[], $7::timestamptz[], $8::bigint[])
        AS new (pattern_id, node, day, pos, neg, reward, last_seen, version)
    JOIN patterns AS p ON p.id = new.pattern_id AND p.forgotten_at IS NULL
    WHERE new.day >= $9
    ORDER BY new.pattern_id COLLATE "C", new.node COLLATE "C", new.day
    FOR KEY SHARE OF p
    ON CONFLICT (pattern_id, node, day) DO UPDATE
    SET pos = greatest(e.pos, excluded.pos), neg = greatest(e.neg, excluded.neg),
        sum_reward = CASE
            WHEN excluded.version > e.version THEN excluded.sum_reward
            WHEN excluded.version = e.version THEN greatest(e.sum_reward, excluded.sum_reward)
            ELSE e.sum_reward
        END,
        last_seen = greatest(e.last_seen, excluded.last_seen), version = greatest(e.version, excluded.version),
        brought_by = excluded.brought_by
    WHERE excluded.pos > e.pos OR excluded.neg > e.neg OR excluded.version > e.version OR excluded.last_seen > e.last_seen
        OR (excluded.version = e.version AND excluded.sum_reward > e.sum_reward)
    RETURNING 1
)
SELECT count(*) FROM merged;

-- name: known
-- The patterns that are not forgotten, of the types $1 and with the ids $2 (NULL: all), with the sums of their evidence.
SELECT p.id, p.type, p.signature, p.statement, p.conditions, p.action, p.data, p.created_at, p.updated_at, p.version,
    p.pinned, p.sti, p.lti, p.attended_at, coalesce(e.pos, 0) AS pos, coalesce(e.neg, 0) AS neg,
    coalesce(e.sum_reward, 0) AS sum_reward, e.last_seen, coalesce(e.sites, 0) AS sites, coalesce(e.days, 0) AS days
FROM patterns AS p
LEFT JOIN (
    SELECT pattern_id, least(sum(pos) FILTER (WHERE counts), 9007199254740992)::bigint AS pos,
        least(sum(neg) FILTER (WHERE counts), 9007199254740992)::bigint AS neg,
        sum(sum_reward) FILTER (WHERE counts) AS sum_reward, max(last_seen) FILTER (WHERE counts) AS last_seen,
        count(DISTINCT site_of(node))::integer AS sites, count(DISTINCT day) FILTER (WHERE counts)::integer AS days
    FROM weighed_evidence
    WHERE $2::text[] IS NULL OR pattern_id = ANY ($2::text[])
    GROUP BY pattern_id
) AS e ON e.pattern_id = p.id
WHERE p.forgotten_at IS NULL AND ($1::text[] IS NULL OR p.type = ANY ($1::text[]))
    AND ($2::text[] IS NULL OR p.id = ANY ($2::text[]))
ORDER BY p.id;

-- name: count_known
-- How many patterns are not forgotten.
SELECT count(*) FROM patterns WHERE forgotten_at IS NULL;

-- name: beginning_with
-- The ids that begin with $1, of patterns that are known or, if $3, that an operator forgot; at most $2.
SELECT id FROM patterns
WHERE id LIKE $1 || '%' AND CASE WHEN $3::boolean THEN forgotten_by = 'operator' ELSE forgotten_at IS NULL END
ORDER BY id LIMIT $2;

-- name: evidence
-- The evidence rows of the patterns $1, oldest day first.
SELECT pattern_id, node, day, pos, neg, sum_reward, last_seen, version
FROM pattern_evidence WHERE pattern_id = ANY ($1::text[]) ORDER BY pattern_id, day, node;

-- name: all_patterns
-- The patterns with ids after $1, forgotten ones included, at most $2.
SELECT id, type, signature, statement, conditions, action, data, created_at, updated_at, version, pinned, sti, lti,
    attended_at, forgotten_at, forgotten_by, remembered_at
FROM patterns WHERE id > $1 ORDER BY id LIMIT $2;

-- name: all_evidence
-- The evidence rows after that of pattern $1, node $2 and day $3, at most $4.
SELECT pattern_id, node, day, pos, neg, sum_reward, last_seen, version
FROM pattern_evidence WHERE (pattern_id, node, day) > ($1, $2, $3::date) ORDER BY pattern_id, node, day LIMIT $4;

-- name: merge_patterns
-- Merge copies of patterns: ids $1, types $2, signatures $3, statements $4, conditions $5, actions $6, data $7, created at $8,
-- updated at $9, versions $10, pinned $11, importance $12 and $13 as of $14, forgotten at $15 by $16, remembered at $17. In
-- whatever order copies come, the same stays: of texts the latest; of an operator's forgetting and remembering the later act;
-- and what the learner forgot, any living copy revives. Returns the ids that changed.
INSERT INTO patterns AS p (id, type, signature, statement, conditions, action, data, created_at, updated_at, version, pinned,
    sti, lti, attended_at, forgotten_at, forgotten_by, remembered_at)
SELECT id, type, signature::jsonb, statement, conditions::jsonb, action, data::jsonb, created_at, updated_at, version, pinned,
    sti, lti, attended_at, forgotten_at, forgotten_by, remembered_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
    $9::timestamptz[], $10::bigint[], $11::boolean[], $12::float8[], $13::float8[], $14::timestamptz[], $15::timestamptz[],
    $16::text[], $17::timestamptz[])
    AS new (id, type, signature, statement, conditions, action, data, created_at, updated_at, version, pinned, sti, lti,
        attended_at, forgotten_at, forgotten_by, remembered_at)
ORDER BY id COLLATE "C"
ON CONFLICT (id) DO UPDATE
SET (statement, conditions, action, data, updated_at, version, pinned) = (
        SELECT later.statement, later.conditions, later.action, later.data, later.updated_at, later.version, later.pinned
        FROM (VALUES
            (p.statement, p.conditions, p.action, p.data, p.updated_at, p.version, p.pinned),
            (excluded.statement, excluded.conditions, excluded.action, excluded.data, excluded.updated_at, excluded.version,
                excluded.pinned)
        ) AS later (statement, conditions, action, data, updated_at, version, pinned)
        ORDER BY later.version DESC, later.updated_at DESC, later.statement COLLATE "C" DESC,
            later.conditions::text COLLATE "C" DESC, coalesce(later.action, '') COLLATE "C" DESC,
            later.data::text COLLATE "C" DESC, later.pinned DESC
        LIMIT 1
    ),
    (forgotten_at, forgotten_by) = (
        SELECT
            CASE
                WHEN acts.forgot >= coalesce(acts.remembered, acts.forgot) THEN acts.forgot
                WHEN p.forgotten_by = 'learner' AND excluded.forgotten_by IS NOT NULL THEN p.forgotten_at
            END,
            CASE
                WHEN acts.forgot >= coalesce(acts.remembered, acts.forgot) THEN 'operator'
                WHEN p.forgotten_by = 'learner' AND excluded.forgotten_by IS NOT NULL THEN 'learner'
            END
        FROM (VALUES (
            greatest(
                CASE WHEN p.forgotten_by = 'operator' THEN p.forgotten_at END,
                CASE WHEN excluded.forgotten_by = 'operator' THEN excluded.forgotten_at END
            ),
            greatest(p.remembered_at, excluded.remembered_at)
        )) AS acts (forgot, remembered)
    ),
    remembered_at = greatest(p.remembered_at, excluded.remembered_at)
WHERE (excluded.version, excluded.updated_at, excluded.statement COLLATE "C", excluded.conditions::text COLLATE "C",
        coalesce(excluded.action, '') COLLATE "C", excluded.data::text COLLATE "C", excluded.pinned)
    > (p.version, p.updated_at, p.statement COLLATE "C", p.conditions::text COLLATE "C",
        coalesce(p.action, '') COLLATE "C", p.data::text COLLATE "C", p.pinned)
    OR excluded.remembered_at > coalesce(p.remembered_at, '-infinity')
    OR (p.forgotten_by = 'learner' AND excluded.forgotten_by IS NULL)
    OR (p.forgotten_by = 'operator' AND excluded.forgotten_by IS NULL AND excluded.remembered_at > p.forgotten_at)
    OR (excluded.forgotten_by = 'operator' AND excluded.forgotten_at >= coalesce(p.remembered_at, '-infinity')
        AND (p.forgotten_by IS DISTINCT FROM 'operator' OR excluded.forgotten_at > p.forgotten_at))
RETURNING id;

-- name: clear_forgotten
-- Delete evidence of those of the patterns $1 that are forgotten.
DELETE FROM pattern_evidence AS e USING patterns AS p
WHERE p.id = e.pattern_id AND p.id = ANY ($1::text[]) AND p.forgotten_at IS NOT NULL;

-- name: forgotten_by_operator
-- Those of the patterns $1 that an operator forgot.
SELECT id FROM patterns WHERE id = ANY ($1::text[]) AND forgotten_by = 'operator' ORDER BY id;

-- name: pin
-- Pin ($2 true) or unpin the patterns $1.
UPDATE patterns SET pinned = $2, version = version + 1
WHERE id = ANY ($1::text[]) AND forgotten_at IS NULL AND pinned <> $2;

-- name: forget
-- Forget the patterns $1 as of $2, on behalf of $3: their evidence goes, a tombstone stays.
WITH buried AS (
    UPDATE patterns SET forgotten_at = greatest($2, remembered_at), forgotten_by = $3, pinned = false, version = version + 1
    WHERE id = ANY ($1::text[]) AND forgotten_at IS NULL
    RETURNING id
), cleared AS (
    DELETE FROM pattern_evidence AS e USING buried WHERE e.pattern_id = buried.id
)
SELECT count(*) FROM buried;

-- name: remember
-- Let evidence revive the patterns $1 as of $2, though an operator forgot them.
UPDATE patterns
SET forgotten_by = 'learner', remembered_at = greatest($2, forgotten_at + interval '1 microsecond'), version = version + 1
WHERE id = ANY ($1::text[]) AND forgotten_by = 'operator';

-- name: importances
-- The importance, when it was last written, of the patterns $1 (NULL: all) that are not forgotten.
SELECT id, pinned, sti, lti, attended_at FROM patterns
WHERE forgotten_at IS NULL AND ($1::text[] IS NULL OR id = ANY ($1::text[])) ORDER BY id;

-- name: attend
-- Write the importance of patterns $1 as it is at $4: short-term $2, long-term $3.
UPDATE patterns AS p SET sti = new.sti, lti = new.lti, attended_at = $4
FROM unnest($1::text[], $2::float8[], $3::float8[]) AS new (id, sti, lti)
WHERE p.id = new.id;

-- name: expire_evidence
-- Delete evidence of days before $1 and, if $2 is given, older than that by the database's clock too.
DELETE FROM pattern_evidence
WHERE day < least($1::date, ((clock_timestamp() - $2::interval) AT TIME ZONE 'UTC')::date);

-- name: without_evidence
-- Patterns that are neither pinned nor forgotten and have no evidence left.
SELECT id FROM patterns AS p
WHERE forgotten_at IS NULL AND NOT pinned AND NOT EXISTS (SELECT FROM pattern_evidence AS e WHERE e.pattern_id = p.id)
ORDER BY id;

-- name: expire_tombstones
-- Delete what the learner forgot before $1 and, if $2 is given, longer ago than that by the database's clock too. What an
-- operator forgot stays known as such.
DELETE FROM patterns
WHERE forgotten_by = 'learner' AND forgotten_at < least($1::timestamptz, clock_timestamp() - $2::interval);

-- name: models
-- The states of the models $1.
SELECT name, version, state, observations, updated_at FROM models WHERE name = ANY ($1::text[]);

-- name: observations
-- How many observations the models have learnt from whose names begin with $1.
SELECT name, observations FROM models WHERE starts_with(name, $1) ORDER BY name;

-- name: save_models
-- Save models with names $1, versions $2, states $3 and counts of observations $4, as of $5.
INSERT INTO models (name, version, state, observations, updated_at)
SELECT name, version, state, observations, $5
FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::bigint[]) AS new (name, version, state, observations)
ORDER BY name COLLATE "C"
ON CONFLICT (name) DO UPDATE
SET version = excluded.version, state = excluded.state, observations = excluded.observations, updated_at = excluded.updated_at;

-- name: forget_models
-- Delete the states of the models $1.
DELETE FROM models WHERE name = ANY ($1::text[]);

-- name: cursors
-- How far the sources $1 are learnt.
SELECT source, position FROM learner_cursors WHERE source = ANY ($1::text[]);

-- name: cursors_beginning_with
-- How far the sources are learnt whose names begin with $1.
SELECT source, position FROM learner_cursors WHERE starts_with(source, $1);

-- name: begin_cursor
-- Start to read source $1 at $2, if nobody has yet.
INSERT INTO learner_cursors (source, position, updated_at) VALUES ($1, $2, $3) ON CONFLICT (source) DO NOTHING;

-- name: move_cursor
-- Move the cursor of source $1 from $2 to $3, as of $4; no row if it is not there any more.
UPDATE learner_cursors SET position = $3, updated_at = $4 WHERE source = $1 AND position = $2;

-- name: reset_cursors
-- Forget how far the sources $1 are learnt.
DELETE FROM learner_cursors WHERE source = ANY ($1::text[]);

-- name: add_alarms
-- Store alarms of series $1 at $2, of kinds $3, with values $4, scores $5 and details $6.
INSERT INTO series_alarms (series, at, kind, value, score, detail)
SELECT series, at, kind, value, score, detail
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::float8[], $5::float8[], $6::text[])
    AS new (series, at, kind, value, score, detail)
ON CONFLICT (series, at, kind) DO NOTHING;

-- name: alarms
-- At most $4 alarms since $1, of the series $2 and the kind $3 (NULL: all), newest first.
SELECT series, at, kind, value, score, detail FROM series_alarms
WHERE at >= $1 AND ($2::text IS NULL OR series = $2) AND ($3::text IS NULL OR kind = $3)
ORDER BY at DESC, series, kind LIMIT $4;

-- name: expire_alarms
-- Delete alarms before $1 and, if $2 is given, older than that by the database's clock too.
DELETE FROM series_alarms WHERE at < least($1::timestamptz, clock_timestamp() - $2::interval);

-- name: suggest
-- Make or renew the suggestion with key $1: category $2, text $3, command $4, evidence $5, as of $6. One that people closed
-- stays closed unless its text differs.
INSERT INTO suggestions AS s (key, category, text, command, evidence, made_at, updated_at)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $6)
ON CONFLICT (key) DO UPDATE
SET text = excluded.text, command = excluded.command, evidence = excluded.evidence, updated_at = excluded.updated_at,
    closed_at = CASE WHEN s.text = excluded.text THEN s.closed_at END,
    closed_by = CASE WHEN s.text = excluded.text THEN s.closed_by END,
    reason = CASE WHEN s.text = excluded.text THEN s.reason END
WHERE s.text <> excluded.text OR s.evidence <> excluded.evidence;

-- name: suggestions
-- The suggestions that nobody has closed, newest first.
SELECT id, key, category, text, command, evidence, made_at, updated_at FROM suggestions
WHERE closed_at IS NULL ORDER BY updated_at DESC, id DESC;

-- name: withdraw_suggestion
-- Delete the suggestion with key $1, unless people closed it: what they closed stays known as such.
DELETE FROM suggestions WHERE key = $1 AND closed_at IS NULL;

-- name: close_suggestion
-- Close the suggestion with key $1 as of $2.
UPDATE suggestions SET closed_at = $2 WHERE key = $1 AND closed_at IS NULL;

-- Feeding the knowledge graph with the facts of videos, topics and patterns. All of it runs under the graph's lock, in space 0.

-- name: state
-- Whether the graph and the outbox hold all facts, when links were last derived, and how many facts have changed since.
SELECT is_whole, fed_at, derived_at, changes FROM graph_state;

-- name: begin_rebuild
-- The graph and the outbox may lack facts, so that all must be compared.
UPDATE graph_state SET is_whole = false;

-- name: begin_anew
-- All atoms are others now: all facts must be compared, and everything that is derived of them is due.
UPDATE graph_state
SET is_whole = false, derived_at = NULL, changes = greatest(changes, 1), grouped_at = NULL, modularity = NULL;

-- name: note_rebuilt
-- The graph and the outbox together hold all facts.
UPDATE graph_state SET is_whole = true;

-- name: forget_waiting
-- Delete the entries of the outbox, without those that other transactions have locked: these have changed something that can't be
-- seen yet.
DELETE FROM graph_outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM graph_outbox FOR UPDATE SKIP LOCKED));

-- name: note_fed
-- Facts were taken over at $1, of which $2 changed.
UPDATE graph_state SET fed_at = $1, changes = changes + $2;

-- name: note_derived
-- Links were derived at $1, when $2 of the changes of facts had been made.
UPDATE graph_state SET derived_at = $1, changes = greatest(changes - $2, 0);

-- name: waiting
-- How many entries the outbox has.
SELECT count(*) FROM graph_outbox;

-- name: estimate_atoms
-- About how many rows there are for atoms, also of those that are gone and of other spaces: by the size of the table now, and how full
-- its pages were when it was last vacuumed or analysed. NULL if that is not known, or the table has grown to twice its size since.
SELECT (c.reltuples / c.relpages * now.pages)::bigint
FROM pg_class AS c
CROSS JOIN LATERAL (SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages) AS now
WHERE c.oid = 'atoms'::regclass AND c.relkind = 'r' AND c.reltuples >= 0 AND c.relpages > 0 AND now.pages <= 2 * c.relpages;

-- name: count_facts
-- How many videos, topics and patterns there are.
SELECT (SELECT count(*) FROM videos) + (SELECT topics FROM queue_state)
    + (SELECT count(*) FROM patterns WHERE forgotten_at IS NULL);

-- name: has_facts
-- Whether the facts say of any atom that it is there.
SELECT EXISTS (SELECT FROM atoms WHERE space = 0 AND sources & 1 = 1);

-- name: take
-- Take at most $3 entries of the outbox, from kind $1 and key $2 on. Those that other transactions have locked stay: these have
-- changed something that can't be seen yet.
WITH taken AS (
    DELETE FROM graph_outbox
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM graph_outbox
        WHERE (kind, key) >= ($1, $2)
        ORDER BY kind, key LIMIT $3
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING kind, key
)
SELECT DISTINCT kind, key FROM taken ORDER BY kind, key;

-- name: videos
-- What is known of the videos $1.
SELECT v.id, v.channel_id, v.category_id, v.tags, coalesce(met.arms, '{}') AS arms,
    ARRAY(
        SELECT DISTINCT q.key::text FROM search_queue AS q WHERE q.id = ANY (array_append(met.topics, v.discovered_by)) ORDER BY 1
    ) AS topics
FROM videos AS v
LEFT JOIN LATERAL (
    SELECT array_agg(DISTINCT s.arm ORDER BY s.arm) AS arms, array_agg(DISTINCT t.topic) FILTER (WHERE t.topic IS NOT NULL) AS topics
    FROM video_sources AS s
    LEFT JOIN LATERAL unnest(s.topics) AS t (topic) ON true
    WHERE s.video_id = v.id
) AS met ON true
WHERE v.id = ANY ($1::text[]);

-- name: topics
-- Those of the keys $1 of which there are topics.
SELECT DISTINCT key::text FROM search_queue WHERE key = ANY ($1::text[]);

-- name: patterns
-- Those of the patterns $1 (NULL: all) that are not forgotten.
SELECT id, signature, conditions, action FROM patterns
WHERE forgotten_at IS NULL AND ($1::text[] IS NULL OR id = ANY ($1::text[])) ORDER BY id;

-- name: standing
-- Those of the atoms $1 that are known, even if gone: of which the facts say what they say of something observed once, and the others.
SELECT sources & 1 = 1 AND (name IS NOT NULL OR sources & 4 <> 0 OR (pos, neg) = (1, 0)) AS stands, array_agg(uuid_send(handle)) AS handles
FROM atoms WHERE space = 0 AND handle = ANY ($1::uuid[]) GROUP BY stands;

-- name: add_nodes
-- Let the facts say, as of $1, that the nodes $2 of types $3 and names $4 are there; returns those of which they did not before.
INSERT INTO atoms AS a (space, handle, type, name, sources, seen_at, version)
SELECT 0, new.handle, new.type, new.name, 1, $1::timestamptz, (extract(epoch FROM $1::timestamptz) * 1000000)::bigint
FROM unnest($2::uuid[], $3::text[], $4::text[]) AS new (handle, type, name)
LEFT JOIN atoms AS known ON known.space = 0 AND known.handle = new.handle
WHERE known.handle IS NULL OR known.sources & 1 = 0
ORDER BY new.handle
ON CONFLICT (space, handle) DO UPDATE
SET type = excluded.type, name = excluded.name, gone_at = NULL, sources = a.sources | 1,
    seen_at = greatest(a.seen_at, excluded.seen_at),
    version = greatest(a.version + 1, excluded.version), changed = pg_current_xact_id()
RETURNING handle;

-- name: add_links
-- Let the facts say, as of $1, that the links $2 of types $3 from $4 to $5 are there: one observation each, unless people observed
-- it. Returns how many changed.
WITH stored AS (
    INSERT INTO atoms AS a (space, handle, type, outgoing, pos, positive, count, sources, seen_at, version)
    SELECT 0, new.handle, new.type, ARRAY[new.first, new.second], 1, 1, 1, 1, $1::timestamptz,
        (extract(epoch FROM $1::timestamptz) * 1000000)::bigint
    FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::uuid[]) AS new (handle, type, first, second)
    LEFT JOIN atoms AS known ON known.space = 0 AND known.handle = new.handle
    WHERE known.handle IS NULL OR known.sources & 1 = 0 OR known.sources & 4 = 0 AND (known.pos, known.neg) <> (1, 0)
    ORDER BY new.handle
    ON CONFLICT (space, handle) DO UPDATE
    SET type = excluded.type, outgoing = excluded.outgoing, gone_at = NULL, sources = a.sources | 1,
        pos = CASE WHEN a.sources & 4 = 0 THEN 1 ELSE a.pos END,
        neg = CASE WHEN a.sources & 4 = 0 THEN 0 ELSE a.neg END,
        positive = CASE WHEN a.sources & 12 = 0 THEN 1 ELSE a.positive END,
        count = CASE WHEN a.sources & 12 = 0 THEN 1 ELSE a.count END,
        seen_at = greatest(a.seen_at, excluded.seen_at),
        version = greatest(a.version + 1, excluded.version), changed = pg_current_xact_id()
    RETURNING handle, type, outgoing
), used AS (
    INSERT INTO incoming (space, target, type, position, link, other)
    SELECT 0, stored.outgoing[ends.position], stored.type, ends.position, stored.handle, stored.outgoing[3 - ends.position]
    FROM stored CROSS JOIN (VALUES (1), (2)) AS ends (position)
    ORDER BY 2, 3, 4, 5
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM stored;

-- name: add_derived
-- Store, as of $1, the derived links $2 of types $3 from $4 to $5, observed $6 times for and $7 against, of weights $8, where the
-- facts say that both ends are there. What people observed stays. Returns how many were written.
WITH stored AS (
    INSERT INTO atoms AS a (space, handle, type, outgoing, pos, neg, positive, count, weight, sources, seen_at, version)
    SELECT 0, new.handle, new.type, ARRAY[new.first, new.second], new.pos, new.neg, new.pos, new.pos::float8 + new.neg, new.weight,
        2, $1::timestamptz, (extract(epoch FROM $1::timestamptz) * 1000000)::bigint
    FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::bigint[], $7::bigint[], $8::real[])
        AS new (handle, type, first, second, pos, neg, weight)
    JOIN atoms AS f ON f.space = 0 AND f.handle = new.first AND f.sources & 1 = 1
    JOIN atoms AS s ON s.space = 0 AND s.handle = new.second AND s.sources & 1 = 1
    ORDER BY new.handle
    ON CONFLICT (space, handle) DO UPDATE
    SET type = excluded.type, outgoing = excluded.outgoing, gone_at = NULL, sources = a.sources | 2,
        pos = CASE WHEN a.sources & 4 = 0 THEN excluded.pos ELSE a.pos END,
        neg = CASE WHEN a.sources & 4 = 0 THEN excluded.neg ELSE a.neg END,
        weight = CASE WHEN a.sources & 4 = 0 THEN excluded.weight ELSE coalesce(a.weight, excluded.weight) END,
        positive = CASE WHEN a.sources & 12 = 0 THEN excluded.positive ELSE a.positive END,
        count = CASE WHEN a.sources & 12 = 0 THEN excluded.count ELSE a.count END,
        seen_at = greatest(a.seen_at, excluded.seen_at),
        version = greatest(a.version + 1, excluded.version), changed = pg_current_xact_id()
    RETURNING handle, type, outgoing
), used AS (
    INSERT INTO incoming (space, target, type, position, link, other)
    SELECT 0, stored.outgoing[ends.position], stored.type, ends.position, stored.handle, stored.outgoing[3 - ends.position]
    FROM stored CROSS JOIN (VALUES (1), (2)) AS ends (position)
    ORDER BY 2, 3, 4, 5
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM stored;

-- name: drop_derived
-- Take back, as of $2, that the derived links $1 are there.
SELECT count(*) FROM remove_atoms(0::smallint, $1::uuid[], 2, $2::timestamptz);

-- name: former_links
-- The links of facts that begin at the atoms $1, of the types $2, and where they end, without the links $3 that end at $4.
SELECT i.link, i.other
FROM unnest($1::uuid[]) AS subject (handle)
CROSS JOIN LATERAL (
    SELECT i.link, i.other
    FROM incoming AS i
    JOIN atoms AS l ON l.space = 0 AND l.handle = i.link AND l.sources & 1 = 1
    WHERE i.space = 0 AND i.target = subject.handle AND i.type = ANY ($2::text[]) AND i.position = 1
    OFFSET 0
) AS i
EXCEPT
SELECT wanted.link, wanted.other FROM unnest($3::uuid[], $4::uuid[]) AS wanted (link, other);

-- name: drop_links
-- Take back from the facts that the links $1 are there, as of $2.
SELECT count(*) FROM remove_atoms(0::smallint, $1::uuid[], 1, $2::timestamptz);

-- name: drop_unsupported
-- Take back from the facts those of the atoms $1 that no link of facts supports, as of $2.
SELECT count(*) FROM withdraw_unsupported($1::uuid[], $2::timestamptz);

-- name: withdraw
-- Take the atoms $1 and their links out of the facts, as of $2.
SELECT count(*) FROM withdraw_atoms($1::uuid[], 3, $2::timestamptz);

-- name: erase_lost
-- Take at most $1 videos and channels whole out of the graph that the facts said are there, but that are stored no more, as of $2;
-- returns how many those were, and how many atoms went.
WITH lost AS MATERIALIZED (
    SELECT a.handle FROM atoms AS a
    WHERE a.space = 0 AND a.name IS NOT NULL AND a.sources & 1 = 1 AND (
        a.type = 'video' AND NOT EXISTS (SELECT FROM videos AS v WHERE v.id = a.name)
        OR a.type = 'channel' AND NOT EXISTS (SELECT FROM channels AS c WHERE c.id = a.name)
    )
    LIMIT $1
)
SELECT (SELECT count(*) FROM lost) AS lost, (
    SELECT count(*) FROM withdraw_atoms(ARRAY(SELECT handle FROM lost), 15, $2::timestamptz)
) AS gone;

-- name: there
-- Those of the nodes $1 that are there by facts.
SELECT handle FROM atoms WHERE space = 0 AND handle = ANY ($1::uuid[]) AND sources & 1 = 1;

-- name: absent
-- Those of the nodes $1 of which the facts don't say that they are there.
SELECT wanted.handle
FROM unnest($1::uuid[]) AS wanted (handle)
LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = wanted.handle AND a.sources & 1 = 1
WHERE a.handle IS NULL;

-- name: shown
-- How those of the tags $1 are shown that are not shown as they are called.
SELECT handle, texts[1] AS shown FROM atom_values WHERE space = 0 AND handle = ANY ($1::uuid[]) AND key = 'shown';

-- name: tagged_by_people
-- The tags of links by which others than the facts say that they are on videos.
SELECT DISTINCT outgoing[2] AS tag FROM atoms WHERE space = 0 AND type = 'tagged' AND sources > 0 AND sources & 1 = 0 AND cardinality(outgoing) > 1;

-- name: carriers
-- Those of the tags $1 that are there by facts, with the first $2 videos that carry each, by the handles of the links.
SELECT a.handle, a.name, ARRAY(
    SELECT i.other FROM incoming AS i
    WHERE i.space = 0 AND i.target = a.handle AND i.type = 'tagged' AND i.position = 2 AND i.other IS NOT NULL
    ORDER BY i.link LIMIT $2
) AS videos
FROM atoms AS a
WHERE a.space = 0 AND a.handle = ANY ($1::uuid[]) AND a.type = 'tag' AND a.sources & 1 = 1;

-- name: tags_of
-- The tags, as uploaders wrote them, of the videos with the handles $1.
SELECT a.handle, v.tags FROM atoms AS a JOIN videos AS v ON v.id = a.name
WHERE a.space = 0 AND a.handle = ANY ($1::uuid[]) AND a.sources > 0 AND a.type = 'video';

-- name: show
-- Show the tags $1 with the spellings $2, and the tags $3 as they are called; returns how many changed.
WITH dropped AS (
    DELETE FROM atom_values WHERE space = 0 AND handle = ANY ($3::uuid[]) AND key = 'shown' RETURNING 1
), stored AS (
    INSERT INTO atom_values AS v (space, handle, key, texts)
    SELECT 0, tag.handle, 'shown', ARRAY[tag.spelling] FROM unnest($1::uuid[], $2::text[]) AS tag (handle, spelling)
    ORDER BY tag.handle
    ON CONFLICT (space, handle, key) DO UPDATE SET texts = excluded.texts, floats = NULL, handles = NULL
    WHERE v.texts IS DISTINCT FROM excluded.texts
    RETURNING 1
)
SELECT (SELECT count(*) FROM dropped) + (SELECT count(*) FROM stored);

-- Attention in the knowledge graph: what stimulates it, what it is raised from, and what may be forgotten.

-- name: growing_videos
-- At most $4 videos that were found to grow after ($1, $2) and not after $3, in this order.
SELECT judged_at, video_id FROM video_sources
WHERE growing AND (judged_at, video_id) > ($1::timestamptz, $2::text) AND judged_at <= $3
ORDER BY judged_at, video_id LIMIT $4;

-- name: topic_keys
-- The keys of the topics $1 by their ids.
SELECT id, key::text FROM search_queue WHERE id = ANY ($1::bigint[]);

-- name: hold
-- The attention of the atoms $2 of space $1, without those that have none, held so that nobody else changes it meanwhile.
SELECT handle, sti, lti, vlti, attended_at FROM atom_attention
WHERE space = $1::smallint AND handle = ANY ($2::uuid[]) ORDER BY handle FOR UPDATE;

-- name: fade
-- Delete the attention of atoms of space $1 of which at $2, after rent ($3 an hour), less than $4 of STI is left, and whose LTI, which
-- learns so fast ($5 an hour), is less than $6; that of very-long-term importance stays. Returns how many. What somebody holds is
-- being raised.
WITH faded AS MATERIALIZED (
    SELECT t.handle
    FROM atom_attention AS t
    CROSS JOIN LATERAL (SELECT greatest(extract(epoch FROM $2 - t.attended_at)::double precision, 0) / 3600) AS age (hours)
    WHERE t.space = $1::smallint AND t.vlti = 0
        AND t.sti * exp(-$3::double precision * age.hours) < $4::double precision
        AND t.lti * exp(-$5::double precision * age.hours)
            + $5::double precision / ($3::double precision - $5::double precision) * t.sti
            * (exp(-$5::double precision * age.hours) - exp(-$3::double precision * age.hours)) < $6::double precision
    ORDER BY t.handle
    FOR UPDATE OF t SKIP LOCKED
)
DELETE FROM atom_attention AS t USING faded WHERE t.space = $1::smallint AND t.handle = faded.handle;

-- name: crop
-- Delete the attention of all but $2 atoms of space $1: those stay of the most LTI that they had, and were to get of their STI ($3 of
-- it), when it was last set; that of very-long-term importance stays, too. Returns how many.
WITH least AS MATERIALIZED (
    SELECT handle FROM atom_attention WHERE space = $1::smallint AND vlti = 0
    ORDER BY lti + $3::double precision * sti DESC, handle OFFSET $2
), held AS MATERIALIZED (
    SELECT t.handle FROM atom_attention AS t JOIN least USING (handle)
    WHERE t.space = $1::smallint ORDER BY t.handle FOR UPDATE OF t SKIP LOCKED
)
DELETE FROM atom_attention AS t USING held WHERE t.space = $1::smallint AND t.handle = held.handle;

-- name: count_atoms
-- How many atoms of space $1 are there.
SELECT count(*) FROM atoms WHERE space = $1::smallint AND sources > 0;

-- name: loose_unattended
-- At most $3 loose atoms of space $1 without attention, those that fewest use first. Loose are tags and topics of which people say
-- nothing and that at most $2 videos use.
SELECT a.handle, used.links
FROM atoms AS a
CROSS JOIN LATERAL (
    SELECT count(*) AS links FROM (
        SELECT FROM incoming AS i
        WHERE i.space = a.space AND i.target = a.handle AND i.type IN ('tagged', 'found_by') LIMIT $2 + 1
    ) AS few
) AS used
WHERE a.space = $1::smallint AND a.type IN ('tag', 'topic') AND a.sources > 0 AND a.name IS NOT NULL AND a.sources & 4 = 0
    AND used.links <= $2
    AND NOT EXISTS (SELECT FROM atom_attention AS t WHERE t.space = a.space AND t.handle = a.handle)
ORDER BY used.links, a.handle
LIMIT $3;

-- name: loose_attended
-- The loose atoms of space $1 that have attention, with it and with how many videos use each; see loose_unattended.
SELECT t.handle, used.links, t.sti, t.lti, t.vlti, t.attended_at
FROM atom_attention AS t
JOIN atoms AS a ON a.space = t.space AND a.handle = t.handle
CROSS JOIN LATERAL (
    SELECT count(*) AS links FROM (
        SELECT FROM incoming AS i
        WHERE i.space = a.space AND i.target = a.handle AND i.type IN ('tagged', 'found_by') LIMIT $2 + 1
    ) AS few
) AS used
WHERE t.space = $1::smallint AND a.type IN ('tag', 'topic') AND a.sources > 0 AND a.sources & 4 = 0 AND used.links <= $2
ORDER BY t.handle;

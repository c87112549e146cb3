-- Links are nested no deeper than what is written of them can be read, whoever says them; and nothing of an erased video stays.

CREATE FUNCTION deepest_nesting() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 10 $$;

-- How deep links are nested in an atom: 0 for a node, 1 for a link of nodes. Of what is too deep, it isn't known how deep it is.
CREATE FUNCTION nesting(of_space smallint, of_handle uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    WITH RECURSIVE below (handle, depth) AS (
        SELECT of_handle, 0
        UNION
        SELECT ends.handle, below.depth + 1
        FROM below
        JOIN atoms AS a ON a.space = of_space AND a.handle = below.handle
        CROSS JOIN LATERAL unnest(a.outgoing) AS ends (handle)
        WHERE below.depth <= deepest_nesting()
    )
    SELECT max(depth) FROM below
$$;

-- As before, but links of other sites that would be too deep go on waiting, and so do those that need them.
CREATE OR REPLACE FUNCTION weigh_atoms(of_handles uuid[], at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ours CONSTANT text := (SELECT site_of(node) FROM site);
    strategy CONSTANT text := (SELECT conflicts FROM site);
    touched uuid[] := of_handles;
    more uuid[] := of_handles;
    lost uuid[];
    truths atom_truth[];
BEGIN
    UPDATE atoms AS a
    SET sources = (a.sources & 7) | CASE WHEN said.so THEN 8 ELSE 0 END, changed = pg_current_xact_id()
    FROM (
        SELECT wanted.handle, EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = wanted.handle AND c.present) AS so
        FROM unnest(of_handles) AS wanted (handle)
    ) AS said
    WHERE a.space = 0 AND a.handle = said.handle AND a.sources <> 0 AND (a.sources & 8 <> 0) <> said.so
        AND (said.so OR a.sources & 7 <> 0);
    SELECT array_agg(a.handle) INTO lost FROM atoms AS a
    WHERE a.space = 0 AND a.handle = ANY (of_handles) AND a.sources = 8
        AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.present);
    IF lost IS NOT NULL THEN
        PERFORM bury_atoms(0::smallint, lost, at);
    END IF;
    DELETE FROM waiting_links AS w
    WHERE w.handle = ANY (of_handles) AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = w.handle AND c.present);
    WHILE cardinality(more) > 0 LOOP
        more := ARRAY(
            SELECT w.handle
            FROM (SELECT unnest(more) UNION SELECT links_waiting_for(more)) AS wanted (handle)
            JOIN waiting_links AS w USING (handle)
            CROSS JOIN LATERAL unnest(w.outgoing) AS ends (target)
            LEFT JOIN atoms AS a ON a.space = 0 AND a.handle = ends.target AND a.sources > 0
            GROUP BY w.handle
            HAVING count(*) = count(a.handle)
                AND bool_and(CASE WHEN a.outgoing IS NULL THEN true ELSE nesting(0::smallint, a.handle) < deepest_nesting() END)
        );
        EXIT WHEN cardinality(more) = 0;
        WITH ready AS (
            DELETE FROM waiting_links AS w WHERE w.handle = ANY (more) RETURNING w.handle, w.type, w.outgoing
        ), raised AS (
            INSERT INTO atoms AS a (space, handle, type, outgoing, sources, seen_at, version)
            SELECT 0, ready.handle, ready.type, ready.outgoing, 8, coalesce(c.seen_at, at), 0
            FROM ready
            LEFT JOIN LATERAL (SELECT max(seen_at) FROM atom_claims WHERE handle = ready.handle AND present) AS c (seen_at) ON true
            ORDER BY ready.handle
            ON CONFLICT (space, handle) DO UPDATE
            SET type = excluded.type, outgoing = excluded.outgoing, sources = 8, gone_at = NULL, changed = pg_current_xact_id()
            WHERE a.sources = 0
            RETURNING handle, type, outgoing
        ), used AS (
            INSERT INTO incoming (space, target, type, position, link, other)
            SELECT 0, ends.target, raised.type, ends.position, raised.handle,
                CASE WHEN cardinality(outgoing) = 2 THEN outgoing[3 - ends.position] END
            FROM raised CROSS JOIN LATERAL unnest(outgoing) WITH ORDINALITY AS ends (target, position)
            ON CONFLICT DO NOTHING
        )
        SELECT coalesce(array_agg(handle), '{}') INTO more FROM raised;
        touched := touched || more;
    END LOOP;
    UPDATE atoms AS a SET positive = a.pos, count = a.pos::float8 + a.neg, changed = pg_current_xact_id()
    WHERE a.space = 0 AND a.handle = ANY (touched) AND a.sources > 0 AND a.sources & 8 = 0
        AND (a.positive, a.count) IS DISTINCT FROM (a.pos::float8, a.pos::float8 + a.neg);
    -- First the truth and then the update, as one statement would be planned for a row or two.
    WITH said AS (
        SELECT c.handle, c.site, c.pos::float8 AS pos, c.neg::float8 AS neg, c.seen_at, c.weight FROM atom_claims AS c
        WHERE c.handle = ANY (touched) AND c.present
        UNION ALL
        SELECT a.handle, ours, a.pos, a.neg, a.seen_at, a.weight FROM atoms AS a
        WHERE a.space = 0 AND a.handle = ANY (touched) AND a.sources & 15 > 8
            AND NOT EXISTS (SELECT FROM atom_claims AS c WHERE c.handle = a.handle AND c.site = ours)
    ), believed AS (
        SELECT handle, max(seen_at) AS seen_at,
            (array_agg(weight ORDER BY seen_at DESC, site COLLATE "C" DESC) FILTER (WHERE weight IS NOT NULL))[1] AS weight,
            CASE strategy
                WHEN 'merge' THEN revision(pos, neg ORDER BY pos + neg DESC, site COLLATE "C")
                WHEN 'latest' THEN ARRAY[
                    (array_agg(pos ORDER BY seen_at DESC, site COLLATE "C" DESC))[1],
                    (array_agg(pos + neg ORDER BY seen_at DESC, site COLLATE "C" DESC))[1]
                ]
                ELSE ARRAY[(array_agg(pos ORDER BY pos + neg DESC, site COLLATE "C" DESC))[1], max(pos + neg)]
            END AS value
        FROM said GROUP BY handle
    )
    SELECT ARRAY(SELECT (b.handle, b.value[1], b.value[2], b.weight, b.seen_at)::atom_truth FROM believed AS b) INTO truths;
    UPDATE atoms AS a
    SET positive = t.positive, count = t.count, changed = pg_current_xact_id(),
        weight = CASE WHEN a.sources = 8 THEN t.weight ELSE a.weight END,
        seen_at = CASE WHEN a.sources = 8 THEN t.seen_at ELSE a.seen_at END
    FROM unnest(truths) AS t
    WHERE a.space = 0 AND a.handle = t.handle AND a.sources & 8 <> 0 AND (
        (a.positive, a.count) IS DISTINCT FROM (t.positive, t.count)
        OR a.sources = 8 AND (a.weight, a.seen_at) IS DISTINCT FROM (t.weight, t.seen_at)
    );
END $$;

-- As before, but links that would be too deep are left out.
CREATE OR REPLACE FUNCTION apply_mirror(of_space smallint, of_refresh uuid, members uuid[], at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    placed uuid[];
BEGIN
    PERFORM bury_atoms(of_space, ARRAY(
        SELECT a.handle FROM atoms AS a
        WHERE a.space = of_space AND a.sources > 0
            AND NOT EXISTS (SELECT FROM unnest(members) AS m (handle) WHERE m.handle = a.handle)
    ), at);
    -- Links follow the atoms in their outgoing sets; those whose ends have gone since are read again the next time.
    LOOP
        placed := ARRAY(
            SELECT p.handle
            FROM mirror_pages AS p
            LEFT JOIN LATERAL unnest(p.outgoing) AS ends (target) ON true
            LEFT JOIN atoms AS a ON a.space = of_space AND a.handle = ends.target AND a.sources > 0
            WHERE p.space = of_space AND p.refresh = of_refresh
            GROUP BY p.handle
            HAVING count(ends.target) = count(a.handle)
                AND bool_and(CASE WHEN a.outgoing IS NULL THEN true ELSE nesting(of_space, a.handle) < deepest_nesting() END)
        );
        EXIT WHEN cardinality(placed) = 0;
        WITH ready AS (
            DELETE FROM mirror_pages AS p
            WHERE p.space = of_space AND p.refresh = of_refresh AND p.handle = ANY (placed)
            RETURNING p.*
        ), stored AS (
            INSERT INTO atoms AS a (space, handle, type, name, outgoing, positive, count, weight, sources, seen_at, version)
            SELECT space, handle, type, name, outgoing, positive, count, weight, 8, seen_at, 0 FROM ready ORDER BY handle
            ON CONFLICT (space, handle) DO UPDATE
            SET type = excluded.type, name = excluded.name, outgoing = excluded.outgoing, positive = excluded.positive,
                count = excluded.count, weight = excluded.weight, sources = 8, seen_at = excluded.seen_at, gone_at = NULL,
                changed = pg_current_xact_id()
            WHERE a.sources = 0
                OR (a.positive, a.count, a.weight, a.seen_at)
                    IS DISTINCT FROM (excluded.positive, excluded.count, excluded.weight, excluded.seen_at)
            RETURNING handle, type, outgoing
        ), used AS (
            INSERT INTO incoming (space, target, type, position, link, other)
            SELECT of_space, ends.target, stored.type, ends.position, stored.handle,
                CASE WHEN cardinality(outgoing) = 2 THEN outgoing[3 - ends.position] END
            FROM stored CROSS JOIN LATERAL unnest(outgoing) WITH ORDINALITY AS ends (target, position)
            ON CONFLICT DO NOTHING
        )
        SELECT placed INTO placed;
    END LOOP;
    DELETE FROM mirror_pages WHERE space = of_space;
    RETURN (SELECT count(*) FROM atoms WHERE space = of_space AND sources > 0);
END $$;

ALTER FUNCTION weigh_atoms SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION apply_mirror SET plan_cache_mode = force_custom_plan;

-- The videos whose spellings say how a tag is shown, with the links by which they carry it.
CREATE FUNCTION first_carriers(tag uuid) RETURNS TABLE (link uuid, video uuid) LANGUAGE sql STABLE AS $$
    SELECT i.link, i.other FROM incoming AS i
    WHERE i.space = 0 AND i.target = tag AND i.type = 'tagged' AND i.position = 2 AND i.other IS NOT NULL
    ORDER BY i.link LIMIT 5
$$;

-- As before, but tags are no longer shown as an erased video spelled them. A feeder finds out how the videos do that are their first
-- carriers now.
CREATE OR REPLACE FUNCTION erase_videos_from_graph() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids CONSTANT text[] := ARRAY(SELECT id FROM gone);
    erased CONSTANT uuid[] := ARRAY(SELECT node_handle('video', id) FROM unnest(ids) AS id);
    spelled uuid[];
BEGIN
    IF cardinality(ids) > 0 THEN
        PERFORM lock_graph(true);
        spelled := ARRAY(
            SELECT DISTINCT l.other
            FROM incoming AS l JOIN atom_values AS v ON v.space = 0 AND v.handle = l.other AND v.key = 'shown'
            WHERE l.space = 0 AND l.target = ANY (erased) AND l.type = 'tagged' AND l.position = 1
                AND l.link IN (SELECT carrier.link FROM first_carriers(l.other) AS carrier)
        );
        PERFORM withdraw_atoms(erased, 15, clock_timestamp());
        DELETE FROM graph_outbox WHERE kind = 'video' AND key = ANY (ids);
        DELETE FROM atom_values WHERE space = 0 AND handle = ANY (spelled) AND key = 'shown';
        PERFORM tell_graph('video', ARRAY(
            SELECT DISTINCT a.name
            FROM unnest(spelled) AS tag (handle)
            CROSS JOIN LATERAL first_carriers(tag.handle) AS carrier
            JOIN atoms AS a ON a.space = 0 AND a.handle = carrier.video AND a.type = 'video' AND a.sources & 1 = 1
        ));
    END IF;
    RETURN NULL;
END $$;

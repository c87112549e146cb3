-- name: wake_topics
-- Return up to $2 topics that have cooled long enough ($1 now) to the queue. The next run searches only for videos published
-- since the last one began; the more new videos per page that one found, the sooner it comes. A tag keeps what its mentions
-- are worth by now; a seed has had its turn ahead of all tags, and counts as a tag that was mentioned as often.
-- As in the claim, sub-selects hide the parameters, because planning for their values would take longer than running.
UPDATE search_queue
SET status = 'active',
    cool_until = NULL,
    priority = CASE origin
        WHEN 'seed' THEN decayed_score(
            1 + mention_count + new_videos::double precision / greatest(pages, 1), $1, (SELECT half_life_s FROM queue_state)
        )
        ELSE sum_of_scores(priority, decayed_score(
            1 + new_videos::double precision / greatest(pages, 1), $1, (SELECT half_life_s FROM queue_state)
        ))
    END,
    published_after = coalesce(searched_at, published_after),
    searched_at = NULL,
    pages = 0,
    results = 0,
    new_videos = 0,
    last_page_digest = NULL
WHERE id = ANY (ARRAY(
    SELECT id
    FROM search_queue
    WHERE status = 'cooling' AND cool_until <= (SELECT $1::timestamptz)
    ORDER BY cool_until
    LIMIT (SELECT $2::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
));

-- name: claim_topics
-- Lease the first $1 unclaimed topics to $2 under token $3 for $4 seconds ($6 now). Topics that were claimed $5 times since
-- their last stored page are parked instead, and returned without a lease. With $7, claim none while a cooled topic waits to
-- be woken, because it may come first. With $8, commit without waiting for the disk: if a crash loses the claim, its topics
-- are unclaimed again, and the token keeps the old claim from storing.
WITH async_commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $8)
UPDATE search_queue
SET status = CASE WHEN attempts < $5 THEN status ELSE 'parked' END,
    lease_owner = CASE WHEN attempts < $5 THEN $2 END,
    lease_token = CASE WHEN attempts < $5 THEN $3::uuid END,
    lease_until = CASE WHEN attempts < $5 THEN clock_timestamp() + make_interval(secs => $4) END,
    claimed_at = CASE WHEN attempts < $5 THEN $6 ELSE claimed_at END,
    attempts = CASE WHEN attempts < $5 THEN attempts + 1 ELSE attempts END,
    last_error = CASE
        WHEN attempts < $5 THEN last_error
        ELSE coalesce(last_error, format('claimed %s times, and no page was ever stored', attempts))
    END
WHERE id = ANY (ARRAY(
    SELECT id
    FROM search_queue
    WHERE status = 'active'
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND NOT ($7 AND coalesce((SELECT min(cool_until) <= $6 FROM search_queue WHERE status = 'cooling'), false))
        AND (SELECT count(*) FROM async_commit) >= 0
    ORDER BY priority DESC, id
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
))
-- Cast to plain types, because the driver looks up domains on every connection, which takes longer than the claim.
RETURNING id, query::text, origin::text, priority, lease_token, claimed_at, attempts::integer, page_token, page_params,
    page_issued_at, published_after, searched_at, pages::integer, results::integer, new_videos::integer,
    restarts::integer, refusals::integer, last_page_digest, last_error,
    nullif(parameters::jsonb, '{}') AS parameters;

-- name: claim_chosen_topics
-- As claim_topics, but of the topics $1, those that are still free; the others went to another process.
WITH async_commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $7)
UPDATE search_queue
SET status = CASE WHEN attempts < $5 THEN status ELSE 'parked' END,
    lease_owner = CASE WHEN attempts < $5 THEN $2 END,
    lease_token = CASE WHEN attempts < $5 THEN $3::uuid END,
    lease_until = CASE WHEN attempts < $5 THEN clock_timestamp() + make_interval(secs => $4) END,
    claimed_at = CASE WHEN attempts < $5 THEN $6 ELSE claimed_at END,
    attempts = CASE WHEN attempts < $5 THEN attempts + 1 ELSE attempts END,
    last_error = CASE
        WHEN attempts < $5 THEN last_error
        ELSE coalesce(last_error, format('claimed %s times, and no page was ever stored', attempts))
    END
WHERE id = ANY (ARRAY(
    SELECT id
    FROM search_queue
    WHERE id = ANY ((SELECT $1::bigint[])::bigint[])
        AND status = 'active'
        AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (SELECT count(*) FROM async_commit) >= 0
    FOR NO KEY UPDATE SKIP LOCKED
))
-- Cast to plain types, because the driver looks up domains on every connection, which takes longer than the claim.
RETURNING id, query::text, origin::text, priority, lease_token, claimed_at, attempts::integer, page_token, page_params,
    page_issued_at, published_after, searched_at, pages::integer, results::integer, new_videos::integer,
    restarts::integer, refusals::integer, last_page_digest, last_error,
    nullif(parameters::jsonb, '{}') AS parameters;

-- name: topic_candidates
-- Topics to choose from: the first $1 that are free, and of the first $2 the first $1 that were never asked about.
SELECT id, query::text, key::text, origin::text, priority, mention_count, growing_mentions, asks_total, early_total, judged_total,
    early_growing_total, asked_at, page_token IS NOT NULL AS has_page, page_params, page_issued_at,
    nullif(parameters::jsonb, '{}') AS parameters
FROM search_queue
WHERE id = ANY (
    ARRAY(
        SELECT id
        FROM search_queue
        WHERE status = 'active' AND (lease_until IS NULL OR lease_until < clock_timestamp())
        ORDER BY priority DESC, id
        LIMIT (SELECT $1::bigint)
    ) || ARRAY(
        SELECT id
        FROM (
            SELECT id, asks_total, priority
            FROM search_queue
            WHERE status = 'active' AND (lease_until IS NULL OR lease_until < clock_timestamp())
            ORDER BY priority DESC, id
            LIMIT (SELECT $2::bigint)
        ) AS head
        WHERE asks_total = 0
        ORDER BY priority DESC, id
        LIMIT (SELECT $1::bigint)
    )
)
ORDER BY priority DESC, id;

-- name: lock_snowball
-- Take the snowball lock, which comes before locking many rows of the queue, so that two such transactions never deadlock.
-- Returns the half-life in seconds that the queue's scores were computed with.
SELECT half_life_s, pg_advisory_xact_lock(hashtextextended('maia.snowball', 0))
FROM queue_state;

-- name: update_search_states
-- Store the outcomes of claimed topics (one array per column), or fail (PL001) if a lease token is no longer valid. The
-- shared snowball lock excludes transactions that add topics, but not other completions, which lock other rows.
-- Starting over without a page counts as a restart; a run may have a few. A span in which nothing can be published any
-- more is not searched twice: its topic is parked. The sub-select hides how many topics there
-- are, for which a plan would be made every time.
WITH snowball AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(hashtextextended('maia.snowball', 0))),
stored AS (
    UPDATE search_queue AS q
    SET status = CASE
            WHEN o.status = 'cooling' AND span_is_over(q.parameters, q.claimed_at) THEN 'parked'
            ELSE o.status
        END,
        cool_until = CASE WHEN NOT span_is_over(q.parameters, q.claimed_at) THEN o.cool_until END,
        lease_owner = NULL,
        lease_token = NULL,
        lease_until = NULL,
        attempts = 0,
        refusals = 0,
        last_error = CASE
            WHEN o.status = 'cooling' AND span_is_over(q.parameters, q.claimed_at)
                THEN 'searched to the end of its span, which is over: nothing more can appear in it'
            ELSE o.error
        END,
        page_token = o.page_token,
        page_params = o.page_params::jsonb,
        page_issued_at = o.page_issued_at,
        searched_at = CASE WHEN o.restarted THEN q.claimed_at ELSE coalesce(q.searched_at, q.claimed_at) END,
        pages = CASE WHEN o.restarted THEN o.pages ELSE q.pages + o.pages END,
        results = CASE WHEN o.restarted THEN o.results ELSE q.results + o.results END,
        new_videos = CASE WHEN o.restarted THEN o.new_videos ELSE q.new_videos + o.new_videos END,
        last_page_digest = o.page_digest,
        restarts = CASE
            WHEN o.status = 'cooling' THEN 0
            WHEN o.restarted AND o.pages = 0 THEN q.restarts + 1
            ELSE q.restarts
        END,
        pages_total = q.pages_total + o.pages,
        results_total = q.results_total + o.results,
        new_videos_total = q.new_videos_total + o.new_videos,
        asks_total = q.asks_total + o.asks,
        early_total = q.early_total + o.early,
        asked_at = CASE WHEN o.asks > 0 THEN q.claimed_at ELSE q.asked_at END
    FROM unnest(
        (SELECT $1::bigint[]), $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
        $8::timestamptz[], $9::boolean[], $10::integer[], $11::integer[], $12::integer[], $13::text[], $14::real[],
        $15::integer[]
    ) AS o (
        id, lease_token, status, cool_until, error, page_token, page_params, page_issued_at,
        restarted, pages, results, new_videos, page_digest, asks, early
    )
    WHERE q.id = o.id AND q.lease_token = o.lease_token AND (SELECT count(*) FROM snowball) = 1
    RETURNING q.id
)
SELECT require_leases(count(*), cardinality($1))
FROM stored;

-- name: count_asks
-- Count $2 more questions about each of the topics $1, which nobody needs to have claimed, and so many more early videos that
-- they found ($3). The snowball lock excludes completions that lock the same rows in another order.
WITH snowball AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('maia.snowball', 0)))
UPDATE search_queue AS q
SET asks_total = q.asks_total + $2,
    early_total = q.early_total + o.early
FROM unnest((SELECT $1::bigint[]), $3::integer[]) AS o (id, early)
WHERE q.id = o.id AND (SELECT count(*) FROM snowball) = 1;

-- name: release_topics
-- Give claims ($1 ids, $2 their tokens) back, for the reason $3 if there is one: claimable after $4 seconds, doubled for
-- every further attempt up to a day; without $5 the claim doesn't count as one, but as a refusal, which doubles the pause,
-- too, up to an hour; at $6 attempts the topic is parked.
WITH snowball AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(hashtextextended('maia.snowball', 0)))
UPDATE search_queue AS q
SET status = CASE WHEN $5 AND q.attempts >= $6 THEN 'parked' ELSE q.status END,
    lease_owner = NULL,
    lease_token = NULL,
    lease_until = CASE
        WHEN $4::double precision > 0
            THEN clock_timestamp() + make_interval(secs => least(
                $4 * power(2, least(q.attempts + q.refusals, 30) - 1),
                CASE WHEN $5 THEN 86400 ELSE greatest($4, 3600) END
            ))
    END,
    attempts = q.attempts - CASE WHEN $5 THEN 0 ELSE 1 END,
    refusals = least(q.refusals + CASE WHEN $3::text IS NOT NULL AND NOT $5 THEN 1 ELSE 0 END, 1000),
    last_error = coalesce($3, q.last_error)
FROM unnest($1::bigint[], $2::uuid[]) AS claim (id, lease_token)
WHERE q.id = claim.id AND q.lease_token = claim.lease_token AND (SELECT count(*) FROM snowball) = 1;

-- name: add_topics
-- Under the snowball lock: add mentions ($1 keys, $2 how often each of their spellings was met as JSON, $3 the commonest of
-- these, $4 counts, $5 weights, $7 now) to the topics that exist, and create the others with origin $6. Within a run a topic
-- keeps its spelling: the token of its next page is good for that alone. One row: topics added, topics there are now.
WITH mention AS MATERIALIZED (
    SELECT m.key, m.spellings::jsonb, m.commonest, m.mentions,
        decayed_score(m.weight, $7, (SELECT half_life_s FROM queue_state)) AS score
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::double precision[])
        AS m (key, spellings, commonest, mentions, weight)
),
found AS MATERIALIZED (
    -- Each by its key: a join would read a young queue, of which there are no statistics yet, once for each mention.
    SELECT m.*, (SELECT q.id FROM search_queue AS q WHERE q.key = m.key AND q.parameters = '{}'::jsonb) AS id
    FROM mention AS m
),
known AS (
    UPDATE search_queue AS q
    SET mention_count = q.mention_count + m.mentions,
        priority = sum_of_scores(q.priority, m.score),
        (spellings, query) = (
            -- The eight commonest spellings, and the first of them; among equals the one that is shown already.
            SELECT jsonb_object_agg(c.spelling, c.mentions),
                CASE
                    WHEN q.origin = 'seed' OR q.page_token IS NOT NULL THEN q.query
                    ELSE (array_agg(
                        c.spelling ORDER BY c.mentions DESC, c.spelling = q.query DESC, c.spelling COLLATE "C"
                    ))[1]
                END
            FROM (
                SELECT t.key AS spelling, sum(t.value::bigint) AS mentions
                FROM (SELECT * FROM jsonb_each_text(q.spellings) UNION ALL SELECT * FROM jsonb_each_text(m.spellings)) AS t
                GROUP BY t.key
                ORDER BY mentions DESC, t.key COLLATE "C"
                LIMIT 8
            ) AS c
        )
    FROM found AS m
    WHERE q.id = m.id
),
novel AS (
    INSERT INTO search_queue (query, key, spellings, origin, priority, mention_count, created_at)
    SELECT m.commonest, m.key, m.spellings, $6::text, m.score, m.mentions, $7
    FROM found AS m
    WHERE m.id IS NULL
    RETURNING id
),
counted AS (
    UPDATE queue_state
    SET topics = topics + (SELECT count(*) FROM novel)
    WHERE EXISTS (SELECT FROM novel)
)
SELECT count(*) AS added, (SELECT topics FROM queue_state) + count(*) AS topics
FROM novel;

-- name: trim_queue
-- Under the snowball lock: delete the $1 tags of lowest priority that were never searched; returns how many of the keys $2
-- were among them.
WITH trimmed AS (
    DELETE FROM search_queue
    WHERE id = ANY (ARRAY(
        SELECT id
        FROM search_queue
        WHERE status = 'active' AND origin = 'tag' AND pages_total = 0 AND asks_total = 0 AND lease_token IS NULL
        ORDER BY priority, id DESC
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING key, parameters
),
counted AS (
    UPDATE queue_state
    SET topics = topics - (SELECT count(*) FROM trimmed)
)
SELECT count(*)
FROM trimmed
WHERE key = ANY ($2::text[]) AND parameters = '{}'::jsonb;

-- name: seed_topics
-- Under the snowball lock: make the queries $1 (keys $2) with parameters $3 seeds of weight $4 ($5 now), to be searched in
-- this order. An existing topic gets at least that weight and, if it is cooling or parked, becomes active again. Returns one
-- row: topics added, topics made active again, topics in the queue.
WITH seed AS MATERIALIZED (
    SELECT s.query, s.key, s.place, decayed_score($4, $5, (SELECT half_life_s FROM queue_state)) AS score
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS s (query, key, place)
),
found AS MATERIALIZED (
    SELECT s.*, (SELECT q.id FROM search_queue AS q WHERE q.key = s.key AND q.parameters = $3::text::jsonb) AS id
    FROM seed AS s
),
known AS MATERIALIZED (
    SELECT q.id, q.status, f.query, f.score
    FROM found AS f
    JOIN search_queue AS q USING (id)
),
raised AS (
    UPDATE search_queue AS q
    SET origin = 'seed',
        query = known.query,
        status = 'active',
        priority = greatest(q.priority, known.score),
        cool_until = NULL,
        attempts = CASE WHEN q.lease_token IS NULL THEN 0 ELSE q.attempts END,
        refusals = 0,
        lease_until = CASE WHEN q.lease_token IS NULL THEN NULL ELSE q.lease_until END,
        last_error = NULL,
        published_after = CASE q.status WHEN 'cooling' THEN coalesce(q.searched_at, q.published_after) ELSE q.published_after END,
        searched_at = CASE q.status WHEN 'cooling' THEN NULL ELSE q.searched_at END,
        pages = CASE q.status WHEN 'cooling' THEN 0 ELSE q.pages END,
        results = CASE q.status WHEN 'cooling' THEN 0 ELSE q.results END,
        new_videos = CASE q.status WHEN 'cooling' THEN 0 ELSE q.new_videos END,
        last_page_digest = CASE q.status WHEN 'cooling' THEN NULL ELSE q.last_page_digest END
    FROM known
    WHERE q.id = known.id
),
novel AS (
    INSERT INTO search_queue (query, key, parameters, origin, priority, mention_count, created_at)
    SELECT f.query, f.key, $3::text::jsonb, 'seed', f.score, 0, $5
    FROM found AS f
    WHERE f.id IS NULL
    ORDER BY f.place
    RETURNING id
),
counted AS (
    UPDATE queue_state
    SET topics = topics + (SELECT count(*) FROM novel)
)
SELECT count(*) AS added,
    (SELECT count(*) FROM known WHERE status <> 'active') AS reactivated,
    (SELECT topics FROM queue_state) + count(*) AS topics
FROM novel;

-- name: rescale_scores
-- Under the snowball lock: convert all scores to a half-life of $1 seconds, keeping each weight's current value ($2 now).
WITH changed AS (UPDATE queue_state SET half_life_s = $1)
UPDATE search_queue
SET priority = priority + date_part('epoch', $2::timestamptz) * (1 / $1 - 1 / (SELECT half_life_s FROM queue_state));

-- name: park_topics
-- Under the snowball lock: park topics (ids $1 or keys $2) for reason $3, ending any claims on them.
UPDATE search_queue
SET status = 'parked',
    cool_until = NULL,
    lease_owner = NULL,
    lease_token = NULL,
    lease_until = NULL,
    last_error = $3
WHERE (id = ANY ($1::bigint[]) OR key = ANY ($2::text[])) AND status <> 'parked';

-- name: retry_topics
-- Under the snowball lock: return parked topics (ids $1 or keys $2, all if $3) to the queue with no attempts used and their
-- score raised as by a mention ($4 now); end the pause of active topics that failed.
UPDATE search_queue
SET status = 'active',
    attempts = 0,
    refusals = 0,
    lease_until = NULL,
    last_error = NULL,
    priority = sum_of_scores(priority, decayed_score(1, $4, (SELECT half_life_s FROM queue_state)))
WHERE (id = ANY ($1::bigint[]) OR key = ANY ($2::text[]) OR $3)
    AND (status = 'parked' OR (status = 'active' AND lease_token IS NULL AND lease_until IS NOT NULL));

-- name: page_of_topics
-- At most $2 topics of status $1 (NULL: any), highest priority first, after the one with priority $3 and id $4 if given. Each
-- status has its topics in their order in an index.
WITH page AS (
    (
        SELECT id
        FROM search_queue
        WHERE status = 'active' AND ($1::text IS NULL OR $1 = 'active')
            AND priority <= coalesce($3::double precision, 'infinity')
            AND ($3 IS NULL OR priority < $3 OR id > $4::bigint)
        ORDER BY priority DESC, id
        LIMIT $2
    )
    UNION ALL
    (
        SELECT id
        FROM search_queue
        WHERE status = 'cooling' AND (status = 'active') IS FALSE AND ($1::text IS NULL OR $1 = 'cooling')
            AND priority <= coalesce($3::double precision, 'infinity')
            AND ($3 IS NULL OR priority < $3 OR id > $4::bigint)
        ORDER BY priority DESC, id
        LIMIT $2
    )
    UNION ALL
    (
        SELECT id
        FROM search_queue
        WHERE status = 'parked' AND (status = 'active') IS FALSE AND ($1::text IS NULL OR $1 = 'parked')
            AND priority <= coalesce($3::double precision, 'infinity')
            AND ($3 IS NULL OR priority < $3 OR id > $4::bigint)
        ORDER BY priority DESC, id
        LIMIT $2
    )
)
SELECT id, query, origin, status, mention_count, attempts, lease_owner, lease_until, cool_until, last_error, searched_at,
    published_after, asks_total, pages_total, results_total, new_videos_total, judged_total, early_growing_total, created_at,
    nullif(parameters::jsonb, '{}') AS parameters, priority
FROM page
JOIN search_queue USING (id)
ORDER BY priority DESC, id
LIMIT $2;

-- name: topics_by_yield
-- At most $1 topics that were asked about at least $2 times, those with the most early growing videos a question
-- first, of equals those with the most new ones.
SELECT id, query, origin, status, mention_count, attempts, lease_owner, lease_until, cool_until, last_error, searched_at,
    published_after, asks_total, pages_total, results_total, new_videos_total, judged_total, early_growing_total, created_at,
    nullif(parameters::jsonb, '{}') AS parameters
FROM search_queue
WHERE asks_total >= $2 AND asks_total > 0
ORDER BY early_growing_total / asks_total DESC, new_videos_total / asks_total DESC, id
LIMIT $1;

-- name: count_topics
-- The number of topics by status, and how many active ones are claimed or wait after a failure.
SELECT count(*) FILTER (WHERE status = 'active') AS active,
    count(*) FILTER (WHERE status = 'cooling') AS cooling,
    count(*) FILTER (WHERE status = 'parked') AS parked,
    count(*) FILTER (WHERE lease_token IS NOT NULL AND lease_until >= clock_timestamp()) AS leased,
    count(*) FILTER (WHERE lease_token IS NULL AND lease_until >= clock_timestamp()) AS waiting
FROM search_queue;

-- name: next_wake
-- When the first cooling topic may be searched again; NULL if there is none.
SELECT min(cool_until) FROM search_queue WHERE status = 'cooling';

-- name: topic_queries
-- What the topics $1 search for.
SELECT id, query::text
FROM search_queue
WHERE id = ANY ($1::bigint[]);

-- name: topic_ids
-- The ids of the topics $1 (ids) and $2 (keys), at most $3.
SELECT id FROM search_queue WHERE id = ANY ($1::bigint[]) OR key = ANY ($2::text[]) ORDER BY id LIMIT $3;

-- name: tag_mentions
-- How often the topics with keys $1 and no parameters were mentioned.
SELECT key::text, mention_count
FROM search_queue
WHERE key = ANY ($1::text[]) AND parameters = '{}'::jsonb;

-- name: top_topics
-- The $1 topics mentioned most often.
SELECT query, mention_count
FROM search_queue
WHERE mention_count > 0
ORDER BY mention_count DESC, query
LIMIT $1;

-- name: topics_of
-- The topics with the keys $1; of equal ones that with the fewest search parameters.
SELECT DISTINCT ON (key) id, query, origin, status, mention_count, attempts, lease_owner, lease_until, cool_until,
    last_error, searched_at, published_after, asks_total, pages_total, results_total, new_videos_total, judged_total,
    early_growing_total, created_at, nullif(parameters::jsonb, '{}') AS parameters
FROM search_queue
WHERE key = ANY ($1::text[])
ORDER BY key, length(parameters::text), id;

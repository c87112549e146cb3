-- name: wake_topics
-- Put topics that have cooled long enough ($1 now) back into the queue, at most $2 of them: the next run asks only for
-- what was published since the last one began, and the more new videos a page of that one brought, the sooner.
-- Like the claim, it hides its parameters in sub-selects: a plan made for their values costs more than it runs.
UPDATE search_queue
SET status = 'active',
    cool_until = NULL,
    priority = decayed_score(
        1 + new_videos::double precision / greatest(pages, 1), $1, (SELECT half_life_s FROM queue_state)
    ),
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
-- Lease the $1 first topics that nobody holds to $2 under token $3 for $4 seconds ($6 now); those that were claimed $5
-- times since their last stored page are parked instead, and returned without a lease. With $7, none while a topic that
-- has cooled waits to be woken: it may come first. With $8 it doesn't wait for the disk: a claim that a crash of the
-- server forgets is one that nobody holds, and the fence keeps its worker out.
WITH hasty AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) WHERE $8)
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
        AND (SELECT count(*) FROM hasty) >= 0
    ORDER BY priority DESC, id
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
))
-- As plain types: the driver asks every connection anew what a domain is, which takes longer than the claim.
RETURNING id, query::text, origin::text, priority, lease_token, claimed_at, attempts::integer, page_token, page_params,
    page_issued_at, published_after, searched_at, pages::integer, results::integer, new_videos::integer,
    restarts::integer, last_page_digest, last_error;

-- name: lock_snowball
-- Taken before rows of the queue are locked in numbers, so that two such transactions never wait for each other's rows.
-- The half-life in seconds that the queue's scores were computed with.
SELECT half_life_s, pg_advisory_xact_lock(hashtextextended('maia.snowball', 0))
FROM queue_state;

-- name: update_search_states
-- Store what became of claimed topics (one array a column), or fail (PL001) if the lease token of one doesn't stand any
-- more. The lock's shared form keeps transactions that add topics away, not other completions: those hold other rows.
-- What begins anew without a page is a restart, of which a run may have a few. The sub-select hides how many topics there
-- are, for which a plan would be made every time.
WITH snowball AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(hashtextextended('maia.snowball', 0))),
stored AS (
    UPDATE search_queue AS q
    SET status = o.status,
        cool_until = o.cool_until,
        lease_owner = NULL,
        lease_token = NULL,
        lease_until = NULL,
        attempts = 0,
        last_error = o.error,
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
        new_videos_total = q.new_videos_total + o.new_videos
    FROM unnest(
        (SELECT $1::bigint[]), $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
        $8::timestamptz[], $9::boolean[], $10::integer[], $11::integer[], $12::integer[], $13::text[]
    ) AS o (
        id, lease_token, status, cool_until, error, page_token, page_params, page_issued_at,
        restarted, pages, results, new_videos, page_digest
    )
    WHERE q.id = o.id AND q.lease_token = o.lease_token AND (SELECT count(*) FROM snowball) = 1
    RETURNING q.id
)
SELECT require_leases(count(*), cardinality($1))
FROM stored;

-- name: release_topics
-- Give claims ($1 ids, $2 their tokens) back, for the reason $3 if there is one: claimable after $4 seconds, doubled for
-- every further attempt up to a day; without $5 the claim doesn't count as one; at $6 attempts the topic is parked.
WITH snowball AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(hashtextextended('maia.snowball', 0)))
UPDATE search_queue AS q
SET status = CASE WHEN $5 AND q.attempts >= $6 THEN 'parked' ELSE q.status END,
    lease_owner = NULL,
    lease_token = NULL,
    lease_until = CASE
        WHEN $4::double precision > 0
            THEN clock_timestamp() + make_interval(secs => least($4 * power(2, least(q.attempts, 30) - 1), 86400))
    END,
    attempts = q.attempts - CASE WHEN $5 THEN 0 ELSE 1 END,
    last_error = coalesce($3, q.last_error)
FROM unnest($1::bigint[], $2::uuid[]) AS claim (id, lease_token)
WHERE q.id = claim.id AND q.lease_token = claim.lease_token AND (SELECT count(*) FROM snowball) = 1;

-- name: add_topics
-- Under the snowball lock: add mentions ($1 queries, $2 counts, $3 weights, $5 now) to the topics that exist, and create
-- the others with origin $4. One row: topics added, topics there are now.
WITH mention AS MATERIALIZED (
    SELECT m.query, m.mentions, decayed_score(m.weight, $5, (SELECT half_life_s FROM queue_state)) AS score
    FROM unnest($1::text[], $2::bigint[], $3::double precision[]) AS m (query, mentions, weight)
),
known AS (
    UPDATE search_queue AS q
    SET mention_count = q.mention_count + m.mentions,
        priority = sum_of_scores(q.priority, m.score)
    FROM mention AS m
    WHERE q.query = m.query
    RETURNING q.query
),
novel AS (
    INSERT INTO search_queue (query, origin, priority, mention_count, created_at)
    SELECT m.query, $4::text, m.score, m.mentions, $5
    FROM mention AS m
    WHERE NOT EXISTS (SELECT FROM known WHERE known.query = m.query)
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
-- Under the snowball lock: delete the $1 topics of lowest priority among the tags that were never searched; how many of
-- the queries $2 were among them.
WITH trimmed AS (
    DELETE FROM search_queue
    WHERE id = ANY (ARRAY(
        SELECT id
        FROM search_queue
        WHERE status = 'active' AND origin = 'tag' AND pages_total = 0 AND lease_token IS NULL
        ORDER BY priority, id DESC
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING query
),
counted AS (
    UPDATE queue_state
    SET topics = topics - (SELECT count(*) FROM trimmed)
)
SELECT count(*)
FROM trimmed
WHERE query = ANY ($2::text[]);

-- name: seed_topics
-- Under the snowball lock: make the queries $1 seeds of weight $2 ($3 now), first come first searched; one that exists
-- is raised to that and, if it cools or is parked, made active again. One row: topics added, topics made active again.
WITH seed AS MATERIALIZED (
    SELECT s.query, s.place, decayed_score($2, $3, (SELECT half_life_s FROM queue_state)) AS score
    FROM unnest($1::text[]) WITH ORDINALITY AS s (query, place)
),
known AS MATERIALIZED (
    SELECT q.id, q.query, q.status, s.score
    FROM seed AS s
    JOIN search_queue AS q ON q.query = s.query
),
raised AS (
    UPDATE search_queue AS q
    SET origin = 'seed',
        status = 'active',
        priority = greatest(q.priority, known.score),
        cool_until = NULL,
        attempts = CASE WHEN q.lease_token IS NULL THEN 0 ELSE q.attempts END,
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
    INSERT INTO search_queue (query, origin, priority, mention_count, created_at)
    SELECT s.query, 'seed', s.score, 0, $3
    FROM seed AS s
    WHERE NOT EXISTS (SELECT FROM known WHERE known.query = s.query)
    ORDER BY s.place
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
-- Under the snowball lock: turn every score into what it is with a half-life of $1 seconds, keeping what each weight has
-- decayed to by $2 (now).
WITH changed AS (UPDATE queue_state SET half_life_s = $1)
UPDATE search_queue
SET priority = priority + date_part('epoch', $2::timestamptz) * (1 / $1 - 1 / (SELECT half_life_s FROM queue_state));

-- name: park_topics
-- Under the snowball lock: take topics (ids $1 or queries $2) out of the queue for the reason $3; who holds one loses it.
UPDATE search_queue
SET status = 'parked',
    cool_until = NULL,
    lease_owner = NULL,
    lease_token = NULL,
    lease_until = NULL,
    last_error = $3
WHERE (id = ANY ($1::bigint[]) OR query = ANY ($2::text[])) AND status <> 'parked';

-- name: retry_topics
-- Under the snowball lock: put parked topics (ids $1 or queries $2, every one if $3) back with all their attempts ahead
-- of them and their score raised as by a mention ($4 now); end the pause of those that failed.
UPDATE search_queue
SET status = 'active',
    attempts = 0,
    lease_until = NULL,
    priority = sum_of_scores(priority, decayed_score(1, $4, (SELECT half_life_s FROM queue_state)))
WHERE (id = ANY ($1::bigint[]) OR query = ANY ($2::text[]) OR $3)
    AND (status = 'parked' OR (status = 'active' AND lease_token IS NULL AND lease_until IS NOT NULL));

-- name: list_topics
-- At most $2 topics of status $1 (NULL: any), highest priority first.
SELECT id, query, origin, status, mention_count, attempts, lease_owner, lease_until, cool_until, last_error, searched_at,
    published_after, pages_total, results_total, new_videos_total, created_at
FROM search_queue
WHERE $1::text IS NULL OR status = $1
ORDER BY priority DESC, id
LIMIT $2;

-- name: count_topics
-- How the queue stands: by status, and of the active ones how many are held and how many wait after a failure.
SELECT count(*) FILTER (WHERE status = 'active') AS active,
    count(*) FILTER (WHERE status = 'cooling') AS cooling,
    count(*) FILTER (WHERE status = 'parked') AS parked,
    count(*) FILTER (WHERE lease_token IS NOT NULL AND lease_until >= clock_timestamp()) AS leased,
    count(*) FILTER (WHERE lease_token IS NULL AND lease_until >= clock_timestamp()) AS waiting
FROM search_queue;

-- name: tag_mentions
-- How often each of the queries $1 that the queue knows was mentioned.
SELECT query::text, mention_count
FROM search_queue
WHERE query = ANY ($1::text[]);

-- name: top_topics
-- The $1 topics mentioned most often.
SELECT query, mention_count
FROM search_queue
WHERE mention_count > 0
ORDER BY mention_count DESC, query
LIMIT $1;

-- name: ingest_videos
-- Store videos ($1 JSON array, unique by id) and their channels as fetched at $2 and found by topic $3: new ones are
-- inserted, known ones refreshed unless what is stored was fetched later. What the API left out because it was not asked
-- for keeps its old value: a part is recognised by a field that it always carries (snippet: category_id, statistics:
-- view_count, contentDetails: duration_s); within a part, what is missing is gone or hidden, and becomes NULL.
-- What is new joins the clock, its video hot up to $4 hours of age and warm up to $5 unless a watch pins it, due the
-- zone's interval ($6, three of hours) after the count that was fetched; what was gone is due at once.
WITH item AS MATERIALIZED (
    SELECT *
    FROM json_to_recordset($1::text::json) AS item (
        id text, channel_id text, channel_title text, title text, description text, published_at timestamptz,
        category_id integer, tags text[], duration_s integer, live_broadcast_content text, default_language text,
        view_count bigint, like_count bigint, comment_count bigint, etag text
    )
),
channel AS (
    SELECT DISTINCT ON (channel_id) channel_id AS id, channel_title AS title
    FROM item
    ORDER BY channel_id, channel_title DESC NULLS LAST
),
stored_channel AS (
    INSERT INTO channels AS c (id, title, discovered_at, refreshed_at)
    SELECT channel.id, channel.title, $2, $2
    FROM channel
    LEFT JOIN channels AS known ON known.id = channel.id
    WHERE known.id IS NULL
        OR known.title IS DISTINCT FROM coalesce(channel.title, known.title)
        OR (channel.title IS NOT NULL AND known.refreshed_at < $2::timestamptz - interval '1 day')
    ORDER BY channel.id COLLATE "C"
    ON CONFLICT (id) DO UPDATE
    SET title = coalesce(excluded.title, c.title),
        refreshed_at = excluded.refreshed_at
    WHERE excluded.refreshed_at >= c.refreshed_at
    RETURNING id, (xmax = 0) AS is_new
),
stored_video AS (
    INSERT INTO videos AS v (
        id, channel_id, published_at, discovered_at, refreshed_at, discovered_by, category_id, duration_s, view_count,
        like_count, comment_count, title, live_broadcast_content, default_language, etag, tags, description
    )
    SELECT id, channel_id, published_at, $2, $2, $3, category_id, duration_s, view_count,
        like_count, comment_count, title, live_broadcast_content, default_language, etag, tags, description
    FROM item
    -- Reads the channels' result so that they are written, and locked, before any video.
    WHERE (SELECT count(*) FROM stored_channel) IS NOT NULL
    ORDER BY id COLLATE "C"
    ON CONFLICT (id) DO UPDATE
    SET channel_id = excluded.channel_id,
        status = 'live',
        refreshed_at = excluded.refreshed_at,
        published_at = coalesce(excluded.published_at, v.published_at),
        title = coalesce(excluded.title, v.title),
        live_broadcast_content = coalesce(excluded.live_broadcast_content, v.live_broadcast_content),
        etag = coalesce(excluded.etag, v.etag),
        duration_s = coalesce(excluded.duration_s, v.duration_s),
        category_id = coalesce(excluded.category_id, v.category_id),
        tags = CASE WHEN excluded.category_id IS NULL THEN v.tags ELSE excluded.tags END,
        description = CASE WHEN excluded.category_id IS NULL THEN v.description ELSE excluded.description END,
        default_language = CASE WHEN excluded.category_id IS NULL THEN v.default_language ELSE excluded.default_language END,
        view_count = coalesce(excluded.view_count, v.view_count),
        like_count = CASE WHEN excluded.view_count IS NULL THEN v.like_count ELSE excluded.like_count END,
        comment_count = CASE WHEN excluded.view_count IS NULL THEN v.comment_count ELSE excluded.comment_count END
    WHERE excluded.refreshed_at >= v.refreshed_at
    RETURNING id, channel_id, category_id, published_at, view_count, like_count, comment_count, (xmax = 0) AS is_new
),
timed_channel AS (
    INSERT INTO channel_clock AS c (channel_id, next_due_at)
    SELECT id, $2
    FROM stored_channel
    ORDER BY id
    ON CONFLICT (channel_id) DO UPDATE
    SET status = 'live',
        misses = 0,
        next_due_at = excluded.next_due_at
    WHERE c.status = 'gone'
),
timed_video AS (
    INSERT INTO video_clock (
        video_id, channel_id, category_id, zone, pinned_zone, interval_h, born_at, next_due_at, metadata_at,
        last_at, last_views, last_likes, last_comments
    )
    SELECT v.id, v.channel_id, v.category_id, placed.zone, pinned_zone, interval_h, born_at,
        CASE WHEN v.view_count IS NULL THEN $2 ELSE $2 + interval_h * interval '1 hour' END,
        $2, CASE WHEN v.view_count IS NOT NULL THEN $2 END, v.view_count, v.like_count, v.comment_count
    FROM stored_video AS v
    CROSS JOIN LATERAL (
        SELECT coalesce(v.published_at, $2),
            coalesce(
                (SELECT w.zone FROM watches AS w WHERE w.kind = 'video' AND w.id = v.id),
                (SELECT w.zone FROM watches AS w WHERE w.kind = 'channel' AND w.id = v.channel_id)
            )
        -- Computes it once: without it each mention of the zone looks into the watches again.
        OFFSET 0
    ) AS known (born_at, pinned_zone)
    CROSS JOIN LATERAL (SELECT coalesce(pinned_zone, zone_of($2 - born_at, $4, $5))) AS placed (zone)
    CROSS JOIN LATERAL (SELECT ($6::double precision[])[placed.zone + 1]) AS waits (interval_h)
    WHERE is_new
),
-- Waits for nobody: whoever stores samples holds clocks in an order of its own. What is held keeps the old copies until
-- the video is found again; one that is gone is held by nobody.
retimed_video AS MATERIALIZED (
    SELECT c.video_id, v.channel_id, v.category_id, item.category_id IS NOT NULL AS is_whole
    FROM stored_video AS v
    JOIN item ON item.id = v.id
    JOIN video_clock AS c ON c.video_id = v.id
    WHERE NOT v.is_new AND (
        c.status = 'gone'
        OR c.channel_id <> v.channel_id
        OR c.category_id IS DISTINCT FROM v.category_id
        OR (c.metadata_at < $2::timestamptz - interval '1 day' AND item.category_id IS NOT NULL)
    )
    FOR NO KEY UPDATE OF c SKIP LOCKED
),
retimed AS (
    UPDATE video_clock AS c
    SET channel_id = r.channel_id,
        category_id = r.category_id,
        metadata_at = CASE WHEN r.is_whole THEN greatest(c.metadata_at, $2) ELSE c.metadata_at END,
        status = 'live',
        misses = CASE c.status WHEN 'gone' THEN 0 ELSE c.misses END,
        gone_at = NULL,
        zone = CASE c.status WHEN 'gone' THEN coalesce(c.pinned_zone, zone_of($2 - c.born_at, $4, $5)) ELSE c.zone END,
        next_due_at = CASE c.status WHEN 'gone' THEN $2 ELSE c.next_due_at END
    FROM retimed_video AS r
    WHERE c.video_id = r.video_id
)
SELECT array_agg(id) FILTER (WHERE is_new) AS new_ids,
    count(*) AS stored,
    (SELECT count(*) FROM stored_channel WHERE is_new) AS new_channels
FROM stored_video;

-- name: top_videos
-- The $1 videos seen most often.
SELECT v.id, v.title, c.title AS channel_title, v.view_count, v.published_at
FROM videos AS v
JOIN channels AS c ON c.id = v.channel_id
WHERE v.view_count IS NOT NULL
ORDER BY v.view_count DESC, v.id
LIMIT $1;

-- name: count_discoveries
-- How much there is: videos, channels, topics, and pages searched.
SELECT (SELECT count(*) FROM videos) AS videos,
    (SELECT count(*) FROM channels) AS channels,
    (SELECT topics FROM queue_state) AS topics,
    (SELECT coalesce(sum(pages_total), 0)::bigint FROM search_queue) AS pages;

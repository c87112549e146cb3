-- name: make_plan
-- Under a lock of its own: store the plan of Pacific day $1, made at $10, one array element per arm: $2 arms, $3 buckets, $4
-- shares, $5 least shares, $6 to $8 expected yields with their intervals, $9 reasons. Arms that the day's plan has stay as they
-- are.
WITH lock AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('maia.discovery_plan', 0)))
INSERT INTO discovery_plan (pacific_day, arm, bucket, share, least_share, expected, low, high, reason, made_at)
SELECT $1::date, p.*, $10::timestamptz
FROM lock, unnest(
    $2::text[], $3::text[], $4::double precision[], $5::double precision[], $6::double precision[],
    $7::double precision[], $8::double precision[], $9::text[]
) AS p (arm, bucket, share, least_share, expected, low, high, reason)
ON CONFLICT (pacific_day, arm) DO NOTHING;

-- name: plan
-- The plan of Pacific day $1 with what came of it so far, largest share first.
SELECT p.arm, p.bucket, p.share, p.least_share, p.expected, p.low, p.high, p.reason, p.claimed, p.unwell, p.made_at,
    coalesce(y.asks, 0) AS asks, coalesce(y.units, 0) AS units, coalesce(y.enrichments, 0) AS enrichments,
    coalesce(y.found, 0) AS found, coalesce(y.new, 0) AS new, coalesce(y.early, 0) AS early,
    coalesce(y.judged, 0) AS judged, coalesce(y.growing, 0) AS growing, coalesce(y.odd, 0) AS odd
FROM discovery_plan AS p
LEFT JOIN discovery_yields AS y USING (pacific_day, arm)
WHERE p.pacific_day = $1
ORDER BY p.bucket DESC, p.share DESC, p.arm;

-- name: take_units
-- Take $3 units of bucket $2 on day $1 for the arms $4 (those this process has, and that have something to ask), so that
-- what was taken follows the shares (Sainte-Laguë). The rows are locked first, so hunters side by side take in turn.
WITH arm AS MATERIALIZED (
    SELECT arm, claimed, CASE WHEN unwell IS NULL THEN share ELSE least(share, least_share) END AS share
    FROM discovery_plan
    WHERE pacific_day = $1 AND bucket = $2 AND arm = ANY ($4::text[])
    ORDER BY arm
    FOR NO KEY UPDATE
),
turn AS (
    SELECT arm.arm
    FROM arm
    CROSS JOIN generate_series(1, $3::bigint) AS nth
    WHERE arm.share > 0
    ORDER BY arm.share / (arm.claimed + nth - 0.5) DESC, arm.arm
    LIMIT $3
),
taken AS (
    SELECT arm, count(*) AS units
    FROM turn
    GROUP BY arm
)
UPDATE discovery_plan AS p
SET claimed = p.claimed + taken.units
FROM taken
WHERE p.pacific_day = $1 AND p.arm = taken.arm
RETURNING p.arm, taken.units;

-- name: return_units
-- Units $3 that arms $2 did not spend on day $1; negative if they spent more than they took. The rows are locked in the order in
-- which take_units does.
WITH held AS MATERIALIZED (
    SELECT p.arm, r.units
    FROM unnest($2::text[], $3::bigint[]) AS r (arm, units)
    JOIN discovery_plan AS p ON p.pacific_day = $1 AND p.arm = r.arm
    ORDER BY p.arm
    FOR NO KEY UPDATE OF p
)
UPDATE discovery_plan AS p
SET claimed = greatest(p.claimed - held.units, 0)
FROM held
WHERE p.pacific_day = $1 AND p.arm = held.arm;

-- name: mark_unwell
-- Note that arm $2 stopped answering as expected on day $1, and how ($3); no row if that was known.
UPDATE discovery_plan
SET unwell = $3
WHERE pacific_day = $1 AND arm = $2 AND unwell IS NULL
RETURNING arm;

-- name: add_yield
-- Add what an ask of arm $2 brought on day $1: asks, units, enrichments, found, new, early, odd. Returns the day's asks and
-- odd ones so far.
INSERT INTO discovery_yields AS y (pacific_day, arm, asks, units, enrichments, found, new, early, odd)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (pacific_day, arm) DO UPDATE
SET asks = y.asks + excluded.asks,
    units = y.units + excluded.units,
    enrichments = y.enrichments + excluded.enrichments,
    found = y.found + excluded.found,
    new = y.new + excluded.new,
    early = y.early + excluded.early,
    odd = y.odd + excluded.odd
RETURNING asks, odd;

-- name: yields_since
-- What each arm brought on each day from $1 on.
SELECT pacific_day, arm, asks, units, enrichments, found, new, early, judged, growing, odd
FROM discovery_yields
WHERE pacific_day >= $1
ORDER BY pacific_day, arm;

-- name: meet_videos
-- Remember that arm $1 met the videos $2 at $3, crediting the topics $4 (one bigint[] literal per video); $5 are those that
-- were stored for the first time now. Ages count from when a video was or will be on air. Returns how many of those are early.
-- Videos that are deleted meanwhile are left out.
WITH met AS (
    INSERT INTO video_sources (video_id, arm, met_at, topics, is_first, age_h)
    SELECT c.video_id, $1::text, $3::timestamptz, m.topics::bigint[], c.video_id = ANY ($5::text[]),
        greatest(0, extract(epoch FROM $3::timestamptz - c.born_at) / 3600)
    FROM unnest($2::text[], $4::text[]) AS m (video_id, topics)
    JOIN videos AS v ON v.id = m.video_id
    JOIN video_clock AS c ON c.video_id = v.id
    ORDER BY v.id
    FOR KEY SHARE OF v
    ON CONFLICT DO NOTHING
    RETURNING is_early, topics
),
credit AS (
    SELECT topic, count(*) AS early
    FROM met, unnest(topics) AS topic
    WHERE is_early
    GROUP BY topic
)
SELECT (SELECT count(*) FROM met WHERE is_early) AS early,
    coalesce((SELECT array_agg(topic ORDER BY topic) FROM credit), '{}') AS topics,
    coalesce((SELECT array_agg(early ORDER BY topic) FROM credit), '{}') AS early_by_topic;

-- name: known_videos
-- Those of the videos $1 that were stored or refreshed since $2 and are still there, as last seen.
SELECT v.id, c.born_at AS published_at, coalesce(c.last_views, v.view_count) AS view_count,
    greatest(v.refreshed_at, c.last_at) AS seen_at
FROM videos AS v
JOIN video_clock AS c ON c.video_id = v.id
WHERE v.id = ANY ($1::text[]) AND v.refreshed_at >= $2 AND v.status = 'live' AND v.category_id IS NOT NULL;

-- name: sources_of
-- Each arm that met video $1, the first one first.
SELECT arm, met_at, is_first, age_h, views_per_hour, growing
FROM video_sources
WHERE video_id = $1
ORDER BY is_first DESC, met_at, arm;

-- name: lock_asks
-- Take the lock under which questions of arm $1 are claimed.
SELECT pg_advisory_xact_lock(hashtextextended('maia.discovery_asks.' || $1, 0));

-- name: claim_open_asks
-- Under the arm's lock: lease up to $2 open questions of arm $1 under token $3 for $4 seconds ($5 now): those released, those
-- of hunters that vanished, and those with a page worth asking for. Expired page tokens ($6: issued before) are no reason.
UPDATE discovery_asks
SET lease_token = $3::uuid,
    lease_until = clock_timestamp() + make_interval(secs => $4::double precision),
    attempts = attempts + 1
WHERE key = ANY (ARRAY(
    SELECT key
    FROM discovery_asks
    WHERE arm = $1 AND is_open AND (lease_until IS NULL OR lease_until < clock_timestamp())
        AND (page_token IS NULL OR page_issued_at > $6::timestamptz) AND asked_at >= $5::timestamptz - interval '2 days'
    ORDER BY asked_at
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING key, arm, question, topics, asked_at, lease_token, attempts::integer, page_token, pages::integer, results::integer,
    last_page_digest;

-- name: add_asks
-- Under the arm's lock: claim new questions of arm $1 under token $2 for $3 seconds ($4 now), one array element each: $5 keys,
-- $6 questions, $7 topics (bigint[] literals), $8 what they cover until. Keys that exist are not claimed again.
INSERT INTO discovery_asks (key, arm, question, topics, asked_at, covers_until, lease_token, lease_until, attempts)
SELECT a.key, $1, a.question::jsonb, a.topics::bigint[], $4, a.covers_until, $2::uuid,
    clock_timestamp() + make_interval(secs => $3::double precision), 1
FROM unnest($5::text[], $6::text[], $7::text[], $8::timestamptz[]) AS a (key, question, topics, covers_until)
ON CONFLICT (key) DO NOTHING
RETURNING key, arm, question, topics, asked_at, lease_token, attempts::integer, page_token, pages::integer, results::integer,
    last_page_digest;

-- name: covered_until
-- Up to which instant slices of arm $1 were asked for; NULL before the first.
SELECT max(covers_until)
FROM discovery_asks
WHERE arm = $1;

-- name: last_asked
-- When each question of arm $1 was last asked since $2, by the part of its key before the @.
SELECT split_part(key, '@', 1) AS subject, max(asked_at) AS asked_at
FROM discovery_asks
WHERE arm = $1 AND asked_at >= $2
GROUP BY subject;

-- name: complete_ask
-- Store the outcome of question $1 held under token $2, or fail (PL001): $3 whether a next page is worth asking for, $4 its
-- token, issued at $5; $6 results and $7 digest of this page.
WITH stored AS (
    UPDATE discovery_asks
    SET is_open = $3::boolean,
        page_token = CASE WHEN $3 THEN $4::text END,
        page_issued_at = CASE WHEN $3 THEN $5::timestamptz END,
        pages = pages + 1,
        results = results + $6::integer,
        last_page_digest = $7,
        attempts = 0,
        last_error = NULL,
        lease_token = NULL,
        lease_until = NULL
    WHERE key = $1 AND lease_token = $2::uuid
    RETURNING key
)
SELECT require_leases(count(*), 1)
FROM stored;

-- name: release_asks
-- Give questions $1 (their tokens $2) back, for the reason $3 if there is one. With $4 the attempt counts: after $5 of them the
-- question is closed. With $6 it is closed at once.
UPDATE discovery_asks AS a
SET is_open = NOT ($6::boolean OR ($4::boolean AND a.attempts >= $5::integer)),
    attempts = CASE WHEN $4 THEN a.attempts ELSE greatest(a.attempts - 1, 0) END,
    last_error = coalesce($3::text, a.last_error),
    page_token = CASE WHEN $6 THEN NULL ELSE a.page_token END,
    page_issued_at = CASE WHEN $6 THEN NULL ELSE a.page_issued_at END,
    lease_token = NULL,
    lease_until = NULL
FROM unnest($1::text[], $2::uuid[]) AS claim (key, lease_token)
WHERE a.key = claim.key AND a.lease_token = claim.lease_token;

-- name: forget_asks
-- Delete questions asked before $1; slices keep their last one, where the next begins.
DELETE FROM discovery_asks
WHERE asked_at < $1;

-- name: begin_judging
-- Claim the next look at which videos grew, if the last one is $2 seconds ago at $1; returns no row if it is not.
UPDATE discovery_state
SET judged_at = $1::timestamptz
WHERE judged_at IS NULL OR judged_at <= $1::timestamptz - make_interval(secs => $2::double precision) OR judged_at > $1
RETURNING growing_views_per_hour;

-- name: growing_views_per_hour
-- Views an hour over the first 24 from which a video counts as growing; NULL before any is known.
SELECT growing_views_per_hour FROM discovery_state;

-- name: keep_growing_views_per_hour
-- Keep $1 as that threshold.
UPDATE discovery_state
SET growing_views_per_hour = $1
WHERE growing_views_per_hour IS DISTINCT FROM $1;

-- name: to_judge
-- Up to $4 early videos that were met after ($2, $3) and are 24 hours old at $1, with their last count up to that age and their
-- first one from it on, in order.
SELECT s.video_id, s.met_at, c.born_at, c.status = 'gone' AS is_gone, v.tags, c.last_at, c.last_views,
    before.sampled_at AS before_at, before.views AS before_views, after.sampled_at AS after_at, after.views AS after_views
FROM (
    SELECT video_id, met_at
    FROM video_sources
    WHERE is_early AND judged_at IS NULL AND (met_at, video_id) > ($2, $3)
        AND met_at + (24 - age_h) * interval '1 hour' <= $1
    ORDER BY met_at, video_id
    LIMIT $4
) AS s
JOIN videos AS v ON v.id = s.video_id
JOIN video_clock AS c ON c.video_id = s.video_id
LEFT JOIN LATERAL (
    SELECT sampled_at, views
    FROM video_stats_log
    WHERE video_id = s.video_id AND views IS NOT NULL
        AND sampled_at >= c.born_at AND sampled_at <= c.born_at + interval '24 hours'
    ORDER BY sampled_at DESC
    LIMIT 1
) AS before ON true
LEFT JOIN LATERAL (
    SELECT sampled_at, views
    FROM video_stats_log
    WHERE video_id = s.video_id AND views IS NOT NULL
        AND sampled_at > c.born_at + interval '24 hours' AND sampled_at <= c.born_at + interval '96 hours'
    ORDER BY sampled_at
    LIMIT 1
) AS after ON true
ORDER BY s.met_at, s.video_id;

-- name: known_growth
-- Views an hour over the first 24, of the $2 videos judged last, since $1.
SELECT views_per_hour
FROM video_sources
WHERE judged_at >= $1 AND views_per_hour IS NOT NULL
ORDER BY judged_at DESC
LIMIT $2;

-- name: judge_videos
-- Under the snowball lock: note at $4 of videos $1 their views an hour over the first 24 ($2) and whether they are growing ($3,
-- NULL if that will never be known). Credits their topics, whose priority rises by $5 mentions for each growing video. Returns
-- what to add to which day and arm: only those of which it is known.
WITH verdict AS MATERIALIZED (
    UPDATE video_sources AS s
    SET views_per_hour = v.views_per_hour,
        growing = v.growing,
        judged_at = $4::timestamptz
    FROM unnest($1::text[], $2::real[], $3::boolean[]) AS v (video_id, views_per_hour, growing)
    WHERE s.video_id = v.video_id AND s.is_first AND s.judged_at IS NULL
    RETURNING s.arm, s.met_at, s.topics, s.growing
),
credit AS MATERIALIZED (
    SELECT topic, count(*) AS judged, count(*) FILTER (WHERE growing) AS growing
    FROM verdict, unnest(topics) AS topic
    WHERE growing IS NOT NULL
    GROUP BY topic
),
credited AS (
    UPDATE search_queue AS q
    SET judged_total = q.judged_total + c.judged,
        early_growing_total = q.early_growing_total + c.growing,
        priority = CASE
            WHEN c.growing = 0 THEN q.priority
            ELSE sum_of_scores(
                q.priority, decayed_score(c.growing * $5::double precision, $4, (SELECT half_life_s FROM queue_state))
            )
        END
    FROM credit AS c
    WHERE q.id = c.topic
)
SELECT (met_at AT TIME ZONE 'America/Los_Angeles')::date AS pacific_day, arm,
    count(*) AS judged, count(*) FILTER (WHERE growing) AS growing
FROM verdict
WHERE growing IS NOT NULL
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: add_growing_mentions
-- Under the snowball lock: topics with keys $1 are tags of so many more growing videos ($2).
UPDATE search_queue AS q
SET growing_mentions = q.growing_mentions + m.videos
FROM unnest($1::text[], $2::bigint[]) AS m (key, videos)
WHERE q.key = m.key AND q.parameters = '{}'::jsonb;

-- name: add_verdicts
-- Add to day $1 and arm $2 how many of their early videos were judged ($3), and how many grew ($4). Videos that were met
-- otherwise than by asking, as by a watch, count in no yield: then there is no row.
UPDATE discovery_yields AS y
SET judged = y.judged + v.judged,
    growing = y.growing + v.growing
FROM unnest($1::date[], $2::text[], $3::bigint[], $4::bigint[]) AS v (pacific_day, arm, judged, growing)
WHERE y.pacific_day = v.pacific_day AND y.arm = v.arm;

-- name: totals_by_arm
-- What each arm has brought altogether.
SELECT arm, sum(asks)::bigint AS asks, sum(units)::bigint AS units, sum(enrichments) AS enrichments,
    sum(found)::bigint AS found, sum(new)::bigint AS new, sum(early)::bigint AS early, sum(judged)::bigint AS judged,
    sum(growing)::bigint AS growing, sum(odd)::bigint AS odd
FROM discovery_yields
GROUP BY arm
ORDER BY arm;

-- name: plans_by_patterns
-- The last $2 shares of plans whose prior a pattern changed, newest first; of the pattern whose id begins with $1 if given.
SELECT pacific_day, arm, share, reason
FROM discovery_plan
WHERE reason LIKE '%; prior % by pattern ' || coalesce($1::text, '') || '%'
ORDER BY pacific_day DESC, share DESC, arm
LIMIT $2;

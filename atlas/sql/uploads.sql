-- name: claim_looks
-- Claim up to $1 channels whose feeds are due at $2 under token $3, watched ones first, and up to $4 due ones that have no
-- working feed. A claim is a lease: unless the claimant asks within $5 hours, others may claim the channel. $6 is the scale
-- of intervals and $7 their stretch, $8 and $9 worth and rate of a channel without answers, $10 the shortest and $11 the
-- longest interval, $12 the longest of a watched channel, $13 the most uploads to wait for.
WITH watched AS MATERIALIZED (
    SELECT ctid AS place
    FROM channel_uploads
    WHERE status = 'live' AND by_feed AND watched AND next_look_at <= (SELECT $2::timestamptz)
    ORDER BY next_look_at
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
),
due AS MATERIALIZED (
    SELECT ctid AS place
    FROM channel_uploads
    WHERE status = 'live' AND by_feed AND NOT watched AND next_look_at <= (SELECT $2::timestamptz)
    ORDER BY next_look_at
    LIMIT (SELECT $1::bigint - count(*) FROM watched)
    FOR NO KEY UPDATE SKIP LOCKED
),
counted AS MATERIALIZED (
    SELECT ctid AS place
    FROM channel_uploads
    WHERE status = 'live' AND NOT by_feed AND next_look_at <= (SELECT $2::timestamptz)
    ORDER BY next_look_at
    LIMIT (SELECT $4::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE channel_uploads
SET due_before = next_look_at,
    next_look_at = $2::timestamptz + $5::double precision * interval '1 hour',
    claim_token = $3,
    next_interval_h = look_interval_h(
        coalesce(worth, $8), coalesce(rate, $9), watched, $6::double precision, $7::double precision,
        $10::double precision, $11::double precision, $12::double precision, $13::double precision
    )
WHERE ctid = ANY (ARRAY(
    SELECT place FROM watched UNION ALL SELECT place FROM due UNION ALL SELECT place FROM counted
))
RETURNING channel_id, due_before, answered_at, newest_at, judged_until, retry_feed_at, video_count,
    uploads, watched_h, growing, judged, failures, watched, by_feed, etag, last_modified;

-- name: retry_feeds
-- Look at the feeds of up to $3 channels again that were given up and whose time to be tried again has come at $1, those
-- waiting longest first. They are due at once; $2 are the failures that they count as having had.
UPDATE channel_uploads
SET by_feed = true,
    failures = $2,
    retry_feed_at = NULL,
    next_look_at = $1,
    claim_token = NULL
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM channel_uploads
    WHERE status = 'live' AND NOT by_feed AND retry_feed_at <= (SELECT $1::timestamptz)
        AND (claim_token IS NULL OR next_look_at <= (SELECT $1::timestamptz))
    ORDER BY retry_feed_at
    LIMIT (SELECT $3::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
));

-- name: give_looks_back
-- Undo the claims of the channels $1 under token $2, because nobody asked about them.
UPDATE channel_uploads
SET next_look_at = due_before,
    claim_token = NULL
WHERE channel_id = ANY ($1::text[]) AND claim_token = $2;

-- name: store_looks
-- Store what looks under token $1 told (one array per column), and when the next ones are due. Channels that are no longer
-- claimed under that token are left out. Returns the number of channels stored.
WITH look AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $2::text[], $3::timestamptz[], $4::boolean[], $5::real[], $6::real[], $7::real[], $8::real[], $9::real[], $10::real[],
        $11::real[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::bigint[],
        $17::smallint[], $18::boolean[], $19::boolean[], $20::text[], $21::text[]
    ) AS look (
        id, asked_at, answered, interval_h, rate, worth, uploads, watched_h, growing, judged, newest_at, judged_until,
        gap_since, retry_feed_at, video_count, failures, by_feed, gone, etag, last_modified
    )
),
held AS MATERIALIZED (
    SELECT c.channel_id
    FROM look
    JOIN channel_uploads AS c ON c.channel_id = look.id
    WHERE c.claim_token = $1
    ORDER BY c.channel_id
    FOR NO KEY UPDATE OF c
),
stored AS (
    UPDATE channel_uploads AS c
    SET claim_token = NULL,
        looked_at = look.asked_at,
        next_look_at = look.asked_at + look.interval_h * interval '1 hour',
        answered_at = CASE WHEN look.answered THEN look.asked_at ELSE c.answered_at END,
        newest_at = look.newest_at,
        judged_until = look.judged_until,
        gap_since = coalesce(c.gap_since, look.gap_since),
        retry_feed_at = look.retry_feed_at,
        video_count = look.video_count,
        interval_h = look.interval_h,
        rate = CASE WHEN look.answered THEN look.rate ELSE c.rate END,
        worth = CASE WHEN look.answered THEN look.worth ELSE c.worth END,
        uploads = look.uploads,
        watched_h = look.watched_h,
        growing = look.growing,
        judged = look.judged,
        failures = look.failures,
        by_feed = look.by_feed,
        status = CASE WHEN look.gone THEN 'gone' ELSE c.status END,
        etag = look.etag,
        last_modified = look.last_modified
    FROM look
    -- Reads what is held, so that channels are locked in the order of their ids, as others lock several of them.
    WHERE c.channel_id = look.id AND c.claim_token = $1 AND (SELECT count(*) FROM held) IS NOT NULL
    RETURNING c.channel_id
)
SELECT count(*) FROM stored;

-- name: claim_gaps
-- Lease up to $1 channels of which uploads are missing under token $2 for $3 seconds, those missing longest first.
UPDATE channel_uploads
SET gap_token = $2,
    gap_until = clock_timestamp() + make_interval(secs => $3),
    gap_attempts = gap_attempts + 1
WHERE channel_id = ANY (ARRAY(
    SELECT channel_id
    FROM channel_uploads
    WHERE status = 'live' AND gap_since IS NOT NULL AND (gap_until IS NULL OR gap_until < clock_timestamp())
    ORDER BY gap_since
    LIMIT (SELECT $1::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING channel_id, gap_since, gap_attempts;

-- name: close_gap
-- The uploads of channel $1, leased under token $2, are complete. Returns no row if the lease was lost.
UPDATE channel_uploads
SET gap_since = NULL, gap_token = NULL, gap_until = NULL, gap_attempts = 0
WHERE channel_id = $1 AND gap_token = $2
RETURNING channel_id;

-- name: release_gaps
-- Release the leases of the channels $1 under token $2; they may be claimed again after $3 seconds, doubled for each further
-- attempt, up to a day. Without $4 the attempt does not count; after $5 attempts the gap is given up.
UPDATE channel_uploads
SET gap_token = NULL,
    gap_until = CASE
        WHEN $3::double precision > 0
            THEN clock_timestamp() + make_interval(secs => least($3 * power(2, least(gap_attempts, 30) - 1), 86400))
    END,
    gap_attempts = CASE WHEN $4 AND gap_attempts >= $5 THEN 0 WHEN $4 THEN gap_attempts ELSE gap_attempts - 1 END,
    gap_since = CASE WHEN $4 AND gap_attempts >= $5 THEN NULL ELSE gap_since END
WHERE channel_id = ANY ($1::text[]) AND gap_token = $2;

-- name: next_look_at
-- When the next look is due; NULL if there is none.
SELECT min(next_look_at)
FROM (
    (
        SELECT next_look_at FROM channel_uploads
        WHERE status = 'live' AND by_feed AND watched
        ORDER BY next_look_at LIMIT 1
    )
    UNION ALL
    (
        SELECT next_look_at FROM channel_uploads
        WHERE status = 'live' AND by_feed AND NOT watched
        ORDER BY next_look_at LIMIT 1
    )
) AS first;

-- name: watch_channels
-- Look at those of the channels $1 that are stored as often as at watched ones ($2 true), or as others; a watched channel is
-- due at $3, but not sooner than $4 hours after its last look.
WITH changed AS MATERIALIZED (
    SELECT channel_id
    FROM channel_uploads
    WHERE channel_id = ANY ($1::text[]) AND (watched <> $2 OR ($2 AND status = 'gone'))
    ORDER BY channel_id
    FOR NO KEY UPDATE
)
UPDATE channel_uploads AS c
SET watched = $2,
    status = CASE WHEN $2 THEN 'live' ELSE status END,
    failures = CASE WHEN status = 'gone' THEN 0 ELSE failures END,
    next_look_at = CASE
        WHEN $2 THEN least(
            next_look_at, greatest($3::timestamptz, looked_at + $4::double precision * interval '1 hour')
        )
        ELSE next_look_at
    END
FROM changed
WHERE c.channel_id = changed.channel_id;

-- name: begin_look
-- Take the right to ask for the feed of channel $7, claimed under token $8, at $1, if the pace allows: $2 seconds between
-- requests on average, $3 seconds' worth of them at once, $4 a day ($5). After a refusal, only one request at a time, for $6
-- seconds. Begins the channel's interval, so that nobody asks again within it, whatever becomes of the claimant, and of its
-- request within $9 hours. Returns whether the channel is still claimed, and whether the request tests if feeds answer again;
-- NULL if it may not be sent.
WITH held AS MATERIALIZED (
    SELECT FROM channel_uploads
    WHERE channel_id = $7 AND claim_token = $8
    FOR NO KEY UPDATE
),
allowed AS (
    UPDATE feed_pace
    SET next_at = greatest(next_at, $1::timestamptz - $3::double precision * interval '1 second')
            + $2::double precision * interval '1 second',
        day = $5::date,
        looks = CASE WHEN day = $5 THEN looks + 1 ELSE 1 END,
        probe_until = CASE WHEN refusals > 0 THEN $1::timestamptz + $6::double precision * interval '1 second' END
    WHERE next_at <= $1
        AND (closed_until IS NULL OR closed_until <= $1)
        AND (day <> $5 OR looks < $4)
        AND (refusals = 0 OR probe_until IS NULL OR probe_until <= $1)
        AND EXISTS (SELECT FROM held)
    RETURNING refusals > 0 AS is_probe
),
begun AS (
    UPDATE channel_uploads
    SET looked_at = $1,
        interval_h = next_interval_h,
        next_look_at = $1::timestamptz + (next_interval_h + $9::double precision) * interval '1 hour'
    WHERE channel_id = $7 AND claim_token = $8 AND EXISTS (SELECT FROM allowed)
)
SELECT EXISTS (SELECT FROM held) AS is_held, (SELECT is_probe FROM allowed) AS is_probe;

-- name: pace
-- The state of the pace on the day $1, and the views an hour from which a video counts as growing.
SELECT next_at, CASE WHEN day = $1 THEN looks ELSE 0 END AS looks, closed_until, refusals, probe_until, reason, scale,
    stretch, scaled_at, stale_s, (SELECT growing_views_per_hour FROM discovery_state) AS growing_views_per_hour
FROM feed_pace;

-- name: back_off
-- Stop all requests for feeds at $1 because of $2: for $3 seconds if that is known, otherwise for $4, doubled for each
-- refusal since the last success, up to $5. A refusal of a request that was on its way meanwhile changes nothing. Returns
-- until when.
UPDATE feed_pace
SET refusals = CASE WHEN closed_until > $1 THEN refusals ELSE least(refusals + 1, 1000) END,
    probe_until = NULL,
    reason = CASE WHEN closed_until > $1 THEN reason ELSE $2 END,
    closed_until = CASE
        WHEN closed_until > $1 THEN greatest(closed_until, $1::timestamptz + $3::double precision * interval '1 second')
        ELSE $1::timestamptz + interval '1 second'
            * coalesce($3::double precision, least($4::double precision * power(2, least(refusals, 30)), $5))
    END
RETURNING closed_until;

-- name: resume
-- Feeds answer again, as the answer to a request at $1 shows; unless they refused another one meanwhile.
UPDATE feed_pace
SET refusals = 0, probe_until = NULL, closed_until = NULL, reason = NULL
WHERE refusals > 0 AND (closed_until IS NULL OR closed_until <= $1);

-- name: claim_scaling
-- Let the caller work out the scale at $1, if nobody did so in the last $2 hours, or $4 while there are fewer than about $3
-- channels. Returns a row if so: the percentage of the plan to read for it, so that about $3 channels are read.
UPDATE feed_pace
SET scaled_at = $1
FROM (
    SELECT least(100, 100 * $3::double precision / greatest(pg_relation_size('channel_uploads') / 200.0, 1)) AS percent
) AS sample
WHERE scaled_at IS NULL
    OR scaled_at <= $1::timestamptz
        - CASE WHEN percent < 100 THEN $2::double precision ELSE $4::double precision END * interval '1 hour'
RETURNING percent::double precision;

-- name: sample_plan
-- Worth, rate and watching of about $1 percent of the channels that have been answered.
SELECT worth, rate, watched
FROM channel_uploads TABLESAMPLE SYSTEM ($1)
WHERE status = 'live';

-- name: set_scale
-- Use the scale $1 and the stretch $2 from now on. $3 to $8 are the other parameters of intervals, as for claim_looks.
-- Channels that were scheduled at a much larger scale don't wait until then: of those whose interval would be less than the
-- share $9 of what it is, up to $10 are rescheduled, those most worth it first. Returns how many.
WITH scaled AS (
    UPDATE feed_pace SET scale = $1, stretch = $2
),
late AS MATERIALIZED (
    SELECT ctid AS place, hours
    FROM (
        SELECT ctid, worth, interval_h, look_interval_h(
            coalesce(worth, $3), coalesce(rate, $4), watched, $1::double precision, $2::double precision,
            $5::double precision, $6::double precision, $7::double precision, $8::double precision
        ) AS hours
        FROM channel_uploads
        WHERE status = 'live' AND looked_at IS NOT NULL AND claim_token IS NULL
    ) AS planned
    WHERE hours < $9::double precision * interval_h
    ORDER BY worth DESC NULLS FIRST
    LIMIT (SELECT $10::bigint)
),
moved AS (
    UPDATE channel_uploads AS c
    SET interval_h = late.hours,
        next_look_at = c.looked_at + late.hours * interval '1 hour'
    FROM late
    WHERE c.ctid = late.place AND c.claim_token IS NULL
    RETURNING 1
)
SELECT count(*) FROM moved;

-- name: set_staleness
-- The counts in feeds have been $1 seconds old lately, which counts by the share $2.
UPDATE feed_pace SET stale_s = stale_s + $2::real * ($1::real - stale_s);

-- name: add_counts
-- Keep the counts of feeds (ids $1, instants $2, views $3) of live videos that are at least $4 of an interval younger than
-- the video's last sample and differ from it, for the tracker. Videos that are deleted meanwhile are left out.
INSERT INTO pending_counts (video_id, at, views)
SELECT seen.id, seen.at, seen.views
FROM unnest($1::text[], $2::timestamptz[], $3::bigint[]) AS seen (id, at, views)
JOIN videos AS v ON v.id = seen.id
JOIN video_clock AS c ON c.video_id = v.id
WHERE c.status = 'live' AND c.broadcast = 'none' AND c.last_views IS DISTINCT FROM seen.views
    AND (c.last_at IS NULL OR seen.at >= c.last_at + $4::double precision * c.interval_h * interval '1 hour')
ORDER BY seen.id COLLATE "C", seen.at
FOR KEY SHARE OF v
ON CONFLICT DO NOTHING;

-- name: walk_of
-- How far the uploads of channel $1 have been listed.
SELECT channel_id, begun_at, page_token, issued_at, pages, listed, stored, finished_at
FROM channel_walks
WHERE channel_id = $1;

-- name: store_walk
-- Store how far the uploads of channel $1 have been listed: begun at $2, next page $3 issued at $4, $5 pages with $6 uploads,
-- $7 of them new, finished at $8. A walk of a channel that is deleted meanwhile is left out.
INSERT INTO channel_walks (channel_id, begun_at, page_token, issued_at, pages, listed, stored, finished_at)
SELECT id, $2::timestamptz, $3::text, $4::timestamptz, $5::tally, $6::tally, $7::tally, $8::timestamptz
FROM channels
WHERE id = $1
FOR KEY SHARE
ON CONFLICT (channel_id) DO UPDATE
SET begun_at = excluded.begun_at,
    page_token = excluded.page_token,
    issued_at = excluded.issued_at,
    pages = excluded.pages,
    listed = excluded.listed,
    stored = excluded.stored,
    finished_at = excluded.finished_at;

-- name: meet_channel
-- Store channel $1, first seen at $2, if it is new; with a clock and a place in the plan of looks.
WITH met AS (
    INSERT INTO channels (id, discovered_at, refreshed_at)
    VALUES ($1, $2, $2)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
),
planned AS (
    INSERT INTO channel_uploads (channel_id, next_look_at)
    SELECT id, $2
    FROM met
)
INSERT INTO channel_clock (channel_id, next_due_at)
SELECT id, $2
FROM met;

-- name: unknown_videos
-- Those of the videos $1 that are not stored.
SELECT wanted.id
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (id, place)
WHERE NOT EXISTS (SELECT FROM videos AS v WHERE v.id = wanted.id)
ORDER BY wanted.place;

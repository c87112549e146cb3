-- name: size
-- How many pages the table $1 has, and about how many rows a page.
SELECT pg_relation_size(oid) / current_setting('block_size')::bigint AS pages,
    CASE WHEN reltuples > 0 AND relpages > 0 THEN reltuples / relpages ELSE 50 END::float8 AS rows_a_page
FROM pg_class
WHERE oid = $1::text::regclass;

-- name: expired
-- How many rows of the pages $6 to $7 (exclusive) of the table $1 have a time $2 before $3, and the oldest such time; if $4 is
-- given, only rows in which that column is $5.
SELECT rows, oldest FROM expired_rows($1, $2, $3, $4, $5, $6, $7);

-- name: delete_expired
-- Delete those rows; returns how many.
SELECT delete_expired($1, $2, $3, $4, $5, $6, $7);

-- name: oldest_today
-- The age at which rule $1 began to delete today, by the database's clock; no row if it has not deleted anything yet.
SELECT oldest FROM retention_days
WHERE rule = $1 AND day = (clock_timestamp() AT TIME ZONE 'UTC')::date;

-- name: begin_day
-- Note that rule $1 begins to delete at the age $2 today, by the database's clock, unless it has begun already.
INSERT INTO retention_days AS d (rule, day, oldest)
VALUES ($1, (clock_timestamp() AT TIME ZONE 'UTC')::date, $2)
ON CONFLICT (rule) DO UPDATE SET day = excluded.day, oldest = excluded.oldest
WHERE d.day <> excluded.day;

-- name: events_read
-- The last event that the totals of the metrics exporter contain and that the learner has learnt from; NULL if neither of them
-- has ever run. A learner's cursor of events is a number.
SELECT least(
    (SELECT nullif(event_id, 0) FROM metric_cursor),
    (SELECT min(position::bigint) FROM learner_cursors
     WHERE source = ANY ($1::text[]) AND position ~ '^\d{1,18}$' AND position <> '0')
);

-- name: expired_events
-- How many events of the pages $6 to $7 (exclusive) are expired, and the oldest one's time: those before $1 that everybody has
-- read (up to the id $2, NULL: all), those before $3 in any case, and those before $4 of the kinds $5, which hold YouTube's data.
SELECT count(*) AS rows, min(at) AS oldest
FROM events
WHERE ctid >= format('(%s,0)', $6::bigint)::tid AND ctid < format('(%s,0)', $7::bigint)::tid
    AND (at < $1 AND ($2::bigint IS NULL OR id <= $2) OR at < $3 OR at < $4 AND kind = ANY ($5::text[]));

-- name: delete_events
-- Delete those events.
DELETE FROM events
WHERE ctid >= format('(%s,0)', $6::bigint)::tid AND ctid < format('(%s,0)', $7::bigint)::tid
    AND (at < $1 AND ($2::bigint IS NULL OR id <= $2) OR at < $3 OR at < $4 AND kind = ANY ($5::text[]));

-- name: learnt_observations
-- How many observations of the pages $3 to $4 (exclusive) were taken before $1 and before $2 and are learnt, and the oldest one's
-- time. Those that nobody has learnt yet, or that would have to be learnt again after a crash, stay, whatever their age.
SELECT count(*) AS rows, min(taken_at) AS oldest
FROM observations
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND taken_at < least($1::timestamptz, $2::timestamptz)
    AND id <= (
        SELECT least(position::bigint, (SELECT observations FROM models WHERE name = 'api.batches'))
        FROM learner_cursors WHERE source = 'observations'
    );

-- name: delete_observations
-- Delete those observations.
DELETE FROM observations
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND taken_at < least($1::timestamptz, $2::timestamptz)
    AND id <= (
        SELECT least(position::bigint, (SELECT observations FROM models WHERE name = 'api.batches'))
        FROM learner_cursors WHERE source = 'observations'
    );

-- name: erased
-- How many videos of the pages $3 to $4 (exclusive) have to be erased, as their data were not refreshed since $1 or they are gone
-- for good, and the oldest one's time; only those whose time is before $2 and that nobody has claimed.
SELECT count(*) AS rows, min(nullif(as_of, '-infinity')) AS oldest
FROM videos AS v
JOIN video_clock AS c ON c.video_id = v.id
CROSS JOIN LATERAL (
    SELECT erased_as_of($1, v.status, v.refreshed_at, c.next_due_at, c.last_sampled_at) AS as_of
    OFFSET 0
) AS e
WHERE v.ctid >= format('(%s,0)', $3::bigint)::tid AND v.ctid < format('(%s,0)', $4::bigint)::tid
    AND (v.status = 'gone' OR v.refreshed_at < $1) AND as_of < $2
    AND (c.lease_until IS NULL OR c.lease_until < clock_timestamp());

-- name: videos_to_erase
-- Those videos, since when they are known, and when they were last refreshed.
SELECT v.id, v.discovered_at, v.refreshed_at
FROM videos AS v
JOIN video_clock AS c ON c.video_id = v.id
CROSS JOIN LATERAL (
    SELECT erased_as_of($1, v.status, v.refreshed_at, c.next_due_at, c.last_sampled_at) AS as_of
    OFFSET 0
) AS e
WHERE v.ctid >= format('(%s,0)', $3::bigint)::tid AND v.ctid < format('(%s,0)', $4::bigint)::tid
    AND (v.status = 'gone' OR v.refreshed_at < $1) AND as_of < $2
    AND (c.lease_until IS NULL OR c.lease_until < clock_timestamp());

-- name: erase_videos
-- Delete the videos $3, and with them all rows and samples of them, if they still have to be erased. Those that somebody has
-- locked or claimed are left for the next time, so that nobody waits.
WITH doomed AS (
    SELECT v.id
    FROM videos AS v
    JOIN video_clock AS c ON c.video_id = v.id
    WHERE v.id = ANY ($3::text[])
        AND erased_as_of($1, v.status, v.refreshed_at, c.next_due_at, c.last_sampled_at) < $2
        AND (c.lease_until IS NULL OR c.lease_until < clock_timestamp())
    ORDER BY v.id
    FOR UPDATE OF v, c SKIP LOCKED
)
DELETE FROM videos AS v USING doomed WHERE v.id = doomed.id
RETURNING v.id;

-- name: erase_events
-- Delete the events of kinds $2 that tell of the videos $1.
DELETE FROM events WHERE kind = ANY ($2::text[]) AND payload ->> 'video_id' = ANY ($1::text[]);

-- name: erase_alerts
-- Delete what is known of alerts about the videos $1.
DELETE FROM alerts WHERE key LIKE 'breakout %' AND split_part(key, ' ', 2) = ANY ($1::text[]);

-- name: stale_changes
-- How many changes of the pages $3 to $4 (exclusive) nobody has taken over into the graph since $1, and since when the oldest wait;
-- only those before $2.
SELECT count(*) AS rows, min(at) AS oldest
FROM graph_outbox
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND at < least($1::timestamptz, $2::timestamptz);

-- name: drop_changes
-- Delete those changes. The graph lacks them from now on, so that it must be rebuilt.
WITH lacking AS (UPDATE graph_state SET is_whole = false)
DELETE FROM graph_outbox
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND at < least($1::timestamptz, $2::timestamptz);

-- name: stale_metadata
-- How many live videos of the pages $3 to $4 (exclusive) are still sampled, but have metadata that were last refreshed before $1,
-- and since when the oldest are; only those refreshed before $2.
SELECT count(*) AS rows, min(v.refreshed_at) AS oldest
FROM videos AS v
JOIN video_clock AS c ON c.video_id = v.id
WHERE v.ctid >= format('(%s,0)', $3::bigint)::tid AND v.ctid < format('(%s,0)', $4::bigint)::tid
    AND v.status = 'live' AND v.refreshed_at < least($1::timestamptz, $2::timestamptz) AND c.last_sampled_at >= $1
    AND num_nonnulls(
        v.title, v.description, v.published_at, v.category_id, v.duration_s, v.view_count, v.like_count, v.comment_count,
        v.live_broadcast_content, v.default_language, v.etag, nullif(v.tags, '{}')
    ) > 0;

-- name: clear_metadata
-- Clear the metadata of those videos. The next sample whose call can pay for them brings them back.
WITH stale AS MATERIALIZED (
    SELECT v.id
    FROM videos AS v
    JOIN video_clock AS c ON c.video_id = v.id
    WHERE v.ctid >= format('(%s,0)', $3::bigint)::tid AND v.ctid < format('(%s,0)', $4::bigint)::tid
        AND v.status = 'live' AND v.refreshed_at < least($1::timestamptz, $2::timestamptz) AND c.last_sampled_at >= $1
        AND num_nonnulls(
            v.title, v.description, v.published_at, v.category_id, v.duration_s, v.view_count, v.like_count, v.comment_count,
            v.live_broadcast_content, v.default_language, v.etag, nullif(v.tags, '{}')
        ) > 0
    ORDER BY v.id
    FOR NO KEY UPDATE OF v, c SKIP LOCKED
),
unsorted AS (
    UPDATE video_clock AS c SET category_id = NULL FROM stale WHERE c.video_id = stale.id AND c.category_id IS NOT NULL
)
UPDATE videos AS v
SET title = NULL, description = NULL, published_at = NULL, category_id = NULL, duration_s = NULL, view_count = NULL,
    like_count = NULL, comment_count = NULL, live_broadcast_content = NULL, default_language = NULL, etag = NULL, tags = '{}'
FROM stale
WHERE v.id = stale.id;

-- name: stale_channels
-- How many channels of the pages $3 to $4 (exclusive) have a title that was last seen before $1, and since when the oldest have;
-- only those last seen before $2.
SELECT count(*) AS rows, min(refreshed_at) AS oldest
FROM channels
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND refreshed_at < least($1::timestamptz, $2::timestamptz) AND title IS NOT NULL;

-- name: clear_channels
-- Clear the titles of those channels; the next sample of a channel brings it back. Those that somebody has locked are left for
-- the next time.
WITH stale AS MATERIALIZED (
    SELECT id
    FROM channels
    WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
        AND refreshed_at < least($1::timestamptz, $2::timestamptz) AND title IS NOT NULL
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE channels AS c
SET title = NULL
FROM stale
WHERE c.id = stale.id;

-- name: stale_channel_counts
-- How many channels of the pages $3 to $4 (exclusive) have counts from before $1, and since when the oldest have; only those
-- from before $2 and that nobody has claimed.
SELECT count(*) AS rows, min(last_at) AS oldest
FROM channel_clock
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND last_at < least($1::timestamptz, $2::timestamptz) AND (lease_until IS NULL OR lease_until < clock_timestamp());

-- name: clear_channel_counts
-- Clear those counts; the next sample of a channel brings new ones.
UPDATE channel_clock
SET subscribers = NULL, videos = NULL, views = NULL, last_at = NULL
WHERE ctid >= format('(%s,0)', $3::bigint)::tid AND ctid < format('(%s,0)', $4::bigint)::tid
    AND last_at < least($1::timestamptz, $2::timestamptz) AND (lease_until IS NULL OR lease_until < clock_timestamp());

-- name: gone_channels
-- How many channels of the pages $3 to $4 (exclusive) are gone, and have no video, no watch and no newer data than $1; and since
-- when the oldest are; only those last seen before $2.
SELECT count(*) AS rows, min(h.refreshed_at) AS oldest
FROM channels AS h
JOIN channel_clock AS c ON c.channel_id = h.id
WHERE h.ctid >= format('(%s,0)', $3::bigint)::tid AND h.ctid < format('(%s,0)', $4::bigint)::tid
    AND h.refreshed_at < least($1::timestamptz, $2::timestamptz) AND c.status = 'gone'
    AND NOT EXISTS (SELECT FROM videos AS v WHERE v.channel_id = h.id)
    AND NOT EXISTS (SELECT FROM watches AS w WHERE w.kind = 'channel' AND w.id = h.id);

-- name: erase_channels
-- Delete those channels, and with them all rows about them.
WITH doomed AS (
    SELECT h.id
    FROM channels AS h
    JOIN channel_clock AS c ON c.channel_id = h.id
    WHERE h.ctid >= format('(%s,0)', $3::bigint)::tid AND h.ctid < format('(%s,0)', $4::bigint)::tid
        AND h.refreshed_at < least($1::timestamptz, $2::timestamptz) AND c.status = 'gone'
        AND NOT EXISTS (SELECT FROM videos AS v WHERE v.channel_id = h.id)
        AND NOT EXISTS (SELECT FROM watches AS w WHERE w.kind = 'channel' AND w.id = h.id)
    ORDER BY h.id
    FOR UPDATE OF h, c SKIP LOCKED
)
DELETE FROM channels AS h USING doomed WHERE h.id = doomed.id;

-- name: expiring_partitions
-- The days of samples before $1, with the name, the bytes and about the rows of their partitions; NULL where a hypertable keeps
-- them in chunks.
SELECT day, samples_of(day) AS name, pg_total_relation_size(to_regclass(samples_of(day))) AS bytes,
    (SELECT nullif(reltuples, -1)::bigint FROM pg_class WHERE oid = to_regclass(samples_of(day))) AS rows
FROM unnest(expired_sample_days($1::date)) AS day
ORDER BY day;

-- name: days_dropped_today
-- How many days of samples were dropped today, by the database's clock.
SELECT coalesce(max(days), 0) FROM sample_drops WHERE day = (clock_timestamp() AT TIME ZONE 'UTC')::date;

-- name: missing_days
-- Those of the UTC days $1 whose samples could not be stored now.
SELECT day FROM unnest($1::date[]) AS day WHERE NOT keeps_samples_of(day::timestamp AT TIME ZONE 'UTC') ORDER BY day;

-- name: ingest_videos
-- Store videos ($1, a JSON array, unique by id) and their channels, fetched at $2 and found by topic $3: insert new ones,
-- and refresh known ones unless newer data is stored. Parts that were not requested keep their old values. A part is present
-- if a field that it always contains is (snippet: category_id, statistics: view_count, contentDetails: duration_s); within a
-- present part, a missing field was removed or hidden, and becomes NULL.
-- New videos and channels get a clock. A video is hot up to $4 hours of age and warm up to $5, unless a watch pins its zone.
-- It is due the zone's interval ($6, in hours by zone) after the fetched count, or when its broadcast is scheduled to begin.
-- A video that was gone, or whose broadcast takes place at another time than stored, is due at once.
WITH item AS MATERIALIZED (
    SELECT *
    FROM json_to_recordset($1::text::json) AS item (
        id text, channel_id text, channel_title text, title text, description text, published_at timestamptz,
        category_id integer, tags text[], duration_s integer, live_broadcast_content text, default_language text,
        view_count bigint, like_count bigint, comment_count bigint, etag text,
        scheduled_start_at timestamptz, actual_start_at timestamptz, actual_end_at timestamptz
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
        OR known.refreshed_at < $2::timestamptz - interval '1 day'
    ORDER BY channel.id COLLATE "C"
    ON CONFLICT (id) DO UPDATE
    SET title = coalesce(excluded.title, c.title),
        -- That of the title. Without one, the update still keeps the channel from being erased meanwhile.
        refreshed_at = CASE WHEN excluded.title IS NULL THEN c.refreshed_at ELSE excluded.refreshed_at END
    WHERE excluded.refreshed_at >= c.refreshed_at
    RETURNING id, (xmax = 0) AS is_new
),
stored_video AS (
    INSERT INTO videos AS v (
        id, channel_id, published_at, discovered_at, refreshed_at, discovered_by, category_id, duration_s, view_count,
        like_count, comment_count, title, live_broadcast_content, default_language, etag, tags, description,
        scheduled_start_at, actual_start_at, actual_end_at
    )
    SELECT id, channel_id, published_at, $2, $2, $3, category_id, duration_s, view_count,
        like_count, comment_count, title, live_broadcast_content, default_language, etag, tags, description,
        scheduled_start_at, actual_start_at, actual_end_at
    FROM item
    -- Reads the channels' result, so that channels are written and locked before any video.
    WHERE (SELECT count(*) FROM stored_channel) IS NOT NULL
    ORDER BY id COLLATE "C"
    ON CONFLICT (id) DO UPDATE
    SET channel_id = excluded.channel_id,
        status = 'live',
        refreshed_at = excluded.refreshed_at,
        published_at = coalesce(excluded.published_at, v.published_at),
        title = coalesce(excluded.title, v.title),
        live_broadcast_content = coalesce(excluded.live_broadcast_content, v.live_broadcast_content),
        scheduled_start_at = coalesce(excluded.scheduled_start_at, v.scheduled_start_at),
        actual_start_at = coalesce(excluded.actual_start_at, v.actual_start_at),
        actual_end_at = coalesce(excluded.actual_end_at, v.actual_end_at),
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
    RETURNING id, channel_id, category_id, published_at, view_count, like_count, comment_count,
        broadcast_of(live_broadcast_content) AS broadcast, actual_start_at, scheduled_start_at, (xmax = 0) AS is_new
),
-- Only new and gone channels: ON CONFLICT locks whatever row it meets, also one that it then leaves as it is, for which those
-- that store samples and looks would wait.
timed_channel AS (
    INSERT INTO channel_clock AS c (channel_id, next_due_at)
    SELECT id, $2
    FROM stored_channel
    WHERE is_new OR (SELECT status FROM channel_clock AS known WHERE known.channel_id = stored_channel.id) = 'gone'
    ORDER BY id
    ON CONFLICT (channel_id) DO UPDATE
    SET status = 'live',
        misses = 0,
        next_due_at = excluded.next_due_at
    WHERE c.status = 'gone'
),
-- The first look comes soon: a channel of which a video was found may have others.
planned_channel AS (
    INSERT INTO channel_uploads AS c (channel_id, next_look_at, watched)
    SELECT id, $2, EXISTS (SELECT FROM watches AS w WHERE w.kind = 'channel' AND w.id = stored_channel.id)
    FROM stored_channel
    WHERE is_new OR (SELECT status FROM channel_uploads AS known WHERE known.channel_id = stored_channel.id) = 'gone'
    ORDER BY id
    ON CONFLICT (channel_id) DO UPDATE
    SET status = 'live',
        failures = 0,
        next_look_at = excluded.next_look_at
    WHERE c.status = 'gone'
),
timed_video AS (
    INSERT INTO video_clock (
        video_id, channel_id, category_id, broadcast, zone, pinned_zone, interval_h, born_at, next_due_at, metadata_at,
        last_at, last_views, last_likes, last_comments
    )
    SELECT v.id, v.channel_id, v.category_id, v.broadcast, placed.zone, pinned_zone, interval_h, born_at,
        CASE
            WHEN v.broadcast = 'upcoming' THEN $2 + least(
                greatest(born_at - $2, $6[1] * interval '1 hour'), $6[3] * interval '1 hour'
            )
            WHEN v.view_count IS NULL THEN $2
            ELSE $2 + interval_h * interval '1 hour'
        END,
        $2, CASE WHEN v.view_count IS NOT NULL THEN $2 END, v.view_count, v.like_count, v.comment_count
    FROM stored_video AS v
    CROSS JOIN LATERAL (
        SELECT birth_of(v.broadcast, v.actual_start_at, v.scheduled_start_at, v.published_at, $2),
            coalesce(
                (SELECT w.zone FROM watches AS w WHERE w.kind = 'video' AND w.id = v.id),
                (SELECT w.zone FROM watches AS w WHERE w.kind = 'channel' AND w.id = v.channel_id)
            )
        -- OFFSET 0 makes this run once per video; otherwise each use of the zone would search the watches again.
        OFFSET 0
    ) AS known (born_at, pinned_zone)
    CROSS JOIN LATERAL (SELECT coalesce(pinned_zone, zone_of($2 - born_at, $4, $5))) AS placed (zone)
    CROSS JOIN LATERAL (SELECT ($6::double precision[])[placed.zone + 1]) AS waits (interval_h)
    WHERE is_new
),
-- SKIP LOCKED, because storing samples locks clocks in another order. A locked clock keeps its old values until the video
-- is found again.
retimed_video AS MATERIALIZED (
    SELECT c.video_id, v.channel_id, v.category_id, item.category_id IS NOT NULL AS is_whole, v.broadcast, birth.born_at,
        c.status = 'gone' OR c.born_at <> birth.born_at OR c.broadcast <> v.broadcast AS is_reborn
    FROM stored_video AS v
    JOIN item ON item.id = v.id
    JOIN video_clock AS c ON c.video_id = v.id
    CROSS JOIN LATERAL (
        SELECT birth_of(
            v.broadcast, v.actual_start_at, v.scheduled_start_at, v.published_at,
            CASE v.broadcast WHEN 'upcoming' THEN $2 ELSE c.born_at END
        )
    ) AS birth (born_at)
    WHERE NOT v.is_new AND (
        c.status = 'gone'
        OR c.born_at <> birth.born_at
        OR c.broadcast <> v.broadcast
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
        broadcast = r.broadcast,
        born_at = r.born_at,
        zone = CASE WHEN r.is_reborn THEN coalesce(c.pinned_zone, zone_of($2 - r.born_at, $4, $5)) ELSE c.zone END,
        next_due_at = CASE
            WHEN c.status = 'gone' THEN $2
            WHEN r.is_reborn THEN least(c.next_due_at, $2)
            ELSE c.next_due_at
        END
    FROM retimed_video AS r
    WHERE c.video_id = r.video_id
)
SELECT array_agg(id) FILTER (WHERE is_new) AS new_ids,
    count(*) AS stored,
    (SELECT count(*) FROM stored_channel WHERE is_new) AS new_channels
FROM stored_video;

-- name: top_videos
-- The $1 videos with the most views.
SELECT v.id, v.title, c.title AS channel_title, v.view_count, v.published_at
FROM videos AS v
JOIN channels AS c ON c.id = v.channel_id
WHERE v.view_count IS NOT NULL
ORDER BY v.view_count DESC, v.id
LIMIT $1;

-- name: count_discoveries
-- The total numbers of videos, channels and topics.
SELECT (SELECT count(*) FROM videos) AS videos,
    (SELECT count(*) FROM channels) AS channels,
    (SELECT topics FROM queue_state) AS topics;

-- name: kinds_of
-- The kinds of those ids $1 that are stored or watched.
SELECT id, 'video' AS kind FROM videos WHERE id = ANY ($1::text[])
UNION ALL
SELECT id, 'channel' FROM channels WHERE id = ANY ($1::text[])
UNION ALL
SELECT id, kind::text FROM watches WHERE id = ANY ($1::text[]);

-- name: add
-- Watch the items with kinds $1 and ids $2 in zone $3 (NULL: by age), as of $4. An existing watch keeps its creation date,
-- and its zone unless one is given.
INSERT INTO watches (kind, id, zone, created_at)
SELECT kind, id, $3, $4
FROM unnest($1::text[], $2::text[]) AS wanted (kind, id)
ORDER BY kind, id
ON CONFLICT (kind, id) DO UPDATE
SET zone = coalesce(excluded.zone, watches.zone);

-- name: remove
-- Stop watching the items with kinds $1 and ids $2.
DELETE FROM watches AS w
USING unnest($1::text[], $2::text[]) AS unwanted (kind, id)
WHERE w.kind = unwanted.kind AND w.id = unwanted.id;

-- name: meet_channels
-- Store those of the channels $1 that are new, with clocks due at $2, so that the tracker fetches them.
WITH met AS (
    INSERT INTO channels (id, discovered_at, refreshed_at)
    SELECT id, $2, $2
    FROM unnest($1::text[]) AS wanted (id)
    ORDER BY id COLLATE "C"
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

-- name: revive_videos
-- Make those of the videos $1 that are gone live again and due at once ($2), with no misses.
WITH gone AS MATERIALIZED (
    SELECT id
    FROM videos
    WHERE id = ANY ($1::text[]) AND status = 'gone'
    ORDER BY id
    FOR NO KEY UPDATE
),
revived AS (
    UPDATE videos
    SET status = 'live'
    FROM gone
    WHERE videos.id = gone.id
    RETURNING videos.id
)
UPDATE video_clock
SET status = 'live', gone_at = NULL, misses = 0, next_due_at = $2, lease_owner = NULL, lease_token = NULL, lease_until = NULL
-- Reads the videos' result, so that videos are written and locked before their clocks.
WHERE video_id = ANY ($1) AND status = 'gone' AND (SELECT count(*) FROM revived) IS NOT NULL;

-- name: revive_channels
-- Make those of the channels $1 that are gone live again and due at once ($2).
UPDATE channel_clock
SET status = 'live', misses = 0, next_due_at = $2, lease_owner = NULL, lease_token = NULL, lease_until = NULL
WHERE channel_id = ANY ($1::text[]) AND status = 'gone';

-- name: pin
-- Update the pinned zones of the videos $1 and of the channels' $2 videos from the watches; a video's own watch takes
-- precedence over its channel's. A video that moves to a more urgent zone is due at once ($3) with the zone's interval ($4,
-- in hours by zone), and loses its claim, because storing the claimed sample would restore the old zone. NOWAIT, because
-- waiting for a lock here would make all later writers wait too.
WITH watched AS MATERIALIZED (
    SELECT c.video_id, coalesce(video_watch.zone, channel_watch.zone) AS pin
    FROM video_clock AS c
    LEFT JOIN watches AS video_watch ON video_watch.kind = 'video' AND video_watch.id = c.video_id
    LEFT JOIN watches AS channel_watch ON channel_watch.kind = 'channel' AND channel_watch.id = c.channel_id
    WHERE (c.video_id = ANY ($1::text[]) OR c.channel_id = ANY ($2::text[]))
        AND c.pinned_zone IS DISTINCT FROM coalesce(video_watch.zone, channel_watch.zone)
    FOR NO KEY UPDATE OF c NOWAIT
)
UPDATE video_clock AS c
SET pinned_zone = pin,
    zone = coalesce(pin, c.zone),
    interval_h = CASE WHEN pin < c.zone THEN ($4::real[])[pin + 1] ELSE c.interval_h END,
    next_due_at = CASE WHEN pin < c.zone THEN least(c.next_due_at, $3) ELSE c.next_due_at END,
    lease_owner = CASE WHEN pin < c.zone THEN NULL ELSE c.lease_owner END,
    lease_token = CASE WHEN pin < c.zone THEN NULL ELSE c.lease_token END,
    lease_until = CASE WHEN pin < c.zone THEN NULL ELSE c.lease_until END
FROM watched
WHERE c.video_id = watched.video_id;

-- name: list
-- All watches with their state. `known` is false until the tracker has fetched the item; `videos` counts a channel's.
SELECT w.kind, w.id, w.zone, w.created_at, coalesce(v.title, h.title) AS title,
    CASE w.kind WHEN 'video' THEN v.id IS NOT NULL ELSE h.title IS NOT NULL END AS known,
    coalesce(c.status, t.status) AS status,
    CASE w.kind
        WHEN 'channel' THEN (SELECT count(*) FROM video_clock AS o WHERE o.channel_id = w.id AND o.status = 'live')
    END AS videos,
    coalesce(c.last_sampled_at, t.last_at) AS last_sampled_at,
    coalesce(c.next_due_at, t.next_due_at) AS next_due_at,
    w.asked_at, w.asks
FROM watches AS w
LEFT JOIN videos AS v ON w.kind = 'video' AND v.id = w.id
LEFT JOIN video_clock AS c ON c.video_id = v.id
LEFT JOIN channels AS h ON w.kind = 'channel' AND h.id = w.id
LEFT JOIN channel_clock AS t ON t.channel_id = h.id
ORDER BY w.created_at, w.kind, w.id;

-- name: claim_unknown
-- Claim up to $1 watched videos that are not stored and are due ($2 now) to be requested from the API: at once, then after
-- $3 hours, then four times as long each time, up to $4 hours. The caller requests them; storing a video ends this.
UPDATE watches AS w
SET asked_at = $2,
    asks = w.asks + 1
FROM (
    SELECT kind, id
    FROM watches AS w
    WHERE kind = 'video' AND NOT EXISTS (SELECT FROM videos AS v WHERE v.id = w.id)
        AND (
            asked_at IS NULL
            OR asked_at <= $2::timestamptz
                - least($3::double precision * power(4, least(asks, 30) - 1), $4) * interval '1 hour'
        )
    ORDER BY asked_at NULLS FIRST, id
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
) AS due
WHERE w.kind = due.kind AND w.id = due.id
RETURNING w.id;

-- name: kinds_of
-- Which of the ids $1 are known, and as what.
SELECT id, 'video' AS kind FROM videos WHERE id = ANY ($1::text[])
UNION ALL
SELECT id, 'channel' FROM channels WHERE id = ANY ($1::text[])
UNION ALL
SELECT id, kind::text FROM watches WHERE id = ANY ($1::text[]);

-- name: add
-- Watch what $1 (kinds) and $2 (ids) name, in zone $3 (NULL: as their age has it), as of $4. A watch that stands keeps
-- its day and gets this zone.
INSERT INTO watches (kind, id, zone, created_at)
SELECT kind, id, $3, $4
FROM unnest($1::text[], $2::text[]) AS wanted (kind, id)
ORDER BY kind, id
ON CONFLICT (kind, id) DO UPDATE
SET zone = excluded.zone;

-- name: remove
-- Watch what $1 (kinds) and $2 (ids) name no more.
DELETE FROM watches AS w
USING unnest($1::text[], $2::text[]) AS unwanted (kind, id)
WHERE w.kind = unwanted.kind AND w.id = unwanted.id;

-- name: meet_channels
-- Give those of the channels $1 that nobody has met a place and a clock, due at $2, for the tracker to fetch.
WITH met AS (
    INSERT INTO channels (id, discovered_at, refreshed_at)
    SELECT id, $2, $2
    FROM unnest($1::text[]) AS wanted (id)
    ORDER BY id COLLATE "C"
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO channel_clock (channel_id, next_due_at)
SELECT id, $2
FROM met;

-- name: pin
-- Bring the clocks of the videos $1 and of the channels $2 in line with the watches, a video's before its channel's. One
-- that comes into a more urgent zone is due at once ($3), its interval that of the zone ($4, three of hours), and whoever
-- holds it loses it, lest it be put back into its old zone. Fails at once where a row is being written, so that nobody
-- is made to wait for one who waits.
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
-- Every watch with what is known of it. `known` is false until the tracker has fetched it; `videos` counts a channel's.
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
-- Take the $1 watched videos that nobody has stored yet and whose turn it is ($2 now) to be asked for: at once, then
-- after $3 hours, four times as long after each further try, up to $4 hours. Whoever takes them asks; a video that is
-- stored meanwhile is unknown no more.
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

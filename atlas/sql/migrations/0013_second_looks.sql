-- What was seen first is not final: broadcasts are asked for again about their start and age from it, videos that are gone
-- get a few later looks, and a count that falls to a fraction is doubted until the next one.

ALTER TABLE videos
    ADD COLUMN scheduled_start_at timestamptz,
    ADD COLUMN actual_start_at    timestamptz,
    ADD COLUMN actual_end_at      timestamptz;

CREATE DOMAIN broadcast AS text CHECK (VALUE IN ('none', 'upcoming', 'live'));

ALTER TABLE video_clock
    ADD COLUMN broadcast     broadcast NOT NULL DEFAULT 'none',
    ADD COLUMN doubted_views viewers,
    ALTER COLUMN next_due_at DROP NOT NULL,
    ADD CONSTRAINT live_is_due_some_day CHECK (status = 'gone' OR next_due_at IS NOT NULL);

COMMENT ON COLUMN video_clock.broadcast IS 'What of the video is still to come, or is on air; then its metadata are asked for too';
COMMENT ON COLUMN video_clock.doubted_views IS 'The last count, if it was a fraction of the one before; the next one decides';
COMMENT ON COLUMN video_clock.next_due_at IS 'NULL for a gone video that is not looked for again';
COMMENT ON COLUMN video_clock.born_at IS 'When it was or will be on air, else published, else discovered: ages count from it';

-- Nullable and without default: TimescaleDB adds no other column to a compressed table.
ALTER TABLE video_stats_log ADD COLUMN doubted boolean;

COMMENT ON COLUMN video_stats_log.doubted IS 'True where views had fallen to a fraction of the count before; else NULL';

-- From when ages count. What is upcoming begins when it is scheduled, and never before it was seen to be upcoming.
CREATE FUNCTION birth_of(
    broadcast text, actual_start timestamptz, scheduled_start timestamptz, published timestamptz, seen timestamptz
) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE broadcast
    WHEN 'upcoming' THEN greatest(scheduled_start, seen)
    ELSE coalesce(actual_start, scheduled_start, published, seen)
END;

CREATE FUNCTION broadcast_of(live_broadcast_content text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN live_broadcast_content IN ('upcoming', 'live') THEN live_broadcast_content ELSE 'none' END;

-- What was upcoming or live is asked for at once; what is gone has its last look ahead of it.
UPDATE video_clock AS c
SET broadcast = v.live_broadcast_content, next_due_at = c.metadata_at
FROM videos AS v
WHERE v.id = c.video_id AND v.live_broadcast_content IN ('upcoming', 'live') AND c.status = 'live';

UPDATE video_clock
SET next_due_at = gone_at + interval '25 days'
WHERE status = 'gone';

CREATE INDEX video_clock_gone_due ON video_clock (next_due_at) WHERE status = 'gone' AND next_due_at IS NOT NULL;

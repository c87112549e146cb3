-- When each channel's uploads are looked at next, how fast feeds may be asked for, and the counts that feeds show.

-- Narrow, as every look rewrites a row three times.
CREATE TABLE channel_uploads (
    channel_id    text COLLATE "C" PRIMARY KEY REFERENCES channels ON DELETE CASCADE,
    -- A claim moves next_look_at to the lease's end, the request to the end of the channel's interval: whatever becomes of
    -- the claimant, nobody asks twice within an interval, and what it did not ask is due again soon.
    next_look_at  timestamptz NOT NULL,
    looked_at     timestamptz,
    due_before    timestamptz,
    claim_token   uuid,
    answered_at   timestamptz,
    newest_at     timestamptz,
    judged_until  timestamptz,
    gap_since     timestamptz,
    gap_token     uuid,
    gap_until     timestamptz,
    gap_attempts  small_tally NOT NULL DEFAULT 0,
    retry_feed_at timestamptz,
    video_count   viewers,
    interval_h    real NOT NULL DEFAULT 0 CHECK (interval_h >= 0),
    next_interval_h real NOT NULL DEFAULT 0 CHECK (next_interval_h >= 0),
    rate          real CHECK (rate > 0),
    worth         real CHECK (worth > 0),
    uploads       real NOT NULL DEFAULT 0 CHECK (uploads >= 0),
    watched_h     real NOT NULL DEFAULT 0 CHECK (watched_h >= 0),
    growing       real NOT NULL DEFAULT 0 CHECK (growing >= 0),
    judged        real NOT NULL DEFAULT 0 CHECK (judged >= 0),
    failures      small_tally NOT NULL DEFAULT 0,
    watched       boolean NOT NULL DEFAULT false,
    by_feed       boolean NOT NULL DEFAULT true,
    status        clock_status NOT NULL DEFAULT 'live',
    etag          text CHECK (length(etag) <= 200),
    last_modified text CHECK (length(last_modified) <= 200)
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

COMMENT ON TABLE channel_uploads IS 'The plan of looks at channels'' uploads, and what earlier looks told';
COMMENT ON COLUMN channel_uploads.looked_at IS 'When YouTube was last asked';
COMMENT ON COLUMN channel_uploads.due_before IS 'When a claimed look was due, for a claimant that gives it back';
COMMENT ON COLUMN channel_uploads.interval_h IS 'How long to wait after the last request';
COMMENT ON COLUMN channel_uploads.next_interval_h IS 'How long to wait after the request of the claimant';
COMMENT ON COLUMN channel_uploads.answered_at IS 'When YouTube last answered; evidence is counted from here';
COMMENT ON COLUMN channel_uploads.newest_at IS 'When the newest upload that a look showed was published';
COMMENT ON COLUMN channel_uploads.judged_until IS 'Uploads published later have not been counted as growing or not';
COMMENT ON COLUMN channel_uploads.gap_since IS 'Uploads after this instant are missing: more came at once than the feed shows';
COMMENT ON COLUMN channel_uploads.gap_until IS 'Until when a hunter fetches them, or pauses after a failure; by the server''s clock';
COMMENT ON COLUMN channel_uploads.retry_feed_at IS 'When to try the feed again after it failed repeatedly';
COMMENT ON COLUMN channel_uploads.video_count IS 'The channel''s number of videos, where it is watched without its feed';
COMMENT ON COLUMN channel_uploads.rate IS 'Expected uploads an hour; NULL before the first answer';
COMMENT ON COLUMN channel_uploads.worth IS 'Expected growing uploads an hour; NULL before the first answer';
COMMENT ON COLUMN channel_uploads.watched_h IS 'The hours in which the uploads came';
COMMENT ON COLUMN channel_uploads.watched IS 'Somebody watches the channel, so it is looked at every half hour';
COMMENT ON COLUMN channel_uploads.by_feed IS 'Whether its feed works; otherwise its number of videos shows uploads';

CREATE INDEX channel_uploads_due ON channel_uploads (next_look_at)
    WHERE status = 'live' AND by_feed AND NOT watched;
CREATE INDEX channel_uploads_watched_due ON channel_uploads (next_look_at)
    WHERE status = 'live' AND by_feed AND watched;
CREATE INDEX channel_uploads_counted_due ON channel_uploads (next_look_at)
    WHERE status = 'live' AND NOT by_feed;
CREATE INDEX channel_uploads_gaps ON channel_uploads (gap_since)
    WHERE status = 'live' AND gap_since IS NOT NULL;

-- How long a channel waits between looks, as maia.learning.polling says: `scale` divided by the root of its worth, within
-- bounds, all stretched alike if the budget is too small. A watched channel waits no longer than its own bound.
CREATE FUNCTION look_interval_h(
    worth double precision, rate double precision, watched boolean, scale double precision, stretch double precision,
    shortest_h double precision, longest_h double precision, watched_longest_h double precision,
    most_missed double precision
) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(
    CASE WHEN watched THEN watched_longest_h END,
    stretch * greatest(
        shortest_h, least(scale / sqrt(worth), greatest(shortest_h, least(longest_h, most_missed / rate)))
    )
);

-- One row: what all hunters share about feeds.
CREATE TABLE feed_pace (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    next_at      timestamptz NOT NULL DEFAULT '-infinity',
    day          date NOT NULL DEFAULT '-infinity',
    looks        tally NOT NULL DEFAULT 0,
    closed_until timestamptz,
    refusals     small_tally NOT NULL DEFAULT 0,
    probe_until  timestamptz,
    reason       text,
    scale        double precision NOT NULL DEFAULT 0 CHECK (scale >= 0),
    stretch      double precision NOT NULL DEFAULT 1 CHECK (stretch >= 1),
    scaled_at    timestamptz,
    stale_s      real NOT NULL DEFAULT 0 CHECK (stale_s >= 0)
) WITH (fillfactor = 10);

COMMENT ON TABLE feed_pace IS 'How fast feeds are asked for by all hunters together, and whether they back off';
COMMENT ON COLUMN feed_pace.next_at IS 'When the next request may be sent, if requests follow each other at the allowed rate';
COMMENT ON COLUMN feed_pace.refusals IS 'Refusals in a row; after the first, requests are sent one at a time until one succeeds';
COMMENT ON COLUMN feed_pace.probe_until IS 'While in the future, one request tests whether feeds answer again';
COMMENT ON COLUMN feed_pace.scale IS 'Scale of all intervals, at which they fit the looks a day; worked out anew now and then';
COMMENT ON COLUMN feed_pace.stretch IS 'By how much every interval grows, if the looks a day do not pay for the longest ones';
COMMENT ON COLUMN feed_pace.stale_s IS 'How old the counts in feeds have been lately, in seconds';

INSERT INTO feed_pace DEFAULT VALUES;

-- Counts of stored videos that feeds showed, until the tracker has made samples of them.
CREATE TABLE pending_counts (
    video_id text COLLATE "C" NOT NULL REFERENCES videos ON DELETE CASCADE,
    at       timestamptz NOT NULL,
    views    viewers NOT NULL,
    PRIMARY KEY (video_id, at)
) WITH (
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

COMMENT ON COLUMN pending_counts.at IS 'When the feed was fetched; the count may be older';

CREATE INDEX pending_counts_by_time ON pending_counts (at);

-- How far somebody has got in listing all of a channel's uploads.
CREATE TABLE channel_walks (
    channel_id  text COLLATE "C" PRIMARY KEY REFERENCES channels ON DELETE CASCADE,
    begun_at    timestamptz NOT NULL,
    page_token  text,
    issued_at   timestamptz NOT NULL,
    pages       tally NOT NULL,
    listed      tally NOT NULL,
    stored      tally NOT NULL,
    finished_at timestamptz
);

COMMENT ON COLUMN channel_walks.page_token IS 'The next page, issued at issued_at; NULL once finished';
COMMENT ON COLUMN channel_walks.stored IS 'How many of the listed uploads were new';

-- Nullable and without default: TimescaleDB adds no other column to a compressed table.
CREATE TYPE sample_source AS ENUM ('feed');
ALTER TABLE video_stats_log ADD COLUMN source sample_source;
COMMENT ON COLUMN video_stats_log.source IS 'feed: the count of a channel''s feed, which shows views only; NULL is the API';

ALTER TABLE video_clock ADD COLUMN last_source sample_source;
COMMENT ON COLUMN video_clock.last_source IS 'Where last_views is from: feed, or NULL for the API';

-- Channels that are known already are looked at as soon as the pace allows.
INSERT INTO channel_uploads (channel_id, next_look_at, watched)
SELECT c.id, c.discovered_at, EXISTS (SELECT FROM watches AS w WHERE w.kind = 'channel' AND w.id = c.id)
FROM channels AS c
ORDER BY c.id;
